"""The law of one count under a fitted model: Y ~ Poisson(e^T), T ~ N(center, variance), and its slopes.

Start at `marginal_cdf`, or at `placed` for where counts lie in their law. All by quadrature, entry by entry, in NumPy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NODES = 201  # of the trapezoidal rule for distribution functions
FEW_NODES = 61  # where an error of 1e-5 is nothing
BATCH = 4096  # counts at a time
POINTS = 20  # of the Gauss-Hermite rule about the mode
CLIMBS = 40  # Newton steps at most to a count's mode
LEAST = 1e-10  # a variance below is taken for that


class Placed(NamedTuple):
    """Of each count (m,): P(Y < y), P(Y <= y), and the slopes of log P(Y = y) in the center and in log sd."""

    below: np.ndarray
    upto: np.ndarray
    by_center: np.ndarray
    by_log_sd: np.ndarray


def marginal_cdf(
    y: np.ndarray, center: np.ndarray, variance: np.ndarray, *, nodes: int = NODES
) -> np.ndarray:
    """P(Y <= y) for Y ~ Poisson(exp(center + sqrt(variance) z)), z standard normal, by quadrature; all (m,).

    Two forms of one integral: over z of the Poisson's distribution function, which is smooth where the variance is
    small against that of the count, and else over t of P(center + sqrt(variance) z < t) with exp(t) ~ Gamma(y + 1).
    """
    y, center, variance = np.broadcast_arrays(*(np.asarray(a, float) for a in (y, center, variance)))
    found = np.zeros(y.shape)
    inside = y >= 0
    narrow = inside & (variance * (y + 1) <= 1)
    wide = inside & ~narrow
    found[narrow] = _over_normal(y[narrow], center[narrow], variance[narrow], nodes)
    found[wide] = _over_gamma(y[wide], center[wide], variance[wide], nodes)
    return np.clip(found, 0.0, 1.0)


def _over_normal(y: np.ndarray, center: np.ndarray, variance: np.ndarray, nodes: int) -> np.ndarray:
    from scipy.special import pdtr

    z, step = np.linspace(-9, 9, 1 + 3 * nodes // 5, retstep=True)
    weight = np.exp(-(z**2) / 2) * step / np.sqrt(2 * np.pi)
    rate = np.exp(np.minimum(center[:, None] + np.sqrt(variance)[:, None] * z, 700.0))
    return pdtr(y[:, None], rate) @ weight


def _over_gamma(y: np.ndarray, center: np.ndarray, variance: np.ndarray, nodes: int) -> np.ndarray:
    from scipy.special import gammaln, ndtr

    each, place = np.unique(y, return_inverse=True)  # the density is the count's own, whatever the law
    shape = (each + 1)[:, None]
    spread = 1 / np.sqrt(shape)
    low, high = np.log(shape) - 9 * spread - 36 / shape, np.log(shape) + 9 * spread
    t = low + (high - low) * np.linspace(0, 1, nodes)
    density = np.exp(shape * t - np.exp(t) - gammaln(shape)) * ((high - low) / (nodes - 1))
    found, scale = np.empty(y.shape), 1 / np.sqrt(variance)
    for first in range(0, len(y), BATCH):
        some = slice(first, first + BATCH)
        share = ndtr((t[place[some]] - center[some, None]) * scale[some, None])
        found[some] = np.einsum("mk,mk->m", density[place[some]], share)
    return found


def placed(y: np.ndarray, center: np.ndarray, variance: np.ndarray) -> Placed:
    """Where counts lie in their law, and the scores of its parameters: of the center c and the log of sd s.

    By Fisher's identity d log P / dc = E[T - c | y] / s^2 and d log P / d log s = E[(T - c)^2 | y] / s^2 - 1, with T
    | y by Gauss-Hermite about its mode. Cost: some 150 exponentials a count.
    """
    from scipy.special import gammaln

    y, center, variance = np.broadcast_arrays(*(np.asarray(a, float) for a in (y, center, variance)))
    variance = np.maximum(variance, LEAST)
    mode = _modes(y, center, variance)
    width = 1 / np.sqrt(np.exp(mode) + 1 / variance)
    x, weight = np.polynomial.hermite_e.hermegauss(POINTS)
    t = mode[:, None] + width[:, None] * x
    away = t - center[:, None]
    log_value = y[:, None] * t - np.exp(t) - away**2 / (2 * variance[:, None]) + x**2 / 2
    top = log_value.max(axis=1)
    value = np.exp(log_value - top[:, None]) * weight
    total = value.sum(axis=1)
    log_mass = top + np.log(total * width / np.sqrt(2 * np.pi * variance)) - gammaln(y + 1)
    by_center = (value * away).sum(axis=1) / total / variance
    by_log_sd = (value * away**2).sum(axis=1) / total / variance - 1
    mass = np.exp(log_mass)
    upto = np.where(y > 0, marginal_cdf(y, center, variance, nodes=FEW_NODES), np.minimum(mass, 1.0))
    below = np.where(y > 0, np.maximum(upto - mass, 0.0), 0.0)
    return Placed(below, upto, by_center, by_log_sd)


def _modes(y: np.ndarray, center: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The largest y t - e^t - (t - c)^2 / (2 v): Newton from the right, where the slope is concave and falls.

    The mode is below the larger of c and log y, and below c + v y.
    """
    with np.errstate(divide="ignore"):
        t = np.minimum(np.maximum(center, np.log(y)), center + variance * y)
    t = np.minimum(t, 700.0)
    for _ in range(CLIMBS):
        rate = np.exp(t)
        step = (y - rate - (t - center) / variance) / (rate + 1 / variance)
        t = t + step
        if np.all(np.abs(step) <= 1e-9 * (1 + np.abs(t))):
            break
    return t


def normal_scores(found: Placed) -> np.ndarray:
    """E[Phi^-1(U) | y], U uniform between P(Y < y) and P(Y <= y): of mean zero where the law holds, whatever it is."""
    from scipy.special import ndtri

    low, high = found.below, np.maximum(found.upto, found.below)
    mass = high - low
    density = [np.exp(-0.5 * np.clip(ndtri(a), -38, 38) ** 2) / np.sqrt(2 * np.pi) for a in (low, high)]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (density[0] - density[1]) / mass
    middle = ndtri(np.clip(0.5 * (low + high), 1e-300, 1 - 1e-16))
    return np.where(mass > 1e-9, mean, middle)
