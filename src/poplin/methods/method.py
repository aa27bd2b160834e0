"""The protocol of a method: how rows start, what they sum, how the model moves, when to stop.

Start at `AbstractMethod`. Only totals cross from rows to the shared state; the loop in `poplin.fit` is the
only one there is. A step is a fixed cycle of sweeps over the rows.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax import ShapeDtypeStruct
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from poplin._axes import Scalar
from poplin.data.blocks import NOWHERE, ROWS, Block, Layout, along, axis_of, layout


class Sweep(NamedTuple):
    """`local(state, rows, block) -> (rows, total)` sees rows; `update(state, total) -> state` sees their sum."""

    local: Callable[[Any, Any, Block], tuple[Any, Any]]
    update: Callable[[Any, Any], Any]


class AbstractMethod(eqx.Module):
    """A method over a shared state. The state must have `objective` and `iteration` (scalars)."""

    @abstractmethod
    def start(self, first: Any, block: Block) -> tuple[Any, Any]:
        """The shared state and the rows' own state before the first step, from the first values `first`."""

    @abstractmethod
    def sweeps(self) -> tuple[Sweep, ...]:
        """The sweeps that make one step, in order."""

    @abstractmethod
    def done(self, state: Any) -> Scalar:
        """True where the stopping rule holds: at the optimum, and not away from it."""

    @abstractmethod
    def failed(self, state: Any) -> Scalar:
        """True where no further step can help although `done` does not hold."""


# A method over several devices: each does the rows that lie there, and only their sums travel.
#
# Start at `over_devices`. The steps are those of the method itself. A sweep's `local` runs on every device with its
# own rows, as it would on a table of these rows alone; totals are added up over devices, in one message; `update` is
# done on every device alike.


class Axes(eqx.Module):
    """A tree, and along which axis each of its arrays is cut into rows (`NOWHERE`: it is whole on every device)."""

    tree: Any = eqx.field(static=True)
    axes: tuple[int, ...] = eqx.field(static=True)

    def specs(self) -> Any:
        """How each array of such a tree is cut."""
        return jax.tree.unflatten(self.tree, [along(axis) for axis in self.axes])

    def as_tree(self) -> Any:
        """The axes in the places of the arrays."""
        return jax.tree.unflatten(self.tree, self.axes)


class Spread(AbstractMethod):
    """A method over the devices of a layout. `given`, `kept`: how first values and what rows keep are cut."""

    inner: AbstractMethod
    layout: Layout = eqx.field(static=True)
    given: Axes
    kept: Axes

    def start(self, first, block):
        def begin(inner, first, block):
            return inner.start(first, block)

        everywhere, cut = PartitionSpec(), PartitionSpec(ROWS)
        wanted = everywhere, self.given.specs(), cut
        return self._pieces(begin, wanted, (everywhere, self.kept.specs()))(self.inner, first, block)

    def sweeps(self):
        mine = self.inner.sweeps()
        return tuple(Sweep(self._added_up(k), sweep.update) for k, sweep in enumerate(mine))

    def _added_up(self, number: int):
        """The local part of a sweep on every device, and the total over devices."""

        def local(inner, state, rows, block):
            rows, total = inner.sweeps()[number].local(state, rows, block)
            # one message: several that do not depend on each other may meet in another order elsewhere
            numbers, as_total = ravel_pytree(total)
            return rows, as_total(jax.lax.psum(numbers, ROWS))

        everywhere, kept = PartitionSpec(), self.kept.specs()
        wanted = everywhere, everywhere, kept, PartitionSpec(ROWS)
        pieces = self._pieces(local, wanted, (kept, everywhere))
        return lambda state, rows, block: pieces(self.inner, state, rows, block)

    def _pieces(self, function: Any, wanted: Any, given: Any):
        mesh = self.layout.mesh
        return jax.shard_map(function, mesh=mesh, in_specs=wanted, out_specs=given, check_vma=False)

    def done(self, state):
        return self.inner.done(state)

    def failed(self, state):
        return self.inner.failed(state)


def over_devices(method: AbstractMethod, first: Any, block: Block) -> AbstractMethod:
    """The method over the devices on which the block lies; the method itself on one device.

    First values must lie where they belong: what is of rows beside the rows, the rest everywhere.
    """
    over = layout(block)
    if over is None:
        return method
    leaves, tree = jax.tree.flatten(first)
    given = Axes(tree, tuple(axis_of(leaf) for leaf in leaves))
    parts = jax.tree.unflatten(tree, [_part(*pair, over) for pair in zip(leaves, given.axes, strict=True)])
    part = jax.tree.map(lambda a: _part(a, 0, over), block)
    whole, whole_tree = jax.tree.flatten(jax.eval_shape(method.start, first, block)[1])
    pieces = jax.tree.leaves(jax.eval_shape(method.start, parts, part)[1])
    kept = Axes(whole_tree, tuple(_growing(*pair) for pair in zip(whole, pieces, strict=True)))
    return Spread(method, over, given, kept)


def _part(array: Any, axis: int, over: Layout) -> ShapeDtypeStruct:
    """The shape of one device's part."""
    shape = list(array.shape)
    if axis != NOWHERE:
        shape[axis] //= over.mesh.size
    return ShapeDtypeStruct(tuple(shape), array.dtype)


def _growing(whole: Any, piece: Any) -> int:
    """The axis that is longer when there are more rows."""
    longer = [axis for axis, size in enumerate(whole.shape) if size != piece.shape[axis]]
    return longer[0] if longer else NOWHERE
