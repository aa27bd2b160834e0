"""Between two stretches of a variational fit with free loadings: the same point with its latent axes turned.

Start at `first_values`. A gradient method alone crawls along rotations of w; turned after 10, 40 and 140
steps, a fit needs a fifth of the iterations and more often ends at a better optimum.
"""

from typing import Any

import jax
from jax import Array

from poplin import starts
from poplin._axes import Latent
from poplin.data.blocks import Block
from poplin.data.placing import NOWHERE, layout, rows_in
from poplin.fit import Outcome, run
from poplin.methods.bounds import FactorBound
from poplin.methods.spread import over_devices
from poplin.methods.turning import Turning
from poplin.models.loadings import AbstractLoadings, FreeLoadings
from poplin.updates.structure import Model

STEPS = 40  # of one turning at most
ENOUGH = 1e-4  # nats a row: less than this is not worth turning for
MOST_NUMBERS = 100_000_000  # in the rows' q x q precisions; beyond it nothing is turned


def possible(loadings: AbstractLoadings | None, block: Block, *, rank: int) -> bool:
    """Are there axes that may turn, and is there room for every row's precision?"""
    free = isinstance(loadings, FreeLoadings) and rank > 1
    return free and rows_in(block) * rank**2 <= MOST_NUMBERS


def first_values(free: AbstractLoadings, block: Block, sketch: Outcome) -> tuple[starts.First, bool]:
    """First values at the sketch's end in turned axes; was there anything to gain by turning?"""
    model, mean, rate = _point(free, block, sketch.state.vector.unknown, sketch.rows.unknown)
    first = _beside((model.loadings, rate), block)
    method = over_devices(Turning(ENOUGH), first, block)
    outcome = run(method, first, block, phase="turning", max_iter=STEPS, began=0.0)
    gain = outcome.trace.objective[-1] - outcome.trace.objective[0]
    first = _in_axes(free, block, model, mean, outcome.state.turn)
    return starts.beside(first, block), bool(gain > ENOUGH * rows_in(block))


def _beside(first: tuple[Array, Array], block: Block) -> tuple[Array, Array]:
    """Loadings on all devices, rates beside their rows."""
    over = layout(block)
    return first if over is None else (over.lying(first[0], NOWHERE), over.lying(first[1], 0))


@jax.jit
def _point(free: AbstractLoadings, block: Block, shared: Any, unknown: tuple[Array, Array]):
    """(B, C), the rows' means, and A (n, p)."""
    _, rate = FactorBound(free).rates(shared, unknown, block)
    return Model(*free.expand(shared)), unknown[0], rate


@jax.jit
def _in_axes(free: AbstractLoadings, block: Block, model: Model, mean: Latent, turn: Array) -> starts.First:
    coef, loadings = model
    return starts.scaled_factor_start(block, free, coef=coef, loadings=loadings @ turn, scores=mean @ turn)
