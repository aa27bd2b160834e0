"""Rows in groups: leverage against brute force, clusters against least squares and repeated rows, what users see.

Start at `test_leverage_is_that_of_the_whole_table`. How often a treatment without effect is called one is in
`benchmarks/trust/groups.py`, whose smallest setting is a test here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
from scipy.linalg import fractional_matrix_power

import poplin
from poplin import job
from poplin.data.sides import groups_in
from poplin.inference import intervals, sandwich
from poplin.models.covariance import Covariance
from tests.tolerances import close

# that the donors of these tables are alike is said, and looked at in test_dependence.py
pytestmark = pytest.mark.filterwarnings("ignore:Rows with the same")


def groups(n: int, count: int, seed: int = 0) -> np.ndarray:
    """Groups of unequal size, all of them there."""
    random = np.random.default_rng(seed)
    return random.permutation(np.r_[np.arange(count), random.integers(0, count, n - count)])


@pytest.mark.parametrize("single", [False, True], ids=["clusters", "single rows"])
def test_leverage_is_that_of_the_whole_table(single: bool) -> None:
    """CR2 and Satterthwaite's degrees of freedom from n x n matrices, for weighted least squares."""
    random, n = np.random.default_rng(1), 24
    x = np.column_stack([np.ones(n), random.normal(size=n), np.arange(n) % 2])
    omega = random.uniform(0.5, 2.0, n)
    group = np.arange(n) if single else groups(n, 6)
    model = sandwich.Working(x, omega[:, None], np.ones(n), group, np.ones(group.max() + 1))
    told = sandwich.leverage(model, 0)
    bread = np.linalg.inv(x.T @ (omega[:, None] * x))
    # scores x_i omega_i e_i, e of variance 1 / omega; residuals e - x bread x' omega e
    maker = np.eye(n) - x @ bread @ (x * omega[:, None]).T
    residual = maker @ np.diag(1 / omega) @ maker.T
    for k in range(3):
        rows = []
        for g in range(group.max() + 1):
            own = group == g
            information = (x[own] * omega[own, None]).T @ x[own]
            factor = fractional_matrix_power(np.eye(3) - bread @ information, -0.5).real
            assert close(told.factor[g], factor, scale=100)
            rows.append((factor @ bread)[k] @ (x * (omega * own)[:, None]).T)
        covariance = np.array(rows) @ residual @ np.array(rows).T
        assert close(np.trace(covariance), bread[k, k], scale=100)  # unbiased
        df = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
        assert close(told.df[k], df, scale=100)


def test_weights_of_single_rows_are_repeated_rows() -> None:
    random, n = np.random.default_rng(2), 12
    x, omega = np.column_stack([np.ones(n), random.normal(size=n)]), random.uniform(0.5, 2.0, (n, 1))
    times = random.integers(1, 4, n)
    variance, sigma = np.ones(1), Covariance(np.eye(1))
    one = sandwich.working(x, omega, variance, 1.0 * times, None)
    all_rows = sandwich.working(
        np.repeat(x, times, axis=0), np.repeat(omega, times, axis=0), variance, np.ones(times.sum()), None
    )
    few, many = (sandwich.leverage(model, 0) for model in (one, all_rows))
    assert close(np.repeat(few.factor, times, axis=0), many.factor) and close(few.df, many.df)
    first, second = (
        sandwich._degrees(few.df, m, sandwich.shares(m), _per_copy(m), sigma) for m in (one, all_rows)
    )
    at = np.zeros(1, int), np.zeros(1, int)
    assert close(first.covariance(*at), second.covariance(*at)) and close(first.axes, second.axes)


def _per_copy(model: sandwich.Working) -> np.ndarray:
    return sandwich.shares(model) / model.copies[:, None]


def test_a_coefficient_of_a_single_group_has_no_standard_error() -> None:
    group = np.repeat(np.arange(5), 4)
    x = np.column_stack([np.ones(20), 1.0 * (group == 3)])
    model = sandwich.working(x, np.ones((20, 1)), np.ones(1), np.ones(20), group)
    assert np.isnan(sandwich.leverage(model, 0).df).tolist() == [False, True]


