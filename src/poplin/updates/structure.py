"""What is estimated of (B, C), and how it moves on the rows' statistic: stochastic-approximation M-steps.

Start at `AbstractStructure`. Every model is Z = XB + W C' with w ~ N(0, I): `direct.Direct` (C a square root of
Sigma, closed form from averaged statistics), `low_rank.LowRank` and `Borrowed` (Robbins-Monro with an averaged
Hessian).
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._axes import Coefficients, Counts, Covariance, Latent, Loadings, Scalar
from poplin._precision import solve_gram
from poplin.data.blocks import Block
from poplin.rows.chains import Chains, Frame
from poplin.rows.controls import Means, Shares, controlled
from poplin.updates.columns import (
    column_statistic,
    column_variances,
    expected_columns,
    moved_squares,
    newton_columns,
    newton_squares,
)

LOADING_SD = 10.0  # standard deviation of the weak prior of a loading: e^10 from one unit of w
LEVEL_SD = 2.5  # standard deviation over rows of XB under its weak prior: a factor of 12 (Gelman et al. 2008)
SCALE_SD = 3.0  # what a free Sigma's column has for standard deviation under its own: a factor of 20

FAINT = 1e-2  # share of complete data's information that counts are taken to tell at least
LOOKED = 1000  # columns that a stopping rule looks at, where Sigma is of low rank
FARTHEST = (
    0.8  # relative change of a variance, by one draw's moments, from which their controls are not trusted
)


class Model(NamedTuple):
    """Z = XB + W C': coef B (d, p), loadings C (p, q)."""

    coef: Coefficients
    loadings: Loadings


class Transport(NamedTuple):
    """How w is written under the next model when the latent itself stays where it is: w <- w turn + x shift."""

    turn: Array
    shift: Array


class Counting(NamedTuple):
    """Variances that are due to counting alone, if w were seen: of B (d, p) and of Sigma (p, p); zero where unknown."""

    coef: Coefficients
    sigma: Array


class Place(NamedTuple):
    """Where a fit stands, as far as distances are measured from there: X'X, N, and what counts say of each direction.

    agreed (d, p): of each column's variance in the rows of each covariate, the share that counts determine.
    """

    model: Model
    average: Any
    gram: Array
    rows: Scalar
    known: Shares
    agreed: Array


def looked_at(p: int) -> np.ndarray:
    """Numbers of the columns that stopping rules look at: all, or so many that p x p numbers are not too many."""
    return np.unique(np.linspace(0, p - 1, min(p, LOOKED)).astype(int))


def level_prior(level: Array | None, coef: Coefficients) -> tuple[Coefficients, Array]:
    """Slope in B (d, p) and curvature (d, d) of the weak prior B_j ~ N(0, level^-1); zero if there is none.

    It says next to nothing where a column was seen. The coefficient of a group in which it never was ends where a part
    of a count is expected there, not at minus infinity.
    """
    curvature = jnp.zeros((len(coef), len(coef))) if level is None else level
    return -curvature @ coef, curvature


def level_penalty(level: Array | None, coef: Coefficients) -> Scalar:
    """Minus the log of that prior, up to its constant."""
    return -0.5 * jnp.sum(coef * level_prior(level, coef)[0])


def sound(means: Means, rows: Scalar) -> Array:
    """May these moments serve? Those that would change a variance by a factor, or are none, show controls that miss."""
    near = jnp.abs(jnp.diagonal(means.second) / rows - 1) < FARTHEST
    covariance = jnp.all(jnp.isfinite(jnp.linalg.cholesky(means.second)))
    return covariance & jnp.all(near) & jnp.all(jnp.isfinite(means.cross))


