"""Information about (B, Sigma) from draws of the rows' latent positions: of the data at hand, or expected.

Start at `information`. With s_i the complete-data score of row i (see `Coordinates`) and s-bar_i = E[s_i | y_i], by
Fisher's and Louis' identities

    I = sum_i s-bar_i s-bar_i'  (in expectation),    I = E[complete information] - sum_i Cov(s_i | y_i)  (observed).

The first may be summed over the data (their counts as they are) or over counts simulated under the fitted model at the
rows' covariates and offsets, as many as are wanted: the expected information. The draws are a method on the loop whose
parameters do not move. Source: Louis (1982), Finding the observed information matrix when using the EM algorithm.
"""

import operator
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._axes import Coefficients, Counts, Covariance, Latent, Loadings, Scalar
from poplin._numerics import compiled
from poplin.data.blocks import Block
from poplin.fit import Outcome, Progress, run
from poplin.fit import ahead as compile_ahead
from poplin.methods.method import AbstractMethod, Sweep
from poplin.models.draws import draw_counts
from poplin.models.loadings import AbstractLoadings, BorrowedBasis, Outward, outward
from poplin.rows import chains as chain
from poplin.rows.frames import rates
from poplin.rows.gaussian import fit_rows
from poplin.updates.specific import Specific
from poplin.updates.structure import AbstractShape, Diagonal, Fixed, Model, Spherical

# The free directions of a fitted model: in which numbers a row's score is written, and what they say of B and Sigma.
#
# Start at `coordinates`. Every model is Z = XB + C w, w ~ N(0, I), and moves along
#
# B <- B + E R', C <- C + (R F)', R = (C, complement of C) (`Outward`, known by q reflections),
#
# one number for each free pair of a feature (of x, for E; of w, for F) and a column of R. As complete data serve, for
# columns of C of which counts say enough, the latent in units of Z, which stays while the parameters move; for all
# others w itself. The score of a pair is then f g, with f the feature and g = w_b (less its mean) in the first case,
# the column's excess counts R_b'(y - rate) in the second. Enough of a direction's complete information is left for
# draws to tell it (Papaspiliopoulos, Roberts & Skold 2007, on such partly centred parameters); excess counts serve
# only where they are small in every row, since a single row with a huge count would drown the rest in its noise.
# Pairs leave out what a rotation of C could do as well, so the information of a low rank has no null space.


TOLD = 0.3  # expected information on a latent direction, in units of its prior, from which it stays in units of Z


