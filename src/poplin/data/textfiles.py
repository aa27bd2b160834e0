"""Tables in text: which delimiter, which header, which column names the rows.

Start at `layout`; `name_rows` holds the rule for row names, which files of other kinds share. Nothing is
guessed in silence: a line with too few fields, a header of numbers, a first column that may be either names
or counts are errors that ask.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from poplin._errors import InputError
from poplin.data.tables import Names, listed

_NAMED = {",": "comma", ";": "semicolon", "\t": "tab", " ": "space"}
_HEAD_LINES = 50


class Layout(NamedTuple):
    """How a text file is a table: what cuts it, its column names (None: no header), lines before the data."""

    delimiter: str
    columns: Names | None
    skipped: int
    decimal: str


def layout(path: Path, *, header: bool | None = True) -> Layout:
    """The layout of a text table, after a check that every line has as many fields.

    The delimiter is a tab in .tsv, else the one of comma, semicolon and tab (in .txt: and space) that cuts
    the lines evenly. A header that is one field short, as R writes it, leaves the first column unnamed.
    `header` None: a first line of numbers is data. Raises `InputError` when the file is no text, no table, or
    lines differ in length.
    """
    delimiter = _delimiter(path)
    head, width, line = _checked_lines(path, delimiter)
    numbers = all(_is_number(field) for field in head)
    if header is True and numbers and not _is_numbering(head):
        raise InputError(
            f"The first line of {path.name} holds only numbers, {listed(head)}: there seems to be no header. "
            "Put a line of column names first (text, if they are names)."
        )
    decimal = "," if _decimal_comma(path, delimiter) else "."
    if header is None and numbers:
        return Layout(delimiter, None, 0, decimal)
    unnamed = [""] if len(head) == width - 1 else []
    return Layout(delimiter, tuple(unnamed + [field.strip() for field in head]), line, decimal)


def name_rows(
    frame: Any,
    row_names: str | None,
    source: str,
    *,
    counts: bool,
    spelled: Callable[[int], Sequence[str]] | None = None,
) -> Any:
    """`frame` with its row names moved from a column into the index.

    `row_names` is the column that holds them, or "none" for no names. Otherwise the first column does if it
    is headed by nothing, `id` or `*_id`, or is not numeric (in a table of covariates: and without repeats).
    `spelled` gives a column as the file spells it, so that 007 stays a name. Raises `InputError` that asks
    when the first column holds distinct integers under another name.
    """
    names = [str(name) for name in frame.columns]
    if row_names is not None and row_names not in names:
        if row_names.lower() == "none":
            return frame
        near = difflib.get_close_matches(row_names, names, n=3)
        hint = f"Did you mean {listed(near)}? " if near else ""
        raise InputError(
            f"{source} has no column '{row_names}' for the row names. {hint}It has {listed(names, 12)}."
        )
    if row_names is not None:
        place = names.index(row_names)
    elif frame.shape[1] and _first_names_rows(frame, names[0], source, counts):
        place = 0
    else:
        return frame
    labels = frame.iloc[:, place]
    if labels.isna().any():
        line = int(labels.isna().to_numpy().argmax()) + 1
        raise InputError(f"{source} has no row name in its data row {line}. Every row needs its own name.")
    kept = frame.iloc[:, [j for j in range(frame.shape[1]) if j != place]]
    return kept.set_axis([str(label) for label in (labels if spelled is None else spelled(place))], axis=0)


def _first_names_rows(frame: Any, name: str, source: str, counts: bool) -> bool:
    column = frame.iloc[:, 0]
    lower = name.lower()
    if lower in ("", "id") or lower.endswith("_id"):
        return True
    if column.dtype.kind not in "biuf":
        return counts or column.is_unique
    if column.dtype.kind in "iu" and len(column) > 1 and column.is_unique:
        raise InputError(
            f"The first column of {source}, '{name}', holds a different whole number in every row: are "
            f"these row names? Say so with --row-names {name} (row_names='{name}'), or --row-names none to "
            "take it as data."
        )
    return False


def opened(path: Path) -> TextIO:
    """The file as text in UTF-8, unpacked when it ends in .gz."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _head(path: Path) -> list[str]:
    """The first lines, after a check that the file is text."""
    try:
        with opened(path) as handle:
            lines = [line for _, line in zip(range(_HEAD_LINES), handle, strict=False)]
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(
            f"{path.name} is named .gz but cannot be unpacked: {error}. Compress it again."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is no text in UTF-8. Save the table as CSV in UTF-8.") from error
    if any("\0" in line for line in lines):
        raise InputError(f"{path.name} is a binary file, not a text table. Save the table as CSV in UTF-8.")
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise InputError(f"{path.name} is empty. It has to hold a header line and one line for each row.")
    return lines


def _delimiter(path: Path) -> str:
    """Tab for .tsv; else what cuts all of the first lines into equally many fields, and into most of them."""
    lines = _head(path)
    if ".tsv" in (suffix.lower() for suffix in path.suffixes):
        return "\t"
    best, most = ",", 1
    spaces = ".txt" in (suffix.lower() for suffix in path.suffixes)  # as R writes a table by default
    for delimiter in _NAMED if spaces else ",;\t":
        widths = [len(fields) for fields in _fields(lines, delimiter)]
        body = set(widths[1:]) or {widths[0]}
        even = len(body) == 1 and widths[0] in (max(body), max(body) - 1)
        if even and max(body) > most:
            best, most = delimiter, max(body)
    return best


def _fields(lines: Iterable[str], delimiter: str) -> Any:
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter == " ")


def _checked_lines(path: Path, delimiter: str) -> tuple[list[str], int, int]:
    """The header, the number of columns and the line of the header; every line has as many fields."""
    head: list[str] | None = None
    width, header_line = None, 1
    try:
        with opened(path) as handle:
            reader = _fields(handle, delimiter)
            for fields in reader:
                if not fields:
                    continue
                if head is None:
                    head, header_line = fields, reader.line_num
                elif width is None:
                    width = len(fields)
                    if width not in (len(head), len(head) + 1):
                        raise InputError(_uneven(path, reader.line_num, width, len(head), delimiter))
                elif len(fields) != width:
                    raise InputError(_uneven(path, reader.line_num, len(fields), width, delimiter))
    except (csv.Error, UnicodeDecodeError, EOFError, OSError) as error:
        raise InputError(f"{path.name} cannot be read as a table: {error}.") from error
    assert head is not None  # an empty file was refused by _head
    return head, len(head) if width is None else width, header_line


def _uneven(path: Path, line: int, found: int, wanted: int, delimiter: str) -> str:
    return (
        f"{path.name} is no table: line {line} has {found} fields where {wanted} are wanted (cut at each "
        f"{_NAMED[delimiter]}). Every line needs as many fields as the header; the file may be cut off or "
        "be no table."
    )


def _decimal_comma(path: Path, delimiter: str) -> bool:
    """Whether numbers are written 1,5 as some spreadsheets do in files cut at semicolons."""
    return delimiter == ";" and any(
        re.search(r'(^|;)"?-?\d*,\d+"?(;|\s*$)', line) for line in _head(path)[1:]
    )


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _is_numbering(head: Sequence[str]) -> bool:
    """Whether a header only numbers the columns, from 0 or from 1."""
    return list(head) in ([str(j + start) for j in range(len(head))] for start in (0, 1))
