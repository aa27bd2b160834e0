"""Where a fit without shrinkage would be, from a shrunk one: intervals are drawn about that place.

Start at `change_of_covariance`. At a shrunk estimate the score of the likelihood is the force that shrinkage has, so
that one step of scoring, V times this force with V the inverse information of the data, leads to the maximum of the
likelihood: exactly where the rows' positions are known, else to first order. What it leads to is unbiased to that
order, as a shrunk estimate is not, and need not be a covariance matrix. Source: van der Vaart (1998), Asymptotic
statistics, section 5.7, on one-step estimators.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._compile import compiled
from poplin.inference.coordinates import Coordinates
from poplin.inference.intervals import Root


def change_of_covariance(here: Coordinates, root: Root, force: np.ndarray) -> np.ndarray:
    """The step of Sigma (p, p) from where the likelihood has this gradient in Sigma; V = root root', K^2 products."""
    along = np.asarray(_along(here, jnp.asarray(force)))
    numbers = root.spread @ (root.spread.T @ along)
    return np.asarray(_moved(here, jnp.asarray(numbers)))


def force_of_em(covariance: np.ndarray, rows: float, kappa: float) -> np.ndarray:
    """N Sigma^-1 (S - Sigma) Sigma^-1 / 2 where `Full` and `Direct` made Sigma from the moment S of N rows.

    With u = diag(f), Sigma = u (N S + kappa diag(S)) u / (N + kappa), f of v_j = Sigma_jj (Sigma^-1)_jj.
    """
    precision = np.linalg.inv(covariance)
    v = np.diag(precision) * np.diag(covariance)
    free = np.exp(kappa * (v - 1) / (rows * (1 + v)))
    before = free[:, None] * covariance * free
    moment = ((rows + kappa) * before - kappa * np.diag(np.diag(before))) / rows
    return 0.5 * rows * precision @ (moment - covariance) @ precision


def penalty_gradient(covariance: np.ndarray) -> np.ndarray:
    """Of [log det R + tr(R^-1) - p] / 2, R the correlations of Sigma, in the entries of Sigma: see `Full`."""
    precision, variance = np.linalg.inv(covariance), np.diag(covariance)
    free = np.diag(np.diag(precision) - 1 / variance)
    return 0.5 * (precision + free - (precision * variance) @ precision)


@compiled()
def _along(here: Coordinates, gradient: Array) -> Array:
    return jax.grad(lambda numbers: jnp.sum(gradient * here.tangents(numbers[None])[1][0]))(
        jnp.zeros(here.size())
    )


@compiled()
def _moved(here: Coordinates, numbers: Array) -> Array:
    return here.tangents(numbers[None])[1][0]
