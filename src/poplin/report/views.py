"""What each figure shows, as plain arrays: the page and the matplotlib plots draw the same.

Start at `embedding` (rows as points in principal axes), `heat_map` (correlations, neighbours alike) or
`trace` (the objective as the fit went on).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from poplin._random import Purpose, derive
from poplin.data import held
from poplin.data.counts import Counts
from poplin.inference.margins import cells, marginal_cdf, marginal_means, placed, sampled
from poplin.inference.summary import Fitted, measure

AXES_OF_A_DIRECT_FORM = 10  # of its p axes, how many go into the files and the figures


class Embedding(NamedTuple):
    """Rows in principal axes: scores (n, k), and each axis' share of the residual variance (k,)."""

    scores: np.ndarray
    share: np.ndarray
    names: tuple[str, ...]


class Colour(NamedTuple):
    """What the points are coloured by: a name and one value a row, numbers or labels."""

    name: str
    values: np.ndarray


class HeatMap(NamedTuple):
    """Residual correlations and covariances (m, m) of the columns named, similar ones side by side."""

    correlation: np.ndarray
    covariance: np.ndarray
    names: tuple[str, ...]
    of: int


class Curve(NamedTuple):
    """One phase of a fit: its iterations, its objective after each, and what that is."""

    phase: str
    iteration: np.ndarray
    objective: np.ndarray
    measure: str


def embedding(fit: Fitted) -> Embedding:
    """The rows' latent means in principal axes of Sigma.

    A factor form has them already (n, q). In a direct form `latent_mean_` is Z - XB (n, p), and the scores
    are its coordinates on the leading axes: latent_mean_ @ components_[:, :10].
    """
    scores = on_axes(fit, fit.latent_mean_)
    shares = fit.eigenvalues_[: scores.shape[1]] / (fit.sigma_.trace() or 1.0)
    return Embedding(scores, shares, fit.counts_.row_names)


def on_axes(fit: Fitted, mean: np.ndarray) -> np.ndarray:
    """Latent means of rows, as `transform` gives them, in principal axes of Sigma (see `embedding`)."""
    return mean if fit.loadings_ is not None else mean @ fit.components_[:, :AXES_OF_A_DIRECT_FORM]


class Stand(NamedTuple):
    """How a candidate stands: name, free parameters, shortfall from the best (nats) with its error, taken or not."""

    name: str
    parameters: int
    short: float
    error: float
    chosen: bool


def standings(fit: Any) -> list[Stand]:
    """The ranks that rank="auto" compared, by held-out log-likelihood; nothing where the rank was given."""
    table = getattr(fit, "selection_", None)
    if table is None:
        return []
    columns = (table[name] for name in ("parameters", "difference", "difference_se", "chosen"))
    return [Stand(str(name), *line) for name, *line in zip(table.index, *columns, strict=True)]


