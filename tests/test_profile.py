"""Coefficients for which Wald's quadratic does not hold: profiles against the oracle, and how users see them.

The oracle is `regression`: a column's log-likelihood by the trapezoid rule, climbed by SciPy.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy.optimize import brentq, minimize
from scipy.stats import chi2

import poplin
from poplin.inference import profile
from poplin.inference.profile import Climbed, Columns, cells, curved, maximise
from tests.oracles import univariate_loglik

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
MID_P = float(
    brentq(lambda r: 0.5 * (np.exp(-r / 2) + chi2.sf(r, 1)) - 0.05, 3, 8)
)  # where a profile falls on one side
WEAK = 1 / (2 * 10.0**2), 0.01**2  # the weak prior of Sigma_jj at both ends, as "ml" has it


def regression(
    y: np.ndarray, x: np.ndarray, offset: Any = 0.0, fixed: dict[int, float] | None = None
) -> float:
    """The largest log-likelihood of a column, less log y!, with some coefficients fixed; log s lies in [-4, 3]."""
    fixed = fixed or {}
    others = [k for k in range(x.shape[1]) if k not in fixed]
    offset = offset + x[:, list(fixed)] @ np.array(list(fixed.values())) + np.zeros(len(y))

    def lost(theta: np.ndarray) -> float:
        sd = np.exp(np.clip(theta[-1], -4, 3))
        with np.errstate(over="ignore"):
            eta = np.clip(offset + x[:, others] @ theta[:-1], -60, 60)
            return -univariate_loglik(y, eta, 0.0, sd, 201) + WEAK[0] * sd**2 + WEAK[1] / sd**2

    best = np.inf
    level = np.linalg.lstsq(x[:, others], np.log(y + 0.2) - offset, rcond=None)[0] if others else np.zeros(0)
    for start in (level, 3 * level):
        found = minimize(lost, np.append(start, -0.3), method="BFGS", options={"gtol": 1e-5})
        best = min(best, minimize(lost, found.x, method="BFGS", options={"gtol": 1e-6}).fun)
    return -best


def simulated(n: int, *, mean: float = 1.0, absent: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four columns of a factor of three levels: absent in one, once in one, absent in the reference, everywhere."""
    random = np.random.default_rng(seed)
    group = np.arange(n) * 3 // n
    x = np.column_stack([np.ones(n), group == 1, group == 2]).astype(float)
    y = random.poisson(np.exp(mean + 0.8 * random.normal(size=(n, 4)))).astype(float)
    y[group == 1, 0] = 0
    y[group == 1, 1] = 0
    y[np.flatnonzero(group == 1)[3], 1] = 1
    y[group == 0, 2] = 0
    return y, x


def climbed(y: np.ndarray, x: np.ndarray, row: np.ndarray, offset: Any = 0.0, weights: Any = 1.0) -> Any:
    """The columns of a table in coordinates of which the first is the contrast `row`, at their maxima."""
    weights = np.broadcast_to(weights, len(y)).astype(float)
    turned = profile.turned(x, weights, np.atleast_2d(row))
    columns = Columns(y.T.copy(), np.broadcast_to(offset, y.shape).T.astype(float), turned.design, weights)
    start = np.zeros((y.shape[1], x.shape[1] + 1))
    return columns, maximise(columns, start, np.ones(x.shape[1] + 1, bool)), turned


