"""A block of rows as the numerical rooms see it: plain arrays on the device, nothing missing, no names.

Start at `as_block`. Two facts are folded into the arrays here, so that no formula further right needs a case:
a missing count is a count with no exposure (offset minus infinity, y = 0: probability one whatever the
latent position), and a column without a single count carries the weak prior of half a count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.special import gammaln

from poplin._axes import Counts, Covariates, Rows
from poplin._errors import InputError
from poplin.laws import POISSON, AbstractLaw, at_rows

# exp(NO_EXPOSURE + z) is zero for every z, and 0 * NO_EXPOSURE is zero: finite in single precision too.
NO_EXPOSURE = -1e30


class Block(NamedTuple):
    """Rows on the device: y, offset (n, p), x (n, d), weights, log_factorial, index (n,).

    law: what their counts say of their log rates, its parameters as of the cells (n, p). zero_features (n, k): what the
    law's zeros depend on, None where that is nothing of the rows.
    """

    y: Counts
    x: Covariates
    offset: Counts
    weights: Rows
    log_factorial: Rows  # sum over j of log y_ij!
    index: Rows  # global row number; a row's random key is folded from it
    law: AbstractLaw = POISSON
    zero_features: Array | None = None

    def under(self, law: AbstractLaw) -> Block:
        """The rows under a law with the parameters of a model, see `laws.at_rows`."""
        return self._replace(law=at_rows(law, self.zero_features, self.y))


def half_a_count(y: np.ndarray, offset: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spread half a count over each column that has none: y_ij = 0.5 e^o_ij / sum_i w_i e^o_ij.

    The weak prior that keeps a coefficient finite when a column (of this fold, of this table) is all zero:
    it adds sum_i y_ij (o_ij + Z_ij) to the log density, as a gamma prior of shape 1/2 on the column's rate
    would.
    """
    empty = (weights @ y) == 0
    if not empty.any():
        return y
    exposure = np.where(offset[:, empty] > NO_EXPOSURE / 2, offset[:, empty], -np.inf)
    share = np.exp(exposure - exposure.max(axis=0))
    filled = y.copy()
    filled[:, empty] = 0.5 * share / (weights @ share)
    return filled


def as_rows(
    y,
    x,
    offset,
    weights,
    *,
    prior: bool = True,
    kind: Any = np.float64,
    log_factorial=None,
    zero_features=None,
) -> Block:
    """Rows that passed the door, still in the host's memory; `prior` adds half a count to columns without any.

    `log_factorial` (n,), where it is known already: it takes longer than all else here.
    """
    missing = np.isnan(y)
    some = missing.any()
    seen, exposed = (
        (np.where(missing, 0.0, y), np.where(missing, NO_EXPOSURE, offset)) if some else (y, offset)
    )
    constant = gammaln(seen + 1).sum(axis=1) if log_factorial is None else log_factorial
    if prior:
        seen = half_a_count(seen, exposed, weights)
    arrays = (seen, x, exposed, weights, constant)
    numbers = [np.asarray(a, dtype=kind) for a in arrays]
    features: Any = None if zero_features is None else np.asarray(zero_features, dtype=kind)
    return Block(*numbers, index=np.arange(len(y)), zero_features=features)  # type: ignore[arg-type]


def as_block(y, x, offset, weights, **how: Any) -> Block:
    """Device arrays for rows that passed the door; see `as_rows`."""
    return jax.tree.map(jnp.asarray, as_rows(y, x, offset, weights, **how))


# Where rows lie when there are several devices, in one process or in many: each device holds as many of them.
#
# Start at `placed`. Rows of the block, and of what rows keep, are cut along one axis of the devices, everything else
# is on all of them. Rows of weight zero with the number -1 fill the last device; they are copies of the first row, so
# that every formula is finite there. On one device nothing here does anything.


ROWS = "rows"  # the name of the devices' axis
NOWHERE = -1  # the axis of rows of an array that has none
PIECE = 8_000_000  # numbers that come to the host together from devices of other processes


def along(axis: int) -> PartitionSpec:
    """How an array is cut whose rows are along this axis."""
    return PartitionSpec() if axis == NOWHERE else PartitionSpec(*(None,) * axis, ROWS)


def axis_of(array: Any) -> int:
    """Along which axis an array is cut into rows, as it lies."""
    spec = getattr(getattr(array, "sharding", None), "spec", None)
    return list(spec).index(ROWS) if spec is not None and ROWS in spec else NOWHERE


