"""In which numbers a row's score is written, and what they say of B, Sigma and the law's own parameters.

Start at `coordinates`. Every model is Z = XB + C w, w ~ N(0, I), and moves along

B <- B + E R', C <- C + (R F)', R = (C, complement of C) (`Outward`, known by q reflections),

one number for each free pair of a feature (of x, for E; of w, for F) and a column of R. As complete data serve, for
columns of C of which counts say enough, the latent in units of Z, which stays while the parameters move; for all
others w itself. The score of a pair is then f g, with f the feature and g = w_b (less its mean) in the first case,
the column's excess counts R_b'(y - rate) in the second. Enough of a direction's complete information is left for
draws to tell it (Papaspiliopoulos, Roberts & Skold 2007, on such partly centred parameters); excess counts serve
only where they are small in every row, since a single row with a huge count would drown the rest in its noise.
Pairs leave out what a rotation of C could do as well, so the information of a low rank has no null space.

Behind these numbers stand the own parameters of the law of the counts, each a regression on features of the rows
(`laws.features_of`); their scores are the law's slopes in each cell, times the features.
"""

from dataclasses import replace
from typing import NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._axes import Coefficients, Counts, Covariance, Latent, Scalar
from poplin.data.blocks import Block
from poplin.laws import POISSON, AbstractLaw, Expected, features_of
from poplin.models.loadings import AbstractLoadings, BorrowedBasis, Outward, outward
from poplin.updates.specific import Specific
from poplin.updates.structure import AbstractShape, Diagonal, Fixed, Model, Spherical

TOLD = 0.3  # expected information on a latent direction, in units of its prior, from which it stays in units of Z


