"""The log-likelihood ratio of two models on the same rows, by paired draws; and which models are nested how.

Start at `paired_loglik` and `nesting`. The proposals of both models are driven by the same random numbers, so the
error of a difference is far smaller than those of its two parts.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._axes import Rows
from poplin.data.blocks import Block
from poplin.inference.marginal import (
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
from poplin.models.loadings import BorrowedBasis, FreeLoadings
from poplin.updates.covariance import Diagonal, Fixed, Full, Spherical

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


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.max(np.abs(one - other), initial=0.0) <= SAME * np.max(np.abs(other), initial=0.0))


def covariates_within(small: np.ndarray, large: np.ndarray) -> bool:
    """Whether every covariate of the smaller model is a combination of those of the larger one."""
    fitted = large @ np.linalg.lstsq(large, small, rcond=None)[0]
    return _alike(fitted, small)
