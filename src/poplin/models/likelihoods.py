"""What is seen given a decoder's output: Gaussian, Bernoulli, categorical, Poisson, negative binomial.

Start at `AbstractLikelihood`. The log density is split into `kernel`, which depends on the output, and `carrier`, which
depends on the data only and is computed once. All are in nats with every constant; output (..., width), y and offset
(..., p), results (...): axes in front are rows or draws.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import gammaln

from poplin.laws import negative_binomial, softplus
from poplin.models.draws import draw_counts

LARGEST_LOG_RATE = 25.0  # e^25 counts: beyond it a rate is held, so that no step overflows
SMALLEST_LOG_SCALE = (
    -7.0
)  # of a column's unit: below it a scale is held, or a constant column's density has no bound
LOG_2PI = 1.8378770664093453
LOWER = "Give an offset on the log scale that is like those of the rows that the model was fitted to."


def row_sums(values: Array) -> Array:
    """Sums over the last axis, as a product with ones: a sum inside a loop keeps that loop from being vectorised."""
    # whole precision: an accelerator would round what it multiplies to ten bits
    return jnp.matmul(values, jnp.ones(values.shape[-1], values.dtype), precision="highest")


class AbstractLikelihood(eqx.Module):
    """p(y | output, offset), a product over columns."""

    @abstractmethod
    def width(self, columns: int) -> int:
        """How many numbers a decoder gives for a row of so many columns."""

    @abstractmethod
    def kernel(self, out: Array, y: Array, offset: Array) -> Array:
        """The part of log p(y | out) that depends on the output, summed over columns."""

    @abstractmethod
    def carrier(self, y: Array) -> Array:
        """The part of log p(y | out) that depends on y only, summed over columns."""

    @abstractmethod
    def mean(self, out: Array, offset: Array) -> Array:
        """E[y | out], (..., p); for categories their number is meaningless: the most probable one."""

    @abstractmethod
    def sample(self, random: np.random.Generator, out: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """A draw of y, (..., p), by NumPy; an `InputError` for rates at which no count can be drawn."""

    def log_prob(self, out: Array, y: Array, offset: Array) -> Array:
        """Log p(y | out) in nats, every constant included."""
        return self.kernel(out, y, offset) + self.carrier(y)


class Gaussian(AbstractLikelihood):
    """y_j ~ N(a_j + u_j out_j, (u_j e^(t_j))^2): a, u (p,) the columns' place and unit, t (p,) learned or fixed."""

    log_scale: Array
    place: Array
    unit: Array
    learned: bool = eqx.field(static=True)

    def width(self, columns):
        return columns

    def scale(self) -> Array:
        """The standard deviation of each column, in its own units, (p,)."""
        learned = jnp.maximum(self.log_scale, SMALLEST_LOG_SCALE)
        log_scale = learned if self.learned else lax.stop_gradient(self.log_scale)
        return lax.stop_gradient(self.unit) * jnp.exp(log_scale)

    def kernel(self, out, y, offset):
        scale = self.scale()
        return -0.5 * row_sums(((y - self.mean(out, offset)) / scale) ** 2) - jnp.sum(jnp.log(scale))

    def expected(self, out: Array, variance: Array, y: Array, offset: Array) -> Array:
        """E[kernel] where the output is Gaussian with mean `out` and `variance`, both (..., p)."""
        spread = variance * (lax.stop_gradient(self.unit) / self.scale()) ** 2
        return self.kernel(out, y, offset) - 0.5 * jnp.sum(spread, axis=-1)

    def carrier(self, y):
        return jnp.full(y.shape[:-1], -0.5 * LOG_2PI * y.shape[-1], y.dtype)

    def mean(self, out, offset):
        return lax.stop_gradient(self.place) + lax.stop_gradient(self.unit) * out

    def sample(self, random, out, offset):
        scale = np.exp(np.maximum(self.log_scale, SMALLEST_LOG_SCALE) if self.learned else self.log_scale)
        return _normal(random, self, out, scale)


class RowGaussian(AbstractLikelihood):
    """As `Gaussian`, with one e^t a row, t the last of the p + 1 outputs."""

    place: Array
    unit: Array

    def width(self, columns):
        return columns + 1

    def _scale(self, out: Array) -> Array:
        return lax.stop_gradient(self.unit) * jnp.exp(jnp.maximum(out[..., -1:], SMALLEST_LOG_SCALE))

    def kernel(self, out, y, offset):
        scale = self._scale(out)
        return -jnp.sum(0.5 * ((y - self.mean(out, offset)) / scale) ** 2 + jnp.log(scale), axis=-1)

    def carrier(self, y):
        return jnp.full(y.shape[:-1], -0.5 * LOG_2PI * y.shape[-1], y.dtype)

    def mean(self, out, offset):
        return lax.stop_gradient(self.place) + lax.stop_gradient(self.unit) * out[..., :-1]

    def sample(self, random, out, offset):
        return _normal(random, self, out[..., :-1], np.exp(np.maximum(out[..., -1:], SMALLEST_LOG_SCALE)))


