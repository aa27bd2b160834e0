"""`poplin.compare` and the command: one line a method, whatever becomes of it, and what is written."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

import poplin
from poplin.cli import app
from poplin.estimators.compare import COLUMNS
from poplin.report import files
from tests.instances import TABLES

TABLE = TABLES["weighted"]


@pytest.fixture(scope="session")
def side_by_side() -> Any:
    arguments = TABLE.arguments()
    return poplin.compare(
        arguments.pop("Y"), ["variational", "moments", "exact", "ml"], covariance="diagonal", **arguments
    )


def test_a_line_a_method(side_by_side: Any) -> None:
    table, fits = side_by_side
    assert list(table.index) == ["variational", "moments", "exact", "ml"] == list(fits)
    assert tuple(table.columns) == COLUMNS
    assert table.loc["ml", "coef_difference"] == 0 == table.loc["ml", "covariance_difference"]
    assert np.all(table["bound"] < table["loglik"] + 4 * table["loglik_se"])
    assert table.loc["exact", "loglik"] == pytest.approx(fits["exact"].loglik_, abs=0.5)
    assert table["loglik"].idxmax() in ("exact", "ml")


def test_a_method_that_cannot_is_told() -> None:
    arguments = TABLE.arguments()
    table, fits = poplin.compare(arguments.pop("Y"), ["exact", "moments"], **arguments)
    assert list(fits) == ["moments"] and "3 latent dimensions" in table.loc["exact", "note"]
    assert np.isnan(table.loc["exact", "loglik"])
    assert "3 latent" in files.markdown(table)


def test_what_is_no_method_is_refused() -> None:
    with pytest.raises(poplin.InputError, match="a list"):
        poplin.compare(TABLE.y, "ml")
    with pytest.raises(poplin.InputError, match="'gibbs'"):
        poplin.compare(TABLE.y, ["gibbs"])
    with pytest.raises(poplin.InputError, match="3 latent dimensions"):
        poplin.compare(TABLE.y, ["exact"])


def test_options_that_share_a_name_are_numbered() -> None:
    both = [poplin.methods.Exact(), poplin.methods.Exact(order=20)]
    table, _ = poplin.compare(TABLE.y, both, covariance="diagonal")
    assert list(table.index) == ["exact", "exact 2"]


def test_the_files(side_by_side: Any, tmp_path: Path) -> None:
    paths = files.write_comparison(side_by_side.table, tmp_path / "out")
    assert [path.name for path in paths] == ["compare.csv", "compare.md", "compare.png"]
    with paths[0].open() as handle:
        lines = list(csv.DictReader(handle))
    assert [line["method"] for line in lines] == list(side_by_side.table.index)
    assert float(lines[0]["loglik"]) == side_by_side.table["loglik"].iloc[0]
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_the_command(tmp_path: Path) -> None:
    with (tmp_path / "counts.csv").open("w") as handle:
        csv.writer(handle).writerows([["a", "b", "c", "d"], *TABLES["plain"].y.astype(int).tolist()])
    out = tmp_path / "out"
    line = [
        "compare",
        str(tmp_path / "counts.csv"),
        "--methods",
        "variational,moments",
        "--out",
        str(out),
        "-q",
    ]
    assert CliRunner().invoke(app, line).exit_code == 0
    assert (out / "compare.md").read_text().count("\n") == 4


def test_what_is_odd_about_the_counts_is_told_once(tmp_path: Path) -> None:
    y = TABLES["plain"].y.copy()
    y[:, 1] = 0
    with pytest.warns(poplin.DataWarning, match="every count is 0: 'Y2'") as met:
        poplin.compare(y, ["moments", "moments"])
    assert len([one for one in met if "every count is 0" in str(one.message)]) == 1
    held = anndata.AnnData(TABLES["plain"].y, layers={"counts": y})
    held.write_h5ad(tmp_path / "a.h5ad")
    line = ["compare", str(tmp_path / "a.h5ad"), "--layer", "counts", "--methods", "moments"]
    told = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "out")])
    assert told.exit_code == 0 and "To know" in told.output and "every count is 0" in told.output
    assert "every count is 0" in (tmp_path / "out" / "compare.md").read_text()


def test_compare_names_rows_as_fit_does(tmp_path: Path) -> None:
    lines = [["unit", "a", "b", "c", "d"]] + [
        [i % 7, *row] for i, row in enumerate(TABLES["plain"].y.astype(int).tolist())
    ]
    with (tmp_path / "counts.csv").open("w") as handle:
        csv.writer(handle).writerows(lines)
    line = ["compare", str(tmp_path / "counts.csv"), "--methods", "moments", "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app, [*line, "--row-names", "unit"])
    assert told.exit_code == 1 and "Duplicated row names" in str(told.exception)


@pytest.mark.parametrize("methods", ["", " , "])
def test_no_method_is_told(tmp_path: Path, methods: str) -> None:
    (tmp_path / "counts.csv").write_text("a,b\n1,2\n1,4\n0,1\n")
    line = ["compare", str(tmp_path / "counts.csv"), "--methods", methods, "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app, line)
    assert isinstance(told.exception, poplin.InputError)
    assert "for example --methods variational,ml" in told.exception.at_command_line
