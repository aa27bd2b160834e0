"""The estimator by moments: B and Sigma from means and cross-products of the counts, in closed form.

Start at `moments`. It is consistent and needs no latent variable, so it is an independent check on every
other method; it is also noisy, since a few large counts carry the cross-products.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.methods.moments import poisson_regression


class Moments(NamedTuple):
    """coef (d, p), covariance (p, p), and whether Sigma had to be mended to have no negative eigenvalue."""

    coef: np.ndarray
    covariance: np.ndarray
    mended: bool


def moments(
    counts: np.ndarray,
    x: np.ndarray,
    offset: np.ndarray | float = 0.0,
    weights: np.ndarray | None = None,
) -> Moments:
    """B and Sigma of a Poisson-lognormal model by moments, counts (n, p), x (n, d) with an intercept in its span.

    With mu_ij = E Y_ij = exp(o_ij + x_i'B_j + Sigma_jj / 2): E Y_ij (Y_ij - 1) = mu_ij^2 exp(Sigma_jj) and
    E Y_ij Y_ik = mu_ij mu_ik exp(Sigma_jk). The means are a Poisson regression, which gives B up to
    Sigma_jj / 2 in the intercept; then Sigma_jk = log(sum_i w_i y_ij y_ik / sum_i w_i mu_ij mu_ik). A sum of
    zero counts as one half pair of counts. Negative eigenvalues are cut at zero. Cost: n p^2, once.
    Source: Aitchison & Ho (1989), whose moments these are.

    Raises `InputError` where the intercept is not in the span of x: variances and means could not be told
    apart.

    >>> y = np.random.default_rng(0).poisson(np.exp(np.random.default_rng(1).normal(1, 0.5, (50_000, 1))))
    >>> fit = moments(y, np.ones((50_000, 1)))
    >>> bool(abs(fit.coef[0, 0] - 1) < 0.02), bool(abs(fit.covariance[0, 0] - 0.25) < 0.02)
    (True, True)
    """
    y = np.asarray(counts, dtype=float)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float)
    ones = np.linalg.lstsq(x, np.ones(len(x)), rcond=None)[0]
    if not np.allclose(x @ ones, 1):
        raise InputError("moments: no combination of the covariates is an intercept. Add a column of ones.")
    slopes = poisson_regression(y, x, offset + np.zeros_like(y), w)
    mean = np.exp(offset + x @ slopes)
    seen = y.T @ (w[:, None] * y)
    seen[np.diag_indices_from(seen)] = w @ (y * (y - 1))
    sigma = np.log(np.maximum(seen, 0.5) / (mean.T @ (w[:, None] * mean)))
    coef = slopes - np.outer(ones, np.diag(sigma) / 2)
    values, vectors = np.linalg.eigh(sigma)
    if values[0] >= 0:
        return Moments(coef, sigma, False)
    return Moments(coef, (vectors * np.maximum(values, 0)) @ vectors.T, True)
