"""Text that was meant as something else: a number column with a stray word, dates, names of rows, NA as a name.

`MISTYPED` are columns as people's files hold them, each one clear error that names the cells; `FACTORS` are text that
names groups and has to stay a factor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from poplin._errors import InputError
from poplin.data.counts import as_counts
from poplin.data.formula import apply, design
from poplin.data.readers import read_counts, read_table

N = 24
ROWS = tuple(f"leaf{i}" for i in range(N))
DEPTHS = [f"{1.5 + i % 11}" for i in range(N)]


def depths_with(*cells: str) -> list[str]:
    """Depths as text, the first of them replaced."""
    return [*cells, *DEPTHS[len(cells) :]]


MISTYPED = {
    "a word": (depths_with("n/d"), ("'n/d' at row 'leaf0'", "C(depth)")),
    "two words": (depths_with("n/d", "missing"), ("'n/d' at row 'leaf0', 'missing' at row 'leaf1'", "C(depth)")),
    "a bound": (depths_with("<1"), ("'<1' at row 'leaf0'", "C(depth)")),
    "bounds everywhere": ([f"<{i % 5}" for i in range(N)], ("'<0' at row 'leaf0' (and 4 more)", "2 other values")),
    "commas": ([cell.replace(".", ",") for cell in DEPTHS], ("'1,5' at row 'leaf0'", "decimal point")),
    "units": ([f"{cell} m" for cell in DEPTHS], ("'1.5 m' at row 'leaf0'", "C(depth)")),
    "thousands": ([f"{i % 9 + 1} 250" for i in range(N)], ("'1 250' at row 'leaf0'",)),
    "numbers as text": (DEPTHS, ("numbers as text", "'1.5' at row 'leaf0'", "to_numeric", "C(depth)")),
    "one number and a word": (["1", "n/d"] * (N // 2), ("'n/d' at row 'leaf1'", "11 more")),
    "days": ([f"2021-05-{i % 9 + 1:02}" for i in range(N)], ("dates", "'2021-05-01' at row 'leaf0'", "days since")),
    "days as in America": ([f"5/{i % 9 + 1}/21 9:30" for i in range(N)], ("dates", "'5/1/21 9:30'", "C(depth)")),
    "days as in Germany": ([f"{i % 9 + 1}.5.2021" for i in range(N)], ("dates", "'1.5.2021'")),
    "days in words": ([f"{i % 9 + 1} May 2021" for i in range(N)], ("dates", "'1 May 2021'")),
    "names of rows": (list(ROWS), ("differs in each of the 24 rows", "'leaf0'", "Leave it out")),
}  # fmt: skip
FACTORS = {
    "percents": ["control", "10% NaCl", "20% NaCl"],
    "doses": ["0%", "10%", "20%"],
    "codes": ["1", "2a", "2b", "2c"],
    "letters": ["A1", "A2"],
    "months": ["May", "June"],
    "yes and no": ["yes", "no", "n/d"],
}


def evaluated(formula: str, cells: Any) -> tuple[str, ...]:
    """The covariates that a column `depth` of these cells becomes."""
    return design(formula, pd.DataFrame({"depth": cells}), ROWS)[0].covariate_names


@pytest.mark.parametrize(("cells", "words"), MISTYPED.values(), ids=MISTYPED)
@pytest.mark.parametrize("formula", ["~ depth", "~ offset(log(depth))"])
def test_a_mistyped_column_is_told_by_its_cells(
    cells: list[str], words: tuple[str, ...], formula: str
) -> None:
    with pytest.raises(InputError) as caught:
        evaluated(formula, cells)
    assert all(word in str(caught.value) for word in ("'depth'", *words)), str(caught.value)


@pytest.mark.parametrize("levels", FACTORS.values(), ids=FACTORS)
def test_text_that_names_groups_stays_a_factor(levels: list[str]) -> None:
    assert len(evaluated("~ depth", np.resize(levels, N))) == len(levels)


def test_groups_that_look_like_numbers_are_said_to_be_groups() -> None:
    """By C(...), by a category of whole numbers (as clusters of cells are), or of numbers that are no text."""
    assert len(evaluated("~ C(depth)", depths_with("n/d"))) == 12
    assert len(evaluated("~ depth", pd.Categorical(np.resize(["0", "1", "2"], N)))) == 3
    assert len(evaluated("~ depth", pd.Categorical(np.resize([0.5, 1.0], N)))) == 2
    with pytest.raises(InputError, match="'n/d' at row 'leaf0'"):  # what AnnData makes of such a column
        evaluated("~ depth", pd.Categorical(depths_with("n/d")))


def test_later_rows_are_told_by_their_cells_too() -> None:
    made, _, _ = design("~ depth", pd.DataFrame({"depth": np.arange(N) / 2}), ROWS)
    with pytest.raises(InputError, match=r"text, 'n/d' at row 'leaf0'; .* Give numbers"):
        apply(made, pd.DataFrame({"depth": depths_with("n/d")}), ROWS)


WORDS = {
    "as names": ("a,None\nb,Low\nc,NA\nd,null\ne,Low\n", ["None", "Low", "NA", "null", "Low"]),
    "in quotes": ('"a","NA"\n"b","Low"\n"c",""\n"d","Low"\n', ["NA", "Low", None, "Low"]),
    "as R writes what is missing": ('"a",NA\n"b","Low"\n"c","NA"\n', [None, "Low", "NA"]),
    "only such words": ('a,"NA"\nb,"None"\nc,NA\n', ["NA", "None", None]),
    "among numbers": ('a,NA\nb,2\nc,"NA"\n', [None, 2.0, None]),
    "an empty cell": ("a,Low\nb,\nc,NaN\nd,n/a\n", ["Low", None, None, "n/a"]),
    "cells with commas": ('a,"Low, wet"\nb,NA\nc,High\n', ["Low, wet", "NA", "High"]),
    "cells with quotes": ('a,"so ""wet"""\nb,NA\nc,High\n', ['so "wet"', "NA", "High"]),
}


