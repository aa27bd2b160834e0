"""Maximum likelihood by numerical integration as phases: an order of nodes, and more until nothing changes.

Start at `fit`. A phase climbs the log-likelihood with so many nodes; then the log-likelihood is looked at with twice as
many, and the climb goes on with those if it changed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poplin._compile import compiled
from poplin._errors import InputError
from poplin.data.blocks import Block, as_block
from poplin.estimators.phases import Fitted, Recipe
from poplin.estimators.pilot import PILOT_ROWS, asked_for
from poplin.estimators.recipes import count
from poplin.estimators.tasks import Ended, Task
from poplin.fit import run
from poplin.methods.exact import Likelihood, first_values
from poplin.methods.options import Exact
from poplin.methods.variational import Variational
from poplin.models.loadings import AbstractLoadings, BorrowedBasis
from poplin.models.roots import DiagonalRoot, FreeRoot, KnownRoot, SphericalRoot
from poplin.rows.nodes import AbstractRule, column_nodes, joint_nodes
from poplin.updates.covariance import Diagonal, Fixed, Full, Spherical
from poplin.updates.structure import Model

MOST_DIMENSIONS = 3  # of a joint integral
FIRST_ORDER = {1: 32, 2: 16, 3: 12}  # nodes along an axis, by the number of axes
LAST_ORDER = {1: 64, 2: 64, 3: 24}
UNCHANGED = 1e-4  # nats over all rows by which twice as many nodes may change the log-likelihood


class Plan(NamedTuple):
    """What is free, the axes of an integral (0: one a column), and which weak priors of "ml" C has (1 or 0)."""

    free: AbstractLoadings
    axes: int
    weak: float = 1.0
    least: float = 1.0

    def rule(self, order: int) -> AbstractRule:
        """Nodes of this order."""
        return joint_nodes(order, self.axes) if self.axes else column_nodes(order)


def plan(recipe: Recipe) -> Plan:
    """How a model's likelihood is integrated; an `InputError` where it cannot be."""
    if recipe.loadings is not None:
        weak = 0.0 if isinstance(recipe.loadings, BorrowedBasis) else 1.0
        return Plan(recipe.loadings, _few(recipe.rank), weak, 0.0)
    shape, p = recipe.shape, recipe.rank
    if isinstance(shape, Diagonal):
        return Plan(DiagonalRoot(), 0)
    if isinstance(shape, Spherical):
        return Plan(SphericalRoot(), 0)
    if isinstance(shape, Fixed):
        known = np.asarray(shape.covariance)
        independent = np.array_equal(known, np.diag(np.diag(known)))
        root = jnp.asarray(np.linalg.cholesky(known))
        return Plan(KnownRoot(root), 0 if independent else _few(p), 0.0, 0.0)
    return Plan(FreeRoot(), _few(p))


def _few(dimensions: int) -> int:
    if dimensions > MOST_DIMENSIONS:
        raise InputError(
            f"method='exact' integrates where Sigma is diagonal or there are at most {MOST_DIMENSIONS} latent "
            f"dimensions; here there are {dimensions}. Use method='ml', covariance='diagonal' or rank="
            f"{MOST_DIMENSIONS}."
        )
    return dimensions


def fit(options: Exact, task: Task) -> Ended:
    """Climb the log-likelihood from the bound's optimum."""
    way = plan(task.recipe)
    order, last = _orders(options, max(way.axes, 1))
    done, kappa = [task.begin()], task.kappa()
    if isinstance(task.recipe.shape, Full) and task.weight is None and not done[-1].outcome.interrupted:
        done.append(climb(way, order, PILOT_ROWS, done[-1].model, task))
        kappa = asked_for(task.recipe, task.block, done[-1].model)
    change = np.inf
    while not done[-1].outcome.interrupted:
        done.append(climb(way, order, kappa, done[-1].model, task))
        found = done[-1].model
        change = total(way, 2 * order, found, task.block) - total(way, order, found, task.block)
        if order >= last or abs(change) <= UNCHANGED:
            break
        order *= 2
    return Ended(done, kappa, _reported(way, 2 * order, done[-1].model, task), _doubt(order, change))


def _orders(options: Exact, axes: int) -> tuple[int, int]:
    if options.order is None:
        return FIRST_ORDER[axes], LAST_ORDER[axes]
    order = count(options.order, "order", least=2)
    return order, order


def _doubt(order: int, change: float) -> tuple[str, ...]:
    if not abs(change) > UNCHANGED or not np.isfinite(change):
        return ()
    return (
        f"Twice as many nodes than {order} along an axis change the log-likelihood by {change:.2g} nats.",
    )


def climb(way: Plan, order: int, kappa: float, model: Model, task: Task) -> Fitted:
    """Maximise the log-likelihood with nodes of one order, from a model."""
    settings = task.main
    assert task.recipe.level is not None
    weak = way.weak * task.recipe.spread
    target = Likelihood(way.free, way.rule(order), weak, way.least, kappa, task.recipe.level)
    outcome = run(
        Variational(target, settings.tol),
        _first(way.free, task.block, model),
        task.block,
        phase="exact",
        max_iter=settings.max_iter,
        began=settings.began,
        callback=settings.callback,
    )
    return Fitted(_model(way.free, outcome.state.vector.unknown), None, outcome)


_first = compiled()(first_values)


@compiled()
def _model(free: AbstractLoadings, shared: Any) -> Model:
    return Model(*free.expand(shared))


@compiled()
def _loglik(rule: AbstractRule, block: Block, model: Model) -> jax.Array:
    return rule.loglik(block, *model)


def total(way: Plan, order: int, model: Model, block: Block) -> float:
    """The weighted log-likelihood of the rows with nodes of an order, in nats."""
    value = _loglik(way.rule(order), block, model)
    return float(np.asarray(block.weights) @ np.asarray(value))


def _reported(way: Plan, order: int, model: Model, task: Task) -> dict[str, Any]:
    counts = task.counts
    plain = as_block(counts.y, counts.x, counts.offset, counts.weights, prior=False)
    return {"loglik_": total(way, order, model, plain), "loglik_se_": 0.0}
