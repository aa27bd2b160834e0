"""Standard errors a few columns at a time, for large fits: against the whole information where both are possible.

Start at `test_parts_tell_what_the_whole_tells`. What counts as large is made small for the tests.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

import poplin
from poplin._numerics import double_precision
from poplin.estimators import standard_errors
from poplin.estimators.uncertainty import Asked, Uncertainty
from poplin.fitting.directions import _family, free_directions
from poplin.inference import intervals, sandwich
from poplin.inference.coordinates import Coordinates, coordinates
from poplin.models.covariance import Covariance
from poplin.models.loadings import FreeLoadings
from poplin.updates.structure import Model
from tests.instances import TABLES, Table, autoregressive, fitted, simulated
from tests.programs import at_once
from tests.tolerances import STANDARD_ERRORS, close

ROWS, COLUMNS, SEEDS = 300, 8, 8
LEFT_OUT = 0.005  # share of a standard error
ENTRIES = [(0, 0), (0, 1), (2, 4), (5, 6)]
MODELS: dict[str, dict[str, Any]] = {
    "full": {"shrinkage": 0},
    "rank": {"rank": 2},
}


def table(model: str) -> Table:
    """Counts of correlated columns; of a rank, columns that each say a good deal of w."""
    if model == "rank":
        return simulated(3, 0.6 * np.random.default_rng(5).normal(size=(COLUMNS, 2)), n=ROWS, level=1.0)
    return simulated(4, np.linalg.cholesky(0.7 * autoregressive(COLUMNS, 0.6)), n=ROWS, level=0.5)


@cache
def fit(model: str) -> Any:
    return poplin.PLN(**MODELS[model]).fit(table(model).y, X=table(model).x)


def make_parts_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of a few columns have parts."""
    for name, value in {"CORE": 4, "SIZE": 6, "VIEWED": 4}.items():
        monkeypatch.setattr(standard_errors, name, value)


def make_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fit is large, and parts are small."""
    monkeypatch.setattr(standard_errors, "MOST_NUMBERS", 1)
    make_parts_small(monkeypatch)


def told(one: Any, seed: int) -> np.ndarray:
    """Standard errors of B, and of some entries of Sigma and of the correlations where it is free."""
    asked, at = Uncertainty(one.set_params(random_state=seed)), tuple(np.array(ENTRIES).T)
    errors = [asked.errors("coef", Asked()).ravel(), asked.errors_at("covariance", at, Asked())]
    return np.concatenate([*errors, asked.errors_at("correlation", tuple(a[1:] for a in at), Asked())])


def over_seeds(one: Any) -> np.ndarray:
    """The same for several seeds, (s, entries)."""
    return np.stack([told(one, seed) for seed in range(SEEDS)])


@pytest.mark.parametrize("model", MODELS)
def test_parts_tell_what_the_whole_tells(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard errors agree, one by one and on average, but for Monte-Carlo error and what a part leaves out."""
    expected = over_seeds(fit(model))
    make_large(monkeypatch)
    actual, scale = over_seeds(fit(model)) / expected.mean(axis=0), expected.mean(axis=0)
    expected = expected / scale
    for one, other, limit in (
        (actual, expected, 0.03),
        (actual.mean(axis=1)[:, None], expected.mean(axis=1)[:, None], 0.01),
    ):
        gap = one.mean(axis=0) - other.mean(axis=0)
        error = np.sqrt((one.var(axis=0, ddof=1) + other.var(axis=0, ddof=1)) / SEEDS)
        error = np.maximum(error, np.sqrt(np.mean(error**2)))  # a few seeds tell an entry's own error badly
        assert np.all(np.abs(gap) <= LEFT_OUT + STANDARD_ERRORS * error), (gap, error)
        assert np.all(error <= limit), error


