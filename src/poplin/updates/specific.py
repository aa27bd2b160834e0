"""Sigma in two parts, C C' + diag(psi): axes that columns share, and a variance of each column's own (factor analysis).

Start at `Specific`, a shape of Sigma like the others of `structure.py`. Where C comes from is its `axes`: any p x q
matrix (`FreeAxes`), or V Lambda^(1/2) with V given (`GivenAxes`). Nothing of the two parts is kept beside Sigma: they
follow from it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import cho_solve, solve_triangular

from poplin._axes import Covariance, Loadings, Scalar
from poplin.updates.structure import LEAST_SD, AbstractShape, held_by_trace, newton_columns

EDGE = LEAST_SD**2  # the least variance of a column's own
MOST_EDGE = 0.01  # the same, of columns that are hardly ever seen
AT_EDGE = (
    1.5  # times its edge, up to which a variance is said to be at it: means over iterations lie above it
)
LEAST_SCALE = 1e-8  # the least lambda_k of given axes
STEP = 4  # ranks that share a program
MOST_STEPS = 60  # Newton's, from far away; from near, four to eight
CLOSE = 1e-13  # nats a row that the next step would gain, at most
FARTHEST = 2.0  # that a step moves a number
FIRST_DAMPING, LEAST_DAMPING = 1e-3, 1e-9
TIED = 1e-8  # relative distance of eigenvalues below which they are taken for one
LOST = 1e-9  # share of a combination of own vectors' squares, below which C or others do it as well
NO_AXIS = 1e-9  # share of an axis's variance that is not the columns' own, below which there is no axis


def edges(rate: np.ndarray, rows: float) -> np.ndarray:
    """The least variance of each column's own (p,), for mean counts (p,) of so many rows.

    A row's count tells x^2 / 2 of the log of a variance psi_j, x = rate_j psi_j, while that is small. Where all rows
    tell a half, psi_j = 1 / (rate_j N^(1/2)): less has no bottom that counts would see, and costs no nat.
    """
    return np.clip(1 / np.maximum(rate * np.sqrt(rows), 1e-300), EDGE, MOST_EDGE)


class Parts(NamedTuple):
    """C (p, q), columns without an axis zero, psi (p,), and which of psi are at their edge (p,).

    Arrays of JAX, or of NumPy where a fit is kept.
    """

    loadings: Any
    specific: Any
    edge: Any

    def covariance(self) -> Covariance:
        """C C' + diag(psi)."""
        return self.loadings @ self.loadings.T + jnp.diag(self.specific)


class Slopes(NamedTuple):
    """Minus the log-likelihood a row at some numbers, its gradient (m,) and Hessian (m, m).

    `convex` (m, m) is what the Hessian would be if Sigma fitted: it has no negative eigenvalue.
    """

    value: Scalar
    gradient: Array
    hessian: Array
    convex: Array


class Directions(NamedTuple):
    """How Sigma can move at some parts: C A' + A C' for every A (`turning` says for which C), and u u' of own vectors.

    `own` (p, m) are the vectors u, `free` (m,) says which of them are not at their edge.
    """

    turning: Loadings
    own: Array
    free: Array


class AbstractAxes(eqx.Module):
    """Where C comes from, in the numbers (logs of variances) that are left when the rest has a closed form."""

    @abstractmethod
    def count(self, p: int) -> int:
        """How many numbers of Sigma are free, a rotation of C not counted."""

    @abstractmethod
    def columns(self) -> int:
        """q, the columns of C."""

    @abstractmethod
    def begin(self, moment: Covariance) -> tuple[Array, Array]:
        """First numbers (m,), and the least that they may be."""

    @abstractmethod
    def slopes(self, numbers: Array, moment: Covariance) -> Slopes:
        """1/2 [log det Sigma + tr(Sigma^-1 S)] with what has a closed form at its best; O(q p^3) at most."""

    @abstractmethod
    def parts(self, numbers: Array, moment: Covariance) -> Parts:
        """C and psi at these numbers."""

    @abstractmethod
    def directions(self, parts: Parts) -> Directions:
        """How Sigma can move."""