@pytest.mark.parametrize("k", [1, 2])
def test_ratio_and_ends_are_those_of_the_oracle(k: int) -> None:
    y, x = simulated(45)
    offset = np.random.default_rng(1).normal(size=y.shape) * 0.3
    columns, at, turned = climbed(y, x, np.eye(3)[k], offset)
    free = np.ones(4, bool)
    told = profile.ratio(columns, at, free, 1).statistic
    ends = profile.ends(columns, at, free, 0.95, np.ones(4))
    lower, upper = np.sort(turned.out * np.stack(ends), axis=0)
    assert at.done.all()
    for j in range(4):
        top = regression(y[:, j], x, offset[:, j])
        assert np.isclose(told[j], 2 * (top - regression(y[:, j], x, offset[:, j], {k: 0.0})), atol=2e-3)
        one_sided = np.isinf(lower[j]) != np.isinf(upper[j])
        wanted = MID_P if one_sided else chi2.isf(0.05, 1)
        for end in (lower[j], upper[j]):
            if np.isfinite(end):
                fall = 2 * (top - regression(y[:, j], x, offset[:, j], {k: end}))
                assert np.isclose(fall, wanted, atol=5e-3)
    open_ = {1: [(True, False), (False, False), (False, True), (False, False)]}.get(k)
    if open_:
        assert list(zip(np.isinf(lower).tolist(), np.isinf(upper).tolist(), strict=True)) == open_


def test_slopes_and_curvatures_are_those_of_the_values() -> None:
    y, eta, a = (
        b.ravel() for b in np.meshgrid([0.0, 1, 7, 300], [-6.0, 0, 2, 5], np.log([0.05, 0.4, 0.9, 1.5, 6.0]))
    )
    told, h = cells(y, eta, np.exp(a)), 1e-5
    for place, (second, mixed), move in ((1, (3, 4), (h, 0)), (2, (4, 5), (0, h))):
        up, down = (cells(y, eta + s * move[0], np.exp(a + s * move[1])) for s in (1, -1))
        slope = (up - down) / (2 * h)
        assert np.allclose(told[place], slope[0], rtol=2e-5, atol=2e-5)
        assert np.allclose(told[[second, mixed]], slope[1:3], rtol=2e-3, atol=2e-3)


def test_a_value_is_that_of_the_trapezoid_rule() -> None:
    for y, eta, sd in (
        (0, -9, 1.0),
        (0, 5, 0.3),
        (40, 2, 1.0),
        (3, -4, 2.0),
        (0, 2, 3.0),
        (0, -7, 6.0),
        (0, 11, 5.0),
        (0, 40, 5.0),
    ):
        told = cells(np.array([float(y)]), np.array([float(eta)]), np.array([sd]))[0, 0]
        oracle = univariate_loglik(np.array([float(y)]), np.array([float(eta)]), 0.0, sd, 20_001)
        assert np.isclose(told, oracle + np.sum(np.log(np.arange(1, y + 1))), atol=2e-5)


def test_a_row_twice_is_a_row_of_weight_two_and_a_missing_count_none() -> None:
    y, x = simulated(30)
    free = np.ones(4, bool)

    def told(*args: Any, **more: Any) -> np.ndarray:
        columns, at, _ = climbed(*args, **more)
        return profile.ratio(columns, at, free, 1).statistic

    twice = np.concatenate([y, y[:10]]), np.concatenate([x, x[:10]])
    weights = np.r_[np.full(10, 2.0), np.ones(20)]
    assert np.allclose(told(*twice, np.eye(3)[1]), told(y, x, np.eye(3)[1], weights=weights), atol=1e-4)
    offset = np.where(np.arange(30) < 5, -1e30, 0.0)[:, None]
    without = told(y[5:], x[5:], np.eye(3)[1])
    assert np.allclose(told(np.where(offset < 0, 0.0, y), x, np.eye(3)[1], offset), without, atol=1e-4)


def test_the_reference_level_changes_no_test() -> None:
    y, x = simulated(45)
    other = np.column_stack(
        [np.ones(len(x)), 1 - x[:, 1] - x[:, 2], x[:, 2]]
    )  # the second level is the reference
    both = np.eye(3)[1:]
    ratios = []
    for design in (x, other):
        columns, at, turned = climbed(y, design, both)
        ratios.append(profile.ratio(columns, at, np.ones(4, bool), turned.rank).statistic)
    assert np.allclose(*ratios, atol=1e-3)


