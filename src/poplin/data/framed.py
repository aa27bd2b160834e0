"""Tables with a line of column names: text, Parquet, a sheet of a workbook, a data frame of R.

Start at `read_frame` for covariates and at `read_framed_counts` for counts, which are turned where they say themselves
that their samples are columns. One rule names rows, `textfiles.name_rows`.
"""

from __future__ import annotations

import csv
import datetime
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError, library
from poplin.data.formats import read_r
from poplin.data.held import as_held, is_held_sparse, is_on_disk
from poplin.data.large_files import frame_in
from poplin.data.located import BOOKS, R_FILES, TEXT, loaded
from poplin.data.tables import CountTable, Names, as_table, index_names, listed, more
from poplin.data.textfiles import layout, name_rows, opened, read_body, with_words_as_names

# Tables that say themselves that their samples are columns, as QIIME, biom and featureCounts write them.
#
# Start at `described`, which `readers.py` asks of every table of counts with a header. Only what a program has signed
# so is turned; where a heading merely sounds like it, `orientation.doubtful_rows` tells. Columns that describe the
# rows (taxonomy, the place of a gene) are no samples: they are left out, and named.


_SIGNED = re.compile(r"#\s*otu[ _]?id", re.IGNORECASE)
_TAXONOMY = re.compile(r"taxonomy|consensus[ ._-]?lineage", re.IGNORECASE)  # says it too, if it is text
# or three of these
_RANKS = re.compile(r"(super)?(kingdom|phylum|class|order|family|genus|species)|domain", re.IGNORECASE)
_PLACE = ("chr", "start", "end", "strand", "length")  # as featureCounts has it of a gene, all five
FEWEST_RANKS = 3
_DESCRIBES = re.compile(
    r"(consensus[ ._-]?)?(taxonomy|lineage)|taxon|kingdom|domain|phylum|class|order|family|genus|species|confidence|"
    r"gene[ ._-]?(name|symbol)|description",
    re.IGNORECASE,
)


class Described(NamedTuple):
    """What a table says of its rows: `turn`, that they are no samples; `kept`, the columns that describe none."""

    kept: list[int]
    turn: bool
    notes: Names


def described(frame: Any, name: str) -> Described:
    """What a table of counts says of its rows, names of rows still in its first column; `name` is its file's."""
    headings = [str(heading).strip() for heading in frame.columns]
    places = [j for j in range(1, len(headings)) if headings[j].lower() in _PLACE]
    texts = [j for j in range(1, len(headings)) if _is_text(frame.iloc[:, j])]
    lineages = [j for j in texts if _TAXONOMY.fullmatch(headings[j])]
    ranks = [j for j in texts if _RANKS.fullmatch(headings[j])]
    signs = [0] if headings and _SIGNED.fullmatch(headings[0]) else lineages
    signs = signs or (ranks if len(ranks) >= FEWEST_RANKS else [])
    signs = signs or (places if len(places) == len(_PLACE) else [])
    if not signs:
        return Described(list(range(len(headings))), False, ())
    left = [j for j in range(1, len(headings)) if _DESCRIBES.fullmatch(headings[j])]
    left += places if len(places) == len(_PLACE) else []
    told = [f"{name} has its samples in columns, as '{headings[signs[0]]}' says; it was turned round."]
    if left:
        told.append(
            f"{listed(headings[j] for j in left)} in {name} describes what was counted; it is left out of the counts."
        )
    return Described([j for j in range(len(headings)) if j not in left], True, tuple(told))


def _is_text(column: Any) -> bool:
    return any(isinstance(cell, str) for cell in column)


# Which way a table of counts lies: rows that are columns in the file, and totals among the counts.
#
# Start at `turned`, which lays it the other way round; `turned_hint` and `doubtful_rows` recognise one that should
# be, `totals_among` finds the sums that spreadsheets put at the end.


FEWEST = 3  # rows and columns of a table that has a total
LONG = 10  # counts that are all the sum of the others by no accident
# headings of row names that are not those of samples
_TAXA = re.compile(
    r"#?\s*(otus?|asvs?|features?|taxon|taxa|species|genes?|transcripts?|ensembl)[ ._-]?(ids?|names?)?",
    re.IGNORECASE,
)
_CALLED = re.compile(r"((row|column|grand)[ _.]*)?(totals?|sums?|somme|gesamt|all)", re.IGNORECASE)
_TOTAL = re.compile("total|sum|somme|gesamt|all", re.IGNORECASE)


