"""What a count says of its log rate: the laws P(y | eta), eta = o + Z, of the cells of a table.

Start at `AbstractLaw`. No room further right knows a law by its name: chains, Gaussians, importance sampling,
information and prediction ask it for a log probability, a rate, a curvature. A law's arrays are its own parameters;
they are numbers of a model (k, p) or of cells (n, p), see `at_rows`, and the formulas are the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._numerics import double_precision

LARGEST_LOG_RATE = 300.0  # keeps hopeless starting points finite; far above any count

# Functions of every entry of a table, in forms that are quick and exact enough in single precision.
#
# Start at `softplus` and `negative_binomial`: a step of training spends on them what it does not spend on matrix
# products.


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """Log(1 + e^x); its derivative is the logistic function, from the same exponential."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_slope(primals, tangents):
    (x,), (along,) = primals, tangents
    return softplus(x), along * jax.nn.sigmoid(x)


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


class Series(NamedTuple):
    """Stirling's series of log Gamma from `shift` on: the coefficients of 1 / z, 1 / z^3, ... that are kept."""

    shift: int
    coefficients: tuple[float, ...]


SINGLE = Series(4, (1 / 12, -1 / 360))  # the next term is below 1 / (1260 4^5) < 1e-6
DOUBLE = Series(10, (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188))  # 691 / (360360 10^11) < 2e-14


@jax.jit  # traced once, not at each node of a quadrature
def log_rising(y: Array, size: Array) -> Array:
    """Log Gamma(y + r) - log Gamma(r) for y >= 0 and r = `size` > 0: to 1e-6 in single precision, 2e-14 in double.

    With z = r + shift: (r - 1/2) log(1 + y / z) + y (log(y + z) - 1) + [1 / 12 (y + z) - 1 / 12 z] - ..., less the logs
    of r (r + 1) ... (z - 1) / z^shift at y + r and at r. Nothing is taken off from anything as large as log Gamma(r),
    whose last digits are whole nats where r has gone to infinity, as it does where counts have no dispersion.
    """
    series = DOUBLE if jnp.result_type(y, size) == jnp.float64 else SINGLE
    z = size + series.shift
    slope = jnp.log1p(y / z)
    high, low = 1 / (y + z), 1 / z
    tail = sum(c * (high ** (2 * k + 1) - low ** (2 * k + 1)) for k, c in enumerate(series.coefficients))
    ratio = jnp.log(_lowered(y + size, high, series.shift)) - jnp.log(_lowered(size, low, series.shift))
    rising = (size - 0.5) * slope + y * (jnp.log(z) + slope - 1) + tail - ratio
    return jnp.where(y > 0, rising, 0.0)  # of a zero not its rounding


def _lowered(x: Array, inverse: Array, shift: int) -> Array:
    """X (x + 1) ... (x + shift - 1) / (x + shift)^shift, `inverse` = 1 / (x + shift): no overflow however large."""
    found = x * inverse
    for k in range(1, shift):
        found = found * ((x + k) * inverse)
    return found


# The laws themselves.


class Expected(NamedTuple):
    """Of cells with eta ~ N(m, v): `remainder` in expectation, or a bound below it, and what its slopes are.

    rate: minus the slope in m. weight: minus twice the slope in v; both are the mean rate for Poisson counts.
    """

    remainder: Array
    rate: Array
    weight: Array