class Coordinates(eqx.Module):
    """K numbers, all zero at the fitted model.

    `model` has its C rotated; `outward` is R (p, p); `held` (p,) says which columns of R are latents in units of Z;
    `pairs` are the (feature of (x, w), column of R) of the free entries; `tie` (pairs, K) adds entries that are one
    number, None where all are their own.
    """

    model: Model
    outward: Outward
    held: Array
    pairs: tuple[Array, Array]
    tie: Array | None

    def size(self) -> int:
        """K, how many numbers."""
        return len(self.pairs[0]) if self.tie is None else self.tie.shape[1]

    def _tied(self, scores: Array) -> Array:
        return scores if self.tie is None else scores @ self.tie.astype(scores.dtype)

    def _means(self, d: int) -> Array:
        """What w_a w_b has to lose in a score: 1 for the same latent in units of Z."""
        feature, column = self.pairs
        return (feature - d == column) & self.held[column]

    def factors(self, w: Latent, rate: Counts, block: Block) -> tuple[Array, Array]:
        """The two factors of scores, (n, k) and (n, p), of rows at positions w (n, q) with rates (n, p)."""
        g, q = self.outward.gradients(block.y - rate), w.shape[1]
        g = jnp.concatenate([jnp.where(self.held[:q], w, g[:, :q]), g[:, q:]], axis=1)
        return self.features(w, block), g

    def scores(self, w: Latent, rate: Counts, block: Block) -> Array:
        """Complete-data scores (n, K)."""
        feature, column = self.pairs
        f, g = self.factors(w, rate, block)
        return self._tied(f[:, feature] * g[:, column] - self._means(block.x.shape[1]))

    def mean_scores(self, outer: Array) -> Array:
        """Means of scores (n, K) from those of the products f g' (n, k, p): one look-up for all draws."""
        feature, column = self.pairs
        n, k, p = outer.shape
        means = outer.reshape(n, k * p)[:, feature * p + column]
        return self._tied(means - self._means(self.model.coef.shape[0]))

    def by_column(self, outer: Array) -> tuple[Array, Array]:
        """The same products with the gradients in C's axes (n, k, q) and in every column (n, k, p), for `part_scores`.

        Of two latents a rotation is free, and has no score: the products of both triangles are those of one.
        """
        d, q = self.model.coef.shape[0], self.model.loadings.shape[1]
        upper = jnp.triu(outer[:, d:, :q])
        both = upper + jnp.swapaxes(jnp.triu(upper, 1), 1, 2) - jnp.diag(self.held[:q].astype(outer.dtype))
        outer = outer.at[:, d:, :q].set(both)
        return outer[:, :, :q], self.outward.by_column(outer)

    def part_scores(self, by_axis: Array, by_column: Array, columns: Array) -> Array:
        """Means of scores (n, .) of the numbers of these columns, and of a map of w that all others follow together.

        d c of B, q c of C, column by column; D (d, q) and a triangle of E, which move others by D C' and C E'.
        """
        d, q = self.model.coef.shape[0], self.model.loadings.shape[1]
        own = by_column[:, :, columns]
        others = by_axis - own @ self.model.loadings[columns]
        parts = own, others[:, :d], others[:, d:][:, *jnp.tril_indices(q)]
        return jnp.concatenate([a.reshape(len(a), -1) for a in parts], axis=1)

    def part_size(self, count: int) -> int:
        """How many numbers a part of so many columns has."""
        d, q = self.model.coef.shape[0], self.model.loadings.shape[1]
        return (d + q) * count + d * q + q * (q + 1) // 2

    def expected_scores(self, mean: Latent, covariance: Array, rate: Counts, block: Block) -> Array:
        """Their expectation under w_i ~ N(mean_i, covariance_i), with mean rates `rate`; O(n p q^2)."""
        (n, q), (d, p) = mean.shape, self.model.coef.shape
        feature, column = self.pairs
        f, g = self.features(mean, block), self.outward.gradients(block.y - rate)
        # E[rate w] = A (m + S c): the rates lean toward where w makes them large
        pull = self.outward.gradients(rate[:, None, :] * self.model.loadings.T)
        lean = -jnp.einsum("nkl,nlr->nkr", covariance, pull)
        beside = jnp.concatenate([covariance, jnp.zeros((n, q, p - q))], axis=2)
        extra = jnp.where(self.held, beside, lean)
        extra = jnp.concatenate([jnp.zeros((n, d, p)), extra], axis=1)[:, feature, column]
        g = jnp.concatenate([jnp.where(self.held[:q], mean, g[:, :q]), g[:, q:]], axis=1)
        return self._tied(f[:, feature] * g[:, column] + extra - self._means(d))

    def features(self, w: Latent, block: Block) -> Array:
        """What the columns' rates depend on, (n, k): x and w."""
        return jnp.concatenate([block.x, w], axis=1)

    def complete(self, rows: Scalar, gram: Array, hessian: Array) -> Array:
        """Complete-data information (K, K) from N, X'X and the columns' Hessians sum_i rate_ij f_i f_i' (p, k, k).

        Between numbers of excess counts it is sum_j R_jb R_jb' H_j; between those of a held latent X'X or N (2 N for
        its own variance); nothing between the two kinds. Cost p q k a row of the result.
        """
        feature, column = self.pairs
        d, (p, k, _) = gram.shape[0], hessian.shape
        plain = jnp.zeros((k, k)).at[:d, :d].set(gram).at[d:, d:].set(rows * jnp.eye(k - d))
        held, same = self.held[column], self._means(d)

        def line(number):
            a, b = feature[number], column[number]
            along = self.outward.moves(jax.nn.one_hot(b, p, dtype=hessian.dtype))
            seen = self.outward.gradients(along * hessian[:, a, :].T)
            by_counts = jnp.where(held, 0.0, seen[feature, column])
            by_prior = jnp.where(held & (column == b), plain[a, feature], 0.0)
            return jnp.where(held[number], by_prior * (1 + same * same[number]), by_counts)

        every = jax.lax.map(line, jnp.arange(len(feature)), batch_size=16)
        return every if self.tie is None else self.tie.T @ every @ self.tie

    def tangents(self, numbers: Array) -> tuple[Coefficients, Covariance]:
        """First-order changes of B (m, d, p) and of Sigma (m, p, p) along m vectors of numbers (m, K)."""
        d, moved = self.model.coef.shape[0], self.outward.moves(self._moved(numbers))
        half = self.model.loadings @ moved[:, d:]
        return moved[:, :d], half + jnp.swapaxes(half, 1, 2)

    def coef_tangents(self, numbers: Array) -> Coefficients:
        """Those of B alone, (m, d, p): d p q each, where those of Sigma take p^2 q."""
        return self.outward.moves(self._moved(numbers)[:, : self.model.coef.shape[0]])

    def axis_tangents(self, numbers: Array, axes: Array) -> Array:
        """Those of v'Sigma v, 2 (C'v)'(dC'v), of axes v (p, .): (m, .)."""
        moved = self._moved(numbers)[:, self.model.coef.shape[0] :] @ self.outward.gradients(axes.T).T
        return 2 * jnp.einsum("qv,mqv->mv", self.model.loadings.T @ axes, moved)

    def _moved(self, numbers: Array) -> Array:
        """Numbers at their pairs of a feature and a column of R, (m, k, p); zero for pairs that are not free."""
        k = self.model.coef.shape[0] + self.model.loadings.shape[1]
        numbers = numbers if self.tie is None else numbers @ self.tie.T
        filled = jnp.zeros((len(numbers), k, self.model.coef.shape[1]), numbers.dtype)
        return filled.at[:, *self.pairs].set(numbers)


