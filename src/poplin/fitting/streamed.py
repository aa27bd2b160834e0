"""Maximum likelihood of a table whose rows are dense one block at a time: sparse tables, and very large ones.

Start at `fit_ml`. A sample of the rows says where to begin, as a whole table would; then all rows are walked over, some
blocks an iteration. The bound goes over such tables in `streamed.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin import fit as loop
from poplin import starts
from poplin._errors import InputError
from poplin._numerics import compiled, solve_gram
from poplin._random import Purpose, derive
from poplin.data.blocks import Block
from poplin.data.counts import Counts, some_rows
from poplin.data.held import column_sums, is_held_sparse, largest
from poplin.data.streams import Stream
from poplin.fitting import amortised, phases, training
from poplin.fitting.amortised import bound_of, posteriors, single
from poplin.fitting.checkpoints import run_blocks
from poplin.fitting.phases import Ended, Fitted, RowGaussians, Settings, Task
from poplin.fitting.recipes import Recipe
from poplin.fitting.refit import MOST_STEPS, First, Refit, piloted
from poplin.laws import AbstractLaw
from poplin.methods import ml, variational
from poplin.methods.bounds import Embedder, Encoded
from poplin.methods.gradient import AbstractObjective, Split, Start, State, on_other_rows
from poplin.methods.options import Amortised, MaximumLikelihood, Variational, name_of
from poplin.methods.variational import FullVariational, QuasiNewton
from poplin.models.loadings import FreeLoadings
from poplin.rows import chains as chain
from poplin.rows.chains import modes
from poplin.rows.gaussian import start_rows
from poplin.updates.structure import Full, Model

LARGE = 30_000_000  # entries from which a dense table is walked over in blocks, too
PARTED = 4_000_000  # the same for maximum likelihood of a rank or a basis, whose iterations need a part of the rows
SAMPLE_ENTRIES, SAMPLE_ROWS = 5_000_000, 1_000  # of the sample: so many entries, and at least so many rows
PARTS = 20  # of the rows are visited in as many iterations, unless that were fewer than
LEAST_ROWS, LEAST_EACH = 2_000, 50  # rows an iteration: at all, and for each latent dimension
FEW = 10.0  # counts for each of a column's parameters, below which a sample tells its level alone
WAITING = "All rows but a sample wait: the fit was interrupted before they were visited."


def wanted(counts: Counts, method: Any, *, loadings: bool) -> bool:
    """Whether this table is walked over in blocks. Raises `InputError` where it has to be and the method cannot.

    What several devices can share stays with them, for blocks are on one. `loadings`: Sigma has some.
    """
    (n, p), sparse = counts.y.shape, is_held_sparse(counts.y)
    if type(method) not in OVER_BLOCKS:
        if sparse:
            raise InputError(
                f"Y is sparse, and with {n} x {p} entries too large to be made dense; method='{name_of(method)}' needs "
                f"it dense, {', '.join(repr(name_of(kind())) for kind in OVER_BLOCKS)} take it as it is. Use one of "
                "these, or fit fewer rows or columns."
            )
        return False
    shared = jax.device_count() > 1
    in_part = isinstance(method, MaximumLikelihood) and loadings and not shared
    large = n * p >= (min(LARGE, PARTED) if in_part else LARGE)
    return sparse or (large and not (shared and isinstance(method, Variational)))


def sampled(counts: Counts, seed: int) -> np.ndarray:
    """Numbers of rows at random, in order; rows of weight 0 are not among them."""
    used = np.flatnonzero(counts.weights > 0)
    random, most = (
        derive(seed, Purpose.SAMPLE).generator(),
        max(SAMPLE_ENTRIES // counts.y.shape[1], SAMPLE_ROWS),
    )
    return np.sort(random.choice(used, min(most, len(used)), replace=False))


def sample(counts: Counts, seed: int) -> Counts:
    """These rows, dense."""
    return some_rows(counts, sampled(counts, seed))


def words_of(stream: Stream) -> str:
    """What a fit says of how its rows were visited."""
    return f"The fit went over blocks of rows, {stream.rows} of them dense at a time."


def fit_ml(task: Task) -> Ended:
    """Maximum likelihood from where a sample of the rows begins.

    An iteration that sees a part of the rows has the noise of so few; it cancels in means over visits of all rows. A
    free Sigma of p columns does not settle so, and each of its iterations sees all rows, each of which has one chain.
    """
    recipe, counts, part, chains = task.recipe, task.counts, task.block, task.settings.method.chains
    begun, kappa = task.begin(), task.kappa()
    if isinstance(recipe.loadings, FreeLoadings):
        totals = column_sums(counts.y, counts.weights)
        begun = begun._replace(model=tamed(begun.model, part, totals, task.rows()))
    done = [begun]
    where = phases.chain_start(recipe, part, begun, task.key, chains=chains)
    if task.weight is None and isinstance(recipe.shape, Full) and not begun.outcome.interrupted:
        pilot, where, kappa = piloted(recipe, where, task.main, whole=task.rows())
        done.append(pilot)
    words = WAITING
    if not done[-1].outcome.interrupted:
        stream = Stream(counts, seed=task.settings.random_state, kind=_kind(counts))
        words = words_of(stream)
        done.append(_walk(phases.with_shrinkage(recipe, kappa), stream, where.first, task.main))
    return Ended([*done[:-1], done[-1]._replace(rows=None)], kappa, {}, (words,))


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

    def begin(_: int, block: Block) -> ml.MinibatchFirst:
        return start._replace(rows=_begun(block, start.model, start.mean_rate, start.law))  # type: ignore[return-value]

    pace = -(-stream.blocks // some)
    inner = phases.ml_method(recipe, some * stream.rows, tol=main.tol, pace=pace)
    method = ml.Minibatch(inner, stream.whole)
    outcome = run_blocks(method, begin, stream, main, phase="ml", many=some)
    model, law = _estimate(method, outcome.state)
    return Fitted(model, None, outcome, law)


@compiled()
def _begun(block: Block, model: Model, mean_rate: Array, law: AbstractLaw) -> ml.Visited:
    frame = chain.frame(model.loadings, mean_rate)
    coef, frame, law = jax.tree.map(lambda a: a.astype(block.y.dtype), (model.coef, frame, law))
    return ml.at(modes(block.under(law), coef, frame), block.x.shape[1], law)


@compiled()
def _estimate(method: ml.Minibatch, state: ml.MinibatchState) -> tuple[Model, AbstractLaw]:
    return method.estimate(state), method.estimate_law(state)


# The bound of a table whose rows are dense one block at a time: an iteration is a pass over them all.
#
# Start at `fit_variational`. A sample of the rows is fitted first, as a whole table would be; every row then begins
# at its best Gaussian under that model, so that few passes over all rows are left. What rows keep stays in memory
# between passes.


NEAR = 1e-6  # relative gain of the bound at which rows are near enough to where they begin
SAMPLE_TOL = 1e-8  # of the sample's fit with full Gaussians
FIRST_STEPS = 50  # of a block's rows to there at most


def fit_variational(task: Task) -> Ended:
    """Maximise the bound with diagonal or full Gaussians, from where a sample of the rows begins.

    The sample only says where to begin: where the bound has one optimum, it is reached.
    """
    part, main, kappa = task.block, task.main, task.kappa()
    ratio, full = task.rows() / float(jnp.sum(part.weights)), task.settings.posterior == "full"
    smaller = phases.with_shrinkage(task.recipe, kappa / ratio)
    done = [task._replace(recipe=smaller).begin()]
    if full and not done[0].outcome.interrupted:
        done.append(phases.fit_full(smaller, part, done[0], main._replace(tol=max(main.tol, SAMPLE_TOL))))
    told = [of_sample(each) for each in done]
    if done[-1].outcome.interrupted:
        return Ended(told, kappa, {}, (WAITING,))
    stream = Stream(task.counts, seed=task.settings.random_state, kind=jnp.float64)
    recipe = phases.with_shrinkage(task.recipe, kappa)
    try:
        if full:
            end = _full(recipe, stream, done[-1], main)
        else:
            first = starts_from(recipe, done[0], part._replace(weights=ratio * part.weights))
            end = _diagonal(recipe, stream, first, main)
    except KeyboardInterrupt:  # before the first pass was over
        return Ended([*told[:-1], stopped(told[-1])], kappa, {}, (WAITING,))
    return Ended([*told, end], kappa, {}, (words_of(stream),))


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
    assert begun.rows is not None
    of_all = _shared_start(recipe, part, model, begun.rows, begun.law)
    shared, scale = of_all.shared, of_all.shared_scale

    def first(_: int, block: Block) -> starts.First:
        block = block.under(begun.law)
        near = _near(model, block, direct=direct)
        found = phases.best_rows(model, block, near, direct=direct, tol=NEAR, max_iter=FIRST_STEPS)
        if found.interrupted:
            raise KeyboardInterrupt
        return starts.First(shared, scale, found.rows.unknown, near.rows_scale)

    return first


@compiled()
def _shared_start(
    recipe: Recipe, part: Block, model: Model, rows: RowGaussians, law: AbstractLaw
) -> starts.First:
    first = starts.First((), (), (rows.mean, rows.variance), (rows.mean, rows.variance))
    if recipe.loadings is not None:
        coef, loadings = model
        given = {"coef": coef, "loadings": loadings, "scores": rows.mean}
        first = starts.scaled_factor_start(part, recipe.loadings, **given)
    return starts.with_law(first, law, part)


_near = compiled(static_argnames="direct")(phases.first_rows)


def _diagonal(
    recipe: Recipe, stream: Stream, first: Callable[[int, Block], starts.First], main: Settings
) -> Fitted:
    def remains(rows: list[Any]) -> list[Any]:
        return [variational.remains(of_block) for of_block in rows]

    method = QuasiNewton(recipe.bound(), main.tol)
    how = {"phase": "variational", "many": stream.blocks, "remains": remains}
    outcome = run_blocks(method, first, stream, main, **how)
    unknown = [of_block.unknown for of_block in outcome.rows]
    model, _, law = phases.end_of(recipe, outcome.state, unknown[0])
    mean, log_sd = (stream.in_order([np.asarray(pair[k]) for pair in unknown]) for k in (0, 1))
    rows = RowGaussians(mean, np.exp(2 * log_sd))  # type: ignore[arg-type]
    return Fitted(model, rows, outcome._replace(rows=None), law)


def _full(recipe: Recipe, stream: Stream, begun: Fitted, main: Settings) -> Fitted:
    model, law = begun.model, begun.law

    def first(_: int, block: Block) -> variational.First:
        return variational.First(model, start_rows(block.under(law), *model), law)

    method = FullVariational(recipe.structure(), main.tol)
    how = {"phase": "full", "many": stream.blocks, "remains": lambda rows: ()}
    outcome = run_blocks(method, first, stream, main, **how)
    return Fitted(outcome.state.best, None, outcome, outcome.state.best_law)


# Amortised fits of a table whose rows are dense one block at a time: networks learn from a block after the other.
#
# Start at `fit_amortised`. The optimiser goes through the blocks in a new order each time, minibatch after minibatch
# of each; the M-step is a sum over blocks, and as exact as that of a whole table.


def fit_amortised(task: Task) -> Ended:
    """Rounds over all rows; the bound's fit of a sample stands for all where the fit begins."""
    part = task.block
    part = part._replace(weights=part.weights * (task.rows() / jnp.sum(part.weights)))
    blocks = InBlocks(task.counts, task.settings.random_state)
    ended = amortised.fit_amortised(task._replace(block=part), blocks)
    fits = [*ended.fits[:-1], ended.fits[-1]._replace(rows=None)]  # what has rows is the sample's
    return ended._replace(fits=fits, messages=(*ended.messages, words_of(blocks.double)))


