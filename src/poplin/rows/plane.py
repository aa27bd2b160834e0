"""How far a row goes along two directions at once, one for its mean and one for its covariance.

Start at `plane_search`. The two are searched together because both change the same rates: where the prior is wide, a
wider covariance calls for a lower mean. A look at a point of the plane costs n p exponentials and no matrix.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from poplin._axes import Counts, Rows

LARGEST_LOG_RATE = 300.0  # keeps hopeless starting points finite; far above any count
FLAT = 0.1  # the search ends where what is left to gain is this share of the first
LONGEST = 1e6  # limit of t: only a direction that is next to nothing needs as much
NEGLIGIBLE = 1e-12  # nats: what the rounding of log det S alone could be
MOST_LOOKS = 60  # a handful is usual


class Plane(NamedTuple):
    """The bound at (t, u), t along the mean's direction and u along the covariance's, less its value at (0, 0).

    rise_mean t + rise_spread u - bend t^2 / 2 - sum_j [A_j(t, u) - A_j(0, 0)],
    log A_j = log_rate_j + t by_mean_j + u by_spread_j. log det S is replaced by its chord from u = 0 to 1, which lies
    below it, so that what rises here is below the bound, and meets it at u = 1. Concave. A step that brings a log
    rate above `ceiling` is cut short.
    """

    log_rate: Counts
    ceiling: Counts
    by_mean: Counts
    by_spread: Counts
    rise_mean: Rows
    rise_spread: Rows
    bend: Rows


class Look(NamedTuple):
    """Where a search stands: the point (2, n), value and slopes there, and the next step to try."""

    point: Array
    value: Rows
    slope: Array
    step: Array
    left: Rows  # expected gain of the step, to second order


def rates(log_rate: Counts) -> Counts:
    """Their exponentials, finite whatever comes."""
    return jnp.exp(jnp.minimum(log_rate, LARGEST_LOG_RATE))


def plane_search(plane: Plane) -> tuple[Array, Rows]:
    """A point (t, u), 0 <= u <= 1, as a (2, n) array, and the first-order gain at (0, 0) in nats.

    Newton steps, each shortened until the bound has risen; they end where little is left to gain.
    """
    origin = jnp.zeros((2, *plane.bend.shape), plane.bend.dtype)
    first = _look(plane, origin)

    def going(carry):
        _, found, looks = carry
        return ~jnp.all(found) & (looks < MOST_LOOKS)

    def search(carry):
        here, found, looks = carry
        there = _look(plane, here.point + here.step)
        before, after = jnp.sum(here.slope * here.step, axis=0), jnp.sum(there.slope * here.step, axis=0)
        # by concavity nothing is lost where the slope at the end is not negative; rounding cannot deceive a slope
        better = (after >= 0) | ((after >= -FLAT * before) & (there.value >= here.value))
        shorter = jnp.clip(0.9 * before / (before - after), 0.05, 0.9)
        shortened = here._replace(step=shorter * here.step)
        moved = Look(*(jnp.where(better & ~found, a, b) for a, b in zip(there, shortened, strict=True)))
        here = Look(*(jnp.where(found, a, b) for a, b in zip(here, moved, strict=True)))
        return here, found | (better & (there.left <= FLAT * first.left)), looks + 1

    begin = first, ~(first.left > NEGLIGIBLE), jnp.asarray(0)
    here, _, _ = lax.while_loop(going, search, begin)
    return here.point, 0.5 * first.slope[0] + first.slope[1]


def _look(plane: Plane, point: Array) -> Look:
    """Value, slopes and the Newton step at a point."""
    log_rate = plane.log_rate + point[0][:, None] * plane.by_mean + point[1][:, None] * plane.by_spread
    rate = rates(log_rate)
    for_mean, for_spread = rate * plane.by_mean, rate * plane.by_spread
    slope = jnp.stack(
        [
            plane.rise_mean - plane.bend * point[0] - jnp.sum(for_mean, axis=1),
            plane.rise_spread - jnp.sum(for_spread, axis=1),
        ]
    )
    value = (
        plane.rise_mean * point[0]
        + plane.rise_spread * point[1]
        - 0.5 * plane.bend * point[0] ** 2
        - jnp.sum(rate, axis=1)
    )
    curvature = jnp.stack(
        [
            plane.bend + jnp.sum(for_mean * plane.by_mean, axis=1),
            jnp.sum(for_mean * plane.by_spread, axis=1),
            jnp.sum(for_spread * plane.by_spread, axis=1),
        ]
    )
    step = _newton(slope, curvature, point)
    left = jnp.sum(slope * step, axis=0) - 0.5 * (
        curvature[0] * step[0] ** 2 + 2 * curvature[1] * step[0] * step[1] + curvature[2] * step[1] ** 2
    )
    climb = step[0][:, None] * plane.by_mean + step[1][:, None] * plane.by_spread
    room = jnp.maximum(plane.ceiling - log_rate, 1.0)
    share = jnp.min(jnp.where(climb > 0, room / climb, jnp.inf), axis=1)
    return Look(point, value, slope, jnp.minimum(1.0, share) * step, left)


def _newton(slope: Array, curvature: Array, point: Array) -> Array:
    """The step to the top of the second-order model for which u stays within [0, 1] and t within its limits."""
    tiny = jnp.finfo(slope.dtype).tiny
    across, along, upward = curvature[1], jnp.maximum(curvature[0], tiny), jnp.maximum(curvature[2], tiny)
    alone = jnp.maximum(upward - across**2 / along, tiny)
    for_spread = jnp.clip((slope[1] - across * slope[0] / along) / alone, -point[1], 1 - point[1])
    for_mean = (slope[0] - across * for_spread) / along
    for_mean = jnp.clip(for_mean, -LONGEST - point[0], LONGEST - point[0])
    for_spread = jnp.clip((slope[1] - across * for_mean) / upward, -point[1], 1 - point[1])
    return jnp.stack([for_mean, for_spread])
