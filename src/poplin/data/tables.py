"""What came in, and which names it brought: arrays, lists, DataFrames, sparse matrices, AnnData, paths.

Start at `as_table` for counts and at `as_named` for everything that goes with them (X, offset, weights).
Nothing here imports pandas, scipy.sparse or anndata: an object can only be of one of their types when the
user has imported them, so `sys.modules` is asked. Names that are only a numbering count as no names.
"""

from __future__ import annotations

import copy
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.held import as_held, is_large, is_on_disk
from poplin.data.stored import from_file, is_instance

Names = tuple[str, ...]
MOST_EMPTY = 10_000_000  # rows or columns of a sparse table that has fewer entries than these


class CountTable(NamedTuple):
    """Counts as a file or an object held them, before any check of their values; `fit` takes it as Y.

    Attributes:
        values: (n, p), dense, `scipy.sparse` or in a file.
        row_names: None where there were none.
        column_names: None where there were none.
        covariates: a DataFrame with one row per row of `values`, or None.
        notes: what the reader noticed, one sentence each.
        offset: on the log scale, as `PLN.fit` takes it, or None.
        turned: whether the table had samples in columns and was transposed.
        heading: the name of the column of row names, or nothing.
    """

    values: Any
    row_names: Names | None = None
    column_names: Names | None = None
    covariates: Any = None
    notes: Names = ()
    offset: Any = None
    turned: bool = False
    heading: str = ""


class Named(NamedTuple):
    """An array of numbers with the names it brought (None where there were none)."""

    values: np.ndarray
    row_names: Names | None = None
    column_names: Names | None = None


def is_frame(thing: Any) -> bool:
    """Whether `thing` is a pandas DataFrame."""
    return is_instance(thing, "pandas", "DataFrame")


def as_pandas(thing: Any) -> Any:
    """A table of another library (polars, pyarrow) as a DataFrame; anything else as it is."""
    convert = getattr(thing, "to_pandas", None)
    return convert() if callable(convert) else thing


def is_sparse(thing: Any) -> bool:
    """Whether `thing` is a scipy.sparse matrix or array, of any format."""
    return is_instance(thing, "scipy.sparse", "spmatrix", "sparray")


def is_path(thing: Any) -> bool:
    """Whether `thing` is meant as the name of a file."""
    return isinstance(thing, str | os.PathLike)


def row_defaults(n: int) -> Names:
    """The names of rows that brought none: row1, row2, ..."""
    return tuple(f"row{i + 1}" for i in range(n))


def column_defaults(p: int, letter: str = "Y") -> Names:
    """The names of columns that brought none: Y1, Y2, ... (X1, X2, ... for covariates)."""
    return tuple(f"{letter}{j + 1}" for j in range(p))


def listed(names: Iterable[Any], shown: int = 5) -> str:
    """The first few names, quoted, and how many more there are.

    >>> listed(["a", "b", "c"], shown=2)
    "'a', 'b' and 1 more"
    """
    names = [str(name) for name in names]
    text = ", ".join(f"'{name}'" for name in names[:shown])
    return text if len(names) <= shown else f"{text} and {len(names) - shown} more"


def and_more(bad: np.ndarray) -> str:
    """How many bad entries there are beside the first, as the end of a phrase; nothing for one."""
    return more(int(np.count_nonzero(bad)))


def more(count: int) -> str:
    """How many of `count` there are beside the first, as the end of a phrase; nothing for one."""
    return f" (and {count - 1} more)" if count > 1 else ""


def index_names(index: Any) -> Names | None:
    """The names in a pandas Index or a sequence, or None when they only number the entries from 0."""
    names = tuple(_one_name(name) for name in index)
    return None if names == tuple(str(i) for i in range(len(names))) else names


def as_notes(report: Any) -> Names:
    """What a file has to tell, one sentence each, whatever it holds there."""
    return tuple(str(words) for words in np.ravel(report))


def _one_name(name: Any) -> str:
    if isinstance(name, tuple):
        return ":".join(str(part) for part in name)
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)


