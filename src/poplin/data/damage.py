"""What may be wrong with the store of an AnnData before anything in it is read: ways out of it, chunks that are gone.

Start at `check_inside` (HDF5) and `check_within` (zarr), which `stored.root_of` asks of every file, and at
`check_chunks` (`check_facts` of names and covariates); `check_stored` is for what is to be read whole. The libraries
are silent here: a link is followed into any file that the reader may read, and a chunk that is not there is read as
zeros, as many as are declared.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import math
import mmap
import os
import signal
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from poplin._errors import InputError
from poplin.data.held import are_many

# What a file declares, against the bytes it has: refused before memory is asked for.
#
# Start at `check_declared`, which every reader asks: of shapes that stand in a header, and of what is unpacked. A
# file of a kilobyte may declare a billion rows, or be packed zeros without end; both would fill the memory and tell
# nothing.


LARGE = 1 << 28  # bytes in memory, below which nothing is refused
MOST = 500  # times the stored bytes; real tables of counts, nearly all 0, are packed by up to some hundred
NAME = 100  # bytes in memory of the name of a row
CELLS = 4  # bytes in memory of a byte of text, at least


def check_declared(name: str, what: str, wanted: int, stored: int, each: int = 1) -> None:
    """Raises `InputError` where `what` of the file `name` is far more than its `stored` bytes can tell.

    `wanted` is how many bytes it has when it is unpacked, each of which takes `each` bytes of memory.
    """
    if wanted * each > LARGE and wanted > MOST * stored:
        raise InputError(
            f"{name} declares too much: {what} would be {wanted / 1e6:.0f} MB or more, and {stored} bytes are stored. "
            "The file is damaged, or made to fill the memory. Write it again from where it came; counts that are "
            "nearly all 0 as a sparse table."
        )


FEW = 0.01  # share of the chunks of a large table below which the file only declares it
_SMALL = 1 << 24  # bytes
_BLOSC = struct.Struct("<4B3I")  # versions, flags, size of an item; bytes unpacked, in a block, packed
_ABOUT = (".zarray", ".zattrs", ".zgroup", "zarr.json")  # files of a zarr store that are no chunks


def walk(path: Path) -> None:
    """Read what HDF5 keeps of each element: its attributes, and its numbers or texts where they are few.

    It is for `check_survives`, as this is where damaged bytes end a process.
    """
    import h5py

    with h5py.File(path, "r") as root:
        waiting: list[Any] = [root]
        seen: set[Any] = {root}  # a group may hold itself
        for node in waiting:
            with contextlib.suppress(Exception):
                for key in node.attrs:
                    with contextlib.suppress(Exception):
                        node.attrs[key]
            with contextlib.suppress(Exception):
                if isinstance(node, h5py.Group):
                    hard = [key for key in node if isinstance(node.get(key, getlink=True), h5py.HardLink)]
                    found = [node[key] for key in hard]
                    waiting += [inner for inner in found if inner not in seen]
                    seen.update(found)
                elif node.nbytes < _SMALL and not node.external and not node.is_virtual:
                    node[...]


def check_inside(root: Any, name: str) -> None:
    """Raises `InputError` where an HDF5 file leads out of itself, by links or storage elsewhere, or round in a circle.

    Cost: one look at each element; no numbers are read.
    """
    import h5py

    seen, waiting = {root}, [root]
    while waiting:
        group = waiting.pop()
        for key in group:
            where = f"{name} holds, at '{group.name.rstrip('/')}/{key}',"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise InputError(f"{where} a link to somewhere else, which is not followed. {_MEND}")
            node = group[key]
            if isinstance(node, h5py.Dataset) and (node.external or node.is_virtual):
                raise InputError(f"{where} numbers that lie in other files, which are not read. {_MEND}")
            if isinstance(node, h5py.Group):
                if node in seen:
                    raise InputError(f"{where} a group that stands elsewhere in it too. {_MEND}")
                seen.add(node)
                waiting.append(node)


def check_within(folder: Path) -> None:
    """Raises `InputError` where a zarr store leads out of its folder, by a link of the file system."""
    home = folder.resolve()
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(home):
                    where = Path(entry.path).relative_to(folder)
                    raise InputError(
                        f"{folder.name} holds, at '{where}', a link to somewhere else, which is not followed. {_MEND}"
                    )
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))


_MEND = "Write the file again, complete: anndata.read_h5ad(file).write_h5ad(new), if you trust where it came from."


def check_chunks(node: Any, shape: tuple[int, ...], name: str) -> tuple[str, ...]:
    """What is to be told of chunks of a table that are not there; `node` is dense, or the group of a sparse one.

    Chunks of zeros are left out by those who write dense tables, so that these are told of; a sparse table has no
    zeros to leave out. Raises `InputError` where counts are gone, and where hardly anything is there of a large table.
    """
    if not hasattr(node, "shape"):
        gone = [part for part in ("data", "indices", "indptr") if _absent(node[part])[0]]
        if gone and node["data"].shape[0] and shape[1] > 1:  # in one column, all indices are 0
            raise InputError(
                f"{name} is damaged: of its {' and its '.join(gone)}, parts are missing in the store. Copy it again."
            )
        return ()
    absent, chunks = _absent(node)
    if absent and (absent == chunks or (are_many(shape) and chunks - absent < FEW * chunks)):
        raise InputError(
            f"{name} is {' x '.join(str(size) for size in shape)} as it is declared, and of its {chunks} chunks "
            f"{chunks - absent} are there. The file is damaged, or nothing was written; write it again."
        )
    if not absent:
        return ()
    return (
        f"{absent} of the {chunks} chunks of {name} are not in the store and were read as 0: so chunks of zeros are "
        "stored, and so a store looks that lost some.",
    )


def check_facts(node: Any, name: str) -> tuple[str, ...]:
    """What is to be told of chunks that are not there of what is known of the rows (obs) or columns (var).

    Chunks of zeros are left out by those who write them, here too, but no name and no level is nothing. Raises
    `InputError` where these are gone, or all codes of a factor of several levels.
    """
    lost = []
    index = str(node.attrs.get("_index", "_index"))
    for array in _arrays(node):
        absent, chunks = _absent(array)
        if not absent:
            continue
        where = array.name.strip("/").removeprefix(node.name.strip("/")).strip("/")
        column, _, part = where.rpartition("/")
        levels = node[column]["categories"].shape[0] if part == "codes" else 0
        if where in (index, "") or part == "categories" or (levels > 1 and absent == chunks):
            raise InputError(
                f"{name} is damaged: of its '{where or name}', {absent} of {chunks} chunks are missing in the store. "
                "Copy it again."
            )
        lost.append(f"'{where}' ({absent} of {chunks})")
    if not lost:
        return ()
    return (
        f"Chunks of {name} are not in the store and were read as 0, as nothing or as the first level: "
        f"{', '.join(lost[:10])}{' ...' if len(lost) > 10 else ''}. So chunks of zeros are stored, and so a store "
        "looks that lost some.",
    )


def check_packed(node: Any, name: str) -> None:
    """Raises `InputError` where a chunk of an array of a zarr store (or of those in a group) is cut off.

    Blosc, in which zarr packs chunks, trusts the length at the head of a chunk, and reads on behind its end.
    """
    for array in _arrays(node):
        packers = getattr(array, "compressors", None) or (getattr(array, "compressor", None),)
        folder = None if hasattr(array, "file") else _folder(array)
        if (
            folder is None
            or "blosc" not in type(packers[-1]).__name__.lower()
            or getattr(array, "shards", None)
        ):
            continue
        for file in folder.rglob("*"):
            if file.is_file() and file.name not in _ABOUT:
                with file.open("rb") as chunk:
                    head = chunk.read(_BLOSC.size)
                if len(head) < _BLOSC.size or _BLOSC.unpack(head)[-1] != file.stat().st_size:
                    raise InputError(
                        f"{name} is damaged: of its '{array.path}', the chunk {file.relative_to(folder)} is cut off or "
                        "overwritten. Copy it again."
                    )


def check_stored(node: Any, name: str) -> None:
    """Raises `InputError` where an array (in a group) is cut off, or far larger than what is stored of it."""
    check_packed(node, name)
    for array in _arrays(node):
        shape, chunk = array.shape or (), getattr(array, "chunks", None) or ()
        wanted = max(math.prod(shape), math.prod(chunk)) * array.dtype.itemsize
        if wanted > LARGE:
            check_declared(name, f"'{array.name.lstrip('/')}' of the shape {shape}", wanted, _stored(array))
    for group in _elements(node):
        if hasattr(group, "keys") and all(part in group for part in ("data", "indices", "indptr")):
            pointers_of(group, f"'{group.name.lstrip('/')}' of {name}")


def _arrays(node: Any) -> Iterator[Any]:
    """The array, or all those in a group and its groups."""
    yield from (found for found in _elements(node) if hasattr(found, "shape"))


def _elements(node: Any) -> Iterator[Any]:
    """The element, and all that are in it."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        if hasattr(found, "keys"):  # of a group; a type that HDF5 keeps by name has neither keys nor numbers
            waiting.extend(found[key] for key in found)


