"""The best full Gaussian of a row: its bound against a slow twin, at its best, below the likelihood, never NaN.

Start at `test_the_bound_is_the_twins`. The cases are in `rowcases.py`, the twins in `oracles.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from poplin._numerics import double_precision
from poplin.data.blocks import NO_EXPOSURE, as_block
from poplin.rows import batches
from poplin.rows.gaussian import GaussianRows, Moments, advance_rows, fit_rows, start_rows
from tests.instances import Table, simulated
from tests.oracles import bound
from tests.rowcases import CASES, COLUMNS, ROWS, device, exact
from tests.tolerances import close

CASE = pytest.mark.parametrize("case", CASES, ids=str)
COUNTS = st.one_of(st.integers(0, 3), st.integers(0, 100_000))
OFFSETS = st.one_of(st.just(NO_EXPOSURE), st.floats(-30, 30))


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    with double_precision():
        yield


@cache
def fitted(case: tuple[str, int]) -> GaussianRows:
    with double_precision():
        return fit_rows(*device(CASES[case]))


def twin(table: Table, mean: Any, covariance: Any) -> np.ndarray:
    """The bound of each row in plain NumPy."""
    base = table.offset + table.x @ table.coef
    rows = zip(table.y, base, np.asarray(mean), np.asarray(covariance), strict=True)
    return np.array([bound(y, b, table.loadings, m, s) for y, b, m, s in rows])


def same(some: GaussianRows, others: GaussianRows) -> bool:
    """Whether both are the same optimum: the bound to its tolerance, the moments to the root of that."""
    return (
        np.allclose(some.bound, others.bound, atol=1e-7)
        and np.allclose(some.mean, others.mean, atol=1e-3)
        and np.allclose(some.covariance, others.covariance, atol=1e-3)
    )


@CASE
def test_the_bound_is_the_twins(case: tuple[str, int]) -> None:
    rows = fitted(case)
    assert close(rows.bound, twin(CASES[case], rows.mean, rows.covariance), scale=0.01)


@CASE
def test_every_row_converges_to_where_the_twin_is_flat(case: tuple[str, int]) -> None:
    table, rows = CASES[case], fitted(case)
    assert np.all(rows.converged)
    random, q, step = np.random.default_rng(0), table.loadings.shape[1], 1e-4
    root = np.linalg.cholesky(np.asarray(rows.covariance))
    for _ in range(4):
        # moves of the size of the posterior itself, so that a slope of 1 would mean far from the best
        skew = random.normal(size=(ROWS, q, q))
        mean = np.einsum("nkl,nl->nk", root, random.normal(size=(ROWS, q)))
        spread = root @ (skew + skew.swapaxes(1, 2)) @ root.swapaxes(1, 2)
        up, down = (
            twin(table, rows.mean + sign * step * mean, rows.covariance + sign * step * spread)
            for sign in (1, -1)
        )
        assert np.abs(up - down).max() / (2 * step) < 1e-3


@CASE
def test_the_bound_is_below_the_likelihood(case: tuple[str, int]) -> None:
    gap = exact(case) - np.asarray(fitted(case).bound)
    assert np.all(gap > -1e-6)
    assert np.all(gap < 0.3), "a full Gaussian is closer than this on rows of four counts"


@pytest.mark.parametrize("size", [1e-3, 1.0, 2.0])
def test_no_step_lowers_a_row_and_every_start_ends_at_the_same_place(size: float) -> None:
    case = ("offset", 2)
    block, coef, loadings = device(CASES[case])
    random = np.random.default_rng(1)
    mean = jnp.asarray(size * random.normal(size=(ROWS, 2)))
    root = size * random.normal(size=(ROWS, 2, 2)) + 1e-3 * np.eye(2)
    covariance = jnp.asarray(root @ root.swapaxes(1, 2))
    moments = Moments(mean, covariance, jnp.linalg.slogdet(covariance)[1])
    before = np.full(ROWS, -np.inf)
    for _ in range(8):
        moments, rate, now = advance_rows(moments, block, coef, loadings)
        assert np.all(now >= before - 1e-9 * np.abs(before, where=np.isfinite(before), out=np.zeros(ROWS)))
        before = np.asarray(now)
    ended = fit_rows(block, coef, loadings, start=moments)
    assert np.all(ended.converged)
    assert close(ended.bound, fitted(case).bound)


def test_a_step_returns_the_rates_and_a_bound_that_belong_to_it() -> None:
    table = CASES["low", 2]
    block, coef, loadings = device(table)
    moments, counted, value = advance_rows(start_rows(block, coef, loadings), block, coef, loadings)
    spread = np.einsum("jk,nkl,jl->nj", table.loadings, moments.covariance, table.loadings)
    base = table.offset + table.x @ table.coef
    rate = np.exp(base + moments.mean @ table.loadings.T + 0.5 * spread)
    assert close(counted.rate, rate) and close(counted.weight, rate) and close(counted.remainder, -rate)
    # after a shortened step log det S, and so the bound, may be a little low, but never too high
    assert np.all(np.asarray(value) <= twin(table, moments.mean, moments.covariance) + 1e-9)
    assert np.all(np.asarray(moments.logdet) <= np.linalg.slogdet(np.asarray(moments.covariance))[1] + 1e-9)


@pytest.mark.parametrize(("limit", "rows"), [("CHUNK", 11), ("LARGEST_PAIRS", 10)])
def test_memory_limits_change_nothing(limit: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, limit, 20)  # five rows at a time; or no table of pairs
    # a number of rows of its own, so that a program is compiled under the limit
    parts = fit_rows(*device(CASES["offset", 2].rows(slice(rows))))
    assert same(parts, jax.tree.map(lambda a: a[:rows], fitted(("offset", 2))))


def test_permuted_rows_give_permuted_results() -> None:
    order = np.random.default_rng(2).permutation(ROWS)
    block, coef, loadings = device(CASES["missing", 2].rows(order))
    permuted = fit_rows(block, coef, loadings)
    assert same(permuted, jax.tree.map(lambda a: a[order], fitted(("missing", 2))))


def test_a_row_without_any_count_known_keeps_its_prior() -> None:
    rows = fitted(("missing", 2))
    assert close(rows.mean[0], np.zeros(2))
    assert close(rows.covariance[0], np.eye(2))
    assert abs(float(rows.bound[0])) < 1e-9


@settings(max_examples=25, deadline=None)
@given(
    y=arrays(float, (ROWS, COLUMNS), elements=COUNTS.map(float)),
    offset=arrays(float, (ROWS, COLUMNS), elements=OFFSETS),
    size=st.sampled_from([0.01, 1.0, 5.0, 20.0]),
)
def test_never_nan(y: np.ndarray, offset: np.ndarray, size: float) -> None:
    unseen = offset == NO_EXPOSURE
    block = as_block(
        np.where(unseen, np.nan, y),
        np.ones((ROWS, 1)),
        np.where(unseen, 0, offset),
        np.ones(ROWS),
        prior=False,
    )
    loadings = jnp.asarray(size * np.random.default_rng(3).normal(size=(COLUMNS, 2)))
    with double_precision():
        rows = fit_rows(block, jnp.zeros((1, COLUMNS)), loadings)
        assert all(np.all(np.isfinite(a)) for a in rows)
        assert np.all(np.linalg.eigvalsh(np.asarray(rows.covariance)) > 0)
        assert size > 5 or np.all(rows.converged), "a prior 40 units wide may take more than 50 steps"


def test_many_columns_and_huge_counts() -> None:
    table = simulated(18, 0.7 * np.random.default_rng(4).normal(size=(40, 12)), n=30, level=3.0)
    assert table.y.max() > 5e4
    rows = fit_rows(*device(table))
    assert np.all(rows.converged)
    assert close(rows.bound, twin(table, rows.mean, rows.covariance), scale=0.01)