class AbstractLaw(eqx.Module):
    """P(y | eta), cell by cell: eta, y and results (..., n, p)."""

    def log_prob(self, eta: Array, y: Array) -> Array:
        """Log P(y | eta) + log y!, nats."""
        return y * eta + self.remainder(eta, y)

    @abstractmethod
    def remainder(self, eta: Array, y: Array) -> Array:
        """Log P(y | eta) + log y! - y eta: minus e^eta for Poisson."""

    @abstractmethod
    def rate(self, eta: Array, y: Array) -> Array:
        """Y less the slope of log P(y | eta) in eta: e^eta for Poisson, what takes its place elsewhere; 0 or more."""

    @abstractmethod
    def curvature(self, rate: Array, y: Array) -> Array:
        """Minus the second derivative of log P in eta where `rate` is as given, or an upper bound that is positive."""

    @abstractmethod
    def expected(self, mean: Array, variance: Array, y: Array) -> Expected:
        """What the bound of a Gaussian has of each cell: closed for Poisson, else a quadrature of one dimension."""

    @abstractmethod
    def expected_scores(self, mean: Array, variance: Array, y: Array) -> Self:
        """Slopes of `expected` in the law's own parameters, each in its parameter's place."""

    @abstractmethod
    def gain(self, change: Array, eta: Array, rate: Array, moved: Array, y: Array) -> Array:
        """Log P(y | eta + change) - log P(y | eta), as exact as `change` is; `moved` is the rate at eta + change."""

    @abstractmethod
    def mirrored(self, change: Array, eta: Array, y: Array) -> tuple[Array, Array]:
        """Of one row, `remainder` at eta + change and at eta - change (s, p), each summed over columns."""

    @abstractmethod
    def exponential(self) -> bool:
        """Whether `remainder` is -e^eta, whose modes and chords beside a Gaussian are closed."""

    @abstractmethod
    def exposed(self) -> bool:
        """Whether `exposure` can be drawn."""

    @abstractmethod
    def exposure(self, uniform: Array, eta: Array, y: Array) -> Array:
        """Log of a factor g drawn given eta and y, given which y ~ Poisson(g e^eta); `NotImplementedError` else."""

    @abstractmethod
    def scores(self, eta: Array, y: Array) -> Self:
        """Slopes of log P(y | eta) in the law's own parameters: each in its parameter's place, (..., n, p)."""

    @abstractmethod
    def mean(self, eta: Array) -> Array:
        """E[y | eta]."""

    @abstractmethod
    def marginal_mean(self, mean: Array, variance: Array) -> Array:
        """E[y] where eta ~ N(mean, variance)."""

    @abstractmethod
    def variance(self, eta: Array) -> Array:
        """Var[y | eta]."""

    @abstractmethod
    def largest(self) -> float:
        """The largest count that there is; infinity where there is none."""

    @abstractmethod
    def cdf(self, eta: np.ndarray, y: np.ndarray) -> np.ndarray:
        """P(Y <= y | eta), y whole numbers from 0; on the host, in NumPy."""

    def over(self, change: Callable[[Any], Any]) -> Self:
        """The law with each of its arrays changed."""
        return jax.tree.map(change, self)

    def is_plain(self) -> bool:
        """Whether it is Poisson's, of which there are closed forms where others need quadrature."""
        return isinstance(self, Poisson)

    @abstractmethod
    def sample(self, random: np.random.Generator, eta: np.ndarray, poisson: Callable[..., Any]) -> Any:
        """A draw of y; `poisson(random, log_rate)` draws Poisson counts, and refuses rates at which there are none."""


class Poisson(AbstractLaw):
    """Counts of mean and variance e^eta."""

    def remainder(self, eta, y):
        return -self.rate(eta, y)

    def rate(self, eta, y):
        return jnp.exp(jnp.minimum(eta, LARGEST_LOG_RATE))

    def curvature(self, rate, y):
        return rate

    def expected(self, mean, variance, y):
        rate = self.rate(mean + 0.5 * variance, y)
        return Expected(-rate, rate, rate)

    def expected_scores(self, mean, variance, y):
        return self

    def gain(self, change, eta, rate, moved, y):
        # differences first: counts of 1e5 would drown the change in single precision
        return y * change - (moved - rate)

    def mirrored(self, change, eta, y):
        growth, rate = jnp.exp(change), self.rate(eta, y)
        return -(growth @ rate), -((1 / growth) @ rate)

    def exponential(self):
        return True

    def exposed(self):
        return True

    def exposure(self, uniform, eta, y):
        return jnp.zeros_like(eta)

    def scores(self, eta, y):
        return self

    def mean(self, eta):
        return jnp.exp(eta)

    def marginal_mean(self, mean, variance):
        return jnp.exp(mean + 0.5 * variance)

    def variance(self, eta):
        return jnp.exp(eta)

    def largest(self):
        return np.inf

    def cdf(self, eta, y):
        from scipy.special import pdtr

        return pdtr(y, np.exp(np.minimum(eta, LARGEST_LOG_RATE)))

    def sample(self, random, eta, poisson):
        return poisson(random, eta)


