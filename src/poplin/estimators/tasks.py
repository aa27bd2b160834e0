"""What a way to fit is given and what it gives back. Start at `Task`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from poplin.data.blocks import Block
from poplin.data.counts import Counts
from poplin.estimators.phases import Fitted, Recipe, Settings


class Task(NamedTuple):
    """The model, the rows, the main phase's settings, the weight of shrinkage (None: auto), a random key.

    `begin` fits the diagonal bound and returns that phase; `counts` are the rows as they came.
    """

    recipe: Recipe
    block: Block
    counts: Counts
    main: Settings
    weight: float | None
    key: Array
    begin: Callable[[], Fitted]

    def rows(self) -> float:
        """The sum of the rows' weights."""
        return float(np.sum(np.asarray(self.block.weights)))

    def kappa(self) -> float:
        """The pseudo-rows that a given weight of shrinkage stands for; zero where the data choose."""
        weight = self.weight or 0.0
        return weight / (1 - weight) * self.rows()


class Ended(NamedTuple):
    """The phases in order (the last one is the fit), kappa, further fitted attributes by name, and messages.

    `encoder` is an `methods.amortised.Embedder` where rows are embedded by one. `bounds`: where the method climbs a
    bound that the variational fit before it climbs too, the two ends in nats a row, start first.
    """

    fits: list[Fitted]
    kappa: float
    extras: dict[str, Any]
    messages: tuple[str, ...] = ()
    encoder: Any = None
    bounds: tuple[float, float] | None = None
