"""Amortised fits: networks say from a row where it is, B and Sigma follow, and new rows are embedded at once.

Start at `fit_amortised`; a fit keeps an `Embedder`. Rows are there as a whole (`Whole`), or in blocks (`streamed.py`).
"""

import time
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError
from poplin._numerics import compiled
from poplin._random import Purpose, derive
from poplin.data import held
from poplin.data.blocks import NO_EXPOSURE, Block
from poplin.fit import Outcome, Progress, Round, Trace
from poplin.fitting import phases, training
from poplin.fitting.checkpoints import run_rounds
from poplin.fitting.phases import Ended, Fitted, Task
from poplin.fitting.recipes import NO_OWN, Recipe, count, one_of
from poplin.fitting.refit import RowMoments, refit
from poplin.fitting.training import describe
from poplin.laws import AbstractLaw
from poplin.methods.bounds import (
    AbstractLatent,
    DirectLatent,
    Embedder,
    Encoded,
    EncodedBound,
    FactorLatent,
    Lesson,
    Nearness,
    Smoother,
    bound_terms,
)
from poplin.methods.gradient import AbstractObjective
from poplin.methods.options import Amortised, Smoothed
from poplin.models.loadings import (
    AbstractLoadings,
    DiagonalRoot,
    FreeRoot,
    KnownRoot,
    SphericalRoot,
    principal_axes,
)
from poplin.models.networks import Network, random_network
from poplin.rows.encoders import (
    AbstractEncoder,
    DiagonalEncoder,
    DiagonalPosterior,
    Excess,
    FullEncoder,
    FullPosterior,
    Skip,
)
from poplin.rows.gaussian import Law, Moments, Seen, advance_rows, climb
from poplin.updates.specific import Specific
from poplin.updates.structure import Diagonal, Fixed, Model, Spherical

# The parts of an amortised fit in their first state: encoder, latent and the free parameters of (B, C).
#
# Start at `first_encoder`; `as_arrays` and `from_arrays` keep a fitted one. First values are drawn by NumPy; sizes
# follow from the options and the data alone, so that a saved encoder can be rebuilt.


FIRST_SCALE = 0.3  # of the last layer's first weights: rows begin near the same Gaussian


class Sizes(NamedTuple):
    """Columns p, covariates d, latent dimensions k of C (p, k), and whether the model is in the direct form."""

    columns: int
    covariates: int
    rank: int
    direct: bool


def root_of(recipe: Recipe) -> AbstractLoadings:
    """The free parameters of (B, C) for a shape of Sigma or loadings."""
    if recipe.loadings is not None:
        return recipe.loadings
    if isinstance(recipe.shape, Diagonal):
        return DiagonalRoot()
    if isinstance(recipe.shape, Spherical):
        return SphericalRoot()
    if isinstance(recipe.shape, Fixed):
        return KnownRoot(jnp.linalg.cholesky(recipe.shape.covariance))
    if isinstance(recipe.shape, Specific):
        raise InputError(NO_OWN.format(name="amortised"))
    return FreeRoot()


def latent_of(origin: Any) -> AbstractLatent:
    """Of Z - XB_0 where there is a B_0, else of w."""
    return FactorLatent() if origin is None else DirectLatent(origin)


def features_of(block: Block, model: Model, *, directions: np.ndarray) -> Excess:
    """What a network sees of rows: scaled by those of positive weight, and beside what the model expects of them."""
    y, offset = (np.asarray(a) for a in (block.y, block.offset))
    used = np.asarray(block.weights) > 0
    seen = offset[used] > NO_EXPOSURE / 2
    columns = describe(y[used], np.where(seen, offset[used], 0.0), counts=True)
    level = 0.5 * np.sum(np.asarray(model.loadings) ** 2, axis=1)
    parts = columns.seen_mean, columns.seen_unit, level, np.asarray(model.coef), directions
    return Excess(*(np.asarray(a, dtype=np.float32) for a in parts))  # type: ignore[arg-type]


def first_encoder(
    options: Amortised, sizes: Sizes, model: Model, block: Block, random: np.random.Generator
) -> AbstractEncoder:
    """An encoder that begins near a Newton step of each row from the mean, by the model it is given."""
    loadings = np.asarray(model.loadings)
    features = features_of(block, model, directions=loadings)
    return _encoder(options, sizes, features, random, outward=loadings if sizes.direct else None)


