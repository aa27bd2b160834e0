"""Compiles what maximum likelihood will need while the variational fit before it is compiled and runs.

Start at `compile_ahead`. Only shapes are known then, and only shapes are needed.
"""

from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct

from poplin import fit
from poplin._compile import in_a_hurry, meanwhile
from poplin.data.blocks import Block
from poplin.data.placing import layout
from poplin.estimators import directions, phases
from poplin.estimators.phases import Recipe, RowGaussians
from poplin.methods import ml
from poplin.rows import gaussian
from poplin.updates.structure import Model

WORTHWHILE = 50  # columns up to which compiling takes longer than what is compiled
_known: set[Any] = set()  # shapes that were compiled before in this process


class Ready(NamedTuple):
    """The chains' programs, and those that come after the fit: each is waited for where it is needed."""

    chains: Future[None]
    after: Future[None]


def compile_ahead(recipe: Recipe, block: Block, key: Array, *, direct_rows: bool) -> Ready:
    """Begin to compile, unless a fit of these shapes was here before. `direct_rows`: rows keep p numbers, not q."""
    n, p = block.y.shape
    like = jax.tree.map(lambda a: ShapeDtypeStruct(a.shape, a.dtype), block)
    shape = jax.tree.structure(recipe), recipe.rank, n, p, block.x.shape, phases.chain_kind(recipe, block)
    new = shape not in _known and layout(block) is None  # shapes do not say how several devices share rows
    _known.update([shape] if new else [])
    d = block.x.shape[1]
    model = Model(_numbers(d, p), _numbers(p, p if direct_rows else recipe.rank))
    rows = RowGaussians(*(_numbers(n, p if direct_rows else recipe.rank),) * 2)

    def chains() -> None:
        if new:
            how = phases.chain_kind(recipe, block)
            moving, mean_rate, many = phases.repeated.shapes(model, rows, like, **how._asdict())
            method = phases.ml_method(phases.with_shrinkage(recipe, 0.0), len(many.y), tol=0.2)
            slow: Any = ShapeDtypeStruct((p,), bool) if direct_rows else None
            fit.ahead(method, ml.First(model, moving, mean_rate, key, slow), many)
            phases.repeated.ahead(model, rows, like, **how._asdict())

    def after() -> None:
        if new:
            gaussian.ahead(like, *model)

    ready = Ready(meanwhile(chains), meanwhile(after))
    if new and in_a_hurry() and p <= WORTHWHILE:
        meanwhile(lambda: directions.compile_ahead(recipe, block))
    return ready


def _numbers(*shape: int) -> Any:
    return ShapeDtypeStruct(shape, jnp.float64)
