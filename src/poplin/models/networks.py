"""Fully connected networks as plain arrays: what encoders and decoders are made of.

Start at `Network`; `random_network` gives one its first weights. Inputs are rows, (..., k): the layers are matrix
products, so a batch is one product and not a `vmap` of many.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from poplin._axes import Coefficients, Loadings


class Network(eqx.Module):
    """x -> a(x W_1 + b_1) -> ... -> h W_l + b_l; without hidden layers it is affine."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(self, rows: Array) -> Array:
        """What the last layer gives for rows (..., k)."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            rows = self.activation(affine(rows, weight, bias))
        return affine(rows, self.weights[-1], self.biases[-1])


@jax.custom_vjp
def affine(rows: Array, weight: Array, bias: Array) -> Array:
    """Rows (..., k) W + b. Its gradient is three products of arrays as they lie; JAX's own transposes one before."""
    return rows @ weight + bias


def _affine(rows: Array, weight: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return affine(rows, weight, bias), (rows, weight)


def _affine_slopes(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array, Array]:
    rows, weight = kept
    inner, outer = rows.reshape(-1, rows.shape[-1]), slope.reshape(-1, slope.shape[-1])
    return slope @ weight.T, inner.T @ outer, jnp.ones(len(outer), outer.dtype) @ outer


affine.defvjp(_affine, _affine_slopes)


def random_network(
    random: np.random.Generator,
    sizes: Sequence[int],
    activation: Callable[[Array], Array],
    *,
    final_scale: float = 1.0,
) -> Network:
    """A network of layers sizes[0] -> sizes[1] -> ..., weights N(0, 1 / inputs), biases zero, single precision.

    `final_scale` multiplies the last layer's weights: a small one lets every row start from the same output.
    """
    weights = [
        random.standard_normal((a, b)) / np.sqrt(max(a, 1)) for a, b in zip(sizes, sizes[1:], strict=False)
    ]
    weights[-1] = weights[-1] * final_scale
    single = tuple(np.asarray(weight, dtype=np.float32) for weight in weights)
    return Network(single, tuple(np.zeros(b, dtype=np.float32) for b in sizes[1:]), activation)  # type: ignore[arg-type]


# From a latent position and covariates to the numbers that a likelihood takes.
#
# Start at `AbstractDecoder`: latent (..., q) and covariates (..., d) give (..., width). The linear decoders need no
# network: out = a + x'B + C w, with C free or V diag(e^t) from a borrowed basis V.


class AbstractDecoder(eqx.Module):
    """out = f(w, x)."""

    @abstractmethod
    def __call__(self, latent: Array, x: Array) -> Array:
        """What the likelihood takes, for latent positions (..., q) under covariates (..., d)."""


class NetworkDecoder(AbstractDecoder):
    """A network of the latent position and the covariates side by side, plus an intercept of each output."""

    network: Network
    intercept: Array

    def __call__(self, latent, x):
        # (w, x) W = w W_w + x W_x, without putting the two side by side for every draw
        q, first = latent.shape[-1], self.network.weights[0]
        inner = self.network
        hidden = latent @ first[:q] + (inner.biases[0] + x @ first[q:])
        if len(inner.weights) == 1:
            return hidden + self.intercept
        rest = Network(inner.weights[1:], inner.biases[1:], inner.activation)
        return rest(inner.activation(hidden)) + self.intercept


class LinearDecoder(AbstractDecoder):
    """out = a + x'B + C w, all free: a (p,), B (d, p), C (p, q)."""

    intercept: Array
    coef: Coefficients
    free: Loadings

    def loadings(self) -> Loadings:
        """C (p, q)."""
        return self.free

    def __call__(self, latent, x):
        return latent @ self.free.T + (self.intercept + x @ self.coef)


class BorrowedDecoder(AbstractDecoder):
    """out = a + x'B + V diag(e^t) w: V (p, q) comes from elsewhere, t (q,) is half the log of Lambda."""

    intercept: Array
    coef: Coefficients
    log_scale: Array
    basis: Loadings

    def loadings(self) -> Loadings:
        """C = V Lambda^(1/2), (p, q)."""
        return lax.stop_gradient(self.basis) * jnp.exp(self.log_scale)

    def __call__(self, latent, x):
        return latent @ self.loadings().T + (self.intercept + x @ self.coef)


# The law of a latent position before anything is seen: standard normal, or a mixture of normals.
#
# Start at `AbstractPrior`. `divergence` is KL(q || p) of a row's Gaussian: in closed form where there is one, else at
# the draws (one unbiased value a draw).


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
