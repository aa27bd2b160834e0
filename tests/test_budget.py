"""Standard errors that take their time: what is written before, what is told meanwhile, and what when time is up.

Start at `test_the_fit_is_on_disk_before_its_standard_errors`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import poplin
from poplin._errors import InputError
from poplin._process import CLAIM
from poplin.estimators import standard_errors
from poplin.estimators.standard_errors import Roots
from poplin.estimators.uncertainty import Asked, Uncertainty
from poplin.fit import Progress
from poplin.fitting import directions
from poplin.fitting.directions import OverTime, Watch
from poplin.inference import intervals
from poplin.inference.intervals import Interval, Root
from tests.commandline import Run, table, write_leaves
from tests.instances import autoregressive, simulated
from tests.standin import StandIn
from tests.told import Told

FILES = {"coef.csv", "covariance.csv", "embedding.csv", "trace.csv", "model.npz", "report.html"}


class Later(Told):
    """A fit whose standard errors come after it, or do not come; `seen` are the files there were before them."""

    seen: set[str] = set()
    page = ""
    trouble: Exception | None = None

    def go_without(self, why: str | None) -> None:
        """As the estimator does."""
        self.why = why

    def set_params(self, **_: Any) -> None:
        """Nothing to set."""

    def coef_interval(self) -> Interval | None:  # type: ignore[override]
        """None while it is told to go without."""
        if self.why is not None:
            return None
        if not Later.seen:
            Later.seen = {path.name for path in Path("out").iterdir() if path.name != CLAIM}
            Later.page = Path("out/report.html").read_text()
        if Later.trouble is not None:
            raise Later.trouble
        return super().coef_interval()

    def coef_notes(self) -> tuple[str, ...]:
        """Why there are none."""
        return () if self.why is None else (self.why,)


@pytest.fixture
def later(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`poplin ...` with `Later` as estimator, beside the leaves."""
    monkeypatch.setitem(vars(poplin), "PLN", Later)
    for name, value in {"seen": set(), "page": "", "trouble": None}.items():
        monkeypatch.setattr(Later, name, value)
    write_leaves(tmp_path)
    return run


def test_the_fit_is_on_disk_before_its_standard_errors(later: Run) -> None:
    assert later("fit", "counts.csv", "--out", "out") == 0
    assert Later.seen == FILES
    assert "still to come" in Later.page and "still to come" not in Path("out/report.html").read_text()
    assert "p_adjusted" in table(Path("out/coef.csv"))[0]


@pytest.mark.parametrize("ending", ["converged", "budget"])
def test_a_failure_of_standard_errors_loses_nothing(
    later: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any, ending: str
) -> None:
    """The exit code is the fit's, all files are there, and what went wrong is said on the screen and in the report."""
    monkeypatch.setattr(Later, "trouble", ValueError("array must not contain infs or NaNs"))
    monkeypatch.setattr(StandIn, "ending", ending)
    assert later("fit", "counts.csv", "--out", "out") == (0 if ending == "converged" else 3)
    assert {path.name for path in Path("out").iterdir()} == FILES
    assert table(Path("out/coef.csv"))[0] == ["covariate", "column", "estimate"]
    said = capsys.readouterr()
    for words in (said.err, said.out, Path("out/report.html").read_text()):
        assert "could not be computed" in words and "infs or NaNs" in words


