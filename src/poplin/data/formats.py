"""BIOM tables (biom-format.org), of version 1 (JSON) and 2 (HDF5): taxa are their rows, so they are turned.

Start at `read_biom`. The few fields that are wanted are read here: the package biom-format has to be compiled for each
Python, and reads no more than these.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError, library
from poplin.data.damage import check_chunks, check_stored
from poplin.data.located import loaded
from poplin.data.stored import root_of
from poplin.data.tables import CountTable, Names, index_names, listed
from poplin.data.textfiles import is_number

_HDF5 = b"\x89HDF"
_LARGEST_JSON = 1 << 31  # bytes of JSON that are read; the whole of it is in memory, several times


def read_biom(file: Path) -> CountTable:
    """The counts with samples as rows, and what the file says of samples as covariates; of taxa only names are read."""

    def read() -> CountTable:
        with file.open("rb") as stream:
            is_hdf5 = stream.read(len(_HDF5)) == _HDF5
        return _from_hdf5(file) if is_hdf5 else _from_json(file)

    return loaded(file, read)


def _from_biom(
    file: Path, values: Any, samples: list[str], taxa: list[str], facts: dict[str, Any]
) -> CountTable:
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
    if file.stat().st_size > _LARGEST_JSON:
        raise InputError(
            f"{file.name} is too large for JSON. Convert it: biom convert -i {file.name} -o new.biom --to-hdf5."
        )
    held = json.loads(file.read_bytes())
    if not isinstance(held, dict):
        raise InputError(f"{file.name} is no BIOM table: its JSON is no object with rows, columns and data.")
    lacking = [name for name in ("rows", "columns", "shape", "data") if name not in held]
    if lacking:
        raise InputError(f"{file.name} is no BIOM table: it has no {listed(lacking)}.")
    taxa, samples = (_ids(held[side], side, file) for side in ("rows", "columns"))
    shape = (len(taxa), len(samples))
    if held["shape"] != list(shape):
        raise InputError(
            f"{file.name} is damaged: it declares counts of the shape {str(held['shape'])[:40]}, and names {shape[0]} "
            f"taxa and {shape[1]} samples. Write it again."
        )
    try:
        numbers = np.array(held["data"], float)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{file.name} is damaged: its 'data' are no table of numbers ({error}). Write it again."
        ) from error
    values = _by_places(numbers, shape) if held.get("matrix_type") == "sparse" else numbers
    facts = _facts([entry.get("metadata") for entry in held["columns"]])
    return _from_biom(file, values.reshape(shape).T, samples, taxa, facts)


def _ids(entries: Any, side: str, file: Path) -> list[str]:
    """The names that a side of the table gives."""
    if not isinstance(entries, list) or not all(isinstance(one, dict) and "id" in one for one in entries):
        raise InputError(f"{file.name} is damaged: not each of its '{side}' has an id. Write it again.")
    return [str(entry["id"]) for entry in entries]


def _by_places(entries: np.ndarray, shape: tuple[int, int]) -> Any:
    """Entries (taxon, sample, count) as a table."""
    from scipy.sparse import coo_array

    triples = entries.reshape(-1, 3)
    i, j = (triples[:, side].astype(np.int64) for side in (0, 1))
    if (triples[:, :2] != np.stack([i, j], 1)).any():
        raise ValueError("the place of a count is no whole number")
    return coo_array((triples[:, 2], (i, j)), shape=shape)


def _facts(metadata: list[Any]) -> dict[str, list[Any]]:
    """What is said of each sample, by name; lists and the like are no covariates."""
    every = [entry if isinstance(entry, dict) else {} for entry in metadata]
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
        taxa, samples = (_decoded(root[f"{side}/ids"]) for side in ("observation", "sample"))
        shape = (len(samples), len(taxa))
        matrix = root["sample/matrix"]  # of samples by taxa, by rows
        check_chunks(matrix, shape, f"The matrix of {file.name}")
        entries = tuple(np.asarray(matrix[name][...]) for name in ("data", "indices", "indptr"))
        values: Any = csr_array(entries, shape=shape)
        values.check_format(full_check=True)
        about = root["sample/metadata"] if "sample/metadata" in root else {}
        facts = {
            name: _decoded(about[name])
            for name in about
            if getattr(about[name], "shape", ()) == (len(samples),)
        }
    finally:
        root.close()
    return _from_biom(file, values, samples, taxa, facts)


def _decoded(node: Any) -> list[Any]:
    """The entries of a column, text decoded."""
    return [cell.decode("utf-8") if isinstance(cell, bytes) else cell for cell in node[...].tolist()]


# What Cell Ranger writes: features by barcodes in HDF5 (.h5), or a folder with names beside a matrix.mtx.
#
# Start at `read_tenx` for .h5, of version 3 (one group, `matrix`) or 2 (a group for each genome). `chosen_features`
# says for both which features are counts of one kind, and how they are named; `readers.py` reads the folder.


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
    return loaded(file, lambda: _read_h5(file, part))


def _read_h5(file: Path, part: str | None) -> CountTable:
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


# R's files (.rds, .rda, .RData): data frames, matrices, sparse matrices of the package Matrix.
#
# Start at `read_r`. The library rdata parses the bytes, in Python, so that a damaged file can end in an error only;
# what a table of R is, is said here: names that occur twice stay two columns, factors keep their levels, days are
# written as text, as they are in a text table.


_LARGEST_R = 1 << 31  # bytes of an R file, unpacked
_LONGEST = 10_000_000  # of a sequence that a file declares without holding it
_OPEN: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_SPARSE = {"dgCMatrix": "csc", "dgRMatrix": "csr", "dgTMatrix": "coo"}
_WRITE = "Write the table from R: write.csv(as.matrix(x), 'counts.csv')."


def read_r(file: Path, part: str | None) -> Any:
    """The one table in an R file, or the `part` named: a DataFrame of a data frame, a `CountTable` of a matrix.

    Raises `InputError` where there are several and none is named, or what is there is no table.
    """
    library("rdata", extra="formats", what=f"Reading {file.name}, a file of R,")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that rdata does not know
        return loaded(file, lambda: _read(file, part))


def _read(file: Path, part: str | None) -> Any:
    from rdata import parser

    sequences = {
        name: _bounded(make) if b"compact" in name else make
        for name, make in parser.DEFAULT_ALTREP_MAP.items()
    }
    parsed = parser.parse_data(_unpacked(file), altrep_constructor_dict=sequences, extension=".rds")
    try:
        return _of_tree(parsed.object, part, file, parsed.extra.encoding)
    except (LookupError, AttributeError, TypeError) as error:  # rdata's tree is of whatever the bytes say
        raise ValueError(f"its parts are not those of an object of R ({error})") from error


def _of_tree(thing: Any, part: str | None, file: Path, encoding: str | None) -> Any:
    """The table in an object of R, as rdata has parsed it."""
    from rdata import parser

    if thing.info.type is parser.RObjectType.LIST:  # of names and what was saved under them
        return _one(_pairs(thing, encoding), part, file, encoding)
    tags = _attributes(thing, encoding)
    if thing.info.type is parser.RObjectType.VEC and "class" not in tags and "names" in tags:  # a list of R
        names = (name or "" for name in _strings(tags["names"], encoding))
        named = dict(zip(names, thing.value, strict=True))
        return _one(named, part, file, encoding)
    if part is not None:
        raise InputError(f"{file.name} holds one object without a name; leave ':{part}' out.")
    return _table(thing, file.name, encoding)


def _one(things: dict[str, Any], part: str | None, file: Path, encoding: str | None) -> Any:
    """The table of that name, or the only one."""
    if part is not None and part not in things:
        raise InputError(f"{file.name} has no object '{part}'; it has {listed(things, 12)}.")
    if part is None and len(things) != 1:
        raise InputError(
            f"{file.name} holds the objects {listed(things, 12) or 'none'}. Name the one to read after a colon: "
            f"'{file.name}:{next(iter(things), 'x')}'."
        )
    name = part or next(iter(things))
    return _table(things[name], f"'{name}' in {file.name}", encoding)


def _unpacked(file: Path) -> bytes:
    with file.open("rb") as stream:
        head = stream.read(6)
    opening = next(
        (make for magic, make in _OPEN.items() if head.startswith(magic)), lambda path: path.open("rb")
    )
    with opening(file) as stream:
        found = stream.read(_LARGEST_R + 1)
    if len(found) > _LARGEST_R:
        raise InputError(f"{file.name} unpacks to more than {_LARGEST_R >> 30} GiB. {_WRITE}")
    return found


def _bounded(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A sequence that R writes as its length and its ends, if it is no longer than any table."""

    def made(state: Any) -> Any:
        if not 0 <= state.value[0] <= _LONGEST:
            raise ValueError(f"a sequence of {state.value[0]:g} numbers is declared")
        return make(state)

    return made


