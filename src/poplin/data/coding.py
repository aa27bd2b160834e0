"""X as it was given, and new rows matched to the names and the design of a fitted model.

Start at `given_covariates` for a new fit, at `columns_like` and `covariates_like` for rows that come later.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.checks import check_exact, check_finite, check_names
from poplin.data.design import Design
from poplin.data.formula import apply, as_frame
from poplin.data.held import check_dense, in_columns
from poplin.data.readers import read_table
from poplin.data.sides import aligned
from poplin.data.tables import (
    CountTable,
    Named,
    Names,
    as_named,
    as_pandas,
    column_defaults,
    is_frame,
    is_path,
    listed,
    row_defaults,
)


class Coding(NamedTuple):
    """What new rows must look like: the names of a fitted model and the design that codes a table for it."""

    column_names: Names
    covariate_names: Names
    design: Design | None = None


def covariates_like(
    like: Coding, table: CountTable, X: Any, data: Any, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Covariates x and the offset that the formula adds, for rows of a fitted model."""
    n = table.values.shape[0]
    if like.design is not None:
        if X is not None:
            raise InputError(
                f"The model was fitted with the formula '{like.design.formula}': give `data`, not X."
            )
        frame = as_frame(data, table.covariates)
        frame = aligned(frame, "data", table.row_names, n, notes, table.column_names)
        return apply(like.design, frame, table.row_names or row_defaults(n))
    if data is not None:
        raise InputError("`data` is given but the model was fitted without a formula: give X as in the fit.")
    if X is None:
        if like.covariate_names != ("Intercept",):
            raise InputError(
                f"X is missing: the model was fitted with the covariates {listed(like.covariate_names)}."
            )
        return np.ones((n, 1)), None
    named = given_covariates(X, table, n, notes)
    return _same_covariates(like, named), None


def columns_like(
    like: Coding, table: CountTable, partial: bool
) -> tuple[CountTable, slice | np.ndarray | None]:
    """`table` with the columns of `like`, in their order, and where each of them stood before.

    The places are None when `partial` let the table lack some, which are then missing counts.
    """
    names, wanted = table.column_names, like.column_names
    p = table.values.shape[1]
    if names is None or wanted == column_defaults(len(wanted)):
        if p != len(wanted):
            raise InputError(
                f"Y has {p} columns; the model was fitted on {len(wanted)}: {listed(wanted)}. Give the same."
            )
        return table._replace(column_names=wanted), slice(None)
    check_names(names, "column", "rename or add up the columns that share one")
    place = {name: j for j, name in enumerate(names)}
    lacking = [name for name in wanted if name not in place]
    if lacking and (not partial or len(lacking) == len(wanted)):
        raise InputError(
            f"Y lacks the columns {listed(lacking)} that the model was fitted on. Give the same columns."
        )
    known = set(wanted)
    extra = [name for name in names if name not in known]
    if extra:
        raise InputError(
            f"Y has the columns {listed(extra)} that the model was not fitted on. Leave them out."
        )
    if lacking:
        check_dense(table.values, "A table that lacks columns of the model")
        values = np.full((table.values.shape[0], len(wanted)), np.nan)
        values[:, [wanted.index(name) for name in names]] = table.values
        return table._replace(values=values, column_names=wanted), None
    order = slice(None) if names == wanted else np.array([place[name] for name in wanted])
    return table._replace(values=in_columns(table.values, order), column_names=wanted), order


def given_covariates(X: Any, table: CountTable, n: int, notes: list[str]) -> Named:
    """X as given (an array, a DataFrame, a path), finite and with its rows in the order of the counts."""
    if is_path(X):
        X = read_table(X)
    X = as_pandas(X)
    named = as_named(X, "X")
    own = named.row_names
    if named.values.ndim == 1:
        named = named._replace(values=named.values[:, None])
    if named.values.ndim != 2 or named.values.shape[1] == 0:
        raise InputError(
            f"X has the shape {named.values.shape}; wanted is (n, d), one row per row of Y and d >= 1."
        )
    named = aligned(named, "X", table.row_names, n, notes, table.column_names)
    rows = table.row_names or row_defaults(n)
    names = named.column_names or column_defaults(named.values.shape[1], "X")
    mend = "Fill it in, or leave the row or the covariate out."
    check_finite(named.values, "A covariate", rows, names, mend)
    for j, column in enumerate(_as_given(X)):
        check_exact(column, names[j], own or rows)
    return named


def _as_given(X: Any) -> list[np.ndarray]:
    """The columns of X in the type they came in, if they may be whole numbers."""
    if is_frame(X):
        return [X.iloc[:, j].to_numpy() for j in range(X.shape[1])]
    values = np.asarray(X)
    return list(values.reshape(len(values), -1).T) if values.dtype.kind in "iu" else []


def _same_covariates(like: Coding, named: Any) -> np.ndarray:
    names, wanted = named.column_names, like.covariate_names
    if named.values.shape[1] != len(wanted):
        raise InputError(
            f"X has {named.values.shape[1]} covariates; the model was fitted with {len(wanted)}: "
            f"{listed(wanted)}. Give the same."
        )
    if names is None or names == wanted or wanted == column_defaults(len(wanted), "X"):
        return named.values
    lacking = [name for name in wanted if name not in names]
    if lacking:
        raise InputError(
            f"X lacks the covariates {listed(lacking)} that the model was fitted with; it has "
            f"{listed(names)}."
        )
    return named.values[:, [names.index(name) for name in wanted]]
