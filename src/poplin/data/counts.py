"""`Counts`, the one carrier of a table with everything that goes with it, and the one door to it.

Start at `as_counts` (a table to fit). `as_new_rows` and `as_covariates` take later rows for a fitted model,
coded as `Coding` says the training rows were. Past this door, types and values are trusted.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import DataWarning, InputError
from poplin.data import held
from poplin.data.checks import (
    check_basis,
    check_counts,
    check_covariance,
    check_covariates,
    check_exact,
    check_finite,
    check_names,
    check_observed,
    check_rank,
    check_weights,
    has_intercept,
)
from poplin.data.formula import Design, apply, as_frame, doubtful_offsets
from poplin.data.formula import design as make_design
from poplin.data.framed import doubtful_rows, totals_among
from poplin.data.held import check_dense, dense_rows, in_columns, is_on_disk
from poplin.data.offsets import check_needs_no_counts, check_row_by_row
from poplin.data.readers import read_counts, read_table
from poplin.data.sides import Codes, aligned, doubtful_offset, groups_in, log_offset, row_vector
from poplin.data.tables import (
    CountTable,
    Named,
    Names,
    and_more,
    as_named,
    as_pandas,
    as_table,
    column_defaults,
    index_names,
    is_frame,
    is_instance,
    is_path,
    listed,
    place,
    row_defaults,
)
from poplin.data.textfiles import remarks

# X as it was given, and new rows matched to the names and the design of a fitted model.
#
# Start at `given_covariates` for a new fit, at `columns_like` and `covariates_like` for rows that come later.


class Zeros(NamedTuple):
    """What the probability of zeros beyond the counts' own depends on: x (n, k), names, the formula's design."""

    x: np.ndarray
    names: Names
    design: Design | None


class Coding(NamedTuple):
    """What new rows must look like: the names of a fitted model and the designs that code a table for it."""

    column_names: Names
    covariate_names: Names
    design: Design | None = None
    zeros: Zeros | None = None


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
    if data is not None and (like.zeros is None or like.zeros.design is None):
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


__all__ = [
    "Coding",
    "Counts",
    "as_counts",
    "as_covariates",
    "as_new_rows",
    "check_basis",
    "check_covariance",
    "check_rank",
]


class Counts(NamedTuple):
    """A checked table of counts y with covariates x, offsets, weights and names.

    y (n, p) whole numbers as float64, NaN where missing, or sparse by rows if large (see `held.py`); x (n, d)
    as used; offset (n, p) on the log scale; weights (n,) >= 0; `design` codes new rows as these (None without
    a formula); `notes` say, one sentence each, what was noticed and kept; `groups` are those of the rows (n,) under
    every column of the covariates that has some (`sides.py`), in the formula or not; `zeros`: None without a formula
    of their own.
    """

    y: Any
    x: np.ndarray
    offset: np.ndarray
    weights: np.ndarray
    row_names: Names
    column_names: Names
    covariate_names: Names
    design: Design | None
    notes: Names
    groups: Codes | None = None
    zeros: Zeros | None = None

    @property
    def zero_features(self) -> np.ndarray | None:
        """What zeros beyond the counts' own depend on (n, k); None where that is nothing of the rows."""
        return None if self.zeros is None else self.zeros.x


