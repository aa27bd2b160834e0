"""The log-likelihood of rows of many dimensions: positions drawn column by column, each where its count wants it.

Start at `in_rounds`, and at `sequential_ratios` for the draws. A Gaussian around the row misses that each cell's law is
one-sided, and what it misses multiplies over columns: 250 of them, and a thousand draws never see where most of the
mass lies. Here the Gaussian is kept only for what lies ahead. In coordinates e, N(0, I) under it, column j moves with
e_1 .. e_j alone (a QR decomposition), and e_j is drawn from its law given those before it and count j (`draw`).
Where columns are independent the weights are nearly equal; otherwise they vary by how much the skewness of later
columns says of earlier ones. Source: the simulator of Geweke (1991), Hajivassiliou and Keane for probabilities of
truncated normals, with a Gaussian that looks ahead.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from poplin._axes import Coefficients, Loadings
from poplin._numerics import compiled
from poplin.data.blocks import Block
from poplin.laws import AbstractLaw
from poplin.rows.batches import inverse_root
from poplin.rows.frames import rates
from poplin.rows.gaussian import GaussianRows

# Draws from one-dimensional laws exp(pull e - stiffness e^2 / 2 + what a count says at slope e), nearly exact.
#
# Start at `draw`. The logarithm of the density is replaced by chords between nodes (and by tangents beyond the last), a
# piecewise exponential law that is drawn from by inversion; what it is off by, a few per cent at most, is given back
# with the draw, so that any nodes would do. What a Poisson count says of a Gaussian position (`Line`) is log-concave,
# with a mode in closed form, and its nodes are about that. Of any other law (`Curve`) nodes are where a grid, made
# finer twice, finds the density: a zero that may be no count has two modes.


NODES = 17  # half of them on each side of the mode
DROP = 8.0  # nats below the mode at the outermost nodes
NEAREST, STIFFEST = 1e-10, 1e-12  # smallest slope and stiffness that are told from zero
LOWEST, HIGHEST = -600.0, 600.0  # of logarithms whose exponentials are taken
FLAT = 1e-5  # a chord that rises by less is a constant
NEVER = -1 + 1e-15  # keeps a logarithm finite where rounding would have it of zero


class Line(NamedTuple):
    """log f(e) = pull e - stiffness e^2 / 2 - exp(log_rate + slope e), arrays of one shape; slope, stiffness >= 0."""

    pull: Array
    stiffness: Array
    log_rate: Array
    slope: Array

    def about(self) -> "Shape":
        """The same about its mode."""
        return _about_its_mode(self)


class Shape(NamedTuple):
    """A `Line` about its mode.

    log f(mode + d) = height + tilt d - stiffness d^2 / 2 - rate (exp(slope d) - 1 - slope d).
    """

    mode: Array
    height: Array
    tilt: Array  # of rounding only
    stiffness: Array
    rate: Array
    slope: Array

    def drop(self, distance: Array) -> Array:
        """What is added to log f at mode + distance."""
        grown = self.slope * distance
        bent = self.rate * (jnp.exp(jnp.minimum(grown, HIGHEST)) - 1 - grown)
        return self.tilt * distance - 0.5 * self.stiffness * distance**2 - bent

    def steepness(self, distance: Array) -> Array:
        """Derivative of log f at mode + distance."""
        growth = jnp.exp(jnp.minimum(self.slope * distance, HIGHEST))
        return self.tilt - self.stiffness * distance - self.rate * self.slope * (growth - 1)

    def nodes(self) -> Array:
        """Distances from the mode, ascending, (nodes, ...)."""
        return _nodes(self)

    def outward(self, left: Array, right: Array) -> tuple[Array, Array]:
        """Slopes of the tangents left and right of the nodes: above zero, and below."""
        return self.steepness(left), self.steepness(right)


class Curve(NamedTuple):
    """log f(e) = pull e - stiffness e^2 / 2 + `law.remainder` of count y at log_rate + slope e, a law of one cell."""

    pull: Array
    stiffness: Array
    log_rate: Array
    slope: Array
    law: AbstractLaw
    y: Array

    def value(self, e: Array) -> Array:
        """Log f(e)."""
        said = self.law.remainder(self.log_rate + self.slope * e, self.y)
        return (self.pull - 0.5 * self.stiffness * e) * e + said

    def about(self) -> "Found":
        """Where the density is, by grids."""
        return _found(self)


class Found(NamedTuple):
    """A `Curve` about its largest value `height` that was seen, at `mode`: what is above -`FAR` is in [first, last]."""

    curve: Curve
    mode: Array
    height: Array
    first: Array
    last: Array

    def drop(self, distance: Array) -> Array:
        """What is added to log f at mode + distance."""
        return self.curve.value(self.mode + distance) - self.height

    def nodes(self) -> Array:
        """Distances from the mode, ascending, (nodes, ...)."""
        return _evenly(self.first, self.last, SEEN) - self.mode

    def outward(self, left: Array, right: Array) -> tuple[Array, Array]:
        """Slopes left and right of the nodes, of a sign with which the tails have a mass."""
        least = 1 / (right - left)
        curve, ends = self.curve, (self.mode + left, self.mode + right)
        below, above = (
            curve.pull
            - curve.stiffness * e
            - curve.slope * curve.law.rate(curve.log_rate + curve.slope * e, curve.y)
            for e in ends
        )
        return jnp.maximum(below, least), jnp.minimum(above, -least)


def draw(uniform: Array, law: Line | Curve) -> tuple[Array, Array]:
    """One draw of each law from a uniform number in (0, 1), and log f(e) - log g(e), g the density it was drawn from.

    The mean of f / g is the integral of f. Cost: about 30 exponentials or logarithms, of a `Curve` 120; memory: as many
    such arrays as there are nodes.
    """
    shape = law.about()
    node = shape.nodes()
    pieces = len(node)
    left, right = -node[0], node[-1]
    height = shape.drop(node)
    density, rise, width = jnp.exp(height), jnp.diff(height, axis=0), jnp.diff(node, axis=0)
    steep = jnp.abs(rise) > FLAT
    mean = jnp.where(steep, jnp.diff(density, axis=0) / jnp.where(steep, rise, 1), density[1:])
    outward = shape.outward(-left, right)
    tails = density[0] / outward[0], -density[-1] / outward[1]
    masses = jnp.concatenate([tails[0][None], mean * width, tails[1][None]])
    slopes = jnp.concatenate([outward[0][None], rise / width, outward[1][None]])
    upto = jnp.tensordot(
        jnp.tri(pieces + 1, dtype=masses.dtype), masses, 1
    )  # sums, several times as fast as cumsum
    wanted = uniform * upto[-1]
    piece = jnp.minimum(jnp.sum(upto < wanted, axis=0), pieces)
    # a piece is entered from its left node; the first one, the left tail, from its right end
    begin = jnp.maximum(piece - 1, 0)
    slope, mass, end = (_at(a, piece) for a in (slopes, masses, upto))
    first, place = _at(height, begin), _at(node, begin)
    rest = (wanted - end + jnp.where(piece == 0, 0.0, mass)) * jnp.exp(-first)
    even = jnp.abs(slope * rest) <= FLAT
    step = jnp.log1p(jnp.maximum(slope * rest, NEVER)) / jnp.where(even, 1, slope)
    step = jnp.where(even, rest, step)
    log_ratio = shape.drop(place + step) - first - slope * step + jnp.log(upto[-1])
    return shape.mode + place + step, shape.height + log_ratio


def _at(values: Array, index: Array) -> Array:
    return jnp.take_along_axis(values, index[None], axis=0)[0]


def _about_its_mode(law: Line) -> Shape:
    """The mode by the equation u + log u = c, u = rate at the mode slope^2 / stiffness, and the law about it."""
    stiffness, slope = jnp.maximum(law.stiffness, STIFFEST), jnp.maximum(law.slope, NEAREST)
    shift = law.pull / stiffness  # where the mode would be without the rate
    c = law.log_rate + slope * shift + 2 * jnp.log(slope) - jnp.log(stiffness)
    mode = shift - omega(c) / slope
    for _ in range(2):  # where the stiffness is next to nothing, digits have been lost
        rate = jnp.exp(jnp.minimum(law.log_rate + slope * mode, HIGHEST))
        tilt = law.pull - stiffness * mode - slope * rate
        mode = mode + tilt / (stiffness + slope**2 * rate)
    rate = jnp.exp(jnp.minimum(law.log_rate + slope * mode, HIGHEST))
    tilt = law.pull - stiffness * mode - slope * rate
    height = law.pull * mode - 0.5 * stiffness * mode**2 - rate
    return Shape(mode, height, tilt, stiffness, rate, slope)


def omega(c: Array) -> Array:
    """Wright's omega function, the u > 0 with u + log u = c, to twelve digits by Newton's method."""
    c = jnp.maximum(c, LOWEST)
    value = jnp.maximum(c, 0) + jnp.log1p(jnp.exp(-jnp.abs(c)))
    for _ in range(4):
        value = value * (1 + c - jnp.log(value)) / (1 + value)
    return value


def _nodes(shape: Shape) -> Array:
    """Distances from the mode, ascending, (nodes, ...), at which log f falls in steps about as (k / K)^2 `DROP`."""
    gaussian = jnp.sqrt(2 * DROP / (shape.stiffness + shape.slope**2 * shape.rate))
    left, right = _reach(shape)
    side = jnp.arange(1, NODES // 2 + 1, dtype=left.dtype).reshape(-1, *(1,) * left.ndim) / (NODES // 2)
    # near the mode as for a Gaussian of its curvature, at the end what is reached
    below, above = (gaussian * side / (1 + (gaussian / end - 1) * side) for end in (left, right))
    return jnp.concatenate([-below[::-1], jnp.zeros_like(left)[None], above])


def _reach(shape: Shape) -> tuple[Array, Array]:
    """How far to the left and to the right of the mode the density has fallen by about `DROP`, not less."""
    share = DROP / jnp.maximum(shape.rate, 1e-100)
    # bounds of u: exp(-u) - 1 + u >= u^2 / (2 + u); exp(u) - 1 - u >= u^2 / 2, so exp(u) <= 1 + share + sqrt(2 share)
    left = jnp.minimum(
        jnp.sqrt(2 * DROP / shape.stiffness), 0.5 * (share + jnp.sqrt(share**2 + 8 * share)) / shape.slope
    )
    right = jnp.minimum(
        jnp.sqrt(2 * DROP / shape.stiffness), jnp.log1p(share + jnp.sqrt(2 * share)) / shape.slope
    )
    for _ in range(2):  # Newton steps on a convex function from beyond its root: they stay beyond
        left = left - (shape.drop(-left) + DROP) / shape.steepness(-left)
        right = right - (shape.drop(right) + DROP) / shape.steepness(right)
    return left, right


GRID, SEEN = 17, 33  # nodes of a grid that is made finer, and of the last
FAR = 14.0  # nats below the largest value at the ends
WIDE, REACH = 25, 5.0  # nodes of the first grid, e = sinh(u), |u| <= `REACH`
AROUND = (
    -6.0,
    -4.0,
    -2.5,
    -1.0,
    0.0,
    1.0,
    2.5,
    4.0,
    6.0,
)  # sds about the mode that there is without the count


def _found(curve: Curve) -> Found:
    """The first grid is about zero, where the row's Gaussian has its middle, and about the mode without the count.

    A count's slope has one sign, so that all else is between these two; each finer grid is between the outermost nodes
    above -`FAR`, and their neighbours.
    """
    like = curve.pull + 0 * curve.log_rate
    column = (-1,) + (1,) * like.ndim
    stiffness = jnp.maximum(curve.stiffness, STIFFEST)
    middle, sd = curve.pull / stiffness, 1 / jnp.sqrt(stiffness)
    sinh = jnp.sinh(jnp.linspace(-REACH, REACH, WIDE, dtype=like.dtype)).reshape(column) + 0 * like
    around = middle + sd * jnp.asarray(AROUND, like.dtype).reshape(column)
    values = curve.value(sinh), curve.value(around)
    top = jnp.maximum(*(jnp.max(a, axis=0) for a in values))
    ends = [_between(e, a, top) for e, a in zip((sinh, around), values, strict=True)]
    first, last = jnp.minimum(ends[0][0], ends[1][0]), jnp.maximum(ends[0][1], ends[1][1])
    for _ in range(2):
        grid = _evenly(first, last, GRID)
        value = curve.value(grid)
        top = jnp.max(value, axis=0)
        mode = _at(grid, jnp.argmax(value, axis=0))
        first, last = _between(grid, value, top)
    return Found(curve, mode, top, first, last)


def _evenly(first: Array, last: Array, count: int) -> Array:
    share = jnp.linspace(0, 1, count, dtype=first.dtype).reshape(-1, *(1,) * first.ndim)
    return first + (last - first) * share


def _between(grid: Array, value: Array, top: Array) -> tuple[Array, Array]:
    """The neighbours of the outermost nodes above top - `FAR`; (inf, -inf) where none is."""
    above, last = value > top - FAR, len(grid) - 1
    low = jnp.maximum(jnp.argmax(above, axis=0) - 1, 0)
    high = jnp.minimum(last - jnp.argmax(above[::-1], axis=0) + 1, last)
    some = jnp.any(above, axis=0)
    return jnp.where(some, _at(grid, low), jnp.inf), jnp.where(some, _at(grid, high), -jnp.inf)


DRAWS = 128  # of a row that are made together
BATCHES = (1, 4, 16)  # of draws, in all, after which it is asked whether they are enough
OWN = 2**31 - 2  # no row has this number: what is drawn here is not drawn elsewhere
ERROR = 0.05  # nats: a standard error that is small enough


class Sites(NamedTuple):
    """A row around its Gaussian: log p(y, w) = constant + pull'e - |e|^2 / 2 + sum_j h_j(t_j), t = lower e.

    h_j(t) = told_j t + weight_j t^2 / 2 + what count j adds at log_rate_j + t (-e^(log_rate + t) of a Poisson count),
    columns in the row's own order; lower (p, q) has zeros above its diagonal and none below zero on it. Exact, whatever
    `told` and `weight`.
    """

    constant: Array
    pull: Array
    told: Array
    weight: Array
    log_rate: Array
    lower: Array
    law: AbstractLaw
    y: Array

    def line(self, j: Array, before: Array) -> Line | Curve:
        """What e_j is drawn from where those before it have moved column j by `before`."""
        scale, cell = self.lower[j, j], jax.tree.map(lambda a: a[j], self.law)
        stiffness = jnp.broadcast_to(1 - self.weight[j] * scale**2, before.shape)
        slope = jnp.broadcast_to(scale, before.shape)
        pull = self.pull[j] + scale * (self.told[j] + self.weight[j] * before)
        if self.law.exponential():
            pull = self.pull[j] + self.weight[j] * scale * (1 + before)
            return Line(pull, stiffness, jnp.log(rates(self.log_rate)[j]) + before, slope)
        return Curve(pull, stiffness, self.log_rate[j] + before, slope, cell, self.y[j])

    def ahead(self, j: Array, before: Array) -> Array:
        """What of h_j does not depend on e_j."""
        if self.law.exponential():
            return self.weight[j] * before * (1 + 0.5 * before)
        return before * (self.told[j] + 0.5 * self.weight[j] * before)

    def rest(self, moved: Array, first: int) -> Array:
        """h_j of the columns from `first` on, moved (., draws): those that all coordinates are needed for."""
        law = jax.tree.map(lambda a: a[first:, None], self.law)
        told, weight, log_rate, y = (a[first:, None] for a in (self.told, self.weight, self.log_rate, self.y))
        if self.law.exponential():
            return weight * (moved + 0.5 * moved**2) - rates(log_rate) * jnp.exp(moved)
        return told * moved + 0.5 * weight * moved**2 + law.remainder(log_rate + moved, y)


@compiled()
def column_order(block: Block, gaussians: GaussianRows, coef: Coefficients, loadings: Loadings) -> Array:
    """The columns of each row (n, p), those first that are farthest from Gaussian: A^2 (exp(v) - 1 - v - v^2 / 2)."""

    def one_row(row) -> Array:
        predictor, covariance, law, y = row
        spread = jnp.sum((loadings @ covariance) * loadings, axis=1)
        if law.exponential():
            log_weight = predictor + 0.5 * spread
        else:
            log_weight = jnp.log(law.expected(predictor, spread, y).weight + 1e-300)
        # its logarithm, but for a factor between 1/6 and 1
        score = 2 * log_weight + 3 * jnp.log(spread + 1e-300) + jnp.maximum(spread - 3, 0)
        return jnp.argsort(-score)

    predictor = block.offset + block.x @ coef + gaussians.mean @ loadings.T
    return lax.map(one_row, (predictor, gaussians.covariance, block.law, block.y))


@compiled()
def sequential_ratios(
    key: Array,
    block: Block,
    gaussians: GaussianRows,
    coef: Coefficients,
    loadings: Loadings,
    order: Array,
    chosen: Array,
    count: Array,
) -> Array:
    """Log p(y_i, w) - log t(w) of `DRAWS` draws of the first `count` of the rows `chosen`, (n, `DRAWS`).

    -inf stands in other rows. A row's draws depend on `key` and its index only. Cost: q^3 + p q^2 + DRAWS q (2 p + 30
    exponentials) a row; memory: DRAWS p numbers beside the result.
    """
    base = block.offset + block.x @ coef + gaussians.mean @ loadings.T

    def one_row(k, found: Array) -> Array:
        i = chosen[k]
        sites = _sites(
            (block.y[i], base[i], block.log_factorial[i], jax.tree.map(lambda a: a[i], block.law)),
            GaussianMoments(gaussians.mean[i], gaussians.covariance[i]),
            loadings,
            order[i],
        )
        uniform = jax.random.uniform(
            jax.random.fold_in(key, block.index[i]),
            (min(loadings.shape), DRAWS),
            base.dtype,
            1e-12,
            1 - 1e-12,
        )
        return found.at[i].set(_row_ratios(sites, uniform))

    return lax.fori_loop(0, count, one_row, jnp.full((len(base), DRAWS), -jnp.inf, base.dtype))


class GaussianMoments(NamedTuple):
    """A row's Gaussian: mean (q,), covariance (q, q)."""

    mean: Array
    covariance: Array


