"""Counts as they are held: dense, sparse by rows where a dense table would be large, or on disk.

Start at `as_held`. A sparse table stays one from `MOST_DENSE` entries on, and a larger one in a file stays there
(`held.py`); whoever needs numbers asks for some rows, or for a sum. What is asked of a table on disk is asked of
one piece of it after the other. Nothing here imports scipy.sparse: only a table that is sparse already stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, final

import numpy as np

from poplin._errors import InputError, said

# Entries that are no counts: which kinds there are, and where the first of each is, piece by piece.
#
# Start at `faults`; `checks.check_counts` makes the message of what is found.


LARGEST_COUNT = 2.0**53 - 1  # above it, what was another whole number may be the same float64

# what was found, and how it is mended, in the order in which it is told
KINDS = (
    ("an infinite count", "Mark a missing count as NaN."),
    ("a negative count", "Counts are whole numbers from 0; pass them as counted, not logged or centred."),
    (
        "a fractional count",
        "Counts are whole numbers; pass them as counted (AnnData often keeps them in a layer) and give "
        "depth or effort as `offset` on the log scale.",
    ),
    ("a count of 2^53 or more", "Such a number is no longer exact; check the units of the table."),
)


class Fault(NamedTuple):
    """The first entry of a kind: its row, its column, what stands there; and how many there are."""

    row: int
    column: int
    value: float
    many: int


Faults = dict[int, Fault]  # by the place of the kind in `KINDS`


def faults(y: np.ndarray, first: int = 0) -> Faults:
    """What is wrong with a dense piece that begins at the row `first`; NaN is a missing count, which is not."""
    found = {}
    for kind, bad in enumerate((np.isinf(y), y < 0, _fractional(y), y > LARGEST_COUNT)):
        if bad.any():
            i, j = (int(k) for k in np.argwhere(bad)[0])
            found[kind] = Fault(first + i, j, float(y[i, j]), int(bad.sum()))
    return found


def faults_of_entries(y: Any, first: int = 0) -> Faults:
    """The same of a sparse piece, by its entries: what is wrong with the first row that has a bad one."""
    entries = y.data
    bad = np.isinf(entries) | (entries < 0) | _fractional(entries) | (entries > LARGEST_COUNT)
    if not bad.any():
        return {}
    row = int(np.searchsorted(y.indptr, np.flatnonzero(bad)[0], side="right")) - 1
    return faults(y[[row]].toarray(), first + row)


def together(one: Faults, other: Faults) -> Faults:
    """What is wrong with two dense pieces, of which `one` comes first."""
    found = other | one
    for kind in one.keys() & other.keys():
        found[kind] = one[kind]._replace(many=one[kind].many + other[kind].many)
    return found


def _fractional(values: np.ndarray) -> np.ndarray:
    return ~np.isnan(values) & (values != np.rint(values))


# Counts that stay on disk: one small class that reads the rows it is asked for.
#
# Start at `Backed`. What is stored is read in stretches of neighbouring rows, `SparseRows` or `DenseRows`; of files
# nothing is known here (`stored.py`, `large_files.py`). Whoever wants a sum asks `held.py`, which walks over the rows.


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
    faults: Faults


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
    most, none, wrong = 0.0, 0.0, Faults()
    for rows, part in _walk(y):
        all_of_them = np.ones(part.shape[0], bool)
        sums[rows], lacking[rows] = row_sums(part), _lacking(part)
        totals += column_sums(part, 1.0 * all_of_them)
        there += observed(part, all_of_them)
        most, none = max(most, largest(part)), none + zeros(part) * part.shape[0] / n
        if not y.sparse:
            wrong = together(wrong, faults(part, rows.start))
        elif not wrong:  # as of a sparse table in memory, the first row that has any is told of
            wrong = faults_of_entries(part, rows.start)
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
