"""Laws of the estimators without an E-step: moments and the pairwise composite likelihood.

Start at `test_moments_see_what_a_whole_population_says`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import poisson

import poplin
from poplin._numerics import double_precision
from poplin.data.blocks import as_block
from poplin.methods.moments import (
    correlations,
    log_moments,
    nearest_correlation,
    nearest_covariance,
    poisson_regression,
)
from poplin.rows.nodes import joint_nodes
from tests import laws
from tests.instances import BASIS, MODELS, TABLES, autoregressive, block_of, fit, simulated
from tests.oracles import row_loglik_by_quadrature

MANY = simulated(21, np.linalg.cholesky(0.6 * autoregressive(4, 0.7)), n=6_000, level=1.0, offsets=0.3)

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
MOST = 60


def population(coef: np.ndarray, sigma: np.ndarray, x: np.ndarray, offset: float) -> list[np.ndarray]:
    """Every pair of counts below 60 under covariates x (d,), with its exact probability as weight (quadrature)."""
    first, second = np.meshgrid(NODES, NODES, indexing="ij")
    latent = np.stack([first.ravel(), second.ravel()], axis=1) @ np.linalg.cholesky(sigma).T
    share = np.outer(WEIGHTS, WEIGHTS).ravel() / WEIGHTS.sum() ** 2
    rate = np.exp(offset + x @ coef + latent)
    mass = poisson.pmf(np.arange(MOST)[:, None, None], rate)  # (count, node, column)
    joint = np.einsum("s,as,bs->ab", share, mass[:, :, 0], mass[:, :, 1])
    a, b = np.meshgrid(np.arange(MOST), np.arange(MOST), indexing="ij")
    y = np.stack([a.ravel(), b.ravel()], axis=1).astype(float)
    return [y, np.tile(x, (len(y), 1)), np.full_like(y, offset), joint.ravel()]


def test_moments_see_what_a_whole_population_says() -> None:
    """Every pair of counts with its probability as weight, two groups and an offset: B and Sigma exactly."""
    coef = np.array([[0.1, -0.4], [0.3, 0.2]])
    sigma = np.array([[0.30, 0.12], [0.12, 0.25]])
    parts = [population(coef, sigma, np.array([1.0, g]), offset) for g, offset in ((0.0, 0.2), (1.0, -0.1))]
    y, x, offset, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    with double_precision():
        found = log_moments(as_block(y, x, offset, weights))
    np.testing.assert_allclose(found.coef(np.diag(found.covariance)), coef, atol=1e-6)
    np.testing.assert_allclose(found.covariance, sigma, atol=1e-6)


def test_missing_counts_add_nothing() -> None:
    """A row without any count changes nothing; where one column is missing, the others' moments stay."""
    table = TABLES["plain"]
    y = table.y.copy()
    y[3] = np.nan
    y[5:9, 0] = np.nan
    with double_precision():
        found = log_moments(as_block(y, table.x, table.offset, table.weights))
        rest = np.delete(np.arange(len(y)), 3)
        others = log_moments(
            as_block(*(a[rest] for a in (y[:, 1:], table.x, table.offset[:, 1:], table.weights)))
        )
    np.testing.assert_allclose(found.covariance[1:, 1:], others.covariance, atol=1e-9)
    np.testing.assert_allclose(found.slopes[:, 1:], others.slopes, atol=1e-9)


def test_a_group_that_lacks_a_column_ends_where_the_prior_holds_it() -> None:
    """Against a general optimiser of the same penalised likelihood; without a prior it ends as well."""
    random = np.random.default_rng(3)
    x = np.column_stack([np.ones(40), np.arange(40) % 2.0])
    y = random.poisson(2.0, (40, 2)) * np.column_stack([x[:, 1] == 0, np.ones(40)])
    w, level = np.ones(40), np.diag([0.0, 0.04])

    def against(coef: np.ndarray) -> float:
        predictor = x @ coef
        return float(np.sum(np.exp(predictor) - y[:, 0] * predictor) + 0.5 * coef @ level @ coef)

    found = poisson_regression(y, x, np.zeros((40, 2)), w, level)
    best = minimize(against, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    np.testing.assert_allclose(found[:, 0], best.x, atol=1e-5)
    assert -8 < found[1, 0] < -3
    endless = poisson_regression(y, x, np.zeros((40, 2)), w)
    assert np.isfinite(endless).all() and endless[1, 0] < -15
    np.testing.assert_allclose(endless[0, 0], np.log(y[x[:, 1] == 0, 0].mean()), atol=1e-9)


def test_the_nearest_covariance_is_one_and_near() -> None:
    matrix = np.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]])
    mended = nearest_covariance(matrix)
    assert np.linalg.eigvalsh(mended)[0] > 0
    random = np.random.default_rng(0)
    for _ in range(50):
        root = random.normal(size=(3, 3))
        assert np.linalg.norm(matrix - root @ root.T) >= np.linalg.norm(matrix - mended) - 0.01
    sound = autoregressive(3, 0.5)
    assert nearest_covariance(sound) is sound and nearest_correlation(sound) is sound
    np.testing.assert_allclose(np.diag(nearest_correlation(matrix)), 1)