class Free(NamedTuple):
    """What of Sigma is free: any rotation of C leaves it; entries between latents; their scales; C's own rotation."""

    turns: bool
    entries: bool
    scales: bool
    axes: bool = False


def coordinates(
    shape: AbstractShape | None, loadings: AbstractLoadings | None, model: Model, mean_rate: Array
) -> Coordinates:
    """Those of a fitted model: a shape of Sigma (direct form) or free or borrowed loadings (factor form).

    `mean_rate` (p,) sum_i rate_ij, says of which latent directions a row's counts tell much. The complement of C is
    orthogonal to it in the metric of these rates: along it, a row's latent position cannot imitate the parameters.
    """
    if isinstance(shape, Fixed):
        return _arranged(Free(True, False, False), model, np.asarray(mean_rate))
    if isinstance(shape, Diagonal) or isinstance(loadings, BorrowedBasis):
        return _arranged(Free(False, False, True), model, np.asarray(mean_rate))
    if not isinstance(shape, Spherical):
        made = _arranged(Free(True, True, True), model, np.asarray(mean_rate))
        return _in_parts(shape, made) if isinstance(shape, Specific) else made
    # the columns' scales are one number: they are told as one, for only their sum of scores is zero at a maximum
    made = _arranged(Free(False, False, True), model, np.full(len(mean_rate), np.mean(mean_rate)))
    d, p = model.coef.shape
    tie = np.zeros((d * p + p, d * p + 1))
    first = np.asarray(made.pairs[0]) < d
    tie[first, np.arange(d * p)], tie[~first, -1] = 1, 1
    return eqx.tree_at(lambda here: here.tie, made, jnp.asarray(tie), is_leaf=lambda a: a is None)