def test_intervals_of_many_degrees_are_those_of_the_normal() -> None:
    estimate, se = np.array([0.4, -1.0]), np.array([0.3, 0.2])
    for scale in (intervals.plain, intervals.positive, intervals.fisher):
        known, told = (scale(np.abs(estimate) / 2, se, 0.95, df) for df in (None, np.full(2, 1e9)))
        assert close(told.lower, known.lower) and close(told.upper, known.upper)
    narrow, wide = (intervals.plain(estimate, se, 0.95, np.full(2, df)) for df in (1e9, 10.0))
    assert close((wide.upper - wide.estimate) / se, np.full(2, 2.2281389))
    assert (wide.p > narrow.p).all()


def test_a_test_of_one_coefficient_is_students_t_squared() -> None:
    told = intervals.Tests(np.array([4.0, 9.0]), np.array([1, 3]), np.array([0.05, 0.01]))
    found = intervals.with_degrees(told, np.array([10.0, 2.0]))
    assert close(found.p[0], 0.0733880) and np.isnan(
        found.p[1]
    )  # 2 (1 - F_t10(2)); three at once need more than 2


def donors(
    count: int = 8, rows: int = 10, spread: float = 0.6, p: int = 3, seed: int = 3, level: float = 6.0
):
    """Counts so large that they tell Z: least squares of their logarithms is nearly the fit; and covariates."""
    random = np.random.default_rng(seed)
    donor = np.repeat(np.arange(count), rows)
    data = pandas.DataFrame(
        {"treated": donor % 2, "donor": [f"d{k}" for k in donor], "age": random.normal(size=len(donor))}
    )
    z = (
        level
        + spread * random.standard_normal((count, p))[donor]
        + 0.5 * random.standard_normal((len(donor), p))
    )
    return random.poisson(np.exp(z)), data


def least_squares(y: np.ndarray, x: np.ndarray, group: np.ndarray) -> np.ndarray:
    """CR2 standard errors (d, p) of the regressions of log y, written out."""
    bread = np.linalg.inv(x.T @ x)
    residual = np.log(y) - x @ (bread @ x.T @ np.log(y))
    total = np.zeros((x.shape[1], x.shape[1], y.shape[1]))
    for g in np.unique(group):
        own = x[group == g]
        values, vectors = np.linalg.eigh(np.eye(len(own)) - own @ bread @ own.T)
        score = bread @ own.T @ (vectors / np.sqrt(values)) @ vectors.T @ residual[group == g]
        total += score[:, None] * score[None]
    return np.sqrt(np.diagonal(total).T)


@pytest.mark.parametrize("formula", ["~ treated", "~ treated + age"])
def test_clusters_are_those_of_least_squares_where_counts_are_large(formula: str) -> None:
    y, data = donors()
    fit = poplin.PLN(formula=formula, shrinkage=0).fit(y, data=data)
    told = fit.confint(cluster="donor")
    x = fit.counts_.x
    assert close(
        told.se.to_numpy().reshape(x.shape[1], 3), least_squares(y, x, data.donor.to_numpy()), scale=4e4
    )
    assert told.df.loc["treated"].between(5.5, 6.1).all()  # 8 donors, 2 means
    assert (told.se.loc["treated"] > 1.7 * fit.confint().se.loc["treated"]).all()


def test_every_door_takes_a_column_or_labels_and_they_agree() -> None:
    y, data = donors(level=2.0)
    fit = poplin.PLN(formula="~ treated", method="variational").fit(y, data=data)
    named = fit.confint(cluster="donor")
    shuffled = data.donor.sample(frac=1.0, random_state=0)
    for given in (data.donor.to_numpy(), data.donor, data.donor.to_list(), pandas.DataFrame(data.donor)):
        assert named.equals(fit.confint(cluster=given))
    frame = pandas.DataFrame(y, index=[f"r{i}" for i in range(len(y))])
    by_name = poplin.PLN(method="variational").fit(frame)
    shuffled.index = [f"r{i}" for i in shuffled.index]
    assert by_name.confint(cluster=shuffled).equals(by_name.confint(cluster=data.donor.to_numpy()))
    one = fit.clustered("donor")
    assert np.array_equal(one.coef_interval().lower.ravel(), named.lower.to_numpy())
    assert one.confint().equals(named) and not fit.confint().equals(named)
    assert (
        "by clusters 'donor' (8 groups)" in fit.summary(cluster="donor")
        and "by clusters" not in fit.summary()
    )
    assert any("8 groups" in note for note in fit.standard_errors(cluster="donor").notes)
    assert {"statistic", "p"} <= set(fit.wald("treated", cluster="donor").columns)


