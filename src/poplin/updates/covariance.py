"""What is free in Sigma, and its closed-form M-step: one final class per shape.

Start at `AbstractShape`. Each shape turns the mean second moment S (p x p) of N rows' residuals Z - XB into
Sigma. `Full(kappa)` shrinks: kappa pseudo-rows with the covariance diag(S).
"""

from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp

from poplin._axes import Covariance, Scalar
from poplin._precision import inverse_and_logdet


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

    def profile(self, second_moment: Covariance, rows: Scalar) -> Profile:
        """Sigma and -N/2 [log det Sigma + tr(Sigma^-1 S) - p], less the shape's penalty; O(p^3)."""
        covariance = self.estimate(second_moment, rows)
        precision, logdet = inverse_and_logdet(covariance)
        gap = jnp.sum(precision * second_moment) - covariance.shape[0]
        value = -0.5 * rows * (logdet + gap) - self.penalty(second_moment, precision, logdet)
        return Profile(
            covariance, precision, precision + self.extra_pull(second_moment, precision, rows), value
        )

    @abstractmethod
    def penalty(self, second_moment: Covariance, precision: Covariance, logdet: Scalar) -> Scalar:
        """Minus the log prior of Sigma, up to a constant, in nats."""

    @abstractmethod
    def extra_pull(self, second_moment: Covariance, precision: Covariance, rows: Scalar) -> Covariance:
        """-2/N times the derivative of -penalty in S at the profiled Sigma."""


class Full(AbstractShape):
    """Every entry free. Sigma = (N S + kappa T) / (N + kappa), T = diag(S).

    The penalty is kappa times the Kullback-Leibler divergence of N(0, Sigma) from N(0, T): zero for
    independent columns, free of the columns' scales, and without force on the variances themselves.
    """

    kappa: Scalar

    def estimate(self, second_moment, rows):
        diagonal = jnp.diag(jnp.diagonal(second_moment))
        return (rows * second_moment + self.kappa * diagonal) / (rows + self.kappa)

    def penalty(self, second_moment, precision, logdet):
        diagonal = jnp.diagonal(second_moment)
        trace = jnp.sum(jnp.diagonal(precision) * diagonal)
        return 0.5 * self.kappa * (logdet - jnp.sum(jnp.log(diagonal)) + trace - len(diagonal))

    def extra_pull(self, second_moment, precision, rows):
        return (self.kappa / rows) * jnp.diag(jnp.diagonal(precision) - 1 / jnp.diagonal(second_moment))


class AbstractUnpenalised(AbstractShape):
    """A shape without a prior."""

    def penalty(self, second_moment, precision, logdet):
        return jnp.zeros_like(logdet)

    def extra_pull(self, second_moment, precision, rows):
        return jnp.zeros_like(precision)


class Diagonal(AbstractUnpenalised):
    """Independent columns: Sigma = diag(S)."""

    def estimate(self, second_moment, rows):
        return jnp.diag(jnp.diagonal(second_moment))


class Spherical(AbstractUnpenalised):
    """One variance: Sigma = tr(S)/p I."""

    def estimate(self, second_moment, rows):
        return jnp.mean(jnp.diagonal(second_moment)) * jnp.eye(
            second_moment.shape[0], dtype=second_moment.dtype
        )


class Fixed(AbstractUnpenalised):
    """Sigma known from elsewhere."""

    covariance: Covariance

    def estimate(self, second_moment, rows):
        return self.covariance
