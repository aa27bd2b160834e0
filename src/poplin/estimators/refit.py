"""B and Sigma at their best, given every row's Gaussian: the M-step carried to its end.

Start at `refit`, at `Refit` for rows in blocks. In the direct form it is closed; in a factor form the bound is concave
in B and C (or in the scales of a borrowed basis), and Newton steps end at its one maximum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from poplin._axes import Latent, Scalar
from poplin._compile import compiled
from poplin._precision import solve_gram
from poplin.data.blocks import Block
from poplin.estimators.phases import Recipe
from poplin.methods.method import AbstractMethod, Sweep
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


class First(NamedTuple):
    """Where Newton steps begin, and the rows' Gaussians."""

    model: Model
    rows: RowMoments


class State(NamedTuple):
    """The model, the size of its last step, and how many there were. `objective`: minus the size."""

    model: Model
    size: Scalar
    iteration: Array

    @property
    def objective(self) -> Scalar:
        """What rises to zero."""
        return -self.size


class Refit(AbstractMethod):
    """The model that maximises the bound at given Gaussians (plus the log prior of a shrunk Sigma), as steps of sums.

    Cost: n p k in the direct form, which takes one step; n p k^2 a step in a factor form.
    """

    recipe: Recipe

    def start(self, first: First, block):
        return State(first.model, jnp.asarray(jnp.inf), jnp.asarray(0)), first.rows

    def sweeps(self):
        if self.recipe.loadings is None:
            return (Sweep(self._moments, self._closed),)
        if isinstance(self.recipe.loadings, BorrowedBasis):
            return Sweep(self._columns, self._coefficients), Sweep(self._scales, self._scaled)
        return (Sweep(self._columns, self._free),)

    def done(self, state):
        return state.size <= SETTLED

    def failed(self, state):
        return jnp.isnan(state.size)

    def _moments(self, state, rows, block):
        """N, X'X, X'M and sum_i (m_i m_i' + S_i)."""
        weights = block.weights[:, None]
        gram, cross = block.x.T @ (weights * block.x), block.x.T @ (weights * rows.mean)
        second = rows.mean.T @ (weights * rows.mean) + rows.summed(block.weights)
        return rows, (jnp.sum(block.weights), gram, cross, second)

    def _closed(self, state, total):
        """B = (X'X)^-1 X'M and Sigma from R'R + sum_i S_i, R = M - XB."""
        assert self.recipe.shape is not None
        count, gram, cross, second = total
        coef = solve_gram(gram, cross)
        fitted = coef.T @ cross
        second = (second - fitted - fitted.T + coef.T @ gram @ coef) / count
        covariance = self.recipe.shape.estimate(0.5 * (second + second.T), count)
        model = Model(coef, jnp.linalg.cholesky(covariance))
        return State(model, jnp.zeros(()), state.iteration + 1)

    def _columns(self, state, rows, block):
        """Every column's own regression on x, and on w where loadings are free."""
        covariance, free = rows.matrices(), not isinstance(self.recipe.loadings, BorrowedBasis)
        rate = _rates(block, RowMoments(rows.mean, covariance), state.model)
        total = expected_columns(state.model.loadings, free, rows.mean, covariance, rate, block)
        return rows, (total.gradient, total.hessian)

    def _free(self, state, total):
        step = newton_columns(*total, gamma=jnp.ones(()))
        d = len(state.model.coef)
        moved = Model(state.model.coef + step[:d], state.model.loadings + step[d:].T)
        return _stepped(state, moved, state.model)

    def _coefficients(self, state, total):
        """B first; its step is part of the size of the next one."""
        step = newton_columns(*total, gamma=jnp.ones(()))
        model = state.model._replace(coef=state.model.coef + step)
        return State(model, jnp.max(jnp.abs(step)), state.iteration)

    def _scales(self, state, rows, block):
        """Gradient and Hessian in the scales l of C = V diag(l), all at once."""
        rows_ = RowMoments(rows.mean, rows.matrices())

        def value(scale: Array) -> Array:
            moved = Model(state.model.coef, self._basis * scale)
            climb = rows.mean @ moved.loadings.T
            return block.weights @ jnp.sum(block.y * climb - _rates(block, rows_, moved), axis=1)

        scale = self._scale(state.model)
        return rows, (jax.grad(value)(scale), jax.hessian(value)(scale))

    def _scaled(self, state, total):
        gradient, hessian = total
        scale = self._scale(state.model)
        step = jnp.linalg.solve(1e-9 * jnp.eye(len(scale)) - hessian, gradient)
        reach = LONGEST * (jnp.abs(scale) + 1e-3)
        loadings = self._basis * (scale + jnp.clip(step, -reach, reach))
        size = state.size + jnp.max(jnp.abs(loadings - state.model.loadings))
        return State(state.model._replace(loadings=loadings), size, state.iteration + 1)

    @property
    def _basis(self) -> Array:
        assert isinstance(self.recipe.loadings, BorrowedBasis)
        return self.recipe.loadings.basis

    def _scale(self, model: Model) -> Array:
        return jnp.sum(self._basis * model.loadings, axis=0)


def _stepped(state: State, moved: Model, model: Model) -> State:
    size = sum(jnp.max(jnp.abs(a - b)) for a, b in zip(moved, model, strict=True))
    return State(moved, jnp.asarray(size), state.iteration + 1)


@compiled()
def refit(recipe: Recipe, block: Block, rows: RowMoments, first: Model) -> Model:
    """The same of a block that is there as a whole; `first` is where Newton steps begin."""
    method = Refit(recipe)

    def going(carry):
        state, _ = carry
        return ~method.done(state) & ~method.failed(state) & (state.iteration < MOST_STEPS)

    def step(carry):
        state, rows = carry
        for local, update in method.sweeps():
            rows, total = local(state, rows, block)
            state = update(state, total)
        return state, rows

    return lax.while_loop(going, step, method.start(First(first, rows), block))[0].model


def _rates(block: Block, rows: RowMoments, model: Model) -> Array:
    predictor = block.offset + block.x @ model.coef + rows.mean @ model.loadings.T
    spread = jnp.einsum("pk,nkl,pl->np", model.loadings, rows.covariance, model.loadings, optimize=True)
    return rates(predictor + 0.5 * spread)
