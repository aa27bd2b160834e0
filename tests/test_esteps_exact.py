"""Laws of numerical integration: it is the slow quadrature's likelihood, its gradient, and its maximum.

Start at `test_loglik_is_the_quadratures`. Units of parameters are complete-data standard errors.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import poplin
from poplin._numerics import double_precision
from poplin.fitting.alternatives import plan
from poplin.methods.exact import Likelihood
from poplin.rows.nodes import column_nodes, joint_nodes
from poplin.updates.direct import LEAST_SD
from poplin.updates.structure import LEVEL_SD, SCALE_SD
from tests import laws
from tests.instances import (
    MODELS,
    TABLES,
    Table,
    autoregressive,
    block_of,
    fit,
    fitted,
    recipe_of,
    simulated,
)
from tests.oracles import univariate_loglik
from tests.rowcases import CASES, device, exact

ORDERS = {1: 60, 2: 40, 3: 24}
POSSIBLE = ("diagonal", "spherical", "rank", "basis")


@cache
def program() -> Any:
    """The rule's row log-likelihoods as one program."""
    return jax.jit(lambda rule, block, coef, loadings: rule.loglik(block, coef, loadings))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_loglik_is_the_quadratures(case: tuple[str, int]) -> None:
    """Rows of every kind, q = 1, 2 and 3: nodes on the fitted Gaussian against nodes on the mode."""
    with double_precision():
        found = np.asarray(program()(joint_nodes(ORDERS[case[1]], case[1]), *device(CASES[case])))
    np.testing.assert_allclose(found, exact(case), rtol=0, atol=1e-5 if case[0] == "wide" else 1e-6)


@pytest.mark.parametrize("name", TABLES)
def test_columns_apart_are_columns_together(name: str) -> None:
    """A diagonal Sigma of two columns: the product of one-dimensional integrals is the two-dimensional one."""
    table = TABLES[name].columns([0, 2])
    block, scale = block_of(table), np.diag([0.7, 1.2])
    coef, rules = table.coef, (column_nodes(40), joint_nodes(40, 2))
    with double_precision():
        apart, together = (np.asarray(program()(rule, block, coef, scale)) for rule in rules)
    np.testing.assert_allclose(apart, together, atol=1e-6)


def target_of(model: str, name: str, order: int = 24) -> tuple[Likelihood, Any]:
    """The objective of a model for a table, and unknowns away from its maximum."""
    table, recipe = TABLES[name], recipe_of(model, TABLES[name])
    way = plan(recipe)
    random = np.random.default_rng(5)
    with double_precision():
        loadings = {
            "rank": 0.5 * random.normal(size=(4, 2)),
            "basis": np.asarray(getattr(recipe.loadings, "basis", 0)) * np.array([0.9, 0.5]),
        }.get(model, 0.8 * np.eye(4))
        target = Likelihood(way.free, way.rule(order), way.weak, way.least, 0.0, recipe.level)
        return target, way.free.collapse(jnp.asarray(table.coef), jnp.asarray(loadings))


@pytest.mark.parametrize(("model", "name"), [("diagonal", "weighted")])
def test_gradient_is_the_difference_of_values(model: str, name: str) -> None:
    target, shared = target_of(model, name)
    block = block_of(TABLES[name])
    _, _, slope, _ = laws.value_and_slopes(target, shared, (), block)
    measure = jax.jit(lambda shared: target.value(target.measure(shared, (), block)[1])[0])

    def value(shared: Any) -> float:
        with double_precision():
            return float(measure(shared))

    laws.slopes_are_differences(slope, shared, value)


def test_gradient_of_the_shrunk_objective() -> None:
    """The penalty of correlations, three columns, free Sigma."""
    table = TABLES["plain"].columns([0, 1, 2])
    block = block_of(table)
    with double_precision():
        recipe = recipe_of("full", table)
        way = plan(recipe)
        root = np.linalg.cholesky(autoregressive(3, 0.7))
        shared = way.free.collapse(jnp.asarray(table.coef), jnp.asarray(root))
        target = Likelihood(way.free, way.rule(16), 1.0, 1.0, 7.0, recipe.level)
    _, _, slope, _ = laws.value_and_slopes(target, shared, (), block)
    measure = jax.jit(lambda shared: target.value(target.measure(shared, (), block)[1])[0])

    def value(shared: Any) -> float:
        with double_precision():
            return float(measure(shared))

    laws.slopes_are_differences(slope, shared, value)