def test_the_rule_is_about_what_counts_say() -> None:
    """Poisson counts behind a level: of 40 the quadratic will do, of 3 or none it will not; one row of many does."""
    n = 60
    x = np.column_stack([np.ones(n), np.arange(n) < 20]).astype(float)
    y = np.full((n, 4), 5.0) + np.arange(n)[:, None] % 2
    y[:20] = 0
    y[:20, 0] = 2
    y[:3, 1] = 1
    y[0, 3] = 1
    columns, at, turned = climbed(y, x, np.eye(2)[1])
    towards = np.linalg.solve(turned.back, np.eye(2)[1]) * 0 + turned.back[1]
    good, se = profile.holds(columns, at, curved(columns, at.numbers).hessian, towards)
    assert good.tolist() == [True, False, False, False]
    assert np.isclose(
        se[0], np.sqrt(1 / 40 + 1 / 220), rtol=0.05
    )  # Poisson's, which these counts are at least as sure as


@cache
def case(name: str, **settings: Any) -> Any:
    """A fit of one of the small tables; the test is skipped where they are not beside this checkout."""
    if not CASES.is_dir():
        pytest.skip("the shared folder of small tables is not beside this checkout")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # columns without a count, a start that does not settle
        if name == "zero_column":
            return poplin.PLN(**settings).fit(pandas.read_csv(CASES / "zero_column.csv", index_col=0))
        counts, env = (
            pandas.read_csv(CASES / f"{name}_{kind}.csv", index_col=0) for kind in ("counts", "env")
        )
        return poplin.PLN(formula=f"~ {env.columns[0]}", **settings).fit(counts, data=env)


ABSENT = [
    ("absent_level", "hab[T.d]", "absent_d", "ml"),
    ("absent_level", "hab[T.d]", "absent_d", "variational"),
    ("absent_treatment", "Treatment[T.unrestored]", "absent_unrest", "variational"),
    ("absent_treatment", "Treatment[T.restored]", "only_remnant", "variational"),
]


@pytest.mark.parametrize(("name", "covariate", "column", "method"), ABSENT)
def test_an_absent_level_has_its_own_likelihood_ratio(
    name: str, covariate: str, column: str, method: str
) -> None:
    fit = case(name, method=method)
    told = fit.confint().loc[(covariate, column)]
    y = fit.counts_.y[:, fit.counts_.column_names.index(column)]
    k = fit.counts_.covariate_names.index(covariate)
    statistic = 2 * (regression(y, fit.counts_.x) - regression(y, fit.counts_.x, 0.0, {k: 0.0}))
    p = chi2.sf(statistic, 1)
    assert told.method == "profile" and told.lower == -np.inf and np.isfinite(told.upper)
    assert abs(np.log10(told.p / p)) < 2 and np.isclose(np.log(told.p), np.log(p), rtol=0.1)
    assert np.isclose(told.z, -np.sqrt(statistic), rtol=1e-3)
    fall = 2 * (regression(y, fit.counts_.x) - regression(y, fit.counts_.x, 0.0, {k: told.upper}))
    assert np.isclose(fall, MID_P, atol=0.01)
    assert any(f"{covariate}: {column}" in note for note in fit.coef_notes())


@pytest.mark.parametrize("method", ["variational", "composite"])
def test_a_column_without_a_count_says_nothing_of_an_effect(method: str) -> None:
    fit = case("zero_column", method=method)
    told = fit.confint().loc[("Intercept", "never")]
    y, x = fit.counts_.y[:, fit.counts_.column_names.index("never")], fit.counts_.x
    fall = 2 * (0.0 - regression(y, x, 0.0, {0: told.upper}))
    assert told.lower == -np.inf and np.isclose(fall, MID_P, atol=0.01) and told.method == "profile"
    errors = fit.standard_errors()
    assert np.isnan(told.se) and np.isnan(errors.coef[0, fit.counts_.column_names.index("never")])
    assert any("no number" in note and "never" in note for note in errors.notes)
    told = case("absent_treatment", method="variational").confint().loc[("Treatment[T.unrestored]", "rare")]
    assert told.method == "profile" and told.p > 0.9 and (told.lower, told.upper) == (-np.inf, np.inf)


