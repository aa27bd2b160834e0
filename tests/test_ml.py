"""Laws of maximum likelihood: what chance may change and what not, quadrature, and recovery of the truth.

Start at `test_diagonal_fit_is_quadrature_maximum_likelihood`. The Monte-Carlo error of a fit is its spread over seeds;
units are complete-data standard errors (the least that the data leave open).
"""

from __future__ import annotations

import warnings
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import poplin
from poplin._numerics import double_precision
from poplin.data.blocks import as_block
from poplin.updates.convergence import movement_cosine
from poplin.updates.direct import Direct
from poplin.updates.structure import Counting, Diagonal, Model, column_variances, newton_columns
from tests import laws
from tests.instances import (
    COLUMNS,
    DOUBLED,
    METHODS,
    MODELS,
    ROWS,
    TABLES,
    Table,
    autoregressive,
    fit,
    fitted,
    orthonormal,
    settings_of,
    simulated,
)
from tests.oracles import univariate_loglik
from tests.programs import at_once
from tests.tolerances import STANDARD_ERRORS

FEW = simulated(7, 0.7 * np.eye(4), n=300, level=-1.0)
SEEDS = 8
CHANCE = ("auto", "full", "rank", "basis")
REPLICATES = 10
TIGHT = 0.02


def ml(table: Table, model: str = "auto", seed: int = 0, **settings: Any) -> Any:
    chosen = {} if model == "auto" else settings_of(model)
    return fit(table, **{**chosen, "method": "ml", "random_state": seed, **settings})


def estimates(one: Any) -> np.ndarray:
    return laws.flat(one.coef_, one.covariance_)


def table_of(name: str) -> Table:
    return {"doubled": DOUBLED, "few": FEW, **TABLES}[name]


