"""The loop over rows that come a block at a time: the sweeps and sums of `poplin.fit.run`, which has all rows at once.

Start at `run`. Blocks follow each other in the host's hands: while one is computed, the next is made dense. An
iteration visits all blocks, or a few of them (`methods/minibatch.py`).
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from poplin._compile import compiled
from poplin._interrupts import whole
from poplin.data.blocks import Block
from poplin.data.shelf import Shelf
from poplin.fit import Keeping, Outcome, Progress, Stand, begin, trace_of
from poplin.methods.method import AbstractMethod


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


def run(
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
            if keeping is not None and len(objective) % keeping.every == 0 and not (converged or failed):
                keeping.keep(Stand(state, rows, np.array(objective), np.array(seconds)))
            if callback is not None:
                callback(Progress(phase, len(objective), max_iter, objective[-1], seconds[-1]))
    except KeyboardInterrupt:
        interrupted = True
        if state is None:
            raise
    trace = trace_of(phase, np.array(objective), np.array(seconds))
    return Outcome(state, rows, converged, interrupted, trace)


def shapes(method: AbstractMethod, first: Callable[[int, Block], Any], stream: Blocks) -> tuple[Any, Any]:
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
