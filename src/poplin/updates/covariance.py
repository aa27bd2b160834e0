"""What is free in Sigma, and its closed-form M-step: one final class per shape.

Start at `AbstractShape`. Each shape turns the mean second moment S (p x p) of N rows' residuals Z - XB into
Sigma. `Full(kappa)` shrinks: kappa pseudo-rows with the covariance diag(S).
"""

from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve

from poplin._axes import Covariance, Scalar
from poplin._precision import inverse_and_logdet
from poplin.updates.columns import newton_columns

TO_ROOT = 4  # Newton steps: to 1e-5 of a root where the prior takes two thirds of an eigenvalue


class Profile(NamedTuple):
    """Sigma profiled out of an objective, at the second moment S of N rows.

    `value` = max over Sigma of -N/2 [log det Sigma + tr(Sigma^-1 S) - p] - penalty; `pull` is -2/N times its
    derivative in S, the matrix that takes the place of Sigma^-1 in the rows' gradients (equal to it
    unshrunk).
    """

    covariance: Covariance
    precision: Covariance
    pull: Covariance
    value: Scalar


class AbstractShape(eqx.Module):
    """A covariance shape: `estimate` is the M-step, `profile` the same with the value of the objective."""

    @abstractmethod
    def estimate(self, second_moment: Covariance, rows: Scalar) -> Covariance:
        """Sigma from the mean second moment of `rows` (a sum of weights) residuals; O(p^2)."""

    @abstractmethod
    def pseudo_rows(self) -> Scalar:
        """kappa, the weight in rows of the pull of Sigma toward T = diag(S); zero without a prior."""

    @abstractmethod
    def rescale(self, gradient: Array, hessian: Array, *, gamma: Scalar) -> Array:
        """Step (d + 1, p) in B and in the columns' log scales, as far as these are free in this shape.

        From each column's gradient (d + 1, p) and Hessian (p, d + 1, d + 1) in (B_j, log scale), see `Direct`.
        """

    @abstractmethod
    def held(self, estimate: Covariance, weight: Scalar) -> Covariance:
        """Sigma under the prior exp(-weight N tr Sigma / 2) too, N the estimate's rows and pseudo-rows; O(p^3)."""

    def profile(self, second_moment: Covariance, rows: Scalar) -> Profile:
        """Sigma and -N/2 [log det Sigma + tr(Sigma^-1 S) - p], less the penalty; O(p^3)."""
        covariance = self.estimate(second_moment, rows)
        precision, logdet = inverse_and_logdet(covariance)
        gap = jnp.sum(precision * second_moment) - covariance.shape[0]
        value = -0.5 * rows * (logdet + gap) - self.penalty(second_moment, precision, logdet)
        pull = jnp.diag(jnp.diagonal(precision) - 1 / jnp.diagonal(second_moment))
        return Profile(covariance, precision, precision + self.pseudo_rows() / rows * pull, value)

    def penalty(self, second_moment: Covariance, precision: Covariance, logdet: Scalar) -> Scalar:
        """Penalty kappa KL(N(0, T) || N(0, Sigma)), T = diag(S): minus the log prior of Sigma, in nats.

        Zero for independent columns, free of the columns' scales, without force on the variances themselves.
        """
        diagonal = jnp.diagonal(second_moment)
        trace = jnp.sum(jnp.diagonal(precision) * diagonal)
        return 0.5 * self.pseudo_rows() * (logdet - jnp.sum(jnp.log(diagonal)) + trace - len(diagonal))


def held_by_trace(estimate: Covariance, weight: Scalar) -> Covariance:
    """The Sigma that solves Sigma + weight Sigma^2 = E, with E's axes: each eigenvalue by Newton's steps from above."""
    one = jnp.eye(len(estimate), dtype=estimate.dtype)
    sigma = estimate
    for _ in range(TO_ROOT):
        slope = jnp.linalg.cholesky(one + 2 * weight * sigma)
        sigma = cho_solve((slope, True), estimate + weight * sigma @ sigma)
        sigma = 0.5 * (sigma + sigma.T)
    return sigma


class Full(AbstractShape):
    """Every entry free: Sigma = (N S + kappa T) / (N + kappa), T = diag(S)."""

    kappa: Scalar

    def estimate(self, second_moment, rows):
        diagonal = jnp.diag(jnp.diagonal(second_moment))
        return (rows * second_moment + self.kappa * diagonal) / (rows + self.kappa)

    def held(self, estimate, weight):
        return held_by_trace(estimate, weight)

    def pseudo_rows(self):
        return self.kappa

    def rescale(self, gradient, hessian, *, gamma):
        return newton_columns(gradient, hessian, gamma=gamma)


class Diagonal(AbstractShape):
    """Independent columns: Sigma = diag(S)."""

    def estimate(self, second_moment, rows):
        return jnp.diag(jnp.diagonal(second_moment))

    def held(self, estimate, weight):
        return held_by_trace(estimate, weight)

    def pseudo_rows(self):
        return jnp.zeros(())

    def rescale(self, gradient, hessian, *, gamma):
        return newton_columns(gradient, hessian, gamma=gamma)


class Spherical(AbstractShape):
    """One variance: Sigma = tr(S)/p I."""

    def estimate(self, second_moment, rows):
        size = second_moment.shape[0]
        return jnp.trace(second_moment) / size * jnp.eye(size, dtype=second_moment.dtype)

    def held(self, estimate, weight):
        return held_by_trace(estimate, weight)

    def pseudo_rows(self):
        return jnp.zeros(())

    def rescale(self, gradient, hessian, *, gamma):
        level = newton_columns(gradient[:-1], hessian[:, :-1, :-1], gamma=gamma)
        together = jnp.sum(gradient[-1]) / jnp.maximum(jnp.sum(hessian[:, -1, -1]), 1e-12)
        return jnp.concatenate([level, jnp.full_like(level[:1], gamma * jnp.clip(together, -1, 1))])


class Fixed(AbstractShape):
    """Sigma known from elsewhere."""

    covariance: Covariance

    def estimate(self, second_moment, rows):
        return self.covariance

    def held(self, estimate, weight):
        return estimate

    def pseudo_rows(self):
        return jnp.zeros(())

    def rescale(self, gradient, hessian, *, gamma):
        level = newton_columns(gradient[:-1], hessian[:, :-1, :-1], gamma=gamma)
        return jnp.concatenate([level, jnp.zeros_like(level[:1])])