def turned(table: CountTable) -> CountTable:
    """The table with its rows as columns. What travelled with its rows, covariates and an offset, is left behind.

    One that its reader has turned already, since the file says how it lies, stays as it is.
    """
    if table.turned:
        return table
    if is_on_disk(table.values):
        n, p = table.values.shape
        raise InputError(
            f"Y stays on disk with {n} x {p} entries, too many to be turned round here. Write the file with samples "
            "in rows."
        )
    values = as_held(table.values.T) if is_held_sparse(table.values) else np.ascontiguousarray(table.values.T)
    left = (
        ["What came with the counts beside their names describes their columns now, and was left behind."]
        if table.covariates is not None or table.offset is not None
        else []
    )
    return CountTable(values, table.column_names, table.row_names, None, (*table.notes, *left), turned=True)


def doubtful_rows(table: CountTable) -> list[str]:
    """What is odd about the rows, if they are headed as taxa or genes are: one sentence, or none."""
    if table.turned or not _TAXA.fullmatch(table.heading.strip()):
        return []
    return [
        f"The rows of Y are named by '{table.heading}', as taxa or genes would be; here, rows are samples. If the "
        "samples are its columns, turn it round: --transpose, or Y.T."
    ]


def turned_hint(own: Names | None, length: int, columns: Names | None) -> tuple[str, str]:
    """What to say, in Python and at the command line, where the columns of Y are what should be its rows.

    `own` are the names of the rows beside Y, or None where there are none; `length` is how many they are.
    """
    if columns is None:
        return "", ""
    same = length == len(columns) if own is None else 2 * len(set(own) & set(columns)) > length
    if not same:
        return "", ""
    said = " They are the columns of Y, which seems to have its samples in columns. Turn it round: "
    return f"{said}give Y.T.", f"{said}add --transpose."


def total_hint(lacking: Sequence[str]) -> str:
    """What to say of rows of Y that nothing else has, if their names are those of totals."""
    if not all(_CALLED.fullmatch(name.strip()) for name in lacking):
        return ""
    return f" By the name, {listed(lacking)} is a total of the others: leave it out of Y."


def totals_among(y: Any, rows: Names, columns: Names) -> list[str]:
    """One sentence each on a row and a column that is the sum of all others, in a dense table.

    Of a short one that may be an accident, unless its name says so.
    """
    if is_held_sparse(y) or min(y.shape) < FEWEST:
        return []
    told = []
    for axis, names, what in ((1, columns, "column"), (0, rows, "row")):
        same = (2 * y == np.nansum(y, axis=axis, keepdims=True)).all(axis=1 - axis) & y.any(axis=1 - axis)
        found = [names[i] for i in np.flatnonzero(same)]
        if len(found) == 1 and (y.shape[1 - axis] >= LONG or _TOTAL.search(found[0])):
            told.append(
                f"The {what} '{found[0]}' is the sum of all other {what}s: a total, and no count of its own. Leave it "
                "out of Y."
            )
    return told


# Excel's workbooks (.xlsx, .xlsm): a sheet as the lines of the CSV that it would be saved as.
#
# Start at `sheet`. What is in them is then read as any text table is: one rule for headers, gaps and row names. A
# value that only Excel can compute, and a sheet that nobody has named among several, are errors that ask.


_LARGEST = 1 << 30  # bytes of a workbook, unpacked
_ROWS = 1 << 20  # of a sheet, at most, by Excel
_GAPS = ("#N/A", "#NULL!")  # what Excel computes of nothing


def sheet(file: Path, part: str | None) -> list[list[str]]:
    """The cells of a sheet as text, all lines equally long; empty lines and columns at the end are none.

    `part` is the name of the sheet; it may be None where one sheet alone has cells. Raises `InputError` for a
    workbook that is damaged or larger than anybody's table, a sheet that is not there, and cells without a value.
    """
    loaded(file, lambda: _check_archive(file))
    return loaded(file, lambda: _read(file, part))


def _check_archive(file: Path) -> None:
    """Raises `InputError` for what is no workbook, or unpacks to more than a table can be."""
    if not zipfile.is_zipfile(file):
        raise InputError(f"{file.name} is no .xlsx file. Open it and save it as .xlsx, or as .csv.")
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > _LARGEST:
        raise InputError(
            f"{file.name} unpacks to {size / 2**30:.1f} GiB, more than is read of a workbook. Save the sheet as .csv."
        )