def drawn_ends(low: np.ndarray, high: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of intervals for a picture: an open one reaches a little beyond all that is finite."""
    every = np.concatenate([low, high, middle, [0.0]])
    least, most = (f(every[np.isfinite(every)]) for f in (np.min, np.max))
    margin = 0.1 * (most - least)
    return np.where(np.isneginf(low), least - margin, low), np.where(np.isposinf(high), most + margin, high)


def heat_map(fit: Fitted, *, most: int = 300) -> HeatMap:
    """Residual correlations of at most `most` columns (those with the most counts), alike ones side by side.

    The order is that of an average-linkage tree of 1 - correlation, its branches turned so that neighbours are alike
    (optimal leaf ordering, Bar-Joseph et al. 2001).
    """
    p = fit.sigma_.p
    total = held.column_sums(fit.counts_.y, np.ones(len(fit.counts_.weights)))
    seen = np.sort(np.argsort(-total, kind="stable")[:most])
    covariance = fit.sigma_.block(seen)
    correlation = correlations(covariance)
    order = _clustered(correlation) if len(seen) > 2 else np.arange(len(seen))
    names = tuple(fit.counts_.column_names[seen[j]] for j in order)
    square = np.ix_(order, order)
    return HeatMap(correlation[square], covariance[square], names, p)


def loadings(fit: Fitted) -> np.ndarray:
    """What one standard deviation of each axis does to each column, (p, q): axes times the roots of eigenvalues."""
    return fit.components_ * np.sqrt(np.maximum(fit.eigenvalues_, 0))


def axis_correlations(fit: Fitted) -> np.ndarray:
    """Correlations (p, q) of columns' latent residuals with the axes; 0 for a column without variance."""
    deviation = np.sqrt(fit.sigma_.diag())[:, None]
    return np.divide(loadings(fit), deviation, out=np.zeros_like(fit.components_), where=deviation > 0)


def correlations(sigma: np.ndarray) -> np.ndarray:
    """Sigma scaled to a unit diagonal; a column without variance is correlated with nothing."""
    deviation = np.sqrt(np.maximum(np.diag(sigma), 0))
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    scaled = np.clip(sigma * scale * scale[:, None], -1, 1)
    np.fill_diagonal(scaled, 1.0)
    return scaled


def strongest_pairs(fit: Fitted, *, shown: int = 20) -> list[tuple[str, str, float]]:
    """The pairs of columns whose residual correlation is largest in size, with it."""
    found: list[
        tuple[float, int, int]
    ] = []  # ever the largest of those that were seen, in the order of columns
    for part, values in fit.sigma_.upper_correlations():
        size = np.nan_to_num(np.abs(values)).ravel()
        least = np.partition(size, max(size.size - shown, 0))[-shown:].min() if shown < size.size else 0.0
        large = np.flatnonzero(size >= least)
        large = large[np.argsort(-size[large], kind="stable")][:shown]
        first, second = np.unravel_index(large, values.shape)
        found += [
            (float(values[j, k]), part.start + int(j), int(k))
            for j, k in zip(first, second, strict=True)
            if size[j * values.shape[1] + k] > 0
        ]
        found = sorted(found, key=lambda one: (-abs(one[0]), one[1], one[2]))[:shown]
    names = fit.counts_.column_names
    return [(names[j], names[k], value) for value, j, k in found]


def trace(fit: Fitted) -> list[Curve]:
    """The objective after each iteration, one curve a phase, in the order of the phases."""
    phases = np.asarray(fit.trace_["phase"]).astype(str)
    iteration = np.asarray(fit.trace_["iteration"], dtype=float)
    objective = np.asarray(fit.trace_["objective"], dtype=float)
    kept = np.isfinite(objective)
    return [
        Curve(name, iteration[chosen], objective[chosen], measure(name))
        for name in dict.fromkeys(phases[kept])
        for chosen in [kept & (phases == name)]
    ]


def _clustered(correlation: np.ndarray) -> np.ndarray:
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    apart = np.clip(1 - correlation, 0, 2)
    np.fill_diagonal(apart, 0)
    tree = hierarchy.linkage(squareform(apart, checks=False), "average")
    return hierarchy.leaves_list(hierarchy.optimal_leaf_ordering(tree, squareform(apart, checks=False)))


# Does the model look like the data: frequencies of counts, and residuals, as plain arrays.
#
# Start at `frequencies` (counts seen and counts that tables drawn from the fit have) or `residuals` (randomised
# quantile residuals, standard normal where the model holds). Both take the fitted model as known.


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
    random = derive(seed, Purpose.FREQUENCIES).generator()
    counts = fit.counts_
    rows = np.flatnonzero(counts.weights > 0)
    p = counts.y.shape[1]
    limit = max(draws // (FEWEST_TABLES * p), 2)
    taken = np.sort(random.choice(rows, min(len(rows), limit), replace=False))
    y, center = held.dense_rows(counts.y, taken), _centers(fit, taken)
    root = fit.components_ * np.sqrt(np.maximum(fit.eigenvalues_, 0))
    tables = int(np.clip(draws // y.size, FEWEST_TABLES, MOST_TABLES))
    here = slice(None) if column is None else [counts.column_names.index(column)]
    law = cells(fit, taken, np.arange(p)[here])
    known = ~np.isnan(y[:, here])
    edges = bin_edges(np.nanmax(y[:, here], initial=0))
    seen = np.histogram(y[:, here][known], edges)[0]
    drawn = np.empty((tables, len(seen)))
    for t in range(tables):
        noise = random.standard_normal((len(taken), root.shape[1])) @ root.T
        table = sampled(law, random, (center + noise)[:, here])
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

    Y_ij has the fit's law at the log rate o_ij + x_i'b_j + sqrt(Sigma_jj) z: under the model each residual is standard
    normal, so the residuals show what is wrong with margins, not with correlations. Of a table with more than `most`
    counts, so many are taken at random.
    """
    from scipy.special import ndtri

    random = derive(seed, Purpose.RESIDUALS).generator()
    counts = fit.counts_
    i, j, known = _entries(counts, random, most)
    y = held.entries(counts.y, i, j)
    there = ~np.isnan(y)  # of a table that is not in memory it is not known before which are missing
    i, j, y = i[there], j[there], y[there]
    center = counts.offset[i, j] + np.einsum("md,dm->m", counts.x[i], fit.coef_[:, j])
    variance = fit.sigma_.diag()[j]
    law = cells(fit, np.arange(len(counts.weights)), np.arange(counts.y.shape[1]))
    if law is None:
        below, above = (marginal_cdf(at, center, variance) for at in (y - 1, y))
        mean = np.exp(center + variance / 2)
    else:
        law = law.over(lambda a: a[i, j])
        below, above = placed(y, center, variance, law)[:2]
        mean = marginal_means(law, center, variance)
    share = below + random.uniform(size=len(y)) * (above - below)
    tiny = np.finfo(float).tiny
    value = ndtri(np.clip(share, tiny, 1 - np.finfo(float).epsneg))
    return Residuals(value, mean, known)


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