class AbstractSmoothLaw(AbstractLaw):
    """A law without closed forms of its own: expectations by quadrature, and cells that are never drawn one by one."""

    def expected(self, mean, variance, y):
        return _by_quadrature(self, mean, variance, y)

    def expected_scores(self, mean, variance, y):
        return _scores_by_quadrature(self, mean, variance, y)

    def mirrored(self, change, eta, y):
        return _on_both_sides(self, change, eta, y)

    def exponential(self):
        return False

    def exposed(self):
        return False

    def exposure(self, uniform, eta, y):
        raise NotImplementedError


class NegativeBinomial(AbstractSmoothLaw):
    """Counts of mean m = e^eta and variance m + m^2 / r, r = e^`log_size`: Poisson counts at m g, g ~ Gamma(r, r)."""

    log_size: Array

    def remainder(self, eta, y):
        size, total = jnp.exp(self.log_size), softplus(eta - self.log_size)
        return log_rising(y, size) - y * self.log_size - (y + size) * total

    def _share(self, eta: Array) -> Array:
        return jax.nn.sigmoid(eta - self.log_size)

    def rate(self, eta, y):
        return (y + jnp.exp(self.log_size)) * self._share(eta)

    def curvature(self, rate, y):
        return rate * (1 - rate / (y + jnp.exp(self.log_size)))

    def gain(self, change, eta, rate, moved, y):
        grown = jnp.log1p(self._share(eta) * jnp.expm1(change))
        return y * change - (y + jnp.exp(self.log_size)) * grown

    def scores(self, eta, y):
        size, log_odds = jnp.exp(self.log_size), jnp.minimum(eta, LARGEST_LOG_RATE) - self.log_size
        along = (jnp.ones_like(self.log_size),)
        rising = jax.jvp(lambda log_size: log_rising(y, jnp.exp(log_size)), (self.log_size,), along)[1]
        by_rate = y - (y + size) * jax.nn.sigmoid(log_odds)
        return NegativeBinomial(rising - by_rate - size * softplus(log_odds))

    def mean(self, eta):
        return jnp.exp(eta)

    def marginal_mean(self, mean, variance):
        return jnp.exp(mean + 0.5 * variance)

    def variance(self, eta):
        return jnp.exp(eta) + jnp.exp(2 * eta - self.log_size)

    def largest(self):
        return np.inf

    def cdf(self, eta, y):
        from scipy.special import betainc, expit

        log_size = np.asarray(self.log_size, float)
        return betainc(np.exp(log_size), y + 1, expit(log_size - eta))

    def sample(self, random, eta, poisson):
        log_size = np.broadcast_to(np.asarray(self.log_size, dtype=float), np.shape(eta))
        extra = random.standard_gamma(np.exp(log_size))
        with np.errstate(divide="ignore"):  # of a size so small that the rate is 0
            return poisson(random, eta + np.log(extra) - log_size)


class Bernoulli(AbstractSmoothLaw):
    """Presence, 0 or 1, of probability 1 / (1 + e^-eta)."""

    def remainder(self, eta, y):
        return -softplus(eta)

    def rate(self, eta, y):
        return jax.nn.sigmoid(eta)

    def curvature(self, rate, y):
        return rate * (1 - rate)

    def gain(self, change, eta, rate, moved, y):
        return y * change - jnp.log1p(rate * jnp.expm1(change))

    def scores(self, eta, y):
        return self

    def mean(self, eta):
        return jax.nn.sigmoid(eta)

    def marginal_mean(self, mean, variance):
        return self.expected(mean, variance, 0 * mean).rate

    def variance(self, eta):
        return jax.nn.sigmoid(eta) * jax.nn.sigmoid(-eta)

    def largest(self):
        return 1.0

    def cdf(self, eta, y):
        return np.where(y < 1, 1 / (1 + np.exp(np.minimum(eta, LARGEST_LOG_RATE))), 1.0)

    def sample(self, random, eta, poisson):
        return (random.logistic(size=np.shape(eta)) < eta).astype(float)


