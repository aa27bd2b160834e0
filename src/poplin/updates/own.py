"""The M-step of a law's own parameters: zero probabilities on the logit scale, log sizes.

Start at `own_statistic` and `followed`. Each parameter is (k, p), one regression a column on its k features of the rows
(`laws.features_of`), or (k, 1) where all columns share it; scores are those of the law given a draw of Z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Counts, Latent, Scalar
from poplin.data.blocks import Block
from poplin.laws import AbstractLaw, features_of
from poplin.updates.structure import FAINT, LOADING_SD, Model, moved_squares, newton_columns, newton_squares

TIED = 0.98  # squared correlation of a parameter with its column's scale at most


class Scaled(NamedTuple):
    """A law, and beside it the column's log scale of Z - XB: scores (n, p) of cells in both."""

    law: AbstractLaw
    scale: Counts


class Information(eqx.Module):
    """In the place of each parameter (k, p) of a law what is known of it.

    square (p, k, k): the information of complete data; common (p,): the trace of what counts leave of it; beside
    (k, p): what they leave of the product with the log scale of the column's Z - XB, of which they leave scale (p,).
    """

    square: AbstractLaw
    common: AbstractLaw
    beside: AbstractLaw
    scale: Array


class OwnStatistic(eqx.Module):
    """Sums over rows: the score (k, p) in the place of each parameter, and what is known of it."""

    score: AbstractLaw
    known: Information


def own_scores(law: AbstractLaw, scores: AbstractLaw, block: Block) -> AbstractLaw:
    """Sums over rows of the slopes in each parameter (k, p), from those of the cells (n, p)."""
    features, weights = features_of(law, block.zero_features, block.y), block.weights[:, None]

    def score(parameter: Array, slope: Counts, feature: Array) -> Array:
        each = feature.T @ (weights * slope)
        return each if each.shape == parameter.shape else jnp.sum(each, axis=1, keepdims=True)

    return jax.tree.map(score, law, scores, features)


def scaled_scores(model: Model, w: Latent, block: Block) -> Scaled:
    """Scores of the cells where rows are at w (n, q), under the law of the block."""
    residual = w @ model.loadings.T
    predictor = block.offset + block.x @ model.coef + residual
    surprise = block.y - block.law.rate(predictor, block.y)
    return Scaled(block.law.scores(predictor, block.y), surprise * residual)


def own_statistic(law: AbstractLaw, before: Scaled, after: Scaled, block: Block) -> OwnStatistic:
    """From the scores of the cells (n, p) in two draws, or of a bound twice; `law` has the parameters they are of.

    Squares of scores are the information where the law holds. What two independent draws of a cell have in common is
    the square of its mean score: summed, what counts leave of the information (Fisher's identity). Cost n p k^2.
    """
    if not jax.tree.leaves(law):  # else two draws' rates would be computed for nothing
        return OwnStatistic(law, nothing_known(law, block.y.shape[1]))
    features, weights = features_of(law, block.zero_features, block.y), block.weights[:, None]

    def of_columns(parameter: Array, squared: Counts) -> Counts:
        return squared if parameter.shape[1] == squared.shape[1] else jnp.sum(squared, axis=1, keepdims=True)

    def square(parameter: Array, slope: Counts, feature: Array) -> Array:
        squared = of_columns(parameter, weights * slope**2)
        # a column at a time: the pairs of features of all rows would be n k^2 numbers
        return jax.lax.map(lambda column: (feature * column[:, None]).T @ feature, squared.T)

    def common(parameter: Array, first: Counts, slope: Counts, feature: Array) -> Array:
        return of_columns(parameter, weights * first * slope).T @ jnp.sum(feature**2, axis=1)

    def beside(parameter: Array, slope: Counts, feature: Array) -> Array:
        if parameter.shape[1] < slope.shape[1]:
            return jnp.zeros_like(parameter)
        return feature.T @ (weights * before.scale * slope)

    known = Information(
        jax.tree.map(square, law, after.law, features),
        jax.tree.map(common, law, before.law, after.law, features),
        jax.tree.map(beside, law, after.law, features),
        jnp.sum(weights * before.scale * after.scale, axis=0),
    )
    return OwnStatistic(own_scores(law, after.law, block), known)


def nothing_known(law: AbstractLaw, columns: int) -> Information:
    """The average before any draw is seen."""
    squares = jax.tree.map(lambda a: jnp.zeros((a.shape[1], a.shape[0], a.shape[0])), law)
    shares = jax.tree.map(lambda a: jnp.zeros(a.shape[1]), law)
    return Information(squares, shares, jax.tree.map(jnp.zeros_like, law), jnp.zeros(columns))