def pointers_of(node: Any, name: str) -> np.ndarray:
    """Where the rows (columns) of a sparse table begin, in memory: they never go back, and end with its entries.

    Raises `InputError` for others: scipy writes where they lead before it looks at them.
    """
    length, many, places = (node[part].shape[0] for part in ("indptr", "data", "indices"))
    if many != places:
        raise InputError(
            f"{name} is damaged: it has {many} entries and {places} places. Write the file again."
        )
    if node["indptr"].dtype.kind not in "iu":
        raise InputError(
            f"{name} is damaged: the places at which its rows begin are no whole numbers. Write the file again."
        )
    pointers = np.asarray(node["indptr"][...])
    if not len(pointers) or pointers[0] != 0 or pointers[-1] > many or (pointers[1:] < pointers[:-1]).any():
        raise InputError(
            f"{name} is damaged: the {length} places at which its rows begin do not fit its {many} entries. Write the "
            "file again."
        )
    return pointers


def _stored(array: Any) -> int:
    """How many bytes are stored of an array; as many as it declares where that cannot be known."""
    if hasattr(array, "file"):
        return array.id.get_storage_size()
    folder = _folder(array)
    if folder is None:
        return math.prod(array.shape) * array.dtype.itemsize
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _folder(array: Any) -> Path | None:
    """The folder of an array in a zarr store; None where the store is none."""
    folder = Path(str(getattr(array.store, "root", None) or "")) / array.path
    return folder if array.path and folder.is_dir() else None


