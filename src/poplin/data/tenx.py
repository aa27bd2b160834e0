"""What Cell Ranger writes: features by barcodes in HDF5 (.h5), or a folder with names beside a matrix.mtx.

Start at `read_tenx` for .h5, of version 3 (one group, `matrix`) or 2 (a group for each genome). `chosen_features` says
for both which features are counts of one kind, and how they are named; `readers.py` reads the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.damage import check_chunks, check_stored
from poplin.data.located import loaded
from poplin.data.stored import root_of
from poplin.data.tables import CountTable, Names, index_names, listed

GENES = "Gene Expression"  # Cell Ranger's word for what is counted unless somebody says otherwise
# the types that Cell Ranger knows; a third column beside a matrix may be anything else
TYPES = (
    GENES,
    "Antibody Capture",
    "CRISPR Guide Capture",
    "Multiplexing Capture",
    "Antigen Capture",
    "Peaks",
    "Custom",
)
TURNED = "{} holds features by barcodes; it was turned so that barcodes are rows."
_VALUES = ("data", "indices", "indptr", "shape", "barcodes")


class Features(NamedTuple):
    """The rows of Cell Ranger's table: an id each, perhaps a name, perhaps the type of what was measured."""

    ids: Sequence[str]
    names: Sequence[str] | None = None
    types: Sequence[str] | None = None


def chosen_features(features: Features, part: str | None, source: str) -> tuple[list[int], Names, Names]:
    """The places of the features of one type (`part`, else genes), their names, and what is left out, for a note.

    The names are those of genes where no two are alike, else the ids. Raises `InputError` where there is no such type,
    or several of which none is of genes.
    """
    types = list(features.types or ())
    different = list(dict.fromkeys(types))
    if part is not None and part not in different:
        raise InputError(
            f"{source} has no features of the type '{part}'; it has {listed(different) or 'none'}."
        )
    wanted = part or (GENES if GENES in different else None)
    if wanted is None and len(different) > 1:
        raise InputError(
            f"{source} holds features of several types, {listed(different)}, which are no counts of one kind. Name one "
            f"after a colon: '{source}:{different[0]}'."
        )
    places = list(range(len(features.ids)))
    notes: Names = ()
    if wanted is not None and len(different) > 1:
        places = [i for i, kind in enumerate(types) if kind == wanted]
        others = [kind for kind in different if kind != wanted]
        notes = (
            f"{source} holds features of the types {listed(different)}; '{wanted}' was read. Name another after a "
            f"colon: '{source}:{others[0]}'.",
        )
    names = None if features.names is None else [features.names[i] for i in places]
    unique = names is not None and len(set(names)) == len(names)
    return places, tuple(names if unique and names is not None else (features.ids[i] for i in places)), notes


def read_tenx(file: Path, part: str | None) -> CountTable:
    """The counts in an .h5 of Cell Ranger, barcodes as rows; `part` is a type of features, or a genome in version 2."""
    return loaded(file, lambda: _read(file, part))


def _read(file: Path, part: str | None) -> CountTable:
    root = root_of(file)
    try:
        group, features, part = (
            _version_3(root) + (part,) if "matrix" in root else _version_2(root, part, file)
        )
        shape = tuple(int(size) for size in group["shape"][...])
        if len(shape) != 2:
            raise InputError(
                f"{file.name} is damaged: its matrix has {len(shape)} dimensions. Copy it again."
            )
        check_stored(root, file.name)
        check_chunks(group, shape, f"The matrix of {file.name}")
        barcodes = _texts(group["barcodes"])
        if shape != (len(features.ids), len(barcodes)):
            raise InputError(
                f"{file.name} is damaged: its matrix is {shape[0]} x {shape[1]}, with the names of "
                f"{len(features.ids)} features and {len(barcodes)} barcodes. Copy it again."
            )
        from scipy.sparse import csr_array

        entries = tuple(np.asarray(group[name][...]) for name in ("data", "indices", "indptr"))
        values: Any = csr_array(entries, shape=shape[::-1])
        values.check_format(full_check=True)
    finally:
        root.close()
    places, names, notes = chosen_features(features, part, file.name)
    values = values if len(places) == shape[0] else values[:, places]
    notes = (TURNED.format(file.name), *notes)
    return CountTable(values, index_names(barcodes), index_names(names), None, notes, turned=True)


def _version_3(root: Any) -> tuple[Any, Features]:
    group = root["matrix"]
    about = group["features"]
    types = _texts(about["feature_type"]) if "feature_type" in about else None
    return group, Features(_texts(about["id"]), _texts(about["name"]) if "name" in about else None, types)


def _version_2(root: Any, part: str | None, file: Path) -> tuple[Any, Features, None]:
    genomes = [name for name in root if all(wanted in root[name] for wanted in (*_VALUES, "genes"))]
    if not genomes:
        mend = " Rename it to end in .h5ad, if it is an AnnData." if "X" in root and "obs" in root else ""
        raise InputError(
            f"{file.name} holds {listed(root) or 'nothing'}; wanted is 'matrix', as Cell Ranger writes it.{mend}"
        )
    if part is None and len(genomes) > 1 or part is not None and part not in genomes:
        raise InputError(
            f"{file.name} holds the counts of {listed(genomes)}. Name one after a colon: '{file.name}:{genomes[0]}'."
        )
    group = root[part or genomes[0]]
    names = _texts(group["gene_names"]) if "gene_names" in group else None
    return group, Features(_texts(group["genes"]), names), None


def _texts(node: Any) -> list[str]:
    return [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in node[...]]
