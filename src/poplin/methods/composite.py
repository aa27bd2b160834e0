"""Pairwise composite likelihood: margins first, then the correlation of each pair of columns by its own likelihood.

Start at `correlations`. A pair's likelihood is a two-dimensional integral, so no dimension is ever large; what the
other columns say of a pair is given up. The margins are fitted by `exact.Likelihood` before.
"""

import jax.numpy as jnp
from jax import Array, lax

from poplin._axes import Coefficients, Rows
from poplin._compile import compiled
from poplin.data.blocks import Block
from poplin.rows.nodes import JointNodes

LARGEST = 3.8  # of Fisher's z: correlations up to 0.999
STEP = 0.7  # longest step of Fisher's z
MOST_STEPS = 40


@compiled()
def correlations(
    rule: JointNodes, block: Block, coef: Coefficients, scale: Array, pairs: Array, tol: Array
) -> tuple[Array, Array]:
    """Correlation of each pair (m, 2) of columns by maximum likelihood given B and the standard deviations (p,).

    Newton steps on Fisher's z with the squared scores as curvature, shorter whenever they turn about, until the score
    is below `tol` of its own standard deviation. Returns correlations (m,) and whether each has got there (m,). Cost of
    a step: a fit of n Gaussians of two dimensions, and 2 n order^2 exponentials.
    """

    def one_pair(pair: Array) -> tuple[Array, Array]:
        alone = block._replace(
            y=block.y[:, pair], offset=block.offset[:, pair], log_factorial=jnp.zeros_like(block.weights)
        )

        def going(carry):
            _, left, steps, *_ = carry
            return (left > tol) & (steps < MOST_STEPS)

        def step(carry):
            z, _, steps, reach, before = carry
            score = pair_scores(rule, alone, coef[:, pair], scale[pair], z)
            slope = block.weights @ score
            curvature = block.weights @ score**2 + 1e-12
            # squared scores say too little of a likelihood that bends sharply: no longer to and fro across its top
            reach = jnp.where(slope * before < 0, 0.5 * reach, reach)
            z = jnp.clip(z + jnp.clip(slope / curvature, -reach, reach), -LARGEST, LARGEST)
            left = jnp.where(jnp.abs(z) < LARGEST, jnp.abs(slope) / jnp.sqrt(curvature), 0.0)
            return z, left, steps + 1, reach, slope

        zero = jnp.zeros(())
        begun = zero, jnp.asarray(jnp.inf), jnp.asarray(0), jnp.asarray(STEP), zero
        z, left, *_ = lax.while_loop(going, step, begun)
        return jnp.tanh(z), left <= tol

    return lax.map(one_pair, pairs)


def pair_scores(rule: JointNodes, block: Block, coef: Coefficients, scale: Array, z: Array) -> Rows:
    """Derivative of log p(y_i1, y_i2) of every row in z, for the correlation tanh z, (n,).

    C = [[s_1, 0], [s_2 r, s_2 (1 - r^2)^(1/2)]], r = tanh z, and Fisher's identity.
    """
    r, rest = jnp.tanh(z), 1 / jnp.cosh(z)
    loadings = jnp.stack([jnp.stack([scale[0], 0 * r]), scale[1] * jnp.stack([r, rest])])
    tilted = rule.integrals(block, coef, loadings).tilted
    return scale[1] * rest * (rest * tilted[:, 1, 0] - r * tilted[:, 1, 1])
