"""How the command ends when it is told to: by Ctrl-C, by a queue (SIGTERM), by a terminal that closes (SIGHUP).

Start at `listen`, which the process of the command calls first. Where nothing could be kept it ends at once. Inside
`patiently`, where there may be results, the signal raises KeyboardInterrupt where the program is, as usual. But a
library may be at work for minutes without looking, or drop the exception; so a thread hears of it as well: it says at
once that the end is near, and makes an end itself if there is none in `GRACE` seconds, or when it is asked a second
time. Whichever way, files are whole or absent, and the exit code is 128 and the signal's number: 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from poplin import _process
from poplin._process import SIGNALS

GRACE = 7.0  # seconds from the first signal to the end
NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "told to by SIGTERM", "SIGHUP": "the terminal is gone"}
ASKED = "stopping ({why}): what there is will be written, within {grace:.0f} s. Once more ends it at once."
AT_ONCE = "stopped ({why}): nothing more is written, files that are there are whole."
CUT = (
    "stopped before the results so far could be written: files that are there are whole, unfinished ones are taken "
    "away. With --checkpoint-every N a fit can go on (--resume)."
)


class _Told:
    """What this process was told so far, and whether it has answered."""

    by: signal.Signals | None = None
    patient = False  # whether there may be something to keep
    never = False
    answered = False
    answering = threading.RLock()  # a second signal may come while the first is answered


def listen() -> None:
    """From now on signals that end this process are heard, but for those that it was begun to ignore (nohup)."""
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _raise)
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    sys.unraisablehook = _unless_told(sys.unraisablehook)
    threading.Thread(target=_watch, args=(ear, mouth), name="poplin-stopping", daemon=True).start()


def asked() -> bool:
    """Whether this process was told to end."""
    return _Told.by is not None


def code() -> int:
    """The exit code of a process that was told to end."""
    return 128 + (_Told.by or signal.SIGINT)


@contextlib.contextmanager
def patiently() -> Iterator[None]:
    """Inside there may be results: they are written before the end, if it does not take long."""
    _Told.patient = not _Told.never
    try:
        yield
    finally:
        _Told.patient = False


def at_once() -> None:
    """From now on the first signal ends the process everywhere: there is nothing that could be put in order."""
    _Told.never = True


def _raise(number: int, frame: FrameType | None) -> None:
    told = signal.Signals(number)
    if not _Told.patient or _loads(frame):
        _end(told)
    if _Told.by is None:
        _Told.by = told
        _answer(told)
        raise KeyboardInterrupt


def _loads(frame: FrameType | None) -> bool:
    """Whether a module is being loaded: an exception there can end in a crash, if the module is written in C."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _watch(ear: socket.socket, mouth: socket.socket) -> None:
    """Speak when the first signal comes; end the process when the second does, or the time is over.

    `mouth` is held here, for its other end is open as long as somebody refers to it.
    """
    number = _next(ear)
    if not _Told.patient:
        _end(number)
    _answer(number)
    ear.settimeout(GRACE)
    with contextlib.suppress(TimeoutError):
        number = _next(ear)
    _end(number, CUT)


def _answer(number: signal.Signals) -> None:
    """Say once that the end is near: the thread or the program itself, whoever hears of it first."""
    with _Told.answering:
        if _Told.answered:
            return
        _Told.answered = True
        why = NAMES.get(number.name, number.name)
        _say(ASKED.format(why=why, grace=GRACE) if _Told.patient else AT_ONCE.format(why=why))


def _next(ear: socket.socket) -> signal.Signals:
    while True:
        number = ear.recv(1)[0]
        if number in SIGNALS:
            return signal.Signals(number)


def _end(number: signal.Signals, words: str = "") -> NoReturn:
    """End the process now, after `words` or what is said where nothing has been said yet."""
    _process.sweep()
    _answer(number)
    if words:
        _say(words)
    os._exit(128 + number)


def _say(words: str) -> None:
    """A line on the screen, past whoever holds Python's stream; a live line that stands there is wiped."""
    try:
        wiped = "\r\x1b[2K" if os.isatty(2) else ""
        os.write(2, f"{wiped}poplin: {words}\n".encode())
    except OSError:  # no screen any more
        pass


def _unless_told(usual: Any) -> Any:
    """Python's word on an exception that it has to drop; not for the one by which this process ends."""

    def hook(dropped: Any) -> None:
        if not (asked() and issubclass(dropped.exc_type, KeyboardInterrupt)):
            usual(dropped)

    return hook
