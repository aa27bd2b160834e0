"""`python -m benchmarks.gradients`: the variance of estimated gradients of the bound, 1000 rows and 20 columns.

AR1(0.8), mean count about e^(1/2), ten draws of every row; at the start of a fit and at the optimum of the bound.
Writes `gradients.md`: variances of a row's gradient (in units of the row's standard deviations, summed over its 40
unknowns), and each divided by the plain score function's.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import poplin
from benchmarks.measure import REPOSITORY, facts
from poplin._numerics import double_precision
from poplin.data.blocks import as_block
from poplin.fitting.alternatives import CONTROLS
from poplin.methods.bbvi import gradient_variance
from poplin.rows.frames import Diagonals, DirectFrame, Place, Reparameterised

ROWS, COLUMNS, DRAWS = 1000, 20, 10
NAMES = {
    "none": "score function, plain",
    "rao-blackwell": "score function, local terms (Rao-Blackwell)",
    "rloo": "score function, leave-one-out",
    "both": "score function, both",
    "reparam": "reparameterised",
}
ESTIMATORS = {**CONTROLS, "reparam": Reparameterised()}


def counts() -> np.ndarray:
    """The table (n, p)."""
    random = np.random.default_rng(0)
    sigma = 0.8 ** np.abs(np.subtract.outer(np.arange(COLUMNS), np.arange(COLUMNS)))
    latent = random.normal(size=(ROWS, COLUMNS)) @ np.linalg.cholesky(sigma).T
    return random.poisson(np.exp(latent)).astype(float)


def variances(y: np.ndarray, *, max_iter: int) -> dict[str, float]:
    """Of each estimator, at the rows and parameters that a variational fit has after so many steps."""
    fit = poplin.PLN(method="variational", max_iter=max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poplin.ConvergenceWarning)
        fit.fit(y)
    mean, variance = fit.result_.rows
    with double_precision():
        block = as_block(y, np.ones((ROWS, 1)), np.zeros_like(y), np.ones(ROWS))
        place = Place(DirectFrame(), jnp.asarray(fit.coef_), jnp.asarray(fit.result_.loadings), block)
        rows = Diagonals(jnp.asarray(mean), 0.5 * jnp.log(jnp.asarray(variance)))
        program = jax.jit(gradient_variance, static_argnames=("draws", "repeats"))
        key = jax.random.key(1)
        return {
            name: float(program(slope, place, rows, key, draws=DRAWS)) for name, slope in ESTIMATORS.items()
        }


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradients", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    chosen = parser.parse_args(arguments)
    began = time.perf_counter()
    y = counts()
    start, end = variances(y, max_iter=1), variances(y, max_iter=20_000)
    lines = [
        "| estimator | at the start | share of the plain one | at the optimum | share of the plain one |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, words in NAMES.items():
        told = (f"{v[name]:.4g} | {v[name] / v['none']:.2g}" for v in (start, end))
        lines.append(f"| {words} | {' | '.join(told)} |")
    where = facts()
    lines.append(f"\n`python -m benchmarks.gradients`, {where['date']}, commit {where['commit']}.")
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "gradients.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
