"""Fits that neither climb the bound nor run the chains of "ml", as phases: quadrature, NUTS, moments, black box.

Start at `fit_exact`, `fit_mcmc`, `fit_moments`, `fit_composite`, `fit_bbvi` or `fit_iwae`.
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._errors import InputError, library
from poplin._numerics import compiled
from poplin.data.blocks import Block, as_block
from poplin.fit import Outcome, Round, Trace
from poplin.fitting import phases
from poplin.fitting.checkpoints import nothing, run_resumed, run_rounds
from poplin.fitting.phases import Ended, Fitted, RowGaussians, Task
from poplin.fitting.recipes import NO_OWN, Recipe, count, one_of
from poplin.fitting.refit import PILOT_ROWS, asked_for
from poplin.laws import AbstractLaw, with_parameters
from poplin.methods import bbvi, mcmc
from poplin.methods.bounds import parted
from poplin.methods.exact import Likelihood, first_values
from poplin.methods.moments import correlations, log_moments, nearest_correlation, nearest_covariance
from poplin.methods.options import BBVI, IWAE, MCMC, Composite, Exact
from poplin.methods.variational import QuasiNewton
from poplin.models.loadings import (
    AbstractLoadings,
    BorrowedBasis,
    DiagonalRoot,
    FreeRoot,
    KnownRoot,
    SphericalRoot,
)
from poplin.rows import chains as nuts
from poplin.rows.frames import (
    AbstractFrame,
    AbstractSlope,
    Diagonals,
    DirectFrame,
    FactorFrame,
    ImportanceWeighted,
    Place,
    Reparameterised,
    Score,
)
from poplin.rows.gaussian import fit_rows
from poplin.rows.nodes import AbstractRule, column_nodes, joint_nodes
from poplin.updates.specific import Specific
from poplin.updates.structure import Diagonal, Fixed, Full, Model, Spherical

# Maximum likelihood by numerical integration as phases: an order of nodes, and more until nothing changes.
#
# Start at `fit_exact`. A phase climbs the log-likelihood with so many nodes; then the log-likelihood is looked at
# with twice as many, and the climb goes on with those if it changed.


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
    if isinstance(shape, Specific):
        raise InputError(NO_OWN.format(name="exact"))
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


def fit_exact(task: Task) -> Ended:
    """Climb the log-likelihood from the bound's optimum."""
    way = plan(task.recipe)
    order, last = _orders(task.settings.method, max(way.axes, 1))
    done, kappa = [task.begin()], task.kappa()
    if isinstance(task.recipe.shape, Full) and task.weight is None and not done[-1].outcome.interrupted:
        done.append(climb(way, order, PILOT_ROWS, done[-1], task))
        kappa = asked_for(task.recipe, task.block.under(done[-1].law), done[-1].model)
    change = np.inf
    while not done[-1].outcome.interrupted:
        done.append(climb(way, order, kappa, done[-1], task))
        found, block = done[-1].model, task.block.under(done[-1].law)
        change = total(way, 2 * order, found, block) - total(way, order, found, block)
        if order >= last or abs(change) <= UNCHANGED:
            break
        order *= 2
    return Ended(done, kappa, _reported(way, 2 * order, done[-1], task), _doubt(order, change))


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


def climb(way: Plan, order: int, kappa: float, begun: Fitted, task: Task) -> Fitted:
    """Maximise the log-likelihood with nodes of one order, from a model and a law."""
    settings = task.main
    assert task.recipe.level is not None
    weak = way.weak * task.recipe.spread
    law = task.recipe.law if jax.tree.leaves(task.recipe.law) else None
    target = Likelihood(way.free, way.rule(order), weak, way.least, kappa, task.recipe.level, law)
    block = task.block.under(begun.law)
    method, first = QuasiNewton(target, settings.tol), _first(way.free, block, begun.model, begun.law)
    outcome = run_resumed(method, first, block, settings, phase="exact", remains=nothing)
    model, found = _expanded(way.free, task.recipe.law, outcome.state.vector.unknown)
    return Fitted(model, None, outcome, found)


