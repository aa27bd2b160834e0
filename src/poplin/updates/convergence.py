"""How far two estimates of (B, Sigma) are apart, in standard errors, and whether two movements go the same way.

Start at `standard_distance`: what the stopping rule of stochastic approximation looks at.
"""

import jax.numpy as jnp
from jax import Array

from poplin._axes import Coefficients, Covariance, Scalar
from poplin._numerics import solve_gram
from poplin.rows.chains import Shares
from poplin.updates.structure import Counting

Estimates = tuple[Coefficients, Covariance]


def standard_distance(
    one: Estimates, other: Estimates, gram: Array, rows: Scalar, counting: Counting
) -> Scalar:
    """Root mean square difference of B and of Sigma, in standard errors of complete data.

    se(Sigma_jk)^2 = (Sigma_jj Sigma_kk + Sigma_jk^2) / N, and se(B_lj)^2 = Sigma_jj (X'X)^-1_ll, each and its variance
    by `counting`. The real ones are no less than either part; without the second, a column seen in one or two rows, of
    which nothing is determined, would look unsettled for ever. The larger of the two means.
    """
    for_coef, for_sigma = standard_units(other, gram, rows, counting)
    off_coef, off_sigma = ((a - b) ** 2 for a, b in zip(one, other, strict=True))
    return jnp.sqrt(jnp.maximum(jnp.mean(off_sigma / for_sigma), jnp.mean(off_coef / for_coef)))


def movement_cosine(
    first: tuple[Estimates, Estimates],
    second: tuple[Estimates, Estimates],
    gram: Array,
    rows: Scalar,
    counting: Counting,
) -> Scalar:
    """Cosine of the angle between two movements of (B, diag Sigma), in the units of `standard_distance`.

    Noise that has forgotten where it was gives 0 on average, and less where it is drawn back; a drift gives 1.
    """
    for_coef, for_sigma = standard_units(second[1], gram, rows, counting)
    units = jnp.sqrt(jnp.append(jnp.ravel(for_coef), jnp.diagonal(for_sigma)))

    def movement(a: Estimates, b: Estimates) -> Array:
        return jnp.append(jnp.ravel(b[0] - a[0]), jnp.diagonal(b[1] - a[1])) / units

    one, other = movement(*first), movement(*second)
    return one @ other / jnp.sqrt((one @ one) * (other @ other) + 1e-300)


def standard_units(
    at: Estimates, gram: Array, rows: Scalar, counting: Counting
) -> tuple[Coefficients, Covariance]:
    """Squared standard errors of B and of Sigma with complete data, as in `standard_distance`."""
    variance = jnp.diagonal(at[1])
    by_z = (variance[:, None] * variance + at[1] ** 2) / rows
    spread = jnp.diagonal(solve_gram(gram, jnp.eye(gram.shape[0])))
    return spread[:, None] * variance + counting.coef + 1e-300, by_z + counting.sigma + 1e-300


# By how much EM's steps are lengthened where counts say little, so that they close the gap and not a share of it.
#
# Start at `lengthened`.


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


def one_by_one(told: Shares, noise: Scalar, gamma: Array) -> Scalar:
    """By which factor the step of a single number, not of a whole matrix, may be lengthened."""
    return jnp.maximum(TURMOIL * jnp.sqrt(told.draws / noise) / 2, 1.0) / jnp.sqrt(jnp.maximum(gamma, 1e-12))


def noise_after(noise: Scalar, told: Shares, apart: Array) -> Scalar:
    """The measured noise when second moments (q, q) of one more draw were off by `apart`."""
    return noise + RECENT * (told.draws * jnp.mean(apart**2) - noise)
