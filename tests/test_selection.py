"""Choice of rank and shape: free parameters, criteria, the rule, the search, and that no row helps to score itself.

Start at `test_a_row_does_not_help_to_score_itself`. What is fitted is small; the study of scenario 2 is a benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import poplin
from poplin._numerics import double_precision
from poplin.data.counts import as_counts
from poplin.estimators import compare
from poplin.estimators import contest as path
from poplin.estimators.contest import Contest, labels_of
from poplin.fitting import recipes
from poplin.inference import selection
from poplin.models.loadings import FreeLoadings
from poplin.report import plots
from poplin.report.html import page
from poplin.updates.specific import Specific
from poplin.updates.structure import Full
from tests.instances import COLUMNS, MODELS, TABLES, Table, orthonormal, recipe_of, simulated
from tests.rowcases import CASES, exact
from tests.tolerances import close, within_errors

AXES = orthonormal(8, 8)
PLANE = AXES[:, :2] * np.array([2.5, 1.5])
TWO = simulated(51, PLANE, n=300, level=1.0)


def in_parts(shape: Specific, other: jax.Array) -> jax.Array:
    """A Sigma in two parts that moves with all of some numbers (p, p): those of psi and the axes, and by C."""
    moment = other @ other.T
    numbers = jnp.ravel(other)[: len(shape.axes.begin(jnp.eye(len(other)))[0])]
    return shape.axes.parts(jnp.tanh(numbers) - 3, moment).covariance()


def jacobian_rank(model: str) -> int:
    """How many directions there are in (B, Sigma) when all that the model may move is moved."""
    recipe, table = recipe_of(model, TABLES["plain"]), TABLES["plain"]
    d, p = table.coef.shape
    random = np.random.default_rng(0)

    def meaning(free: tuple[jax.Array, jax.Array]) -> jax.Array:
        coef, other = free
        if recipe.loadings is None:
            second = other @ other.T
            sigma = in_parts(recipe.shape, other) if isinstance(recipe.shape, Specific) else None
            sigma = recipe.shape.estimate(second, jnp.asarray(10.0)) if sigma is None else sigma
        else:
            coef, loadings = recipe.loadings.expand(recipe.loadings.collapse(coef, other))
            sigma = loadings @ loadings.T
        return jnp.concatenate([coef.ravel(), sigma.ravel()])

    with double_precision():
        free = jnp.asarray(random.normal(size=(d, p))), jnp.asarray(random.normal(size=(p, recipe.rank)))
        slopes = jax.jacobian(meaning)(free)
        return int(
            np.linalg.matrix_rank(np.concatenate([s.reshape(d * p + p * p, -1) for s in slopes], axis=1))
        )


@pytest.mark.parametrize("model", MODELS)
def test_free_parameters_are_the_rank_of_the_jacobian(model: str) -> None:
    recipe = recipe_of(model, TABLES["plain"])
    d, p = TABLES["plain"].coef.shape
    found = selection.free_parameters(recipe.loadings or recipe.shape, d=d, p=p, q=recipe.rank)
    assert found == jacobian_rank(model)


def test_free_loadings_of_every_dimension_are_a_full_covariance() -> None:
    for p in (1, 4, 9):
        free = [
            selection.free_parameters(form, d=2, p=p, q=p)
            for form in (FreeLoadings(), Full(jnp.asarray(0.0)))
        ]
        assert free[0] == free[1]


def test_criteria_are_their_formulas() -> None:
    assert selection.aic(-100.0, 7) == 214
    assert selection.bic(-100.0, 7, rows=np.exp(2.0)) == pytest.approx(214)
    assert selection.icl(-100.0, 7, rows=np.exp(2.0), entropy=3.0) == pytest.approx(220)


@settings(deadline=None, max_examples=60)
@given(high=st.integers(1, 60), data=st.data())
def test_the_peak_is_found_in_few_looks(high: int, data: st.DataObject) -> None:
    top, start = data.draw(st.integers(1, high)), data.draw(st.integers(1, high))
    steep = data.draw(st.lists(st.floats(0.1, 9.0), min_size=high, max_size=high))
    values = [-sum(steep[min(k, top) - 1 : max(k, top) - 1]) for k in range(1, high + 1)]
    seen: list[int] = []

    def value(k: int) -> float:
        assert 1 <= k <= high
        assert k not in seen
        seen.append(k)
        return values[k - 1]

    assert selection.peak(value, start, low=1, high=high) == top
    assert len(seen) <= (3 if start == top else 4 + 3 * np.ceil(np.log2(1 + abs(top - start))))


def test_paired_difference_forgets_what_is_hard_for_both() -> None:
    random = np.random.default_rng(0)
    hard, gap, weights = 100 * random.normal(size=400), random.normal(0.1, 1.0, size=400), np.ones(400)
    weights[:100] = 0
    found = selection.difference(hard + gap, hard, weights)
    assert found.value == pytest.approx(gap[100:].sum())
    assert found.standard_error == pytest.approx(np.sqrt(300) * gap[100:].std(ddof=1))
    assert selection.difference(hard, hard, weights) == (0.0, 0.0)


def test_the_simplest_within_one_standard_error_is_taken() -> None:
    noise = np.random.default_rng(1).normal(size=(3, 500))
    noise -= noise.mean(axis=1, keepdims=True)
    short = np.array(
        [0.2, 0.03, 0.0]
    )  # a row, below the best: 200, 30 and 0 nats in 500 rows, error about 32
    scores = list(noise - short[:, None])
    weights = np.ones(500)
    assert selection.simplest(scores, [1, 2, 3], weights) == 1
    assert selection.simplest(scores, [1, 3, 2], weights) == 2
    assert not selection.within_one_error(scores[0], scores[2], weights)


def test_folds_are_equal_and_leave_out_rows_without_weight() -> None:
    used = np.arange(103) % 10 != 0
    labels = selection.fold_labels(used, 5, seed=0)
    assert np.all(labels[~used] == -1)
    sizes = np.bincount(labels[used])
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= 1
    assert not np.array_equal(labels, selection.fold_labels(used, 5, seed=1))


@pytest.mark.parametrize(
    "sizes, gap",
    [([5.0, 4, 0.5, 0.4], 2), ([3.0], 1), ([9.0, 0, 0], 1), ([2.0, 1.9], 1), ([7.0, 1.8, 0.06, 0.001], 2)],
)
def test_the_widest_gap(sizes: list[float], gap: int) -> None:
    assert selection.widest_gap(np.array(sizes)) == gap


@pytest.mark.parametrize("case", [("low", 1), ("wide", 2), ("missing", 2)], ids=str)
def test_columns_of_zeros_change_no_likelihood(case: tuple[str, int]) -> None:
    table = CASES[case]
    counts = as_counts(table.y, X=table.x, offset=table.offset)
    with double_precision():
        score = path.scores_of(counts, jax.random.key(0))
        one = path.Fit(table.coef, table.loadings, True)
        rows = np.arange(5)
        value, error, *_ = score.loglik(one, rows, width=5, size=8)
    assert value.shape == error.shape == (5,)
    assert within_errors(value, exact(case)[rows], error + 1e-6)


def test_entropy_of_positions_without_counts_is_that_of_the_prior() -> None:
    table = TABLES["plain"]._replace(
        y=np.full((3, COLUMNS), np.nan), x=np.ones((3, 2)), offset=np.zeros((3, COLUMNS))
    )
    counts = as_counts(TABLES["plain"].y)._replace(
        y=table.y, x=table.x, offset=table.offset, weights=np.ones(3)
    )
    with double_precision():
        one = path.Fit(table.coef, table.loadings, True)
        found = path.scores_of(counts, jax.random.key(0)).entropy(one)
    assert close(found, np.full(3, COLUMNS / 2 * np.log(2 * np.pi * np.e)))


def contest(table: Table) -> Contest:
    counts = as_counts(table.y, X=table.x, offset=table.offset, weights=table.weights)
    settings = recipes.checked(poplin.PLN().get_params())
    return Contest(counts, settings, ("heldout",), labels_of(counts, 4, seed=0))


def test_a_row_does_not_help_to_score_itself() -> None:
    """Counts of a row that is left out are changed: what is fitted without it stays as it was, to the last digit."""
    table = TABLES["missing"]
    row = 5
    other = table._replace(y=table.y.copy())
    other.y[row] = other.y[row][::-1] + 3
    found, changed = (contest(each) for each in (table, other))
    for each in (found, changed):
        each.of_rank(2), each.of_rank(1)
    fold = found.labels == found.labels[row]
    others = fold & (np.arange(len(fold)) != row)
    for rank in (1, 2):
        scores = [np.asarray(each.found[rank].scores) for each in (found, changed)]
        assert np.array_equal(scores[0][others], scores[1][others])
        assert scores[0][row] != scores[1][row]
        assert not np.array_equal(scores[0][~fold], scores[1][~fold])


CONTESTS: dict[str, Contest] = {}  # of the choices: the scores of rows are there, and not in the table


@cache
def chosen(how: str) -> Any:
    common = {"Y": TWO.y, "X": TWO.x, "folds": 4}
    ways: dict[str, Callable[[], Any]] = {
        "free": lambda: poplin.select(**common),
        "given": lambda: poplin.select(**common, basis=AXES[:, :5]),
        "beside": lambda: poplin.select(
            **common, ranks=[3, 1, 2], covariances=["diagonal"], criterion=["bic", "aic", "icl"]
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "Contest", lambda *given: CONTESTS.setdefault(how, Contest(*given)))
        return ways[how]()


@pytest.mark.parametrize(
    ("how", "settings"), [("free", {"rank": 2}), ("given", {"basis": AXES[:, :2]})], ids=["free", "given"]
)
def test_held_out_scores_are_those_of_fits_to_the_other_rows(how: str, settings: dict[str, Any]) -> None:
    chosen(how)
    held = CONTESTS[how]
    candidate = held.found[2]
    scores = np.empty(len(TWO.y))
    for fold in range(4):
        out = held.labels == fold
        kept, left = TWO.rows(~out), TWO.rows(out)
        fit = poplin.PLN(tol=0.05, **settings).fit(**kept.arguments())
        scores[out] = fit.score_samples(left.y, X=left.x, offset=left.offset)
    gap = selection.difference(np.asarray(candidate.scores), scores, np.ones(len(scores)))
    # both fits are exact up to chance of a tenth of a standard error: a nat or so, of a thousand
    assert abs(gap.value) < 4 * gap.standard_error
    assert gap.standard_error < 2.0
    assert candidate.converged


@pytest.mark.parametrize("how", ["free", "given", "beside"])
def test_the_rank_is_found(how: str) -> None:
    """Where V is given a column too many costs next to nothing, so that chance may leave one in."""
    found = chosen(how)
    assert found.table.chosen.sum() == 1
    assert found.table.converged.iloc[
        1:
    ].all()  # the simplest lacks an axis, and its rows may wander for long
    name = found.table.index[found.table.chosen][0]
    assert name in (["basis, 2 columns", "basis, 3 columns"] if how == "given" else ["rank 2"])
    assert found.fit.components_.shape == (8, int(name.split()[1]))
    assert name in found.words and found.direction in found.words


def test_a_table_says_what_is_better() -> None:
    held, beside = chosen("free").table, chosen("beside").table
    assert held.attrs == {"heldout": "higher is better"}
    assert set(beside.attrs.values()) == {"lower is better"}
    assert list(beside.parameters) == sorted(beside.parameters)
    best = held.heldout.idxmax()
    assert held.difference[best] == held.difference_se[best] == 0
    assert np.allclose(held.difference, held.heldout - held.heldout[best])
    assert np.allclose(beside.aic, -2 * beside.loglik + 2 * beside.parameters)
    assert np.allclose(beside.bic, -2 * beside.loglik + np.log(len(TWO.y)) * beside.parameters)
    assert beside.bic.idxmin() == "rank 2"
    assert "higher is better" in chosen("free").summary()


@pytest.mark.parametrize("how", ["free", "beside"])
def test_the_plot_shows_every_candidate(how: str) -> None:
    found = chosen(how)
    ax = plots.selection(found, Figure().add_subplot())
    assert [text.get_text() for text in ax.texts] == list(found.table.index)
    assert ax.lines[0].get_xdata().tolist() == found.table.parameters.tolist()
    assert found.direction in ax.get_ylabel()


def test_rank_auto_is_the_fit_of_the_rank_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With four folds, as the other tests: five are programs for tables of 240 rows."""
    monkeypatch.setattr(path, "FOLDS", 4)
    fit = poplin.PLN(rank="auto").fit(TWO.y, X=TWO.x)
    plain = poplin.PLN(rank=2).fit(TWO.y, X=TWO.x)
    assert np.array_equal(fit.loadings_, plain.loadings_)
    found, wanted = (one.drop(columns="seconds") for one in (fit.selection_, chosen("free").table))
    assert found.equals(wanted) and plain.selection_ is None
    assert page(fit).split("How the rank was chosen")[1].split("</table>")[0].count(
        "taken"
    ) == 1 and "How the rank was chosen" not in page(plain)
    assert "rank 2" in fit.messages_[0] and "one standard error" in " ".join(fit.summary().split())


def test_progress_names_the_candidate_and_an_interruption_ends_it() -> None:
    told = []

    def stop(progress: Any) -> None:
        told.append(progress.phase)
        if progress.phase.endswith("fold 2 of 4: ml"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        poplin.select(TWO.y, X=TWO.x, ranks=[2], folds=4, callback=stop)
    assert any(phase.startswith("rank 2, fold 1 of 4: ") for phase in told)
