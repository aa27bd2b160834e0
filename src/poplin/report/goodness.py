"""Does the model look like the data: frequencies of counts, and residuals, as plain arrays.

Start at `frequencies` (counts seen and counts that tables drawn from the fit have) or `residuals` (randomised quantile
residuals, standard normal where the model holds). Both take the fitted model as known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from poplin.data import held
from poplin.data.counts import Counts
from poplin.inference.margins import marginal_cdf
from poplin.inference.summary import Fitted

MOST_DRAWS = 4_000_000  # Poisson draws in all, for expected frequencies
MOST_TABLES, FEWEST_TABLES = 99, 19
MOST_ENTRIES = 20_000  # residuals; of a larger table, that many of its counts
PLAIN_COUNTS = 10  # counts from 0 with a bin each; above, bins grow by half


class Frequencies(NamedTuple):
    """How often counts in each bin are seen, and in tables drawn from the fit: mean and 95 % range (k,)."""

    bins: tuple[str, ...]
    seen: np.ndarray
    expected: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    rows: int
    of: int


class Residuals(NamedTuple):
    """Randomised quantile residuals (m,) of m counts, and the marginal mean of each."""

    value: np.ndarray
    mean: np.ndarray
    of: int


def frequencies(
    fit: Fitted, column: str | None = None, *, seed: int = 0, draws: int = MOST_DRAWS
) -> Frequencies:
    """Counts of the table (or of one column) by size, beside tables drawn from the fit for the same rows.

    Missing counts and rows of weight 0 are in neither. Of a table so large that 19 would take more than `draws` Poisson
    draws, rows are taken at random.
    """
    random = np.random.default_rng(seed)
    counts = fit.counts_
    rows = np.flatnonzero(counts.weights > 0)
    p = counts.y.shape[1]
    limit = max(draws // (FEWEST_TABLES * p), 2)
    taken = np.sort(random.choice(rows, min(len(rows), limit), replace=False))
    y, center = held.dense_rows(counts.y, taken), _centers(fit, taken)
    root = fit.components_ * np.sqrt(np.maximum(fit.eigenvalues_, 0))
    tables = int(np.clip(draws // y.size, FEWEST_TABLES, MOST_TABLES))
    here = slice(None) if column is None else [counts.column_names.index(column)]
    known = ~np.isnan(y[:, here])
    edges = bin_edges(np.nanmax(y[:, here], initial=0))
    seen = np.histogram(y[:, here][known], edges)[0]
    drawn = np.empty((tables, len(seen)))
    for t in range(tables):
        noise = random.standard_normal((len(taken), root.shape[1])) @ root.T
        table = random.poisson(
            np.exp(np.minimum((center + noise)[:, here], 40.0))
        )  # a Poisson draw's limit is e^43
        drawn[t] = np.histogram(table[known], edges)[0]
    lower, upper = np.quantile(drawn, [0.025, 0.975], axis=0)
    return Frequencies(bin_names(edges), seen, drawn.mean(axis=0), lower, upper, len(taken), len(rows))


def bin_edges(largest: float) -> np.ndarray:
    """Edges of bins: each count up to 9 alone, then bins that grow by half; the last is open."""
    edges = list(range(min(int(largest), PLAIN_COUNTS - 1) + 1))
    further = PLAIN_COUNTS
    while further <= largest:
        edges.append(further)
        further += further // 2
    return np.array([*edges, np.inf], dtype=float)


def bin_names(edges: np.ndarray) -> tuple[str, ...]:
    """What each bin holds, in words."""
    names = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        alone = f"{low:.0f}" if high - low == 1 else f"{low:.0f}-{high - 1:.0f}"
        names.append(f"{low:.0f}+" if np.isinf(high) else alone)
    return tuple(names)


def residuals(fit: Fitted, *, seed: int = 0, most: int = MOST_ENTRIES) -> Residuals:
    """r_ij = Phi^-1(u), u uniform between F(y_ij - 1) and F(y_ij), F the fitted marginal (Dunn & Smyth 1996).

    Y_ij ~ Poisson(exp(o_ij + x_i'b_j + sqrt(Sigma_jj) z)): under the model each residual is standard normal, so the
    residuals show what is wrong with margins, not with correlations. Of a table with more than `most`
    counts, so many are taken at random.
    """
    from scipy.special import ndtri

    random = np.random.default_rng(seed)
    counts = fit.counts_
    i, j, known = _entries(counts, random, most)
    y = held.entries(counts.y, i, j)
    there = ~np.isnan(y)  # of a table that is not in memory it is not known before which are missing
    i, j, y = i[there], j[there], y[there]
    center = counts.offset[i, j] + np.einsum("md,dm->m", counts.x[i], fit.coef_[:, j])
    variance = np.diag(fit.covariance_)[j]
    below, above = (marginal_cdf(at, center, variance) for at in (y - 1, y))
    share = below + random.uniform(size=len(y)) * (above - below)
    tiny = np.finfo(float).tiny
    value = ndtri(np.clip(share, tiny, 1 - np.finfo(float).epsneg))
    return Residuals(value, np.exp(center + variance / 2), known)


def _entries(counts: Counts, random: np.random.Generator, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows and columns of at most so many counts that are there, in rows that are used; how many there are."""
    p = counts.y.shape[1]
    if held.is_held_sparse(counts.y):
        rows = np.flatnonzero(counts.weights > 0)
        taken = np.unique(random.integers(0, len(rows) * p, most))
        return rows[taken // p], taken % p, len(rows) * p - int(held.missing(counts.y)[rows].sum())
    known = np.flatnonzero((~np.isnan(counts.y) & (counts.weights > 0)[:, None]).ravel())
    taken = np.sort(random.choice(known, min(len(known), most), replace=False))
    return *np.divmod(taken, p), len(known)


def _centers(fit: Fitted, rows: np.ndarray) -> np.ndarray:
    return fit.counts_.offset[rows] + fit.counts_.x[rows] @ fit.coef_
