"""The diagonal-Gaussian bound of the Poisson-lognormal model in plain NumPy, with every constant.

It knows nothing of poplin or of any other package: each contender's bound is recomputed here from the
parameters that it returns, so that all are on one scale (nats, higher is better). `direct_bound` is the form
that approximates Z itself (full, diagonal or fixed covariance), `factor_bound` the one that approximates the
factors w (low rank).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import gammaln

Matrix = NDArray[np.float64]


def log_factorials(counts: ArrayLike) -> float:
    """Sum of log y! over all entries of a count table, in nats.

    >>> round(log_factorials([[0, 1], [2, 3]]), 6) == round(float(np.log(12.0)), 6)
    True
    """
    return float(gammaln(_double(counts) + 1.0).sum())


def stirling_excess(counts: ArrayLike) -> float:
    """How far a bound lies too high, in nats, when log y! is taken by Stirling's formula.

    log y! ~ log sqrt(2 pi y) + y log(y / e), with y = 1 in place of 0: too low by 0.081 for a count of 0 or 1
    and by about 1/(12 y) for larger ones.
    """
    positive = np.maximum(_double(counts), 1.0)
    stirling = 0.5 * np.log(2.0 * np.pi * positive) + positive * (np.log(positive) - 1.0)
    return log_factorials(counts) - float(stirling.sum())


def direct_bound(
    counts: ArrayLike,
    covariates: ArrayLike,
    *,
    offsets: ArrayLike = 0.0,
    mean: ArrayLike,
    variance: ArrayLike,
    coef: ArrayLike,
    covariance: ArrayLike,
) -> float:
    """The bound with q(Z_i) = N(m_i, diag S_i), for any B and positive definite Sigma.

    sum_ij [y_ij (o_ij + m_ij) - A_ij - log y_ij!]
    - 1/2 sum_i [r_i' Omega r_i + tr(Omega S_i) - log det S_i + log det Sigma - p],
    with A_ij = exp(o_ij + m_ij + S_ij / 2), R = M - X B, Omega = Sigma^-1.

    counts, offsets, mean (M, of Z, not of Z - XB) and variance (S) are n x p, covariates (X) n x d, coef (B)
    d x p. Returns nats. Cost n p^2.
    """
    mean, variance = _double(mean), _double(variance)
    residual = mean - _double(covariates) @ _double(coef)
    factor = cho_factor(_double(covariance), lower=True)
    precision = cho_solve(factor, np.eye(mean.shape[1]))
    log_determinant = 2.0 * np.log(np.diag(factor[0])).sum()
    divergence = (
        np.einsum("ij,ij->", residual @ precision, residual)
        + variance.sum(0) @ np.diag(precision)
        - np.log(variance).sum()
        + mean.shape[0] * (log_determinant - mean.shape[1])
    )
    return _expected_log_poisson(counts, _double(offsets) + mean, variance) - 0.5 * float(divergence)


def factor_bound(
    counts: ArrayLike,
    covariates: ArrayLike,
    *,
    offsets: ArrayLike = 0.0,
    mean: ArrayLike,
    variance: ArrayLike,
    coef: ArrayLike,
    loadings: ArrayLike,
) -> float:
    """The bound with q(w_i) = N(m_i, diag S_i), Z_i = B' x_i + C w_i, w_i ~ N(0, I).

    sum_ij [y_ij (o_ij + x_i' B_j + c_j' m_i) - A_ij - log y_ij!]
    - 1/2 sum_i [|m_i|^2 + tr S_i - log det S_i - q],
    with A_ij = exp(o_ij + x_i' B_j + c_j' m_i + c_j' S_i c_j / 2).

    counts and offsets are n x p, mean (M) and variance (S) n x q, covariates (X) n x d, coef (B) d x p,
    loadings (C) p x q. Returns nats. Cost n p q.
    """
    mean, variance, loadings = _double(mean), _double(variance), _double(loadings)
    predictor = _double(offsets) + _double(covariates) @ _double(coef) + mean @ loadings.T
    divergence = (mean**2).sum() + variance.sum() - np.log(variance).sum() - mean.size
    return _expected_log_poisson(counts, predictor, variance @ (loadings**2).T) - 0.5 * float(divergence)


def _expected_log_poisson(counts: ArrayLike, predictor: Matrix, variance: Matrix) -> float:
    """Sum over entries of E log Poisson(y | exp(eta)), eta ~ N(predictor, variance)."""
    expected_rate = np.exp(predictor + 0.5 * variance)
    return float((_double(counts) * predictor - expected_rate).sum()) - log_factorials(counts)


def _double(array: ArrayLike) -> Matrix:
    return np.asarray(array, dtype=np.float64)