class FreeAxes(AbstractAxes):
    """Any C of `rank` columns, in `room` for some more: numbers are log psi, C is in closed form given psi.

    With A = psi^-1/2 S psi^-1/2 and its eigenvalues theta, axes omega, C = psi^1/2 Omega (Theta - I)^1/2 over the
    `rank` largest above 1. Sources: Lawley & Maxwell (1971); Clarke (1970), Br. J. Math. Stat. Psychol. 23, for the
    Hessian.
    """

    rank: Array
    least: Array
    room: int = eqx.field(static=True)

    def count(self, p):
        q = self.columns()
        return min(p * q - q * (q - 1) // 2 + p, p * (p + 1) // 2)

    def columns(self):
        return int(self.rank)

    def begin(self, moment):
        p = len(moment)
        root = jnp.linalg.cholesky(moment + jnp.diag(self.least))
        alone = 1 / jnp.sum(solve_triangular(root, jnp.eye(p), lower=True) ** 2, axis=0)
        # what others leave of a variance is next to nothing where rows are few: half-way to the whole of it
        between = jnp.sqrt(alone * jnp.diagonal(moment)) * (1 - 0.5 * self.rank / p)
        return jnp.log(jnp.maximum(between, 2 * self.least)), jnp.log(self.least)

    def _axes(self, numbers, moment):
        """psi^1/2, eigenvalues (descending), axes, and which of them C has."""
        scale = jnp.exp(0.5 * numbers)
        values, axes = jnp.linalg.eigh(moment / scale[:, None] / scale)
        values, axes = values[::-1], axes[:, ::-1]
        return scale, values, axes, (jnp.arange(len(values)) < self.rank) & (values > 1)

    def slopes(self, numbers, moment):
        _, values, axes, kept = self._axes(numbers, moment)
        rest = ~kept
        each = jnp.where(kept, jnp.log(jnp.where(kept, values, 1.0)) + 1, values)
        value = 0.5 * (jnp.sum(numbers) + jnp.sum(each))
        gap = jnp.where(rest, 1 - values, 0.0)
        gradient = 0.5 * axes**2 @ gap
        outside = axes * rest
        # how the axes turn among those that are left, and between these and those of C, one of C at a time
        left = outside @ outside.T
        hessian = 0.5 * ((outside * values) @ outside.T) * left

        def between(k):
            apart = values[k] - values
            apart = jnp.where(rest & (apart > TIED * values[k]), apart, jnp.inf)
            share = jnp.where(kept[k], 0.5 * (values + values[k]) * gap / apart, 0.0)
            return ((outside * share) @ outside.T) * (axes[:, k][:, None] * axes[:, k])

        if self.room:
            hessian = hessian + jnp.sum(jax.vmap(between)(jnp.arange(self.room)), axis=0)
        return Slopes(value, gradient, hessian, 0.5 * left**2)

    def parts(self, numbers, moment):
        scale, values, axes, kept = self._axes(numbers, moment)
        above = jnp.sqrt(jnp.where(kept, values - 1, 0.0))
        specific = jnp.exp(numbers)
        loadings = scale[:, None] * (axes * above)[:, : self.room]
        return Parts(loadings, specific, specific <= AT_EDGE * self.least)

    def directions(self, parts):
        return Directions(parts.loadings, jnp.eye(len(parts.specific)), ~parts.edge)


def free_axes(rank: int, least: np.ndarray) -> FreeAxes:
    """Any C of so many columns; ranks that are near each other have the same room, and share programs."""
    return FreeAxes(jnp.asarray(rank), jnp.asarray(least), min(len(least), STEP * -(-rank // STEP)))


def most_axes(p: int) -> int:
    """The highest rank at which C C' + diag(psi) is less than any Sigma; 1 where there is none (Ledermann 1937)."""
    return max((q for q in range(1, p) if free_axes(q, np.ones(p)).count(p) < p * (p + 1) // 2), default=1)


class GivenAxes(AbstractAxes):
    """C = V Lambda^(1/2), V (p, q) given: numbers are log lambda and log psi, in which Sigma is a sum.

    Source: Anderson (1973), Ann. Stat. 1, on covariance matrices with linear structure.
    """

    basis: Loadings
    least: Array

    def count(self, p):
        return self.basis.shape[1] + p

    def columns(self):
        return self.basis.shape[1]

    def begin(self, moment):
        q = self.basis.shape[1]
        along = jnp.einsum("jk,jl,lk->k", self.basis, moment, self.basis)
        half = 0.5 * jnp.concatenate([along, jnp.diagonal(moment)])
        least = jnp.log(jnp.concatenate([jnp.full(q, LEAST_SCALE), self.least]))
        return jnp.maximum(jnp.log(half), least + 0.5), least

    def _vectors(self):
        return jnp.concatenate([self.basis, jnp.eye(len(self.basis))], axis=1)

    def slopes(self, numbers, moment):
        vectors, size = self._vectors(), jnp.exp(numbers)
        root = jnp.linalg.cholesky((vectors * size) @ vectors.T)
        inward = cho_solve((root, True), vectors)
        told, seen = vectors.T @ inward, inward.T @ moment @ inward
        trace = jnp.trace(cho_solve((root, True), moment))
        value = jnp.sum(jnp.log(jnp.diagonal(root))) + 0.5 * trace
        gradient = 0.5 * size * (jnp.diagonal(told) - jnp.diagonal(seen))
        both = size[:, None] * size
        hessian = both * told * (seen - 0.5 * told) + jnp.diag(gradient)
        return Slopes(value, gradient, hessian, 0.5 * both * told**2)

    def parts(self, numbers, moment):
        size, q = jnp.exp(numbers), self.basis.shape[1]
        return Parts(self.basis * jnp.sqrt(size[:q]), size[q:], size[q:] <= AT_EDGE * self.least)

    def directions(self, parts):
        variances = jnp.sum(parts.loadings**2, axis=0)
        free = jnp.concatenate([variances > 2 * LEAST_SCALE, ~parts.edge])
        return Directions(jnp.zeros((len(self.basis), 0)), self._vectors(), free)


class _Climb(NamedTuple):
    """Where Newton's steps stand."""

    numbers: Array
    at: Slopes
    damping: Scalar
    steps: Array
    left: Scalar  # nats that the last step was to gain


def solved(axes: AbstractAxes, moment: Covariance) -> Array:
    """The numbers of the likeliest Sigma: Newton's steps, damped where the likelihood is not convex.

    A number that is at its edge, and would go on, stays. Cost: an eigendecomposition (free axes) or a factor (given
    ones) of p x p or p + q numbers a step, and one solve.
    """
    first, least = axes.begin(moment)
    one = jnp.eye(len(first))

    def step(climb: _Climb) -> _Climb:
        at = climb.at
        inside = ~((climb.numbers <= least) & (at.gradient >= 0))

        def move(curvature: Array) -> Array:
            curvature = jnp.where(inside[:, None] & inside, curvature, 0.0) + jnp.diag(1.0 * ~inside)
            root = jnp.linalg.cholesky(curvature + climb.damping * one)
            return -jnp.where(inside, cho_solve((root, True), at.gradient), 0.0)

        newton = move(at.hessian)
        sound = jnp.all(jnp.isfinite(newton))
        chosen = jax.lax.cond(sound, lambda: newton, lambda: move(at.convex + LEAST_DAMPING * one))
        tried = jnp.maximum(climb.numbers + jnp.clip(chosen, -FARTHEST, FARTHEST), least)
        gain = -at.gradient @ (tried - climb.numbers)
        there = axes.slopes(tried, moment)
        better = there.value <= at.value + 1e-13 * jnp.abs(at.value)
        pick = lambda a, b: jnp.where(better, a, b)
        calmer = jnp.where(climb.damping <= LEAST_DAMPING, 0.0, 0.1 * climb.damping)
        wilder = jnp.maximum(10 * climb.damping, FIRST_DAMPING)
        return _Climb(
            pick(tried, climb.numbers),
            jax.tree.map(pick, there, at),
            pick(calmer, wilder),
            climb.steps + 1,
            pick(jnp.abs(gain), jnp.inf),
        )

    far = lambda climb: (climb.left > CLOSE) & (climb.steps < MOST_STEPS) & jnp.isfinite(climb.at.value)
    begun = _Climb(first, axes.slopes(first, moment), jnp.zeros(()), jnp.asarray(0), jnp.asarray(jnp.inf))
    return jax.lax.while_loop(far, step, begun).numbers


class Specific(AbstractShape):
    """Sigma = C C' + diag(psi), psi no less than its `edges`."""

    axes: AbstractAxes

    def parts(self, moment: Covariance) -> Parts:
        """C and psi under which Gaussian rows with this second moment are likeliest."""
        return self.axes.parts(solved(self.axes, moment), moment)

    def nearest(self, moment):
        return self.parts(moment).covariance()

    def held(self, moment, weight):
        # the prior bends what is asked of the second moment, which the shape is then laid through
        return self.nearest(held_by_trace(moment, weight))

    def scales(self):
        return isinstance(self.axes, FreeAxes)

    def pseudo_rows(self):
        return jnp.zeros(())

    def rescale(self, gradient, hessian, *, gamma):
        if isinstance(self.axes, FreeAxes):  # D (C C' + diag(psi)) D has the same form
            return newton_columns(gradient, hessian, gamma=gamma)
        level = newton_columns(gradient[:-1], hessian[:, :-1, :-1], gamma=gamma)
        return jnp.concatenate([level, jnp.zeros_like(level[:1])])

    def seen(self, root: Covariance) -> Seen:
        """The directions of a Sigma of this shape with this root (p, p)."""
        return Seen(jnp.linalg.inv(root), self.axes.directions(self.parts(root @ root.T)))

    def along(self, root, slope):
        return self.seen(root).along(slope)

    def hastened(self, root, off, rate, most):
        """Newton's step of log sd e_j, less what the closed form does of it, which is half of its slope.

        A row's slope is psi_j (Sigma^-1 (S - Sigma) Sigma^-1)_jj, and what its count tells 2 (x / (1 + x))^2, with x
        = rate_j psi_j. Without it psi_j crawled toward its edge: 1500 iterations on 1000 cells and 50 genes did not
        bring two of them there.
        """
        specific = self.parts(root @ root.T).specific
        inward = solve_triangular(root, jnp.eye(len(root)), lower=True)
        slope = specific * jnp.einsum("kj,kl,lj->j", inward, off, inward)
        told = 2 * (rate * specific / (1 + rate * specific)) ** 2 + 1e-12
        step = jnp.clip(slope * jnp.minimum(jnp.maximum(1 / told - 0.5, 0.0), most), -0.5, 0.5)
        return specific * jnp.expm1(2 * step)


class Seen(NamedTuple):
    """Directions of Sigma as they are seen from Sigma = I: of C^-1 d Sigma C^-T, with C^-1 = `inward` (p, p)."""

    inward: Array
    directions: Directions

    def turning(self) -> Array:
        """An orthonormal basis (p, q) of what is left of C's columns; zero where there is no axis."""
        columns = self.inward @ self.directions.turning
        length = jnp.sum(columns**2, axis=0)
        there = length > NO_AXIS
        return columns * jnp.where(there, 1 / jnp.sqrt(jnp.where(there, length, 1.0)), 0.0)

    def beside(self) -> Array:
        """The projection (p, p) onto what C's columns leave over."""
        turning = self.turning()
        return jnp.eye(len(turning)) - turning @ turning.T

    def own(self) -> tuple[Array, Array]:
        """Own vectors (p, m) beside C's columns, in units of their whole lengths (m,); zero at their edge."""
        whole = self.inward @ self.directions.own
        length = jnp.sqrt(jnp.sum(whole**2, axis=0))
        return self.beside() @ (whole / length) * self.directions.free, length

    def along(self, change: Array) -> Array:
        """The part of a symmetric matrix (p, p) along the directions."""
        beside, (own, length) = self.beside(), self.own()
        return change - beside @ change @ beside + (own * length**2 * self.numbers(change)) @ own.T

    def numbers(self, change: Array) -> Array:
        """By how much each own number (m,) moves in such a change (..., p, p); 0 at its edge."""
        own, length = self.own()
        gram = (own.T @ own) ** 2
        # a number that others do as well has as small a part in it as may be
        gram = gram + jnp.diag(jnp.where(self.directions.free, TIED**1.5, 1.0))
        moved = jnp.einsum("jm,...jk,km->...m", own, change, own, optimize=True)
        return jnp.linalg.solve(gram, moved[..., None])[..., 0] / length**2

    def known(self) -> Array:
        """Which own numbers (m,) a change of Sigma tells: those that are free, and not what others do as well."""
        return self.directions.free & (jnp.sum(self._combined()[0] ** 2, axis=1) > 1 - LOST**0.5)

    def independent(self) -> Array:
        """Combinations (m, r) of own vectors' squares that nothing else does: an orthonormal basis of what they do."""
        vectors, values = self._combined()
        return vectors * jnp.where(values > 0, 1 / jnp.sqrt(jnp.where(values > 0, values, 1.0)), 0.0)

    def _combined(self) -> tuple[Array, Array]:
        """Combinations that are kept (others zero), and how much they move."""
        own, _ = self.own()
        values, vectors = jnp.linalg.eigh((own.T @ own) ** 2)
        return vectors * (values > LOST), values * (values > LOST)

    def matrices(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Entries (a, b) of an orthonormal basis of all directions, symmetric matrices: (entries, K)."""
        turning, own = np.asarray(self.turning()), np.asarray(self.own()[0])
        turning = turning[:, np.any(turning != 0, axis=0)]
        q = turning.shape[1]
        others = np.linalg.svd(turning)[0][:, q:] if q else np.eye(len(turning))
        within, across = np.triu_indices(q), np.indices((q, others.shape[1])).reshape(2, -1)
        left = np.concatenate([turning[:, within[0]], turning[:, across[0]]], axis=1)
        right = np.concatenate([turning[:, within[1]], others[:, across[1]]], axis=1)
        both = (left[a] * right[b] + right[a] * left[b]) * np.where(
            np.all(left == right, axis=0), 0.5, 0.5**0.5
        )
        combined = np.asarray(self.independent())
        return np.concatenate([both, (own[a] * own[b]) @ combined[:, np.any(combined != 0, axis=0)]], axis=1)
