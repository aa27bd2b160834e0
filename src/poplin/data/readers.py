"""Files to tables, by suffix: csv, tsv, txt, tab (also .gz), parquet, npz, mtx, h5ad, zarr, xlsx, biom, h5, rds, rda.

Start at `read_counts`, whose `CountTable` goes straight into `as_counts` (large tables in .h5ad, .zarr and .parquet
stay there, see `large_files.py`); `read_table` reads covariates, `read_basis` a borrowed basis, `read_annotated` an
AnnData. What has a header is read in `framed.py` (text, sheets, R), files of other programs in rooms of their own. No
pickle is ever loaded. Whatever a file lacks is an `InputError`.
"""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from poplin._errors import DataWarning, InputError
from poplin.data.damage import array_in, arrays_in, check_facts, check_stored
from poplin.data.formats import TURNED, TYPES, Features, chosen_features, read_biom, read_tenx
from poplin.data.framed import read_frame, read_framed_counts
from poplin.data.held import are_many
from poplin.data.large_files import counted, large_annotated, large_parquet, part_of
from poplin.data.located import ANNOTATED, FRAMES, MATRICES, loaded, located
from poplin.data.stored import root_of
from poplin.data.tables import CountTable, Names, as_table, index_names, listed
from poplin.data.textfiles import unpacked

_SPARSE_KEYS = {"format", "shape", "data"}
MOST_PACKED = 1032  # bytes that one byte of a .gz file can stand for


def read_counts(
    path: str | os.PathLike[str], *, row_names: str | None = None, layer: str | None = None
) -> CountTable:
    """The counts in a file, with the names and covariates it holds.

    .csv, .tsv, .txt, .tab (also .gz), .parquet, .xlsx and data frames in .rds and .rda: rows are rows, with a header;
    `row_names` is the column of row names ("none": there is none), else see `textfiles.name_rows`. .npz: `counts` or
    `Y`, or the layout of scipy.sparse.save_npz, with optional obs_names, var_names, cov_<name> and log_offset. .h5ad,
    and the folder that `adata.write_zarr` makes (.zarr): X or the `layer` named, with obs as covariates. .mtx (with
    barcodes.tsv and features.tsv beside it, or their folder), .h5 of Cell Ranger, .biom, and text of QIIME hold
    samples in columns; they are turned so that samples are rows. Where a file holds several tables, one is named
    after a colon: "book.xlsx:counts".

    Raises `InputError` when there is no such file, or it is none of these.
    """
    file, kind, part = located(path, (*FRAMES, *MATRICES))
    if layer is not None and kind not in ANNOTATED:
        raise InputError(f"layer='{layer}' is asked for, and {file.name} is no AnnData (.h5ad, .zarr).")
    return loaded(file, lambda: _counts(file, kind, part, row_names, layer))


def _counts(file: Path, kind: str, part: str | None, row_names: str | None, layer: str | None) -> CountTable:
    """The counts in a file of a known kind; whatever is raised here is told of as of this file."""
    if kind == ".npz":
        return _npz_counts(file)
    if kind == ".mtx":
        return _mtx_counts(file, part)
    if kind in ANNOTATED:
        return _annotated_counts(file, layer)
    if kind == ".biom":
        return as_table(read_biom(file))
    if kind == ".h5":
        return as_table(read_tenx(file, part))
    if kind == ".parquet":
        n, columns = counted(file)
        if are_many((n, len(columns))):
            return as_table(large_parquet(file, columns, row_names))
    return read_framed_counts(file, kind, part, row_names)


def read_table(path: str | os.PathLike[str], *, row_names: str | None = None) -> Any:
    """A table of covariates as a DataFrame, its index the row names (a plain numbering if it has none).

    Reads the same files as `read_counts`; of .npz the cov_<name> arrays, of .h5ad and .zarr obs, of .biom what it
    says of samples.
    """
    file, kind, part = located(path, (*FRAMES, ".npz", ".biom", *ANNOTATED))
    return loaded(file, lambda: _covariates(file, kind, part, row_names))


def _covariates(file: Path, kind: str, part: str | None, row_names: str | None) -> Any:
    if kind in (".npz", ".biom"):
        covariates = (_npz_counts if kind == ".npz" else read_biom)(file).covariates
        if covariates is None:
            what = (
                "none of its arrays is named cov_<name>"
                if kind == ".npz"
                else "it has no metadata of samples"
            )
            raise InputError(f"{file.name} holds no covariates: {what}.")
        return covariates
    if kind in ANNOTATED:
        root = root_of(file)
        for words in check_facts(root["obs"], f"obs of {file.name}"):
            warnings.warn(words, DataWarning, stacklevel=5)
        return part_of(root, "obs")
    return read_frame(file, kind, part, row_names)


