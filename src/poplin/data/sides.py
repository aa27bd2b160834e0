"""What goes beside the counts: rows matched by name, offsets and weights checked.

Start at `aligned`, the one place where rows are put into the order of the counts. `row_vector` and
`log_offset` take weights and offsets in the shapes in which users have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from poplin._errors import InputError
from poplin.data.checks import check_finite, check_log_scale, check_names
from poplin.data.framed import total_hint, turned_hint
from poplin.data.offsets import by_name, doubtful_values
from poplin.data.tables import (
    CountTable,
    Named,
    Names,
    as_named,
    column_defaults,
    index_names,
    is_frame,
    listed,
    row_defaults,
)

Rows = TypeVar("Rows")


def aligned(
    thing: Rows, what: str, rows: Names | None, n: int, notes: list[str], columns: Names | None = None
) -> Rows:
    """`thing` (a `Named` or a DataFrame) with its rows in the order of the counts' n rows.

    Rows are matched by name when both sides have names, else by order. Appends to `notes` what was done.
    Raises `InputError` when rows are lacking or the lengths differ; by the counts' `columns`, where they are given, it
    is told when Y lies the wrong way round.
    """
    frame = is_frame(thing)
    own = index_names(thing.index) if frame else thing.row_names  # type: ignore[attr-defined]
    length = len(thing) if frame else thing.values.shape[0]  # type: ignore[attr-defined, arg-type]
    if rows is None or own is None:
        if length != n:
            python, command = turned_hint(own, length, columns)
            said = f"{what} has {length} rows and Y has {n}."
            raise InputError(
                f"{said}{python or ' Give one row for each row of Y, in the same order.'}",
                at_command_line=f"{said}{command or ' Give one row for each row of Y, in the same order.'}",
            )
        if frame and (rows is None) != (own is None):
            bare = "Y" if rows is None else what
            notes.append(f"{what} was matched to Y by the order of the rows, as {bare} has no row names.")
        return thing
    if own == rows:
        return thing
    check_names(own, "row", f"rename or leave out rows of {what}")
    place = {name: i for i, name in enumerate(own)}
    lacking = [name for name in rows if name not in place]
    if lacking:
        python, command = turned_hint(own, length, columns)
        said = (
            f"{what} lacks {len(lacking)} of the {n} rows of Y: {listed(lacking)}; its own begin with "
            f"{listed(own, 3)}."
        )
        python, command = (text or total_hint(lacking) for text in (python, command))
        match = " Rows are matched by name: add them, leave them out of Y,"
        raise InputError(
            said + (python or f"{match} or reset the index to match by order."),
            at_command_line=said
            + (command or f"{match} or say which column of the files names them alike, --row-names COLUMN."),
        )
    order = [place[name] for name in rows]
    left = len(own) - n
    notes.append(
        f"{what} holds the rows of Y among others, {left} of which were left out; rows were matched by name."
        if left
        else f"The rows of {what} come in another order than those of Y; they were matched by name."
    )
    if frame:
        return thing.iloc[order]  # type: ignore[attr-defined]
    return thing._replace(values=thing.values[order], row_names=rows)  # type: ignore[attr-defined]


def joined(table: CountTable, frame: Any) -> tuple[CountTable, Any]:
    """The covariates of a table of their own with those that travelled with the counts, matched by row name.

    A column that both have is that of `frame`, which a note of the counts says.
    """
    own = table.covariates
    if own is None:
        return table, frame
    notes: list[str] = []
    n = table.values.shape[0]
    frame = aligned(frame, "The table of covariates", table.row_names, n, notes, table.column_names)
    both = [name for name in own.columns if name in frame.columns]
    if both:
        notes.append(
            f"{listed(both)} came with the counts and in the table of covariates; the latter is used."
        )
    more = {name: own[name].array for name in own.columns if name not in both}
    return table._replace(notes=(*table.notes, *notes)), frame.assign(**more)


def row_vector(
    given: Any, what: str, rows: Names | None, n: int, notes: list[str], columns: Names | None = None
) -> np.ndarray:
    """One number a row as an (n,) array; ones when nothing is given."""
    if given is None:
        return np.ones(n)
    named = as_named(given, what)
    if named.values.ndim == 2 and named.values.shape[1] == 1:
        named = named._replace(values=named.values[:, 0])
    if named.values.ndim != 1:
        raise InputError(
            f"{what} has the shape {named.values.shape}; wanted is ({n},), one number for each row of Y."
        )
    return aligned(named, what, rows, n, notes, columns).values


def log_offset(offset: Any, table: CountTable, notes: list[str]) -> np.ndarray:
    """The offset on the log scale, as a number, (n, 1) or (n, p); zero for None; a name ("tss", ...) computes it."""
    n, p = table.values.shape
    if offset is None:
        return np.zeros(())
    if isinstance(offset, str):
        return by_name(offset, table.values, table.row_names, table.column_names)[:, None]
    named = as_named(offset, "offset")
    if named.values.ndim == 1:
        named = named._replace(values=named.values[:, None])
    if named.values.ndim == 2:
        if named.values.shape[1] not in (1, p):
            raise InputError(_offset_shape(np.shape(offset), n, p))
        named = _offset_columns(
            aligned(named, "offset", table.row_names, n, notes, table.column_names), table
        )
    elif named.values.ndim != 0:
        raise InputError(_offset_shape(named.values.shape, n, p))
    rows, columns = table.row_names or row_defaults(n), table.column_names or column_defaults(p)
    mend = "Give it on the log scale, finite: a missing count is NaN in Y, leave its offset finite."
    values = named.values[:, 0] if named.values.shape == (n, 1) else named.values
    check_finite(values, "An offset", rows, columns, mend)
    check_log_scale(values, "An offset", rows, columns)
    return named.values


def doubtful_offset(offset: Any, table: CountTable) -> list[str]:
    """What is odd about an offset that was given as numbers: one sentence, or none."""
    looks = (
        "" if offset is None or isinstance(offset, str) else doubtful_values(log_offset(offset, table, []))
    )
    mend = "--offset 'log(reads)' or offset=np.log(reads), unless these are logarithms already."
    return [f"The offset {looks}. Offsets are on the log scale: take the logarithm, {mend}"] if looks else []


def _offset_columns(named: Named, table: CountTable) -> Named:
    """An (n, p) offset with column names in the order of the counts' columns."""
    names, wanted = named.column_names, table.column_names
    if named.values.shape[1] == 1 or names is None or wanted is None or names == wanted:
        return named
    lacking = sorted(set(wanted) - set(names))
    if lacking:
        raise InputError(
            f"offset lacks the columns {listed(lacking)} of Y. Give it the same column names, or none."
        )
    return named._replace(values=named.values[:, [names.index(name) for name in wanted]], column_names=wanted)


