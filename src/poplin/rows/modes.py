"""A point near each row's most likely position, at the cost of a few moves of its chain: where chains may begin.

Start at `modes`. `gaussian.fit_rows` finds the rows' best Gaussians, at n q^3 and n q^2 numbers; here a diagonal in
the coordinates of the chains' `Frame` takes the place of the matrices.
"""

import jax.numpy as jnp
from jax import lax

from poplin._axes import Coefficients, Latent
from poplin.data.blocks import Block
from poplin.rows.chains import Frame

STEPS = 12
FARTHEST = 2.0  # most change of a coordinate in one step


def modes(block: Block, coef: Coefficients, frame: Frame, *, steps: int = STEPS) -> Latent:
    """Positions w (n, q) where p(w_i | y_i; B, C) is nearly as large as it gets.

    Newton's steps with the Hessian's diagonal: v <- v + t g / h, g = (y - rate) L - k v, h = k + max(rate, y) (L * L),
    L and k the frame's loadings and stiffness; a row's t is halved where log p would fall, and doubled up to 1 where it
    rose. No row's log p falls. Cost: `steps` times n p exponentials and 3 n p q.
    """
    across, stiffness = frame.loadings, frame.stiffness
    base = block.offset + block.x @ coef

    def height(v):
        predictor = base + v @ across.T
        rate = jnp.exp(predictor)
        value = jnp.sum(block.y * (predictor - base) - rate, axis=1) - 0.5 * jnp.sum(stiffness * v**2, axis=1)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf), rate

    def step(_, place):
        v, value, rate, length = place
        gradient = (block.y - rate) @ across - stiffness * v
        curvature = stiffness + jnp.maximum(rate, block.y) @ across**2
        trial = v + length[:, None] * jnp.clip(gradient / curvature, -FARTHEST, FARTHEST)
        higher, faster = height(trial)
        up = higher > value
        length = jnp.where(up, jnp.minimum(1.0, 2 * length), 0.5 * length)
        taken = up[:, None]
        return (
            jnp.where(taken, trial, v),
            jnp.where(up, higher, value),
            jnp.where(taken, faster, rate),
            length,
        )

    start = jnp.zeros((len(block.y), across.shape[1]), block.y.dtype)
    first = (start, *height(start), jnp.ones(len(start), start.dtype))
    return lax.fori_loop(0, steps, step, first)[0] @ frame.from_frame
