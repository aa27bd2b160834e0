"""What each figure shows, as plain arrays: the page and the matplotlib plots draw the same.

Start at `embedding` (rows as points in principal axes), `heat_map` (correlations, neighbours alike) or
`trace` (the objective as the fit went on).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from poplin.data import held
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
    total = float(np.trace(fit.covariance_)) or 1.0
    if fit.loadings_ is not None:
        return Embedding(fit.latent_mean_, fit.eigenvalues_ / total, fit.counts_.row_names)
    axes = fit.components_[:, :AXES_OF_A_DIRECT_FORM]
    scores = fit.latent_mean_ @ axes
    return Embedding(scores, fit.eigenvalues_[: axes.shape[1]] / total, fit.counts_.row_names)


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
    p = fit.covariance_.shape[0]
    total = held.column_sums(fit.counts_.y, np.ones(len(fit.counts_.weights)))
    seen = np.sort(np.argsort(-total, kind="stable")[:most])
    covariance = fit.covariance_[np.ix_(seen, seen)]
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
    deviation = np.sqrt(np.maximum(np.diag(fit.covariance_), 0))[:, None]
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
    correlation = correlations(fit.covariance_)
    first, second = np.triu_indices_from(correlation, 1)
    values = correlation[first, second]
    names = fit.counts_.column_names
    chosen = np.argsort(-np.abs(values), kind="stable")[:shown]
    return [(names[first[k]], names[second[k]], float(values[k])) for k in chosen if values[k] != 0]


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