def test_a_level_of_one_row_has_no_sandwich() -> None:
    """Its residual is zero, and so is what the rows' scores say: the standard error came out as 0.16 or 1e-6."""
    random = np.random.default_rng(3)
    n = 40
    group = np.where(np.arange(n) == 0, "c", np.where(np.arange(n) < 20, "a", "b"))
    y = random.poisson(np.exp(1 + 0.7 * random.normal(size=(n, 3))))
    y[0] = [0, 30, 2]
    frame = pandas.DataFrame({"group": group})
    for method in ("variational", "composite"):
        fit = poplin.PLN(method=method, formula="~ group").fit(y, data=frame)
        told = fit.confint().loc["group[T.c]"]
        assert told.se.isna().all() and (told.method == "profile").all()
        assert (
            told.lower.iloc[0] == -np.inf
            and np.isfinite(told.iloc[1][["lower", "upper"]].astype(float)).all()
        )
        assert (told.p > 0.005).all()  # one row against twenty


def test_tables_say_how_each_line_was_made(tmp_path: Path) -> None:
    fit = case("absent_treatment", method="variational")
    tests, ratios = fit.wald("Treatment"), fit.likelihood_ratio("Treatment")
    columns = list(fit.counts_.column_names)
    assert list(tests.columns) == list(ratios.columns) == ["statistic", "df", "p", "p_adjusted", "method"]
    assert list(ratios.index) == columns and (ratios.df == 2).all() and (ratios.method == "profile").all()
    profiled = tests.method[:-1] == "profile"
    assert profiled["absent_unrest"] and profiled["only_remnant"] and not profiled["A"]
    assert np.allclose(tests.p[:-1][profiled], ratios.p[profiled])
    assert tests.method.iloc[-1] == "simes" and np.isclose(tests.p.iloc[-1], tests.p_adjusted[:-1].min())
    fit.save(tmp_path / "fit.npz")
    pandas.testing.assert_frame_equal(poplin.load(tmp_path / "fit.npz").confint(), fit.confint())
    narrow = fit.confint(level=0.5)
    assert (narrow.method == fit.confint().method).all() and (narrow.upper <= fit.confint().upper).all()
    text = fit.summary()
    assert "profile" in text and "Treatment[T.unrestored]: absent_unrest" in text


def test_ratios_of_whole_factor_are_those_of_the_oracle() -> None:
    fit = case("absent_level", method="variational")
    told, x = fit.likelihood_ratio("hab"), fit.counts_.x
    for j, name in enumerate(fit.counts_.column_names):
        y = fit.counts_.y[:, j]
        statistic = 2 * (regression(y, x) - regression(y, x[:, :1]))
        assert np.isclose(told.statistic[name], statistic, atol=0.02) and told.df[name] == 3
        assert np.isclose(told.p[name], chi2.sf(statistic, 3), rtol=0.05)


def test_files_and_page_have_the_method(tmp_path: Path) -> None:
    from poplin.report import files

    fit = case("absent_treatment", method="variational")
    files.write_results(fit, tmp_path)
    written = pandas.read_csv(tmp_path / "coef.csv").set_index(["covariate", "column"])
    told = fit.confint()
    assert written.method.tolist() == told.method.tolist()
    assert np.allclose(written[["lower", "upper", "p"]], told[["lower", "upper", "p"]])
    page = (tmp_path / "report.html").read_text()
    assert "<td>profile</td>" in page and "\N{MINUS SIGN}\N{INFINITY}" in page and "only_remnant" in page


