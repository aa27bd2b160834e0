"""Tables in text: which delimiter, which header, which column names the rows.

Start at `layout`, which looks at the head; `read_body` hands the rest to one parser, Arrow's. `name_rows` holds the
rule for row names, which files of other kinds share. Lines that begin with # and stand before the header are comments.
Nothing is guessed in silence: a line with too few fields, a header of numbers, a first column that may be either names
or counts are errors that ask.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import importlib
import io
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, cast, final

from poplin._errors import InputError
from poplin.data.damage import CELLS, check_declared
from poplin.data.tables import Names, listed, more
from poplin.data.terms import written

_NAMED = {",": "comma", ";": "semicolon", "\t": "tab", " ": "space"}
_COMMENT = "#"
_DIRECTIVE = "#q2:types"  # a second header line in the metadata of QIIME 2
_HEAD_LINES = 50
_LONGEST = 1 << 26  # bytes that are parsed together; a line has to fit
# what is raised where a file cannot be unpacked, decoded or cut
DAMAGE = (csv.Error, UnicodeDecodeError, EOFError, OSError, zlib.error)


class Layout(NamedTuple):
    """How a text file is a table: what cuts it, column names (None: no header), columns, bytes before the data.

    `comments` are the lines before the header that belong to no table.
    """

    delimiter: str
    columns: Names | None
    width: int
    skipped: int
    decimal: str
    comments: Names = ()


def layout(path: Path, *, header: bool | None = True, delimiter: str | None = None) -> Layout:
    """The layout of a text table, from its first lines.

    The delimiter, where none is said, is a tab in .tsv and .tab, else the one of comma, semicolon and tab (in .txt: and
    space) that cuts the lines evenly. A header that is one field short, as R writes it, leaves the first column
    unnamed. `header` None: a first line of numbers is data. Raises `InputError` when the file is no text or no table.
    """
    lines = _head(path)
    delimiter = delimiter or _delimiter(path, lines)
    comments = _comments(lines, delimiter)
    head, width, marked, after = _first_records(path, delimiter, comments)
    numbers = all(_is_number(field) for field in head)
    if header is True and numbers and not _is_numbering(head):
        raise InputError(
            f"The first line of {path.name} holds only numbers, {listed(head)}: there seems to be no header. "
            "Put a line of column names first (text, if they are names)."
        )
    decimal = "," if _decimal_comma(lines[len(comments) :], delimiter) else "."
    if header is None and numbers:
        return Layout(delimiter, None, width, marked, decimal, comments)
    unnamed = [""] if len(head) == width - 1 else []
    columns = tuple(unnamed + [field.strip() for field in head])
    return Layout(delimiter, columns, width, after, decimal, comments)


def read_body(path: Path, how: Layout, *, as_spelled: int | None = None) -> Any:
    """What follows the header as an Arrow table, its columns numbered: numbers, truth values or text.

    `as_spelled` is a column that is wanted alone, as text in which nothing is missing. Raises `InputError` where a line
    has another number of fields than the first.
    """
    import pyarrow
    from pyarrow import csv as arrow

    names = [str(j) for j in range(how.width)]
    wanted = names if as_spelled is None else [str(as_spelled)]
    delimiter = "," if how.delimiter == " " else how.delimiter

    def parsed(types: dict[str, Any]) -> Any:
        options = arrow.ConvertOptions(
            include_columns=wanted,
            column_types=types,
            decimal_point=how.decimal,
            null_values=[*arrow.ConvertOptions().null_values, "<NA>", "None"],
            strings_can_be_null=as_spelled is None,
            true_values=["true", "True", "TRUE"],  # 1 and 0 are numbers
            false_values=["false", "False", "FALSE"],
        )
        with _body(path, how) as stream:
            return arrow.read_csv(
                stream,
                arrow.ReadOptions(use_threads=False, block_size=_LONGEST, column_names=names),
                arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                options,
            )

    try:
        found = parsed({} if as_spelled is None else {wanted[0]: pyarrow.string()})
        # a date is text here, as any other name of a level is
        dated = [field.name for field in found.schema if pyarrow.types.is_temporal(field.type)]
        dated += [] if as_spelled is not None else _hexadecimal(path, how, names, parsed)
        found = parsed(dict.fromkeys(dated, pyarrow.string())) if dated else found
        return found if as_spelled is not None else _without_plus(found)
    except pyarrow.ArrowInvalid as error:
        if str(error) == "Empty CSV file":
            return pyarrow.table({name: pyarrow.nulls(0) for name in wanted})
        _check_lines(path, how.delimiter, how.comments)
        raise InputError(f"{path.name} cannot be read as a table: {' '.join(str(error).split())}.") from error
    except DAMAGE as error:
        raise InputError(f"{path.name} cannot be read as a table: {error}.") from error


def _hexadecimal(
    path: Path, how: Layout, names: list[str], parsed: Callable[[dict[str, Any]], Any]
) -> list[str]:
    """The columns with a cell such as 0x1F, which Arrow takes for the number 31 and nobody else does."""
    import pyarrow

    compute: Any = importlib.import_module("pyarrow.compute")
    with _body(path, how) as stream:
        last, there = b"", False
        while not there and (block := stream.read(1 << 20)):
            there = b"0x" in (last + block).lower()
            last = block[-1:]
    if not there:
        return []
    spelled = parsed(dict.fromkeys(names, pyarrow.string()))
    return [
        field.name
        for field, column in zip(spelled.schema, spelled.columns, strict=True)
        if compute.any(compute.match_substring_regex(column, r"^\s*[+-]?0[xX]")).as_py()
    ]


def _without_plus(table: Any) -> Any:
    """The same table, numbers where a column is text only because some are written with a sign, as +0.5."""
    import pyarrow

    compute: Any = importlib.import_module("pyarrow.compute")  # its functions are made at run time
    for place, field in enumerate(table.schema):
        if pyarrow.types.is_string(field.type):
            plain = compute.replace_substring_regex(table.column(place), r"^\s*\+([\d.])", r"\1")
            try:
                table = table.set_column(place, field.name, plain.cast(pyarrow.float64()))
            except pyarrow.ArrowInvalid:  # it is text
                continue
    return table


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
    is headed by nothing, `id`, `*_id` or `#...`, or is not numeric (in a table of covariates: and without repeats).
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
    as_text = labels.dtype == object  # and so spelled already
    if spelled is not None and not as_text:
        labels = labels.astype(object)
        labels[:] = [text if text.strip() else None for text in spelled(place)]  # NA among numbers is a name
    if labels.isna().any():
        line = int(labels.isna().to_numpy().argmax()) + 1
        raise InputError(f"{source} has no row name in its data row {line}. Every row needs its own name.")
    kept = frame.iloc[:, [j for j in range(frame.shape[1]) if j != place]]
    kept.index = [str(label) for label in labels]
    return kept


def _first_names_rows(frame: Any, name: str, source: str, counts: bool) -> bool:
    column = frame.iloc[:, 0]
    lower = name.lower()
    if lower in ("", "id") or lower.endswith("_id") or lower.startswith(_COMMENT):
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
    return io.TextIOWrapper(unpacked(path), encoding="utf-8-sig", newline="")


def unpacked(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked when it ends in .gz; an `InputError` where they are far more than the file's."""
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    return cast(BinaryIO, io.BufferedReader(_Unpacked(path), 1 << 16))


