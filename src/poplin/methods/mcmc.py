"""Monte-Carlo EM: many draws of every row in each E-step, by the no-U-turn sampler.

Start at `MonteCarloEM`. A phase has so many draws an E-step and so many steps; the next phase has more. Within a phase
the iterates are averaged, since with any fixed number of draws they settle on no point. Source: Wei & Tanner (1990),
Levine & Casella (2001).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Scalar
from poplin.methods.method import AbstractMethod, Sweep
from poplin.rows import chains as nuts
from poplin.updates.convergence import standard_distance
from poplin.updates.structure import AbstractStructure, Model, Transport

SETTLING = 8  # steps of a phase whose iterates are not averaged
LENGTH = 8  # steps of each half that is
STEPS = SETTLING + 2 * LENGTH


class First(NamedTuple):
    """Where a phase begins: a model, the rows' chains, a random key."""

    model: Model
    chains: nuts.NutsChains
    key: Array


class State(NamedTuple):
    """Shared state: the model, and the sums of the iterates' parameters over the two halves of what is averaged."""

    model: Model
    reference: Model  # toward which free rotations are turned before averaging
    average: Any
    transport: Transport
    halves: tuple[Any, Any]
    key: Array
    iteration: Array
    error: Scalar
    objective: Scalar  # mean acceptance


class MonteCarloEM(AbstractMethod):
    """One phase of Monte-Carlo EM.

    `draws`: transitions of each row's chain in an E-step, each of which counts. `tol`: the rule holds if at the end of
    the phase half the distance between the averages' two halves is below `tol` complete-data standard errors. Cost of
    a step: `draws` times that of `nuts.move`.
    """

    structure: AbstractStructure
    draws: Array = eqx.field(converter=jnp.asarray)
    tol: Scalar = eqx.field(converter=jnp.asarray)

    def start(self, first, block):
        d, q = first.model.coef.shape[0], first.model.loadings.shape[1]
        nothing = jax.tree.map(jnp.zeros_like, self.structure.parameters(first.model))
        state = State(
            model=first.model,
            reference=first.model,
            average=self.structure.begin(first.model),
            transport=Transport(jnp.eye(q), jnp.zeros((d, q))),
            halves=(nothing, nothing),
            key=first.key,
            iteration=jnp.asarray(0),
            error=jnp.asarray(jnp.inf),
            objective=jnp.asarray(jnp.nan),
        )
        return state, first.chains

    def sweeps(self):
        return (Sweep(self.draw, self.follow),)

    def draw(self, state, rows, block):
        """Every chain makes `draws` transitions; the mean of the draws' statistics."""
        model, transport = state.model, state.transport
        rows = nuts.carried(rows, nuts.latent(rows) @ transport.turn + block.x @ transport.shift)
        key = jax.random.fold_in(state.key, state.iteration)
        adapt = 1.0 * (state.iteration < SETTLING)
        shared_out = block._replace(weights=block.weights / self.draws)

        def one(s, rows):
            return nuts.nuts_move(jax.random.fold_in(key, s), rows, block, *model, adapt=adapt)

        def statistic(rows, rate):
            return self.structure.statistic(model, nuts.latent(rows), rate, shared_out)

        def add(s, carry):
            rows, total = carry
            rows, rate = one(s, rows)
            return rows, jax.tree.map(jnp.add, total, statistic(rows, rate))

        rows, rate = one(0, rows)
        rows, total = jax.lax.fori_loop(1, self.draws, add, (rows, statistic(rows, rate)))
        return rows, (total, block.weights @ rows.acceptance)

    def follow(self, state, total):
        """The M-step; averages and the stopping rule."""
        total, accepted = total
        model, average, transport = self.structure.advance(
            state.model, state.average, total, gamma=jnp.ones(()), first=jnp.asarray(True)
        )
        aligned = self.structure.parameters(self.structure.aligned(model, state.reference))
        k = state.iteration
        early = (k >= SETTLING) & (k < SETTLING + LENGTH)
        late = k >= SETTLING + LENGTH
        halves = tuple(
            jax.tree.map(lambda s, a, now=now: s + jnp.where(now, a, 0.0) / LENGTH, half, aligned)
            for half, now in zip(state.halves, (early, late), strict=True)
        )
        first, second = (self.structure.meaning(half) for half in halves)
        counting = self.structure.counting_variance(average, model)
        apart = standard_distance(first, second, total.gram, total.rows, counting)
        return state._replace(
            model=model,
            reference=jax.tree.map(lambda a, b: jnp.where(k < SETTLING, a, b), model, state.reference),
            average=average,
            transport=transport,
            halves=halves,
            iteration=k + 1,
            error=jnp.where(k + 1 == STEPS, 0.5 * apart, jnp.inf),
            objective=accepted / total.rows,
        )

    def done(self, state):
        return state.error <= self.tol

    def failed(self, state):
        finite = jnp.all(jnp.isfinite(state.model.loadings)) & jnp.all(jnp.isfinite(state.model.coef))
        return ~finite

    def estimate(self, state: State) -> Model:
        """The model of the averaged parameters; before the phase has ended, the last iterate."""
        ended = state.iteration >= STEPS
        averaged = jax.tree.map(lambda a, b: 0.5 * (a + b), *state.halves)
        last = self.structure.parameters(state.model)
        return self.structure.rebuild(jax.tree.map(lambda a, b: jnp.where(ended, a, b), averaged, last))
