"""How (B, C) of a factor form depend on what is free: all of C, the scales of a borrowed basis, or nothing.

Start at `AbstractLoadings`: `expand` goes from the free parameters to (B, C), `pull_back` takes gradients the
other way. Eigen-axes of a fitted C are in `principal_axes`.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

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
