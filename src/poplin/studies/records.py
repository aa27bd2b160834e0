"""Records on disk: one line of JSON for each (cell, replicate, method), appended as it is finished.

Start at `append` and `read`. A line is written by one call, so several processes may append to one file; a line
that a kill cut short is taken out by `mend` before anything is added. `pack` leaves a compressed copy, small enough
to be kept beside the page, from which `mend` begins where the records themselves are not there.
"""

from __future__ import annotations

import json
import lzma
import os
from pathlib import Path

from poplin.store import written_whole
from poplin.studies.study import Cell, Numbers

Key = tuple[str, int, str]
PACKED = ".xz"  # follows the name of the file


def append(path: Path, record: Numbers) -> None:
    """Add one line at the end of the file, by one system call."""
    line = json.dumps(record, separators=(",", ":")) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def mend(path: Path) -> None:
    """Cut the file after its last whole line; where there is none, begin with what its packed copy holds."""
    packed = path.with_name(path.name + PACKED)
    if not path.is_file() and packed.is_file():
        with written_whole(path, "wb") as handle:
            handle.write(lzma.decompress(packed.read_bytes()))
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as handle:
            handle.truncate(whole)


def pack(path: Path) -> Path:
    """Leave a compressed copy beside the records; its path."""
    packed = path.with_name(path.name + PACKED)
    with written_whole(packed, "wb") as handle:
        handle.write(lzma.compress(path.read_bytes(), preset=9))
    return packed


def read(path: Path) -> list[Numbers]:
    """The records of the file; the last of several with the same key; a line that is no JSON is passed over."""
    found: dict[Key, Numbers] = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
                found[key(record)] = record
            except (ValueError, KeyError, TypeError):
                continue
    return list(found.values())


def key(record: Numbers) -> Key:
    """What makes two records the same piece of work."""
    return record["cell"], record["replicate"], record["method"]


def done(records: list[Numbers]) -> set[Key]:
    """The keys that need not be run again: a failed one is tried again."""
    return {key(record) for record in records if record["status"] == "done"}


def in_order(records: list[Numbers], cells: list[Cell], replicates: int | None) -> list[Numbers]:
    """The records of these cells by cell, replicate and method, whatever the order in which they were finished."""
    place: dict[Key, int] = {}
    for cell in cells:
        for replicate in range(replicates or cell.replicates):
            for column in cell.columns:
                place[cell.label, replicate, column.name] = len(place)
    return sorted((r for r in records if key(r) in place), key=lambda record: place[key(record)])