def _in_parts(shape: Specific, made: Coordinates) -> Coordinates:
    """A full Sigma's coordinates tied to the directions of a Sigma in two parts."""
    d, p = made.model.coef.shape
    latent, column = (np.asarray(pair)[d * p :] for pair in made.pairs)
    free = shape.seen(made.model.loadings).matrices(latent - d, column)
    # C moves by C F, F upper triangular, and Sigma by C (F + F') C'
    free = free * np.where(latent - d == column, 0.5, 1.0)[:, None]
    tie = np.block([[np.eye(d * p), np.zeros((d * p, free.shape[1]))], [np.zeros((len(free), d * p)), free]])
    return eqx.tree_at(lambda here: here.tie, made, jnp.asarray(tie), is_leaf=lambda a: a is None)


def bound_coordinates(
    shape: AbstractShape | None, loadings: AbstractLoadings | None, model: Model, *, diagonal: bool
) -> Coordinates:
    """Those of a variational fit: all latents in units of Z (direct form) or none (factor form).

    A bound with diagonal Gaussians of w depends on the axes of C, which are then free as well, and stay as they are.
    """
    rate = jnp.ones(model.loadings.shape[0])
    if loadings is not None:
        free = Free(False, not isinstance(loadings, BorrowedBasis), True, diagonal)
        made = _arranged(free, model, np.asarray(rate), told_first=False)
        return eqx.tree_at(lambda here: here.held, made, jnp.zeros(len(rate), bool))
    made = coordinates(shape, loadings, model, rate)
    return eqx.tree_at(lambda here: here.held, made, jnp.ones(len(rate), bool))


def _arranged(free: Free, model: Model, rate: np.ndarray, *, told_first: bool = True) -> Coordinates:
    """Rotate or reorder C so that directions of which much is told come first; list the free pairs."""
    given, (d, p) = np.asarray(model.loadings), model.coef.shape
    q = given.shape[1]
    curvature = given.T @ (rate[:, None] * given)
    told, turn = np.linalg.eigh(curvature) if free.turns else (np.diag(curvature), np.eye(q))
    order = np.argsort(-told, kind="stable") if told_first else np.arange(q)
    turn = turn[:, order]
    latent, column = np.indices((d + q, p)).reshape(2, -1)
    latent = latent - d
    # between latents one triangle is free: the other would be a rotation
    entries = (latent <= column) | free.axes if free.entries else (latent == column) & free.scales
    kept = (latent < 0) | entries
    return Coordinates(
        Model(model.coef, jnp.asarray(given @ turn)),
        outward(given, np.sqrt(rate + 1e-8 * np.mean(rate)), turn),
        jnp.asarray(np.concatenate([told[order] > TOLD, np.zeros(p - q, bool)])),
        (jnp.asarray(latent[kept] + d), jnp.asarray(column[kept])),
        None,
    )


# Draws of the rows' latent positions at fixed parameters, and the means of the scores that go with them.
#
# Start at `Draws`, a method on the loop whose model does not move: each row keeps two chains and the mean scores of
# each.


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
    """What the rows keep: chains of both sets (2 n), their mean products f g' (2 n, k, p), the centre (n, K or 1)."""

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

    `louis`: whether the draws' own products are summed (n K^2 a draw), or only the rows' mean f g' kept (n k p).
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
        mean = jnp.zeros((n, k, block.y.shape[1]), kind)
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


PHASE = "information"
SETTLING = 16  # moves before draws are used
PARTING = 8  # the same of simulated rows, which begin at a draw already, both sets at the same
NUMBERS = (
    16_000_000  # most numbers in one array of a slice of rows, and in those of its counts and rates together
)
BESIDE = 6  # such arrays


