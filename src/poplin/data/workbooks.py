"""Excel's workbooks (.xlsx, .xlsm): a sheet as the lines of the CSV that it would be saved as.

Start at `sheet`. What is in them is then read as any text table is: one rule for headers, gaps and row names. A value
that only Excel can compute, and a sheet that nobody has named among several, are errors that ask.
"""

from __future__ import annotations

import datetime
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poplin._errors import InputError
from poplin.data.located import loaded
from poplin.data.tables import listed, more

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
    lines = [[_text(cell) for cell in (*row, *[None] * (width - len(row)))] for row in found.values()]
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
    import openpyxl

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


def _text(cell: Any) -> str:
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
