"""Draws of the rows' latent positions at fixed parameters, and the means of the scores that go with them.

Start at `Draws`, a method on the loop whose model does not move: each row keeps two chains and the mean scores of each.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Counts, Latent, Loadings, Scalar
from poplin.data.blocks import Block
from poplin.inference.coordinates import Coordinates
from poplin.methods.method import AbstractMethod, Sweep
from poplin.rows import chains as chain

SETS = 2  # independent chains of a row: the product of their means has no Monte-Carlo bias


class First(NamedTuple):
    """Where the chains begin.

    The model's loadings; positions in both sets (2 n, q); rates near the rows' own (n, p); near what the scores' means
    are (n, K or 1); random key.
    """

    loadings: Loadings
    position: Latent
    rate: Counts
    centre: Array
    key: Array


class RowScores(NamedTuple):
    """What the rows keep: chains of both sets (2 n), their mean products f g' (2 n, k, m), the centre (n, K or 1)."""

    chains: chain.Chains
    mean: Array
    centre: Array


class Sums(NamedTuple):
    """Of each set: sum_i s s' about the centre (2, K, K), the columns' Hessians (2, p, k, k); acceptance of moves."""

    second: Array
    hessian: Array
    acceptance: Scalar


class State(NamedTuple):
    """Shared state: the means of the sums over draws."""

    frame: chain.Frame
    key: Array
    sums: Sums | None
    iteration: Array
    objective: Scalar


class Draws(AbstractMethod):
    """Draws of every row at fixed parameters: `draws` are used after `settling` moves of `leaps` steps.

    `louis`: whether the draws' own products are summed (n K^2 a draw), or only the rows' mean f g' kept (n k m).
    """

    coordinates: Coordinates
    draws: Array = eqx.field(converter=jnp.asarray)
    settling: Array = eqx.field(converter=jnp.asarray)
    louis: bool = eqx.field(static=True)
    leaps: int = eqx.field(static=True, default=4)

    def start(self, first, block):
        kind, weights = first.centre.dtype, block.weights[: len(first.rate)]
        frame = chain.frame(first.loadings, weights @ first.rate / jnp.sum(weights))
        still = jnp.full(len(first.position), jnp.log(0.5)), jnp.full(len(first.position), 0.8)
        chains = chain.Chains(first.position, jnp.tile(first.rate, (SETS, 1)), *still)
        size, (n, k) = self.coordinates.size(), self.coordinates.features(first.position, block).shape
        sums = None
        if self.louis:
            p = block.y.shape[1]
            sums = Sums(jnp.zeros((SETS, size, size)), jnp.zeros((SETS, p, k, k)), jnp.zeros(()))
        state = State(frame, first.key, sums, jnp.asarray(0), jnp.asarray(jnp.nan))
        mean = jnp.zeros((n, k, self.coordinates.outward.shape[1]), kind)
        return state, RowScores(cast(chains, kind), mean, first.centre)

    def sweeps(self):
        return (Sweep(self.draw, self.add),)

    def share(self, state):
        """Weight of the newest draw in the means; 0 while the chains settle."""
        used = state.iteration + 1 - self.settling
        return jnp.where(used > 0, 1 / jnp.maximum(used, 1), 0.0)

    def draw(self, state, rows, block):
        """Every chain moves once; the rows' mean products f g', and the sums of the scores' products."""
        kind = rows.centre.dtype
        here, frame = cast((self.coordinates, state.frame), kind)
        settles = state.iteration < self.settling
        adapt = jnp.where(settles, 1 / (1 + state.iteration / 10), 0.0).astype(kind)
        key = jax.random.fold_in(state.key, state.iteration)
        chains, rate = chain.move(
            key, rows.chains, block, coef=here.model.coef, frame=frame, steps=self.leaps, adapt=adapt
        )

        def used(mean):
            f, g = here.factors(chains.position, rate, block)
            sums = ()
            if self.louis:
                scores = here.scores(chains.position, rate, block) - jnp.tile(rows.centre, (SETS, 1))
                sums = _products(here, scores, rate, chains.position, block)
            return mean + self.share(state).astype(kind) * (f[:, :, None] * g[:, None, :] - mean), sums

        def unused(mean):
            if not self.louis:
                return mean, ()
            return mean, (jnp.zeros_like(state.sums.second, kind), jnp.zeros_like(state.sums.hessian, kind))

        mean, sums = jax.lax.cond(settles, unused, used, rows.mean)
        accepted = block.weights @ chains.acceptance / jnp.sum(block.weights)
        return RowScores(chains, mean, rows.centre), (sums, accepted)

    def add(self, state, total):
        """Running means of the sums."""
        (found, accepted), share = total, self.share(state)
        sums = state.sums
        if self.louis:
            fresh = Sums(found[0], found[1], accepted)
            sums = jax.tree.map(lambda a, b: a + share * (b - a), sums, fresh)
        return state._replace(
            sums=sums, iteration=state.iteration + 1, objective=accepted.astype(jnp.float64)
        )

    def done(self, state):
        return state.iteration >= self.settling + self.draws

    def failed(self, state):
        return state.objective < 0  # never: a chain that cannot move stays where it is


def cast(tree: Any, kind) -> Any:
    """The tree with its real numbers in another precision."""
    return jax.tree.map(lambda a: a.astype(kind) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def _products(here: Coordinates, scores: Array, rate: Counts, w: Latent, block: Block) -> tuple[Array, Array]:
    """Sum_i weight_i s_i s_i' of each set (2, K, K), and its columns' Hessians (2, p, k, k)."""
    n = len(scores) // SETS
    apart = scores.reshape(SETS, n, -1)
    second = jnp.einsum("gnk,gnl->gkl", apart * block.weights[:n, None], apart)
    f = here.features(w, block)
    k, p = f.shape[1], rate.shape[1]
    upper = jnp.triu_indices(k)
    pairs = (f[:, upper[0]] * f[:, upper[1]]).reshape(SETS, n, -1)
    weighted = (rate * block.weights[:, None]).reshape(SETS, n, p)
    half = jnp.zeros((SETS, p, k, k), scores.dtype)
    half = half.at[:, :, upper[0], upper[1]].set(jnp.einsum("gnj,gnk->gjk", weighted, pairs))
    return second, half + jnp.swapaxes(jnp.triu(half, 1), 2, 3)
