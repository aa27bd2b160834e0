"""Laws that the studies draw tables from: an intercept a column, and Sigma by its shape or rank.

Start at `Law` and `table`. `simulate.py` is the public, simpler face; here the eigenvectors of the truth are kept
as well, since studies lend them to methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from poplin.studies.study import Table


class Law(NamedTuple):
    """n rows; B (1, p); Sigma = V diag(Lambda) V' by its eigenpairs, the largest first."""

    rows: int
    coef: np.ndarray
    basis: np.ndarray
    scales: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """Sigma (p, p)."""
        return (self.basis * self.scales) @ self.basis.T


def autoregressive(p: int, correlation: float) -> np.ndarray:
    """Sigma_jk = correlation^|j - k|."""
    return correlation ** np.abs(np.subtract.outer(np.arange(p), np.arange(p)))


def eigenpairs(sigma: np.ndarray, rank: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The `rank` leading eigenvectors (p, q), each with its largest entry positive, and their eigenvalues."""
    values, vectors = np.linalg.eigh(sigma)
    vectors, values = vectors[:, ::-1][:, :rank], values[::-1][:rank]
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(vectors.shape[1])]
    return vectors * np.sign(largest), np.maximum(values, 0)


def law(rows: int, sigma: np.ndarray, *, mean: float = 0.0, rank: int | None = None) -> Law:
    """A law of n rows with this mean of Z in every column and this Sigma, cut to its `rank` leading eigenpairs."""
    return Law(rows, np.full((1, len(sigma)), float(mean)), *eigenpairs(sigma, rank))


def random_low_rank(rows: int, p: int, rank: int, *, mean: float = 0.0) -> Law:
    """Sigma = C C', C (p, q) from N(0, 1/q): variances are one on average whatever the rank. One C per (p, q)."""
    loadings = np.random.default_rng([p, rank]).standard_normal((p, rank)) / np.sqrt(rank)
    return law(rows, loadings @ loadings.T, mean=mean, rank=rank)


def cut_but_with_all_axes(rows: int, sigma: np.ndarray, rank: int) -> Law:
    """As `law` with a rank, but V keeps all p axes (p, p), with Lambda = 0 beyond the rank."""
    axes, values = eigenpairs(sigma)
    kept = np.where(np.arange(len(values)) < rank, values, 0.0)
    return Law(rows, np.zeros((1, len(sigma))), axes, kept)


def one_factor(rows: int, p: int) -> Law:
    """Rank one: Z_ij = c_j w_i, c_j evenly spread from 0.4 to 1, mean 0."""
    loadings = np.linspace(0.4, 1.0, p)[:, None]
    return law(rows, loadings @ loadings.T, rank=1)


def table(law: Law, random: np.random.Generator, *, fresh: int = 0) -> Table:
    """Counts of n rows, y_ij ~ Poisson(exp(z_ij)), and `fresh` more that no method sees.

    >>> table(law(4, autoregressive(3, 0.5)), np.random.default_rng(0)).counts.shape
    (4, 3)
    """
    n = law.rows + fresh
    noise = random.standard_normal((n, len(law.scales)))
    latent = law.coef + (noise * np.sqrt(law.scales)) @ law.basis.T
    counts = random.poisson(np.exp(latent))
    held = counts[law.rows :] if fresh else None
    x = np.ones((law.rows, 1))
    seen = counts[: law.rows], x, latent[: law.rows]
    return Table(*seen, law.coef, law.covariance, law.basis, law.scales, held)


def drawn_from(law: Law, *, fresh: int = 0) -> Callable[[np.random.Generator], Table]:
    """`table` as what a `Cell` wants: a function of the generator alone."""
    return lambda random: table(law, random, fresh=fresh)
