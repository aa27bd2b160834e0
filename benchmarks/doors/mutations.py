"""What is done to a valid file: bits, stretches, ends; cells, arrays, elements, metadata, columns, settings.

Start at `mutate`: what is done follows from a seed alone. Byte mutations know nothing of the format; the others keep
the file whole (checksums right) and change what stands in it.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Random = np.random.Generator
HUGE = (10**5, 10**6, 10**7, 10**9, 2**31 - 1, 2**31, 2**40, 2**63 - 1)


def mutate(path: Path, edits: tuple[str, ...], random: Random) -> str:
    """Change the file (or a file in the folder) at `path`; the name of what was done."""
    names = [*BYTES, *edits * 3]
    if path.suffix in (".gz", ".npz"):
        names += [f"inside {name}" for name in BYTES]
    name = str(random.choice(names))
    if name in EDITS:
        EDITS[name](path, random)
    elif name.startswith("inside "):
        _inside(path, BYTES[name.removeprefix("inside ")], random)
    else:
        target = _some_file(path, random)
        target.write_bytes(BYTES[name](target.read_bytes(), random))
    return name


def _some_file(path: Path, random: Random) -> Path:
    if not path.is_dir():
        return path
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return files[random.integers(len(files))]


def _inside(path: Path, change: Callable[[bytes, Random], bytes], random: Random) -> None:
    """Change what is packed, and pack it again."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()), random), mtime=0))
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = str(random.choice(list(members)))
    members[chosen] = change(members[chosen], random)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


# bytes


def flipped(content: bytes, random: Random) -> bytes:
    """One to four bits changed."""
    held = bytearray(content)
    for place in random.integers(len(held), size=random.integers(1, 5)) if held else ():
        held[place] ^= 1 << int(random.integers(8))
    return bytes(held)


def noisy(content: bytes, random: Random) -> bytes:
    """A stretch of noise."""
    first, length = _stretch(content, random)
    return content[:first] + random.bytes(length) + content[first + length :]


def cut(content: bytes, random: Random) -> bytes:
    """Cut off somewhere."""
    return content[: random.integers(max(len(content), 1))]


def zeroed(content: bytes, random: Random) -> bytes:
    """Zeros from somewhere to the end, or for a stretch."""
    first, length = _stretch(content, random)
    length = len(content) - first if random.random() < 0.5 else length
    return content[:first] + bytes(length) + content[first + length :]


def lost(content: bytes, random: Random) -> bytes:
    """A stretch is gone."""
    first, length = _stretch(content, random)
    return content[:first] + content[first + length :]


def doubled(content: bytes, random: Random) -> bytes:
    """A stretch stands there twice."""
    first, length = _stretch(content, random)
    return content[: first + length] + content[first:]


def replaced(content: bytes, random: Random) -> bytes:
    """A byte is one of those that mean something."""
    held = bytearray(content)
    if held:
        held[random.integers(len(held))] = int(
            random.choice(list(b"\0\r\n\t ,;\"'\\#-+.eE09\xef\xff{}[]()%"))
        )
    return bytes(held)


def _stretch(content: bytes, random: Random) -> tuple[int, int]:
    first = int(random.integers(max(len(content), 1)))
    return first, int(min(random.geometric(0.05), len(content) - first))


BYTES: dict[str, Callable[[bytes, Random], bytes]] = {
    "flipped": flipped,
    "noisy": noisy,
    "cut": cut,
    "zeroed": zeroed,
    "lost": lost,
    "doubled": doubled,
    "replaced": replaced,
}

# cells of a text table, numbers in Matrix Market

WORDS = (
    *(
        "",
        "NA",
        "None",
        "null",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "1e308",
        "-1",
        "-0",
        "+3",
        "0x1F",
        "1_000",
        "1,5",
        "1 5",
    ),
    *(
        "\u0663",
        "3\u00a0",
        "\u2212 1",
        "true",
        "False",
        "2020-01-01",
        "1e5",
        "007",
        "1.",
        ".5",
        "5.0",
        "9" * 30,
    ),
    *(
        '"3"',
        '"3',
        '3"',
        "'3'",
        "3\r",
        "\ufeff3",
        "\0",
        "a\nb",
        '"a\nb"',
        "x" * 200_000,
        "1" * 200_000,
        "%",
        "#3",
        "99999999999",
    ),
)


