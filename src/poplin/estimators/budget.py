"""How far standard errors are, how long the rest will take, and whether that is longer than they may take.

Start at `Watch`, which stands between the loop and a user's callback: what is a phase to the loop (a slice of simulated
rows, a part of the columns) is a share of one piece of work to whoever waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError

PHASE = "standard errors"
LEAST, TIMES = 60.0, 2.0  # seconds that they may take, or times the fit's, whichever is longer
TELLING = 2.0  # seconds of work before it is said how long the rest will take: the first ones compile


class OverTime(Exception):
    """Standard errors would take longer than they may."""


class Standing(NamedTuple):
    """What the callback is told, with the fields of `poplin.fit.Progress`: percent of all that has to be done."""

    phase: str
    iteration: int
    max_iter: int
    objective: float
    seconds: float
    unit: str = "percent"


def usual(fit_seconds: float) -> float:
    """Seconds that standard errors may take where nobody has said."""
    return max(LEAST, TIMES * fit_seconds)


def checked(asked: bool | float) -> bool | float:
    """True, False or a number of seconds above zero; an `InputError` for anything else."""
    if isinstance(asked, bool | np.bool_):
        return bool(asked)
    if isinstance(asked, int | float | np.number) and 0 < asked < np.inf:
        return float(asked)
    raise InputError(f"standard_errors={asked!r}: wanted is True, False, or a number of seconds above zero.")


class Watch:
    """Tells the callback what share is done, and raises `OverTime` where the work will not end in time.

    The limit holds between `begin` and `end`; `anew` opens a kind of work, `share` says what part of it comes next.
    """

    def __init__(
        self, callback: Callable[[Any], None] | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.callback = callback
        self._clock, self._began = clock, clock()
        self._deadline: float | None = None
        self._phase = PHASE
        self._first, self._last = 0.0, 1.0
        self._mark: tuple[float, float] | None = None

    def begin(self, seconds: float) -> None:
        """From now on the work may take so many seconds."""
        self._began = self._clock()
        self._deadline = self._began + seconds
        self.anew()

    def end(self) -> None:
        """From now on it may take as long as it takes."""
        self._deadline = None
        self.anew()

    def left(self) -> float:
        """Seconds that are left of the limit; none where there is none."""
        return 0.0 if self._deadline is None else self._deadline - self._clock()

    def anew(self, what: str = "", *, last: float = 1.0) -> None:
        """Work of another kind, in words if need be: the pace is measured again. Its told steps end at share `last`."""
        self._phase = f"{PHASE} ({what})" if what else PHASE
        self._first, self._last, self._mark = 0.0, last, None

    def share(self, first: float, last: float) -> None:
        """The steps that follow are this share of the work, from `first` to `last` in [0, 1]."""
        self._first, self._last = first, last

    def __call__(self, progress: Any) -> None:
        """A step is done: `iteration` of `max_iter`."""
        inside = progress.iteration / max(progress.max_iter, 1)
        done, now = self._first + (self._last - self._first) * inside, self._clock()
        if self._mark is None:
            self._mark = done, now
        if self.callback is not None:
            self.callback(Standing(self._phase, round(100 * done), 100, float("nan"), now - self._began))
        if self._deadline is not None and self._ends(done, now) > self._deadline:
            raise OverTime

    def _ends(self, done: float, now: float) -> float:
        """When all will be done, at the pace since the first report; `now` before that can be said."""
        assert self._mark is not None
        share, spent = done - self._mark[0], now - self._mark[1]
        if share <= 0 or spent < TELLING:
            return now
        return now + (1 - done) * spent / share
