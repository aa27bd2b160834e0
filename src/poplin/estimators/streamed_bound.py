"""The bound of a table whose rows are dense one block at a time: an iteration is a pass over them all.

Start at `fit`. A sample of the rows is fitted first, as a whole table would be; every row then begins at its best
Gaussian under that model, so that few passes over all rows are left. What rows keep stays in memory between passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from poplin import starts
from poplin._compile import compiled
from poplin.data.blocks import Block
from poplin.data.counts import Counts
from poplin.data.streams import Stream
from poplin.estimators import frozen, phases, recipes, streamed
from poplin.estimators.phases import Fitted, Recipe, RowGaussians, Settings
from poplin.estimators.resuming import run_blocks
from poplin.estimators.streamed import Streamed
from poplin.methods import variational, variational_full
from poplin.methods.variational import Variational
from poplin.methods.variational_full import FullVariational
from poplin.rows.gaussian import start_rows
from poplin.updates.structure import Model

NEAR = 1e-6  # relative gain of the bound at which rows are near enough to where they begin
SAMPLE_TOL = 1e-8  # of the sample's fit with full Gaussians
FIRST_STEPS = 50  # of a block's rows to there at most


def fit(
    recipe: Recipe,
    counts: Counts,
    main: Settings,
    weight: float,
    *,
    seed: int,
    full: bool,
    start: Callable[[Recipe, Block], Fitted],
) -> Streamed:
    """Maximise the bound with diagonal or full Gaussians; `start` fits the diagonal one to a sample of the rows.

    `weight`: of shrinkage. The sample only says where to begin: where the bound has one optimum, it is reached.
    """
    whole = float(np.sum(counts.weights))
    kappa = weight / (1 - weight) * whole
    part = recipes.training_block(streamed.sample(counts, seed))
    ratio = whole / float(jnp.sum(part.weights))
    smaller = phases.with_shrinkage(recipe, kappa / ratio)
    done = [start(smaller, part)]
    if full and not done[0].outcome.interrupted:
        done.append(phases.fit_full(smaller, part, done[0], main._replace(tol=max(main.tol, SAMPLE_TOL))))
    told = [of_sample(each) for each in done]
    if done[-1].outcome.interrupted:
        return Streamed(told, kappa, streamed.WAITING)
    stream, recipe = Stream(counts, seed=seed, kind=jnp.float64), phases.with_shrinkage(recipe, kappa)
    try:
        if full:
            end = _full(recipe, stream, done[-1].model, main)
        else:
            first = starts_from(recipe, done[0], part._replace(weights=ratio * part.weights))
            end = _diagonal(recipe, stream, first, main)
    except KeyboardInterrupt:  # before the first pass was over
        return Streamed([*told[:-1], stopped(told[-1])], kappa, streamed.WAITING)
    return Streamed([*told, end], kappa, streamed.words_of(stream))


def of_sample(fitted: Fitted) -> Fitted:
    """A fit of the sample, under that name in the trace, and without its rows."""
    trace = fitted.outcome.trace
    trace = trace._replace(phase=np.full(len(trace.phase), "sample"))
    return fitted._replace(rows=None, outcome=fitted.outcome._replace(rows=None, trace=trace))


def stopped(fitted: Fitted) -> Fitted:
    """A fit after which the next one was interrupted before it began."""
    return fitted._replace(outcome=fitted.outcome._replace(converged=False, interrupted=True))


def starts_from(recipe: Recipe, begun: Fitted, part: Block) -> Callable[[int, Block], starts.First]:
    """First values of a block: the sample's model, its curvature as that of all rows, rows at their best under it."""
    model, direct = begun.model, recipe.loadings is None
    shared, scale = (), ()
    if recipe.loadings is not None:
        assert begun.rows is not None
        of_all = _shared_start(recipe, part, model, begun.rows)
        shared, scale = of_all.shared, of_all.shared_scale

    def first(_: int, block: Block) -> starts.First:
        near = _near(model, block, direct=direct)
        found = frozen.best_rows(model, block, near, direct=direct, tol=NEAR, max_iter=FIRST_STEPS)
        if found.interrupted:
            raise KeyboardInterrupt
        return starts.First(shared, scale, found.rows.unknown, near.rows_scale)

    return first


@compiled()
def _shared_start(recipe: Recipe, part: Block, model: Model, rows: RowGaussians) -> starts.First:
    assert recipe.loadings is not None
    coef, loadings = model
    return starts.scaled_factor_start(part, recipe.loadings, coef=coef, loadings=loadings, scores=rows.mean)


_near = compiled(static_argnames="direct")(frozen.first_rows)


def _diagonal(
    recipe: Recipe, stream: Stream, first: Callable[[int, Block], starts.First], main: Settings
) -> Fitted:
    def remains(rows: list[Any]) -> list[Any]:
        return [variational.remains(of_block) for of_block in rows]

    method = Variational(recipe.bound(), main.tol)
    how = {"phase": "variational", "many": stream.blocks, "remains": remains}
    outcome = run_blocks(method, first, stream, main, **how)
    unknown = [of_block.unknown for of_block in outcome.rows]
    model, _ = phases.end_of(recipe, outcome.state, unknown[0])
    mean, log_sd = (stream.in_order([np.asarray(pair[k]) for pair in unknown]) for k in (0, 1))
    rows = RowGaussians(mean, np.exp(2 * log_sd))  # type: ignore[arg-type]
    return Fitted(model, rows, outcome._replace(rows=None))


def _full(recipe: Recipe, stream: Stream, model: Model, main: Settings) -> Fitted:
    def first(_: int, block: Block) -> variational_full.First:
        return variational_full.First(model, start_rows(block, *model))

    method = FullVariational(recipe.structure(), main.tol)
    how = {"phase": "full", "many": stream.blocks, "remains": lambda rows: ()}
    outcome = run_blocks(method, first, stream, main, **how)
    return Fitted(outcome.state.best, None, outcome)
