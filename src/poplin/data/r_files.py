"""R's files (.rds, .rda, .RData): data frames, matrices, sparse matrices of the package Matrix.

Start at `read_r`. The library rdata parses the bytes, in Python, so that a damaged file can end in an error only; what
a table of R is, is said here: names that occur twice stay two columns, factors keep their levels, days are written as
text, as they are in a text table.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data.located import loaded
from poplin.data.tables import CountTable, index_names, listed

_LARGEST = 1 << 31  # bytes of an R file, unpacked
_LONGEST = 10_000_000  # of a sequence that a file declares without holding it
_OPEN: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_SPARSE = {"dgCMatrix": "csc", "dgRMatrix": "csr", "dgTMatrix": "coo"}
_WRITE = "Write the table from R: write.csv(as.matrix(x), 'counts.csv')."


def read_r(file: Path, part: str | None) -> Any:
    """The one table in an R file, or the `part` named: a DataFrame of a data frame, a `CountTable` of a matrix.

    Raises `InputError` where there are several and none is named, or what is there is no table.
    """
    try:
        import rdata  # noqa: F401
    except ImportError:
        raise InputError(
            f"To read {file.name}, the library rdata is wanted: pip install rdata (it is in the extra "
            "poplin[formats]). Or write the table from R: write.csv(x, 'counts.csv')."
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that rdata does not know
        return loaded(file, lambda: _read(file, part))


def _read(file: Path, part: str | None) -> Any:
    from rdata import parser

    sequences = {
        name: _bounded(make) if b"compact" in name else make
        for name, make in parser.DEFAULT_ALTREP_MAP.items()
    }
    parsed = parser.parse_data(_unpacked(file), altrep_constructor_dict=sequences, extension=".rds")
    thing, encoding = parsed.object, parsed.extra.encoding
    if thing.info.type is parser.RObjectType.LIST:  # of names and what was saved under them
        return _one(_pairs(thing, encoding), part, file, encoding)
    tags = _attributes(thing, encoding)
    if thing.info.type is parser.RObjectType.VEC and "class" not in tags and "names" in tags:  # a list of R
        names = (name or "" for name in _strings(tags["names"], encoding))
        named = dict(zip(names, thing.value, strict=True))
        return _one(named, part, file, encoding)
    if part is not None:
        raise InputError(f"{file.name} holds one object without a name; leave ':{part}' out.")
    return _table(thing, file.name, encoding)


def _one(things: dict[str, Any], part: str | None, file: Path, encoding: str | None) -> Any:
    """The table of that name, or the only one."""
    if part is not None and part not in things:
        raise InputError(f"{file.name} has no object '{part}'; it has {listed(things, 12)}.")
    if part is None and len(things) != 1:
        raise InputError(
            f"{file.name} holds the objects {listed(things, 12) or 'none'}. Name the one to read after a colon: "
            f"'{file.name}:{next(iter(things), 'x')}'."
        )
    name = part or next(iter(things))
    return _table(things[name], f"'{name}' in {file.name}", encoding)


def _unpacked(file: Path) -> bytes:
    with file.open("rb") as stream:
        head = stream.read(6)
    opening = next(
        (make for magic, make in _OPEN.items() if head.startswith(magic)), lambda path: path.open("rb")
    )
    with opening(file) as stream:
        found = stream.read(_LARGEST + 1)
    if len(found) > _LARGEST:
        raise InputError(f"{file.name} unpacks to more than {_LARGEST >> 30} GiB. {_WRITE}")
    return found


def _bounded(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A sequence that R writes as its length and its ends, if it is no longer than any table."""

    def made(state: Any) -> Any:
        if not 0 <= state.value[0] <= _LONGEST:
            raise ValueError(f"a sequence of {state.value[0]:g} numbers is declared")
        return make(state)

    return made


def _pairs(chain: Any, encoding: str | None) -> dict[str, Any]:
    """The names and values of R's linked list."""
    found = {}
    while chain is not None and isinstance(chain.value, tuple):
        value, chain_next = chain.value
        tag = (
            chain.tag
            if chain.tag is None or chain.tag.referenced_object is None
            else chain.tag.referenced_object
        )
        if tag is not None:
            found[_text(tag.value, encoding) or ""] = value
        chain = chain_next
    return found


def _attributes(thing: Any, encoding: str | None) -> dict[str, Any]:
    return {} if thing.attributes is None else _pairs(thing.attributes, encoding)


def _text(char: Any, encoding: str | None) -> str | None:
    """One string of R; None is NA."""
    if char.value is None:
        return None
    latin = char.info.gp & 4  # R's mark of latin1
    return char.value.decode("latin-1" if latin else encoding or "utf-8" if not char.info.gp & 8 else "utf-8")


def _strings(thing: Any, encoding: str | None) -> list[str | None]:
    return [_text(char, encoding) for char in thing.value]


