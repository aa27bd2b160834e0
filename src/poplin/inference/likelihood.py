"""The log-likelihood of each row, log p(y_i; B, C), every constant included: higher is better, nats.

Start at `row_loglik`: importance sampling around the best full Gaussian of the row, or column by column where a
Gaussian will not do (`sequential.py`). `independent_loglik` is the exact counterpart for a diagonal Sigma, where a
row's integral is a product of one-dimensional ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import ndtr
from scipy.special import fdtri, gammaln

from poplin._axes import Coefficients, Loadings, Rows
from poplin._numerics import compiled
from poplin._random import Purpose, derive
from poplin.data.blocks import Block
from poplin.inference.sequential import ERROR, Way, in_rounds, log_mean
from poplin.inference.summary import LARGEST_KHAT
from poplin.laws import LARGEST_LOG_RATE
from poplin.methods.gradient import log_ratios
from poplin.rows.gaussian import GaussianRows, fit_rows

LARGEST_SKEWNESS = 0.5  # nats^2: rows beyond it are drawn column by column
SKEWNESS_DRAWS = 32
NO_ROW = 2**31 - 1  # where a row's number makes its key: of no row
ENOUGH = 0.25  # share of the draws that is effective; rows of fewer are drawn column by column
NUMBERS = 8_000_000  # most numbers in one array of a slice of rows
BATCH = 512  # most pairs of draws of one row at a time
FEWEST_DEGREES = 5  # of freedom; otherwise as many as latent dimensions
SHIFTS = 64  # places of the radii within their strata
NODES, REACH = 121, 4.5  # of the one-dimensional integrals, in w = m + s sinh(u), |u| <= REACH


class RowLikelihood(NamedTuple):
    """Log-likelihoods of rows by importance sampling, and how sure they are.

    Rows drawn around their Gaussian, of which a quarter of the draws are effective, have their k-hat looked at only if
    asked for.

    Attributes:
        value: log p(y_i) (n,), nats, every constant, higher is better.
        standard_error: its Monte-Carlo standard error (n,), nats.
        effective_size: effective number of draws (n,).
        khat: Pareto k-hat (n,), or None where it was not requested.
        unsure: True where the error may be larger than stated (n,): a k-hat above 0.7, or no number at all.
    """

    value: np.ndarray
    standard_error: np.ndarray
    effective_size: np.ndarray
    khat: np.ndarray | None
    unsure: np.ndarray


class Slice(NamedTuple):
    """Rows of equal number: their model, their Gaussians, how many are rows, and which of those are skewed."""

    way: Way
    real: int  # the others fill the slice up
    skewed: np.ndarray


class Draws(NamedTuple):
    """What all rows share: radii (pairs, SHIFTS) of the draws, and the log density of the proposal at them."""

    radius: Array
    log_density: Array


def row_loglik(
    key: Array, block: Block, coef: Coefficients, loadings: Loadings, *, draws: int = 1000, khat: bool = False
) -> RowLikelihood:
    """Importance-sampled log-likelihood of each row under eta = o + XB + C w, w ~ N(0, I).

    log p(y_i) = log mean_s p(y_i, w_s) / t(w_s), where t is a multivariate Student density of max(q, 5) degrees of
    freedom on the row's best Gaussian (m_i, S_i): its tails are heavier than the prior's, so the ratios are bounded.
    Draws come in pairs m + L e, m - L e; the lengths of e are stratified, one a stratum, the directions free. The
    error follows from differences between neighbouring strata; the log's bias, -1/2 of its variance, is taken out.

    A Gaussian misses the skewness of a row's law, and over many dimensions that adds up: to a variance of about
    `skewness` of the log ratios. Where it is above `LARGEST_SKEWNESS`, or fewer than a quarter of the draws are
    effective, positions are drawn column by column instead (`sequential.py`): 128 draws, up to 2048 until the standard
    error is at most 0.05 and k-hat at most 0.7.

    A row's draws depend on `key` and its `index` only. `khat` asks for the Pareto diagnostic (Vehtari et al. 2024) of
    all rows. Cost: n draws q (p + q) products and n draws p / 2 exponentials; of rows drawn column by column about the
    same; memory: a few arrays of `NUMBERS` numbers.
    """
    parts = [
        _slice_loglik(key, part, draws=draws, khat=khat)
        for part in slices(key, block, coef, loadings, draws=draws)
    ]
    joined = (np.concatenate(a)[: len(block.index)] for a in zip(*parts, strict=True))
    found = RowLikelihood(*joined)
    return found if khat else found._replace(khat=None)


def _slice_loglik(key: Array, part: Slice, *, draws: int, khat: bool) -> RowLikelihood:
    """The rows of one slice; k-hat is zero where it was not looked at."""
    n = len(part.skewed)
    value, error, effective, shape = (np.full(n, a) for a in (np.nan, np.inf, 0.0, np.inf))
    unusable = np.zeros(n, bool)

    def by_columns(rows: np.ndarray) -> None:
        for done, (log_ratios,) in in_rounds(key, [part.way], rows, _enough):
            found = (*log_mean(log_ratios), pareto_shape(log_ratios))
            sound = np.isfinite(found[0]) & np.isfinite(found[1])
            unusable[done[~sound]] = True
            for whole, some in zip((value, error, effective, shape), found, strict=True):
                whole[done[sound]] = some[sound]

    used = np.arange(n) < part.real
    if np.any(part.skewed):
        by_columns(np.flatnonzero(part.skewed))
    rows = np.flatnonzero(used & (~part.skewed | unusable))
    if len(rows):
        log_ratios = student_ratios(key, part.way, rows, draws=draws)
        value[rows], error[rows], effective[rows] = (np.asarray(a)[rows] for a in summary(log_ratios))
        shape[rows] = pareto_shape(np.asarray(log_ratios)[rows]) if khat else 0.0
        few = rows[~unusable[rows] & ~(effective[rows] >= ENOUGH * 2 * log_ratios.shape[2])]
        if len(few):
            by_columns(few)
    unsure = used & (unusable | (shape > LARGEST_KHAT) | ~np.isfinite(error))
    return RowLikelihood(value, error, effective, shape, unsure)


def _enough(log_ratios: np.ndarray) -> np.ndarray:
    """Whether there are draws enough: the error small, and its k-hat no cause for doubt; or no number will come."""
    error = log_mean(log_ratios)[1]
    return ~(error > ERROR) & ~(np.isfinite(error) & (pareto_shape(log_ratios) > LARGEST_KHAT))


def slices(
    key: Array, block: Block, coef: Coefficients, loadings: Loadings, *, draws: int
) -> Iterator[Slice]:
    """Equal slices of the rows, with their Gaussians. The last one is filled up with row 0."""
    n, p = block.y.shape
    q = loadings.shape[1]
    size = int(np.clip(NUMBERS // max(draws, q * q, p), 1, n))
    for first in range(0, n, size):
        part = _slice(block, first, size)
        gaussians = fit_rows(part, coef, loadings)
        way, real = Way(part, gaussians, coef, loadings), min(size, n - first)
        skewed = np.asarray(skewness(key, *way)) > LARGEST_SKEWNESS
        yield Slice(way, real, skewed & (np.arange(size) < real))


def student_ratios(key: Array, way: Way, rows: np.ndarray, *, draws: int) -> Array:
    """Log p(y_i, w) - log t(w) of every draw of some rows, (n, 2, pairs); -inf elsewhere.

    Under one key, models of one (p, q) share the draws of a row.
    """
    pairs = -(-draws // 2)
    batches = -(-pairs // BATCH)
    shared = shared_draws(batches * -(-pairs // batches), way.loadings.shape[1])
    chosen = jnp.asarray(np.pad(rows, (0, len(way.block.index) - len(rows))))
    return _log_ratios(key, way, chosen, jnp.asarray(len(rows)), shared, batches=batches)


@jax.jit
def skewness(
    key: Array, block: Block, gaussians: GaussianRows, coef: Coefficients, loadings: Loadings
) -> Rows:
    """What a row's third derivatives add to the variance of its log ratios, by a few draws, (n,).

    Around N(m, S), t = C (w - m), v = diag(C S C'), rates A = exp(base + C m + v / 2): log p differs from the
    Gaussian by -sum_j A_j (t_j^3 - 3 v_j t_j) / 6 and terms of higher order. Its variance is sum_jk A_j A_k (c_j'S
    c_k)^3 / 6, here the mean square of `SKEWNESS_DRAWS` draws, the same for all rows, none of which is used again.
    Cost: n p q (q + `SKEWNESS_DRAWS`).
    """
    q = loadings.shape[1]
    normal = jax.random.normal(jax.random.fold_in(key, NO_ROW), (SKEWNESS_DRAWS, q), loadings.dtype)
    predictor = block.offset + block.x @ coef + gaussians.mean @ loadings.T
    lower = jnp.linalg.cholesky(gaussians.covariance)

    def one_row(row) -> Array:
        predictor, lower, law, y = row
        scaled = loadings @ lower
        spread = jnp.sum(scaled**2, axis=1)
        told = law.expected(predictor, spread, y).weight
        moved = normal @ scaled.T
        return jnp.mean((moved * (moved**2 - 3 * spread) @ told / 6) ** 2)

    return lax.map(one_row, (predictor, lower, block.law, block.y))


def padded(loadings: np.ndarray, width: int) -> np.ndarray:
    """C with columns of zeros up to `width`: dimensions that no count depends on, which change no likelihood."""
    return np.pad(loadings, ((0, 0), (0, width - loadings.shape[1])))


def _slice(block: Block, first: int, size: int) -> Block:
    """`size` rows from `first` on, filled up with row 0, so that one compilation serves all slices."""
    chosen = np.arange(first, first + size)
    chosen = np.where(chosen < len(block.index), chosen, 0)
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[chosen]), block)


def shared_draws(pairs: int, q: int) -> Draws:
    """Radii with R^2 / q ~ F(q, nu), the law of a Student vector's length, in `pairs` equal strata.

    A row's draw takes one of `SHIFTS` places within its stratum at random: as good as any place.
    """
    nu = max(q, FEWEST_DEGREES)
    place = (np.arange(SHIFTS) + 0.5) / SHIFTS
    squared = q * fdtri(q, nu, (np.arange(pairs)[:, None] + place) / pairs)
    constant = gammaln((nu + q) / 2) - gammaln(nu / 2) - 0.5 * q * np.log(nu * np.pi)
    log_density = constant - 0.5 * (nu + q) * np.log1p(squared / nu)
    return Draws(jnp.asarray(np.sqrt(squared)), jnp.asarray(log_density))


def student_draws(key: Array, strata: Draws, q: int) -> tuple[Array, Array]:
    """One draw e (pairs, q) a stratum, and the log density of the proposal there, (pairs,)."""
    # single precision serves: the density is computed at the point that was drawn
    normal = jax.random.normal(key, (len(strata.radius), q + 1), jnp.float32)
    place = jnp.minimum(SHIFTS * ndtr(normal[:, q]), SHIFTS - 1).astype(int)
    radius, log_density = (jnp.take_along_axis(a, place[:, None], axis=1)[:, 0] for a in strata)
    direction = normal[:, :q].astype(radius.dtype)
    return direction * (radius / jnp.linalg.norm(direction, axis=1))[:, None], log_density


@partial(jax.jit, static_argnames="batches")
def _log_ratios(key, way: Way, chosen: Array, count: Array, shared: Draws, *, batches: int) -> Array:
    """Log p(y, w) - log t(w) of every draw, (n, 2, pairs): the two of a pair, pairs in the order of their radii."""
    block, gaussians, coef, loadings = way
    lower = jnp.linalg.cholesky(gaussians.covariance)
    predictor = block.offset + block.x @ coef + gaussians.mean @ loadings.T
    p, q = loadings.shape
    size = shared.radius.shape[0] // batches

    def one_row(row) -> Array:
        index, y, law, predictor, log_factorial, mean, lower = row
        own = jax.random.fold_in(key, index)
        scaled = loadings @ lower
        tilt = y @ scaled - mean @ lower
        both = jnp.concatenate([scaled, lower])
        constant = (
            y @ predictor
            - log_factorial
            - 0.5 * (mean @ mean + q * jnp.log(2 * jnp.pi))
            + jnp.sum(jnp.log(jnp.diagonal(lower)))
        )

        def one_batch(batch) -> Array:
            number, *strata = batch
            draw, log_density = student_draws(jax.random.fold_in(own, number), Draws(*strata), q)
            moved = draw @ both.T
            change = jnp.clip(moved[:, :p], -LARGEST_LOG_RATE, LARGEST_LOG_RATE)
            up, down = law.mirrored(change, predictor, y)
            even = constant - 0.5 * jnp.sum(moved[:, p:] ** 2, axis=1) - log_density
            odd = draw @ tilt
            return jnp.stack([even + odd + up, even - odd + down])

        parts = (jnp.arange(batches), *(a.reshape(batches, size, SHIFTS) for a in shared))
        return lax.map(one_batch, parts).swapaxes(0, 1).reshape(2, batches * size)

    # one row at a time: its draws fill the caches, and batches of rows take longer to compile and no less to run
    rows = (block.index, block.y, block.law, predictor, block.log_factorial, gaussians.mean, lower)

    def next_row(k: Array, found: Array) -> Array:
        i = chosen[k]
        return found.at[i].set(one_row(jax.tree.map(lambda a: a[i], rows)))

    nothing = jnp.full((len(block.index), 2, shared.radius.shape[0]), -jnp.inf, predictor.dtype)
    return lax.fori_loop(0, count, next_row, nothing)


@jax.jit
def summary(log_ratios: Array) -> tuple[Rows, Rows, Rows]:
    """Log of the mean ratio with its bias taken out, standard error, effective number of draws."""
    largest = jnp.max(log_ratios, axis=(1, 2))
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    weights = jnp.exp(log_ratios - largest[:, None, None])
    pairs = jnp.mean(weights, axis=1)
    mean = jnp.mean(pairs, axis=1)
    variance = stratified_variance(pairs / mean[:, None])
    effective = jnp.sum(weights, axis=(1, 2)) ** 2 / jnp.sum(weights**2, axis=(1, 2))
    bias = jnp.where(jnp.isfinite(variance), 0.5 * variance, 0.0)
    return largest + jnp.log(mean) + bias, jnp.sqrt(variance), jnp.nan_to_num(effective)


def stratified_variance(values: Array) -> Rows:
    """Variance of the mean of stratified draws (n, strata), infinite where it cannot be told.

    Second differences take out what changes steadily from stratum to stratum; 6 = 1 + 4 + 1 of their variances.
    """
    variance = jnp.mean(jnp.diff(values, n=2, axis=1) ** 2, axis=1) / (6 * values.shape[1])
    return jnp.where(jnp.isnan(variance), jnp.inf, variance)


def pareto_shape(log_ratios: Array | np.ndarray) -> np.ndarray:
    """Pareto k-hat of each row's ratios; infinite where a row has no usable ratios."""
    from arviz_stats.base.array import array_stats  # brings scipy.stats, most of a second

    flat = np.asarray(log_ratios).reshape(log_ratios.shape[0], -1)
    usable = np.isfinite(flat.max(axis=1))
    shape = np.full(len(flat), np.inf)
    with np.errstate(all="ignore"):  # logs of weights that are zero
        shape[usable] = array_stats.psislw(-flat[usable])[1]  # it takes minus the log ratios
    return np.where(np.isnan(shape), np.inf, shape)


def independent_loglik(block: Block, coef: Coefficients, scale: Array) -> np.ndarray:
    """Exact log-likelihood of each row, (n,), where Sigma = diag(scale^2): p integrals of one dimension.

    log p(y_i) = sum_j log int Poisson(y_ij; exp(o_ij + x_i'B_j + scale_j w)) N(w; 0, 1) dw, by the trapezoid rule in u,
    w = m + s sinh(u), on the entry's best Gaussian N(m, s^2). Cost: n p `NODES` exponentials, n p memory.
    """
    value = _independent(block, coef, scale)
    return np.asarray(value - block.log_factorial)


@jax.jit
def _independent(block: Block, coef: Coefficients, scale: Array) -> Rows:
    nodes = jnp.linspace(-REACH, REACH, NODES)
    log_weight = jnp.log(nodes[1] - nodes[0]) + jnp.log(jnp.cosh(nodes)) - 0.5 * jnp.log(2 * jnp.pi)

    def one_column(column) -> Rows:
        y, offset, law, coef, scale = column
        law = jax.tree.map(lambda a: a[:, None], law)
        alone = block._replace(y=y[:, None], offset=offset[:, None], law=law)
        fitted = fit_rows(alone, coef[:, None], scale[None, None])
        mean, sd = fitted.mean[:, :1], jnp.sqrt(fitted.covariance[:, 0])
        latent = mean + sd * jnp.sinh(nodes)
        predictor = (offset + block.x @ coef)[:, None] + scale * latent
        log_joint = law.log_prob(predictor, y[:, None]) - 0.5 * latent**2
        return jax.nn.logsumexp(log_joint + log_weight, axis=1) + jnp.log(sd[:, 0])

    columns = block.y.T, block.offset.T, jax.tree.map(jnp.transpose, block.law), coef.T, scale
    return jnp.sum(lax.map(one_column, columns), axis=0)


# The log-likelihood of each row of a model with an encoder, by importance sampling around the encoder's Gaussian.
#
# Start at `amortised_loglik`; `in_slices` runs a program over slices of rows of one shape.


DRAWS = 50  # of a row that are decoded together
DECODED_NUMBERS = 4_000_000  # most numbers in one array of decoded draws
KHAT_DRAWS = 25  # fewest that k-hat is told from
SLICE = 4096  # rows of a slice, where nothing is drawn


def in_slices(program: Callable[[Block, int], Any], block: Block, size: int) -> Any:
    """`program(slice, first row)` over slices of `size` rows; results are joined along their first axis.

    The last slice is filled up with the first row, so that one compilation serves all slices.
    """
    n = len(block.index)
    size = min(size, n)
    parts = []
    for first in range(0, n, size):
        chosen = np.arange(first, first + size)
        chosen = np.where(chosen < n, chosen, 0)
        parts.append(
            jax.device_get(program(jax.tree.map(lambda a, c=chosen: np.asarray(a)[c], block), first))
        )
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[:n], *parts)


