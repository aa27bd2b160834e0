"""B, Sigma and the law at their best, given every row's Gaussian: the M-step carried to its end.

Start at `refit`, at `Refit` for rows in blocks. In the direct form it is closed; in a factor form the bound is concave
in B and C (or in the scales of a borrowed basis), and Newton steps end at its one maximum. A law's own parameters take
scoring steps beside them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from poplin._axes import Latent, Scalar
from poplin._numerics import compiled, solve_gram
from poplin.data.blocks import Block, on_host
from poplin.fit import step
from poplin.fitting import phases
from poplin.fitting.phases import Fitted, Settings
from poplin.fitting.recipes import Recipe
from poplin.inference.shrinkage import FOLDS, Estimate, folds_of, most_likely_shrinkage, pull_of
from poplin.laws import POISSON, AbstractLaw, Expected
from poplin.methods.method import AbstractMethod, Sweep
from poplin.models.loadings import BorrowedBasis
from poplin.rows.cells import Sites, sites
from poplin.updates.own import Scaled, followed, nothing_known, own_left, own_statistic, penalised
from poplin.updates.structure import Full, Model, expected_columns, newton_columns

MOST_STEPS = 50
SETTLED = 1e-7  # largest Newton step of B and C
OWN_SETTLED = 0.01  # largest step of a law's parameter, in standard errors
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
    """Where Newton steps begin, and the rows' Gaussians; the law of the counts, with its parameters."""

    model: Model
    rows: RowMoments
    law: AbstractLaw = POISSON


class State(NamedTuple):
    """The model and the law, the size of the last step of each (the law's in standard errors), and how many there were.

    `objective`: minus the model's size.
    """

    model: Model
    law: AbstractLaw
    size: Scalar
    own_size: Scalar
    iteration: Array

    @property
    def objective(self) -> Scalar:
        """What rises to zero."""
        return -self.size


class Refit(AbstractMethod):
    """The model that maximises the bound at given Gaussians (plus the log prior of a shrunk Sigma), as steps of sums.

    Cost: n p k in the direct form, which takes one step where the law has no parameters; n p k^2 a step in a factor
    form.
    """

    recipe: Recipe

    def start(self, first: First, block):
        unsettled = jnp.asarray(jnp.inf)
        of_law = unsettled if self._of_law() else jnp.zeros(())
        return State(first.model, first.law, unsettled, of_law, jnp.asarray(0)), first.rows

    def sweeps(self):
        return (*self._of_law(), *self._of_model())

    def _of_law(self) -> tuple[Sweep, ...]:
        return (Sweep(self._scores, self._scored),) if jax.tree.leaves(self.recipe.law) else ()

    def _of_model(self) -> tuple[Sweep, ...]:
        if self.recipe.loadings is None:
            return (Sweep(self._moments, self._closed),)
        if isinstance(self.recipe.loadings, BorrowedBasis):
            return Sweep(self._columns, self._coefficients), Sweep(self._scales, self._scaled)
        return (Sweep(self._columns, self._free),)

    def done(self, state):
        return (state.size <= SETTLED) & (state.own_size <= OWN_SETTLED)

    def failed(self, state):
        return jnp.isnan(state.size) | jnp.isnan(state.own_size)

    def _scores(self, state, rows, block):
        """What the rows' Gaussians say of the law's parameters."""
        block = block.under(state.law)
        predictor, spread = self._seen(state.model, rows, block)
        scores = Scaled(block.law.expected_scores(predictor, spread, block.y), jnp.zeros_like(predictor))
        return rows, own_statistic(state.law, scores, scores, block)

    def _scored(self, state, total):
        """A scoring step of each parameter."""
        known, one = nothing_known(state.law, len(state.model.loadings)), jnp.ones(())
        how = {"gamma": one, "first": jnp.asarray(True), "scales": False}
        law, known, _ = followed(state.law, known, total, **how)
        left = own_left(known, penalised(state.law, total.score), scales=False)
        return state._replace(law=law, own_size=jnp.sqrt(jnp.max(left)))

    def _seen(self, model: Model, rows: RowMoments, block: Block) -> tuple[Array, Array]:
        """Mean and variance of the log rates under the rows' Gaussians: of Z, or of w."""
        if self.recipe.loadings is not None:
            return _of_factors(block, rows, model)
        plain = rows.covariance.ndim == 2
        variance = rows.covariance if plain else jnp.diagonal(rows.covariance, axis1=1, axis2=2)
        return block.offset + rows.mean, variance

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
        return state._replace(model=model, size=jnp.zeros(()), iteration=state.iteration + 1)

    def _columns(self, state, rows, block):
        """Every column's own regression on x, and on w where loadings are free."""
        block, covariance = block.under(state.law), rows.matrices()
        free = not isinstance(self.recipe.loadings, BorrowedBasis)
        counted = _counted(block, RowMoments(rows.mean, covariance), state.model)
        total = expected_columns(state.model.loadings, free, rows.mean, covariance, counted, block)
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
        return state._replace(model=model, size=jnp.max(jnp.abs(step)))

    def _scales(self, state, rows, block):
        """Gradient and Hessian in the scales l of C = V diag(l), all at once."""
        rows_, block = RowMoments(rows.mean, rows.matrices()), block.under(state.law)

        def value(scale: Array) -> Array:
            moved = Model(state.model.coef, self._basis * scale)
            climb = rows.mean @ moved.loadings.T
            return block.weights @ jnp.sum(block.y * climb + _counted(block, rows_, moved).remainder, axis=1)

        scale = self._scale(state.model)
        return rows, (jax.grad(value)(scale), jax.hessian(value)(scale))

    def _scaled(self, state, total):
        gradient, hessian = total
        scale = self._scale(state.model)
        step = jnp.linalg.solve(1e-9 * jnp.eye(len(scale)) - hessian, gradient)
        reach = LONGEST * (jnp.abs(scale) + 1e-3)
        loadings = self._basis * (scale + jnp.clip(step, -reach, reach))
        size = state.size + jnp.max(jnp.abs(loadings - state.model.loadings))
        model = state.model._replace(loadings=loadings)
        return state._replace(model=model, size=size, iteration=state.iteration + 1)

    @property
    def _basis(self) -> Array:
        assert isinstance(self.recipe.loadings, BorrowedBasis)
        return self.recipe.loadings.basis

    def _scale(self, model: Model) -> Array:
        return jnp.sum(self._basis * model.loadings, axis=0)


