"""A fit as a list of phases on the one loop: a variational fit, and from it the chains of maximum likelihood.

Start at `fit_variational` and `fit_ml`. Options arrive here as objects (`Recipe`), never as strings.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from poplin import starts
from poplin._compile import compiled
from poplin.data.blocks import Block
from poplin.data.placing import largest, layout, row_by_row, rows_in, trimmed
from poplin.estimators import spreading, turned
from poplin.estimators.resuming import Settings, run
from poplin.estimators.spreading import Copying
from poplin.fit import Outcome, Trace, continued
from poplin.methods import ml, variational_full
from poplin.methods.bounds import AbstractBound, DirectBound, FactorBound
from poplin.methods.variational import Variational, remains
from poplin.methods.variational_full import FullVariational
from poplin.models.loadings import AbstractLoadings, BorrowedBasis
from poplin.rows.cells import slow_columns
from poplin.rows.chains import Chains
from poplin.rows.chains import frame as chain_frame
from poplin.rows.gaussian import start_rows
from poplin.updates.covariance import AbstractShape, Full
from poplin.updates.direct import Direct
from poplin.updates.low_rank import LowRank
from poplin.updates.structure import LOADING_SD, AbstractStructure, Borrowed, Model

SINGLE_FROM = 50_000  # entries from which chains run in single precision
SINGLE_UP_TO = 1e6  # counts above it need double precision
CHAIN_ROWS = 1000  # chains that a small table gets at least, over all rows
CHAINS_MOST = 32  # chains of one row at most
CHAIN_ENTRIES = 4_000_000  # entries (chains x columns) beyond which rows get a single chain
SKETCHES = 10, 30, 100  # iterations before each turning of free loadings
DRAWS = 150  # a dimension, on which Sigma's average rests while gamma is constant
FALLS = 10  # iterations, or visits of all rows, in which gamma falls to 0.6 of what it was


class Recipe(NamedTuple):
    """What is fitted: a shape of Sigma (direct form), or loadings of some rank (factor form).

    level (d, d), spread: precisions of the weak priors of a column of B, and of the scale of a free Sigma's columns.
    """

    shape: AbstractShape | None
    loadings: AbstractLoadings | None
    rank: int
    level: Array | None = None
    spread: float = 1 / LOADING_SD**2

    def bound(self) -> AbstractBound:
        """The diagonal bound of this model."""
        if self.loadings is None:
            assert self.shape is not None
            return DirectBound(self.shape)
        return FactorBound(self.loadings)

    def structure(self, *, weak: bool = False) -> AbstractStructure:
        """The M-step of this model; with the weak priors where draws are followed."""
        level = self.level if weak else None
        if self.loadings is None:
            assert self.shape is not None
            return Direct(self.shape, level, self.spread if weak else 0.0)
        if isinstance(self.loadings, BorrowedBasis):
            return Borrowed(self.loadings.basis, level)
        return LowRank(level=level)


class RowGaussians(NamedTuple):
    """Diagonal Gaussians of all rows: mean and variance, of Z in the direct form, of w in the factor form."""

    mean: Array
    variance: Array


class Fitted(NamedTuple):
    """A phase's end: the model, the rows' Gaussians if it had any, and how the loop ended."""

    model: Model
    rows: RowGaussians | None
    outcome: Outcome


@compiled()
def end_of(recipe: Recipe, state: Any, unknown: tuple[Array, Array]) -> tuple[Model, RowGaussians]:
    """The model and the rows' Gaussians where a variational fit ended."""
    mean, log_sd = unknown
    rows = RowGaussians(mean, jnp.exp(2 * log_sd))
    if recipe.loadings is None:
        profile = state.best_profile
        return Model(profile.coef, jnp.linalg.cholesky(profile.profile.covariance)), rows
    return Model(*recipe.loadings.expand(state.vector.unknown)), rows


_direct_start = compiled()(starts.direct_start)
_factor_start = compiled(static_argnames="rank")(starts.factor_start)


