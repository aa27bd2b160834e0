"""Diagonal Gaussians of the rows and the joint density they meet, in the two frames of a latent position.

Start at `AbstractFrame`. In the direct form a row's Gaussian is one of Z, in a factor form one of w; what follows here
may be asked of many draws at once (leading axes).
"""

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from poplin._axes import Coefficients, Counts, Latent, Loadings, Rows
from poplin._numerics import inverse_and_logdet
from poplin.data.blocks import Block
from poplin.laws import LARGEST_LOG_RATE, AbstractLaw, Expected

# How far a row goes along two directions at once, one for its mean and one for its covariance.
#
# Start at `plane_search`. The two are searched together because both change the same rates: where the prior is wide,
# a wider covariance calls for a lower mean. A look at a point of the plane costs n p exponentials and no matrix.


FLAT = 0.1  # the search ends where what is left to gain is this share of the first
LONGEST = 1e6  # limit of t: only a direction that is next to nothing needs as much
NEGLIGIBLE = 1e-12  # nats: what the rounding of log det S alone could be
MOST_LOOKS = 60  # a handful is usual


class Plane(NamedTuple):
    """The bound at (t, u), t along the mean's direction and u along the covariance's, less its value at (0, 0).

    rise_mean t + rise_spread u - bend t^2 / 2 + sum_j [h_j(t, u) - h_j(0, 0)], h_j what the law has of eta_j ~
    N(predictor_j + t by_mean_j, spread_j + u by_spread_j) (`expected`; minus the mean rate, for Poisson counts).
    log det S is replaced by its chord from u = 0 to 1, which lies below it, so that what rises here is below the bound,
    and meets it at u = 1. Concave where the law is. A step that brings a log rate above `ceiling` is cut short.
    """

    predictor: Counts
    spread: Counts
    ceiling: Counts
    by_mean: Counts
    by_spread: Counts
    rise_mean: Rows
    rise_spread: Rows
    bend: Rows
    y: Counts
    law: AbstractLaw


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
    mean = plane.predictor + point[0][:, None] * plane.by_mean
    variance = plane.spread + point[1][:, None] * plane.by_spread
    remainder, rate, weight = plane.law.expected(mean, variance, plane.y)
    half = 0.5 * plane.by_spread
    for_mean, for_spread = rate * plane.by_mean, weight * half
    bent_mean, bent_spread = weight * plane.by_mean, weight * half
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
        + jnp.sum(remainder, axis=1)
    )
    curvature = jnp.stack(
        [
            plane.bend + jnp.sum(bent_mean * plane.by_mean, axis=1),
            jnp.sum(bent_mean * half, axis=1),
            jnp.sum(bent_spread * half, axis=1),
        ]
    )
    step = _newton(slope, curvature, point)
    left = jnp.sum(slope * step, axis=0) - 0.5 * (
        curvature[0] * step[0] ** 2 + 2 * curvature[1] * step[0] * step[1] + curvature[2] * step[1] ** 2
    )
    climb = step[0][:, None] * plane.by_mean + step[1][:, None] * half
    room = jnp.maximum(plane.ceiling - mean - 0.5 * variance, 1.0)
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


LOG_TWO_PI = math.log(2 * math.pi)


class Diagonals(NamedTuple):
    """What a row keeps: mean and log standard deviation, (n, k) each."""

    mean: Latent
    log_sd: Latent


class AbstractFrame(eqx.Module):
    """The joint density log p(y_i, latent_i) under (B, C), as a function of draws (..., n, k)."""

    @abstractmethod
    def joint(self, coef: Coefficients, loadings: Loadings, latent: Array, block: Block) -> Array:
        """Log p(y_i, latent_i), every constant, (..., n)."""

    @abstractmethod
    def local(self, coef: Coefficients, loadings: Loadings, latent: Array, block: Block) -> Array:
        """Of that sum the terms in which component k occurs, (..., n, k)."""

    @abstractmethod
    def slope(self, coef: Coefficients, loadings: Loadings, latent: Array, block: Block) -> Array:
        """Its gradient in the latent position, (..., n, k)."""

    @abstractmethod
    def whitened(self, coef: Coefficients, loadings: Loadings, latent: Array, block: Block) -> Array:
        """W of Z = XB + C w at these positions, (..., n, q)."""

    @abstractmethod
    def moments(
        self, coef: Coefficients, loadings: Loadings, rows: Diagonals, block: Block
    ) -> tuple[Array, Array, Expected]:
        """Mean (n, q) and covariance (n, q, q) of w under the rows' Gaussians, and what the law has of the cells."""

    @abstractmethod
    def sharpest(self, coef: Coefficients, loadings: Loadings, rows: Diagonals, block: Block) -> Array:
        """A bound of the curvature of -log p(y_i, latent) at the mean, in the row's own standard deviations, (n,).

        Of the largest eigenvalue of S^1/2 H S^1/2 it is above by sums of absolute values; O(n p k).
        """

    @abstractmethod
    def carried(self, rows: Diagonals, transport: Any, block: Block) -> Diagonals:
        """The rows when the parameters have moved and the latent itself has not."""


