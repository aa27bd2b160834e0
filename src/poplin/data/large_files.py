"""Files whose tables are too large to be read: their names and covariates are, the counts stay there.

Start at `large_annotated` (.h5ad, .zarr) and `large_parquet`; `reopened` finds the counts of a fit that was kept. How
rows are read is in `stored.py` and `large_files.py`.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from poplin._errors import InputError
from poplin.data import held
from poplin.data.damage import NAME, check_declared, check_facts, check_stored
from poplin.data.held import Backed, Source, SparseRows, Stored
from poplin.data.located import kind_of
from poplin.data.stored import large_table, name_of, root_of, rows_in
from poplin.data.tables import CountTable, Names, as_named, as_notes, index_names, listed
from poplin.data.textfiles import name_rows

# Counts in a Parquet file: large ones are packed by rows into a scratch file, of which some rows can be read.
#
# Start at `packed`. Parquet keeps rows in groups of up to a million, of which none can be read alone; so the file is
# read once, a batch of rows after the other, and what is not 0 is written where rows are found again. The scratch
# file has no name: it is gone when nobody needs it, and when the process dies.


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
    beside = told.schema_arrow.pandas_metadata or {}
    names = beside.get("index_columns", []) if isinstance(beside, dict) else None
    if not isinstance(names, list):
        raise InputError(
            f"{file.name} is damaged: what pandas wrote of its row names is no list. Write the file again."
        )
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


def large_annotated(file: Path, layer: str | None) -> tuple[CountTable | None, Names]:
    """X or a layer of an AnnData's file that stays there, with names and obs, and what is to be told of it.

    The table is None where it can be read. Raises `InputError` where there is no such layer: the file need not be read
    for that.
    """
    root = root_of(file)
    layers = list(root["layers"]) if "layers" in root else []
    if layer is not None and layer not in layers:
        raise InputError(f"{file.name} has no layer '{layer}'; it has {listed(layers) or 'none'}.")
    large, told = large_table(root, "X" if layer is None else f"layers/{layer}")
    for side in ("obs", "var"):
        told += check_facts(root[side], f"{side} of {file.name}") if side in root else ()
    if large is None:
        return None, told
    obs, var = (part_of(root, name) for name in ("obs", "var"))
    report = "uns/poplin_counts/report"  # what `poplin counts` left out, and why
    notes = as_notes(part_of(root, report) if report in root else ())
    return CountTable(large, index_names(obs.index), index_names(var.index), obs, notes), told


def part_of(root: Any, name: str) -> Any:
    """A part of an AnnData's file, in memory."""
    from anndata.io import read_elem

    check_stored(root[name], name_of(root[name]))
    return read_elem(root[name])


def large_parquet(file: Path, columns: Names, row_names: str | None) -> CountTable:
    """The counts in a large Parquet file, which are read when they are asked for; of the file only names are read."""
    import pandas

    asked = (row_names,) if row_names in columns else columns[:1]
    frame = frame_in(file, list(asked))
    names, left = index_names(frame.index), asked
    if names is None or row_names is not None:
        frame = frame.reset_index(drop=names is None)
        here = tuple(frame.columns)
        if row_names is not None and row_names not in here:  # "none", or told what there is
            every: Any = [*(name for name in here if name not in columns), *columns]
            name_rows(pandas.DataFrame(columns=every), row_names, file.name, counts=True)
        named = name_rows(frame, row_names, file.name, counts=True)
        as_named(named, "Y")  # an index that names no rows is a column of Y, and refused if it is text
        names, left = index_names(named.index), tuple(named.columns)
    taken = tuple(name for name in asked if name not in left)
    source = Source(str(file.absolute()), taken[0] if taken else None)
    counts = tuple(name for name in columns if name not in taken)
    shape = len(frame), len(counts)
    held = Backed(source, shape, partial(rows_of, source, names), sparse=False)
    return CountTable(held, names, counts)


def rows_of(source: Source, names: Names | None = None) -> Stored:
    """The rows of counts that stay in a file; `names` of rows are for what is said of entries that are no numbers."""
    file = Path(source.path)
    if not file.exists():
        raise FileNotFoundError("There is no such file.")
    if kind_of(file) != ".parquet":
        return rows_in(source)
    return packed(file, tuple(name for name in counted(file)[1] if name != source.key), names)


def reopened(source: Source, shape: tuple[int, int], *, sparse: bool) -> Backed:
    """The counts of a fit that was kept, where they lie; the file is opened when they are asked for."""
    return Backed(source, shape, partial(rows_of, source), sparse=sparse)
