"""Laws of the counts on tables with many zeros: bounds beside PLNmodels', likelihoods in sample and held out, choice.

`python -m benchmarks.laws bounds --shared FOLDER` and the other names of `PARTS`; each finished line is appended to
`laws.csv` below `--out`, and a line that is there is not run again. The table is microcosm's 30 commonest taxa, `~ 0 +
site`, with its offset; every fifth row is held out where rows are.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import poplin
from benchmarks.measure import REPOSITORY

COLUMNS = ("part", "name", "seed", "value", "error", "reference", "converged", "iterations", "seconds")
# bounds of PLNmodels 1.3.0-9010 on this table, by what the probability of zeros is of
BOUNDS = {
    "poisson": ({}, -51716.2),
    "single": ({"zero_probability": "single"}, -48847.5),
    "row": ({"zero_probability": "row"}, -46875.9),
    "column": ({"zero_probability": "column"}, -48147.4),
    "site": ({"zero_formula": "~ 0 + site"}, -47647.5),
}
TAXA, FIFTH = 30, 5


def microcosm(shared: Path) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    """Counts of the commonest taxa, log offset (n, 1), and the site of each sample."""
    with np.load(shared / "data" / "microcosm.npz") as held:
        y, offset, site = held["counts"], np.log(held["offset"].astype(float)), held["cov_site"]
    commonest = np.argsort(-y.sum(axis=0), kind="stable")[:TAXA]
    names = [f"taxon{j + 1}" for j in range(TAXA)]
    frame = pd.DataFrame({"site": site.astype(str)})
    return pd.DataFrame(y[:, commonest], columns=names), offset[:, None], frame


def law_of(name: str) -> dict[str, Any]:
    """The settings of a line."""
    return {"formula": "~ 0 + site"} | (
        {} if name == "poisson" else {"likelihood": "zero-inflated-poisson", **BOUNDS[name][0]}
    )


def fitted(settings: dict[str, Any], counts: Any, **others: Any) -> tuple[poplin.PLN, float]:
    """A fit, and the seconds that it took."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = poplin.PLN(**settings).fit(counts, **others)
    return fit, time.perf_counter() - began


def line_of(fit: poplin.PLN, seconds: float, value: float, **told: Any) -> dict[str, Any]:
    """What is kept of a fit."""
    ended = {"converged": fit.converged_, "iterations": fit.n_iter_, "seconds": round(seconds, 1)}
    return {"value": round(value, 1), **ended, **told}


def bounds(shared: Path, wanted: Callable[[str, int], bool]) -> Iterator[dict[str, Any]]:
    """The bound of each probability of zeros, diagonal Gaussians, beside PLNmodels'."""
    counts, offset, data = microcosm(shared)
    for name, (_, reference) in BOUNDS.items():
        if wanted(name, 0):
            settings = law_of(name) | {"method": "variational"}
            fit, seconds = fitted(settings, counts, offset=offset, data=data)
            yield line_of(fit, seconds, fit.elbo_, name=name, seed=0, reference=reference)


def likelihoods(shared: Path, wanted: Callable[[str, int], bool]) -> Iterator[dict[str, Any]]:
    """Log-likelihoods by maximum likelihood: of all rows, and of every fifth by a fit to the others."""
    counts, offset, data = microcosm(shared)
    out = np.arange(len(counts)) % FIFTH == 0
    for name, seed in [(name, seed) for name in ("site", "column", "poisson") for seed in (0, 1)]:
        settings = law_of(name) | {"random_state": seed}
        if wanted(name, seed):
            fit, seconds = fitted(settings, counts, offset=offset, data=data)
            reference = {"site": -46668.0}.get(name, "")
            yield line_of(fit, seconds, fit.loglik_, error=round(fit.loglik_se_, 1), name=name, seed=seed) | {
                "reference": reference
            }
        if wanted(f"{name} held out", seed):
            rest = {"offset": offset[~out], "data": data[~out]}
            fit, seconds = fitted(settings, counts[~out], **rest)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value, error = fit.score_samples(
                    counts[out], offset=offset[out], data=data[out], return_se=True
                )
            told = {"error": round(float(np.linalg.norm(error)), 1), "seed": seed}
            reference = {"site": -8613.0, "poisson": -9429.0}.get(name, "")
            yield line_of(fit, seconds, value.sum(), name=f"{name} held out", reference=reference, **told)


PARTS = {"bounds": bounds, "likelihoods": likelihoods}


def main() -> None:
    """Run a part, line by line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out" / "laws")
    asked = parser.parse_args()
    path = asked.out / "laws.csv"
    done = set()
    if path.exists():
        with path.open(newline="") as file:
            done = {(line["part"], line["name"], line["seed"]) for line in csv.DictReader(file)}
    asked.out.mkdir(parents=True, exist_ok=True)
    wanted = lambda name, seed: (asked.part, name, str(seed)) not in done
    for line in PARTS[asked.part](asked.shared, wanted):
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            if new:
                writer.writeheader()
            writer.writerow({"part": asked.part, **line})
        print(line, flush=True)


if __name__ == "__main__":
    main()
