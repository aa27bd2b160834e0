"""Stochastic gradients: a step of the loop is a minibatch, an epoch's end looks at rows that were left out.

Start at `Gradient`. Its first sweep sums the gradient over the rows of a minibatch (they lie on the device: nothing
crosses to the host in an epoch), its second the objective of the left-out rows, once an epoch. The model kept is the
one that was best there.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from poplin.data.blocks import Block
from poplin.methods.method import AbstractMethod, Sweep
from poplin.methods.objectives import AbstractObjective

COLUMNS = ("kl_weight", "objective", "reconstruction", "divergence")
HELD_COLUMNS = ("held_out_objective", "held_out_reconstruction", "held_out_divergence")
MARGIN = 1e-4  # nats a row: less than this is no improvement


class Split(NamedTuple):
    """The rows that train and the rows that are left out (None: no rows are)."""

    train: Block
    held: Block | None


class Start(NamedTuple):
    """First values: the model and the random key of the fit."""

    model: Any
    key: Array


class State(NamedTuple):
    """Shared state; `history` has a line an epoch, `sums` add up the present epoch's objective, parts and weights."""

    model: Any
    moments: Any
    kept: Any
    key: Array
    order: Array
    sums: Array
    history: Array
    best: Array
    best_epoch: Array
    objective: Array
    iteration: Array


def on_other_rows(state: State, key: Array) -> State:
    """Where training goes on with as many other rows: the optimiser as it stands, the first epoch of theirs."""
    for_order, key = jax.random.split(key)
    return state._replace(
        kept=state.model,
        key=key,
        order=jax.random.permutation(for_order, len(state.order)),
        sums=jnp.zeros_like(state.sums),
        history=jnp.full_like(state.history, jnp.nan),
        best=jnp.full_like(state.best, -jnp.inf),
        best_epoch=jnp.zeros_like(state.best_epoch),
        iteration=jnp.zeros_like(state.iteration),
    )


class Gradient(AbstractMethod):
    """Adam (Kingma & Ba 2015) on minibatches; `rates` are the learning rates of the epochs, (epochs,)."""

    objective: AbstractObjective
    bounds: (
        Array  # where minibatches begin among the shuffled rows, (batches + 1,): sizes differ by one at most
    )
    rates: Array
    warmup: Array  # epochs until the KL term has its whole weight
    patience: Array  # epochs without a better held-out objective after which it stops; infinite: never
    size: int = eqx.field(static=True)  # rows of the largest minibatch

    def start(self, first: Start | State, block: Any):
        if isinstance(first, State):  # training goes on
            return first, ()
        rows = len(block.train.index)
        for_order, key = jax.random.split(first.key)
        none = jnp.zeros(4 + len(HELD_COLUMNS))
        return State(
            model=first.model,
            moments=self._adam().init(first.model),
            kept=first.model,
            key=key,
            order=jax.random.permutation(for_order, rows),
            sums=jnp.zeros(4),
            history=jnp.full((len(self.rates), len(none)), jnp.nan),
            best=jnp.asarray(-jnp.inf),
            best_epoch=jnp.asarray(0),
            objective=jnp.asarray(jnp.nan),
            iteration=jnp.asarray(0),
        ), ()

    def sweeps(self):
        return Sweep(self._batch, self._move), Sweep(self._look, self._close)

    def done(self, state):
        epoch = state.iteration // self._batches
        return (epoch - state.best_epoch >= self.patience) & (epoch > self.warmup)

    def failed(self, state):
        return (state.iteration > 0) & ~jnp.isfinite(state.objective)

    @property
    def _batches(self) -> int:
        return len(self.bounds) - 1

    def _adam(self) -> optax.GradientTransformation:
        return optax.scale_by_adam()

    def _temper(self, iteration: Array) -> Array:
        """The weight of the KL term: rises in a straight line over the first epochs, and is then 1."""
        return jnp.minimum(1.0, (iteration + 1) / jnp.maximum(self.warmup * self._batches, 1.0))

    def _batch(self, state, rows, block):
        """The gradient of the weighted sum of the objective over a minibatch, that sum, its parts and its weight."""
        train = block.train
        number = state.iteration % self._batches
        place = self.bounds[number] + jnp.arange(self.size)
        inside = place < self.bounds[number + 1]
        index = state.order[jnp.minimum(place, len(train.index) - 1)]
        batch = jax.tree.map(lambda a: a[index], train)
        weights = jnp.where(inside, batch.weights, 0)
        key = jax.random.fold_in(state.key, state.iteration)

        def loss(model):
            terms = self.objective.terms(model, key, batch, self._temper(state.iteration))
            sums = jnp.stack([weights @ part for part in terms] + [jnp.sum(weights)])
            return -sums[0], sums

        gradient, sums = jax.grad(loss, has_aux=True)(state.model)
        return rows, (gradient, sums)

    def _move(self, state, total):
        gradient, sums = total
        gradient = jax.tree.map(lambda g: g / jnp.maximum(sums[3], 1e-30), gradient)
        steps, moments = self._adam().update(gradient, state.moments)
        rate = self.rates[state.iteration // self._batches]
        model = jax.tree.map(lambda a, b: a - rate * b, state.model, steps)
        sums = state.sums + sums
        return state._replace(model=model, moments=moments, sums=sums, objective=sums[0] / sums[3])

    def _look(self, state, rows, block):
        """At an epoch's end: the objective and its parts summed over the left-out rows, and their weight."""
        if block.held is None:
            return rows, jnp.full(4, jnp.nan)

        def look():
            terms = self.objective.terms(state.model, state.key, block.held, jnp.asarray(1.0))
            weights = block.held.weights
            return jnp.stack([weights @ part for part in terms] + [jnp.sum(weights)])

        return rows, lax.cond(self._ends(state), look, lambda: jnp.full(4, jnp.nan))

    def _ends(self, state: State) -> Array:
        return state.iteration % self._batches == self._batches - 1

    def _close(self, state, total):
        """At an epoch's end: write its line, keep the model if it is the best so far, shuffle."""
        closed = lax.cond(self._ends(state), lambda: self._closed(state, total), lambda: state)
        return closed._replace(iteration=state.iteration + 1)

    def _closed(self, state: State, total: Array) -> State:
        epoch = state.iteration // self._batches
        weight = self._temper(state.iteration)
        line = jnp.concatenate([weight[None], state.sums[:3] / state.sums[3], total[:3] / total[3]])
        held = total[0] / total[3]
        # a model that was trained with a smaller KL weight is not kept for its held-out objective
        better = jnp.isnan(held) | (held > state.best + MARGIN) | (weight < 1)
        better &= jnp.isfinite(state.sums[0])
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.model, state.kept)
        return state._replace(
            kept=kept,
            best=jnp.where(better & (weight >= 1), held, state.best),
            best_epoch=jnp.where(better, epoch + 1, state.best_epoch),
            history=state.history.at[epoch].set(line),
            sums=jnp.zeros_like(state.sums),
            order=jax.random.permutation(jax.random.fold_in(state.key, -1 - epoch), len(state.order)),
        )
