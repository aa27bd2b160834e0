"""Profile likelihood of coefficients for which Wald's quadratic does not hold: when, p-values and interval ends.

Start at `holds` (the rule), `ratio` (the test) and `ends` (the interval); `quadratic_likely` spares most columns. Of
a column that one level of a factor lacks the likelihood has no maximum: it rises toward a coefficient of minus
infinity. A standard error is no number there, Wald's z falls as the effect grows (Hauck & Donner 1977), while the
likelihood ratio goes on to tell. All is of the column's own likelihood (`columns.py`), exact by quadrature, with its
other coefficients and its variance profiled out. What the other columns add is given up: with one design for all
columns it is little for coefficients, and a p-value needs no draws.

Where the profile never falls on one side, the counts are as extreme as counts can be: no table lies beyond. Under the
hypothesis such a table has about the probability exp(-R / 2), R the ratio's statistic, of which chi-squared tells a
tenth or less. The p-value is then the mid-p one of both sides, [exp(-R / 2) + P(chi2_1 > R)] / 2, and the interval is
that of this test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import chdtrc, fdtrc, ndtr, ndtri, wrightomega

from poplin.rows.nodes import LOG_ROOT, hermite
from poplin.updates.direct import LEAST_SD
from poplin.updates.structure import LOADING_SD

# The likelihood of one column alone: a Poisson-lognormal regression, exact by quadrature, for many columns at once.
#
# Start at `maximise`. Under every Sigma, rank or basis a column of the table follows
#
# y_ij ~ Poisson(exp(o_ij + x_i'b_j + s_j u_i)), u_i ~ N(0, 1), s_j^2 = Sigma_jj,
#
# so that (b_j, log s_j) has a likelihood of its own: d + 1 numbers, and an integral of one dimension a cell. That is
# by Gauss-Hermite nodes about the mode of the integrand, which Wright's omega function gives in closed form; slopes
# and curvatures follow from the same nodes by Fisher's and Louis' identities. NumPy, not JAX: columns that have
# arrived leave the loop, and a handful of columns would wait longer for the compiler than they take.


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
MOST_NEWTON_STEPS = 100
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
    for _ in range(MOST_NEWTON_STEPS):
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


FALL = (
    0.25  # share by which the log-likelihood at Wald's ends may fall short of the quadratic's, or beyond it
)
SCREEN = 0.1  # the same share where an approximation stands in
LIMIT = 30.0  # change of the most affected log rate from which on the likelihood no longer falls
REACH, REACH_LOG_SCALE = 2.0, 0.7  # of a step along the profile
MOST_STEPS = 60
NEAR = 1e-3  # nats from the level that is looked for, at which an end is found


class Turned(NamedTuple):
    """A design (n, d) in coordinates of which the first r are a contrast: b = `back` c, and H b = 0 where c[:r] = 0.

    For a contrast of one row, H b = `out` c_0.
    """

    design: np.ndarray
    back: np.ndarray
    rank: int
    out: float

    def coordinates(self, coef: np.ndarray) -> np.ndarray:
        """Coefficients (d, m) as lines of coordinates (m, d)."""
        return np.linalg.solve(self.back, coef).T


class Ends(NamedTuple):
    """Ends of intervals in units of the coordinate (m,): infinite where the profile never falls, NaN if not found."""

    lower: np.ndarray
    upper: np.ndarray


class Ratio(NamedTuple):
    """Twice the log-likelihood ratio (m,), and by how much the model's variance of the score is the rows' own (m,)."""

    statistic: np.ndarray
    share: np.ndarray


def standardised(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """T (d, d), for which (X T)' W X T = N I: b = T a."""
    _, upper = np.linalg.qr(np.sqrt(weights)[:, None] * x)
    return np.linalg.inv(upper) * np.sqrt(weights.sum())