def first_values(recipe: Recipe, block: Block, key: Array | None = None) -> starts.First:
    """Deterministic first values; with a key, rows (and loadings) are moved at random from them."""
    if recipe.loadings is None:
        begun = _direct_start(block)
    else:
        begun = _factor_start(block, recipe.loadings, rank=recipe.rank)
    first: Any = starts.beside(begun, block)
    if key is None:
        return first
    unknowns, rebuild = jax.tree.flatten((first.shared[1:] if first.shared else (), first.rows[0]))
    keys = jax.random.split(key, len(unknowns))
    moved = [
        u + jnp.std(trimmed(u, block)) * jax.random.normal(k, u.shape, u.dtype)
        for u, k in zip(unknowns, keys, strict=True)
    ]
    others, mean = jax.tree.unflatten(rebuild, moved)
    return starts.beside(
        first._replace(shared=(*first.shared[:1], *others), rows=(mean, first.rows[1])), block
    )


def fit_variational(recipe: Recipe, block: Block, settings: Settings, *, key: Array | None = None) -> Fitted:
    """Maximise the diagonal bound; a key starts from a random neighbour of the usual first values.

    Where loadings are free, short fits come first, and after each the latent axes are turned (`turned.py`).
    """
    first, traces = first_values(recipe, block, key), []
    for steps in SKETCHES if turned.possible(recipe.loadings, block, rank=recipe.rank) else ():
        sketch = climb(recipe, block, first, settings._replace(max_iter=min(steps, settings.max_iter)))
        traces.append(sketch.trace)
        if sketch.interrupted:
            return _fitted(recipe, sketch, traces)
        assert recipe.loadings is not None
        first, worthwhile = turned.first_values(recipe.loadings, block, sketch)
        if not worthwhile:
            break
    outcome = climb(recipe, block, first, settings)
    return _fitted(recipe, outcome, [*traces, outcome.trace])


def climb(recipe: Recipe, block: Block, first: starts.First, settings: Settings) -> Outcome:
    """Maximise the diagonal bound from given first values, without turning; of the rows their unknowns remain."""
    method = Variational(recipe.bound(), settings.tol)
    return run(method, first, block, settings, phase="variational", remains=remains)


def _fitted(recipe: Recipe, outcome: Outcome, traces: list[Trace]) -> Fitted:
    outcome = outcome._replace(trace=continued(traces))
    model, rows = end_of(recipe, outcome.state, outcome.rows.unknown)
    return Fitted(model, rows, outcome)


def fit_full(recipe: Recipe, block: Block, start: Fitted, settings: Settings) -> Fitted:
    """Maximise the bound with a full Gaussian per row, from a diagonal fit."""
    method = FullVariational(recipe.structure(), settings.tol)
    first = variational_full.First(start.model, row_by_row(start_rows, block, *start.model))
    outcome = run(method, first, block, settings, phase="full")
    return Fitted(outcome.state.best, None, outcome)


