"""Text tables against Python's `csv` module: quotes, line breaks and delimiters within fields, odd line ends.

`records` is the reference. Files are written by `csv.writer`, or are any text at all: that is refused or read alike.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as some
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from poplin._errors import InputError
from poplin.data.readers import read_counts, read_table
from poplin.data.textfiles import layout, read_body

WORDS = some.text("aé1 \"',\n\r", max_size=6)
# file name, delimiter, quoting, end of a line
DIALECTS = some.sampled_from(
    [
        ("y.csv", ",", csv.QUOTE_MINIMAL, "\r\n"),
        ("y.csv", ",", csv.QUOTE_ALL, "\n"),
        ("y.csv", ",", csv.QUOTE_ALL, "\r"),
        ("y.tsv", "\t", csv.QUOTE_MINIMAL, "\r\n"),
        ("y.txt", " ", csv.QUOTE_ALL, "\n"),
    ]
)
bounded = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def records(path: Path, delimiter: str) -> list[list[str]]:
    """The table as Python's module reads it; empty lines are none."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        spaced = delimiter == " "
        return [line for line in csv.reader(handle, delimiter=delimiter, skipinitialspace=spaced) if line]


@some.composite
def tables(draw: Any, cells: Any) -> list[list[str]]:
    """A header and rows whose first fields are names."""
    width = draw(some.integers(1, 3))
    header = ["id", *(f"n{name}" for name in draw(some.lists(WORDS, min_size=width, max_size=width)))]
    row = some.tuples(WORDS.map("r{}".format), *[cells] * width).map(list)
    return [header, *draw(some.lists(row, min_size=1, max_size=5))]


def write(folder: Path, table: list[list[str]], dialect: tuple[str, str, Any, str]) -> Path:
    """A file of that dialect."""
    name, delimiter, quoting, end = dialect
    with (folder / name).open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(table)
    return folder / name


@bounded
@given(table=tables(some.sampled_from(["0", "7", "12", "", "NA"])), dialect=DIALECTS)
def test_counts_are_read_as_by_pythons_csv(tmp_path: Path, table: Any, dialect: Any) -> None:
    found, (header, *rows) = read_counts(write(tmp_path, table, dialect)), table
    assert found.column_names == tuple(name.strip() for name in header[1:])
    assert found.row_names == tuple(row[0] for row in rows)
    expected = [[float(cell) if cell.isdigit() else math.nan for cell in row[1:]] for row in rows]
    np.testing.assert_array_equal(found.values, expected)


@bounded
@given(table=tables(WORDS.map("t{}".format)), dialect=DIALECTS)
def test_covariates_are_read_as_by_pythons_csv(tmp_path: Path, table: Any, dialect: Any) -> None:
    found, (header, *rows) = read_table(write(tmp_path, table, dialect)), table
    assert list(found.columns) == [name.strip() for name in header[1:]]
    assert list(found.index) == [row[0] for row in rows]
    assert found.to_numpy().tolist() == [row[1:] for row in rows]


@bounded
@given(text=some.text('ab1,;"\n\r ', max_size=40), head=some.sampled_from(["i,a\n", '"i\nd",a\r\n', "i;a\r"]))
def test_any_text_is_refused_or_read_as_by_pythons_csv(tmp_path: Path, text: str, head: str) -> None:
    path = tmp_path / "y.csv"
    path.write_bytes((head + text).encode())
    try:
        how = layout(path)
        found = [read_body(path, how, as_spelled=j).column(0).to_pylist() for j in range(how.width)]
    except InputError:
        return
    assert [list(row) for row in zip(*found, strict=True)] == records(path, how.delimiter)[1:]


HEADERS = {
    "a break": '"Quercus\nrobur",alder',
    "two breaks": '"Quercus\nrobur","alder\r\nblack"',
    "a quote and a break": '"Quercus ""r""\nobur",alder',
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_line_break_in_the_header_loses_no_rows(tmp_path: Path, header: str) -> None:
    (tmp_path / "y.csv").write_bytes(f"site,{header}\na,1,4\nb,0,2\nc,3,1\nd,5,9\n".encode())
    (tmp_path / "x.csv").write_bytes(b'site,"depth\nof water",tree\na,1.5,oak\nb,2,elm\nc,1,oak\nd,3,elm\n')
    counts, covariates = read_counts(tmp_path / "y.csv"), read_table(tmp_path / "x.csv")
    assert counts.values.tolist() == [[1, 4], [0, 2], [3, 1], [5, 9]]
    assert counts.row_names == tuple("abcd") == tuple(covariates.index)
    assert covariates["depth\nof water"].tolist() == [1.5, 2, 1, 3]


def test_what_a_column_is_does_not_depend_on_the_parser(tmp_path: Path) -> None:
    """Numbers with a sign or with space around, truth values, dates and gaps, as pandas reads them."""
    path = tmp_path / "x.csv"
    path.write_text(
        "id,signed,spaced,true,when,gap,big,word\n"
        "a,+1.5, 4,True,2024-01-02,,12345678901,12:30\n"
        "b,-2, 5 ,False,2024-03-01,NA,3,x\n"
        "c,.25,6,true,2024-03-02,7,4,None\n"
    )
    found = read_table(path)
    expected = pd.read_csv(path, index_col="id").rename_axis(None)
    expected.loc["c", "word"] = "None"  # in a column of text a level, where pandas has a gap
    pd.testing.assert_frame_equal(found, expected)
