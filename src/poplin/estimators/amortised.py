"""Amortised fits: networks say from a row where it is, B and Sigma follow, and new rows are embedded at once.

Start at `fit`. What a fit keeps of it is a `methods.amortised.Embedder`. Rows are there as a whole (`Whole`), or in
blocks (`streamed_amortised.py`).
"""

import time
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from poplin._compile import compiled
from poplin._errors import InputError
from poplin.data.blocks import Block
from poplin.estimators import phases, training
from poplin.estimators.embedding import bound_of, double, posteriors, single
from poplin.estimators.encoding import Sizes, first_encoder, latent_of, root_of
from poplin.estimators.phases import Fitted, Recipe, Settings
from poplin.estimators.recipes import count, one_of
from poplin.estimators.refit import RowMoments, refit
from poplin.estimators.tasks import Ended, Task
from poplin.fit import Outcome, Progress, Trace
from poplin.methods.amortised import Embedder, Encoded, EncodedBound
from poplin.methods.objectives import AbstractObjective
from poplin.methods.options import Amortised
from poplin.rows.encoders import FullPosterior
from poplin.updates.structure import Model

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
        self, model: Encoded, objective: AbstractObjective, plan: training.Plan
    ) -> tuple[Encoded, bool]:
        """The model (single precision) trained by this plan, and whether it was interrupted."""
        ...

    def follow(self, recipe: Recipe, embedder: Embedder, model: Model) -> tuple[Model, float]:
        """B and Sigma at their best given the Gaussians that the embedder gives, and the bound there (nats)."""
        ...


