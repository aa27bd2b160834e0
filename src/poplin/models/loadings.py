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
