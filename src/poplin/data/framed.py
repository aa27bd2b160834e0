"""Tables with a line of column names: text, Parquet, a sheet of a workbook, a data frame of R.

Start at `read_frame` for covariates and at `read_framed_counts` for counts, which are turned where they say themselves
that their samples are columns. One rule names rows, `textfiles.name_rows`.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.gaps import with_words_as_names
from poplin.data.located import BOOKS, R_FILES, TEXT
from poplin.data.orientation import turned
from poplin.data.packed import frame_in
from poplin.data.r_files import read_r
from poplin.data.tables import CountTable, as_table, index_names
from poplin.data.taxa import described
from poplin.data.textfiles import layout, name_rows, opened, read_body
from poplin.data.workbooks import sheet


class Raw(NamedTuple):
    """A table with a header as it was read; `spelled` gives a column as the file spells it, if that is another."""

    frame: Any
    spelled: Callable[[int], Sequence[str]] | None = None


def read_framed_counts(file: Path, kind: str, part: str | None, row_names: str | None) -> CountTable:
    """Counts in a table with a header, turned where it says itself that its samples are columns."""
    raw = _raw(file, kind, part, counts=True)
    if isinstance(raw, CountTable):
        return as_table(raw)
    told = described(raw.frame, file.name)
    frame = _named(_in_part(raw, told.kept), row_names, file.name, counts=True)
    if frame.shape[1] == 0:
        raise InputError(
            f"{file.name} has no column of numbers, so it is no table of counts. Check that it is the right "
            "file."
        )
    heading = str(raw.frame.columns[0]) if frame.shape[1] < len(told.kept) else ""
    table = as_table(frame)._replace(notes=told.notes, heading=heading)
    return turned(table) if told.turn else table


def _in_part(raw: Raw, kept: list[int]) -> Raw:
    """The table with these of its columns."""
    spelled = raw.spelled
    return Raw(raw.frame.iloc[:, kept], None if spelled is None else lambda place: spelled(kept[place]))


def read_frame(
    file: Path,
    kind: str,
    part: str | None,
    row_names: str | None,
    *,
    counts: bool = False,
    header: bool | None = True,
) -> Any:
    """A table as a DataFrame, its index the row names; a matrix of R is one too.

    `header` None: a first line of numbers is data.
    """
    raw = _raw(file, kind, part, counts=counts, header=header)
    if isinstance(raw, CountTable):
        import pandas

        names: Any = raw.row_names, raw.column_names
        return pandas.DataFrame(raw.values, *names)
    return _named(raw, row_names, file.name, counts=counts)


def _raw(
    file: Path, kind: str, part: str | None, *, counts: bool, header: bool | None = True
) -> Raw | CountTable:
    """A table with a header; a matrix of R is a table already."""
    if kind in TEXT:
        return _text(file, counts=counts, header=header)
    if kind in BOOKS:
        return _sheet(file, part, counts=counts, header=header)
    if kind in R_FILES:
        held = read_r(file, part)
        return held if isinstance(held, CountTable) else Raw(held)
    return Raw(frame_in(file))


def _named(raw: Raw, row_names: str | None, source: str, *, counts: bool) -> Any:
    """A table with its row names in the index: those that it has there, or a column."""
    frame = raw.frame
    if index_names(frame.index) is None:
        frame = frame.reset_index(drop=True)
        return name_rows(frame, row_names, source, counts=counts, spelled=raw.spelled)
    return frame if row_names is None else name_rows(frame.reset_index(), row_names, source, counts=counts)


def _text(file: Path, *, counts: bool, header: bool | None, delimiter: str | None = None) -> Raw:
    """A text table, with its row names spelled as in the file."""
    how = layout(file, header=header, delimiter=delimiter)
    frame = read_body(file, how).to_pandas()
    for name in frame.select_dtypes("object").columns:
        frame[name] = frame[name].where(frame[name].notna(), np.nan)  # Arrow has None there
    frame.columns = range(how.width) if how.columns is None else list(how.columns)
    with opened(file) as lines:
        frame = with_words_as_names(frame, lines, how.delimiter, counts=counts)

    def spelled(place: int) -> Any:
        return read_body(file, how, as_spelled=place).column(0).to_pylist()

    return Raw(frame, spelled)


def _sheet(file: Path, part: str | None, *, counts: bool, header: bool | None) -> Raw:
    """A sheet of a workbook, through the CSV that it would be saved as, under the name that messages say."""
    lines = sheet(file, part)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / file.name
        with text.open("w", encoding="utf-8", newline="") as handle:
            csv.writer(handle).writerows(lines)
        frame, _ = _text(text, counts=counts, header=header, delimiter=",")
    body = lines[len(lines) - len(frame) :]
    return Raw(frame, lambda place: [line[place] for line in body])
