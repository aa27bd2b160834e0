"""The law of a latent position before anything is seen: standard normal, or a mixture of normals.

Start at `AbstractPrior`. `divergence` is KL(q || p) of a row's Gaussian: in closed form where there is one, else at
the draws (one unbiased value a draw).
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

LOG_2PI = 1.8378770664093453


class AbstractPrior(eqx.Module):
    """p(w), w in R^q."""

    @abstractmethod
    def log_prob(self, latent: Array) -> Array:
        """Log p(w) in nats for w (..., q)."""

    @abstractmethod
    def divergence(self, posterior: Any, latent: Array, log_density: Array) -> Array:
        """KL(q || p) of each row (n,): draws (s, n, q) of q and their log density (s, n) are at hand."""

    @abstractmethod
    def sample(self, key: Array, shape: tuple[int, int]) -> Array:
        """Draws, `shape` = (n, q)."""


class StandardNormal(AbstractPrior):
    """w ~ N(0, I)."""

    def log_prob(self, latent):
        return -0.5 * jnp.sum(latent**2 + LOG_2PI, axis=-1)

    def divergence(self, posterior, latent, log_density):
        return posterior.divergence()

    def sample(self, key, shape):
        return jax.random.normal(key, shape)


class Mixture(AbstractPrior):
    """w ~ sum_k pi_k N(m_k, diag(e^(2 t_k))): logits (k,), means and log scales (k, q); summed by logsumexp."""

    logits: Array
    means: Array
    log_scales: Array

    def joint(self, latent: Array) -> Array:
        """Log pi_k + log N(w; m_k, ...) for every k, (..., k)."""
        # |w - m|^2 / s^2 by three products: no array of (rows, k, q)
        precision = jnp.exp(-2 * self.log_scales)
        square = latent**2 @ precision.T - 2 * latent @ (self.means * precision).T
        distance = square + jnp.sum(self.means**2 * precision, axis=1)
        constant = jnp.sum(2 * self.log_scales + LOG_2PI, axis=1)
        return jax.nn.log_softmax(self.logits) - 0.5 * (distance + constant)

    def responsibilities(self, latent: Array) -> Array:
        """P(component k | w), (..., k)."""
        return jax.nn.softmax(self.joint(latent), axis=-1)

    def log_prob(self, latent):
        return jax.nn.logsumexp(self.joint(latent), axis=-1)

    def divergence(self, posterior, latent, log_density):
        return jnp.mean(log_density - self.log_prob(latent), axis=0)

    def sample(self, key, shape):
        for_which, for_where = jax.random.split(key)
        which = jax.random.categorical(for_which, self.logits, shape=shape[:1])
        noise = jax.random.normal(for_where, shape)
        return self.means[which] + jnp.exp(self.log_scales[which]) * noise
