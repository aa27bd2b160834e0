"""The likelihood of one column alone: a Poisson-lognormal regression, exact by quadrature, for many columns at once.

Start at `maximise`. Under every Sigma, rank or basis a column of the table follows

    y_ij ~ Poisson(exp(o_ij + x_i'b_j + s_j u_i)),    u_i ~ N(0, 1),    s_j^2 = Sigma_jj,

so that (b_j, log s_j) has a likelihood of its own: d + 1 numbers, and an integral of one dimension a cell. That is by
Gauss-Hermite nodes about the mode of the integrand, which Wright's omega function gives in closed form; slopes and
curvatures follow from the same nodes by Fisher's and Louis' identities. NumPy, not JAX: columns that have arrived leave
the loop, and a handful of columns would wait longer for the compiler than they take.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, wrightomega

from poplin.rows.nodes import LOG_ROOT, hermite
from poplin.updates.direct import LEAST_SD
from poplin.updates.structure import LOADING_SD

ORDERS = (
    (0.5, 11),
    (1.2, 21),
    (np.inf, 41),
)  # nodes up to a scale: an integral is wrong by less than 1e-6 nats
WIDE, FEW, MOST_NODES, GUMBEL_STEP = (
    2.0,
    3,
    61,
    0.45,
)  # s from which counts below a few are integrated otherwise
ROOT = np.sqrt(2 * np.pi)
RIDGE = 1e-6  # precision of coefficients: separated ones stop where about 1e-5 counts are expected
MOST_STEPS = 100
ENOUGH = 1e-7  # nats that a further step would gain when a climb ends
ROUNDING = 1e-9  # relative, and
STEP_DOWN = 1e-5  # nats by which a step may lead down: where s crosses a limit of `ORDERS`
LONGEST, LONGEST_LOG_SCALE = 3.0, 1.0  # of a step: root mean square change of log rates, change of log s
NARROWEST, WIDEST = np.log(0.02), np.log(1000.0)  # log s
BLOCK = 20_000  # cells that are integrated together: what fits into a cache


class Columns(NamedTuple):
    """Columns as lines: y and offset (m, n); a design (n, d) with design' W design = N I, and weights (n,)."""

    y: np.ndarray
    offset: np.ndarray
    design: np.ndarray
    weights: np.ndarray

    def at(self, chosen: np.ndarray) -> Columns:
        """Some of the columns."""
        return self._replace(y=self.y[chosen], offset=self.offset[chosen])


class Curved(NamedTuple):
    """Log-likelihood (m,) in nats without log y!, slope (m, d + 1) and Hessian (m, d + 1, d + 1) in (b_j, log s_j).

    The weak prior of s_j that "ml" has is part of the likelihood, the ridge of b_j of the slope and Hessian alone.
    """

    value: np.ndarray
    slope: np.ndarray
    hessian: np.ndarray

    def at(self, chosen: np.ndarray) -> Curved:
        """Those of some of the columns."""
        return Curved(*(a[chosen] for a in self))


class Climbed(NamedTuple):
    """Where a climb ended: numbers (m, d + 1), log-likelihood (m,), and whether nothing was left to gain (m,)."""

    numbers: np.ndarray
    value: np.ndarray
    done: np.ndarray