def _table(thing: Any, what: str, encoding: str | None) -> Any:
    """A data frame or a matrix."""
    tags = _attributes(thing, encoding)
    kinds = [kind or "" for kind in _strings(tags["class"], encoding)] if "class" in tags else []
    if "data.frame" in kinds:
        return _frame(thing, tags, what, encoding)
    sparse = next((kind for kind in kinds if kind in _SPARSE), None)
    if sparse is not None:
        return _named(_sparse(tags, _SPARSE[sparse]), tags.get("Dimnames"), what, encoding)
    if "dim" in tags and len(tags["dim"].value) == 2:
        shape = tuple(int(size) for size in tags["dim"].value)
        values = np.reshape(np.array(_cells(thing, encoding)), shape, order="F")
        table = _named(values, tags.get("dimnames"), what, encoding)
        if "taxa_are_rows" in tags and tags["taxa_are_rows"].value[0]:  # the otu_table of phyloseq
            note = f"{what} has taxa in rows, as it says; it was turned so that samples are rows."
            return CountTable(values.T, table.column_names, table.row_names, None, (note,), turned=True)
        return table
    raise InputError(
        f"{what} is no data frame and no matrix{f', but a {kinds[0]}' if kinds else ''}. {_WRITE}"
    )


def _named(values: Any, names: Any, what: str, encoding: str | None) -> CountTable:
    """A matrix with its dimnames, each of which may be none."""
    sides: list[Any] = [None, None]
    for side, held in enumerate(() if names is None or not names.value else names.value[:2]):
        if held.value is not None and len(held.value) != values.shape[side]:
            raise InputError(
                f"{what} is damaged: a matrix of {values.shape[0]} x {values.shape[1]} with {len(held.value)} names on "
                "a side. Write it again."
            )
        sides[side] = None if held.value is None else index_names(_strings(held, encoding))
    return CountTable(values, *sides)


def _sparse(tags: dict[str, Any], layout: str) -> Any:
    """A sparse matrix of the package Matrix, by its slots."""
    from scipy import sparse

    shape = tuple(int(size) for size in tags["Dim"].value)
    values = np.asarray(tags["x"].value)
    if layout == "coo":
        made: Any = sparse.coo_array((values, (tags["i"].value, tags["j"].value)), shape=shape)
    else:
        places = tags["i" if layout == "csc" else "j"].value
        made = getattr(sparse, f"{layout}_array")((values, places, tags["p"].value), shape=shape)
        made.check_format(full_check=True)
    return made.tocsr()


def _frame(thing: Any, tags: dict[str, Any], what: str, encoding: str | None) -> Any:
    import pandas

    names = _strings(tags["names"], encoding) if "names" in tags else []
    columns = [_cells(column, encoding) for column in thing.value]
    if len(names) != len(columns) or len({len(column) for column in columns}) > 1:
        raise InputError(f"{what} is damaged: the columns of its data frame are not alike. Write it again.")
    frame = (
        pandas.concat([pandas.Series(column) for column in columns], axis=1)
        if columns
        else pandas.DataFrame()
    )
    frame.columns = names
    texts = _row_names(tags.get("row.names"), encoding)
    if texts and len(texts) != len(frame):
        raise InputError(
            f"{what} is damaged: it has {len(frame)} rows and {len(texts)} names. Write it again."
        )
    if texts:
        frame.index = texts
    return frame


def _row_names(labels: Any, encoding: str | None) -> list[Any]:
    """The names of rows; none where R only numbers them, from 1, which it may write as NA and how many they are."""
    if labels is None or np.ma.is_masked(labels.value):
        return []
    held = labels.value
    texts = _strings(labels, encoding) if isinstance(held, list) else [f"{number:.15g}" for number in held]
    return [] if texts == [str(i + 1) for i in range(len(texts))] else texts


def _cells(thing: Any, encoding: str | None) -> Any:
    """A column: numbers, truth values, text; a factor with its levels; days as text."""
    import pandas

    tags = _attributes(thing, encoding)
    kinds = _strings(tags["class"], encoding) if "class" in tags else []
    if isinstance(thing.value, list):
        if any(not isinstance(char.value, bytes | None) for char in thing.value):
            raise ValueError("a column holds lists")
        return np.array(_strings(thing, encoding), dtype=object)
    value = thing.value
    if "factor" in kinds:
        levels = _strings(tags["levels"], encoding)
        codes = np.ma.filled(value, 0)
        if len(codes) and not 0 <= codes.min() <= codes.max() <= len(levels):
            raise ValueError("a factor holds numbers that are no levels")
        return pandas.Categorical.from_codes(codes - 1, levels, ordered="ordered" in kinds)
    if "Date" in kinds or "POSIXct" in kinds:
        unit = "D" if "Date" in kinds else "s"
        numbers = np.ma.filled(np.ma.asarray(value, float), np.nan)
        stamps = np.where(np.isfinite(numbers), numbers, 0).astype(f"datetime64[{unit}]")
        return _where(np.isfinite(numbers), np.datetime_as_string(stamps))
    if not isinstance(value, np.ndarray):
        raise ValueError("a column holds neither numbers nor text")
    if not np.ma.is_masked(value):
        return np.ma.getdata(value)
    there, data = ~np.ma.getmaskarray(value), np.ma.getdata(value)
    return _where(there, data) if value.dtype.kind == "b" else np.where(there, data, np.nan)


def _where(there: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values that are there, and None."""
    found = values.astype(object)
    found[~there] = None
    return found
