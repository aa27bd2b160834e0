"""Tables of real numbers: the door for models of measurements, pixels or counts that need no covariates.

Start at `as_values`; `as_new_values` takes later rows for a fitted model. Types and names are read as for counts
(`data/tables.py`), but a value may be any finite number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.checks import check_finite, check_names
from poplin.data.coding import Coding, columns_like
from poplin.data.held import check_dense, dense_rows, is_on_disk
from poplin.data.readers import read_counts
from poplin.data.tables import (
    CountTable,
    Names,
    as_table,
    column_defaults,
    index_names,
    is_instance,
    is_path,
    listed,
    row_defaults,
)

FILL = "Fill it in, or leave the row or the column out."


class Values(NamedTuple):
    """A checked table: y (n, p) finite float64, names, the DataFrame that travelled with it or None, notes.

    `named_rows` is whether the rows brought names of their own.
    """

    y: np.ndarray
    row_names: Names
    column_names: Names
    covariates: Any
    named_rows: bool
    notes: Names


def as_values(Y: Any, *, layer: str | None = None) -> Values:
    """Check a table of numbers: array, list of lists, DataFrame, scipy.sparse, AnnData (a `layer` of it) or a path.

    Raises `InputError` for entries that are missing, infinite or no number, and for fewer than two rows.
    """
    values = _checked(_table(Y, layer))
    if len(values.y) < 2:
        raise InputError("Y has one row; a fit needs at least two. Add rows.")
    return values


def as_new_values(columns: Names, Y: Any, *, layer: str | None = None) -> Values:
    """Rows for a model fitted on `columns`: matched by name where both have names, so their order is free."""
    table, _ = columns_like(Coding(columns, ()), _table(Y, layer), False)
    return _checked(table)


def _table(Y: Any, layer: str | None) -> CountTable:
    if is_path(Y):
        return read_counts(Y)
    if layer is None or not is_instance(Y, "anndata", "AnnData"):
        return as_table(Y)
    if layer not in Y.layers:
        raise InputError(
            f"The AnnData object has no layer '{layer}'; it has {listed(Y.layers) or 'none'}. Name one of these."
        )
    names = index_names(Y.obs_names), index_names(Y.var_names)
    return as_table(CountTable(Y.layers[layer], *names, Y.obs))


def _checked(table: CountTable) -> Values:
    n, p = table.values.shape
    if is_on_disk(table.values) and not table.values.sparse:  # as it would be in memory: all of it
        table = table._replace(values=dense_rows(table.values, slice(None)))
    check_dense(table.values, "This model")
    if n == 0 or p == 0:
        raise InputError(f"Y has {n} rows and {p} columns. Give at least one of each.")
    rows, columns = table.row_names or row_defaults(n), table.column_names or column_defaults(p)
    check_names(columns, "column", "rename or add up the columns that share one")
    y = check_finite(table.values, "A value of Y", rows, columns, FILL)
    return Values(y, rows, columns, table.covariates, table.row_names is not None, tuple(table.notes))
