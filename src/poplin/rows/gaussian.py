"""The best full Gaussian N(m_i, S_i) for each row's latent position, given (B, C): one concave problem a row.

Start at `fit_rows`; `advance_rows` is one of its steps, the local step of a variational EM with full
Gaussians. Every model is eta_i = o_i + x_i'B + C w_i with w_i ~ N(0, I): C is the loadings, or the Cholesky
factor of Sigma. The batch is written out (no `vmap`) because two matrix products with all c_j c_j' then do
most of the work.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from poplin._axes import Coefficients, Counts, Latent, Loadings, Rows
from poplin._numerics import compiled
from poplin.data.blocks import Block
from poplin.laws import POISSON, AbstractLaw, Expected
from poplin.rows.batches import all_pairs, in_chunks, inverses, precisions, spreads
from poplin.rows.frames import Plane, plane_search, rates

TRUST = 1e10  # rates beyond this many times the count are no longer curvature: they would swamp the prior
ROOM = 3.0  # how far above its count's a log rate may be brought
TOLERANCE = 1e-8  # nats a row


class Moments(NamedTuple):
    """Means (n, q), covariances (n, q, q), and log det S (n,), or a value below it after a shortened step."""

    mean: Latent
    covariance: Array
    logdet: Rows


class GaussianRows(NamedTuple):
    """Means (n, q), covariances (n, q, q), bound (n,) in nats, and whether it is within tolerance of its best."""

    mean: Latent
    covariance: Array
    bound: Rows
    converged: Array


class Fit(NamedTuple):
    """Moments with what follows from them: log rates at the mean, c_j'S_i c_j, both (n, p)."""

    moments: Moments
    predictor: Counts
    spread: Counts


def fit_rows(
    block: Block,
    coef: Coefficients,
    loadings: Loadings,
    *,
    start: Moments | None = None,
    tol: float = TOLERANCE,
    max_iter: int = 50,
) -> GaussianRows:
    """The Gaussian that maximises each row's bound on its log-likelihood, given (B, C).

    bound_i = sum_j [y_ij (base_ij + c_j'm_i) - A_ij - log y_ij!] - 1/2 [|m_i|^2 + tr S_i - log det S_i - q],
    A_ij = exp(base_ij + c_j'm_i + c_j'S_i c_j / 2), base = o + XB; row weights play no part. It is concave
    in (m, S) together, so `start` (default: `start_rows`) decides only the time. Steps are taken until no
    row can gain more than `tol` nats to first order. Cost of a step: n q^3 + 2 n p q^2; memory: n q^2 for
    the result, and a few arrays of a million numbers.
    """
    return _fit_rows(block, coef, loadings, start, jnp.asarray(tol), jnp.asarray(max_iter))


def ahead(block: Block, coef: Coefficients, loadings: Loadings) -> None:
    """Compile what `fit_rows` needs for arguments of these shapes."""
    _fit_rows.ahead(block, coef, loadings, None, jnp.asarray(TOLERANCE), jnp.asarray(1))


@compiled()
def _fit_rows(block, coef, loadings, start, tol, max_iter) -> GaussianRows:
    pairs = all_pairs(loadings)
    first = start_rows(block, coef, loadings) if start is None else start

    def fit_chunk(chunk: tuple[Moments, Block]) -> GaussianRows:
        moments, block = chunk

        def going(carry):
            _, gain, steps = carry
            return jnp.any(gain > tol) & (steps < max_iter)

        def step(carry):
            fit, _, steps = carry
            fit, gain = _ascend(fit, block, loadings, pairs)
            return fit, gain, steps + 1

        never = jnp.full(block.y.shape[0], jnp.inf)
        fit = _placed(moments, block, coef, loadings, pairs)
        fit, gain, _ = lax.while_loop(going, step, (fit, never, jnp.asarray(0)))
        return GaussianRows(
            fit.moments.mean, fit.moments.covariance, _bound(fit, block), jnp.isfinite(gain) & (gain <= tol)
        )

    return in_chunks(fit_chunk, (first, block), loadings)


@compiled()
def advance_rows(
    moments: Moments, block: Block, coef: Coefficients, loadings: Loadings
) -> tuple[Moments, Expected, Rows]:
    """One step of every row towards its best Gaussian: new moments, what the law has of the cells, and bound (n,).

    Along the line to N(m + S* g, S*), S* = (I + C' diag(A) C)^-1 at the given moments and g = C'(y - A) -
    m, each row goes as far as its bound rises, so that no row's bound falls. Cost: n q^3 + 3 n p q^2.
    """
    pairs = all_pairs(loadings)

    def advance(chunk: tuple[Moments, Block]) -> tuple[Moments, Expected, Rows]:
        moments, block = chunk
        fit, _ = _ascend(_placed(moments, block, coef, loadings, pairs), block, loadings, pairs)
        return fit.moments, _counted(fit, block), _bound(fit, block)

    return in_chunks(advance, (moments, block), loadings)