class ZeroInflated(AbstractLaw):
    """Zero with probability pi, whatever eta, else a count of the law `counts`; log(pi / (1 - pi)) is `logit`.

    A zero is one of the counts with probability w = (1 - pi) P_0 / (pi + (1 - pi) P_0), P_0 that law's own probability
    of zero: its rate is w times that law's.
    """

    counts: AbstractLaw
    logit: Array

    def _zero(self, eta: Array) -> Array:
        """Log odds that a zero is one of the counts."""
        return self.counts.remainder(eta, jnp.zeros_like(eta)) - self.logit

    def remainder(self, eta, y):
        seen = self.counts.remainder(eta, y)
        return jnp.where(y > 0, seen, self.logit + softplus(self._zero(eta))) - softplus(self.logit)

    def rate(self, eta, y):
        rate = self.counts.rate(eta, y)
        return jnp.where(y > 0, rate, jax.nn.sigmoid(self._zero(eta)) * rate)

    def curvature(self, rate, y):
        # of a zero w times the counts' less w (1 - w) times the square of their slope: at most the former
        return self.counts.curvature(rate, y)

    def expected(self, mean, variance, y):
        # log(pi + (1 - pi) e^h) is convex in h: its mean is at least what it is at the mean of h (Jensen)
        seen, zero = self.counts.expected(mean, variance, y), self.counts.expected(mean, variance, 0 * y)
        odds = zero.remainder - self.logit
        share = jnp.where(y > 0, 1.0, jax.nn.sigmoid(odds))
        value = jnp.where(y > 0, seen.remainder, self.logit + softplus(odds)) - softplus(self.logit)
        return Expected(value, share * seen.rate, share * seen.weight)

    def expected_scores(self, mean, variance, y):
        zero = self.counts.expected(mean, variance, 0 * y).remainder
        return self._scores(self.counts.expected_scores(mean, variance, y), zero - self.logit, y)

    def gain(self, change, eta, rate, moved, y):
        # of counts above zero `rate` is the counts' own
        seen = self.counts.gain(change, eta, rate, moved, y)
        return jnp.where(y > 0, seen, softplus(self._zero(eta + change)) - softplus(self._zero(eta)))

    def mirrored(self, change, eta, y):
        return _on_both_sides(self, change, eta, y)

    def exponential(self):
        return False

    def exposed(self):
        return self.counts.exposed()

    def exposure(self, uniform, eta, y):
        seen = self.counts.exposure(uniform, eta, y)
        counted = (y > 0) | (uniform < jax.nn.sigmoid(self._zero(eta)))
        return jnp.where(counted, seen, -jnp.inf)

    def scores(self, eta, y):
        return self._scores(self.counts.scores(eta, y), self._zero(eta), y)

    def _scores(self, own: AbstractLaw, odds: Array, y: Array) -> Self:
        share = jnp.where(y > 0, 1.0, jax.nn.sigmoid(odds))
        inflated = 1 - share - jax.nn.sigmoid(self.logit)
        return type(self)(jax.tree.map(lambda a: share * a, own), inflated)

    def mean(self, eta):
        return jax.nn.sigmoid(-self.logit) * self.counts.mean(eta)

    def marginal_mean(self, mean, variance):
        return jax.nn.sigmoid(-self.logit) * self.counts.marginal_mean(mean, variance)

    def variance(self, eta):
        share = jax.nn.sigmoid(-self.logit)
        return share * (self.counts.variance(eta) + (1 - share) * self.counts.mean(eta) ** 2)

    def largest(self):
        return self.counts.largest()

    def cdf(self, eta, y):
        share = 1 / (1 + np.exp(-np.asarray(self.logit, float)))
        return share + (1 - share) * self.counts.cdf(eta, y)

    def sample(self, random, eta, poisson):
        y = np.asarray(self.counts.sample(random, eta, poisson))
        return np.where(random.logistic(size=np.shape(eta)) < np.asarray(self.logit), 0, y)


class Curvatures(NamedTuple):
    """Minus second derivatives of log P of cells (n, p): in eta; in eta and a parameter each; in each two of these."""

    counts: Array
    beside: tuple[Array, ...]
    among: tuple[tuple[Array, ...], ...]


def curvatures(law: AbstractLaw, eta: Array, y: Array) -> Curvatures:
    """Those of a law with the parameters of the cells, from its own slopes."""
    cells, rebuild = jax.tree.flatten(law)
    one = jnp.ones_like(eta)

    def slopes(eta: Array, *cells: Array) -> list[Array]:
        return jax.tree.leaves(jax.tree.unflatten(rebuild, cells).scores(eta, y))

    def along(k: int) -> tuple[Array, ...]:
        still = [jnp.zeros_like(a) for a in (eta, *cells)]
        still[k] = one
        return tuple(-a for a in jax.jvp(slopes, (eta, *cells), tuple(still))[1])

    counts = jax.jvp(lambda eta: law.rate(eta, y), (eta,), (one,))[1]
    beside, *among = (along(k) for k in range(1 + len(cells)))
    return Curvatures(counts, beside, tuple(among))


