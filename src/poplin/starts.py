"""First values: least squares on log(y + 1/2), and the singular vectors of what it leaves.

Start at `direct_start` and `factor_start`. Both also give each unknown's curvature, the diagonal scaling that
makes a first L-BFGS step of length one sensible.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Coefficients, Counts, Loadings
from poplin._numerics import solve_gram
from poplin.data.blocks import NO_EXPOSURE, NOWHERE, Block, layout
from poplin.laws import AbstractLaw, ZeroInflated, features_of
from poplin.models.loadings import AbstractLoadings

OWN_TOLD = 0.1  # information of a row about a parameter of its law, roughly
EXCESS = math.log(4)  # of rates over counts, from which a column's first level is lowered


class First(NamedTuple):
    """Where a variational fit begins: the unknowns, and for each the square root of its curvature.

    Shared are those of (B, C), in a factor form, and then the law's parameters.
    """

    shared: Any
    shared_scale: Any
    rows: tuple[Array, Array]
    rows_scale: tuple[Array, Array]


class Residuals(NamedTuple):
    """Least squares on the log scale: B (d, p), z (n, p) with missing counts at their fit, z - XB."""

    coef: Coefficients
    position: Counts
    residual: Counts


def log_residuals(block: Block) -> Residuals:
    """Regress log(y + 1/2) - o on x by weighted least squares, column by column; missing counts count as their fit."""
    observed = block.offset > NO_EXPOSURE / 2
    position = jnp.where(observed, jnp.log(block.y + 0.5) - jnp.where(observed, block.offset, 0.0), 0.0)
    gram = block.x.T @ (block.weights[:, None] * block.x)
    coef = jnp.zeros((block.x.shape[1], block.y.shape[1]))
    for _ in range(3):  # fill in, fit again: exact at once where nothing is missing
        position = jnp.where(observed, position, block.x @ coef)
        coef = solve_gram(gram, block.x.T @ (block.weights[:, None] * position))
    return Residuals(coef, position, position - block.x @ coef)


def beside(first: First, block: Block) -> First:
    """First values where they belong if there are several devices: of rows beside their counts, others on all."""
    over = layout(block)
    if over is None:
        return first
    shared, scale = over.lying((first.shared, first.shared_scale), NOWHERE)
    return First(shared, scale, *over.lying((first.rows, first.rows_scale), 0))


def row_weights(block: Block) -> Array:
    """Weights as a column, with one for rows of weight zero, whose unknowns do not move."""
    return jnp.where(block.weights > 0, block.weights, 1.0)[:, None]


def direct_start(block: Block) -> First:
    """M = log(y + 1/2) - o, s^-2 = y + 1/2 + omega with omega the residuals' inverse variance."""
    _, position, residual = log_residuals(block)
    total = jnp.sum(block.weights)
    precision = 1 / (block.weights @ residual**2 / total + 1e-3)
    return _scaled_direct_start(block, position, _exposed(block) + precision)


def direct_rows_start(block: Block, *, coef: Coefficients, variance: Array) -> First:
    """The same at given B and variances of Z (p,), row by row: M between log(y + 1/2) - o and XB, by precision."""
    exposed, precision = _exposed(block), 1 / variance
    seen = jnp.log(block.y + 0.5) - jnp.where(exposed > 0, block.offset, 0.0)
    position = (exposed * seen + precision * (block.x @ coef)) / (exposed + precision)
    return _scaled_direct_start(block, position, exposed + precision)


def _exposed(block: Block) -> Counts:
    """The curvature of a count in its log rate, y + 1/2; none where it is missing."""
    return jnp.where(block.offset > NO_EXPOSURE / 2, block.y + 0.5, 0.0)


def _scaled_direct_start(block: Block, position: Counts, curvature: Counts) -> First:
    weights = row_weights(block)
    scales = jnp.sqrt(weights * curvature), jnp.broadcast_to(jnp.sqrt(2 * weights), curvature.shape)
    return First((), (), (position, -0.5 * jnp.log(curvature)), scales)


def factor_start(block: Block, free: AbstractLoadings, *, rank: int) -> First:
    """C and w from the leading eigenvectors of the residuals' covariance, B by least squares."""
    coef, _, residual = log_residuals(block)
    values, axes = leading_axes(residual, block.weights, rank=rank)
    spread = jnp.sqrt(jnp.maximum(values, 1e-6 * values[0]))
    shared = free.collapse(coef, axes * spread)
    coef, loadings = free.expand(shared)
    scores = residual @ loadings / (jnp.sum(loadings**2, axis=0) + 1e-9)
    coef = coef + lowered(block, block.x @ coef + scores @ loadings.T)
    return scaled_factor_start(block, free, coef=coef, loadings=loadings, scores=scores)


