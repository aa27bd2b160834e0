"""A process that tries one damaged file after the other, within limits, and tells a line of JSON of each.

Start at `main`: tasks come as lines of JSON on the standard input, {"format": NAME}, then {"format": NAME, "seed": N}.
It is replaced when it dies (`__main__.py`). Memory beyond what it has after its imports is limited, so that a file that
asks for more is seen and takes nothing from the machine.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.doors.formats import FORMATS, Format, Table, same
from benchmarks.doors.mutations import mutate

READY = "ready"
MEMORY = 2 << 30  # bytes, over what is there when all is imported
PEAK = Path("/proc/self/clear_refs")


def main(valid: Path) -> None:
    """Try files until there are no more tasks; `valid` is the folder of valid ones."""
    warnings.simplefilter("ignore")
    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever libraries print
    with tempfile.TemporaryDirectory(prefix="poplin-doors-") as folder:
        for line in sys.stdin:
            task = json.loads(line)
            door, whole = FORMATS[task["format"]], valid / task["format"]
            if "seed" in task:
                answers.write(json.dumps(task | tried(door, whole, Path(folder), task["seed"])) + "\n")
            else:  # what the door needs is imported, then memory is limited
                warm(door, whole)
                limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                answers.write(READY + "\n")
            answers.flush()


def warm(door: Format, valid: Path) -> None:
    """Read the valid file by both, which agree."""
    path = valid / door.file
    assert same(door.read(path), door.reference(path)), f"{valid.name}: the valid file is not read as it is"


def tried(door: Format, valid: Path, folder: Path, seed: int) -> dict[str, Any]:
    """What comes of one damaged file."""
    path = copied(valid, folder, door)
    random = np.random.default_rng([seed, zlib.crc32(valid.name.encode())])
    how = mutate(path, door.edits, random)
    with contextlib.suppress(OSError):
        PEAK.write_text("5")  # the peak is told anew
    began = time.perf_counter()
    outcome, said, found = read(door, path)
    seconds, peak = time.perf_counter() - began, peak_mib()
    if found is not None:
        outcome, said = compared(door, path, found)
    return {"how": how, "outcome": outcome, "said": said[:400], "seconds": seconds, "peak_mib": peak}


def copied(valid: Path, folder: Path, door: Format) -> Path:
    """The valid files in an empty folder; the path of the one that is to be damaged."""
    shutil.rmtree(folder / "case", ignore_errors=True)
    shutil.copytree(valid, folder / "case")
    return folder / "case" / door.file


def read(door: Format, path: Path) -> tuple[str, str, Table | None]:
    """Outcome, what was said, and the table if there is one."""
    from poplin._errors import InputError

    try:
        return "read", "", door.read(path)
    except InputError as error:
        told = str(error)
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return "memory", told, None
            cause = cause.__cause__
        clear = "\n" not in told and (path.name in told or "Y " in told or "Duplicated" in told)
        return ("refused" if clear else "unclear"), told, None
    except MemoryError:
        return "memory", traceback.format_exc()[-400:], None
    except Exception:
        return "traceback", " | ".join(traceback.format_exc().splitlines()[-3:]), None


def compared(door: Format, path: Path, found: Table) -> tuple[str, str]:
    """Whether the reference reads the same."""
    try:
        other = door.reference(path)
    except Exception as error:
        return "alone", f"{type(error).__name__}: {error}"
    return ("same", "") if same(found, other) else ("different", f"{found} | {other}")


def peak_mib() -> float:
    """The peak of memory since it was last set back, in MiB; that of the process where it cannot be."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
