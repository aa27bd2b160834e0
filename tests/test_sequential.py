"""Rows of many dimensions, drawn column by column: against quadrature that needs no draws, and what every door says.

Start at `test_many_dimensions_of_large_variance_are_the_quadrature`. Independent columns, or pairs of columns, make
log p(y_i) a sum of integrals of one or two dimensions, however many there are; a rotation of the loadings and a
permutation of the columns change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy.stats import norm, poisson

import poplin
from poplin._numerics import double_precision
from poplin.data.blocks import Block, as_block
from poplin.inference import likelihood, selection, sequential
from poplin.inference.likelihood import independent_loglik, row_loglik
from poplin.inference.selection import Placed, paired_loglik
from poplin.inference.sequential import Line, draw, omega
from tests.oracles import row_loglik_by_quadrature
from tests.tolerances import STANDARD_ERRORS, within_errors

KEY = 0


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    with double_precision():
        yield


def simulated(loadings: np.ndarray, level: float, n: int, seed: int = 0) -> tuple[Block, Array, Array]:
    """Block, B and C of n rows drawn from the model."""
    random = np.random.default_rng(seed)
    latent = random.normal(size=(n, loadings.shape[1])) @ loadings.T
    y = random.poisson(np.exp(np.minimum(level + latent, 15.0))).astype(float)
    block = as_block(y, np.ones((n, 1)), np.zeros_like(y), np.ones(n), prior=False)
    return block, jnp.full((1, len(loadings)), level), jnp.asarray(loadings)


def rotation(q: int, seed: int = 1) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(q, q)))[0]


@pytest.mark.parametrize(
    ("pull", "stiffness", "log_rate", "slope"),
    [
        *((0.0, 1.0, -1.0, 1.0), (0.5, 0.5, 0.0, 3.0), (-3.0, 0.9, -4.0, 2.5), (1e5, 1e-3, 0.0, 3e-3)),
        *((3.0, 1e-9, 0.0, 1.0), (0.0, 1.0, 2.0, 0.0), (-20.0, 1.0, 3.0, 2.0), (0.0, 1.0, -np.inf, 3.0)),
    ],
)
def test_draws_of_one_dimension_have_the_law(
    pull: float, stiffness: float, log_rate: float, slope: float
) -> None:
    """Nearly constant ratios, whose mean is the integral and which give the mean and the variance of the law."""
    uniform = (np.arange(4000) + 0.5) / 4000
    law = Line(*(jnp.full(4000, a) for a in (pull, stiffness, log_rate, slope)))
    place, log_ratio = (np.asarray(a) for a in draw(jnp.asarray(uniform), law))
    assert np.all(np.diff(place) > 0)
    assert log_ratio.std() < 0.02
    grid = np.linspace(-14, 14, 200_001) * place.std() + np.median(place)
    height = pull * grid - 0.5 * stiffness * grid**2 - np.exp(log_rate + slope * grid)
    density = np.exp(height - height.max())
    step = grid[1] - grid[0]
    integral = np.log(density.sum() * step) + height.max()
    largest = log_ratio.max()
    assert abs(np.log(np.mean(np.exp(log_ratio - largest))) + largest - integral) < 1e-4
    weights = np.exp(log_ratio - largest)
    mean, expected = np.average(place, weights=weights), np.average(grid, weights=density)
    assert abs(mean - expected) < 1e-3 * place.std()
    spread = np.average((place - mean) ** 2, weights=weights)
    assert abs(spread / np.average((grid - expected) ** 2, weights=density) - 1) < 5e-3


def test_omega_solves_its_equation() -> None:
    c = jnp.asarray([-500.0, -30.0, -1.0, 0.0, 1.0, 30.0, 1e5, 1e12])
    value = np.asarray(omega(c))
    assert np.allclose(value + np.log(value), c, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("p", "level", "sd"), [(60, -1.0, 3.0), (60, 1.0, 1.0), (20, -3.0, 4.0)])
def test_many_dimensions_of_large_variance_are_the_quadrature(p: int, level: float, sd: float) -> None:
    block, coef, loadings = simulated(sd * np.eye(p), level, n=60)
    exact = independent_loglik(block, coef, jnp.full(p, sd))
    found = row_loglik(jax.random.key(KEY), block, coef, loadings @ rotation(p), khat=True)
    assert not np.any(found.unsure)
    assert np.all(found.standard_error < 0.1)
    assert within_errors(found.value, exact, found.standard_error)
    z = (found.value - exact) / found.standard_error
    assert np.abs(z.mean()) < STANDARD_ERRORS / np.sqrt(len(z))
    assert np.mean(np.abs(z) > 3) < 0.05


def _pair_loglik(y: np.ndarray, level: float, lower: np.ndarray) -> float:
    """Log p of two counts: over the first one's position by the trapezoid rule, then the second's exactly."""
    place = np.linspace(-9, 9, 6001)
    count = np.full((len(place), 1), y[1])
    inner = as_block(
        count, np.ones_like(count), (lower[1, 0] * place)[:, None], np.ones(len(place)), prior=False
    )
    second = independent_loglik(inner, jnp.full((1, 1), level), jnp.asarray([lower[1, 1]]))
    first = poisson.logpmf(y[0], np.exp(level + lower[0, 0] * place)) + norm.logpdf(place)
    return float(np.log(np.sum(np.exp(first + second)) * (place[1] - place[0])))


def test_pairs_of_columns_are_the_quadrature() -> None:
    """Eight correlated pairs: exact in two dimensions each, in any order of the columns and any frame of w."""
    pairs, level, n = 8, -1.0, 3
    one = np.linalg.cholesky(9.0 * np.array([[1.0, 0.8], [0.8, 1.0]]))
    order = np.random.default_rng(3).permutation(2 * pairs)
    loadings = np.kron(np.eye(pairs), one)[order] @ rotation(2 * pairs)
    block, coef, loadings = simulated(loadings, level, n)
    y = np.empty((n, 2 * pairs))
    y[:, order] = block.y
    exact = [sum(_pair_loglik(row[k : k + 2], level, one) for k in range(0, 2 * pairs, 2)) for row in y]
    found = row_loglik(jax.random.key(KEY), block, coef, loadings)
    assert not np.any(found.unsure)
    assert within_errors(found.value, exact, found.standard_error)
    assert np.all(found.standard_error < 0.06)


def test_rows_that_all_want_more_draws_are_asked_again() -> None:
    """None has enough after the first round: nothing is handed on, and all have their draws in the last."""
    block, coef, loadings = simulated(3.0 * np.eye(6), -1.0, n=5)
    (part,) = likelihood.slices(jax.random.key(KEY), block, coef, loadings, draws=100)
    none = lambda log_ratios: np.zeros(len(log_ratios), bool)
    rounds = list(sequential.in_rounds(jax.random.key(KEY), [part.way], np.arange(5), none))
    assert [list(rows) for rows, _ in rounds] == [[0, 1, 2, 3, 4]]
    assert rounds[0][1][0].shape == (5, sequential.BATCHES[-1] * sequential.DRAWS)


@pytest.mark.parametrize("rank", [2, 40])
def test_fewer_dimensions_than_columns_and_more(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Column by column where a Gaussian would do: the same likelihood, empty dimensions or not."""
    p = 30
    loadings = np.random.default_rng(2).normal(size=(p, 2))
    block, coef, _ = simulated(loadings, -0.5, n=8)
    filled = jnp.asarray(np.pad(loadings, ((0, 0), (0, rank - 2))) @ rotation(rank))
    plain = row_loglik(jax.random.key(KEY), block, coef, jnp.asarray(loadings))
    monkeypatch.setattr(likelihood, "LARGEST_SKEWNESS", -1.0)
    found = row_loglik(jax.random.key(KEY), block, coef, filled)
    assert within_errors(found.value, plain.value, np.hypot(found.standard_error, plain.standard_error))
    assert not np.array_equal(found.effective_size, plain.effective_size)
    exact = [row_loglik_by_quadrature(np.asarray(y), np.full(p, -0.5), loadings) for y in block.y]
    assert within_errors(found.value, exact, found.standard_error)


