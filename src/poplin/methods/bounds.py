"""The evidence lower bound with diagonal Gaussians per row, in its two forms, as sums over rows.

Start at `AbstractBound`. `DirectBound` approximates Z itself and profiles B and Sigma out; `FactorBound`
approximates the factors w of Z = x'B + C w and keeps (B, C) among the unknowns. Both carry every constant.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from poplin._axes import Coefficients, Covariance, Loadings, Rows, Scalar
from poplin._numerics import solve_gram
from poplin.data.blocks import Block
from poplin.laws import POISSON, AbstractLaw, with_parameters
from poplin.methods.gradient import AbstractObjective, Terms
from poplin.models.loadings import AbstractLoadings
from poplin.models.networks import Network
from poplin.rows.encoders import AbstractEncoder, AbstractPosterior, Excess, Features
from poplin.updates.own import own_scores
from poplin.updates.structure import AbstractShape, Model, Profile


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
    S = (R'R + diag sum_i s_i^2) / N, R = M - XB; of other laws `expected` has what is in the place of -A_ij.
    `coef` fixes B (rows of a fitted model); Sigma is then fixed by `Fixed`. `law` is free, its parameters the shared
    unknowns; None: the rows' own law as it is. Cost of a pass: n p exponentials and n p^2 for M'M. Source: Chiquet et
    al. (2019).
    """

    shape: AbstractShape
    coef: Coefficients | None = None
    law: AbstractLaw | None = None

    def measure(self, shared, unknown, block):
        mean, log_sd = unknown
        block = under(self.law, shared, block)
        variance = jnp.exp(2 * log_sd)
        predictor = block.offset + mean
        counts = block.law.expected(predictor, variance, block.y).remainder
        rest = _hopeless(jnp.sum(block.y * predictor + counts + log_sd, axis=1))
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
        block = under(self.law, shared, block)
        variance = jnp.exp(2 * log_sd)
        predictor = block.offset + mean
        _, rate, weight = block.law.expected(predictor, variance, block.y)
        pull = profile.profile.pull
        weights = block.weights[:, None]
        for_mean = weights * (block.y - rate - (mean - block.x @ profile.coef) @ pull)
        for_log_sd = weights * (1 - variance * (weight + jnp.diagonal(pull)))
        return (for_mean, for_log_sd), own_score(self.law, shared, predictor, variance, block)

    def shared_slope(self, shared, profile, total):
        return total


LOWEST = (
    -1e100
)  # nats of a row's counts, below which a rate was held (`laws.LARGEST_LOG_RATE`): there is no number


def _hopeless(counts: Rows) -> Rows:
    """The rows' parts of the bound; minus infinity where a law held what has no number, so that no step ends there."""
    return jnp.where(counts < LOWEST, -jnp.inf, counts)


def parted(law: AbstractLaw | None, shared: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Array, ...]]:
    """Shared unknowns as those of (B, C) and, behind them, the parameters of a free law."""
    place = len(shared) - len(jax.tree.leaves(law))
    return shared[:place], shared[place:]


def under(law: AbstractLaw | None, own: tuple[Array, ...], block: Block) -> Block:
    """The rows under a free law with these parameters; as they are where there is none."""
    return block if law is None else block.under(with_parameters(law, own))


def own_score(
    law: AbstractLaw | None, own: tuple[Array, ...], predictor: Array, spread: Array, block: Block
) -> tuple[Array, ...]:
    """Sum over rows of the bound's slopes in the law's parameters, where eta ~ N(predictor, spread), both (n, p)."""
    if law is None:
        return ()
    scores = block.law.expected_scores(predictor, spread, block.y)
    return tuple(jax.tree.leaves(own_scores(with_parameters(law, own), scores, block)))