def _absent(array: Any) -> tuple[int, int]:
    """How many chunks of an array are not there, and how many it has; none where that cannot be known."""
    if 0 in array.shape or not array.shape:
        return 0, 0
    if hasattr(array, "file"):
        if not array.chunks:
            return (0 if array.id.get_storage_size() else 1), 1
        chunks, there = _many(array.shape, array.chunks), array.id.get_num_chunks()
        return chunks - there, chunks
    folder = _folder(array)
    if folder is None:
        return 0, 0
    chunks = _many(array.shape, getattr(array, "shards", None) or array.chunks)
    return chunks - sum(file.is_file() and file.name not in _ABOUT for file in folder.rglob("*")), chunks


def _many(shape: tuple[int, ...], chunk: tuple[int, ...]) -> int:
    return math.prod(-(-size // step) for size, step in zip(shape, chunk, strict=True))


# HDF5's heaps of text, looked through before the library reads them: over a damaged one it never comes to an end.
#
# Start at `check_heaps`, which `stored.root_of` asks of every HDF5 file. A heap is a row of objects, each of which
# says where the next begins; a free one of length 0 is followed by itself (HDF5 2.0 still goes round there).


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


# Files whose bytes may end the process that reads them: they are read in a copy of it first.
#
# Start at `check_survives`. HDF5 does not check all that it reads, so that a flipped bit can be a segmentation fault,
# of which no exception tells. Where a process cannot be copied (Windows), files are read as they are.


LONGEST = 5.0  # seconds, after which nothing is known of a file
CRASHES = tuple(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")
    if hasattr(signal, name)
)


def check_survives(file: Path, read: Callable[[], Any]) -> None:
    """Raises `InputError` where `read`, in a copy of this process, ends it by a signal; what it raises is no matter."""
    if not hasattr(os, "fork"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, of which the copy has none and needs none
        child = os.fork()
    if child == 0:
        _read_and_leave(read)
    ended = _end_of(child)
    if ended in CRASHES:
        name = signal.Signals(ended).name
        raise InputError(
            f"{file.name} is damaged: its library ends the process that reads it ({name}). Copy it again, or write it "
            "again from where it came."
        )


def _read_and_leave(read: Callable[[], Any]) -> None:
    with contextlib.suppress(BaseException):
        gc.disable()  # what is thrown away might wait for threads, which a copy has not
        faulthandler.disable()
        for crash in CRASHES:
            signal.signal(crash, signal.SIG_DFL)
        read()
    os._exit(0)


def _end_of(child: int) -> int:
    """The signal that ended a process, 0 for none; it is ended where it takes too long."""
    began, pause = time.monotonic(), 0.001
    while time.monotonic() - began < LONGEST:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        time.sleep(pause)
        pause = min(1.2 * pause, 0.05)  # no more than a fifth too long
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 0


# NumPy's files, .npy and .npz: each array is as large as its header says, or refused before memory is asked for.
#
# Start at `arrays_in` (.npz) and `array_in` (.npy). No pickle is ever loaded.


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