def as_counts(
    Y: Any,
    *,
    X: Any = None,
    offset: Any = None,
    weights: Any = None,
    data: Any = None,
    formula: str | None = None,
    zero_formula: str | None = None,
    presence: bool = False,
) -> Counts:
    """Check a table of counts and all that goes with it, once, and carry them together.

    Y (n, p): array, list of lists, DataFrame, scipy.sparse, AnnData or a path; NaN is a missing count. X (n,
    d): used as given; None is an intercept. `formula` is evaluated in `data` (or the covariates that travel
    with Y) and may hold offset(...) terms. offset, on the log scale: a number, (n,), (n, 1) or (n, p), or a
    name ("tss", "rle", "css", "gmpr", "tmm", "wrench"; see `offsets.py`). `zero_formula` is that of the zeros beyond
    the counts' own, in the same `data`; `presence`: 1 and 0 are what is asked for, and no doubt.
    weights (n,): 0 leaves a row out. Where two of them have row names, rows are matched by name.

    Raises `InputError` for whatever cannot be fitted, by row and column name. All-zero columns are kept
    with a `DataWarning`, all-zero rows with a note. Cost O(n p + n d^2).

    >>> as_counts([[1, 0], [2, 5], [0, 3]]).covariate_names
    ('Intercept',)
    """
    table = read_counts(Y) if is_path(Y) else as_table(Y)
    notes = list(table.notes)
    y, rows, columns = _checked_table(table)
    weight = check_weights(
        row_vector(weights, "weights", table.row_names, y.shape[0], notes, table.column_names), rows
    )
    if y.shape[0] < 2:
        raise InputError("Y has one row; a covariance between columns needs at least two. Add rows.")
    check_observed(y, weight, columns)
    x, names, added, design, frame = _covariates(table, rows, X, data, formula, notes, zero_formula)
    check_covariates(x, names, weight)
    offsets = _offsets(offset, table, added, notes)
    doubts = [] if design is None else doubtful_offsets(design, frame, rows)
    doubts += doubtful_offset(offset, table) + doubtful_rows(table) + totals_among(y, rows, columns)
    counts = Counts(y, x, offsets, weight, rows, columns, names, design, ())
    counts = counts._replace(groups=None if frame is None else groups_in(frame))
    if zero_formula is not None:
        counts = counts._replace(zeros=_zeros(zero_formula, frame, rows, weight))
    return counts._replace(notes=(*notes, *_noticed(counts, presence=presence), *_warned(doubts)))


def as_new_rows(
    like: Coding,
    Y: Any,
    *,
    X: Any = None,
    offset: Any = None,
    data: Any = None,
    weights: Any = None,
    partial: bool = False,
) -> Counts:
    """Rows that a fitted model has not seen, checked against `like` and coded as its training rows were.

    Columns are matched by name, so their order is free; with `partial`, columns that Y lacks are missing
    counts. X or `data` must be given as it was in the fit. One row is enough, all-zero columns are fine.
    Raises `InputError` when columns or covariates do not fit the model's.
    """
    check_row_by_row(offset)
    given = read_counts(Y) if is_path(Y) else as_table(Y)
    table, order = columns_like(like, given, partial)
    notes = list(table.notes)
    y, rows, columns = _checked_table(table)
    weight = check_weights(
        row_vector(weights, "weights", table.row_names, y.shape[0], notes, table.column_names), rows
    )
    x, added = covariates_like(like, table, X, data, notes)
    # An offset for each entry stands in the order of the columns of Y; where Y lacks some, in the model's.
    offsets = _offsets(offset, table if order is None else given, added, notes)
    offsets = offsets if order is None else offsets[:, order]
    counts = Counts(y, x, offsets, weight, rows, columns, like.covariate_names, like.design, tuple(notes))
    return counts._replace(zeros=zeros_like(like, table, data))