def test_groups_stay_with_a_fit_that_is_saved(tmp_path: Path) -> None:
    y, data = donors(level=2.0)
    fit = poplin.PLN(formula="~ treated", method="variational").fit(y, data=data)
    fit.save(tmp_path / "fit.npz")
    assert poplin.load(tmp_path / "fit.npz").confint(cluster="donor").equals(fit.confint(cluster="donor"))


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        ("plate", "they are 'treated', 'donor'"),
        ("age", "no column of that name groups"),
        (np.arange(80), "a group of its own for every row"),
        (np.arange(80) % 2, "2 groups"),
        (np.arange(7), r"shape \(7,\)"),
        ([None, *["a"] * 39, *["b"] * 40], "missing at the rows 'row1'"),
    ],
)
def test_what_groups_nothing_is_refused(cluster: object, said: str) -> None:
    y, data = donors(level=2.0)
    fit = poplin.PLN(formula="~ treated", method="variational").fit(y, data=data)
    with pytest.raises(poplin.InputError, match=said):
        fit.confint(cluster=cluster)


def test_other_ways_to_standard_errors_do_not_go_with_clusters() -> None:
    y, data = donors(level=2.0)
    fit = poplin.PLN(formula="~ treated", method="variational").fit(y, data=data)
    with pytest.raises(poplin.InputError, match="of its own"):
        fit.confint(cluster="donor", n_boot=10)


def test_columns_that_label_rows_are_found() -> None:
    n = 12
    frame = pandas.DataFrame(
        {
            "donor": ["a", "b", "c"] * 4,
            "plate": pandas.Categorical(["x"] * 6 + ["y"] * 6),
            "batch": np.arange(n) // 3,
            "gap": ["a", None, "b"] * 4,
            "pairs": np.arange(n) // 2,
            "name": [f"n{i}" for i in range(n)],
            "one": ["same"] * n,
            "depth": np.linspace(0, 1, n),
            "lists": [[i % 2] for i in range(n)],
        }
    )
    found = groups_in(frame)
    assert list(found) == ["donor", "plate", "batch", "gap"]
    assert found["gap"].tolist() == [0, -1, 1] * 4 and found["donor"].dtype.itemsize == 1


def test_the_command_line_takes_clusters(tmp_path: Path) -> None:
    y, data = donors(level=2.0)
    pandas.DataFrame(y, columns=list("abc")).to_csv(tmp_path / "y.csv", index=False)
    data.to_csv(tmp_path / "d.csv", index=False)
    given = job.Inputs(tmp_path / "y.csv", tmp_path / "d.csv", formula="~ treated", cluster="donor")
    said: list[str] = []
    settings = {"method": "variational"}
    with pytest.raises(poplin.InputError, match="--cluster plate"):
        job.prepare(given._replace(cluster="plate"), settings, tmp_path / "out")
    ready = job.prepare(given, settings, tmp_path / "out")
    assert job.carry_out(ready, said.append, said.append) == 0
    assert "by clusters 'donor' (8 groups)" in said[0]
    fit = poplin.PLN(formula="~ treated", method="variational").fit(
        pandas.DataFrame(y, columns=list("abc")), data=data
    )
    written = pandas.read_csv(tmp_path / "out" / "coef.csv")
    assert close(written.se.to_numpy(), fit.confint(cluster="donor").se.to_numpy())
    assert "by clusters" in (tmp_path / "out" / "report.html").read_text()