class Layout(NamedTuple):
    """The devices, and how many rows they hold without those that fill the last one."""

    mesh: Mesh
    rows: int

    @property
    def filled(self) -> int:
        """Rows with those that fill the last device."""
        return -(-self.rows // self.mesh.size) * self.mesh.size

    def held(self, length: int) -> int:
        """How much of an axis of rows is of rows of the table; where arrays are one long vector a row has several."""
        return length // self.filled * self.rows

    def put(self, array: Any, axis: int, fill: np.ndarray | None = None) -> jax.Array:
        """An array of the host on the devices: each process hands its own devices their rows.

        `fill` is for the rows that are none; without it they are the first row again.
        """
        array = np.asarray(array)
        if axis != NOWHERE:
            each = array.shape[axis] // self.rows
            none = np.arange(each * (self.filled - self.rows))
            rest = np.take(array, none % each, axis=axis) if fill is None else fill
            array = np.concatenate([array, rest], axis=axis) if none.size else array
        how = NamedSharding(self.mesh, along(axis))
        return jax.make_array_from_callback(array.shape, how, lambda part: array[part])

    def fetch(self, array: Any, axis: int) -> np.ndarray:
        """The array on the host of every process, without the rows that are none."""
        whole = on_host(array)
        return (
            whole if axis == NOWHERE else np.take(whole, np.arange(self.held(whole.shape[axis])), axis=axis)
        )

    def lying(self, tree: Any, axis: int) -> Any:
        """The same arrays, cut along this axis whatever the compiler chose."""
        return jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, along(axis)))(tree)


def layout(block: Any) -> Layout | None:
    """How the rows of a block lie; None on one device, where rows that are no `Block` always are."""
    if not isinstance(block, Block):
        return None
    how = getattr(block.y, "sharding", None)
    if axis_of(block.y) == NOWHERE or not isinstance(how, NamedSharding):
        return None
    return Layout(how.mesh, int(_numbered(block.index)))  # type: ignore[arg-type]


def placed(rows: Block) -> Block:
    """Rows of the host on all devices that there are."""
    if jax.device_count() == 1:
        return jax.tree.map(jnp.asarray, rows)
    return spread_out(rows, Mesh(np.array(jax.devices()), (ROWS,)))


def spread_out(rows: Block, mesh: Mesh) -> Block:
    """Rows of the host on these devices."""
    over = Layout(mesh, len(rows.y))
    none = over.filled - over.rows
    cut = jax.tree.map(lambda a: over.put(a, 0), rows)
    return cut._replace(
        weights=over.put(rows.weights, 0, np.zeros(none, rows.weights.dtype)),
        index=over.put(rows.index, 0, np.full(none, -1, rows.index.dtype)),
    )


@jax.jit
def _numbered(index: jax.Array) -> jax.Array:
    return jnp.sum(index >= 0)


def rows_in(block: Block) -> int:
    """Rows of the table in a block, without those that fill the last device."""
    over = layout(block)
    return len(block.y) if over is None else over.rows


def largest(array: jax.Array) -> float:
    """The largest number; on one device without a program of its own."""
    return float(np.max(np.asarray(array)) if axis_of(array) == NOWHERE else jnp.max(array))


def on_host(array: Any) -> np.ndarray:
    """The whole array in this process; parts that other processes hold come a piece at a time."""
    axis = axis_of(array)
    if axis == NOWHERE or array.is_fully_addressable:
        return np.asarray(array)
    length = array.shape[axis]
    size = max(1, min(length, PIECE * length // max(array.size, 1)))
    everywhere = NamedSharding(array.sharding.mesh, PartitionSpec())
    whole = np.empty(array.shape, array.dtype)
    for first in range(0, length, size):
        first = min(first, length - size)  # the last piece is as long as the others
        place = (slice(None),) * axis + (slice(first, first + size),)
        whole[place] = np.asarray(_piece(array, first, size=size, axis=axis, everywhere=everywhere))
    return whole


@functools.partial(jax.jit, static_argnames=("size", "axis", "everywhere"))
def _piece(array: jax.Array, first: Any, *, size: int, axis: int, everywhere: NamedSharding) -> jax.Array:
    part = jax.lax.dynamic_slice_in_dim(array, first, size, axis)
    return jax.lax.with_sharding_constraint(part, everywhere)


def trimmed(array: jax.Array, block: Block) -> jax.Array:
    """The array without rows that are none."""
    over = layout(block) if axis_of(array) == 0 else None
    return array if over is None else array[: over.rows]


def row_by_row(function: Callable[..., Any], block: Block, *shared: Any) -> Any:
    """`function(block, *shared)`, which needs no sum: every device does its own rows."""
    over = layout(block)
    if over is None:
        return function(block, *shared)
    cut, everywhere = along(0), along(NOWHERE)
    wanted = (cut, *(everywhere for _ in shared))
    piecewise = jax.shard_map(function, mesh=over.mesh, in_specs=wanted, out_specs=cut, check_vma=False)
    return jax.jit(piecewise)(block, *shared)


def agreed(number: int, rows: Any) -> int:
    """The first process' number, wherever these rows are: clocks differ, steps are taken together."""
    if all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(rows)):
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.asarray(number)))


def check_agreed(digest: str, words: str) -> None:
    """Raise `InputError` in every process unless all have the same digest (hexadecimal) of what `words` says."""
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    mine = np.array([int(digest[i : i + 4], 16) for i in range(0, 64, 4)], np.int32)
    theirs = np.asarray(multihost_utils.process_allgather(mine))
    other = np.flatnonzero((theirs != theirs[0]).any(axis=1))
    if other.size:
        raise InputError(
            f"{words} differ between processes: process {other[0]} has others than process 0. Every process must be "
            "given the same files and the same command."
        )
