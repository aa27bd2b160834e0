"""Chains over several devices: where the rows of a variational fit lie, or, for a small table, repeated and dealt out.

Start at `repeated`, which does over devices what `phases.repeated` does on one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin.data.blocks import Block
from poplin.data.placing import NOWHERE, ROWS, Layout, along, spread_out
from poplin.methods import ml
from poplin.updates.structure import Model


class Copying(NamedTuple):
    """`phases.repeated` with its options, `repeat(model, rows, block, copies=...)`, and chains of a row."""

    repeat: Callable[..., tuple[ml.Rows, Array, Block]]
    copies: int


def repeated(
    over: Layout, how: Copying, model: Model, rows: Any, block: Block
) -> tuple[ml.Rows, Array, Block]:
    """Chains at the rows' means, the columns' mean rates, and the block with its copies of each row."""
    return (
        _in_place(over, how, model, rows, block)
        if how.copies == 1
        else _dealt_out(over, how, model, rows, block)
    )


def _in_place(
    over: Layout, how: Copying, model: Model, rows: Any, block: Block
) -> tuple[ml.Rows, Array, Block]:
    """A single chain a row, beside its row."""

    def piece(model: Model, rows: Any, block: Block) -> tuple[ml.Rows, Array, Block]:
        moving, mean_rate, many = how.repeat(model, rows, block, copies=1)
        part = jnp.sum(block.weights)
        sums = jax.lax.psum((jnp.where(part > 0, part * mean_rate, 0.0), part), ROWS)
        return moving, sums[0] / sums[1], many._replace(index=block.index)

    cut, everywhere = along(0), along(NOWHERE)
    pieces = jax.shard_map(
        piece,
        mesh=over.mesh,
        in_specs=(everywhere, cut, cut),
        out_specs=(cut, everywhere, cut),
        check_vma=False,
    )
    return jax.jit(pieces)(model, rows, block)


def _dealt_out(
    over: Layout, how: Copying, model: Model, rows: Any, block: Block
) -> tuple[ml.Rows, Array, Block]:
    """Several chains a row: the table is small, so every process repeats all of it, and hands out the copies."""

    def here(tree: Any) -> Any:
        return jax.tree.map(lambda a: jnp.asarray(over.fetch(a, 0)), tree)

    alone = jax.tree.map(np.asarray, model)
    moving, mean_rate, many = how.repeat(alone, here(rows), here(block), copies=how.copies)
    many = spread_out(jax.tree.map(np.asarray, many), over.mesh)
    wide = Layout(over.mesh, over.rows * how.copies)
    return jax.tree.map(lambda a: wide.put(a, 0), moving), wide.put(mean_rate, NOWHERE), many
