"""The Godambe sandwich of the pairwise composite likelihood: what each row adds to the estimates of B and Sigma.

Start at `deviations`. Margins (B_j, log s_j) solve sum_i w_i u_ij = 0, each pair's Fisher z then sum_i w_i t_ijk = 0 at
these margins. So a row moves them by

    dtheta_j = H_j^-1 u_ij,    dz_jk = (t_ijk + D_j dtheta_j + D_k dtheta_k) / J,

H_j and J the negative derivatives of the sums in their own numbers, D those of the pair's sum in the margins, and the
estimates have the covariance sum_i w_i d_i d_i'. Sources: Godambe (1960); Joe (2005), on estimation in two stages.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from poplin._axes import Coefficients
from poplin._compile import compiled
from poplin.data.blocks import Block
from poplin.methods.composite import pair_scores
from poplin.methods.exact import Likelihood
from poplin.rows.nodes import ColumnNodes, JointNodes

MOVE = 1e-4  # of central differences, in B, log scales and z
PAIRS = 64  # pairs between two looks at Ctrl-C


class Margins(NamedTuple):
    """B (d, p) and standard deviations (p,)."""

    coef: Coefficients
    scale: Array


@compiled()
def margin_moves(target: Likelihood, block: Block, margins: Margins) -> Array:
    """What one more row like each moves (B_j, log s_j) by, (n, p, d + 1); `target` is what the margins maximise."""
    assert isinstance(target.rule, ColumnNodes)
    coef, log_scale = margins.coef, jnp.log(margins.scale)
    d = len(coef)
    found = target.rule.integrals(block, coef, jnp.diag(margins.scale))
    by_row = jnp.concatenate(
        [
            block.x[:, None, :] * found.surprise[:, :, None],
            (found.tilted * margins.scale)[:, :, None],
        ],
        axis=2,
    )

    def slope(move: Array) -> Array:
        shared = coef + move[:d, None], log_scale + move[d]
        _, scores = target.value(target.measure(shared, (), block)[1])
        for_coef, for_scale = target.shared_slope(shared, scores, ())
        return jnp.concatenate([for_coef, for_scale[None]]).T

    lines = lax.map(lambda e: (slope(-MOVE * e) - slope(MOVE * e)) / (2 * MOVE), jnp.eye(d + 1))
    curvature = jnp.moveaxis(lines, 0, 1)
    return jnp.einsum("pkl,npl->npk", jnp.linalg.inv(curvature), by_row)


@compiled()
def pair_moves(
    rule: JointNodes, block: Block, margins: Margins, moves: Array, pairs: tuple[Array, Array]
) -> Array:
    """What one more row like each would move the z of these pairs by, (m, n); `pairs` are (m, 2) columns and z (m,).

    Cost of a pair: 4 (d + 1) + 3 times its scores.
    """
    d = len(margins.coef)

    def one_pair(pair_and_z):
        pair, z = pair_and_z
        alone = block._replace(
            y=block.y[:, pair], offset=block.offset[:, pair], log_factorial=jnp.zeros_like(block.weights)
        )
        coef, log_scale = margins.coef[:, pair], jnp.log(margins.scale[pair])

        def scores(move: Array) -> Array:
            each = move[:-1].reshape(2, d + 1)
            return pair_scores(
                rule, alone, coef + each[:, :d].T, jnp.exp(log_scale + each[:, d]), z + move[-1]
            )

        def slope(e: Array) -> Array:
            return block.weights @ (scores(MOVE * e) - scores(-MOVE * e)) / (2 * MOVE)

        slopes = lax.map(slope, jnp.eye(2 * (d + 1) + 1))
        by_margins = moves[:, pair].reshape(len(block.weights), -1) @ slopes[:-1]
        return (scores(jnp.zeros_like(slopes)) + by_margins) / -slopes[-1]

    return lax.map(one_pair, pairs)


class Moves(NamedTuple):
    """Each row's change of B (n, d p) and of Sigma's upper triangle, diagonal included (n, p (p + 1) / 2)."""

    coef: np.ndarray
    covariance: np.ndarray


def deviations(
    target: Likelihood, rule: JointNodes | None, block: Block, margins: Margins, covariance: np.ndarray
) -> Moves:
    """The rows' changes, times the roots of their weights; without a `rule` for pairs, of variances alone.

    Off-diagonal changes are then zero. dSigma_jk = Sigma_jk (a_j + a_k) + s_j s_k (1 - r^2) dz, a = dlog s.
    """
    moves = np.asarray(margin_moves(target, block, margins))
    n, p, k = moves.shape
    by_scale, scale = moves[:, :, -1], np.asarray(margins.scale)
    root = np.sqrt(np.asarray(block.weights))[:, None]
    upper = np.triu_indices(p)
    changed = covariance[upper] * (by_scale[:, upper[0]] + by_scale[:, upper[1]])
    if rule is not None and p > 1:
        correlation = covariance / scale / scale[:, None]
        apart = np.flatnonzero(upper[0] != upper[1])
        pairs = np.stack(upper, axis=1)[apart]
        z = np.arctanh(np.clip(correlation[upper][apart], -0.9999, 0.9999))
        size = min(PAIRS, len(pairs))
        for first in range(0, len(pairs), size):
            part = np.minimum(np.arange(first, first + size), len(pairs) - 1)
            told = pair_moves(
                rule, block, margins, jnp.asarray(moves), (jnp.asarray(pairs[part]), jnp.asarray(z[part]))
            )
            factor = scale[pairs[part, 0]] * scale[pairs[part, 1]] / np.cosh(z[part]) ** 2
            count = min(size, len(pairs) - first)
            changed[:, apart[part[:count]]] += (np.asarray(told).T * factor)[:, :count]
    coef = np.swapaxes(moves[:, :, :-1], 1, 2).reshape(n, (k - 1) * p)
    return Moves(root * coef, root * changed)