class Information(NamedTuple):
    """Sums over rows; parts over slices of rows add up.

    products (K, K): sum_i s-bar s-bar', from both sets; products_gap (K, K): half the difference between its two sides,
    of the size of its Monte-Carlo noise; whole (K, K): the same with both sets in each s-bar, too large by the noise
    left in it, but never negative; score (K,): sum_i s-bar; rows: sum of weights; squares: sum of their squares.
    observed (K, K), observed_gap (K, K): by Louis' identity, the mean of both sets and half their difference, or None.
    by_group (2, G, K): of each set the sums of s-bar over the groups of rows that were asked for, or None.
    """

    products: Array
    products_gap: Array
    whole: Array
    score: Array
    rows: Scalar
    squares: Scalar
    observed: Array | None
    observed_gap: Array | None
    by_group: Array | None = None


@compiled()
def _scores_of_rows(here: Coordinates, rows: RowScores, weights: Array) -> Array:
    """The rows' mean scores from each set, times their weights, (2, n, K)."""
    n, kind = len(rows.centre), rows.centre.dtype
    plain = cast(here, kind)
    both = jnp.stack([plain.mean_scores(part) for part in (rows.mean[:n], rows.mean[n:])])
    return weights[:, None] * both.astype(jnp.float64)


@compiled()
def _reduced(here: Coordinates, state: State, rows: RowScores, block: Block) -> Information:
    n, kind = len(rows.centre), rows.centre.dtype
    weights, plain = block.weights[:n].astype(jnp.float64), cast(here, kind)
    one, other = (plain.mean_scores(part) - rows.centre for part in (rows.mean[:n], rows.mean[n:]))
    found = _products_of_means(rows.centre + one, rows.centre + other, weights)
    if state.sums is None:
        return found
    x = block.x[:n].astype(jnp.float64)
    gram, about_centre = x.T @ (weights[:, None] * x), _across(one, other, weights)[0]
    first, second = (
        here.complete(found.rows, gram, state.sums.hessian[g]) - state.sums.second[g] + about_centre
        for g in range(SETS)
    )
    return found._replace(observed=0.5 * (first + second), observed_gap=0.5 * (first - second))


@compiled()
def _reduced_to_parts(here: Coordinates, rows: RowScores, block: Block, columns: Array) -> Information:
    """The same of parts of the columns (parts, c), one after the other along the first axis."""
    n, kind = len(rows.centre), rows.centre.dtype
    weights, plain = block.weights[:n].astype(jnp.float64), cast(here, kind)
    both = [plain.by_column(part) for part in (rows.mean[:n], rows.mean[n:])]

    def part(chosen: Array) -> Information:
        one, other = (plain.part_scores(*each, chosen) for each in both)
        return _products_of_means(one, other, weights)

    return jax.lax.map(part, columns)


def _products_of_means(one: Array, other: Array, weights: Array) -> Information:
    """From the rows' mean scores from each set (n, K)."""
    mean = 0.5 * (one + other)
    whole, score = _across(mean, mean, weights)[0], weights @ mean.astype(jnp.float64)
    sums = jnp.sum(weights), jnp.sum(weights**2)
    return Information(*_across(one, other, weights), whole, score, *sums, None, None)


def _across(left: Array, right: Array, weights: Array) -> tuple[Array, Array]:
    product = ((left * weights.astype(left.dtype)[:, None]).T @ right).astype(jnp.float64)
    return 0.5 * (product + product.T), 0.5 * (product - product.T)


@compiled(static_argnames="kind")
def _from_data(here: Coordinates, block: Block, key: Array, kind) -> tuple[First, Block]:
    """Chains at draws from the rows' best Gaussians."""
    mean, covariance, _, _ = fit_rows(block, here.model.coef, here.model.loadings)
    spread = jnp.einsum("jk,nkl,jl->nj", here.model.loadings, covariance, here.model.loadings)
    base = block.offset + block.x @ here.model.coef
    rate = rates(base + mean @ here.model.loadings.T + 0.5 * spread)
    centre = here.expected_scores(mean, covariance, rate, block)
    both = _both_sets(block, jnp)
    noise = _normals(key, both.index, mean.shape[1])
    root = jnp.tile(jnp.linalg.cholesky(covariance), (SETS, 1, 1))
    position = jnp.tile(mean, (SETS, 1)) + jnp.einsum("nkl,nl->nk", root, noise)
    centre, both = (cast(a, kind) for a in (centre, both))
    return First(here.model.loadings, position, rate, centre, jax.random.fold_in(key, 3)), both


