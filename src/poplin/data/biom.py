"""BIOM tables (biom-format.org), of version 1 (JSON) and 2 (HDF5): taxa are their rows, so they are turned.

Start at `read_biom`. The few fields that are wanted are read here: the package biom-format has to be compiled for each
Python, and reads no more than these.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data.damage import check_chunks, check_stored
from poplin.data.located import loaded
from poplin.data.spellings import is_number
from poplin.data.stored import root_of
from poplin.data.tables import CountTable, index_names, listed

_HDF5 = b"\x89HDF"
_LARGEST = 1 << 31  # bytes of JSON that are read; the whole of it is in memory, several times


def read_biom(file: Path) -> CountTable:
    """The counts with samples as rows, and what the file says of samples as covariates; of taxa only names are read."""

    def read() -> CountTable:
        with file.open("rb") as stream:
            is_hdf5 = stream.read(len(_HDF5)) == _HDF5
        return _from_hdf5(file) if is_hdf5 else _from_json(file)

    return loaded(file, read)


def _table(file: Path, values: Any, samples: list[str], taxa: list[str], facts: dict[str, Any]) -> CountTable:
    """The table; `values` are samples by taxa."""
    if values.shape != (len(samples), len(taxa)):
        raise InputError(
            f"{file.name} is damaged: it declares {values.shape[1]} x {values.shape[0]} counts, and names {len(taxa)} "
            f"taxa and {len(samples)} samples. Write it again."
        )
    covariates = None
    if facts:
        import pandas

        index: Any = samples
        covariates = pandas.DataFrame({name: _column(cells) for name, cells in facts.items()}, index)
    note = f"{file.name} has taxa in rows; it was turned so that samples are rows."
    return CountTable(values, index_names(samples), index_names(taxa), covariates, (note,), turned=True)


def _column(cells: Sequence[Any]) -> Any:
    """A covariate: numbers where all cells are, as most files hold them as text."""
    texts = [None if cell is None or cell == "" else cell for cell in cells]
    if all(text is None or not isinstance(text, str) or is_number(text) for text in texts):
        return [np.nan if text is None else float(text) if isinstance(text, str) else text for text in texts]
    return [None if text is None else str(text) for text in texts]


def _from_json(file: Path) -> CountTable:
    if file.stat().st_size > _LARGEST:
        raise InputError(
            f"{file.name} is too large for JSON. Convert it: biom convert -i {file.name} -o new.biom --to-hdf5."
        )
    held = json.loads(file.read_bytes())
    lacking = [name for name in ("rows", "columns", "shape", "data") if name not in held]
    if lacking:
        raise InputError(f"{file.name} is no BIOM table: it has no {listed(lacking)}.")
    taxa, samples = ([str(entry["id"]) for entry in held[side]] for side in ("rows", "columns"))
    shape = (len(taxa), len(samples))
    if tuple(held["shape"]) != shape:
        raise InputError(
            f"{file.name} is damaged: it declares {' x '.join(map(str, held['shape']))} counts, and names {shape[0]} "
            f"taxa and {shape[1]} samples. Write it again."
        )
    values = (
        _sparse(held["data"], shape) if held.get("matrix_type") == "sparse" else np.array(held["data"], float)
    )
    return _table(
        file,
        values.reshape(shape).T,
        samples,
        taxa,
        _facts([entry.get("metadata") for entry in held["columns"]]),
    )


def _sparse(entries: list[list[float]], shape: tuple[int, int]) -> Any:
    """Entries (taxon, sample, count) as a table."""
    from scipy.sparse import coo_array

    triples = np.array(entries, float).reshape(-1, 3)
    i, j = (triples[:, side].astype(np.int64) for side in (0, 1))
    if (triples[:, :2] != np.stack([i, j], 1)).any():
        raise ValueError("the place of a count is no whole number")
    return coo_array((triples[:, 2], (i, j)), shape=shape)


def _facts(metadata: list[Any]) -> dict[str, list[Any]]:
    """What is said of each sample, by name; lists and the like are no covariates."""
    every = [entry or {} for entry in metadata]
    names = dict.fromkeys(name for entry in every for name in entry)
    found = {name: [entry.get(name) for entry in every] for name in names}
    return {
        name: cells
        for name, cells in found.items()
        if all(cell is None or isinstance(cell, str | int | float) for cell in cells)
    }


def _from_hdf5(file: Path) -> CountTable:
    from scipy.sparse import csr_array

    root = root_of(file)
    try:
        lacking = [name for name in ("observation/ids", "sample/ids", "sample/matrix") if name not in root]
        if lacking:
            raise InputError(f"{file.name} is no BIOM table: it has no {listed(lacking)}.")
        check_stored(root, file.name)
        taxa, samples = (_cells(root[f"{side}/ids"]) for side in ("observation", "sample"))
        shape = (len(samples), len(taxa))
        matrix = root["sample/matrix"]  # of samples by taxa, by rows
        check_chunks(matrix, shape, f"The matrix of {file.name}")
        entries = tuple(np.asarray(matrix[name][...]) for name in ("data", "indices", "indptr"))
        values: Any = csr_array(entries, shape=shape)
        values.check_format(full_check=True)
        about = root["sample/metadata"] if "sample/metadata" in root else {}
        facts = {
            name: _cells(about[name])
            for name in about
            if getattr(about[name], "shape", ()) == (len(samples),)
        }
    finally:
        root.close()
    return _table(file, values, samples, taxa, facts)


def _cells(node: Any) -> list[Any]:
    """The entries of a column, text decoded."""
    return [cell.decode("utf-8") if isinstance(cell, bytes) else cell for cell in node[...].tolist()]
