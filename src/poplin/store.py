"""Fits on disk: named arrays and plain settings in one .npz file, without pickle, whole or not at all.

Start at `write_npz` and `read_npz`. `written_whole` is for every other file, `written_together` for files that belong
together: what is written lies in a scratch folder beside its place, and takes its name when all of it is on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from poplin._errors import InputError, said
from poplin._process import LOCK, naming, scratch, whole
from poplin.data.damage import member

FORMAT = "poplin fit"
VERSION = 1
_HEADER = "poplin"  # the array that makes a .npz file one of ours: JSON in bytes


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write that appears under its name only when the block ends without an error.

    `mode` is "w" (UTF-8 text) or "wb". An error inside the block, or Ctrl-C, leaves what was there before.
    """
    path = Path(path)
    text = "b" not in mode
    with written_together(path.parent) as draft:
        with open(
            draft / path.name, mode, encoding="utf-8" if text else None, newline="" if text else None
        ) as handle:
            yield handle


@contextlib.contextmanager
def written_together(folder: Path) -> Iterator[Path]:
    """A folder for files that appear in `folder` under the same names, all together, when the block ends.

    An error inside the block, or Ctrl-C, leaves what was there before. Files of the same names are replaced.
    """
    with scratch(folder) as draft:
        yield draft
        files = [path for path in sorted(draft.iterdir()) if path.name != LOCK]
        for path in files:
            if (folder / path.name).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{path.name} there is a folder")
            with open(path, "rb+") as handle:
                os.fsync(handle.fileno())
        with whole(), naming:
            for path in files:
                os.replace(path, folder / path.name)


def write_npz(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> None:
    """Write `arrays` and `meta` (whatever JSON can hold) to the file `path`, exactly under that name.

    The same content gives the same bytes. NumPy alone can read the file: `numpy.load(path)["coef"]`. Arrays
    of Python objects are a TypeError, as they would need pickle. Raises `InputError` when the file cannot be
    made.
    """
    header = {"format": FORMAT, "version": VERSION, "arrays": list(arrays), "meta": dict(meta)}
    packed = np.frombuffer(json.dumps(header, ensure_ascii=False).encode(), dtype=np.uint8)
    path = Path(path)
    for name, array in arrays.items():
        if name == _HEADER or np.asarray(array).dtype.hasobject:
            raise TypeError(f"'{name}' cannot be stored: its name is taken or it holds Python objects")
    try:
        with written_whole(path, "wb") as handle, zipfile.ZipFile(handle, "w") as archive:
            for name, array in {_HEADER: packed, **arrays}.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}. Choose another place."
        ) from error


def read_npz(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the settings in a file that `write_npz` made.

    Raises `InputError` when there is no such file, or it is of another make, cut short, damaged, or written
    by a newer poplin in a format that this one does not know.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {found}; wanted is a file that poplin saved.")
    try:
        with zipfile.ZipFile(path) as archive:
            meta = _checked_header(archive, path)
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            return {name: _array(archive, name) for name in names if name != _HEADER}, meta
    except InputError:
        raise
    except Exception as error:  # zipfile, numpy and json raise whatever there is on bytes that are not theirs
        raise InputError(_damage(path, error)) from error


def _checked_header(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    header = json.loads(_array(archive, _HEADER).tobytes()) if _HEADER in names else {}
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        held = ", ".join(f"'{name}'" for name in names[:5]) + (" and more" if len(names) > 5 else "")
        raise InputError(
            f"{path} was not saved by poplin: it is an archive that holds {held or 'nothing'}. "
            "To read counts from an .npz file, give it to fit, not to load."
        )
    if not isinstance(header["version"], int):
        raise ValueError(f"its version is {header['version']!r}")
    if header["version"] > VERSION:
        raise InputError(
            f"{path} was saved by a newer poplin (format {header['version']}; this one reads up to "
            f"{VERSION}). Update poplin: pip install --upgrade poplin."
        )
    if [name for name in names if name != _HEADER] != header["arrays"]:
        raise ValueError("arrays are missing")
    return dict(header["meta"])


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return member(archive, f"{name}.npy")


def _damage(path: Path, error: Exception) -> str:
    """What is wrong with a file that cannot be read to its end; a zip archive begins with PK."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as handle:
            begins = handle.read(12)
    except OSError:
        return f"{path} cannot be read: {error}."
    if not begins.startswith(b"PK"):
        begun = f"its {size} bytes begin not as those of .npz but with {begins!r}"
        return f"{path} was not saved by poplin: {begun}."
    return (
        f"{path} is cut short or damaged ({size} bytes; {said(error)}). Restore it from a copy or fit again."
    )