def _sites(seen, gaussian: GaussianMoments, loadings: Loadings, order: Array) -> Sites:
    (y, predictor, log_factorial, law), (mean, covariance) = seen, gaussian
    spread = jnp.sum((loadings @ covariance) * loadings, axis=1)
    _, told, weight = law.expected(predictor, spread, y)
    precision = jnp.eye(loadings.shape[1], dtype=weight.dtype) + loadings.T @ (weight[:, None] * loadings)
    root = inverse_root(precision[None])[0]
    turn, upper = jnp.linalg.qr((loadings @ root)[order].T)  # (q, r) and (r, p), r = min(p, q)
    sign = jnp.where(jnp.diagonal(upper) < 0, -1.0, 1.0)
    every = ((y - told) @ loadings - mean) @ root
    pull = every @ (turn * sign)
    constant = (
        y @ predictor
        - log_factorial
        - 0.5 * mean @ mean
        + jnp.sum(jnp.log(jnp.diagonal(root)))
        + 0.5 * jnp.maximum(every @ every - pull @ pull, 0.0)  # of directions that no column sees, if q > p
    )
    lower = (upper * sign[:, None]).T
    in_order = jax.tree.map(lambda a: a[order], (told, weight, predictor, law, y))
    told, weight, predictor, law, y = in_order
    return Sites(constant, pull, told, weight, predictor, lower, law, y)