def turned(x: np.ndarray, weights: np.ndarray, contrast: np.ndarray) -> Turned:
    """The design with X' W X = N I, turned so that the rows of `contrast` (r, d) are told by the first coordinates."""
    into = standardised(x, weights)
    left, size, right = np.linalg.svd(contrast @ into)
    back = into @ right.T
    return Turned(x @ back, back, int(np.sum(size > 1e-10 * size[0])), float(left[0, 0] * size[0]))


def quadratic_likely(
    design: np.ndarray, weights: np.ndarray, told: np.ndarray, variance: np.ndarray, towards: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether `holds` is safe to say yes (d, m), and standard errors (d, m), without an integral: a screen.

    The gamma-Poisson likelihood of the same mean and variance stands in, at rates (n, m), of which `told` are as many
    as counts speak of; `towards` (d, d) are the coefficients as rows in the design's coordinates. Cost n m d^2.
    """
    n, d = design.shape
    m = told.shape[1]
    pairs = (design[:, :, None] * design[:, None, :]).reshape(n, d * d)
    size = 1 / np.maximum(variance, 1e-12)
    spread = weights[:, None] * told
    information = ((spread / (1 + told / size)).T @ pairs).reshape(m, d, d) + RIDGE * np.eye(d)
    covariance = np.linalg.inv(information)
    along = np.einsum("mkl,jl->mjk", covariance, towards)
    se = np.sqrt(np.einsum("mjk,jk->jm", along, towards))
    likely = np.zeros((len(towards), m), bool)
    reach = ndtri(0.975)
    for j in range(len(towards)):
        change = reach * design @ (along[:, j] / se[j][:, None]).T
        good = np.abs(change).max(axis=0) < LIMIT
        change = np.where(good, change, 0.0)
        falls = []
        for side in (-change, change):
            more = np.log1p(told * np.expm1(side) / (size + told))
            falls.append(np.sum(weights[:, None] * ((told + size) * more - told * side), axis=0))
        off = np.abs(np.array(falls) / (0.5 * reach**2) - 1).max(axis=0)
        likely[j] = good & (off < SCREEN)
    return likely, se


def holds(
    columns: Columns, at: Climbed, hessian: np.ndarray, towards: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether Wald's quadratic holds for a coefficient of each column (m,), and its standard error (m,).

    `towards` (d,) is the coefficient in the design's coordinates. The rule: from the top, along the direction in
    which the profile leaves it, 1.96 standard errors to either side, the log-likelihood has fallen by 1.92 nats, give
    or take a `FALL` of it. Of counts without extra variation some ten do.
    """
    reach = ndtri(0.975)
    towards = np.append(towards, 0.0)
    values, vectors = np.linalg.eigh(-hessian)
    good = values[:, 0] > 0
    along = np.einsum(
        "mkl,ml->mk", vectors, (vectors.transpose(0, 2, 1) @ towards) / np.where(good[:, None], values, 1.0)
    )
    se = np.sqrt(along @ towards)
    away = along / se[:, None]
    # a direction so long that rates overflow is no quadratic's
    short = np.abs(reach * away[:, :-1] @ columns.design.T).max(axis=1, initial=0.0) < LIMIT
    held = np.zeros(len(se), bool)
    chosen = np.flatnonzero(good & short & (np.abs(away[:, -1]) < 2))
    if len(chosen):
        part, first = columns.at(chosen), at.numbers[chosen]
        falls = [at.value[chosen] - curved(part, first + s * reach * away[chosen]).value for s in (-1, 1)]
        held[chosen] = (np.abs(np.array(falls) / (0.5 * reach**2) - 1) <= FALL).all(axis=0)
    return held, np.where(good, se, np.inf)


def ratio(columns: Columns, at: Climbed, free: np.ndarray, r: int) -> Ratio:
    """The log-likelihood ratio of each column against its first r coordinates being zero."""
    rest = free.copy()
    rest[:r] = False
    start = at.numbers.copy()
    start[:, :r] = 0
    null = maximise(columns, start, rest)
    again = np.flatnonzero(null.value > at.value + 1e-6)  # the larger model's climb ended at a lower top
    best = at.value.copy()
    if len(again):
        best[again] = np.maximum(best[again], maximise(columns.at(again), null.numbers[again], free).value)
    statistic = np.where(null.done, np.maximum(2 * (best - null.value), 0.0), np.nan)
    return Ratio(statistic, _share(columns, null, rest) if r == 1 else np.ones(len(best)))


def _share(columns: Columns, null: Climbed, rest: np.ndarray) -> np.ndarray:
    """What the model says is the variance of the first coordinate's score, over what the rows' own scores say."""
    here, by_row = curved(columns, null.numbers), scores(columns, null.numbers)
    along, _, bend = _profile(here, rest)
    along[:, 0] = 1.0
    own = np.einsum("mnk,mk->mn", by_row, along)
    return -bend / (own**2 @ columns.weights)


def clustered_score(
    columns: Columns, at: Climbed, free: np.ndarray, r: int, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The score test that the first r coordinates are zero, with the variance of sums over clusters: (m, r), (m,).

    With S_g the sum over cluster g of the rows' scores, those of the other numbers profiled out, at the null: T^2 =
    S' V^-1 S, S = sum_g S_g, V = G / (G - 1) sum_g S_g S_g', and (G - r) / (r (G - 1)) T^2 is F with r and G - r
    degrees of freedom (Boos 1992, Hotelling). Returns S and T^2. It asks for no maximum, and where a group of rows
    has no count its clusters' scores differ as clusters do, unlike at an estimate. T^2 is at most about G: few
    clusters prove little.
    """
    rest = free.copy()
    rest[:r] = False
    start = at.numbers.copy()
    start[:, :r] = 0
    null = maximise(columns, start, rest)
    here, by_row = curved(columns, null.numbers), scores(columns, null.numbers) * columns.weights[:, None]
    inner = np.ix_(np.arange(len(by_row)), rest.nonzero()[0], rest.nonzero()[0])
    values, vectors = np.linalg.eigh(-here.hessian[inner])
    values = np.maximum(np.abs(values), 0.1 * RIDGE)
    cross = np.einsum("mkl,mkr->mlr", vectors, here.hessian[:, rest, :r])
    along = np.einsum("mkl,mlr->mkr", vectors, cross / values[:, :, None])
    own = by_row[:, :, :r] + np.einsum("mnk,mkr->mnr", by_row[:, :, rest], along)
    count = int(codes.max()) + 1
    sums = np.einsum("mnr,ng->mgr", own, (codes[:, None] == np.arange(count)).astype(float))
    total = sums.sum(axis=1)
    variance = count / (count - 1) * np.einsum("mgr,mgs->mrs", sums, sums)
    inverse = np.linalg.pinv(variance, hermitian=True)
    statistic = np.einsum("mr,mrs,ms->m", total, inverse, total)
    return total, np.where(null.done, statistic, np.nan)


def clustered_p_value(statistic: np.ndarray, r: int, count: int) -> np.ndarray:
    """Of `clustered_score`, for `count` clusters."""
    if count <= r:
        return np.full(np.shape(statistic), np.nan)
    return fdtrc(r, count - r, (count - r) / (r * (count - 1)) * statistic)


def p_value(statistic: np.ndarray, df: int, one_sided: np.ndarray) -> np.ndarray:
    """Of the ratio's statistic: chi-squared's upper tail, or the mid-p of both sides; see the head of this file."""
    tail = chdtrc(df, statistic)
    return np.where(one_sided & (df == 1), 0.5 * (np.exp(-0.5 * statistic) + tail), tail)


def drop(level: float, one_sided: np.ndarray) -> np.ndarray:
    """The fall of the log-likelihood (m,) at the ends of intervals: where `p_value` is 1 - level."""
    plain = ndtri((1 + level) / 2) ** 2
    low, high = plain, plain + 20.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        inside = p_value(np.array(middle), 1, np.array(True)) > 1 - level
        low, high = (middle, high) if inside else (low, middle)
    return 0.5 * np.where(one_sided, high, plain)


def ends(columns: Columns, at: Climbed, free: np.ndarray, level: float, share: np.ndarray) -> Ends:
    """Where the profile log-likelihood of the first coordinate has fallen as far as the level wants, (m,) each.

    The fall is divided by `share` (m,): see `Ratio`.
    """
    m = len(at.value)
    plain = drop(level, np.zeros(m, bool)) / share
    low, high = (_end(columns, at, free, side, plain) for side in (-1.0, 1.0))
    alone = np.isinf(low) ^ np.isinf(high)
    for mine, side in ((low, -1.0), (high, 1.0)):
        again = np.flatnonzero(alone & np.isfinite(mine))
        if len(again):
            part = Climbed(*(a[again] for a in at))
            wanted = drop(level, np.ones(len(again), bool)) / share[again]
            mine[again] = _end(columns.at(again), part, free, side, wanted)
    return Ends(low, high)


def _end(columns: Columns, at: Climbed, free: np.ndarray, side: float, fall: np.ndarray) -> np.ndarray:
    """One end: steps of Venzon & Moolgavkar (1988), which move the profiled numbers and the coordinate together.

    At a point the profile is told to second order by a Newton step in the other numbers; the coordinate goes where that
    parabola meets the level, no further than `REACH`.
    """
    rest = free.copy()
    rest[0] = False
    numbers, found = at.numbers.copy(), np.full(len(fall), np.nan)
    target = at.value - fall
    limit = LIMIT / np.abs(columns.design[:, 0]).max()
    going = np.arange(len(fall))
    for _ in range(MOST_STEPS):
        here = curved(columns.at(going), numbers[going])
        step, gain = newton(here, rest)
        along, slope, bend = _profile(here, rest)
        above = here.value + gain - target[going]
        moved = _meeting(above, slope, bend, side)
        at_level = (np.abs(above) < NEAR) & (gain < NEAR)
        found[going[at_level]] = numbers[going[at_level], 0]
        beyond = ~at_level & (side * (numbers[going, 0] - at.numbers[going, 0]) > limit) & (above > 0)
        found[going[beyond & (gain < 0.1)]] = side * np.inf
        whole = step + along * moved[:, None]
        whole[:, 0] = moved
        shorter = np.maximum(
            np.linalg.norm(whole[:, :-1], axis=1) / REACH, np.abs(whole[:, -1]) / REACH_LOG_SCALE
        )
        numbers[going] += whole / np.maximum(shorter, 1.0)[:, None]
        going = going[~at_level & ~(beyond & (gain < 0.1))]
        if not len(going):
            break
    return found


def _profile(here: Curved, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How the other numbers follow the first coordinate (m, d + 1), and the profile's slope and curvature along it."""
    inner = np.ix_(np.arange(len(here.slope)), rest.nonzero()[0], rest.nonzero()[0])
    values, vectors = np.linalg.eigh(-here.hessian[inner])
    values = np.maximum(np.abs(values), 0.1 * RIDGE)
    cross = np.einsum("mkl,mk->ml", vectors, here.hessian[:, rest, 0])
    along = np.zeros_like(here.slope)
    along[:, rest] = np.einsum("mkl,ml->mk", vectors, cross / values)
    slope = here.slope[:, 0] + np.sum(here.slope * along, axis=1)
    bend = here.hessian[:, 0, 0] + np.sum(cross**2 / values, axis=1)
    return along, slope, bend


def _meeting(above: np.ndarray, slope: np.ndarray, bend: np.ndarray, side: float) -> np.ndarray:
    """How far to go until above + slope t + bend t^2 / 2 = 0, on the outer side of the parabola's top."""
    down = np.minimum(bend, -1e-12)
    inside = slope**2 - 2 * down * above
    outer = (-slope - side * np.sqrt(np.maximum(inside, 0.0))) / down
    # a level above the whole parabola: back along the slope, toward the top
    outer = np.where(inside < 0, -slope / down, outer)
    return np.clip(outer, -REACH, REACH)
