"""Variational fit with diagonal Gaussians: one L-BFGS over all unknowns, whose vectors stay with the rows.

Start at `Variational`. A step is two sweeps: move along the direction and measure the bound there; then, at
the accepted point, the gradient and the inner products that give the next direction. The bound never
decreases. A bound whose gradient needs nothing of the sums has it from the first sweep.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Scalar
from poplin.methods import lbfgs
from poplin.methods.bounds import AbstractBound
from poplin.methods.method import AbstractMethod, Sweep

SUFFICIENT = 1e-4  # share of the first-order gain that a step must reach (Armijo)
SHORTER = 0.3  # a refused step is tried again at this share of its length


class Vector(NamedTuple):
    """Unknowns of one side (rows or shared) with what the optimiser keeps beside them.

    `gradient` is that of minus the bound, in scaled coordinates (unknown times `scale`); so is the history.
    """

    unknown: Any
    trial: Any
    gradient: Any
    scale: Any
    history: Any


class Rows(NamedTuple):
    """What rows have: their side of the optimiser, and what the bound's first sweep leaves for the second."""

    vector: Vector
    kept: Any

    @property
    def unknown(self) -> Any:
        """Mean and log standard deviation of every row."""
        return self.vector.unknown


class State(NamedTuple):
    """Shared state: the shared unknowns, the Gram matrix of the history, and where the line search stands."""

    vector: Vector
    gram: Array
    coefficients: Array  # of the direction, on the history
    pairs: Array
    length: Scalar
    accepted: Array
    profile: Any  # at the trial point
    best_profile: Any  # at the accepted point
    objective: Scalar
    iteration: Array
    gain: Scalar  # expected gain of the next step, in nats
    calm: Array  # consecutive accepted steps with a negligible gain


def vector(unknown: Any, scale: Any) -> Vector:
    """Unknowns before the first step."""
    zeros = jax.tree.map(jnp.zeros_like, unknown)
    return Vector(unknown, zeros, zeros, scale, lbfgs.empty_history(unknown))


def remains(rows: Rows) -> Rows:
    """What of the rows is asked for when a run is over: their unknowns. The memory of the others is free again."""
    return Rows(Vector(rows.unknown, None, None, None, None), None)


def moved(side: Vector, state: State) -> Vector:
    """The trial point: `length` along the direction."""
    along = lbfgs.combine(state.coefficients, side.history, side.gradient)
    trial = jax.tree.map(lambda u, d, s: u + state.length * d / s, side.unknown, along, side.scale)
    return side._replace(trial=trial)


def settled(side: Vector, slope: Any, state: State) -> tuple[Vector, Array]:
    """Take the trial point if it was accepted; the new pair and its inner products."""
    gradient = jax.tree.map(lambda g, s: -g / s, slope, side.scale)
    step = jax.tree.map(lambda t, u, s: (t - u) * s, side.trial, side.unknown, side.scale)
    change = jax.tree.map(jnp.subtract, gradient, side.gradient)
    # the very first gradient is no change from anything
    keep = state.accepted & (state.iteration > 0)
    history = lbfgs.push(side.history, step, change, pairs=state.pairs, keep=keep)

    def choose(new, old):
        return jax.tree.map(lambda a, b: jnp.where(state.accepted, a, b), new, old)

    side = side._replace(
        unknown=choose(side.trial, side.unknown), gradient=choose(gradient, side.gradient), history=history
    )
    return side, lbfgs.products(history, side.gradient, pairs=state.pairs)


class Variational(AbstractMethod):
    """Maximise a diagonal bound from given unknowns.

    `tol`: stop when the expected gain of a step stays below tol * (1 + |bound|) for three accepted steps.
    Cost of a step: two sweeps of the bound and two over 2 m = 12 single-precision vectors. Memory per
    unknown: 48 bytes of history beside five doubles, and what the bound keeps between its sweeps.
    """

    bound: AbstractBound
    tol: Scalar = eqx.field(converter=jnp.asarray)

    def start(self, first, block):
        size = 2 * lbfgs.MEMORY + 1
        kept, total = jax.eval_shape(self.bound.measure, first.shared, first.rows, block)
        kept, profile = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype),
            (kept, jax.eval_shape(lambda t: self.bound.value(t)[1], total)),
        )
        zero, never = jnp.zeros(()), jnp.asarray(-jnp.inf)
        state = State(
            vector=vector(first.shared, first.shared_scale),
            gram=jnp.zeros((size, size)),
            coefficients=jnp.zeros(size),
            pairs=jnp.asarray(0),
            length=zero,
            accepted=jnp.asarray(False),
            profile=profile,
            best_profile=profile,
            objective=never,
            iteration=jnp.asarray(0),
            gain=jnp.asarray(jnp.inf),
            calm=jnp.asarray(0),
        )
        return state, Rows(vector(first.rows, first.rows_scale), kept)

    def sweeps(self):
        return Sweep(self.try_local, self.try_update), Sweep(self.slope_local, self.slope_update)

    def try_local(self, state, rows, block):
        """Move the rows along the direction; the bound's sums there."""
        vector = moved(rows.vector, state)
        kept, total = self.bound.measure(moved(state.vector, state).trial, vector.trial, block)
        return Rows(vector, kept), total

    def try_update(self, state, total):
        """Accept the trial point if the bound rose enough."""
        value, profile = self.bound.value(total)
        # the gain is measured against the slope along the direction: -2 gain = gradient . direction
        enough = state.objective + SUFFICIENT * 2 * state.length * state.gain
        first = ~jnp.isfinite(state.objective)
        accepted = jnp.isfinite(value) & (first | (value >= enough))
        return state._replace(
            vector=moved(state.vector, state),
            accepted=accepted,
            profile=profile,
            best_profile=jax.tree.map(lambda a, b: jnp.where(accepted, a, b), profile, state.best_profile),
            objective=jnp.where(accepted, value, state.objective),
        )

    def slope_local(self, state, rows, block):
        """The rows' gradient at the trial point, their newest pair and its inner products."""
        vector, kept = rows
        slope, total = self.bound.slope(state.vector.trial, state.profile, vector.trial, kept, block)
        vector, products = settled(vector, slope, state)
        return Rows(vector, kept), (total, products)

    def slope_update(self, state, total):
        """The next direction from the Gram matrix; how much it should gain."""
        for_shared, products = total
        slope = self.bound.shared_slope(state.vector.trial, state.profile, for_shared)
        shared, shared_products = settled(state.vector, slope, state)
        gram = lbfgs.update_gram(
            state.gram, products + shared_products, pairs=state.pairs, keep=state.accepted
        )
        pairs = state.pairs + (state.accepted & (state.iteration > 0))
        coefficients = lbfgs.direction(gram, pairs)
        gain = -0.5 * gram[-1] @ coefficients
        calm = gain <= self.tol * (1 + jnp.abs(state.objective))
        return state._replace(
            vector=shared,
            gram=gram,
            coefficients=coefficients,
            pairs=pairs,
            length=jnp.where(state.accepted, 1.0, SHORTER * state.length),
            iteration=state.iteration + 1,
            gain=gain,
            calm=jnp.where(state.accepted, jnp.where(calm, state.calm + 1, 0), state.calm),
        )

    def done(self, state):
        return state.calm >= 3

    def failed(self, state):
        return (state.iteration > 0) & (state.length < 1e-12) & (state.length > 0)
