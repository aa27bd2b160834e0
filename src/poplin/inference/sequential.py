"""The log-likelihood of rows of many dimensions: positions drawn column by column, each where its count wants it.

Start at `in_rounds`, and at `sequential_ratios` for the draws. A Gaussian around the row misses that each cell's law is
one-sided, and what it misses multiplies over columns: 250 of them, and a thousand draws never see where most of the
mass lies. Here the Gaussian is kept only for what lies ahead. In coordinates e, N(0, I) under it, column j moves with
e_1 .. e_j alone (a QR decomposition), and e_j is drawn from its law given those before it and count j (`concave.draw`).
Where columns are independent the weights are nearly equal; otherwise they vary by how much the skewness of later
columns says of earlier ones. Source: the simulator of Geweke (1991), Hajivassiliou and Keane for probabilities of
truncated normals, with a Gaussian that looks ahead.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from poplin._axes import Coefficients, Loadings
from poplin._compile import compiled
from poplin.data.blocks import Block
from poplin.inference.concave import Law, draw
from poplin.rows.batches import inverse_root
from poplin.rows.gaussian import GaussianRows
from poplin.rows.plane import rates

DRAWS = 128  # of a row that are made together
BATCHES = (1, 4, 16)  # of draws, in all, after which it is asked whether they are enough
OWN = 2**31 - 2  # no row has this number: what is drawn here is not drawn elsewhere
ERROR = 0.05  # nats: a standard error that is small enough


class Sites(NamedTuple):
    """A row around its Gaussian: log p(y, w) = constant + pull'e - |e|^2 / 2 + sum_j h_j(t_j), t = lower e.

    h_j(t) = weight_j (t + t^2 / 2) - rate_j exp(t), columns in the row's own order; lower (p, q) has zeros above its
    diagonal and none below zero on it. Exact, whatever the weights.
    """

    constant: Array
    pull: Array
    weight: Array
    rate: Array
    lower: Array


@compiled()
def column_order(block: Block, gaussians: GaussianRows, coef: Coefficients, loadings: Loadings) -> Array:
    """The columns of each row (n, p), those first that are farthest from Gaussian: A^2 (exp(v) - 1 - v - v^2 / 2)."""

    def one_row(row) -> Array:
        predictor, covariance = row
        spread = jnp.sum((loadings @ covariance) * loadings, axis=1)
        # its logarithm, but for a factor between 1/6 and 1
        score = 2 * (predictor + 0.5 * spread) + 3 * jnp.log(spread + 1e-300) + jnp.maximum(spread - 3, 0)
        return jnp.argsort(-score)

    predictor = block.offset + block.x @ coef + gaussians.mean @ loadings.T
    return lax.map(one_row, (predictor, gaussians.covariance))


@compiled()
def sequential_ratios(
    key: Array,
    block: Block,
    gaussians: GaussianRows,
    coef: Coefficients,
    loadings: Loadings,
    order: Array,
    chosen: Array,
    count: Array,
) -> Array:
    """Log p(y_i, w) - log t(w) of `DRAWS` draws of the first `count` of the rows `chosen`, (n, `DRAWS`).

    -inf stands in other rows. A row's draws depend on `key` and its index only. Cost: q^3 + p q^2 + DRAWS q (2 p + 30
    exponentials) a row; memory: DRAWS p numbers beside the result.
    """
    base = block.offset + block.x @ coef + gaussians.mean @ loadings.T

    def one_row(k, found: Array) -> Array:
        i = chosen[k]
        sites = _sites(
            block.y[i],
            base[i],
            block.log_factorial[i],
            gaussians.mean[i],
            gaussians.covariance[i],
            loadings,
            order[i],
        )
        uniform = jax.random.uniform(
            jax.random.fold_in(key, block.index[i]),
            (min(loadings.shape), DRAWS),
            base.dtype,
            1e-12,
            1 - 1e-12,
        )
        return found.at[i].set(_row_ratios(sites, uniform))

    return lax.fori_loop(0, count, one_row, jnp.full((len(base), DRAWS), -jnp.inf, base.dtype))


def _sites(y, predictor, log_factorial, mean, covariance, loadings: Loadings, order: Array) -> Sites:
    spread = jnp.sum((loadings @ covariance) * loadings, axis=1)
    weight = rates(predictor + 0.5 * spread)
    precision = jnp.eye(loadings.shape[1], dtype=weight.dtype) + loadings.T @ (weight[:, None] * loadings)
    root = inverse_root(precision[None])[0]
    turn, upper = jnp.linalg.qr((loadings @ root)[order].T)  # (q, r) and (r, p), r = min(p, q)
    sign = jnp.where(jnp.diagonal(upper) < 0, -1.0, 1.0)
    every = ((y - weight) @ loadings - mean) @ root
    pull = every @ (turn * sign)
    constant = (
        y @ predictor
        - log_factorial
        - 0.5 * mean @ mean
        + jnp.sum(jnp.log(jnp.diagonal(root)))
        + 0.5 * jnp.maximum(every @ every - pull @ pull, 0.0)  # of directions that no column sees, if q > p
    )
    lower = (upper * sign[:, None]).T
    return Sites(constant, pull, weight[order], rates(predictor)[order], lower)


def _row_ratios(sites: Sites, uniform: Array) -> Array:
    """Log ratios (draws,) of one row."""
    constant, pull, weight, rate, lower = sites
    (p, steps), draws = lower.shape, uniform.shape[1]

    def column(j, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        moved, log_ratio = carry
        before, scale = moved[j], lower[j, j]
        law = Law(
            pull=pull[j] + weight[j] * scale * (1 + before),
            stiffness=jnp.broadcast_to(1 - weight[j] * scale**2, before.shape),
            log_rate=jnp.log(rate[j]) + before,
            slope=jnp.broadcast_to(scale, before.shape),
        )
        e, ratio = draw(uniform[j], law)
        log_ratio = log_ratio + ratio + weight[j] * before * (1 + 0.5 * before) - 0.5 * jnp.log(2 * jnp.pi)
        return moved + lower[:, j, None] * e, log_ratio

    begun = jnp.zeros((p, draws), uniform.dtype), jnp.full(draws, constant)
    moved, log_ratio = lax.fori_loop(0, steps, column, begun)
    rest = moved[steps:]  # columns that all coordinates are needed for
    sites_left = weight[steps:, None] * (rest + 0.5 * rest**2) - rate[steps:, None] * jnp.exp(rest)
    return log_ratio + jnp.sum(sites_left, axis=0)


class Way(NamedTuple):
    """Rows under a model: their block and Gaussians, B and C."""

    block: Block
    gaussians: GaussianRows
    coef: Coefficients
    loadings: Loadings


def in_rounds(
    key: Array, ways: Sequence[Way], rows: np.ndarray, enough: Callable[..., np.ndarray]
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Log ratios of some rows under each model: more and more draws of those that have not enough.

    Yields rows that are done and, for each way, their log ratios (rows, draws). `enough(*log_ratios)` says of which
    rows (rows,) there are enough. The models share the order of columns (the last model's) and the random numbers.
    Memory: what `sequential_ratios` needs, and the log ratios of rows that are not done.
    """
    n, last = len(ways[-1].block.index), ways[-1]
    order = column_order(last.block, last.gaussians, last.coef, last.loadings)
    held = [np.empty((len(rows), 0)) for _ in ways]
    for total in BATCHES:
        chosen = jnp.asarray(np.pad(rows, (0, n - len(rows))))
        for k in range(held[0].shape[1] // DRAWS, total):
            own = jax.random.fold_in(jax.random.fold_in(key, OWN), k)
            more = [sequential_ratios(own, *way, order, chosen, jnp.asarray(len(rows))) for way in ways]
            held = [np.concatenate([a, np.asarray(b)[rows]], axis=1) for a, b in zip(held, more, strict=True)]
        done = enough(*held) | (total == BATCHES[-1])
        if done.any():
            yield rows[done], [a[done] for a in held]
        rows, held = rows[~done], [a[~done] for a in held]
        if not len(rows):
            return


def log_mean(log_ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log of the mean ratio of each row (n, draws) with its bias taken out, standard error, effective draws."""
    largest = log_ratios.max(axis=1)
    with np.errstate(all="ignore"):
        weights = np.exp(log_ratios - largest[:, None])
    effective = weights.sum(axis=1) ** 2 / np.sum(weights**2, axis=1)
    variance = relative(log_ratios).var(axis=1, ddof=1) / weights.shape[1]
    return largest + np.log(weights.mean(axis=1)) + 0.5 * variance, np.sqrt(variance), effective


def relative(log_ratios: np.ndarray) -> np.ndarray:
    """Ratios of each row divided by their mean."""
    with np.errstate(all="ignore"):
        weights = np.exp(log_ratios - log_ratios.max(axis=1, keepdims=True))
    return weights / weights.mean(axis=1, keepdims=True)
