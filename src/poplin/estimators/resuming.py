"""Runs of the loop that can be taken up again: those that are over are read back, the present one goes on.

Start at `run`, which phases call in the place of `poplin.fit.run`, and `run_blocks`, in that of `passes.run`. A fit is
a fixed sequence of runs, so their number says which is which; shapes and trees come from the code, only arrays from the
file. States are those of the loop, with random keys and what rows keep: the numbers are those of a fit that was never
stopped.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from poplin import fit as loop
from poplin import passes
from poplin._errors import InputError
from poplin.data.blocks import Block
from poplin.data.shelf import Shelf
from poplin.estimators import checkpoints
from poplin.estimators.carrying import Lying, fresh, is_key, lying
from poplin.estimators.checkpoints import Kept, Place
from poplin.methods.method import AbstractMethod
from poplin.methods.spread import over_devices


class Settings(NamedTuple):
    """How a phase runs: most iterations, tolerance, who is told, and who keeps where it stands."""

    max_iter: int
    tol: float
    began: float
    callback: Callable[[loop.Progress], None] | None = None
    keeper: Keeper | None = None

    def of(self, phase: str) -> dict[str, Any]:
        """What the loop is told of a phase."""
        return {"phase": phase, "max_iter": self.max_iter, "began": self.began, "callback": self.callback}


class Keeper:
    """The checkpoint of one fit while it goes on: what was found in the file, and which runs are over.

    `every`: iterations between two writings. Raises `InputError` for a file that belongs to another fit.
    """

    def __init__(self, at: Place, every: int) -> None:
        self.every = every
        self._at = at
        self._found = checkpoints.read(at)
        self._over: list[Kept] = []
        self._told = False

    @property
    def standing(self) -> str:
        """What was found in the file, in short; the same in every process that reads the same file."""
        return repr([(run.phase, run.over, run.objective.tobytes()) for run in self._found])

    @property
    def folder(self) -> Path:
        """Where the file is."""
        return self._at.path.parent

    @property
    def spent(self) -> float:
        """Seconds that the fit had taken when the file was written."""
        return max((float(run.seconds[-1]) for run in self._found if len(run.seconds)), default=0.0)

    def found(self, phase: str) -> Kept | None:
        """The run that comes next, as the file has it; None where the file does not go so far."""
        number = len(self._over)
        if number >= len(self._found):
            return None
        if self._found[number].phase != phase:
            raise _astray(self._at, phase)
        return self._found[number]

    def end(self, run: Kept) -> None:
        """The present run is over; the next one begins."""
        known = self.found(run.phase)
        self._over.append(run)
        if known is None or not known.over:
            self._found = self._found[: len(self._over) - 1]
            self.write()

    def write(self, *present: Kept) -> None:
        """Keep the runs that are over and where the present one stands. A failure is told once and ends nothing.

        Of several processes the first one writes.
        """
        if jax.process_index() > 0:
            return
        try:
            checkpoints.write(self._at, [*self._over, *present])
        except InputError as error:
            if not self._told:
                self._told = True
                warnings.warn(
                    f"A checkpoint could not be written; one that was there before stays. {error} The fit goes on "
                    "and tries again each time.",
                    UserWarning,
                    stacklevel=2,
                )

    def as_tree(self, run: Kept, lying: Lying, fresh: Any = None) -> Any:
        """The run's arrays on the devices, in a tree of these shapes; see `Lying.put`."""
        wanted = lying.wanted()
        if len(wanted) != len(run.leaves):
            raise _astray(self._at, run.phase)
        for held, shape in zip(run.leaves, wanted, strict=True):
            like = jax.eval_shape(jax.random.key_data, shape) if is_key(shape) else shape
            if held.shape != like.shape or held.dtype != like.dtype:
                raise _astray(self._at, run.phase)
        return lying.put(list(run.leaves), fresh)


class Course(NamedTuple):
    """A run as its keeper sees it: the trees that are kept, what it begins from, how it goes on from a stand."""

    lying: Callable[[], Lying]
    fresh: Callable[[], Any]
    go: Callable[[loop.Keeping | None], loop.Outcome]


