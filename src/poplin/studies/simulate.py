"""Draws a table of counts from a Poisson-lognormal model whose every number is known.

Start at `simulate`; `write` keeps the table and its truth in one .npz file, which `poplin fit` reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin._random import Purpose, derive
from poplin.data.tables import column_defaults, row_defaults
from poplin.models.draws import draw_counts
from poplin.store import written_whole

SHAPES = ("ar1", "spherical", "diagonal")


class Simulated(NamedTuple):
    """counts (n, p) and the truth behind them: coef (1, p), covariance (p, p), latent Z - XB (n, p)."""

    counts: np.ndarray
    coef: np.ndarray
    covariance: np.ndarray
    latent: np.ndarray


def simulate(
    rows: int,
    columns: int,
    *,
    covariance: str = "ar1",
    rank: int | None = None,
    correlation: float = 0.8,
    mean: float = 0.0,
    seed: int = 0,
) -> Simulated:
    """Draw y_ij ~ Poisson(exp(mean + z_ij)), z_i ~ N(0, Sigma), for n = `rows` and p = `columns`.

    `covariance`: "ar1" is Sigma_jk = correlation^|j - k|, "spherical" the identity, "diagonal" variances
    evenly spread from 0.5 to 1.5. With `rank` q, Sigma = C C' instead, C (p, q) drawn from N(0, 1/q), so that
    variances are one on average. The same seed gives the same table. Raises `InputError` for sizes that make
    no table.

    >>> simulate(3, 2, seed=1).counts.shape
    (3, 2)
    """
    if rows < 1 or columns < 1:
        raise InputError(f"A table of {rows} rows and {columns} columns is empty. Ask for more.")
    if rank is not None and not 1 <= rank <= columns:
        raise InputError(f"rank is {rank}; wanted is a number from 1 to {columns}, the columns.")
    if not -1 < correlation < 1:
        raise InputError(f"correlation is {correlation:g}; wanted is a number between -1 and 1.")
    random = derive(seed, Purpose.MAIN).generator()
    root = _root(covariance, columns, correlation) if rank is None else _loadings(random, columns, rank)
    latent = random.standard_normal((rows, root.shape[1])) @ root.T
    log_rate = mean + latent
    counts = draw_counts(random, log_rate, mend="Choose a lower mean.")
    coef = np.full((1, columns), float(mean))
    return Simulated(counts, coef, root @ root.T, latent)


def write(table: Simulated, path: Path) -> None:
    """Write counts, obs_names and var_names, and the truth as true_coef, true_covariance, true_latent."""
    n, p = table.counts.shape
    names = {"obs_names": np.array(row_defaults(n)), "var_names": np.array(column_defaults(p))}
    truth = {f"true_{name}": value for name, value in table._asdict().items() if name != "counts"}
    try:
        with written_whole(path, "wb") as handle:
            np.savez_compressed(handle, counts=table.counts, **names, **truth)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}. Choose another place."
        ) from error


def _root(shape: str, p: int, correlation: float) -> np.ndarray:
    """A p x p matrix whose product with its transpose is Sigma."""
    if shape == "ar1":
        return np.linalg.cholesky(correlation ** np.abs(np.subtract.outer(np.arange(p), np.arange(p))))
    if shape == "spherical":
        return np.eye(p)
    if shape == "diagonal":
        return np.diag(np.sqrt(np.linspace(0.5, 1.5, p)))
    raise InputError(f"covariance is '{shape}'; wanted is one of {', '.join(SHAPES)}.")


def _loadings(random: np.random.Generator, p: int, rank: int) -> np.ndarray:
    return random.standard_normal((p, rank)) / np.sqrt(rank)
