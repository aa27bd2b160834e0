"""The evidence lower bound with diagonal Gaussians per row, in its two forms, as sums over rows.

Start at `AbstractBound`. `DirectBound` approximates Z itself and profiles B and Sigma out; `FactorBound`
approximates the factors w of Z = x'B + C w and keeps (B, C) among the unknowns. Both carry every constant.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from poplin._axes import Coefficients, Covariance, Scalar
from poplin._precision import solve_gram
from poplin.data.blocks import Block
from poplin.models.loadings import AbstractLoadings
from poplin.updates.covariance import AbstractShape, Profile


class AbstractBound(eqx.Module):
    """A bound in two sweeps: `measure` (rows), `value` (sum), then `slope` (rows), `shared_slope` (sum).

    Unknowns are pytrees: `shared`, and per row a pair (mean, log standard deviation), or nothing. To be maximised,
    in nats. What the gradient shares with the value is computed once: `measure` keeps it with the rows, or adds it up.
    """

    @abstractmethod
    def measure(self, shared: Any, unknown: Any, block: Block) -> tuple[Any, Any]:
        """What `slope` would compute of the rows again, and the sums that the value needs."""

    @abstractmethod
    def value(self, total: Any) -> tuple[Scalar, Any]:
        """The bound, and what else the sums say (handed to both slopes): what was profiled out, a gradient."""

    @abstractmethod
    def slope(self, shared: Any, profile: Any, unknown: Any, kept: Any, block: Block) -> tuple[Any, Any]:
        """Gradient in the rows' unknowns, and the sum that `shared_slope` turns into the shared gradient."""

    @abstractmethod
    def shared_slope(self, shared: Any, profile: Any, total: Any) -> Any:
        """Gradient in the shared unknowns."""


class DirectTotal(NamedTuple):
    """Sums of the direct form: N, X'X, X'M, M'M + diag(sum S), and the rest of the bound."""

    rows: Scalar
    gram: Array
    cross: Coefficients
    second: Covariance
    rest: Scalar


class DirectProfile(NamedTuple):
    """B = (X'X)^-1 X'M and the profiled Sigma."""

    coef: Coefficients
    profile: Profile


class DirectBound(AbstractBound):
    """Direct form, q(Z_i) = N(m_i, diag s_i^2), with B and Sigma at their best given (M, S).

    A_ij = exp(o_ij + m_ij + s_ij^2 / 2);
    sum_ij w_i [y_ij (o_ij + m_ij) - A_ij + log s_ij - log y_ij!] - N/2 [log det Sigma + tr(Sigma^-1 S) - p],
    S = (R'R + diag sum_i s_i^2) / N, R = M - XB. `coef` fixes B (rows of a fitted model); Sigma is then
    fixed by `Fixed`. Cost of a pass: n p exponentials and n p^2 for M'M. Source: Chiquet et al. (2019).
    """

    shape: AbstractShape
    coef: Coefficients | None = None

    def measure(self, shared, unknown, block):
        mean, log_sd = unknown
        variance = jnp.exp(2 * log_sd)
        predictor = block.offset + mean
        rest = jnp.sum(block.y * predictor - jnp.exp(predictor + 0.5 * variance) + log_sd, axis=1)
        weighted = block.weights[:, None] * mean
        return (), DirectTotal(
            rows=jnp.sum(block.weights),
            gram=block.x.T @ (block.weights[:, None] * block.x),
            cross=block.x.T @ weighted,
            second=mean.T @ weighted + jnp.diag(block.weights @ variance),
            rest=block.weights @ (rest - block.log_factorial),
        )

    def value(self, total):
        coef = solve_gram(total.gram, total.cross) if self.coef is None else self.coef
        fitted = coef.T @ total.cross
        second = (total.second - fitted - fitted.T + coef.T @ total.gram @ coef) / total.rows
        profile = self.shape.profile(0.5 * (second + second.T), total.rows)
        return total.rest + profile.value, DirectProfile(coef, profile)

    def slope(self, shared, profile, unknown, kept, block):
        mean, log_sd = unknown
        variance = jnp.exp(2 * log_sd)
        rate = jnp.exp(block.offset + mean + 0.5 * variance)
        pull = profile.profile.pull
        weights = block.weights[:, None]
        for_mean = weights * (block.y - rate - (mean - block.x @ profile.coef) @ pull)
        for_log_sd = weights * (1 - variance * (rate + jnp.diagonal(pull)))
        return (for_mean, for_log_sd), ()

    def shared_slope(self, shared, profile, total):
        return ()


class FactorBound(AbstractBound):
    """Factor form, q(w_i) = N(m_i, diag s_i^2), with (B, C) given by `loadings` from the shared unknowns.

    A_ij = exp(o_ij + x_i'B_j + c_j'm_i + sum_k c_jk^2 s_ik^2 / 2);
    sum_i w_i {sum_j [y_ij (o_ij + x_i'B_j + c_j'm_i) - A_ij - log y_ij!]
               - 1/2 [|m_i|^2 + |s_i|^2 - 2 sum_k log s_ik - q]}.
    The gradient needs the same A, and nothing of the sums: the first sweep has all of it. Cost: n p exponentials and 6
    products of n p q.
    """

    loadings: AbstractLoadings

    def rates(self, shared, unknown, block):
        """Linear predictor at the mean, and A."""
        mean, log_sd = unknown
        coef, loadings = self.loadings.expand(shared)
        # one product for both, of which the (n, p) result is not written twice
        predictor = block.offset + jnp.hstack([block.x, mean]) @ jnp.vstack([coef, loadings.T])
        return predictor, jnp.exp(predictor + 0.5 * jnp.exp(2 * log_sd) @ (loadings**2).T)

    def measure(self, shared, unknown, block):
        mean, log_sd = unknown
        coef, loadings = self.loadings.expand(shared)
        variance, weights, d = jnp.exp(2 * log_sd), block.weights[:, None], len(coef)
        predictor, rate = self.rates(shared, unknown, block)
        counts = jnp.sum(block.y * predictor - rate, axis=1)
        divergence = 0.5 * jnp.sum(mean**2 + variance - 2 * log_sd - 1, axis=1)
        value = block.weights @ (counts - divergence - block.log_factorial)
        residual = block.y - rate
        for_mean = weights * (residual @ loadings - mean)
        for_log_sd = weights * (1 - variance - variance * (rate @ loadings**2))
        cross = residual.T @ (weights * jnp.hstack([block.x, mean]))
        for_loadings = cross[:, d:] - (rate.T @ (weights * variance)) * loadings
        return (for_mean, for_log_sd), (value, (cross[:, :d].T, for_loadings))

    def value(self, total):
        return total

    def slope(self, shared, profile, unknown, kept, block):
        return kept, ()

    def shared_slope(self, shared, profile, total):
        return self.loadings.pull_back(shared, *profile)