def _encoder(
    options: Amortised, sizes: Sizes, features: Excess, random: np.random.Generator, *, outward: Any
) -> AbstractEncoder:
    p, d, k, _ = sizes
    full = options.posterior == "full"
    inputs, outputs = p + 2 * k + d + 1, 2 * k + (k * k if full else 0)
    network = random_network(random, (inputs, *options.hidden, outputs), jax.nn.relu, final_scale=FIRST_SCALE)
    around = np.zeros((inputs, outputs))
    excess, weight = slice(p, p + k), slice(p + k, p + 2 * k)
    around[excess, :k] = np.eye(k) if outward is None else outward.T
    if outward is None:
        around[weight, k : 2 * k] = -0.5 * np.eye(k)
    skip = Skip(network, around.astype(np.float32))  # type: ignore[arg-type]
    return FullEncoder(features, skip, k) if full else DiagonalEncoder(features, skip)


def as_arrays(embedder: Embedder) -> dict[str, np.ndarray]:
    """An embedder's arrays by name, for a file."""
    named = {f"encoder_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(embedder.encoder))}
    return named if embedder.origin is None else named | {"encoder_origin": np.asarray(embedder.origin)}


def from_arrays(options: Amortised, result: Any, arrays: dict[str, np.ndarray]) -> Embedder:
    """The embedder that `as_arrays` took apart, of a fit with this B, C, form and law."""
    (d, p), k = result.coef.shape, result.loadings.shape[1]
    nothing = Excess(np.zeros(p), np.ones(p), np.zeros(p), np.zeros((d, p)), np.zeros((p, k)))  # type: ignore[arg-type]
    sizes = Sizes(p, d, k, result.direct)
    empty = _encoder(options, sizes, nothing, derive(0, Purpose.MAIN).generator(), outward=None)
    wanted = jax.tree.leaves(empty)
    leaves = [arrays[f"encoder_{i}"] for i in range(len(wanted))]
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in wanted]:
        raise InputError(
            "The encoder's arrays do not have the sizes that the method's options say. Fit again."
        )
    encoder = jax.tree.unflatten(jax.tree.structure(empty), leaves)
    return Embedder(encoder, arrays.get("encoder_origin"), int(options.refine), result.law)


# Rows through an encoder: slice by slice, with free steps behind its answer if the fit was made so.
#
# Start at `embedded`.


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
        x, zeros = np.asarray(counts.x[part]), counts.zero_features
        found = _of_slice(embedder, model, (y, x, offset, None if zeros is None else zeros[part]), size)
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
    arrays = jax.tree.map(np.asarray, (block.y, block.x, block.offset, block.zero_features))
    for first in range(0, n, SLICE):
        part = jax.tree.map(lambda a, first=first: a[first : first + SLICE], arrays)
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


def _of_slice(embedder: Embedder, model: Model, rows: tuple[Any, ...], size: int) -> Any:
    """Single precision in the encoder, double in free steps; a short slice is filled up with its first row.

    rows: y, x, offset, and what zeros depend on, or None.
    """
    used = len(rows[0])
    if used < size:
        rows = jax.tree.map(lambda a: np.concatenate([a, np.repeat(a[:1], size - used, axis=0)]), rows)
    with jax.enable_x64(False):
        found = jax.device_get(_encoded(embedder.encoder, *(single(a) for a in rows[:3])))
    found = jax.tree.map(double, found)
    if embedder.refine:
        given = model, embedder.origin, embedder.law
        found = jax.device_get(_refined(found, *given, *rows, steps=embedder.refine))
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
def _refined(
    posterior: Any,
    model: Model,
    origin: Any,
    law: AbstractLaw,
    y: Any,
    x: Any,
    offset: Any,
    zeros: Any,
    *,
    steps: int,
) -> Any:
    """So many free steps of each row from its Gaussian."""
    nothing = jnp.zeros(len(y))
    rows = Block(y, x, offset, jnp.ones(len(y)), nothing, jnp.arange(len(y)), zero_features=zeros)
    full = isinstance(posterior, FullPosterior)
    return (_refined_full if full else _refined_diagonal)(posterior, model, origin, rows.under(law), steps)


