"""Counts as they are held: dense, sparse by rows where a dense table would be large, or on disk.

Start at `as_held`. A sparse table stays one from `MOST_DENSE` entries on, and a larger one in a file stays there
(`backed.py`); whoever needs numbers asks for some rows, or for a sum. What is asked of a table on disk is asked of
one piece of it after the other. Nothing here imports scipy.sparse: only a table that is sparse already stays so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data import faults
from poplin.data.backed import Backed

MOST_DENSE = 50_000_000  # entries of a table that is made dense at the door
PIECE = 4_000_000  # entries that are made dense together


class Survey(NamedTuple):
    """What one walk over a table on disk tells: sums, the largest count, what is missing, 0 or no count at all."""

    row_sums: np.ndarray
    column_sums: np.ndarray
    observed: np.ndarray
    missing: np.ndarray
    largest: float
    zeros: float
    faults: faults.Faults


def is_held_sparse(y: Any) -> bool:
    """Whether these counts are too many to be dense: sparse, or on disk."""
    return not isinstance(y, np.ndarray)


def is_on_disk(y: Any) -> bool:
    """Whether these counts stay on disk."""
    return isinstance(y, Backed)


def is_large(values: Any) -> bool:
    """Whether a sparse table, or one in a file, is not made dense at the door."""
    return are_many(values.shape)


def are_many(shape: tuple[int, ...]) -> bool:
    """Whether a table of this shape has too many entries to be dense."""
    return int(np.prod(shape, dtype=float)) > MOST_DENSE


def as_held(values: Any) -> Any:
    """A sparse table by rows, in double precision, each entry once; the one that came in stays as it is."""
    from scipy.sparse import csr_array  # loaded already: the table is one of its own

    found = csr_array(values, dtype=np.float64)
    if not found.has_canonical_format:
        found = found.copy()
        found.sum_duplicates()
    return found


def check_dense(y: Any, what: str) -> None:
    """Raises `InputError` for a table that is never dense, where `what` is asked for that needs a dense one."""
    if is_held_sparse(y):
        how, mend = ("stays on disk", ", or read it first") if is_on_disk(y) else ("is sparse", "")
        raise InputError(
            f"{what} needs all counts dense, and Y {how} with {y.shape[0]} x {y.shape[1]} entries, too many for "
            f"that. Ask for it on a part of the rows or columns{mend}."
        )


def smallest(offset: np.ndarray) -> np.ndarray:
    """An offset without the repetition of a broadcast view."""
    return offset[tuple(slice(0, 1) if s == 0 else slice(None) for s in offset.strides)]


def dense_rows(y: Any, chosen: np.ndarray | slice) -> np.ndarray:
    """Some rows as a dense array of their own."""
    part = y[chosen]
    return np.array(part) if isinstance(part, np.ndarray) else part.toarray()


def dense_column(y: Any, column: int) -> np.ndarray:
    """One column (n,)."""
    if is_on_disk(y):
        return np.concatenate([dense_column(part, column) for _, part in _walk(y)])
    return y[:, [column]].toarray()[:, 0] if is_held_sparse(y) else y[:, column]


def in_columns(y: Any, order: np.ndarray | slice) -> Any:
    """The table with its columns in this order."""
    return y.in_columns(order) if is_on_disk(y) else y[:, order]


def entries(y: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Single counts (m,), by row and column."""
    if not is_on_disk(y):
        return np.asarray(y[rows, columns], dtype=float).ravel()
    asked, place = np.unique(rows, return_inverse=True)
    found = np.empty(len(rows))
    for piece in pieces(len(asked), y.shape[1]):
        here = (place >= piece.start) & (place < piece.stop)
        found[here] = entries(y[asked[piece]], place[here] - piece.start, columns[here])
    return found


