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
from jax import Array
from jax.scipy.linalg import solve_triangular

from poplin._axes import Coefficients, Latent, Loadings
from poplin._precision import inverse_and_logdet
from poplin.data.blocks import Block
from poplin.rows.plane import rates

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
    ) -> tuple[Array, Array, Array]:
        """Mean (n, q) and covariance (n, q, q) of w under the rows' Gaussians, and the mean rates (n, p)."""

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
        counts = jnp.sum(block.y * predictor - rates(predictor), axis=-1) - block.log_factorial
        quadratic = jnp.sum((residual @ precision) * residual, axis=-1)
        return counts - 0.5 * (quadratic + logdet + len(loadings) * LOG_TWO_PI)

    def local(self, coef, loadings, latent, block):
        residual = latent - block.x @ coef
        precision, _ = inverse_and_logdet(loadings @ loadings.T)
        predictor = block.offset + latent
        own = 0.5 * jnp.diagonal(precision) * residual**2 - residual * (residual @ precision)
        return block.y * predictor - rates(predictor) + own

    def slope(self, coef, loadings, latent, block):
        residual = latent - block.x @ coef
        precision, _ = inverse_and_logdet(loadings @ loadings.T)
        return block.y - rates(block.offset + latent) - residual @ precision

    def whitened(self, coef, loadings, latent, block):
        return (latent - block.x @ coef) @ _inverse(loadings).T

    def moments(self, coef, loadings, rows, block):
        inverse = _inverse(loadings)
        variance = jnp.exp(2 * rows.log_sd)
        mean = (rows.mean - block.x @ coef) @ inverse.T
        covariance = jnp.einsum("kj,nj,lj->nkl", inverse, variance, inverse)
        return mean, covariance, rates(block.offset + rows.mean + 0.5 * variance)

    def sharpest(self, coef, loadings, rows, block):
        sd, rate = jnp.exp(rows.log_sd), rates(block.offset + rows.mean)
        precision, _ = inverse_and_logdet(loadings @ loadings.T)
        return jnp.max(sd * (rate * sd + sd @ jnp.abs(precision)), axis=1)

    def carried(self, rows, transport, block):
        return rows


class FactorFrame(AbstractFrame):
    """Gaussians of w."""

    def joint(self, coef, loadings, latent, block):
        predictor = block.offset + block.x @ coef + latent @ loadings.T
        counts = jnp.sum(block.y * predictor - rates(predictor), axis=-1) - block.log_factorial
        return counts - 0.5 * (jnp.sum(latent**2, axis=-1) + latent.shape[-1] * LOG_TWO_PI)

    def local(self, coef, loadings, latent, block):
        predictor = block.offset + block.x @ coef + latent @ loadings.T
        counts = jnp.sum(block.y * predictor - rates(predictor), axis=-1)
        return counts[..., None] - 0.5 * latent**2

    def slope(self, coef, loadings, latent, block):
        predictor = block.offset + block.x @ coef + latent @ loadings.T
        return (block.y - rates(predictor)) @ loadings - latent

    def whitened(self, coef, loadings, latent, block):
        return latent

    def moments(self, coef, loadings, rows, block):
        variance = jnp.exp(2 * rows.log_sd)
        predictor = block.offset + block.x @ coef + rows.mean @ loadings.T
        covariance = jax.vmap(jnp.diag)(variance)
        return rows.mean, covariance, rates(predictor + 0.5 * variance @ (loadings**2).T)

    def sharpest(self, coef, loadings, rows, block):
        sd, size = jnp.exp(rows.log_sd), jnp.abs(loadings)
        rate = rates(block.offset + block.x @ coef + rows.mean @ loadings.T)
        return jnp.max(sd * (sd + (rate * (sd @ size.T)) @ size), axis=1)

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