class FactorBound(AbstractBound):
    """Factor form, q(w_i) = N(m_i, diag s_i^2), with (B, C) given by `loadings` from the shared unknowns.

    A_ij = exp(o_ij + x_i'B_j + c_j'm_i + sum_k c_jk^2 s_ik^2 / 2);
    sum_i w_i {sum_j [y_ij (o_ij + x_i'B_j + c_j'm_i) - A_ij - log y_ij!]
               - 1/2 [|m_i|^2 + |s_i|^2 - 2 sum_k log s_ik - q]}.
    The shared unknowns are those of `loadings`, then the law's (see `DirectBound`). The gradient needs the same A, and
    nothing of the sums: the first sweep has all of it. Cost: n p exponentials and 6
    products of n p q.
    """

    loadings: AbstractLoadings
    law: AbstractLaw | None = None

    def seen(self, free, unknown, block):
        """Mean and variance of the log rates (n, p)."""
        mean, log_sd = unknown
        coef, loadings = self.loadings.expand(free)
        # one product for both, of which the (n, p) result is not written twice
        predictor = block.offset + jnp.hstack([block.x, mean]) @ jnp.vstack([coef, loadings.T])
        return predictor, jnp.exp(2 * log_sd) @ (loadings**2).T

    def measure(self, shared, unknown, block):
        mean, log_sd = unknown
        free, own = parted(self.law, shared)
        block = under(self.law, own, block)
        coef, loadings = self.loadings.expand(free)
        variance, weights, d = jnp.exp(2 * log_sd), block.weights[:, None], len(coef)
        predictor, spread = self.seen(free, unknown, block)
        remainder, rate, weight = block.law.expected(predictor, spread, block.y)
        counts = _hopeless(jnp.sum(block.y * predictor + remainder, axis=1))
        divergence = 0.5 * jnp.sum(mean**2 + variance - 2 * log_sd - 1, axis=1)
        value = block.weights @ (counts - divergence - block.log_factorial)
        residual = block.y - rate
        for_mean = weights * (residual @ loadings - mean)
        for_log_sd = weights * (1 - variance - variance * (weight @ loadings**2))
        cross = residual.T @ (weights * jnp.hstack([block.x, mean]))
        for_loadings = cross[:, d:] - (weight.T @ (weights * variance)) * loadings
        for_law = own_score(self.law, own, predictor, spread, block)
        return (for_mean, for_log_sd), (value, (cross[:, :d].T, for_loadings, for_law))

    def value(self, total):
        return total

    def slope(self, shared, profile, unknown, kept, block):
        return kept, ()

    def shared_slope(self, shared, profile, total):
        for_coef, for_loadings, for_law = profile
        free, _ = parted(self.law, shared)
        return *self.loadings.pull_back(free, for_coef, for_loadings), *for_law


# The bound of a Poisson-lognormal model whose rows' Gaussians come from an encoder, in closed form.
#
# Start at `EncodedBound`, an objective for minibatches. What an encoder gives does not depend on B and C: it is a
# Gaussian of w in a factor form, of Z - XB_0 in the direct form, B_0 fixed. So an M-step given the rows' Gaussians
# never lowers the bound.


class Encoded(NamedTuple):
    """What is trained: the encoder, and the free parameters of (B, C)."""

    encoder: AbstractEncoder
    shared: Any


class Embedder(eqx.Module):
    """An encoder, what its Gaussians are Gaussians of, and how many free steps under which law come behind it.

    `origin` is B_0 in the direct form, where they are Gaussians of Z - XB_0, and None in a factor form (of w).
    """

    encoder: AbstractEncoder
    origin: Any
    refine: int = eqx.field(static=True)
    law: AbstractLaw = POISSON


class Seen(NamedTuple):
    """Under a row's Gaussian: mean and variance of the log rates (n, p), and KL to the latent's law (n,)."""

    predictor: Array
    spread: Array
    divergence: Rows


class AbstractLatent(eqx.Module):
    """What the encoder's Gaussians are Gaussians of."""

    @abstractmethod
    def seen(self, posterior: AbstractPosterior, model: Model, block: Block) -> Seen:
        """What the bound needs of them; `model.loadings` is C with Sigma = C C'."""