@compiled()
def start_rows(block: Block, coef: Coefficients, loadings: Loadings) -> Moments:
    """A Gaussian near the best: one scoring step from the rates a_ij that each count would have alone.

    S = (I + C' diag(a) C)^-1, m = S C' [a (eta - base) + y - a], eta the log rate at the mean (see `_alone`).
    """
    pairs = all_pairs(loadings)
    variance = jnp.sum(loadings**2, axis=1)

    def begin(chunk: tuple[Block]) -> Moments:
        (block,) = chunk
        base = block.offset + block.x @ coef
        rate, predictor = _alone(block.y, base, variance)
        pull = (rate * (predictor - base) + block.y - rate) @ loadings
        prior = jnp.eye(loadings.shape[1], dtype=pull.dtype)
        covariance, logdet, sound = _inverses_or(prior, 0.0, precisions(rate, loadings, pairs))
        mean = jnp.where(sound[:, None], jnp.einsum("nkl,nl->nk", covariance, pull), 0.0)
        # counts that contradict each other can throw another column's rate far off: the mean goes no further than that
        climb = mean @ loadings.T
        room = jnp.maximum(jnp.log(block.y + 1) + ROOM - base, 1.0)
        share = jnp.min(jnp.where(climb > 0, room / climb, jnp.inf), axis=1)
        return Moments(jnp.minimum(1.0, share)[:, None] * mean, covariance, logdet)

    return in_chunks(begin, (block,), loadings)


def _alone(y: Counts, base: Counts, variance: Array) -> tuple[Counts, Counts]:
    """Rate a and log rate at the mean of the best Gaussian of a count with a position N(0, v) of its own.

    log a = base + v (y - a) + v / (1 + v a) / 2, by a few Newton steps: a start need not be exact.
    """

    def step(_, log_rate):
        rate = rates(log_rate)
        spread = variance / (1 + variance * rate)
        off = log_rate - base - variance * (y - rate) - 0.5 * spread
        slope = 1 + variance * rate + 0.5 * rate * spread**2
        return log_rate - jnp.clip(off / slope, -3.0, 5.0)

    first = jnp.minimum(jnp.log(y + 0.5), base + variance * (y + 0.5))
    log_rate = lax.fori_loop(0, 6, step, first)
    rate = rates(log_rate)
    return rate, log_rate - 0.5 * variance / (1 + variance * rate)


def _inverses_or(covariance: Array, logdet: Rows | float, precision: Array) -> tuple[Array, Rows, Array]:
    """Inverses and log-determinants, those given where a matrix cannot be factored, and where it could."""
    inverse, inverse_logdet = inverses(precision)
    sound = jnp.isfinite(inverse_logdet)
    inverse = jnp.where(sound[:, None, None], inverse, covariance)
    return inverse, jnp.where(sound, inverse_logdet, logdet), sound


def _placed(moments: Moments, block: Block, coef, loadings, pairs) -> Fit:
    """The moments with their log rates and spreads."""
    predictor = block.offset + block.x @ coef + moments.mean @ loadings.T
    return Fit(moments, predictor, spreads(moments.covariance, loadings, pairs))


def _counted(fit: Fit, block: Block) -> Expected:
    """What the bound has of each cell."""
    return block.law.expected(fit.predictor, fit.spread, block.y)


def _bound(fit: Fit, block: Block) -> Rows:
    mean, covariance, logdet = fit.moments
    counts = jnp.sum(block.y * fit.predictor + _counted(fit, block).remainder, axis=1)
    trace = jnp.trace(covariance, axis1=1, axis2=2)
    divergence = 0.5 * (jnp.sum(mean**2, axis=1) + trace - logdet - mean.shape[1])
    return counts - block.log_factorial - divergence


