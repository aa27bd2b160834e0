"""The file that keeps where a fit stands: what is in it, whose it is, and what is refused.

Start at `read` and `write`. A fit, by whatever method and of whatever model, is a fixed sequence of runs of the loop;
the file has what remains of the runs that are over, and where the present one stands, as arrays (no pickle). Facts
(versions, settings, digests of the data) say which fit it belongs to, a digest that all of it is as it was written.
Runs that are taken up again use it.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from poplin import fit as loop
from poplin._errors import InputError
from poplin._numerics import THREEFRY
from poplin.data.blocks import NOWHERE, Block, Layout, on_host
from poplin.data.held import arrays_of
from poplin.data.streams import Shelf
from poplin.inference.summary import OF_A_RUN
from poplin.methods.method import AbstractMethod, Spread, over_devices
from poplin.store import read_npz, write_npz

FORMAT = 1
TRAINING = "training"  # the model of a file that has the state of a training alone: as it was before
PLAIN = str | bool | int | float


class Place(NamedTuple):
    """The file, and what is true of the fit that it belongs to."""

    path: Path
    facts: dict[str, Any]


class Kept(NamedTuple):
    """A run of the loop in the file: what remains of it, if it is over, or where it stands.

    `leaves`: the arrays of its state and rows in the order of the tree; `objective` and `seconds` of its steps.
    """

    phase: str
    over: bool
    converged: bool
    leaves: tuple[np.ndarray, ...]
    objective: np.ndarray
    seconds: np.ndarray


def place(path: Any, facts: dict[str, Any]) -> Place:
    """The file for the fit of which these facts are true; nothing is made yet.

    Raises `InputError` where no file can be.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"checkpoint={path!r}: wanted is the name of a file, for example 'fit-checkpoint.npz'."
        )
    where = Path(path)
    if where.is_dir():
        raise InputError(
            f"checkpoint: {where} is a folder; wanted is a file in it, for example {where / 'fit.npz'}."
        )
    there = next(parent for parent in where.absolute().parents if parent.exists())
    if not there.is_dir():
        raise InputError(f"checkpoint={path!r}: {there} is a file; wanted is a folder (made if need be).")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"checkpoint={path!r}: nothing may be written in {there}. Choose another folder.")
    return Place(where, facts)