@cache
def over_seeds(model: str, name: str, tol: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of the seeds, (seeds, k), and the units of their errors, 0 where nothing is free, (k,)."""
    table = table_of(name)
    found = [ml(table, model, seed, tol=tol, max_iter=4000) for seed in range(SEEDS)]
    unit = laws.complete_errors(found[0].coef_, found[0].covariance_, table.x, table.weights)
    return np.stack([estimates(one) for one in found]), unit * (estimates(found[0]) != 0)


def quadrature_maximum(table: Table, j: int) -> np.ndarray:
    """(B_j, variance) of a column by maximum likelihood, its integrals by quadrature."""

    def lost(theta: np.ndarray) -> float:
        base = table.offset[:, j] + table.x @ theta[:-1]
        return -univariate_loglik(table.y[:, j], base, 0.0, np.exp(theta[-1]))

    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000}
    found = minimize(lost, [np.log(table.y[:, j].mean()), 0.0, -0.5], method="Nelder-Mead", options=options)
    return np.append(found.x[:-1], np.exp(2 * found.x[-1]))


@pytest.mark.parametrize(("name", "tol"), [("plain", TIGHT), ("few", 0.1)])
def test_diagonal_fit_is_quadrature_maximum_likelihood(name: str, tol: float) -> None:
    """Also where counts are few, and steps in units of complete data would be far too short."""
    values, unit = over_seeds("diagonal", name, tol)
    table = table_of(name)
    exact = np.stack([quadrature_maximum(table, j) for j in range(table.y.shape[1])])
    expected = laws.flat(exact[:, :-1].T, np.diag(exact[:, -1]))
    laws.differs_by_chance(expected, values, unit, "quadrature")


@pytest.mark.parametrize("name", ["plain", "weighted", "missing"])
@pytest.mark.parametrize("model", [name for name in MODELS if name != "shrunk"])
def test_likelihood_is_not_below_that_of_the_bound(model: str, name: str) -> None:
    """Where nothing is shrunk: it is what is maximised."""
    fits = [fitted(model, method, name) for method in ("ml", "variational")]
    error = np.hypot(*(one.loglik_se_ for one in fits))
    assert fits[0].loglik_ >= fits[1].loglik_ - 3 * error


@pytest.mark.parametrize("model", CHANCE)
def test_same_seed_same_numbers_and_another_within_error(model: str) -> None:
    values, unit = over_seeds(model, "missing")
    again = ml(TABLES["missing"], model, 0, max_iter=4000)
    assert np.array_equal(estimates(again), values[0])
    assert not np.array_equal(values[0], values[1])
    laws.differs_by_chance(estimates(ml(TABLES["missing"], model, 1000)), values, unit, "another seed")


@pytest.mark.parametrize("model", CHANCE)
def test_spread_over_seeds_is_what_the_stopping_rule_promises(model: str) -> None:
    """`tol` = 0.2: the root mean square Monte-Carlo error is at most that many complete-data standard errors."""
    values, unit = over_seeds(model, "missing")
    spread = np.sqrt(np.mean([laws.root_mean_square(one - values.mean(axis=0), unit) ** 2 for one in values]))
    assert 0 < spread < 0.2


@pytest.mark.parametrize("model", CHANCE)
def test_order_of_rows_and_columns_within_error(model: str) -> None:
    (values, unit), table = over_seeds(model, "missing"), TABLES["missing"]
    random = np.random.default_rng(41)
    rows, columns = random.permutation(ROWS), random.permutation(COLUMNS)
    laws.differs_by_chance(estimates(ml(table.rows(rows), model)), values, unit, "rows reordered")
    chosen = {} if model == "auto" else settings_of(model, columns)
    other, back = ml(table.columns(columns), model, **chosen), np.argsort(columns)
    found = laws.flat(other.coef_[:, back], other.covariance_[back][:, back])
    laws.differs_by_chance(found, values, unit, "columns reordered")


@pytest.mark.parametrize("model", CHANCE)
def test_weight_two_is_a_doubled_row_and_weight_zero_is_none(model: str) -> None:
    values, unit = over_seeds(model, "doubled")
    weights = np.ones(ROWS)
    weights[3], weights[-1] = 2, 0
    other = DOUBLED._replace(y=DOUBLED.y.copy(), weights=weights)
    other.y[-1] = 1000  # of no weight
    laws.differs_by_chance(estimates(ml(other, model)), values, unit, "weighted")


AUTOREGRESSIVE = np.linalg.cholesky(autoregressive(6, 0.8))
PLANE = orthonormal(6, 2) * np.array([1.5, 1.0])
RECOVERED: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "full": (AUTOREGRESSIVE, {"shrinkage": 0}),
    "rank": (PLANE, {"rank": 2}),
    "basis": (PLANE, {"basis": orthonormal(6, 2)}),
}


@cache
def replicates(model: str, method: str) -> list[tuple[Table, Any]]:
    """Tables drawn from the same Sigma, each with its fit."""
    loadings, settings = RECOVERED[model]
    tables = [simulated(100 + seed, loadings, n=2000, level=1.0) for seed in range(REPLICATES)]
    return [(table, fit(table, **settings, **METHODS[method])) for table in tables]


def bias_of(model: str, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean over replicates of the estimates less those from the true Z, and its standard error, (k,).

    What chance did to Z is in both, so that little of it is left in the difference.
    """
    gaps = []
    for table, one in replicates(model, method):
        coef = np.linalg.lstsq(table.x, table.latent, rcond=None)[0]
        residual = table.latent - table.x @ coef
        gaps.append(estimates(one) - laws.flat(coef, residual.T @ residual / len(residual)))
    return np.mean(gaps, axis=0), np.std(gaps, axis=0, ddof=1) / np.sqrt(REPLICATES)


@pytest.mark.parametrize("model", RECOVERED)
def test_the_truth_is_recovered(model: str) -> None:
    """B and Sigma are, on average, those of complete data, within four standard errors."""
    laws.within(*bias_of(model, "ml"), "the mean over replicates")


def test_scales_of_a_borrowed_basis_are_recovered() -> None:
    """Lambda is the diagonal of V'Sigma V."""
    basis = orthonormal(6, 2)
    found = [np.diag(basis.T @ one.covariance_ @ basis) for _, one in replicates("basis", "ml")]
    error = np.std(found, axis=0, ddof=1) / np.sqrt(REPLICATES)
    laws.within(np.mean(found, axis=0) - [1.5**2, 1.0], error, "Lambda")


def test_the_diagonal_bound_does_not_recover_it() -> None:
    """Its covariance of neighbours is far too small (0.8 in truth), which no number of rows mends."""
    bias, error = bias_of("full", "variational")
    neighbours = laws.flat(np.zeros((2, 6)), np.eye(6, k=1)) == 1
    assert np.all(bias[neighbours] < -STANDARD_ERRORS * error[neighbours])
    assert np.all(bias[neighbours] < -0.08)


@pytest.mark.parametrize("settings", [{"rank": 1}, {"rank": 2}, {}, {"basis": np.eye(6)[:, :2]}], ids=str)
def test_a_coefficient_without_a_finite_maximum_stops_at_the_weak_prior(settings: dict[str, Any]) -> None:
    """A column never seen in a group: next to nothing is expected there, and the rest settles all the same."""
    random = np.random.default_rng(0)
    group = np.arange(120) % 3
    covariates = np.stack([np.ones(120), group == 1, group == 2], axis=1).astype(float)
    latent = random.normal(size=(120, 1)) @ random.normal(size=(1, 6))
    counts = random.poisson(np.exp(1 + 0.7 * latent))
    counts[group == 1, 0] = counts[group == 2, 1] = 0
    # nothing but the prior tells these coefficients, and chance moves them by a factor e: the mean of four seeds
    fits = [poplin.PLN(**settings, random_state=seed).fit(counts, X=covariates) for seed in range(4)]
    expected = np.mean([one.predict(covariates) for one in fits], axis=0)
    assert all(one.converged_ for one in fits)
    assert expected[group == 1, 0].sum() < 0.5 and expected[group == 2, 1].sum() < 0.5
    for one in fits:
        assert np.abs(one.coef_).max() < 20
        assert np.abs(np.delete(one.coef_, [0, 1], axis=1)).max() < 3


@pytest.mark.parametrize("shrinkage", ["auto", 0])
def test_rare_columns_stay_finite(shrinkage: Any) -> None:
    """Columns seen in one row and in two, which the others could tell apart with ever steeper slopes."""
    table = simulated(3, np.linalg.cholesky(4 * autoregressive(12, 0.8)), n=80, level=1.0)
    counts = table.y.copy()
    counts[:, :2] = 0
    counts[0, 0], counts[:2, 1] = 3, (1, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poplin.ConvergenceWarning)  # how long it takes is not the question
        fitted = poplin.PLN(shrinkage=shrinkage).fit(counts)
    assert np.abs(fitted.coef_).max() < 100 and np.diag(fitted.covariance_).max() < 1000
    assert np.linalg.eigvalsh(fitted.covariance_)[0] > 0


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning", "ignore::poplin.DataWarning")
def test_a_slow_climb_is_not_taken_for_the_top() -> None:
    """Columns that two latent axes all but separate into zeros and thousands: thousands of steps."""
    random = np.random.default_rng(3)
    latent = random.normal(size=(300, 2)) @ random.normal(scale=6, size=(12, 2)).T
    counts = random.poisson(np.exp(np.minimum(latent - 9, 9)))
    counts = counts[:, (counts > 0).any(axis=0)]

    def reached(steps: int, seed: int) -> float:
        return poplin.PLN(rank=2, shrinkage=0, max_iter=steps, random_state=seed).fit(counts).loglik_

    # 14, seeds apart by 10; by the lengths of movements alone it settles far below, 120, and creeps on from there
    assert np.mean([reached(500, seed) for seed in range(3)]) > reached(2000, 0) - 50


@pytest.mark.parametrize(("angle", "cosine"), [(0.0, 1.0), (np.pi / 3, 0.5), (np.pi, -1.0)])
def test_cosine_of_movements(angle: float, cosine: float) -> None:
    """Of two columns' coefficients in units of equal standard errors, whatever the lengths of the movements."""
    start, covariance = jnp.array([[0.3, -1.0]]), 2.0 * jnp.eye(2)
    along = jnp.array([[1.0, 0.0]]), jnp.array([[jnp.cos(angle), jnp.sin(angle)]])
    moves = [
        ((start, covariance), (start + step * way, covariance))
        for step, way in zip((0.1, 3.0), along, strict=True)
    ]
    nothing = Counting(jnp.zeros((1, 2)), jnp.zeros((2, 2)))
    found = at_once(movement_cosine, *moves, jnp.array([[50.0]]), jnp.asarray(50.0), nothing)
    np.testing.assert_allclose(found, cosine, rtol=1e-5)


def test_a_column_with_hardly_any_variance_finds_its_level() -> None:
    """It is a Poisson regression, which Newton's method solves in a few steps from three e-folds above."""
    table = simulated(3, 0.03 * np.eye(2), n=400, level=-3.0)
    with double_precision():
        block = as_block(table.y, np.ones((400, 1)), np.zeros((400, 2)), np.ones(400))
        structure = Direct(Diagonal())
        model = Model(jnp.zeros((1, 2)), 0.03 * jnp.eye(2))
        average = structure.begin(model)

        @jax.jit
        def advanced(model: Any, average: Any, key: Any, first: Any) -> Any:
            w = jax.random.normal(key, (400, 2))
            rate = jnp.exp(model.coef + w @ model.loadings.T)
            total = structure.statistic(model, w, rate, block)
            return structure.advance(model, average, total, gamma=1.0, first=first)

        for step in range(12):
            model, average, _ = advanced(model, average, jax.random.key(step), jnp.asarray(step == 0))
    level, error = np.log(table.y.mean(axis=0)), 1 / np.sqrt(table.y.sum(axis=0))
    assert np.all(np.abs(np.asarray(model.coef)[0] - level) < STANDARD_ERRORS * error)


def test_a_step_is_finite_where_rounding_leaves_a_hessian_indefinite() -> None:
    """Single-precision sums over one row that counts: two of three directions have no more than noise."""
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    hessian = features[:, :, None] * features[:, None, :] * (1 - 1e-7 * np.eye(3))
    with double_precision():
        newton = partial(newton_columns, gamma=jnp.asarray(1.0))
        step = np.asarray(at_once(newton, jnp.ones((3, 5)), jnp.asarray(hessian)))
    change, scale = np.einsum("kj,jk->j", step, features), np.linalg.norm(features, axis=1)
    assert np.all(np.isfinite(step)) and np.all(np.abs(change) <= 1.01 * scale)
    assert np.all(np.linalg.norm(step.T * np.abs(features), axis=1) <= 1100 * scale)  # 1 / sqrt(1e-6 - 1e-7)


def test_counting_variances_are_diagonals_of_inverses() -> None:
    """Column by column; a direction without counts has a very large variance and the others keep theirs."""
    random = np.random.default_rng(1)
    features, rate = random.normal(size=(30, 3)), np.exp(random.normal(size=(30, 4)))
    rate[:, 3] = 0.0
    hessian = np.einsum("na,nj,nb->jab", features, rate, features)
    with double_precision():
        variances = np.asarray(column_variances(jnp.asarray(hessian)))
    for j in range(3):
        laws.assert_close(variances[:, j], np.diag(np.linalg.inv(hessian[j])), 10)
    assert np.all(variances[:, 3] > 1e100) and np.all(np.isfinite(variances))