class DirectFrame(AbstractFrame):
    """Gaussians of Z."""

    def joint(self, coef, loadings, latent, block):
        residual = latent - block.x @ coef
        precision, logdet = inverse_and_logdet(loadings @ loadings.T)
        predictor = block.offset + latent
        counts = jnp.sum(block.law.log_prob(predictor, block.y), axis=-1) - block.log_factorial
        quadratic = jnp.sum((residual @ precision) * residual, axis=-1)
        return counts - 0.5 * (quadratic + logdet + len(loadings) * LOG_TWO_PI)

    def local(self, coef, loadings, latent, block):
        residual = latent - block.x @ coef
        precision, _ = inverse_and_logdet(loadings @ loadings.T)
        predictor = block.offset + latent
        own = 0.5 * jnp.diagonal(precision) * residual**2 - residual * (residual @ precision)
        return block.law.log_prob(predictor, block.y) + own

    def slope(self, coef, loadings, latent, block):
        residual = latent - block.x @ coef
        precision, _ = inverse_and_logdet(loadings @ loadings.T)
        return block.y - block.law.rate(block.offset + latent, block.y) - residual @ precision

    def whitened(self, coef, loadings, latent, block):
        return (latent - block.x @ coef) @ _inverse(loadings).T

    def moments(self, coef, loadings, rows, block):
        inverse = _inverse(loadings)
        variance = jnp.exp(2 * rows.log_sd)
        mean = (rows.mean - block.x @ coef) @ inverse.T
        covariance = jnp.einsum("kj,nj,lj->nkl", inverse, variance, inverse)
        return mean, covariance, block.law.expected(block.offset + rows.mean, variance, block.y)

    def sharpest(self, coef, loadings, rows, block):
        sd, rate = jnp.exp(rows.log_sd), block.law.rate(block.offset + rows.mean, block.y)
        precision, _ = inverse_and_logdet(loadings @ loadings.T)
        told = block.law.curvature(rate, block.y)
        return jnp.max(sd * (told * sd + sd @ jnp.abs(precision)), axis=1)

    def carried(self, rows, transport, block):
        return rows


class FactorFrame(AbstractFrame):
    """Gaussians of w."""

    def joint(self, coef, loadings, latent, block):
        predictor = block.offset + block.x @ coef + latent @ loadings.T
        counts = jnp.sum(block.law.log_prob(predictor, block.y), axis=-1) - block.log_factorial
        return counts - 0.5 * (jnp.sum(latent**2, axis=-1) + latent.shape[-1] * LOG_TWO_PI)

    def local(self, coef, loadings, latent, block):
        predictor = block.offset + block.x @ coef + latent @ loadings.T
        counts = jnp.sum(block.law.log_prob(predictor, block.y), axis=-1)
        return counts[..., None] - 0.5 * latent**2

    def slope(self, coef, loadings, latent, block):
        predictor = block.offset + block.x @ coef + latent @ loadings.T
        return (block.y - block.law.rate(predictor, block.y)) @ loadings - latent

    def whitened(self, coef, loadings, latent, block):
        return latent

    def moments(self, coef, loadings, rows, block):
        variance = jnp.exp(2 * rows.log_sd)
        predictor = block.offset + block.x @ coef + rows.mean @ loadings.T
        covariance = jax.vmap(jnp.diag)(variance)
        spread = variance @ (loadings**2).T
        return rows.mean, covariance, block.law.expected(predictor, spread, block.y)

    def sharpest(self, coef, loadings, rows, block):
        sd, size = jnp.exp(rows.log_sd), jnp.abs(loadings)
        rate = block.law.rate(block.offset + block.x @ coef + rows.mean @ loadings.T, block.y)
        told = block.law.curvature(rate, block.y)
        return jnp.max(sd * (sd + (told * (sd @ size.T)) @ size), axis=1)

    def carried(self, rows, transport, block):
        return rows._replace(mean=rows.mean @ transport.turn + block.x @ transport.shift)


def _inverse(loadings: Loadings) -> Array:
    return solve_triangular(loadings, jnp.eye(len(loadings), dtype=loadings.dtype), lower=True)


def noise(key: Array, index: Array, draws: int, size: int) -> Array:
    """Standard normals (draws, n, size), from keys folded with the rows' global numbers."""

    def one(i):
        return jax.random.normal(jax.random.fold_in(key, i), (draws, size))

    return jax.vmap(one, out_axes=1)(index)


def log_density(rows: Diagonals, unit: Array) -> Array:
    """Log q of each component at m + s e, (..., n, k)."""
    return -0.5 * unit**2 - rows.log_sd - 0.5 * LOG_TWO_PI