def chains_per_row(n: int, p: int, rank: int) -> int:
    """Chains of each row: enough draws for p columns on a small table, one on a large one."""
    wanted = -(-max(CHAIN_ROWS, 20 * rank) // n)
    return int(max(1, min(wanted, CHAINS_MOST, CHAIN_ENTRIES // (n * p))))


def constant_gamma(rows: int, rank: int, *, direct: bool) -> float:
    """The weight of the newest draw: small enough that Sigma's average rests on `DRAWS` draws a dimension.

    On fewer, its noise alone moves what counts say little of, and a falling gain does not bring that back.
    """
    return float(min(1.0 if direct else 0.4, rows / (DRAWS * rank)))


class ChainKind(NamedTuple):
    """How chains are laid out: form of the model, chains a row, precision."""

    direct: bool
    copies: int
    kind: Any


def chain_kind(recipe: Recipe, block: Block) -> ChainKind:
    """Several chains a row on a small table; single precision on a large one, if its counts allow."""
    n, p = rows_in(block), block.y.shape[1]
    copies = chains_per_row(n, p, recipe.rank)
    single = n * copies * p >= SINGLE_FROM and largest(block.y) < SINGLE_UP_TO
    return ChainKind(recipe.loadings is None, copies, jnp.float32 if single else jnp.float64)


def chain_start(recipe: Recipe, block: Block, start: Fitted, key: Array) -> "Chained":
    """Chains at the variational means, and the block repeated for several chains a row (weights shared out)."""
    assert start.rows is not None
    how, over, given = chain_kind(recipe, block), layout(block), (start.model, start.rows, block)
    if over is None:
        rows, mean_rate, many = repeated(*given, **how._asdict())
    else:
        once = partial(repeated, direct=how.direct, kind=how.kind)
        rows, mean_rate, many = spreading.repeated(over, Copying(once, how.copies), *given)
    slow = None if recipe.loadings is not None else _slow_columns(*given)
    return Chained(ml.First(start.model, rows, mean_rate, key, slow), many)


@compiled()
def _slow_columns(model: Model, rows: RowGaussians, block: Block) -> Array:
    """The columns of a direct form whose cells are drawn one by one as well."""
    rate = jnp.exp(block.offset + rows.mean + 0.5 * rows.variance)
    frame = chain_frame(model.loadings, block.weights @ rate / jnp.sum(block.weights))
    return slow_columns(frame, rate, rows.variance, block)


@compiled(static_argnames=("direct", "copies", "kind"))
def repeated(
    model: Model, rows: RowGaussians, block: Block, *, direct: bool, copies: int, kind: Any
) -> tuple[ml.Rows, Array, Block]:
    """Chains at the rows' means, the columns' mean rates, and the block with `copies` of each row."""
    position, rate = _whitened(model, rows, block, direct=direct)
    mean_rate = block.weights @ rate / jnp.sum(block.weights)

    def tiled(a: Array) -> Array:
        a = a.astype(kind) if jnp.issubdtype(a.dtype, jnp.floating) else a
        return jnp.tile(a, (copies,) + (1,) * (a.ndim - 1))

    many = jax.tree.map(tiled, block)
    total = len(block.y) * copies
    many = many._replace(weights=many.weights / copies, index=jnp.arange(total))
    still = jnp.full(total, jnp.log(0.5), kind), jnp.full(total, 0.8, kind)
    chains = Chains(tiled(position), tiled(rate), *still)
    return ml.Rows(chains, chains.position), mean_rate, many


def _whitened(model: Model, rows: RowGaussians, block: Block, *, direct: bool) -> tuple[Array, Array]:
    """W at the rows' means, and the mean rates there."""
    if direct:
        residual = rows.mean - block.x @ model.coef
        position = solve_triangular(model.loadings, residual.T, lower=True).T
        return position, jnp.exp(block.offset + rows.mean + 0.5 * rows.variance)
    predictor = block.offset + block.x @ model.coef + rows.mean @ model.loadings.T
    return rows.mean, jnp.exp(predictor + 0.5 * rows.variance @ (model.loadings**2).T)


@compiled()
def penalty(recipe: Recipe, model: Model) -> Array:
    """Minus the log prior of a model by maximum likelihood, in nats: shrinkage, and the weak priors of B and scales."""
    return recipe.structure(weak=True).penalty_at(model)


class Chained(NamedTuple):
    """Where chains stand: what the next phase of maximum likelihood begins from, and the block they live on."""

    first: ml.First
    block: Block


def ml_method(recipe: Recipe, rows: int, *, tol: float, pace: int = 1) -> ml.MaximumLikelihood:
    """The method for so many chains an iteration, all of which are visited in `pace` iterations."""
    gamma = constant_gamma(rows, recipe.rank, direct=recipe.loadings is None)
    structure = recipe.structure(weak=True)
    return ml.MaximumLikelihood(structure, gamma, tol, pace=pace, falls=FALLS * pace)


def ml_phase(recipe: Recipe, where: Chained, settings: Settings, *, phase: str) -> tuple[Fitted, Chained]:
    """Maximum likelihood (penalised if the shape shrinks) by stochastic-approximation EM, from where chains stand."""
    method = ml_method(recipe, rows_in(where.block), tol=settings.tol)
    outcome = run(method, where.first, where.block, settings, phase=phase)
    state = outcome.state
    estimate, key = _estimate(method, state, where.first.key)
    first = ml.First(state.model, outcome.rows, state.mean_rate, key, state.slow)
    return Fitted(estimate, None, outcome), Chained(first, where.block)


@compiled()
def _estimate(method: ml.MaximumLikelihood, state: ml.State, key: Array) -> tuple[Model, Array]:
    """The averaged model, and a key for the phase that follows."""
    return method.estimate(state), jax.random.fold_in(key, 1)


def with_shrinkage(recipe: Recipe, kappa: float) -> Recipe:
    """The recipe with kappa pseudo-rows behind a free Sigma."""
    return recipe._replace(shape=Full(jnp.asarray(kappa))) if isinstance(recipe.shape, Full) else recipe
