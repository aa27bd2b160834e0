"""What a process has while it works: pieces that Ctrl-C must not tear, and what lies on the disk only meanwhile.

Start at `whole` and at `scratch`. How a command ends when it is told to is `stopping`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Any

from poplin._errors import InputError

# Pieces of work that Ctrl-C must not tear: it is heard when they have ended.
#
# Start at `whole`. Python raises KeyboardInterrupt between any two instructions, also between a program that takes
# over the memory of its arguments and the name for what it returns. Who listens to signals is not decided here:
# whatever handler there is (Python's, a notebook's, that of `poplin.stopping`) is called, only later.


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


# What a process has on the disk only while it works: unfinished files, scratch folders, its claim on a folder.
#
# Start at `scratch` and `claimed`. Each scratch folder holds a file that stays locked as long as its process lives:
# so whoever comes later knows what nobody needs any more (`sweep_left`), also after a kill, on whatever machine.
# `sweep` takes away what this process has, wherever it is in its work, before it ends at once.


try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing of others is taken away
    fcntl = None

NEW, KEPT = ".poplin-new-", ".poplin-unfinished-"  # before and after its lock is held
LOCK, CLAIM = "lock", ".poplin-lock"
FRESH = 1.0  # seconds in which a new folder may still wait for its lock
PATIENCE = 2.0  # seconds that the end of a process waits for files that take their names at this moment
naming = threading.Lock()  # held while finished files take their names, all of a set
_mine: set[Path] = set()
_made_here: list[Path] = []  # folders that go if nothing was put into them, the deepest first
_swept: set[Path] = set()


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """An empty folder in `folder`, for the block alone; what killed processes left there goes first."""
    if folder.absolute() not in _swept:
        sweep_left(folder)
        _swept.add(folder.absolute())
    with contextlib.ExitStack() as held:
        with whole():
            place, lock = _made(folder)
            held.callback(_removed, place, lock)
        yield place


def sweep() -> None:
    """Take away everything that this process has on the disk for the time being. It ends after that."""
    held = naming.acquire(timeout=PATIENCE)
    for place in sorted(_mine, key=lambda place: len(place.parts), reverse=True):
        _away(place)
    _unmade(_made_here)
    if held:
        naming.release()


def sweep_left(folder: Path) -> None:
    """Take away what processes that are gone left unfinished in `folder`; what cannot be told apart stays."""
    with contextlib.suppress(OSError):
        for place in sorted(folder.glob(f"{NEW}*")):
            with contextlib.suppress(OSError):
                if place not in _mine and time.time() - place.stat().st_mtime > FRESH:
                    shutil.rmtree(place, ignore_errors=True)
        for place in sorted(folder.glob(f"{KEPT}*")):
            if place in _mine:
                continue
            with contextlib.suppress(OSError), open(place / LOCK, "r+b") as lock:
                if _locked(lock) is True:
                    shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def claimed(folder: Path, option: str = "--out") -> Iterator[None]:
    """Inside, `folder` is this process' own: made if need be, and taken away again if nothing was put into it.

    Raises `InputError` while another process has it, or where nothing can be written. Where a file system knows no
    locks, nobody is kept out.
    """
    with contextlib.ExitStack() as held:
        with whole():
            made = _make(folder, option)
            _made_here.extend(made)
            held.callback(_unmade, made)
            claim = _claim(folder, option)
            held.callback(_removed, folder / CLAIM, claim)
            sweep_left(folder)
        yield


def _made(folder: Path) -> tuple[Path, IO[bytes]]:
    new = Path(tempfile.mkdtemp(prefix=NEW, dir=folder))
    place = new.with_name(KEPT + new.name.removeprefix(NEW))
    _mine.update((new, place))
    try:
        lock = open(new / LOCK, "wb")
        _locked(lock)
        new.rename(place)
    except OSError:
        _away(new)
        raise
    finally:
        _mine.discard(new)
    return place, lock


def _removed(place: Path, lock: IO[bytes]) -> None:
    with whole():
        _away(place)
        lock.close()
        _mine.discard(place)


def _away(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)


def _locked(file: IO[bytes]) -> bool | None:
    """Whether the lock is ours now; None where the file system knows none."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _make(folder: Path, option: str) -> list[Path]:
    """Make the folder and those above it; the ones that were not there, the deepest first."""
    missing = [place for place in (folder, *folder.absolute().parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _unmade(missing)
        raise InputError(f"{option} {folder} cannot be made: {_why(error)}. Choose another place.") from error
    return missing


def _unmade(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # something lies in it
            folder.rmdir()


def _claim(folder: Path, option: str) -> IO[bytes]:
    """The file of the claim, open and locked."""
    path = folder / CLAIM
    while True:
        try:
            file = open(path, "a+b")
        except OSError as error:
            raise InputError(
                f"{option} {folder}: nothing can be written there: {_why(error)}. Choose another folder."
            ) from error
        if _locked(file) is False:
            file.seek(0)
            holder = (
                file.read(200).decode(errors="replace").strip() or "a process that does not say its number"
            )
            file.close()
            raise InputError(
                f"{option} {folder}: another poplin is at work there ({holder}). Wait for it, end it, or choose "
                "another folder."
            )
        with contextlib.suppress(OSError):  # who held it may have taken the file away in between
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                _mine.add(path)
                _sign(file)
                return file
        file.close()


def _sign(file: IO[bytes]) -> None:
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}".encode())
        file.flush()


def _why(error: OSError) -> str:
    return error.strerror or str(error)