def _row_ratios(sites: Sites, uniform: Array) -> Array:
    """Log ratios (draws,) of one row."""
    (p, steps), draws = sites.lower.shape, uniform.shape[1]

    def column(j, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        moved, log_ratio = carry
        before = moved[j]
        e, ratio = draw(uniform[j], sites.line(j, before))
        log_ratio = log_ratio + ratio + sites.ahead(j, before) - 0.5 * jnp.log(2 * jnp.pi)
        return moved + sites.lower[:, j, None] * e, log_ratio

    begun = jnp.zeros((p, draws), uniform.dtype), jnp.full(draws, sites.constant)
    moved, log_ratio = lax.fori_loop(0, steps, column, begun)
    return log_ratio + jnp.sum(sites.rest(moved[steps:], steps), axis=0)


class Way(NamedTuple):
    """Rows under a model: their block and Gaussians, B and C."""

    block: Block
    gaussians: GaussianRows
    coef: Coefficients
    loadings: Loadings


def in_rounds(
    key: Array, ways: Sequence[Way], rows: np.ndarray, enough: Callable[..., np.ndarray]
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Log ratios of some rows under each model: more and more draws of those that have not enough.

    Yields rows that are done and, for each way, their log ratios (rows, draws). `enough(*log_ratios)` says of which
    rows (rows,) there are enough. The models share the order of columns (the last model's) and the random numbers.
    Memory: what `sequential_ratios` needs, and the log ratios of rows that are not done.
    """
    n, last = len(ways[-1].block.index), ways[-1]
    order = column_order(last.block, last.gaussians, last.coef, last.loadings)
    held = [np.empty((len(rows), 0)) for _ in ways]
    for total in BATCHES:
        chosen = jnp.asarray(np.pad(rows, (0, n - len(rows))))
        for k in range(held[0].shape[1] // DRAWS, total):
            own = jax.random.fold_in(jax.random.fold_in(key, OWN), k)
            more = [sequential_ratios(own, *way, order, chosen, jnp.asarray(len(rows))) for way in ways]
            held = [np.concatenate([a, np.asarray(b)[rows]], axis=1) for a, b in zip(held, more, strict=True)]
        done = enough(*held) | (total == BATCHES[-1])
        if done.any():
            yield rows[done], [a[done] for a in held]
        rows, held = rows[~done], [a[~done] for a in held]
        if not len(rows):
            return


def log_mean(log_ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log of the mean ratio of each row (n, draws) with its bias taken out, standard error, effective draws."""
    largest = log_ratios.max(axis=1)
    with np.errstate(all="ignore"):
        weights = np.exp(log_ratios - largest[:, None])
    effective = weights.sum(axis=1) ** 2 / np.sum(weights**2, axis=1)
    variance = relative(log_ratios).var(axis=1, ddof=1) / weights.shape[1]
    return largest + np.log(weights.mean(axis=1)) + 0.5 * variance, np.sqrt(variance), effective


def relative(log_ratios: np.ndarray) -> np.ndarray:
    """Ratios of each row divided by their mean."""
    with np.errstate(all="ignore"):
        weights = np.exp(log_ratios - log_ratios.max(axis=1, keepdims=True))
    return weights / weights.mean(axis=1, keepdims=True)
