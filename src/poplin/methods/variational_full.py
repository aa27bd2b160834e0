"""Variational EM with a full Gaussian per row: rows climb one step, then the model takes its M-step.

Start at `FullVariational`. The bound is the same in the direct and the factor form and does not change under
rotations of C. A model step that would lower it is halved, so the bound never decreases.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Scalar
from poplin.methods.method import AbstractMethod, Sweep
from poplin.rows.gaussian import Moments, advance_rows
from poplin.updates.structure import AbstractStructure, Model

ROUNDING = 1e-12  # relative fall of the bound that is rounding, not a step too far


class First(NamedTuple):
    """Where the rows and the model begin."""

    model: Model
    moments: Moments


class State(NamedTuple):
    """Shared state: the model being tried, the best so far and its statistic, and how gains have fallen."""

    model: Model
    best: Model
    average: Any
    objective: Scalar
    gain: Scalar
    left: Scalar  # gain still to be expected, in nats
    share: Scalar  # of the model step
    iteration: Array
    turn: Array  # rows' coordinates follow the model
    shift: Array


class FullVariational(AbstractMethod):
    """EM on the bound with q(w_i) = N(m_i, S_i), S_i full.

    `tol`: stop when the gain still to be expected, from the ratio of the last two gains (Aitken), is below
    tol * (1 + |bound|). Cost of a step: n q^3 + 3 n p q^2; memory n q^2.
    """

    structure: AbstractStructure
    tol: Scalar = eqx.field(converter=jnp.asarray)

    def start(self, first, block):
        d, q = first.model.coef.shape[0], first.model.loadings.shape[1]
        state = State(
            model=first.model,
            best=first.model,
            average=self.structure.begin(first.model),
            objective=jnp.asarray(-jnp.inf),
            gain=jnp.asarray(jnp.inf),
            left=jnp.asarray(jnp.inf),
            share=jnp.ones(()),
            iteration=jnp.asarray(0),
            turn=jnp.eye(q),
            shift=jnp.zeros((d, q)),
        )
        return state, first.moments

    def sweeps(self):
        return (Sweep(self.climb, self.follow),)

    def climb(self, state, rows, block):
        """Carry the rows over to the present model, let each climb, and sum what the M-step needs."""
        turned = jnp.einsum("kq,nkl,lr->nqr", state.turn, rows.covariance, state.turn)
        logdet = rows.logdet + 2 * jnp.linalg.slogdet(state.turn)[1]
        moments = Moments(rows.mean @ state.turn + block.x @ state.shift, turned, logdet)
        moments, rate, bound = advance_rows(moments, block, state.model.coef, state.model.loadings)
        total = self.structure.expected(state.model, moments.mean, moments.covariance, rate, block)
        return moments, (total, block.weights @ bound)

    def follow(self, state, total):
        """Take the M-step if the last one did not lower the bound; else go back half of it."""
        total, value = total
        value = value - self.structure.penalty(state.model, total)
        worse = value < state.objective - ROUNDING * jnp.abs(state.objective)
        share = jnp.where(worse, 0.5 * state.share, jnp.minimum(1.0, 2 * state.share))
        model, average, transport = self.structure.advance(
            state.model, state.average, total, gamma=share, first=jnp.asarray(True)
        )
        halved = jax.tree.map(lambda a, b: 0.5 * (a + b), state.model, state.best)
        gain = jnp.maximum(value - state.objective, 0)
        ratio = jnp.clip(gain / jnp.maximum(state.gain, 1e-300), 0.0, 0.999)
        eye, still = jnp.eye(len(state.turn)), jnp.zeros_like(state.shift)
        return State(
            model=jax.tree.map(lambda a, b: jnp.where(worse, a, b), halved, model),
            best=jax.tree.map(lambda a, b: jnp.where(worse, a, b), state.best, state.model),
            average=jax.tree.map(lambda a, b: jnp.where(worse, a, b), state.average, average),
            objective=jnp.maximum(value, state.objective),
            gain=jnp.where(worse, state.gain, gain),
            left=jnp.where(worse | (state.iteration < 2), jnp.inf, gain * ratio / (1 - ratio) + gain),
            share=share,
            iteration=state.iteration + 1,
            turn=jnp.where(worse, eye, transport.turn),
            shift=jnp.where(worse, still, transport.shift),
        )

    def done(self, state):
        return jnp.isfinite(state.left) & (state.left <= self.tol * (1 + jnp.abs(state.objective)))

    def failed(self, state):
        return (state.share < 1e-8) & jnp.isfinite(state.objective)