def penalised(law: AbstractLaw, score: AbstractLaw) -> AbstractLaw:
    """The score with that of the weak prior N(0, 10^2) of each parameter, which keeps it finite."""
    return jax.tree.map(lambda a, g: g - a / LOADING_SD**2, law, score)


def own_penalty(law: AbstractLaw) -> Scalar:
    """Minus the log of that prior, up to its constant."""
    return sum((0.5 * jnp.sum((a / LOADING_SD) ** 2) for a in jax.tree.leaves(law)), jnp.zeros(()))


class Left(NamedTuple):
    """What counts leave of the information about a parameter (p, k, k); what of its step the log scale takes (p, k)."""

    curvature: Array
    carried: Array


def left_of(known: Information, *, scales: bool, least: Scalar | float = 0.0) -> AbstractLaw:
    """A `Left` in the place of each parameter, prior included; where `scales` are free, as these follow.

    `least`: the share of complete data's information that counts are taken to leave at least, never below `FAINT`.

    A size and a variance of Z, or a probability of zeros and that variance, say nearly the same of a column: with the
    scale carried along, theta_j moves by the inverse of H - h h' / s, not by that of H, which would take steps that the
    scale undoes.
    """

    def of(square: Array, common: Array, beside: Array) -> Left:
        whole = jnp.trace(square, axis1=1, axis2=2)
        share = jnp.clip(common / (whole + 1e-300), jnp.maximum(least, FAINT), 1.0)
        curvature = share[:, None, None] * square + jnp.eye(square.shape[-1]) / LOADING_SD**2
        if not scales or beside.shape[1] != len(known.scale):
            return Left(curvature, jnp.zeros(curvature.shape[:2]))
        along, scale = beside.T, jnp.maximum(known.scale, 1e-300)
        tied = jnp.einsum("jk,jk->j", along, jnp.linalg.solve(curvature, along[:, :, None])[:, :, 0]) / scale
        told = known.scale > 0
        along = along * jnp.where(told, jnp.minimum(1.0, jnp.sqrt(TIED / (tied + 1e-300))), 0.0)[:, None]
        tied = along[:, :, None] * along[:, None, :] / scale[:, None, None]
        return Left(curvature - tied, -along / scale[:, None])

    return jax.tree.map(of, known.square, known.common, known.beside)


def followed(
    law: AbstractLaw,
    known: Information,
    total: OwnStatistic,
    *,
    gamma: Scalar,
    first: Array,
    scales: bool,
    weight: Scalar | None = None,
    least: Scalar | float = 0.0,
) -> tuple[AbstractLaw, Information, Array]:
    """The law after one draw, the average of what is known, and the log scales of Z - XB (p,) that go along.

    `weight`: of the newest of what is known, gamma if None. `least`: as of `left_of`.
    """
    weight = gamma if weight is None else weight
    known = jax.tree.map(lambda a, b: a + jnp.where(first, 1.0, weight) * (b - a), known, total.known)
    left, score = left_of(known, scales=scales, least=least), penalised(law, total.score)
    step = jax.tree.map(lambda g, h: newton_columns(g, h.curvature, gamma=gamma), score, left)
    along = jax.tree.map(
        lambda a, h: jnp.sum(h.carried * a.T, axis=1) * jnp.ones(len(known.scale)), step, left
    )
    log_scale = sum(jax.tree.leaves(along), jnp.zeros(len(known.scale)))
    return jax.tree.map(jnp.add, law, step), known, jnp.clip(log_scale, -1.0, 1.0)


def own_left(known: Information, score: AbstractLaw, *, scales: bool) -> Array:
    """Squares of Newton's steps from this (penalised) score, in standard errors: one a column of each parameter."""
    return _each(newton_squares, score, left_of(known, scales=scales))


def own_apart(known: Information, one: AbstractLaw, other: AbstractLaw, *, scales: bool) -> Array:
    """Squares of how far two laws are apart, in the same units."""
    return _each(moved_squares, jax.tree.map(jnp.subtract, one, other), left_of(known, scales=scales))


def _each(square: Callable[[Array, Array], Array], numbers: AbstractLaw, left: AbstractLaw) -> Array:
    found = jax.tree.map(lambda a, h: square(h.curvature, a), numbers, left)
    return jnp.concatenate([jnp.zeros(0), *jax.tree.leaves(found)])
