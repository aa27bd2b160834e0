"""Tables in text: which delimiter, which header, which column names the rows.

Start at `read_text`; `name_rows` holds the rule for row names, which files of other kinds share. Nothing is
guessed in silence: a line with too few fields, a header of numbers, a first column that may be either names
or counts are errors that ask.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from poplin._errors import InputError
from poplin.data.tables import listed

_DELIMITERS = (",", ";", "\t")
_NAMED = {",": "comma", ";": "semicolon", "\t": "tab"}
_HEAD_LINES = 50


def read_text(path: Path, *, header: bool | None = True) -> Any:
    """A text table as a DataFrame with the columns as they are headed, the first one still a column.

    The delimiter is a tab in .tsv, else the one of comma, semicolon and tab that cuts the lines evenly. A header
    that is one field short, as R writes it, leaves the first column unnamed. `header` None: a first line
    of numbers is data. Raises `InputError` when the file is no text, no table or has lines of different lengths.
    """
    import pandas

    delimiter = _delimiter(path)
    head, width, line = _checked_lines(path, delimiter)
    if header is None:
        header = not all(_is_number(field) for field in head)
    elif all(_is_number(field) for field in head) and not _is_numbering(head):
        raise InputError(
            f"The first line of {path.name} holds only numbers, {listed(head)}: it seems to have no header. Put a line of "
            "column names first (text, if they are names)."
        )
    with _opened(path) as handle:
        try:
            frame = pandas.read_csv(
                handle,
                sep=delimiter,
                header=None,
                skiprows=line if header else 0,
                decimal="," if _decimal_comma(path, delimiter) else ".",
                float_precision="round_trip",
                low_memory=False,
            )
        except pandas.errors.EmptyDataError:
            frame = pandas.DataFrame(columns=range(width))
        except (pandas.errors.ParserError, UnicodeDecodeError) as error:
            raise InputError(f"{path.name} cannot be read as a table: {str(error).strip()}.") from error
    if header:
        frame.columns = ([""] if len(head) == width - 1 else []) + [field.strip() for field in head]
    return frame


def name_rows(frame: Any, row_names: str | None, source: str, *, counts: bool) -> Any:
    """`frame` with its row names moved from a column into the index.

    `row_names` is the column that holds them, or "none" for no names. Otherwise the first column does if it is
    headed by nothing, `id` or `*_id`, or is not numeric (in a table of covariates: and without repeats). Raises
    `InputError` that asks when it holds distinct integers under another name.
    """
    names = [str(name) for name in frame.columns]
    if row_names is not None and row_names not in names:
        if row_names.lower() == "none":
            return frame
        near = difflib.get_close_matches(row_names, names, n=3)
        hint = f"Did you mean {listed(near)}? " if near else ""
        raise InputError(f"{source} has no column '{row_names}' for the row names. {hint}It has {listed(names, 12)}.")
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
    return kept.set_axis([str(label) for label in labels], axis=0)


def _first_names_rows(frame: Any, name: str, source: str, counts: bool) -> bool:
    column = frame.iloc[:, 0]
    lower = name.lower()
    if lower in ("", "id") or lower.endswith("_id"):
        return True
    if column.dtype.kind not in "biuf":
        return counts or column.is_unique
    if column.dtype.kind in "iu" and len(column) > 1 and column.is_unique:
        raise InputError(
            f"The first column of {source}, '{name}', holds a different whole number in every row: are these row names? "
            f"Say so with --row-names {name} (row_names='{name}'), or --row-names none to take it as data."
        )
    return False


def _opened(path: Path) -> TextIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _head(path: Path) -> list[str]:
    """The first lines, after a check that the file is text."""
    try:
        with _opened(path) as handle:
            lines = [line for _, line in zip(range(_HEAD_LINES), handle, strict=False)]
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"{path.name} is named .gz but cannot be unpacked: {error}. Compress it again.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is no text in UTF-8. Save the table as CSV in UTF-8.") from error
    if any("\0" in line for line in lines):
        raise InputError(f"{path.name} is a binary file, not a text table. Save the table as CSV in UTF-8.")
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise InputError(f"{path.name} is empty. It has to hold a header line and one line for each row.")
    return lines


def _delimiter(path: Path) -> str:
    """Tab for .tsv; else the delimiter that cuts all of the first lines into equally many fields, most of them."""
    lines = _head(path)
    if ".tsv" in (suffix.lower() for suffix in path.suffixes):
        return "\t"
    best, most = ",", 1
    for delimiter in _DELIMITERS:
        widths = [len(fields) for fields in csv.reader(lines, delimiter=delimiter)]
        body = set(widths[1:]) or {widths[0]}
        even = len(body) == 1 and widths[0] in (max(body), max(body) - 1)
        if even and max(body) > most:
            best, most = delimiter, max(body)
    return best


def _checked_lines(path: Path, delimiter: str) -> tuple[list[str], int, int]:
    """The fields of the header, the number of columns and the line of the header, after a check that every line has as many."""
    head: list[str] | None = None
    width, header_line = None, 1
    try:
        with _opened(path) as handle:
            reader = csv.reader(handle, delimiter=delimiter)
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
        f"{_NAMED[delimiter]}). Every line needs as many fields as the header; the file may be cut off or be no table."
    )


def _decimal_comma(path: Path, delimiter: str) -> bool:
    """Whether numbers are written 1,5 as some spreadsheets do in files cut at semicolons."""
    return delimiter == ";" and any(re.search(r'(^|;)"?-?\d*,\d+"?(;|\s*$)', line) for line in _head(path)[1:])


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _is_numbering(head: Sequence[str]) -> bool:
    """Whether a header only numbers the columns, from 0 or from 1."""
    return list(head) in ([str(j + start) for j in range(len(head))] for start in (0, 1))
