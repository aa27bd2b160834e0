"""From what a user gives to the rows that a neural model sees: values, conditions, offsets.

Start at `training_rows` and `new_rows`. Conditions are columns of `data` (or of an AnnData's obs), coded as in a
formula; `KINDS` says what each likelihood accepts.
"""

import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from poplin._compile import compiled
from poplin._errors import DataWarning, InputError
from poplin._precision import double_precision
from poplin.data.blocks import Block
from poplin.data.checks import check_counts, check_weights
from poplin.data.design import Design
from poplin.data.formula import apply, as_frame, design
from poplin.data.sides import aligned, doubtful_offset, log_offset, row_vector
from poplin.data.tables import CountTable, Names, place
from poplin.data.values import Values, as_new_values, as_values

COUNTS = ("poisson", "negative-binomial", "poisson-lognormal")
PIECE = 4_000_000  # numbers looked at together in double precision


class Rows(NamedTuple):
    """Rows as a model sees them: y (n, p), x (n, d), offset (n, 1 or p) and weights (n,), with their names."""

    y: np.ndarray
    x: np.ndarray
    offset: np.ndarray
    weights: np.ndarray
    names: Names


class Coded(NamedTuple):
    """What later rows must look like: column names and the design of the conditions (None without any)."""

    columns: Names
    design: Design | None


class Wanted(NamedTuple):
    """The settings that the door needs: likelihood, whether pixels are binarised, conditions, AnnData layer, batch."""

    likelihood: str
    binarise: bool
    condition: tuple[str, ...]
    layer: str | None
    batch: str | None = None

    def formula(self) -> str | None:
        """How conditions and batch are coded; the values of the batch are categories even where they are numbers."""
        terms = [f"`{name}`" for name in self.condition]
        terms += [] if self.batch is None else [f"C(`{self.batch}`)"]
        return "~ " + " + ".join(terms) if terms else None


def training_rows(wanted: Wanted, Y: Any, *, data: Any, offset: Any, weights: Any) -> tuple[Rows, Coded]:
    """The rows to fit and how they were coded. Raises `InputError` for what the likelihood cannot have made."""
    values = as_values(Y, layer=wanted.layer)
    made, x = None, np.zeros((len(values.y), 0))
    formula = wanted.formula()
    if formula is not None:
        made, x, _ = design(formula, _frame(values, data), values.row_names)
        x = x[:, 1:]  # the decoder has its own intercept
    table, notes = _named(values), []
    for words in doubtful_offset(offset, table):
        warnings.warn(words, DataWarning, stacklevel=4)
    weight = check_weights(
        row_vector(weights, "weights", table.row_names, len(values.y), notes), values.row_names
    )
    rows = _rows(wanted, values, x, offset)._replace(weights=weight)
    return rows, Coded(values.column_names, made)


def new_rows(wanted: Wanted, coded: Coded, Y: Any, *, data: Any, offset: Any) -> Rows:
    """Rows for a fitted model, coded as the rows of its fit."""
    values = as_new_values(coded.columns, Y, layer=wanted.layer)
    x = np.zeros((len(values.y), 0))
    if coded.design is not None:
        x = apply(coded.design, _frame(values, data), values.row_names)[0][:, 1:]
    return _rows(wanted, values, x, offset)


def conditions(coded: Coded, data: Any, n: int) -> np.ndarray:
    """The covariates x (n, d) of rows that are only asked for, from a table of their conditions."""
    if coded.design is None:
        return np.zeros((n, 0), dtype=np.float32)
    frame = as_frame(data, None)
    if len(frame) != n:
        raise InputError(f"data has {len(frame)} rows and {n} rows are asked for. Give one row for each.")
    return apply(coded.design, frame, tuple(str(i) for i in frame.index))[0][:, 1:].astype(np.float32)


def _named(values: Values) -> CountTable:
    names = values.row_names if values.named_rows else None
    return CountTable(values.y, names, values.column_names, values.covariates)


def _frame(values: Values, data: Any) -> Any:
    frame = as_frame(data, values.covariates)
    names = values.row_names if values.named_rows else None
    return aligned(frame, "data", names, len(values.y), [], values.column_names)


def _rows(wanted: Wanted, values: Values, x: np.ndarray, offset: Any) -> Rows:
    _check_values(wanted, values)
    if offset is not None and wanted.likelihood not in COUNTS:
        raise InputError(
            f"An offset goes with counts; the likelihood '{wanted.likelihood}' has none. Leave it out."
        )
    o = log_offset(offset, _named(values), [])
    o = np.broadcast_to(o, (len(values.y), o.shape[1] if o.ndim == 2 else 1))
    return Rows(values.y, x, o, np.ones(len(values.y)), values.row_names)


def _check_values(wanted: Wanted, values: Values) -> None:
    y = values.y
    if wanted.likelihood in COUNTS:
        check_counts(y, values.row_names, values.column_names)
    elif wanted.likelihood == "categorical":
        _refuse(
            values, (y < 0) | (y != np.rint(y)), "a category", "Code categories as whole numbers 0, 1, 2, ..."
        )
    elif wanted.likelihood == "bernoulli" and wanted.binarise:
        _refuse(
            values,
            (y < 0) | (y > 1),
            "a probability",
            "binarise=True draws 0 or 1 with it: scale Y to [0, 1].",
        )
    elif wanted.likelihood == "bernoulli":
        mend = "Give zeros and ones, or set binarise=True to draw them anew with the probabilities in Y."
        _refuse(values, (y != 0) & (y != 1), "zero or one", mend)


def _refuse(values: Values, bad: np.ndarray, wanted: str, mend: str) -> None:
    if bad.any():
        i, j = np.argwhere(bad)[0]
        where = place((i, j), values.row_names, values.column_names)
        raise InputError(f"Y holds {values.y[i, j]:g}{where}, which is not {wanted}. {mend}")


@compiled()
def _carrier(likelihood: Any, y: Any) -> Any:
    return likelihood.carrier(y)


def as_rows_block(likelihood: Any, rows: Rows, dtype: Any = np.float32) -> Block:
    """Rows as a `Block` of NumPy arrays of this type; the part of the log density that y alone decides is in it."""
    pieces = np.array_split(rows.y, -(-rows.y.size // PIECE))
    with double_precision():
        parts = [_carrier(likelihood, jnp.asarray(piece, dtype=jnp.float64)) for piece in pieces]
    constant = -np.concatenate([np.asarray(part) for part in parts])
    arrays = (rows.y, rows.x, rows.offset, rows.weights, constant)
    return Block(*(np.asarray(a, dtype=dtype) for a in arrays), index=np.arange(len(rows.y)))  # type: ignore[arg-type]