def as_table(Y: Any) -> CountTable:
    """The counts `Y`, whatever they came in, with their names and the covariates that travel with them.

    `Y` is (n, p): array, list of lists, DataFrame, scipy.sparse, AnnData or a `CountTable`. Values are returned
    dense, as float64, NaN where a count is missing; a large sparse table by rows, in a file as `Backed` (`held.py`).
    Raises `InputError` when `Y` is none of these, is not two-dimensional or holds something that is no number.
    """
    if isinstance(Y, CountTable):
        table = Y
    elif is_instance(Y, "anndata", "AnnData"):
        if Y.X is None:
            raise InputError(
                "The AnnData object has no X. Put the raw counts there: adata.X = adata.layers['counts']."
            )
        told = Y.uns.get("poplin_counts")  # what `poplin counts` left out, and why
        notes = as_notes(told.get("report", ()) if isinstance(told, Mapping) else ())
        names = index_names(Y.obs_names), index_names(Y.var_names)
        table = CountTable(Y.X, *names, Y.obs, notes)
    else:
        table = CountTable(Y)
    table = table._replace(values=from_file(table.values))
    for side, names in enumerate((table.row_names, table.column_names)):
        size = getattr(table.values, "shape", ())[side : side + 1]
        if names is not None and size and len(names) != size[0]:
            what = ("rows", "columns")[side]
            raise InputError(
                f"Y has {size[0]} {what}, and {len(names)} names of {what}. Give one name for each."
            )
    if is_on_disk(table.values):
        return table
    if is_sparse(table.values) and is_large(table.values):
        return table._replace(values=as_held(sparse_numbers(table.values, "Y")))
    named = as_named(table.values, "Y", table.row_names, table.column_names)
    if named.values.ndim != 2:
        raise InputError(
            f"Y has the shape {named.values.shape}; counts are a table with rows and columns. "
            "A single column is Y.reshape(-1, 1) or frame[['name']], a single row Y.reshape(1, -1)."
        )
    return table._replace(values=named.values, row_names=named.row_names, column_names=named.column_names)


def as_named(
    thing: Any, what: str, row_names: Names | None = None, column_names: Names | None = None
) -> Named:
    """`thing` as float64 numbers with the names it brought; `what` is what the message calls it.

    A DataFrame or Series (also of polars or pyarrow) brings its index and columns. Masked entries are NaN.
    Raises `InputError` for text, objects, dates and complex numbers, naming the first that is none.
    """
    thing = as_pandas(thing)
    if is_frame(thing):
        rows, columns = index_names(thing.index), index_names(thing.columns)
        return Named(_frame_numbers(thing, what), rows, columns)
    if is_instance(thing, "pandas", "Series"):
        frame = thing.to_frame(what if thing.name is None else thing.name)
        return Named(_frame_numbers(frame, what)[:, 0], index_names(thing.index), None)
    if is_sparse(thing):
        return Named(sparse_numbers(thing, what).toarray(), row_names, column_names)
    if isinstance(thing, np.ma.MaskedArray):
        thing = np.ma.filled(thing.astype(np.float64), np.nan)
    return Named(_array_numbers(thing, what, row_names, column_names), row_names, column_names)


def sparse_numbers(thing: Any, what: str) -> Any:
    """A sparse table in double precision, after a check that its entries lie inside: nothing that reads it checks that.

    Raises `InputError` for entries outside, for pointers that do not fit, and for what is no real number; also for a
    side of which nearly all is empty, as a damaged file may declare it, before memory is asked for it.
    """
    if thing.dtype.kind not in "biuf":
        raise InputError(f"{what} holds values of type {thing.dtype}; numbers are wanted.")
    longest = max(thing.shape)
    if longest > max(MOST_EMPTY, thing.nnz):
        raise InputError(
            f"{what} is {' x '.join(str(size) for size in thing.shape)} and holds {thing.nnz} entries: nearly all of "
            "its rows or columns are empty. Check the shape that the file declares, or leave out what is empty."
        )
    checked = copy.copy(thing)  # scipy trims what it checks
    try:
        if (
            np.diff(getattr(thing, "indptr", ())) < 0
        ).any():  # scipy does not see it where the last is 0, and writes there
            raise ValueError("indptr must be a non-decreasing sequence")
        if hasattr(checked, "check_format"):
            checked.check_format(full_check=True)
        elif hasattr(checked, "coords"):  # of these, scipy checks the entries where they are put together
            checked = type(thing)((thing.data, thing.coords), shape=thing.shape)
    except (ValueError, IndexError, TypeError) as error:
        raise InputError(
            f"{what} is a sparse table whose parts do not fit together: {error}. Some entries lie in no row or column; "
            "write the table again from where it came."
        ) from error
    return checked.astype(np.float64, copy=False)


