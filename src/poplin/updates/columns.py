"""Every column is a Poisson regression on the rows' features: its gradient, Hessian and Newton step.

Start at `column_statistic` (one draw of the latent) and `newton_columns`. Used where B or C has no closed form.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from poplin._axes import Counts, Latent, Loadings, Scalar
from poplin.data.blocks import Block
from poplin.rows.controls import Shares


class ColumnStatistic(NamedTuple):
    """N, X'X, rates; each column's gradient (k, p) and Hessian (p, k, k) on its k features; X'W and W'W.

    known: what counts say of each direction, by which steps are lengthened, or None.
    """

    rows: Scalar
    gram: Array
    rate: Array
    gradient: Array
    hessian: Array
    cross: Array
    second: Array
    known: Shares | None = None


def column_statistic(features: Array, w: Latent, rate: Counts, block: Block) -> ColumnStatistic:
    """Poisson regression of every column on the features (n, k): F'(y - rate), sum_i rate_ij f_i f_i'.

    One product of n p k (k + 1) / 2: the pairs of features are formed once for all columns.
    """
    k = features.shape[1]
    upper = jnp.triu_indices(k)
    weighted_rate = block.weights[:, None] * rate
    pairs = weighted_rate.T @ (features[:, upper[0]] * features[:, upper[1]])
    hessian = jnp.zeros((rate.shape[1], k, k), rate.dtype).at[:, upper[0], upper[1]].set(pairs)
    hessian = hessian + jnp.swapaxes(jnp.triu(hessian, 1), 1, 2)
    return ColumnStatistic(
        jnp.sum(block.weights),
        block.x.T @ (block.weights[:, None] * block.x),
        jnp.sum(weighted_rate, axis=0),
        features.T @ (block.weights[:, None] * block.y - weighted_rate),
        hessian,
        block.x.T @ (block.weights[:, None] * w),
        w.T @ (block.weights[:, None] * w),
    )


def scale_regressions(residual: Counts, rate: Counts, block: Block) -> tuple[Array, Array]:
    """Each column's gradient (d + 1, p) and Hessian (p, d + 1, d + 1) in B_j and the log scale of its residual.

    Features (x, r_j): d eta / d B_lj = x_l, and d eta / d a_j = r_j for eta = o + XB + e^a r.
    """
    x, (n, d), p = block.x, block.x.shape, rate.shape[1]
    weighted_rate = block.weights[:, None] * rate
    surprise = block.weights[:, None] * block.y - weighted_rate
    tilted = weighted_rate * residual
    gradient = jnp.concatenate([x.T @ surprise, jnp.sum(surprise * residual, axis=0)[None]])
    within = ((x[:, :, None] * x[:, None, :]).reshape(n, d * d).T @ weighted_rate).T.reshape(p, d, d)
    between = (x.T @ tilted).T[:, :, None]
    scale = jnp.sum(tilted * residual, axis=0)[:, None, None]
    hessian = jnp.block([[within, between], [jnp.swapaxes(between, 1, 2), scale]])
    return gradient, hessian


def expected_columns(
    loadings: Loadings, with_latent: bool, mean: Latent, covariance: Array, rate: Counts, block: Block
) -> ColumnStatistic:
    """`column_statistic` in expectation over w ~ N(m, S): E[e^eta w] = A (m + S c), curvature with m and S."""
    d = block.x.shape[1]
    features = jnp.concatenate([block.x, mean], axis=1) if with_latent else block.x
    total = column_statistic(features, mean, rate, block)
    spread = jnp.tensordot(block.weights, covariance, 1)
    total = total._replace(second=total.second + spread)
    if not with_latent:
        return total
    weighted = block.weights[:, None] * rate
    per_column = jnp.tensordot(weighted.T, covariance, 1)  # (p, q, q): sum_i w_i A_ij S_i
    tilt = jnp.einsum("pqr,pr->qp", per_column, loadings)
    return total._replace(
        gradient=total.gradient.at[d:].add(-tilt), hessian=total.hessian.at[:, d:, d:].add(per_column)
    )


def newton_columns(gradient: Array, hessian: Array, *, gamma: Array) -> Array:
    """Gamma H_j^-1 g_j for every column j, (k, p), no longer than one standard deviation of log rate on average."""
    scale = jnp.sqrt(jnp.diagonal(hessian, axis1=1, axis2=2)) + 1e-12
    # sums of single-precision draws are known to 1e-7 or so: a direction with less would have any sign
    unit = hessian / (scale[:, :, None] * scale[:, None, :]) + 1e-6 * jnp.eye(hessian.shape[1])
    step = jnp.linalg.solve(unit, (gradient.T / scale)[:, :, None])[:, :, 0]
    weight = jnp.trace(hessian, axis1=1, axis2=2) / hessian.shape[1] + 1e-12
    length = jnp.sqrt(jnp.maximum(jnp.einsum("jk,jkl,jl->j", step, unit, step), 0) / weight)
    return gamma * (step / scale / jnp.maximum(1.0, gamma * length)[:, None]).T


def column_inverses(hessian: Array) -> Array:
    """Inverses of (p, k, k) Hessians; where nothing is known, very large and finite."""
    scale = jnp.sqrt(jnp.diagonal(hessian, axis1=1, axis2=2)) + 1e-100
    outer = scale[:, :, None] * scale[:, None, :]
    return jnp.linalg.inv(hessian / outer + 1e-12 * jnp.eye(hessian.shape[1])) / outer


def column_variances(hessian: Array) -> Array:
    """Diagonals of the inverses of (p, k, k) Hessians, as (k, p)."""
    return jnp.diagonal(column_inverses(hessian), axis1=1, axis2=2).T


def newton_squares(hessian: Array, gradient: Array) -> Array:
    """g_j'H_j^-1 g_j / k of every column (p,): the square of Newton's step in standard errors, a number."""
    inverse = column_inverses(hessian)
    return jnp.einsum("kj,jkl,lj->j", gradient, inverse, gradient) / len(gradient)


def moved_squares(hessian: Array, moved: Array) -> Array:
    """The same of a step (k, p) itself: s_j'H_j s_j / k."""
    return jnp.einsum("kj,jkl,lj->j", moved, hessian, moved) / len(moved)