class Coordinates(eqx.Module):
    """K numbers, all zero at the fitted model.

    `model` has its C rotated; `outward` is R (p, p); `held` (p,) says which columns of R are latents in units of Z;
    `pairs` are the (feature of (x, w), column of R) of the free entries; `tie` (pairs, K) adds entries that are one
    number, None where all are their own. `own` is the law with its parameters, (k, p) or (k, 1), the last numbers.
    """

    model: Model
    outward: Outward
    held: Array
    pairs: tuple[Array, Array]
    tie: Array | None
    own: AbstractLaw = POISSON

    def size(self) -> int:
        """K, how many numbers."""
        return self._before_own() + sum(a.size for a in jax.tree.leaves(self.own))

    def _before_own(self) -> int:
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

    def predictor(self, w: Latent, block: Block) -> Counts:
        """Log rates (n, p) of rows at positions w (n, q)."""
        return block.offset + block.x @ self.model.coef + w @ self.model.loadings.T

    def slopes(self, w: Latent, block: Block) -> AbstractLaw:
        """Of the log probability of each cell (n, p), in the place of each parameter of the law."""
        return block.law.scores(self.predictor(w, block), block.y)

    def scores(self, w: Latent, rate: Counts, block: Block) -> Array:
        """Complete-data scores (n, K)."""
        feature, column = self.pairs
        f, g = self.factors(w, rate, block)
        told = self._tied(f[:, feature] * g[:, column] - self._means(block.x.shape[1]))
        return self.with_own(told, self.slopes(w, block), block)

    def mean_scores(self, outer: Array) -> Array:
        """Means of scores (n, .) from those of the products f g' (n, k, p): one look-up for all draws."""
        feature, column = self.pairs
        n, k, p = outer.shape
        means = outer.reshape(n, k * p)[:, feature * p + column]
        return self._tied(means - self._means(self.model.coef.shape[0]))

    def with_own(self, scores: Array, slopes: AbstractLaw, block: Block) -> Array:
        """Scores (n, .) with those of the law's parameters behind them, from the slopes of cells."""

        def of(parameter: Array, slope: Counts, feature: Array) -> Array:
            slope = slope if parameter.shape[1] > 1 else jnp.sum(slope, axis=1, keepdims=True)
            return (feature[:, :, None] * slope[:, None, :]).reshape(len(slope), -1)

        features = features_of(self.own, block.zero_features, block.y)
        parts = jax.tree.leaves(jax.tree.map(of, self.own, slopes, features))
        return jnp.concatenate([scores, *parts], axis=1) if parts else scores

    def by_column(self, outer: Array) -> tuple[Array, Array]:
        """The same products with the gradients in C's axes (n, k, q) and in every column (n, k, p), for `part_scores`.

        Of two latents a rotation is free, and has no score: the products of both triangles are those of one.
        """
        d, q = self.model.coef.shape[0], self.model.loadings.shape[1]
        upper = jnp.triu(outer[:, d:, :q])
        both = upper + jnp.swapaxes(jnp.triu(upper, 1), 1, 2) - jnp.diag(self.held[:q].astype(outer.dtype))
        outer = outer.at[:, d:, :q].set(both)
        return outer[:, :, :q], self.outward.by_column(outer)

    def of_columns(self, columns: Array | np.ndarray) -> Self:
        """With the law of these columns alone, of which no two share a parameter: for `with_own` of a part."""
        return replace(self, own=jax.tree.map(lambda a: a[:, columns], self.own))

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
        """How many numbers a part of so many columns has, the law's, which come last, with them."""
        d, q = self.model.coef.shape[0], self.model.loadings.shape[1]
        own = sum(len(a) for a in jax.tree.leaves(self.own))
        return (d + q + own) * count + d * q + q * (q + 1) // 2

    def expected_scores(self, mean: Latent, covariance: Array, told: Expected, block: Block) -> Array:
        """Expected scores of B and Sigma under w_i ~ N(mean_i, covariance_i), `told` by the law; O(n p q^2)."""
        (n, q), (d, p) = mean.shape, self.model.coef.shape
        _, rate, weight = told
        feature, column = self.pairs
        f, g = self.features(mean, block), self.outward.gradients(block.y - rate)
        # E[rate w] = rate m + weight S c: the rates lean toward where w makes them large
        pull = self.outward.gradients(weight[:, None, :] * self.model.loadings.T)
        lean = -jnp.einsum("nkl,nlr->nkr", covariance, pull)
        beside = jnp.concatenate([covariance, jnp.zeros((n, q, p - q))], axis=2)
        extra = jnp.where(self.held, beside, lean)
        extra = jnp.concatenate([jnp.zeros((n, d, p)), extra], axis=1)[:, feature, column]
        g = jnp.concatenate([jnp.where(self.held[:q], mean, g[:, :q]), g[:, q:]], axis=1)
        return self._tied(f[:, feature] * g[:, column] + extra - self._means(d))

    def features(self, w: Latent, block: Block) -> Array:
        """What the columns' rates depend on, (n, k): x and w."""
        return jnp.concatenate([block.x, w], axis=1)

    def complete(self, rows: Scalar, gram: Array, hessian: Array, own: "OwnHessian | None" = None) -> Array:
        """Complete-data information (K, K) from N, X'X and the columns' Hessians sum_i rate_ij f_i f_i' (p, k, k).

        `own` has the law's, None where it has no parameters. Between numbers of excess counts
        it is sum_j R_jb R_jb' H_j; between those of a held latent X'X or N (2 N for
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
        every = every if self.tie is None else self.tie.T @ every @ self.tie
        return every if own is None else self._with_own_hessian(every, own)

    def _with_own_hessian(self, every: Array, own: "OwnHessian") -> Array:
        """Lines and columns of the law's parameters added; counts of a held latent in units of Z know no B or Sigma."""
        feature, column = self.pairs
        leaves, p = jax.tree.leaves(self.own), self.model.coef.shape[1]
        of_column = [jnp.eye(p) if a.shape[1] > 1 else jnp.ones((1, p)) for a in leaves]
        along = self.outward.moves(jax.nn.one_hot(column, p, dtype=every.dtype))
        along = jnp.where(self.held[column][:, None], 0.0, along)
        beside = [
            jnp.einsum("kj,jkr,aj->kra", along, part[:, feature], columns).reshape(len(feature), -1)
            for part, columns in zip(own.beside, of_column, strict=True)
        ]
        beside = jnp.concatenate(beside, axis=1)
        beside = beside if self.tie is None else self.tie.T @ beside
        among = [
            [
                jnp.einsum("jrs,aj,bj->rasb", part, one, other).reshape(a.size, b.size)
                for part, other, b in zip(line, of_column, leaves, strict=True)
            ]
            for line, one, a in zip(own.among, of_column, leaves, strict=True)
        ]
        return jnp.block([[every, beside], [beside.T, jnp.block(among)]])

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

    def own_tangents(self, numbers: Array) -> Array:
        """Those of the law's parameters, which are numbers themselves, one leaf behind the other, (m, .)."""
        return numbers[:, self._before_own() :]

    def _moved(self, numbers: Array) -> Array:
        """Numbers at their pairs of a feature and a column of R, (m, k, p); zero for pairs that are not free."""
        numbers = numbers[:, : self._before_own()]
        k = self.model.coef.shape[0] + self.model.loadings.shape[1]
        numbers = numbers if self.tie is None else numbers @ self.tie.T
        filled = jnp.zeros((len(numbers), k, self.model.coef.shape[1]), numbers.dtype)
        return filled.at[:, *self.pairs].set(numbers)


class OwnHessian(NamedTuple):
    """Minus second derivatives in the law's parameters, summed over rows, column by column.

    beside: of each parameter with (B_j, C_j), (p, k, r), r its features; among: of each two, (p, r, s).
    """

    beside: tuple[Array, ...]
    among: tuple[tuple[Array, ...], ...]


def no_own_hessian(here: Coordinates, *before: int) -> OwnHessian | None:
    """Zeros, (*before, p, ...); None where the law has no parameters."""
    (p, q), d = here.model.loadings.shape, here.model.coef.shape[0]
    widths = [len(a) for a in jax.tree.leaves(here.own)]
    beside = tuple(jnp.zeros((*before, p, d + q, r)) for r in widths)
    among = tuple(tuple(jnp.zeros((*before, p, r, s)) for s in widths) for r in widths)
    return OwnHessian(beside, among) if widths else None


class Free(NamedTuple):
    """What of Sigma is free: any rotation of C leaves it; entries between latents; their scales; C's own rotation."""

    turns: bool
    entries: bool
    scales: bool
    axes: bool = False


def with_law(here: Coordinates, law: AbstractLaw) -> Coordinates:
    """With the own parameters of a law behind the numbers of B and Sigma."""
    return replace(here, own=law)


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
