"""How (B, C) of a factor form depend on what is free: all of C, the scales of a borrowed basis, or nothing.

Start at `AbstractLoadings`: `expand` goes from the free parameters to (B, C), `pull_back` takes gradients the
other way. Eigen-axes of a fitted C are in `principal_axes`, the directions in which it can move in `Outward`.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._axes import Coefficients, Loadings


class AbstractLoadings(eqx.Module):
    """The free parameters of a factor form Z = x'B + C w."""

    @abstractmethod
    def collapse(self, coef: Coefficients, loadings: Loadings) -> Any:
        """Free parameters nearest to (B, C): the inverse of `expand` where it has one."""

    @abstractmethod
    def expand(self, shared: Any) -> tuple[Coefficients, Loadings]:
        """(B, C) from the free parameters."""

    @abstractmethod
    def pull_back(self, shared: Any, for_coef: Coefficients, for_loadings: Loadings) -> Any:
        """Gradient in the free parameters from the gradients in B and C."""

    @abstractmethod
    def curvature(self, for_coef: Coefficients, for_loadings: Loadings) -> Any:
        """A diagonal of curvatures in the free parameters from those in B and C."""


class FreeLoadings(AbstractLoadings):
    """Low rank: B and all of C (p x q) are free; C is identified up to rotation."""

    def collapse(self, coef, loadings):
        return coef, loadings

    def expand(self, shared):
        return shared

    def pull_back(self, shared, for_coef, for_loadings):
        return for_coef, for_loadings

    def curvature(self, for_coef, for_loadings):
        return for_coef, for_loadings


class BorrowedBasis(AbstractLoadings):
    """C = V diag(l), l = Lambda^(1/2): V (p x q, orthonormal) comes from elsewhere, B and l are free."""

    basis: Loadings

    def collapse(self, coef, loadings):
        return coef, jnp.sqrt(jnp.sum((self.basis.T @ loadings) ** 2, axis=1))

    def expand(self, shared):
        coef, scale = shared
        return coef, self.basis * scale

    def pull_back(self, shared, for_coef, for_loadings):
        return for_coef, jnp.sum(self.basis * for_loadings, axis=0)

    def curvature(self, for_coef, for_loadings):
        return for_coef, jnp.sum(self.basis**2 * for_loadings, axis=0)


class FrozenLoadings(AbstractLoadings):
    """Nothing is free: (B, C) of a fitted model, under which new rows find their position."""

    coef: Coefficients
    loadings: Loadings

    def collapse(self, coef, loadings):
        return ()

    def expand(self, shared):
        return self.coef, self.loadings

    def pull_back(self, shared, for_coef, for_loadings):
        return ()

    def curvature(self, for_coef, for_loadings):
        return ()