@final
class _Unpacked(io.RawIOBase):
    """What a .gz file holds, until it is more than a table can be."""

    def __init__(self, path: Path) -> None:
        self._name, self._size, self._inside = path.name, path.stat().st_size, gzip.open(path)

    def readable(self) -> bool:
        """It is read."""
        return True

    def seekable(self) -> bool:
        """It can be read again from its start."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        many = self._inside.readinto(buffer)
        check_declared(self._name, "what is packed in it", self._inside.tell(), self._size, each=CELLS)
        return many

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in what is unpacked."""
        return self._inside.seek(offset, whence)

    def tell(self) -> int:
        """The place in what is unpacked."""
        return self._inside.tell()

    def close(self) -> None:
        """Close the file."""
        self._inside.close()
        super().close()


def _body(path: Path, how: Layout) -> BinaryIO:
    """The bytes after the header. What is cut at spaces, of which there may be several, is written with commas."""
    stream = unpacked(path)
    stream.seek(how.skipped)
    if how.delimiter != " ":
        return stream
    with io.TextIOWrapper(stream, encoding="utf-8", newline="") as handle:
        evenly = io.StringIO(newline="")
        csv.writer(evenly).writerows(_fields(handle, " "))
    return io.BytesIO(evenly.getvalue().encode())