def read_basis(path: str | os.PathLike[str]) -> Any:
    """A basis V as a DataFrame of p rows and q columns, its row names (if any) those of the counts' columns.

    Text with or without a header, .parquet, .npy, or .npz holding one array (or one named V or basis) and
    optional var_names.
    """
    file, kind, part = located(path, (*FRAMES, ".npz", ".npy"))
    return loaded(file, lambda: _basis(file, kind, part))


def _basis(file: Path, kind: str, part: str | None) -> Any:
    import pandas

    if kind == ".npy":
        array = array_in(file)
        if array.ndim not in (1, 2):
            raise InputError(
                f"{file.name} has {array.ndim} dimensions; wanted is a basis of p rows and q columns."
            )
        return pandas.DataFrame(array)
    if kind == ".npz":
        arrays = _npz(file)
        matrices = [name for name, array in arrays.items() if array.ndim == 2]
        chosen = [name for name in ("V", "basis") if name in matrices] or matrices
        if len(chosen) != 1:
            raise InputError(
                f"{file.name} holds the arrays {listed(arrays)}; wanted is one two-dimensional array, named "
                "V."
            )
        frame = pandas.DataFrame(arrays[chosen[0]])
        names = _names(arrays, "var_names", len(frame), file)
        return frame if names is None else frame.set_axis(list(names), axis=0)
    return read_frame(file, kind, part, None, counts=True, header=None)


