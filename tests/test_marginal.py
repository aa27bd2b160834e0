"""The log-likelihood of a row: importance sampling against quadrature, its stated error against what it really is.

Start at `test_importance_sampling_is_the_quadrature`. The cases are in `rowcases.py`, the quadrature in `oracles.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pandas import DataFrame
from scipy.stats import multivariate_normal, norm

import poplin
from poplin._numerics import double_precision
from poplin.data.blocks import NO_EXPOSURE, as_block
from poplin.inference import likelihood as marginal
from poplin.inference.likelihood import RowLikelihood, independent_loglik, row_loglik
from poplin.rows.gaussian import fit_rows
from tests.instances import TABLES, simulated
from tests.oracles import univariate_fit, univariate_loglik
from tests.rowcases import CASES, COLUMNS, ROWS, device, exact
from tests.tolerances import close, within_errors

CASE = pytest.mark.parametrize("case", CASES, ids=str)
EXAMPLE = ("offset", 2)
REPEATS = 50


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    with double_precision():
        yield


@cache
def sampled(case: tuple[str, int], seed: int = 0) -> RowLikelihood:
    with double_precision():
        return row_loglik(jax.random.key(seed), *device(CASES[case]))


@CASE
def test_the_quadrature_has_converged(case: tuple[str, int]) -> None:
    assert np.abs(exact(case, 10) - exact(case)).max() < 1e-5


@CASE
def test_importance_sampling_is_the_quadrature(case: tuple[str, int]) -> None:
    likelihood = sampled(case)
    assert within_errors(likelihood.value, exact(case), likelihood.standard_error + 1e-6)
    assert np.all(likelihood.standard_error < 0.05)
    assert np.all(likelihood.effective_size > 500)
    assert likelihood.khat is None


@pytest.mark.parametrize("q", [1, 3, 8])
def test_for_a_gaussian_likelihood_it_is_the_closed_form(q: int) -> None:
    """Y | w ~ N(W w, s^2 I): the same draws and sums, on proposals too narrow by a fifth and off their place."""
    random = np.random.default_rng(q)
    p, n, sd = 6, 40, 0.7
    weights, y = random.normal(size=(p, q)), 2 * random.normal(size=(n, p))
    covariance = np.linalg.inv(np.eye(q) + weights.T @ weights / sd**2)
    mean = y @ weights @ covariance / sd**2
    lower = 0.8 * np.linalg.cholesky(covariance)
    shared = marginal.shared_draws(500, q)
    log_ratios = []
    for i in range(n):
        draw, log_density = marginal.student_draws(jax.random.fold_in(jax.random.key(7), i), shared, q)
        w = mean[i] + 0.1 * lower.sum(axis=1) + np.stack([draw, -draw]) @ lower.T
        joint = norm.logpdf(y[i], w @ weights.T, sd).sum(axis=-1) + norm.logpdf(w).sum(axis=-1)
        log_ratios.append(joint - np.asarray(log_density) + np.log(np.diag(lower)).sum())
    value, error, _ = (np.asarray(a) for a in marginal.summary(jnp.asarray(np.stack(log_ratios))))
    expected = multivariate_normal(np.zeros(p), weights @ weights.T + sd**2 * np.eye(p)).logpdf(y)
    assert within_errors(value, expected, error)
    assert np.all(error < 0.1)


def test_the_bound_is_below_the_likelihood_of_many_columns() -> None:
    table = simulated(21, 0.8 * np.random.default_rng(5).normal(size=(30, 20)) / np.sqrt(10), n=40, level=0.5)
    block, coef, loadings = device(table)
    likelihood = row_loglik(jax.random.key(0), block, coef, loadings)
    gap = likelihood.value - np.asarray(fit_rows(block, coef, loadings).bound)
    assert np.all(gap > -4 * likelihood.standard_error)
    assert gap.mean() > 0


@pytest.mark.parametrize("case", [("wide", 2), ("low", 2), ("offset", 2)], ids=str)
def test_the_standard_error_is_honest_and_the_bias_is_gone(case: tuple[str, int]) -> None:
    block, coef, loadings = device(CASES[case])
    # few draws, so that the bias of an uncorrected logarithm would show; many copies of the rows, each with draws
    # of its own, instead of many calls
    copies = jax.tree.map(lambda a: jnp.concatenate([a] * REPEATS), block)
    copies = copies._replace(index=jnp.arange(REPEATS * ROWS))
    likelihood = row_loglik(jax.random.key(1), copies, coef, loadings, draws=120)
    value = likelihood.value.reshape(REPEATS, ROWS)
    stated = (likelihood.standard_error**2).reshape(REPEATS, ROWS).mean()
    found = value.var(axis=0, ddof=1).mean()
    # a variance of 50 x 12 values, of which a few rows have the largest part: it is known to about a tenth
    assert 0.7 < stated / found < 1.4
    off = value.mean() - exact(case).mean()
    assert abs(off) < 4 * np.sqrt(found / value.size)


def test_permuted_rows_give_permuted_results() -> None:
    order = np.random.default_rng(2).permutation(ROWS)
    block, coef, loadings = device(CASES[EXAMPLE])
    permuted = row_loglik(jax.random.key(0), jax.tree.map(lambda a: a[order], block), coef, loadings)
    # the optimum of a row is found to 1e-8 nats, so its draws lie where they lay to four digits
    assert np.allclose(permuted.value, sampled(EXAMPLE).value[order], atol=1e-4)
    assert np.allclose(permuted.standard_error, sampled(EXAMPLE).standard_error[order], rtol=1e-2)


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marginal, "NUMBERS", 5000)  # five rows at a time
    parts = row_loglik(jax.random.key(0), *device(CASES[EXAMPLE]))
    assert parts.value.shape == (ROWS,)
    assert np.allclose(parts.value, sampled(EXAMPLE).value, atol=1e-4)


def test_another_key_gives_other_draws_and_more_of_them_a_smaller_error() -> None:
    assert not np.any(sampled(EXAMPLE).value == sampled(EXAMPLE, seed=1).value)
    more = row_loglik(jax.random.key(0), *device(CASES[EXAMPLE]), draws=2500)  # in three batches
    ratio = np.median(more.standard_error / sampled(EXAMPLE).standard_error)
    assert 0.4 < ratio < 0.9
    assert within_errors(more.value, exact(EXAMPLE), more.standard_error)


def test_khat_is_there_when_asked_for_and_small_on_easy_rows() -> None:
    likelihood = row_loglik(jax.random.key(0), *device(CASES[EXAMPLE]), khat=True)
    assert likelihood.khat is not None
    assert likelihood.khat.shape == (ROWS,)
    assert np.all(likelihood.khat < 0.7)
    assert np.array_equal(likelihood.value, sampled(EXAMPLE).value)


def test_rows_not_to_be_trusted_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of forty rows get a k-hat above 0.7: a warning and the summary name them."""
    table = TABLES["plain"]
    fit = poplin.PLN(method="variational").fit(
        DataFrame(table.y, index=[f"leaf{i}" for i in range(len(table.y))])
    )
    khat = np.full(len(table.y), 0.3)
    khat[[7, 2]] = 0.8, 0.9
    with monkeypatch.context() as patch:
        patch.setattr(marginal, "pareto_shape", lambda log_ratios: khat)
        with pytest.warns(poplin.DataWarning, match="2 of 40 rows .*'leaf2', 'leaf7'"):
            assert np.isfinite(fit.loglik_)
    assert np.array_equal(fit.khat_, khat)
    assert "'leaf2', 'leaf7'" in " ".join(fit.summary().split())
    assert np.all((fit.effective_draws_ > 100) & (fit.effective_draws_ <= 1024))


