"""Moments and the pairwise composite likelihood as fits: their Sigma made one of the model's shape.

Start at `fit_moments` and `fit_composite`. Both estimate a free Sigma; a rank or a basis takes from it what it can
hold, and B then follows from the means.
"""

import time

import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError
from poplin.estimators import integrated
from poplin.estimators.phases import Fitted, Recipe
from poplin.estimators.recipes import count
from poplin.estimators.tasks import Ended, Task
from poplin.fit import Outcome, Progress, Trace
from poplin.methods.composite import correlations
from poplin.methods.moments import log_moments, nearest_correlation, nearest_covariance
from poplin.methods.options import Composite, Moments
from poplin.models.loadings import BorrowedBasis
from poplin.models.roots import DiagonalRoot, SphericalRoot
from poplin.rows.nodes import joint_nodes
from poplin.updates.covariance import Diagonal, Fixed, Spherical
from poplin.updates.structure import Model

NEAR = 1e-4  # size of a pair's score at its end, in standard deviations of the score
LEAST_SCALE = 0.05  # of a margin's standard deviation at the start
PAIRS = 64  # pairs between two looks at the clock
MENDED = "The estimate of Sigma was no covariance and is replaced by the nearest one."


def fit_moments(options: Moments, task: Task) -> Ended:
    """B and Sigma from means and cross-products."""
    level = None if task.recipe.level is None else np.asarray(task.recipe.level)
    found = log_moments(task.block, level)
    covariance = nearest_covariance(found.covariance)
    mended = covariance is not found.covariance and not _keeps_variances_only(task.recipe)
    loadings = root(task.recipe, covariance)
    coef = found.coef(np.sum(loadings**2, axis=1))
    phase = _phase(task, _model(coef, loadings), "moments", True)
    return Ended([phase], 0.0, {}, (MENDED,) if mended else ())


def fit_composite(options: Composite, task: Task) -> Ended:
    """Margins by one-dimensional integrals, then each pair's correlation; the diagonal of Sigma is the margins'."""
    if isinstance(task.recipe.shape, Fixed):
        raise InputError("method='composite' estimates Sigma, and it is given. Use method='ml'.")
    order = count(options.order, "order", least=2)
    spherical = isinstance(task.recipe.shape, Spherical)
    way = integrated.Plan(SphericalRoot() if spherical else DiagonalRoot(), 0)
    start = task.begin()
    scale = np.linalg.norm(np.asarray(start.model.loadings), axis=1)
    first = Model(start.model.coef, jnp.asarray(np.diag(np.maximum(scale, LEAST_SCALE))))
    margins = integrated.climb(way, options.margin_order, 0.0, first, task)
    coef, scale = np.asarray(margins.model.coef), np.linalg.norm(np.asarray(margins.model.loadings), axis=1)
    if _keeps_variances_only(task.recipe) or margins.outcome.interrupted:
        return Ended([start, margins], 0.0, {})
    raw, found, interrupted = _all_pairs(order, task, coef, scale)
    mended = nearest_correlation(raw)
    covariance = scale[:, None] * mended * scale
    loadings = root(task.recipe, covariance)
    model = _model(_same_means(task, coef, scale**2, loadings), loadings)
    phase = _phase(task, model, "composite", margins.outcome.converged and found, interrupted)
    return Ended([start, margins, phase], 0.0, {}, () if mended is raw else (MENDED,))


def _model(coef: np.ndarray, loadings: np.ndarray) -> Model:
    return Model(jnp.asarray(coef), jnp.asarray(loadings))


def _all_pairs(order: int, task: Task, coef: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, bool, bool]:
    """The correlations, whether every one of them was found, and whether Ctrl-C was pressed."""
    p = len(scale)
    raw, every, interrupted = np.eye(p), True, False
    pairs = np.stack(np.triu_indices(p, 1), axis=1)
    if len(pairs) == 0:
        return raw, True, False
    size = min(PAIRS, len(pairs))
    rule, tol = joint_nodes(order, 2), jnp.asarray(NEAR)
    for first in range(0, len(pairs), size):
        part = pairs[np.minimum(np.arange(first, first + size), len(pairs) - 1)]
        try:
            values, found = (
                np.asarray(a)
                for a in correlations(
                    rule, task.block, jnp.asarray(coef), jnp.asarray(scale), jnp.asarray(part), tol
                )
            )
        except KeyboardInterrupt:
            return raw, False, True
        raw[part[:, 0], part[:, 1]] = raw[part[:, 1], part[:, 0]] = values
        every = every and bool(found.all())
        if task.main.callback is not None:
            seconds = time.perf_counter() - task.main.began
            task.main.callback(Progress("pairs", first + size, len(pairs), float("nan"), seconds))
    return raw, every, interrupted


def root(recipe: Recipe, covariance: np.ndarray) -> np.ndarray:
    """C of the model's shape nearest to a covariance: Cholesky factor, leading axes, or scales of the basis."""
    if isinstance(recipe.loadings, BorrowedBasis):
        basis = np.asarray(recipe.loadings.basis)
        return basis * np.sqrt(np.einsum("pq,pr,rq->q", basis, covariance, basis))
    if recipe.loadings is not None:
        values, vectors = np.linalg.eigh(covariance)
        return (vectors * np.sqrt(values))[:, ::-1][:, : recipe.rank]
    variance = np.diag(covariance)
    if isinstance(recipe.shape, Fixed):
        return np.linalg.cholesky(np.asarray(recipe.shape.covariance))
    if isinstance(recipe.shape, Diagonal):
        return np.diag(np.sqrt(variance))
    if isinstance(recipe.shape, Spherical):
        return np.sqrt(variance.mean()) * np.eye(len(variance))
    return np.linalg.cholesky(covariance)


def _keeps_variances_only(recipe: Recipe) -> bool:
    return isinstance(recipe.shape, (Diagonal, Spherical, Fixed))


def _same_means(task: Task, coef: np.ndarray, variance: np.ndarray, loadings: np.ndarray) -> np.ndarray:
    """B moved so that the mean counts stay, where a rank or a basis does not hold all of the variance."""
    lost = variance - np.sum(loadings**2, axis=1)
    x = np.asarray(task.block.x)
    intercept = np.linalg.lstsq(x, np.ones(len(x)), rcond=None)[0]
    if not np.allclose(x @ intercept, 1):
        return coef
    return coef + np.outer(intercept, lost / 2)


def _phase(task: Task, model: Model, phase: str, converged: bool, interrupted: bool = False) -> Fitted:
    """A phase that is one sweep over the rows."""
    seconds = np.array([time.perf_counter() - task.main.began])
    trace = Trace(np.array([phase]), np.array([1]), np.array([np.nan]), seconds)
    return Fitted(model, None, Outcome(None, None, converged, interrupted, trace))
