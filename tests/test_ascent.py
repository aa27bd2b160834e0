"""The deterministic methods step by step: the bound never falls, stopping rules hold at the optimum only.

Start at `test_diagonal_objective_never_falls`. Every step's objective is compared with the slow twin of the bound.
"""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import poplin
from poplin import fit as loop
from poplin._numerics import double_precision
from poplin.fitting import phases
from poplin.methods import variational
from poplin.methods.variational import FullVariational, QuasiNewton
from poplin.rows.gaussian import start_rows
from poplin.updates.structure import Model
from tests import laws, twins
from tests.instances import (
    BASIS,
    COLUMNS,
    DIRECT,
    METHODS,
    MODELS,
    RANK,
    TABLES,
    block_of,
    fit,
    fitted,
    recipe_of,
)

TOLERANCE = 1e-9
LOADING_SD = 10.0  # of the weak prior of a loading


def kappa_of(model: str, table: str) -> float:
    weight = MODELS[model].get("shrinkage", 0)
    return weight / (1 - weight) * TABLES[table].weights.sum()


def diagonal_method(model: str, table: str) -> tuple[QuasiNewton, Any, Any]:
    """The method, its first values and the block, as `PLN` makes them."""
    recipe, block = recipe_of(model, TABLES[table]), block_of(TABLES[table])
    with double_precision():
        return QuasiNewton(recipe.bound(), TOLERANCE), phases.first_values(recipe, block), block


def runner(method: Any, block: Any) -> Any:
    """A method on a block, as a function of first values and the most steps."""

    def go(first, steps):
        with double_precision():
            return loop.run(method, first, block, phase="", max_iter=steps, began=0.0)

    return go


def full_method(model: str, table: str) -> tuple[FullVariational, Any, Any]:
    """The method from a poor start, so that it has some way to climb."""
    recipe, block = recipe_of(model, TABLES[table]), block_of(TABLES[table])
    random = np.random.default_rng(21)
    loadings = {"rank": 0.4 * random.normal(size=(COLUMNS, RANK)), "basis": 0.5 * BASIS}
    start = Model(np.array([[1.5] * COLUMNS, [0.0] * COLUMNS]), loadings.get(model, 0.8 * np.eye(COLUMNS)))
    if model == "fixed":
        start = start._replace(loadings=np.linalg.cholesky(MODELS["fixed"]["covariance"]))
    with double_precision():
        start = jax.tree.map(jnp.asarray, start)
        first = variational.First(start, start_rows(block, *start))
        return FullVariational(recipe.structure(), TOLERANCE), first, block


def diagonal_twin(model: str, table: str, state: Any, rows: Any) -> float:
    """The diagonal bound at the point that was accepted."""
    given, (mean, log_sd) = TABLES[table], rows.unknown
    if model in DIRECT:
        coef, covariance = state.best_profile.coef, state.best_profile.profile.covariance
        kappa = kappa_of(model, table)
        return twins.penalised(given, mean, log_sd, coef, covariance, kappa=kappa)
    coef, loadings = state.vector.unknown
    loadings = BASIS * loadings if model == "basis" else loadings
    return twins.factor_value(given, mean, twins.diagonals(log_sd), coef, loadings)


def full_twin(model: str, table: str, tried: Model, rows: Any) -> float:
    """The full bound at the model that was tried, less what its prior costs there."""
    given, kappa = TABLES[table], kappa_of(model, table)
    value = twins.factor_value(given, rows.mean, rows.covariance, *tried)
    if model == "rank":
        return value - 0.5 * np.sum((tried.loadings / LOADING_SD) ** 2)
    if not kappa:
        return value
    moment = (
        sum(
            weight * (np.outer(m, m) + s)
            for weight, m, s in zip(given.weights, rows.mean, rows.covariance, strict=True)
        )
        / given.weights.sum()
    )
    target = np.diag(np.diag(tried.loadings @ moment @ tried.loadings.T))
    return value - kappa * twins.divergence(target, tried.loadings @ tried.loadings.T)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("model", MODELS)
