"""Where a table is and what kind of file it is, before anything is read; broken files as one clear error.

Start at `located`; `loaded` turns what another library says of a broken file into an `InputError`. Files that hold
several tables take the name of one after a colon, `book.xlsx:counts`: `divided` takes the two apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poplin._errors import InputError, is_slip, said
from poplin.data.tables import listed

TEXT = (".csv", ".tsv", ".txt", ".tab")
ANNOTATED = (".h5ad", ".zarr")
BOOKS = (".xlsx", ".xlsm")
R_FILES = (".rds", ".rda", ".rdata")
FRAMES = (*TEXT, ".parquet", *BOOKS, *R_FILES)  # with a line of column names, of counts or of covariates
MATRICES = (".npz", ".mtx", ".h5", ".biom", *ANNOTATED)  # of counts, with their names beside them
FOLDER = ".zarr"  # the one kind that is always a folder
_PACKED = (*TEXT, ".mtx")
_PARTED = (*BOOKS, *R_FILES, ".h5", ".mtx")  # files that may hold several tables
_MATRIX = "*matrix.mtx"  # in the folder that Cell Ranger makes
# endings that people try, and what to do with such a file
_FOREIGN = {
    ".xls": "an old Excel file. Open it and save it as .xlsx or .csv",
    ".xlsb": "a binary Excel file. Open it and save it as .xlsx or .csv",
    ".ods": "a LibreOffice sheet. Open it and save it as .xlsx or .csv",
    ".qza": "an artefact of QIIME 2. Take the table out, as feature-table.biom: qiime tools export --input-path FILE "
    "--output-path .",
    ".loom": "a loom file. Write it as .h5ad: anndata.io.read_loom(file).write_h5ad(new)",
    ".h5mu": "a MuData file. Write one of its tables as .h5ad: mudata.read(file)['rna'].write_h5ad(new)",
    ".h5seurat": "a Seurat file. Write the counts from R: Matrix::writeMM, with the names in barcodes.tsv and "
    "features.tsv",
    ".sav": "an SPSS file. Save it as .csv there",
    ".dta": "a Stata file. Save it as .csv there (export delimited)",
    ".sas7bdat": "a SAS file. Save it as .csv there (proc export)",
    ".mat": "a MATLAB file. Save it as .csv there (writetable)",
    ".feather": "a Feather file. Save it as .parquet",
    ".pkl": "a pickle, which can run any program. Save the table as .parquet or .csv",
    ".zip": "an archive. Unpack it and give the table in it",
}


def divided(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """A file, and the table in it that is named after a colon, as in book.xlsx:counts; None where none is named."""
    head, _, part = os.fspath(path).rpartition(":")
    if head and part and not os.path.exists(path) and os.path.exists(head):
        return Path(head), part
    return Path(path), None


def kind_of(path: str | os.PathLike[str]) -> str:
    """The kind of a file: its suffix in small letters, without .gz; "" if it has none."""
    file, _ = divided(path)
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes = suffixes[:-1]
    found = (suffixes[-1:] or [""])[0]
    return ".mtx" if found != FOLDER and file.is_dir() and list(file.glob(f"{_MATRIX}*")) else found


def located(path: str | os.PathLike[str], known: tuple[str, ...]) -> tuple[Path, str, str | None]:
    """The file, its kind, and which table of it is asked for (None: it has one).

    Of a folder that holds a matrix.mtx, this is the file. Raises `InputError` when there is no file that could be read
    as one of the `known` kinds.
    """
    file, part = divided(path)
    kind = kind_of(file)
    if file.is_dir() and kind == ".mtx" and kind in known:
        file = _matrix_in(file)
    if file.is_dir() and (kind != FOLDER or kind not in known):
        raise InputError(f"{file} is a folder. Give a file: {listed(known, 20)}.{_nearby(file, known)}")
    if not file.exists():
        raise InputError(f"There is no file {file}. Check the path (relative to {Path.cwd().name}/).")
    if kind in _FOREIGN and kind not in known:
        raise InputError(f"{file.name} is {_FOREIGN[kind].replace('FILE', file.name)}.")
    if kind in known and file.suffix.lower() == ".gz" and kind not in _PACKED:
        raise InputError(f"{file.name} is packed, and {kind} is read unpacked: gunzip {file.name}.")
    if kind not in known:
        raise InputError(
            f"{file.name} is of no known kind. Known endings are {listed(known, 20)} (.gz after text or "
            ".mtx)."
        )
    if kind == FOLDER and not file.is_dir():
        raise InputError(f"{file.name} is a file; a zarr store is a folder, as adata.write_zarr makes it.")
    if not (any(file.iterdir()) if kind == FOLDER else file.stat().st_size):
        raise InputError(f"{file.name} is empty.")
    if part is not None and kind not in _PARTED:
        raise InputError(
            f"{file.name} holds one table; leave ':{part}' out. Several are in {listed(_PARTED, 20)}."
        )
    if not os.access(file, os.R_OK):
        raise InputError(f"{file.name} may not be read. Check its permissions.")
    return file, kind, part


def _matrix_in(folder: Path) -> Path:
    """The matrix in a folder that Cell Ranger makes, packed or not."""
    found = sorted(file for ending in ("", ".gz") for file in folder.glob(_MATRIX + ending))
    if len(found) != 1:
        raise InputError(f"{folder} holds {listed(file.name for file in found)}. Give one of them.")
    return found[0]


def _nearby(folder: Path, known: tuple[str, ...]) -> str:
    """The matrix that lies one folder deeper, if counts are looked for."""
    found = sorted({file.parent for file in folder.glob(f"*/{_MATRIX}*")}) if ".mtx" in known else []
    return f" A matrix lies in {listed(found, 3)}." if found else ""


def loaded(file: Path, load: Callable[[], Any]) -> Any:
    """What `load` gives; another library's failure on a broken file, of whatever class, becomes an `InputError`.

    A slip of poplin's own stays what it is: to call it damage would send the user after a file that is whole.
    """
    try:
        return load()
    except InputError:
        raise
    except Exception as error:  # damaged bytes end in errors of zlib, of recursion, of division, of Unicode
        if is_slip(error):
            raise
        kind = file.suffix or "such a"
        raise InputError(
            f"{file.name} cannot be read as {kind} file: {said(error)}. It may be damaged: copy it again, or write it "
            "again from where it came."
        ) from error