def _npz(file: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(file):
        raise InputError(f"{file.name} is no .npz file. Write it with numpy.savez or scipy.sparse.save_npz.")
    return arrays_in(file)


def _npz_counts(file: Path) -> CountTable:
    """Counts from .npz, dense or sparse, with names and covariates where they fit."""
    arrays = _npz(file)
    given = [name for name in ("counts", "Y") if name in arrays]
    if given:
        values: Any = arrays[given[0]]
    elif set(arrays) >= _SPARSE_KEYS:
        from scipy import sparse

        values = sparse.load_npz(file)
    else:
        raise InputError(
            f"{file.name} holds the arrays {listed(arrays)}; wanted is `counts` (or `Y`), rows by columns, "
            "or the layout of scipy.sparse.save_npz."
        )
    if values.ndim != 2:
        raise InputError(
            f"The counts in {file.name} have the shape {values.shape}; wanted is rows by columns."
        )
    n, p = values.shape
    rows = _names(arrays, "obs_names", n, file)
    columns = _names(arrays, "var_names", p, file)
    notes = tuple(
        f"{file.name} holds '{name}', which was not used, as it may be on the scale of counts; offsets are "
        "on the log scale (in .npz under the name log_offset)."
        for name in ("offset", "coverage")
        if name in arrays
    )
    table = CountTable(
        values, rows, columns, _npz_covariates(arrays, rows, n, file), notes, arrays.get("log_offset")
    )
    return as_table(table)


def _names(arrays: dict[str, np.ndarray], key: str, length: int, file: Path) -> Names | None:
    if key not in arrays:
        return None
    names = arrays[key]
    if names.shape != (length,):
        raise InputError(
            f"'{key}' in {file.name} has the shape {names.shape}; wanted is ({length},), one name each."
        )
    return index_names(names)


def _npz_covariates(arrays: dict[str, np.ndarray], rows: Names | None, n: int, file: Path) -> Any:
    found = {name.removeprefix("cov_"): array for name, array in arrays.items() if name.startswith("cov_")}
    wrong = [name for name, array in found.items() if array.shape != (n,)]
    if wrong:
        raise InputError(
            f"The covariates {listed(wrong)} in {file.name} do not have {n} values, one for each row."
        )
    if not found:
        return None
    import pandas

    frame = pandas.DataFrame(found)
    return frame if rows is None else frame.set_axis(list(rows), axis=0)


def _mtx_counts(file: Path, part: str | None) -> CountTable:
    """Counts in Matrix Market format, turned so that barcodes are rows when the names beside it say so."""
    from scipy.io import mmread

    values: Any = mmread(_market(file))
    prefix = file.name.split("matrix")[0] if "matrix" in file.name else ""
    cells, about = _beside(file, prefix, ("barcodes",)), _beside(file, prefix, ("features", "genes"))
    cells = None if cells is None else list(cells[0])
    features = None if about is None else _features(about)
    genes = (
        None if features is None else list(chosen_features(features._replace(types=None), None, file.name)[1])
    )
    shape = values.shape
    if cells is not None and features is not None and shape == (len(features.ids), len(cells)):
        places, names, told = chosen_features(features, part, file.name)
        turned_values = values.T if len(places) == shape[0] else values.T.tocsr()[:, places]
        notes = (TURNED.format(file.name), *told)
        return as_table(
            CountTable(turned_values, index_names(cells), index_names(names), None, notes, turned=True)
        )
    if part is not None:
        raise InputError(
            f"{file.name}:{part} asks for a type of features, and there are none beside the matrix."
        )
    rows = index_names(cells) if cells is not None and len(cells) == shape[0] else None
    columns = index_names(genes) if genes is not None and len(genes) == shape[1] else None
    notes = []
    for names, found, what in ((cells, rows, "barcodes"), (genes, columns, "features")):
        if names is not None and found is None and len(names) not in shape:
            notes.append(
                f"The {len(names)} {what} beside {file.name} fit no side of its {shape[0]} x {shape[1]} "
                "matrix."
            )
    return as_table(CountTable(values, rows, columns, None, tuple(notes)))


def _market(file: Path) -> Any:
    """A Matrix Market file for scipy's reader. Raises `InputError` for what ends that, or has it ask for all memory."""
    from scipy.io import mminfo

    with unpacked(file) as stream:
        last = b""
        while block := stream.read(1 << 20):
            last = block
            if b"\0" in block:
                raise InputError(f"{file.name} is damaged: it holds bytes that are no text. Copy it again.")
    n, p, entries, layout, _, _ = mminfo(file)
    shortest = 4 if layout == "coordinate" else 2  # bytes of an entry: "1 1\n"
    most = file.stat().st_size * (1 if file.suffix.lower() == ".mtx" else MOST_PACKED) // shortest
    if entries > most:
        raise InputError(
            f"{file.name} declares {entries} entries ({n} x {p}), more than it can hold: it is cut off or "
            "damaged. Copy it again."
        )
    if last.endswith(b"\n"):
        return file
    with unpacked(file) as stream:  # a line without an end is read on behind the file
        return io.BytesIO(stream.read() + b"\n")


def _beside(file: Path, prefix: str, names: tuple[str, ...]) -> Any:
    """A file of names beside a .mtx as a DataFrame of text."""
    import pandas

    for name in names:
        for ending in (".tsv", ".tsv.gz"):
            beside = file.with_name(prefix + name + ending)
            if beside.is_file():
                read = partial(
                    pandas.read_csv, beside, sep="\t", header=None, dtype=str, keep_default_na=False
                )
                return loaded(beside, read)
    return None


def _features(about: Any) -> Features:
    """What features.tsv says: id, name, type."""
    ids, names, types = (list(about[j]) if j < about.shape[1] else None for j in range(3))
    return Features(ids or [], names, types if types is not None and set(types) & set(TYPES) else None)


def read_annotated(path: str | os.PathLike[str]) -> Any:
    """An AnnData from .h5ad or from the folder that `adata.write_zarr` makes (.zarr), in memory.

    Raises `InputError` when there is none, or what is there is no AnnData.
    """
    file, kind, _ = located(path, ANNOTATED)
    return loaded(file, lambda: _annotated(file, kind))


def _annotated(file: Path, kind: str) -> Any:
    from anndata.io import read_h5ad, read_zarr

    root = root_of(file)
    check_stored(root, file.name)  # AnnData follows whatever leads out of a file, and reads all of it
    for side in ("obs", "var"):
        if side in root:
            check_facts(root[side], f"{side} of {file.name}")
    held = read_zarr(file) if kind == ".zarr" else read_h5ad(file)
    if not hasattr(held, "obs_names"):
        raise InputError(f"{file.name} holds a {type(held).__name__}; wanted is an AnnData.")
    return held


def _annotated_counts(file: Path, layer: str | None) -> CountTable:
    """X or a layer, with names and obs; a large one stays in the file."""
    large, told = large_annotated(file, layer)
    if large is not None:
        table = as_table(large)
    else:
        held = _annotated(file, file.suffix.lower())
        if layer is not None:
            held.X = held.layers[layer]
        if held.X is None:
            there = f"{file.name} has no X; its layers are {listed(held.layers) or 'none'}."
            raise InputError(
                f"{there} Name one, layer='...'.", at_command_line=f"{there} Name one with --layer."
            )
        table = as_table(held)
    return table._replace(notes=(*table.notes, *told))
