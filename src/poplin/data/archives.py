"""NumPy's files, .npy and .npz: each array is as large as its header says, or refused before memory is asked for.

Start at `arrays_in` (.npz) and `array_in` (.npy). No pickle is ever loaded.
"""

from __future__ import annotations

import math
import sys
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from poplin._errors import InputError
from poplin.data.declared import check_declared

_NPY = ".npy"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def array_in(path: Path) -> np.ndarray:
    """The array in a .npy file. Raises whatever a damaged file leads to."""
    with path.open("rb") as stream:
        return _array(stream, path.stat().st_size, path.name)


def arrays_in(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a .npz file by name. Raises as `array_in` does, also for an archive that holds anything else."""
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(_NPY): member(archive, name) for name in archive.namelist()}


def member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of an archive, after a look at what the whole archive declares."""
    path = Path(str(archive.filename))
    every = sum(found.file_size for found in archive.infolist())
    check_declared(path.name, "what is packed in it", every, path.stat().st_size)
    found = archive.getinfo(name)
    if found.flag_bits & 1:
        raise InputError(
            f"{path.name} is encrypted. Unpack it with its password, and write it again without one."
        )
    with archive.open(found) as stream:
        return _array(stream, found.file_size, f"'{name.removesuffix(_NPY)}' in {path.name}")


def _array(stream: IO[bytes], size: int, what: str) -> np.ndarray:
    """The array in a stream of so many bytes."""
    version: Any = np.lib.format.read_magic(stream)
    if version not in _HEADERS:  # 3.0 is for fields with names in other scripts, which no table has
        raise ValueError(
            f"{what} is written in version {'.'.join(map(str, version))} of NumPy's format, not known here"
        )
    shape, _, kind = _HEADERS[version](stream)
    if kind.hasobject:
        raise ValueError(f"{what}: Object arrays need pickle, which is never loaded")
    declared, left = math.prod(shape) * kind.itemsize, size - stream.tell()
    if min(shape, default=0) < 0 or declared > left:
        raise InputError(
            f"{what} is damaged: it is declared with the shape {shape} and the type {kind}, {declared} bytes, and has "
            f"{left}. Copy it again."
        )
    stream.seek(0)
    found = np.lib.format.read_array(stream, allow_pickle=False)
    # pandas cannot count what another machine's order has
    found = found.astype(kind.newbyteorder("="), copy=False)
    if kind.kind == "U" and not _is_text(found):
        raise ValueError(f"{what} holds characters that there are not")
    return found


def _is_text(array: np.ndarray) -> bool:
    """Whether each number that stands for a character is one of Unicode's; Python's own checks do not look."""
    points = np.ascontiguousarray(array).reshape(-1).view(np.uint32) if array.dtype.itemsize else np.zeros(0)
    return bool(((points < 0xD800) | ((points > 0xDFFF) & (points <= sys.maxunicode))).all())
