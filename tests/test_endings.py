"""How the command ends when it is told to: at once to the eye, soon, by its exit code, with files whole or absent.

Start at `ended`, which begins a process, sends it a signal at the moment that it names, and looks at what it leaves.
What takes long without hearing of signals is one call of a library that works in C.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import poplin
from poplin import fit as loop
from poplin._process import whole
from tests.commandline import write_leaves
from tests.instances import TABLES
from tests.test_cli import FILES

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60.0  # seconds until a process that hangs is killed
AT_ONCE = 1.0  # seconds until the first word
# A process of the command with the stand-in as estimator, that says where it is and is held there.
COMMAND = """
import hashlib, os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background ignore
import poplin
from poplin import stopping
from poplin.__main__ import run

def here():
    os.write(1, b"here\\n")

def deaf(*_, **__):  # a library at work: no instruction of Python for minutes
    threading.Timer(0.2, here).start()  # from within
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

def slow(*_, **__):
    here()
    time.sleep({pause})

stopping.GRACE = 2.0
"""
FITTING = """
from tests.standin import StandIn
vars(poplin)["PLN"] = StandIn
sys.argv = ["poplin", "fit", "counts.csv", "-q", "--out", "out"]
{patch}
run()
"""


class End(NamedTuple):
    """How a process ended: exit code, what it said, seconds to its first word and to its end after the signal."""

    code: int
    said: str
    heard: float
    gone: float


def ended(code: str, folder: Path, *signals: int) -> End:
    """Begin Python with this program, send it signals from where it says so, half a second apart, and wait for it."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    words = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen(words, cwd=folder, env=os.environ | {"PYTHONPATH": paths}, **pipes)  # type: ignore[call-overload]
    late = threading.Timer(PATIENCE, child.kill)
    late.start()
    try:
        assert child.stdout is not None and child.stderr is not None
        line = child.stdout.readline()
        assert line == b"here\n", child.stderr.read().decode()
        began = time.monotonic()
        for number in signals:
            child.send_signal(number)
            time.sleep(0.5 if len(signals) > 1 else 0.0)
        first = os.read(child.stderr.fileno(), 10_000)
        heard = time.monotonic() - began
        _, rest = child.communicate()
        return End(child.returncode, (first + rest).decode(), heard, time.monotonic() - began)
    finally:
        late.cancel()
        child.kill()


def fitting(patch: str, pause: float = 60.0) -> str:
    """The program: a fit of counts.csv, held where `patch` says."""
    return COMMAND.format(pause=pause) + FITTING.format(patch=patch)


def left(folder: Path) -> set[str]:
    """What is in a folder, hidden things included."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


READING = "from poplin import job; job.read_counts = slow"
HELD = "StandIn.fit = {how}"
WRITING = "from poplin.report import html; page = html.page; html.page = lambda *a: (slow(), page(*a))[1]"
# where it is held, what it is told, for how long it would be, the exit code, what is in the folder of results
MOMENTS: dict[str, tuple[str, tuple[int, ...], float, int, set[str] | None]] = {
    "while it loads": (
        "import poplin.job; sys.modules.pop('poplin.cli', None); sys.meta_path.insert(0, type('Slow', (), "
        "{'find_spec': lambda self, name, *a: slow() if name == 'poplin.cli' else None})())",
        (signal.SIGINT,),
        60.0,
        130,
        None,
    ),
    "while it reads": (READING, (signal.SIGINT,), 60.0, 130, None),
    "in a fit": (HELD.format(how="slow"), (signal.SIGINT,), 60.0, 130, None),
    "in a fit, by a queue": (HELD.format(how="slow"), (signal.SIGTERM,), 60.0, 143, None),
    "in a library that does not listen": (HELD.format(how="deaf"), (signal.SIGINT,), 60.0, 130, None),
    "there, and once more": (
        "stopping.GRACE = 60; " + HELD.format(how="deaf"),
        (signal.SIGINT, signal.SIGINT),
        60.0,
        130,
        None,
    ),
    "in a library that drops it": (
        "def drops(*_, **__):\n try: slow()\n except BaseException: time.sleep(60)\nStandIn.fit = drops",
        (signal.SIGINT,),
        60.0,
        130,
        None,
    ),
    "while it writes": (WRITING, (signal.SIGINT,), 0.5, 130, FILES),
    "while it writes, too slowly": (WRITING, (signal.SIGINT,), 60.0, 130, None),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_end_is_told_at_once_and_comes_soon(moment: str, tmp_path: Path) -> None:
    patch, signals, pause, code, files = MOMENTS[moment]
    write_leaves(tmp_path)
    end = ended(fitting(patch, pause), tmp_path, *signals)
    assert end.code == code, end.said
    assert end.heard < AT_ONCE + 0.5 * (len(signals) - 1) and end.gone < 10.0
    assert len(re.findall(r"poplin: (?:stopping|stopped) \(", end.said)) == 1
    assert re.match(r"poplin: (?:stopping|stopped) \(", end.said)
    assert "Traceback" not in end.said and "Exception ignored" not in end.said
    assert left(tmp_path / "out") == (files or set())
    assert left(tmp_path) == {"counts.csv", "leaves.csv"} | (set() if files is None else {"out"})


def test_who_is_told_to_ignore_a_signal_does(tmp_path: Path) -> None:
    """nohup, and processes that a shell starts in the background."""
    write_leaves(tmp_path)
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    end = ended(ignored + fitting(WRITING, 0.3), tmp_path, signal.SIGHUP)
    assert (end.code, end.said) == (0, "") and left(tmp_path / "out") == FILES


EVENTS = """
from poplin.data import events
from poplin.data.events_sources import file_source
sys.argv = ["poplin", "counts", "events.csv", "-q", "--out", "counts.npz"]

