"""Probabilistic PCA: closed form, EM, brute force and scikit-learn say the same.

Start at `test_em_ends_where_the_closed_form_is`. The oracle is the multivariate normal density of SciPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.decomposition import PCA

import poplin
from tests.laws import never_falls
from tests.tolerances import within_errors

SHAPES = {"tall": (60, 5, 2), "square": (12, 11, 3), "wide": (20, 30, 4)}


def table(name: str) -> tuple[np.ndarray, int]:
    """Rows of numbers with q strong directions of distinct size, and q."""
    n, p, q = SHAPES[name]
    random = np.random.default_rng(len(name))
    loadings = random.normal(size=(p, q)) * np.linspace(3, 1.5, q)
    noise = 0.4 * random.normal(size=(n, p))
    return random.normal(size=(n, q)) @ loadings.T + noise + random.normal(size=p), q


def em(y: np.ndarray, q: int, **others: Any) -> poplin.PPCA:
    return poplin.PPCA(q, method="em", tol=1e-12, **others).fit(y)


@pytest.mark.parametrize("name", SHAPES)
def test_em_ends_where_the_closed_form_is(name: str) -> None:
    y, q = table(name)
    exact, iterated = poplin.PPCA(q).fit(y), em(y, q)
    assert iterated.converged_
    outer = exact.loadings_ @ exact.loadings_.T
    assert np.max(np.abs(iterated.loadings_ @ iterated.loadings_.T - outer)) <= 1e-8 * np.max(np.abs(outer))
    assert abs(iterated.noise_variance_ - exact.noise_variance_) <= 1e-8 * exact.noise_variance_
    assert abs(iterated.loglik_ - exact.loglik_) <= 1e-10 * abs(exact.loglik_)


@pytest.mark.parametrize("name", SHAPES)
def test_em_never_lowers_the_likelihood(name: str) -> None:
    y, q = table(name)
    fit = em(y, q, random_state=3)
    never_falls(fit.trace_["objective"])
    assert fit.trace_["objective"][0] < fit.loglik_ - 1  # the start is no optimum


def test_em_that_is_cut_short_says_so() -> None:
    y, q = table("tall")
    with pytest.warns(poplin.ConvergenceWarning, match="3 steps"):
        fit = poplin.PPCA(q, method="em", max_iter=3).fit(y)
    assert not fit.converged_ and fit.n_iter_ == 3


@pytest.mark.parametrize("method", ["closed", "em"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_likelihood_is_the_normal_density(name: str, method: str) -> None:
    y, q = table(name)
    fit = poplin.PPCA(q, method=method).fit(y)
    rows = np.vstack([y, 3 * y[:2]])
    expected = multivariate_normal(fit.mean_, fit.covariance_).logpdf(rows)
    assert np.allclose(fit.score_samples(rows), expected, rtol=1e-10, atol=1e-10)
    assert np.isclose(fit.loglik_, expected[:-2].sum(), rtol=1e-12)


@pytest.mark.parametrize("name", SHAPES)
def test_the_likelihood_is_that_of_scikit_learn_but_for_its_divisor(name: str) -> None:
    y, q = table(name)
    n = len(y)
    theirs = PCA(q, svd_solver="full").fit(y)
    theirs.explained_variance_ = theirs.explained_variance_ * (n - 1) / n
    theirs.noise_variance_ = theirs.noise_variance_ * (n - 1) / n
    if n > y.shape[1]:
        ours = poplin.PPCA(q).fit(y)
    else:  # its noise variance is a mean over min(n, p) - q directions, ours over p - q
        ours = poplin.PPCA(q).fit(y)
        theirs.noise_variance_ *= (n - q) / (y.shape[1] - q)
    assert np.max(np.abs(ours.score_samples(y) - theirs.score_samples(y))) <= 1e-8
    assert np.allclose(np.abs(np.sum(ours.components_ * theirs.components_.T, axis=0)), 1, atol=1e-10)
    assert np.allclose(ours.eigenvalues_, theirs.explained_variance_, rtol=1e-10)


def test_positions_are_conditional_means_of_the_joint_normal() -> None:
    y, q = table("tall")
    fit = poplin.PPCA(q).fit(y)
    expected = (y - fit.mean_) @ np.linalg.solve(fit.covariance_, fit.loadings_)
    assert np.allclose(fit.transform(y), expected, atol=1e-12)
    assert np.allclose(fit.fit_transform(y), expected, atol=1e-12)
    assert np.allclose(fit.inverse_transform(expected), fit.mean_ + expected @ fit.loadings_.T)


def test_no_other_parameters_are_likelier() -> None:
    y, q = table("tall")
    fit = poplin.PPCA(q).fit(y)
    random = np.random.default_rng(5)
    for _ in range(20):
        loadings = fit.loadings_ + 0.01 * random.normal(size=fit.loadings_.shape)
        noise = fit.noise_variance_ * np.exp(0.02 * random.normal())
        other = multivariate_normal(fit.mean_, loadings @ loadings.T + noise * np.eye(y.shape[1]))
        assert other.logpdf(y).sum() < fit.loglik_


@pytest.mark.parametrize("method", ["closed", "em"])
def test_a_weight_counts_a_row_so_many_times(method: str) -> None:
    y, q = table("tall")
    weights = np.arange(len(y)) % 3
    repeated = poplin.PPCA(q, method=method).fit(np.repeat(y, weights, axis=0))
    weighted = poplin.PPCA(q, method=method).fit(y, weights=weights)
    assert np.allclose(weighted.covariance_, repeated.covariance_, rtol=1e-8, atol=1e-9)
    assert np.isclose(weighted.loglik_, repeated.loglik_, rtol=1e-10)


def test_samples_have_the_fitted_mean_and_covariance() -> None:
    y, q = table("tall")
    fit = poplin.PPCA(q).fit(y)
    draws = fit.sample(4000, random_state=1)
    assert within_errors(draws.mean(axis=0), fit.mean_, draws.std(axis=0) / np.sqrt(4000))
    centred = draws - fit.mean_
    products = centred[:, :, None] * centred[:, None, :]
    assert within_errors(products.mean(axis=0), fit.covariance_, products.std(axis=0) / np.sqrt(4000))
    assert np.array_equal(draws, fit.sample(4000, random_state=1))


@pytest.mark.parametrize("method", ["closed", "em"])
def test_a_saved_fit_comes_back(tmp_path: Any, method: str) -> None:
    y, q = table("tall")
    fit = poplin.PPCA(q, method=method).fit(y)
    fit.save(tmp_path / "fit.npz")
    back = poplin.load(tmp_path / "fit.npz")
    assert isinstance(back, poplin.PPCA) and back.get_params() == fit.get_params()
    assert np.allclose(back.score_samples(y), fit.score_samples(y), rtol=1e-12)
    assert np.allclose(back.loadings_, fit.loadings_, atol=1e-12)
    assert (back.loglik_, back.converged_, back.n_iter_) == (fit.loglik_, fit.converged_, fit.n_iter_)


def test_columns_are_matched_by_name() -> None:
    import pandas

    y, q = table("tall")
    frame = pandas.DataFrame(y, columns=list("abcde"))
    fit = clone(poplin.PPCA(q)).fit(frame)
    assert np.allclose(fit.score_samples(frame[list("cabed")]), fit.score_samples(frame))


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"n_components": 5}, None, "from 1 to 4"),
        ({"method": "map"}, None, "'closed' or 'em'"),
        ({}, (3, 1, np.nan), "row 'row4', column 'Y2'"),
        ({"n_components": 3}, "flat", "at most 1 components"),
    ],
)
def test_what_cannot_be_fitted_is_told(settings: dict[str, Any], change: Any, message: str) -> None:
    y, _ = table("tall")
    if change == "flat":
        y = np.outer(np.arange(10), [1.0, 2, 3, 4, 5]) + np.outer(np.arange(10) % 3, [1.0, 0, 1, 0, 2])
    elif change is not None:
        y[change[:2]] = change[2]
    with pytest.raises(poplin.InputError, match=message):
        poplin.PPCA(**settings).fit(y)
