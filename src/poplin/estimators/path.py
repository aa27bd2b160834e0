"""Fits along a path of ranks, on parts of the rows: one generous rank from scratch, the others from its leading axes.

Start at `RankPath`. `parts` divides the rows: those left out have weight zero, so that all parts have one shape and
one compilation serves them. Held-out rows are scored by `row_loglik` with loadings filled up to one width
(`Score`): all ranks then share one compilation, and the draws of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError
from poplin.data.blocks import Block, as_block
from poplin.data.counts import Counts
from poplin.data.tables import listed
from poplin.estimators import driver, phases, recipes
from poplin.estimators.phases import Chained, Recipe, Settings
from poplin.fit import Outcome, run
from poplin.inference.marginal import RowLikelihood, padded, row_loglik
from poplin.methods import ml
from poplin.models.loadings import BorrowedBasis
from poplin.rows.gaussian import fit_rows
from poplin.updates.low_rank import LowRank
from poplin.updates.structure import AbstractStructure, Borrowed, Model

DRAWS = 1000  # importance draws of a row


class Part(NamedTuple):
    """Counts in which rows left out have weight zero, and the rows to be scored: left-out ones, or all in use."""

    name: str
    counts: Counts
    scored: np.ndarray
    held_out: bool


class Fit(NamedTuple):
    """B (d, p), C (p, q), and whether the stopping rule held."""

    coef: np.ndarray
    loadings: np.ndarray
    converged: bool


def parts(counts: Counts, labels: np.ndarray) -> list[Part]:
    """A part for each fold: the fold's rows are scored, the others are fitted.

    Raises `InputError` where the rows that are left do not tell the covariates apart.
    """
    made, folds = [], int(labels.max()) + 1
    for fold in range(folds):
        left_out = labels == fold
        weights = np.where(left_out, 0.0, counts.weights)
        x = counts.x[weights > 0]
        if np.linalg.matrix_rank(x) < x.shape[1]:
            raise InputError(
                f"folds: without fold {fold + 1} the other {len(x)} rows do not tell the covariates "
                f"{listed(counts.covariate_names)} apart. Use fewer or other folds, or fewer covariates."
            )
        name = f"fold {fold + 1} of {folds}"
        made.append(Part(name, counts._replace(weights=weights), np.flatnonzero(left_out), True))
    return made


def whole(counts: Counts) -> Part:
    """All rows, fitted and scored."""
    return Part("all rows", counts, np.flatnonzero(counts.weights > 0), False)


class RankPath:
    """Maximum-likelihood fits of nested ranks on one part of the rows.

    A generous rank is fitted from scratch. Every rank up to it then begins at its leading axes (principal axes of
    free loadings, columns of a basis), its chains where they stand, and is fitted in the same shapes with its other
    dimensions empty: one compilation serves all ranks, and their draws agree, so that chance in the fits hardly
    enters their differences. A rank is never helped by rows that are left out.
    """

    def __init__(self, form: Callable[[int], Recipe], part: Part, key: jax.Array) -> None:
        self.form, self.key = form, key
        self.block = recipes.training_block(part.counts)
        self.top: int = 0
        self._where: Chained | None = None

    def begin(self, top: int, main: Settings) -> np.ndarray:
        """Fit the generous rank; its sizes of axes, (top,): eigenvalues of Sigma, or scales of the basis."""
        recipe = self.form(top)
        if top != self.top:
            short = driver.FACTOR_START._replace(began=main.began, callback=main.callback)
            start = phases.fit_variational(recipe, self.block, short)
            _heed(start.outcome)
            where = phases.chain_start(recipe, self.block, start, self.key)
            outcome, _ = _settle(_structure(recipe, top), where, main)
            state = outcome.state
            first = ml.First(state.model, outcome.rows, state.mean_rate, jax.random.fold_in(self.key, 1))
            self._where, self.top = where._replace(first=first), top
        assert self._where is not None
        loadings = np.asarray(self._where.first.model.loadings)
        if isinstance(recipe.loadings, BorrowedBasis):
            return np.sum(loadings**2, axis=0)
        return np.linalg.svd(loadings, compute_uv=False) ** 2

    def fit(self, rank: int, main: Settings) -> Fit:
        """The fit of one rank, not above the generous one. Raises KeyboardInterrupt if it was interrupted."""
        assert self._where is not None
        recipe = self.form(self.top)
        own_axes = not isinstance(recipe.loadings, BorrowedBasis)
        first = _truncated(self._where.first, jnp.asarray(rank), own_axes=own_axes)
        # copied, as the loop takes over the memory of what it is given
        first = jax.tree.map(jnp.copy, first._replace(key=None))._replace(key=first.key)
        outcome, model = _settle(_structure(recipe, rank), self._where._replace(first=first), main)
        loadings = np.asarray(model.loadings)[:, :rank]
        return Fit(np.asarray(model.coef), loadings, outcome.converged)


def _structure(recipe: Recipe, rank: int) -> AbstractStructure:
    """The M-step of the first `rank` dimensions of a factor form, the others empty."""
    active = (jnp.arange(recipe.rank) < rank) * 1.0
    if isinstance(recipe.loadings, BorrowedBasis):
        return Borrowed(recipe.loadings.basis * active, recipe.level)
    return LowRank(active, recipe.level)


def _settle(structure: AbstractStructure, where: Chained, main: Settings) -> tuple[Outcome, Model]:
    """Maximum likelihood from where chains stand: how the loop ended, and the averaged model."""
    rank = where.first.model.loadings.shape[1]
    method = ml.MaximumLikelihood(
        structure, phases.constant_gamma(len(where.block.y), rank, direct=False), main.tol
    )
    outcome = run(
        method,
        where.first,
        where.block,
        phase="ml",
        max_iter=main.max_iter,
        began=main.began,
        callback=main.callback,
    )
    _heed(outcome)
    return outcome, _estimate(method, outcome.state)


@jax.jit
def _estimate(method: ml.MaximumLikelihood, state: ml.State) -> Model:
    return method.estimate(state)


def _heed(outcome: Outcome) -> None:
    if outcome.interrupted:
        raise KeyboardInterrupt


@partial(jax.jit, static_argnames="own_axes")
def _truncated(first: ml.First, rank: jax.Array, *, own_axes: bool) -> ml.First:
    """Model and chains in leading axes, those after `rank` without loadings."""
    q = first.model.loadings.shape[1]
    turn = jnp.linalg.svd(first.model.loadings, full_matrices=False)[2].T if own_axes else jnp.eye(q)
    chains, centre = first.rows
    turned = turn.astype(centre.dtype)
    rows = ml.Rows(chains._replace(position=chains.position @ turned), centre @ turned)
    loadings = jnp.where(jnp.arange(q) < rank, first.model.loadings @ turn, 0.0)
    return first._replace(model=Model(first.model.coef, loadings), rows=rows)


class Score(NamedTuple):
    """Scores rows under fitted models: all rows on the device, weights aside, and the draws' key."""

    block: Block
    key: jax.Array

    def loglik(self, fit: Fit, rows: np.ndarray, *, width: int, size: int) -> RowLikelihood:
        """Importance-sampled log p(y_i) of the rows (m,), in nats.

        `width`: latent dimensions to which C is filled up with zeros; `size`: rows to which the rows are
        filled up. Neither changes what is computed, both make shapes equal.
        """
        loadings = padded(fit.loadings, width)
        chosen = jax.tree.map(lambda a: a[_filled(rows, size)], self.block)
        found = row_loglik(self.key, chosen, jnp.asarray(fit.coef), jnp.asarray(loadings), draws=DRAWS)
        value, error, effective, _, unsure = found
        value, error, effective, unsure = (a[: len(rows)] for a in (value, error, effective, unsure))
        return RowLikelihood(value, error, effective, None, unsure)

    def entropy(self, fit: Fit) -> np.ndarray:
        """Entropy of each row's position w given its counts, (n,), by its best full Gaussian, in nats."""
        rows = fit_rows(self.block, jnp.asarray(fit.coef), jnp.asarray(fit.loadings))
        q = fit.loadings.shape[1]
        return 0.5 * np.linalg.slogdet(np.asarray(rows.covariance))[1] + 0.5 * q * np.log(2 * np.pi * np.e)


def scores_of(counts: Counts, key: jax.Array) -> Score:
    """The rows of a table, ready to be scored."""
    return Score(as_block(counts.y, counts.x, counts.offset, counts.weights, prior=False), key)


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.full(size - len(rows), rows[0])])


def direct_fit(counts: Counts, settings: dict[str, Any], began: float) -> Fit:
    """A fit from scratch of whatever the settings say. Raises KeyboardInterrupt if it was interrupted."""
    result = driver.fit(counts, settings, began)
    if result.interrupted:
        raise KeyboardInterrupt
    return Fit(result.coef, result.loadings, result.converged)
