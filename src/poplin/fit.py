"""THE loop: sweeps over the rows, a sum, an update, until the method says it is done.

Start at `run`. Steps are compiled together into chunks (one `while_loop`), so that nothing crosses to the
host inside an iteration; between chunks the callback is told, Ctrl-C is heard, and where a run stands can be
kept (`Keeping`): a run that goes on from there takes the same steps as one that was never stopped.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poplin._compile import compiled
from poplin._interrupts import whole
from poplin.data.blocks import Block
from poplin.data.placing import agreed
from poplin.methods.method import AbstractMethod

CHUNK = 128  # most steps between two looks at the clock
FIRST = 8  # steps of the first chunk
LOOK = 1.0  # seconds that a chunk should take: each takes its memory anew, which costs a large table 0.1 s


class Progress(NamedTuple):
    """What the callback is told between chunks; the objective is in nats, higher is better."""

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
    """Where a run goes on from (None: its beginning), and who is given where it stands, every so many steps."""

    stand: Stand | None
    every: int
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


@compiled(donate_argnums=(1, 2))
def _advance(method: AbstractMethod, state: Any, rows: Any, block: Block, budget: Any):
    """At most `budget` steps, with the objective after each."""

    def going(carry):
        state, _, _, k = carry
        return (k < budget) & ~method.done(state) & ~method.failed(state)

    def step(carry):
        state, rows, objectives, k = carry
        for local, update in method.sweeps():
            rows, total = local(state, rows, block)
            state = update(state, total)
        return state, rows, objectives.at[k].set(state.objective), k + 1

    state, rows, objectives, k = jax.lax.while_loop(
        going, step, (state, rows, jnp.full(CHUNK, jnp.nan), jnp.asarray(0))
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
            if keeping is not None and steps % keeping.every == 0 and not (converged or failed):
                objectives, seconds = [np.concatenate(objectives)], [np.concatenate(seconds)]
                keeping.keep(Stand(state, rows, objectives[0], seconds[0]))
                kept = steps
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
    return CHUNK if keeping is None else keeping.every - steps % keeping.every


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