def facts(data: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What says which fit it is: versions, digests of the data by what they are called, settings by name."""
    told = {"poplin": version("poplin"), "jax": version("jax"), "device": jax.default_backend()}
    told |= {f"the {words}": _digest(rows) for words, rows in data.items()}
    return told | {name: _told(value) for name, value in settings.items()}


def write(at: Place, runs: Sequence[Kept]) -> None:
    """Write the runs, whole or not at all: what was there before stays until all is on the disk.

    Raises `InputError` where it cannot be written, for example as the disk is full.
    """
    arrays, told = {}, []
    for i, run in enumerate(runs):
        arrays |= {f"run{i}_{j}": leaf for j, leaf in enumerate(run.leaves)}
        arrays |= {f"run{i}_objective": run.objective, f"run{i}_seconds": run.seconds}
        told.append(
            {"phase": run.phase, "over": run.over, "converged": run.converged, "leaves": len(run.leaves)}
        )
    meta: dict[str, Any] = {"checkpoint": FORMAT, "facts": at.facts, "runs": told}
    meta["sha256"] = digest(arrays, meta)
    try:
        at.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{at.path} cannot be written: {error.strerror or error}.") from error
    write_npz(at.path, arrays, meta)


def read(at: Place) -> list[Kept]:
    """The runs in the file; none where there is no file. Raises `InputError` for one that is not of this fit."""
    if not at.path.exists():
        return []
    try:
        arrays, meta = read_npz(at.path)
    except InputError as error:
        raise InputError(f"The checkpoint cannot be used. {error} {_anew(at.path)}") from error
    alone = meta.get("model") == TRAINING
    if "checkpoint" not in meta and not alone:
        raise InputError(f"{at.path} is a file of poplin, but no checkpoint of a fit. {_anew(at.path)}")
    if meta.get("checkpoint", FORMAT) != FORMAT:
        raise InputError(
            f"The checkpoint {at.path} is in format {meta['checkpoint']}; this poplin knows format {FORMAT}. "
            f"Go on with the poplin that wrote it. {_anew(at.path)}"
        )
    if meta.pop("sha256", None) != digest(arrays, meta):
        raise InputError(
            f"The checkpoint {at.path} is damaged: its contents are not those that were written. {_anew(at.path)}"
        )
    _check_facts(at, meta["facts"], at.facts.keys() & meta["facts"] if alone else at.facts)
    return [_alone(arrays)] if alone else [_run(i, told, arrays) for i, told in enumerate(meta["runs"])]


def _run(i: int, told: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Kept:
    leaves = tuple(arrays[f"run{i}_{j}"] for j in range(told["leaves"]))
    of_steps = arrays[f"run{i}_objective"], arrays[f"run{i}_seconds"]
    return Kept(told["phase"], told["over"], told["converged"], leaves, *of_steps)


def _alone(arrays: Mapping[str, np.ndarray]) -> Kept:
    """Training in a file that has its state alone, the last number of which is how many steps it took."""
    leaves = tuple(arrays[f"state_{i}"] for i in range(len(arrays)))
    steps = int(leaves[-1])
    return Kept("train", False, False, leaves, np.full(steps, np.nan), np.zeros(steps))


def _check_facts(at: Place, there: Mapping[str, Any], names: Iterable[str]) -> None:
    """An `InputError` that says in which of these facts the file's fit is another one."""
    other = [name for name in names if name not in there or there[name] != at.facts[name]]
    if not other:
        return
    words = "; ".join(_apart(name, there.get(name), at.facts[name]) for name in other)
    raise InputError(
        f"The checkpoint {at.path} belongs to another fit: {words}. To go on with that fit, give its data, "
        f"settings and versions. {_anew(at.path)}"
    )


def _apart(name: str, there: Any, here: Any) -> str:
    """How a fact of the file's fit and one of this fit are told apart."""
    if name.startswith("the "):
        return f"{name} differ"
    arrays = [isinstance(fact, str) and fact.startswith("sha256:") for fact in (there, here)]
    if all(arrays):
        return f"{name} is another array there"
    one, other = (
        "an array" if array else repr(fact) for array, fact in zip(arrays, (there, here), strict=True)
    )
    return f"{name} is {one} there and {other} here"


def _anew(path: Path) -> str:
    return f"To begin anew, remove {path} or name another file."


def _told(value: Any) -> Any:
    """A setting as JSON can hold it; of arrays a digest."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, PLAIN):
        return value
    if isinstance(value, tuple | list) and all(isinstance(part, PLAIN) for part in value):
        return list(value)
    return _digest(value)


def _digest(rows: Any) -> str:
    """Of an array, or a table as a fit holds it."""
    return "sha256:" + _hashed((name, np.asarray(part)) for name, part in arrays_of(rows)).hexdigest()


def digest(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> str:
    """What says that the contents of a checkpoint are those that were written."""
    found = _hashed(arrays.items())
    found.update(json.dumps(meta, sort_keys=True).encode())
    return found.hexdigest()


def _hashed(arrays: Iterable[tuple[str, np.ndarray]]) -> Any:
    found = hashlib.sha256()
    for name, array in arrays:
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        if array.size:
            found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found


# States of a run between the devices and the host, for checkpoints: without the rows that only fill the last device.
#
# Start at `Lying`. What a checkpoint holds does not depend on how many devices there were, so that a fit goes on with
# another number of them.


class Lying(NamedTuple):
    """Shapes of the state and the rows of a run, the axis of rows of each array, and the devices (None: one)."""

    shapes: Any
    axes: Any
    layout: Layout | None

    def remaining(self, remains: Callable[[Any], Any]) -> Lying:
        """The same of what remains of the rows when the run is over."""
        (state, rows), (state_axes, rows_axes) = self.shapes, self.axes
        return self._replace(shapes=(state, remains(rows)), axes=(state_axes, remains(rows_axes)))

    def wanted(self) -> list[ShapeDtypeStruct]:
        """The shapes of the arrays as a checkpoint has them."""
        return [self._without(*pair) for pair in self._pairs(self.shapes)]

    def taken(self, tree: Any, take: Callable[[Any], np.ndarray]) -> tuple[np.ndarray, ...]:
        """The arrays on the host; all processes must ask for them together."""
        return tuple(self._fetched(leaf, axis, take) for leaf, axis in self._pairs(tree))

    def put(self, leaves: list[np.ndarray], fresh: Any = None) -> Any:
        """Arrays of a checkpoint as a tree on the devices, in memory of their own: the loop takes it over.

        `fresh`: the state and the rows of a run that begins; what fills the last device is as it is there.
        """
        fills = [None] * len(leaves)
        if fresh is not None:
            fills = [self._filling(*pair) for pair in self._pairs(fresh)]
        axes, tree = jax.tree.flatten(self.axes)
        put = [self._put(*each) for each in zip(leaves, axes, self.wanted(), fills, strict=True)]
        return jax.tree.unflatten(tree, put)

    def _pairs(self, tree: Any) -> list[tuple[Any, int]]:
        return list(zip(jax.tree.leaves(tree), jax.tree.leaves(self.axes), strict=True))

    def _without(self, shape: Any, axis: int) -> ShapeDtypeStruct:
        if self.layout is None or axis == NOWHERE:
            return shape
        sizes = list(shape.shape)
        sizes[axis] = self.layout.held(sizes[axis])
        return ShapeDtypeStruct(tuple(sizes), shape.dtype)

    def _fetched(self, leaf: Any, axis: int, take: Callable[[Any], np.ndarray]) -> np.ndarray:
        leaf = jax.random.key_data(leaf) if is_key(leaf) else leaf
        return take(leaf if self.layout is None else self.layout.fetch(leaf, axis))

    def _filling(self, leaf: Any, axis: int) -> np.ndarray | None:
        if self.layout is None or axis == NOWHERE:
            return None
        whole = on_host(leaf)
        first = self.layout.held(whole.shape[axis])
        return np.take(whole, np.arange(first, whole.shape[axis]), axis=axis)

    def _put(self, held: np.ndarray, axis: int, wanted: Any, fill: np.ndarray | None) -> Any:
        here = jnp.array(held) if self.layout is None else self.layout.put(held, axis, fill)
        return jax.random.wrap_key_data(here, impl=THREEFRY) if is_key(wanted) else here


def is_key(leaf: Any) -> bool:
    """Is this a random key?"""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def lying(method: AbstractMethod, shapes: tuple[Any, Any]) -> Lying:
    """How the state and the rows of a run of this method lie."""
    if isinstance(method, Spread):
        everywhere = jax.tree.map(lambda _: NOWHERE, shapes[0])
        return Lying(shapes, (everywhere, method.kept.as_tree()), method.layout)
    return Lying(shapes, jax.tree.map(lambda _: NOWHERE, shapes), None)


def fresh(method: AbstractMethod, first: Any, block: Any) -> Any:
    """The state and the rows of a run that begins; None where no device is filled with rows that are none."""
    if not isinstance(method, Spread) or method.layout.filled == method.layout.rows:
        return None
    return jax.jit(lambda method, first, block: method.start(first, block))(method, first, block)


# Runs of the loop that can be taken up again: those that are over are read back, the present one goes on.
#
# Start at `run_resumed`, which phases call in the place of `poplin.fit.run`, and `run_blocks`, in that of
# `fit.run_blocks`. A fit is a fixed sequence of runs, so their number says which is which; shapes and trees come from
# the code, only arrays from the file. States are those of the loop, with random keys and what rows keep: the numbers
# are those of a fit that was never stopped.


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

    `every`: iterations between two writings; None: once a minute. Raises `InputError` for a file that belongs to
    another fit.
    """

    def __init__(self, at: Place, every: int | None = None) -> None:
        self.every = every
        self._at = at
        self._found = read(at)
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
            write(self._at, [*self._over, *present])
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


def by_the_clock(settings: Mapping[str, Any], data: Mapping[str, Any]) -> Keeper | None:
    """The checkpoint that an estimator's settings ask for, written once a minute; None where they ask for none."""
    if settings["checkpoint"] is None:
        return None
    told = {name: value for name, value in settings.items() if name not in OF_A_RUN}
    return Keeper(place(settings["checkpoint"], facts(data, told)))


class Course(NamedTuple):
    """A run as its keeper sees it: the trees that are kept, what it begins from, how it goes on from a stand."""

    lying: Callable[[], Lying]
    fresh: Callable[[], Any]
    go: Callable[[loop.Keeping | None], loop.Outcome]


def whole(rows: Any) -> Any:
    """All that rows keep."""
    return rows


def nothing(rows: Any) -> tuple[()]:
    """Nothing of it."""
    return ()


def run_resumed(
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
    stream: loop.Blocks,
    settings: Settings,
    *,
    phase: str,
    many: int,
    remains: Callable[[Any], Any] = whole,
) -> loop.Outcome:
    """The same of `fit.run_blocks`: rows that are dense a block at a time, `many` blocks an iteration, on one device.

    What rows keep is a list with an entry a block, of which `remains` picks.
    """
    keeper = settings.keeper
    shelf = Shelf(stream.blocks, None if keeper is None else keeper.folder)
    how = settings.of(phase)
    course = Course(
        lying=lambda: lying(method, loop.shapes_of_blocks(method, first, stream)),
        fresh=lambda: None,
        go=lambda keeping: loop.run_blocks(
            method, first, stream, many=many, shelf=shelf, keeping=keeping, **how
        ),
    )
    return _gone(course, keeper, phase, remains)


def run_rounds(step: loop.Step, first: Any, settings: Settings, *, phase: str) -> loop.Outcome:
    """The same of `fit.run_rounds`; arrays of the state `first` keep their shapes and kinds."""
    shapes = jax.tree.map(lambda a: ShapeDtypeStruct(np.shape(a), a.dtype), first)
    course = Course(
        lying=lambda: Lying((shapes, ()), (jax.tree.map(lambda _: NOWHERE, shapes), ()), None),
        fresh=lambda: None,
        go=lambda keeping: loop.run_rounds(step, first, keeping=keeping, **settings.of(phase)),
    )
    return _gone(course, settings.keeper, phase, whole)


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
    # a run that met its rule is over, whoever interrupts the fit
    if outcome.converged or not outcome.interrupted:
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