@given(
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), min_size=1, max_size=40), st.integers(2, 6)
)
def test_every_wanted_pair_is_in_a_core(wanted: list[tuple[int, int]], core: int) -> None:
    """Cores keep to their size, parts to theirs, and no column is in a part twice."""
    told = intervals.Telling(Covariance(np.linalg.cholesky(autoregressive(20, 0.7))), np.ones(20))
    found = intervals.parts(wanted, told, core=core, size=9)
    for part in found:
        assert part.core <= core and len(part.columns) == 9 == len(set(part.columns))
    cores = [set(part.columns[: part.core].tolist()) for part in found]
    assert all(any({j, k} <= held for held in cores) for j, k in wanted)
    assert len(found) <= len(set(wanted))


def numbers_of_part(here: Coordinates, columns: np.ndarray) -> np.ndarray:
    """The slow twin: of each number of a part, the numbers of the whole (K, .) that are the same change of B and C.

    With C <- C + (R F)', F = R^-1 dC'; pairs keep one triangle of F between latents, onto which the other is folded.
    """
    (d, p), loadings = here.model.coef.shape, np.asarray(here.model.loadings)
    q, rest = loadings.shape[1], np.setdiff1d(np.arange(p), columns)
    inverse = np.linalg.inv(np.asarray(here.outward.moves(jnp.eye(p))).T)
    alone, others = inverse[:, columns], inverse[:, rest] @ loadings[rest]
    features, directions = (np.asarray(a) for a in here.pairs)

    def of_feature(feature: int, along: np.ndarray) -> np.ndarray:
        numbers = np.zeros((len(features), along.shape[1]))
        own = features == feature
        numbers[own] = along[directions[own]]
        if feature >= d:
            folded = (directions == feature - d) & (features >= d) & (features < feature)
            numbers[folded] += along[features[folded] - d]
        return numbers

    made = [of_feature(a, alone) for a in range(d + q)] + [of_feature(a, others) for a in range(d)]
    return np.concatenate(made + [of_feature(d + a, others[:, : a + 1]) for a in range(q)], axis=1)


def by_hand(level: float, q: int) -> Coordinates:
    """Of a model that no table was fitted to, with counts that say as much as this level."""
    random = np.random.default_rng(q)
    model = Model(
        jnp.asarray(random.normal(size=(2, COLUMNS))), jnp.asarray(random.normal(size=(COLUMNS, q)))
    )
    return coordinates(None, FreeLoadings(), model, jnp.exp(level + jnp.asarray(random.normal(size=COLUMNS))))


@pytest.mark.parametrize("q", [1, 3, COLUMNS])
@pytest.mark.parametrize("level", [-9.0, -3.5, 3.0])
def test_scores_of_a_part_are_those_of_its_changes(level: float, q: int) -> None:
    """Of latents in units of Z, of others, and of both kinds together."""
    columns, random = np.array([7, 2, 5]), np.random.default_rng(0)
    with double_precision():
        here, outer = by_hand(level, q), random.normal(size=(4, 2 + q, COLUMNS))
        whole, part = at_once(
            lambda made, a: (made.mean_scores(a), made.part_scores(*made.by_column(a), columns)), here, outer
        )
        same = numbers_of_part(here, columns)
    assert part.shape[1] == here.part_size(len(columns)) == same.shape[1]
    assert close(part, np.asarray(whole) @ same)