class AbstractStructure(eqx.Module):
    """The free part of (B, C). `gamma` in (0, 1] is the weight of the newest statistic."""

    @abstractmethod
    def statistic(self, model: Model, w: Latent, rate: Counts, block: Block) -> Any:
        """The additive statistic of one draw of every row."""

    @abstractmethod
    def means(self, chains: Chains, centre: Latent, rate: Counts, block: Block, frame: Frame) -> Means | None:
        """What `quieter` needs beside a draw of every row (`rows/controls.py`), summed; None where it needs nothing."""

    @abstractmethod
    def quieter(
        self, model: Model, average: Any, total: Any, means: Means | None, frame: Frame
    ) -> tuple[Any, Any]:
        """The statistic of a draw from p(w | y) with less noise, by `means`; the average, which may learn of it.

        It may also keep what `means.known` tells, to lengthen steps where counts say little.
        """

    @abstractmethod
    def expected(self, model: Model, mean: Latent, covariance: Array, rate: Counts, block: Block) -> Any:
        """The same statistic in expectation under w_i ~ N(mean_i, covariance_i (q, q)), with mean rates `rate`."""

    @abstractmethod
    def penalty(self, model: Model, total: Any) -> Scalar:
        """Minus the log prior of the model, in nats, given a statistic."""

    @abstractmethod
    def penalty_at(self, model: Model) -> Scalar:
        """Minus the log prior of a model, in nats, weak ones too; shrinkage as if Sigma were the second moment."""

    @abstractmethod
    def begin(self, model: Model) -> Any:
        """The average that reproduces `model` (before any statistic is seen)."""

    @abstractmethod
    def advance(
        self, model: Model, average: Any, total: Any, *, gamma: Array, first: Array
    ) -> tuple[Model, Any, Transport]:
        """The next (model, average), and the rows' transport to it.

        The latent that the closed form is about (Z, or Lambda^(1/2) w) must not move with the parameters: a
        chain that did not mix yet would repeat the parameters' change, and Sigma would collapse.
        """

    @abstractmethod
    def score(self, model: Model, total: Any) -> Array:
        """The slope of the penalised log-likelihood as one draw of every row tells it (Fisher's identity), (k, m).

        Its mean over draws is zero at the optimum, and nowhere else but at stationary points.
        """

    @abstractmethod
    def left(self, at: Place, score: Array) -> Array:
        """Squares of how far the optimum is by Newton's step from this score, in standard errors: one a direction.

        The mean over the numbers that belong to a direction; standard errors are those of the counts, not of
        complete data.
        """

    @abstractmethod
    def apart(self, at: Place, one: tuple[Array, Array], other: tuple[Array, Array]) -> Array:
        """Squares of how far two `parameters` are apart, in the same units and by the same directions."""

    @abstractmethod
    def parameters(self, model: Model) -> tuple[Coefficients, Array]:
        """(B, what stands for Sigma): a pair whose mean over iterations is meaningful."""

    @abstractmethod
    def rebuild(self, parameters: tuple[Coefficients, Array]) -> Model:
        """The model with these (averaged) parameters."""

    @abstractmethod
    def meaning(self, parameters: tuple[Coefficients, Array]) -> tuple[Coefficients, Covariance]:
        """(B, Sigma) from such a pair; of the columns that `looked_at` lists, where there may be very many."""

    @abstractmethod
    def counting_variance(self, average: Any, model: Model) -> Counting:
        """The variances that are due to counting alone, of the same columns."""

    @abstractmethod
    def aligned(self, model: Model, reference: Model) -> Model:
        """The same model, rotated toward the reference where a rotation is free."""


class Borrowed(AbstractStructure):
    """C = V Lambda^(1/2): Lambda_k is the averaged mean of (Lambda_k^(1/2) w_k)^2.

    B, and the level of w, move as in `LowRank`.
    """

    basis: Loadings
    level: Array | None = None

    def statistic(self, model, w, rate, block):
        return column_statistic(block.x, w, rate, block)

    def means(self, chains, centre, rate, block, frame):
        return controlled(chains, centre, rate, block, frame)

    def quieter(self, model, average, total, means, frame):
        assert means is not None
        trusted = average[2] & sound(means, total.rows)
        quiet = total._replace(cross=means.cross, second=means.second)
        return jax.tree.map(lambda a, b: jnp.where(trusted, a, b), quiet, total), (*average[:2], trusted)

    def expected(self, model, mean, covariance, rate, block):
        return expected_columns(model.loadings, False, mean, covariance, rate, block)

    def penalty(self, model, total):
        return jnp.zeros(())

    def penalty_at(self, model):
        return level_penalty(self.level, model.coef)

    def begin(self, model):
        d, p = model.coef.shape
        return jnp.zeros((p, d, d)), jnp.sum(model.loadings**2, axis=0), jnp.asarray(True)

    def advance(self, model, average, total, *, gamma, first):
        hessian, variance, trusted = average
        hessian = hessian + jnp.where(first, 1.0, gamma) * (total.hessian - hessian)
        before = jnp.sum(model.loadings**2, axis=0)
        slope, curvature = level_prior(self.level, model.coef)
        level = solve_gram(total.gram, total.cross)
        spread = jnp.diagonal(total.second - level.T @ total.cross) / total.rows
        variance = variance + gamma * (before * spread - variance)
        coef = (
            model.coef
            + newton_columns(total.gradient + slope, hessian + curvature, gamma=gamma)
            + gamma * level @ model.loadings.T
        )
        # a dimension without scale has nothing to turn
        turn = jnp.diag(jnp.where(variance > 0, jnp.sqrt(before / variance), 1.0))
        return (
            Model(coef, self.basis * jnp.sqrt(variance)),
            (hessian, variance, trusted),
            Transport(turn, -gamma * level @ turn),
        )

    # of the columns alone: a scale near zero, where there is nothing to settle, has no distance in units of its own,
    # and Sigma is judged as a whole (`ml.MaximumLikelihood.average`)
    def score(self, model, total):
        return total.gradient + level_prior(self.level, model.coef)[0]

    def left(self, at, score):
        return newton_squares(self._curvature(at), score)

    def apart(self, at, one, other):
        return moved_squares(self._curvature(at), one[0] - other[0])

    def _curvature(self, at):
        """The columns' Hessians as far as the counts tell, and the prior's."""
        return jnp.mean(at.known.level) * at.average[0] + level_prior(self.level, at.model.coef)[1]

    def parameters(self, model):
        return model.coef, jnp.sum(model.loadings**2, axis=0)

    def rebuild(self, parameters):
        return Model(parameters[0], self.basis * jnp.sqrt(parameters[1]))

    def meaning(self, parameters):
        some = looked_at(len(self.basis))
        basis = self.basis[some]
        return parameters[0][:, some], (basis * parameters[1]) @ basis.T

    def counting_variance(self, average, model):
        some = looked_at(len(average[0]))
        return Counting(column_variances(average[0][some]), jnp.zeros((len(some), len(some))))

    def aligned(self, model, reference):
        return model
