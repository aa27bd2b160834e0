"""Pieces of work that Ctrl-C must not tear: it is heard when they have ended.

Start at `whole`. Python raises KeyboardInterrupt between any two instructions, also between a program that takes over
the memory of its arguments and the name for what it returns. Who listens to signals is not decided here: whatever
handler there is (Python's, a notebook's, that of `poplin.stopping`) is called, only later.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

# What asks a process to end and can be heard; not every system has each.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Inside, Ctrl-C waits for the end of the block. The second time it does not wait."""
    if threading.current_thread() is not threading.main_thread():  # no other thread hears signals
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard: list[tuple[int, FrameType | None]] = []
    inside = True

    def later(number: int, frame: FrameType | None) -> None:
        if inside and not heard:
            heard.append((number, frame))
        else:
            _now(before, number, frame)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, later)
    try:
        yield
    finally:
        inside = False
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)
        for number, frame in heard:
            _now(before, number, frame)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Processes that begin inside never hear Ctrl-C, which a terminal sends to all: who began them ends them."""
    mask = getattr(signal, "pthread_sigmask", None)  # not everywhere
    if mask is None:
        yield
        return
    before = mask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        mask(signal.SIG_SETMASK, before)


def _now(handlers: Mapping[Any, Any], number: int, frame: FrameType | None) -> None:
    handlers[signal.Signals(number)](number, frame)
