"""What is estimated of (B, C), and how it moves on the rows' statistic: stochastic-approximation M-steps.

Start at `AbstractStructure`. Every model is Z = XB + W C' with w ~ N(0, I): `direct.Direct` (C a square root of
Sigma, closed form from averaged statistics), `low_rank.LowRank` and `Borrowed` (Robbins-Monro with an averaged
Hessian).
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import cho_solve

from poplin._axes import Coefficients, Counts, Covariance, Latent, Loadings, Scalar
from poplin._numerics import inverse_and_logdet
from poplin.data.blocks import Block
from poplin.laws import Expected
from poplin.rows.chains import Chains, Frame, Means, Shares

# Every column is a regression on the rows' features: its gradient, Hessian and Newton step.
#
# Start at `column_statistic` (one draw of the latent) and `newton_columns`. Used where B or C has no closed form.


class ColumnStatistic(NamedTuple):
    """N, X'X, curvatures; each column's gradient (k, p) and Hessian (p, k, k) on its k features; X'W and W'W.

    known: what counts say of each direction, by which steps are lengthened, or None.
    """

    rows: Scalar
    gram: Array
    rate: Array
    gradient: Array
    hessian: Array
    cross: Array
    second: Array
    known: Shares | None = None


def column_statistic(
    features: Array, w: Latent, rate: Counts, curvature: Counts, block: Block
) -> ColumnStatistic:
    """Regression of every column on the features (n, k): F'(y - rate), sum_i h_ij f_i f_i', h the curvature.

    One product of n p k (k + 1) / 2: the pairs of features are formed once for all columns.
    """
    k = features.shape[1]
    upper = jnp.triu_indices(k)
    told = block.weights[:, None] * curvature
    pairs = told.T @ (features[:, upper[0]] * features[:, upper[1]])
    hessian = jnp.zeros((rate.shape[1], k, k), rate.dtype).at[:, upper[0], upper[1]].set(pairs)
    hessian = hessian + jnp.swapaxes(jnp.triu(hessian, 1), 1, 2)
    return ColumnStatistic(
        jnp.sum(block.weights),
        block.x.T @ (block.weights[:, None] * block.x),
        jnp.sum(told, axis=0),
        features.T @ (block.weights[:, None] * block.y - block.weights[:, None] * rate),
        hessian,
        block.x.T @ (block.weights[:, None] * w),
        w.T @ (block.weights[:, None] * w),
    )


def scale_regressions(residual: Counts, rate: Counts, curvature: Counts, block: Block) -> tuple[Array, Array]:
    """Each column's gradient (d + 1, p) and Hessian (p, d + 1, d + 1) in B_j and the log scale of its residual.

    Features (x, r_j): d eta / d B_lj = x_l, and d eta / d a_j = r_j for eta = o + XB + e^a r.
    """
    weighted_rate = block.weights[:, None] * rate
    surprise = block.weights[:, None] * block.y - weighted_rate
    gradient = jnp.concatenate([block.x.T @ surprise, jnp.sum(surprise * residual, axis=0)[None]])
    return gradient, squares(block.weights[:, None] * curvature, residual, block)


def squares(weight: Counts, residual: Counts, block: Block) -> Array:
    """Sums over rows of weight_ij f f', f = (x_i, r_ij) the features of column j (p, d + 1, d + 1)."""
    x, (n, d), p = block.x, block.x.shape, weight.shape[1]
    tilted = weight * residual
    within = ((x[:, :, None] * x[:, None, :]).reshape(n, d * d).T @ weight).T.reshape(p, d, d)
    between = (x.T @ tilted).T[:, :, None]
    scale = jnp.sum(tilted * residual, axis=0)[:, None, None]
    return jnp.block([[within, between], [jnp.swapaxes(between, 1, 2), scale]])


def expected_columns(
    loadings: Loadings, with_latent: bool, mean: Latent, covariance: Array, counted: Expected, block: Block
) -> ColumnStatistic:
    """`column_statistic` in expectation over w ~ N(m, S): E[rate w] = rate m + weight S c, curvature with m and S."""
    d = block.x.shape[1]
    features = jnp.concatenate([block.x, mean], axis=1) if with_latent else block.x
    total = column_statistic(features, mean, counted.rate, counted.weight, block)
    spread = jnp.tensordot(block.weights, covariance, 1)
    total = total._replace(second=total.second + spread)
    if not with_latent:
        return total
    weighted = block.weights[:, None] * counted.weight
    per_column = jnp.tensordot(weighted.T, covariance, 1)  # (p, q, q): sum_i w_i A_ij S_i
    tilt = jnp.einsum("pqr,pr->qp", per_column, loadings)
    return total._replace(
        gradient=total.gradient.at[d:].add(-tilt), hessian=total.hessian.at[:, d:, d:].add(per_column)
    )


