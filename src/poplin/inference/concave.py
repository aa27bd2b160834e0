"""Draws from one-dimensional laws exp(pull e - stiffness e^2 / 2 - rate exp(slope e)), nearly exact.

Start at `draw`. It is what a Poisson count says of a Gaussian position: log-concave, one-sided where the count is zero.
The logarithm of the density is replaced by chords between nodes (and by tangents beyond the last), a piecewise
exponential law that is drawn from by inversion; what it is off by, a few per cent at most, is given back with the draw.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

NODES = 17  # half of them on each side of the mode
DROP = 8.0  # nats below the mode at the outermost nodes
NEAREST, STIFFEST = 1e-10, 1e-12  # smallest slope and stiffness that are told from zero
LOWEST, HIGHEST = -600.0, 600.0  # of logarithms whose exponentials are taken
FLAT = 1e-5  # a chord that rises by less is a constant
NEVER = -1 + 1e-15  # keeps a logarithm finite where rounding would have it of zero


class Law(NamedTuple):
    """log f(e) = pull e - stiffness e^2 / 2 - exp(log_rate + slope e), arrays of one shape; slope, stiffness >= 0."""

    pull: Array
    stiffness: Array
    log_rate: Array
    slope: Array


class Shape(NamedTuple):
    """A law about its mode.

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


def draw(uniform: Array, law: Law) -> tuple[Array, Array]:
    """One draw of each law from a uniform number in (0, 1), and log f(e) - log g(e), g the density it was drawn from.

    The mean of f / g is the integral of f. Cost: about 30 exponentials or logarithms; memory: `NODES` such arrays.
    """
    shape = _about_its_mode(law)
    node = _nodes(shape)
    left, right = -node[0], node[-1]
    height = shape.drop(node)
    density, rise, width = jnp.exp(height), jnp.diff(height, axis=0), jnp.diff(node, axis=0)
    steep = jnp.abs(rise) > FLAT
    mean = jnp.where(steep, jnp.diff(density, axis=0) / jnp.where(steep, rise, 1), density[1:])
    outward = shape.steepness(-left), shape.steepness(right)
    tails = density[0] / outward[0], -density[-1] / outward[1]
    masses = jnp.concatenate([tails[0][None], mean * width, tails[1][None]])
    slopes = jnp.concatenate([outward[0][None], rise / width, outward[1][None]])
    upto = jnp.tensordot(
        jnp.tri(NODES + 1, dtype=masses.dtype), masses, 1
    )  # sums, several times as fast as cumsum
    wanted = uniform * upto[-1]
    piece = jnp.minimum(jnp.sum(upto < wanted, axis=0), NODES)
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


def _about_its_mode(law: Law) -> Shape:
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
