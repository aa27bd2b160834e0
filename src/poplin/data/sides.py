"""What goes beside the counts: rows matched by name, offsets and weights checked.

Start at `aligned`, the one place where rows are put into the order of the counts. `row_vector` and
`log_offset` take weights and offsets in the shapes in which users have them.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from poplin._errors import InputError
from poplin.data.checks import check_finite, check_log_scale, check_names
from poplin.data.exposures import doubtful_values
from poplin.data.offsets import by_name
from poplin.data.orientation import total_hint, turned_hint
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
