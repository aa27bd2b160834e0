"""The estimator by moments: B and Sigma from means and cross-products of the counts, in closed form.

Start at `log_moments`; `nearest_covariance` mends what is no covariance. It is consistent and needs no latent variable,
so it is an independent check on every other method; it is also noisy: a few large counts carry the cross-products.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from poplin._axes import Coefficients, Rows
from poplin._errors import InputError
from poplin._numerics import compiled
from poplin.data.blocks import Block
from poplin.rows.nodes import JointNodes

LEAST_PAIRS = 0.5  # a sum of products that is zero counts as half a pair of counts
LEAST_GAIN = 1e-14  # of a Newton step, in nats; the one that gains less is the last
FLOOR = 1e-3  # least eigenvalue of a mended Sigma, in units of the mean variance


class LogMoments(NamedTuple):
    """Slopes of the log mean (d, p), the combination of covariates that is an intercept (d,), raw Sigma (p, p)."""

    slopes: np.ndarray
    intercept: np.ndarray
    covariance: np.ndarray

    def coef(self, variance: np.ndarray) -> np.ndarray:
        """B under which the mean counts are those seen, given the diagonal of Sigma, (d, p)."""
        return self.slopes - np.outer(self.intercept, variance / 2)


def log_moments(block: Block, level: np.ndarray | None = None) -> LogMoments:
    """The moments of a Poisson-lognormal model on the log scale.

    With mu_ij = E Y_ij = exp(o_ij + x_i'B_j + Sigma_jj / 2): E Y_ij (Y_ij - 1) = mu_ij^2 exp(Sigma_jj) and
    E Y_ij Y_ik = mu_ij mu_ik exp(Sigma_jk). The means are a Poisson regression, which gives B up to Sigma_jj / 2 in
    the intercept; then Sigma_jk = log(sum_i w_i y_ij y_ik / sum_i w_i mu_ij mu_ik). Missing counts add to neither sum.
    `level` (d, d) is the precision of a weak prior of B_j (`recipes.level_precision`): a group in which a column was
    never seen has no largest likelihood. Cost: n p^2, once, and the regressions. Source: Aitchison & Ho (1989), whose
    moments these are.

    Raises `InputError` where no combination of the covariates is an intercept.
    """
    y, x, offset, w = (np.asarray(a) for a in (block.y, block.x, block.offset, block.weights))
    intercept = np.linalg.lstsq(x, np.ones(len(x)), rcond=None)[0]
    if not np.allclose(x @ intercept, 1):
        raise InputError(
            "method='moments': no combination of the covariates is an intercept, so variances and means cannot be "
            "told apart. Add a column of ones."
        )
    slopes = poisson_regression(y, x, offset, w, level)
    mean = np.exp(offset + x @ slopes)
    seen = y.T @ (w[:, None] * y)
    seen[np.diag_indices_from(seen)] = w @ (y * (y - 1))
    expected = mean.T @ (w[:, None] * mean)
    return LogMoments(slopes, intercept, np.log(np.maximum(seen, LEAST_PAIRS) / expected))


def nearest_covariance(matrix: np.ndarray) -> np.ndarray:
    """The nearest symmetric matrix (Frobenius) whose eigenvalues are `FLOOR` mean variances or more, O(p^3)."""
    values, vectors = np.linalg.eigh(matrix)
    floor = FLOOR * max(float(np.mean(np.maximum(np.diag(matrix), 0))), 1e-3)
    if values[0] >= floor:
        return matrix
    return (vectors * np.maximum(values, floor)) @ vectors.T


def nearest_correlation(matrix: np.ndarray) -> np.ndarray:
    """A correlation matrix near a symmetric one of unit diagonal: eigenvalues floored, the diagonal made one again."""
    mended = nearest_covariance(matrix)
    if mended is matrix:
        return matrix
    scale = np.sqrt(np.diag(mended))
    return mended / scale / scale[:, None]


def poisson_regression(
    y: np.ndarray, x: np.ndarray, offset: np.ndarray, w: np.ndarray, level: np.ndarray | None = None
) -> np.ndarray:
    """Coefficients (d, p) by Newton's method with halved steps where the likelihood would fall.

    `level` (d, d) is the precision of a prior; without it, a column that a group lacks goes on until nothing is gained.
    """
    level = np.zeros((x.shape[1], x.shape[1])) if level is None else level

    def value_of(coef: np.ndarray) -> np.ndarray:
        predictor = offset + x @ coef
        with np.errstate(over="ignore"):  # of a step that is too long
            return w @ (y * predictor - np.exp(predictor)) - 0.5 * np.sum(coef * (level @ coef), axis=0)

    gram = x.T @ (w[:, None] * x)
    mean = np.log(np.maximum(w @ y, 0.5) / (w @ np.exp(offset)))
    coef = np.linalg.solve(gram, x.T @ np.outer(w, mean))
    value = value_of(coef)
    for _ in range(100):
        rate = w[:, None] * np.exp(offset + x @ coef)
        gradient = x.T @ (w[:, None] * y - rate) - level @ coef
        hessian = np.einsum("nj,nd,ne->jde", rate, x, x) + level
        step = np.linalg.solve(hessian, gradient.T[:, :, None])[:, :, 0].T
        trial = value_of(coef + step)
        while np.any(trial < value - 1e-9 * np.abs(value)):
            step = np.where(trial < value - 1e-9 * np.abs(value), step / 2, step)
            trial = value_of(coef + step)
        coef, value = coef + step, trial
        if np.sum(gradient * step, axis=0).max() < LEAST_GAIN:
            break
    return coef


# Pairwise composite likelihood: margins first, then the correlation of each pair of columns by its own likelihood.
#
# Start at `correlations`. A pair's likelihood is a two-dimensional integral, so no dimension is ever large; what the
# other columns say of a pair is given up. The margins are fitted by `exact.Likelihood` before.


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