def whole(rows: Any) -> Any:
    """All that rows keep."""
    return rows


def run(
    method: AbstractMethod,
    first: Any,
    block: Block,
    settings: Settings,
    *,
    phase: str,
    remains: Callable[[Any], Any] = whole,
) -> loop.Outcome:
    """Run one phase to its end, or on from where a checkpoint has it.

    `remains` picks what of the rows is needed when it is over; the outcome has only that.
    """
    method = over_devices(method, first, block)
    how = settings.of(phase)
    course = Course(
        lying=lambda: lying(method, loop.shapes(method, first, block)),
        fresh=lambda: fresh(method, first, block),
        go=lambda keeping: loop.run(method, first, block, keeping=keeping, **how),
    )
    return _gone(course, settings.keeper, phase, remains)


def run_blocks(
    method: AbstractMethod,
    first: Callable[[int, Block], Any],
    stream: passes.Blocks,
    settings: Settings,
    *,
    phase: str,
    many: int,
    remains: Callable[[Any], Any] = whole,
) -> loop.Outcome:
    """The same of `passes.run`: rows that are dense a block at a time, `many` blocks an iteration, on one device.

    What rows keep is a list with an entry a block, of which `remains` picks.
    """
    keeper = settings.keeper
    shelf = Shelf(stream.blocks, None if keeper is None else keeper.folder)
    how = settings.of(phase)
    course = Course(
        lying=lambda: lying(method, passes.shapes(method, first, stream)),
        fresh=lambda: None,
        go=lambda keeping: passes.run(method, first, stream, many=many, shelf=shelf, keeping=keeping, **how),
    )
    return _gone(course, keeper, phase, remains)


def _gone(course: Course, keeper: Keeper | None, phase: str, remains: Callable[[Any], Any]) -> loop.Outcome:
    """The outcome of a run from where its keeper has it, and with what remains of the rows alone."""
    if keeper is None:
        outcome = course.go(None)
        return outcome._replace(rows=remains(outcome.rows))
    kept, where, stand = keeper.found(phase), course.lying(), None
    ended = where.remaining(remains)
    if kept is not None and kept.over:
        return _read_back(keeper, kept, ended)
    if kept is not None:
        state, rows = keeper.as_tree(kept, where, course.fresh())
        stand = loop.Stand(state, rows, kept.objective, kept.seconds)
    outcome = course.go(_keeping(keeper, phase, stand, where))
    outcome = outcome._replace(rows=remains(outcome.rows))
    if not outcome.interrupted:
        keeper.end(_ended(outcome, phase, ended))
    return outcome


def _read_back(keeper: Keeper, kept: Kept, where: Lying) -> loop.Outcome:
    """The outcome of a run that is over."""
    state, rows = keeper.as_tree(kept, where)
    keeper.end(kept)
    trace = loop.trace_of(kept.phase, kept.objective, kept.seconds)
    return loop.Outcome(state, rows, kept.converged, False, trace)


def _keeping(keeper: Keeper, phase: str, stand: loop.Stand | None, where: Lying) -> loop.Keeping:
    """From where the run goes on, and how it is kept."""

    def keep(now: loop.Stand) -> None:
        leaves = where.taken((now.state, now.rows), np.asarray)
        keeper.write(Kept(phase, False, False, leaves, now.objective, now.seconds))

    return loop.Keeping(stand, keeper.every, keep)


def _ended(outcome: loop.Outcome, phase: str, where: Lying) -> Kept:
    """A run that is over; its arrays are copied, as the next run takes over their memory."""
    leaves = where.taken((outcome.state, outcome.rows), np.array)
    return Kept(phase, True, outcome.converged, leaves, outcome.trace.objective, outcome.trace.seconds)


def _astray(at: Place, phase: str) -> InputError:
    return InputError(
        f"The checkpoint {at.path} does not fit the phase '{phase}': it was written by other code. Remove it, or name "
        "another file, to begin anew."
    )
