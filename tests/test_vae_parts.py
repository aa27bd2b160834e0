"""The parts of neural models, each against an independent twin: SciPy densities, closed forms, quadrature, draws.

Start at `LIKELIHOODS`, the table of instances.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, gammaln, logsumexp, softmax

from poplin._numerics import double_precision
from poplin.laws import log_rising, negative_binomial, softplus
from poplin.models.likelihoods import Bernoulli, Categorical, Gaussian, NegativeBinomial, Poisson, RowGaussian
from poplin.models.networks import Mixture, StandardNormal, affine, random_network
from poplin.rows.encoders import DiagonalEncoder, Features, FullEncoder
from tests.programs import at_once
from tests.tolerances import within_errors

ROWS, COLUMNS, RANK, DRAWS = 6, 4, 3, 10_000
RANDOM = np.random.default_rng(11)
PLACE, UNIT = RANDOM.normal(size=COLUMNS), np.array([0.5, 1.0, 2.0, 3.0])
LOG_SCALE = np.array([0.3, -0.5, 0.0, 0.2])
LOG_SIZE = np.array([-1.0, 0.0, 1.5, 3.0])
OFFSET = RANDOM.normal(size=(ROWS, COLUMNS))


class Instance(NamedTuple):
    """A likelihood and its twin: log density of each entry and mean, given outputs and offset."""

    likelihood: Any
    logpdf: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    mean: Callable[[np.ndarray, np.ndarray], np.ndarray] | None


def _negative_binomial(y, out, offset):
    size, mean = np.exp(LOG_SIZE), np.exp(offset + out)
    return stats.nbinom(size, size / (size + mean)).logpmf(y)


def _categorical(y, out, offset):
    share = softmax(out.reshape(*out.shape[:-1], COLUMNS, 3), axis=-1)
    return np.log(np.take_along_axis(share, y.astype(int)[..., None], axis=-1)[..., 0])


LIKELIHOODS = {
    "fixed": Instance(
        Gaussian(LOG_SCALE, PLACE, UNIT, False),
        lambda y, out, o: stats.norm(PLACE + UNIT * out, UNIT * np.exp(LOG_SCALE)).logpdf(y),
        lambda out, o: PLACE + UNIT * out,
    ),
    "column": Instance(
        Gaussian(LOG_SCALE, PLACE, UNIT, True),
        lambda y, out, o: stats.norm(PLACE + UNIT * out, UNIT * np.exp(LOG_SCALE)).logpdf(y),
        lambda out, o: PLACE + UNIT * out,
    ),
    "row": Instance(
        RowGaussian(PLACE, UNIT),
        lambda y, out, o: stats.norm(PLACE + UNIT * out[..., :-1], UNIT * np.exp(out[..., -1:])).logpdf(y),
        lambda out, o: PLACE + UNIT * out[..., :-1],
    ),
    "bernoulli": Instance(
        Bernoulli(),
        lambda y, out, o: stats.bernoulli(1 / (1 + np.exp(-out))).logpmf(y),
        lambda out, o: 1 / (1 + np.exp(-out)),
    ),
    "categorical": Instance(Categorical(3), _categorical, None),
    "poisson": Instance(
        Poisson(), lambda y, out, o: stats.poisson(np.exp(o + out)).logpmf(y), lambda out, o: np.exp(o + out)
    ),
    "negative-binomial": Instance(
        NegativeBinomial(LOG_SIZE), _negative_binomial, lambda out, o: np.exp(o + out)
    ),
}


def outputs(likelihood: Any) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(ROWS, likelihood.width(COLUMNS)))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_density_is_that_of_scipy(name: str) -> None:
    likelihood, logpdf, _ = LIKELIHOODS[name]
    out = outputs(likelihood)
    with double_precision():
        y = likelihood.sample(np.random.default_rng(0), out, OFFSET)
        found = np.asarray(likelihood.log_prob(jnp.asarray(out), jnp.asarray(y), jnp.asarray(OFFSET)))
    assert np.allclose(found, logpdf(y, out, OFFSET).sum(axis=1), rtol=1e-10)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_samples_have_the_mean_and_the_frequencies_of_the_density(name: str) -> None:
    likelihood, logpdf, mean = LIKELIHOODS[name]
    out = outputs(likelihood)
    many = np.broadcast_to(out, (DRAWS, *out.shape))
    with double_precision():
        drawn = likelihood.sample(np.random.default_rng(1), many, OFFSET)
        stated = np.asarray(likelihood.mean(jnp.asarray(out), jnp.asarray(OFFSET)))
    error = drawn.std(axis=0) / np.sqrt(DRAWS)
    if mean is not None:
        assert np.allclose(stated, mean(out, OFFSET), rtol=1e-12)
        assert within_errors(drawn.mean(axis=0), stated, error)
    if name not in ("fixed", "column", "row"):
        for value in (0.0, 1.0):
            share = np.exp(logpdf(np.full((ROWS, COLUMNS), value), out, OFFSET))
            found = (drawn == value).mean(axis=0)
            assert within_errors(found, share, np.sqrt(share * (1 - share) / DRAWS) + 1e-12)
    else:
        spread = np.abs(drawn - stated).mean(axis=0) * np.sqrt(np.pi / 2)
        scale = UNIT * np.exp(out[:, -1:] if name == "row" else LOG_SCALE)
        assert within_errors(spread, np.broadcast_to(scale, spread.shape), scale / np.sqrt(DRAWS))


@pytest.mark.parametrize("name", ["fixed", "column", "poisson"])
def test_the_expected_kernel_is_its_integral(name: str) -> None:
    likelihood = LIKELIHOODS[name].likelihood
    out, variance = outputs(likelihood), RANDOM.uniform(0.1, 0.8, size=(ROWS, COLUMNS))
    y = RANDOM.poisson(3, size=(ROWS, COLUMNS)).astype(float)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    moved = out + np.sqrt(variance) * nodes[:, None, None]  # columns move together: sums are the same
    with double_precision():
        kernel = likelihood.kernel(jnp.asarray(moved), jnp.asarray(y), jnp.asarray(OFFSET))
        found = likelihood.expected(*(jnp.asarray(a) for a in (out, variance, y, OFFSET)))
    integral = weights @ np.asarray(kernel) / weights.sum()
    assert np.allclose(np.asarray(found), integral, rtol=1e-10)


def posteriors(kind: str, q: int = RANK) -> Any:
    """Some rows' Gaussians, as an encoder gives them."""
    random = np.random.default_rng(4)
    features = Features(np.zeros(COLUMNS), np.ones(COLUMNS))  # type: ignore[arg-type]
    width = 2 * q if kind == "diagonal" else 2 * q + q * q
    network = jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float64), random_network(random, (COLUMNS + 1, 5, width), jnp.tanh)
    )
    encoder = DiagonalEncoder(features, network) if kind == "diagonal" else FullEncoder(features, network, q)
    return encoder(
        jnp.asarray(random.normal(size=(ROWS, COLUMNS))), jnp.zeros((ROWS, 0)), jnp.zeros((ROWS, 1))
    )


