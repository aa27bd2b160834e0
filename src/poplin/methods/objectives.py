"""What a model with an encoder is trained for: the bound, the importance-weighted bound, reconstruction.

Start at `AbstractObjective`: every objective is a mean over rows of one number a row, in nats, higher is better, so
that its gradient is a sum over rows. `log_ratios` serves the objectives and the likelihood after the fit.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import gammaln

from poplin._compile import compiled
from poplin.data.blocks import Block
from poplin.models.decoders import AbstractDecoder
from poplin.models.likelihoods import AbstractLikelihood
from poplin.models.priors import AbstractPrior
from poplin.rows.encoders import AbstractEncoder

FEWEST_DEGREES = 5  # of freedom of the proposal; otherwise as many as latent dimensions


class Amortised(NamedTuple):
    """A model (prior, decoder, likelihood) whose rows are found by an encoder."""

    encoder: AbstractEncoder
    decoder: AbstractDecoder
    likelihood: AbstractLikelihood
    prior: AbstractPrior


class Terms(NamedTuple):
    """Per row (n,): the objective, E_q log p(y | w), and KL(q || p); the bound is the second minus the third."""

    objective: Array
    reconstruction: Array
    divergence: Array


class AbstractObjective(eqx.Module):
    """A number a row; `temper` in [0, 1] is the weight that the KL term has so far."""

    @abstractmethod
    def terms(self, model: Any, key: Array, block: Block, temper: Array) -> Terms:
        """The objective of each row of a block and its two parts."""


def noise(key: Array, draws: int, posterior: Any) -> Array:
    """Standard normal numbers (draws, n, q) for a posterior's rows."""
    return jax.random.normal(key, (draws, *posterior.mean.shape), posterior.mean.dtype)


class Bound(AbstractObjective):
    """E_q log p(y | w) - beta KL(q || p), the expectation by reparameterised draws (Kingma & Welling 2014)."""

    beta: Array
    draws: int = eqx.field(static=True)

    def terms(self, model, key, block, temper):
        posterior = model.encoder(block.y, block.x, block.offset)
        unit = noise(key, self.draws, posterior)
        latent = posterior.draw(unit)
        out = model.decoder(latent, block.x)
        value = jnp.mean(model.likelihood.kernel(out, block.y, block.offset), axis=0) - block.log_factorial
        divergence = model.prior.divergence(posterior, latent, posterior.log_density(unit))
        return Terms(value - temper * self.beta * divergence, value, divergence)


class ExactBound(AbstractObjective):
    """The bound without draws: linear decoder, standard normal prior, Gaussian or Poisson likelihood.

    C w + a is Gaussian under q, with mean a + C m and variances c_j'S c_j, and the likelihood knows its `expected`
    kernel under such a law. For Poisson rates this is the bound of a Poisson-lognormal model, and no network decodes.
    """

    beta: Array

    def terms(self, model, key, block, temper):
        posterior = model.encoder(block.y, block.x, block.offset)
        out = model.decoder(posterior.mean, block.x)
        variance = posterior.spread(model.decoder.loadings())
        value = model.likelihood.expected(out, variance, block.y, block.offset) - block.log_factorial
        divergence = posterior.divergence()
        return Terms(value - temper * self.beta * divergence, value, divergence)


class ImportanceBound(AbstractObjective):
    """E log mean_s p(y, w_s) / q(w_s) over s draws (Burda, Grosse & Salakhutdinov 2016); beta and temper play no part.

    The divergence reported is the reconstruction minus the objective, so that their difference is the objective.
    """

    draws: int = eqx.field(static=True)

    def terms(self, model, key, block, temper):
        posterior = model.encoder(block.y, block.x, block.offset)
        unit = noise(key, self.draws, posterior)
        ratios, kernel = _ratios(model, posterior, unit, posterior.log_density(unit), block)
        value = jax.nn.logsumexp(ratios, axis=0) - jnp.log(self.draws) - block.log_factorial
        share = jax.nn.softmax(ratios, axis=0)
        reconstruction = jnp.sum(share * kernel, axis=0) - block.log_factorial
        return Terms(value, reconstruction, reconstruction - value)


class Reconstruction(AbstractObjective):
    """Log p(y | f(g(y))): an autoencoder's, at the encoder's position, with no prior."""

    def terms(self, model, key, block, temper):
        posterior = model.encoder(block.y, block.x, block.offset)
        out = model.decoder(posterior.mean, block.x)
        value = model.likelihood.kernel(out, block.y, block.offset) - block.log_factorial
        return Terms(value, value, jnp.zeros_like(value))


class Binarised(AbstractObjective):
    """An objective of rows of zeros and ones, drawn anew with the probabilities that the rows hold."""

    objective: AbstractObjective

    def terms(self, model, key, block, temper):
        for_y, key = jax.random.split(key)
        # 16 bits a pixel: half the random numbers, and a probability is off by 2^-17 at most
        drawn = (jax.random.bits(for_y, block.y.shape, jnp.uint16) + 0.5) / 65536 < block.y
        return self.objective.terms(model, key, block._replace(y=drawn.astype(block.y.dtype)), temper)


def _ratios(model: Any, posterior: Any, unit: Array, log_density: Array, block: Block) -> tuple[Array, Array]:
    """Log p(y, w) - log density of w without the part that no draw changes, and log p(y | w), both (s, n)."""
    latent = posterior.draw(unit)
    kernel = model.likelihood.kernel(model.decoder(latent, block.x), block.y, block.offset)
    return kernel + model.prior.log_prob(latent) - log_density, kernel


def log_ratios(model: Any, key: Array, block: Block, draws: int, *, student: bool) -> Array:
    """Log p(y_i, w_s) - log t(w_s) for draws from around the encoder's Gaussian, (s, n), every constant included.

    t is that Gaussian, or the Student density of max(q, 5) degrees of freedom with its place and shape, under which the
    ratios are bounded wherever the likelihood is: the prior's tails are lighter.
    """
    posterior = model.encoder(block.y, block.x, block.offset)
    for_normal, for_radius = jax.random.split(key)
    unit = noise(for_normal, draws, posterior)
    log_density = posterior.log_density(unit)
    if student:
        q = unit.shape[-1]
        nu = max(q, FEWEST_DEGREES)
        squares = jax.random.normal(for_radius, (*unit.shape[:-1], nu), unit.dtype) ** 2
        unit = unit * jnp.sqrt(nu / jnp.sum(squares, axis=-1, keepdims=True))
        constant = gammaln((nu + q) / 2) - gammaln(nu / 2) - 0.5 * q * np.log(nu * np.pi)
        tails = constant - 0.5 * (nu + q) * jnp.log1p(jnp.sum(unit**2, axis=-1) / nu)
        log_density = tails - jnp.sum(posterior.log_scale, axis=-1)
    return _ratios(model, posterior, unit, log_density, block)[0] - block.log_factorial


@compiled()
def row_values(model: Any, block: Block) -> Array:
    """Log p(y | f(m)) of each row at its encoder's position m, (n,)."""
    return Reconstruction().terms(model, jnp.zeros(2, jnp.uint32), block, jnp.ones(())).reconstruction


@compiled()
def positions(model: Any, block: Block) -> tuple[Array, Array]:
    """Means and variances of the rows' latent positions, both (n, q)."""
    posterior = model.encoder(block.y, block.x, block.offset)
    return posterior.mean, posterior.variance()