def test_diagonal_objective_never_falls(model: str, table: str) -> None:
    steps = laws.steps_of(*diagonal_method(model, table), steps=25)
    objective = [float(state.objective) for state, _ in steps]
    laws.never_falls(objective)
    reached = [diagonal_twin(model, table, *step) for step in steps]
    laws.objective_is_reached(objective, reached, exactly=True)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("model", MODELS)
def test_full_objective_never_falls(model: str, table: str) -> None:
    """Nor does the bound at the models that are tried, so that hardly a step has to be taken back."""
    method, first, block = full_method(model, table)
    steps = laws.steps_of(method, first, block, steps=60)
    tried = [jax.device_get(first.model), *(state.model for state, _ in steps)]
    reached = [full_twin(model, table, m, rows) for m, (_, rows) in zip(tried, steps, strict=False)]
    laws.never_falls(reached)
    laws.objective_is_reached([float(s.objective) for s, _ in steps], reached, exactly=False)


@pytest.mark.parametrize("model", MODELS)
def test_diagonal_stopping_rule(model: str) -> None:
    method, first, block = diagonal_method(model, "missing")
    run = runner(method, block)
    end = run(first, 1000)
    optimum = first._replace(shared=end.state.vector.unknown, rows=end.rows.unknown)
    mean, log_sd = (np.asarray(a) for a in end.rows.unknown)
    noise = np.random.default_rng(22).normal(size=mean.shape)
    away = optimum._replace(rows=(mean + 0.5 * noise, log_sd))
    laws.stopping_rule_holds_at_the_optimum_only(run, optimum, away, tol=TOLERANCE)


@pytest.mark.parametrize("model", MODELS)
def test_full_stopping_rule(model: str) -> None:
    method, first, block = full_method(model, "missing")
    run = runner(method, block)
    end = run(first, 1000)
    optimum = variational.First(end.state.best, end.rows)
    laws.stopping_rule_holds_at_the_optimum_only(run, optimum, first, tol=TOLERANCE)


ONE_START = pytest.param(
    "shrunk",
    marks=pytest.mark.xfail(
        reason="The rows climb the bound, not the bound less the penalty (whose target is diag S): it falls, and "
        "the fit is stuck and reports that it did not converge."
    ),
)


@pytest.mark.parametrize("model", [ONE_START if name == "shrunk" else name for name in MODELS])
def test_full_fit_does_not_depend_on_its_start(model: str) -> None:
    """From a poor start, or from the diagonal fit as `PLN` does it, the same bound is reached."""
    method, first, block = full_method(model, "plain")
    poor = runner(method, block)(first, 1000)
    fit = fitted(model, "full posterior")
    assert poor.converged and fit.converged_
    reached = [float(poor.state.objective), fit.trace_["objective"][-1]]
    assert abs(reached[0] - reached[1]) <= 10 * TOLERANCE * (1 + abs(reached[0]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", ["full", "rank", "basis"])
def test_one_program_for_all_tables_of_a_shape(model: str, method: str) -> None:
    """Other counts, weights, holes, seeds and tolerances need no compilation."""
    fitted(model, method)
    before = loop._advance.programs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poplin.ConvergenceWarning)
        fit(TABLES["weighted"], **MODELS[model], **METHODS[method], random_state=3, max_iter=9)
        fit(TABLES["missing"], **MODELS[model], **METHODS[method], tol=1e-3, max_iter=17)
    assert loop._advance.programs() == before


def test_maximum_likelihood_needs_two_programs() -> None:
    """One for its variational start, one for the chains: the pilot that chooses the shrinkage shares it."""
    before = loop._advance.programs()
    fit(TABLES["plain"].rows(slice(0, 29)), method="ml")
    assert loop._advance.programs() == before + 2