def test_missing_counts_and_extreme_ones_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "LARGEST_SKEWNESS", -1.0)
    y = np.array([[np.nan, 0, 3, 1e5], [0, 0, 0, 0], [np.nan] * 4, [1e5, 1e5, 0, 0], [1, 2, 3, 4]])
    scale = np.array([0.01, 1.0, 5.0, 3.0])
    block = as_block(y, np.ones((5, 1)), np.zeros((5, 4)), np.ones(5), prior=False)
    coef = jnp.asarray([[2.0, -3.0, 0.0, 1.0]])
    found = row_loglik(jax.random.key(KEY), block, coef, jnp.diag(jnp.asarray(scale)))
    exact = independent_loglik(block, coef, jnp.asarray(scale))
    assert np.all(np.isfinite(found.value))
    assert not np.any(found.unsure)
    assert within_errors(found.value, exact, found.standard_error + 1e-3)


def test_a_paired_difference_of_many_dimensions_is_that_of_quadratures() -> None:
    """And its error is smaller than that of its parts, since both models share the draws."""
    p, sd = 40, 2.5
    block, coef, _ = simulated(sd * np.eye(p), -1.0, n=30)
    ways = [
        Placed(block, np.asarray(coef) + shift, scale * np.eye(p)) for shift, scale in ((0.2, 2.4), (0.0, sd))
    ]
    paired = paired_loglik(jax.random.key(KEY), *ways)
    small, large = (
        independent_loglik(block, jnp.asarray(way.coef), jnp.diagonal(jnp.asarray(way.loadings)))
        for way in ways
    )
    assert not np.any(paired.unsure)
    assert within_errors(paired.difference, large - small, paired.standard_error)
    alone = row_loglik(jax.random.key(KEY), block, coef, jnp.asarray(ways[1].loadings))
    assert np.median(paired.standard_error) < 0.7 * np.sqrt(2) * np.median(alone.standard_error)