def _refined_diagonal(posterior, model, origin, block, steps):
    coef, loadings = model
    if origin is None:
        law = Law(loadings, jnp.eye(loadings.shape[1]))
        rows = Seen(block.y, block.offset + block.x @ coef, jnp.zeros_like(posterior.mean), block.law)
    else:
        law = Law(jnp.eye(len(loadings)), jnp.linalg.inv(loadings @ loadings.T))
        rows = Seen(block.y, block.offset + block.x @ origin, block.x @ (coef - origin), block.law)
    return DiagonalPosterior(*climb(law, rows, posterior.mean, posterior.log_scale, steps=steps))


def _refined_full(posterior, model, origin, block, steps):
    coef, loadings = model
    x = block.x
    move = jnp.zeros(()) if origin is None else x @ (origin - coef)
    lower, mean = posterior.lower, posterior.mean
    into = jnp.eye(loadings.shape[1]) if origin is None else jnp.linalg.inv(loadings)
    out = jnp.eye(loadings.shape[1]) if origin is None else loadings
    lower = into @ lower  # triangular, as both are
    logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)), axis=1)
    moments = Moments((mean + move) @ into.T, lower @ jnp.swapaxes(lower, 1, 2), logdet)

    def step(_, moments):
        return advance_rows(moments, block, coef, loadings)[0]

    moments = jax.lax.fori_loop(0, steps, step, moments)
    covariance = out @ moments.covariance @ out.T
    lower = jnp.linalg.cholesky(0.5 * (covariance + jnp.swapaxes(covariance, 1, 2)))
    log_scale = jnp.log(jnp.diagonal(lower, axis1=1, axis2=2))
    return FullPosterior(moments.mean @ out.T - move, lower, log_scale)


# Amortised fits: networks say from a row where it is, B and Sigma follow, and new rows are embedded at once.
#
# Start at `fit_amortised`. What a fit keeps of it is a `methods.amortised.Embedder`. Rows are there as a whole
# (`Whole`), or in blocks (`streamed.py`).


START_ROWS = 3_000  # most rows of the variational fit that B and Sigma begin from
SLOWER = 1 / 3  # learning rate after rounds that gained nothing
STALLS = 3  # so many such falls end the fit
LEAST_STEPS = 200  # of a round, however few rows there are


class Table(Protocol):
    """All rows of a fit: how an encoder learns from them, and how B and Sigma follow."""

    def steps(self, batch_size: int) -> int:
        """Minibatches of at most so many rows in an epoch."""
        ...

    def train(
        self, model: Encoded, law: AbstractLaw, objective: AbstractObjective, plan: training.Plan
    ) -> tuple[Encoded, bool]:
        """The model (single precision) trained by this plan under a law, and whether it was interrupted."""
        ...

    def follow(self, recipe: Recipe, embedder: Embedder, model: Model) -> tuple[Model, AbstractLaw, float]:
        """B, Sigma and law at their best given the Gaussians that the embedder gives, and the bound there (nats)."""
        ...

    def bound(self, embedder: Embedder, model: Model) -> float:
        """The bound with B, Sigma and law as they are (nats)."""
        ...