_first = compiled()(first_values)


@compiled()
def _expanded(free: AbstractLoadings, law: AbstractLaw, shared: Any) -> tuple[Model, AbstractLaw]:
    shared, own = parted(law, shared)
    return Model(*free.expand(shared)), with_parameters(law, own)


@compiled()
def _loglik(rule: AbstractRule, block: Block, model: Model) -> jax.Array:
    return rule.loglik(block, *model)


def total(way: Plan, order: int, model: Model, block: Block) -> float:
    """The weighted log-likelihood of the rows with nodes of an order, in nats."""
    value = _loglik(way.rule(order), block, model)
    return float(np.asarray(block.weights) @ np.asarray(value))


def _reported(way: Plan, order: int, end: Fitted, task: Task) -> dict[str, Any]:
    counts = task.counts
    arrays = counts.y, counts.x, counts.offset, counts.weights
    plain = as_block(*arrays, prior=False, zero_features=counts.zero_features).under(end.law)
    return {"loglik_": total(way, order, end.model, plain), "loglik_se_": 0.0}


# Monte-Carlo EM as phases of ever more draws, and how well its chains mixed.
#
# Start at `fit_mcmc`. Every phase begins where the one before ended, with chains whose Gaussians are fitted anew.


LOOKS, SETTLING, LOOKED = 4, 50, 200  # chains of a row, moves that do not count, and moves that do
NUMBERS = 20_000_000  # most numbers of the draws that are looked at


