"""Which way a table of counts lies: rows that are columns in the file, and totals among the counts.

Start at `turned`, which lays it the other way round; `turned_hint` and `doubtful_rows` recognise one that should be,
`totals_among` finds the sums that spreadsheets put at the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data.held import as_held, is_held_sparse, is_on_disk
from poplin.data.tables import CountTable, Names, listed

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
