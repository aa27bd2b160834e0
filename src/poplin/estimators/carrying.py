"""States of a run between the devices and the host, for checkpoints: without the rows that only fill the last device.

Start at `Lying`. What a checkpoint holds does not depend on how many devices there were, so that a fit goes on with
another number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from poplin._rules import THREEFRY
from poplin.data.placing import NOWHERE, Layout, on_host
from poplin.methods.method import AbstractMethod
from poplin.methods.spread import Spread


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
