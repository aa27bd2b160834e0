"""From a latent position and covariates to the numbers that a likelihood takes.

Start at `AbstractDecoder`: latent (..., q) and covariates (..., d) give (..., width). The linear decoders need no
network: out = a + x'B + C w, with C free or V diag(e^t) from a borrowed basis V.
"""

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
from jax import Array, lax

from poplin._axes import Coefficients, Loadings
from poplin.models.networks import Network


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
