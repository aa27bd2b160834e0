"""Counts as they are held: dense, or sparse by rows where a dense table would be large.

Start at `as_held`. A sparse table stays one from `MOST_DENSE` entries on; whoever needs numbers asks for some rows, or
for a sum. Nothing here imports scipy.sparse: only a table that is sparse already stays so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from poplin._errors import InputError

MOST_DENSE = 50_000_000  # entries of a table that is made dense at the door
PIECE = 4_000_000  # entries that are made dense together


def is_held_sparse(y: Any) -> bool:
    """Whether these counts are too many to be dense."""
    return not isinstance(y, np.ndarray)


def is_large(values: Any) -> bool:
    """Whether a sparse table is not made dense at the door."""
    return values.shape[0] * values.shape[1] > MOST_DENSE


def as_held(values: Any) -> Any:
    """A sparse table by rows, in double precision, each entry once; the one that came in stays as it is."""
    from scipy.sparse import csr_array  # loaded already: the table is one of its own

    found = csr_array(values, dtype=np.float64)
    if not found.has_canonical_format:
        found = found.copy()
        found.sum_duplicates()
    return found


def check_dense(y: Any, what: str) -> None:
    """Raises `InputError` for a table that stays sparse, where `what` is asked for that needs a dense one."""
    if is_held_sparse(y):
        raise InputError(
            f"{what} needs all counts dense, and Y is sparse with {y.shape[0]} x {y.shape[1]} entries, too many for "
            "that. Ask for it on a part of the rows or columns."
        )


def smallest(offset: np.ndarray) -> np.ndarray:
    """An offset without the repetition of a broadcast view."""
    return offset[tuple(slice(0, 1) if s == 0 else slice(None) for s in offset.strides)]


def dense_rows(y: Any, chosen: np.ndarray | slice) -> np.ndarray:
    """Some rows as a dense array of their own."""
    part = y[chosen]
    return part.toarray() if is_held_sparse(y) else np.array(part)


def dense_column(y: Any, column: int) -> np.ndarray:
    """One column (n,)."""
    return y[:, [column]].toarray()[:, 0] if is_held_sparse(y) else y[:, column]


def entries(y: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Single counts (m,), by row and column."""
    return np.asarray(y[rows, columns], dtype=float).ravel()


def column_sums(y: Any, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of the columns (p,); a missing count is none."""
    return np.asarray(weights @ (y if is_held_sparse(y) else np.nan_to_num(y))).ravel()


def missing(y: Any) -> np.ndarray:
    """How many counts of each row are missing (n,)."""
    return np.zeros(y.shape[0], int) if is_held_sparse(y) else np.isnan(y).sum(axis=1)


def row_sums(y: Any) -> np.ndarray:
    """Sums of the rows (n,); a missing count is none."""
    return np.asarray(y.sum(axis=1)).ravel() if is_held_sparse(y) else np.nansum(y, axis=1)


def largest(y: Any) -> float:
    """The largest count."""
    return float(y.max()) if is_held_sparse(y) else float(np.nanmax(y))


def zeros(y: Any) -> float:
    """The share of counts that are 0."""
    if is_held_sparse(y):
        return 1 - np.count_nonzero(y.data) / (y.shape[0] * y.shape[1])
    return float(np.mean(y == 0))


def pieces(n: int, p: int) -> Iterator[slice]:
    """Slices of rows, few enough to be dense together."""
    rows = max(1, PIECE // p)
    for first in range(0, n, rows):
        yield slice(first, min(first + rows, n))