def _head(path: Path) -> list[str]:
    """The first lines, after a check that the file is text."""
    try:
        with opened(path) as handle:
            lines = [line for _, line in zip(range(_HEAD_LINES), handle, strict=False)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is no text in UTF-8. Save the table as CSV in UTF-8.") from error
    except DAMAGE as error:
        raise InputError(
            f"{path.name} is named .gz but cannot be unpacked: {error}. Compress it again."
        ) from error
    if any("\0" in line for line in lines):
        raise InputError(f"{path.name} is a binary file, not a text table. Save the table as CSV in UTF-8.")
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise InputError(f"{path.name} is empty. It has to hold a header line and one line for each row.")
    return lines


def _delimiter(path: Path, lines: list[str]) -> str:
    """Tab for .tsv and .tab; else what cuts all of the first lines into equally many fields, and into most of them."""
    if {".tsv", ".tab"} & {suffix.lower() for suffix in path.suffixes}:
        return "\t"
    lines = lines[len(_hashed(lines)) :] or lines
    best, most = ",", 1
    spaces = ".txt" in (suffix.lower() for suffix in path.suffixes)  # as R writes a table by default
    for delimiter in _NAMED if spaces else ",;\t":
        widths = _widths(lines, delimiter)
        body = set(widths[1:] or widths)
        even = len(body) == 1 and widths[0] in (max(body), max(body) - 1)
        if even and max(body) > most:
            best, most = delimiter, max(body)
    return best


def _hashed(lines: list[str]) -> list[str]:
    """The lines at the head that begin with #."""
    return list(takewhile(lambda line: line.startswith(_COMMENT), lines))


def _comments(lines: list[str], delimiter: str) -> Names:
    """The first of the lines that are comments: those that begin with #, without the last if it is the header."""
    hashed = _hashed(lines)
    rest = lines[len(hashed) :]
    if not hashed or not rest:
        return ()
    return tuple(hashed[:-1] if _is_header(hashed[-1], rest, delimiter) else hashed)


def _is_header(line: str, rest: list[str], delimiter: str) -> bool:
    """Whether a line such as "#OTU ID, S1, S2" is the header of the lines that follow it.

    It has as many fields as they have, or one less. So may a comment ("# of 2021, by us"), whose header follows: names
    over numbers.
    """
    many = _widths([line, rest[0]], delimiter)
    if len(many) < 2 or many[0] not in (many[1], many[1] - 1):
        return False
    over = [any(map(_is_number, next(iter(_fields([row], delimiter)), []))) for row in rest[:2]]
    return not line.startswith(f"{_COMMENT} ") or over != [False, True]


def _skip_comments(handle: Iterator[str], comments: Names) -> list[str]:
    """Take the comments from the head of a file, with empty lines before and between them."""
    taken, left = [], len(comments)
    while left:
        taken.append(next(handle))
        left -= taken[-1].startswith(_COMMENT)
    return taken


def _widths(lines: list[str], delimiter: str) -> list[int]:
    """How many fields each record has; nothing where a quoted field goes on after its closing quote."""
    widths = []
    try:
        widths.extend(len(fields) for fields in _fields(lines, delimiter, strict=True))
    except csv.Error as error:
        if "unexpected end of data" not in str(error):  # as the first lines may end within quotes
            return []
    return widths


def _fields(lines: Iterable[str], delimiter: str, *, strict: bool = False) -> Any:
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter == " ", strict=strict)