def _frame_numbers(frame: Any, what: str) -> np.ndarray:
    """The numbers of a DataFrame, column by column, so that a message can name the column."""
    if all(isinstance(kind, np.dtype) and kind.kind in "biuf" for kind in frame.dtypes):
        return frame.to_numpy(dtype=np.float64)
    values = np.empty(frame.shape, dtype=np.float64)
    rows = index_names(frame.index) or row_defaults(frame.shape[0])
    for j, name in enumerate(frame.columns):
        column = frame.iloc[:, j]
        kind = getattr(column.dtype, "kind", "O")
        if kind in "biuf" and column.isna().any():
            values[:, j] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        elif kind in "biuf":
            values[:, j] = column.to_numpy(dtype=np.float64)
        else:
            entries = column.astype(object).where(column.notna(), None).to_numpy(dtype=object)
            values[:, j] = _array_numbers(entries.reshape(-1, 1), what, rows, (_one_name(name),))[:, 0]
    return values


def _array_numbers(
    thing: Any, what: str, rows: Sequence[str] | None, columns: Sequence[str] | None
) -> np.ndarray:
    try:
        array = np.asarray(thing)
    except ValueError as error:
        raise InputError(
            f"{what} is not a table: its rows have different lengths. Make them equally long."
        ) from error
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    if array.dtype.kind in "OUS":
        try:
            return _from_objects(array)
        except (TypeError, ValueError):
            raise _no_number(array, what, rows, columns) from None
    raise InputError(f"{what} holds values of type {array.dtype}; numbers are wanted.")


def _from_objects(array: np.ndarray) -> np.ndarray:
    objects = array.astype(object)
    return np.where(objects == None, np.nan, objects).astype(np.float64)  # noqa: E711  (element by element)


def _no_number(
    array: np.ndarray, what: str, rows: Sequence[str] | None, columns: Sequence[str] | None
) -> InputError:
    """The error for the first entry of `array` that is no number."""
    for index in np.ndindex(array.shape):
        try:
            _from_objects(np.asarray([array[index]], dtype=object))
        except (TypeError, ValueError):
            entry = array[index]
            said = f"{what} holds {reprlib.repr(_plain(entry))}{place(index, rows, columns)}, which is no number."
            if what not in ("Y", "X"):  # a basis, offsets, weights: nothing but numbers has a place there
                return InputError(f"{said} Every entry has to be a number; leave columns of text out.")
            name = "COLUMN" if columns is None else repr(columns[index[-1]])
            return InputError(
                f"{said} Row names go into the index, text covariates into a table with a formula; a missing entry is "
                "NaN.",
                at_command_line=f"{said} Of a column of row names, say --row-names {name}; text covariates go into a "
                "table of their own, --covariates; a missing entry is an empty cell.",
            )
    return InputError(f"{what} holds something that is no number, of type {array.dtype}.")


def _plain(entry: Any) -> Any:
    return entry.item() if isinstance(entry, np.generic) else entry


def place(index: Sequence[int], rows: Sequence[str] | None, columns: Sequence[str] | None) -> str:
    """Where an entry is, in words that go into a message: ` at row 'leaf3', column 'b_OTU_12'`."""
    parts = []
    if len(index) > 0:
        i = int(index[0])
        parts.append(f"row '{rows[i] if rows is not None else row_defaults(i + 1)[-1]}'")
    if len(index) > 1:
        j = int(index[1])
        parts.append(f"column '{columns[j] if columns is not None else column_defaults(j + 1)[-1]}'")
    return f" at {', '.join(parts)}" if parts else ""
