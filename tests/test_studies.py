"""The runner of studies: the same table however often it was ended, records, tables, the command.

The toy study (`tests.toy_study`) compiles nothing. That estimators do well is what the studies themselves show.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import poplin.cli
from poplin.studies import columns, records, runner
from poplin.studies.runner import RECORDS, Plan
from poplin.studies.study import NAMES, Cell, find
from tests.test_layers import REPOSITORY

TOY = Plan("tests.toy_study", small=True)
TIMES = ["cpu_s"]
CHILD = dict(os.environ) | {"MPLBACKEND": "Agg"}


def table(out: Path, plan: Plan = TOY) -> pandas.DataFrame:
    """Write what the records say; the table without its times."""
    runner.write(plan, out, command="a test")
    return pandas.read_csv(out / "table.csv").drop(columns=TIMES)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy study carried out at once, in this process."""
    out = tmp_path_factory.mktemp("whole")
    assert runner.run(TOY, out, jobs=0) == ""
    return out


def test_a_record_for_each_table_and_method_that_can_be_run(whole: Path) -> None:
    held = records.read(whole / RECORDS)
    assert len(held) == 2 * (3 * 3 + 2)
    failed = [record for record in held if record["status"] != "done"]
    assert {record["status"] for record in failed} == {"failed: ValueError: nothing to be had"}
    assert {(r["replicate"], r["method"]) for r in failed} == {(1, "fails")}


@pytest.mark.parametrize("kept", [0, 1, 7, 17])
def test_a_study_cut_short_goes_on_to_the_same_table(whole: Path, tmp_path: Path, kept: int) -> None:
    lines = (whole / RECORDS).read_text().splitlines(keepends=True)
    (tmp_path / RECORDS).write_text("".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])
    assert runner.run(TOY, tmp_path, jobs=0) == ""
    pandas.testing.assert_frame_equal(table(tmp_path), table(whole), check_exact=True)
    assert (tmp_path / RECORDS).read_text().startswith("".join(lines[:kept]))


def test_a_study_goes_on_from_its_packed_records(whole: Path, tmp_path: Path) -> None:
    """What is committed beside a page is enough to make the table again, and nothing is fitted twice."""
    expected = table(whole)
    packed = whole / (RECORDS + records.PACKED)
    (tmp_path / packed.name).write_bytes(packed.read_bytes())
    assert runner.units(TOY, tmp_path / RECORDS), "without the records there is something to do"
    records.mend(tmp_path / RECORDS)
    left = runner.units(TOY, tmp_path / RECORDS)
    assert [unit.methods for unit in left] == [("fails",)] * 2, "only what failed is tried again"
    pandas.testing.assert_frame_equal(table(tmp_path), expected, check_exact=True)


def test_a_slow_method_is_fitted_to_no_more_tables_than_it_is_declared_for(tmp_path: Path) -> None:
    (cell, *_), few = find(TOY.study).cells(True), columns.TRUE_LATENT._replace(at_most=2)
    assert [cell.tables(few, asked) for asked in (None, 1, 9)] == [2, 1, 2]
    assert [cell.tables(columns.TRUE_LATENT, asked) for asked in (None, 1, 9)] == [3, 1, 9]
    held = runner.units(TOY, tmp_path / RECORDS)
    assert [unit.replicate for unit in held if "few" in unit.methods] == [0, 0, 1, 1]


def test_a_killed_command_goes_on_to_the_same_table(tmp_path: Path) -> None:
    """Killed without warning in the middle, with two processes at work, and started again."""
    plan = Plan("tests.toy_study")
    command = [sys.executable, "-m", "poplin", "study", plan.study, "--jobs", "2", "--quiet", "--out"]
    once, twice = tmp_path / "once", tmp_path / "twice"
    first = subprocess.Popen([*command, str(twice)], cwd=REPOSITORY, env=CHILD)
    path, limit = twice / RECORDS, time.monotonic() + 60
    while (not path.is_file() or path.read_text().count("\n") < 5) and time.monotonic() < limit:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(2.5)  # its processes notice within a second that they are alone
    before = path.read_text().count("\n")
    assert 5 <= before < 2 * (8 * 3 + 2), "it was not killed in the middle"
    assert runner.run(plan, once, jobs=0) == ""
    assert subprocess.run([*command, str(twice)], cwd=REPOSITORY, env=CHILD, check=False).returncode == 0
    pandas.testing.assert_frame_equal(table(twice, plan), table(once, plan), check_exact=True)


def test_a_table_depends_on_its_cell_and_replicate_alone() -> None:
    first, second = find(TOY.study).cells(True)
    again = Cell(first.factors, first.draw, (), 1)
    np.testing.assert_array_equal(first.table(4).counts, again.table(4).counts)
    assert not np.array_equal(first.table(4).counts, first.table(5).counts)
    assert not np.array_equal(first.table(4).latent[0], second.table(4).latent[0])


def test_fewer_replicates_and_methods_are_said_on_the_page(tmp_path: Path) -> None:
    plan = TOY._replace(replicates=2, methods=("true Z", "absent"))
    runner.run(plan, tmp_path, jobs=0)
    runner.write(plan, tmp_path, command="a test")
    text = (tmp_path / "page.md").read_text()
    assert "**Not complete: only true Z, absent, as --methods asked; 4 fits of 2 replicates.**" in text
    runner.write(plan._replace(replicates=None, methods=()), tmp_path, command="a test")
    assert "**Not complete: 4 of 22 fits are done.**" in (tmp_path / "page.md").read_text()
    assert "absent (it is not installed)" in text
    assert (tmp_path / "bias.png").stat().st_size > 1000


