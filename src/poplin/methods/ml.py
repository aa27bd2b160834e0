"""Maximum likelihood by stochastic-approximation EM: one chain per row, one averaged statistic.

Start at `StochasticApproximation`. A step moves every chain once and lets the model follow with weight gamma; most of a
draw's noise is taken out of its moments first (`rows/chains.py`).
Gamma is constant until no drift can be told from noise, by its length (it no longer falls) and by its direction
(two movements, one after the other, do not go the same way); then it falls, and the iterates are averaged until the
average is settled. Sources: Delyon, Lavielle & Moulines (1999); Kuhn & Lavielle (2004); Polyak &
Juditsky (1992).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from poplin._axes import Latent, Rows, Scalar
from poplin.laws import POISSON, AbstractLaw
from poplin.methods.method import AbstractMethod, Sweep
from poplin.rows import cells
from poplin.rows import chains as chain
from poplin.rows.batches import by_pieces
from poplin.rows.chains import Chains, Means, Shares, everything
from poplin.updates.convergence import movement_cosine, standard_distance
from poplin.updates.own import (
    Information,
    OwnStatistic,
    followed,
    nothing_known,
    own_apart,
    own_left,
    own_statistic,
    penalised,
    scaled_scores,
)
from poplin.updates.structure import AbstractStructure, Model, Place, Transport

SEGMENTS = 8  # means of equally many iterations that are kept apart
LENGTH = 8  # iterations of a segment while gamma is constant
FLOOR = 0.85  # the warm phase ends when the drift has not fallen below this share in two looks
PERSISTENT = 0.25  # cosine of two movements, one after the other, above which both go the same way
DROP = 0.4  # gamma falls to this share at once when it begins to fall
WORST = 2.0  # times the tolerance that chance may have done to a single column
AGREED = 0.3  # weight of the newest two draws in what rows' draws agree on
SWEEPS = 3  # of the cells of slow columns in an iteration, beside a trajectory
DECAY = 0.7  # gamma falls as k^-0.7, between 1/2 and 1


class ChainRows(NamedTuple):
    """What a row keeps: its chain, and a point near its posterior mean of w, for control variates (n, q).

    The point follows the model, never the draws: every `LENGTH` visits it comes nearer (`chains.nearer`). earlier: the
    chain's position up to so many visits ago, where the law of the counts has parameters; None elsewhere.
    """

    chains: chain.Chains
    centre: Latent
    earlier: Latent | None = None


class First(NamedTuple):
    """Where the chains begin: a model, the rows, the columns' mean curvatures (rates), a random key.

    law: of the counts, with its parameters. slow: the columns (p,) whose cells are drawn one by one as well
    (`rows/cells.py`), in a direct form; None elsewhere.
    """

    model: Model
    rows: ChainRows
    mean_rate: Array
    key: Array
    slow: Array | None = None
    law: AbstractLaw = POISSON


class Total(NamedTuple):
    """What crosses from rows: the draw's statistic, its moments with less noise if they serve, sum of acceptances."""

    draw: Any
    means: Means | None
    accepted: Scalar
    agreed: Array | None  # sums of x_il^2 r_ij r'_ij (d, p), r and r' residuals Z - XB of two draws of a row
    own: OwnStatistic  # of the law's parameters


class Segments(NamedTuple):
    """Means of parameters and score over `length` iterations each: (SEGMENTS, ...), oldest first."""

    coef: Array
    other: Array
    own: AbstractLaw
    score: Any  # of the structure and of the law; None where a method has none
    filled: Array  # segments that are complete
    length: Array  # iterations of each
    count: Array  # iterations in the one being filled


class State(NamedTuple):
    """Shared state of the approximation."""

    model: Model
    reference: Model  # toward which free rotations are turned before averaging
    average: Any
    law: AbstractLaw  # of the counts, with its parameters
    told: Information  # what is known of them
    frame: chain.Frame
    transport: Transport
    mean_rate: Array
    slow: Array | None
    gram: Array
    rows: Scalar
    known: Shares  # what counts say of each direction
    agreed: Array  # of each column's variance, the share that two draws of a row have in common (d, p): what counts say
    segments: Segments
    key: Array
    iteration: Array
    settled: Array  # iteration at which gamma began to fall; 0 before
    drifts: Array  # distances between the halves of the warm segments, two looks back and one
    error: Scalar  # Monte-Carlo error of the averaged parameters, in complete-data standard errors
    objective: Scalar