def covariances(posterior: Any) -> np.ndarray:
    """S_i (n, q, q)."""
    if hasattr(posterior, "lower"):
        lower = np.asarray(posterior.lower)
        return lower @ lower.transpose(0, 2, 1)
    return np.stack([np.diag(np.exp(2 * row)) for row in np.asarray(posterior.log_scale)])


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_a_divergence_is_the_gaussian_one_and_the_mean_of_draws(kind: str) -> None:
    with double_precision():
        posterior = posteriors(kind)
        noise = jax.random.normal(jax.random.key(3), (DRAWS, ROWS, RANK), jnp.float64)
        latent = np.asarray(posterior.draw(noise))
        log_density = np.asarray(posterior.log_density(noise))
        divergence = np.asarray(posterior.divergence())
        log_prior = np.asarray(StandardNormal().log_prob(jnp.asarray(latent)))
    mean, spread = np.asarray(posterior.mean), covariances(posterior)
    trace, logdet = np.trace(spread, axis1=1, axis2=2), np.linalg.slogdet(spread)[1]
    assert np.allclose(divergence, 0.5 * (np.sum(mean**2, axis=1) + trace - RANK - logdet), rtol=1e-12)
    ratio = log_density - log_prior
    assert within_errors(ratio.mean(axis=0), divergence, ratio.std(axis=0) / np.sqrt(DRAWS))
    for i in range(ROWS):
        twin = stats.multivariate_normal(mean[i], spread[i]).logpdf(latent[:9, i])
        assert np.allclose(log_density[:9, i], twin, rtol=1e-9)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_a_spread_is_the_variance_along_each_loading(kind: str) -> None:
    with double_precision():
        posterior = posteriors(kind)
        loadings = np.random.default_rng(5).normal(size=(COLUMNS, RANK))
        found = np.asarray(posterior.spread(jnp.asarray(loadings)))
        variance = np.asarray(posterior.variance())
    spread = covariances(posterior)
    assert np.allclose(found, np.einsum("pj,njk,pk->np", loadings, spread, loadings), rtol=1e-12)
    assert np.allclose(variance, np.diagonal(spread, axis1=1, axis2=2), rtol=1e-12)


def test_a_factor_is_lower_triangular_with_the_standard_deviations_on_its_diagonal() -> None:
    with double_precision():
        posterior = posteriors("full")
    lower = np.asarray(posterior.lower)
    assert np.all(lower[:, ~np.tri(RANK, dtype=bool)] == 0)
    assert np.all(lower[:, np.tri(RANK, k=-1, dtype=bool)] != 0)
    assert np.allclose(np.diagonal(lower, axis1=1, axis2=2), np.exp(np.asarray(posterior.log_scale)))