def source(base, *_):
    here()
    base.execute("SELECT count(*) FROM range(100000000000) a(x) WHERE hash(x) = 1")  # minutes

events.file_source = source
run()
"""


def test_a_database_at_work_leaves_nothing_of_its_events(tmp_path: Path) -> None:
    end = ended(COMMAND.format(pause=0) + "stopping.GRACE = 20\n" + EVENTS, tmp_path, signal.SIGINT)
    assert end.code == 130 and end.heard < AT_ONCE and end.gone < 10.0, end.said
    assert end.said.startswith("poplin: stopped (Ctrl-C)") and end.said.count("\n") == 1
    assert left(tmp_path) == set()


@pytest.fixture
def handlers() -> Any:
    """Ctrl-C as it is heard in the foreground; afterwards the handlers as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_ctrl_c_waits_for_the_end_of_what_is_whole(handlers: Any) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), whole():
        with whole():
            signal.raise_signal(signal.SIGINT)
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    signal.signal(signal.SIGINT, before := signal.default_int_handler)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_time_it_does_not_wait(handlers: Any) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), whole():
        signal.raise_signal(signal.SIGINT)
        done.append("first")
        signal.raise_signal(signal.SIGINT)
        done.append("second")
    assert done == ["first"]


def test_other_handlers_are_called_later_and_come_back(handlers: Any) -> None:
    seen: list[int] = []
    mine: Callable[..., None] = lambda number, _: seen.append(number)
    signal.signal(signal.SIGTERM, mine)
    with whole():
        signal.raise_signal(signal.SIGTERM)
        assert not seen
    assert seen == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is mine


def struck(monkeypatch: pytest.MonkeyPatch, *, times: int = 1) -> None:
    """Ctrl-C within the first chunk of steps, whose program takes over the memory of the first values."""
    calls, agreed = iter(range(10**6)), loop.agreed

    def look(*words: Any) -> int:
        for _ in range(times if next(calls) == 0 else 0):
            signal.raise_signal(signal.SIGINT)
        return agreed(*words)

    monkeypatch.setattr(loop, "agreed", look)


def fitted(**settings: Any) -> poplin.PLN:
    """A fit of a small table by the bound."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poplin.ConvergenceWarning)
        return poplin.PLN(method="variational", tol=1e-15, **settings).fit(**TABLES["plain"].arguments())


def test_a_chunk_of_steps_is_not_torn_and_the_checkpoint_has_it(
    handlers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: dict[str, Any] = {"checkpoint": tmp_path / "fit.npz", "checkpoint_every": 10_000}
    with monkeypatch.context() as patched:
        struck(patched)
        fit = fitted(**kept)
    assert fit.interrupted_ and fit.n_iter_ == loop.FIRST and not fit.converged_
    assert np.isfinite(fit.trace_["objective"]).all()
    fit.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(poplin.load(tmp_path / "model.npz").coef_, fit.coef_)
    steps: list[int] = []
    again = fitted(callback=lambda progress: steps.append(progress.iteration), **kept)
    assert steps[0] > fit.n_iter_, "it began anew"
    np.testing.assert_array_equal(again.covariance_, fitted().covariance_)


def test_a_chunk_that_was_torn_is_no_result(handlers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    struck(monkeypatch, times=2)
    with pytest.raises(KeyboardInterrupt):
        fitted()


def test_before_the_first_step_there_is_nothing_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop._advance, "ahead", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted()


def test_a_comparison_does_not_go_on_with_the_next_method() -> None:
    phases: list[str] = []

    def stop(progress: Any) -> None:
        phases.append(progress.phase)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        poplin.compare(TABLES["plain"].y, ["variational", "ml"], callback=stop)
    assert len(phases) == 1


def test_the_line_says_how_long_it_may_take() -> None:
    from poplin import stopping

    told = stopping.ASKED.format(why="Ctrl-C", grace=stopping.GRACE)
    assert re.search(r"within 7 s", told) and stopping.GRACE < 10