def newton_columns(gradient: Array, hessian: Array, *, gamma: Array) -> Array:
    """Gamma H_j^-1 g_j for every column j, (k, p), no longer than one standard deviation of log rate on average."""
    scale = jnp.sqrt(jnp.diagonal(hessian, axis1=1, axis2=2)) + 1e-12
    # sums of single-precision draws are known to 1e-7 or so: a direction with less would have any sign
    unit = hessian / (scale[:, :, None] * scale[:, None, :]) + 1e-6 * jnp.eye(hessian.shape[1])
    step = jnp.linalg.solve(unit, (gradient.T / scale)[:, :, None])[:, :, 0]
    weight = jnp.trace(hessian, axis1=1, axis2=2) / hessian.shape[1] + 1e-12
    length = jnp.sqrt(jnp.maximum(jnp.einsum("jk,jkl,jl->j", step, unit, step), 0) / weight)
    return gamma * (step / scale / jnp.maximum(1.0, gamma * length)[:, None]).T


def column_inverses(hessian: Array) -> Array:
    """Inverses of (p, k, k) Hessians; where nothing is known, very large and finite."""
    scale = jnp.sqrt(jnp.diagonal(hessian, axis1=1, axis2=2)) + 1e-100
    outer = scale[:, :, None] * scale[:, None, :]
    return jnp.linalg.inv(hessian / outer + 1e-12 * jnp.eye(hessian.shape[1])) / outer


def column_variances(hessian: Array) -> Array:
    """Diagonals of the inverses of (p, k, k) Hessians, as (k, p)."""
    return jnp.diagonal(column_inverses(hessian), axis1=1, axis2=2).T


def newton_squares(hessian: Array, gradient: Array) -> Array:
    """g_j'H_j^-1 g_j / k of every column (p,): the square of Newton's step in standard errors, a number."""
    inverse = column_inverses(hessian)
    return jnp.einsum("kj,jkl,lj->j", gradient, inverse, gradient) / len(gradient)


def moved_squares(hessian: Array, moved: Array) -> Array:
    """The same of a step (k, p) itself: s_j'H_j s_j / k."""
    return jnp.einsum("kj,jkl,lj->j", moved, hessian, moved) / len(moved)


# What is free in Sigma, and its closed-form M-step: one final class per shape.
#
# Start at `AbstractShape`. Each shape turns the mean second moment S (p x p) of N rows' residuals Z - XB into Sigma.
# `Full(kappa)` shrinks: kappa pseudo-rows with the covariance diag(S).


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
    def nearest(self, moment: Covariance) -> Covariance:
        """The Sigma of this shape under which Gaussian rows with this second moment are likeliest."""

    @abstractmethod
    def scales(self) -> bool:
        """Whether D Sigma D has this shape for every diagonal D."""

    @abstractmethod
    def pseudo_rows(self) -> Scalar:
        """kappa, the weight in rows of the pull of Sigma toward T = diag(S); zero without a prior."""

    @abstractmethod
    def rescale(self, gradient: Array, hessian: Array, *, gamma: Scalar) -> Array:
        """Step (d + 1, p) in B and in the columns' log scales, as far as these are free in this shape.

        From each column's gradient (d + 1, p) and Hessian (p, d + 1, d + 1) in (B_j, log scale), see `Direct`.
        """

    @abstractmethod
    def held(self, moment: Covariance, weight: Scalar) -> Covariance:
        """`nearest` under the prior exp(-weight N tr Sigma / 2) too, N the moment's rows and pseudo-rows; O(p^3)."""

    @abstractmethod
    def along(self, root: Covariance, slope: Array) -> Array:
        """A slope in E (p, p), where Sigma is C (I + E) C', along the directions that this shape has; C is `root`."""

    @abstractmethod
    def hastened(self, root: Covariance, off: Array, rate: Array, most: Scalar) -> Array:
        """What more the variances of columns' own may move at a step (p,); zero where there are none.

        The closed form closes a small share of their gap where counts say little of them. Here are C, by how much the
        second moment of w is off from I (p, p), the columns' mean rates (p,), and how much longer a step may be.
        """

    def pulled(self, second_moment: Covariance, rows: Scalar) -> Covariance:
        """The mean second moment of `rows` (a sum of weights) residuals and of kappa pseudo-rows; O(p^2)."""
        kappa = self.pseudo_rows()
        diagonal = jnp.diag(jnp.diagonal(second_moment))
        return (rows * second_moment + kappa * diagonal) / (rows + kappa)

    def estimate(self, second_moment: Covariance, rows: Scalar) -> Covariance:
        """Sigma from the mean second moment of `rows` (a sum of weights) residuals."""
        return self.nearest(self.pulled(second_moment, rows))

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

    def nearest(self, moment):
        return moment

    def held(self, moment, weight):
        return held_by_trace(moment, weight)

    def along(self, root, slope):
        return slope

    def scales(self):
        return True

    def hastened(self, root, off, rate, most):
        return jnp.zeros(len(root))

    def pseudo_rows(self):
        return self.kappa

    def rescale(self, gradient, hessian, *, gamma):
        return newton_columns(gradient, hessian, gamma=gamma)