class Whole:
    """All rows at once."""

    def __init__(self, block: Block) -> None:
        self._block, self._single = block, jax.tree.map(single, jax.device_get(block))

    def steps(self, batch_size: int) -> int:
        """See `Table`."""
        return -(-len(self._block.index) // batch_size)

    def train(
        self, model: Encoded, law: AbstractLaw, objective: AbstractObjective, plan: training.Plan
    ) -> tuple[Encoded, bool]:
        """See `Table`."""
        trained = training.train(model, objective, self._single.under(law), plan)
        return trained.model, trained.stopped == "interrupted"

    def follow(self, recipe: Recipe, embedder: Embedder, model: Model) -> tuple[Model, AbstractLaw, float]:
        """See `Table`."""
        posterior = posteriors(embedder, model, self._block)
        given = posterior, embedder.origin, model, embedder.law
        model, law, value = _followed(recipe, self._block, *given)
        return model, law, float(value)

    def bound(self, embedder: Embedder, model: Model) -> float:
        """See `Table`."""
        return bound(embedder, model, self._block.under(embedder.law))


def fit_amortised(task: Task, table: Table | None = None) -> Ended:
    """Rounds of training and M-steps until the bound rises no more at any learning rate.

    `table`: where the task's block is a part of the rows, which weighs as much as all; None: it is all rows.
    """
    options: Amortised = task.settings.method
    _check(options)
    recipe = phases.with_shrinkage(task.recipe, task.kappa())
    root_of(recipe)  # refused before a start is fitted
    start = _start(recipe, task)
    if start.outcome.interrupted:
        return Ended([start], task.kappa(), {})
    direct = recipe.loadings is None
    sizes = Sizes(task.block.y.shape[1], task.block.x.shape[1], recipe.rank, direct)
    seed = task.settings.random_state % 2**31
    encoder = first_encoder(options, sizes, start.model, task.block, derive(seed, Purpose.MAIN).generator())
    origin = np.asarray(start.model.coef) if direct else None
    rounds = _Rounds(options, recipe, task, Whole(task.block) if table is None else table, origin, seed)
    end, embedder = rounds.run(start, encoder)
    reached = float(np.max(end.outcome.trace.objective, initial=-np.inf)) / task.rows()
    begun = float(start.outcome.state.objective) / _rows_of_start(task)
    return Ended([start, end], task.kappa(), {}, encoder=embedder, bounds=(begun, reached))


def _check(options: Amortised) -> None:
    one_of(options.posterior, ("diagonal", "full"), "posterior")
    one_of(options.decoder, ("exact", "gradient"), "decoder")
    for name, least in (("refine", 0), ("epochs", 1), ("batch_size", 1)):
        count(getattr(options, name), name, least=least)
    if not 0 < options.rate <= 1:
        raise InputError(f"rate={options.rate!r}: wanted is a number above 0, and at most 1.")
    if not options.hidden or any(width < 1 for width in options.hidden):
        raise InputError(f"hidden={options.hidden!r}: wanted are widths of layers, for example (64, 64).")


def _start(recipe: Recipe, task: Task) -> Fitted:
    """B and Sigma by a variational fit of some of the rows: rounds over all of them follow."""
    chosen = _start_rows(task)
    if chosen is None:
        return task.begin()
    part = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[chosen]), task.block)
    return phases.best_bound(recipe, part, task.main._replace(max_iter=1_000, tol=1e-7), 1, task.key)


def _start_rows(task: Task) -> np.ndarray | None:
    """Numbers of the rows of that fit; None where it has all of them."""
    used = np.flatnonzero(np.asarray(task.block.weights) > 0)
    if len(used) <= START_ROWS:
        return None
    return np.sort(
        derive(task.settings.random_state, Purpose.SAMPLE).generator().choice(used, START_ROWS, replace=False)
    )


def _rows_of_start(task: Task) -> float:
    """The sum of their weights."""
    chosen = _start_rows(task)
    weights = np.asarray(task.block.weights)
    return float(np.sum(weights if chosen is None else weights[chosen]))


class _Turn(NamedTuple):
    """The best round so far: encoder, model, law, bound (nats, all rows); the learning rate, and how often it fell."""

    encoder: Any
    model: Model
    law: AbstractLaw
    value: Any
    rate: Any
    stalls: Any