def telling(law: AbstractLaw, eta: Array | np.ndarray) -> Array:
    """What a count that is not there yet will say of its log rate: (dE[y] / d eta)^2 / Var[y], e^eta for Poisson.

    At most the information of a cell, and equal to it where the law is Poisson, negative binomial or Bernoulli.
    """
    mean, slope = jax.jvp(law.mean, (eta,), (jnp.ones_like(eta),))
    return jnp.where(mean > 0, slope**2 / jnp.maximum(law.variance(jnp.asarray(eta)), 1e-300), 0.0)


def _on_both_sides(law: AbstractLaw, change: Array, eta: Array, y: Array) -> tuple[Array, Array]:
    up, down = law.remainder(eta + change, y), law.remainder(eta - change, y)
    return jnp.sum(up, axis=-1), jnp.sum(down, axis=-1)


NODES = 15  # of Gauss and Hermite: logistic functions of normals whose sd is 3 to 1e-4


def _nodes() -> list[tuple[float, float]]:
    """Standard normal nodes and their weights, written out in a program: nothing of (nodes, n, p) is kept."""
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return list(zip(points.tolist(), (weights / weights.sum()).tolist(), strict=True))


def _by_quadrature(law: AbstractLaw, mean: Array, variance: Array, y: Array) -> Expected:
    sd = jnp.sqrt(variance + 1e-12)
    remainder, rate, tilt = jnp.zeros_like(mean), jnp.zeros_like(mean), jnp.zeros_like(mean)
    for point, weight in _nodes():
        eta = mean + point * sd
        at = law.rate(eta, y)
        remainder += weight * law.remainder(eta, y)
        rate, tilt = rate + weight * at, tilt + weight * point * at
    return Expected(remainder, rate, tilt / sd)


def _scores_by_quadrature(law: AbstractLaw, mean: Array, variance: Array, y: Array) -> AbstractLaw:
    sd = jnp.sqrt(variance + 1e-12)
    parts = [
        jax.tree.map(lambda a, w=weight: w * a, law.scores(mean + point * sd, y))
        for point, weight in _nodes()
    ]
    return jax.tree.map(lambda *a: sum(a), *parts)


POISSON = Poisson()


# From a model's parameters to the cells' and back: each of a law's arrays is (k, p), or (k, 1) where all columns share
# it, and is multiplied by features of the rows (n, k).
#
# Start at `at_rows`. Features: those of the zeros for the logit of a `ZeroInflated`, one for everything else.


def at_rows(law: AbstractLaw, zero_features: Array | None, like: Array) -> AbstractLaw:
    """The law with the parameters of every cell (n, p), `like` an array of these cells."""

    def of_cells(parameter: Array, features: Array) -> Array:
        return jnp.broadcast_to(features @ parameter, like.shape)

    return jax.tree.map(of_cells, law, features_of(law, zero_features, like))


def named(law: AbstractLaw) -> dict[str, Array]:
    """The law's own parameters by their names, in the order of its leaves."""
    return {
        str(getattr(path[-1], "name", "")): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(law)
    }


def with_parameters(law: AbstractLaw, parameters: tuple[Any, ...]) -> AbstractLaw:
    """The same law with these in the places of its own, in the order of its leaves."""
    return jax.tree.unflatten(jax.tree.structure(law), parameters)


def features_of(law: AbstractLaw, zero_features: Any, like: Any) -> AbstractLaw:
    """In each parameter's place what it is multiplied by, (n, k)."""
    ones = jnp.ones((len(like), 1), like.dtype)
    same = jax.tree.map(lambda _: ones, law)
    if zero_features is None or not isinstance(law, ZeroInflated):
        return same
    return ZeroInflated(same.counts, zero_features)


def of_cells(law: AbstractLaw, zero_features: Any, n: int, columns: np.ndarray) -> AbstractLaw:
    """The same of n rows, whose features are given, and some columns; on the host, in NumPy."""
    own = law.over(lambda a: np.asarray(a)[:, columns] if a.shape[1] > 1 else np.asarray(a))
    with double_precision():
        features = features_of(own, zero_features, np.ones((n, 1)))
    shape = n, len(columns)
    return jax.tree.map(lambda a, f: np.broadcast_to(np.asarray(f, float) @ a, shape), own, features)
