"""How the sites' covariances hang together: what is common, what is a site's own, and a step in both.

Start at `AbstractCommon`. Sigma_k = C_k C_k', and C_k is a function of a basis V with orthonormal columns, numbers of
the site, and, if there is a remainder, r columns that are the site's own altogether. From the narrowest to the widest:

equal           C_k = V diag(l)
proportional    C_k = V diag(l) s_k
common axes     C_k = V diag(l_k)               (Flury 1984, common principal components)
common subspace C_k = V L_k, L_k lower triangular, of which only V's span is common
unrelated       nothing is common; every site is by itself

With a remainder, C_k has the columns of U_k beside these. Steps are told in numbers without redundancy: V moves by V A
+ V' M, A antisymmetric and V' its complement, and comes back to orthonormal columns by the polar factor.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.linalg import null_space

Matrix = np.ndarray | Array
SWEEPS = 100  # of Jacobi's rotations


class Common(NamedTuple):
    """Where a model of several sites stands.

    basis: V (p, q); scale: the sites' numbers, in the shape of the structure; own: U (K, p, r), the sites' remainders;
    coef: coefficients that the sites share, (s, p); free: (m, q + r), what is added to single rows of single C_k, of
    codes that mean something else there; free_at: (m, 2), site and row of each.
    """

    basis: Matrix
    scale: Matrix
    own: Matrix
    coef: Matrix
    free: Matrix
    free_at: Matrix


class AbstractCommon(eqx.Module):
    """What of C_k is common to the sites. q columns of V, K sites."""

    rotates: eqx.AbstractClassVar[bool]  # whether axes within V's span are free

    @abstractmethod
    def begin(self, within: np.ndarray) -> np.ndarray:
        """The sites' numbers from V'Sigma_k V (K, q, q)."""

    @abstractmethod
    def mixing(self, scale: Matrix, site: Any) -> Array:
        """M (q, q) of C_k = V M."""


class Equal(AbstractCommon):
    """C_k = V diag(l): log l (q,)."""

    rotates: ClassVar[bool] = True

    def begin(self, within):
        return 0.5 * np.log(np.mean(_diagonals(within), axis=0))

    def mixing(self, scale, site):
        return jnp.diag(jnp.exp(scale))


class Proportional(AbstractCommon):
    """C_k = V diag(l) s_k, s_1 = 1: log l, then log s_k, (q + K - 1,)."""

    sites: int = eqx.field(static=True)
    rotates: ClassVar[bool] = True

    def begin(self, within):
        logs = 0.5 * np.log(_diagonals(within))
        size = np.mean(logs - logs[:1], axis=1)
        return np.concatenate([np.mean(logs - size[:, None], axis=0), size[1:]])

    def mixing(self, scale, site):
        q = len(scale) - (self.sites - 1)
        size = jnp.concatenate([jnp.zeros(1), scale[q:]])
        return jnp.diag(jnp.exp(scale[:q] + size[site]))


class CommonAxes(AbstractCommon):
    """C_k = V diag(l_k): log l (K, q)."""

    rotates: ClassVar[bool] = True

    def begin(self, within):
        return 0.5 * np.log(_diagonals(within))

    def mixing(self, scale, site):
        return jnp.diag(jnp.exp(scale[site]))


class CommonSubspace(AbstractCommon):
    """C_k = V L_k: the logs of L_k's diagonal and what is below it, (K, q (q + 1) / 2)."""

    rotates: ClassVar[bool] = False

    def begin(self, within):
        rows, columns = np.tril_indices(within.shape[1])
        lower = np.linalg.cholesky(_positive(within))[:, rows, columns]
        return np.where(rows == columns, np.log(np.where(rows == columns, lower, 1.0)), lower)

    def mixing(self, scale, site):
        q = int(np.sqrt(2 * scale.shape[1]))
        rows, columns = np.tril_indices(q)
        told = jnp.where(rows == columns, jnp.exp(jnp.where(rows == columns, scale[site], 0.0)), scale[site])
        return jnp.zeros((q, q), told.dtype).at[rows, columns].set(told)