def leading_axes(residual: Counts, weights: Array, *, rank: int) -> tuple[Array, Array]:
    """The largest eigenvalues (rank,) of residual' diag(weights) residual / total, and their vectors (p, rank).

    Of few rows and many columns from the n x n products of rows: cost n p min(n, p) + min(n, p)^3.
    """
    n, p = residual.shape
    total = jnp.sum(weights)
    by_rows = rank <= n < p
    if by_rows:
        scaled = jnp.sqrt(weights / total)[:, None] * residual
        products = scaled @ scaled.T
    else:
        products = residual.T @ (weights[:, None] * residual) / total
    values, vectors = jnp.linalg.eigh(products)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    if by_rows:
        vectors = scaled.T @ vectors
        vectors /= jnp.linalg.norm(vectors, axis=0) + 1e-300  # roots of the eigenvalues, less their rounding
    return values, vectors


def lowered(block: Block, position: Counts) -> Coefficients:
    """What brings rates exp(o + z) of rare columns down to their counts, as a change of B; zero for most others.

    The mean of log(y + 1/2) is that of 1/2 where nearly all counts are 0. Scales of first steps are those of counts:
    with rates a hundred times as large, a step of length one would take B a hundred too far.
    """
    weights = block.weights
    rate = weights @ jnp.exp(block.offset + position)
    excess = jnp.log(rate / (weights @ block.y))
    level = solve_gram(block.x.T @ (weights[:, None] * block.x), block.x.T @ weights[:, None])
    return -level * jnp.where(excess > EXCESS, excess, 0.0)


def scaled_factor_start(
    block: Block, free: AbstractLoadings, *, coef: Coefficients, loadings: Loadings, scores: Array
) -> First:
    """A factor-form start at given (B, C, w): s^-2 = 1 + Y(C*C), the same curvature for w."""
    curvature = 1 + block.y @ loadings**2
    weighted = block.weights[:, None] * block.y
    for_coef = 1 + (block.x**2).T @ weighted
    for_loadings = 1 + weighted.T @ scores**2
    weights = row_weights(block)
    rows_scale = jnp.sqrt(weights * curvature), jnp.broadcast_to(jnp.sqrt(2 * weights), curvature.shape)
    shared_scale = tuple(jnp.sqrt(c) for c in free.curvature(for_coef, for_loadings))
    return First(free.collapse(coef, loadings), shared_scale, (scores, -0.5 * jnp.log(curvature)), rows_scale)


def with_law(first: First, law: AbstractLaw, block: Block) -> First:
    """The first values with those of a law's own parameters: a logit of half the zeros, an e^1 of variance 1 + m."""
    own = tuple(jax.tree.leaves(law))
    scale = tuple(jnp.sqrt(1 + OWN_TOLD * jnp.sum(block.weights)) * jnp.ones_like(a) for a in own)
    return first._replace(shared=(*first.shared, *own), shared_scale=(*first.shared_scale, *scale))


def without_zeros(block: Block) -> Block:
    """The rows as if no zero had been counted: first values under a law by which many zeros say nothing of Z."""
    return block._replace(offset=jnp.where(block.y > 0, block.offset, NO_EXPOSURE))


def law_start(law: AbstractLaw, block: Block) -> AbstractLaw:
    """The law with first values: half of a column's zeros are not of its counts, log sizes are as they are."""
    if not isinstance(law, ZeroInflated):
        return law
    weights = block.weights[:, None]
    seen = jnp.where(block.offset > NO_EXPOSURE / 2, weights, 0.0)
    share = jnp.sum(jnp.where(block.y > 0, 0.0, seen), axis=0) / (jnp.sum(seen, axis=0) + 1e-300)
    share = jnp.clip(0.5 * share, 0.05, 0.9)
    level = jnp.log(share / (1 - share))
    if law.logit.shape[1] == 1:
        level = jnp.mean(level)[None]
    features = features_of(law, block.zero_features, block.y)
    assert isinstance(features, ZeroInflated)
    features = features.logit
    even = solve_gram(features.T @ (weights * features), features.T @ weights)
    return ZeroInflated(law.counts, even * level)
