"""B and Sigma at their best, given every row's Gaussian: the M-step carried to its end.

Start at `refit`. In the direct form it is closed; in a factor form the bound is concave in B and C (or in the scales of
a borrowed basis), and Newton steps end at its one maximum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from poplin._axes import Latent
from poplin._compile import compiled
from poplin._precision import solve_gram
from poplin.data.blocks import Block
from poplin.estimators.phases import Recipe
from poplin.models.loadings import BorrowedBasis
from poplin.rows.plane import rates
from poplin.updates.columns import expected_columns, newton_columns
from poplin.updates.structure import Model

MOST_STEPS = 50
SETTLED = 1e-7  # largest Newton step of B and C
LONGEST = 0.5  # relative change of a scale of a borrowed basis


class RowMoments(NamedTuple):
    """Means (n, k) and covariances of the rows' Gaussians: of Z in the direct form, of w in a factor form.

    Covariances are (n, k, k), or (n, k) variances of diagonal ones.
    """

    mean: Latent
    covariance: Array

    def summed(self, weights: Array) -> Array:
        """sum_i w_i S_i, (k, k)."""
        total = jnp.tensordot(weights, self.covariance, 1)
        return total if total.ndim == 2 else jnp.diag(total)

    def matrices(self) -> Array:
        """The covariances as (n, k, k)."""
        return self.covariance if self.covariance.ndim == 3 else jax.vmap(jnp.diag)(self.covariance)


@compiled()
def refit(recipe: Recipe, block: Block, rows: RowMoments, first: Model) -> Model:
    """The model that maximises the bound at these Gaussians (plus the log prior of a shrunk Sigma).

    `first` is where Newton steps begin. Cost: n p k in the direct form; n p k^2 a step in a factor form.
    """
    if recipe.loadings is None:
        return _direct(recipe, block, rows)
    rows = RowMoments(rows.mean, rows.matrices())
    step = _borrowed_step if isinstance(recipe.loadings, BorrowedBasis) else _free_step

    def going(carry):
        _, size, count = carry
        return (size > SETTLED) & (count < MOST_STEPS)

    def once(carry):
        model, _, count = carry
        moved = step(recipe, block, rows, model)
        size = sum(jnp.max(jnp.abs(a - b)) for a, b in zip(moved, model, strict=True))
        return moved, size, count + 1

    return lax.while_loop(going, once, (first, jnp.asarray(jnp.inf), jnp.asarray(0)))[0]


def _direct(recipe: Recipe, block: Block, rows: RowMoments) -> Model:
    """B = (X'X)^-1 X'M and Sigma from R'R + sum_i S_i, R = M - XB."""
    assert recipe.shape is not None
    weights, total = block.weights[:, None], jnp.sum(block.weights)
    coef = solve_gram(block.x.T @ (weights * block.x), block.x.T @ (weights * rows.mean))
    residual = rows.mean - block.x @ coef
    second = (residual.T @ (weights * residual) + rows.summed(block.weights)) / total
    return Model(coef, jnp.linalg.cholesky(recipe.shape.estimate(0.5 * (second + second.T), total)))


def _rates(block: Block, rows: RowMoments, model: Model) -> Array:
    predictor = block.offset + block.x @ model.coef + rows.mean @ model.loadings.T
    spread = jnp.einsum("pk,nkl,pl->np", model.loadings, rows.covariance, model.loadings, optimize=True)
    return rates(predictor + 0.5 * spread)


def _free_step(recipe: Recipe, block: Block, rows: RowMoments, model: Model) -> Model:
    """Every column's own regression on (x, w)."""
    d, rate = block.x.shape[1], _rates(block, rows, model)
    total = expected_columns(model.loadings, True, rows.mean, rows.covariance, rate, block)
    step = newton_columns(total.gradient, total.hessian, gamma=jnp.ones(()))
    return Model(model.coef + step[:d], model.loadings + step[d:].T)


def _borrowed_step(recipe: Recipe, block: Block, rows: RowMoments, model: Model) -> Model:
    """Each column's B on x, then the scales l of C = V diag(l), all at once."""
    assert isinstance(recipe.loadings, BorrowedBasis)
    basis = recipe.loadings.basis
    rate = _rates(block, rows, model)
    total = expected_columns(model.loadings, False, rows.mean, rows.covariance, rate, block)
    coef = model.coef + newton_columns(total.gradient, total.hessian, gamma=jnp.ones(()))

    def value(scale: Array) -> Array:
        moved = Model(coef, basis * scale)
        climb = rows.mean @ moved.loadings.T
        return block.weights @ jnp.sum(block.y * climb - _rates(block, rows, moved), axis=1)

    scale = jnp.sum(basis * model.loadings, axis=0)
    curvature = -jax.hessian(value)(scale) + 1e-9 * jnp.eye(len(scale))
    step = jnp.linalg.solve(curvature, jax.grad(value)(scale))
    reach = LONGEST * (jnp.abs(scale) + 1e-3)
    return Model(coef, basis * (scale + jnp.clip(step, -reach, reach)))