class InBlocks:
    """All rows, a block at a time (see `amortised.Table`)."""

    def __init__(self, counts: Counts, seed: int) -> None:
        self.single, self.double = (Stream(counts, seed=seed, kind=k) for k in (jnp.float32, jnp.float64))

    def steps(self, batch_size: int) -> int:
        """Minibatches in an epoch: those of each block."""
        return self.single.blocks * -(-self.single.rows // batch_size)

    def train(
        self, model: Encoded, law: AbstractLaw, objective: AbstractObjective, plan: training.Plan
    ) -> tuple[Encoded, bool]:
        """As many epochs; each goes over all blocks, the optimiser's moments from one to the next."""
        method = training.method_of(objective, self.single.rows, plan._replace(max_epochs=1))
        steps, began = len(method.bounds) - 1, time.perf_counter()
        state, finite = None, True
        for number in range(plan.max_epochs * self.single.blocks):
            (k,) = self.single.visits(number, 1)
            block = used_rows(self.single.block(k))
            if block is None or not finite:
                continue
            key: Any = training.seed_key(plan.seed + (number << 32))
            first = Start(model, key) if state is None else _on_other_rows(state, key)
            split = Split(block.under(law), None)
            how: dict[str, Any] = {"block": split, "phase": "train", "max_iter": steps}
            outcome = loop.run(method, first, began=began, **how)
            state, finite = outcome.state, bool(np.isfinite(outcome.state.objective))
            if outcome.interrupted:
                return jax.device_get(state.kept), True
        return (model if state is None else jax.device_get(state.kept)), False

    def follow(self, recipe: Recipe, embedder: Embedder, model: Model) -> tuple[Model, AbstractLaw, float]:
        """Newton steps (in the direct form one closed one) over sums of blocks, then the bound."""
        kept: dict[int, Any] = {}

        def first(k: int, block: Block) -> First:
            kept[k] = posteriors(embedder, model, block)
            return First(model, amortised.moments_of(kept[k], embedder.origin, block.x), embedder.law)

        how: dict[str, Any] = {"phase": "refit", "max_iter": MOST_STEPS, "began": time.perf_counter()}
        outcome = loop.run_blocks(Refit(recipe), first, self.double, many=self.double.blocks, **how)
        if outcome.interrupted:
            raise KeyboardInterrupt
        model, law = outcome.state.model, outcome.state.law
        return model, law, self._bound(embedder.origin, model, law, kept.get)

    def bound(self, embedder: Embedder, model: Model) -> float:
        """The bound with B, Sigma and law as they are: a pass over all blocks."""
        double = self.double
        return self._bound(
            embedder.origin, model, embedder.law, lambda k: posteriors(embedder, model, double.block(k))
        )

    def _bound(self, origin: Any, model: Model, law: AbstractLaw, rows: Callable[[int], Any]) -> float:
        blocks = ((k, self.double.block(k).under(law)) for k in range(self.double.blocks))
        return float(sum(bound_of(rows(k), origin, model, block) for k, block in blocks))


def used_rows(block: Block) -> Block | None:
    """Rows of positive weight, as many as there are rows: some come again. None where there are none."""
    used = np.flatnonzero(np.asarray(block.weights) > 0)
    if not len(used):
        return None
    chosen = used[np.arange(len(block.weights)) % len(used)]
    return jax.device_put(jax.tree.map(lambda a: single(np.asarray(a)[chosen]), block))


_on_other_rows: Callable[[State, Any], State] = compiled()(on_other_rows)


OVER_BLOCKS: dict[type, Callable[[Task], Ended]] = {
    MaximumLikelihood: fit_ml,
    Variational: fit_variational,
    Amortised: fit_amortised,
}