def _pairs(chain: Any, encoding: str | None) -> dict[str, Any]:
    """The names and values of R's linked list."""
    found = {}
    while chain is not None and isinstance(chain.value, tuple):
        value, chain_next = chain.value
        tag = (
            chain.tag
            if chain.tag is None or chain.tag.referenced_object is None
            else chain.tag.referenced_object
        )
        if tag is not None:
            found[_text(tag.value, encoding) or ""] = value
        chain = chain_next
    return found


def _attributes(thing: Any, encoding: str | None) -> dict[str, Any]:
    return {} if thing.attributes is None else _pairs(thing.attributes, encoding)


def _text(char: Any, encoding: str | None) -> str | None:
    """One string of R; None is NA."""
    if char.value is None:
        return None
    latin = char.info.gp & 4  # R's mark of latin1
    return char.value.decode("latin-1" if latin else encoding or "utf-8" if not char.info.gp & 8 else "utf-8")


def _strings(thing: Any, encoding: str | None) -> list[str | None]:
    return [_text(char, encoding) for char in thing.value]


def _table(thing: Any, what: str, encoding: str | None) -> Any:
    """A data frame or a matrix."""
    tags = _attributes(thing, encoding)
    kinds = [kind or "" for kind in _strings(tags["class"], encoding)] if "class" in tags else []
    if "data.frame" in kinds:
        return _frame(thing, tags, what, encoding)
    sparse = next((kind for kind in kinds if kind in _SPARSE), None)
    if sparse is not None:
        return _named(_sparse(tags, _SPARSE[sparse]), tags.get("Dimnames"), what, encoding)
    if "dim" in tags and len(tags["dim"].value) == 2:
        shape = tuple(int(size) for size in tags["dim"].value)
        values = np.reshape(np.array(_cells(thing, encoding)), shape, order="F")
        table = _named(values, tags.get("dimnames"), what, encoding)
        if "taxa_are_rows" in tags and tags["taxa_are_rows"].value[0]:  # the otu_table of phyloseq
            note = f"{what} has taxa in rows, as it says; it was turned so that samples are rows."
            return CountTable(values.T, table.column_names, table.row_names, None, (note,), turned=True)
        return table
    raise InputError(
        f"{what} is no data frame and no matrix{f', but a {kinds[0]}' if kinds else ''}. {_WRITE}"
    )


