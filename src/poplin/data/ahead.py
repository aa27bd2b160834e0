"""Reading ahead: what is wanted next is read by another thread while this one works.

Start at `Ahead`. The thread only reads; an error, or Ctrl-C, is met where what was read is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, final


@final
class Ahead:
    """`take(number)` gives what `read(number)` gives; `begin(number)` has it read meanwhile, one at a time."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        self._read, self._thread = read, ThreadPoolExecutor(1, "poplin-read-ahead")
        self._number, self._coming = -1, None

    def begin(self, number: int) -> None:
        """Begin to read this; what was begun before and not taken is let go."""
        if number != self._number:
            self._let_go()
            self._number, self._coming = number, self._thread.submit(self._read, number)

    def take(self, number: int) -> Any:
        """What was read, as soon as it is there."""
        coming: Future[Any] | None = self._coming if number == self._number else None
        self._number, self._coming = -1, None
        return self._read(number) if coming is None else coming.result()

    def _let_go(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
        self._number, self._coming = -1, None
