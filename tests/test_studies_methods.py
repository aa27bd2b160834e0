"""What the studies bring along: the laws, repeated measures, and what columns make of a fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, poisson

import poplin
from poplin.studies import repeated, study
from poplin.studies.borrowed import turned
from poplin.studies.columns import estimate
from tests.instances import autoregressive
from tests.oracles import bound


@pytest.mark.parametrize("method", ["variational", "ml"])
def test_positions_under_a_symmetric_basis_are_those_of_the_fit(method: str) -> None:
    """The axes of AR1 are symmetric or antisymmetric: their largest entry is there twice, with either sign."""
    law = study.law(60, autoregressive(6, 0.8), mean=1.0)
    table = study.table(law, np.random.default_rng(1))
    fit = poplin.PLN(method=method, basis=law.basis).fit(table.counts)
    found = estimate(fit, table, law.basis)
    assert found.latent is not None and found.scales is not None
    seen, _ = fit.predict_conditional(table.counts.astype(float), latent=True)
    apart = np.abs(found.latent() - seen).max()
    assert apart < (0.5 if method == "variational" else 1e-6), "diagonal and full Gaussians differ a little"
    np.testing.assert_allclose((law.basis * found.scales) @ law.basis.T, fit.covariance_, atol=1e-6)


def test_a_law_is_cut_to_its_leading_axes() -> None:
    sigma = autoregressive(6, 0.8)
    cut = study.law(10, sigma, rank=2)
    assert cut.basis.shape == (6, 2)
    np.testing.assert_allclose(cut.basis.T @ cut.basis, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(cut.covariance @ cut.basis, sigma @ cut.basis, atol=1e-12)
    table = study.table(cut, np.random.default_rng(0), fresh=5)
    assert table.fresh is not None and table.fresh.shape == (5, 6) and table.counts.shape == (10, 6)


THETA = np.array([0.2, 0.4, np.log(0.6)])


@pytest.mark.parametrize("exact", [False, True], ids=["bound", "likelihood"])
def test_repeated_measures_have_exact_gradients(exact: bool) -> None:
    """Central differences; the rows' Gaussians are at their optimum, so the bound's gradient is the partial one."""
    table = repeated.draw(np.random.default_rng(5), n=30, p=3, beta=(0.2, 0.4), variance=0.6)
    held = repeated.rows(table.counts, table.x)
    _, gradient = repeated.objective(THETA, held, exact=exact)
    for k, step in enumerate(1e-5 * np.eye(3)):
        ends = [repeated.objective(THETA + sign * step, held, exact=exact)[0] for sign in (1, -1)]
        assert gradient[k] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-6)


def test_the_likelihood_of_repeated_measures_is_the_integral() -> None:
    """Against SciPy's adaptive rule, row by row; and the bound is below it."""
    table = repeated.draw(np.random.default_rng(6), n=8, p=3, beta=(0.2, 0.4), variance=0.6)
    held = repeated.rows(table.counts, table.x)
    slow = 0.0
    for y, x in zip(table.counts, table.x, strict=True):
        joint = lambda u, y=y, x=x: (
            poisson.pmf(y, np.exp(0.2 + 0.4 * x + u)).prod() * norm.pdf(u, scale=np.sqrt(0.6))
        )
        slow += np.log(quad(joint, -8, 8, epsabs=1e-13, epsrel=1e-10)[0])
    exact = repeated.objective(THETA, held, exact=True)[0]
    assert exact == pytest.approx(slow, abs=1e-6)
    assert repeated.objective(THETA, held, exact=False)[0] < exact


def test_the_bound_of_repeated_measures_agrees_with_rank_one_loadings() -> None:
    """With beta_1 = 0 and equal means it is the bound of one row under loadings sigma 1_p, the twin's formula."""
    table = repeated.draw(np.random.default_rng(7), n=4, p=3, beta=(0.2, 0.0), variance=0.6)
    held = repeated.rows(table.counts, np.zeros_like(table.x))
    mean, spread = repeated.gaussians(held.total, np.full(4, 3 * np.exp(0.2)), 0.6)
    loadings, sd = np.sqrt(0.6) * np.ones((3, 1)), np.sqrt(0.6)
    slow = [
        bound(
            table.counts[i].astype(float),
            np.full(3, 0.2),
            loadings,
            mean[i : i + 1] / sd,
            spread[i : i + 1, None] / 0.6,
        )
        for i in range(4)
    ]
    assert repeated.objective(THETA, held, exact=False)[0] == pytest.approx(sum(slow), abs=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 20.0, 90.0])
def test_a_turned_basis_is_orthonormal_and_off_by_the_angle(degrees: float) -> None:
    basis = study.law(1, autoregressive(8, 0.8), rank=3).basis
    away = turned(basis, degrees)
    np.testing.assert_allclose(away.T @ away, np.eye(3), atol=1e-12)
    apart = np.linalg.svd(basis.T @ away, compute_uv=False)
    np.testing.assert_allclose(apart, np.cos(np.deg2rad(degrees)), atol=1e-12)
