"""Rows through an encoder: slice by slice, with free steps behind its answer if the fit was made so.

Start at `embedded`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poplin._compile import compiled
from poplin.data import held
from poplin.data.blocks import NO_EXPOSURE, Block
from poplin.estimators.encoding import latent_of
from poplin.methods.amortised import Embedder, bound_terms
from poplin.models.loadings import principal_axes
from poplin.rows.climbing import Law, Seen, climb
from poplin.rows.encoders import AbstractEncoder, DiagonalPosterior, FullPosterior
from poplin.rows.gaussian import Moments, advance_rows
from poplin.updates.structure import Model

SLICE = 16_384  # rows that are embedded together


def embedded(embedder: Embedder, model: Model, counts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of positions as they are reported: Z - XB, or w in principal axes, (n, k).

    `counts` has y (n, p; NaN: missing), x and offset. Costs a pass through the network, and for the free steps a
    bound's; beside the result, memory is that of a slice.
    """
    turn = None if embedder.origin is not None else principal_axes(model.loadings)[2]
    (n, p), k = counts.y.shape, model.loadings.shape[1]
    size = max(1, min(n, SLICE, held.PIECE // p)) if held.is_held_sparse(counts.y) else min(n, SLICE)
    mean, variance = np.empty((n, k)), np.empty((n, k))
    for first in range(0, n, size):
        part = slice(first, first + size)
        y, offset = held.dense_rows(counts.y, part), counts.offset[part]
        missing = np.isnan(y)
        if missing.any():
            y, offset = np.where(missing, 0.0, y), np.where(missing, NO_EXPOSURE, offset)
        x = np.asarray(counts.x[part])
        found = _of_slice(embedder, model, (y, x, offset), size)
        mean[part], variance[part] = _reported(embedder, model, found, x, turn)
    return mean, variance


def _reported(
    embedder: Embedder, model: Model, found: Any, x: np.ndarray, turn: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if turn is None:
        move = x @ (np.asarray(embedder.origin) - np.asarray(model.coef))
        return np.asarray(found.mean) + move, _variances(found)
    if isinstance(found, FullPosterior):
        return np.asarray(found.mean) @ turn, np.sum((turn.T @ np.asarray(found.lower)) ** 2, axis=2)
    return found.mean @ turn, _variances(found) @ turn**2


def _variances(found: Any) -> np.ndarray:
    if isinstance(found, FullPosterior):
        return np.sum(np.asarray(found.lower) ** 2, axis=2)
    return np.exp(2 * np.asarray(found.log_scale))


def posteriors(embedder: Embedder, model: Model, block: Block) -> Any:
    """The Gaussians that the rows of a block get, in double precision (NumPy)."""
    n, parts = len(block.index), []
    arrays = tuple(np.asarray(a) for a in (block.y, block.x, block.offset))
    for first in range(0, n, SLICE):
        part = tuple(a[first : first + SLICE] for a in arrays)
        parts.append(_of_slice(embedder, model, part, min(SLICE, n)))
    return jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)


def bound(embedder: Embedder, model: Model, block: Block) -> float:
    """The bound of the rows at the model with the Gaussians that they get, weighted, in nats, all constants."""
    found = posteriors(embedder, model, block)
    return float(bound_of(found, embedder.origin, model, block))


@compiled()
def bound_of(posterior: Any, origin: Any, model: Model, block: Block) -> Any:
    """The same with Gaussians that are given."""
    return block.weights @ bound_terms(latent_of(origin), posterior, model, block).objective


def _of_slice(embedder: Embedder, model: Model, rows: tuple[np.ndarray, ...], size: int) -> Any:
    """Single precision in the encoder, double in free steps; a short slice is filled up with its first row."""
    used = len(rows[0])
    if used < size:
        rows = tuple(np.concatenate([a, np.repeat(a[:1], size - used, axis=0)]) for a in rows)
    with jax.enable_x64(False):
        found = jax.device_get(_encoded(embedder.encoder, *(single(a) for a in rows)))
    found = jax.tree.map(double, found)
    if embedder.refine:
        found = jax.device_get(_refined(found, model, embedder.origin, *rows, steps=embedder.refine))
    return jax.tree.map(lambda a: np.asarray(a)[:used], found)


def single(a: Any) -> Any:
    """An array of numbers in the neural family's precision."""
    a = np.asarray(a)
    return a.astype({"f": np.float32, "i": np.int32}.get(a.dtype.kind, a.dtype))


def double(a: Any) -> Any:
    """An array of numbers in double precision."""
    return np.asarray(a, dtype=float)


@compiled()
def _encoded(encoder: AbstractEncoder, y: Any, x: Any, offset: Any) -> Any:
    return encoder(y, x, offset)


@compiled(static_argnames="steps")
def _refined(posterior: Any, model: Model, origin: Any, y: Any, x: Any, offset: Any, *, steps: int) -> Any:
    """So many free steps of each row from its Gaussian."""
    full = isinstance(posterior, FullPosterior)
    return (_refined_full if full else _refined_diagonal)(posterior, model, origin, y, x, offset, steps)


def _refined_diagonal(posterior, model, origin, y, x, offset, steps):
    coef, loadings = model
    if origin is None:
        law = Law(loadings, jnp.eye(loadings.shape[1]))
        rows = Seen(y, offset + x @ coef, jnp.zeros_like(posterior.mean))
    else:
        law = Law(jnp.eye(len(loadings)), jnp.linalg.inv(loadings @ loadings.T))
        rows = Seen(y, offset + x @ origin, x @ (coef - origin))
    return DiagonalPosterior(*climb(law, rows, posterior.mean, posterior.log_scale, steps=steps))


def _refined_full(posterior, model, origin, y, x, offset, steps):
    coef, loadings = model
    move = jnp.zeros(()) if origin is None else x @ (origin - coef)
    lower, mean = posterior.lower, posterior.mean
    into = jnp.eye(loadings.shape[1]) if origin is None else jnp.linalg.inv(loadings)
    out = jnp.eye(loadings.shape[1]) if origin is None else loadings
    lower = into @ lower  # triangular, as both are
    logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)), axis=1)
    moments = Moments((mean + move) @ into.T, lower @ jnp.swapaxes(lower, 1, 2), logdet)
    nothing = jnp.zeros(len(y))
    block = Block(y, x, offset, jnp.ones(len(y)), nothing, jnp.arange(len(y)))

    def step(_, moments):
        return advance_rows(moments, block, coef, loadings)[0]

    moments = jax.lax.fori_loop(0, steps, step, moments)
    covariance = out @ moments.covariance @ out.T
    lower = jnp.linalg.cholesky(0.5 * (covariance + jnp.swapaxes(covariance, 1, 2)))
    log_scale = jnp.log(jnp.diagonal(lower, axis1=1, axis2=2))
    return FullPosterior(moments.mean @ out.T - move, lower, log_scale)