def _first_records(path: Path, delimiter: str, comments: Names) -> tuple[list[str], int, int, int]:
    """The header, the number of columns, and the bytes before the header (without comments) and after it."""
    with unpacked(path) as stream:
        marked = len(codecs.BOM_UTF8) if stream.read(3) == codecs.BOM_UTF8 else 0
    taken: list[str] = []  # the lines of which a record consists: a quoted field may hold line breaks

    def noted(lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    try:
        with opened(path) as handle:
            marked += len("".join(_skip_comments(handle, comments)).encode())
            records = (fields for fields in _fields(noted(handle), delimiter) if fields)
            head = next(records)  # an empty file was refused by _head
            after = marked + len("".join(taken).encode())
            first = next(records, head)
            if first[0].startswith(_DIRECTIVE):
                after = marked + len("".join(taken).encode())
                first = next(records, head)
            width = len(first)
    except DAMAGE as error:
        raise InputError(f"{path.name} cannot be read as a table: {error}.") from error
    if width not in (len(head), len(head) + 1):
        _check_lines(path, delimiter, comments)
    return head, width, marked, after


def _check_lines(path: Path, delimiter: str, comments: Names) -> None:
    """Raises `InputError` that names the first line with another number of fields than are wanted."""
    width = None
    try:
        with opened(path) as handle:
            before = len(_skip_comments(handle, comments))
            reader = _fields(handle, delimiter)
            head = next(fields for fields in reader if fields)
            for fields in reader:
                if not fields:
                    continue
                wanted = (len(head), len(head) + 1) if width is None else (width,)
                if len(fields) not in wanted:
                    raise InputError(
                        _uneven(path, before + reader.line_num, len(fields), wanted[0], delimiter)
                    )
                width = len(fields)
    except DAMAGE as error:
        raise InputError(f"{path.name} cannot be read as a table: {error}.") from error


def _uneven(path: Path, line: int, found: int, wanted: int, delimiter: str) -> str:
    return (
        f"{path.name} is no table: line {line} has {found} fields where {wanted} are wanted (cut at each "
        f"{_NAMED[delimiter]}). Every line needs as many fields as the header; the file may be cut off or "
        "be no table."
    )


def _decimal_comma(lines: list[str], delimiter: str) -> bool:
    """Whether numbers are written 1,5 as some spreadsheets do in files cut at semicolons."""
    return delimiter == ";" and any(re.search(r'(^|;)"?-?\d*,\d+"?(;|\s*$)', line) for line in lines[1:])


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _is_numbering(head: Sequence[str]) -> bool:
    """Whether a header only numbers the columns, from 0 or from 1."""
    return list(head) in ([str(j + start) for j in range(len(head))] for start in (0, 1))


# Text that was meant as something else: numbers with a stray word among them, dates, names of rows.
#
# Start at `check_names_groups`, which a column of text passes before it becomes a factor. What is let through but
# looks odd (levels that differ by a space, NA as a level) is told by `remarks`.


# Words that are a gap to some programs and a name to others: in a column of text, they are names.
GAP_WORDS = ("NA", "N/A", "n/a", "None", "NULL", "null")
_SHOWN = 3  # cells told by name
_NUMBER = r"[-+−]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
# A number to a reader, and not to a program; a unit only after a fraction, as 10% may well name a group.
_NEARLY = re.compile(
    rf"[<>≤≥~≈]=?\s*{_NUMBER}|[-+−]?\d+,\d+|[-+−]?\d{{1,3}}([.,' \u00a0\u202f]\d{{3}})+([.,]\d+)?|−{_NUMBER}|"
    r"[-+−]?\d*[.,]\d+\s*[%°µa-zA-Z/]{1,6}"
)
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    rf"(\d{{4}}([-/.])\d{{1,2}}\2\d{{1,2}}|\d{{1,2}}([-/.])\d{{1,2}}\3(\d{{4}}|\d{{2}})|"
    rf"\d{{1,2}}\.?[- ]?{_MONTH}[- ,]*\d{{2,4}}|{_MONTH}[- ]\d{{1,2}},? \d{{4}})([T ]+\d{{1,2}}:\d{{2}}.*)?",
    re.IGNORECASE,
)


def is_number(text: str) -> bool:
    """Whether a program reads this text as a finite number."""
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def check_names_groups(column: Any, name: str, rows: Names, *, plain: bool) -> None:
    """Raise `InputError` unless the cells of a column of text name groups of rows.

    `plain`: the formula uses the column itself, not only C(column), which says that its cells are names whatever they
    look like. Where at least half of its different cells read as numbers, or as dates, the others are typing errors.
    """
    texts = [str(cell).strip() for cell in column]
    different = dict.fromkeys(texts)
    if plain and not _is_declared(column, different):
        _check_no_numbers(texts, different, name, rows)
    if len(different) == len(texts) > 1:
        raise InputError(
            f"The covariate '{name}' is text that differs in each of the {len(texts)} rows ({listed(texts, _SHOWN)}): "
            "as a factor it would have as many levels as there are rows, which tells nothing. Leave it out, or give a "
            "column that names groups of rows."
        )


def _is_declared(column: Any, different: dict[str, None]) -> bool:
    """Whether somebody said that these are groups. AnnData makes categories of any text: of that, whole numbers are."""
    if column.dtype.name != "category":
        return False
    text = any(isinstance(level, str) for level in column.cat.categories)
    return not text or all(re.fullmatch(r"\d+", level) for level in different)