def _stepped(state: State, moved: Model, model: Model) -> State:
    size = sum(jnp.max(jnp.abs(a - b)) for a, b in zip(moved, model, strict=True))
    return state._replace(model=moved, size=jnp.asarray(size), iteration=state.iteration + 1)


@compiled()
def refit(
    recipe: Recipe, block: Block, rows: RowMoments, first: Model, law: AbstractLaw = POISSON
) -> tuple[Model, AbstractLaw]:
    """The same of a block that is there as a whole; `first` and `law` are where Newton steps begin."""
    method = Refit(recipe)

    def going(carry):
        state, _ = carry
        return ~method.done(state) & ~method.failed(state) & (state.iteration < MOST_STEPS)

    begun = method.start(First(first, rows, law), block)
    end = lax.while_loop(going, lambda carry: step(method, *carry, block), begun)[0]
    return end.model, end.law


def _of_factors(block: Block, rows: RowMoments, model: Model) -> tuple[Array, Array]:
    predictor = block.offset + block.x @ model.coef + rows.mean @ model.loadings.T
    covariance = rows.matrices()
    return predictor, jnp.einsum("pk,nkl,pl->np", model.loadings, covariance, model.loadings, optimize=True)


def _counted(block: Block, rows: RowMoments, model: Model) -> Expected:
    return block.law.expected(*_of_factors(block, rows, model), block.y)


# How much a free Sigma is shrunk: what the data ask for, and by how much correlations were then pulled.
#
# Start at `piloted`: a short fit, from which `asked_for` takes kappa. `pulled` is what a fit reports.


PILOT_ROWS = 2.0  # pseudo-rows behind Sigma while the data are asked how many there should be
PILOT_STEPS = 64
FOLDS_MOST = 6e8  # n p^3 up to which folds are tried: some 20 s
FOLDS_SHARE = 10  # times max(1000, n, 20 p), about what chains cost over p^2: up to as much n p
MANY_ROWS = 10.0  # rows a column from which on the pull vanishes faster than standard errors


def piloted(
    recipe: Recipe, where: phases.Chained, settings: Settings, *, whole: float, block: Block | None = None
) -> tuple[Fitted, phases.Chained, float]:
    """A short fit with a little shrinkage, and the pseudo-rows that it asks for in a table of so many rows.

    `block`: the rows without copies; None where they are not all at hand.
    """
    settings = settings._replace(max_iter=PILOT_STEPS)
    pilot, where = phases.ml_phase(phases.with_shrinkage(recipe, PILOT_ROWS), where, settings, phase="pilot")
    if block is not None and not pilot.outcome.interrupted:
        return pilot, where, asked_for(recipe, block.under(pilot.law), pilot.model)
    root = np.asarray(pilot.model.loadings)
    rows = float(np.sum(on_host(where.block.weights), dtype=float))
    return pilot, where, pseudo_rows(root @ root.T, rows, pilot=PILOT_ROWS, whole=whole)


