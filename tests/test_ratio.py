"""The likelihood ratio of nested fits: paired draws against quadrature, what is nested, and calibration under the null.

Start at `test_the_statistic_is_that_of_quadrature`. The cases of single rows are in `rowcases.py`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

import poplin
from poplin._errors import InputError
from poplin._numerics import double_precision
from poplin.inference.likelihood import row_loglik
from poplin.inference.selection import Nesting, Placed, covariates_within, nesting, paired_loglik, toward
from poplin.models.loadings import BorrowedBasis, FreeLoadings
from poplin.updates.structure import Diagonal, Fixed, Full, Spherical
from tests.instances import COLUMNS, TABLES, Table, autoregressive, fit, orthonormal, simulated
from tests.oracles import row_loglik_by_quadrature, univariate_loglik
from tests.rowcases import CASES, ROWS, device, exact
from tests.test_ml import quadrature_maximum
from tests.tolerances import within_errors

REPEATS = 50


def placed(table: Table) -> Placed:
    block, coef, loadings = device(table)
    return Placed(block, np.asarray(coef), np.asarray(loadings))


def near(table: Table, size: float) -> Table:
    """The same counts under parameters that are a little off."""
    random = np.random.default_rng(9)
    coef = table.coef + size * random.normal(size=table.coef.shape)
    return table._replace(coef=coef, loadings=(1 - size) * table.loadings)


def by_quadrature(table: Table) -> np.ndarray:
    base = table.offset + table.x @ table.coef
    return np.array(
        [row_loglik_by_quadrature(y, b, table.loadings) for y, b in zip(table.y, base, strict=True)]
    )


@pytest.mark.parametrize("case", [("wide", 2), ("low", 2), ("missing", 1)], ids=str)
def test_a_paired_difference_is_that_of_quadratures(case: tuple[str, int]) -> None:
    table = CASES[case]
    with double_precision():
        paired = paired_loglik(jax.random.key(0), placed(near(table, 0.1)), placed(table))
    expected = exact(case) - by_quadrature(near(table, 0.1))
    assert within_errors(paired.difference, expected, paired.standard_error + 1e-6)


def test_models_of_different_rank_are_paired_too() -> None:
    table = CASES["wide", 2]
    line = table._replace(loadings=table.loadings[:, :1])
    with double_precision():
        paired = paired_loglik(jax.random.key(0), placed(line), placed(table))
    assert within_errors(paired.difference, exact(("wide", 2)) - by_quadrature(line), paired.standard_error)


def test_pairing_makes_the_error_small_and_it_is_honest() -> None:
    """Many copies of the rows, each with draws of its own, instead of many calls."""
    table = CASES["wide", 2]
    ways = []
    for each in (near(table, 0.03), table):
        block, coef, loadings = device(each)
        block = jax.tree.map(lambda a: jnp.concatenate([a] * REPEATS), block)
        block = block._replace(index=jnp.arange(REPEATS * ROWS))
        ways.append(Placed(block, np.asarray(coef), np.asarray(loadings)))
    with double_precision():
        paired = paired_loglik(jax.random.key(1), *ways, draws=200)
        alone = row_loglik(
            jax.random.key(1), ways[1].block, jnp.asarray(table.coef), jnp.asarray(table.loadings), draws=200
        )
    found = paired.difference.reshape(REPEATS, ROWS).var(axis=0, ddof=1).mean()
    stated = (paired.standard_error**2).mean()
    assert 0.7 < stated / found < 1.4  # 50 x 12 values: known to about a tenth, as in test_marginal
    assert np.sqrt(stated) < 0.3 * np.sqrt((alone.standard_error**2).mean())


def test_a_rotation_of_the_loadings_is_no_difference() -> None:
    table = CASES["wide", 2]
    turned = table._replace(loadings=table.loadings @ orthonormal(2, 2))
    assert np.allclose(toward(turned.loadings, table.loadings), table.loadings)
    with double_precision():
        paired = paired_loglik(jax.random.key(0), placed(turned), placed(table))
    assert np.abs(paired.difference).max() < 1e-6


FULL, DIAGONAL, SPHERICAL, FREE = Full(jnp.asarray(0.0)), Diagonal(), Spherical(), FreeLoadings()
KNOWN, EVEN = Fixed(jnp.diag(jnp.arange(1.0, 5))), Fixed(0.5 * jnp.eye(4))
GIVEN, SHORT, OTHER = (
    BorrowedBasis(jnp.asarray(v)) for v in (np.eye(4)[:, :3], np.eye(4)[:, :2], orthonormal(4, 3))
)
INSIDE, EDGE, NONE = Nesting.REGULAR, Nesting.BOUNDARY, Nesting.NONE
NESTINGS = [
    *((small, FULL, 4, 4, INSIDE) for small in (FULL, DIAGONAL, SPHERICAL, KNOWN)),
    *((small, DIAGONAL, 4, 4, INSIDE) for small in (DIAGONAL, SPHERICAL, KNOWN, EVEN)),
    (EVEN, SPHERICAL, 4, 4, INSIDE),
    (KNOWN, SPHERICAL, 4, 4, NONE),
    (KNOWN, KNOWN, 4, 4, INSIDE),
    (KNOWN, EVEN, 4, 4, NONE),
    (FULL, DIAGONAL, 4, 4, NONE),
    (DIAGONAL, SPHERICAL, 4, 4, NONE),
    (FREE, FREE, 2, 2, INSIDE),
    (FREE, FREE, 1, 2, EDGE),
    (FREE, FREE, 2, 1, NONE),
    (FREE, FULL, 2, 4, EDGE),
    (FULL, FREE, 4, 2, NONE),
    (GIVEN, FREE, 3, 3, INSIDE),
    (SHORT, FREE, 2, 3, EDGE),
    (GIVEN, FREE, 3, 2, NONE),
    (GIVEN, GIVEN, 3, 3, INSIDE),
    (SHORT, GIVEN, 2, 3, EDGE),
    (SHORT, OTHER, 2, 3, NONE),
    (GIVEN, OTHER, 3, 3, NONE),
    (GIVEN, FULL, 3, 4, EDGE),
    (DIAGONAL, FREE, 4, 4, NONE),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(NESTINGS)))
def test_what_is_nested_and_how(k: int) -> None:
    small, large, q, r, expected = NESTINGS[k]
    assert nesting(small, large, ranks=(q, r)) is expected


def test_covariates_are_nested_by_their_space() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    assert covariates_within(x[:, :2] @ np.array([[1.0, 2], [3, 4]]), x)
    assert not covariates_within(x, x[:, :2])


def without_covariate(table: Table) -> Table:
    return table._replace(x=table.x[:, :1], coef=table.coef[:1])


def test_the_statistic_is_that_of_quadrature() -> None:
    """Independent columns: both maxima and their likelihoods by integrals of one dimension."""
    table = TABLES["plain"]
    fits = [
        fit(each, covariance="diagonal", tol=0.02, max_iter=4000)
        for each in (without_covariate(table), table)
    ]
    test = poplin.likelihood_ratio(*fits, draws=4000)
    exactly = []
    for x in (np.column_stack([table.x[:, 0], np.zeros(len(table.x))]), table.x):
        each = table._replace(x=x)
        total = 0.0
        for j in range(COLUMNS):
            *coef, variance = quadrature_maximum(each, j)
            base = table.offset[:, j] + x @ np.array(coef)
            total += univariate_loglik(table.y[:, j], base, 0.0, np.sqrt(variance))
        exactly.append(total)
    assert test.df == COLUMNS
    # fits end 0.02 standard errors from their maxima: far below a hundredth of a nat in each
    assert abs(test.statistic - 2 * (exactly[1] - exactly[0])) < 4 * test.se + 0.02
    assert test.se < 0.1
    assert test.p == pytest.approx(chi2.sf(test.statistic, test.df))


@cache
def nulls() -> np.ndarray:
    """Statistics of correlations where there are none: 3 columns, 3 degrees of freedom, a standard deviation of 2.4."""
    tables = [simulated(200 + seed, 0.8 * np.eye(3), n=250, level=1.5) for seed in range(24)]
    found = []
    for table in tables:
        small, large = (fit(table, tol=0.05, **how) for how in ({"covariance": "diagonal"}, {"shrinkage": 0}))
        test = poplin.likelihood_ratio(small, large, draws=100)
        assert test.df == 3 and test.se < 0.1
        found.append(test.statistic)
    return np.array(found)


def test_without_correlations_the_statistic_is_chi_squared() -> None:
    values = nulls()
    assert abs(values.mean() - 3) < 4 * np.sqrt(2 * 3 / len(values))
    levels = chi2.sf(values, 3)
    assert abs(np.mean(levels < 0.3) - 0.3) < 4 * np.sqrt(0.21 / len(values))


def test_correlations_are_found() -> None:
    table = simulated(90, np.linalg.cholesky(autoregressive(3, 0.6)), n=250, level=1.5)
    test = poplin.likelihood_ratio(fit(table, covariance="diagonal"), fit(table, shrinkage=0))
    assert test.statistic > 30 and test.p < 1e-6 and test.p_se < 1e-4


RANK_ONE = simulated(91, np.array([[1.0], [0.8], [-0.9], [0.7]]), n=150, level=1.5)
RANK_TWO = simulated(92, orthonormal(4, 2) * 1.5, n=150, level=1.5)


@pytest.mark.parametrize("table, found", [(RANK_ONE, False), (RANK_TWO, True)], ids=["rank 1", "rank 2"])
def test_the_bootstrap_answers_a_question_of_rank(table: Table, found: bool) -> None:
    told: list[Any] = []
    small, large = (fit(table, rank=rank) for rank in (1, 2))
    test = poplin.likelihood_ratio(small, large, n_boot=9, draws=200, callback=told.append)
    assert test.bootstrap is not None and test.bootstrap.shape == (9,)
    assert (test.p == 1 / 10) == found
    assert [one.iteration for one in told] == list(range(1, 10))
    assert test.df == 3
    again = poplin.likelihood_ratio(small, large, n_boot=2, draws=200)
    assert np.array_equal(again.bootstrap, test.bootstrap[:2])


def refusals() -> dict[str, tuple[Any, Any, dict[str, Any], str]]:
    table = TABLES["plain"]
    diagonal, full = fit(table, covariance="diagonal"), fit(table, shrinkage=0)
    lines = fit(table, rank=1), fit(table, rank=2)
    weighted = table._replace(weights=np.full(len(table.y), 2.0))
    other = table._replace(y=table.y + 1)
    return {
        "exchanged": (full, diagonal, {}, "not nested"),
        "covariates": (
            diagonal,
            fit(without_covariate(table), covariance="diagonal"),
            {},
            "covariates are no",
        ),
        "rank": (*lines, {}, "boundary .* n_boot"),
        "shrunk": (diagonal, fit(table, shrinkage=0.2), {}, "shrunk"),
        "bound": (fit(table, covariance="diagonal", method="variational"), full, {}, "method='variational'"),
        "counts": (fit(other, covariance="diagonal"), full, {}, "different counts"),
        "weights": (fit(weighted, covariance="diagonal"), full, {}, "different weights"),
        "weighted": (
            fit(weighted, covariance="spherical"),
            fit(weighted, covariance="diagonal"),
            {"n_boot": 9},
            "without weights",
        ),
        "itself": (full, full, {}, "nothing to test"),
        "number": (diagonal, full, {"n_boot": -1}, "n_boot=-1"),
    }


def test_what_is_no_question_of_this_test_is_refused() -> None:
    for name, (small, large, given, words) in refusals().items():
        with pytest.raises(InputError, match=words):
            poplin.likelihood_ratio(small, large, **given)
            pytest.fail(f"{name} was not refused")
