"""What the studies bring along: the estimator by moments, the laws, and what columns make of a fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import poisson

import poplin
from poplin.studies import laws
from poplin.studies.columns import estimate
from poplin.studies.moments import moments
from tests.instances import autoregressive

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


def test_moments_of_a_whole_population_are_the_truth() -> None:
    """With each pair of counts weighed by its probability, two groups and an offset: B and Sigma exactly."""
    coef = np.array([[0.1, -0.4], [0.3, 0.2]])
    sigma = np.array([[0.30, 0.12], [0.12, 0.25]])
    parts = [population(coef, sigma, np.array([1.0, g]), offset) for g, offset in ((0.0, 0.2), (1.0, -0.1))]
    y, x, offset, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    found = moments(y, x, offset, weights)
    np.testing.assert_allclose(found.coef, coef, atol=1e-6)
    np.testing.assert_allclose(found.covariance, sigma, atol=1e-6)
    assert not found.mended


def test_moments_weigh_rows_as_if_they_were_repeated() -> None:
    random = np.random.default_rng(3)
    y = random.poisson(3.0, (30, 3)).astype(float)
    x = np.column_stack([np.ones(30), random.normal(size=30)])
    times = random.integers(0, 4, 30)
    weighted, repeated = (
        moments(y, x, 0.0, times.astype(float)),
        moments(np.repeat(y, times, 0), np.repeat(x, times, 0)),
    )
    np.testing.assert_allclose(weighted.coef, repeated.coef, atol=1e-9)
    np.testing.assert_allclose(weighted.covariance, repeated.covariance, atol=1e-9)


def test_moments_want_an_intercept() -> None:
    with pytest.raises(poplin.InputError, match="intercept"):
        moments(np.ones((5, 2)), np.arange(5.0)[:, None])


@pytest.mark.parametrize("method", ["variational", "ml"])
def test_positions_under_a_symmetric_basis_are_those_of_the_fit(method: str) -> None:
    """The axes of AR1 are symmetric or antisymmetric: their largest entry is there twice, with either sign."""
    law = laws.law(60, autoregressive(6, 0.8), mean=1.0)
    table = laws.table(law, np.random.default_rng(1))
    fit = poplin.PLN(method=method, basis=law.basis).fit(table.counts)
    found = estimate(fit, table, law.basis)
    assert found.latent is not None and found.scales is not None
    seen, _ = fit.predict_conditional(table.counts.astype(float), latent=True)
    apart = np.abs(found.latent() - seen).max()
    assert apart < (0.5 if method == "variational" else 1e-6), "diagonal and full Gaussians differ a little"
    np.testing.assert_allclose((law.basis * found.scales) @ law.basis.T, fit.covariance_, atol=1e-6)


def test_a_law_is_cut_to_its_leading_axes() -> None:
    sigma = autoregressive(6, 0.8)
    cut = laws.law(10, sigma, rank=2)
    assert cut.basis.shape == (6, 2)
    np.testing.assert_allclose(cut.basis.T @ cut.basis, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(cut.covariance @ cut.basis, sigma @ cut.basis, atol=1e-12)
    table = laws.table(cut, np.random.default_rng(0), fresh=5)
    assert table.fresh is not None and table.fresh.shape == (5, 6) and table.counts.shape == (10, 6)
