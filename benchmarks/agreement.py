"""`python -m benchmarks.agreement`: do numerical integration, Monte-Carlo EM and "ml" end at the same estimates?

Two hundred rows: diagonal Sigma with 2, 5 and 10 columns; 1, 2 and 3 latent dimensions of 6 columns; a free Sigma of 3
columns. Unshrunk. Writes `agreement.md`: root-mean-square differences to "exact" over B and Sigma in complete-data
standard errors, for "ml" with tol=0.05 (two seeds) and "mcmc" with tol=0.05.
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


def main(arguments: list[str] | None = None) -> None:
    """Fit, compare and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    chosen = parser.parse_args(arguments)
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
    where = facts()
    lines.append(f"\n`python -m benchmarks.agreement`, {where['date']}, commit {where['commit']}.")
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "agreement.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
