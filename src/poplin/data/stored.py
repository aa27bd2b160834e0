"""Counts in AnnData's files, .h5ad and zarr: large ones stay there and are read by rows, small ones are read.

Start at `from_file` for what a user opened, at `large_table` for a path. AnnData and the libraries that open its files
are not imported before there is one.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data.damage import (
    check_chunks,
    check_heaps,
    check_inside,
    check_packed,
    check_stored,
    check_survives,
    check_within,
    pointers_of,
    walk,
)
from poplin.data.held import Backed, DenseRows, Source, SparseRows, Stored, are_many

ZARR = ".zarr"
ANNDATA = "anndata"  # how a file says what it holds
VERSIONS = {
    "csr_matrix": "0.1.0",
    "csc_matrix": "0.1.0",
    "array": "0.2.0",
}  # of tables whose rows are read here


def is_instance(thing: Any, module: str, *kinds: str) -> bool:
    """Whether `thing` is of one of the `kinds` of `module`, without importing that module."""
    loaded = sys.modules.get(module)
    found = tuple(getattr(loaded, kind) for kind in kinds if hasattr(loaded, kind))
    return bool(found) and isinstance(thing, found)


def from_file(values: Any) -> Any:
    """What an AnnData that is opened backed has as X: `Backed` if it is large, read if not; anything else as it is."""
    if is_instance(values, "anndata.abc", "CSRDataset", "CSCDataset"):
        return _held(values.group) if are_many(values.shape) else values.to_memory()
    if is_instance(values, "h5py", "Dataset") or is_instance(values, "zarr", "Array"):
        return _held(values) if values.ndim == 2 and are_many(values.shape) else values[...]
    return values


def root_of(path: Path) -> Any:
    """The root of a file, for reading. Raises `InputError` for no AnnData, and for a file that leads out of itself."""
    if path.suffix.lower() == ZARR:
        import zarr

        check_within(path)
        root = zarr.open_group(path, mode="r")
    else:
        import h5py

        check_heaps(path)
        check_survives(path, lambda: walk(path))
        root = h5py.File(path, "r")
        check_inside(root, path.name)
    kind = str(root.attrs.get("encoding-type", ANNDATA))  # AnnData's first files have none
    if kind != ANNDATA:
        raise InputError(
            f"{path.name} holds '{kind}'; wanted is an AnnData. Of a MuData, write one table into a file of its own, "
            "for example mudata.mod['rna'].write_h5ad('rna.h5ad')."
        )
    return root


def large_table(root: Any, key: str) -> tuple[Any, tuple[str, ...]]:
    """An element of a file that stays there, and what is to be told of it.

    The element is None where there is no table of this name, or one that can be read.
    """
    node = root[key] if key in root else None
    # a group or an array; a named type of HDF5 is neither
    if node is None or not (hasattr(node, "shape") or hasattr(node, "keys") and "indptr" in node):
        return None, ()
    shape = _shape(node)
    told = check_chunks(node, shape, name_of(node))
    check_packed(node, name_of(node))
    if len(shape) != 2 or not are_many(shape):
        return None, told
    _check_version(node)
    return _held(node), told


def _check_version(node: Any) -> None:
    """Raises `InputError` for a table of a kind or version that is not known; AnnData's first files name none."""
    kind, version = (str(node.attrs.get(f"encoding-{what}", "")) for what in ("type", "version"))
    if kind and VERSIONS.get(kind) != version:
        wanted = ", ".join(f"{kind} {version}" for kind, version in VERSIONS.items())
        raise InputError(
            f"{name_of(node)} is stored as '{kind}' of version '{version}'; known are {wanted}. Write the file with a "
            "version of anndata that has these, or update poplin."
        )


def rows_in(source: Source) -> Stored:
    """The rows of an element of a file."""
    return _rows(root_of(Path(source.path))[source.key])


def _held(node: Any) -> Any:
    """A large table in a file, by rows; one that is stored by columns is read, if its entries are not many."""
    if _is_by_columns(node):
        return _read_by_columns(node)
    source, rows = _source(node), _rows(node)
    sparse = isinstance(rows, SparseRows)
    return Backed(source, _shape(node), partial(rows_in, source), sparse=sparse, stored=rows)


def _rows(node: Any) -> Stored:
    """How a table in a file is read by rows."""
    kind = (node if hasattr(node, "shape") else node["data"]).dtype.kind
    if kind not in "biuf":
        raise InputError(f"{name_of(node)} holds values of type '{kind}'; numbers are wanted.")
    if hasattr(node, "shape"):
        return DenseRows(node)
    return SparseRows(node["data"], node["indices"], _pointers(node), _shape(node)[1])


def _pointers(node: Any) -> np.ndarray:
    """Where the rows of a sparse table begin, in memory."""
    n, length, many = _shape(node)[0], node["indptr"].shape[0], node["data"].shape[0]
    if length != n + 1:
        raise InputError(
            f"{name_of(node)} is damaged: the {length} places at which its rows begin do not fit its {n} rows and "
            f"{many} entries. Write the file again."
        )
    check_stored(node["indptr"], name_of(node))
    return pointers_of(node, name_of(node))


def _read_by_columns(node: Any) -> Any:
    n, p = _shape(node)
    many = node["data"].shape[0]
    if are_many((many,)):
        raise InputError(
            f"{name_of(node)} ({n} x {p}, {many} entries) is stored by columns (CSC), so that no rows can be read "
            "alone, and is too large to be read whole. Store it by rows (CSR), where there is memory for that: "
            "adata.X = adata.X.tocsr() (or the layer), and write it again."
        )
    check_stored(node, name_of(node))
    from scipy.sparse import csc_array

    return csc_array(tuple(node[part][...] for part in ("data", "indices", "indptr")), shape=(n, p))


def _is_by_columns(node: Any) -> bool:
    return not hasattr(node, "shape") and "csc" in _attribute(node, "encoding-type", "h5sparse_format")


def _shape(node: Any) -> Any:
    shape = node.shape if hasattr(node, "shape") else _attribute(node, "shape", "h5sparse_shape")
    return tuple(int(size) for size in shape)


def _attribute(node: Any, name: str, before: str) -> Any:
    """An attribute under the name that it has now, or had in AnnData's first files."""
    return node.attrs[name] if name in node.attrs else node.attrs[before]


def _source(node: Any) -> Source:
    """Where an element lies, so that it can be opened again; stores that are no file have no path."""
    if hasattr(node, "file"):
        return Source(os.path.abspath(node.file.filename), node.name)
    root = getattr(node.store, "root", None) or getattr(node.store, "path", "")
    return Source(os.path.abspath(root) if root else "", node.path)


def name_of(node: Any) -> str:
    """What a message calls an element: `X of cells.h5ad`."""
    source = _source(node)
    return f"{str(source.key).lstrip('/')} of {Path(source.path).name}"
