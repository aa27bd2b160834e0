"""`Counts`, the one carrier of a table with everything that goes with it, and the one door to it.

Start at `as_counts` (a table to fit). `as_new_rows` and `as_covariates` take later rows for a fitted model,
coded as `Coding` says the training rows were. Past this door, types and values are trusted.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import DataWarning, InputError
from poplin.data.checks import (
    check_basis,
    check_counts,
    check_covariance,
    check_covariates,
    check_finite,
    check_names,
    check_observed,
    check_rank,
    check_weights,
)
from poplin.data.formula import Design
from poplin.data.sides import aligned, as_frame, offset_matrix, row_vector
from poplin.data.tables import CountTable, Names, as_named, as_table, column_defaults, is_path, listed, row_defaults

__all__ = ["Coding", "Counts", "as_counts", "as_covariates", "as_new_rows", "check_basis", "check_covariance", "check_rank"]


class Counts(NamedTuple):
    """A checked table of counts y with covariates x, offsets, weights and names.

    y (n, p) whole numbers as float64, NaN where missing; x (n, d) as used; offset (n, p) on the log scale;
    weights (n,) >= 0; `design` codes new rows as these (None without a formula); `notes` say, one sentence
    each, what was noticed and kept.
    """

    y: np.ndarray
    x: np.ndarray
    offset: np.ndarray
    weights: np.ndarray
    row_names: Names
    column_names: Names
    covariate_names: Names
    design: Design | None
    notes: Names


class Coding(NamedTuple):
    """What new rows must look like: the names of a fitted model and the design that codes a table for it."""

    column_names: Names
    covariate_names: Names
    design: Design | None = None


def as_counts(
    Y: Any, *, X: Any = None, offset: Any = None, weights: Any = None, data: Any = None, formula: str | None = None
) -> Counts:
    """Check a table of counts and all that goes with it, once, and carry them together.

    Y (n, p): array, list of lists, DataFrame, scipy.sparse, AnnData or a path; NaN is a missing count. X (n, d):
    used as given; None is an intercept. `formula` is evaluated in `data` (or the covariates that travel with Y) and
    may hold offset(...) terms. offset, log scale: a number, (n,), (n, 1) or (n, p). weights (n,): 0 leaves a row out.
    Where two of them have row names, rows are matched by name.

    Raises `InputError` for whatever cannot be fitted, by row and column name. All-zero columns are kept
    with a `DataWarning`, all-zero rows with a note. Cost O(n p + n d^2).

    >>> as_counts([[1, 0], [2, 5], [0, 3]]).covariate_names
    ('Intercept',)
    """
    table = as_table(Y)
    notes = list(table.notes)
    y, rows, columns = _checked_table(table)
    weight = check_weights(row_vector(weights, "weights", table.row_names, y.shape[0], notes), rows)
    if y.shape[0] < 2:
        raise InputError("Y has one row; a covariance between columns needs at least two. Add rows.")
    check_observed(y, weight, columns)
    x, names, added, design = _covariates(table, rows, X, data, formula, notes)
    check_covariates(x, names, weight)
    offsets = _offsets(offset, table, added, notes)
    counts = Counts(y, x, offsets, weight, rows, columns, names, design, ())
    return counts._replace(notes=tuple(notes) + _noticed(counts))


def as_new_rows(
    like: Coding, Y: Any, *, X: Any = None, offset: Any = None, data: Any = None, weights: Any = None, partial: bool = False
) -> Counts:
    """Rows that a fitted model has not seen, checked against `like` and coded as its training rows were.

    Columns are matched by name, so their order is free; with `partial`, columns that Y lacks are missing counts.
    X or `data` must be given as it was in the fit. One row is enough, all-zero columns are fine.
    Raises `InputError` when columns or covariates do not fit the model's.
    """
    table = _columns_like(like, as_table(Y), partial)
    notes = list(table.notes)
    y, rows, columns = _checked_table(table)
    weight = check_weights(row_vector(weights, "weights", table.row_names, y.shape[0], notes), rows)
    x, added = _covariates_like(like, table, X, data, notes)
    offsets = _offsets(offset, table, added, notes)
    return Counts(y, x, offsets, weight, rows, columns, like.covariate_names, like.design, tuple(notes))


def as_covariates(
    like: Coding, n: int, *, X: Any = None, offset: Any = None, data: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Covariates x (n, d) and offset (n, p) of rows without counts, coded as the training rows of `like` were."""
    table = CountTable(np.empty((n, len(like.column_names))), None, like.column_names)
    x, added = _covariates_like(like, table, X, data, [])
    return x, _offsets(offset, table, added, [])