def named(common: str, sites: int) -> AbstractCommon:
    """What of the sites' covariances is common, by its name."""
    made: dict[str, AbstractCommon] = {
        "equal": Equal(),
        "proportional": Proportional(sites),
        "axes": CommonAxes(),
        "subspace": CommonSubspace(),
    }
    return made[common]


def _diagonals(within: np.ndarray) -> np.ndarray:
    """Variances along V's columns (K, q), none of them nothing."""
    told = np.diagonal(within, axis1=1, axis2=2)
    return np.maximum(told, 1e-3 * np.mean(told))


def _positive(within: np.ndarray) -> np.ndarray:
    least = 1e-3 * np.trace(within, axis1=1, axis2=2).mean() / within.shape[1]
    values, vectors = np.linalg.eigh(within)
    return np.einsum("kab,kb,kcb->kac", vectors, np.maximum(values, least), vectors)


# Steps.


class Steps(eqx.Module):
    """Numbers of a step from a point: of V, of the sites' scales, of their remainders, of shared coefficients."""

    structure: AbstractCommon
    basis: Array
    outside: Array  # complement of V (p, p - q)
    scale: Array
    own: Array
    coef: Array
    free: Array
    free_at: Array

    def sizes(self) -> tuple[int, ...]:
        """How many numbers each part has; those of the scales follow those of V."""
        p, q = self.basis.shape
        rotations = q * (q - 1) // 2 if self.structure.rotates else 0
        return rotations + q * (p - q), self.scale.size, self.own.size, self.coef.size, self.free.size

    def _parts(self, step: Array) -> tuple[Array, ...]:
        return tuple(jnp.split(step, np.cumsum(self.sizes())[:-1]))

    def basis_moved(self, of_basis: Array) -> Array:
        """V + V A + V' M: orthonormal to first order."""
        q = self.basis.shape[1]
        rotations = len(of_basis) - self.outside.shape[1] * q
        turned = jnp.zeros((q, q), of_basis.dtype)
        if rotations:
            rows, columns = np.tril_indices(q, -1)
            turned = turned.at[rows, columns].set(of_basis[:rotations])
            turned = turned - turned.T
        away = self.outside @ of_basis[rotations:].reshape(self.outside.shape[1], q)
        return self.basis + self.basis @ turned + away

    def shortened(self, step: np.ndarray) -> np.ndarray:
        """The step, no longer than brings any number of the scales one further: they are logs, or in their units."""
        first, many = self.sizes()[:2]
        return step / max(1.0, float(np.max(np.abs(step[first : first + many]), initial=0.0)))

    def at(self, step: Array) -> Common:
        """Where a step leads, to first order in V."""
        of_basis, scale, own, coef, free = self._parts(step)
        return Common(
            self.basis_moved(of_basis),
            self.scale + scale.reshape(self.scale.shape),
            self.own + own.reshape(self.own.shape),
            self.coef + coef.reshape(self.coef.shape),
            self.free + free.reshape(self.free.shape),
            self.free_at,
        )

    def moved(self, step: np.ndarray) -> Common:
        """Where a step leads, V with orthonormal columns."""
        told = Common(*map(np.asarray, self.at(jnp.asarray(step))))
        left, _, right = np.linalg.svd(told.basis, full_matrices=False)
        return told._replace(basis=left @ right)


def steps_from(structure: AbstractCommon, here: Common) -> Steps:
    """The steps from a point."""
    return Steps(
        structure,
        *(jnp.asarray(a) for a in (here.basis, null_space(here.basis.T))),
        *map(jnp.asarray, here[1:]),
    )


def loadings_of(structure: AbstractCommon, here: Common, site: Any) -> Array:
    """C_k (p, q + r)."""
    whole = jnp.concatenate([here.basis @ structure.mixing(here.scale, site), here.own[site]], axis=1)
    at_site = jnp.asarray(here.free_at)[:, 0] == site
    return whole.at[jnp.asarray(here.free_at)[:, 1]].add(jnp.where(at_site[:, None], here.free, 0.0))