def asked_for(recipe: Recipe, block: Block, model: Model) -> float:
    """kappa: the pseudo-rows of independent columns at which rows that are left out are most likely.

    By folds (`inference/shrinkage.py`), with a normal in the place of each count about the fit to all rows.
    `MANY_ROWS` p / N lets the pull vanish faster than standard errors as N grows. Large tables, whose folds would take
    longer than their chains, have `pseudo_rows`. How rows left out fare under it: `benchmarks.trust shrinkage`.
    """
    root = np.asarray(model.loadings)
    p, rows = len(root), float(np.sum(on_host(block.weights), dtype=float))
    begin = pseudo_rows(root @ root.T, rows, pilot=PILOT_ROWS)
    if p == 1 or not (_affordable(block) and np.isfinite(root).all()):
        return begin
    at, estimate = _in_sites(block, model)
    numbers = folds_of(np.asarray(on_host(block.y), float), at.weights)
    if len(np.unique(numbers)) < FOLDS:  # hardly any two rows differ
        return begin
    kappa = most_likely_shrinkage(at, estimate, _level(recipe, p), max(begin, 1.0), numbers)
    return float(min(min(1.0, MANY_ROWS * p / rows) * kappa, 9 * rows))


def pulled(recipe: Recipe, block: Block, model: Model, kappa: float) -> float:
    """The share by which kappa pseudo-rows pulled correlations toward zero, in these data.

    kappa / (N + kappa) where counts tell each row's Z, and more where they are low. Of large tables: `pull_alone`.
    """
    if kappa == 0 or not isinstance(recipe.shape, Full):
        return 0.0
    if _affordable(block):
        at, estimate = _in_sites(block, model)
        return pull_of(at, estimate, _level(recipe, len(estimate.covariance)), kappa)
    weights = np.asarray(on_host(block.weights), float)
    root = np.asarray(model.loadings)
    return pull_alone(root @ root.T, weights @ on_host(block.y), float(np.sum(weights)), kappa)


def pull_alone(covariance: np.ndarray, counts: np.ndarray, rows: float, kappa: float) -> float:
    """The same from the columns' sums of counts (p,), to first order in the correlations.

    A column of mean count a and variance s^2 tells the share f = s^2 a / (1 + s^2 a) of its Z, so that r_jk is pulled
    by kappa / (kappa + N f_j f_k).
    """
    if kappa == 0 or len(covariance) == 1:
        return 0.0
    variance = np.diag(covariance)
    told = variance * counts / rows
    told = told / (1 + told)
    upper = np.triu_indices(len(variance), 1)
    squared = covariance[upper] ** 2 / (variance[upper[0]] * variance[upper[1]])
    pull = kappa / (kappa + rows * told[upper[0]] * told[upper[1]])
    free = squared / np.maximum(1 - pull, 1e-12)  # <R, R_0>, and squared over it once more is <R_0, R_0>
    size = np.sum(free / np.maximum(1 - pull, 1e-12))
    return float(1 - np.sum(free) / size) if size > 0 else 0.0


def pseudo_rows(covariance: np.ndarray, rows: float, *, pilot: float, whole: float | None = None) -> float:
    """Kappa from the size of the correlations R of a pilot fit with some.

    A prior of kappa rows with covariance diag(S) gives small correlations the variance 1 / kappa, so the
    evidence asks for 1 / tau^2, tau^2 the mean squared correlation of S less the 1 / N of noise; of larger ones it
    sees log det R + tr(R^-1) - p, which is sum_{j<k} r_jk^2 where they are small, and far more where columns tell
    each other. Half of that kappa is taken: correlations have heavier tails than a normal. The factor
    p / (p + N / 10) then lets the pull vanish faster than standard errors as N grows. `whole`: the rows N of the fit,
    where the pilot had fewer.
    """
    deviation, p = np.sqrt(np.diag(covariance)), len(covariance)
    correlation = covariance / deviation / deviation[:, None]
    shrunk = correlation[np.triu_indices(p, 1)]
    if shrunk.size == 0:
        return 0.0
    small = float(np.mean((shrunk * (1 + pilot / rows)) ** 2)) - 1 / rows
    large = 0.0
    if rows > p and np.isfinite(correlation).all():
        # of N rows the inverse is too large by N / (N - p)
        values = np.maximum(np.linalg.eigvalsh(correlation), 1e-12)
        large = float(np.sum(np.log(values)) + (1 - p / rows) * np.sum(1 / values) - p) / shrunk.size
    kappa = min(0.5 / max(small, large, 1e-12), rows)
    return float(kappa * p / (p + (rows if whole is None else whole) / 10))


def _affordable(block: Block) -> bool:
    n, p = block.y.shape
    return n * p**3 <= FOLDS_MOST and n * p <= FOLDS_SHARE * max(1000, n, 20 * p)


def _in_sites(block: Block, model: Model) -> tuple[Sites, Estimate]:
    """The rows' sites about a model, and the model as an estimate."""
    coef, loadings = (np.asarray(part, float) for part in model)
    at = sites(jax.tree.map(on_host, block), *(jax.numpy.asarray(part) for part in (coef, loadings)))
    return at, Estimate(coef, loadings @ loadings.T)


def _level(recipe: Recipe, p: int) -> np.ndarray:
    """Precision of the weak prior of each column of B."""
    assert recipe.level is not None
    return np.asarray(recipe.level, float)
