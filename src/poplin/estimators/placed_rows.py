"""Rows under a fitted model: their positions, the bound on them, their likelihoods, in the fit's own axes.

Start at `latent`. Every fitted model is Z = XB + C w, so one set of row routines serves both forms; results are turned
here into what is reported (w in principal axes, or Z - XB).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poplin._numerics import compiled
from poplin._random import Purpose, derive
from poplin.data import held
from poplin.data.blocks import Block, as_block
from poplin.data.counts import (
    Counts,
    some_rows,
)
from poplin.data.streams import Stream
from poplin.fitting import amortised
from poplin.fitting.driver import Result
from poplin.fitting.phases import best_rows, first_rows, frozen_bound, surer_rows, training_block
from poplin.inference.likelihood import RowLikelihood, row_loglik
from poplin.laws import AbstractLaw
from poplin.models.loadings import principal_axes
from poplin.rows.gaussian import fit_rows
from poplin.updates.structure import Model

Moments = tuple[np.ndarray, np.ndarray]
DRAWS = 1000  # importance draws of a row


def new_block(result: Result, counts: Counts) -> Block:
    """Rows under the law of a fitted model: no prior for empty columns, weights as given."""
    arrays = counts.y, counts.x, counts.offset, counts.weights
    return as_block(*arrays, prior=False, zero_features=counts.zero_features).under(result.law)


def own_block(result: Result, counts: Counts) -> Block:
    """The rows of the fit under its law, as they were fitted."""
    return training_block(counts).under(result.law)


def _arrays(result: Result) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(result.coef), jnp.asarray(result.loadings)


def _uses_diagonal(result: Result) -> bool:
    """Whether the rows of this fit are the bound's own diagonal Gaussians."""
    return result.rows is not None and result.posterior == "diagonal"


def diagonal_rows(result: Result, block: Block) -> tuple[jax.Array, jax.Array, float]:
    """Means, variances and bound of the best diagonal Gaussians under the fitted parameters."""
    model = Model(*_arrays(result))
    first = first_rows(model, block, direct=result.direct)
    outcome = best_rows(model, block, first, direct=result.direct)
    if not (result.direct or np.isfinite(outcome.state.objective)):
        outcome = best_rows(model, block, surer_rows(model, block), direct=False)
    mean, log_sd = outcome.rows.unknown
    return mean, jnp.exp(2 * log_sd), float(outcome.state.objective)


def _reported(result: Result, mean: jax.Array, variance: jax.Array, x: jax.Array) -> Moments:
    """Diagonal Gaussians of the bound as reported: Z - XB, or w in principal axes."""
    coef, loadings = _arrays(result)
    mean = mean - x @ coef if result.direct else mean
    if result.rank() is None:
        return np.asarray(mean), np.asarray(variance)
    turn, own = _axes_of(result)
    turn = jnp.linalg.solve(loadings.T, turn) if result.direct else turn
    return np.asarray(mean @ turn), np.asarray(variance @ turn**2) + own


def _full_moments(result: Result, block: Block, turn: jax.Array) -> Moments:
    """Mean and variance of turn' w under each row's full Gaussian, for turn (q, r)."""
    rows = fit_rows(block, *_arrays(result))
    mean, variance = _turned(rows.mean, rows.covariance, turn)
    return np.asarray(mean), np.asarray(variance)


@compiled()
def _turned(mean: jax.Array, covariance: jax.Array, turn: jax.Array) -> tuple[jax.Array, jax.Array]:
    return mean @ turn, jnp.einsum("qr,nqs,sr->nr", turn, covariance, turn)


def _axes_of(result: Result) -> tuple[jax.Array, np.ndarray | float]:
    """What turns w into the reported latent: C' (direct form) or the rotation to principal axes; its variance by Z."""
    if result.parts is None:
        root = result.loadings
        return jnp.asarray(root.T if result.direct else principal_axes(root)[2]), 0.0
    axes, eigenvalues, _ = principal_axes(result.axes())
    turn = np.linalg.solve(result.loadings, axes * np.sqrt(eigenvalues))
    return jnp.asarray(turn), 1 - np.sum(turn**2, axis=0)


