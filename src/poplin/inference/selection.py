"""Choosing between models by what they say of rows: free parameters, criteria, paired differences, a short search.

Start at `difference` and `simplest`. Nothing is fitted here: scores of rows come in, a choice goes out. Held-out
log-likelihoods are nats, higher is better; `aic`, `bic` and `icl` are deviances, lower is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._axes import Rows
from poplin._numerics import double_precision
from poplin._random import Purpose, derive
from poplin.data.blocks import Block
from poplin.inference.likelihood import (
    ENOUGH,
    Slice,
    padded,
    pareto_shape,
    slices,
    stratified_variance,
    student_ratios,
    summary,
)
from poplin.inference.sequential import ERROR, in_rounds, log_mean, relative
from poplin.inference.summary import LARGEST_KHAT
from poplin.laws import AbstractLaw, NegativeBinomial, ZeroInflated, features_of
from poplin.models.loadings import BorrowedBasis, FreeLoadings, FrozenLoadings
from poplin.updates.specific import GivenAxes, Specific
from poplin.updates.structure import Diagonal, Fixed, Full, Spherical

# What is free in Sigma, for p columns and q latent dimensions; a rotation of free loadings changes nothing.
_FREE: dict[type, Callable[[int, int], int]] = {
    Full: lambda p, q: p * (p + 1) // 2,
    Diagonal: lambda p, q: p,
    Spherical: lambda p, q: 1,
    Fixed: lambda p, q: 0,
    FreeLoadings: lambda p, q: p * q - q * (q - 1) // 2,
    BorrowedBasis: lambda p, q: q,
    FrozenLoadings: lambda p, q: 0,
}

NEGLIGIBLE = 0.01  # of the first eigenvalue: what differs by less has no gap between


def free_parameters(form: Any, *, d: int, p: int, q: int) -> int:
    """Free parameters of a model: d p of B, and those of Sigma (p x p, rank q) in the shape or loadings `form`.

    Full p (p + 1) / 2, diagonal p, spherical 1, fixed 0, free loadings p q - q (q - 1) / 2 (a rotation of C is
    not free in Sigma = C C'), borrowed basis q, and p more with variances of the columns' own. Shrinkage is not
    counted: it takes away less than one knows.

    >>> free_parameters(FreeLoadings(), d=1, p=50, q=12)
    584
    """
    return d * p + (form.axes.count(p) if isinstance(form, Specific) else _FREE[type(form)](p, q))


def law_parameters(law: AbstractLaw, zero_features: np.ndarray | None) -> int:
    """Free parameters of a law of counts: of each of its arrays (k, p), or (k, 1) where columns share it, all.

    Of features of the rows (n, k) that tell nothing new (a constant beside all levels) fewer.
    """
    like = np.ones((1 if zero_features is None else len(zero_features), 1))
    with double_precision():
        features = jax.tree.leaves(features_of(law, zero_features, like))
    ranks = (int(np.linalg.matrix_rank(np.asarray(each))) for each in features)
    return sum(rank * leaf.shape[1] for rank, leaf in zip(ranks, jax.tree.leaves(law), strict=True))


def aic(loglik: float, parameters: int) -> float:
    """Akaike's criterion -2 log p(Y) + 2 K, lower is better (Akaike 1974)."""
    return 2 * (parameters - loglik)


def bic(loglik: float, parameters: int, *, rows: float) -> float:
    """Schwarz's criterion -2 log p(Y) + K log n, lower is better (Schwarz 1978)."""
    return parameters * math.log(rows) - 2 * loglik


def icl(loglik: float, parameters: int, *, rows: float, entropy: float) -> float:
    """Integrated completed likelihood BIC + 2 H, lower is better (Biernacki, Celeux & Govaert 2000).

    H is the entropy of the rows' positions w given their counts, in nats: a model pays for positions that
    the counts leave open. w ~ N(0, I) before the counts are seen, whatever the form, so that forms compare.
    """
    return bic(loglik, parameters, rows=rows) + 2 * entropy


class Difference(NamedTuple):
    """A sum over rows of differences between two models, and its standard error, in nats."""

    value: float
    standard_error: float


def difference(scores: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> Difference:
    """Sum of w_i (scores_i - reference_i) over rows, and sqrt(n) times the standard deviation of its terms.

    Both models score the same rows, so what makes a row hard for both cancels. Rows of weight zero are left
    out.
    """
    used = weights > 0
    each = weights[used] * (scores[used] - reference[used])
    spread = each.std(ddof=1) if len(each) > 1 else math.inf
    return Difference(float(each.sum()), float(math.sqrt(len(each)) * spread))


def simplest(scores: Sequence[np.ndarray], parameters: Sequence[int], weights: np.ndarray) -> int:
    """The one-standard-error rule: the place in the list of the simplest model that is as good as the best.

    As good is who falls short by at most one standard error of the paired difference; simplest is who has the
    fewest free parameters.
    """
    best = max(range(len(scores)), key=lambda k: float(weights @ scores[k]))
    near = [k for k in range(len(scores)) if within_one_error(scores[k], scores[best], weights)]
    return min([*near, best], key=lambda k: parameters[k])


def within_one_error(scores: np.ndarray, best: np.ndarray, weights: np.ndarray) -> bool:
    """Whether a model falls short of the best by at most one standard error of the difference."""
    gap = difference(scores, best, weights)
    return -gap.value <= gap.standard_error


def peak(value: Callable[[int], float], start: int, *, low: int, high: int) -> int:
    """Where a function of whole numbers with a single peak is largest on [low, high], in few looks.

    From `start` upward in strides that double; once it falls, the bracket is halved. Looks: 3 if `start` is
    the peak, at most about 3 log2 |peak - start| + 4 otherwise. Nothing is looked at twice.
    """
    seen: dict[int, float] = {}

    def look(k: int) -> float:
        if k < low or k > high:
            return -math.inf
        if k not in seen:
            seen[k] = value(k)
        return seen[k]

    here = min(max(start, low), high)
    side = next((s for s in (1, -1) if look(here + s) > look(here)), 0)
    if side == 0:
        return here
    behind, here, stride = here, here + side, 2
    while look(ahead := min(max(here + side * stride, low - 1), high + 1)) > look(here):
        behind, here, stride = here, ahead, 2 * stride
    return _narrowed(look, behind, here, ahead)


def _narrowed(look: Callable[[int], float], behind: int, here: int, ahead: int) -> int:
    """The peak between `behind` and `ahead`, where `here` is no lower than both."""
    while max(abs(here - behind), abs(ahead - here)) > 1:
        longer_ahead = abs(ahead - here) >= abs(here - behind)
        far = ahead if longer_ahead else behind
        probe = here + (far - here) // 2 if far > here else here - (here - far) // 2
        if look(probe) > look(here):
            behind, ahead = (here, ahead) if longer_ahead else (here, behind)
            here = probe
        elif longer_ahead:
            ahead = probe
        else:
            behind = probe
    return here


def fold_labels(rows: np.ndarray, folds: int, *, seed: int) -> np.ndarray:
    """A fold 0..folds-1 for each row in use (`rows`, boolean (n,)), -1 for others: equal sizes, at random."""
    labels = np.full(len(rows), -1)
    used = np.flatnonzero(rows)
    labels[derive(seed, Purpose.FOLDS).generator().permutation(used)] = np.arange(len(used)) % folds
    return labels


def dimensions(covariance: np.ndarray, noise: np.ndarray, *, rows: float) -> int:
    """A first guess of the rank: eigenvalues that stand out from the counts' own noise.

    `covariance` (p, p): of the residuals of log(y + 1/2); `noise` (p,): the part of its diagonal that is
    Poisson. Of rows without a latent position the largest eigenvalue of the rest would be about mean(noise)
    (2 r + r^2), r = sqrt(p / n) (Marchenko & Pastur 1967). At least one. Only where a search begins: cost p^3.
    """
    ratio = math.sqrt(len(noise) / rows)
    edge = float(np.mean(noise)) * (2 * ratio + ratio**2)
    return max(1, int(np.sum(np.linalg.eigvalsh(covariance - np.diag(noise)) > edge)))


def widest_gap(eigenvalues: np.ndarray) -> int:
    """The number of eigenvalues (descending) before the largest ratio of one to the next.

    With a share of the first added to each: those that are nothing but noise may differ by any factor.
    """
    if len(eigenvalues) < 2:
        return len(eigenvalues)
    values = eigenvalues + NEGLIGIBLE * eigenvalues[0]
    return int(np.argmax(values[:-1] / values[1:])) + 1


# The log-likelihood ratio of two models on the same rows, by paired draws; and which models are nested how.
#
# Start at `paired_loglik` and `nesting`. The proposals of both models are driven by the same random numbers, so the
# error of a difference is far smaller than those of its two parts.


SAME = 1e-8  # relative difference up to which a given Sigma, basis or space of covariates is the same


class Placed(NamedTuple):
    """A model on its rows: the block (with its own covariates), B (d, p), C (p, q)."""

    block: Block
    coef: np.ndarray
    loadings: np.ndarray


class Paired(NamedTuple):
    """Per row (n,): log p of the larger model less that of the smaller, in nats, and its standard error.

    `unsure`: where that may be larger than stated (see `RowLikelihood`).
    """

    difference: np.ndarray
    standard_error: np.ndarray
    unsure: np.ndarray


class Nesting(Enum):
    """How one model lies within another."""

    REGULAR = "inside"  # twice the log ratio tends to chi-squared
    BOUNDARY = "on the boundary"  # it does not
    NONE = "not within"


def paired_loglik(key: Array, small: Placed, large: Placed, *, draws: int = 1000) -> Paired:
    """Importance-sampled log p(y_i; large) - log p(y_i; small) of each row, with common random numbers.

    Both are written with as many latent dimensions (zeros fill up C), the small C turned toward the large one, so that
    the same draw lies near the same place of Z under both fitted Gaussians. Rows that are skewed under either model are
    drawn column by column under both, in one order. The error of the difference follows from the differences of the
    draws' relative weights; each log's bias is taken out. Cost: that of two `row_loglik`.
    """
    width = max(small.loadings.shape[1], large.loadings.shape[1])
    target = padded(large.loadings, width)
    turned = toward(padded(small.loadings, width), target)
    ways = (small._replace(loadings=turned), large._replace(loadings=target))
    streams = [
        slices(key, way.block, jnp.asarray(way.coef), jnp.asarray(way.loadings), draws=draws) for way in ways
    ]
    parts = [_of_slices(key, sides, draws=draws) for sides in zip(*streams, strict=True)]
    n = len(small.block.index)
    return Paired(*(np.concatenate(a)[:n] for a in zip(*parts, strict=True)))


def _of_slices(key: Array, sides: tuple[Slice, ...], *, draws: int) -> Paired:
    """The rows of one slice under both models."""
    ways, size = [side.way for side in sides], len(sides[0].skewed)
    value, error, unsure = np.zeros(size), np.full(size, np.inf), np.zeros(size, bool)
    skewed = np.logical_or(*(side.skewed for side in sides))
    rows = np.flatnonzero(~skewed & (np.arange(size) < sides[0].real))
    if len(rows):
        ratios = [student_ratios(key, way, rows, draws=draws) for way in ways]
        value[rows], error[rows] = (np.asarray(a)[rows] for a in _paired(*ratios))
        for log_ratios in ratios:
            skewed[rows] |= ~(np.asarray(summary(log_ratios)[2])[rows] >= ENOUGH * draws)
    rows = np.flatnonzero(skewed)
    for done, ratios in in_rounds(key, ways, rows, _paired_enough) if len(rows) else ():
        small, large = (log_mean(a)[0] for a in ratios)
        value[done], error[done] = large - small, _paired_error(*ratios)
        unsure[done] = _heavy(*ratios)
    return Paired(value, error, unsure | ~np.isfinite(value + error) & (np.arange(size) < sides[0].real))


def _heavy(*log_ratios: np.ndarray) -> np.ndarray:
    return np.max([pareto_shape(a) for a in log_ratios], axis=0) > LARGEST_KHAT


def _paired_enough(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """As of one model: the error of the difference small and neither k-hat above its limit, or no number."""
    error = _paired_error(small, large)
    return ~(error > ERROR) & ~(np.isfinite(error) & _heavy(small, large))


def _paired_error(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    return (relative(large) - relative(small)).std(axis=1, ddof=1) / np.sqrt(small.shape[1])


def toward(loadings: np.ndarray, target: np.ndarray) -> np.ndarray:
    """C R with the rotation R that brings it nearest to the target (Schoenemann 1966): the same Sigma."""
    left, _, right = np.linalg.svd(loadings.T @ target)
    return loadings @ (left @ right)


@jax.jit
def _paired(small: Array, large: Array) -> tuple[Rows, Rows]:
    def relative(log_ratios: Array) -> Array:
        weights = jnp.exp(log_ratios - jnp.max(log_ratios, axis=(1, 2), keepdims=True))
        pairs = jnp.mean(weights, axis=1)
        return pairs / jnp.mean(pairs, axis=1, keepdims=True)

    variance = stratified_variance(relative(large) - relative(small))
    return summary(large)[0] - summary(small)[0], jnp.sqrt(variance)


def nesting(small: Any, large: Any, *, ranks: tuple[int, int]) -> Nesting:
    """How a model with the shape or loadings `small` lies within one with `large`; `ranks` are their dimensions.

    Inside: equality of variances, correlations of zero, a Sigma as given, axes as given among all axes of that
    rank. On the boundary: fewer dimensions, since an eigenvalue of zero is the least there is.
    """
    if isinstance(large, Specific) or isinstance(small, Specific):
        return _nested_parts(small, large, ranks)
    if _inside(small, large, ranks):
        return Nesting.REGULAR
    fewer = ranks[0] < ranks[1]
    if isinstance(large, Full) and isinstance(small, FreeLoadings | BorrowedBasis):
        return Nesting.BOUNDARY
    if isinstance(large, FreeLoadings) and isinstance(small, FreeLoadings | BorrowedBasis) and fewer:
        return Nesting.BOUNDARY
    if isinstance(large, BorrowedBasis) and isinstance(small, BorrowedBasis) and fewer:
        agree = np.abs(np.asarray(large.basis).T @ np.asarray(small.basis))
        return Nesting.BOUNDARY if _alike(agree.max(axis=0), np.ones(ranks[0])) else Nesting.NONE
    return Nesting.NONE


def _nested_parts(small: Any, large: Any, ranks: tuple[int, int]) -> Nesting:
    """The same where one of both has variances of the columns' own; without them, or without an axis, it is an edge."""
    if not isinstance(large, Specific):
        return Nesting.REGULAR if isinstance(large, Full) else Nesting.NONE
    most = large.axes.columns()
    if isinstance(small, Diagonal | Spherical):
        return Nesting.BOUNDARY
    if isinstance(small, Specific):
        form, fewest = small.axes, small.axes.columns()
    else:
        form, fewest = small, ranks[0]
    same = isinstance(small, Specific) and fewest == most
    if isinstance(large.axes, GivenAxes):
        if not isinstance(form, GivenAxes | BorrowedBasis) or fewest > most:
            return Nesting.NONE
        agree = np.abs(np.asarray(large.axes.basis).T @ np.asarray(form.basis)).max(axis=0)
        if not _alike(agree, np.ones(fewest)):
            return Nesting.NONE
    elif isinstance(form, Full | Fixed) or fewest > most:
        return Nesting.NONE
    return Nesting.REGULAR if same else Nesting.BOUNDARY


def _inside(small: Any, large: Any, ranks: tuple[int, int]) -> bool:
    if isinstance(large, Full):
        return isinstance(small, Full | Diagonal | Spherical | Fixed)
    if isinstance(small, Fixed):
        sigma = np.asarray(small.covariance)
        if isinstance(large, Fixed):
            return _alike(sigma, np.asarray(large.covariance))
        diagonal = _alike(sigma, np.diag(np.diag(sigma)))
        even = _alike(np.diag(sigma), np.full(len(sigma), sigma[0, 0]))
        return diagonal and (isinstance(large, Diagonal) or (isinstance(large, Spherical) and even))
    if isinstance(large, Diagonal):
        return isinstance(small, Diagonal | Spherical)
    if isinstance(large, FreeLoadings):
        return isinstance(small, FreeLoadings | BorrowedBasis) and ranks[0] == ranks[1]
    if isinstance(large, BorrowedBasis) and isinstance(small, BorrowedBasis):
        return ranks[0] == ranks[1] and _alike(np.asarray(small.basis), np.asarray(large.basis))
    return type(small) is type(large)


class LawNesting(NamedTuple):
    """How one law of counts lies within another; `boundary`: of how many parameters, each alone in its column, at 0."""

    lies: Nesting
    boundary: int = 0


def law_nesting(
    small: AbstractLaw,
    large: AbstractLaw,
    small_features: np.ndarray | None,
    large_features: np.ndarray | None,
) -> LawNesting:
    """How a law lies within another, with the features (n, k) of their zeros (None: a constant).

    A probability of zeros of 0, or a dispersion of 0, is on the boundary. Its law is known (`boundary` above 0) where
    that is one number in a column, or one of all, and nothing else: not for two of them, nor where coefficients of the
    features have no meaning without it.
    """
    counts = [law.counts if isinstance(law, ZeroInflated) else law for law in (small, large)]
    zeros = [isinstance(law, ZeroInflated) for law in (small, large)]
    one, other = (isinstance(law, NegativeBinomial) for law in counts)
    if (one and not other) or (zeros[0] and not zeros[1]):
        return LawNesting(Nesting.NONE)
    if type(counts[0]) is not type(counts[1]) and not (counts[0].is_plain() and other):
        return LawNesting(Nesting.NONE)
    within = not zeros[0] or _zeros_within(small, large, small_features, large_features)
    if not within:
        return LawNesting(Nesting.NONE)
    added = (other and not one) + (zeros[1] and not zeros[0])
    if not added:
        return LawNesting(Nesting.REGULAR)
    if added == 2 or (zeros[1] and not zeros[0] and large_features is not None):
        return LawNesting(Nesting.BOUNDARY)
    numbers = counts[1].log_size if other and not one else large.logit  # type: ignore[attr-defined]
    return LawNesting(Nesting.BOUNDARY, numbers.shape[1])


def _zeros_within(small: Any, large: Any, one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether zeros of the smaller law are a case of the larger one's: as many columns or one, and its features."""
    if small.logit.shape[1] > large.logit.shape[1]:
        return False
    n = len(one) if one is not None else len(other) if other is not None else 1
    first, second = (np.ones((n, 1)) if each is None else each for each in (one, other))
    return covariates_within(first, second)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.max(np.abs(one - other), initial=0.0) <= SAME * np.max(np.abs(other), initial=0.0))


def covariates_within(small: np.ndarray, large: np.ndarray) -> bool:
    """Whether every covariate of the smaller model is a combination of those of the larger one."""
    fitted = large @ np.linalg.lstsq(large, small, rcond=None)[0]
    return _alike(fitted, small)