def column_maximum(table: Table, j: int) -> np.ndarray:
    """(B_j, sd) of a column by maximum likelihood under its weak priors, by the trapezoid rule."""

    def lost(theta: np.ndarray) -> float:
        base = table.offset[:, j] + table.x @ theta[:-1]
        sd = np.exp(theta[-1])
        level = np.var(table.x @ theta[:-1]) / LEVEL_SD**2
        weak = 0.5 * (level + (sd / SCALE_SD) ** 2) + (LEAST_SD / sd) ** 2
        return weak - univariate_loglik(table.y[:, j], base, 0.0, sd)

    options = {"xatol": 1e-8, "fatol": 1e-11, "maxiter": 4000}
    found = minimize(lost, [np.log(table.y[:, j].mean()), 0.0, -0.5], method="Nelder-Mead", options=options)
    return np.append(found.x[:-1], np.exp(found.x[-1]))


def test_a_diagonal_fit_is_the_maximum_of_each_column() -> None:
    one = fit(TABLES["plain"], covariance="diagonal", method="exact")
    assert one.converged_
    expected = np.stack([column_maximum(TABLES["plain"], j) for j in range(4)])
    np.testing.assert_allclose(one.coef_, expected[:, :-1].T, atol=1e-4)
    np.testing.assert_allclose(np.sqrt(np.diag(one.covariance_)), expected[:, -1], atol=1e-4)


EXACT = {name: {**MODELS[name], "method": "exact"} for name in POSSIBLE}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("diagonal", "missing"),
        ("diagonal", "empty column"),
        ("spherical", "weighted"),
        ("rank", "weighted"),
        ("basis", "missing"),
    ],
)
def test_no_other_method_is_likelier(model: str, name: str) -> None:
    """At the maximum: ml and the bound lie below, up to the error of their importance sampling."""
    best = fit(TABLES[name], **EXACT[model])
    assert best.converged_ and best.loglik_se_ == 0
    for method in ("ml", "variational"):
        other = fitted(model, method, name)
        assert best.loglik_ >= other.loglik_ - 4 * other.loglik_se_ - 2e-2


def test_exact_and_ml_agree() -> None:
    """Ten columns, apart: within four Monte-Carlo errors of ml's seeds."""
    for p, settings in ((10, {"covariance": "diagonal"}),):
        table = simulated(40 + p, 0.7 * np.linalg.cholesky(autoregressive(p, 0.5)), n=80)
        best = fit(table, method="exact", **settings)
        seeds = [
            fit(table, method="ml", tol=0.05, max_iter=3000, random_state=s, **settings) for s in range(3)
        ]
        unit = laws.complete_errors(best.coef_, best.covariance_, table.x, table.weights)
        expected = laws.flat(best.coef_, best.covariance_)
        laws.differs_by_chance(
            expected,
            np.stack([laws.flat(one.coef_, one.covariance_) for one in seeds]),
            unit * (expected != 0),
            f"{p} columns, {settings}",
        )


def test_shrinkage_is_that_of_ml() -> None:
    """The pseudo-rows that the data choose, and the shrunk correlations, three columns."""
    table = simulated(61, np.linalg.cholesky(autoregressive(3, 0.6)), n=60)
    one = fit(table, method="exact")
    seeds = [fit(table, method="ml", tol=0.05, max_iter=3000, random_state=s) for s in range(2)]
    assert 0 < one.shrinkage_ < 0.5
    assert abs(one.shrinkage_ - np.mean([s.shrinkage_ for s in seeds])) < 0.05
    for s in seeds:
        assert np.abs(one.covariance_ - s.covariance_).max() < 0.1


def test_what_cannot_be_integrated_is_refused() -> None:
    counts = np.ones((20, 4))
    with pytest.raises(poplin.InputError, match="at most 3 latent dimensions"):
        poplin.PLN(method="exact").fit(counts)
    with pytest.raises(poplin.InputError, match="'exact'"):
        poplin.PLN(method="quadrature").fit(counts)
    with pytest.raises(poplin.InputError, match="order"):
        poplin.PLN(method=poplin.methods.Exact(order=1), covariance="diagonal").fit(counts)


def test_an_exact_fit_survives_saving(tmp_path: Any) -> None:
    one = fit(TABLES["plain"], covariance="diagonal", method=poplin.methods.Exact(order=30))
    one.save(tmp_path / "fit.npz")
    again = poplin.load(tmp_path / "fit.npz")
    assert again.loglik_ == one.loglik_ and again.method == one.method