def test_khat_is_the_tail_index_of_the_ratios() -> None:
    random = np.random.default_rng(3)
    tails = np.array([0.2, 0.7, 1.2])
    ratios = tails[:, None, None] * random.exponential(size=(3, 2, 5000))  # Pareto, shape 1 / tail
    assert np.abs(marginal.pareto_shape(jnp.asarray(ratios)) - tails).max() < 0.15


@pytest.mark.parametrize("level", [-2.0, 0.0, 2.0])
def test_independent_columns_are_the_univariate_quadrature(level: float) -> None:
    scale = np.array([0.05, 0.7, 1.5, 2.5])
    table = simulated(22, np.diag(scale), n=ROWS, level=level, offsets=0.5)
    table.y[3, 1] = np.nan
    block, coef, _ = device(table)
    value = independent_loglik(block, coef, jnp.asarray(scale))
    base = table.offset + table.x @ table.coef
    expected = np.zeros(ROWS)
    for i, j in zip(*np.nonzero(~np.isnan(table.y)), strict=True):
        own = slice(i, i + 1)
        expected[i] += univariate_loglik(table.y[own, j], base[own, j], 0.0, scale[j], points=40_001)
    assert close(value, expected, scale=0.1)


def test_the_univariate_fit_is_at_its_maximum_near_the_truth() -> None:
    random = np.random.default_rng(4)
    offset = random.normal(size=300)
    y = random.poisson(np.exp(offset + 0.5 + 0.8 * random.normal(size=300))).astype(float)
    found = univariate_fit(y, offset)
    sd = np.sqrt(found.variance)
    for mean, other in ((1e-2, 0.0), (-1e-2, 0.0), (0.0, 1e-2), (0.0, -1e-2)):
        assert univariate_loglik(y, offset, found.mean + mean, sd + other) < found.loglik
    assert abs(found.mean - 0.5) < 0.25  # four standard errors of about 0.06
    assert abs(sd - 0.8) < 0.25


@settings(max_examples=15, deadline=None)
@given(
    y=arrays(
        float, (ROWS, COLUMNS), elements=st.integers(0, 3).map(float) | st.integers(0, 100_000).map(float)
    ),
    offset=arrays(float, (ROWS, COLUMNS), elements=st.just(NO_EXPOSURE) | st.floats(-30, 30)),
    size=st.sampled_from([0.01, 1.0, 5.0, 20.0]),
)
def test_never_nan(y: np.ndarray, offset: np.ndarray, size: float) -> None:
    unseen = offset == NO_EXPOSURE
    y, offset = np.where(unseen, np.nan, y), np.where(unseen, 0, offset)
    block = as_block(y, np.ones((ROWS, 1)), offset, np.ones(ROWS), prior=False)
    loadings = jnp.asarray(size * np.random.default_rng(3).normal(size=(COLUMNS, 2)))
    with double_precision():
        likelihood = row_loglik(
            jax.random.key(0), block, jnp.zeros((1, COLUMNS)), loadings, draws=200, khat=True
        )
        assert not any(np.any(np.isnan(a)) for a in likelihood if a is not None)
        assert np.all(np.isfinite(likelihood.value))
        bound = np.asarray(fit_rows(block, jnp.zeros((1, COLUMNS)), loadings).bound)
        assert np.all(likelihood.value > bound - 6 * likelihood.standard_error - 1e-9 * np.abs(bound))