@pytest.mark.parametrize("method", ["moments", "composite"])
@pytest.mark.parametrize("model", [name for name in MODELS if name != "shrunk"])
def test_every_shape_is_fitted_as_such(model: str, method: str) -> None:
    settings = {**MODELS[model], "method": method}
    if (model, method) == ("fixed", "composite"):
        with pytest.raises(poplin.InputError, match="given"):
            fit(TABLES["weighted"], **settings)
        return
    one = fit(TABLES["weighted"], **settings)
    sigma = one.covariance_
    assert one.converged_ and np.all(np.isfinite(one.coef_)) and np.isfinite(one.elbo_)
    if model in ("diagonal", "spherical"):
        assert np.array_equal(sigma, np.diag(np.diag(sigma)))
    if model == "rank":
        assert np.linalg.matrix_rank(sigma, tol=1e-8) == 2
    if model == "basis":
        np.testing.assert_allclose(BASIS @ (BASIS.T @ sigma @ BASIS) @ BASIS.T, sigma, atol=1e-10)


def test_the_mean_counts_are_those_seen() -> None:
    """Under an intercept alone the model's mean of every column is the mean of its counts, in any shape."""
    y = TABLES["plain"].y
    for settings in ({}, {"rank": 2}, {"covariance": "spherical"}):
        one = poplin.PLN(method="moments", **settings).fit(y)
        np.testing.assert_allclose(one.predict(n=1)[0], y.mean(axis=0), rtol=1e-8)


@pytest.mark.parametrize("method", ["moments", "composite"])
def test_estimates_of_many_rows_are_near_the_truth(method: str) -> None:
    """6000 rows: within four standard errors, a pair's information being no less than half of complete data's."""
    one = fit(MANY, method=method)
    truth = laws.flat(MANY.coef, MANY.loadings @ MANY.loadings.T)
    unit = laws.complete_errors(MANY.coef, MANY.loadings @ MANY.loadings.T, MANY.x, MANY.weights)
    gap = (laws.flat(one.coef_, one.covariance_) - truth) / unit
    assert np.sqrt(np.mean(gap**2)) < (4 if method == "moments" else 2)


def test_a_correlation_is_the_maximum_of_the_pairs_likelihood() -> None:
    """By quadrature on the mode, row by row, and a search over the correlation."""
    table = TABLES["weighted"]
    block, scale, pair = block_of(table), np.array([0.7, 0.8, 0.6, 0.9]), [1, 3]

    def lost(r: float) -> float:
        loadings = np.array([[scale[1], 0], [scale[3] * r, scale[3] * np.sqrt(1 - r**2)]])
        base = table.offset[:, pair] + table.x @ table.coef[:, pair]
        rows = [
            row_loglik_by_quadrature(y, b, loadings, 20) for y, b in zip(table.y[:, pair], base, strict=True)
        ]
        return -float(table.weights @ rows)

    best = minimize_scalar(lost, bounds=(-0.95, 0.95), method="bounded", options={"xatol": 1e-5}).x
    with double_precision():
        found, settled = correlations(
            joint_nodes(20, 2),
            block,
            jnp.asarray(table.coef),
            jnp.asarray(scale),
            jnp.asarray([pair]),
            jnp.asarray(1e-6),
        )
    assert bool(settled[0]) and abs(float(found[0]) - best) < 1e-4


def test_composite_agrees_with_ml() -> None:
    """Both are consistent: at 1000 rows of 4 columns they differ by less than either's standard error."""
    table = MANY.rows(slice(0, 1000))
    fits: list[Any] = [fit(table, method=method, shrinkage=0) for method in ("composite", "ml")]
    unit = laws.complete_errors(fits[1].coef_, fits[1].covariance_, table.x, table.weights)
    one, other = (laws.flat(f.coef_, f.covariance_) for f in fits)
    assert laws.root_mean_square(one - other, unit) < 1


def test_standard_errors_are_those_of_the_bootstrap_or_none() -> None:
    """Information is that of the likelihood, which moments do not maximise."""
    one = fit(TABLES["plain"], method="moments")
    with pytest.raises(poplin.InputError, match="n_boot"):
        one.standard_errors()
    assert one.coef_interval() is None
    assert np.all(one.standard_errors(n_boot=4).coef > 0)


def test_a_correlation_near_one_is_found() -> None:
    """Steps by squared scores went to and fro across the top of this pair's likelihood, at 0.994."""
    table = simulated(25, np.array([[1.3, 0.2], [1.5, 0.05]]), n=300, level=0.0)
    found = poplin.PLN(method="composite").fit(table.y)
    spread = np.sqrt(np.diag(found.covariance_))
    assert found.converged_ and 0.99 < found.covariance_[0, 1] / np.prod(spread) < 0.999
