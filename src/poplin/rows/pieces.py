"""Rows a few at a time within a compiled step, so that what is computed of them stays in the processor's cache.

Start at `by_pieces`. A step over all rows of a large table reads and writes many (n, p) arrays, one after the other,
and waits for memory; over some thousand rows at a time the same arrays hardly leave the processor.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from poplin.data.blocks import Block

ENTRIES = 1_000_000  # counts of a piece: fewer would stay nearer, but are not shared out to all threads
LEAST = 4  # pieces, below which rows are taken together


def by_pieces(local: Callable[[Any, Block], tuple[Any, Any]], rows: Any, block: Block) -> tuple[Any, Any]:
    """`local(rows, block)` gives what rows become and a sum over them; the same, one piece after the other."""
    n, p = block.y.shape
    size = max(ENTRIES // p, 1)
    if n < LEAST * size:
        return local(rows, block)

    def piece(start: Any, many: int, kept: Any, total: Any) -> tuple[Any, Any]:
        some, of = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, many), (kept, block))
        moved, part = local(some, of)
        kept = jax.tree.map(lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, start, 0), kept, moved)
        return kept, jax.tree.map(jnp.add, total, part)

    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), (rows, block))
    # sums of many pieces are added up in double precision
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float64), jax.eval_shape(local, *first)[1])
    count, rest = divmod(n, size)
    kept, total = jax.lax.fori_loop(0, count, lambda k, at: piece(k * size, size, *at), (rows, nothing))
    return piece(count * size, rest, kept, total) if rest else (kept, total)
