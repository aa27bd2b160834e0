"""The bound of a Poisson-lognormal model whose rows' Gaussians come from an encoder, in closed form.

Start at `EncodedBound`, an objective for minibatches. What an encoder gives does not depend on B and C: it is a
Gaussian of w in a factor form, of Z - XB_0 in the direct form, B_0 fixed. So an M-step given the rows' Gaussians never
lowers the bound.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from poplin._axes import Coefficients, Loadings, Rows
from poplin.data.blocks import Block
from poplin.methods.objectives import AbstractObjective, Terms
from poplin.models.loadings import AbstractLoadings
from poplin.rows.encoders import AbstractEncoder, AbstractPosterior
from poplin.rows.plane import rates
from poplin.updates.structure import Model


class Encoded(NamedTuple):
    """What is trained: the encoder, and the free parameters of (B, C)."""

    encoder: AbstractEncoder
    shared: Any


class Embedder(eqx.Module):
    """An encoder, what its Gaussians are Gaussians of, and how many free steps come behind it.

    `origin` is B_0 in the direct form, where they are Gaussians of Z - XB_0, and None in a factor form (of w).
    """

    encoder: AbstractEncoder
    origin: Any
    refine: int = eqx.field(static=True)


class Seen(NamedTuple):
    """Under a row's Gaussian: mean and variance of the log rates (n, p), and KL to the latent's law (n,)."""

    predictor: Array
    spread: Array
    divergence: Rows


class AbstractLatent(eqx.Module):
    """What the encoder's Gaussians are Gaussians of."""

    @abstractmethod
    def seen(self, posterior: AbstractPosterior, model: Model, block: Block) -> Seen:
        """What the bound needs of them; `model.loadings` is C with Sigma = C C'."""


class FactorLatent(AbstractLatent):
    """Of w, w ~ N(0, I): log rates o + x'B + C w."""

    def seen(self, posterior, model, block):
        predictor = block.offset + block.x @ model.coef + posterior.mean @ model.loadings.T
        return Seen(predictor, posterior.spread(model.loadings), posterior.divergence())


class DirectLatent(AbstractLatent):
    """Of Z - XB_0, Z ~ N(XB, Sigma): log rates o + Z. `coef` is B_0; C is a Cholesky factor of Sigma.

    KL = 1/2 (|C^-1 r|^2 + tr(C^-1 S C^-T) - p) + log det C - log det S / 2, r = m + X(B_0 - B).
    """

    coef: Coefficients

    def seen(self, posterior, model, block):
        move = block.x @ lax.stop_gradient(self.coef)
        inverse = _inverse(model.loadings)
        whitened = (posterior.mean + move - block.x @ model.coef) @ inverse.T
        trace = jnp.sum(posterior.spread(inverse), axis=-1)
        quadratic = 0.5 * (jnp.sum(whitened**2, axis=-1) + trace - whitened.shape[-1])
        entropy = jnp.sum(posterior.log_scale, axis=-1)
        logdet = jnp.sum(jnp.log(jnp.diagonal(model.loadings)))
        return Seen(block.offset + move + posterior.mean, posterior.variance(), quadratic + logdet - entropy)


def _inverse(loadings: Loadings) -> Array:
    return solve_triangular(loadings, jnp.eye(len(loadings), dtype=loadings.dtype), lower=True)


def bound_terms(latent: AbstractLatent, posterior: AbstractPosterior, model: Model, block: Block) -> Terms:
    """The bound of each row, its reconstruction and its divergence, in nats, every constant; O(n p q)."""
    seen = latent.seen(posterior, model, block)
    counts = jnp.sum(block.y * seen.predictor - rates(seen.predictor + 0.5 * seen.spread), axis=-1)
    counts = counts - block.log_factorial
    return Terms(counts - seen.divergence, counts, seen.divergence)


class EncodedBound(AbstractObjective):
    """The bound of rows whose Gaussians the encoder gives.

    A_ij = exp(predictor_ij + spread_ij / 2); sum_j [y_ij predictor_ij - A_ij - log y_ij!] - KL_i. `follows`: B and C
    climb as well; otherwise they stay as they are.
    """

    free: AbstractLoadings
    latent: AbstractLatent
    follows: bool = eqx.field(static=True)

    def terms(self, model, key, block, temper):
        shared = model.shared if self.follows else lax.stop_gradient(model.shared)
        posterior = model.encoder(block.y, block.x, block.offset)
        return bound_terms(self.latent, posterior, Model(*self.free.expand(shared)), block)
