"""The M-steps of factor forms: of free loadings, and of the scales of a given basis.

Start at `LowRank`, in which every column is a regression on the covariates and on the latent, and at `Borrowed`.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import block_diag, solve_triangular

from poplin._axes import Loadings
from poplin._numerics import solve_gram
from poplin.rows.chains import Shares, controlled, controlled_columns, shares
from poplin.updates.convergence import LEAP, RECENT, lengthened, noise_after, one_by_one
from poplin.updates.structure import (
    FAINT,
    LOADING_SD,
    AbstractStructure,
    Counting,
    Model,
    Place,
    Transport,
    column_inverses,
    column_statistic,
    column_variances,
    expected_columns,
    level_penalty,
    level_prior,
    looked_at,
    moved_squares,
    newton_columns,
    newton_squares,
    sound,
)

WARM = 0.4  # gamma while it is constant, on a table with rows enough
NEXT_TO_NOTHING = 1e-6  # share of what complete data tell of a variance that counts tell at least
COUNTS = 10.0  # a column seen less often than so many times for each of its parameters makes shorter steps


class Average(NamedTuple):
    """The columns' Hessians (p, k, k), whether controls are trusted, the noise of a draw's second moments."""

    hessian: Array
    trusted: Array
    noise: Array


class LowRank(AbstractStructure):
    """Free B and C: theta_j += gamma Hbar_j^-1 g_j with this draw's gradient (Gu & Kong 1998).

    The prior of w is expanded to N(x'a, G) and absorbed, B <- B + a C', C <- C G^(1/2), with weight gamma
    (parameter expansion; Liu, Rubin & Wu 1998): level and scale, which the columns' regressions hardly
    move, follow at once. A column seen in few rows may have its maximum at infinity: the weak prior
    c_jk ~ N(0, 10^2) keeps it finite. `active` (q,) or a number: a dimension of 0 that begins without loadings
    stays without, so that lower ranks are fitted in the shapes, and with the draws, of a higher one. `level`
    (d, d): see `level_prior`.

    Of draws the gradient is made quieter by control variates, loadings move further along axes of w that counts say
    little of (`convergence.py`), and a column that so few counts tell of makes shorter steps: its random walk would
    otherwise leave the region in which a Newton step means anything.
    """

    active: Array = eqx.field(converter=jnp.asarray, default=1.0)
    level: Array | None = None

    def statistic(self, model, w, rate, block):
        features, told = jnp.concatenate([block.x, w], axis=1), block.law.curvature(rate, block.y)
        return column_statistic(features, w, rate, told, block)

    def means(self, chains, centre, rate, block, frame):
        return controlled_columns(chains, centre, rate, block, frame)

    def quieter(self, model, average, total, means, frame):
        assert means is not None and means.gradient is not None
        trusted = average.trusted & sound(means, total.rows) & jnp.all(jnp.isfinite(means.gradient))
        quiet = total._replace(cross=means.cross, second=means.second, gradient=means.gradient)
        chosen = jax.tree.map(lambda a, b: jnp.where(trusted, a, b), quiet, total)
        return chosen._replace(known=shares(means.known, frame)), average._replace(trusted=trusted)

    def expected(self, model, mean, covariance, counted, block):
        return expected_columns(model.loadings, True, mean, covariance, counted, block)

    def penalty(self, model, total):
        return 0.5 * jnp.sum((model.loadings / LOADING_SD) ** 2)

    def penalty_at(self, model):
        return level_penalty(self.level, model.coef) + self.penalty(model, None)

    def begin(self, model):
        k = model.coef.shape[0] + model.loadings.shape[1]
        return Average(jnp.zeros((model.coef.shape[1], k, k)), jnp.asarray(True), jnp.ones(()))

    def advance(self, model, average, total, *, gamma, first):
        d, q = model.coef.shape[0], model.loadings.shape[1]
        hessian = average.hessian + jnp.where(first, 1.0, gamma) * (total.hessian - average.hessian)
        slope, _ = level_prior(self.level, model.coef)
        gradient = total.gradient + jnp.concatenate([slope, -model.loadings.T / LOADING_SD**2])
        free = self._free(d, q)
        step = newton_columns(gradient * free[:, None], self._curvature(hessian, model), gamma=gamma)
        level = solve_gram(total.gram, total.cross)
        spread = (total.second - level.T @ total.cross) / total.rows
        expansion = jnp.linalg.cholesky((1 - gamma) * jnp.eye(q) + gamma * spread)
        turn = solve_triangular(expansion, jnp.eye(q), lower=True).T
        noise, further = average.noise, jnp.zeros((q, len(model.loadings)))
        if total.known is not None:  # draws, not expectations
            # as short as while gamma is constant, no shorter: as gamma falls such columns would be left behind
            gain = _gain(total.rate * total.known.draws / total.rows, d + q)
            step = step * jnp.minimum(1.0, gain * jnp.maximum(1.0, WARM / gamma))
            weight = jnp.where(first, 0.0, gamma)
            further, noise = self._further(average, total, spread, step[d:], gamma=weight)
        coef = model.coef + step[:d] + gamma * level @ model.loadings.T
        loadings = (model.loadings + (step[d:] + further).T) @ expansion
        average = average._replace(hessian=hessian, noise=noise)
        return Model(coef, loadings), average, Transport(turn, -gamma * level @ turn)

    def _further(self, average, total, spread, step, *, gamma):
        """By how much more loadings (q, p) move where counts say little of w; the noise of draws so far.

        A column's own regression closes 1 - pi_k of its gap along axis k of w, the share of the level.
        """
        axes = total.known.axes
        noise = noise_after(average.noise, total.known, spread - jnp.eye(len(spread)))
        factors, _ = lengthened(total.known, average.noise, jnp.maximum(gamma, 1e-12))
        further = axes @ (factors[:, None] * (axes.T @ step))
        length = jnp.sqrt(jnp.sum(further**2, axis=0))
        further = further * jnp.minimum(1.0, LEAP / (length + 1e-300))
        return jnp.where(gamma > 0, further, 0.0), jnp.where(gamma > 0, noise, average.noise)

    def _free(self, d, q):
        return jnp.ones(d + q).at[d:].set(self.active)

    def _curvature(self, hessian, model):
        """The columns' Hessians with those of the weak priors, zero where a dimension is not active."""
        d, q = model.coef.shape[0], model.loadings.shape[1]
        _, precision = level_prior(self.level, model.coef)
        free = self._free(d, q)
        return (hessian + block_diag(precision, jnp.eye(q) / LOADING_SD**2)) * (free[:, None] * free)

    def scales(self):
        return False

    def rescaled(self, model, average, total, log_scale):
        return model, average

    def score(self, model, total):
        slope, _ = level_prior(self.level, model.coef)
        prior = jnp.concatenate([slope, -model.loadings.T / LOADING_SD**2])
        return (total.gradient + prior) * self._free(len(model.coef), model.loadings.shape[1])[:, None]

    def left(self, at, score):
        return newton_squares(self._told(at), score)

    def apart(self, at, one, other):
        moved = jnp.concatenate([one[0] - other[0], (one[1] - other[1]).T])
        return moved_squares(self._precision(at), moved)

    def _precision(self, at):
        """One over the squared standard errors of a column's (B_j, c_j), (p, k, k): neither part can be beaten.

        Given w a column is known by its own counts. What columns move in common, the level of w and C (I + E / 2), is
        known by the rows' w alone, E_kl to a variance (1 + [k = l]) / N, more as counts say less of these axes.
        """
        axes, root = at.known.axes, at.model.loadings @ at.known.axes
        variance = 1 / (at.rows * jnp.maximum(at.known.second, FAINT))
        each = jax.vmap(jnp.diag)(root**2 @ variance)
        both = root[:, :, None] * root[:, None, :] * variance
        by_rows = jax.vmap(block_diag)(_level_by_rows(at), 0.25 * axes @ (each + both) @ axes.T)
        return column_inverses(column_inverses(self._curvature(at.average.hessian, at.model)) + by_rows)

    def _told(self, at):
        """The columns' Hessians as far as counts tell of w, and the priors'."""
        d = len(at.model.coef)
        axes, level = at.known.axes, jnp.maximum(at.known.level, FAINT)
        root = block_diag(
            jnp.sqrt(jnp.mean(level)) * jnp.eye(d), (axes * jnp.sqrt(level)) @ jnp.linalg.inv(axes)
        )
        return self._curvature(root @ at.average.hessian @ root.T, at.model)

    def parameters(self, model):
        return model.coef, model.loadings

    def rebuild(self, parameters):
        return Model(*parameters)

    def meaning(self, parameters):
        some = looked_at(len(parameters[1]))
        return parameters[0][:, some], parameters[1][some] @ parameters[1][some].T

    def counting_variance(self, average, model):
        d, some = len(model.coef), looked_at(len(model.loadings))
        inverse, c = column_inverses(self._curvature(average.hessian[some], model)), model.loadings[some]
        # d Sigma_jk = c_k . d c_j + c_j . d c_k
        along = jnp.einsum("jkl,ik,il->ji", inverse[:, d:, d:], c, c)
        return Counting(jnp.diagonal(inverse, axis1=1, axis2=2).T[:d], along + along.T)

    def aligned(self, model, reference):
        left, _, right = jnp.linalg.svd(model.loadings.T @ reference.loadings)
        return Model(model.coef, model.loadings @ (left @ right))


def _level_by_rows(at: Place) -> Array:
    """What the rows' w leave of B_j (p, d, d): sum_k c_jk^2 (X'X)^-1, more along axes k that counts say little of."""
    share = jnp.sqrt(jnp.maximum(at.known.covariates, FAINT)).T
    along = jnp.linalg.inv(share[:, :, None] * at.gram * share[:, None, :])
    return jnp.einsum("jk,kde->jde", (at.model.loadings @ at.known.axes) ** 2, along)


def _gain(counts: Array, k: int) -> Array:
    """Share of its step that a column makes which was seen so often (p,), and has k parameters."""
    return jnp.minimum(1.0, counts / (COUNTS * k))


# Loadings of a given basis, of which only the scales are free.
#
# Start at `Borrowed`.


class Scales(NamedTuple):
    """The columns' Hessians (p, d, d), whether controls are trusted, the noise of a draw's second moments."""

    hessian: Array
    trusted: Array
    noise: Array


class Borrowed(AbstractStructure):
    """C = V Lambda^(1/2): Lambda_k is the averaged mean of (Lambda_k^(1/2) w_k)^2.

    B, and the level of w, move as in `LowRank`. Of a small Lambda_k counts say little, and EM closes but that share of
    its gap at a step: steps of log Lambda_k are lengthened by one over it, as far as the noise of draws allows.
    """

    basis: Loadings
    level: Array | None = None

    def statistic(self, model, w, rate, block):
        return column_statistic(block.x, w, rate, block.law.curvature(rate, block.y), block)

    def means(self, chains, centre, rate, block, frame):
        return controlled(chains, centre, rate, block, frame)

    def quieter(self, model, average, total, means, frame):
        assert means is not None
        trusted = average.trusted & sound(means, total.rows)
        quiet = total._replace(cross=means.cross, second=means.second)
        chosen = jax.tree.map(lambda a, b: jnp.where(trusted, a, b), quiet, total)
        return chosen._replace(known=shares(means.known, frame)), average._replace(trusted=trusted)

    def expected(self, model, mean, covariance, counted, block):
        return expected_columns(model.loadings, False, mean, covariance, counted, block)

    def penalty(self, model, total):
        return jnp.zeros(())

    def penalty_at(self, model):
        return level_penalty(self.level, model.coef)

    def begin(self, model):
        d, p = model.coef.shape
        return Scales(jnp.zeros((p, d, d)), jnp.asarray(True), jnp.ones(model.loadings.shape[1]))

    def advance(self, model, average, total, *, gamma, first):
        hessian = average.hessian + jnp.where(first, 1.0, gamma) * (total.hessian - average.hessian)
        before = jnp.sum(model.loadings**2, axis=0)
        slope, curvature = level_prior(self.level, model.coef)
        level = solve_gram(total.gram, total.cross)
        spread = (total.second - level.T @ total.cross) / total.rows
        noise, further = average.noise, jnp.zeros(len(before))
        if total.known is not None:  # draws, not expectations
            weight = jnp.where(first, 0.0, gamma)
            further, noise = self._further(average, total.known, spread, gamma=weight)
        variance = before * (1 + gamma * (jnp.diagonal(spread) - 1) + further)
        coef = (
            model.coef
            + newton_columns(total.gradient + slope, hessian + curvature, gamma=gamma)
            + gamma * level @ model.loadings.T
        )
        # a dimension without scale has nothing to turn
        turn = jnp.diag(jnp.where(variance > 0, jnp.sqrt(before / variance), 1.0))
        average = Scales(hessian, average.trusted, noise)
        moved = Model(coef, self.basis * jnp.sqrt(variance))
        return moved, average, Transport(turn, -gamma * level @ turn)

    def _further(self, average, known, spread, *, gamma):
        """By how much more of themselves variances (q,) move where counts say little; the noise of draws so far."""
        apart = jnp.diagonal(spread) - 1
        most = one_by_one(known, average.noise, gamma)
        longer = jnp.clip(1 / jnp.maximum(_told_of_variances(known), FAINT), 1.0, most) - 1
        further = jnp.clip(gamma * longer * apart, -LEAP, LEAP)
        noise = average.noise + RECENT * (0.5 * known.draws * apart**2 - average.noise)
        return jnp.where(gamma > 0, further, 0.0), jnp.where(gamma > 0, noise, average.noise)

    def scales(self):
        return False

    def rescaled(self, model, average, total, log_scale):
        return model, average

    def score(self, model, total):
        """Slopes in B (d, p), and in log Lambda (q,)."""
        level = solve_gram(total.gram, total.cross)
        spread = jnp.diagonal(total.second - level.T @ total.cross) / total.rows
        return total.gradient + level_prior(self.level, model.coef)[0], 0.5 * total.rows * (spread - 1)

    def left(self, at, score):
        told, there = self._told_of_scales(at)
        # a variance goes no further down than to zero, its square root of `told` standard errors away
        squares = jnp.where(score[1] < 0, jnp.minimum(score[1] ** 2 / told, told), score[1] ** 2 / told)
        return jnp.append(newton_squares(self._curvature(at), score[0]), jnp.where(there, squares, 0.0))

    def apart(self, at, one, other):
        told, there = self._told_of_scales(at)
        relative = (one[1] - other[1]) / jnp.where(there, jnp.sum(at.model.loadings**2, axis=0), 1.0)
        _, prior = level_prior(self.level, at.model.coef)
        by_both = column_inverses(column_inverses(at.average.hessian + prior) + _level_by_rows(at))
        return jnp.append(moved_squares(by_both, one[0] - other[0]), told * relative**2)

    def _told_of_scales(self, at):
        """What counts tell of log Lambda (q,), N / 2 in complete data; which of its variances there are."""
        told = 0.5 * at.rows * jnp.maximum(_told_of_variances(at.known), NEXT_TO_NOTHING)
        return told, jnp.sum(at.model.loadings**2, axis=0) > 0

    def _curvature(self, at):
        """The columns' Hessians as far as the counts tell, and the prior's."""
        return jnp.mean(at.known.level) * at.average.hessian + level_prior(self.level, at.model.coef)[1]

    def parameters(self, model):
        return model.coef, jnp.sum(model.loadings**2, axis=0)

    def rebuild(self, parameters):
        return Model(parameters[0], self.basis * jnp.sqrt(parameters[1]))

    def meaning(self, parameters):
        some = looked_at(len(self.basis))
        basis = self.basis[some]
        return parameters[0][:, some], (basis * parameters[1]) @ basis.T

    def counting_variance(self, average, model):
        some = looked_at(len(average.hessian))
        return Counting(column_variances(average.hessian[some]), jnp.zeros((len(some), len(some))))

    def aligned(self, model, reference):
        return model


def _told_of_variances(known: Shares) -> Array:
    """Of what complete data would say of each variance of w (q,), the share that counts say."""
    across = known.axes**2
    return jnp.sum((across @ known.second) * across, axis=1)
