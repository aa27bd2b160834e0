"""Tables that lie the wrong way round, totals among the counts, and tables of presence and absence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from poplin import DataWarning, InputError
from poplin.data.counts import as_counts
from poplin.data.framed import turned
from poplin.data.tables import CountTable, as_table
from tests.bad_inputs import LEAVES, TAXA, good_counts, good_covariates, matrix
from tests.commandline import Run, leaves, table

BESIDE = {
    "data": {"data": good_covariates(), "formula": "~ tree"},
    "data in another order": {"data": good_covariates().iloc[::-1], "formula": "~ tree"},
    "data without names": {"data": good_covariates().reset_index(drop=True), "formula": "~ tree"},
    "X": {"X": matrix(height=np.arange(6.0))},
    "weights": {"weights": pd.Series(1.0, list(LEAVES))},
    "offset": {"offset": pd.Series(0.0, list(LEAVES))},
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_taxa_in_rows_are_recognised(beside: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"samples in columns. Turn it round: give Y\.T\.") as caught:
        as_counts(good_counts().T, **beside)
    assert "--transpose" in caught.value.at_command_line
    assert as_counts(good_counts(), **beside).row_names == LEAVES


def test_rows_of_other_names_are_not_taken_for_columns() -> None:
    other = good_covariates().rename(str.upper)
    with pytest.raises(InputError, match="reset the index") as caught:
        as_counts(good_counts(), data=other, formula="~ tree")
    assert "--row-names COLUMN" in caught.value.at_command_line
    assert "transpose" not in caught.value.at_command_line + str(caught.value)


def test_a_table_is_turned_with_its_names() -> None:
    plain = turned(as_table(good_counts()))
    assert (plain.row_names, plain.column_names) == (TAXA, LEAVES)
    np.testing.assert_array_equal(plain.values, good_counts().to_numpy().T)
    held = turned(
        CountTable(sparse.csr_array(good_counts().to_numpy(float)), LEAVES, TAXA, good_covariates())
    )
    np.testing.assert_array_equal(held.values.toarray(), plain.values)
    assert held.covariates is None and "left behind" in held.notes[0]


@pytest.mark.parametrize("command", ["fit", "compare"])
def test_the_command_turns_a_table(run: Run, tmp_path: Path, command: str, capsys: Any) -> None:
    counts, covariates = leaves()
    counts.T.to_csv(tmp_path / "turned.csv")
    covariates.to_csv(tmp_path / "leaves.csv")
    words = (command, "turned.csv", "--covariates", "leaves.csv", "--formula", "~ tree", "--out", "out")
    assert run(*words) == 2
    assert "add --transpose" in " ".join(capsys.readouterr().err.split())
    if command == "fit":
        assert run(*words, "--transpose") == 0
        assert [line[0] for line in table(Path("out/embedding.csv"))[1:]] == list(counts.index)
        assert run(*words, "--transpose", "--h5ad-out", "b.h5ad") == 2


@pytest.mark.parametrize(
    ("name", "told"), [("Total", True), ("Row sums", True), ("small", False), ("leaf9", False)]
)
def test_a_row_that_only_counts_have_may_be_a_total(name: str, told: bool) -> None:
    y = pd.concat([good_counts(), good_counts().sum().to_frame(name).T])
    with pytest.raises(InputError, match=f"lacks 1 of the 7 rows of Y: '{name}'") as caught:
        as_counts(y, data=good_covariates(), formula="~ tree")
    for words in (str(caught.value), caught.value.at_command_line):
        assert ("is a total of the others: leave it out" in words) == told


@pytest.mark.parametrize("what", ["column", "row"])
def test_a_total_is_pointed_out(what: str) -> None:
    y = good_counts()
    y = y.assign(all=y.sum(axis=1)) if what == "column" else pd.concat([y, y.sum().to_frame("all").T])
    with pytest.warns(DataWarning, match=f"The {what} 'all' is the sum of all other {what}s"):
        counts = as_counts(y)
    assert any("Leave it out" in note for note in counts.notes)
    assert not any("sum of all" in note for note in as_counts(good_counts()).notes)


def test_presence_and_absence_are_no_counts() -> None:
    seen = good_counts().clip(upper=1)
    assert any("presence and absence" in note for note in as_counts(seen).notes)
    assert not any("presence" in note for note in as_counts(good_counts()).notes)


def test_a_real_table_the_wrong_way_round(shared_cases: Path) -> None:
    env = shared_cases / "small" / "env.csv"
    with pytest.raises(InputError, match="Y\\.T"):
        as_counts(shared_cases / "small" / "counts_T.csv", data=env, formula="~ depth")
    for name in ("row", "column"):
        short = name.replace("column", "col")
        with pytest.warns(DataWarning, match=f"The {name} 'Total'"):
            as_counts(shared_cases / "small" / f"counts_total_{short}.csv")