def test_a_sigma_that_is_given_is_not_profiled() -> None:
    y, x = simulated(45)
    sigma = np.diag([0.3, 0.5, 0.7, 0.6])
    fit = poplin.PLN(covariance=sigma, method="variational").fit(y, X=x)
    told = fit.likelihood_ratio([[0.0, 1.0, 0.0]])

    def largest(columns: np.ndarray) -> float:
        def lost(b: np.ndarray) -> float:
            return -univariate_loglik(y[:, 0], np.clip(columns @ b, -50, 50), 0.0, np.sqrt(0.3), 201)

        return -minimize(lost, np.zeros(columns.shape[1]), method="BFGS", options={"gtol": 1e-6}).fun

    assert np.isclose(told.statistic.iloc[0], 2 * (largest(x) - largest(x[:, [0, 2]])), atol=5e-3)


def test_ends_are_found_in_tables_of_many_kinds() -> None:
    """Rare columns, large counts, no variation, covariates in odd units: nothing is left without an answer."""
    random = np.random.default_rng(5)
    n, m = 60, 200
    x = np.column_stack([np.ones(n), random.integers(0, 2, n), 1000 * random.normal(size=n)])
    level = random.uniform(-4, 4, m)
    y = random.poisson(np.exp(level + random.uniform(0, 2, m) * random.normal(size=(n, m)))).astype(float)
    y[:, ::3] *= x[:, [1]]
    for k in (1, 2):
        columns, at, _ = climbed(y, x, np.eye(3)[k])
        free = np.ones(4, bool)
        told = profile.ratio(columns, at, free, 1).statistic
        ends = profile.ends(columns, at, free, 0.95, np.ones(m))
        assert at.done.all() and np.isfinite(told).all() and (told >= 0).all()
        assert not np.isnan(ends.lower).any() and not np.isnan(ends.upper).any()
        inside = (ends.lower <= 0) & (ends.upper >= 0)
        one_sided = np.isinf(ends.lower) != np.isinf(ends.upper)
        assert np.array_equal(inside, profile.p_value(told, 1, one_sided) >= 0.05)


def test_the_null_is_rejected_as_often_as_stated() -> None:
    """At 12 % imbalance: 5 % within four Monte-Carlo errors, Wald and profile by the rule."""
    random = np.random.default_rng(7)
    n, m = 60, 600
    x = np.column_stack([np.ones(n), np.arange(n) < 7]).astype(float)
    for mean in (-1.0, 1.0):
        y = random.poisson(np.exp(mean + random.normal(size=(n, m)))).astype(float)
        columns, at, turned = climbed(y[:, y.sum(axis=0) > 0], x, np.eye(2)[1])
        free = np.ones(3, bool)
        statistic = profile.ratio(columns, at, free, 1).statistic
        ends = profile.ends(columns, at, free, 0.95, np.ones(len(statistic)))
        p = profile.p_value(statistic, 1, np.isinf(ends.lower) != np.isinf(ends.upper))
        good, se = profile.holds(columns, at, curved(columns, at.numbers).hessian, turned.back[1])
        estimate = turned.out * at.numbers[:, 0]
        p = np.where(good, chi2.sf((estimate / se) ** 2, 1), p)
        assert abs(np.mean(p < 0.05) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / len(p))


def test_climbs_that_begin_elsewhere_end_at_the_same_top() -> None:
    y, x = simulated(45)
    columns, at, _ = climbed(y, x, np.eye(3)[1])
    start = np.random.default_rng(2).normal(size=at.numbers.shape) * [3.0, 3.0, 3.0, 0.7]
    again = maximise(columns, start, np.ones(4, bool))
    assert isinstance(again, Climbed) and np.allclose(again.value, at.value, atol=2e-3)


