"""The picture of the README: what the bound loses of a covariance, and what maximum likelihood finds.

Start at `main`: `python -m benchmarks.picture [--out docs/scenario1.png]` draws scenario 1 (5000 x 50 counts, Sigma =
AR1(0.8)) from a seed, fits it by both methods and plots the mean covariance at each lag.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import poplin

ROWS, COLUMNS, CORRELATION, LAGS = 5000, 50, 0.8, 12


def scenario(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts (ROWS, COLUMNS) with mean 0 on the log scale, and their Sigma."""
    random = np.random.default_rng(seed)
    gap = np.abs(np.subtract.outer(np.arange(COLUMNS), np.arange(COLUMNS)))
    sigma = CORRELATION**gap
    latent = random.multivariate_normal(np.zeros(COLUMNS), sigma, size=ROWS, method="cholesky")
    return random.poisson(np.exp(latent)), sigma


def by_lag(sigma: np.ndarray) -> np.ndarray:
    """Mean covariance of columns 0, 1, 2, ... apart."""
    return np.array([np.diag(sigma, lag).mean() for lag in range(LAGS)])


def main(arguments: list[str] | None = None) -> None:
    """Fit, draw, write the picture and say the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/scenario1.png"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    counts, sigma = scenario(options.seed)
    fits = {
        "variational bound": poplin.PLN(method="variational").fit(counts),
        "maximum likelihood (default)": poplin.PLN().fit(counts),
    }
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.plot(by_lag(sigma), color="black", lw=1, label="truth")
    for (name, fit), marker, colour in zip(fits.items(), "so", ("#D55E00", "#0072B2"), strict=True):
        found = by_lag(fit.covariance_)
        error = np.linalg.norm(fit.covariance_ - sigma) / np.linalg.norm(sigma)
        ax.plot(found, marker, color=colour, label=f"{name}: error {error:.2f}")
        print(f"{name}: lag 1 {found[1]:.3f} (truth {CORRELATION}), relative Frobenius error {error:.3f}")
    ax.set_xlabel("columns apart")
    ax.set_ylabel("mean residual covariance")
    ax.set_title(f"{ROWS} x {COLUMNS} counts, Sigma = AR1({CORRELATION})", loc="left", fontsize="medium")
    ax.legend(frameon=False)
    figure.savefig(options.out, dpi=150)


if __name__ == "__main__":
    main()
