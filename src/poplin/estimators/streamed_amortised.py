"""Amortised fits of a table whose rows are dense one block at a time: networks learn from a block after the other.

Start at `fit`. The optimiser goes through the blocks in a new order each time, minibatch after minibatch of each; the
M-step is a sum over blocks, and as exact as that of a whole table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poplin import fit as loop
from poplin import passes
from poplin._compile import compiled
from poplin._rules import key_of
from poplin.data.blocks import Block
from poplin.data.counts import Counts
from poplin.data.streams import Stream
from poplin.estimators import amortised, recipes, streamed, training
from poplin.estimators.embedding import bound_of, posteriors, single
from poplin.estimators.phases import Fitted, Recipe, Settings
from poplin.estimators.refit import MOST_STEPS, First, Refit
from poplin.estimators.tasks import Ended, Task
from poplin.methods.amortised import Embedder, Encoded
from poplin.methods.gradient import Split, Start, State, on_other_rows
from poplin.methods.objectives import AbstractObjective
from poplin.methods.options import Amortised
from poplin.updates.structure import Model


def fit(
    options: Amortised,
    recipe: Recipe,
    counts: Counts,
    main: Settings,
    weight: float | None,
    *,
    seed: int,
    start: Callable[[Recipe, Block], Fitted],
) -> Ended:
    """Rounds over all rows; `start` fits the bound to a sample, which stands for all where the fit begins."""
    part = recipes.training_block(streamed.sample(counts, seed))
    part = part._replace(weights=part.weights * (np.sum(counts.weights) / jnp.sum(part.weights)))
    key = key_of(seed)
    task = Task(recipe, part, counts, main, weight, key, lambda: start(recipe, part))
    blocks = InBlocks(counts, seed)
    ended = amortised.fit(options, task, blocks)
    return ended._replace(messages=(*ended.messages, streamed.words_of(blocks.double)))


class InBlocks:
    """All rows, a block at a time (see `amortised.Table`)."""

    def __init__(self, counts: Counts, seed: int) -> None:
        self.single, self.double = (Stream(counts, seed=seed, kind=k) for k in (jnp.float32, jnp.float64))

    def steps(self, batch_size: int) -> int:
        """Minibatches in an epoch: those of each block."""
        return self.single.blocks * -(-self.single.rows // batch_size)

    def train(
        self, model: Encoded, objective: AbstractObjective, plan: training.Plan
    ) -> tuple[Encoded, bool]:
        """As many epochs; each goes over all blocks, the optimiser's moments from one to the next."""
        method = training.method_of(objective, self.single.rows, plan._replace(max_epochs=1))
        steps, began = len(method.bounds) - 1, time.perf_counter()
        state, finite = None, True
        for number in range(plan.max_epochs * self.single.blocks):
            (k,) = self.single.visits(number, 1)
            block = used_rows(self.single.block(k))
            if block is None or not finite:
                continue
            key: Any = training.seed_key(plan.seed + (number << 32))
            first = Start(model, key) if state is None else _on_other_rows(state, key)
            how: dict[str, Any] = {"block": Split(block, None), "phase": "train", "max_iter": steps}
            outcome = loop.run(method, first, began=began, **how)
            state, finite = outcome.state, bool(np.isfinite(outcome.state.objective))
            if outcome.interrupted:
                return jax.device_get(state.kept), True
        return (model if state is None else jax.device_get(state.kept)), False

    def follow(self, recipe: Recipe, embedder: Embedder, model: Model) -> tuple[Model, float]:
        """Newton steps (in the direct form one closed one) over sums of blocks, then the bound."""
        kept: dict[int, Any] = {}

        def first(k: int, block: Block) -> First:
            kept[k] = posteriors(embedder, model, block)
            return First(model, amortised.moments_of(kept[k], embedder.origin, block.x))

        how: dict[str, Any] = {"phase": "refit", "max_iter": MOST_STEPS, "began": time.perf_counter()}
        outcome = passes.run(Refit(recipe), first, self.double, many=self.double.blocks, **how)
        if outcome.interrupted:
            raise KeyboardInterrupt
        model = outcome.state.model
        values = (bound_of(kept[k], embedder.origin, model, self.double.block(k)) for k in kept)
        return model, float(sum(values))


def used_rows(block: Block) -> Block | None:
    """Rows of positive weight, as many as there are rows: some come again. None where there are none."""
    used = np.flatnonzero(np.asarray(block.weights) > 0)
    if not len(used):
        return None
    chosen = used[np.arange(len(block.weights)) % len(used)]
    return jax.device_put(jax.tree.map(lambda a: single(np.asarray(a)[chosen]), block))


_on_other_rows: Callable[[State, Any], State] = compiled()(on_other_rows)
