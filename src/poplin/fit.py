"""THE loop: sweeps over the rows, a sum, an update, until the method says it is done.

Start at `run`. Steps are compiled together into chunks (one `while_loop`), so that nothing crosses to the
host inside an iteration; between chunks the callback is told, Ctrl-C is heard, and where a run stands can be
kept (`Keeping`): a run that goes on from there takes the same steps as one that was never stopped.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from poplin._numerics import compiled
from poplin._process import whole
from poplin.data.blocks import Block, agreed
from poplin.data.streams import Shelf
from poplin.methods.method import AbstractMethod

CHUNK = 128  # most steps between two looks at the clock
FIRST = 8  # steps of the first chunk
MINUTE = 60.0  # seconds between two times that a run is kept by the clock
LOOK = 1.0  # seconds that a chunk should take: each takes its memory anew, which costs a large table 0.1 s


class Progress(NamedTuple):
    """What a callback is called with, between compiled chunks of iterations.

    Attributes:
        phase: name of the phase: "variational", "pilot", "ml", "bootstrap", ...
        iteration: iterations of the phase so far.
        max_iter: iterations of the phase at most.
        objective: the phase's own, in nats where it is a bound, higher is better; NaN where there is none.
        seconds: since the fit began.
    """

    phase: str
    iteration: int
    max_iter: int
    objective: float
    seconds: float


class Trace(NamedTuple):
    """One entry a step: phase, step within the phase, objective (nats), seconds since the fit began."""

    phase: np.ndarray
    iteration: np.ndarray
    objective: np.ndarray
    seconds: np.ndarray


class Stand(NamedTuple):
    """Where a run stands between two chunks: both states, and objective (nats) and seconds of each step so far."""

    state: Any
    rows: Any
    objective: np.ndarray
    seconds: np.ndarray


class Keeping(NamedTuple):
    """Where a run goes on from (None: its beginning), and who is given where it stands, every so many steps.

    `every` None: by the clock, once a minute, which processes that share a run would not do together.
    """

    stand: Stand | None
    every: int | None
    keep: Callable[[Stand], None]


class Outcome(NamedTuple):
    """Where a phase ended: shared state, row states, whether the stopping rule held, whether it was interrupted."""

    state: Any
    rows: Any
    converged: bool
    interrupted: bool
    trace: Trace


@compiled()
def begin(method: AbstractMethod, first: Any, block: Block) -> tuple[Any, Any]:
    """The state and the rows before the first step."""

    # strong types, as the steps return them: a weak one would compile `_advance` a second time
    def strong(a):
        return jnp.asarray(a, a.dtype) if jnp.issubdtype(a.dtype, jnp.number) or a.dtype == bool else a

    return jax.tree.map(strong, method.start(first, block))


def step(method: AbstractMethod, state: Any, rows: Any, block: Block) -> tuple[Any, Any]:
    """One step of a method over rows that are all at hand: each of its sweeps, and the update by its sum."""
    for local, update in method.sweeps():
        rows, total = local(state, rows, block)
        state = update(state, total)
    return state, rows


@compiled(donate_argnums=(1, 2))
def _advance(method: AbstractMethod, state: Any, rows: Any, block: Block, budget: Any):
    """At most `budget` steps, with the objective after each."""

    def going(carry):
        state, _, _, k = carry
        return (k < budget) & ~method.done(state) & ~method.failed(state)

    def further(carry):
        state, rows, objectives, k = carry
        state, rows = step(method, state, rows, block)
        return state, rows, objectives.at[k].set(state.objective), k + 1

    state, rows, objectives, k = jax.lax.while_loop(
        going, further, (state, rows, jnp.full(CHUNK, jnp.nan), jnp.asarray(0))
    )
    return state, rows, objectives, k, method.done(state), method.failed(state)


def ahead(method: AbstractMethod, first: Any, block: Block) -> tuple[Any, Any]:
    """Compile what `run` needs for arguments of these shapes; returns those of the state and the rows."""
    begin.ahead(method, first, block)
    begun = begin.shapes(method, first, block)
    _advance.ahead(method, *begun, block, jnp.asarray(CHUNK))
    return begun


def shapes(method: AbstractMethod, first: Any, block: Block) -> tuple[Any, Any]:
    """The shapes of the state and the rows of a run from these first values; nothing is computed."""
    return begin.shapes(method, first, block)


def run(
    method: AbstractMethod,
    first: Any,
    block: Block,
    *,
    phase: str,
    max_iter: int,
    began: float,
    callback: Callable[[Progress], None] | None = None,
    keeping: Keeping | None = None,
) -> Outcome:
    """Run one phase to its stopping rule, `max_iter` steps, or Ctrl-C (which keeps the last whole chunk).

    A second Ctrl-C, which does not wait for the end of a chunk, leaves nothing: KeyboardInterrupt.
    """
    state, rows, *past = _beginning(method, first, block, keeping)
    objectives, seconds = ([part] for part in past)
    steps, kept, budget = len(objectives[0]), len(objectives[0]), FIRST
    written = time.perf_counter()
    converged = failed = interrupted = torn = False
    while steps < max_iter and not (converged or failed or interrupted):
        try:
            if budget == FIRST:  # compiling can be torn, and takes long
                _advance.ahead(method, state, rows, block, jnp.asarray(budget))
            with whole():
                torn, entered = True, time.perf_counter()
                most = agreed(min(budget, max_iter - steps, CHUNK, _until_kept(keeping, steps)), block)
                state, rows, values, taken, converged, failed = _advance(
                    method, state, rows, block, jnp.asarray(most)
                )
                taken, converged, failed = int(taken), bool(converged), bool(failed)
                left = time.perf_counter()
                values = np.asarray(values)  # an index into a JAX array would be a program of its own
                objectives.append(values[:taken])
                seconds.append(np.linspace(entered, left, taken + 1)[1:] - began)
                steps += taken
                budget = int(np.clip(budget * LOOK / max(left - entered, 1e-3), 1, CHUNK))
                torn = False
            if keeping is not None and not (converged or failed) and _due(keeping, steps, written):
                objectives, seconds = [np.concatenate(objectives)], [np.concatenate(seconds)]
                keeping.keep(Stand(state, rows, objectives[0], seconds[0]))
                kept, written = steps, time.perf_counter()
            if callback is not None:
                callback(Progress(phase, steps, max_iter, float(values[taken - 1]), left - began))
        except KeyboardInterrupt:
            if torn:  # the memory of the state has been given away
                raise
            interrupted = True
    trace = trace_of(phase, np.concatenate(objectives), np.concatenate(seconds))
    if interrupted and keeping is not None and steps > kept and not (converged or failed):
        keeping.keep(Stand(state, rows, trace.objective, trace.seconds))
    return Outcome(state, rows, converged, interrupted, trace)


def _beginning(method: AbstractMethod, first: Any, block: Block, keeping: Keeping | None) -> Stand:
    if keeping is not None and keeping.stand is not None:
        return keeping.stand
    state, rows = begin(method, first, block)
    return Stand(state, rows, np.zeros(0), np.zeros(0))


def _until_kept(keeping: Keeping | None, steps: int) -> int:
    """Steps to the next one after which the run is kept."""
    return CHUNK if keeping is None or keeping.every is None else keeping.every - steps % keeping.every


def _due(keeping: Keeping, steps: int, written: float) -> bool:
    """Whether a run is kept now, which was kept last, or begun, at that time."""
    return time.perf_counter() - written >= MINUTE if keeping.every is None else steps % keeping.every == 0


def trace_of(phase: str, objective: np.ndarray, seconds: np.ndarray) -> Trace:
    """The trace of one run, from what its steps reached and when."""
    return Trace(np.full(len(objective), phase), np.arange(1, len(objective) + 1), objective, seconds)


def joined(traces: list[Trace]) -> dict[str, np.ndarray]:
    """The traces of consecutive phases as one table of columns."""
    return {name: np.concatenate([getattr(t, name) for t in traces]) for name in Trace._fields}


def continued(traces: list[Trace]) -> Trace:
    """Traces of runs that go on where the one before stopped, as one: steps are counted through."""
    columns = joined(traces)
    return Trace(**columns | {"iteration": np.arange(1, len(columns["iteration"]) + 1)})


# The loop over rows that come a block at a time: the sweeps and sums of `poplin.fit.run`, which has all rows at once.
#
# Start at `run_blocks`. Blocks follow each other in the host's hands: while one is computed, the next is made dense.
# An iteration visits all blocks, or a few of them (`methods/ml.py`).


class Blocks(Protocol):
    """Rows in blocks of one shape."""

    blocks: int

    def block(self, number: int) -> Block:
        """A block, dense."""
        ...

    def visits(self, iteration: int, many: int) -> list[int]:
        """The blocks that an iteration visits."""
        ...


@compiled(static_argnames="number", donate_argnums=(1,))
def _local(method: AbstractMethod, rows: Any, state: Any, block: Block, *, number: int) -> tuple[Any, Any]:
    return method.sweeps()[number].local(state, rows, block)


@compiled(static_argnames="number")
def _update(method: AbstractMethod, state: Any, total: Any, *, number: int) -> Any:
    return method.sweeps()[number].update(state, total)


@compiled(donate_argnums=(0,))
def _added(total: Any, more: Any) -> Any:
    return jax.tree.map(jnp.add, total, more)


@compiled()
def _ended(method: AbstractMethod, state: Any) -> tuple[Any, Any]:
    return method.done(state), method.failed(state)


def run_blocks(
    method: AbstractMethod,
    first: Callable[[int, Block], Any],
    stream: Blocks,
    *,
    phase: str,
    max_iter: int,
    began: float,
    many: int,
    shelf: Shelf | None = None,
    callback: Callable[[Progress], None] | None = None,
    keeping: Keeping | None = None,
) -> Outcome:
    """Run one phase; `first(number, block)` are the first values of a block, `many` blocks are visited an iteration.

    The outcome's rows are those of the blocks, in a list. After Ctrl-C it is that of the last whole iteration; rows
    that were visited since then have moved on. Memory: two blocks, and what rows keep, which lies where
    `shelf` puts it.
    """
    shelf = shelf or Shelf(stream.blocks)
    stand = None if keeping is None else keeping.stand
    state, rows, *past = (None, [], (), ()) if stand is None else stand
    objective, seconds = map(list, past)
    converged = failed = interrupted = False
    written = time.perf_counter()
    try:
        if stand is None:
            state, rows = _begun(method, first, stream, shelf)
        else:
            rows = [shelf.laid(kept) for kept in rows]
        while len(objective) < max_iter and not (converged or failed):
            visited = stream.visits(len(objective), many)
            stepped = _iteration(method, state, rows, stream, visited=visited, shelf=shelf)
            with whole():
                state = stepped
                converged, failed = (bool(a) for a in _ended(method, state))
                objective.append(float(state.objective))
                seconds.append(time.perf_counter() - began)
            if keeping is not None and not (converged or failed) and _due(keeping, len(objective), written):
                keeping.keep(Stand(state, rows, np.array(objective), np.array(seconds)))
                written = time.perf_counter()
            if callback is not None:
                callback(Progress(phase, len(objective), max_iter, objective[-1], seconds[-1]))
    except KeyboardInterrupt:
        interrupted = True
        if state is None:
            raise
    trace = trace_of(phase, np.array(objective), np.array(seconds))
    return Outcome(state, rows, converged, interrupted, trace)


def shapes_of_blocks(
    method: AbstractMethod, first: Callable[[int, Block], Any], stream: Blocks
) -> tuple[Any, Any]:
    """The shapes of the state and the rows of a run; of the first block first values are computed."""
    block = stream.block(0)
    state, rows = begin.shapes(method, first(0, block), block)
    return state, [rows] * stream.blocks


def _begun(
    method: AbstractMethod, first: Callable[[int, Block], Any], stream: Blocks, shelf: Shelf
) -> tuple[Any, list[Any]]:
    """The state and the rows before the first iteration."""
    state, rows = None, []
    for k in range(stream.blocks):
        block = stream.block(k)
        begun, kept = begin(method, first(k, block), block)
        state = begun if state is None else state
        rows.append(shelf.laid(kept))
    return state, rows


def _iteration(
    method: AbstractMethod, state: Any, rows: list[Any], stream: Blocks, *, visited: list[int], shelf: Shelf
) -> Any:
    """Every sweep over the blocks that are visited; `rows` are replaced by what they have become."""
    for number in range(len(method.sweeps())):
        total, before = None, None
        for k in visited:
            block = stream.block(k)
            # two blocks at a time: one that is computed, one that is made dense
            jax.block_until_ready(before)
            if before is None:  # compiling can be torn, and takes long
                _local.ahead(method, rows[k], state, block, number=number)
            with whole():  # the program takes over the memory of what the rows keep
                kept, part = _local(method, rows[k], state, block, number=number)
                rows[k] = shelf.again(rows[k], kept)
            before = kept
            total = part if total is None else _added(total, part)
        state = _update(method, state, total, number=number)
    return state


# Rounds in the host's hands: a step is whatever the host does, of many programs, and sees all rows.
#
# Start at `run_rounds`. Where such a phase stands is a tree of arrays, and it is kept as those of the loops are.


class Round(NamedTuple):
    """Where a round ended: the state, what it reached, and whether it was the last, or was cut short by Ctrl-C."""

    state: Any
    objective: float
    converged: bool = False
    interrupted: bool = False


Step = Callable[[Any, int], Round]


def run_rounds(
    step: Step,
    first: Any,
    *,
    phase: str,
    max_iter: int,
    began: float,
    callback: Callable[[Progress], None] | None = None,
    keeping: Keeping | None = None,
) -> Outcome:
    """Run `step(state, number)` from the state `first` until a round says that it was the last; each one is kept.

    A round that was cut short is part of the outcome, but is not kept: a run that goes on makes it anew.
    """
    begun = None if keeping is None else keeping.stand
    state, rows, *past = (first, (), (), ()) if begun is None else begun
    objective, seconds = map(list, past)
    converged = interrupted = False
    try:
        while len(objective) < max_iter and not (converged or interrupted):
            made = step(state, len(objective))
            with whole():
                state, value, converged, interrupted = made
                converged = converged and not interrupted
                objective.append(value)
                seconds.append(time.perf_counter() - began)
            if keeping is not None and not (converged or interrupted):
                keeping.keep(Stand(state, rows, np.array(objective), np.array(seconds)))
            if callback is not None:
                callback(Progress(phase, len(objective), max_iter, objective[-1], seconds[-1]))
    except KeyboardInterrupt:
        interrupted = True
    trace = trace_of(phase, np.array(objective), np.array(seconds))
    return Outcome(state, rows, converged, interrupted, trace)
