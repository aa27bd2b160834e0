"""Slow, plain NumPy twins of what the rows and the marginal likelihood compute, for tests to compare with.

Start at `row_loglik_by_quadrature`: the log-likelihood of one row, q <= 3, by Gauss-Hermite nodes on its mode.
`univariate_fit` is maximum likelihood of one column. Nothing here is shared with the code under test.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import gammaln, logsumexp

Array = NDArray[np.float64]


def log_joint(y: Array, base: Array, loadings: Array, latent: Array) -> Array:
    """Log p(y | w) + log N(w; 0, I) of one row at each of the points `latent` (k, q); where y is NaN, without it."""
    seen = ~np.isnan(y)
    predictor = base[seen] + latent @ loadings[seen].T
    counts = y[seen] * predictor - np.exp(predictor) - gammaln(y[seen] + 1)
    prior = -0.5 * latent**2 - 0.5 * np.log(2 * np.pi)
    return counts.sum(axis=1) + prior.sum(axis=1)


def mode(y: Array, base: Array, loadings: Array) -> tuple[Array, Array]:
    """Where the joint density of one row is largest, and minus its Hessian there, by damped Newton steps."""
    seen = ~np.isnan(y)
    latent = np.zeros((1, loadings.shape[1]))
    for _ in range(500):
        rate = np.where(seen, np.exp(base + loadings @ latent[0]), 0)
        gradient = loadings.T @ (np.where(seen, y, 0) - rate) - latent[0]
        precision = np.eye(loadings.shape[1]) + (loadings.T * rate) @ loadings
        step, before = np.linalg.solve(precision, gradient), log_joint(y, base, loadings, latent)
        while log_joint(y, base, loadings, latent + step) < before - 1e-9 * abs(before):
            step = step / 2
        latent = latent + step
        if np.abs(step).max() < 1e-12:
            break
    return latent[0], precision


def row_loglik_by_quadrature(y: Array, base: Array, loadings: Array, nodes: int = 50) -> float:
    """Log p(y) of one row: `nodes`^q Gauss-Hermite nodes placed on the mode, scaled by the curvature there."""
    q = loadings.shape[1]
    centre, precision = mode(y, base, loadings)
    root = np.linalg.cholesky(np.linalg.inv(precision))
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(*[points] * q, indexing="ij"), axis=-1).reshape(-1, q)
    log_weights = np.stack(np.meshgrid(*[np.log(weights)] * q, indexing="ij"), axis=-1).reshape(-1, q)
    # the rule is for integrals against exp(-|u|^2 / 2), which is divided out again
    log_terms = (log_weights + 0.5 * grid**2).sum(axis=1) + log_joint(
        y, base, loadings, centre + grid @ root.T
    )
    return float(logsumexp(log_terms) + np.log(np.diag(root)).sum())


def bound(y: Array, base: Array, loadings: Array, mean: Array, covariance: Array) -> float:
    """E[log p(y, w)] - E[log N(w; mean, covariance)] under that Gaussian, one row, term by term."""
    total = 0.0
    for count, start, direction in zip(y, base, loadings, strict=True):
        if not np.isnan(count):
            predictor = start + direction @ mean
            rate = np.exp(predictor + 0.5 * direction @ covariance @ direction)
            total += count * predictor - rate - gammaln(count + 1)
    _, logdet = np.linalg.slogdet(covariance)
    return float(total - 0.5 * (mean @ mean + np.trace(covariance) - logdet - len(mean)))


class UnivariateFit(NamedTuple):
    """Y ~ Poisson(exp(offset + Z)), Z ~ N(mean, variance), at the maximum of its log-likelihood."""

    mean: float
    variance: float
    loglik: float


def univariate_loglik(y: Array, offset: Array, mean: float, sd: float, points: int = 401) -> float:
    """Sum of log p(y_i) by the trapezoid rule on points of the standardised latent position in [-10, 10].

    The points have to lie closer than the posterior is wide, 1 / (sd sqrt(y)) for a large count.
    """
    at = np.linspace(-10, 10, points)
    predictor = (offset + mean)[:, None] + sd * at
    log_terms = y[:, None] * predictor - np.exp(predictor) - gammaln(y + 1)[:, None] - 0.5 * at**2
    return float(np.sum(logsumexp(log_terms, axis=1) + np.log((at[1] - at[0]) / np.sqrt(2 * np.pi))))


def univariate_fit(y: Array, offset: Array) -> UnivariateFit:
    """Maximum likelihood of a univariate Poisson-lognormal model, by a derivative-free search on (mean, log sd)."""

    def lost(theta: Array) -> float:
        return -univariate_loglik(y, offset, theta[0], np.exp(theta[1]))

    begin = [np.log(np.mean(y) + 0.1) - np.mean(offset), -0.5]
    options = {"xatol": 1e-7, "fatol": 1e-9, "maxiter": 4000}
    found = minimize(lost, begin, method="Nelder-Mead", options=options)
    return UnivariateFit(float(found.x[0]), float(np.exp(2 * found.x[1])), float(-found.fun))
