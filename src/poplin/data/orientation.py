"""Which way a table of counts lies: rows that are columns in the file, and totals among the counts.

Start at `turned`, which lays it the other way round; `turned_hint` recognises one that should be, `totals_among` finds
the sums that spreadsheets put at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data.held import as_held, is_held_sparse, is_on_disk
from poplin.data.tables import CountTable, Names, listed

FEWEST = 3  # rows and columns of a table in which an entry that is the sum of the others is no accident


def turned(table: CountTable) -> CountTable:
    """The table with its rows as columns. What travelled with its rows, covariates and an offset, is left behind."""
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
    return CountTable(values, table.column_names, table.row_names, None, (*table.notes, *left))


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


def totals_among(y: Any, rows: Names, columns: Names) -> list[str]:
    """One sentence each on rows and columns that are the sum of all others, in a dense table."""
    if is_held_sparse(y) or min(y.shape) < FEWEST:
        return []
    told = []
    for axis, names, what in ((1, columns, "column"), (0, rows, "row")):
        sums = np.nansum(y, axis=axis, keepdims=True)
        same = (2 * y == sums).all(axis=1 - axis) & (sums.sum() > 0)
        found = [names[i] for i in np.flatnonzero(same)]
        if found:
            told.append(
                f"The {what} {listed(found)} is the sum of all other {what}s: a total, and no count of its own. Leave "
                "it out of Y."
            )
    return told