def _simulated(here: Coordinates, block: Block, key: Array, *, kind) -> tuple[First, Block]:
    """Counts drawn from the model at the rows' covariates and offsets; chains at the positions that they came from.

    Those positions are draws from p(w | y) already; moves that are not used part the two sets. By NumPy, which has
    nothing to compile: JAX's Poisson draws take longer to compile than all the rest.
    """
    block = jax.tree.map(np.asarray, block)
    coef, loadings = (np.asarray(a) for a in here.model)
    random = np.random.default_rng([*np.asarray(jax.random.key_data(key)), int(block.index[0])])
    position = random.standard_normal((len(block.index), loadings.shape[1]))
    base = block.offset + block.x @ coef
    counts = draw_counts(random, np.asarray(base) + position @ loadings.T).astype(float)
    # of the counts alone: the chains' law must not know where they start
    mass = counts + 0.5 * np.exp(np.minimum(base, 0.0))
    centre = np.zeros((len(position), 1))  # whatever the numbers of a view
    both = _both_sets(block._replace(y=counts), np)
    centre, both = jax.tree.map(jnp.asarray, (cast(centre, kind), cast(both, kind)))
    position, mass = jnp.asarray(np.tile(position, (SETS, 1))), jnp.asarray(mass)
    return First(here.model.loadings, position, mass, centre, key), both


def _both_sets(block: Block, arrays: Any) -> Block:
    """Every row twice; `arrays` is NumPy, or JAX's."""
    both = jax.tree.map(lambda a: arrays.tile(a, (SETS,) + (1,) * (a.ndim - 1)), block)
    return both._replace(index=arrays.concatenate([SETS * block.index + g for g in range(SETS)]))


def _normals(key: Array, index: Array, size: int) -> Array:
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (size,)))(index)


class Groups(NamedTuple):
    """The group of each row of the table (n,), how many there are, and the weight of each row in its group's sum."""

    of_row: np.ndarray
    count: int
    weights: np.ndarray


class Request(NamedTuple):
    """How information is found.

    `louis`: by Louis' identity too, not by products alone; `copies`: simulated copies of each row (0: the data);
    `draws` a set and row; `kind`: precision of the chains; `callback` is told of progress; `groups` of the data's rows,
    whose sums of scores are wanted.
    """

    key: Array
    louis: bool = False
    copies: int = 0
    draws: int = 64
    kind: Any = jnp.float32
    groups: Groups | None = None
    callback: Callable[[Progress], None] | None = None


def information(block: Block, here: Coordinates, request: Request) -> Information:
    """Information about (B, Sigma) in the numbers of `Coordinates`, see the head of this file.

    Rows are taken in slices whose memory is bounded; their parts add up. Raises KeyboardInterrupt on Ctrl-C. Cost, for
    n rows (times copies): draws x 2 moves of each, with n k p numbers; n K^2 products once, with Louis' identity twice
    a draw; memory n k p and K^2 numbers.
    """
    return _summed(block, here, request, lambda outcome, both: _told(here, outcome, both, request.groups))


def information_of_parts(
    block: Block, here: Coordinates, columns: np.ndarray, request: Request
) -> list[Information]:
    """The same for parts of the columns (parts, c), all others held together, from one set of draws.

    In the numbers of `Coordinates.part_scores`, and by products alone.
    """
    told = lambda outcome, both: jax.device_get(_reduced_to_parts(here, outcome.rows, both, columns))
    found = _summed(block, here, request, told)
    return [jax.tree.map(operator.itemgetter(k), found) for k in range(len(columns))]


