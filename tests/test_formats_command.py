"""Files of other programs at the command line: what travels with the counts, what is asked for, what is turned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.commandline import Run, leaves, table
from tests.foreign import R, biom_json, rda, rows_of, workbook
from tests.standin import StandIn


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the stand-in fitted."""
    held: list[Any] = []
    fit = StandIn.fit
    monkeypatch.setattr(StandIn, "fit", lambda self, Y, **more: held.append(fit(self, Y, **more)) or held[-1])
    return held


@pytest.mark.parametrize("turned", [(), ("--transpose",)])
def test_metadata_of_a_biom_table_serve_beside_the_covariates(
    run: Run, tmp_path: Path, turned: tuple[str, ...], fitted: list[Any]
) -> None:
    counts, covariates = leaves()
    about = covariates.loc[counts.index, ["tree"]].assign(half="9")
    biom_json(tmp_path / "y.biom", counts, about=about.to_dict("records"))
    covariates[["reads", "half"]].to_csv(tmp_path / "more.csv")
    options = (
        "--covariates",
        "more.csv",
        "--formula",
        "~ tree + offset(half)",
        "--weights",
        "reads",
        *turned,
    )
    assert run("fit", "y.biom", *options, "--out", "out") == 0
    held = fitted[0].counts_
    assert held.covariate_names == ("Intercept", "tree[T.oak]") and held.row_names == tuple(counts.index)
    np.testing.assert_array_equal(held.weights, covariates["reads"].loc[counts.index])
    np.testing.assert_array_equal(held.offset, np.full((12, 3), 0.5))
    assert any("'half' came with the counts and in the table of covariates" in note for note in held.notes)


def test_sheets_and_objects_are_named_after_a_colon(
    run: Run, tmp_path: Path, fitted: list[Any], capsys: Any
) -> None:
    counts, covariates = leaves()
    workbook(tmp_path / "b.xlsx", counts=rows_of(counts), leaves=rows_of(covariates))
    ones = pd.DataFrame(np.ones(counts.shape, int), counts.index, counts.columns)
    rda(tmp_path / "o.rda", ones=R.matrix(ones), twos=R.matrix(2 * ones))
    options = ("--formula", "~ tree", "--out", "out", "--offset", "o.rda:twos")
    assert run("fit", "b.xlsx:counts", "--covariates", "b.xlsx:leaves", *options) == 0
    held = fitted[0].counts_
    np.testing.assert_array_equal(held.y, counts)
    np.testing.assert_array_equal(held.offset, np.full(counts.shape, 2.0))
    assert {line[0] for line in table(Path("out/coef.csv"))[1:]} == {"Intercept", "tree[T.oak]"}
    assert run("fit", "b.xlsx:counts", "--covariates", "b.xlsx", *options) == 2
    assert "'b.xlsx:counts'" in " ".join(capsys.readouterr().err.split())


def test_cases_as_people_have_them_are_read_or_asked_about(
    run: Run, shared_cases: Path, fitted: list[Any], capsys: Any
) -> None:
    """Taxa in rows, comments, totals, each with its covariates: the right table, or the way to it."""
    small = shared_cases / "small"
    env = ("--covariates", str(small / "env.csv"), "--formula", "~ depth", "--out", "out")
    right = pd.read_csv(small / "counts.csv", index_col=0)
    for name, more in (("counts", ()), ("counts_comment", ()), ("counts_T", ("--transpose",))):
        assert run("fit", str(small / f"{name}.csv"), *env, *more) == 0
        np.testing.assert_array_equal(fitted[-1].counts_.y, right)
        assert fitted[-1].counts_.column_names == tuple(right.columns)
    assert run("fit", str(small / "counts_total_col.csv"), *env) == 0
    assert any("'Total' is the sum of all other columns" in note for note in fitted[-1].counts_.notes)
    for name, words in (("counts_T", "add --transpose"), ("counts_total_row", "leave it out of Y")):
        assert run("fit", str(small / f"{name}.csv"), *env) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    about = ("--covariates", str(shared_cases / "qiime_meta.tsv"), "--formula", "~ BODY_SITE", "--out", "out")
    taxa = pd.read_csv(shared_cases / "qiime_table.tsv", sep="\t", skiprows=1, index_col=0).drop(
        columns="taxonomy"
    )
    for name in ("qiime_table", "qiime_table_notax", "qiime_table_nocomment"):
        for more in ((), ("--transpose",)):
            assert run("fit", str(shared_cases / f"{name}.tsv"), *about, *more) == 0
            np.testing.assert_array_equal(fitted[-1].counts_.y, taxa.T)
            assert fitted[-1].counts_.row_names == tuple(taxa.columns)