def test_the_commands_options_are_those_of_the_estimator(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[Any] = []
    usual = StandIn.fit

    def fit(self: StandIn, *given: Any, standard_errors: Any = True, **named: Any) -> StandIn:
        asked.append(standard_errors)
        return usual(self, *given, **named)

    monkeypatch.setattr(StandIn, "fit", fit)
    write_leaves(tmp_path)
    for words in ([], ["--no-se"], ["--se-time", "30"]):
        assert run("fit", "counts.csv", "--out", "out", *words) == 0
    assert asked == [True, False, 30.0]
    capsys.readouterr()
    for words, said in ((["--se-time", "0"], "--se-time is 0"), (["--no-se", "--se-time", "3"], "Leave one")):
        assert run("fit", "counts.csv", "--out", "new", *words) == 2 and not Path("new").exists()
        assert said in capsys.readouterr().err


def test_one_estimate_for_all_that_is_to_be_done() -> None:
    """Slices of two parts of the work are shares of one whole; it ends early where it will not end in time."""
    now, told = [0.0], []
    watch = Watch(told.append, clock=lambda: now[0])
    watch.begin(100.0)
    for part in range(2):
        watch.share(part / 2, (part + 1) / 2)
        for k in range(5):
            now[0] += 9.0
            watch(Progress("information", k + 1, 5, 0.9, 1.0))
    assert [one.iteration for one in told] == list(range(10, 101, 10))
    assert {one.phase for one in told} == {"standard errors"} and told[-1].seconds == 90.0
    watch.begin(100.0)
    watch(Progress("information", 1, 10, 0.9, 1.0))  # the first has compiled: no pace can be told from it
    now[0] += 9.5
    watch(Progress("information", 2, 10, 0.9, 1.0))
    now[0] += 40.0
    with pytest.raises(OverTime):
        watch(Progress("information", 3, 10, 0.9, 1.0))
    watch.end()
    now[0] += 1e6
    watch(Progress("information", 4, 10, 0.9, 1.0))


@cache
def fitted(**settings: Any) -> Any:
    """A fit of eight correlated columns."""
    given = simulated(4, np.linalg.cholesky(0.7 * autoregressive(8, 0.6)), n=300, level=0.5)
    return poplin.PLN(**settings).fit(given.y, X=given.x)


def a_tenth_apart(errors: np.ndarray, others: np.ndarray) -> bool:
    """On average: each is off by chance, the observed by some 5 % of its own from one seed to the next."""
    return bool(np.sqrt(np.mean(np.log(errors / others) ** 2)) < 0.1)


@pytest.mark.parametrize("settings", [{"shrinkage": 0}, {"rank": 2}], ids=["full", "rank"])
def test_when_time_is_up_there_are_cheaper_ones_and_they_say_so(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = fitted(**settings)
    whole = Uncertainty(fit).errors("coef", Asked())
    for name, value in {"CORE": 4, "SIZE": 6, "VIEWED": 4}.items():
        monkeypatch.setattr(standard_errors, name, value)
    monkeypatch.setattr("poplin.estimators.uncertainty.SIZE", 6)

    def found(self: Roots, kind: str, *, more: int = 0) -> Any:
        raise OverTime

    monkeypatch.setattr(Roots, "found", found)
    asked = Uncertainty(fit)
    assert a_tenth_apart(asked.coef_errors(), whole)
    assert set(asked.coef_information().ravel()) == {"expected, by column blocks"}
    assert any("column blocks" in note for note in asked.coef_notes())


def test_of_many_numbers_those_of_coefficients_come_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a rule of their number, not of the clock; covariances and tests over all columns are the whole's."""
    fit = fitted(shrinkage=0)
    whole = Uncertainty(fit)
    expected, tests = whole.errors("coef", Asked()), whole.wald(np.eye(2), Asked())
    for name, value in {"CORE": 4, "SIZE": 6}.items():
        monkeypatch.setattr(standard_errors, name, value)
    monkeypatch.setattr("poplin.estimators.uncertainty.SIZE", 6)
    monkeypatch.setattr(standard_errors, "MOST_AT_ONCE", whole.size - 1)
    asked = Uncertainty(fit)
    actual = asked.errors("coef", Asked())
    assert not np.array_equal(actual, expected) and a_tenth_apart(actual, expected)
    assert set(asked.coef_information().ravel()) == {"expected, by column blocks"}
    assert np.array_equal(asked.errors("covariance", Asked()), whole.errors("covariance", Asked()))
    assert asked.wald(np.eye(2), Asked()).equals(tests)
    monkeypatch.setattr(standard_errors, "MOST_AT_ONCE", whole.size)
    assert np.array_equal(Uncertainty(fit).errors("coef", Asked()), expected)


def test_without_parts_there_are_none_and_the_estimates_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight columns there is nothing cheaper."""

    def found(self: Roots, kind: str, *, more: int = 0) -> Any:
        raise OverTime

    monkeypatch.setattr(Roots, "found", found)
    asked = Uncertainty(fitted(shrinkage=0))
    told = asked.coef_interval()
    assert told is not None and np.isnan(told.se).all() and np.isfinite(told.estimate).all()
    assert any("no cheaper ones" in note for note in asked.coef_notes())


def test_information_that_cannot_be_inverted_gives_way_to_the_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Observed: of a Sigma that is nearly singular one direction may be lost, and would take every entry with it."""
    fit = fitted(shrinkage=0)
    asked = Asked(information="observed")
    usual = Uncertainty(fit)
    own = usual.errors("covariance", asked)
    assert np.isfinite(own).all() and standard_errors.OBSERVED_LOST not in usual.said
    found = intervals.observed_information

    def lost(of: Any) -> np.ndarray:
        values, vectors = np.linalg.eigh(found(of))
        return found(of) - 2 * values[0] * np.outer(vectors[:, 0], vectors[:, 0])

    monkeypatch.setattr(intervals, "observed_information", lost)
    replaced = Uncertainty(fit)
    actual = replaced.errors("covariance", asked)
    assert np.array_equal(actual, replaced.errors("covariance", Asked()))
    assert not np.array_equal(actual, own) and standard_errors.OBSERVED_LOST in replaced.said


def test_standard_errors_that_nobody_wants_are_not_computed() -> None:
    random = np.random.default_rng(0)
    fit = poplin.PLN(method="variational").fit(random.poisson(3.0, (60, 4)), standard_errors=False)
    assert fit.coef_interval() is None and standard_errors.NOT_ASKED in fit.coef_notes()
    assert "std. error" not in fit.summary() and "_uncertainty" not in vars(fit)
    assert np.isfinite(fit.confint().se).all()
    assert fit.coef_interval() is None
    for wrong in (-1, 0.0, "no", float("nan")):
        with pytest.raises(InputError, match="standard_errors="):
            fit.fit(fit.counts_.y, standard_errors=wrong)


def test_the_usual_budget_is_twice_the_fit_or_a_minute() -> None:
    assert directions.usual(3.0) == 60.0 and directions.usual(100.0) == 200.0


def test_a_sandwich_of_scores_that_overflow_is_no_number_and_no_error() -> None:
    bread = Root(np.eye(3), np.zeros((3, 0)))
    products = np.diag([1.0, np.inf, 1.0])
    assert np.isnan(intervals.sandwich(bread, products).spread).all()