def training_latent(result: Result, counts: Counts) -> Moments:
    """`latent_mean_` and `latent_variance_`."""
    if result.encoder is not None:
        return amortised.embedded(result.encoder, Model(*_arrays(result)), counts)
    if _uses_diagonal(result) and result.rows is not None and (counts.weights > 0).all():
        mean, variance = (jnp.asarray(a) for a in result.rows)
        return _reported(result, mean, variance, jnp.asarray(counts.x))
    if held.is_held_sparse(counts.y):
        return latent(result, counts)
    return _latent(result, own_block(result, counts))


def latent(result: Result, counts: Counts) -> Moments:
    """Mean and variance of rows' latent positions under the fitted parameters."""
    if result.encoder is not None:
        return amortised.embedded(result.encoder, Model(*_arrays(result)), counts)
    return _by_pieces(counts, lambda part: _latent(result, _new_rows(result, part)))


def _new_rows(result: Result, counts: Counts) -> Block:
    return new_block(result, counts._replace(weights=np.ones_like(counts.weights)))


def _by_pieces(counts: Counts, ask: Callable[[Counts], Any]) -> Any:
    """What is asked of rows one by one; of a sparse table, of as many at a time as are dense together."""
    if not held.is_held_sparse(counts.y):
        return ask(counts)
    found = [ask(some_rows(counts, rows)) for rows in held.pieces(*counts.y.shape)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def _latent(result: Result, block: Block) -> Moments:
    if _uses_diagonal(result):
        mean, variance, _ = diagonal_rows(result, block)
        return _reported(result, mean, variance, block.x)
    turn, own = _axes_of(result)
    mean, variance = _full_moments(result, block, turn)
    return mean, variance + own


def position(result: Result, counts: Counts) -> Moments:
    """Mean and variance of Z of every column, seen or not, by the full Gaussian of each row, (n, p)."""

    def of(part: Counts) -> Moments:
        mean, variance = _full_moments(result, new_block(result, part), _arrays(result)[1].T)
        return mean + part.x @ result.coef, variance

    return _by_pieces(counts, of)


def bound(result: Result, counts: Counts) -> float:
    """The bound of the training rows at the fitted parameters, in the fit's Gaussian family."""
    if not held.is_held_sparse(counts.y):
        return _bound_of_block(result, own_block(result, counts))
    stream = Stream(counts, seed=0, kind=jnp.float64)
    blocks = (stream.block(k).under(result.law) for k in range(stream.blocks))
    return sum(_bound_of_block(result, block) for block in blocks if np.any(np.asarray(block.weights)))


def _bound_of_block(result: Result, block: Block) -> float:
    """The same of some of the training rows; bounds of blocks add up, B and Sigma being as they are."""
    model = Model(*_arrays(result))
    if result.encoder is not None:
        return amortised.bound(result.encoder, model, block)
    if result.posterior == "full":
        return float(block.weights @ fit_rows(block, *model).bound)
    if result.rows is not None:
        mean, variance = (jnp.asarray(a[np.asarray(block.index)]) for a in result.rows)
        frozen = frozen_bound(model, direct=result.direct)
        return float(frozen.value(frozen.measure((), (mean, 0.5 * jnp.log(variance)), block)[1])[0])
    return diagonal_rows(result, block)[2]


def row_scores(result: Result, counts: Counts, *, seed: int, khat: bool = False) -> RowLikelihood:
    """Importance-sampled log-likelihood of each row; of a sparse table its pieces share the numbers of their draws."""
    key = derive(seed, Purpose.LIKELIHOOD).key()

    def of(part: Counts) -> RowLikelihood:
        return row_loglik(key, new_block(result, part), *_arrays(result), draws=DRAWS, khat=khat)

    return _by_pieces(counts, of)


def bound_frame(result: Result) -> dict[str, np.ndarray]:
    """The bound's own unknowns (diagonal variational fits): mean and variance of Z, or of w beside `loadings`."""
    if result.rows is None:
        raise AttributeError("variational_: only a fit by method='variational' has unknowns of the bound.")
    mean, variance = result.rows
    root, told = result.loadings, {"mean": mean, "variance": variance, "coef": result.coef}
    return told | ({"covariance": root @ root.T} if result.direct else {"loadings": root})


def mean_counts(law: AbstractLaw, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """E[y] of cells (n, p) whose log rates are N(mean, variance), by the law's own closed form, or by quadrature."""
    return np.asarray(law.marginal_mean(jnp.asarray(mean), jnp.asarray(variance)))
