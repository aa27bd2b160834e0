"""The estimator by moments: B and Sigma from means and cross-products of the counts, in closed form.

Start at `log_moments`; `nearest_covariance` mends what is no covariance. It is consistent and needs no latent variable,
so it is an independent check on every other method; it is also noisy: a few large counts carry the cross-products.
"""

from typing import NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.blocks import Block

LEAST_PAIRS = 0.5  # a sum of products that is zero counts as half a pair of counts
FLOOR = 1e-3  # least eigenvalue of a mended Sigma, in units of the mean variance


class LogMoments(NamedTuple):
    """Slopes of the log mean (d, p), the combination of covariates that is an intercept (d,), raw Sigma (p, p)."""

    slopes: np.ndarray
    intercept: np.ndarray
    covariance: np.ndarray

    def coef(self, variance: np.ndarray) -> np.ndarray:
        """B under which the mean counts are those seen, given the diagonal of Sigma, (d, p)."""
        return self.slopes - np.outer(self.intercept, variance / 2)


def log_moments(block: Block) -> LogMoments:
    """The moments of a Poisson-lognormal model on the log scale.

    With mu_ij = E Y_ij = exp(o_ij + x_i'B_j + Sigma_jj / 2): E Y_ij (Y_ij - 1) = mu_ij^2 exp(Sigma_jj) and
    E Y_ij Y_ik = mu_ij mu_ik exp(Sigma_jk). The means are a Poisson regression, which gives B up to Sigma_jj / 2 in
    the intercept; then Sigma_jk = log(sum_i w_i y_ij y_ik / sum_i w_i mu_ij mu_ik). Missing counts add to neither sum.
    Cost: n p^2, once, and the regressions. Source: Aitchison & Ho (1989), whose moments these are.

    Raises `InputError` where no combination of the covariates is an intercept.
    """
    y, x, offset, w = (np.asarray(a) for a in (block.y, block.x, block.offset, block.weights))
    intercept = np.linalg.lstsq(x, np.ones(len(x)), rcond=None)[0]
    if not np.allclose(x @ intercept, 1):
        raise InputError(
            "method='moments': no combination of the covariates is an intercept, so variances and means cannot be "
            "told apart. Add a column of ones."
        )
    slopes = poisson_regression(y, x, offset, w)
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


def poisson_regression(y: np.ndarray, x: np.ndarray, offset: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Coefficients (d, p) by Newton's method with halved steps where the likelihood would fall."""
    gram = x.T @ (w[:, None] * x)
    level = np.log(np.maximum(w @ y, 0.5) / (w @ np.exp(offset)))
    coef = np.linalg.solve(gram, x.T @ np.outer(w, level))
    value = _loglik(y, x, offset, w, coef)
    for _ in range(100):
        rate = w[:, None] * np.exp(offset + x @ coef)
        gradient = x.T @ (w[:, None] * y - rate)
        hessian = np.einsum("nj,nd,ne->jde", rate, x, x)
        step = np.linalg.solve(hessian, gradient.T[:, :, None])[:, :, 0].T
        trial = _loglik(y, x, offset, w, coef + step)
        while np.any(trial < value - 1e-9 * np.abs(value)):
            step = np.where(trial < value - 1e-9 * np.abs(value), step / 2, step)
            trial = _loglik(y, x, offset, w, coef + step)
        coef, value = coef + step, trial
        if np.abs(step).max() < 1e-10:
            break
    return coef


def _loglik(y: np.ndarray, x: np.ndarray, offset: np.ndarray, w: np.ndarray, coef: np.ndarray) -> np.ndarray:
    predictor = offset + x @ coef
    return w @ (y * predictor - np.exp(predictor))
