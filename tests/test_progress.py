"""What the screen shows while a fit is at work: on a terminal, in a pipe, and when it is told to be quiet."""

from __future__ import annotations

import io
import sys

import pytest

from poplin import job
from poplin.fit import Progress


def test_the_pace_counts_from_the_first_report_of_a_phase() -> None:
    times = iter([10.0, 12.0, 20.0, 21.0])
    pace = job.Pacer(clock=lambda: next(times))
    steps = [("start", 5, 50), ("start", 25, 50), ("ml", 100, 400), ("ml", 200, 400)]
    told = [pace(Progress(phase, at, most, -1.0, 0.0)) for phase, at, most in steps]
    assert told == [(None, None), (10.0, 2.5), (None, None), (100.0, 2.0)]


def test_a_pipe_gets_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "PLAIN_EVERY", 0.0)
    screen = io.StringIO()
    with job.watch(screen=screen) as tell:
        assert tell is not None
        tell(Progress("ml", 10, 400, 0.7654, 2.0))
    assert screen.getvalue() == "ml: iteration 10/400, share of moves accepted 0.77, 2 s so far\n"


def test_a_terminal_gets_a_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal())
    with job.watch(screen=screen) as tell:
        assert tell is not None
        tell(Progress("ml", 10, 400, 0.7654, 2.0))
    assert "iteration 10/400" in " ".join(screen.getvalue().split())


def test_quiet_shows_nothing() -> None:
    with job.watch(quiet=True) as tell:
        assert tell is None