class FactorLatent(AbstractLatent):
    """Of w, w ~ N(0, I): log rates o + x'B + C w."""

    def seen(self, posterior, model, block):
        predictor = block.offset + block.x @ model.coef + posterior.mean @ model.loadings.T
        return Seen(predictor, posterior.spread(model.loadings), posterior.divergence())


class DirectLatent(AbstractLatent):
    """Of Z - XB_0, Z ~ N(XB, Sigma): log rates o + Z. `coef` is B_0; C is a Cholesky factor of Sigma.

    KL = 1/2 (|C^-1 r|^2 + tr(C^-1 S C^-T) - p) + log det C - log det S / 2, r = m + X(B_0 - B).
    """

    coef: Coefficients

    def seen(self, posterior, model, block):
        move = block.x @ lax.stop_gradient(self.coef)
        inverse = _inverse(model.loadings)
        whitened = (posterior.mean + move - block.x @ model.coef) @ inverse.T
        trace = jnp.sum(posterior.spread(inverse), axis=-1)
        quadratic = 0.5 * (jnp.sum(whitened**2, axis=-1) + trace - whitened.shape[-1])
        entropy = jnp.sum(posterior.log_scale, axis=-1)
        logdet = jnp.sum(jnp.log(jnp.diagonal(model.loadings)))
        return Seen(block.offset + move + posterior.mean, posterior.variance(), quadratic + logdet - entropy)


def _inverse(loadings: Loadings) -> Array:
    return solve_triangular(loadings, jnp.eye(len(loadings), dtype=loadings.dtype), lower=True)


def bound_terms(latent: AbstractLatent, posterior: AbstractPosterior, model: Model, block: Block) -> Terms:
    """The bound of each row, its reconstruction and its divergence, in nats, every constant; O(n p q)."""
    seen = latent.seen(posterior, model, block)
    remainder = block.law.expected(seen.predictor, seen.spread, block.y).remainder
    counts = jnp.sum(block.y * seen.predictor + remainder, axis=-1) - block.log_factorial
    return Terms(counts - seen.divergence, counts, seen.divergence)


class EncodedBound(AbstractObjective):
    """The bound of rows whose Gaussians the encoder gives.

    A_ij = exp(predictor_ij + spread_ij / 2); sum_j [y_ij predictor_ij - A_ij - log y_ij!] - KL_i. `follows`: B and C
    climb as well; otherwise they stay as they are.
    """

    free: AbstractLoadings
    latent: AbstractLatent
    follows: bool = eqx.field(static=True)

    def terms(self, model, key, block, temper):
        shared = model.shared if self.follows else lax.stop_gradient(model.shared)
        posterior = model.encoder(block.y, block.x, block.offset)
        return bound_terms(self.latent, posterior, Model(*self.free.expand(shared)), block)


# Two networks that say from a row what its variational mean and standard deviations were: the notes' smoothing.
#
# Start at `Smoother`; `Nearness` is what they are trained for.


class Lesson(NamedTuple):
    """Rows as an encoder sees them, and the mean and standard deviations (n, k) that it is to give."""

    y: Array
    x: Array
    offset: Array
    weights: Array
    index: Array
    mean: Array
    sd: Array


class Smoother(eqx.Module):
    """Mean g(row) with a linear output, standard deviations h(row) with softplus, each by its own network."""

    features: Features | Excess
    for_mean: Network
    for_sd: Network

    def __call__(self, rows: Any) -> tuple[Array, Array]:
        """Means and standard deviations (n, k)."""
        seen = self.features(rows.y, rows.x, rows.offset)
        return self.for_mean(seen), jax.nn.softplus(self.for_sd(seen))


class Nearness(AbstractObjective):
    """Minus half the squared errors of both networks, summed over the k numbers of a row."""

    def terms(self, model, key, block: Any, temper):
        mean, sd = model(block)
        value = -0.5 * jnp.sum((mean - block.mean) ** 2 + (sd - block.sd) ** 2, axis=-1)
        return Terms(value, value, jnp.zeros_like(value))