def _offset_shape(shape: tuple[int, ...], n: int, p: int) -> str:
    return (
        f"offset has the shape {shape}; wanted is one number, ({n},), ({n}, 1) or ({n}, {p}): on the log "
        "scale, one row for each row of Y."
    )


# Columns of the covariates that group the rows: donors, plates, sites, seen more than once each.
#
# Start at `groups_in` (what a table of covariates has) and at `grouping` (what a user names or gives). A grouping is
# a whole number a row; a row without a label has -1.


FEWEST_A_NUMBER = 3.0  # rows that share a number on average; with fewer, it measures rather than labels
FEWEST_CLUSTERS = 3  # from which the spread of their sums says anything
Codes = Mapping[str, np.ndarray]


class Grouping(NamedTuple):
    """A name, and the group of each row as the bytes of int32: two alike are equal and have one hash."""

    name: str
    packed: bytes

    def codes(self) -> np.ndarray:
        """The group of each row, from 0."""
        return np.frombuffer(self.packed, np.int32)

    def count(self) -> int:
        """How many groups there are."""
        return int(self.codes().max()) + 1


def groups_in(frame: Any) -> dict[str, np.ndarray]:
    """The groups of rows (n,) under every column of a DataFrame that has fewer labels than rows, and more than one.

    Text, categories, true or false count, and whole numbers that are shared by three rows on average; measurements
    do not, nor does a name that occurs twice.
    """
    names = [str(name) for name in frame.columns]
    found = {}
    for k, name in enumerate(names):
        if names.count(name) == 1:
            codes = _codes_of(frame.iloc[:, k])
            if codes is not None:
                found[name] = codes
    return found