def no_segments(parameters: tuple[Array, Array, AbstractLaw], length: Array, score: Any = None) -> Segments:
    """Nothing averaged yet, in segments of this length."""
    zero = jnp.asarray(0)
    means = jax.tree.map(lambda a: jnp.zeros((SEGMENTS, *a.shape)), (*parameters, score))
    return Segments(*means, filled=zero, length=length, count=zero)


def mean_of(segments: Segments, weights: Array) -> tuple[Array, Array, AbstractLaw]:
    """The parameters' mean over the segments, with these weights."""
    share = weights / jnp.sum(weights)
    return jax.tree.map(lambda a: jnp.tensordot(share, a, 1), segments[:3])


def add(segments: Segments, parameters: tuple[Array, Array, AbstractLaw], score: Any = None) -> Segments:
    """Put one iteration into the segment being filled (which has room)."""
    k, count = segments.filled, segments.count + 1
    put = lambda means, value: means.at[k].add((value - means[k]) / count)
    means = jax.tree.map(put, segments[:4], (*parameters, score))
    full = count == segments.length
    count = jnp.where(full, 0, count)
    return Segments(*means, filled=segments.filled + full, length=segments.length, count=count)


def merge_pairs(segments: Segments) -> Segments:
    """When all segments are full: half as many, twice as long."""
    full = segments.filled == SEGMENTS

    def halve(means):
        pairs = 0.5 * (means[0::2] + means[1::2])
        return jnp.where(full, jnp.concatenate([pairs, jnp.zeros_like(pairs)]), means)

    means = jax.tree.map(halve, segments[:4])
    filled = jnp.where(full, SEGMENTS // 2, segments.filled)
    length = jnp.where(full, 2 * segments.length, segments.length)
    return Segments(*means, filled=filled, length=length, count=segments.count)


def shift(segments: Segments) -> Segments:
    """When all segments are full: drop the oldest."""
    full = segments.filled == SEGMENTS

    def drop(means):
        return jnp.where(full, jnp.concatenate([means[1:], jnp.zeros_like(means[:1])]), means)

    means = jax.tree.map(drop, segments[:4])
    filled = segments.filled - full.astype(int)
    return Segments(*means, filled=filled, length=segments.length, count=segments.count)


class StochasticApproximation(AbstractMethod):
    """Stochastic-approximation EM for one structure.

    `gamma`: weight of the newest draw while it is constant. `tol`: stop when the Monte-Carlo error of the
    averaged parameters, half the distance between the averages' two halves, is below `tol` complete-data
    standard errors (root mean square over B, and over Sigma). `leaps`: steps of a Hamiltonian trajectory. `pace`:
    iterations in which every row is visited once. `falls`: iterations in which gamma falls to 0.6, once it falls.
    """

    structure: AbstractStructure
    gamma: Scalar = eqx.field(converter=jnp.asarray)
    tol: Scalar = eqx.field(converter=jnp.asarray)
    leaps: int = eqx.field(static=True, default=4)
    pace: Array = eqx.field(converter=jnp.asarray, default=1)
    falls: Array = eqx.field(converter=jnp.asarray, default=10)

    def start(self, first, block):
        d, q = first.model.coef.shape[0], first.model.loadings.shape[1]
        state = State(
            model=first.model,
            reference=first.model,
            average=self.structure.begin(first.model),
            law=first.law,
            told=nothing_known(first.law, len(first.model.loadings)),
            frame=chain.frame(first.model.loadings, first.mean_rate),
            transport=Transport(jnp.eye(q), jnp.zeros((d, q))),
            mean_rate=first.mean_rate,
            slow=first.slow,
            gram=jnp.eye(first.model.coef.shape[0]),
            rows=jnp.zeros(()),
            known=everything(d, q),
            agreed=jnp.ones_like(first.model.coef),
            segments=self._no_segments(first, block),
            key=first.key,
            iteration=jnp.asarray(0),
            settled=jnp.asarray(0),
            drifts=jnp.full(2, jnp.inf),
            error=jnp.asarray(jnp.inf),
            objective=jnp.asarray(jnp.nan),
        )
        return state, first.rows

    def sweeps(self):
        return (Sweep(self.move, self.follow),)

    def _no_segments(self, first: First, block: Any) -> Segments:
        # as long as a visit of every row takes: what rows have in common is then in each of them alike
        parameters = (*self.structure.parameters(first.model), first.law)
        return no_segments(parameters, jnp.maximum(LENGTH, self.pace), self._score_shape(first, block))

    def _score_shape(self, first: First, block: Any) -> Any:
        """Of the scores; nothing is computed."""

        def score(model, block):
            n, p, q = *block.y.shape, model.loadings.shape[1]
            total = self.structure.statistic(model, jnp.zeros((n, q)), jnp.zeros((n, p)), block)
            return self.structure.score(model, total)

        return jax.eval_shape(score, first.model, block.under(first.law)), first.law

    def decay(self, state):
        """Share of the constant gamma that the present iteration has."""
        past = jnp.maximum(state.iteration - state.settled, 0)
        return jnp.where(state.settled > 0, DROP * (1 + past / self.falls) ** -DECAY, 1.0)

    def move(self, state, rows, block):
        """Every chain moves once; the draw's statistic."""
        return by_pieces(lambda some, of: self._move(state, some, of), rows, block)

    def _move(self, state, rows, block):
        kind = rows.centre.dtype
        frame, model, law, transport = jax.tree.map(
            lambda a: a.astype(kind), (state.frame, state.model, state.law, state.transport)
        )
        block = block.under(law)
        shift = block.x @ transport.shift
        centre = rows.centre @ transport.turn + shift
        before = rows.chains.position @ transport.turn + shift
        earlier = None if rows.earlier is None else rows.earlier @ transport.turn + shift
        chains = rows.chains._replace(position=before)
        centre = jax.lax.cond(
            (state.iteration // self.pace) % LENGTH == 0,
            lambda: chain.nearer(centre, chains.mean_rate, block, coef=model.coef, frame=frame),
            lambda: centre,
        )
        key = jax.random.fold_in(state.key, state.iteration)
        adapt = (1 / (1 + state.iteration / (10 * self.pace))).astype(kind)
        chains, rate = chain.move(
            key, chains, block, coef=model.coef, frame=frame, steps=self.leaps, adapt=adapt
        )
        if state.slow is not None and law.exposed():
            swept = lambda: self._sweep_cells(state, key, chains, block)
            chains, rate = jax.lax.cond(jnp.any(state.slow), swept, lambda: (chains, rate))
        once = lambda w: scaled_scores(model, w, block)
        total = Total(
            self.structure.statistic(model, chains.position, rate, block),
            self.structure.means(chains, centre, rate, block, frame),
            block.weights @ chains.acceptance,
            self._agreed(state, before, chains.position, block),
            own_statistic(law, once(before if earlier is None else earlier), once(chains.position), block),
        )
        if earlier is not None:
            earlier = jnp.where(self._apart(state), chains.position, earlier)
        return ChainRows(chains, centre, earlier), total

    def _apart(self, state):
        """Whether rows' present draws are `LENGTH` visits from the earlier ones: as good as independent of them."""
        return (state.iteration // self.pace) % LENGTH == LENGTH - 1

    def _agreed(self, state, before, after, block):
        """Sums of x_il^2 r_ij r'_ij over two draws of each row (d, p), now and then; else zero, as it costs n p q."""
        if state.slow is None:
            return None
        root = state.model.loadings.astype(after.dtype)

        def sums(_):
            both = (before @ root.T) * (after @ root.T)
            return (block.weights[:, None] * block.x**2).T @ both

        nothing = lambda _: jnp.zeros((block.x.shape[1], len(root)), after.dtype)
        return jax.lax.cond(state.iteration % LENGTH == 0, sums, nothing, None)

    def _sweep_cells(self, state, key, chains, block):
        """Cells of the slow columns drawn anew, given the others (a direct form: C is a square root of Sigma)."""
        root = state.model.loadings
        inverse = solve_triangular(root, jnp.eye(len(root)), lower=True)
        precision, inverse, root, coef = (
            a.astype(chains.position.dtype) for a in (inverse.T @ inverse, inverse, root, state.model.coef)
        )
        base = block.offset + block.x @ coef

        def again(k, r):
            own = jax.random.fold_in(key, 1 + k)
            uniform = chain.row_words(jax.random.fold_in(own, 0), block.index, base.shape[1], base.dtype)
            exposure = block.law.exposure(uniform[: base.shape[1]].T, base + r, block.y)
            return cells.sweep(own, r, base + exposure, precision, block, chosen=state.slow)

        residual = jax.lax.fori_loop(0, SWEEPS, again, chains.position @ root.T)
        return chains._replace(position=residual @ inverse.T), block.law.rate(base + residual, block.y)

    def follow(self, state, total):
        """The model follows the draw; averages and the stopping rule."""
        total, means, accepted, agreed, own = jax.tree.map(lambda a: a.astype(jnp.float64), total)
        total, average = self.structure.quieter(state.model, state.average, total, means, state.frame)
        score = self.structure.score(state.model, total), penalised(state.law, own.score)
        first = state.iteration == 0
        gamma = self.gamma * self.decay(state)
        model, average, transport = self.structure.advance(
            state.model, average, total, gamma=gamma, first=first
        )
        scales = self.structure.scales()
        newest = jnp.where(self._apart(state), jnp.minimum(AGREED, 1 - (1 - gamma) ** LENGTH), 0.0)
        how = {"gamma": gamma, "first": first, "scales": scales, "weight": newest, "least": 0.5 * gamma}
        law, told, along = followed(state.law, state.told, own, **how)
        if scales and jax.tree.leaves(law):
            model, average = self.structure.rescaled(model, average, total, along)
        if agreed is not None:
            variance = jnp.sum(state.model.loadings**2, axis=1)
            share = jnp.clip(agreed / (jnp.diagonal(total.gram)[:, None] * variance + 1e-300), 0, 1)
            newest = state.agreed + AGREED * (share - state.agreed)
            state = state._replace(agreed=jnp.where(state.iteration % LENGTH == 0, newest, state.agreed))
        mean_rate = state.mean_rate + 0.1 * self.decay(state) * (total.rate / total.rows - state.mean_rate)
        state = state._replace(
            model=model,
            average=average,
            law=law,
            told=told,
            mean_rate=mean_rate,
            frame=chain.frame(model.loadings, mean_rate),
            transport=transport,
            gram=total.gram,
            rows=total.rows,
            known=state.known if total.known is None else total.known,
            iteration=state.iteration + 1,
            objective=accepted / total.rows,
        )
        return self.average(state, score)

    def average(self, state, score: Any = None):
        """Segment means; has the drift settled, and by how much may the average still be wrong?"""
        aligned = self.structure.aligned(state.model, state.reference)
        segments = add(state.segments, (*self.structure.parameters(aligned), state.law), score)
        ended = segments.count == 0
        warm = state.settled == 0
        order = jnp.arange(SEGMENTS)

        filled = segments.filled
        half = jnp.where(warm, SEGMENTS, filled) // 2
        early, late = order < half, (order >= half) & (order < 2 * half)
        ready = ended & (filled % 2 == 0) & jnp.where(warm, filled == SEGMENTS, filled >= 4)

        def looked(_):
            counting = self.structure.counting_variance(state.average, state.model)
            first, second, one, two, three, four = (
                self.structure.meaning(mean_of(segments, share * 1.0)[:2])
                for share in (early, late, *(order * 4 // SEGMENTS == k for k in range(4)))
            )
            scale = state.gram, state.rows, counting
            drift = standard_distance(first, second, *scale)
            cosine = movement_cosine((one, two), (three, four), *scale)
            if score is None:
                return drift, cosine, 0.5 * drift
            error = self._error(state, segments, early, late)
            # of a factor form Sigma as a whole, too, which does not know of rotations
            return drift, cosine, error if state.slow is not None else jnp.maximum(error, 0.5 * drift)

        nothing = jnp.asarray(jnp.inf), jnp.asarray(1.0), jnp.asarray(jnp.inf)
        apart, cosine, error = jax.lax.cond(ready, looked, lambda _: nothing, None)
        drift = jnp.where(warm, apart, jnp.inf)
        error = jnp.where(warm | ~ready, state.error, error)
        # noise leaves a floor under the drift: settled once it no longer falls, nor always goes the same way
        calm = ready & (cosine < PERSISTENT) & (drift > FLOOR * state.drifts[0])
        settled = warm & calm
        drifts = jnp.where(ready & warm, jnp.append(state.drifts[1:], drift), state.drifts)
        kept = jax.tree.map(lambda a, b: jnp.where(warm, a, b), shift(segments), merge_pairs(segments))
        fresh = jax.tree.map(jnp.zeros_like, segments)._replace(length=jnp.maximum(LENGTH, self.pace))
        segments = jax.tree.map(lambda a, b: jnp.where(settled, a, b), fresh, kept)
        reference = jax.tree.map(lambda a, b: jnp.where(settled, a, b), state.model, state.reference)
        return state._replace(
            segments=segments,
            reference=reference,
            settled=jnp.where(settled, state.iteration, state.settled),
            drifts=drifts,
            error=error,
        )

    def _error(self, state, segments, early, late):
        """The larger of what chance may have done to the average, and of how far it has left to go.

        Chance: half the distance between the averages' halves, over all columns, and `WORST` times as much in any.
        Left to go: Newton's step from the mean score, less what the noise of that mean makes of it, in the worst
        direction. Scores of a law's parameters have no control variates: their mean tells nothing before its own noise
        is small, and counts with it, as chance does. All are root mean squares over the numbers of a column or
        direction, in standard errors.
        """
        at = Place(state.model, state.average, state.gram, state.rows, state.known, state.agreed)
        first, second = mean_of(segments, early * 1.0), mean_of(segments, late * 1.0)
        scales = self.structure.scales()
        chance = 0.25 * jnp.concatenate(
            [
                self.structure.apart(at, first[:2], second[:2]),
                own_apart(state.told, first[2], second[2], scales=scales),
            ]
        )
        used = (early | late) * 1.0
        count = jnp.sum(used)
        mean = jax.tree.map(lambda a: jnp.tensordot(used, a, 1) / count, segments.score)

        def squares(score):
            return self.structure.left(at, score[0]), own_left(state.told, score[1], scales=scales)

        apart = jax.lax.map(lambda score: squares(jax.tree.map(jnp.subtract, score, mean)), segments.score)
        noise, own_noise = (jnp.tensordot(used, a, 1) / (count * (count - 1)) for a in apart)
        left, own = squares(mean)
        surely = jnp.maximum(
            jnp.max(jnp.concatenate([chance, own + own_noise])) / WORST**2, jnp.max(left - noise)
        )
        return jnp.sqrt(jnp.maximum(jnp.mean(chance), surely))

    def done(self, state):
        return state.error <= self.tol

    def failed(self, state):
        parts = jax.tree.leaves((state.model, state.law))
        return ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(part)) for part in parts]))

    def estimate(self, state: State) -> Model:
        """The averaged model; before any segment is complete, the last iterate."""
        return self.structure.rebuild(self._averaged(state)[:2])

    def estimate_law(self, state: State) -> AbstractLaw:
        """The averaged law of the counts."""
        return self._averaged(state)[2]

    def _averaged(self, state: State) -> tuple[Array, Array, AbstractLaw]:
        weights = (jnp.arange(SEGMENTS) < state.segments.filled) * 1.0
        some = state.segments.filled > 0
        averaged = mean_of(state.segments, jnp.where(some, weights, 1.0))
        last = (*self.structure.parameters(state.model), state.law)
        return jax.tree.map(lambda a, b: jnp.where(some, a, b), averaged, last)


# Maximum likelihood when an iteration visits some of the rows: the same chains, the same M-step, sums scaled up.
#
# Start at `Minibatch`. A row that was not visited for a while has not heard how the parameters moved. What it missed
# is the product of the transports since then: the shared state keeps the product of all of them, the rows' state that
# at their last visit. Rows keep no rates, n x p numbers: those at `centre` are computed when they are needed.


class Visited(NamedTuple):
    """What rows keep: position and centre of w (n, q), log step size and acceptance (n,); how far they were moved.

    earlier: as of `ChainRows`.
    """

    position: Latent
    centre: Latent
    log_step: Rows
    acceptance: Rows
    carried: Transport
    earlier: Latent | None = None


class MinibatchFirst(NamedTuple):
    """Where some rows begin: a model, what they keep, the columns' mean rates, a random key."""

    model: Model
    rows: Visited
    mean_rate: Array
    key: Array
    slow: Array | None = None
    law: AbstractLaw = POISSON


class MinibatchState(NamedTuple):
    """The state of maximum likelihood, and the product of all transports so far."""

    inner: State
    carried: Transport

    @property
    def objective(self) -> Scalar:
        """Acceptance of the moves."""
        return self.inner.objective

    @property
    def iteration(self) -> Array:
        """Iterations so far."""
        return self.inner.iteration


def at(centre: Latent, covariates: int, law: AbstractLaw = POISSON) -> Visited:
    """Rows that begin at their centres (n, q)."""
    (n, q), kind = centre.shape, centre.dtype
    still = jnp.full(n, jnp.log(0.5), kind), jnp.full(n, 0.8, kind)
    carried, earlier = Transport(jnp.eye(q), jnp.zeros((covariates, q))), earlier_of(law, centre)
    return Visited(centre, centre, *still, carried, earlier)


def earlier_of(law: AbstractLaw, position: Latent) -> Latent | None:
    """What rows that begin here keep of earlier draws."""
    return position if jax.tree.leaves(law) else None


def since(now: Transport, then: Transport) -> Transport:
    """What takes w from where it was `then` to where it is `now`: turn = A^-1 A', shift = b' - b turn."""
    turn = jnp.linalg.solve(then.turn, now.turn)
    return Transport(turn, now.shift - then.shift @ turn)


def followed_by(first: Transport, second: Transport) -> Transport:
    """One transport after the other, as one."""
    return Transport(first.turn @ second.turn, first.shift @ second.turn + second.shift)


class Minibatch(AbstractMethod):
    """Stochastic-approximation EM whose iterations see some of the rows.

    `whole`: sum of the weights of all rows, to which the sums are scaled. `inner.pace`: iterations that visit every row
    once. Rates n p of the visited rows are computed once more than in `ml.StochasticApproximation`; none are kept.
    """

    inner: StochasticApproximation
    whole: Scalar = eqx.field(converter=jnp.asarray)

    def start(self, first, block):
        state, rows = self.inner.start(first, block)
        return MinibatchState(state, rows.carried), rows

    def sweeps(self):
        return (Sweep(self.move, self.follow),)

    def move(self, state, rows, block):
        """Rows are told how the parameters moved since their last visit, then every chain moves once."""
        kind, missed = rows.centre.dtype, since(state.carried, rows.carried)
        model, turn, shift = (
            jax.tree.map(lambda a: a.astype(kind), part) for part in (state.inner.model, *missed)
        )
        centre = rows.centre @ turn + block.x @ shift
        law = block.under(jax.tree.map(lambda a: a.astype(kind), state.inner.law)).law
        rate = law.rate(block.offset + block.x @ model.coef + centre @ model.loadings.T, block.y)
        chains = Chains(rows.position, law.curvature(rate, block.y), rows.log_step, rows.acceptance)
        inner = state.inner._replace(transport=missed)
        moved, total = self.inner.move(inner, ChainRows(chains, rows.centre, rows.earlier), block)
        chains, steps = moved.chains, (moved.chains.log_step, moved.chains.acceptance)
        kept = Visited(chains.position, moved.centre, *steps, state.carried, moved.earlier)
        return kept, jax.tree.map(lambda a: a.astype(jnp.float64), total)

    def follow(self, state, total):
        """The model follows the draw of the rows that were visited, as if all had been."""
        inner = self.inner.follow(state.inner, scaled(total, self.whole / total.draw.rows))
        return MinibatchState(inner, followed_by(state.carried, inner.transport))

    def done(self, state):
        return self.inner.done(state.inner)

    def failed(self, state):
        return self.inner.failed(state.inner)

    def estimate(self, state: MinibatchState) -> Model:
        """The averaged model."""
        return self.inner.estimate(state.inner)

    def estimate_law(self, state: MinibatchState) -> AbstractLaw:
        """The averaged law of the counts."""
        return self.inner.estimate_law(state.inner)


def scaled(total: Total, ratio: Any) -> Total:
    """Sums over some rows as if they were over `ratio` times as many, worth as many draws as before."""
    more = jax.tree.map(lambda a: ratio * a, total)
    if more.means is None:
        return more
    known = more.means.known
    return more._replace(means=more.means._replace(known=known._replace(squares=ratio * known.squares)))