def test_skewness_is_what_third_derivatives_add() -> None:
    """sum_jk A_j A_k (c_j'S c_k)^3 / 6: independent columns add up, rows of large counts have none."""
    block, coef, loadings = simulated(1.5 * np.eye(30), 0.0, n=4)
    parts = next(likelihood.slices(jax.random.key(KEY), block, coef, loadings, draws=1000))
    gaussians = parts.way.gaussians
    variance = 1.5**2 * np.diagonal(np.asarray(gaussians.covariance), axis1=1, axis2=2)
    rate = np.exp(np.asarray(gaussians.mean) * 1.5 + variance / 2)
    expected = np.sum(rate**2 * variance**3, axis=1) / 6
    found = np.mean(
        [np.asarray(likelihood.skewness(jax.random.key(k), *parts.way)) for k in range(40)], axis=0
    )
    # each of 1280 squares of a sum of cubes has a standard deviation of at most some three times its mean
    assert np.all(np.abs(found / expected - 1) < 4 * 3 / np.sqrt(1280))


def _unsure_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on rows are drawn column by column, and the weights of two of them look heavy."""
    heavy = [2, 7]

    def shape(log_ratios: np.ndarray) -> np.ndarray:
        return np.where(np.isin(np.arange(len(log_ratios)), heavy), 0.9, 0.1)

    for module in (likelihood, selection):
        monkeypatch.setattr(module, "pareto_shape", shape)
    monkeypatch.setattr(likelihood, "LARGEST_SKEWNESS", -1.0)
    monkeypatch.setattr(sequential, "BATCHES", (1,))  # one round, which has all rows


def test_every_door_names_the_rows_it_is_unsure_of(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    y = random.poisson(np.exp(1 + random.normal(size=(40, 3))))
    fits = [poplin.PLN(covariance=kind, shrinkage=0).fit(y) for kind in ("diagonal", "full")]
    _unsure_rows(monkeypatch)
    named = "2 of 40 rows .*'row3', 'row8'"
    for ask in (
        lambda: fits[1].loglik_,
        lambda: fits[1].score_samples(y),
        lambda: fits[1].score(y),
        lambda: poplin.likelihood_ratio(*fits),
        lambda: poplin.compare(y, ["moments"]),
    ):
        with pytest.warns(poplin.LikelihoodWarning, match=named):
            ask()
    assert issubclass(poplin.LikelihoodWarning, poplin.DataWarning)
    assert list(np.flatnonzero(fits[1]._marginal.unsure)) == [2, 7]


def test_the_choice_among_models_names_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    y = np.random.default_rng(0).poisson(3.0, size=(40, 3))
    _unsure_rows(monkeypatch)
    with pytest.warns(poplin.LikelihoodWarning, match="under some candidate of 2 of 40 rows"):
        poplin.select(y, ranks=(), covariances=["diagonal"], criterion="bic", method="moments")
