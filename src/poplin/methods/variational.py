"""Variational fit with diagonal Gaussians: one L-BFGS over all unknowns, whose vectors stay with the rows.

Start at `QuasiNewton`. A step is two sweeps: move along the direction and measure the bound there; then, at
the accepted point, the gradient and the inner products that give the next direction. The bound never
decreases. A bound whose gradient needs nothing of the sums has it from the first sweep.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Counts, Loadings, Scalar
from poplin.laws import POISSON, AbstractLaw
from poplin.methods.bounds import AbstractBound
from poplin.methods.method import AbstractMethod, Sweep
from poplin.rows.batches import all_pairs, precisions, spreads
from poplin.rows.gaussian import Moments, advance_rows
from poplin.updates.own import Information, Scaled, followed, nothing_known, own_statistic
from poplin.updates.structure import AbstractStructure, Model

# L-BFGS whose vectors never leave the rows: only inner products are summed (Chen, Wang & Zhou 2014).
#
# Start at `direction`. The history is kept as arrays of 2m past steps and gradient changes (single precision: it only
# shapes the direction), split between rows and shared unknowns; their Gram matrix is an additive statistic. Each is
# one long vector, row after row: with more axes XLA reorders it at every step.


MEMORY = 6


def empty_history(unknown: Any) -> Any:
    """Zeroed slots for m steps and m gradient changes beside every array of unknowns, (2 m, its size)."""
    return jax.tree.map(lambda a: jnp.zeros((2 * MEMORY, a.size), jnp.float32), unknown)


def push(history: Any, step: Any, change: Any, *, pairs: Array, keep: Array) -> Any:
    """Write the newest pair over the oldest, unless `keep` is false."""
    slot = pairs % MEMORY

    def write(slots: Array, vector: Array, place: Array) -> Array:
        vector = vector.reshape(-1).astype(slots.dtype)
        return jax.lax.dynamic_update_index_in_dim(slots, vector, place, 0)

    def written(history: Any) -> Any:
        history = jax.tree.map(lambda h, s: write(h, s, slot), history, step)
        return jax.tree.map(lambda h, y: write(h, y, MEMORY + slot), history, change)

    return jax.lax.cond(keep, written, lambda history: history, history)


def products(history: Any, gradient: Any, *, pairs: Array) -> Array:
    """Inner products of the newest step, the newest change and the gradient with every slot, (3, 2m+1).

    The last column holds the products with the gradient itself. Additive over rows.
    """
    slot = pairs % MEMORY

    def one(slots: Array, g: Array) -> Array:
        flat = g.reshape(-1).astype(slots.dtype)
        # three passes: as one product with a matrix it is copied into another order first
        with_history = jnp.stack([slots @ slots[slot], slots @ slots[MEMORY + slot], slots @ flat]).astype(
            g.dtype
        )
        with_gradient = jnp.append(with_history[2, jnp.array([slot, MEMORY + slot])], jnp.sum(g * g))
        return jnp.concatenate([with_history, with_gradient[:, None]], axis=1)

    return sum(jax.tree.leaves(jax.tree.map(one, history, gradient)), jnp.zeros((3, 2 * MEMORY + 1)))


def update_gram(gram: Array, new: Array, *, pairs: Array, keep: Array) -> Array:
    """The Gram matrix of (m steps, m changes, gradient) with the newest rows and columns put in."""
    slot = pairs % MEMORY
    last = 2 * MEMORY
    out = gram
    for row, place in ((0, slot), (1, MEMORY + slot), (2, last)):
        out = out.at[place, :].set(new[row]).at[:, place].set(new[row])
    return jnp.where(keep, out, gram)


def direction(gram: Array, pairs: Array) -> Array:
    """Coefficients of the descent direction on (m steps, m changes, gradient): the two-loop recursion.

    Nocedal & Wright (2006), algorithm 7.4, with every vector replaced by its coefficients. `pairs` counts
    the pairs pushed so far; a pair without positive curvature is passed over. O(m^3), independent of n.
    """
    count = jnp.minimum(pairs, MEMORY)
    curvature = jnp.diagonal(gram[:MEMORY, MEMORY : 2 * MEMORY])
    change = jnp.diagonal(gram[MEMORY : 2 * MEMORY, MEMORY : 2 * MEMORY])
    usable = curvature > 1e-10 * change
    safe = jnp.where(usable, curvature, 1.0)

    def backward(i, carry):
        coefficients, alphas = carry
        slot = (pairs - 1 - i) % MEMORY
        alpha = jnp.where(usable[slot] & (i < count), gram[slot] @ coefficients / safe[slot], 0.0)
        return coefficients.at[MEMORY + slot].add(-alpha), alphas.at[slot].set(alpha)

    def forward(i, coefficients):
        i = MEMORY - 1 - i
        slot = (pairs - 1 - i) % MEMORY
        beta = gram[MEMORY + slot] @ coefficients / safe[slot]
        return coefficients.at[slot].add(jnp.where(usable[slot] & (i < count), alphas[slot] - beta, 0.0))

    start = jnp.zeros(2 * MEMORY + 1, gram.dtype).at[2 * MEMORY].set(1.0)
    coefficients, alphas = jax.lax.fori_loop(0, MEMORY, backward, (start, jnp.zeros(MEMORY, gram.dtype)))
    newest = (pairs - 1) % MEMORY
    ready = (pairs > 0) & usable[newest]
    coefficients *= jnp.where(ready, curvature[newest] / jnp.where(ready, change[newest], 1.0), 1.0)
    return -jax.lax.fori_loop(0, MEMORY, forward, coefficients)


def combine(coefficients: Array, history: Any, gradient: Any) -> Any:
    """The vector that the coefficients stand for: sum_k c_k slot_k + c_last gradient."""

    def one(slots: Array, g: Array) -> Array:
        past = coefficients[:-1].astype(slots.dtype) @ slots
        return coefficients[-1] * g + past.reshape(g.shape)

    return jax.tree.map(one, history, gradient)


SUFFICIENT = 1e-4  # share of the first-order gain that a step must reach (Armijo)
SHORTER = 0.3  # a refused step is tried again at this share of its length
ROUNDING = 1e-13  # of a bound: what a sum over rows is exact to


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
    return Vector(unknown, zeros, zeros, scale, empty_history(unknown))


def remains(rows: Rows) -> Rows:
    """What of the rows is asked for when a run is over: their unknowns. The memory of the others is free again."""
    return Rows(Vector(rows.unknown, None, None, None, None), None)


def moved(side: Vector, state: State) -> Vector:
    """The trial point: `length` along the direction."""
    along = combine(state.coefficients, side.history, side.gradient)
    trial = jax.tree.map(lambda u, d, s: u + state.length * d / s, side.unknown, along, side.scale)
    return side._replace(trial=trial)


def settled(side: Vector, slope: Any, state: State) -> tuple[Vector, Array]:
    """Take the trial point if it was accepted; the new pair and its inner products."""
    gradient = jax.tree.map(lambda g, s: -g / s, slope, side.scale)
    step = jax.tree.map(lambda t, u, s: (t - u) * s, side.trial, side.unknown, side.scale)
    change = jax.tree.map(jnp.subtract, gradient, side.gradient)
    # the very first gradient is no change from anything
    keep = state.accepted & (state.iteration > 0)
    history = push(side.history, step, change, pairs=state.pairs, keep=keep)

    def choose(new, old):
        return jax.tree.map(lambda a, b: jnp.where(state.accepted, a, b), new, old)

    side = side._replace(
        unknown=choose(side.trial, side.unknown), gradient=choose(gradient, side.gradient), history=history
    )
    return side, products(history, side.gradient, pairs=state.pairs)


class QuasiNewton(AbstractMethod):
    """Maximise a diagonal bound from given unknowns.

    `tol`: stop when the expected gain of a step stays below tol * (1 + |bound|) for three accepted steps.
    Cost of a step: two sweeps of the bound and two over 2 m = 12 single-precision vectors. Memory per
    unknown: 48 bytes of history beside five doubles, and what the bound keeps between its sweeps.
    """

    bound: AbstractBound
    tol: Scalar = eqx.field(converter=jnp.asarray)

    def start(self, first, block):
        size = 2 * MEMORY + 1
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
        gram = update_gram(state.gram, products + shared_products, pairs=state.pairs, keep=state.accepted)
        pairs = state.pairs + (state.accepted & (state.iteration > 0))
        coefficients = direction(gram, pairs)
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
        # where a step should gain less than sums are exact to, whether it is accepted is chance
        least = state.gain <= ROUNDING * (1 + jnp.abs(state.objective))
        return (state.calm >= 3) | (self._stuck(state) & least)

    def failed(self, state):
        return self._stuck(state) & ~self.done(state)

    def _stuck(self, state):
        """No step along the direction, however short, has raised the bound."""
        return (state.iteration > 0) & (state.length < 1e-12) & (state.length > 0)


# Turns latent axes until the rows' posteriors are as uncorrelated as they can be: between two variational fits.
#
# Start at `Turning`. The likelihood does not see a rotation of w, a Gaussian that is diagonal in w does. A gradient
# method crawls along rotations; solved as a problem of its own, they cost a few sweeps over q x q sums.


LARGEST = 0.5  # radians that a pair of axes turns in a step at most
FLATTEST = 1e-2  # curvature of a pair, per row, is taken to be this at least
SHORTER_TURN = 0.4  # a refused turn is tried again at this share


class Leftover(NamedTuple):
    """Sums over rows, with P_i the posterior precision in the trial frame.

    value: -1/2 sum_i w_i sum_k log P_i,kk (nats); cross_ab = sum_i w_i P_i,ab / P_i,bb; ratio_ab = sum_i w_i
    P_i,aa / P_i,bb; rows = sum_i w_i.
    """

    value: Scalar
    cross: Array
    ratio: Array
    rows: Scalar


class TurningState(NamedTuple):
    """Shared state: C as given, the rotation reached and the one tried (q, q), and the next step's generator."""

    loadings: Loadings
    turn: Array
    trial: Array
    generator: Array
    length: Scalar
    objective: Scalar
    gain: Scalar
    iteration: Array


