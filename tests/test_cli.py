"""The command line: what it reads, what it writes, how it ends, and that a bad input leaves nothing behind.

Most tests put `tests.standin.StandIn` in the place of the estimator, as a real fit compiles for seconds.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import typer
from typer.testing import CliRunner

import poplin.cli
from poplin import store
from poplin.estimators.pln import PLN
from tests.commandline import Run, leaves, table, write_leaves
from tests.standin import StandIn
from tests.test_layers import run_python

FILES = {"coef.csv", "covariance.csv", "embedding.csv", "trace.csv", "model.npz", "report.html"}


def test_results_carry_the_names_of_the_input(run: Run, tmp_path: Path, capsys: Any) -> None:
    write_leaves(tmp_path)
    formula = "~ tree + offset(log(reads))"
    assert run("fit", "counts.csv", "--covariates", "leaves.csv", "--formula", formula, "--out", "a/b") == 0
    assert {path.name for path in Path("a/b").iterdir()} == FILES
    coef = table(Path("a/b/coef.csv"))
    assert coef[0] == ["covariate", "column", "estimate"]
    assert [line[:2] for line in coef[1:]] == [
        [covariate, column] for covariate in ("Intercept", "tree[T.oak]") for column in leaves()[0].columns
    ]
    covariance = table(Path("a/b/covariance.csv"))
    assert (
        covariance[0] == ["column", *leaves()[0].columns]
        and [line[0] for line in covariance[1:]] == covariance[0][1:]
    )
    assert [line[0] for line in table(Path("a/b/embedding.csv"))[1:]] == list(leaves()[0].index)
    assert table(Path("a/b/trace.csv"))[0] == ["phase", "iteration", "objective", "seconds"]
    page = Path("a/b/report.html").read_text()
    assert "&lt;i&gt;" in page and "<i>" not in page.replace('<i style="', "")
    assert "Poisson-lognormal" in (said := capsys.readouterr()).out and "a/b/report.html" in said.out
    assert said.err == ""


def test_the_stand_in_takes_what_the_estimator_takes() -> None:
    ours, theirs = (inspect.signature(kind).parameters for kind in (StandIn, PLN))
    assert {name: p.default for name, p in ours.items()} == {name: p.default for name, p in theirs.items()}
    assert set(inspect.signature(StandIn.fit).parameters) == set(inspect.signature(PLN.fit).parameters)


def test_numbers_in_the_files_are_exact(run: Run, tmp_path: Path) -> None:
    write_leaves(tmp_path)
    assert run("fit", "counts.csv", "--out", "out") == 0
    arrays, _ = store.read_npz("out/model.npz")
    coef = np.array([float(line[2]) for line in table(Path("out/coef.csv"))[1:]])
    sigma = np.array([[float(value) for value in line[1:]] for line in table(Path("out/covariance.csv"))[1:]])
    np.testing.assert_array_equal(coef, arrays["coef"].ravel())
    np.testing.assert_array_equal(sigma, arrays["covariance"])


@pytest.mark.parametrize(("ending", "code"), [("converged", 0), ("budget", 3), ("interrupted", 130)])
def test_the_exit_code_says_how_it_ended(
    run: Run, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, ending: str, code: int
) -> None:
    monkeypatch.setattr(StandIn, "ending", ending)
    write_leaves(tmp_path)
    assert run("fit", "counts.csv", "--out", "out", "--quiet") == code
    assert {path.name for path in Path("out").iterdir()} == FILES
    said = capsys.readouterr()
    assert said.out == ""
    assert (said.err == "") == (code == 0)
    assert ("Converged" in Path("out/report.html").read_text()) == (code == 0)


def negative(folder: Path) -> None:
    """A count below zero."""
    counts, _ = leaves()
    counts.iloc[2, 1] = -1
    counts.to_csv(folder / "counts.csv")


BAD: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "no such file": (lambda folder: None, ("other.csv",), "There is no file other.csv"),
    "a negative count": (negative, ("counts.csv",), "negative count, -1, at row 'leaf2', column 'Ä, b'"),
    "covariates unused": (write_leaves, ("counts.csv", "--covariates", "leaves.csv"), "given but not used"),
    "a formula alone": (write_leaves, ("counts.csv", "--formula", "~ tree"), "counts.csv brings none"),
    "an unknown covariate": (
        write_leaves,
        ("counts.csv", "--covariates", "leaves.csv", "--formula", "~ bush"),
        "bush",
    ),
    "an unknown offset": (
        write_leaves,
        ("counts.csv", "--covariates", "leaves.csv", "--offset", "depth"),
        "--offset depth: the covariates have no such column; they have 'tree', 'reads', 'half'",
    ),
    "an offset in a file that is not there": (
        write_leaves,
        ("counts.csv", "--offset", "log(totals.csv)"),
        "There is no file totals.csv",
    ),
    "the logarithm of a total of 0": (
        lambda folder: (write_leaves(folder), (leaves()[0] * 0).to_csv(folder / "totals.csv"))[0],
        ("counts.csv", "--offset", "log(totals.csv)"),
        "-inf",
    ),
    "totals in the place of their logarithms": (
        lambda folder: (write_leaves(folder), (leaves()[0] * 0 + 8315).to_csv(folder / "totals.csv"))[0],
        ("counts.csv", "--offset", "totals.csv"),
        "An offset is 8315 at row 'leaf0', column 'Picea' (and 35 more)",
    ),
    "the logarithm of text": (
        write_leaves,
        ("counts.csv", "--covariates", "leaves.csv", "--offset", "log(tree)"),
        "which is no number",
    ),
    "an offset alone": (write_leaves, ("counts.csv", "--offset", "reads"), "Give --covariates"),
    "names of rows among the counts": (
        lambda folder: (write_leaves(folder), leaves()[0].to_csv(folder / "counts.csv", index_label="leaf"))[
            0
        ],
        ("counts.csv", "--row-names", "none"),
        "say --row-names 'leaf'",
    ),
    "rows of other names": (
        lambda folder: (write_leaves(folder), leaves()[0].rename(str.upper).to_csv(folder / "counts.csv"))[0],
        ("counts.csv", "--covariates", "leaves.csv", "--formula", "~ tree"),
        "or say which column of the files names them alike, --row-names COLUMN",
    ),
    "a rank in words": (write_leaves, ("counts.csv", "--rank", "five"), "--rank is 'five'"),
    "a shrinkage in words": (write_leaves, ("counts.csv", "--shrinkage", "much"), "--shrinkage is 'much'"),
    "no AnnData to copy": (write_leaves, ("counts.csv", "--h5ad-out", "b.h5ad"), "counts.csv is none"),
    "an unknown colour": (
        write_leaves,
        ("counts.csv", "--covariates", "leaves.csv", "--formula", "~ tree", "--colour", "bark"),
        "--colour bark",
    ),
    "an unknown method": (write_leaves, ("counts.csv", "--method", "magic"), "magic"),
    "an unknown option": (write_leaves, ("counts.csv", "--rnak", "3"), "--rnak"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_input_is_told_and_leaves_nothing(run: Run, tmp_path: Path, capsys: Any, kind: str) -> None:
    prepare, words, said = BAD[kind]
    prepare(tmp_path)
    before = set(tmp_path.iterdir())
    assert run("fit", *words, "--out", "out") == 2
    told = capsys.readouterr()
    assert said in " ".join(told.err.split()) and "Traceback" not in told.err
    assert told.out == "" and set(tmp_path.iterdir()) == before


def test_a_file_in_the_place_of_the_folder_is_told_before_the_fit(
    run: Run, tmp_path: Path, capsys: Any
) -> None:
    write_leaves(tmp_path)
    assert run("fit", "counts.csv", "--out", "leaves.csv/deep") == 2
    assert "leaves.csv is a file" in capsys.readouterr().err


def test_ctrl_c_before_there_is_anything_to_keep(
    run: Run, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    write_leaves(tmp_path)
    monkeypatch.setattr(StandIn, "fit", interrupted)
    assert run("fit", "counts.csv", "--out", "out") == 130
    assert "nothing is written" in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_demonstration_says_where_the_report_is(run: Run, capsys: Any) -> None:
    assert run("demo", "--out", "shown") == 0
    said = capsys.readouterr().out
    assert said.rstrip().endswith("The report: shown/report.html")
    assert "Left out, as fewer than 50 images have ink there: 'pixel_1_1'," in " ".join(said.split())
    assert len(table(Path("shown/embedding.csv"))) == 1798


def test_what_is_simulated_can_be_fitted(run: Run) -> None:
    assert run("simulate", "--rows", "30", "--columns", "4", "--seed", "7", "--out", "drawn.npz") == 0
    assert run("fit", "drawn.npz", "--out", "out", "--quiet") == 0
    with np.load("drawn.npz", allow_pickle=False) as held:
        assert held["counts"].shape == (30, 4)
        np.testing.assert_allclose(held["true_covariance"][0], 0.8 ** np.arange(4))
    assert run("simulate", "--out", "drawn.csv") == 2


def test_starting_is_light() -> None:
    heavy = ["pandas", "sklearn", "matplotlib", "anndata", "jax", "scipy", "formulaic", "jinja2"]
    assert run_python(f"import sys, poplin.cli; print(*[x for x in {heavy} if x in sys.modules])") == ""


def test_the_whole_of_it_on_a_real_table(shared_data: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "poplin", "fit", str(shared_data / "trichoptera.npz"), "--out", "out"]
    words += ["--formula", "~ Temperature", "--seed", "1"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert "maximum likelihood" in ended.stdout and "Temperature" in ended.stdout
    sigma = np.array([line[1:] for line in table(tmp_path / "out/covariance.csv")[1:]], dtype=float)
    coef = poplin.load(tmp_path / "out/model.npz").coef_
    written = [float(line[2]) for line in table(tmp_path / "out/coef.csv")[1:]]
    np.testing.assert_array_equal(np.ravel(coef), written)
    assert np.linalg.eigvalsh(sigma).min() > 0


def test_a_budget_that_is_too_small_is_told_and_the_results_are_written(run: Run, tmp_path: Path) -> None:
    assert run("simulate", "--rows", "40", "--columns", "3", "--out", "drawn.npz") == 0
    words = [sys.executable, "-m", "poplin", "fit", "drawn.npz", "--max-iter", "2", "--quiet", "--out", "out"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 3 and ended.stdout == ""
    assert ended.stderr.startswith("poplin: not converged: stopped after")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


def test_new_rows_are_embedded_by_a_saved_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are embedded one by one, so half of the table lies where all of it does; columns in any order."""
    monkeypatch.chdir(tmp_path)
    write_leaves(tmp_path)
    counts, covariates = leaves()
    formula = "~ tree + offset(log(reads))"
    fit = PLN(rank=2, method="variational", formula=formula).fit(counts, data=covariates)
    fit.save("model.npz")
    counts.iloc[::2, ::-1].to_csv("new.csv")
    options = ["--covariates", "leaves.csv", "--model", "model.npz", "--out", "positions.csv"]
    said = CliRunner().invoke(poplin.cli.app, ["embed", "new.csv", *options], catch_exceptions=False)
    assert said.exit_code == 0 and f"{len(counts.iloc[::2])} rows" in said.output
    found = pandas.read_csv("positions.csv", index_col="row")
    assert list(found.index) == list(counts.index[::2])
    wanted = fit.transform(counts, data=covariates)[::2]
    np.testing.assert_allclose(found.to_numpy(), wanted, atol=1e-6)
    with pytest.raises(poplin.InputError, match="--covariates"):
        CliRunner().invoke(poplin.cli.app, ["embed", "new.csv", *options[2:]], catch_exceptions=False)


@pytest.mark.parametrize(
    "name", ["fit", "embed", "counts", "plan", "site", "pool", "compare", "study", "simulate", "demo"]
)
def test_the_screen_shows_every_word_of_the_help(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich takes words in brackets for marks of its own, and leaves them out."""
    monkeypatch.setenv("COLUMNS", "300")
    command = typer.main.get_command(poplin.cli.app).commands[name]  # type: ignore[attr-defined]
    shown = " ".join(CliRunner().invoke(poplin.cli.app, [name, "--help"]).output.replace("│", " ").split())
    for option in command.params:
        told = " ".join((getattr(option, "help", None) or "").split())
        assert told in shown, f"{option.name}: {told}"