def _named(values: Any, names: Any, what: str, encoding: str | None) -> CountTable:
    """A matrix with its dimnames, each of which may be none."""
    sides: list[Any] = [None, None]
    for side, held in enumerate(() if names is None or not names.value else names.value[:2]):
        if held.value is not None and len(held.value) != values.shape[side]:
            raise InputError(
                f"{what} is damaged: a matrix of {values.shape[0]} x {values.shape[1]} with {len(held.value)} names on "
                "a side. Write it again."
            )
        sides[side] = None if held.value is None else index_names(_strings(held, encoding))
    return CountTable(values, *sides)


def _sparse(tags: dict[str, Any], layout: str) -> Any:
    """A sparse matrix of the package Matrix, by its slots."""
    from scipy import sparse

    shape = tuple(int(size) for size in tags["Dim"].value)
    values = np.asarray(tags["x"].value)
    if layout == "coo":
        made: Any = sparse.coo_array((values, (tags["i"].value, tags["j"].value)), shape=shape)
    else:
        places = tags["i" if layout == "csc" else "j"].value
        made = getattr(sparse, f"{layout}_array")((values, places, tags["p"].value), shape=shape)
        made.check_format(full_check=True)
    return made.tocsr()


def _frame(thing: Any, tags: dict[str, Any], what: str, encoding: str | None) -> Any:
    import pandas

    names = _strings(tags["names"], encoding) if "names" in tags else []
    columns = [_cells(column, encoding) for column in thing.value]
    if len(names) != len(columns) or len({len(column) for column in columns}) > 1:
        raise InputError(f"{what} is damaged: the columns of its data frame are not alike. Write it again.")
    frame = (
        pandas.concat([pandas.Series(column) for column in columns], axis=1)
        if columns
        else pandas.DataFrame()
    )
    frame.columns = names
    texts = _row_names(tags.get("row.names"), encoding)
    if texts and len(texts) != len(frame):
        raise InputError(
            f"{what} is damaged: it has {len(frame)} rows and {len(texts)} names. Write it again."
        )
    if texts:
        frame.index = texts
    return frame