def _checked_table(table: CountTable) -> tuple[np.ndarray, Names, Names]:
    y: np.ndarray = table.values
    n, p = y.shape
    if n == 0 or p == 0:
        raise InputError(f"Y is empty: it has {n} rows and {p} columns. Give at least two rows and one column of counts.")
    rows = check_names(table.row_names or row_defaults(n), "row", "rename or add up the rows that share one")
    columns = check_names(table.column_names or column_defaults(p), "column", "rename or add up the columns that share one")
    return check_counts(y, rows, columns), rows, columns


def _covariates(
    table: CountTable, rows: Names, X: Any, data: Any, formula: str | None, notes: list[str]
) -> tuple[np.ndarray, Names, np.ndarray | None, Design | None]:
    """x, its names, the offset that the formula adds, and the design, for the rows of a new fit."""
    n = len(rows)
    if formula is not None and X is not None:
        raise InputError("Both X and a formula are given. Give one: X is used as it is, a formula is evaluated in `data`.")
    if formula is None and data is not None:
        raise InputError("`data` is given without a formula. Say which covariates to use, for example formula='~ tree'.")
    if formula is not None:
        from poplin.data.formula import design as make_design

        frame = aligned(as_frame(data, table.covariates), "data", table.row_names, n, notes)
        made, x, added = make_design(formula, frame, rows)
        return x, made.covariate_names, added, made
    if X is None:
        return np.ones((n, 1)), ("Intercept",), None, None
    named = _given_covariates(X, table, n, notes)
    names = named.column_names or column_defaults(named.values.shape[1], "X")
    return named.values, check_names(names, "covariate", "rename them"), None, None


