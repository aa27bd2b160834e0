"""Black-box and importance-weighted variational inference as one phase, and the variance of its gradients.

Start at `fit_bbvi` and `fit_iwae`: words become objects here.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._compile import compiled
from poplin._errors import InputError
from poplin.data.blocks import Block
from poplin.estimators import phases
from poplin.estimators.phases import Fitted, RowGaussians
from poplin.estimators.recipes import count, one_of
from poplin.estimators.tasks import Ended, Task
from poplin.fit import run
from poplin.methods import bbvi
from poplin.methods.options import BBVI, IWAE
from poplin.rows.frames import AbstractFrame, Diagonals, DirectFrame, FactorFrame
from poplin.rows.slopes import AbstractSlope, ImportanceWeighted, Place, Reparameterised, Score
from poplin.updates.structure import Model

CONTROLS = {
    "none": Score(),
    "rao-blackwell": Score(local=True),
    "rloo": Score(leave_one_out=True),
    "both": Score(local=True, leave_one_out=True),
}


def fit_bbvi(options: BBVI, task: Task) -> Ended:
    """Rows climb by the gradient that the options name."""
    kind = one_of(options.gradient, ("score", "reparam"), "gradient")
    control = one_of(options.control, tuple(CONTROLS), "control")
    if kind == "reparam" and control != "none":
        raise InputError(
            f"control={control!r} is for gradient='score'. Leave it out, or ask for the score function."
        )
    least = 2 if "rloo" in control or control == "both" else 1
    draws = count(options.draws, "draws", least=least)
    slope = CONTROLS[control] if kind == "score" else Reparameterised()
    return _fit(task, slope, draws, options.rate, exactly=True)


def fit_iwae(options: IWAE, task: Task) -> Ended:
    """Rows climb the importance-weighted bound, the model follows the weighted draws."""
    return _fit(
        task, ImportanceWeighted(), count(options.draws, "draws", least=1), options.rate, exactly=False
    )


def _fit(task: Task, slope: AbstractSlope, draws: int, rate: float, *, exactly: bool) -> Ended:
    if not 0 < rate <= 1:
        raise InputError(f"rate={rate!r}: wanted is a number above 0, and at most 1.")
    start = task.begin()
    if start.outcome.interrupted:
        return Ended([start], 0.0, {})
    assert start.rows is not None
    recipe, kappa = task.recipe, task.kappa()
    direct = recipe.loadings is None
    frame: AbstractFrame = DirectFrame() if direct else FactorFrame()
    structure = phases.with_shrinkage(recipe, kappa).structure()
    method = bbvi.BlackBox(structure, frame, slope, rate, task.main.tol, draws, exactly)
    first = bbvi.First(start.model, _diagonals(start.rows), jax.random.fold_in(task.key, 1))
    before = float(_variance(slope, frame, first.model, first.rows, task.block, task.key, draws=draws))
    outcome = run(
        method,
        first,
        task.block,
        phase="iwae" if not exactly else "bbvi",
        max_iter=task.main.max_iter,
        began=task.main.began,
        callback=task.main.callback,
    )
    model = _estimate(method, outcome.state)
    rows = outcome.rows.average if exactly else outcome.rows.now
    after = float(_variance(slope, frame, model, rows, task.block, task.key, draws=draws))
    extras: dict[str, Any] = {"gradient_variance_": np.array([before, after])}
    ends = float(start.outcome.state.objective), float(np.mean(outcome.trace.objective[-LAST:]))
    begun, reached = (end / task.rows() for end in ends)
    return Ended([start, Fitted(model, None, outcome)], kappa, extras, bounds=(begun, reached))


LAST = 16  # steps over which the estimates of the bound are averaged


@compiled()
def _diagonals(rows: RowGaussians) -> Diagonals:
    return Diagonals(rows.mean, 0.5 * jnp.log(rows.variance))


@compiled()
def _estimate(method: bbvi.BlackBox, state: bbvi.State) -> Model:
    return method.estimate(state)


@compiled(static_argnames="draws")
def _variance(
    slope: AbstractSlope,
    frame: AbstractFrame,
    model: Model,
    rows: Diagonals,
    block: Block,
    key: Array,
    *,
    draws: int,
) -> Array:
    return bbvi.gradient_variance(slope, Place(frame, *model, block), rows, key, draws=draws)
