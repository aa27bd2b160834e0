"""What the screen shows while a fit is at work: a live line on a terminal, else a plain one now and then.

Start at `watch`. The estimator tells where it is between compiled chunks; rates and the time that is left are
worked out here. The time left of a fit is an upper bound: one that converges ends earlier. That of standard errors is
an estimate.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

from poplin.inference.summary import measure

PLAIN_EVERY = 5.0  # seconds between lines when the screen is a file or a pipe
WIDE = 110  # characters from which there is room for a bar


class Pace(NamedTuple):
    """How fast a phase goes: iterations a second, and seconds left at most (None before that can be said)."""

    rate: float | None
    left: float | None


class Pacer:
    """Measures the pace of the present phase, from its first report on (the time before is compiling)."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._phase, self._first, self._since = "", 0, 0.0

    def __call__(self, progress: Any) -> Pace:
        """The pace after this report."""
        now = self._clock()
        if progress.phase != self._phase:
            self._phase, self._first, self._since = progress.phase, progress.iteration, now
        done, spent = progress.iteration - self._first, now - self._since
        if done <= 0 or spent <= 0:
            return Pace(None, None)
        rate = done / spent
        return Pace(rate, max(progress.max_iter - progress.iteration, 0) / rate)


@contextlib.contextmanager
def watch(*, quiet: bool = False, screen: TextIO | None = None) -> Iterator[Callable[[Any], None] | None]:
    """A callback for the estimator that shows how far it is; None when nothing is to be shown.

    On a terminal it is one live line, removed at the end; elsewhere a plain line every five seconds.
    """
    screen = screen or sys.stderr
    if quiet or screen is None:  # there is no screen under some services
        yield None
    elif screen.isatty() and sys.stdout.isatty():
        yield from _live(screen)
    else:
        yield _plain(screen)


def _live(screen: TextIO) -> Iterator[Callable[[Any], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(file=screen)
    bar = [BarColumn(bar_width=20)] if console.width >= WIDE else []
    words = [TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[words]")]
    columns = (SpinnerColumn(), words[0], *bar, words[1], TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("starting (compiling the first time)", total=None, words="")
        pace = Pacer()

        def tell(progress: Any) -> None:
            total, done = progress.max_iter, progress.iteration
            words = _words(progress, pace(progress))
            shown.update(task, description=progress.phase, total=total, completed=done, words=words)

        yield tell


def _plain(screen: TextIO) -> Callable[[Any], None]:
    pace = Pacer()
    told = time.perf_counter()

    def tell(progress: Any) -> None:
        nonlocal told
        words = _words(progress, pace(progress))
        if time.perf_counter() - told >= PLAIN_EVERY:
            told = time.perf_counter()
            screen.write(f"{progress.phase}: {words}, {progress.seconds:.0f} s so far\n")
            screen.flush()

    return tell


def _words(progress: Any, pace: Pace) -> str:
    unit = getattr(progress, "unit", "iteration")
    if unit == "percent":  # of work that has to be done whole
        done = f"{progress.iteration} %"
        return done if not pace.left else f"{done}, about {_duration(pace.left)} left"
    words = f"{unit} {progress.iteration}/{progress.max_iter}"
    if math.isfinite(progress.objective):  # it is not before the first one has been averaged
        words += f", {measure(progress.phase)} {progress.objective:.2f}"
    if pace.rate is not None and pace.left is not None:
        words += f", {pace.rate:.3g}/s, at most {_duration(pace.left)} left"
    return words


def _duration(seconds: float) -> str:
    minutes = round(seconds) // 60
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{minutes} min"
        if minutes < 100
        else f"{minutes / 60:.1f} h"
    )
