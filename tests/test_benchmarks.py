"""The benchmarks' own arithmetic: the bound in NumPy against sums written out, verdicts on made-up lines."""

import math
from argparse import Namespace

import numpy as np
import pytest

from benchmarks import records, scaling
from benchmarks.bound import direct_bound, factor_bound, log_factorials, stirling_excess
from benchmarks.contenders import Task
from benchmarks.designs import LAWS, simulate
from benchmarks.run import complete, seconds_to
from benchmarks.targets import verdicts


@pytest.fixture
def parts():
    """A tiny table with parameters of both forms (n=5, p=3, d=2, q=3)."""
    generator = np.random.default_rng(3)
    square = generator.normal(size=(3, 3))
    return {
        "counts": generator.poisson(3.0, size=(5, 3)),
        "covariates": np.column_stack([np.ones(5), generator.normal(size=5)]),
        "offsets": generator.normal(size=(5, 3)),
        "mean": generator.normal(size=(5, 3)),
        "variance": generator.uniform(0.1, 0.9, size=(5, 3)),
        "coef": generator.normal(size=(2, 3)),
        "covariance": square @ square.T + np.eye(3),
        "loadings": generator.normal(size=(3, 3)),
    }


def entry(count, predictor, variance):
    """E log Poisson(y | exp(eta)) for one entry, with math.lgamma."""
    return count * predictor - math.exp(predictor + variance / 2.0) - math.lgamma(count + 1)


def gaussian_divergence(mean, variance, covariance):
    """KL(N(mean, diag variance) | N(0, covariance)) of one row, by dense matrices."""
    inverse, spread = np.linalg.inv(covariance), np.diag(variance)
    sizes = np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(spread)[1]
    return 0.5 * (mean @ inverse @ mean + np.trace(inverse @ spread) + sizes - len(mean))


def test_direct_bound_is_the_sum_over_entries_and_rows(parts):
    del parts["loadings"]
    expected = 0.0
    for i in range(5):
        for j in range(3):
            predictor = parts["offsets"][i, j] + parts["mean"][i, j]
            expected += entry(int(parts["counts"][i, j]), predictor, parts["variance"][i, j])
        residual = parts["mean"][i] - parts["coef"].T @ parts["covariates"][i]
        expected -= gaussian_divergence(residual, parts["variance"][i], parts["covariance"])
    assert direct_bound(**parts) == pytest.approx(expected, rel=1e-12)


def test_factor_bound_is_the_sum_over_entries_and_rows(parts):
    del parts["covariance"]
    expected = 0.0
    for i in range(5):
        for j in range(3):
            row = parts["loadings"][j]
            fixed = parts["offsets"][i, j] + parts["coef"][:, j] @ parts["covariates"][i]
            spread = row @ np.diag(parts["variance"][i]) @ row
            expected += entry(int(parts["counts"][i, j]), fixed + row @ parts["mean"][i], spread)
        expected -= gaussian_divergence(parts["mean"][i], parts["variance"][i], np.eye(3))
    assert factor_bound(**parts) == pytest.approx(expected, rel=1e-12)


def test_the_two_forms_agree_where_the_loadings_are_diagonal(parts):
    scales = np.array([0.5, 1.5, 0.8])
    common = {name: parts[name] for name in ("counts", "covariates", "offsets", "coef")}
    factor = factor_bound(**common, mean=parts["mean"], variance=parts["variance"], loadings=np.diag(scales))
    direct = direct_bound(
        **common,
        mean=parts["covariates"] @ parts["coef"] + parts["mean"] * scales,
        variance=parts["variance"] * scales**2,
        covariance=np.diag(scales**2),
    )
    assert factor == pytest.approx(direct, rel=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 500])
def test_log_factorial_and_what_stirling_leaves_out(count):
    exact = math.lgamma(count + 1)
    shown = max(count, 1)
    stirling = 0.5 * math.log(2 * math.pi * shown) + shown * (math.log(shown) - 1)
    assert log_factorials([[count]]) == pytest.approx(exact, abs=1e-12)
    assert stirling_excess([[count]]) == pytest.approx(exact - stirling, abs=1e-9)