def cells(path: Path, random: Random) -> None:
    """One or two fields are replaced by a word; or a line, or a line's end."""
    packed = path.suffix == ".gz"
    content = path.read_bytes()
    text = (gzip.decompress(content) if packed else content).decode()
    lines = text.split("\n")
    for _ in range(random.integers(1, 3)):
        place = int(random.integers(len(lines)))
        how, delimiter = random.random(), next((mark for mark in "\t, " if mark in lines[place]), ",")
        if how < 0.7:
            fields = lines[place].split(delimiter)
            fields[random.integers(len(fields))] = _word(random)
            lines[place] = delimiter.join(fields)
        elif how < 0.8:
            lines[place] = _word(random)
        elif how < 0.9:
            lines.insert(place, lines[random.integers(len(lines))])
        else:
            del lines[place]
            lines = lines or [""]
    end = str(random.choice(["\n", "\n", "\n", "\r\n", "\r"]))
    code = str(random.choice(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    changed = end.join(lines).encode(code, errors="replace")
    path.write_bytes(gzip.compress(changed, mtime=0) if packed else changed)


def _word(random: Random) -> str:
    if random.random() < 0.2:
        return str(HUGE[random.integers(len(HUGE))])
    return WORDS[random.integers(len(WORDS))]


# arrays of an archive

KINDS = (
    "i1",
    "u1",
    "i2",
    "<i4",
    ">i4",
    "i8",
    "u8",
    "f2",
    "f4",
    ">f8",
    "c8",
    "?",
    "S3",
    "U2",
    "M8[s]",
    "m8[D]",
    "V4",
    "O",
)
KINDS += ("i4,f8",)


def arrays(path: Path, random: Random) -> None:
    """One array of another type, shape, name or with another number in it; or one more, or one less."""
    with np.load(path, allow_pickle=False) as held:
        found = {name: held[name] for name in held.files}
    name = str(random.choice(list(found)))
    found = _array_changed(found, name, random)
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in found.items():
            archive.writestr(f"{key}.npy", _as_npy(array, random if key == name else None))


def _as_npy(array: np.ndarray, random: Random | None) -> bytes:
    held = io.BytesIO()
    np.lib.format.write_array(held, array, allow_pickle=True)
    content = held.getvalue()
    if random is None or random.random() < 0.8:
        return content
    shape = (*array.shape[:-1], int(random.choice([*HUGE, -1, 0, 3])))  # the header tells of another shape
    descr = np.lib.format.dtype_to_descr(array.dtype)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": shape, "fortran_order": False, "descr": descr})
    return header.getvalue() + content[-array.nbytes :]


def _array_changed(found: dict[str, np.ndarray], name: str, random: Random) -> dict[str, np.ndarray]:
    array, how = found[name], random.random()
    if how < 0.3:
        kind = np.dtype(str(random.choice(KINDS)))
        try:
            with np.errstate(all="ignore"):
                found[name] = array.astype(kind)
        except (ValueError, TypeError):
            found[name] = np.zeros(array.shape, kind)
    elif how < 0.55 and array.size and array.dtype.kind in "iuf":
        number = random.choice([-1.0, 0.5, np.nan, np.inf, 1e300, 2.0**31, 2.0**53, 7.0])
        array = array.astype(float) if random.random() < 0.5 else array.copy()
        with np.errstate(all="ignore"):
            array.flat[random.integers(array.size)] = np.asarray(number).astype(array.dtype)
        found[name] = array
    elif how < 0.7:
        shapes = [
            array[..., None],
            array.reshape(-1),
            np.zeros((0, *array.shape[1:]), array.dtype),
            np.atleast_1d(array)[:1],
            array.T,
        ]
        shapes += [
            np.zeros((), array.dtype),
            np.repeat(np.atleast_1d(array), 2, axis=0),
            np.atleast_1d(array)[..., :-1],
        ]
        found[name] = shapes[random.integers(len(shapes))]
    elif how < 0.8:
        found[str(random.choice(["Y", "offset", "log_offset", "cov_x", "a/b", "", "format", "poplin"]))] = (
            found.pop(name)
        )
    elif how < 0.9:
        del found[name]
    else:
        more = str(random.choice(["Y", "counts", "log_offset", "cov_x", "obs_names", "format", "shape"]))
        found[more] = array
    return found


# what poplin keeps as JSON in a file of a fit

LEAVES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e300,
    float("nan"),
    10**30,
    "",
    "x",
    "9**9**9",
    [],
    ["a"],
    {},
    {"a": 1},
    [[[]]],
)


def settings(path: Path, random: Random) -> None:
    """A value of the settings is another one, is gone, or is new."""
    with np.load(path, allow_pickle=False) as held:
        found = {name: held[name] for name in held.files}
    header = json.loads(found["poplin"].tobytes())
    _json_changed(header if random.random() < 0.3 else header["meta"], random)
    found["poplin"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **found)


def _json_changed(node: Any, random: Random) -> None:
    """Another leaf somewhere below this node."""
    while True:
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = keys[random.integers(len(keys))]
        if isinstance(node[key], dict | list) and node[key] and random.random() < 0.7:
            node = node[key]
            continue
        how = random.random()
        if how < 0.8:
            values = [*LEAVES, *HUGE]
            node[key] = values[random.integers(len(values))]
        elif how < 0.9:
            del node[key]
        elif isinstance(node, dict):
            node["more"] = node[key]
        else:
            node.append(node[key])
        return


def leaves(path: Path, random: Random) -> None:
    """A value of a file of JSON is another one, is gone, or is new."""
    told = json.loads(path.read_text())
    _json_changed(told, random)
    path.write_text(json.dumps(told))


def metadata(path: Path, random: Random) -> None:
    """A value in one of a store's JSON files; or one of its files is gone, or is of another."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    about = [
        file for file in files if file.name in ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
    ]
    how = random.random()
    if how < 0.8:
        file = about[random.integers(len(about))]
        told = json.loads(file.read_text())
        _json_changed(told, random)
        file.write_text(json.dumps(told))
    elif how < 0.9:
        files[random.integers(len(files))].unlink()
    else:
        one, other = (files[place] for place in random.integers(len(files), size=2))
        one.write_bytes(other.read_bytes())


# elements of an HDF5 file


def elements(path: Path, random: Random) -> None:
    """An element or an attribute of an .h5ad is of another type, shape or value, or is gone."""
    import h5py

    with h5py.File(path, "r+") as root:
        names: list[str] = []
        root.visit(names.append)
        name = str(random.choice(names))
        if random.random() < 0.4:
            _attribute_changed(root[name] if random.random() < 0.8 else root, random)
        elif random.random() < 0.15 or not isinstance(root[name], h5py.Dataset):
            del root[name]
        else:
            _dataset_changed(root, name, random)


def _attribute_changed(node: Any, random: Random) -> None:
    keys = list(node.attrs)
    if not keys:
        return
    key = keys[random.integers(len(keys))]
    if random.random() < 0.2:
        del node.attrs[key]
        return
    values = [
        "",
        "x",
        "csr_matrix",
        "csc_matrix",
        "array",
        "dict",
        "mudata",
        "0.0.0",
        "9.9.9",
        "dataframe",
        "categorical",
    ]
    values += [
        b"\xff\xfe",
        3,
        -1,
        1e300,
        np.array([10**9, 5]),
        np.array([N_ROWS, 10**9]),
        np.array([-1, 5]),
        np.array([3]),
        True,
    ]
    node.attrs[key] = values[random.integers(len(values))]


N_ROWS = 12


def _dataset_changed(root: Any, name: str, random: Random) -> None:
    array, about = root[name][...], dict(root[name].attrs)
    del root[name]
    how = random.random()
    if how < 0.3:
        shape = tuple(int(random.choice([*HUGE[:4], size])) for size in array.shape)
        root.create_dataset(name, shape=shape, dtype=array.dtype, chunks=True if shape else None)
    elif how < 0.6:
        kind = str(random.choice(["i1", "u1", "i8", "u8", "f2", "f8", "c8", "?", "S4", "V4"]))
        try:
            with np.errstate(all="ignore"):
                root[name] = array.astype(kind)
        except (ValueError, TypeError):
            root[name] = np.zeros(array.shape, kind)
    elif how < 0.8 and array.size and array.dtype.kind in "iuf":
        changed = array.astype(float) if random.random() < 0.3 else array.copy()
        with np.errstate(all="ignore"):
            number = np.asarray(random.choice([-1, 0.5, np.nan, np.inf, 1e300, 2**31, 100])).astype(
                changed.dtype
            )
        changed.flat[random.integers(array.size)] = number
        root[name] = changed
    else:
        shapes = (
            [array[..., None], array.reshape(-1), array[:0], array[:1], np.concatenate([array, array])]
            if array.ndim
            else []
        )
        root[name] = shapes[random.integers(len(shapes))] if shapes else 3
    for key, value in about.items() if random.random() < 0.8 else ():
        root[name].attrs[key] = value


# columns of a Parquet file


def columns(path: Path, random: Random) -> None:
    """A column of another type, name or values; other metadata; other ways of writing."""
    import pyarrow
    from pyarrow import parquet

    table = parquet.read_table(path)
    place, how = int(random.integers(table.num_columns)), random.random()
    name = table.column_names[place]
    if how < 0.4:
        n = table.num_rows
        made = [
            pyarrow.array([None] * n),
            pyarrow.array([[1, 2]] * n),
            pyarrow.array([{"a": 1}] * n),
            pyarrow.array(["x"] * n).dictionary_encode(),
            pyarrow.array([b"\xff"] * n),
            pyarrow.array([float("nan"), -1.0, 1e300, 0.5] * (n // 4), pyarrow.float64()),
            pyarrow.array([True, None] * (n // 2)),
            pyarrow.array(range(n), pyarrow.timestamp("ns")),
            pyarrow.array(range(n), pyarrow.decimal128(20, 2)),
            pyarrow.array([2**63 - 1] * n, pyarrow.uint64()),
            pyarrow.array([1, None] * (n // 2), pyarrow.int8()),
        ]
        table = table.set_column(place, name, made[random.integers(len(made))])
    elif how < 0.6:
        names = list(table.column_names)
        names[place] = str(
            random.choice(["", "otu0", "OTU0", "a" * 10_000, "\0", "__index_level_0__", "x\ny"])
        )
        table = table.rename_columns(names)
    elif how < 0.9:
        told = dict(table.schema.metadata or {})
        held = json.loads(told.get(b"pandas", b"{}"))
        if random.random() < 0.3:
            told[b"pandas"] = [b"{", b"\xff", b"[]", b"[" * 100_000, b"3"][random.integers(5)]
        elif held:
            _json_changed(held, random)
            told[b"pandas"] = json.dumps(held).encode()
        table = table.replace_schema_metadata(told)
    else:
        table = table.slice(0, int(random.integers(3)))
    codec = str(random.choice(["NONE", "SNAPPY", "GZIP", "ZSTD", "LZ4"]))
    parquet.write_table(table, path, compression=codec, row_group_size=int(random.integers(1, 13)))


EDITS: dict[str, Callable[[Path, Random], None]] = {
    "cells": cells,
    "arrays": arrays,
    "settings": settings,
    "leaves": leaves,
    "metadata": metadata,
    "elements": elements,
    "columns": columns,
}