def _read(file: Path, part: str | None) -> list[list[str]]:
    with _opened(file, formulas=False) as book:
        rows = {name: _rows(book[name], file) for name in _wanted(book, part, file)}
    filled = {name: found for name, found in rows.items() if found} if part is None else rows
    if len(filled) > 1:
        raise InputError(
            f"{file.name} has the sheets {listed(filled, 12)}. Name the one to read after a colon: "
            f"'{file.name}:{next(iter(filled))}'."
        )
    name, found = next(iter(filled.items()), ("", {}))
    if not found:
        raise InputError(f"{file.name} has no cells{f' in the sheet {name!r}' if name else ''}.")
    width = max(map(len, found.values()))
    if any(len(row) < width or None in row for row in found.values()):
        _check_computed(file, name, found)
    lines = [[_as_text(cell) for cell in (*row, *[None] * (width - len(row)))] for row in found.values()]
    _check_header(next((line for line in lines if not _is_comment(line)), lines[0]), file, name)
    return lines


def _wanted(book: Any, part: str | None, file: Path) -> list[str]:
    """The sheets to look at: the one that is named, or all."""
    names = [held.title for held in book.worksheets]
    if part is not None and part not in names:
        raise InputError(f"{file.name} has no sheet '{part}'; it has {listed(names, 12)}.")
    return names if part is None else [part]


@contextmanager
def _opened(file: Path, *, formulas: bool) -> Iterator[Any]:
    """A workbook, closed in the end; what openpyxl warns of (styles, extensions) is no matter of tables."""
    openpyxl = library("openpyxl", extra="formats", what=f"Reading {file.name}")
    with warnings.catch_warnings(), file.open("rb") as stream:  # openpyxl closes no broken file
        warnings.simplefilter("ignore")
        book = openpyxl.load_workbook(stream, read_only=True, data_only=not formulas)
        try:
            yield book
        finally:
            book.close()


def _rows(held: Any, file: Path) -> dict[int, tuple[Any, ...]]:
    """The lines that have cells, by number, without what is empty at their ends."""
    held.reset_dimensions()  # a file may declare any
    found = {}
    for i, row in enumerate(held.iter_rows(values_only=True), 1):
        if i > _ROWS:
            raise InputError(f"{file.name} is damaged: it numbers more than {_ROWS} rows. Save it again.")
        last = max((j for j, cell in enumerate(row, 1) if cell is not None), default=0)
        if last:
            found[i] = row[:last]
    return found


def _check_computed(file: Path, name: str, found: dict[int, tuple[Any, ...]]) -> None:
    """Raises `InputError` where a cell holds a formula without the value that Excel computed last."""
    from openpyxl.utils import get_column_letter

    with _opened(file, formulas=True) as book:
        written = _rows(book[name], file)
    for i, row in written.items():
        for j, cell in enumerate(row):
            value = found[i][j] if j < len(found.get(i, ())) else None
            if value is None and isinstance(cell, str) and cell.startswith("="):
                raise InputError(
                    f"{file.name} holds, in {name}!{get_column_letter(j + 1)}{i}, a formula without its value, {cell}. "
                    "Open the file in Excel or LibreOffice and save it again, which computes it."
                )


def _is_comment(line: list[str]) -> bool:
    return line[0].startswith("#") and not any(line[1:])


def _check_header(header: list[str], file: Path, name: str) -> None:
    """Raises `InputError` where a column has no name, as where cells are merged, or a title stands above the table."""
    from openpyxl.utils import get_column_letter

    nameless = [j for j, cell in enumerate(header) if j and not cell.strip()]
    if nameless:
        raise InputError(
            f"In the sheet '{name}' of {file.name} no name stands above column {get_column_letter(nameless[0] + 1)}"
            f"{more(len(nameless))}: are cells merged, or does a title stand above the table? Give each column its own "
            "name, in the first line."
        )


def _as_text(cell: Any) -> str:
    """A cell as Excel writes it to CSV, but dates as 2024-03-31."""
    if cell is None or cell in _GAPS:
        return ""
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 2**53 else repr(cell)
    if isinstance(cell, datetime.datetime):
        midnight = cell.time() == datetime.time()
        return cell.date().isoformat() if midnight else cell.isoformat(sep=" ")
    return str(cell)


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