def _ascend(fit: Fit, block: Block, loadings: Loadings, pairs: Array | None) -> tuple[Fit, Rows]:
    """One step of a chunk of rows, and the gain that was to be expected of it in nats."""
    mean, covariance, logdet = fit.moments
    _, rate, weight = _counted(fit, block)
    weight = jnp.minimum(weight, TRUST * (block.y + 1))
    best, best_logdet, sound = _inverses_or(covariance, logdet, precisions(weight, loadings, pairs))
    gradient = (block.y - rate) @ loadings - mean
    move = jnp.where(sound[:, None], jnp.einsum("nkl,nl->nk", best, gradient), 0.0)
    for_predictor = move @ loadings.T
    for_spread = spreads(best, loadings, pairs) - fit.spread
    trace = jnp.trace(best - covariance, axis1=1, axis2=2)
    plane = Plane(
        predictor=fit.predictor,
        spread=fit.spread,
        ceiling=jnp.log(block.y + 1) + ROOM,
        by_mean=for_predictor,
        by_spread=for_spread,
        rise_mean=jnp.sum(block.y * for_predictor, axis=1) - jnp.sum(mean * move, axis=1),
        rise_spread=0.5 * (best_logdet - logdet - trace),
        bend=jnp.sum(move**2, axis=1),
        y=block.y,
        law=block.law,
    )
    lengths, gain = plane_search(plane)
    along, part = lengths[0][:, None], lengths[1]
    moments = Moments(
        mean + along * move,
        covariance + part[:, None, None] * (best - covariance),
        logdet + part * (best_logdet - logdet),
    )
    fit = Fit(moments, fit.predictor + along * for_predictor, fit.spread + part[:, None] * for_spread)
    return fit, jnp.where(sound, gain, jnp.inf)


# A few free steps of each row's diagonal Gaussian from wherever it is: what makes an encoder's answer semi-amortised.
#
# Start at `climb`. For full Gaussians the steps are those of `gaussian.advance_rows`.


LENGTHS = (1.0, 0.5, 0.25, 0.0625)  # of a step; the best of them is taken, or none
LONGEST = 1.0  # change of a log standard deviation in one step


class Law(NamedTuple):
    """Log rates base + D u, u ~ N(centre, precision^-1): D (p, k), precision (k, k)."""

    outward: Loadings
    precision: Array


class Seen(NamedTuple):
    """Rows: counts and base (n, p), the means of their latents' law (n, k), the law of the counts, of cells."""

    y: Counts
    base: Counts
    centre: Latent
    law: AbstractLaw = POISSON


@compiled(static_argnames="steps")
def climb(law: Law, rows: Seen, mean: Latent, log_sd: Latent, *, steps: int) -> tuple[Latent, Latent]:
    """Mean and log standard deviations (n, k) after so many steps; no row's bound falls.

    A step is Newton's for the mean and the fixed point s_k^-2 = P_kk + sum_j A_j D_jk^2 for the variances, both as far
    as the row's bound rises most. Cost of a step: n (p k^2 + k^3 + 5 p k).
    """
    pairs = all_pairs(law.outward)

    def of_chunk(chunk):
        rows, mean, log_sd = chunk

        def step(_, place):
            moved = _directions(law, rows, place, pairs)
            best, value = place, _moving_bound(law, rows, *place)
            for length in LENGTHS:
                trial = tuple(a + length * b for a, b in zip(place, moved, strict=True))
                found = _moving_bound(law, rows, *trial)
                better = (found > value)[:, None]
                best = tuple(jnp.where(better, a, b) for a, b in zip(trial, best, strict=True))
                value = jnp.where(better[:, 0], found, value)
            return best

        return lax.fori_loop(0, steps, step, (mean, log_sd))

    return in_chunks(of_chunk, (rows, mean, log_sd), law.outward)


def _directions(
    law: Law, rows: Seen, place: tuple[Latent, Latent], pairs: Array | None
) -> tuple[Latent, Latent]:
    mean, log_sd = place
    _, rate, weight = _expected(law, rows, mean, log_sd)
    extra = law.precision - jnp.eye(len(law.precision), dtype=mean.dtype)
    covariance, _ = inverses(precisions(weight, law.outward, pairs) + extra)
    gradient = (rows.y - rate) @ law.outward - (mean - rows.centre) @ law.precision
    for_mean = jnp.einsum("nkl,nl->nk", covariance, gradient)
    target = -0.5 * jnp.log(jnp.diagonal(law.precision) + weight @ law.outward**2)
    for_log_sd = jnp.clip(target - log_sd, -LONGEST, LONGEST)
    return jnp.nan_to_num(for_mean), for_log_sd


def _expected(law: Law, rows: Seen, mean: Latent, log_sd: Latent) -> Expected:
    spread = jnp.exp(2 * log_sd) @ (law.outward**2).T
    return rows.law.expected(rows.base + mean @ law.outward.T, spread, rows.y)


def _moving_bound(law: Law, rows: Seen, mean: Latent, log_sd: Latent) -> Rows:
    """Each row's bound but for what no step changes."""
    remainder = _expected(law, rows, mean, log_sd).remainder
    counts = jnp.sum(rows.y * (mean @ law.outward.T) + remainder, axis=1)
    away = mean - rows.centre
    quadratic = jnp.sum((away @ law.precision) * away, axis=1)
    trace = jnp.exp(2 * log_sd) @ jnp.diagonal(law.precision)
    return counts - 0.5 * (quadratic + trace) + jnp.sum(log_sd, axis=1)
