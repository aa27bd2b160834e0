"""The M-step of a direct form: B and a Sigma of some shape from averaged second moments, and from the columns' counts.

Start at `Direct`.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from poplin._axes import Scalar
from poplin._numerics import inverse_and_logdet, solve_gram
from poplin.rows.chains import Shares, controlled, shares
from poplin.updates.convergence import LEAP, lengthened, noise_after, one_by_one
from poplin.updates.structure import (
    FAINT,
    LEAST_SD,
    LOADING_SD,
    AbstractShape,
    AbstractStructure,
    Counting,
    Model,
    Transport,
    column_inverses,
    column_variances,
    level_penalty,
    level_prior,
    scale_regressions,
    sound,
    squares,
)

LEFT = 0.1  # share of a second moment's variance over draws that its control variate leaves
ALONE = (
    2.0  # times as far as the numbers of a direction together, the variance along it may be from its optimum
)


class DirectStatistic(NamedTuple):
    """N, X'X, curvatures; X'W (d, p) and W'W (p, p); each column's regression on (x, r_j), r = Z - XB.

    Gradient (d + 1, p) and Hessian (p, d + 1, d + 1); all zero in expectation under Gaussians, where EM is exact.
    noise (2, p, d + 1, d + 1): expected variances of that gradient, and of the one that moments tell (`Direct._noise`).
    known: what counts say of each direction, by which steps are lengthened, or None.
    """

    rows: Scalar
    gram: Array
    rate: Array
    cross: Array
    second: Array
    gradient: Array
    hessian: Array
    noise: Array
    known: Shares | None = None


class Averaged(NamedTuple):
    """Means over draws: X'Z / N (d, p), Z'Z / N (p, p), `hessian` and `noise` of a `DirectStatistic`.

    trusted: control variates have served so far. turmoil: the measured noise of second moments (`noise_after`).
    """

    cross: Array
    second: Array
    hessian: Array
    noise: Array
    trusted: Array
    turmoil: Scalar


def _if_covariance(moment: Array, otherwise: Array) -> Array:
    """The moment, if it is positive definite."""
    return jnp.where(jnp.all(jnp.isfinite(jnp.linalg.cholesky(moment))), moment, otherwise)


def _further(
    model: Model, average: Averaged, total: DirectStatistic, cross: Array, gamma: Array
) -> tuple[Array, Array, Array]:
    """By how much more B, and the moment of Z - XB, move where steps are lengthened; the noise of draws so far.

    w stays where it is, as it would if counts said nothing: were Z to stay, a chain would hand the longer step back,
    longer again. Symmetric to the last bit, since what is not would grow.
    """
    assert total.known is not None
    axes, gram = total.known.axes, total.gram / total.rows
    left = solve_triangular(model.loadings, average.second - model.coef.T @ average.cross, lower=True)
    apart = total.second / total.rows - solve_triangular(model.loadings, left.T, lower=True)
    level, second = lengthened(total.known, average.turmoil, jnp.maximum(gamma, 1e-12))
    turmoil = noise_after(average.turmoil, total.known, apart)
    apart = gamma * axes @ (second * (axes.T @ (0.5 * (apart + apart.T)) @ axes)) @ axes.T
    size = jnp.max(jnp.abs(jnp.linalg.eigvalsh(apart)))
    moment = model.loadings @ (jnp.minimum(1.0, LEAP / (size + 1e-300)) * apart) @ model.loadings.T
    move = gamma * solve_gram(gram, cross @ (axes * level) @ axes.T / total.rows)
    length = jnp.sqrt(jnp.sum(move * (gram @ move)))
    move = jnp.minimum(1.0, LEAP / (length + 1e-300)) * move
    return move @ model.loadings.T, 0.5 * (moment + moment.T), jnp.where(gamma > 0, turmoil, average.turmoil)


class Direct(AbstractStructure):
    """Free B and a Sigma of some shape: average X'Z/N and Z'Z/N, then the Gaussian closed form.

    Where counts say little, Z hardly tells (B, Sigma) from what they were, and the closed form crawls. So each
    step is followed by one that leaves w where it is, and moves B_j and the scale of column j by the column's own
    regression: what is slow for one is quick for the other (interweaving; Yu & Meng 2011). A column seen in few
    rows, which the others tell apart, may have its maximum at infinity, and one that is no more than Poisson at zero:
    the weak prior of a scale exp(-spread Sigma_jj / 2 - 0.01^2 / Sigma_jj) keeps it between. Its upper part is of the
    trace alone, so that Sigma's closed form has it too; column by column it would come too late where they go together.
    """

    shape: AbstractShape
    level: Array | None = None
    spread: Scalar = eqx.field(converter=jnp.asarray, default=1 / LOADING_SD**2)

    def statistic(self, model, w, rate, block):
        weighted, residual = block.weights[:, None] * w, w @ model.loadings.T
        told = block.law.curvature(rate, block.y)
        return DirectStatistic(
            jnp.sum(block.weights),
            block.x.T @ (block.weights[:, None] * block.x),
            block.weights @ told,
            block.x.T @ weighted,
            w.T @ weighted,
            *scale_regressions(residual, rate, told, block),
            self._noise(model, residual, told, block),
        )

    def _noise(self, model, residual, rate, block):
        """Expected variances over draws of columns' gradients, and of those by the moments (2, p, d + 1, d + 1).

        Given the other columns Z_ij has the variance t_j = 1 / (Sigma^-1)_jj; its count takes off the share
        k = rate_ij t_j / (1 + rate_ij t_j). About k rate_ij is the variance of its rate, that of (Sigma^-1 r_i)_j
        is (1 - k) / t_j, of which control variates leave a part.
        """
        inverse = solve_triangular(model.loadings, jnp.eye(len(model.loadings)), lower=True)
        given, weights = 1 / jnp.sum(inverse**2, axis=0), block.weights[:, None]
        known = rate * given / (1 + rate * given)
        of_moments = squares(LEFT * weights * (1 - known) / given, residual, block)
        return jnp.stack([squares(weights * known * rate, residual, block), of_moments])

    def means(self, chains, centre, rate, block, frame):
        return controlled(chains, centre, rate, block, frame)

    def quieter(self, model, average, total, means, frame):
        """Moments from control variates; the columns' gradients mixed with what these moments say of them.

        By Stein's identity E[X'(Y - rate)] = X'E[W] C^-1 and E[(Y - rate)'R] = C^-T (E[W'W] - N I) C'. Where C has
        directions that counts say nothing of, its inverse makes the little noise of the moments large: the share of
        the plain gradient is that of the other's variance, as expected from what came before this draw. Rows count in
        these variances one by one, and the mixing is in every direction of (B, scale) by itself, however x is coded:
        where a column is absent its rates hardly vary, while moments do as much as anywhere. Moments that would
        change a variance by a factor show rows far from what their controls were made for: plain draws from
        then on, not only where chance shows it, which would bend the mean.
        """
        assert means is not None
        size, rows = len(model.loadings), total.rows
        trusted = average.trusted & sound(means, rows)
        inverse = solve_triangular(model.loadings, jnp.eye(size), lower=True)
        excess = means.second - rows * jnp.eye(size)
        at_scale = jnp.einsum("kj,kl,jl->j", inverse, excess, model.loadings)
        told = jnp.concatenate([means.cross @ inverse, at_scale[None]])
        plain, other = average.noise
        share = plain @ column_inverses(plain + other)
        quiet = total._replace(
            cross=means.cross,
            second=means.second,
            gradient=total.gradient + jnp.einsum("jkl,lj->kj", share, told - total.gradient),
        )
        chosen = jax.tree.map(lambda a, b: jnp.where(trusted, a, b), quiet, total)
        return chosen._replace(known=shares(means.known, frame)), average._replace(trusted=trusted)

    def expected(self, model, mean, covariance, counted, block):
        total = self.statistic(model, mean, counted.rate, block)
        return total._replace(
            second=total.second + jnp.tensordot(block.weights, covariance, 1),
            gradient=jnp.zeros_like(total.gradient),
            hessian=jnp.zeros_like(total.hessian),
            noise=jnp.zeros_like(total.noise),
        )

    def penalty(self, model, total):
        second = model.loadings @ total.second @ model.loadings.T / total.rows
        precision, logdet = inverse_and_logdet(model.loadings @ model.loadings.T)
        return self.shape.penalty(second, precision, logdet)

    def penalty_at(self, model):
        sigma = model.loadings @ model.loadings.T
        variance = jnp.diagonal(sigma)
        scales = jnp.sum(0.5 * self.spread * variance + LEAST_SD**2 / variance)
        shrunk = self.shape.penalty(sigma, *inverse_and_logdet(sigma))
        return shrunk + scales + level_penalty(self.level, model.coef)

    def begin(self, model):
        d, p = model.coef.shape
        none = jnp.zeros((3, p, d + 1, d + 1))
        moments = jnp.zeros((d, p)), jnp.zeros((p, p))
        return Averaged(*moments, none[0], none[1:], jnp.asarray(True), jnp.ones(()))

    def advance(self, model, average, total, *, gamma, first):
        n, gram = total.rows, total.gram / total.rows
        coef, moment, hessian, noise = self._averaged(model, average, total, jnp.where(first, 1.0, gamma))
        seen = jnp.any(total.hessian > 0)
        loadings, whiten = self._root(moment, n, seen)
        transport = Transport(model.loadings.T @ whiten, (model.coef - coef) @ whiten)
        turmoil = average.turmoil
        if total.known is not None:
            pulled = total.cross + level_prior(self.level, model.coef)[0] @ model.loadings
            level, further, turmoil = _further(model, average, total, pulled, jnp.where(first, 0.0, gamma))
            moment = _if_covariance(moment + further, moment)
            off = total.second / n - jnp.eye(len(moment))
            most = one_by_one(total.known, average.turmoil, gamma)
            own = gamma * self.shape.hastened(model.loadings, off, total.rate / n, most)
            moment = _if_covariance(moment + jnp.diag(jnp.where(first, 0.0, own)), moment)
            coef, loadings = coef + level, self._root(moment, n, seen)[0]

        step = self.shape.rescale(*self._priors(coef, loadings, total.gradient, hessian, n), gamma=gamma)
        step = jnp.where(seen, step, 0.0)
        # no further than one standard deviation of Z, or a factor e, however little the counts say
        reach = jnp.maximum(jnp.sum(loadings**2, axis=1), 1.0)
        length = jnp.einsum("dj,dl,lj->j", step[:-1], gram, step[:-1]) / reach
        step = step / jnp.maximum(1.0, jnp.sqrt(length + 2 * step[-1] ** 2) / gamma)
        coef, scale = coef + step[:-1], jnp.exp(step[-1])
        moment = scale[:, None] * moment * scale
        cross, second = gram @ coef, moment + coef.T @ gram @ coef
        average = Averaged(cross, second, hessian, noise, average.trusted, turmoil)
        return Model(coef, scale[:, None] * loadings), average, transport

    def _averaged(self, model, average, total, weight):
        """B, the moment of Z - XB about the new B, the columns' Hessians and noise, with this weight on the draw."""
        n, gram = total.rows, total.gram / total.rows
        cross = total.cross @ model.loadings.T  # X'R of this draw, R = Z - XB
        half = model.coef.T @ (0.5 * total.gram @ model.coef + cross)
        second = half + half.T + model.loadings @ total.second @ model.loadings.T  # Z'Z
        newest = gram @ model.coef + cross / n, second / n, total.hessian, total.noise
        mean_cross, mean_second, hessian, noise = (
            a + weight * (b - a) for a, b in zip(average[:4], newest, strict=True)
        )
        coef = model.coef + self._level_step(model, mean_cross - gram @ model.coef, gram, weight / n)
        half = coef.T @ (mean_cross - 0.5 * gram @ coef)
        moment = mean_second - half - half.T
        # moments that control variates made may, in a bad draw, be no covariance: Sigma then stays
        before = model.loadings @ model.loadings.T
        return coef, _if_covariance(0.5 * (moment + moment.T), before), hessian, noise

    def _level_step(self, model, cross, gram, weight):
        """Step of B by the closed form with its weak prior: X'R = L B Sigma where it ends, L the prior's precision.

        Along the covariates' own axes the prior is a multiple of X'X, and what follows is no longer than exact.
        """
        sigma = model.loadings @ model.loadings.T
        slope, precision = level_prior(self.level, model.coef)
        widest = jnp.max(jnp.sum(jnp.abs(sigma), axis=1))
        return solve_gram(gram + weight * widest * precision, cross + weight * slope @ sigma)

    def _root(self, moment, n, seen):
        """A root C of Sigma from the moment of Z - XB, and C^-T."""
        moment = self.shape.pulled(moment, n)
        loadings = jnp.linalg.cholesky(moment)
        whiten = solve_triangular(loadings, jnp.eye(len(loadings)), lower=True).T
        free = jnp.exp(jnp.where(seen, self._unforced(loadings, whiten, n), 0.0))
        weight = self.spread / (n + self.shape.pseudo_rows())
        loadings = jnp.linalg.cholesky(self.shape.held(free[:, None] * free * moment, weight))
        return loadings, solve_triangular(loadings, jnp.eye(len(loadings)), lower=True).T

    def _priors(self, coef, loadings, gradient, hessian, n):
        """Gradient and Hessian with those of the weak priors of XB and of the columns' scales, and with shrinkage's."""
        slope, curvature = level_prior(self.level, coef)
        variance = jnp.sum(loadings**2, axis=1)
        large, small = self.spread * variance, 2 * LEAST_SD**2 / variance
        shrunk = self.shape.pseudo_rows() > 0
        force = jax.lax.cond(shrunk, lambda: self._force(loadings, n), lambda: jnp.zeros(len(loadings)))
        gradient = gradient + jnp.concatenate([slope, (force + small - large)[None]])
        return gradient, hessian.at[:, :-1, :-1].add(curvature).at[:, -1, -1].add(2 * (small + large))

    def _unforced(self, loadings, whiten, n):
        """Change of the columns' log scales that takes off them most of the force of shrinkage toward diag(S).

        The moment S shrunk leaves the score kappa (v_j - 1) on log scale j, v_j = Sigma_jj (Sigma^-1)_jj, whose
        complete information is N (1 + v_j): one Newton step, column by column. Some force remains, as it should:
        without any, correlations that are too small make variances too small; with all of it, variances grow where
        counts are low.
        """
        v = jnp.sum(loadings**2, axis=1) * jnp.sum(whiten**2, axis=1)
        return -self.shape.pseudo_rows() * (v - 1) / (n * (1 + v))

    def _force(self, loadings, n):
        """Score of the columns' log scales (p,) that shrinkage has where the closed form with `_unforced` ends.

        There Sigma = D E D, E = (N S + kappa diag(S)) / (N + kappa): minus the score N ((Sigma^-1 S)_jj - 1) of
        the data, with e = 1 / d and W = Sigma^-1 * Sigma entry by entry. The second step of an iteration then ends
        where the first does. The scales of Sigma are nothing to it.
        """
        whiten = solve_triangular(loadings, jnp.eye(len(loadings)), lower=True).T
        both = (whiten @ whiten.T) * (loadings @ loadings.T)
        e, kappa = jnp.exp(-self._unforced(loadings, whiten, n)), self.shape.pseudo_rows()
        return n - (n + kappa) * e * (both @ e) + kappa * jnp.diagonal(both) * e**2

    def scales(self):
        return self.shape.scales()

    def rescaled(self, model, average, total, log_scale):
        scale, gram = jnp.exp(log_scale), total.gram / total.rows
        half = model.coef.T @ (average.cross - 0.5 * gram @ model.coef)
        moment = average.second - half - half.T
        loadings = scale[:, None] * model.loadings
        second = average.second + scale[:, None] * moment * scale - moment
        return model._replace(loadings=loadings), average._replace(second=second)

    def score(self, model, total):
        """Slopes in w's own units: of the levels (d, p), and of E (p, p) where Sigma is C (I + E) C'."""
        n, sigma = total.rows, jnp.sum(model.loadings**2, axis=1)
        slope, _ = level_prior(self.level, model.coef)
        whiten = solve_triangular(model.loadings, jnp.eye(len(sigma)), lower=True).T
        moment = model.loadings @ (total.second / n) @ model.loadings.T
        free = jnp.exp(self._unforced(model.loadings, whiten, n))
        estimate = free[:, None] * self.shape.pulled(moment, n) * free
        prior = 0.5 * (2 * LEAST_SD**2 / sigma - self.spread * sigma) / sigma
        off = whiten.T @ estimate @ whiten - jnp.eye(len(sigma))
        by_prior = model.loadings.T @ (prior[:, None] * model.loadings)
        rows = n + self.shape.pseudo_rows()
        second = self.shape.along(model.loadings, 0.5 * rows * off + by_prior)
        return jnp.concatenate([total.cross + slope @ model.loadings, second])

    def left(self, at, score):
        d, axes = len(at.model.coef), at.known.axes
        numbers = d + 0.5 * (len(axes) + 1)
        level, second = score[:d] @ axes, axes.T @ score[d:] @ axes
        of_levels = jnp.einsum("dk,kde,ek->k", level, jnp.linalg.inv(self._told_of_levels(at)), level)
        of_second = jnp.sum(second**2 / self._told_of_second(at), axis=1)
        # a column's own step by EM, longer as counts say less of it
        root, (of_coef, of_sigma) = at.model.loadings, self._precisions(at)
        by_coef = jnp.sum(
            (solve_gram(at.gram, score[:d] @ root.T) / jnp.maximum(at.agreed, FAINT)) ** 2 * of_coef, axis=0
        )
        moved = root @ (2 / at.rows * score[d:]) @ root.T / self._agreed_of_sigma(at)
        by_sigma = 0.5 * jnp.sum(moved**2 * of_sigma, axis=1)
        alone = jnp.diagonal(second) ** 2 / jnp.diagonal(self._told_of_second(at)) / ALONE**2
        together = jnp.concatenate([of_levels + of_second, by_coef + by_sigma]) / numbers
        return jnp.append(together, alone)

    def apart(self, at, one, other):
        of_coef, of_sigma = self._precisions(at)
        by_coef = jnp.sum((one[0] - other[0]) ** 2 * of_coef, axis=0)
        by_sigma = 0.5 * jnp.sum((one[1] - other[1]) ** 2 * of_sigma, axis=1)
        return (by_coef + by_sigma) / (len(at.gram) + 0.5 * (len(by_sigma) + 1))

    def _agreed_of_sigma(self, at):
        """Of what complete data would tell of each entry of Sigma, the share that counts tell (p, p)."""
        share = jnp.diagonal(at.gram) @ jnp.maximum(at.agreed, FAINT) / jnp.sum(jnp.diagonal(at.gram))
        return share[:, None] * share

    def _precisions(self, at):
        """One over the squared standard errors of B (d, p) and of Sigma (p, p), roughly: neither part can be beaten."""
        sigma, n = at.model.loadings @ at.model.loadings.T, at.rows
        variance = jnp.diagonal(sigma)
        spread = jnp.diagonal(solve_gram(at.gram, jnp.eye(len(at.gram))))[:, None]
        prior = jnp.diagonal(level_prior(self.level, at.model.coef)[1])[:, None]
        counting = self.counting_variance(at.average, at.model)
        of_coef = 1 / (spread * variance / jnp.maximum(at.agreed, FAINT) + counting.coef) + prior
        by_z = (variance[:, None] * variance + sigma**2) / n
        return of_coef, 1 / (by_z / self._agreed_of_sigma(at) + counting.sigma)

    def _told_of_levels(self, at):
        """What counts, and the prior, tell of B along each axis of w (q, d, d)."""
        share = jnp.sqrt(jnp.maximum(at.known.covariates, FAINT)).T
        size = jnp.sum((at.model.loadings @ at.known.axes) ** 2, axis=0)[:, None, None]
        prior = size * level_prior(self.level, at.model.coef)[1]
        return share[:, :, None] * at.gram * share[:, None, :] + prior

    def _told_of_second(self, at):
        """What counts, and shrinkage, tell of the entries of E along the axes (q, q): N / 2 in complete data."""
        return 0.5 * (at.rows * jnp.maximum(at.known.second, FAINT) + self.shape.pseudo_rows())

    def parameters(self, model):
        return model.coef, model.loadings @ model.loadings.T

    def rebuild(self, parameters):
        # of a shape that is no linear space, the mean over iterations lies beside it
        return Model(parameters[0], jnp.linalg.cholesky(self.shape.nearest(parameters[1])))

    def meaning(self, parameters):
        return parameters

    def counting_variance(self, average, model):
        variances = column_variances(average.hessian)
        sigma, by_scale = model.loadings @ model.loadings.T, variances[-1]  # of the log scales of columns
        return Counting(variances[:-1], sigma**2 * (by_scale[:, None] + by_scale))

    def aligned(self, model, reference):
        return model