def test_a_part_moves_the_model_as_it_says() -> None:
    """Numbers of a part and B and Sigma along them: differences of (B, C) moved by hand."""
    columns, random = np.array([7, 2, 5]), np.random.default_rng(0)
    with double_precision():
        here = by_hand(0.0, 2)
        loadings, (d, _) = np.asarray(here.model.loadings), here.model.coef.shape
        numbers = random.normal(size=here.part_size(len(columns)))
        along = jnp.asarray(numbers_of_part(here, columns) @ numbers)[None]
        coef, sigma = (np.asarray(a)[0] for a in at_once(lambda made, a: made.tangents(a), here, along))
        own = intervals.part_deviations(here, columns, numbers[:, None])
    c, q = len(columns), loadings.shape[1]
    rest = np.setdiff1d(np.arange(COLUMNS), columns)
    by_coef, by_loadings = np.zeros((d, COLUMNS)), np.zeros(loadings.shape)
    by_coef[:, columns] = numbers[: d * c].reshape(d, c)
    by_loadings[columns] = numbers[d * c : (d + q) * c].reshape(q, c).T
    frame = numbers[(d + q) * c :]
    by_coef[:, rest] = frame[: d * q].reshape(d, q) @ loadings[rest].T
    turn = np.zeros((q, q))
    turn[np.tril_indices(q)] = frame[d * q :]
    by_loadings[rest] = loadings[rest] @ turn.T
    assert np.allclose(coef, by_coef)
    assert np.allclose(sigma, by_loadings @ loadings.T + loadings @ by_loadings.T)
    block = np.ix_(columns, columns)
    assert np.allclose(own[0][0], coef[:, columns]) and np.allclose(own[1][0], sigma[block])


def test_a_large_fit_answers_what_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of B and the variances; covariances on request, by name or position, in the order of the request."""
    make_large(monkeypatch)
    one = fit("full").set_params(random_state=0)
    vars(one).pop("_uncertainty", None)
    told = one.standard_errors()
    assert np.all(told.coef > 0) and np.all(np.diag(told.covariance) > 0)
    assert np.isnan(told.covariance[0, 1]) and np.all(np.isnan(told.eigenvalues))
    assert any("a few columns" in note or "sub-tables" in note for note in told.notes)
    assert np.array_equal(one.confint().se.to_numpy(), told.coef.ravel())
    names = one.counts_.column_names
    by_place = one.confint("covariance", entries=[(3, 1), (2, 2)])
    by_name = one.confint("covariance", entries=[(names[3], names[1]), (names[2], names[2])])
    assert by_place.equals(by_name) and by_place.index.to_list() == [
        (names[3], names[1]),
        (names[2], names[2]),
    ]
    assert by_place.lower.iloc[1] > 0 and np.isclose(by_place.se.iloc[1], told.covariance[2, 2])
    assert one.confint("correlation", entries=[(0, 1)]).upper.iloc[0] < 1
    tested = one.wald(np.eye(2)[1:])
    assert np.allclose(tested.statistic[:-1], one.confint().z.to_numpy().reshape(2, -1)[1] ** 2)
    assert np.isnan(tested.p.iloc[-1])
    for wrong, what in WRONG:
        with pytest.raises(poplin.InputError, match=what):
            one.confint(**wrong)
    vars(one).pop("_uncertainty", None)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"which": "covariance"}, "entries="),
    ({"which": "eigenvalues"}, "whole covariance"),
    ({"robust": True}, "n_boot"),
    ({"information": "outer"}, "n_boot"),
    ({"which": "covariance", "entries": [("nobody", 0)]}, "no pair of columns"),
    ({"which": "covariance", "entries": [(0, 8)]}, "no pair of columns"),
    ({"which": "covariance", "entries": []}, "empty"),
    ({"which": "correlation", "entries": [(1, 1)]}, "between two"),
    ({"which": "coef", "entries": [(0, 1)]}, "belongs to"),
]


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
def test_columns_that_tell_nothing_do_not_take_the_others_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the whole information loses is found in sub-tables; the others' errors are as without the rare ones.

    Of the rare columns nothing tells a fit where to stop, and the others need no more iterations than a few hundred.
    """
    make_parts_small(monkeypatch)
    random, common, rare = np.random.default_rng(1), 8, 6
    w = random.normal(size=(ROWS, common + rare))
    latent = 1 + w[:, :common] @ np.linalg.cholesky(0.8 * autoregressive(common, 0.5)).T
    few = -11 + 5 * (0.6 * w[:, :rare] + 0.8 * w[:, common:])
    counts = random.poisson(np.exp(np.concatenate([latent, few], axis=1)))
    whole, without = (poplin.PLN(shrinkage=0, max_iter=400).fit(y) for y in (counts, counts[:, :common]))
    asked = Uncertainty(whole)
    actual, expected = asked.errors("coef", Asked())[0], Uncertainty(without).errors("coef", Asked())[0]
    assert np.isnan(asked._errors[Asked(), "coef"]).any(), "nothing was lost: the test is of nothing"
    assert any("sub-tables" in note for note in asked.said)
    # of eigenvalues sub-tables know nothing: more draws are made, and what was told before stays
    asked.errors("eigenvalues", Asked())
    assert asked._more[Asked(), "eigenvalues"] > 0 == asked._more[Asked(), "coef"]
    other = Uncertainty(whole)
    other.errors("eigenvalues", Asked())
    assert np.array_equal(other.errors("coef", Asked())[0], actual, equal_nan=True)
    assert np.all(np.abs(actual[:common] / expected - 1) < 0.1)
    # of a rare column the data may say nothing at all; the test of the others, and of all but one of them, stands
    assert np.all(np.isfinite(actual[:common])) and np.sum(np.isnan(actual)) <= 1
    assert np.sum(np.isnan(whole.wald(np.eye(1)).p[:-1])) <= 1


