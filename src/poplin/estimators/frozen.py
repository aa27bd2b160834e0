"""The best diagonal Gaussians of rows under a model that stays as it is: of new rows, and of rows where a fit begins.

Start at `best_rows`.
"""

from __future__ import annotations

import time

import jax.numpy as jnp

from poplin import starts
from poplin._compile import compiled
from poplin.data.blocks import NO_EXPOSURE, Block
from poplin.fit import Outcome, run
from poplin.methods.bounds import DirectBound, FactorBound
from poplin.methods.variational import Variational
from poplin.models.loadings import FrozenLoadings
from poplin.rows.gaussian import ROOM, fit_rows
from poplin.rows.plane import rates
from poplin.updates.covariance import Fixed
from poplin.updates.structure import Model


def frozen_bound(model: Model, *, direct: bool) -> DirectBound | FactorBound:
    """The diagonal bound with B and Sigma as they are."""
    if direct:
        return DirectBound(Fixed(model.loadings @ model.loadings.T), model.coef)
    return FactorBound(FrozenLoadings(*model))


def first_rows(model: Model, block: Block, *, direct: bool) -> starts.First:
    """Rows near their best, from what the model leaves of log(y + 1/2)."""
    coef, loadings = model
    if direct:
        return starts.direct_rows_start(block, coef=coef, variance=jnp.sum(loadings**2, axis=1))
    observed = block.offset > NO_EXPOSURE / 2
    residual = jnp.where(observed, jnp.log(block.y + 0.5) - block.offset - block.x @ coef, 0.0)
    precision = jnp.eye(loadings.shape[1]) + loadings.T @ loadings
    scores = jnp.linalg.solve(precision, loadings.T @ residual.T).T
    free = FrozenLoadings(coef, loadings)
    return starts.scaled_factor_start(block, free, coef=coef, loadings=loadings, scores=scores)


@compiled()
def surer_rows(model: Model, block: Block) -> starts.First:
    """Rows of the factor form at their full Gaussians' means: loadings of a hundred make the usual start's bound -inf.

    Variances are 1 / (I + C' diag(A) C)_kk, and so much shorter that no rate is raised by more than e^ROOM above its
    count. Cost: n q^3 + n p q^2 a step of `fit_rows`.
    """
    coef, loadings = model
    fit = fit_rows(block, coef, loadings)
    predictor = block.offset + block.x @ coef + fit.mean @ loadings.T
    spread = jnp.einsum("jk,nkl,jl->nj", loadings, fit.covariance, loadings)
    variance = 1 / (1 + rates(predictor + 0.5 * spread) @ loadings**2)
    room = jnp.maximum(jnp.log(block.y + 1) + ROOM - predictor, 1.0)
    share = jnp.min(jnp.minimum(1.0, 2 * room / (variance @ (loadings**2).T + 1e-300)), axis=1)
    free = FrozenLoadings(coef, loadings)
    first = starts.scaled_factor_start(block, free, coef=coef, loadings=loadings, scores=fit.mean)
    return first._replace(rows=(fit.mean, 0.5 * jnp.log(share[:, None] * variance)))


def best_rows(
    model: Model, block: Block, first: starts.First, *, direct: bool, tol: float = 1e-10, max_iter: int = 2000
) -> Outcome:
    """The rows' best Gaussians from these first values: of Z in the direct form, of w in the factor form."""
    method = Variational(frozen_bound(model, direct=direct), tol)
    return run(method, first, block, phase="rows", max_iter=max_iter, began=time.perf_counter())
