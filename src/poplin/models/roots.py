"""Square roots of a Sigma of some shape as free parameters: C with Sigma = C C', for methods that climb in (B, C).

Start at `FreeRoot`. Scales are on the log scale, so that no step leaves the set of covariances.
"""

import jax.numpy as jnp

from poplin._axes import Loadings
from poplin.models.loadings import AbstractLoadings


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
