"""Counts in a Parquet file: large ones are packed by rows into a scratch file, of which some rows can be read.

Start at `packed`. Parquet keeps rows in groups of up to a million, of which none can be read alone; so the file is
read once, a batch of rows after the other, and what is not 0 is written where rows are found again. The scratch file
has no name: it is gone when nobody needs it, and when the process dies.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np

from poplin._errors import InputError
from poplin.data import held
from poplin.data.backed import SparseRows
from poplin.data.declared import NAME, check_declared
from poplin.data.tables import Names, as_named


@final
class Scratch:
    """Numbers of one type in a file without a name: appended, then read by slices."""

    def __init__(self, kind: Any) -> None:
        self._kind, self._file, self._lock = np.dtype(kind), tempfile.TemporaryFile(), threading.Lock()
        weakref.finalize(self, self._file.close)

    def append(self, numbers: np.ndarray) -> None:
        """Numbers after those that are there."""
        try:
            self._file.write(np.ascontiguousarray(numbers, self._kind).data)
        except OSError as error:
            raise InputError(
                f"The counts are read into a scratch file in {tempfile.gettempdir()}, which cannot be written: "
                f"{error.strerror or error}. Make room there, or set TMPDIR to another folder."
            ) from error

    def __getitem__(self, part: slice) -> np.ndarray:
        with self._lock:  # the file has one place at which it is read
            self._file.seek(part.start * self._kind.itemsize)
            return np.fromfile(self._file, self._kind, part.stop - part.start)


def counted(file: Path) -> tuple[int, Names]:
    """How many rows a Parquet file has, and its columns without those that are row names in pandas."""
    from pyarrow import parquet

    told = parquet.ParquetFile(file)
    n, size = told.metadata.num_rows, file.stat().st_size
    check_declared(file.name, f"the names of its {n} rows", NAME * n, size)
    names = (told.schema_arrow.pandas_metadata or {}).get("index_columns", [])
    return n, tuple(name for name in told.schema_arrow.names if name not in names)


def frame_in(file: Path, columns: list[str] | None = None) -> Any:
    """A Parquet file (some columns of it, with the row names of pandas) as a DataFrame, as pandas reads it.

    Raises `InputError` where it is unpacked to far more than it is, before all of it is.
    """
    import pyarrow
    from pyarrow import parquet

    counted(file)
    told = parquet.ParquetFile(file)
    size, unpacked, batches = file.stat().st_size, 0, []
    for batch in told.iter_batches(columns=columns, use_pandas_metadata=True):
        unpacked += batch.nbytes
        check_declared(file.name, "what is packed in it", unpacked, size)
        batches.append(batch)
    schema = batches[0].schema if batches else told.schema_arrow
    return pyarrow.Table.from_batches(batches, schema).to_pandas()


def packed(file: Path, columns: Names, rows: Names | None) -> SparseRows:
    """These columns of a Parquet file by rows; `rows` are the names that a message about an entry needs."""
    data, indices, lengths = Scratch(np.float64), Scratch(np.int32), [np.zeros(1, int)]
    for numbers in _batches(file, columns, rows):
        i, j = np.nonzero(numbers)  # a missing count is NaN, which is not 0
        data.append(numbers[i, j])
        indices.append(j)
        lengths.append(np.bincount(i, minlength=len(numbers)))
    return SparseRows(data, indices, np.cumsum(np.concatenate(lengths)), len(columns), dense=True)


def _batches(file: Path, columns: Names, rows: Names | None) -> Iterator[np.ndarray]:
    """The rows, few enough to be dense together."""
    from pyarrow import parquet

    first, size = 0, max(1, held.PIECE // len(columns))
    # not buffered before: else a whole group of rows would be in memory
    table = parquet.ParquetFile(file, pre_buffer=False)
    batches = table.iter_batches(batch_size=size, columns=list(columns))
    for batch in batches:
        last = first + batch.num_rows
        frame: Any = batch.to_pandas(ignore_metadata=True)[list(columns)]
        names = rows[first:last] if rows else tuple(f"row{i + 1}" for i in range(first, last))
        yield as_named(frame.set_axis(list(names), axis=0), "Y").values
        first = last