def fit_mcmc(task: Task) -> Ended:
    """Phases with twice as many draws each, until the averaged iterates no longer move."""
    options: MCMC = task.settings.method
    library("blackjax", extra="mcmc", what="method='mcmc'")
    draws = count(options.draws, "draws", least=1)
    most = count(options.most_draws, "most_draws", least=draws)
    done, kappa = [task.begin()], task.kappa()
    if isinstance(task.recipe.shape, Full) and task.weight is None and not done[-1].outcome.interrupted:
        done.append(_mcmc_phase(task, done, draws, PILOT_ROWS))
        kappa = asked_for(task.recipe, task.block.under(done[-1].law), done[-1].model)
    before = len(done)
    limit = before + -(-task.main.max_iter // mcmc.STEPS)
    used = [draws]
    while len(done) < limit and not done[-1].outcome.interrupted:
        done.append(_mcmc_phase(task, done, used[-1], kappa))
        if done[-1].outcome.converged or not np.all(np.isfinite(np.asarray(done[-1].model.loadings))):
            break
        used.append(min(2 * used[-1], most))
    extras: dict[str, Any] = {"draws_": np.array(used[: len(done) - before])}
    if not done[-1].outcome.interrupted:
        under = task.block.under(done[-1].law)
        extras |= mixing(under, done[-1].model, jax.random.fold_in(task.key, 1_000))
    return Ended(done, kappa, extras)


def _mcmc_phase(task: Task, done: list[Fitted], draws: int, kappa: float) -> Fitted:
    recipe: Recipe = phases.with_shrinkage(task.recipe, kappa)
    model, settings = done[-1].model, task.main._replace(max_iter=mcmc.STEPS)
    law = jax.tree.map(lambda a: jnp.clip(a, -phases.FARTHEST_OWN, phases.FARTHEST_OWN), done[-1].law)
    method = mcmc.MonteCarloEM(recipe.structure(weak=True), draws, settings.tol)
    begun = _begin(task.block.under(law), model)
    first = mcmc.First(model, begun, jax.random.fold_in(task.key, len(done)), law)
    outcome = run_resumed(method, first, task.block, settings, phase="mcmc", remains=nothing)
    model, law = _mcmc_estimate(method, outcome.state)
    return Fitted(model, None, outcome, law)


@compiled()
def _begin(block: Block, model: Model) -> nuts.NutsChains:
    return nuts.begin(fit_rows(block, *model))


@compiled()
def _mcmc_estimate(method: mcmc.MonteCarloEM, state: mcmc.State) -> tuple[Model, AbstractLaw]:
    return method.estimate(state)


def mixing(block: Block, model: Model, key: Array) -> dict[str, np.ndarray]:
    """R-hat and effective draws of each row (n,), the worst of its dimensions, of 4 chains with 200 draws each.

    They begin at draws from the row's Gaussian, twice as wide. Of very many rows some are looked at, the others NaN.
    """
    from blackjax.diagnostics import effective_sample_size, potential_scale_reduction

    n, q = len(block.index), model.loadings.shape[1]
    looked = np.unique(np.linspace(0, n - 1, min(n, max(1, NUMBERS // (LOOKS * LOOKED * q)))).astype(int))
    part = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[looked]), block)
    draws = np.asarray(_looked_at(part, model, key))
    with np.errstate(all="ignore"):
        rhat, size = (
            np.asarray(measure(draws)).reshape(len(looked), q)  # it drops axes of length one
            for measure in (potential_scale_reduction, effective_sample_size)
        )
    found = {"rhat_": np.full(n, np.nan), "chain_effective_draws_": np.full(n, np.nan)}
    found["rhat_"][looked], found["chain_effective_draws_"][looked] = rhat.max(axis=1), size.min(axis=1)
    return found


@compiled()
def _looked_at(block: Block, model: Model, key: Array) -> Array:
    """Draws of w, (chains, draws, n, q)."""
    first = nuts.begin(fit_rows(block, *model))

    def chain(number):
        own = jax.random.fold_in(key, number)
        wide = first._replace(position=2 * jax.random.normal(own, first.position.shape))

        def step(chains, s):
            adapt = 1.0 * (s < SETTLING)
            chains, _ = nuts.nuts_move(jax.random.fold_in(own, s), chains, block, *model, adapt=adapt)
            return chains, nuts.latent(chains)

        return jax.lax.scan(step, wide, jnp.arange(SETTLING + LOOKED))[1][SETTLING:]

    return jax.lax.map(chain, jnp.arange(LOOKS))


# Moments and the pairwise composite likelihood as fits: their Sigma made one of the model's shape.
#
# Start at `fit_moments` and `fit_composite`. Both estimate a free Sigma; a rank or a basis takes from it what it can
# hold, and B then follows from the means.


NEAR = 1e-4  # size of a pair's score at its end, in standard deviations of the score
LEAST_SCALE = 0.05  # of a margin's standard deviation at the start
PAIRS = 64  # pairs between two looks at the clock
MENDED = "The estimate of Sigma was no covariance and is replaced by the nearest one."


def fit_moments(task: Task) -> Ended:
    """B and Sigma from means and cross-products."""
    level = None if task.recipe.level is None else np.asarray(task.recipe.level)
    found = log_moments(task.block, level)
    covariance = nearest_covariance(found.covariance)
    mended = covariance is not found.covariance and not _keeps_variances_only(task.recipe)
    loadings = root(task.recipe, covariance)
    coef = found.coef(np.sum(loadings**2, axis=1))
    phase = _closed_phase(task, _as_model(coef, loadings), "moments", True)
    return Ended([phase], 0.0, {}, (MENDED,) if mended else ())


def fit_composite(task: Task) -> Ended:
    """Margins by one-dimensional integrals, then each pair's correlation; the diagonal of Sigma is the margins'."""
    if isinstance(task.recipe.shape, Fixed):
        raise InputError("method='composite' estimates Sigma, and it is given. Use method='ml'.")
    options: Composite = task.settings.method
    order = count(options.order, "order", least=2)
    spherical = isinstance(task.recipe.shape, Spherical)
    way = Plan(SphericalRoot() if spherical else DiagonalRoot(), 0)
    start = task.begin()
    if start.outcome.interrupted:
        return Ended([start], 0.0, {})
    scale = np.linalg.norm(np.asarray(start.model.loadings), axis=1)
    apart = Model(start.model.coef, jnp.asarray(np.diag(np.maximum(scale, LEAST_SCALE))))
    first = start._replace(model=apart)
    margins = climb(way, options.margin_order, 0.0, first, task)
    coef, scale = np.asarray(margins.model.coef), np.linalg.norm(np.asarray(margins.model.loadings), axis=1)
    if _keeps_variances_only(task.recipe) or margins.outcome.interrupted:
        return Ended([start, margins], 0.0, {})
    raw, found, interrupted = _all_pairs(order, task, coef, scale)
    mended = nearest_correlation(raw)
    covariance = scale[:, None] * mended * scale
    loadings = root(task.recipe, covariance)
    model = _as_model(_same_means(task, coef, scale**2, loadings), loadings)
    phase = _closed_phase(task, model, "composite", margins.outcome.converged and found, interrupted)
    return Ended([start, margins, phase], 0.0, {}, () if mended is raw else (MENDED,))


def _as_model(coef: np.ndarray, loadings: np.ndarray) -> Model:
    return Model(jnp.asarray(coef), jnp.asarray(loadings))


class Pairs(NamedTuple):
    """The correlations so far (p, p), and whether every one of them was found."""

    correlation: np.ndarray
    found: np.ndarray


def _all_pairs(order: int, task: Task, coef: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, bool, bool]:
    """The correlations, whether every one of them was found, and whether Ctrl-C was pressed."""
    p = len(scale)
    pairs = np.stack(np.triu_indices(p, 1), axis=1)
    size = max(1, min(PAIRS, len(pairs)))
    rule, tol = joint_nodes(order, 2), jnp.asarray(NEAR)
    given = jnp.asarray(coef), jnp.asarray(scale)

    def some(so_far: Pairs, number: int) -> Round:
        part = pairs[np.minimum(number * size + np.arange(size), len(pairs) - 1)]
        values, found = map(np.asarray, correlations(rule, task.block, *given, jnp.asarray(part), tol))
        raw = np.array(so_far.correlation)
        raw[part[:, 0], part[:, 1]] = raw[part[:, 1], part[:, 0]] = values
        return Round(Pairs(raw, so_far.found & found.all()), float("nan"))

    settings = task.main._replace(max_iter=-(-len(pairs) // size))
    outcome = run_rounds(some, Pairs(np.eye(p), np.asarray(True)), settings, phase="pairs")
    raw, found = map(np.asarray, outcome.state)
    return raw, bool(found) and not outcome.interrupted, outcome.interrupted


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
    if isinstance(recipe.shape, Specific):
        return np.linalg.cholesky(np.asarray(_nearest(recipe.shape, jnp.asarray(covariance))))
    return np.linalg.cholesky(covariance)


@compiled()
def _nearest(shape: Specific, covariance: Array) -> Array:
    return shape.nearest(covariance)


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


def _closed_phase(task: Task, model: Model, phase: str, converged: bool, interrupted: bool = False) -> Fitted:
    """A phase that is one sweep over the rows."""
    seconds = np.array([time.perf_counter() - task.main.began])
    trace = Trace(np.array([phase]), np.array([1]), np.array([np.nan]), seconds)
    return Fitted(model, None, Outcome(None, None, converged, interrupted, trace))


# Black-box and importance-weighted variational inference as one phase, and the variance of its gradients.
#
# Start at `fit_bbvi` and `fit_iwae`: words become objects here.


CONTROLS = {
    "none": Score(),
    "rao-blackwell": Score(local=True),
    "rloo": Score(leave_one_out=True),
    "both": Score(local=True, leave_one_out=True),
}


def fit_bbvi(task: Task) -> Ended:
    """Rows climb by the gradient that the options name."""
    options: BBVI = task.settings.method
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


def fit_iwae(task: Task) -> Ended:
    """Rows climb the importance-weighted bound, the model follows the weighted draws."""
    options: IWAE = task.settings.method
    draws = count(options.draws, "draws", least=1)
    return _fit(task, ImportanceWeighted(), draws, options.rate, exactly=False)


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
    outcome = run_resumed(method, first, task.block, task.main, phase="bbvi" if exactly else "iwae")
    model = _blackbox_estimate(method, outcome.state)
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
def _blackbox_estimate(method: bbvi.BlackBox, state: bbvi.State) -> Model:
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