class _Rounds:
    """One round after the other, with a learning rate that falls where they gain nothing."""

    def __init__(
        self, options: Amortised, recipe: Recipe, task: Task, table: Table, origin: Any, seed: int
    ) -> None:
        self.options, self.recipe, self.task, self.seed = options, recipe, task, seed
        self.free = root_of(recipe)
        self.origin, self.table = origin, table
        self.epochs = max(options.epochs, -(-LEAST_STEPS // table.steps(options.batch_size)))

    def run(self, start: Fitted, encoder: Any) -> tuple[Fitted, Embedder]:
        """Until `STALLS` learning rates in a row gain less than tol nats a row."""
        none, rate, stalls = map(np.asarray, (-np.inf, float(self.options.rate), 0))
        first = _Turn(encoder, start.model, start.law, none, rate, stalls)
        outcome = run_rounds(self._turn, first, self.task.main, phase="amortised")
        best = outcome.state
        end = Fitted(best.model, None, outcome._replace(state=None), best.law)
        return end, self._embedder(best.encoder, best.law)

    def _embedder(self, encoder: Any, law: AbstractLaw) -> Embedder:
        return Embedder(encoder, self.origin, int(self.options.refine), law)

    def _turn(self, best: _Turn, number: int) -> Round:
        """Train, then B, Sigma and law at their best given the rows' Gaussians.

        These begin at the optimum of free Gaussians (of some rows), and stay there until the network has come near:
        what they would follow of a network that has not, they would come back from by small steps only.
        """
        options, rate, stalls = self.options, float(best.rate), int(best.stalls)
        plan = training.Plan(
            max_epochs=self.epochs,
            batch_size=options.batch_size,
            learning_rate=rate,
            schedule="constant",
            kl_warmup=0,
            validation_fraction=0.0,
            patience=None,
            seed=(self.seed + number) % 2**31,
            callback=None,
        )
        shared = jax.tree.map(single, jax.device_get(_collapse(self.free, *best.model)))
        with jax.enable_x64(False):
            objective = EncodedBound(
                jax.tree.map(single, self.free),
                latent_of(None if self.origin is None else single(self.origin)),
                options.decoder == "gradient",
            )
            encoded, law = Encoded(best.encoder, shared), jax.tree.map(single, best.law)
            trained, interrupted = self.table.train(encoded, law, objective, plan)
        model = best.model
        if options.decoder == "gradient":
            moved = jax.tree.map(double, trained.shared)
            model = Model(*(jnp.asarray(a) for a in _expand(self.free, moved)))
        embedder, law = self._embedder(trained.encoder, best.law), best.law
        if stalls or options.decoder == "gradient":
            model, law, value = self.table.follow(self.recipe, embedder, model)
        else:
            value = self.table.bound(embedder, model)
        gained = value - float(best.value)
        if not gained > self.task.main.tol * self.task.rows():
            rate, stalls = rate * SLOWER, stalls + 1
        made = (trained.encoder, model, law, np.asarray(value)) if gained > 0 else best[:4]
        state = _Turn(*made, np.asarray(rate), np.asarray(stalls))
        return Round(state, value, stalls > STALLS, interrupted)


@compiled()
def _collapse(free: Any, coef: Any, loadings: Any) -> Any:
    return free.collapse(coef, loadings)


@compiled()
def _expand(free: Any, shared: Any) -> Any:
    return free.expand(shared)


@compiled()
def _followed(
    recipe: Recipe, block: Block, posterior: Any, origin: Any, model: Model, law: AbstractLaw
) -> Any:
    """The model and the law at their best given the rows' Gaussians, and the bound there."""
    model, law = refit(recipe, block, moments_of(posterior, origin, block.x), model, law)
    return model, law, bound_of(posterior, origin, model, block.under(law))


def moments_of(posterior: Any, origin: Any, x: Any) -> RowMoments:
    """What the M-step needs of Gaussians that an encoder gives: in the direct form they are of Z - XB_0."""
    mean = posterior.mean if origin is None else posterior.mean + x @ origin
    if isinstance(posterior, FullPosterior):
        return RowMoments(mean, posterior.lower @ jnp.swapaxes(posterior.lower, 1, 2))
    return RowMoments(mean, posterior.variance())


# The notes' two-step smoothing: a variational fit, networks in the place of its Gaussians, B and Sigma refitted.
#
# Start at `fit_smoothed`.


HELD = 0.1  # share of the rows that say when to stop
PATIENCE = 20  # epochs without a gain there
LEAST_SMOOTHING_STEPS = 2_000, 200  # in all, and without a gain, however few rows there are
FIRST_SMOOTHING_SCALE = 0.3  # of the last layer's first weights


def fit_smoothed(task: Task) -> Ended:
    """Variational fit, two networks, the M-step at what they say."""
    options: Smoothed = task.settings.method
    _check_smoothed(options)
    recipe = phases.with_shrinkage(task.recipe, task.kappa())
    start = phases.best_bound(recipe, task.block, task.main, 1, task.key)
    if start.outcome.interrupted:
        return Ended([start], task.kappa(), {})
    assert start.rows is not None
    mean, sd = np.asarray(start.rows.mean), np.sqrt(np.asarray(start.rows.variance))
    seed = task.settings.random_state % 2**31
    with jax.enable_x64(False):
        lesson = _lesson(task, mean, sd)
        first = _first(options, start, task, lesson, seed)
        trained = training.train(first, Nearness(), lesson, _plan(options, task, seed, len(lesson.index)))  # type: ignore[arg-type]
        told = tuple(map(double, jax.device_get(_said(trained.model, lesson))))
    moments = RowMoments(jnp.asarray(told[0]), jnp.asarray(told[1] ** 2))
    model, law = refit(recipe, task.block, moments, start.model, start.law)
    seconds = np.array([time.perf_counter() - task.main.began])
    trace = Trace(np.array(["smoothed"]), np.array([1]), np.array([np.nan]), seconds)
    settled = trained.stopped == "patience" and start.outcome.converged
    outcome = Outcome(None, None, settled, trained.stopped == "interrupted", trace)
    weights = np.asarray(task.block.weights)
    shares = np.array([_share(a, b, weights) for a, b in zip((mean, sd), told, strict=True)])
    extras = {"smoothing_r2_": shares}
    return Ended([start, Fitted(model, None, outcome, law)], task.kappa(), extras, trained.messages)


def _check_smoothed(options: Smoothed) -> None:
    for name in ("epochs", "batch_size"):
        count(getattr(options, name), name, least=1)
    if not 0 < options.rate <= 1:
        raise InputError(f"rate={options.rate!r}: wanted is a number above 0, and at most 1.")
    if not options.hidden or any(width < 1 for width in options.hidden):
        raise InputError(f"hidden={options.hidden!r}: wanted are widths of layers, for example (30, 30).")


def _lesson(task: Task, mean: np.ndarray, sd: np.ndarray) -> Lesson:
    block = jax.device_get(task.block)
    rows = (block.y, block.x, block.offset, block.weights, block.index, mean, sd)
    return Lesson(*(single(a) for a in rows))


def _first(options: Smoothed, start: Fitted, task: Task, lesson: Lesson, seed: int) -> Smoother:
    """Networks that begin at the averages of what they are to say."""
    p, k = lesson.y.shape[1], lesson.mean.shape[1]
    features = features_of(task.block, start.model, directions=np.zeros((p, 0)))
    sizes = (p + lesson.x.shape[1] + 1, *options.hidden, k)
    random = derive(seed, Purpose.MAIN).generator()

    def network(average: np.ndarray) -> Network:
        made = random_network(random, sizes, jax.nn.relu, final_scale=FIRST_SMOOTHING_SCALE)
        return Network(made.weights, (*made.biases[:-1], average.astype(np.float32)), made.activation)  # type: ignore[arg-type]

    used = np.asarray(lesson.weights) > 0
    return Smoother(
        features,
        network(np.asarray(lesson.mean)[used].mean(axis=0)),
        network(np.log(np.expm1(np.asarray(lesson.sd)[used].mean(axis=0)))),  # softplus backwards
    )


def _plan(options: Smoothed, task: Task, seed: int, rows: int) -> training.Plan:
    tell, batches = task.main.callback, -(-rows // options.batch_size)
    most, idle = (-(-steps // batches) for steps in LEAST_SMOOTHING_STEPS)

    def told(progress: Progress) -> None:
        assert tell is not None
        tell(progress._replace(phase="smoothed"))

    return training.Plan(
        max_epochs=max(options.epochs, most),
        batch_size=options.batch_size,
        learning_rate=options.rate,
        schedule="constant",
        kl_warmup=0,
        validation_fraction=HELD,
        patience=max(PATIENCE, idle),
        seed=seed,
        callback=None if tell is None else told,
        keeper=task.main.keeper,
        began=task.main.began,
    )


@compiled()
def _said(model: Smoother, lesson: Any) -> Any:
    return model(lesson)


def _share(wanted: np.ndarray, found: np.ndarray, weights: np.ndarray) -> float:
    """1 - mean squared error / variance over the used rows, all numbers of a row together."""
    left = weights @ (wanted - found) ** 2
    spread = weights @ (wanted - np.average(wanted, axis=0, weights=weights)) ** 2
    return float(1 - left.sum() / spread.sum())
