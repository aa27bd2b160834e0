"""`python -m benchmarks.agreement`: do numerical integration, Monte-Carlo EM and "ml" end at the same estimates?

Two hundred rows: diagonal Sigma with 2, 5 and 10 columns; 1, 2 and 3 latent dimensions of 6 columns; a free Sigma of 3
columns. Unshrunk. Writes `agreement.md`: root-mean-square differences to "exact" over B and Sigma in complete-data
standard errors, for "ml" with tol=0.05 (two seeds) and "mcmc" with tol=0.05. Then 300 rows of 10 columns with a free
Sigma, AR1(0.8): "mcmc", "ml" and "composite" against one another, in their own standard errors.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import poplin
from benchmarks.measure import REPOSITORY, facts

ROWS = 200
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "diagonal, p = 2": (2, {"covariance": "diagonal"}),
    "diagonal, p = 5": (5, {"covariance": "diagonal"}),
    "diagonal, p = 10": (10, {"covariance": "diagonal"}),
    "rank 1, p = 6": (6, {"rank": 1}),
    "rank 2, p = 6": (6, {"rank": 2}),
    "rank 3, p = 6": (6, {"rank": 3}),
    "full, p = 3": (3, {"shrinkage": 0}),
}
OTHERS = {
    "ml": {"method": "ml"},
    "ml, another seed": {"method": "ml", "random_state": 1},
    "mcmc": {"method": "mcmc"},
}


def table(p: int, settings: dict[str, Any]) -> np.ndarray:
    """Counts of mean about e; Sigma as is to be fitted."""
    random = np.random.default_rng(p)
    root = 0.7 * (random.normal(size=(p, settings["rank"])) if "rank" in settings else np.eye(p))
    return random.poisson(np.exp(0.8 + random.normal(size=(ROWS, root.shape[1])) @ root.T)).astype(float)


def apart(one: Any, other: Any) -> float:
    """Root mean square over B and Sigma, in complete-data standard errors; entries that are not free left out."""
    sigma = other.covariance_
    variance = np.diag(sigma)
    error = np.sqrt((variance[:, None] * variance + sigma**2) / ROWS)
    upper = np.triu(sigma != 0)
    gaps = [((one.coef_ - other.coef_) / np.sqrt(variance / ROWS)).ravel()]
    gaps.append(((one.covariance_ - sigma) / error)[upper])
    return float(np.sqrt(np.mean(np.concatenate(gaps) ** 2)))


AT_TEN = (("mcmc", "ml", "ml"), ("composite", "ml", "composite"), ("composite", "mcmc", "composite"))


def at_ten() -> list[str]:
    """Pairs of methods at p = 10, full: differences in the standard errors of one of them."""
    random = np.random.default_rng(10)
    sigma = 0.8 ** np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
    latent = 0.5 + random.normal(size=(300, 10)) @ np.linalg.cholesky(sigma).T
    y = random.poisson(np.exp(latent)).astype(float)
    began, fits = time.perf_counter(), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poplin.ConvergenceWarning)
        for name in ("ml", "mcmc", "composite"):
            fits[name] = poplin.PLN(method=name, shrinkage=0).fit(y)
    lines = [
        "",
        "| p = 10, full, n = 300 | root mean square | largest | converged |",
        "| --- | --- | --- | --- |",
    ]
    errors = {name: fit.standard_errors() for name, fit in fits.items() if name != "mcmc"}
    for name, other, unit in AT_TEN:
        one, two, se = fits[name], fits[other], errors[unit]
        upper = np.triu_indices(10)
        gap = np.concatenate(
            [
                ((one.coef_ - two.coef_) / se.coef).ravel(),
                ((one.covariance_ - two.covariance_) / se.covariance)[upper],
            ]
        )
        told = (
            f"{np.sqrt(np.mean(gap**2)):.3f} | {np.abs(gap).max():.2f} | {one.converged_ and two.converged_}"
        )
        lines.append(f"| {name} less {other}, in standard errors of {unit} | {told} |")
        print(lines[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
    return lines


def against_exact() -> list[str]:
    """Every case of `CASES`, a line each."""
    lines = [f"| model | {' | '.join(OTHERS)} | R-hat at most |", "| --- | --- | --- | --- | --- |"]
    for name, (p, settings) in CASES.items():
        y, began = table(p, settings), time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", poplin.ConvergenceWarning)
            exact = poplin.PLN(method="exact", **settings).fit(y)
            fits = {
                label: poplin.PLN(**settings, **how, tol=0.05, max_iter=4000).fit(y)
                for label, how in OTHERS.items()
            }
        told = [
            f"{apart(fit, exact):.3f}{'' if fit.converged_ else ' (not converged)'}" for fit in fits.values()
        ]
        lines.append(f"| {name} | {' | '.join(told)} | {np.nanmax(fits['mcmc'].rhat_):.3f} |")
        print(lines[-1], f"{time.perf_counter() - began:.0f} s", exact.converged_, flush=True)
    return lines


PARTS = {"exact": against_exact, "ten": at_ten}


def main(arguments: list[str] | None = None) -> None:
    """Fit, compare and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    chosen = parser.parse_args(arguments)
    parts = [chosen.part] if chosen.part in PARTS else list(PARTS)
    lines = [line for part in parts for line in PARTS[part]()]
    where = facts()
    command = "python -m benchmarks.agreement" + ("" if chosen.part == "all" else f" --part {chosen.part}")
    lines.append(f"\n`{command}`, {where['date']}, commit {where['commit']}.")
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "agreement.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
