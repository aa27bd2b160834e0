"""Files whose bytes may end the process that reads them: they are read in a copy of it first.

Start at `check_survives`. HDF5 does not check all that it reads, so that a flipped bit can be a segmentation fault, of
which no exception tells. Where a process cannot be copied (Windows), files are read as they are.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poplin._errors import InputError

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
        pause = min(2 * pause, 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 0