def _covariates_like(
    like: Coding, table: CountTable, X: Any, data: Any, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """x and the offset that the formula adds, for rows of a fitted model."""
    n = table.values.shape[0]
    if like.design is not None:
        if X is not None:
            raise InputError(f"The model was fitted with the formula '{like.design.formula}': give `data`, not X.")
        from poplin.data.formula import apply

        frame = aligned(as_frame(data, table.covariates), "data", table.row_names, n, notes)
        return apply(like.design, frame, table.row_names or row_defaults(n))
    if data is not None:
        raise InputError("`data` is given but the model was fitted without a formula: give X as in the fit.")
    if X is None:
        if like.covariate_names != ("Intercept",):
            raise InputError(f"X is missing: the model was fitted with the covariates {listed(like.covariate_names)}.")
        return np.ones((n, 1)), None
    named = _given_covariates(X, table, n, notes)
    return _same_covariates(like, named), None


def _offsets(offset: Any, table: CountTable, added: np.ndarray | None, notes: list[str]) -> np.ndarray:
    """The sum of what is given, what travels with the counts and what the formula adds, (n, p)."""
    total = offset_matrix(offset, table, notes)
    if table.offset is not None:
        total = total + offset_matrix(table.offset, table, notes)
        notes.append("The log offset that came with the counts was used.")
    return total if added is None else total + added[:, None]


def _given_covariates(X: Any, table: CountTable, n: int, notes: list[str]) -> Any:
    if is_path(X):
        from poplin.data.readers import read_table

        X = read_table(X)
    named = as_named(X, "X")
    if named.values.ndim == 1:
        named = named._replace(values=named.values[:, None])
    if named.values.ndim != 2 or named.values.shape[1] == 0:
        raise InputError(f"X has the shape {named.values.shape}; wanted is (n, d), one row per row of Y and d >= 1.")
    named = aligned(named, "X", table.row_names, n, notes)
    rows = table.row_names or row_defaults(n)
    names = named.column_names or column_defaults(named.values.shape[1], "X")
    mend = "Fill it in, or leave the row or the covariate out."
    check_finite(named.values, "A covariate", rows, names, mend)
    return named


def _same_covariates(like: Coding, named: Any) -> np.ndarray:
    names, wanted = named.column_names, like.covariate_names
    if named.values.shape[1] != len(wanted):
        raise InputError(
            f"X has {named.values.shape[1]} covariates; the model was fitted with {len(wanted)}: {listed(wanted)}. "
            "Give the same."
        )
    if names is None or names == wanted or wanted == column_defaults(len(wanted), "X"):
        return named.values
    lacking = [name for name in wanted if name not in names]
    if lacking:
        raise InputError(f"X lacks the covariates {listed(lacking)} that the model was fitted with; it has {listed(names)}.")
    return named.values[:, [names.index(name) for name in wanted]]


def _columns_like(like: Coding, table: CountTable, partial: bool) -> CountTable:
    """`table` with the columns of `like`, in their order."""
    names, wanted = table.column_names, like.column_names
    p = table.values.shape[1]
    if names is None or wanted == column_defaults(len(wanted)):
        if p != len(wanted):
            raise InputError(f"Y has {p} columns; the model was fitted on {len(wanted)}: {listed(wanted)}. Give the same.")
        return table._replace(column_names=wanted)
    check_names(names, "column", "rename or add up the columns that share one")
    place = {name: j for j, name in enumerate(names)}
    lacking = [name for name in wanted if name not in place]
    if lacking and (not partial or len(lacking) == len(wanted)):
        raise InputError(f"Y lacks the columns {listed(lacking)} that the model was fitted on. Give the same columns.")
    known = set(wanted)
    extra = [name for name in names if name not in known]
    if extra:
        raise InputError(f"Y has the columns {listed(extra)} that the model was not fitted on. Leave them out.")
    values = np.full((table.values.shape[0], len(wanted)), np.nan)
    for j, name in enumerate(wanted):
        if name in place:
            values[:, j] = table.values[:, place[name]]
    return table._replace(values=values, column_names=wanted)


def _noticed(counts: Counts) -> Names:
    """What is kept but should be known, one sentence each; warns of columns without a single count."""
    y, used = counts.y, counts.weights > 0
    notes = []
    observed = ~np.isnan(y)
    unseen = [name for name, seen in zip(counts.row_names, observed.any(axis=1), strict=True) if not seen]
    zero_rows = (np.nansum(y, axis=1) == 0) & observed.any(axis=1)
    zero_columns = np.nansum(y[used], axis=0) == 0
    if not observed.all():
        notes.append(f"{int((~observed).sum())} of {y.size} counts are missing; they are left out of the likelihood.")
    if unseen:
        notes.append(f"Rows without any observed count, kept: {listed(unseen)}.")
    if zero_rows.any():
        names = [name for name, zero in zip(counts.row_names, zero_rows, strict=True) if zero]
        notes.append(f"Rows in which every count is 0, kept: {listed(names)}.")
    if not used.all():
        notes.append(f"{int((~used).sum())} rows have weight 0 and do not enter the fit.")
    if zero_columns.any():
        names = [name for name, zero in zip(counts.column_names, zero_columns, strict=True) if zero]
        notes.append(
            f"Columns in which every count is 0: {listed(names)}; kept finite by a weak prior: half a count spread over "
            "the column in proportion to exp(offset)."
        )
        warnings.warn(notes[-1], DataWarning, stacklevel=4)
    return tuple(notes)