def test_clusters_have_score_tests_that_are_right_in_size_and_bounded() -> None:
    """12 clusters that vary, no effect: 5 % within four errors, whatever the counts; none for want of a maximum."""
    random = np.random.default_rng(11)
    codes = np.repeat(np.arange(12), 12)
    x = np.column_stack([np.ones(len(codes)), codes < 6]).astype(float)
    for level in (-2.0, 1.0):
        noise = 0.5 * random.normal(size=(12, 400))[codes] + 0.7 * random.normal(size=(len(codes), 400))
        y = random.poisson(np.exp(level + noise)).astype(float)
        y = y[:, y.sum(axis=0) > 0]
        columns, at, _ = climbed(y, x, np.eye(2)[1])
        free = np.ones(3, bool)
        p = profile.clustered_p_value(profile.clustered_score(columns, at, free, 1, codes)[1], 1, 12)
        assert np.isfinite(p).all() and abs(np.mean(p < 0.05) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / len(p))
    absent = np.where(x[:, [1]] == 1, 0.0, y)
    columns, at, _ = climbed(absent[:, :20], x, np.eye(2)[1])
    statistic = profile.clustered_score(columns, at, free, 1, codes)[1]
    p = profile.clustered_p_value(statistic, 1, 12)
    assert (statistic <= 12).all() and (p < 0.05).all()


def test_a_cluster_of_one_row_each_gives_the_score_test_of_rows() -> None:
    """S and V by plain loops: slopes at the null by finite differences of the oracle's likelihood."""
    y, x = simulated(30)
    columns, at, turned = climbed(y, x, np.eye(3)[1:])
    total, statistic = profile.clustered_score(columns, at, np.ones(4, bool), 2, np.arange(30))
    start = at.numbers.copy()
    start[:, :2] = 0
    null = maximise(columns, start, np.array([False, False, True, True]))
    for j in range(4):
        theta, h = null.numbers[j], 1e-4

        def rows(move: np.ndarray, j: int = j, theta: np.ndarray = theta) -> np.ndarray:
            eta = turned.design @ (theta + move)[:3]
            sd = np.exp((theta + move)[3])
            one = [univariate_loglik(y[[i], j], eta[[i]], 0.0, sd, 2001) for i in range(30)]
            return np.array(one)

        slopes = np.stack([(rows(h * e) - rows(-h * e)) / (2 * h) for e in np.eye(4)], axis=1)
        hessian = curved(columns, null.numbers).hessian[j]
        own = slopes[:, :2] - slopes[:, 2:] @ np.linalg.solve(hessian[2:, 2:], hessian[2:, :2])
        assert np.allclose(own.sum(axis=0), total[j], atol=2e-3)
        variance = 30 / 29 * own.T @ own
        assert np.isclose(total[j] @ np.linalg.solve(variance, total[j]), statistic[j], rtol=5e-3, atol=1e-3)


def test_a_bounds_sandwich_of_few_rows_gives_way_to_the_profile() -> None:
    """Seven rows of eighty: the level's coefficients are profiled, the others' are not."""
    random = np.random.default_rng(4)
    n = 80
    group = np.where(np.arange(n) < 7, "few", "many")
    y = random.poisson(np.exp(1.5 + 0.7 * random.normal(size=(n, 3))))
    fit = poplin.PLN(method="variational", formula="~ C(group, Treatment('many'))").fit(
        y, data=pandas.DataFrame({"group": group})
    )
    told = fit.confint().method.to_numpy().reshape(2, 3)
    assert (told[0] == "wald").all() and (told[1] == "profile").all()
    assert any("fewer than 20 rows" in note for note in fit.coef_notes())


def test_an_interval_under_a_low_rank_holds_the_estimate(shared_data: Path) -> None:
    """A rank may hold a column's variance below its own; the column alone then tells of another level."""
    counts = np.load(shared_data / "trichoptera.npz")["counts"].astype(float)
    fit = poplin.PLN(rank=2).fit(counts)
    table = fit.confint("coef")
    assert ((table.lower <= table.estimate) & (table.estimate <= table.upper)).all()
    assert set(table.method) == {"wald", "profile"}
    assert any("than the rank allows them" in note for note in fit.coef_notes())