def _row_names(labels: Any, encoding: str | None) -> list[Any]:
    """The names of rows; none where R only numbers them, from 1, which it may write as NA and how many they are."""
    if labels is None or np.ma.is_masked(labels.value):
        return []
    held = labels.value
    texts = _strings(labels, encoding) if isinstance(held, list) else [f"{number:.15g}" for number in held]
    return [] if texts == [str(i + 1) for i in range(len(texts))] else texts


def _cells(thing: Any, encoding: str | None) -> Any:
    """A column: numbers, truth values, text; a factor with its levels; days as text."""
    import pandas

    tags = _attributes(thing, encoding)
    kinds = _strings(tags["class"], encoding) if "class" in tags else []
    if isinstance(thing.value, list):
        if any(not isinstance(char.value, bytes | None) for char in thing.value):
            raise ValueError("a column holds lists")
        return np.array(_strings(thing, encoding), dtype=object)
    value = thing.value
    if "factor" in kinds:
        levels = _strings(tags["levels"], encoding)
        codes = np.ma.filled(value, 0)
        if len(codes) and not 0 <= codes.min() <= codes.max() <= len(levels):
            raise ValueError("a factor holds numbers that are no levels")
        return pandas.Categorical.from_codes(codes - 1, levels, ordered="ordered" in kinds)
    if "Date" in kinds or "POSIXct" in kinds:
        unit = "D" if "Date" in kinds else "s"
        numbers = np.ma.filled(np.ma.asarray(value, float), np.nan)
        stamps = np.where(np.isfinite(numbers), numbers, 0).astype(f"datetime64[{unit}]")
        return _where(np.isfinite(numbers), np.datetime_as_string(stamps))
    if not isinstance(value, np.ndarray):
        raise ValueError("a column holds neither numbers nor text")
    if not np.ma.is_masked(value):
        return np.ma.getdata(value)
    there, data = ~np.ma.getmaskarray(value), np.ma.getdata(value)
    return _where(there, data) if value.dtype.kind == "b" else np.where(there, data, np.nan)


def _where(there: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values that are there, and None."""
    found = values.astype(object)
    found[~there] = None
    return found