def point(basis: Matrix, scale: Matrix, own: Matrix, coef: Matrix) -> Common:
    """A point at which no row is free."""
    free = np.zeros((0, basis.shape[1] + own.shape[2]))
    return Common(basis, scale, own, coef, free, np.zeros((0, 2), int))


def with_free_row(here: Common, site: int, code: int) -> Common:
    """The same point, from which one row of one C_k may go its own way."""
    free = np.concatenate([here.free, np.zeros((1, np.shape(here.free)[1]))])
    return here._replace(free=free, free_at=np.concatenate([here.free_at, [[site, code]]]))


def degrees(structure: AbstractCommon, here: Common) -> int:
    """Free numbers of V, scales and remainders; what a rotation of a remainder's columns could do is none."""
    steps = steps_from(structure, here)
    r = here.own.shape[2]
    of_basis, scales, own, _, free = steps.sizes()
    return of_basis + scales + own + free - len(here.own) * r * (r - 1) // 2


def in_order(here: Common, common: str) -> Common:
    """Axes by their mean scale, largest first, the entry of largest size positive."""
    q = here.basis.shape[1]
    scale = here.scale if common == "axes" else here.scale[None, :q]
    order = np.argsort(-scale.mean(axis=0), kind="stable")
    basis = here.basis[:, order]
    largest = np.take_along_axis(basis, np.argmax(np.abs(basis), axis=0)[None, :], axis=0)
    scale = here.scale[..., order] if common != "proportional" else np.r_[here.scale[order], here.scale[q:]]
    signs = np.where(largest < 0, -1.0, 1.0)
    free = np.concatenate([here.free[:, order] * signs, here.free[:, q:]], axis=1)
    return here._replace(basis=basis * signs, scale=scale, free=free)


def between(one: Common, other: Common) -> Common:
    """Half way, V with orthonormal columns; rows that are free in `other` alone have been zero before."""
    new = len(other.free) - len(one.free)
    one = one._replace(free=np.concatenate([one.free, np.zeros((new, other.free.shape[1]))]))
    halves = (0.5 * (a + b) for a, b in zip(one[:5], other[:5], strict=True))
    mean = Common(*halves, free_at=other.free_at)
    left, _, right = np.linalg.svd(mean.basis, full_matrices=False)
    return mean._replace(basis=left @ right)


# Where to begin: the axes that nearly diagonalise all sites' covariances.


def simultaneous_axes(covariances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Orthogonal V (q, q) that makes all V'S_k V (K, q, q) as diagonal as can be, by Jacobi's rotations.

    The sum over sites of squares off the diagonal, weighted, falls with each rotation of two axes, whose best angle
    is closed (Cardoso & Souloumiac 1996, SIAM J. Matrix Anal. Appl. 17). O(K q^3) a sweep.
    """
    covariances = covariances * np.sqrt(weights / weights.sum())[:, None, None]
    q = covariances.shape[1]
    axes = np.linalg.eigh(covariances.sum(axis=0))[1][:, ::-1]
    covariances = axes.T @ covariances @ axes
    for _ in range(SWEEPS):
        widest = 0.0
        for a in range(q):
            for b in range(a + 1, q):
                apart = covariances[:, a, a] - covariances[:, b, b]
                beside = 2 * covariances[:, a, b]
                on, off = apart @ apart - beside @ beside, 2 * apart @ beside
                angle = 0.25 * np.arctan2(off, on)
                if abs(angle) < 1e-10:
                    continue
                widest = max(widest, abs(angle))
                turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                covariances[:, :, [a, b]] = covariances[:, :, [a, b]] @ turn
                covariances[:, [a, b]] = turn.T @ covariances[:, [a, b]]
                axes[:, [a, b]] = axes[:, [a, b]] @ turn
        if widest < 1e-10:
            break
    return axes
