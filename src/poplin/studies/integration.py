"""Maximum likelihood of independent columns by one-dimensional integrals, sigma_j^2 known or not.

Start at `fit`. The model is Y_ij ~ Poisson(exp(mu_j + sigma_j W_ij)); a column's likelihood rests on how often each
count occurs, so n hardly matters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln

from poplin.studies.repeated import gaussians, integrated


class Fit(NamedTuple):
    """mu (p,), sigma^2 (p,), and whether every column's optimiser says it is done."""

    mean: np.ndarray
    variance: np.ndarray
    converged: bool


def fit(counts: np.ndarray, variance: np.ndarray | None = None) -> Fit:
    """Fit each column of counts (n, p); `variance` (p,) is sigma^2 where it is known.

    40 Gauss-Hermite nodes are placed on the Gaussian that is fitted to each distinct count; BFGS over mu_j and
    log sigma_j^2 with exact gradients.

    >>> y = np.random.default_rng(0).poisson(np.exp(np.random.default_rng(1).normal(1, 0.5, (50_000, 1))))
    >>> bool(abs(fit(y).mean[0] - 1) < 0.02), bool(abs(fit(y).variance[0] - 0.25) < 0.02)
    (True, True)
    """
    found = [
        _column(y, None if variance is None else variance[j]) for j, y in enumerate(np.asarray(counts).T)
    ]
    means, variances, converged = (np.array(part) for part in zip(*found, strict=True))
    return Fit(means, variances, bool(converged.all()))


def _column(y: np.ndarray, variance: float | None) -> tuple[float, float, bool]:
    values, times = np.unique(y, return_counts=True)
    share = times / times.sum()
    start = np.array([np.log(y.mean() + 0.1) - 0.25, np.log(0.5)])
    known = None if variance is None else np.log(variance)

    def negative(theta: np.ndarray) -> tuple[float, np.ndarray]:
        full = theta if known is None else np.array([theta[0], known])
        value, gradient = loglik(full, values.astype(float))
        return -float(share @ value), -(share @ gradient)[: len(theta)]

    start = start if known is None else start[:1]
    found = minimize(negative, start, jac=True, method="BFGS", options={"gtol": 1e-7})
    log_variance = found.x[1] if known is None else known
    return found.x[0], float(np.exp(log_variance)), bool(np.abs(found.jac).max() < 1e-5)


def loglik(theta: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log p(y) of each count under (mu, log sigma^2), in nats, and its gradient (k, 2)."""
    variance = float(np.exp(theta[1]))
    level = np.full_like(counts, np.exp(theta[0]))
    mean, spread = gaussians(counts, level, variance)
    value, growth, square = integrated(counts, level, variance, mean, spread)
    gradient = np.column_stack([counts - level * growth, 0.5 * (square / variance - 1)])
    return value + counts * theta[0] - gammaln(counts + 1), gradient
