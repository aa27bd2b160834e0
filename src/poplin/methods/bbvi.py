"""Black-box variational inference: rows climb by estimated gradients, the model follows by the M-step of "ml".

Start at `BlackBox`. The rows' steps are natural (scaled by their own variances) and have the weight of `ml`'s draws:
constant until no drift can be told from noise, then falling; the model's iterates are averaged. No row's step is longer
than the sharpest direction of its posterior allows.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Scalar
from poplin.laws import POISSON, AbstractLaw
from poplin.methods import ml
from poplin.methods.method import AbstractMethod, Sweep
from poplin.rows.frames import AbstractFrame, AbstractSlope, Diagonals, Place, noise
from poplin.updates.structure import AbstractStructure, Counting, Model, Transport

LONGEST = 0.5  # step of a mean in standard deviations, and of a log standard deviation
NEWEST = 0.1  # weight of the newest of a row's Gaussians in their average, as long as steps are constant


class Rows(NamedTuple):
    """What a row keeps: its Gaussian, which steps by estimated gradients, and the average of its latest ones.

    The M-step follows the average. EM moves a thirtieth of the way at a step where counts say little of a direction, so
    what noise adds to second moments would move its fixed point thirty times as far.
    """

    now: Diagonals
    average: Diagonals


class First(NamedTuple):
    """Where the rows and the model begin, and a random key."""

    model: Model
    rows: Diagonals
    key: Array


class State(NamedTuple):
    """Shared state; what `ml.StochasticApproximation.average` reads has the names it has there."""

    model: Model
    reference: Model
    average: Any
    transport: Transport
    gram: Array
    rows: Scalar
    segments: ml.Segments
    key: Array
    iteration: Array
    settled: Array
    drifts: Array
    error: Scalar
    objective: Scalar  # estimate of the bound from this step's draws, nats
    law: AbstractLaw = POISSON


class Uncounted(AbstractStructure):
    """A structure whose statistic is an expectation, which says nothing of what counting alone leaves open."""

    inner: AbstractStructure

    def statistic(self, model, w, rate, block):
        return self.inner.statistic(model, w, rate, block)

    def means(self, chains, centre, rate, block, frame):
        return None  # draws of a Gaussian, to which Stein's identity of p(w | y) does not apply

    def quieter(self, model, average, total, means, frame):
        return total, average

    def expected(self, model, mean, covariance, counted, block):
        return self.inner.expected(model, mean, covariance, counted, block)

    def penalty(self, model, total):
        return self.inner.penalty(model, total)

    def penalty_at(self, model):
        return self.inner.penalty_at(model)

    def begin(self, model):
        return self.inner.begin(model)

    def advance(self, model, average, total, *, gamma, first):
        return self.inner.advance(model, average, total, gamma=gamma, first=first)

    def scales(self):
        return self.inner.scales()

    def rescaled(self, model, average, total, log_scale):
        return self.inner.rescaled(model, average, total, log_scale)

    def score(self, model, total):
        return self.inner.score(model, total)

    def left(self, at, score):
        return self.inner.left(at, score)

    def apart(self, at, one, other):
        return self.inner.apart(at, one, other)

    def parameters(self, model):
        return self.inner.parameters(model)

    def rebuild(self, parameters):
        return self.inner.rebuild(parameters)

    def meaning(self, parameters):
        return self.inner.meaning(parameters)

    def counting_variance(self, average, model):
        return jax.tree.map(jnp.zeros_like, Counting(*self.meaning(self.parameters(model))))

    def aligned(self, model, reference):
        return self.inner.aligned(model, reference)


class BlackBox(AbstractMethod):
    """Stochastic ascent of the rows' Gaussians under `slope`, of `draws` draws; `rate` is the longest step.

    `exactly`: the M-step's statistic is the expectation under the rows' Gaussians; otherwise that of the weighted draws
    (importance-weighted bounds). `tol` is that of `ml.StochasticApproximation`, whose averages and stopping rule these
    are. Cost of a step: n p k `draws`, and n p k^2 for the M-step.
    """

    structure: AbstractStructure
    frame: AbstractFrame
    slope: AbstractSlope
    rate: Scalar = eqx.field(converter=jnp.asarray)
    tol: Scalar = eqx.field(converter=jnp.asarray)
    draws: int = eqx.field(static=True, default=10)
    exactly: bool = eqx.field(static=True, default=True)

    def start(self, first, block):
        zero = jnp.zeros(())
        d, q = first.model.coef.shape[0], first.model.loadings.shape[1]
        state = State(
            model=first.model,
            reference=first.model,
            average=self.structure.begin(first.model),
            transport=Transport(jnp.eye(q), jnp.zeros((d, q))),
            gram=jnp.eye(d),
            rows=zero,
            segments=ml.no_segments(
                (*self.structure.parameters(first.model), POISSON), jnp.asarray(ml.LENGTH)
            ),
            key=first.key,
            iteration=jnp.asarray(0),
            settled=jnp.asarray(0),
            drifts=jnp.full(2, jnp.inf),
            error=jnp.asarray(jnp.inf),
            objective=jnp.asarray(jnp.nan),
        )
        return state, Rows(first.rows, first.rows)

    def sweeps(self):
        return (Sweep(self.climb, self.follow),)

    def _averaging(self) -> ml.StochasticApproximation:
        structure = Uncounted(self.structure) if self.exactly else self.structure
        return ml.StochasticApproximation(structure, self.rate, self.tol)

    def climb(self, state, rows, block):
        """Every row takes one step along its estimated gradient; the statistic of where it then is."""
        rows, average = (self.frame.carried(part, state.transport, block) for part in rows)
        place = Place(self.frame, state.model.coef, state.model.loadings, block)
        unit = noise(
            jax.random.fold_in(state.key, state.iteration), block.index, self.draws, rows.mean.shape[1]
        )
        found = self.slope.slopes(place, rows, unit)
        # a longer one would overshoot where posteriors are correlated, and weighted draws would make that worse
        longest = 1 / jnp.maximum(place.sharpest(rows), 1e-12)
        decay = self._averaging().decay(state)
        step = (jnp.minimum(self.rate, longest) * decay)[:, None]
        sd = jnp.exp(rows.log_sd)
        used = (block.weights > 0)[:, None]
        moved = Diagonals(
            rows.mean + sd * _clipped(jnp.where(used, step * sd * found.mean, 0.0)),
            rows.log_sd + _clipped(jnp.where(used, 0.5 * step * found.log_sd, 0.0)),
        )
        average = jax.tree.map(lambda a, b: a + NEWEST * decay * (b - a), average, moved)
        total = self._statistic(state.model, place, average if self.exactly else moved, unit)
        return Rows(moved, average), (total, block.weights @ found.value)

    def _statistic(self, model: Model, place: Place, rows: Diagonals, unit: Array) -> Any:
        block = place.block
        if self.exactly:
            mean, covariance, counted = self.frame.moments(*model, rows, block)
            return self.structure.expected(model, mean, covariance, counted, block)
        shares = self.slope.shares(place, rows, unit)

        def one(unit: Array, share: Array) -> Any:
            latent = rows.mean + jnp.exp(rows.log_sd) * unit
            w = self.frame.whitened(*model, latent, block)
            rate = block.law.rate(block.offset + block.x @ model.coef + w @ model.loadings.T, block.y)
            return self.structure.statistic(model, w, rate, block._replace(weights=block.weights * share))

        parts = jax.lax.map(lambda draw: one(*draw), (unit, shares))
        return jax.tree.map(lambda a: jnp.sum(a, axis=0), parts)

    def follow(self, state, total):
        """The model follows; averages and the stopping rule are those of "ml"."""
        total, value = total
        gamma = self._averaging().decay(state) * (1.0 if self.exactly else self.rate)
        model, average, transport = self.structure.advance(
            state.model, state.average, total, gamma=gamma, first=state.iteration == 0
        )
        state = state._replace(
            model=model,
            average=average,
            transport=transport,
            gram=total.gram,
            rows=total.rows,
            iteration=state.iteration + 1,
            objective=value,
        )
        return self._averaging().average(state)

    def done(self, state):
        return state.error <= self.tol

    def failed(self, state):
        finite = jnp.all(jnp.isfinite(state.model.loadings)) & jnp.all(jnp.isfinite(state.model.coef))
        return ~finite

    def estimate(self, state: State) -> Model:
        """The averaged model."""
        return self._averaging().estimate(state)  # type: ignore[arg-type]


def _clipped(step: Array) -> Array:
    return jnp.clip(step, -LONGEST, LONGEST)


def gradient_variance(
    slope: AbstractSlope, place: Place, rows: Diagonals, key: Array, *, draws: int, repeats: int = 200
) -> Scalar:
    """Variance of a row's estimated gradient, summed over its unknowns, mean over rows of positive weight.

    In units of the row's standard deviations: s_k d/d m_k and d/d log s_k. From `repeats` independent estimates.
    """

    def one(number: Array) -> tuple[Array, Array]:
        unit = noise(jax.random.fold_in(key, number), place.block.index, draws, rows.mean.shape[1])
        found = slope.slopes(place, rows, unit)
        return jnp.exp(rows.log_sd) * found.mean, found.log_sd

    def add(carry: Any, number: Array) -> tuple[Any, None]:
        first, second = carry
        found = one(number)
        return (jax.tree.map(jnp.add, first, found), jax.tree.map(lambda s, g: s + g**2, second, found)), None

    nothing = (jnp.zeros_like(rows.mean),) * 2
    (first, second), _ = jax.lax.scan(add, (nothing, nothing), jnp.arange(repeats))
    variances = jax.tree.map(lambda s, f: (s - f**2 / repeats) / (repeats - 1), second, first)
    by_row = sum(jnp.sum(v, axis=1) for v in variances)
    used = place.block.weights > 0
    return jnp.sum(jnp.where(used, by_row, 0.0)) / jnp.sum(used)