@pytest.mark.parametrize("name", ["scenario1", "scenario2"])
def test_drawn_designs_follow_their_law(name):
    design, law = simulate(name), LAWS[name]
    assert design.covariance is not None
    assert design.counts.shape == (law.rows, law.columns)
    assert np.linalg.matrix_rank(design.covariance) == law.rank
    # E y = exp(sigma_jj / 2), up to the error of a mean over the rows (its own standard error, 5 of them).
    error = design.counts.std(0) / np.sqrt(law.rows)
    assert np.all(np.abs(design.counts.mean(0) - np.exp(np.diag(design.covariance) / 2)) < 5 * error)


def test_lines_survive_the_file_and_are_replaced_by_key(tmp_path):
    line = dict.fromkeys(records.COLUMNS) | {
        "design": "oaks", "model": "PLN full", "contender": "poplin-ml", "threads": 2,
        "status": "done", "bound": -31381.99, "commit": "65e0312", "converged": True, "iterations": 29,
    }  # fmt: skip
    records.write(tmp_path / "runs.csv", [line])
    assert records.read(tmp_path / "runs.csv") == [line]
    again = line | {"bound": -31381.0}
    assert records.put([line], again) == [again]
    assert records.put([line], again | {"threads": 1}) == [line, again | {"threads": 1}]


def test_verdicts_compare_with_the_peer_of_the_same_run():
    known = {
        "best": {"scenario1 | PLN full": {"elbo": -100.0}},
        "best_peer": {"scenario1 | PLN full": {"elbo": -100.0, "by": "pyPLNmodels", "cpu_s": 7.0}},
    }
    task = Task("scenario1", None, "poplin-variational", 2, 600.0, {})
    fitted = {"status": "done", "source": "shared", "wall_s": 0.3, "cpu_s": 0.4}
    ours = complete(task, fitted | {"bound": -100.001, "trace": [[0.1, -150.0], [0.2, -100.001]]}, known)
    peer = complete(task._replace(contender="pyPLNmodels"), fitted | {"wall_s": 4.2, "bound": -100.0}, known)
    decided = {verdict.claim.split(" (")[0]: verdict for verdict in verdicts([ours, peer])}
    assert decided["bound against the best known, relative"].met
    speed = decided["times faster to the best peer's bound"]
    assert (speed.measured, speed.met) == ("21.0", True)
    # A trace that the recomputed bound does not confirm counts for nothing.
    assert (
        complete(task, fitted | {"bound": -101.0, "trace": [[0.1, -99.0]]}, known)["seconds_to_peer"] is None
    )
    worse = ours | {"bound": -100.1, "seconds_to_peer": None}
    assert [verdict.met for verdict in verdicts([worse, peer])] == [False, False]


def test_seconds_to_is_the_first_crossing():
    trace = [[0.1, -5.0], [0.2, -3.0], [0.3, -4.0], [0.4, -1.0]]
    assert seconds_to(trace, -3.5) == 0.2
    assert seconds_to(trace, 0.0) is None


def test_an_exponent_is_that_of_the_largest_sizes():
    sizes = [10.0, 100.0, 1000.0, 10_000.0, 100_000.0]
    assert scaling.exponent([(n, max(1.0, 2e-3 * n**1.5)) for n in sizes]).startswith("1.50 ± 0.00")
    assert scaling.exponent([(1.0, 1.0), (2.0, 2.0)]) == ""


def test_a_size_is_not_tried_once_a_smaller_one_was_stopped(monkeypatch, tmp_path):
    tried = []

    def child(_python, _module, task, _shared):
        tried.append(task["law"].rows)
        many = task["law"].rows > 3000
        return {"status": "stopped at 1 s"} if many else {"status": "done", "wall_s": 1.0, "iterations": 10}

    monkeypatch.setattr(scaling, "in_child", child)
    chosen = Namespace(threads=2, limit=1.0, peer_python="python")
    lines = []
    for _ in range(2):  # once more, nothing is left to do
        for law in scaling.AXES["n"]:
            lines = scaling._with_line(lines, law, "poplin-ml", chosen)
    assert tried == [1000, 3000, 10_000] and len(lines) == len(scaling.AXES["n"])


def test_drawn_tables_have_the_law_that_is_said():
    law = scaling.Law(20_000, 5, 2, 1.0)
    table = scaling.draw(law)
    root = np.sqrt(0.25) * np.random.default_rng(0).normal(size=(5, 2))
    expected = np.exp(1 + 0.5 * np.sum(root**2, axis=1))
    spread = table.counts.std(axis=0) / np.sqrt(law.rows)
    assert np.all(np.abs(table.counts.mean(axis=0) - expected) < 4 * spread)
