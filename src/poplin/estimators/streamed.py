"""Maximum likelihood of a table whose rows are dense one block at a time: sparse tables, and very large ones.

Start at `fit`. A sample of the rows says where to begin, as a whole table would; then all rows are walked over, some
blocks an iteration. The bound goes over such tables in `streamed_bound.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._compile import compiled
from poplin._errors import InputError
from poplin._precision import solve_gram
from poplin._rules import key_of
from poplin.data.blocks import Block
from poplin.data.counts import Counts, some_rows
from poplin.data.held import column_sums, is_held_sparse, largest
from poplin.data.streams import Stream
from poplin.estimators import phases, recipes
from poplin.estimators.phases import Fitted, Recipe, Settings
from poplin.estimators.pilot import piloted
from poplin.estimators.resuming import run_blocks
from poplin.methods import minibatch, ml
from poplin.models.loadings import FreeLoadings
from poplin.rows import chains as chain
from poplin.rows.modes import modes
from poplin.updates.covariance import Full
from poplin.updates.structure import Model

METHODS = ("ml", "variational", "amortised")  # that go over blocks
LARGE = 30_000_000  # entries from which a dense table is walked over in blocks, too
PARTED = 4_000_000  # the same for maximum likelihood of a rank or a basis, whose iterations need a part of the rows
SAMPLE_ENTRIES, SAMPLE_ROWS = 5_000_000, 1_000  # of the sample: so many entries, and at least so many rows
PARTS = 20  # of the rows are visited in as many iterations, unless that were fewer than
LEAST_ROWS, LEAST_EACH = 2_000, 50  # rows an iteration: at all, and for each latent dimension
FEW = 10.0  # counts for each of a column's parameters, below which a sample tells its level alone
WAITING = "All rows but a sample wait: the fit was interrupted before they were visited."


class Streamed(NamedTuple):
    """The phases, pseudo-rows behind Sigma, and how rows were visited, in words."""

    fits: list[Fitted]
    kappa: float
    words: str


def wanted(counts: Counts, method: str, *, loadings: bool) -> bool:
    """Whether this table is walked over in blocks. Raises `InputError` where it has to be and the method cannot.

    What several devices can share stays with them, for blocks are on one. `loadings`: Sigma has some.
    """
    (n, p), sparse = counts.y.shape, is_held_sparse(counts.y)
    if sparse and method not in METHODS:
        raise InputError(
            f"Y is sparse, and with {n} x {p} entries too large to be made dense; method='{method}' needs it dense, "
            f"{', '.join(map(repr, METHODS))} take it as it is. Use one of these, or fit fewer rows or columns."
        )
    shared = jax.device_count() > 1
    least = min(LARGE, PARTED) if method == "ml" and loadings and not shared else LARGE
    return method in METHODS and (sparse or (n * p >= least and not (shared and method == "variational")))


def sampled(counts: Counts, seed: int) -> np.ndarray:
    """Numbers of rows at random, in order; rows of weight 0 are not among them."""
    used = np.flatnonzero(counts.weights > 0)
    random, most = np.random.default_rng([seed, 7]), max(SAMPLE_ENTRIES // counts.y.shape[1], SAMPLE_ROWS)
    return np.sort(random.choice(used, min(most, len(used)), replace=False))


def sample(counts: Counts, seed: int) -> Counts:
    """These rows, dense."""
    return some_rows(counts, sampled(counts, seed))


def words_of(stream: Stream) -> str:
    """What a fit says of how its rows were visited."""
    return f"The fit went over blocks of rows, {stream.rows} of them dense at a time."


def fit(
    recipe: Recipe,
    counts: Counts,
    main: Settings,
    weight: float | None,
    *,
    seed: int,
    start: Callable[[Recipe, Block], Fitted],
) -> Streamed:
    """Maximum likelihood from where a sample of the rows begins; `start` is the bound's fit of that.

    An iteration that sees a part of the rows has the noise of so few; it cancels in means over visits of all rows. A
    free Sigma of p columns does not settle so, and each of its iterations sees all rows.
    """
    key = key_of(seed)
    part = recipes.training_block(sample(counts, seed))
    begun, whole = start(recipe, part), float(np.sum(counts.weights))
    if isinstance(recipe.loadings, FreeLoadings):
        begun = begun._replace(model=tamed(begun.model, part, column_sums(counts.y, counts.weights), whole))
    done = [begun]
    where = phases.chain_start(recipe, part, begun, key)
    kappa = 0.0 if weight is None else weight / (1 - weight) * whole
    if weight is None and isinstance(recipe.shape, Full) and not begun.outcome.interrupted:
        pilot, where, kappa = piloted(recipe, where, main, whole=whole)
        done.append(pilot)
    words = WAITING
    if not done[-1].outcome.interrupted:
        stream = Stream(counts, seed=seed, kind=_kind(counts))
        words = words_of(stream)
        done.append(_walk(phases.with_shrinkage(recipe, kappa), stream, where.first, main))
    return Streamed([*done[:-1], done[-1]._replace(rows=None)], kappa, words)


@compiled()
def tamed(model: Model, part: Block, totals: Array, whole: Array) -> Model:
    """The model of a sample as a start for all rows: columns that it hardly saw get the level of all their counts.

    Of a column seen few times the sample's fit has whatever separates those rows from the others, at log rates of
    -100 and loadings of 70. Here such loadings are short, times c / (c + k) of a column seen c times that has k
    parameters, and B_j makes the expected count of all rows `totals` (p,), given for `whole` rows.
    """
    weights, k = part.weights, len(model.coef) + model.loadings.shape[1]
    seen = weights @ part.y
    few = seen < FEW * k
    length = jnp.sqrt(jnp.sum(model.loadings**2, axis=1))
    share = jnp.where(few, seen / (seen + k) / jnp.maximum(1.0, length), 1.0)
    exposure = weights @ jnp.exp(part.offset) * whole / jnp.sum(weights)
    level = jnp.log(jnp.maximum(totals, 0.5) / exposure) - 0.5 * (share * length) ** 2
    constant = solve_gram(part.x.T @ (weights[:, None] * part.x), part.x.T @ weights[:, None])
    return Model(jnp.where(few, constant * level, model.coef), share[:, None] * model.loadings)


def _kind(counts: Counts) -> Any:
    return jnp.float32 if largest(counts.y) < phases.SINGLE_UP_TO else jnp.float64


def blocks_at_once(stream: Stream, rank: int) -> int:
    """How many blocks an iteration visits: a twentieth, if that is enough for every dimension of Sigma."""
    rows = max(len(stream.counts.weights) / PARTS, LEAST_ROWS, LEAST_EACH * rank)
    return int(min(stream.blocks, np.ceil(rows / stream.rows)))


def _walk(recipe: Recipe, stream: Stream, start: ml.First, main: Settings) -> Fitted:
    """The chains of all rows, some blocks an iteration; where Sigma is free, all of them."""
    some = stream.blocks if recipe.loadings is None else blocks_at_once(stream, recipe.rank)

    def begin(_: int, block: Block) -> minibatch.First:
        return start._replace(rows=_begun(block, start.model, start.mean_rate))  # type: ignore[return-value]

    pace = -(-stream.blocks // some)
    inner = phases.ml_method(recipe, some * stream.rows, tol=main.tol, pace=pace)
    method = minibatch.Minibatch(inner, stream.whole)
    outcome = run_blocks(method, begin, stream, main, phase="ml", many=some)
    return Fitted(_estimate(method, outcome.state), None, outcome)


@compiled()
def _begun(block: Block, model: Model, mean_rate: Array) -> minibatch.Visited:
    frame = chain.frame(model.loadings, mean_rate)
    coef, frame = jax.tree.map(lambda a: a.astype(block.y.dtype), (model.coef, frame))
    return minibatch.at(modes(block, coef, frame), block.x.shape[1])


@compiled()
def _estimate(method: minibatch.Minibatch, state: minibatch.State) -> Model:
    return method.estimate(state)
