"""A fit as a list of phases on the one loop: a variational fit, and from it the chains of maximum likelihood.

Start at `fit_variational` and `fit_ml`. Options arrive here as objects (`Recipe`), never as strings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular

from poplin import starts
from poplin._axes import Latent
from poplin._numerics import compiled
from poplin._random import Purpose, derive
from poplin.data.blocks import (
    NO_EXPOSURE,
    NOWHERE,
    ROWS,
    Block,
    Layout,
    along,
    as_block,
    as_rows,
    largest,
    layout,
    placed,
    row_by_row,
    rows_in,
    spread_out,
    trimmed,
)
from poplin.data.counts import Counts
from poplin.fit import Outcome, Trace, continued, run
from poplin.fitting.checkpoints import Settings, run_resumed
from poplin.fitting.recipes import FitSettings, Recipe, count
from poplin.laws import (
    POISSON,
    AbstractLaw,
    ZeroInflated,
    with_parameters,
)
from poplin.methods import ml, variational
from poplin.methods.bounds import DirectBound, FactorBound, parted
from poplin.methods.method import over_devices
from poplin.methods.variational import FullVariational, QuasiNewton, Turning, remains
from poplin.models.loadings import AbstractLoadings, BorrowedBasis, FreeLoadings, FrozenLoadings
from poplin.rows.cells import slow_columns
from poplin.rows.chains import Chains
from poplin.rows.chains import frame as chain_frame
from poplin.rows.gaussian import ROOM, fit_rows, start_rows
from poplin.updates.structure import (
    Fixed,
    Full,
    Model,
)

# The best diagonal Gaussians of rows under a model that stays as it is: of new rows, and of rows where a fit begins.
#
# Start at `best_rows`.


def frozen_bound(model: Model, *, direct: bool) -> DirectBound | FactorBound:
    """The diagonal bound with B and Sigma as they are."""
    if direct:
        return DirectBound(Fixed(model.loadings @ model.loadings.T), model.coef)
    return FactorBound(FrozenLoadings(*model))


def first_rows(model: Model, block: Block, *, direct: bool) -> starts.First:
    """Rows near their best, from what the model leaves of log(y + 1/2)."""
    coef, loadings = model
    if direct:
        return starts.direct_rows_start(block, coef=coef, variance=jnp.sum(loadings**2, axis=1))
    observed = block.offset > NO_EXPOSURE / 2
    residual = jnp.where(observed, jnp.log(block.y + 0.5) - block.offset - block.x @ coef, 0.0)
    precision = jnp.eye(loadings.shape[1]) + loadings.T @ loadings
    scores = jnp.linalg.solve(precision, loadings.T @ residual.T).T
    free = FrozenLoadings(coef, loadings)
    return starts.scaled_factor_start(block, free, coef=coef, loadings=loadings, scores=scores)


@compiled()
def surer_rows(model: Model, block: Block) -> starts.First:
    """Rows of the factor form at their full Gaussians' means: loadings of a hundred make the usual start's bound -inf.

    Variances are 1 / (I + C' diag(A) C)_kk, and so much shorter that no rate is raised by more than e^ROOM above its
    count. Cost: n q^3 + n p q^2 a step of `fit_rows`.
    """
    coef, loadings = model
    fit = fit_rows(block, coef, loadings)
    predictor = block.offset + block.x @ coef + fit.mean @ loadings.T
    spread = jnp.einsum("jk,nkl,jl->nj", loadings, fit.covariance, loadings)
    variance = 1 / (1 + block.law.expected(predictor, spread, block.y).weight @ loadings**2)
    room = jnp.maximum(jnp.log(block.y + 1) + ROOM - predictor, 1.0)
    share = jnp.min(jnp.minimum(1.0, 2 * room / (variance @ (loadings**2).T + 1e-300)), axis=1)
    free = FrozenLoadings(coef, loadings)
    first = starts.scaled_factor_start(block, free, coef=coef, loadings=loadings, scores=fit.mean)
    return first._replace(rows=(fit.mean, 0.5 * jnp.log(share[:, None] * variance)))


def best_rows(
    model: Model, block: Block, first: starts.First, *, direct: bool, tol: float = 1e-10, max_iter: int = 2000
) -> Outcome:
    """The rows' best Gaussians from these first values: of Z in the direct form, of w in the factor form."""
    method = QuasiNewton(frozen_bound(model, direct=direct), tol)
    return run(method, first, block, phase="rows", max_iter=max_iter, began=time.perf_counter())


# Between two stretches of a variational fit with free loadings: the same point with its latent axes turned.
#
# Start at `turned_first_values`. A gradient method alone crawls along rotations of w; turned after 10, 40 and 140
# steps, a fit needs a fifth of the iterations and more often ends at a better optimum.


STEPS = 40  # of one turning at most
ENOUGH = 1e-4  # nats a row: less than this is not worth turning for
MOST_NUMBERS = 100_000_000  # in the rows' q x q precisions; beyond it nothing is turned


def possible(loadings: AbstractLoadings | None, block: Block, *, rank: int) -> bool:
    """Are there axes that may turn, and is there room for every row's precision?"""
    free = isinstance(loadings, FreeLoadings) and rank > 1
    return free and rows_in(block) * rank**2 <= MOST_NUMBERS


def turned_first_values(recipe: Recipe, block: Block, sketch: Outcome) -> tuple[starts.First, bool]:
    """First values at the sketch's end in turned axes; was there anything to gain by turning?"""
    free, shared = recipe.loadings, sketch.state.vector.unknown
    assert free is not None
    shared, own = parted(recipe.law, shared)
    law = with_parameters(recipe.law, own)
    model, mean, rate = _point(free, block, law, shared, sketch.rows.unknown)
    first = _beside((model.loadings, rate), block)
    method = over_devices(Turning(ENOUGH), first, block)
    outcome = run(method, first, block, phase="turning", max_iter=STEPS, began=0.0)
    gain = outcome.trace.objective[-1] - outcome.trace.objective[0]
    first = _in_axes(free, block, model, mean, outcome.state.turn)
    first = starts.with_law(first, law, block)
    return starts.beside(first, block), bool(gain > ENOUGH * rows_in(block))


def _beside(first: tuple[Array, Array], block: Block) -> tuple[Array, Array]:
    """Loadings on all devices, rates beside their rows."""
    over = layout(block)
    return first if over is None else (over.lying(first[0], NOWHERE), over.lying(first[1], 0))


@jax.jit
def _point(free: AbstractLoadings, block: Block, law: AbstractLaw, shared: Any, unknown: tuple[Array, Array]):
    """(B, C), the rows' means, and A (n, p)."""
    predictor, spread = FactorBound(free).seen(shared, unknown, block)
    weight = block.under(law).law.expected(predictor, spread, block.y).weight
    return Model(*free.expand(shared)), unknown[0], weight


@jax.jit
def _in_axes(free: AbstractLoadings, block: Block, model: Model, mean: Latent, turn: Array) -> starts.First:
    coef, loadings = model
    return starts.scaled_factor_start(block, free, coef=coef, loadings=loadings @ turn, scores=mean @ turn)


# Chains over several devices: where the rows of a variational fit lie, or, for a small table, repeated and dealt out.
#
# Start at `dealt_out`, which does over devices what `phases.repeated` does on one.


class Copying(NamedTuple):
    """`phases.repeated` with its options, `repeat(model, rows, block, copies=...)`, and chains of a row."""

    repeat: Callable[..., tuple[ml.ChainRows, Array, Block]]
    copies: int


def dealt_out(
    over: Layout, how: Copying, model: Model, rows: Any, block: Block
) -> tuple[ml.ChainRows, Array, Block]:
    """Chains at the rows' means, the columns' mean rates, and the block with its copies of each row."""
    return (
        _in_place(over, how, model, rows, block)
        if how.copies == 1
        else _dealt_out(over, how, model, rows, block)
    )


def _in_place(
    over: Layout, how: Copying, model: Model, rows: Any, block: Block
) -> tuple[ml.ChainRows, Array, Block]:
    """A single chain a row, beside its row."""

    def piece(model: Model, rows: Any, block: Block) -> tuple[ml.ChainRows, Array, Block]:
        moving, mean_rate, many = how.repeat(model, rows, block, copies=1)
        part = jnp.sum(block.weights)
        sums = jax.lax.psum((jnp.where(part > 0, part * mean_rate, 0.0), part), ROWS)
        return moving, sums[0] / sums[1], many._replace(index=block.index)

    cut, everywhere = along(0), along(NOWHERE)
    pieces = jax.shard_map(
        piece,
        mesh=over.mesh,
        in_specs=(everywhere, cut, cut),
        out_specs=(cut, everywhere, cut),
        check_vma=False,
    )
    return jax.jit(pieces)(model, rows, block)


def _dealt_out(
    over: Layout, how: Copying, model: Model, rows: Any, block: Block
) -> tuple[ml.ChainRows, Array, Block]:
    """Several chains a row: the table is small, so every process repeats all of it, and hands out the copies."""

    def here(tree: Any) -> Any:
        return jax.tree.map(lambda a: jnp.asarray(over.fetch(a, 0)), tree)

    alone = jax.tree.map(np.asarray, model)
    moving, mean_rate, many = how.repeat(alone, here(rows), here(block), copies=how.copies)
    many = spread_out(jax.tree.map(np.asarray, many), over.mesh)
    wide = Layout(over.mesh, over.rows * how.copies)
    return jax.tree.map(lambda a: wide.put(a, 0), moving), wide.put(mean_rate, NOWHERE), many


SINGLE_FROM = 50_000  # entries from which chains run in single precision
SINGLE_UP_TO = 1e6  # counts above it need double precision
CHAIN_ROWS = 1000  # chains that a small table gets at least, over all rows
CHAINS_MOST = 32  # chains of one row at most
CHAIN_ENTRIES = 4_000_000  # entries (chains x columns) beyond which rows get a single chain
SKETCHES = 10, 30, 100  # iterations before each turning of free loadings
FARTHEST_OWN = 8.0  # size of a law's own parameter where chains begin: a probability of e^-8, a size of e^8
LEAST_SCALE = 0.3  # of the mean variance along a given basis, from which each begins
DRAWS = 150  # a dimension, on which Sigma's average rests while gamma is constant
FALLS = 10  # iterations, or visits of all rows, in which gamma falls to 0.6 of what it was


class RowGaussians(NamedTuple):
    """Diagonal Gaussians of all rows: mean and variance, of Z in the direct form, of w in the factor form."""

    mean: Array
    variance: Array


class Fitted(NamedTuple):
    """A phase's end: the model, the rows' Gaussians if it had any, how the loop ended, the law of the counts."""

    model: Model
    rows: RowGaussians | None
    outcome: Outcome
    law: AbstractLaw = POISSON


@compiled()
def end_of(
    recipe: Recipe, state: Any, unknown: tuple[Array, Array]
) -> tuple[Model, RowGaussians, AbstractLaw]:
    """The model, the rows' Gaussians and the law where a variational fit ended."""
    mean, log_sd = unknown
    rows, shared = RowGaussians(mean, jnp.exp(2 * log_sd)), state.vector.unknown
    if recipe.loadings is None:
        profile = state.best_profile
        model = Model(profile.coef, jnp.linalg.cholesky(profile.profile.covariance))
        return model, rows, with_parameters(recipe.law, shared)
    free, own = parted(recipe.law, shared)
    return Model(*recipe.loadings.expand(free)), rows, with_parameters(recipe.law, own)


_direct_start = compiled()(starts.direct_start)
_factor_start = compiled(static_argnames="rank")(starts.factor_start)
_law_start = compiled()(starts.law_start)


def first_values(
    recipe: Recipe, block: Block, key: Array | None = None, *, zeros: bool = True
) -> starts.First:
    """Deterministic first values; with a key, rows (and loadings) are moved at random from them.

    Without zeros, as if none had been counted: they may all be zeros whatever the log rate.
    """
    seen = block if zeros else starts.without_zeros(block)
    if recipe.loadings is None:
        begun = _direct_start(seen)
    else:
        begun = _factor_start(seen, recipe.loadings, rank=recipe.rank)
    law = _law_start(recipe.law, block)
    first: Any = starts.beside(starts.with_law(begun, law, block), block)
    if key is None:
        return first
    free, own = parted(law, first.shared)
    unknowns, rebuild = jax.tree.flatten((free[1:], first.rows[0]))
    keys = jax.random.split(key, len(unknowns))
    moved = [
        u + jnp.std(trimmed(u, block)) * jax.random.normal(k, u.shape, u.dtype)
        for u, k in zip(unknowns, keys, strict=True)
    ]
    others, mean = jax.tree.unflatten(rebuild, moved)
    shared = (*free[:1], *others, *own)
    return starts.beside(first._replace(shared=shared, rows=(mean, first.rows[1])), block)


def fit_variational(
    recipe: Recipe, block: Block, settings: Settings, first: starts.First | None = None
) -> Fitted:
    """Maximise the diagonal bound from given first values, or the usual ones.

    Where loadings are free, short fits come first, and after each the latent axes are turned.
    """
    first, traces = first_values(recipe, block) if first is None else first, []
    for steps in SKETCHES if possible(recipe.loadings, block, rank=recipe.rank) else ():
        sketch = climb(recipe, block, first, settings._replace(max_iter=min(steps, settings.max_iter)))
        traces.append(sketch.trace)
        if sketch.interrupted:
            return _fitted(recipe, sketch, traces)
        first, worthwhile = turned_first_values(recipe, block, sketch)
        if not worthwhile:
            break
    outcome = climb(recipe, block, first, settings)
    return _fitted(recipe, outcome, [*traces, outcome.trace])


def climb(recipe: Recipe, block: Block, first: starts.First, settings: Settings) -> Outcome:
    """Maximise the diagonal bound from given first values, without turning; of the rows their unknowns remain."""
    method = QuasiNewton(recipe.bound(), settings.tol)
    return run_resumed(method, first, block, settings, phase="variational", remains=remains)


def best_bound(recipe: Recipe, block: Block, settings: Settings, tries: int, key: Array) -> Fitted:
    """The best of a variational fit from the usual first values and others from random neighbours of them."""
    fits = []
    for first in _first_values(recipe, block, settings, tries, key):
        fits.append(fit_variational(recipe, block, settings, first))
        if fits[-1].outcome.interrupted:
            break
    best = max(fits, key=lambda fit: float(fit.outcome.state.objective))
    if not fits[-1].outcome.interrupted:
        return best
    return best._replace(outcome=best.outcome._replace(interrupted=True, converged=False))


def _first_values(
    recipe: Recipe, block: Block, settings: Settings, tries: int, key: Array
) -> Iterator[starts.First]:
    """Where variational fits begin, one by one.

    Where zeros may be no counts, one begins as if they all were, another as if none was, a third where the fit with one
    probability for all zeros ends: the bound has an optimum near each, hundreds of nats apart.
    """
    yield first_values(recipe, block)
    for number in range(1, tries):
        yield first_values(recipe, block, jax.random.fold_in(key, number))
    if not isinstance(recipe.law, ZeroInflated):
        return
    yield first_values(recipe, block, zeros=False)
    if recipe.law.logit.shape != (1, 1):
        single = recipe._replace(law=ZeroInflated(recipe.law.counts, jnp.zeros((1, 1))))
        alike = best_bound(single, block._replace(zero_features=None), settings, 1, key)
        if not alike.outcome.interrupted:
            yield _where_ended(recipe, block, alike)


def _where_ended(recipe: Recipe, block: Block, fit: Fitted) -> starts.First:
    """First values where the rows of a fit by a simpler law ended, and in a factor form its (B, C)."""
    assert fit.rows is not None
    mean, log_sd = fit.rows.mean, 0.5 * jnp.log(fit.rows.variance)
    if recipe.loadings is None:
        return starts.beside(first_values(recipe, block)._replace(rows=(mean, log_sd)), block)
    coef, loadings = fit.model
    begun = starts.scaled_factor_start(block, recipe.loadings, coef=coef, loadings=loadings, scores=mean)
    begun = starts.with_law(begun, _law_start(recipe.law, block), block)
    return starts.beside(begun._replace(rows=(mean, log_sd)), block)


def _fitted(recipe: Recipe, outcome: Outcome, traces: list[Trace]) -> Fitted:
    outcome = outcome._replace(trace=continued(traces))
    model, rows, law = end_of(recipe, outcome.state, outcome.rows.unknown)
    return Fitted(model, rows, outcome, law)


def fit_full(recipe: Recipe, block: Block, start: Fitted, settings: Settings) -> Fitted:
    """Maximise the bound with a full Gaussian per row, from a diagonal fit."""
    method = FullVariational(recipe.structure(), settings.tol)
    first = variational.First(start.model, row_by_row(start_rows, block, *start.model), start.law)
    outcome = run_resumed(method, first, block, settings, phase="full")
    return Fitted(outcome.state.best, None, outcome, outcome.state.best_law)


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


def chain_kind(recipe: Recipe, block: Block, chains: int | None = None) -> ChainKind:
    """So many chains a row, or several on a small table; single precision on a large one, if its counts allow."""
    n, p = rows_in(block), block.y.shape[1]
    copies = chains_per_row(n, p, recipe.rank) if chains is None else count(chains, "chains", least=1)
    single = n * copies * p >= SINGLE_FROM and largest(block.y) < SINGLE_UP_TO
    return ChainKind(recipe.loadings is None, copies, jnp.float32 if single else jnp.float64)


def chain_start(
    recipe: Recipe, block: Block, start: Fitted, key: Array, *, chains: int | None = None
) -> Chained:
    """Chains at the variational means, and the block repeated for several chains a row (weights shared out)."""
    assert start.rows is not None
    how, over = chain_kind(recipe, block, chains), layout(block)
    given = start.model, start.rows, block, start.law
    if over is None:
        rows, mean_rate, many = repeated(*given, **how._asdict())
    else:
        once = partial(_repeated_under, start.law, direct=how.direct, kind=how.kind)
        rows, mean_rate, many = dealt_out(over, Copying(once, how.copies), *given[:3])
    slow = None if recipe.loadings is not None else _slow_columns(*given)
    # a bound's logits and log sizes run off where there is nothing to tell; chains would come back by small steps
    law = jax.tree.map(lambda a: jnp.clip(a, -FARTHEST_OWN, FARTHEST_OWN), start.law)
    model = start.model if recipe.loadings is None else _off_zero(recipe.loadings, start.model)
    return Chained(ml.First(model, rows, mean_rate, key, slow, law), many)


@compiled()
def _off_zero(free: AbstractLoadings, model: Model) -> Model:
    """The variances along a given basis, each at least `LEAST_SCALE` of their mean: a bound's may be zero.

    At zero EM stays, whatever the likelihood says of it; from above it comes back to zero if that is the maximum.
    """
    if not isinstance(free, BorrowedBasis):
        return model
    variance = jnp.sum(model.loadings**2, axis=0)
    return model._replace(
        loadings=free.basis * jnp.sqrt(jnp.maximum(variance, LEAST_SCALE * jnp.mean(variance)))
    )


@compiled()
def _slow_columns(model: Model, rows: RowGaussians, block: Block, law: AbstractLaw) -> Array:
    """The columns of a direct form whose cells are drawn one by one as well; none under a law without such draws."""
    predictor, block = block.offset + rows.mean, block.under(law)
    rate = block.law.expected(predictor, rows.variance, block.y).weight
    if not law.exposed():
        return jnp.zeros(block.y.shape[1], bool)
    frame = chain_frame(model.loadings, block.weights @ rate / jnp.sum(block.weights))
    return slow_columns(frame, rate, rows.variance, block)


def _repeated_under(law: AbstractLaw, model: Model, rows: RowGaussians, block: Block, **how: Any) -> Any:
    return repeated(model, rows, block, law, **how)


@compiled(static_argnames=("direct", "copies", "kind"))
def repeated(
    model: Model, rows: RowGaussians, block: Block, law: AbstractLaw, *, direct: bool, copies: int, kind: Any
) -> tuple[ml.ChainRows, Array, Block]:
    """Chains at the rows' means, the columns' mean curvatures (rates), and the block with `copies` of each row."""
    position, predictor, spread = _whitened(model, rows, block, direct=direct)
    rate = block.under(law).law.expected(predictor, spread, block.y).weight
    mean_rate = block.weights @ rate / jnp.sum(block.weights)

    def tiled(a: Array) -> Array:
        a = a.astype(kind) if jnp.issubdtype(a.dtype, jnp.floating) else a
        return jnp.tile(a, (copies,) + (1,) * (a.ndim - 1))

    many = jax.tree.map(tiled, block)
    total = len(block.y) * copies
    many = many._replace(weights=many.weights / copies, index=jnp.arange(total))
    still = jnp.full(total, jnp.log(0.5), kind), jnp.full(total, 0.8, kind)
    chains = Chains(tiled(position), tiled(rate), *still)
    return ml.ChainRows(chains, chains.position, ml.earlier_of(law, chains.position)), mean_rate, many


def _whitened(model: Model, rows: RowGaussians, block: Block, *, direct: bool) -> tuple[Array, Array, Array]:
    """W at the rows' means, and mean and variance of their log rates."""
    if direct:
        residual = rows.mean - block.x @ model.coef
        position = solve_triangular(model.loadings, residual.T, lower=True).T
        return position, block.offset + rows.mean, rows.variance
    predictor = block.offset + block.x @ model.coef + rows.mean @ model.loadings.T
    return rows.mean, predictor, rows.variance @ (model.loadings**2).T


@compiled()
def penalty(recipe: Recipe, model: Model) -> Array:
    """Minus the log prior of a model by maximum likelihood, in nats: shrinkage, and the weak priors of B and scales."""
    return recipe.structure(weak=True).penalty_at(model)


class Chained(NamedTuple):
    """Where chains stand: what the next phase of maximum likelihood begins from, and the block they live on."""

    first: ml.First
    block: Block


def ml_method(recipe: Recipe, rows: int, *, tol: float, pace: int = 1) -> ml.StochasticApproximation:
    """The method for so many chains an iteration, all of which are visited in `pace` iterations."""
    gamma = constant_gamma(rows, recipe.rank, direct=recipe.loadings is None)
    structure = recipe.structure(weak=True)
    return ml.StochasticApproximation(structure, gamma, tol, pace=pace, falls=FALLS * pace)


def ml_phase(recipe: Recipe, where: Chained, settings: Settings, *, phase: str) -> tuple[Fitted, Chained]:
    """Maximum likelihood (penalised if the shape shrinks) by stochastic-approximation EM, from where chains stand."""
    method = ml_method(recipe, rows_in(where.block), tol=settings.tol)
    outcome = run_resumed(method, where.first, where.block, settings, phase=phase)
    state = outcome.state
    estimate, law, key = _estimate(method, state, where.first.key)
    first = ml.First(state.model, outcome.rows, state.mean_rate, key, state.slow, state.law)
    return Fitted(estimate, None, outcome, law), Chained(first, where.block)


@compiled()
def _estimate(
    method: ml.StochasticApproximation, state: ml.State, key: Array
) -> tuple[Model, AbstractLaw, Array]:
    """The averaged model and law, and a key for the phase that follows."""
    return method.estimate(state), method.estimate_law(state), jax.random.fold_in(key, 1)


def with_shrinkage(recipe: Recipe, kappa: float) -> Recipe:
    """The recipe with kappa pseudo-rows behind a free Sigma."""
    return recipe._replace(shape=Full(jnp.asarray(kappa))) if isinstance(recipe.shape, Full) else recipe


# What a way to fit is given, and what it gives back. Start at `Task`.


def training_block(counts: Counts) -> Block:
    """The rows of a fit on the device, with half a count in columns that have none."""
    arrays = counts.y, counts.x, counts.offset, counts.weights
    return as_block(*arrays, zero_features=counts.zero_features)


def spread_block(counts: Counts) -> Block:
    """The same on all devices that there are, for methods that can use several."""
    arrays = counts.y, counts.x, counts.offset, counts.weights
    return placed(as_rows(*arrays, zero_features=counts.zero_features))


class Task(NamedTuple):
    """The model, the rows, the settings, and how the main phase runs and the variational fit before it.

    `counts` are the rows as they came; `block` those on the device, of a table in blocks a sample.
    """

    recipe: Recipe
    block: Block
    counts: Counts
    settings: FitSettings
    main: Settings
    short: Settings

    @property
    def weight(self) -> float | None:
        """The weight of shrinkage; None where the data choose it."""
        return self.settings.shrinkage

    @property
    def key(self) -> Array:
        """The random key of the fit."""
        return derive(self.settings.random_state, Purpose.MAIN).key()

    def begin(self, how: Settings | None = None) -> Fitted:
        """The diagonal bound, the best of so many starts, by the short phase unless another is given."""
        return best_bound(self.recipe, self.block, how or self.short, self.settings.n_init, self.key)

    def rows(self) -> float:
        """The sum of the rows' weights."""
        return float(np.sum(self.counts.weights))

    def kappa(self) -> float:
        """The pseudo-rows that a given weight of shrinkage stands for; zero where the data choose."""
        weight = self.weight or 0.0
        return weight / (1 - weight) * self.rows()


class Ended(NamedTuple):
    """The phases in order (the last one is the fit), kappa, further fitted attributes by name, and messages.

    `encoder` is an `methods.amortised.Embedder` where rows are embedded by one. `bounds`: where the method climbs a
    bound that the variational fit before it climbs too, the two ends in nats a row, start first.
    """

    fits: list[Fitted]
    kappa: float
    extras: dict[str, Any]
    messages: tuple[str, ...] = ()
    encoder: Any = None
    bounds: tuple[float, float] | None = None
