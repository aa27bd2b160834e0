"""The laws of the counts: what each says of itself is checked against its own log probability, by one check a law.

Start at `LAWS`: a new law is a line there. `Binomial` is written here, of known totals: whatever takes laws takes it
(`test_laws_everywhere.py` fits by it).
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import gammaln
from scipy import stats

from poplin._numerics import double_precision
from poplin.laws import (
    POISSON,
    AbstractLaw,
    AbstractSmoothLaw,
    Bernoulli,
    NegativeBinomial,
    ZeroInflated,
    at_rows,
)
from poplin.updates.own import left_of, nothing_known, own_apart
from poplin.updates.structure import FAINT, LOADING_SD

SIZE, LOGIT = np.log([0.7, 2.0, 30.0]), np.array([-2.0, 0.0, 1.5])
COUNTS, HALVES = np.arange(400.0), (0.0, 0.5)


class Binomial(AbstractSmoothLaw):
    """Counts of `total` trials, each of probability 1 / (1 + e^-eta)."""

    total: int = eqx.field(static=True)

    def remainder(self, eta, y):
        rest = jnp.maximum(self.total - y, 0)
        return gammaln(self.total + 1.0) - gammaln(rest + 1) - self.total * jax.nn.softplus(eta)

    def rate(self, eta, y):
        return self.total * jax.nn.sigmoid(eta)

    def curvature(self, rate, y):
        return rate * (1 - rate / self.total)

    def gain(self, change, eta, rate, moved, y):
        return y * change - self.total * jnp.log1p(rate / self.total * jnp.expm1(change))

    def scores(self, eta, y):
        return self

    def mean(self, eta):
        return self.total * jax.nn.sigmoid(eta)

    def marginal_mean(self, mean, variance):
        return self.expected(mean, variance, 0 * mean).rate

    def variance(self, eta):
        return self.total * jax.nn.sigmoid(eta) * jax.nn.sigmoid(-eta)

    def largest(self):
        return float(self.total)

    def cdf(self, eta, y):
        return stats.binom.cdf(y, self.total, 1 / (1 + np.exp(-eta)))

    def sample(self, random, eta, poisson):
        return random.binomial(self.total, 1 / (1 + np.exp(-eta))).astype(float)


LAWS: dict[str, tuple[AbstractLaw, np.ndarray]] = {
    "poisson": (POISSON, COUNTS),
    "negative binomial": (NegativeBinomial(SIZE), COUNTS),
    "bernoulli": (Bernoulli(), np.arange(2.0)),
    "binomial": (Binomial(5), np.arange(6.0)),
    "zero-inflated poisson": (ZeroInflated(POISSON, LOGIT), COUNTS),
    "zero-inflated negative binomial": (
        ZeroInflated(NegativeBinomial(SIZE), LOGIT),
        COUNTS,
    ),
    "zero-inflated binomial": (ZeroInflated(Binomial(5), LOGIT), np.arange(6.0)),
}
ETA = np.array([[-3.0, -0.5, 0.3], [0.8, 1.5, 2.2]])
every_law = pytest.mark.parametrize("name", LAWS)


def cells(name: str) -> tuple[AbstractLaw, np.ndarray, np.ndarray]:
    """The law, log rates and counts (n, 3): each log rate with each of the first six counts."""
    law, values = LAWS[name]
    some = values[:6]
    return law, np.repeat(ETA, len(some), axis=0), np.tile(some, len(ETA))[:, None] * np.ones(3)


@pytest.fixture(autouse=True)
def _double():
    with double_precision():
        yield


@every_law
def test_probabilities_add_up(name: str) -> None:
    law, values = LAWS[name]
    y = values[:, None, None] * np.ones_like(ETA)
    probability = np.exp(law.log_prob(jnp.asarray(ETA) + 0 * y, jnp.asarray(y)) - gammaln(y + 1))
    mean = np.sum(y * probability, axis=0)
    np.testing.assert_allclose(np.sum(probability, axis=0), 1, rtol=1e-9)
    some = y[:6]
    found = law.cdf(np.broadcast_to(ETA, some.shape), some)
    np.testing.assert_allclose(found, np.cumsum(probability[:6], axis=0), rtol=1e-8)
    np.testing.assert_allclose(law.mean(jnp.asarray(ETA)), mean, rtol=1e-8)
    np.testing.assert_allclose(
        law.variance(jnp.asarray(ETA)), np.sum((y - mean) ** 2 * probability, axis=0), rtol=1e-7
    )


@every_law
def test_slopes_are_derivatives(name: str) -> None:
    law, eta, y = cells(name)
    eta, y = jnp.asarray(eta), jnp.asarray(y)
    slope, second = (jax.grad(lambda e: jnp.sum(law.log_prob(e, y))), None)
    np.testing.assert_allclose(y - law.rate(eta, y), slope(eta), rtol=1e-9, atol=1e-9)
    second = -jax.jvp(slope, (eta,), (jnp.ones_like(eta),))[1]
    told = law.curvature(law.rate(eta, y), y)
    assert np.all(np.asarray(told) >= np.asarray(second) - 1e-9)
    assert np.all(np.asarray(told) >= 0)
    counted = np.asarray(y) > 0 if isinstance(law, ZeroInflated) else np.ones(y.shape, bool)
    np.testing.assert_allclose(np.asarray(told)[counted], np.asarray(second)[counted], rtol=1e-8, atol=1e-9)


@every_law
def test_scores_are_derivatives(name: str) -> None:
    law, eta, y = cells(name)
    of_cells = jax.tree.map(lambda a: jnp.broadcast_to(a, eta.shape), law)
    slopes = jax.grad(lambda own: jnp.sum(own.log_prob(jnp.asarray(eta), jnp.asarray(y))))(of_cells)
    found = law.scores(jnp.asarray(eta), jnp.asarray(y))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)


@every_law
def test_gains_are_differences(name: str) -> None:
    law, eta, y = cells(name)
    eta, y = jnp.asarray(eta), jnp.asarray(y)
    for change in (-2.0, 1e-3, 1.5):
        rates = law.rate(eta, y), law.rate(eta + change, y)
        found = law.gain(change + 0 * eta, eta, *rates, y)
        np.testing.assert_allclose(
            found, law.log_prob(eta + change, y) - law.log_prob(eta, y), rtol=1e-8, atol=1e-10
        )
    change = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    of_row = jax.tree.map(lambda a: jnp.broadcast_to(a, (3,)), law)
    up, down = of_row.mirrored(change, eta[0], y[1])
    np.testing.assert_allclose(up, jnp.sum(law.remainder(eta[0] + change, y[1]), axis=1), rtol=1e-9)
    np.testing.assert_allclose(down, jnp.sum(law.remainder(eta[0] - change, y[1]), axis=1), rtol=1e-9)


@every_law
@pytest.mark.parametrize("sd", [0.1, 1.0, 2.5])
def test_expectations_are_bounds_near_the_integral(name: str, sd: float) -> None:
    """Never above the integral, equal but where a zero may be no count; slopes are its own derivatives."""
    law, mean, y = cells(name)
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    eta = mean + sd * nodes[:, None, None]
    value = np.asarray(law.remainder(jnp.asarray(eta), jnp.asarray(y) + 0 * eta))
    truth = np.tensordot(weights / weights.sum(), value, 1)
    mean, y, variance = jnp.asarray(mean), jnp.asarray(y), jnp.full(mean.shape, sd**2)
    found = law.expected(mean, variance, y)
    assert np.all(np.asarray(found.remainder) <= truth + 2e-3 * (1 + np.abs(truth)))
    counted = np.asarray(y) > 0 if isinstance(law, ZeroInflated) else np.ones(y.shape, bool)
    np.testing.assert_allclose(np.asarray(found.remainder)[counted], truth[counted], rtol=2e-3, atol=2e-3)

    total = lambda m, v: jnp.sum(law.expected(m, v, y).remainder)
    for_mean, for_variance = jax.grad(total, argnums=(0, 1))(mean, variance)
    np.testing.assert_allclose(-for_mean, found.rate, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(-2 * for_variance, found.weight, rtol=1e-6, atol=1e-8)
    of_cells = jax.tree.map(lambda a: jnp.broadcast_to(a, y.shape), law)
    slopes = jax.grad(lambda own: jnp.sum(own.expected(mean, variance, y).remainder))(of_cells)
    scores = law.expected_scores(mean, variance, y)
    for one, other in zip(jax.tree.leaves(scores), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


@every_law
def test_draws_have_the_law(name: str) -> None:
    law, values = LAWS[name]
    random, n = np.random.default_rng(3), 20_000
    eta = np.broadcast_to(ETA[1], (n, 3))
    y = np.asarray(law.sample(random, eta, lambda random, log_rate: random.poisson(np.exp(log_rate))))
    every = values[:, None] * np.ones(3)
    expected = np.exp(law.log_prob(jnp.asarray(ETA[1]) + 0 * every, jnp.asarray(every)) - gammaln(every + 1))
    for j in range(3):
        seen = np.array([np.sum(y[:, j] == k) for k in values])
        common = np.asarray(expected)[:, j] * n > 5
        rest = max(n - seen[common].sum(), 0), max(n - np.asarray(expected)[common, j].sum() * n, 1e-9)
        counted = np.append(seen[common], rest[0])
        wanted = np.append(np.asarray(expected)[common, j] * n, rest[1])
        statistic = np.sum((counted - wanted) ** 2 / np.maximum(wanted, 1))
        assert statistic < stats.chi2.ppf(1 - 1e-5, len(counted))


@every_law
def test_a_missing_cell_says_nothing(name: str) -> None:
    law, _ = LAWS[name]
    eta, y = jnp.full((1, 3), -1e30), jnp.zeros((1, 3))
    np.testing.assert_allclose(law.log_prob(eta, y), 0, atol=1e-12)
    np.testing.assert_array_equal(law.rate(eta, y), 0)
    expected = law.expected(eta, jnp.ones((1, 3)), y)
    np.testing.assert_allclose(jnp.stack(expected), 0, atol=1e-12)
    for part in jax.tree.leaves(law.scores(eta, y)) + jax.tree.leaves(law.expected_scores(eta, y + 1, y)):
        np.testing.assert_allclose(part, 0, atol=1e-9)


def test_limits() -> None:
    """Without dispersion a negative binomial is Poisson, and without zeros of its own a law is the one within."""
    _, eta, y = cells("poisson")
    eta, y = jnp.asarray(eta), jnp.asarray(y)
    plain = POISSON.log_prob(eta, y)
    for log_size in (12.0, 20.0, 40.0):
        # the next term is ((y - m)^2 - y) / 2 r
        few = NegativeBinomial(jnp.full(3, log_size))
        leading = ((y - jnp.exp(eta)) ** 2 - y) / 2 * jnp.exp(-log_size)
        np.testing.assert_allclose(
            few.log_prob(eta, y), plain + leading, atol=1e-13 + 1e3 * np.exp(-2 * log_size)
        )
        slope = few.scores(eta + 0 * y, y).log_size
        np.testing.assert_allclose(slope, -leading, atol=1e-12 + 1e3 * np.exp(-2 * log_size))
    np.testing.assert_allclose(ZeroInflated(POISSON, jnp.asarray(-40.0)).log_prob(eta, y), plain, atol=1e-12)


@pytest.mark.parametrize("least", [0.0, 1e-9, 0.2])
def test_of_parameters_that_counts_leave_nothing_of_a_floor_is_taken(least: float) -> None:
    """Else steps have no length as gamma falls to nothing, and no distance is one to the stopping rule."""
    law = NegativeBinomial(jnp.zeros((1, 3)))
    nothing = nothing_known(law, 3)
    known = eqx.tree_at(lambda a: a.square.log_size, nothing, 400.0 * jnp.ones((3, 1, 1)))
    left = left_of(known, scales=True, least=least).log_size.curvature[:, 0, 0]
    np.testing.assert_allclose(left, 400 * max(least, FAINT) + 1 / LOADING_SD**2, rtol=1e-6)
    moved = own_apart(known, law, NegativeBinomial(jnp.ones((1, 3))), scales=True)
    np.testing.assert_allclose(moved, 400 * FAINT + 1 / LOADING_SD**2, rtol=1e-6)


def test_parameters_of_rows_and_columns() -> None:
    law = ZeroInflated(
        NegativeBinomial(jnp.asarray([SIZE])), jnp.asarray([[0.5, 1.0, -1.0], [1.0, 0.0, 2.0]])
    )
    features = jnp.asarray([[1.0, 0.0], [1.0, 3.0]])
    cells = at_rows(law, features, jnp.zeros((2, 3)))
    np.testing.assert_allclose(cells.logit, [[0.5, 1.0, -1.0], [3.5, 1.0, 5.0]])
    np.testing.assert_allclose(cells.counts.log_size, [SIZE, SIZE])
    shared = at_rows(ZeroInflated(POISSON, jnp.asarray([[0.3]])), None, jnp.zeros((2, 3)))
    np.testing.assert_allclose(shared.logit, np.full((2, 3), 0.3))