def test_models_without_parts_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    make_large(monkeypatch)
    for model, method in (("spherical", "ml"), ("basis", "ml"), ("full", "variational")):
        with pytest.raises(poplin.InputError, match="at most 1 are possible"):
            Uncertainty(fitted(model, method, "plain")).errors("coef", Asked())


def test_entries_of_a_small_fit_are_lines_of_the_whole_table() -> None:
    one = fitted("full", "ml", "plain")
    names = one.counts_.column_names
    whole, some = one.confint("covariance"), one.confint("covariance", entries=[(2, 0), (1, 1)])
    chosen = whole.loc[[(names[0], names[2]), (names[1], names[1])]]
    both = (
        some.reset_index(drop=True),
        chosen.reset_index(drop=True),
    )  # pairs are named as they were asked for
    pandas.testing.assert_frame_equal(*both, check_exact=True)


def test_variational_information_of_an_intercept_is_the_sum_of_fitted_counts() -> None:
    """With the rows' Gaussians and C held, sqrt(n) SE = 1 / sqrt(mean fitted), as PLNmodels has it."""
    one = poplin.PLN(method="variational", rank=2).fit(TABLES["plain"].y)
    with double_precision():
        free = free_directions(one)
        family = _family(free.rows, free.block, free.here)
        fitted_counts, hessian = jax.vmap(lambda row, psi: fitted_row(free.here, family, psi, row))(
            free.block, family.unknown
        )
        gram = free.block.x.T @ free.block.x
        n, p = fitted_counts.shape
        information = np.asarray(free.here.complete(jnp.asarray(float(n)), gram, hessian.sum(axis=0)))
        of_coef = np.asarray(free.here.pairs[0]) == 0
        spread = np.zeros((len(information), p))
        spread[of_coef] = intervals.covariance_root(information[np.ix_(of_coef, of_coef)]).spread
        se = intervals.standard_error(
            free.here, intervals.Root(spread, np.zeros((len(spread), 0))), intervals.of_coef
        )
    assert np.allclose(np.sqrt(n) * se[0], 1 / np.sqrt(np.asarray(fitted_counts).mean(axis=0)), rtol=1e-10)


def fitted_row(here: Any, family: Any, unknown: Any, row: Any) -> Any:
    """Mean rates of one row under its Gaussian, and E[rate f f']."""
    mean, covariance = family.moments(unknown)
    rate = row.law.expected(*sandwich._seen(here, mean, covariance, row), row.y).rate
    return rate, sandwich._curvature(here, family, unknown, row)
