"""Counts that stay on disk: one small class that reads the rows it is asked for.

Start at `Backed`. What is stored is read in stretches of neighbouring rows, `SparseRows` or `DenseRows`; of files
nothing is known here (`stored.py`, `packed.py`). Whoever wants a sum asks `held.py`, which walks over the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, final

import numpy as np

from poplin._errors import InputError, said

GAP = 4  # rows that nobody asked for and that are read all the same, rather than ask the disk twice
LONGEST = 4_000_000  # entries that are asked of the disk together
# of neighbouring rows, from the first to before the last, in the order of the file
Stretches = list[tuple[int, int]]


class Source(NamedTuple):
    """Where a table lies: the file, and the element of an AnnData or the column that names the rows of a Parquet file.

    `key` None: no column of the file names rows. A column may be called "".
    """

    path: str
    key: str | None


class Stored(Protocol):
    """Rows on disk."""

    def read(self, stretches: Stretches) -> Any:
        """The rows of these stretches, sparse by rows or dense, in double precision."""
        ...


@final
class SparseRows(NamedTuple):
    """Rows on disk as their entries (CSR); `indptr` is in memory. `dense`: what is stored so is no sparse table."""

    data: Any
    indices: Any
    indptr: np.ndarray
    columns: int
    dense: bool = False

    def read(self, stretches: Stretches) -> Any:
        """The entries of these rows, each once."""
        from scipy.sparse import csr_array

        there = [(int(self.indptr[first]), int(self.indptr[last])) for first, last in stretches]
        lengths = [np.diff(self.indptr[first : last + 1]) for first, last in stretches]
        pointers = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        entries = _joined(self.data, there).astype(np.float64), _joined(self.indices, there)
        found = csr_array((*entries, pointers), shape=(len(pointers) - 1, self.columns))
        found.check_format(full_check=True)  # an entry outside would be summed into another
        found.sum_duplicates()
        return found.toarray() if self.dense else found


@final
class DenseRows(NamedTuple):
    """Rows on disk with all of their entries."""

    array: Any

    def read(self, stretches: Stretches) -> Any:
        """These rows."""
        return _joined(self.array, stretches).astype(np.float64)


def _joined(array: Any, stretches: Stretches) -> np.ndarray:
    """Stretches of an array on disk, one after the other."""
    if len(stretches) > 1 and hasattr(array, "oindex"):  # zarr takes a millisecond for whatever it is asked
        return np.asarray(array.oindex[np.concatenate([np.arange(*stretch) for stretch in stretches])])
    return np.concatenate([array[first:last] for first, last in stretches])


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

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_stored": None}  # an open file stays in its process

    def __getitem__(self, chosen: np.ndarray | slice) -> Any:
        """Some rows in memory, in the order asked for; they are read in that of the file."""
        rows = np.arange(self.shape[0])[chosen]
        order = np.argsort(rows, kind="stable")
        parts = [self._picked(part) for part in _pieces(rows[order], self.shape[1])]
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

    def _picked(self, rows: np.ndarray) -> Any:
        """Some rows, in the order of the file."""
        cuts = np.flatnonzero(np.diff(rows) > GAP) + 1
        firsts, lasts = rows[np.r_[0, cuts]], rows[np.r_[cuts - 1, -1]] + 1
        found = self._read(list(zip(firsts.tolist(), lasts.tolist(), strict=True)))
        stretch = np.searchsorted(firsts, rows, side="right") - 1
        before = np.cumsum(lasts - firsts) - (lasts - firsts)
        place = rows - firsts[stretch] + before[stretch]  # in what was read
        found = found if np.array_equal(place, np.arange(found.shape[0])) else found[place]
        return found if self._columns is None else found[:, self._columns]

    def _read(self, stretches: Stretches) -> Any:
        try:
            if self._stored is not None:
                return self._stored.read(stretches)
        except Exception:
            pass  # closed by whoever opened it, or broken: the second time tells
        try:
            self._stored = self._reopen()
            return self._stored.read(stretches)
        except InputError:  # of what is in the file
            raise
        except Exception as error:  # of whatever class: of zlib, of arithmetic, of an index
            raise InputError(
                f"Rows {stretches[0][0] + 1} to {stretches[-1][1]} cannot be read: these counts stay on disk, in "
                f"{self.source.path or 'a store without a path'}: {said(error)}. Put the file back, or give the "
                "counts anew."
            ) from error


def _pieces(rows: np.ndarray, columns: int) -> Iterator[np.ndarray]:
    """Sorted rows, cut so that no more is read together than `LONGEST` says, with the rows between them."""
    if len(rows):
        steps = np.diff(rows, prepend=rows[0] - 1)
        piece = (np.cumsum(np.where(steps > GAP, 1, steps)) - 1) // max(1, LONGEST // columns)
        yield from np.split(rows, np.flatnonzero(np.diff(piece)) + 1)


def _stacked(parts: list[Any], columns: int) -> Any:
    from scipy.sparse import csr_array, vstack

    if not parts:
        return np.empty((0, columns))
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else csr_array(vstack(parts))