# Estimates of the gradient of a row's bound from draws: by the score function, or through the draws.
#
# Start at `AbstractSlope`. All but `ImportanceWeighted` have the gradient of the plain bound as their mean. Sources:
# Ranganath, Gerrish & Blei (2014); Kool, van Hoof & Welling (2019); Burda, Grosse & Salakhutdinov (2016); Tucker,
# Lawson, Gu & Maddison (2019).


class Place(NamedTuple):
    """Where a gradient is asked for: frame, B, C and the rows."""

    frame: AbstractFrame
    coef: Coefficients
    loadings: Loadings
    block: Block

    def joint(self, latent: Array) -> Array:
        """Log p(y_i, latent_i), (..., n)."""
        return self.frame.joint(self.coef, self.loadings, latent, self.block)

    def local(self, latent: Array) -> Array:
        """Terms in which each component occurs, (..., n, k)."""
        return self.frame.local(self.coef, self.loadings, latent, self.block)

    def slope(self, latent: Array) -> Array:
        """Gradient of `joint`, (..., n, k)."""
        return self.frame.slope(self.coef, self.loadings, latent, self.block)

    def sharpest(self, rows: Diagonals) -> Rows:
        """A bound of the curvature of -`joint` at the rows' means, in their standard deviations, (n,)."""
        return self.frame.sharpest(self.coef, self.loadings, rows, self.block)


class Slopes(NamedTuple):
    """Gradient of a row's objective in mean and log standard deviation (n, k), the objective's estimate (n,)."""

    mean: Latent
    log_sd: Latent
    value: Rows


class AbstractSlope(eqx.Module):
    """An estimator of the gradient from standard normals `unit` (s, n, k), latent = m + s e."""

    @abstractmethod
    def slopes(self, place: Place, rows: Diagonals, unit: Array) -> Slopes:
        """The estimate for every row; O(s n p k) at most."""

    @abstractmethod
    def shares(self, place: Place, rows: Diagonals, unit: Array) -> Array:
        """The weights of the draws in the rows' statistic, summing to one over draws, (s, n)."""


class Score(AbstractSlope):
    """E_q[grad log q (log p - log q)].

    `local`: for each component only the terms in which it occurs (Rao-Blackwell); `leave_one_out`: less the mean of
    the other draws (needs two draws).
    """

    local: bool = eqx.field(static=True, default=False)
    leave_one_out: bool = eqx.field(static=True, default=False)

    def slopes(self, place, rows, unit):
        sd = jnp.exp(rows.log_sd)
        latent = rows.mean + sd * unit
        log_q = log_density(rows, unit)
        whole = place.joint(latent) - jnp.sum(log_q, axis=-1)
        reward = place.local(latent) - log_q if self.local else whole[..., None]
        if self.leave_one_out:
            draws = unit.shape[0]
            reward = (reward - jnp.mean(reward, axis=0)) * draws / (draws - 1)
        for_mean = jnp.mean(unit / sd * reward, axis=0)
        for_log_sd = jnp.mean((unit**2 - 1) * reward, axis=0)
        return Slopes(for_mean, for_log_sd, jnp.mean(whole, axis=0))

    def shares(self, place, rows, unit):
        return jnp.full(unit.shape[:2], 1 / unit.shape[0])


class Reparameterised(AbstractSlope):
    """E_e[grad log p(y, m + s e)], the entropy in closed form."""

    def slopes(self, place, rows, unit):
        sd = jnp.exp(rows.log_sd)
        latent = rows.mean + sd * unit
        through = place.slope(latent)
        value = jnp.mean(place.joint(latent) - jnp.sum(log_density(rows, unit), axis=-1), axis=0)
        return Slopes(jnp.mean(through, axis=0), 1 + jnp.mean(through * sd * unit, axis=0), value)

    def shares(self, place, rows, unit):
        return jnp.full(unit.shape[:2], 1 / unit.shape[0])


class ImportanceWeighted(AbstractSlope):
    """Gradient of log mean_s p(y, z_s) / q(z_s), doubly reparameterised.

    sum_s v_s^2 (d log r_s / d z_s) (d z_s / d phi), v_s the normalised ratios r_s: without the score of q, whose
    signal vanishes as the number of draws grows.
    """

    def slopes(self, place, rows, unit):
        sd = jnp.exp(rows.log_sd)
        latent = rows.mean + sd * unit
        log_ratio = place.joint(latent) - jnp.sum(log_density(rows, unit), axis=-1)
        share = jax.nn.softmax(log_ratio, axis=0)[..., None]
        through = share**2 * (place.slope(latent) + unit / sd)
        value = jax.nn.logsumexp(log_ratio, axis=0) - jnp.log(unit.shape[0])
        return Slopes(jnp.sum(through, axis=0), jnp.sum(through * sd * unit, axis=0), value)

    def shares(self, place, rows, unit):
        latent = rows.mean + jnp.exp(rows.log_sd) * unit
        log_ratio = place.joint(latent) - jnp.sum(log_density(rows, unit), axis=-1)
        return jax.nn.softmax(log_ratio, axis=0)