def amortised_loglik(
    model: Any,
    block: Block,
    *,
    seed: int,
    draws: int = 1000,
    width: int = 1,
    khat: bool = False,
    student: bool = True,
) -> RowLikelihood:
    """Log p(y_i) = log mean_s p(y_i, w_s) / t(w_s), every constant included; t: see `log_ratios`.

    At least `draws` draws are made, and the divisor is the number made. The standard error is that of the log by the
    delta method; a k-hat above 0.7 says that it is too small, and is looked at, unless `khat` asks for all, where fewer
    than a quarter of the draws (of 25 or more) are effective. The log of a mean is low by half its variance on
    average: nothing is added for that, so that the number can be set beside published ones. `width` is the number of
    values a decoded draw takes. Cost: n draws decodings.
    """
    batches = -(-draws // DRAWS)
    each = -(-draws // batches)
    size = int(np.clip(DECODED_NUMBERS // (each * max(width, 1)), 1, SLICE))
    key = derive(seed, Purpose.LIKELIHOOD).key_data()

    def program(part: Block, first: int) -> tuple[np.ndarray, ...]:
        ratios = np.asarray(
            _ratios(model, key, part, jnp.asarray(first), batches=batches, each=each, student=student),
            dtype=float,
        )
        value, error, effective = ratio_summary(ratios)
        looked_at = khat | (ratios.shape[1] >= KHAT_DRAWS) & ~(effective >= ENOUGH * ratios.shape[1])
        shape = np.zeros(len(ratios))
        if np.any(looked_at):
            shape[looked_at] = pareto_shape(ratios[looked_at])
        return value, error, effective, shape

    value, error, effective, shape = in_slices(program, block, size)
    return RowLikelihood(value, error, effective, shape if khat else None, shape > LARGEST_KHAT)


def ratio_summary(ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log of the mean ratio of each row, its standard error and the effective number of draws, from (n, s)."""
    largest = ratios.max(axis=1, keepdims=True)
    weights = np.exp(ratios - largest)
    mean = weights.mean(axis=1)
    error = (
        weights.std(axis=1, ddof=1) / np.sqrt(weights.shape[1]) / mean
        if weights.shape[1] > 1
        else mean * np.inf
    )
    effective = weights.sum(axis=1) ** 2 / np.sum(weights**2, axis=1)
    return largest[:, 0] + np.log(mean), error, effective


@compiled(static_argnames=("batches", "each", "student"))
def _ratios(
    model: Any, key: Array, block: Block, first: Array, *, batches: int, each: int, student: bool
) -> Array:
    """Log ratios of all draws of a slice of rows, (rows, batches * each)."""
    own = jax.random.fold_in(key, first)

    def some(number: Array) -> Array:
        return log_ratios(model, jax.random.fold_in(own, number), block, each, student=student)

    return lax.map(some, jnp.arange(batches)).reshape(batches * each, -1).T