def _summed(
    block: Block, here: Coordinates, request: Request, told: Callable[[Outcome, Block], Information]
) -> Information:
    """What is told of the draws of each slice of rows, added up."""
    copies = max(request.copies, 1)
    slices, each = _slices(block, here, copies)
    method, began = _draws(here, request), time.perf_counter()
    inside, total = request if slices == 1 else request._replace(callback=None), None
    for k in range(slices):
        part = block if slices * copies == 1 else _slice(block, k * each, each, copies)
        outcome, both = _of_slice(method, part, inside)
        found = told(outcome, both)
        total = found if total is None else jax.tree.map(np.add, total, found)
        if slices > 1 and request.callback is not None:  # of several slices each is one step
            accepted = float(outcome.state.objective)
            request.callback(Progress(PHASE, k + 1, slices, accepted, time.perf_counter() - began))
    assert total is not None
    return total


def _told(here: Coordinates, outcome: Outcome, both: Block, groups: Groups | None) -> Information:
    """What the draws of a slice of rows say; rows that only fill it are in no group's sum."""
    found = jax.device_get(_reduced(here, outcome.state, outcome.rows, both))
    if groups is None:
        return found
    place = np.asarray(both.index[: len(outcome.rows.centre)]) // SETS
    used = np.asarray(both.weights[: len(place)]) > 0
    weights = np.where(used, groups.weights[place], 0.0)
    scores = np.asarray(_scores_of_rows(here, outcome.rows, jnp.asarray(weights)))
    total = np.zeros((SETS, groups.count, scores.shape[2]))
    for part, each in zip(total, scores, strict=True):
        np.add.at(part, groups.of_row[place], each)
    return found._replace(by_group=total)


def ahead(block: Block, here: Coordinates, request: Request) -> None:
    """Compile what `information` from simulated counts needs for a table and numbers of these shapes."""
    _, each = _slices(block, here, request.copies)
    part = jax.tree.map(lambda a: np.zeros((each, *a.shape[1:]), a.dtype), block)
    first, both = _simulated(here, part, request.key, kind=request.kind)
    state, rows = compile_ahead(_draws(here, request), first, both)
    _reduced.ahead(here, state, rows, both)


def _slices(block: Block, here: Coordinates, copies: int) -> tuple[int, int]:
    """How many slices of rows, and the rows of each, so that memory stays bounded."""
    (n, _), (p, q) = block.y.shape, here.model.loadings.shape
    widest = SETS * max(max(block.x.shape[1] + q, BESIDE) * p, q**2)
    slices = -(-n * copies * widest // NUMBERS)
    return slices, -(-n * copies // slices)


def _draws(here: Coordinates, request: Request) -> Draws:
    return Draws(here, request.draws, PARTING if request.copies else SETTLING, request.louis)


def _of_slice(method: Draws, block: Block, request: Request) -> tuple[Outcome, Block]:
    begin = _simulated if request.copies else _from_data
    first, both = begin(method.coordinates, block, request.key, kind=request.kind)
    outcome = run(
        method,
        first,
        both,
        phase=PHASE,
        max_iter=int(method.draws) + int(method.settling),
        began=time.perf_counter(),
        callback=request.callback,
    )
    if outcome.interrupted:
        raise KeyboardInterrupt
    return outcome, both


def _slice(block: Block, first: int, size: int, copies: int) -> Block:
    """`size` rows of the table repeated `copies` times, from `first` on; filled up with row 0 at weight 0.

    All slices have one shape, so that one compilation serves them; the copies share out a row's weight.
    """
    n = len(block.index)
    chosen = np.arange(first, first + size)
    there, chosen = chosen < n * copies, np.where(chosen < n * copies, chosen, 0)
    part = jax.tree.map(lambda a: np.asarray(a)[chosen % n], block)
    weights = np.where(there, part.weights / copies, 0.0)
    part = part._replace(weights=weights, index=part.index + n * (chosen // n))
    return jax.tree.map(jnp.asarray, part)
