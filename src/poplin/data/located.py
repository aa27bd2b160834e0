"""Where a table is and what kind of file it is, before anything is read; broken files as one clear error.

Start at `located`; `loaded` turns what another library says of a broken file into an `InputError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poplin._errors import InputError, said
from poplin.data.tables import listed

TEXT = (".csv", ".tsv", ".txt")
ANNOTATED = (".h5ad", ".zarr")
FOLDER = ".zarr"  # the one kind that is a folder
_PACKED = (*TEXT, ".mtx")


def kind_of(file: Path) -> str:
    """The kind of a file: its suffix in small letters, without .gz; "" if it has none."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes = suffixes[:-1]
    return (suffixes[-1:] or [""])[0]


def located(path: str | os.PathLike[str], known: tuple[str, ...]) -> tuple[Path, str]:
    """The file and its kind. Raises `InputError` when there is none that could be read as one of the `known` kinds."""
    file = Path(path)
    kind = kind_of(file)
    if file.is_dir() and (kind != FOLDER or kind not in known):
        raise InputError(f"{file} is a folder. Give a file: {listed(known, 12)}.")
    if not file.exists():
        raise InputError(f"There is no file {file}. Check the path (relative to {Path.cwd().name}/).")
    if kind not in known or (file.suffix.lower() == ".gz" and kind not in _PACKED):
        raise InputError(
            f"{file.name} is of no known kind. Known endings are {listed(known, 12)} (.gz after text or "
            ".mtx)."
        )
    if kind == FOLDER and not file.is_dir():
        raise InputError(f"{file.name} is a file; a zarr store is a folder, as adata.write_zarr makes it.")
    if not (any(file.iterdir()) if kind == FOLDER else file.stat().st_size):
        raise InputError(f"{file.name} is empty.")
    if not os.access(file, os.R_OK):
        raise InputError(f"{file.name} may not be read. Check its permissions.")
    return file, kind


def loaded(file: Path, load: Callable[[], Any]) -> Any:
    """What `load` gives; another library's failure on a broken file, of whatever class, becomes an `InputError`."""
    try:
        return load()
    except InputError:
        raise
    except (
        Exception
    ) as error:  # damaged bytes end in errors of zlib, of recursion, of division, of Unicode, ...
        kind = file.suffix or "such a"
        raise InputError(
            f"{file.name} cannot be read as {kind} file: {said(error)}. It may be damaged: copy it again, or write it "
            "again from where it came."
        ) from error
