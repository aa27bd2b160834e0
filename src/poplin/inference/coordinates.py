"""The free directions of a fitted model: in which numbers a row's score is written, and what they say of B and Sigma.

Start at `coordinates`. Every model is Z = XB + C w, w ~ N(0, I), and moves along

    B <- B + E R',    C <- C + (R F)',    R = (C, complement of C),

one number for each free pair of a feature (of x, for E; of w, for F) and a column of R. As complete data serve, for
columns of C of which counts say enough, the latent in units of Z, which stays while the parameters move; for all
others w itself. The score of a pair is then f g, with f the feature and g = w_b (less its mean) in the first case, the
column's excess counts R_b'(y - rate) in the second. Enough of a direction's complete information is left for draws to
tell it (Papaspiliopoulos, Roberts & Skold 2007, on such partly centred parameters); excess counts serve only where
they are small in every row, since a single row with a huge count would drown the rest in its noise. Pairs leave out
what a rotation of C could do as well, so the information of a low rank has no null space.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._axes import Coefficients, Counts, Covariance, Latent, Scalar
from poplin.data.blocks import Block
from poplin.models.loadings import AbstractLoadings, BorrowedBasis
from poplin.updates.covariance import AbstractShape, Diagonal, Fixed, Spherical
from poplin.updates.structure import Model

TOLD = 0.3  # expected information on a latent direction, in units of its prior, from which it stays in units of Z


class Coordinates(eqx.Module):
    """K numbers, all zero at the fitted model.

    `model` has its C rotated; `outward` is R (p, m), m >= q; `held` (m,) says which columns of R are latents in
    units of Z; `pairs` are the (feature of (x, w), column of R) of the free entries; `tie` (pairs, K) adds entries
    that are one number, None where all are their own.
    """

    model: Model
    outward: Array
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
        """The two factors of scores, (n, k) and (n, m), of rows at positions w (n, q) with rates (n, p)."""
        g, q = (block.y - rate) @ self.outward, w.shape[1]
        g = jnp.concatenate([jnp.where(self.held[:q], w, g[:, :q]), g[:, q:]], axis=1)
        return self.features(w, block), g

    def scores(self, w: Latent, rate: Counts, block: Block) -> Array:
        """Complete-data scores (n, K)."""
        feature, column = self.pairs
        f, g = self.factors(w, rate, block)
        return self._tied(f[:, feature] * g[:, column] - self._means(block.x.shape[1]))

    def mean_scores(self, outer: Array) -> Array:
        """Means of scores (n, K) from those of the products f g' (n, k, m): one look-up for all draws."""
        feature, column = self.pairs
        n, k, m = outer.shape
        means = outer.reshape(n, k * m)[:, feature * m + column]
        return self._tied(means - self._means(self.model.coef.shape[0]))

    def expected_scores(self, mean: Latent, covariance: Array, rate: Counts, block: Block) -> Array:
        """Their expectation under w_i ~ N(mean_i, covariance_i), with mean rates `rate`; O(n p q m)."""
        (n, q), (d, m) = mean.shape, (block.x.shape[1], self.outward.shape[1])
        feature, column = self.pairs
        f, g = self.features(mean, block), (block.y - rate) @ self.outward
        # E[rate w] = A (m + S c): the rates lean toward where w makes them large
        pull = rate @ (self.model.loadings[:, :, None] * self.outward[:, None, :]).reshape(-1, q * m)
        lean = -jnp.einsum("nkl,nlr->nkr", covariance, pull.reshape(n, q, m))
        beside = jnp.concatenate([covariance, jnp.zeros((n, q, m - q))], axis=2)
        extra = jnp.where(self.held, beside, lean)
        extra = jnp.concatenate([jnp.zeros((n, d, m)), extra], axis=1)[:, feature, column]
        g = jnp.concatenate([jnp.where(self.held[:q], mean, g[:, :q]), g[:, q:]], axis=1)
        return self._tied(f[:, feature] * g[:, column] + extra - self._means(d))

    def features(self, w: Latent, block: Block) -> Array:
        """What the columns' rates depend on, (n, k): x and w."""
        return jnp.concatenate([block.x, w], axis=1)

    def complete(self, rows: Scalar, gram: Array, hessian: Array) -> Array:
        """Complete-data information (K, K) from N, X'X and the columns' Hessians sum_i rate_ij f_i f_i' (p, k, k).

        Between numbers of excess counts it is sum_j R_jb R_jb' H_j; between those of a held latent X'X or N (2 N for
        its own variance); nothing between the two kinds. Cost p m k a row of the result.
        """
        feature, column = self.pairs
        d, k = gram.shape[0], hessian.shape[1]
        plain = jnp.zeros((k, k)).at[:d, :d].set(gram).at[d:, d:].set(rows * jnp.eye(k - d))
        held, same = self.held[column], self._means(d)

        def line(number):
            a, b = feature[number], column[number]
            seen = (self.outward * self.outward[:, b][:, None]).T @ hessian[:, a, :]
            by_counts = jnp.where(held, 0.0, seen[column, feature])
            by_prior = jnp.where(held & (column == b), plain[a, feature], 0.0)
            return jnp.where(held[number], by_prior * (1 + same * same[number]), by_counts)

        every = jax.lax.map(line, jnp.arange(len(feature)), batch_size=16)
        return every if self.tie is None else self.tie.T @ every @ self.tie

    def tangents(self, numbers: Array) -> tuple[Coefficients, Covariance]:
        """First-order changes of B (m, d, p) and of Sigma (m, p, p) along m vectors of numbers (m, K)."""
        d, moved = self.model.coef.shape[0], self._moved(numbers) @ self.outward.T
        half = self.model.loadings @ moved[:, d:]
        return moved[:, :d], half + jnp.swapaxes(half, 1, 2)

    def coef_tangents(self, numbers: Array) -> Coefficients:
        """Those of B alone, (m, d, p): d p m each, where those of Sigma take p^2 q."""
        return self._moved(numbers)[:, : self.model.coef.shape[0]] @ self.outward.T

    def _moved(self, numbers: Array) -> Array:
        """Numbers at their pairs of a feature and a column of R, (m, k, m of R); zero for pairs that are not free."""
        k = self.model.coef.shape[0] + self.model.loadings.shape[1]
        numbers = numbers if self.tie is None else numbers @ self.tie.T
        filled = jnp.zeros((len(numbers), k, self.outward.shape[1]), numbers.dtype)
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
        return _arranged(Free(True, True, True), model, np.asarray(mean_rate))
    # the columns' scales are one number: they are told as one, for only their sum of scores is zero at a maximum
    made = _arranged(Free(False, False, True), model, np.full(len(mean_rate), np.mean(mean_rate)))
    d, p = model.coef.shape
    tie = np.zeros((d * p + p, d * p + 1))
    first = np.asarray(made.pairs[0]) < d
    tie[first, np.arange(d * p)], tie[~first, -1] = 1, 1
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
    rotated = given @ turn[:, order]
    root = np.sqrt(rate + 1e-8 * np.mean(rate))
    complement = np.linalg.qr(root[:, None] * given, mode="complete")[0][:, q:] / root[:, None]
    latent, column = np.indices((d + q, p)).reshape(2, -1)
    latent = latent - d
    # between latents one triangle is free: the other would be a rotation
    entries = (latent <= column) | free.axes if free.entries else (latent == column) & free.scales
    kept = (latent < 0) | entries
    return Coordinates(
        Model(model.coef, jnp.asarray(rotated)),
        jnp.asarray(np.concatenate([rotated, complement], axis=1)),
        jnp.asarray(np.concatenate([told[order] > TOLD, np.zeros(p - q, bool)])),
        (jnp.asarray(latent[kept] + d), jnp.asarray(column[kept])),
        None,
    )