def _check_no_numbers(texts: list[str], different: dict[str, None], name: str, rows: Names) -> None:
    factor = f"If its cells are names of groups all the same, write C({written(name)})."
    half = len(different) / 2
    numbers = [text for text in different if is_number(text)]
    if len(numbers) == len(different):
        said = f"The covariate '{name}' holds numbers as text, {_cells(texts, rows, is_number)}."
        raise InputError(
            f"{said} Turn them into numbers, as pandas.to_numeric does. {factor}",
            at_command_line=f"{said} Write them as numbers where the file was made. {factor}",
        )
    if sum(is_number(text) or bool(_NEARLY.fullmatch(text)) for text in different) >= half:
        odd = _cells(texts, rows, lambda text: not is_number(text))
        comma = any(re.fullmatch(r"[-+−]?\d+,\d+", text) for text in different)
        spelled = " (with a decimal point, not a comma)" if comma else ""
        raise InputError(
            f"The covariate '{name}' reads as text, not as numbers, because of {odd}. Write a number there{spelled}, "
            f"or leave these rows or the covariate out. {factor}"
        )
    if sum(bool(_DATE.fullmatch(text)) for text in different) >= half:
        raise InputError(
            f"The covariate '{name}' holds dates, {_cells(texts, rows, _DATE.fullmatch)}. Turn them into a "
            f"number in the table, for example days since the first, or into the season or the year. {factor}"
        )


def _cells(texts: Sequence[str], rows: Names, chosen: Callable[[str], Any]) -> str:
    """The first few values that are chosen, by row, and how many more there are."""
    places: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        if chosen(text):
            places.setdefault(text, []).append(i)
    told = [f"'{text}' at row '{rows[held[0]]}'{more(len(held))}" for text, held in places.items()]
    return ", ".join(told[:_SHOWN]) + (
        f" and {len(told) - _SHOWN} other values" if len(told) > _SHOWN else ""
    )


def remarks(levels: Mapping[str, Sequence[Any] | None]) -> Names:
    """What is odd about the levels of each column, one sentence each: words for gaps, levels that look alike."""
    told = []
    for name, found in levels.items():
        texts = [level for level in found or () if isinstance(level, str)]
        gaps = [text for text in texts if text in GAP_WORDS]
        if gaps:
            told.append(
                f"In the covariate '{name}', {listed(gaps)} is taken as the name of a level. Where it stands for a "
                "gap, leave the cell empty."
            )
        alike: dict[str, list[str]] = {}
        for text in texts:
            alike.setdefault(" ".join(text.split()).casefold(), []).append(text)
        for same in alike.values():
            if len(same) > 1:
                told.append(
                    f"The covariate '{name}' has levels that differ only by spaces or capitals, {listed(same)}: if "
                    "they are one, spell them alike."
                )
    return tuple(told)


# Words in a text file that are a gap to some programs and a name to others: NA, None, null.
#
# Start at `with_words_as_names`. In a column of numbers they are gaps. In a column of text they name a level, unless
# the column's other cells stand in quotes and they do not, as R writes what is missing.


_QUOTED = "\ue000"  # marks a cell that stood in quotes; of Unicode's private use, so no text has it


def with_words_as_names(frame: Any, lines: Iterable[str], delimiter: str, *, counts: bool) -> Any:
    """`frame`, which was read from `lines` with such words as gaps, after the words that are names are put back.

    A column that holds nothing else is one of text if they stand in quotes, but not in a table of `counts`.
    """
    unsure = [
        j
        for j in range(frame.shape[1])
        if frame.iloc[:, j].isna().any() and _may_be_text(frame.iloc[:, j].dropna(), nothing=not counts)
    ]
    if not unsure:
        return frame
    cells = _last_records(lines, delimiter, len(frame))
    for j in unsure:
        column = frame.iloc[:, j]
        gap = column.isna().to_numpy()
        spelled = [cell[j] for cell in cells]
        others = [cell for cell, none in zip(spelled, gap, strict=True) if not none]
        in_quotes = all(cell.startswith(_QUOTED) for cell in others)
        words = [cell.removeprefix(_QUOTED).strip() for cell in spelled]
        named = [
            word in GAP_WORDS and (not in_quotes or cell.startswith(_QUOTED))
            for word, cell in zip(words, spelled, strict=True)
        ]
        frame.isetitem(j, column.astype(object).mask(gap & named, words))
    return frame


def _may_be_text(there: Any, *, nothing: bool) -> bool:
    """Whether what is not missing is text; `nothing` says whether it may be if all is missing."""
    return all(isinstance(cell, str) for cell in there) and (nothing or len(there) > 0)


def _last_records(lines: Iterable[str], delimiter: str, rows: int) -> deque[list[str]]:
    """The last records of the file, as many as there are rows; what was in quotes is marked."""
    opening = re.compile(rf'(^|{re.escape(delimiter)})"(?!")')
    marked = (opening.sub(rf'\1"{_QUOTED}', line) for line in lines)
    records = csv.reader(marked, delimiter=delimiter, skipinitialspace=delimiter == " ")
    return deque((record for record in records if record), maxlen=rows)