@pytest.mark.parametrize("q", [2, 200])
def test_a_mixture_is_summed_without_underflow(q: int) -> None:
    random = np.random.default_rng(6)
    logits, means = random.normal(size=3), 3 * random.normal(size=(3, q))
    log_scales = 0.3 * random.normal(size=(3, q))
    latent = 4 * random.normal(size=(ROWS, q))
    parts = stats.norm(means, np.exp(log_scales)).logpdf(latent[:, None, :]).sum(axis=2)
    joint = parts + np.log(softmax(logits))
    with double_precision():
        prior = Mixture(*(jnp.asarray(a) for a in (logits, means, log_scales)))
        found = np.asarray(at_once(prior.log_prob, jnp.asarray(latent)))
        shares = np.asarray(at_once(prior.responsibilities, jnp.asarray(latent)))
        drawn = np.asarray(at_once(lambda key: prior.sample(key, (DRAWS, q)), jax.random.key(8)))
    assert np.allclose(found, logsumexp(joint, axis=1), rtol=1e-10)
    assert np.allclose(shares, softmax(joint, axis=1), atol=1e-12)
    assert within_errors(drawn.mean(axis=0), softmax(logits) @ means, drawn.std(axis=0) / np.sqrt(DRAWS))


def test_quick_functions_are_the_slow_ones_in_single_precision() -> None:
    y = np.concatenate([np.arange(30.0), np.logspace(2, 6, 20)])[:, None].astype(np.float32)
    size = np.logspace(-3, 6, 40).astype(np.float32)
    found = jax.jit(log_rising)(y, size)
    expected = gammaln(y.astype(float) + size) - gammaln(size.astype(float))
    # a few roundings of terms as large as y log(y + r), and of numbers near one
    assert np.all(np.abs(found - expected) < 1e-6 * (1 + y * np.log(y + size + 5) + np.abs(np.log(size))))
    assert np.all(np.asarray(log_rising(np.zeros(1, np.float32), size)) == 0)
    x = np.linspace(-90, 90, 181, dtype=np.float32)
    assert np.allclose(jax.jit(softplus)(x), np.logaddexp(x.astype(float), 0), rtol=1e-6, atol=1e-38)
    assert np.allclose(jax.vmap(jax.grad(softplus))(x), expit(x.astype(float)), rtol=1e-5, atol=1e-38)


def test_rising_products_are_sums_of_logs_however_large_the_size() -> None:
    """In double precision, against sum_k<y log(r + k): log Gamma(r) itself has lost the whole nats at e^40."""
    y, size = np.array([0, 1, 2, 7, 60, 3000])[:, None], np.exp(np.linspace(-12, 40, 27))
    expected = np.array([[np.sum(np.log(r + np.arange(k))) for r in size] for k in y[:, 0]])
    with double_precision():
        found = np.asarray(jax.jit(log_rising)(y.astype(float), size))
    assert np.all(np.abs(found - expected) < 1e-12 * (1 + np.abs(expected)))


def test_slopes_of_a_negative_binomial_are_those_of_its_log_density() -> None:
    y = np.concatenate([np.arange(6.0), [50, 1000, 1e5]])[:, None, None].astype(np.float32)
    log_rate = np.linspace(-12, 12, 9, dtype=np.float32)[:, None]
    log_size = np.linspace(-5, 12, 9, dtype=np.float32)

    def slow(a, b, y):
        size = jnp.exp(b)
        rising = jax.scipy.special.gammaln(y + size) - jax.scipy.special.gammaln(size)
        return rising + y * (a - jnp.logaddexp(a, b)) + size * (b - jnp.logaddexp(a, b))

    def value_and_slopes(function, arrays):
        spread = jnp.broadcast_arrays(*arrays)
        slopes = jax.grad(lambda a, b, c: jnp.sum(function(a, b, c)), (0, 1))
        return at_once(function, *spread), *at_once(slopes, *spread)

    quick = value_and_slopes(negative_binomial, (log_rate, log_size, y))
    with double_precision():
        right = value_and_slopes(slow, [a.astype(float) for a in (log_rate, log_size, y)])
    mean, size = np.exp(log_rate), np.exp(log_size)
    # roundings of the terms that cancel
    terms = 1 + (y + np.minimum(mean, 1e5)) * (1 + np.abs(log_rate) + np.abs(log_size)) + size * 1e-1
    for found, expected in zip(quick, right, strict=True):
        assert np.all(np.abs(np.asarray(found, float) - np.asarray(expected)) < 2e-6 * terms)


def test_slopes_of_an_affine_layer_are_those_of_the_product() -> None:
    random = np.random.default_rng(9)
    arrays = [random.normal(size=shape) for shape in ((2, 5, 3), (3, 4), (4,), (2, 5, 4))]
    with double_precision():
        found = jax.grad(lambda x, w, b, c: jnp.sum(c * jnp.sin(affine(x, w, b))), (0, 1, 2))(*arrays)
        expected = jax.grad(lambda x, w, b, c: jnp.sum(c * jnp.sin(x @ w + b)), (0, 1, 2))(*arrays)
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one, other, rtol=1e-12, atol=1e-12)
