"""Files whose tables are too large to be read: their names and covariates are, the counts stay there.

Start at `large_annotated` (.h5ad, .zarr) and `large_parquet`; `reopened` finds the counts of a fit that was kept. How
rows are read is in `stored.py` and `packed.py`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from poplin._errors import InputError
from poplin.data.backed import Backed, Source, Stored
from poplin.data.damage import check_stored
from poplin.data.located import kind_of
from poplin.data.packed import counted, frame_in, packed
from poplin.data.stored import large_table, name_of, root_of, rows_in
from poplin.data.tables import CountTable, Names, as_named, as_notes, index_names, listed
from poplin.data.textfiles import name_rows


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