def principal_axes(loadings: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """C = U diag(sqrt(lambda)) R': axes U (p, q), eigenvalues lambda (descending) and the rotation R (q, q).

    U's signs are fixed so that each axis's entry of largest size is positive (the first of those that are as large
    but for rounding: an antisymmetric axis has two); w in these axes is R'w.
    """
    axes, singular, rotation = np.linalg.svd(np.asarray(loadings, dtype=float), full_matrices=False)
    size = np.abs(axes)
    first = np.argmax(size > (1 - 1e-5) * np.max(size, axis=0), axis=0)
    largest = np.take_along_axis(axes, first[None, :], axis=0)
    sign = np.where(largest < 0, -1.0, 1.0)
    return axes * sign, singular**2, rotation.T * sign


# Square roots of a Sigma of some shape as free parameters: C with Sigma = C C', for methods that climb in (B, C).
#
# Start at `FreeRoot`. Scales are on the log scale, so that no step leaves the set of covariances.


class FreeRoot(AbstractLoadings):
    """Every entry of Sigma: C lower triangular; free are B, the logs of C's diagonal (p,), what is below it (p, p)."""

    def collapse(self, coef, loadings):
        return coef, jnp.log(jnp.diagonal(loadings)), jnp.tril(loadings, -1)

    def expand(self, shared):
        coef, log_diagonal, below = shared
        return coef, jnp.diag(jnp.exp(log_diagonal)) + jnp.tril(below, -1)

    def pull_back(self, shared, for_coef, for_loadings):
        return for_coef, jnp.exp(shared[1]) * jnp.diagonal(for_loadings), jnp.tril(for_loadings, -1)

    def curvature(self, for_coef, for_loadings):
        return for_coef, jnp.diagonal(for_loadings), for_loadings


class DiagonalRoot(AbstractLoadings):
    """Sigma = diag(exp(2 a)): free are B and a (p,)."""

    def collapse(self, coef, loadings):
        return coef, 0.5 * jnp.log(jnp.sum(loadings**2, axis=1))

    def expand(self, shared):
        return shared[0], jnp.diag(jnp.exp(shared[1]))

    def pull_back(self, shared, for_coef, for_loadings):
        return for_coef, jnp.exp(shared[1]) * jnp.diagonal(for_loadings)

    def curvature(self, for_coef, for_loadings):
        return for_coef, jnp.diagonal(for_loadings)


class SphericalRoot(AbstractLoadings):
    """Sigma = exp(2 a) I: free are B and the number a."""

    def collapse(self, coef, loadings):
        return coef, 0.5 * jnp.log(jnp.sum(loadings**2) / len(loadings))

    def expand(self, shared):
        coef, log_scale = shared
        return coef, jnp.exp(log_scale) * jnp.eye(coef.shape[1])

    def pull_back(self, shared, for_coef, for_loadings):
        return for_coef, jnp.exp(shared[1]) * jnp.trace(for_loadings)

    def curvature(self, for_coef, for_loadings):
        return for_coef, jnp.trace(for_loadings)


class KnownRoot(AbstractLoadings):
    """Sigma known from elsewhere: only B is free."""

    loadings: Loadings

    def collapse(self, coef, loadings):
        return (coef,)

    def expand(self, shared):
        return shared[0], self.loadings

    def pull_back(self, shared, for_coef, for_loadings):
        return (for_coef,)

    def curvature(self, for_coef, for_loadings):
        return (for_coef,)


class Outward(eqx.Module):
    """R = (C, complement of C), p directions in which columns move, by some p q numbers in the place of p^2.

    With s (p,) the roots of mean rates, q Householder reflections Q = I - V T V' make s C = Q (U; 0), and what they
    leave over, divided by s, is the complement: R = s^-1 Q diag(U, I). A product with it takes p q. Of a square C
    nothing is left over: Q = I, s = 1, U = C. Source: Schreiber & Van Loan (1989), on storing such products.
    """

    root: Array
    vectors: Array
    mixing: Array
    inside: Array
    undone: Array

    def gradients(self, by_column: Array) -> Array:
        """G R: what gradients in the columns, G (..., p), are along each direction."""
        return self._first(self._turned(by_column / self.root, self.mixing), self.inside)

    def by_column(self, gradients: Array) -> Array:
        """G from G R, (..., p)."""
        return self._turned(self._first(gradients, self.undone), self.mixing.T) * self.root

    def moves(self, numbers: Array) -> Array:
        """M R': how the columns move along numbers M (..., p)."""
        return self._turned(self._first(numbers, self.inside.T), self.mixing.T) / self.root

    def numbers(self, moves: Array) -> Array:
        """M from M R', (..., p)."""
        return self._first(self._turned(moves * self.root, self.mixing), self.undone.T)

    def _first(self, a: Array, factor: Array) -> Array:
        return jnp.concatenate([a[..., : len(factor)] @ factor, a[..., len(factor) :]], axis=-1)

    def _turned(self, a: Array, mixing: Array) -> Array:
        return a - ((a @ self.vectors) @ mixing) @ self.vectors.T


def outward(loadings: np.ndarray, root: np.ndarray, turn: np.ndarray) -> Outward:
    """R of C turn, with s = `root`; p q^2."""
    p, q = loadings.shape
    if p == q:
        root, upper, vectors, mixing = np.ones(p), loadings, np.zeros((p, 0)), np.zeros((0, 0))
    else:
        packed, scale = np.linalg.qr(root[:, None] * loadings, mode="raw")
        there = scale > 0  # of a column that is zero already nothing is reflected
        vectors = (np.tril(packed.T, -1) + np.eye(p, q)) * there
        mixing = np.linalg.inv(np.triu(vectors.T @ vectors, 1) + np.diag(1 / np.where(there, scale, 1.0)))
        upper = np.triu(packed.T[:q])
    inside = upper @ turn
    return Outward(*(jnp.asarray(a) for a in (root, vectors, mixing, inside, np.linalg.pinv(inside))))
