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
from poplin.laws import POISSON, AbstractLaw
from poplin.methods.method import AbstractMethod, Sweep
from poplin.rows import chains as nuts
from poplin.updates.convergence import standard_distance
from poplin.updates.own import followed, nothing_known, own_apart, own_statistic, scaled_scores
from poplin.updates.structure import AbstractStructure, Model, Transport

SETTLING = 8  # steps of a phase whose iterates are not averaged
LENGTH = 8  # steps of each half that is
STEPS = SETTLING + 2 * LENGTH


class First(NamedTuple):
    """Where a phase begins: a model, the rows' chains, a random key, the law of the counts."""

    model: Model
    chains: nuts.NutsChains
    key: Array
    law: AbstractLaw = POISSON


class State(NamedTuple):
    """Shared state: model and law, and the sums of the iterates' parameters over the two halves of what is averaged."""

    model: Model
    law: AbstractLaw
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
        nothing = jax.tree.map(jnp.zeros_like, (self.structure.parameters(first.model), first.law))
        state = State(
            model=first.model,
            law=first.law,
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
        model, transport, block = state.model, state.transport, block.under(state.law)
        rows = nuts.carried(rows, nuts.latent(rows) @ transport.turn + block.x @ transport.shift)
        key = jax.random.fold_in(state.key, state.iteration)
        adapt = 1.0 * (state.iteration < SETTLING)
        shared_out = block._replace(weights=block.weights / self.draws)

        def one(s, rows):
            return nuts.nuts_move(jax.random.fold_in(key, s), rows, block, *model, adapt=adapt)

        def moved(s, rows):
            """A transition, and the statistics of the draw: of the model's parameters, of the law's."""
            before, (rows, rate) = nuts.latent(rows), one(s, rows)
            after = nuts.latent(rows)
            first, second = (scaled_scores(model, w, shared_out) for w in (before, after))
            own = own_statistic(state.law, first, second, shared_out)
            return rows, (self.structure.statistic(model, after, rate, shared_out), own)

        def add(s, carry):
            rows, total = carry
            rows, more = moved(s, rows)
            return rows, jax.tree.map(jnp.add, total, more)

        rows, total = jax.lax.fori_loop(1, self.draws, add, moved(0, rows))
        return rows, (*total, block.weights @ rows.acceptance)

    def follow(self, state, total):
        """The M-step; averages and the stopping rule."""
        total, own, accepted = total
        how = {"gamma": jnp.ones(()), "first": jnp.asarray(True)}
        model, average, transport = self.structure.advance(state.model, state.average, total, **how)
        scales, told = self.structure.scales(), nothing_known(state.law, len(model.loadings))
        law, told, along = followed(state.law, told, own, scales=scales, **how)
        if scales and jax.tree.leaves(law):
            model, average = self.structure.rescaled(model, average, total, along)
        aligned = self.structure.parameters(self.structure.aligned(model, state.reference)), law
        k = state.iteration
        early = (k >= SETTLING) & (k < SETTLING + LENGTH)
        late = k >= SETTLING + LENGTH
        halves = tuple(
            jax.tree.map(lambda s, a, now=now: s + jnp.where(now, a, 0.0) / LENGTH, half, aligned)
            for half, now in zip(state.halves, (early, late), strict=True)
        )
        first, second = (self.structure.meaning(half) for half, _ in halves)
        counting = self.structure.counting_variance(average, model)
        apart = standard_distance(first, second, total.gram, total.rows, counting)
        squares = own_apart(told, *(own for _, own in halves), scales=scales)
        apart = jnp.maximum(apart, jnp.sqrt(jnp.mean(squares))) if squares.size else apart
        return state._replace(
            model=model,
            law=law,
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
        parts = jax.tree.leaves((state.model, state.law))
        return ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(part)) for part in parts]))

    def estimate(self, state: State) -> tuple[Model, AbstractLaw]:
        """Model and law of the averaged parameters; before the phase has ended, the last iterate."""
        ended = state.iteration >= STEPS
        averaged = jax.tree.map(lambda a, b: 0.5 * (a + b), *state.halves)
        last = self.structure.parameters(state.model), state.law
        parameters, law = jax.tree.map(lambda a, b: jnp.where(ended, a, b), averaged, last)
        return self.structure.rebuild(parameters), law
