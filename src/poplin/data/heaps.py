"""HDF5's heaps of text, looked through before the library reads them: over a damaged one it never comes to an end.

Start at `check_heaps`, which `stored.root_of` asks of every HDF5 file. A heap is a row of objects, each of which says
where the next begins; a free one of length 0 is followed by itself (HDF5 2.0 still goes round there).
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from poplin._errors import InputError

_SIGNED = b"GCOL\1\0\0\0"
_HEAD = struct.Struct("<8sQ")  # the signature with its version; bytes of the heap
_OBJECT = struct.Struct("<H6xQ")  # which it is (0: free space), its bytes
_ALIGNED = 8
_LARGEST = 1 << 30  # bytes of a file that is looked through


def check_heaps(path: Path) -> None:
    """Raises `InputError` where a heap does not come to its end. Cost: one pass over the file, a step for each text."""
    if path.stat().st_size > _LARGEST:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as held:
        place = held.find(_SIGNED)
        while place >= 0:
            if place % _ALIGNED == 0 and not _ends(held, place):
                raise InputError(
                    f"{path.name} is damaged: a part of it that holds text has no end. Copy it again."
                )
            place = held.find(_SIGNED, place + 1)


def _ends(held: mmap.mmap, place: int) -> bool:
    """Whether the objects of the heap at a place lead to its end."""
    if place + _HEAD.size > len(held):
        return True
    end = min(place + _HEAD.unpack_from(held, place)[1], len(held))
    place += _HEAD.size
    while place + _OBJECT.size <= end:
        which, size = _OBJECT.unpack_from(held, place)
        step = size if which == 0 else _OBJECT.size + -(-size // _ALIGNED) * _ALIGNED
        if not step:
            return False
        place += step
    return True