@pytest.mark.parametrize(("text", "expected"), WORDS.values(), ids=WORDS)
def test_words_for_gaps_are_names_in_text(tmp_path: Path, text: str, expected: list[Any]) -> None:
    (tmp_path / "leaves.csv").write_text(f'"id","site"\n{text}')
    found = read_table(tmp_path / "leaves.csv")["site"]
    assert [None if pd.isna(cell) else cell for cell in found] == expected


def test_a_column_of_counts_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text('"id","a","b"\n"NA","NA","1"\n"y","NA","2"\n')
    found = read_counts(tmp_path / "counts.csv")
    assert found.row_names == ("NA", "y") and np.isnan(found.values[:, 0]).all()


@pytest.mark.parametrize("other", ["b", "7", "007"])
def test_a_row_may_be_named_na(tmp_path: Path, other: str) -> None:
    (tmp_path / "leaves.csv").write_text(f"id,site\nNA,wet\n{other},dry\n")
    assert list(read_table(tmp_path / "leaves.csv").index) == ["NA", other]


@pytest.mark.parametrize("other", ["b", "7"])
def test_a_row_without_a_name_is_told(tmp_path: Path, other: str) -> None:
    (tmp_path / "leaves.csv").write_text(f"id,site\n{other},wet\n,dry\n")
    with pytest.raises(InputError, match="no row name in its data row 2"):
        read_table(tmp_path / "leaves.csv")


def test_a_gap_is_told_with_both_readings() -> None:
    with pytest.raises(InputError, match=r"a word such as NA.*fillna\('none'\)") as caught:
        evaluated("~ depth", [None, *np.resize(["wet", "dry"], N - 1)])
    assert 'put it in quotes in the file, "NA"' in caught.value.at_command_line


def test_levels_that_look_odd_are_noted() -> None:
    sites = np.resize(["control", "Control", "control ", "NA"], 12)
    counts = as_counts(np.arange(24).reshape(12, 2), data=pd.DataFrame({"site": sites}), formula="~ site")
    assert "'NA' is taken as the name of a level" in counts.notes[0]
    assert "'Control', 'control', 'control '" in counts.notes[1]