def test_records_of_another_setting_do_not_disturb(whole: Path, tmp_path: Path) -> None:
    stranger = {"cell": "n=7", "replicate": 0, "method": "true Z", "status": "done"}
    (tmp_path / RECORDS).write_text(json.dumps(stranger) + "\n{broken\n" + (whole / RECORDS).read_text())
    pandas.testing.assert_frame_equal(table(tmp_path), table(whole))


@pytest.mark.parametrize("replicates", [5, 50])
def test_bias_is_told_without_the_noise_of_replicates(replicates: int) -> None:
    """Over many studies the mean of the squared rms bias is the squared bias: four standard errors."""
    random = np.random.default_rng(replicates)
    true, spread = random.normal(0, 0.1, 30), random.uniform(0.5, 2.0, 30)
    studies = [true + spread * random.standard_normal((replicates, 30)) for _ in range(400)]
    sums = [(e.sum(axis=0), (e**2).sum(axis=0), replicates) for e in studies]
    for square, truth in (
        (records._squared_bias, np.mean(true**2)),
        (records._squared_bias_in_sd, np.mean(true**2 / spread**2)),
    ):
        found = np.array([square(*each) for each in sums])
        assert abs(found.mean() - truth) < 4 * found.std(ddof=1) / np.sqrt(len(found))


def test_the_jackknife_gives_the_spread_of_the_squared_bias() -> None:
    """Over many studies its error is the standard deviation that the estimate in fact has, within a tenth."""
    random = np.random.default_rng(2)
    found = [records.bias(0.5 + random.standard_normal((40, 20))) for _ in range(300)]
    actual = np.std([each.rms_bias for each in found], ddof=1)
    assert np.mean([each.rms_bias_mc for each in found]) == pytest.approx(actual, rel=0.15)


@pytest.mark.parametrize("small", [True, False], ids=["small", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_every_study_is_declared_soundly(name: str, small: bool) -> None:
    study = find(name)
    cells = study.cells(small)
    assert study.name == name
    assert len({cell.label for cell in cells}) == len(cells)
    for cell in cells:
        assert len({column.name for column in cell.columns}) == len(cell.columns)
        assert cell.replicates >= 1
        assert all("method" != name and "=" not in str(value) for name, value in cell.factors.items())
    assert len({figure.name for figure in study.figures}) == len(study.figures)


@pytest.mark.parametrize("name", NAMES)
def test_every_small_study_draws_its_tables(name: str) -> None:
    for cell in find(name).cells(True):
        drawn = cell.table(0)
        assert drawn.counts.shape == drawn.latent.shape
        np.testing.assert_allclose(drawn.covariance, (drawn.basis * drawn.scales) @ drawn.basis.T, atol=1e-12)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("nosuch",), "no study 'nosuch'"),
        (("scenario1", "--small", "--methods", "ml, magic"), "no method 'magic'"),
    ],
)
def test_a_meaningless_command_is_told_and_leaves_nothing(
    words: tuple[str, ...], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["poplin", "study", *words])
    with pytest.raises(SystemExit) as ended:
        poplin.cli.main()
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_studies_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["poplin", "study"])
    with pytest.raises(SystemExit) as ended:
        poplin.cli.main()
    assert not ended.value.code
    assert all(name in capsys.readouterr().out for name in NAMES[:1])


def test_what_is_known_has_no_bias() -> None:
    found = records.bias(np.zeros((6, 3)))
    assert max(np.abs(found)) < 1e-7


def test_held_out_likelihoods_are_compared_table_by_table() -> None:
    heads = [("a", 0, "best", -3.0), ("a", 0, "other", -3.5), ("a", 1, "other", -9.0), ("b", 0, "best", -1.0)]
    held = [dict(zip(("cell", "replicate", "method", "heldout"), head, strict=True)) for head in heads]
    gaps = [record.get("heldout_gap") for record in records.paired([*held, heads_without()], "best")]
    assert gaps == [0.0, -0.5, None, 0.0, None]


def heads_without() -> dict[str, Any]:
    """A record of a method that has no likelihood."""
    return {"cell": "a", "replicate": 0, "method": "moments"}


def test_a_small_study_runs_from_tables_to_page(tmp_path: Path) -> None:
    """Scenario 1 with real fits: two forms, measured, and on the page beside the oracle."""
    plan = Plan("scenario1", True, ("ml unshrunk", "variational V q=3", "true Z"), 1)
    assert runner.run(plan, tmp_path, jobs=0) == ""
    runner.write(plan, tmp_path, command="a test")
    found = pandas.read_csv(tmp_path / "table.csv").set_index("method")
    assert list(found.index) == ["ml unshrunk", "true Z", "variational V q=3"]
    assert found["failed"].sum() == 0 and found["not_converged"].sum() == 0
    assert found["frobenius"].between(0, 0.5).all()
    assert (found.loc["ml unshrunk", ["cosine", "lag1"]] > 0.5).all()
    assert {path.name for path in tmp_path.iterdir()} == {
        *(RECORDS, RECORDS + records.PACKED, "table.csv", "table.md", "page.md", "cosine.png", "scales.png")
    }