def _codes_of(column: Any) -> np.ndarray | None:
    """The groups of a column of a DataFrame, None where it labels nothing."""
    labels = column.dtype.name in ("category", "bool", "boolean") or column.dtype.kind in "OUSb"
    if not labels and (column.dtype.kind not in "iuf" or not _is_whole(column)):
        return None
    try:
        codes, levels = column.factorize()
    except TypeError:  # lists, dictionaries
        return None
    known = int(np.sum(codes >= 0))
    if not 2 <= len(levels) < known or (not labels and known < FEWEST_A_NUMBER * len(levels)):
        return None
    return codes.astype(np.min_scalar_type(-len(levels)))


def _is_whole(column: Any) -> bool:
    values = column.to_numpy(dtype=float, na_value=np.nan)
    there = values[np.isfinite(values)]
    return bool(np.all(there == np.floor(there)))


def grouping(cluster: Any, known: Codes | None, rows: Names) -> Grouping:
    """The grouping that `cluster` names (a column of the covariates) or gives: one label a row, matched by name.

    Raises `InputError` where there is no such column, a label is missing, or groups are fewer than 3 or all of one row.
    """
    if isinstance(cluster, Grouping):
        return cluster
    if isinstance(cluster, str):
        if known is None or cluster not in known:
            has = f"they are {listed(known, 12)}" if known else "there are none"
            raise InputError(
                f"cluster={cluster!r}: no column of that name groups the rows of this fit; {has}. A column of `data` "
                f"(or "
                "obs) does where rows share its labels; labels can also be given themselves, one for each row."
            )
        name, codes = cluster, np.asarray(known[cluster])
    else:
        name, codes = _given(cluster, rows)
    _check(name, codes, rows)
    _, packed = np.unique(codes, return_inverse=True)
    return Grouping(name, packed.astype(np.int32).tobytes())


def _given(cluster: Any, rows: Names) -> tuple[str, np.ndarray]:
    """Name and groups of labels, one a row: of a Series or a DataFrame of one column matched by row names."""
    framed = cluster.to_frame() if hasattr(cluster, "to_frame") and hasattr(cluster, "index") else cluster
    if is_frame(framed):
        if framed.shape[1] != 1:
            raise InputError(f"cluster has {framed.shape[1]} columns; wanted is one label for each row.")
        column = aligned(framed, "cluster", rows, len(rows), []).iloc[:, 0]
        return str(framed.columns[0]), column.factorize()[0]
    labels = np.asarray(cluster)
    if labels.shape != (len(rows),):
        raise InputError(
            f"cluster has the shape {labels.shape}; wanted is one label for each of the {len(rows)} rows, or the "
            f"name of "
            "a column of `data`."
        )
    missing = (
        np.isin(labels.astype(str), ("None", "nan", "<NA>", "NaT")) if labels.dtype.kind in "Of" else False
    )
    _, codes = np.unique(labels.astype(str), return_inverse=True)
    return "cluster", np.where(missing, -1, codes)


def _check(name: str, codes: np.ndarray, rows: Names) -> None:
    lacking = [rows[i] for i in np.flatnonzero(codes < 0)]
    if lacking:
        raise InputError(
            f"cluster '{name}': the label is missing at the rows {listed(lacking)}. Fill it in, or give these rows "
            f"labels "
            "of their own if they belong to nobody else."
        )
    count = len(np.unique(codes))
    if count < FEWEST_CLUSTERS or count == len(codes):
        what = f"{count} groups" if count < len(codes) else "a group of its own for every row"
        raise InputError(
            f"cluster '{name}': there is {what} among {len(codes)} rows; wanted are at least {FEWEST_CLUSTERS} "
            f"groups of "
            "rows, and fewer than rows. (robust=True takes every row for itself.)"
        )