def as_covariates(
    like: Coding, n: int, *, X: Any = None, offset: Any = None, data: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Covariates x (n, d) and offset (n, p) of rows without counts, coded as the rows of the fit were."""
    check_needs_no_counts(offset)
    table = CountTable(np.empty((n, len(like.column_names))), None, like.column_names)
    x, added = covariates_like(like, table, X, data, [])
    return x, _offsets(offset, table, added, [])


def some_rows(counts: Counts, chosen: np.ndarray | slice) -> Counts:
    """Rows of a table, dense, with all that goes with them."""
    return counts._replace(
        y=held.dense_rows(counts.y, chosen),
        x=counts.x[chosen],
        offset=counts.offset[chosen],
        weights=counts.weights[chosen],
        row_names=tuple(np.array(counts.row_names, dtype=object)[chosen]),
        groups=None if counts.groups is None else {k: codes[chosen] for k, codes in counts.groups.items()},
        zeros=None if counts.zeros is None else counts.zeros._replace(x=counts.zeros.x[chosen]),
    )


def _checked_table(table: CountTable) -> tuple[Any, Names, Names]:
    y = table.values
    n, p = y.shape
    if n == 0 or p == 0:
        raise InputError(
            f"Y is empty: it has {n} rows and {p} columns. Give at least two rows and one column of counts."
        )
    mend = "rename or add up the {}s that share one (AnnData: {}_names_make_unique())"
    rows = check_names(table.row_names or row_defaults(n), "row", mend.format("row", "obs"))
    columns = check_names(table.column_names or column_defaults(p), "column", mend.format("column", "var"))
    return check_counts(y, rows, columns), rows, columns


def _covariates(
    table: CountTable,
    rows: Names,
    X: Any,
    data: Any,
    formula: str | None,
    notes: list[str],
    zero_formula: str | None,
) -> tuple[np.ndarray, Names, np.ndarray | None, Design | None, Any]:
    """Covariates x, their names, the offset that the formula adds, the design, and their table, for a new fit."""
    n = len(rows)
    if formula is not None and X is not None:
        raise InputError(
            "Both X and a formula are given. Give one: X is used as it is, a formula is evaluated in `data`."
        )
    if formula is None and zero_formula is None and data is not None:
        raise InputError(
            "`data` is given without a formula. Say which covariates to use, for example formula='~ tree'."
        )
    frame = table.covariates
    if formula is not None or zero_formula is not None:
        frame = as_frame(data, table.covariates)
        frame = aligned(frame, "data", table.row_names, n, notes, table.column_names)
    if formula is not None:
        made, x, added = make_design(formula, frame, rows)
        notes.extend(remarks(made.columns))
        return x, made.covariate_names, added, made, frame
    if X is None:
        return np.ones((n, 1)), ("Intercept",), None, None, frame
    named = given_covariates(X, table, n, notes)
    names = named.column_names or column_defaults(named.values.shape[1], "X")
    if not has_intercept(named.values):
        notes.append("X holds no intercept and none was added: X is used as it is given.")
    return named.values, check_names(names, "covariate", "rename them"), None, None, frame


def _zeros(formula: str, frame: Any, rows: Names, weight: np.ndarray) -> Zeros:
    """What zeros depend on by a formula of their own, in the same table of covariates."""
    try:
        made, x, added = make_design(formula, frame, rows)
    except InputError as error:
        raise InputError(
            f"zero_formula='{formula}': {error}", at_command_line=f"--zero-formula '{formula}': {error}"
        ) from error
    if added is not None:
        raise InputError(f"zero_formula='{formula}' holds an offset; a probability has none. Leave it out.")
    check_covariates(x, made.covariate_names, weight)
    return Zeros(x, made.covariate_names, made)


def zeros_of_rows(counts: Counts) -> Counts:
    """The table with a probability of zeros of each row's own: as many features as rows."""
    n = len(counts.weights)
    if n > MOST_OWN_ZEROS:
        raise InputError(
            f"zero_probability='row' for {n} rows: at most {MOST_OWN_ZEROS} can have one each. Use a zero_formula, or "
            "'column'."
        )
    return counts._replace(zeros=Zeros(np.eye(n), counts.row_names, None))


def zeros_like(like: Coding, table: CountTable, data: Any) -> Zeros | None:
    """The same for rows of a fitted model."""
    if like.zeros is None:
        return None
    n, design = table.values.shape[0], like.zeros.design
    if design is None:
        if table.row_names is None or not set(table.row_names) <= set(like.zeros.names):
            raise InputError(
                "The model has a zero probability of each row's own (zero_probability='row'), which says nothing of "
                "new rows. Fit with 'column', 'single' or a zero_formula."
            )
        place = {name: k for k, name in enumerate(like.zeros.names)}
        return like.zeros._replace(x=np.eye(len(place))[[place[name] for name in table.row_names]])
    frame = aligned(as_frame(data, table.covariates), "data", table.row_names, n, [], table.column_names)
    x, _ = apply(design, frame, table.row_names or row_defaults(n))
    return like.zeros._replace(x=x)


MOST_OWN_ZEROS = 2000  # rows that may have a zero probability of their own


def _offsets(offset: Any, table: CountTable, added: np.ndarray | None, notes: list[str]) -> np.ndarray:
    """The sum of what is given, what travels with the counts and what the formula adds.

    It is (n, p): a read-only view that repeats what is smaller, so that a plain offset takes no memory.
    """
    total = log_offset(offset, table, notes)
    if table.offset is not None:
        total = total + log_offset(table.offset, table, notes)
        notes.append("The log offset that came with the counts was used.")
    if added is not None:
        total = total + added[:, None]
    return np.broadcast_to(total, table.values.shape)


def _warned(doubts: list[str]) -> list[str]:
    for words in doubts:
        warnings.warn(words, DataWarning, stacklevel=4)
    return doubts


def _noticed(counts: Counts, *, presence: bool = False) -> Names:
    """What is kept but should be known, one sentence each; warns of columns without a single count."""
    y, used = counts.y, counts.weights > 0
    n, p = y.shape
    notes = []
    missing = held.missing(y)
    unseen = _where(missing == p, counts.row_names)
    zero_rows = _where((missing < p) & (held.row_sums(y) == 0), counts.row_names)
    zero_columns = _where(held.column_sums(y, used * 1.0) == 0, counts.column_names)
    if missing.any():
        notes.append(
            f"{int(missing.sum())} of {n * p} counts are missing; they are left out of the likelihood."
        )
    if unseen:
        notes.append(f"Rows without any observed count, kept: {listed(unseen)}.")
    if zero_rows:
        notes.append(f"Rows in which every count is 0, kept: {listed(zero_rows)}.")
    if not used.all():
        notes.append(f"{int((~used).sum())} rows have weight 0 and do not enter the fit.")
    if 0 < held.largest(y) <= 1 and not presence:
        notes.append(
            "Every count is 0 or 1: if the table holds presence and absence, it holds no counts, and the variances and "
            "correlations of abundances cannot be read from it. likelihood='bernoulli' (--likelihood bernoulli) is the "
            "law of such tables."
        )
    if zero_columns:
        notes.append(
            f"Columns in which every count is 0: {listed(zero_columns)}; kept finite by a weak prior: half "
            "a count spread over the column in proportion to exp(offset)."
        )
        warnings.warn(notes[-1], DataWarning, stacklevel=4)
    return tuple(notes)


def _where(which: np.ndarray, names: Names) -> list[str]:
    return [names[i] for i in np.flatnonzero(which)]


# Tables of real numbers: the door for models of measurements, pixels or counts that need no covariates.
#
# Start at `as_values`; `as_new_values` takes later rows for a fitted model. Types and names are read as for counts
# (`data/tables.py`), but a value may be any finite number.


FILL = "Fill it in, or leave the row or the column out."
UNITS = "Divide Y by a constant, as other units do."


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


def as_positions(W: Any, q: int) -> np.ndarray:
    """Latent positions W (n, q) as finite numbers."""
    named = as_named(W, "W")
    if named.values.ndim != 2 or named.values.shape[1] != q:
        raise InputError(
            f"W has the shape {named.values.shape}; wanted is (n, {q}), a row for each position."
        )
    rows = named.row_names or row_defaults(len(named.values))
    return check_finite(
        named.values, "A position in W", rows, tuple(f"axis{k + 1}" for k in range(q)), "Leave it out."
    )


def check_size(values: Values, most: float) -> None:
    """Raises `InputError` for numbers whose squares do not fit into the arithmetic that is to be done."""
    large = np.abs(values.y) > most
    if large.any():
        at = tuple(int(k) for k in np.argwhere(large)[0])
        where = place(at, values.row_names, values.column_names)
        raise InputError(
            f"Y holds {values.y[at]:g}{where}{and_more(large)}, more than {most:g} in size. {UNITS}"
        )


def _table(Y: Any, layer: str | None) -> CountTable:
    if is_path(Y):
        return read_counts(Y, layer=layer)
    if layer is not None and not is_instance(Y, "anndata", "AnnData"):
        kind = type(Y).__name__
        raise InputError(f"layer='{layer}' is of an AnnData, and Y is of type {kind}. Leave it out.")
    if layer is None:
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