class Turning(AbstractMethod):
    """Rotate w so that sum_i sum_k log (R' P_i R)_kk is least, P_i = I + C' diag(A_i) C at fixed rates A (n, p).

    By Hadamard's inequality the sum is at least sum_i log det P_i, with equality where all P_i are diagonal; half
    the excess is, to second order, what a bound with diagonal Gaussians loses against one with full ones.
    Each pair of axes takes a Newton step whose curvature is that of nearly diagonal P_i. Stops when a step
    should gain less than `tol` nats a row. Cost of a step: n p q^2 products and n q^2 numbers.
    Source: Pham (2001), Joint approximate diagonalization of positive definite Hermitian matrices.
    """

    tol: Scalar = eqx.field(converter=jnp.asarray)

    def start(self, first: tuple[Loadings, Counts], block):
        loadings, rate = first
        still = jnp.eye(loadings.shape[1])
        state = TurningState(
            loadings=loadings,
            turn=still,
            trial=still,
            generator=jnp.zeros_like(still),
            length=jnp.ones(()),
            objective=jnp.asarray(-jnp.inf),
            gain=jnp.asarray(jnp.inf),
            iteration=jnp.asarray(0),
        )
        return state, rate

    def sweeps(self):
        return (Sweep(self.look, self.step),)

    def look(self, state, rows, block):
        """The sums at the trial rotation."""
        loadings = state.loadings @ state.trial
        precision = precisions(rows, loadings, all_pairs(loadings))
        diagonal = jnp.diagonal(precision, axis1=1, axis2=2)
        weighted = block.weights[:, None] / diagonal
        return rows, Leftover(
            value=-0.5 * block.weights @ jnp.sum(jnp.log(diagonal), axis=1),
            cross=jnp.einsum("nab,nb->ab", precision, weighted),
            ratio=diagonal.T @ weighted,
            rows=jnp.sum(block.weights),
        )

    def step(self, state, total):
        """Keep the trial if the sum fell, and aim at the next one; else a shorter turn."""
        better = total.value >= state.objective
        slope = total.cross.T - total.cross
        curvature = jnp.maximum(total.ratio + total.ratio.T - 2 * total.rows, FLATTEST * total.rows)
        newton = slope / curvature
        newton *= jnp.minimum(1.0, LARGEST / jnp.maximum(jnp.max(jnp.abs(newton)), LARGEST))
        turn = jnp.where(better, state.trial, state.turn)
        generator = jnp.where(better, newton, state.generator)
        length = jnp.where(better, 1.0, SHORTER_TURN * state.length)
        # both triangles hold each pair once: a quarter, for half the slope along the step
        gain = jnp.where(better, 0.25 * jnp.sum(slope * newton) / total.rows, state.gain)
        return state._replace(
            turn=turn,
            trial=turn @ rotation(length * generator),
            generator=generator,
            length=length,
            objective=jnp.where(better, total.value, state.objective),
            gain=gain,
            iteration=state.iteration + 1,
        )

    def done(self, state):
        return state.gain <= self.tol

    def failed(self, state):
        return state.length < 1e-6


