"""The notes' two-step smoothing: a variational fit, networks in the place of its Gaussians, B and Sigma refitted.

Start at `fit`.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poplin._compile import compiled
from poplin._errors import InputError
from poplin.estimators import phases, training
from poplin.estimators.embedding import double, single
from poplin.estimators.encoding import features_of
from poplin.estimators.phases import Fitted
from poplin.estimators.recipes import count
from poplin.estimators.refit import RowMoments, refit
from poplin.estimators.tasks import Ended, Task
from poplin.fit import Outcome, Progress, Trace
from poplin.methods.options import Smoothed
from poplin.methods.smoothed import Lesson, Nearness, Smoother
from poplin.models.networks import Network, random_network

HELD = 0.1  # share of the rows that say when to stop
PATIENCE = 20  # epochs without a gain there
LEAST_STEPS = 2_000, 200  # in all, and without a gain, however few rows there are
FIRST_SCALE = 0.3  # of the last layer's first weights


def fit(options: Smoothed, task: Task) -> Ended:
    """Variational fit, two networks, the M-step at what they say."""
    _check(options)
    recipe = phases.with_shrinkage(task.recipe, task.kappa())
    start = phases.fit_variational(recipe, task.block, task.main)
    if start.outcome.interrupted:
        return Ended([start], task.kappa(), {})
    assert start.rows is not None
    mean, sd = np.asarray(start.rows.mean), np.sqrt(np.asarray(start.rows.variance))
    seed = int(np.asarray(jax.random.key_data(task.key))[-1]) % 2**31
    with jax.enable_x64(False):
        lesson = _lesson(task, mean, sd)
        first = _first(options, start, task, lesson, seed)
        trained = training.train(first, Nearness(), lesson, _plan(options, task, seed, len(lesson.index)))  # type: ignore[arg-type]
        told = tuple(map(double, jax.device_get(_said(trained.model, lesson))))
    model = refit(
        recipe, task.block, RowMoments(jnp.asarray(told[0]), jnp.asarray(told[1] ** 2)), start.model
    )
    seconds = np.array([time.perf_counter() - task.main.began])
    trace = Trace(np.array(["smoothed"]), np.array([1]), np.array([np.nan]), seconds)
    settled = trained.stopped == "patience" and start.outcome.converged
    outcome = Outcome(None, None, settled, trained.stopped == "interrupted", trace)
    weights = np.asarray(task.block.weights)
    shares = np.array([_share(a, b, weights) for a, b in zip((mean, sd), told, strict=True)])
    extras = {"smoothing_r2_": shares}
    return Ended([start, Fitted(model, None, outcome)], task.kappa(), extras, trained.messages)


def _check(options: Smoothed) -> None:
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
    random = np.random.default_rng(seed)

    def network(average: np.ndarray) -> Network:
        made = random_network(random, sizes, jax.nn.relu, final_scale=FIRST_SCALE)
        return Network(made.weights, (*made.biases[:-1], average.astype(np.float32)), made.activation)  # type: ignore[arg-type]

    used = np.asarray(lesson.weights) > 0
    return Smoother(
        features,
        network(np.asarray(lesson.mean)[used].mean(axis=0)),
        network(np.log(np.expm1(np.asarray(lesson.sd)[used].mean(axis=0)))),  # softplus backwards
    )


def _plan(options: Smoothed, task: Task, seed: int, rows: int) -> training.Plan:
    tell, batches = task.main.callback, -(-rows // options.batch_size)
    most, idle = (-(-steps // batches) for steps in LEAST_STEPS)

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
    )


@compiled()
def _said(model: Smoother, lesson: Any) -> Any:
    return model(lesson)


def _share(wanted: np.ndarray, found: np.ndarray, weights: np.ndarray) -> float:
    """1 - mean squared error / variance over the used rows, all numbers of a row together."""
    left = weights @ (wanted - found) ** 2
    spread = weights @ (wanted - np.average(wanted, axis=0, weights=weights)) ** 2
    return float(1 - left.sum() / spread.sum())
