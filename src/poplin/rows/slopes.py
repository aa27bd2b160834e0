"""Estimates of the gradient of a row's bound from draws: by the score function, or through the draws.

Start at `AbstractSlope`. All but `ImportanceWeighted` have the gradient of the plain bound as their mean. Sources:
Ranganath, Gerrish & Blei (2014); Kool, van Hoof & Welling (2019); Burda, Grosse & Salakhutdinov (2016); Tucker, Lawson,
Gu & Maddison (2019).
"""

from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Coefficients, Latent, Loadings, Rows
from poplin.data.blocks import Block
from poplin.rows.frames import AbstractFrame, Diagonals, log_density


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
