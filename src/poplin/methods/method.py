"""The protocol of a method: how rows start, what they sum, how the model moves, when to stop.

Start at `AbstractMethod`. Only totals cross from rows to the shared state; the loop in `poplin.fit` is the
only one there is. A step is a fixed cycle of sweeps over the rows.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx

from poplin._axes import Scalar
from poplin.data.blocks import Block


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