def rotation(generator: Array) -> Array:
    """The rotation (I - G/2)^-1 (I + G/2) of an antisymmetric G (Cayley); G itself to first order."""
    half = 0.5 * generator
    still = jnp.eye(len(generator), dtype=generator.dtype)
    return jnp.linalg.solve(still - half, still + half)


# Variational EM with a full Gaussian per row: rows climb one step, then the model takes its M-step.
#
# Start at `FullVariational`. The bound is the same in the direct and the factor form and does not change under
# rotations of C. A model step that would lower it is halved, so the bound never decreases.


ROUNDING = 1e-12  # relative fall of the bound that is rounding, not a step too far


class First(NamedTuple):
    """Where the rows, the model and the law of the counts begin."""

    model: Model
    moments: Moments
    law: AbstractLaw = POISSON


class FullState(NamedTuple):
    """Shared state: the model and law being tried, the best so far and its statistic, and how gains have fallen."""

    model: Model
    best: Model
    law: AbstractLaw
    best_law: AbstractLaw
    told: Information  # of the law's parameters
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
        state = FullState(
            model=first.model,
            best=first.model,
            law=first.law,
            best_law=first.law,
            average=self.structure.begin(first.model),
            told=nothing_known(first.law, len(first.model.loadings)),
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
        model, block = state.model, block.under(state.law)
        moments, counted, bound = advance_rows(moments, block, *model)
        total = self.structure.expected(model, moments.mean, moments.covariance, counted, block)
        spread = spreads(moments.covariance, model.loadings, all_pairs(model.loadings))
        predictor = block.offset + block.x @ model.coef + moments.mean @ model.loadings.T
        scores = Scaled(block.law.expected_scores(predictor, spread, block.y), jnp.zeros_like(predictor))
        return moments, (total, own_statistic(state.law, scores, scores, block), block.weights @ bound)

    def follow(self, state, total):
        """Take the M-step if the last one did not lower the bound; else go back half of it."""
        total, own, value = total
        value = value - self.structure.penalty(state.model, total)
        worse = value < state.objective - ROUNDING * jnp.abs(state.objective)
        share = jnp.where(worse, 0.5 * state.share, jnp.minimum(1.0, 2 * state.share))
        model, average, transport = self.structure.advance(
            state.model, state.average, total, gamma=share, first=jnp.asarray(True)
        )
        how = {"gamma": share, "first": jnp.asarray(True), "scales": False}
        law, told, _ = followed(state.law, state.told, own, **how)
        now, best = (state.model, state.law), (state.best, state.best_law)
        halved = jax.tree.map(lambda a, b: 0.5 * (a + b), now, best)
        model, law = jax.tree.map(lambda a, b: jnp.where(worse, a, b), halved, (model, law))
        best, best_law = jax.tree.map(lambda a, b: jnp.where(worse, a, b), best, now)
        gain = jnp.maximum(value - state.objective, 0)
        ratio = jnp.clip(gain / jnp.maximum(state.gain, 1e-300), 0.0, 0.999)
        eye, still = jnp.eye(len(state.turn)), jnp.zeros_like(state.shift)
        return FullState(
            model=model,
            best=best,
            law=law,
            best_law=best_law,
            told=told,
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
