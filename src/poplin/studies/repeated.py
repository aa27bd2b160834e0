"""Repeated measures with one scalar effect a row: the model of the proved rate, by the bound and by quadrature.

Start at `fit`. Y_ij ~ Poisson(exp(beta_0 + beta_1 x_ij + U_i)), U_i ~ N(0, sigma^2), n rows of p measures. The
coefficients are shared by all columns, which `PLN` cannot say, so the three parameters are fitted here, in NumPy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln, logsumexp

from poplin.models.draws import draw_counts
from poplin.studies.study import Column, Estimate, Table

NODES, WEIGHTS = (np.asarray(part) for part in np.polynomial.hermite_e.hermegauss(40))


class Fit(NamedTuple):
    """beta (2,), sigma^2, the objective at them (nats), and whether the optimiser says it is done."""

    beta: np.ndarray
    variance: float
    objective: float
    converged: bool


class Rows(NamedTuple):
    """What the data are to the likelihood: y_i. and sum_j y_ij x_ij (n,), x (n, p), and the constant -log y!."""

    total: np.ndarray
    cross: float
    x: np.ndarray
    constant: float


def rows(counts: np.ndarray, x: np.ndarray) -> Rows:
    """Sums over the columns of each row."""
    return Rows(counts.sum(axis=1), float(np.sum(counts * x)), x, -float(gammaln(counts + 1).sum()))


def fit(counts: np.ndarray, x: np.ndarray, *, exact: bool) -> Fit:
    """Maximise the Gaussian bound, or with `exact` the likelihood by 40 nodes on each row's Gaussian.

    Counts and x (n, p). BFGS over (beta_0, beta_1, log sigma^2) with exact gradients; the rows' Gaussians are
    solved at every step, in closed form but for one Newton iteration a row. Cost: n p a step.
    Source: Hall, Ormerod & Wand (2011), who prove n^(-1/2) + p^(-1) for the bound's maximiser (their m and n).
    """
    held = rows(counts, x)
    start = np.array([np.log(counts.mean() + 0.1) - 0.25, 0.0, np.log(0.5)])
    found = minimize(
        lambda theta: _negative(theta, held, exact), start, jac=True, method="BFGS", options={"gtol": 1e-6}
    )
    gradient = np.abs(found.jac).max()
    return Fit(found.x[:2], float(np.exp(found.x[2])), -found.fun * len(x), bool(gradient < 1e-4))


def _negative(theta: np.ndarray, held: Rows, exact: bool) -> tuple[float, np.ndarray]:
    value, gradient = objective(theta, held, exact=exact)
    return -value / len(held.x), -gradient / len(held.x)


def objective(theta: np.ndarray, held: Rows, *, exact: bool) -> tuple[float, np.ndarray]:
    """The bound, or the likelihood, at (beta_0, beta_1, log sigma^2), with its gradient, in nats."""
    variance = np.exp(theta[2])
    rate = np.exp(theta[0] + theta[1] * held.x)
    a, b = rate.sum(axis=1), (rate * held.x).sum(axis=1)
    mean, spread = gaussians(held.total, a, variance)
    if exact:
        value, growth, square = integrated(held.total, a, variance, mean, spread)
    else:
        growth, square = np.exp(mean + spread / 2), mean**2 + spread
        value = held.total * mean - a * growth
        value = value - 0.5 * (square / variance - np.log(spread) + np.log(variance) - 1)
    fixed = held.total.sum() * theta[0] + held.cross * theta[1] + held.constant
    gradient = [
        np.sum(held.total - a * growth),
        held.cross - np.sum(b * growth),
        0.5 * np.sum(square / variance - 1),
    ]
    return float(value.sum() + fixed), np.array(gradient)


def gaussians(total: np.ndarray, a: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each row's best Gaussian: r = a e^(m + v/2), m = sigma^2 (y - r), 1/v = r + 1/sigma^2.

    One unknown a row, log r, by Newton's method; the equation is monotone, so there is one solution.
    """
    log_r = np.log(np.maximum(total, 0.5))
    for _ in range(100):
        r = np.exp(log_r)
        apart = log_r - np.log(a) - variance * (total - r) - 0.5 / (r + 1 / variance)
        slope = 1 + variance * r + 0.5 * r / (r + 1 / variance) ** 2
        step = np.clip(apart / slope, -1, 1)
        log_r = log_r - step
        if np.abs(step).max() < 1e-12:
            break
    r = np.exp(log_r)
    return variance * (total - r), 1 / (r + 1 / variance)


def integrated(
    total: np.ndarray, a: np.ndarray, variance: float, mean: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log of the integral over U, and posterior means of e^U and U^2, each (n,), by nodes on the Gaussians."""
    u = mean[:, None] + np.sqrt(spread)[:, None] * NODES
    joint = total[:, None] * u - a[:, None] * np.exp(u) - 0.5 * u**2 / variance
    terms = np.log(WEIGHTS) + 0.5 * NODES**2 + joint
    whole = np.asarray(logsumexp(terms, axis=1))
    share = np.exp(terms - whole[:, None])
    value = whole + 0.5 * np.log(spread) - 0.5 * np.log(2 * np.pi * variance)
    return value, np.sum(share * np.exp(u), axis=1), np.sum(share * u**2, axis=1)


def draw(random: np.random.Generator, *, n: int, p: int, beta: tuple[float, float], variance: float) -> Table:
    """A table of the model with x_ij ~ N(0, 1); B is (beta_0, beta_1)' and Sigma the 1 x 1 matrix sigma^2."""
    x = random.standard_normal((n, p))
    effect = np.sqrt(variance) * random.standard_normal((n, 1))
    latent = beta[0] + beta[1] * x + effect
    truth = np.array(beta)[:, None], np.array([[variance]]), np.ones((1, 1)), np.array([variance])
    return Table(draw_counts(random, latent), x, latent, *truth)


def column(name: str, *, exact: bool) -> Column:
    """The bound, or maximum likelihood, as a column of a study."""

    def estimate(table: Table, _: int) -> Estimate:
        found = fit(table.counts, table.x, exact=exact)
        return Estimate(found.beta[:, None], np.array([[found.variance]]), converged=found.converged)

    return Column(name, estimate)
