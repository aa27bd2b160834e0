"""Functions of every entry of a table, in forms that are quick and exact enough in single precision.

Start at `softplus` and `negative_binomial`: a step of training spends on them what it does not spend on matrix
products.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

SHIFT = (
    4  # arguments are raised by it before Stirling's series, whose next term is then 1 / (1260 4^5) < 1e-6
)


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """Log(1 + e^x); its derivative is the logistic function, from the same exponential."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_slope(primals, tangents):
    (x,), (along,) = primals, tangents
    return softplus(x), along * jax.nn.sigmoid(x)


def row_sums(values: Array) -> Array:
    """Sums over the last axis, as a product with ones: a sum inside a loop keeps that loop from being vectorised."""
    # whole precision: an accelerator would round what it multiplies to ten bits
    return jnp.matmul(values, jnp.ones(values.shape[-1], values.dtype), precision="highest")


@jax.custom_jvp
def negative_binomial(log_rate: Array, log_size: Array, y: Array) -> Array:
    """Log p(y) without -log y! of each entry, mean e^(log_rate), size r = e^(log_size); the derivative is closed.

    With s = m / (m + r): y log s + r log(1 - s) + log Gamma(y + r) - log Gamma(r), its slopes y - (y + r) s along
    log m, and r times that of the last two terms - (y - (y + r) s) + r log(1 - s) along log r.
    """
    size, log_odds = jnp.exp(log_size), log_rate - log_size
    total = softplus(log_odds)
    return y * (log_odds - total) - size * total + log_rising(y, size)


@negative_binomial.defjvp
def _negative_binomial_slopes(primals, tangents):
    (log_rate, log_size, y), (along_rate, along_size, _) = primals, tangents
    size, log_odds = jnp.exp(log_size), log_rate - log_size
    total, share = jax.jvp(softplus, (log_odds,), (jnp.ones_like(log_odds),))
    rising, slope = jax.jvp(lambda r: log_rising(y, r), (size,), (size,))
    by_rate = y - (y + size) * share
    by_size = slope - by_rate - size * total
    value = y * (log_odds - total) - size * total + rising
    return value, along_rate * by_rate + along_size * by_size


def log_rising(y: Array, size: Array) -> Array:
    """Log Gamma(y + r) - log Gamma(r) for y >= 0 and r = `size` > 0, to about 1e-6 in single precision.

    With z = r + 4: (r - 1/2) log(1 + y / z) + y (log(y + z) - 1) + [1 / 12 (y + z) - 1 / 12 z] - ..., less the logs of
    r (r + 1) (r + 2) (r + 3) / z^4 at y + r and at r: nothing is taken off from anything as large as log Gamma.
    """
    if jnp.result_type(y, size) == jnp.float64:
        return gammaln(y + size) - gammaln(size)
    z = size + SHIFT
    slope = jnp.log1p(y / z)
    high, low = 1 / (y + z), 1 / z
    tail = (high - low) / 12 - (high**3 - low**3) / 360
    ratio = jnp.log(_lowered(y + size, high)) - jnp.log(_lowered(size, low))
    return (size - 0.5) * slope + y * (jnp.log(z) + slope - 1) + tail - ratio


def _lowered(x: Array, inverse: Array) -> Array:
    """X (x + 1) (x + 2) (x + 3) / (x + 4)^4, `inverse` = 1 / (x + 4): no overflow however large x is."""
    return (x * inverse) * ((x + 1) * inverse) * ((x + 2) * inverse) * ((x + 3) * inverse)