class Whole:
    """All rows at once."""

    def __init__(self, block: Block) -> None:
        self._block, self._single = block, jax.tree.map(single, jax.device_get(block))

    def steps(self, batch_size: int) -> int:
        """See `Table`."""
        return -(-len(self._block.index) // batch_size)

    def train(
        self, model: Encoded, objective: AbstractObjective, plan: training.Plan
    ) -> tuple[Encoded, bool]:
        """See `Table`."""
        trained = training.train(model, objective, self._single, plan)
        return trained.model, trained.stopped == "interrupted"

    def follow(self, recipe: Recipe, embedder: Embedder, model: Model) -> tuple[Model, float]:
        """See `Table`."""
        posterior = posteriors(embedder, model, self._block)
        model, value = _followed(recipe, self._block, posterior, embedder.origin, model)
        return model, float(value)


def fit(options: Amortised, task: Task, table: Table | None = None) -> Ended:
    """Rounds of training and M-steps until the bound rises no more at any learning rate.

    `table`: where the task's block is a part of the rows, which weighs as much as all; None: it is all rows.
    """
    _check(options)
    recipe = phases.with_shrinkage(task.recipe, task.kappa())
    start = _start(recipe, task)
    if start.outcome.interrupted:
        return Ended([start], task.kappa(), {})
    direct = recipe.loadings is None
    sizes = Sizes(task.block.y.shape[1], task.block.x.shape[1], recipe.rank, direct)
    seed = int(np.asarray(jax.random.key_data(task.key))[-1]) % 2**31
    encoder = first_encoder(options, sizes, start.model, task.block, np.random.default_rng(seed))
    origin = np.asarray(start.model.coef) if direct else None
    rounds = _Rounds(options, recipe, task, Whole(task.block) if table is None else table, origin, seed)
    end, embedder = rounds.run(start.model, encoder)
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
    settings = Settings(1_000, 1e-7, task.main.began, task.main.callback)
    return phases.fit_variational(recipe, part, settings)


def _start_rows(task: Task) -> np.ndarray | None:
    """Numbers of the rows of that fit; None where it has all of them."""
    used = np.flatnonzero(np.asarray(task.block.weights) > 0)
    if len(used) <= START_ROWS:
        return None
    return np.sort(np.random.default_rng(0).choice(used, START_ROWS, replace=False))


def _rows_of_start(task: Task) -> float:
    """The sum of their weights."""
    chosen = _start_rows(task)
    weights = np.asarray(task.block.weights)
    return float(np.sum(weights if chosen is None else weights[chosen]))


class _Turn(NamedTuple):
    """Where a round ended: encoder, model, the bound (nats, all rows)."""

    encoder: Any
    model: Model
    value: float


class _Rounds:
    """One round after the other, with a learning rate that falls where they gain nothing."""

    def __init__(
        self, options: Amortised, recipe: Recipe, task: Task, table: Table, origin: Any, seed: int
    ) -> None:
        self.options, self.recipe, self.task, self.seed = options, recipe, task, seed
        self.free = root_of(recipe)
        self.origin, self.table = origin, table
        self.epochs = max(options.epochs, -(-LEAST_STEPS // table.steps(options.batch_size)))

    def run(self, model: Model, encoder: Any) -> tuple[Fitted, Embedder]:
        """Until `STALLS` learning rates in a row gain less than tol nats a row."""
        best = _Turn(encoder, model, -np.inf)
        rate, stalls, values, seconds = self.options.rate, 0, [], []
        converged = interrupted = False
        main, least = self.task.main, self.task.main.tol * self.task.rows()
        while len(values) < main.max_iter and not converged and not interrupted:
            try:
                turn, interrupted = self._turn(best, rate, len(values))
            except KeyboardInterrupt:  # in an M-step: this round counts for nothing
                interrupted = True
                break
            values.append(turn.value)
            seconds.append(time.perf_counter() - main.began)
            gained = turn.value - best.value
            best = turn if gained > 0 else best
            if not gained > least:
                rate, stalls = rate * SLOWER, stalls + 1
            converged = stalls > STALLS
            if main.callback is not None:
                main.callback(Progress("amortised", len(values), main.max_iter, best.value, seconds[-1]))
        steps = np.arange(1, len(values) + 1)
        trace = Trace(np.full(len(values), "amortised"), steps, np.array(values), np.array(seconds))
        outcome = Outcome(None, None, converged, interrupted, trace)
        return Fitted(best.model, None, outcome), self._embedder(best.encoder)

    def _embedder(self, encoder: Any) -> Embedder:
        return Embedder(encoder, self.origin, int(self.options.refine))

    def _turn(self, best: _Turn, rate: float, number: int) -> tuple[_Turn, bool]:
        """Train, then B and Sigma at their best given the rows' Gaussians."""
        options = self.options
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
            trained, interrupted = self.table.train(Encoded(best.encoder, shared), objective, plan)
        model = best.model
        if options.decoder == "gradient":
            moved = jax.tree.map(double, trained.shared)
            model = Model(*(jnp.asarray(a) for a in _expand(self.free, moved)))
        model, value = self.table.follow(self.recipe, self._embedder(trained.encoder), model)
        return _Turn(trained.encoder, model, value), interrupted


@compiled()
def _collapse(free: Any, coef: Any, loadings: Any) -> Any:
    return free.collapse(coef, loadings)


@compiled()
def _expand(free: Any, shared: Any) -> Any:
    return free.expand(shared)


@compiled()
def _followed(recipe: Recipe, block: Block, posterior: Any, origin: Any, model: Model) -> Any:
    """The model at its best given the rows' Gaussians, and the bound there."""
    model = refit(recipe, block, moments_of(posterior, origin, block.x), model)
    return model, bound_of(posterior, origin, model, block)


def moments_of(posterior: Any, origin: Any, x: Any) -> RowMoments:
    """What the M-step needs of Gaussians that an encoder gives: in the direct form they are of Z - XB_0."""
    mean = posterior.mean if origin is None else posterior.mean + x @ origin
    if isinstance(posterior, FullPosterior):
        return RowMoments(mean, posterior.lower @ jnp.swapaxes(posterior.lower, 1, 2))
    return RowMoments(mean, posterior.variance())
