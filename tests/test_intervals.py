"""Intervals and tests as users see them: what they cover, their tables, Wald tests, and what variational fits get.

Start at `test_intervals_cover`. That the information behind them is right is in `test_information.py`.
"""

from __future__ import annotations

import csv
from functools import cache
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, false_discovery_control, norm

import poplin
from poplin.inference import intervals
from poplin.report import files
from tests import laws, twins
from tests.instances import MODELS, Table, fitted, simulated

COVER_ROWS, REPLICATES = 200, 40
COVER = np.linalg.cholesky([[0.8, 0.5], [0.5, 0.9]])


@cache
def replicates() -> list[tuple[Table, Any]]:
    tables = [simulated(seed, COVER, n=COVER_ROWS, level=1.0) for seed in range(REPLICATES)]
    return [(t, poplin.PLN(shrinkage=0, random_state=s).fit(t.y, X=t.x)) for s, t in enumerate(tables)]


@pytest.mark.parametrize("which", ["coef", "covariance"])
@pytest.mark.parametrize(
    "settings", [{}, {"robust": True}, {"information": "outer"}], ids=["expected", "robust", "outer"]
)
def test_intervals_cover(which: str, settings: dict[str, Any]) -> None:
    """95 %, pooled over entries, within four standard errors over replicates."""
    covered = []
    for table, fit in replicates():
        told = fit.confint(which, **settings)
        sigma = COVER @ COVER.T
        truth = table.coef.ravel() if which == "coef" else sigma[np.triu_indices(2)]
        covered.append(np.mean((told.lower <= truth) & (truth <= told.upper)))
    error = np.std(covered, ddof=1) / np.sqrt(REPLICATES)
    assert abs(np.mean(covered) - 0.95) <= 4 * error, f"{np.mean(covered):.1%} ± {error:.1%}"


def test_standard_errors_are_the_spread_of_estimates() -> None:
    estimates = np.stack([laws.flat(fit.coef_ - t.coef, fit.covariance_) for t, fit in replicates()])
    squares = []
    for _, fit in replicates():
        told = fit.standard_errors()
        squares.append(laws.flat(told.coef, told.covariance) ** 2)
    ratio = np.mean(squares, axis=0) / np.var(estimates, axis=0, ddof=1)
    # a variance over m replicates has the relative standard error sqrt(2 / m)
    assert np.all(np.abs(1 / ratio - 1) <= 4 * np.sqrt(2 / REPLICATES)), ratio


@pytest.mark.parametrize("model", MODELS)
def test_tables_of_every_structure(model: str) -> None:
    """Names, ends on the right side, z and p that go with them, nothing for what is not estimated."""
    fit = fitted(model, "ml", "weighted")
    told = fit.confint()
    assert list(told.columns) == ["estimate", "se", "z", "p", "lower", "upper", "method"]
    assert (told.method == "wald").all()
    assert told.index.names == ["covariate", "column"] and len(told) == fit.coef_.size
    assert np.array_equal(told.estimate, fit.coef_.ravel())
    assert np.allclose(told.upper - told.estimate, norm.isf(0.025) * told.se)
    assert np.allclose(told.p, 2 * norm.sf(np.abs(told.estimate / told.se)))
    narrow = fit.confint(level=0.5)
    assert np.all((narrow.lower > told.lower) & (narrow.upper < told.upper))
    if model == "fixed":
        with pytest.raises(poplin.InputError, match="nothing of it is estimated"):
            fit.confint("covariance")
        assert np.all(fit.standard_errors().covariance == 0)
        return
    told = fit.confint("covariance")
    own = told.index.get_level_values(0) == told.index.get_level_values(1)
    assert np.all(told.lower[own] > 0) and np.all(np.isnan(told.p[own]))
    assert len(told) == {"diagonal": 4, "spherical": 4}.get(model, 10)
    if model in ("diagonal", "spherical"):
        with pytest.raises(poplin.InputError, match="nothing of it is estimated"):
            fit.confint("correlation")
    elif model != "rank":
        told = fit.confint("correlation")
        assert np.all((told.lower >= -1) & (told.upper <= 1) & (told.lower <= told.estimate))
    assert len(fit.confint("eigenvalues")) == len(fit.eigenvalues_)
    noted = any("shrunk" in note for note in fit.standard_errors().notes)
    assert noted == (model == "shrunk")


def test_scales_of_a_borrowed_basis_have_errors() -> None:
    told = fitted("basis", "ml", "plain").standard_errors()
    assert told.scales is not None and told.scales.shape == (2,) and np.all(told.scales > 0)


@pytest.mark.parametrize("n_boot", [None, 6])
def test_intervals_of_scales_are_those_of_the_axes_in_the_order_of_the_basis(n_boot: int | None) -> None:
    """V has its small axis first, so that the order of eigenvalues is the other one."""
    axes = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 2)))[0]
    table = simulated(2, axes * np.sqrt([0.3, 1.5]), n=150, level=1.0)
    fit = poplin.PLN(basis=axes, method="variational").fit(table.y)
    told, sorted_ones = (fit.confint(which, n_boot=n_boot) for which in ("scales", "eigenvalues"))
    assert told.estimate.iloc[0] < told.estimate.iloc[1] and list(told.index) == ["axis1", "axis2"]
    assert told.pop("method").tolist() == sorted_ones.pop("method").tolist()
    assert np.allclose(told.iloc[::-1], sorted_ones, equal_nan=True)
    with pytest.raises(poplin.InputError, match="borrowed basis"):
        poplin.PLN(rank=1, method="variational").fit(table.y).confint("scales")