def column_sums(y: Any, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of the columns (p,); a missing count is none."""
    if is_on_disk(y):
        if np.all(weights == 1):
            return survey(y).column_sums
        return sum((column_sums(part, weights[rows]) for rows, part in _walk(y)), np.zeros(y.shape[1]))
    return np.asarray(weights @ (y if is_held_sparse(y) else np.nan_to_num(y))).ravel()


def missing(y: Any) -> np.ndarray:
    """How many counts of each row are missing (n,)."""
    if is_on_disk(y):
        return survey(y).missing
    return np.zeros(y.shape[0], int) if is_held_sparse(y) else np.isnan(y).sum(axis=1)


def seen(y: Any, columns: np.ndarray) -> np.ndarray:
    """Which counts of these columns are not missing, (n, m)."""
    if not missing(y).any():
        return np.broadcast_to(True, (y.shape[0], len(columns)))
    if is_on_disk(y):
        return np.concatenate([seen(part, columns) for _, part in _walk(y)])
    return ~np.isnan(y[:, columns])


def observed(y: Any, used: np.ndarray) -> np.ndarray:
    """How many counts of each column are not missing (p,), in the rows that are used."""
    if is_on_disk(y):
        if used.all():
            return survey(y).observed
        return sum((observed(part, used[rows]) for rows, part in _walk(y)), np.zeros(y.shape[1], int))
    if is_held_sparse(y):
        return np.full(y.shape[1], used.sum())
    return (~np.isnan(y[used])).sum(axis=0)


def row_sums(y: Any) -> np.ndarray:
    """Sums of the rows (n,); a missing count is none."""
    if is_on_disk(y):
        return survey(y).row_sums
    return np.asarray(y.sum(axis=1)).ravel() if is_held_sparse(y) else np.nansum(y, axis=1)


def largest(y: Any) -> float:
    """The largest count."""
    if is_on_disk(y):
        return survey(y).largest
    return float(y.max()) if is_held_sparse(y) else float(np.nanmax(y, initial=0.0))


def zeros(y: Any) -> float:
    """The share of counts that are 0."""
    if is_on_disk(y):
        return survey(y).zeros
    if is_held_sparse(y):
        return 1 - np.count_nonzero(y.data) / (y.shape[0] * y.shape[1])
    return float(np.mean(y == 0))


def survey(y: Backed) -> Survey:
    """What one walk over all rows tells; there is one, whoever asks."""
    if y.survey is None:
        with np.errstate(invalid="ignore"):  # sums of what will be refused
            y.survey = _surveyed(y)
    return y.survey


def _surveyed(y: Backed) -> Survey:
    n, p = y.shape
    sums, lacking, totals, there = np.empty(n), np.empty(n, int), np.zeros(p), np.zeros(p, int)
    most, none, wrong = 0.0, 0.0, faults.Faults()
    for rows, part in _walk(y):
        all_of_them = np.ones(part.shape[0], bool)
        sums[rows], lacking[rows] = row_sums(part), _lacking(part)
        totals += column_sums(part, 1.0 * all_of_them)
        there += observed(part, all_of_them)
        most, none = max(most, largest(part)), none + zeros(part) * part.shape[0] / n
        if not y.sparse:
            wrong = faults.together(wrong, faults.faults(part, rows.start))
        elif not wrong:  # as of a sparse table in memory, the first row that has any is told of
            wrong = faults.faults_of_entries(part, rows.start)
    return Survey(sums, totals, there, lacking, most, none, wrong)


def _lacking(part: Any) -> np.ndarray:
    """How many counts of each row are missing, or are NaN among the entries of a sparse piece."""
    if not is_held_sparse(part):
        return missing(part)
    rows = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
    return np.bincount(rows[np.isnan(part.data)], minlength=part.shape[0])


def arrays_of(y: Any) -> Iterator[tuple[str, Any]]:
    """The arrays that a table consists of, by name; of a table on disk those of one piece after the other."""
    if is_on_disk(y):
        yield from (named for _, part in _walk(y) for named in arrays_of(part))
    elif hasattr(y, "indptr"):
        yield from ((name, getattr(y, name)) for name in ("data", "indices", "indptr"))
    else:
        yield "", y


def _walk(y: Backed) -> Iterator[tuple[slice, Any]]:
    """All rows, a piece after the other."""
    for rows in pieces(*y.shape):
        yield rows, y[rows]


def pieces(n: int, p: int) -> Iterator[slice]:
    """Slices of rows, few enough to be dense together."""
    rows = max(1, PIECE // p)
    for first in range(0, n, rows):
        yield slice(first, min(first + rows, n))