class Diagonal(AbstractShape):
    """Independent columns: Sigma = diag(S)."""

    def nearest(self, moment):
        return jnp.diag(jnp.diagonal(moment))

    def held(self, moment, weight):
        return held_by_trace(self.nearest(moment), weight)

    def along(self, root, slope):
        return jnp.diag(jnp.diagonal(slope))

    def scales(self):
        return True

    def hastened(self, root, off, rate, most):
        return jnp.zeros(len(root))

    def pseudo_rows(self):
        return jnp.zeros(())

    def rescale(self, gradient, hessian, *, gamma):
        return newton_columns(gradient, hessian, gamma=gamma)


class Spherical(AbstractShape):
    """One variance: Sigma = tr(S)/p I."""

    def nearest(self, moment):
        size = moment.shape[0]
        return jnp.trace(moment) / size * jnp.eye(size, dtype=moment.dtype)

    def held(self, moment, weight):
        return held_by_trace(self.nearest(moment), weight)

    def along(self, root, slope):
        return self.nearest(slope)

    def scales(self):
        return False

    def hastened(self, root, off, rate, most):
        return jnp.zeros(len(root))

    def pseudo_rows(self):
        return jnp.zeros(())

    def rescale(self, gradient, hessian, *, gamma):
        level = newton_columns(gradient[:-1], hessian[:, :-1, :-1], gamma=gamma)
        together = jnp.sum(gradient[-1]) / jnp.maximum(jnp.sum(hessian[:, -1, -1]), 1e-12)
        return jnp.concatenate([level, jnp.full_like(level[:1], gamma * jnp.clip(together, -1, 1))])


class Fixed(AbstractShape):
    """Sigma known from elsewhere."""

    covariance: Covariance

    def nearest(self, moment):
        return self.covariance

    def held(self, moment, weight):
        return self.covariance

    def along(self, root, slope):
        return jnp.zeros_like(slope)

    def scales(self):
        return False

    def hastened(self, root, off, rate, most):
        return jnp.zeros(len(root))

    def pseudo_rows(self):
        return jnp.zeros(())

    def rescale(self, gradient, hessian, *, gamma):
        level = newton_columns(gradient[:-1], hessian[:, :-1, :-1], gamma=gamma)
        return jnp.concatenate([level, jnp.zeros_like(level[:1])])


LOADING_SD = 10.0  # standard deviation of the weak prior of a loading: e^10 from one unit of w
LEVEL_SD = 2.5  # standard deviation over rows of XB under its weak prior: a factor of 12 (Gelman et al. 2008)
LEAST_SD = 0.01  # weak prior of a column's standard deviation at its lower end; the least of its own part
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
        """What `quieter` needs beside a draw of every row (`rows/chains.py`), summed; None where it needs nothing."""

    @abstractmethod
    def quieter(
        self, model: Model, average: Any, total: Any, means: Means | None, frame: Frame
    ) -> tuple[Any, Any]:
        """The statistic of a draw from p(w | y) with less noise, by `means`; the average, which may learn of it.

        It may also keep what `means.known` tells, to lengthen steps where counts say little.
        """

    @abstractmethod
    def expected(self, model: Model, mean: Latent, covariance: Array, counted: Expected, block: Block) -> Any:
        """The same statistic in expectation under w_i ~ N(mean_i, covariance_i (q, q)); `counted` is the law's."""

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
    def scales(self) -> bool:
        """Whether every column's Z - XB has a scale of its own, free of the others'."""

    @abstractmethod
    def rescaled(self, model: Model, average: Any, total: Any, log_scale: Array) -> tuple[Model, Any]:
        """The model and the average where the columns' Z - XB are longer by these logs (p,), and w stays."""

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