def test_the_delta_method_is_the_derivative() -> None:
    """Changes of correlations are differences of the function itself."""
    random = np.random.default_rng(0)
    root, step = random.normal(size=(4, 4)), random.normal(size=(4, 4))
    sigma, move = root @ root.T, step + step.T

    def correlations(s: np.ndarray) -> np.ndarray:
        return s / np.sqrt(np.outer(np.diag(s), np.diag(s)))

    def slope(function: Any) -> np.ndarray:
        size = np.size(function(sigma))
        moved = [lambda t, k=k: np.ravel(function(sigma + t * move))[k] for k in range(size)]
        return np.array([twins.slope_along(one) for one in moved])

    nothing = np.zeros((1, 1, 4))
    told = intervals.of_correlation(sigma)(nothing, move[None])[0].ravel()
    assert np.allclose(told, slope(correlations), atol=1e-8)


def test_directions_without_information_have_no_standard_error() -> None:
    matrix = np.diag([4.0, 1.0, 0.0])
    root = intervals.covariance_root(matrix)
    assert np.allclose(root.spread @ root.spread.T, np.diag([0.25, 1.0, 0.0]))
    assert np.allclose(np.abs(root.lost[:, 0]) > 0, [False, False, True])


def test_eigenvalues_that_are_close_have_no_interval() -> None:
    assert intervals.separated(np.array([9.0, 5.0, 4.9, 1.0]), np.full(4, 0.2)).tolist() == [
        True,
        False,
        False,
        True,
    ]


def test_wald_test_of_a_single_coefficient_is_z_squared() -> None:
    fit = fitted("full", "ml", "plain")
    told, z = fit.wald([[0.0, 1.0]]), fit.confint().z.to_numpy().reshape(fit.coef_.shape)[1]
    assert list(told.columns) == ["statistic", "df", "p", "p_adjusted", "method"]
    assert np.allclose(told.statistic[:-1], z**2) and (told.df[:-1] == 1).all()
    assert told.index[-1] == "all columns" and told.df.iloc[-1] == len(z)


def test_wald_statistic_is_the_quadratic_form() -> None:
    random = np.random.default_rng(1)
    contrast, deviations = random.normal(size=(2, 3)), random.normal(size=(20, 2, 3))
    told = intervals.tests_of(contrast, deviations)
    flat = deviations.reshape(20, 6)
    expected = contrast.ravel() @ np.linalg.solve(flat.T @ flat, contrast.ravel())
    assert np.allclose(told.statistic[-1], expected) and told.df.tolist() == [2, 2, 2, 6]
    assert np.allclose(told.p[-1], chi2.sf(expected, 6))


def test_a_term_is_all_of_its_levels() -> None:
    names = ("Intercept", "tree[T.elm]", "tree[T.oak]", "age", "tree[T.elm]:age", "C(k, contr.sum)[S.1]")
    assert intervals.rows_of_term("tree", names) == [1, 2]
    assert intervals.rows_of_term("tree:age", names) == [4]
    assert intervals.rows_of_term("C(k,contr.sum)", names) == [5]
    assert intervals.rows_of_term("age", names) == [3]
    with pytest.raises(poplin.InputError, match="no such term"):
        fitted("full", "ml", "plain").wald("tree")
    with pytest.raises(poplin.InputError, match="one column for each covariate"):
        fitted("full", "ml", "plain").wald(np.ones((1, 5)))


def test_adjusted_p_values_leave_gaps_alone() -> None:
    told = intervals.adjusted(np.array([0.01, np.nan, 0.04]))
    assert np.allclose(told[[0, 2]], [0.02, 0.04]) and np.isnan(told[1])
    assert np.isnan(intervals.adjusted(np.full(2, np.nan))).all() and intervals.adjusted(
        np.zeros(0)
    ).shape == (0,)


@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 1.0]), min_size=1))
def test_adjusted_p_values_are_those_of_scipy(p: list[float]) -> None:
    laws.assert_close(intervals.adjusted(np.array(p)), false_discovery_control(p), 10)


def test_coefficients_are_written_with_their_tests(tmp_path: Any) -> None:
    fit = fitted("full", "ml", "plain")
    files.write_results(fit, tmp_path)
    with open(tmp_path / "coef.csv", encoding="utf-8") as handle:
        lines = list(csv.reader(handle))
    assert lines[0] == [
        "covariate",
        "column",
        "estimate",
        "se",
        "lower",
        "upper",
        "z",
        "p",
        "p_adjusted",
        "method",
        "information",
    ]
    told = fit.confint()
    written = np.array([[float(value) for value in line[2:8]] for line in lines[1:]])
    assert np.array_equal(written, told[["estimate", "se", "lower", "upper", "z", "p"]].to_numpy())
    assert "95 % interval" in fit.summary() and "95 % intervals" in (tmp_path / "report.html").read_text()


def test_a_saved_fit_has_the_same_intervals(tmp_path: Any) -> None:
    fit = fitted("full", "ml", "plain")
    fit.save(tmp_path / "fit.npz")
    pandas.testing.assert_frame_equal(poplin.load(tmp_path / "fit.npz").confint(), fit.confint())


@pytest.mark.parametrize("method", ["variational", "full posterior"])
@pytest.mark.parametrize("model", ["fixed", "rank"])
def test_variational_fits_get_a_labelled_sandwich(model: str, method: str) -> None:
    told = fitted(model, method, "weighted").standard_errors()
    assert np.all(told.coef > 0) and np.all(np.isfinite(told.coef))
    assert any("biased" in note for note in told.notes)


def test_bad_questions() -> None:
    fit = fitted("full", "ml", "plain")
    for wrong in ({"which": "lambda"}, {"level": 95}, {"information": "fisher"}):
        with pytest.raises(poplin.InputError, match="wanted is"):
            fit.confint(**wrong)
