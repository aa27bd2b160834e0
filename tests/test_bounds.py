"""Both bounds against their slow twins: values with every constant, and gradients against differences.

Start at `test_value`. A case is a bound, a table, and a point of unknowns drawn at random.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poplin._numerics import double_precision
from poplin.data.blocks import as_block
from poplin.fitting.phases import best_rows, first_rows, surer_rows
from poplin.methods.bounds import DirectBound, FactorBound
from poplin.models.loadings import BorrowedBasis, FreeLoadings, FrozenLoadings
from poplin.rows.gaussian import fit_rows
from poplin.updates.structure import Diagonal, Fixed, Full, Model, Spherical
from tests import laws, twins
from tests.instances import BASIS, COLUMNS, RANK, TABLES, autoregressive, block_of

KAPPA = 5.0
SIGMA = 0.6 * autoregressive(COLUMNS, 0.5)
COEF = np.array([[2.0] * COLUMNS, [0.3, -0.2, 0.1, 0.0]])
LOADINGS = np.random.default_rng(8).normal(size=(COLUMNS, RANK))

# how each shape makes Sigma of the mean second moment S of N rows, written a second time
ESTIMATES = {
    "full": lambda s, n: s,
    "shrunk": lambda s, n: (n * s + KAPPA * np.diag(np.diag(s))) / (n + KAPPA),
    "diagonal": lambda s, n: np.diag(np.diag(s)),
    "spherical": lambda s, n: np.trace(s) / len(s) * np.eye(len(s)),
    "fixed": lambda s, n: SIGMA,
}
DIRECT = (*ESTIMATES, "known")
FACTOR = ("free", "borrowed", "frozen")


@cache
def bound_of(name: str) -> Any:
    with double_precision():
        shapes = {
            "full": Full(jnp.zeros(())),
            "shrunk": Full(jnp.asarray(np.float64(KAPPA))),
            "diagonal": Diagonal(),
            "spherical": Spherical(),
            "fixed": Fixed(jnp.asarray(SIGMA)),
        }
        if name in shapes:
            return DirectBound(shapes[name])
        if name == "known":
            return DirectBound(Fixed(jnp.asarray(SIGMA)), jnp.asarray(COEF))
        loadings = {
            "free": FreeLoadings(),
            "borrowed": BorrowedBasis(jnp.asarray(BASIS)),
            "frozen": FrozenLoadings(jnp.asarray(COEF), jnp.asarray(LOADINGS)),
        }
        return FactorBound(loadings[name])


class Case(NamedTuple):
    """A point, the bound's value, profile and gradients there, and the twin as a function of (shared, rows)."""

    shared: Any
    unknown: Any
    value: float
    profile: Any
    for_shared: Any
    for_rows: Any
    twin: Any


@cache
def case(name: str, table: str) -> Case:
    random = np.random.default_rng(11)
    given = TABLES[table]
    q = COLUMNS if name in DIRECT else RANK
    start = 2.0 if name in DIRECT else 0.0
    unknown = (
        start + 0.5 * random.normal(size=(len(given.y), q)),
        -1 + 0.3 * random.normal(size=(len(given.y), q)),
    )
    shared: Any = ()
    if name == "free":
        shared = COEF, LOADINGS
    if name == "borrowed":
        shared = COEF, np.array([0.7, 0.4])
    with double_precision():
        on_device = jax.tree.map(jnp.asarray, (shared, unknown))
    found = laws.value_and_slopes(bound_of(name), *on_device, block_of(given))
    twin = direct_twin(name, given) if name in DIRECT else factor_twin(name, given)
    return Case(shared, unknown, *found, twin)


def direct_twin(name: str, table: Any) -> Any:
    if name == "known":
        return lambda shared, rows: twins.direct_value(table, *rows, COEF, SIGMA)
    kappa = KAPPA if name == "shrunk" else 0.0
    return lambda shared, rows: twins.profiled(table, *rows, estimate=ESTIMATES[name], kappa=kappa)


def factor_twin(name: str, table: Any) -> Any:
    def twin(shared, rows):
        coef, loadings = shared if shared else (COEF, LOADINGS)
        loadings = BASIS * loadings if name == "borrowed" else loadings
        return twins.factor_value(table, rows[0], twins.diagonals(rows[1]), coef, loadings)

    return twin


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", (*DIRECT, *FACTOR))
def test_value(name: str, table: str) -> None:
    case_ = case(name, table)
    laws.value_is_the_twins(case_.value, case_.twin(case_.shared, case_.unknown))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", (*DIRECT, *FACTOR))
def test_gradients(name: str, table: str) -> None:
    case_ = case(name, table)
    laws.slopes_are_differences(
        (case_.for_shared, case_.for_rows),
        (case_.shared, case_.unknown),
        lambda point: case_.twin(*point),
    )


@pytest.mark.parametrize("name", ["full", "shrunk", "diagonal", "spherical"])
def test_profiled_parameters_are_the_best(name: str) -> None:
    """No other B, and no other Sigma of the shape, gives more."""
    case_, table = case(name, "weighted"), TABLES["weighted"]
    random = np.random.default_rng(12)
    coef, covariance = case_.profile.coef, case_.profile.profile.covariance
    kappa = KAPPA if name == "shrunk" else 0.0
    target = np.diag(np.diag(twins.second_moment(table, *case_.unknown, coef)))
    for size in (1e-3, 1e-1):
        other = random.normal(size=covariance.shape)
        other = covariance @ (np.eye(COLUMNS) + size * (other + other.T))
        other = ESTIMATES["full" if name == "shrunk" else name](0.5 * (other + other.T), 1.0)
        other_coef = coef + size * random.normal(size=coef.shape)
        for one in ((coef, other), (other_coef, covariance)):
            value = twins.direct_value(table, *case_.unknown, *one)
            value -= kappa * twins.divergence(target, one[1])
            assert value < case_.value


def test_rows_of_long_loadings_have_a_finite_bound() -> None:
    """Where the usual start's is -inf: a column that is counted in few rows has loadings of a hundred there."""
    random = np.random.default_rng(4)
    coef, loadings = np.array([[-165.0, 1.0, 2.0]]), np.array([[240.0, 30.0], [0.5, 0.3], [0.2, 0.6]])
    w = random.normal(size=(40, 2))
    y = random.poisson(np.exp(np.minimum(coef + w @ loadings.T, 8.0)))
    with double_precision():
        model = Model(jnp.asarray(coef), jnp.asarray(loadings))
        block = as_block(y, np.ones((40, 1)), np.zeros(y.shape), np.ones(40), prior=False)
        starts = (start(model, block) for start in (partial(first_rows, direct=False), surer_rows))
        usual, found = (float(best_rows(model, block, at, direct=False).state.objective) for at in starts)
        full = float(jnp.sum(fit_rows(block, *model).bound))
    assert not np.isfinite(usual)
    assert full - 20 * len(y) < found <= full
