"""By how much EM's steps are lengthened where counts say little, so that they close the gap and not a share of it.

Start at `lengthened`.
"""

import jax.numpy as jnp
from jax import Array

from poplin._axes import Scalar
from poplin.rows.controls import Shares

TURMOIL = 0.4  # relative change of Sigma by the noise of one draw that the longer steps may cause
LONGEST = 6.0  # steps of the closed form are lengthened by this factor at most, where gamma is 1
RECENT = 0.1  # weight of the newest draw in the measured noise
LEAP = 0.5  # relative change of Sigma, and of the level in standard deviations, by what steps are lengthened


def lengthened(told: Shares, noise: Scalar, gamma: Array) -> tuple[Array, Array]:
    """Factors, less one, for the closed form's steps of level (q,) and second moments (q, q) along the shares' axes.

    EM closes a share of the gap at a step: one over that share times the step closes all of it, as far as noise allows.
    `noise`: variance of a draw's second moments, in units of a plain draw's of a standard normal.
    """
    q = len(told.level)
    most = jnp.minimum(LONGEST, TURMOIL * jnp.sqrt(told.draws / (q * noise)) / 2)
    most = jnp.maximum(most, 1.0) / jnp.sqrt(gamma)
    level, second = (jnp.clip(1 / jnp.maximum(a, 1e-12), 1.0, most) - 1 for a in (told.level, told.second))
    return level, second


def noise_after(noise: Scalar, told: Shares, apart: Array) -> Scalar:
    """The measured noise when second moments (q, q) of one more draw were off by `apart`."""
    return noise + RECENT * (told.draws * jnp.mean(apart**2) - noise)
