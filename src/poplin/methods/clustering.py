"""Improved deep embedded clustering: an autoencoder whose positions are drawn towards the centres of clusters.

Start at `Clustering`. The target P of every row needs the columns' sums of all rows' shares Q; rows keep their own Q
and label, and only those sums and the number of changed labels cross (Guo, Gao, Liu & Yin 2017, IJCAI).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from poplin.data.blocks import Block
from poplin.methods.method import AbstractMethod, Sweep
from poplin.methods.objectives import Reconstruction

LEAST = 1e-12  # a share below it counts as it in logs


class Centred(NamedTuple):
    """What is trained: the autoencoder and the centres of clusters, (k, q)."""

    networks: Any
    centres: Array


class Start(NamedTuple):
    """First values: the model, a group of each row (n,), and the random key of the fit."""

    model: Centred
    groups: Array
    key: Array


class Rows(NamedTuple):
    """What rows keep since the last look at all of them: shares Q (n, k) and labels (n,)."""

    shares: Array
    labels: Array


class State(NamedTuple):
    """Shared state: model, Adam's moments, order of rows, column sums f of Q, share of labels that changed last."""

    model: Centred
    moments: Any
    key: Array
    order: Array
    frequencies: Array
    changed: Array
    objective: Array
    iteration: Array


def shares(latent: Array, centres: Array) -> Array:
    """Q: q_ik = (1 + |w_i - m_k|^2)^-1, normalised over k, (n, k)."""
    distance = jnp.sum((latent[:, None, :] - centres) ** 2, axis=-1)
    weight = 1 / (1 + distance)
    return weight / jnp.sum(weight, axis=1, keepdims=True)


def target(shares: Array, frequencies: Array) -> Array:
    """P: p_ik = (q_ik^2 / f_k), normalised over k; f_k is the sum of q_ik over all rows."""
    weight = shares**2 / frequencies
    return weight / jnp.sum(weight, axis=1, keepdims=True)


class Clustering(AbstractMethod):
    """Maximises, by Adam, the mean over rows of (2 / p) log p(y | f(w)) - gamma KL(P_i || Q_i), P held for a while.

    For a Gaussian of scale 1 the first term is minus the mean squared error and a constant. From step `held` on P is
    renewed every `interval` steps from all rows, and before it is the start's groups; it stops when fewer than `tol` of
    the rows changed their label since the last time.
    """

    gamma: Array
    tol: Array
    rate: Array
    bounds: Array  # where minibatches begin among the shuffled rows
    held: Array  # steps for which P is the start's groups
    size: int = eqx.field(static=True)  # rows of the largest minibatch
    interval: int = eqx.field(static=True)

    def start(self, first: Start, block: Block):
        for_order, key = jax.random.split(first.key)
        n, k = len(block.index), first.model.centres.shape[0]
        state = State(
            model=first.model,
            moments=optax.scale_by_adam().init(first.model),
            key=key,
            order=jax.random.permutation(for_order, n),
            frequencies=jnp.ones(k),
            changed=jnp.asarray(1.0),
            objective=jnp.asarray(jnp.nan),
            iteration=jnp.asarray(0),
        )
        return state, Rows(jax.nn.one_hot(first.groups, k), jnp.full(n, -1))

    def sweeps(self):
        return Sweep(self._look, self._renew), Sweep(self._batch, self._move)

    def done(self, state):
        return state.changed < self.tol

    def failed(self, state):
        return (state.iteration > 0) & ~jnp.isfinite(state.objective)

    def _due(self, state: State) -> Array:
        return (state.iteration >= self.held) & ((state.iteration - self.held) % self.interval == 0)

    def _look(self, state, rows, block):
        """Every `interval` steps: shares and labels of all rows, their column sums and how many labels changed."""

        def look():
            posterior = state.model.networks.encoder(block.y, block.x, block.offset)
            now = shares(posterior.mean, state.model.centres)
            labels = jnp.argmax(now, axis=1)
            changed = block.weights @ (labels != rows.labels)
            return Rows(now, labels), (block.weights @ now, changed, jnp.sum(block.weights))

        kept = jnp.zeros(len(state.frequencies)), jnp.asarray(0.0), jnp.asarray(1.0)
        return lax.cond(self._due(state), look, lambda: (rows, kept))

    def _renew(self, state, total):
        frequencies, changed, weight = total
        due = self._due(state)
        return state._replace(
            frequencies=jnp.where(due, frequencies, state.frequencies),
            changed=jnp.where(due, changed / weight, state.changed),
        )

    def _batch(self, state, rows, block):
        """The gradient of the weighted sum of the objective over a minibatch, that sum and its weight."""
        number = state.iteration % (len(self.bounds) - 1)
        place = self.bounds[number] + jnp.arange(self.size)
        index = state.order[jnp.minimum(place, len(block.index) - 1)]
        batch = jax.tree.map(lambda a: a[index], block)
        weights = jnp.where(place < self.bounds[number + 1], batch.weights, 0)
        aim = target(rows.shares[index], state.frequencies)

        def loss(model: Centred):
            posterior = model.networks.encoder(batch.y, batch.x, batch.offset)
            now = shares(posterior.mean, model.centres)
            pull = jnp.sum(
                aim * (jnp.log(jnp.maximum(aim, LEAST)) - jnp.log(jnp.maximum(now, LEAST))), axis=1
            )
            built = Reconstruction().terms(model.networks, state.key, batch, jnp.ones(())).objective
            value = weights @ (2 / batch.y.shape[1] * built - self.gamma * pull)
            return -value, (value, jnp.sum(weights))

        return rows, jax.grad(loss, has_aux=True)(state.model)

    def _move(self, state, total):
        gradient, (value, weight) = total
        gradient = jax.tree.map(lambda g: g / jnp.maximum(weight, LEAST), gradient)
        steps, moments = optax.scale_by_adam().update(gradient, state.moments)
        model = jax.tree.map(lambda a, b: a - self.rate * b, state.model, steps)
        ends = (state.iteration + 1) % (len(self.bounds) - 1) == 0
        anew = jax.random.fold_in(state.key, state.iteration)
        order = lax.cond(ends, lambda: jax.random.permutation(anew, len(state.order)), lambda: state.order)
        objective = value / jnp.maximum(weight, LEAST)
        iteration = state.iteration + 1
        return state._replace(
            model=model, moments=moments, order=order, objective=objective, iteration=iteration
        )