def cells(y: np.ndarray, eta: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Log p(y | eta, s) of cells (c,), without log y!, in eta = o + x'b and a = log s: (6, c).

    The value, d/d eta, d/d a, d2/d eta2, d2/d eta d a, d2/d a2. Cost: two exponentials a node (`ORDERS`), where s is
    large and y = 0 some fifty values of the normal law.
    """
    found = np.empty((6, len(y)))
    wide = scale >= WIDE
    flat = wide & (y == 0) & (eta < scale**2)
    kinds = [(flat, 0), (wide & ~flat & (y > 0) & (y < FEW), MOST_NODES)]
    rest, least = ~(kinds[0][0] | kinds[1][0]), 0.0
    for most, order in ORDERS:
        kinds.append((rest & (scale >= least) & (scale < most), order))
        least = most
    for which, order in kinds:
        there = np.flatnonzero(which)
        for k in range(0, len(there), BLOCK):
            part = there[k : k + BLOCK]
            if order:
                found[:, part] = _by_nodes(y[part], eta[part], scale[part], order)
            else:
                found[:, part] = _none_of_wide(eta[part], scale[part])
    return found


def _none_of_wide(eta: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The same of y = 0 for a large s, where nodes about the mode miss the long side of its integrand.

    exp(-e^x) = P(G > x), log density g - e^g of G; so P(y = 0) = E Phi((G - eta) / s), smooth in G: the trapezoid rule.
    """
    total, first, a, second, mixed, a_a = np.zeros((6, len(eta)))
    with np.errstate(under="ignore"):
        for g in np.arange(-18.0, 3.7, GUMBEL_STEP):
            share = GUMBEL_STEP * np.exp(g - np.exp(g))
            z = (g - eta) / scale
            total += share * ndtr(z)
            density = share / ROOT * np.exp(-0.5 * z * z)
            tilted = density * z
            square = tilted * z
            first -= density
            a -= tilted
            second -= tilted
            mixed += density - square
            a_a += tilted - square * z
    first, a, second, mixed, a_a = (part / total for part in (first, a, second, mixed, a_a))
    first, second, mixed = first / scale, second / scale**2, mixed / scale
    return np.stack([np.log(total), first, a, second - first**2, mixed - first * a, a_a - a**2])


def _by_nodes(y: np.ndarray, eta: np.ndarray, scale: np.ndarray, order: int) -> np.ndarray:
    """The same by nodes about the mode u = s (y - e^t), t = eta + s u: s^2 e^t = omega(2 log s + eta + s^2 y)."""
    w = wrightomega(2 * np.log(scale) + eta + scale**2 * y)
    mode, sd = scale * y - w / scale, 1 / np.sqrt(1 + w)
    top = y * (eta + scale * mode) - w / scale**2 - 0.5 * mode**2
    mass, first, a, second, mixed, a_a = np.zeros((6, len(y)))
    with np.errstate(over="ignore", under="ignore"):
        for point, log_weight in zip(*hermite(order), strict=True):
            u = mode + point * sd
            v = scale * u
            log_rate = eta + v
            rate = np.exp(np.minimum(log_rate, 300.0))  # such a rate has no share, and its square is a number
            share = np.exp(y * log_rate - rate - 0.5 * u * u - top + log_weight)
            surprise = y - rate
            tilted = surprise * v
            down = rate * v
            mass += share
            first += share * surprise
            a += share * tilted
            second += share * (surprise * surprise - rate)
            mixed += share * (surprise * tilted - down)
            a_a += share * (tilted * tilted + tilted - down * v)
    first, a, second, mixed, a_a = (part / mass for part in (first, a, second, mixed, a_a))
    value = top + np.log(mass * sd) - LOG_ROOT
    return np.stack([value, first, a, second - first**2, mixed - first * a, a_a - a**2])


def curved(columns: Columns, numbers: np.ndarray) -> Curved:
    """The columns' log-likelihoods at (b_j, log s_j) with slopes and Hessians."""
    (m, n), d = columns.y.shape, columns.design.shape[1]
    design = columns.design
    eta = columns.offset + numbers[:, :d] @ design.T
    scale = np.repeat(np.exp(numbers[:, d]), n)
    parts = cells(columns.y.ravel(), eta.ravel(), scale).reshape(6, m, n) * columns.weights
    value, slope, a, eta_eta, eta_a, a_a = parts
    variance = np.exp(2 * numbers[:, d])
    wide, narrow = variance / LOADING_SD**2, LEAST_SD**2 / variance
    hessian = np.empty((m, d + 1, d + 1))
    pairs = (design[:, :, None] * design[:, None, :]).reshape(n, d * d)
    hessian[:, :d, :d] = (eta_eta @ pairs).reshape(m, d, d) - RIDGE * np.eye(d)
    hessian[:, :d, d] = hessian[:, d, :d] = eta_a @ design
    hessian[:, d, d] = a_a.sum(axis=1) - 2 * wide - 4 * narrow
    slopes = np.empty((m, d + 1))
    slopes[:, :d] = slope @ design - RIDGE * numbers[:, :d]
    slopes[:, d] = a.sum(axis=1) - wide + 2 * narrow
    return Curved(value.sum(axis=1) - 0.5 * wide - narrow, slopes, hessian)


def scores(columns: Columns, numbers: np.ndarray) -> np.ndarray:
    """Each row's slope of its columns' log-likelihoods in (b_j, log s_j), without weight, (m, n, d + 1)."""
    (m, n), d = columns.y.shape, columns.design.shape[1]
    eta = columns.offset + numbers[:, :d] @ columns.design.T
    found = cells(columns.y.ravel(), eta.ravel(), np.repeat(np.exp(numbers[:, d]), n))
    slope, a = found[1].reshape(m, n), found[2].reshape(m, n)
    return np.concatenate([slope[:, :, None] * columns.design, a[:, :, None]], axis=2)


def newton(here: Curved, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps (m, d + 1) uphill in the numbers that are `free` (d + 1,), and what they would gain (m,), in nats.

    A curvature that is none of a maximum is turned round.
    """
    inner = np.ix_(np.arange(len(here.slope)), free.nonzero()[0], free.nonzero()[0])
    values, vectors = np.linalg.eigh(-here.hessian[inner])
    values = np.maximum(np.abs(values), 0.1 * RIDGE)
    along = np.einsum("mkl,mk->ml", vectors, here.slope[:, free])
    step = np.zeros_like(here.slope)
    step[:, free] = np.einsum("mkl,ml->mk", vectors, along / values)
    return step, 0.5 * np.sum(along**2 / values, axis=1)


def shortened(step: np.ndarray) -> np.ndarray:
    """Steps in (b_j, log s_j), none longer than is wise."""
    longest = np.maximum(
        np.linalg.norm(step[:, :-1], axis=1) / LONGEST, np.abs(step[:, -1]) / LONGEST_LOG_SCALE
    )
    return step / np.maximum(longest, 1.0)[:, None]


def maximise(columns: Columns, start: np.ndarray, free: np.ndarray) -> Climbed:
    """The largest log-likelihood of each column over the numbers that are `free` (d + 1,), from `start` (m, d + 1).

    Newton's method, with shorter steps where one leads down; columns that have arrived are left. Cost: usually 5 to 20
    times the columns' cells. Memory: a few numbers a cell.
    """
    numbers, here = start.copy(), curved(columns, start)
    held = RIDGE * free[:-1]

    def target(value: np.ndarray, at: np.ndarray) -> np.ndarray:
        return value - 0.5 * at[:, :-1] ** 2 @ held

    value, damping = here.value.copy(), np.ones(len(start))
    step, left = newton(here, free)
    going = np.flatnonzero(left > ENOUGH)
    for _ in range(MOST_STEPS):
        if not len(going):
            break
        there = numbers[going] + damping[going, None] * shortened(step[going])
        there[:, -1] = np.clip(there[:, -1], NARROWEST, WIDEST) if free[-1] else there[:, -1]
        found = curved(columns.at(going), there)
        slack = STEP_DOWN * (damping[going] == 1) + ROUNDING * np.abs(found.value)
        better = target(found.value, there) >= target(value[going], numbers[going]) - slack
        arrived = going[better]
        numbers[arrived], value[arrived] = there[better], found.value[better]
        step[arrived], left[arrived] = newton(found.at(better), free)
        damping[going] = np.where(better, np.minimum(1.0, 2 * damping[going]), damping[going] / 4)
        going = going[(left[going] > ENOUGH) & (damping[going] > 1e-6)]
    return Climbed(numbers, value, ~np.isin(np.arange(len(start)), going))


def pieces(count: int, rows: int, *, most: int = 2_000_000) -> Iterator[np.ndarray]:
    """Columns by number, so many together that their cells stay below `most`."""
    each = max(1, most // max(rows, 1))
    for k in range(0, count, each):
        yield np.arange(k, min(k + each, count))
