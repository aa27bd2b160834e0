"""Counts that stay on disk: one small class that reads the rows it is asked for.

Start at `Backed`. What is stored is read in stretches of neighbouring rows, `SparseRows` or `DenseRows`; of files
nothing is known here (`stored.py`, `packed.py`). Whoever wants a sum asks `held.py`, which walks over the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, final

import numpy as np

from poplin._errors import InputError

GAP = 16  # rows that nobody asked for and that are read all the same, rather than ask the disk twice
LONGEST = 4_000_000  # entries that are asked of the disk together


class Source(NamedTuple):
    """Where a table lies: the file, and which part of it (an element of an AnnData, the columns of a Parquet file)."""

    path: str
    key: str


class Stored(Protocol):
    """Rows on disk."""

    def stretch(self, first: int, last: int) -> Any:
        """The rows from `first` to before `last`, sparse by rows or dense, in double precision."""
        ...


@final
class SparseRows(NamedTuple):
    """Rows on disk as their entries (CSR); `indptr` is in memory. `dense`: what is stored so is no sparse table."""

    data: Any
    indices: Any
    indptr: np.ndarray
    columns: int
    dense: bool = False

    def stretch(self, first: int, last: int) -> Any:
        from scipy.sparse import csr_array

        low, high = int(self.indptr[first]), int(self.indptr[last])
        parts = (np.asarray(self.data[low:high], dtype=np.float64), np.asarray(self.indices[low:high]))
        found = csr_array((*parts, self.indptr[first : last + 1] - low), shape=(last - first, self.columns))
        found.sum_duplicates()
        return found.toarray() if self.dense else found


@final
class DenseRows(NamedTuple):
    """Rows on disk with all of their entries."""

    array: Any

    def stretch(self, first: int, last: int) -> Any:
        return np.asarray(self.array[first:last], dtype=np.float64)


@final
class Backed:
    """A table of counts of which only the rows asked for are in memory.

    `sparse`: whether its rows come sparse. `reopen` opens the file, at first or when whoever opened it has closed it.
    `survey` is what a walk over all rows told, once there was one (`held.survey`).
    """

    def __init__(
        self,
        source: Source,
        shape: tuple[int, int],
        reopen: Callable[[], Stored],
        *,
        sparse: bool,
        stored: Stored | None = None,
        columns: np.ndarray | None = None,
    ) -> None:
        self.source, self.shape, self.sparse = source, shape, sparse
        self.survey: Any = None
        self._reopen, self._stored, self._columns = reopen, stored, columns

    def __getitem__(self, chosen: np.ndarray | slice) -> Any:
        """Some rows in memory, in the order asked for; they are read in that of the file."""
        rows = np.arange(self.shape[0])[chosen]
        order = np.argsort(rows, kind="stable")
        parts = [self._picked(part) for part in self._stretches(rows[order])]
        found = parts[0] if len(parts) == 1 else _stacked(parts, self.shape[1])
        if np.array_equal(order, np.arange(len(order))):
            return found
        return found[np.argsort(order, kind="stable")]

    def in_columns(self, order: np.ndarray | slice) -> Backed:
        """The same table with its columns in this order."""
        columns = np.arange(self.shape[1])[order] if self._columns is None else self._columns[order]
        shape = (self.shape[0], len(columns))
        return Backed(
            self.source, shape, self._reopen, sparse=self.sparse, stored=self._stored, columns=columns
        )

    def _stretches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Sorted rows, cut where the next one is far, and where a stretch would be long."""
        longest = max(1, LONGEST // self.shape[1])
        for part in np.split(rows, np.flatnonzero(np.diff(rows) > GAP) + 1):
            if len(part):
                cuts = np.searchsorted(part, np.arange(part[0], part[-1] + 1, longest)[1:])
                yield from (piece for piece in np.split(part, cuts) if len(piece))

    def _picked(self, rows: np.ndarray) -> Any:
        first, last = int(rows[0]), int(rows[-1]) + 1
        found = self._read(first, last)
        found = found if len(rows) == last - first else found[rows - first]
        return found if self._columns is None else found[:, self._columns]

    def _read(self, first: int, last: int) -> Any:
        try:
            if self._stored is not None:
                return self._stored.stretch(first, last)
        except (OSError, ValueError, KeyError, RuntimeError):
            pass  # closed by whoever opened it, or broken: the second time tells
        try:
            self._stored = self._reopen()
            return self._stored.stretch(first, last)
        except (OSError, ValueError, KeyError, RuntimeError, InputError) as error:
            where = self.source.path or "a store that has no path"
            raise InputError(
                f"The rows {first + 1} to {last} cannot be read: these counts stay on disk, in {where}. {error} "
                "Put the file back, or give the counts anew."
            ) from error


def _stacked(parts: list[Any], columns: int) -> Any:
    from scipy.sparse import csr_array, vstack

    if not parts:
        return np.empty((0, columns))
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else csr_array(vstack(parts))