def _normal(
    random: np.random.Generator, law: Gaussian | RowGaussian, out: np.ndarray, scale: Any
) -> np.ndarray:
    """Draws about `out` with the standard deviation `scale`, both in the columns' units."""
    return np.asarray(law.place) + np.asarray(law.unit) * (out + scale * random.standard_normal(out.shape))


class Bernoulli(AbstractLikelihood):
    """y_j ~ Bernoulli(1 / (1 + e^-out_j)); for y between 0 and 1 the kernel is the expectation over a draw of it."""

    def width(self, columns):
        return columns

    def kernel(self, out, y, offset):
        return row_sums(y * out - softplus(out))

    def carrier(self, y):
        return jnp.zeros(y.shape[:-1], y.dtype)

    def mean(self, out, offset):
        return jax.nn.sigmoid(out)

    def sample(self, random, out, offset):
        return (random.logistic(size=out.shape) < out).astype(out.dtype)


class Categorical(AbstractLikelihood):
    """y_j in 0..K-1 with probabilities softmax(out_j1, ..., out_jK)."""

    levels: int = eqx.field(static=True)

    def width(self, columns):
        return columns * self.levels

    def _logits(self, out: Array) -> Array:
        return out.reshape(*out.shape[:-1], -1, self.levels)

    def kernel(self, out, y, offset):
        log_prob = jax.nn.log_softmax(self._logits(out), axis=-1)
        index = jnp.broadcast_to(y, log_prob.shape[:-1]).astype(int)[..., None]
        return jnp.sum(jnp.take_along_axis(log_prob, index, axis=-1)[..., 0], axis=-1)

    def carrier(self, y):
        return jnp.zeros(y.shape[:-1], y.dtype)

    def mean(self, out, offset):
        return jnp.argmax(self._logits(out), axis=-1).astype(out.dtype)

    def sample(self, random, out, offset):
        logits = out.reshape(*out.shape[:-1], -1, self.levels)
        return np.argmax(logits + random.gumbel(size=logits.shape), axis=-1).astype(out.dtype)


class Poisson(AbstractLikelihood):
    """y_j ~ Poisson(exp(offset_j + out_j))."""

    def width(self, columns):
        return columns

    def kernel(self, out, y, offset):
        log_rate = offset + out
        return row_sums(y * log_rate - jnp.exp(jnp.minimum(log_rate, LARGEST_LOG_RATE)))

    def expected(self, out: Array, variance: Array, y: Array, offset: Array) -> Array:
        """E[kernel] where the output is Gaussian with mean `out` and `variance`, both (..., p)."""
        log_rate = offset + out
        mean = jnp.exp(jnp.minimum(log_rate + 0.5 * variance, LARGEST_LOG_RATE))
        return row_sums(y * log_rate - mean)

    def carrier(self, y):
        return -jnp.sum(gammaln(y + 1), axis=-1)

    def mean(self, out, offset):
        return jnp.exp(jnp.minimum(offset + out, LARGEST_LOG_RATE))

    def sample(self, random, out, offset):
        return draw_counts(random, offset + out, mend=LOWER)


class NegativeBinomial(AbstractLikelihood):
    """y_j with mean m_j = exp(offset_j + out_j) and variance m_j + m_j^2 / r_j; r = e^log_size, (p,)."""

    log_size: Array

    def width(self, columns):
        return columns

    def kernel(self, out, y, offset):
        log_rate = jnp.minimum(offset + out, LARGEST_LOG_RATE)
        return row_sums(negative_binomial(log_rate, self.log_size, y))

    def carrier(self, y):
        return -jnp.sum(gammaln(y + 1), axis=-1)

    def mean(self, out, offset):
        return jnp.exp(jnp.minimum(offset + out, LARGEST_LOG_RATE))

    def sample(self, random, out, offset):
        log_size = np.asarray(self.log_size, dtype=float)
        extra = random.standard_gamma(np.broadcast_to(np.exp(log_size), out.shape))
        with np.errstate(divide="ignore"):  # of a size so small that the rate is 0
            return draw_counts(random, offset + out + np.log(extra) - log_size, mend=LOWER)
