"""From a checked table and settings to a fitted result: which phases run, how often, how much is shrunk.

Start at `fitted`.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct

from poplin import fit
from poplin._errors import InputError
from poplin._numerics import compiled, double_precision, in_a_hurry, meanwhile
from poplin.data import held
from poplin.data.blocks import Block, check_agreed, layout, on_host
from poplin.data.counts import Counts
from poplin.data.held import column_sums
from poplin.data.tables import place
from poplin.fit import joined
from poplin.fitting import alternatives, amortised, checkpoints, directions, phases, streamed
from poplin.fitting.checkpoints import Keeper
from poplin.fitting.phases import Ended, Fitted, RowGaussians, Settings, Task
from poplin.fitting.recipes import FitSettings, Recipe, largest_count
from poplin.fitting.refit import piloted, pull_alone, pulled
from poplin.inference.selection import Placed, paired_loglik
from poplin.inference.summary import OF_A_RUN
from poplin.laws import POISSON, AbstractLaw
from poplin.methods import ml
from poplin.methods.options import (
    BBVI,
    IWAE,
    MCMC,
    Amortised,
    Composite,
    Exact,
    MaximumLikelihood,
    Moments,
    Smoothed,
    Variational,
    chosen,
    name_of,
)
from poplin.rows import gaussian
from poplin.updates.own import own_penalty
from poplin.updates.specific import Parts, Specific
from poplin.updates.structure import Full, Model

# Compiles what maximum likelihood will need while the variational fit before it is compiled and runs.
#
# Start at `compile_ahead`. Only shapes are known then, and only shapes are needed.


WORTHWHILE = 50  # columns up to which compiling takes longer than what is compiled
_known: set[Any] = set()  # shapes that were compiled before in this process


class Ready(NamedTuple):
    """The chains' programs, and those that come after the fit: each is waited for where it is needed."""

    chains: Future[None]
    after: Future[None]


def compile_ahead(task: Task) -> Ready:
    """Begin to compile, unless a fit of these shapes was here before."""
    recipe, block, chains = task.recipe, task.block, task.settings.method.chains
    n, p = block.y.shape
    direct_rows = recipe.loadings is None  # rows keep p numbers, not q
    like = jax.tree.map(lambda a: ShapeDtypeStruct(a.shape, a.dtype), block)
    how = phases.chain_kind(recipe, block, chains)
    shape = jax.tree.structure(recipe), recipe.rank, n, p, block.x.shape, how
    new = shape not in _known and layout(block) is None  # shapes do not say how several devices share rows
    _known.update([shape] if new else [])
    d = block.x.shape[1]
    model = Model(_numbers(d, p), _numbers(p, p if direct_rows else recipe.rank))
    rows = RowGaussians(*(_numbers(n, p if direct_rows else recipe.rank),) * 2)

    def ahead() -> None:
        if new:
            moving, mean_rate, many = phases.repeated.shapes(model, rows, like, recipe.law, **how._asdict())
            method = phases.ml_method(phases.with_shrinkage(recipe, 0.0), len(many.y), tol=0.2)
            slow: Any = ShapeDtypeStruct((p,), bool) if direct_rows else None
            first = ml.First(model, moving, mean_rate, task.key, slow, recipe.law)
            fit.ahead(method, first, many)
            phases.repeated.ahead(model, rows, like, recipe.law, **how._asdict())

    def after() -> None:
        if new:
            gaussian.ahead(jax.eval_shape(Block.under, like, recipe.law), *model)

    ready = Ready(meanwhile(ahead), meanwhile(after))
    if new and in_a_hurry() and p <= WORTHWHILE:
        meanwhile(lambda: directions.compile_ahead(recipe, block, task.settings))
    return ready


def _numbers(*shape: int) -> Any:
    return ShapeDtypeStruct(shape, jnp.float64)


# A fit that several processes make together: what is refused, and whether all of them make the same one.
#
# Start at `check`. Nothing is done where there is one process.


def check(counts: Counts, settings: FitSettings, keeper: Keeper | None) -> None:
    """Raise `InputError` for a fit that processes cannot share, and in all of them where one has another fit."""
    if jax.process_count() == 1:
        return
    if not WAYS[type(settings.method)].over_devices:
        raise InputError(
            f"method='{name_of(settings.method)}' runs in one process; several ({jax.process_count()} here) share a "
            "fit by 'ml' or 'variational'. Choose one of these, or fit in one process."
        )
    # of several devices' fits whether they have loadings makes no difference
    if streamed.wanted(counts, settings.method, loadings=False):
        raise InputError(
            "A table whose rows are dense a block at a time (sparse, or very large) is fitted in one process. Use one."
        )
    told = json.dumps(facts(counts, settings), sort_keys=True)
    told += repr(settings.checkpoint_every) + ("" if keeper is None else keeper.standing)
    check_agreed(hashlib.sha256(told.encode()).hexdigest(), "Counts, settings or checkpoints")


def check_law(counts: Counts, settings: FitSettings) -> None:
    """Raise `InputError` for a law of the counts that the method, or these counts, do not go with."""
    law, method = settings.likelihood, name_of(settings.method)
    if law == "poisson":
        return
    if not WAYS[type(settings.method)].laws:
        known = ", ".join(repr(name_of(kind())) for kind, way in WAYS.items() if way.laws)
        plain = known.replace("'", "")
        raise InputError(
            f"method='{method}' fits Poisson counts only, and likelihood='{law}' is asked for. Use one of {known}.",
            at_command_line=f"--method {method} fits Poisson counts only, and --likelihood {law} is asked for. Use one "
            f"of {plain}.",
        )
    check_largest(counts, law)


def check_largest(counts: Counts, law: str) -> None:
    """Raise `InputError` for a count that the law does not have, such as 2 under that of presence and absence."""
    most = largest_count(law)
    if not held.largest(counts.y) > most:
        return
    for rows in held.pieces(*counts.y.shape):
        part = held.dense_rows(counts.y, rows)
        over = np.argwhere(part > most)
        if len(over):
            i, j = (int(k) for k in over[0])
            found = f"{part[i, j]:g}{place((rows.start + i, j), counts.row_names, counts.column_names)}"
            raise InputError(
                f"Y holds {found}, and likelihood='{law}' has counts up to {most:g}. Give presence and absence, "
                "(Y > 0) * 1, or a likelihood of counts.",
                at_command_line=f"COUNTS holds {found}, and --likelihood {law} has counts up to {most:g}. Write 1 for "
                "every count above 0, or take another --likelihood.",
            )


EVERY = 100  # iterations between two checkpoints
DATA = {"y": "counts", "x": "covariates", "offset": "offsets", "weights": "weights of the rows"}
ZEROS = "covariates of the zeros"  # where there are some: files of other fits stay what they were
BROKEN = (
    "After {count} iterations of the phase '{phase}' the parameters were no longer finite; the estimates are those of "
    "the phase before, '{before}'. Fit a smaller model (a lower rank), or leave columns out that are hardly ever seen."
)
# nats a row that a bound may end below the one it began from, and still be said to have converged
BELOW = 1.0
LOW = (
    "The bound ended at {reached:.4g} nats a row, below the {begun:.4g} of the variational fit that it began from: the "
    "steps did not reach its optimum. Look for single huge counts and for offsets far from 0, or use "
    "method='variational' or 'ml'."
)
COMPARED, COMPARED_DRAWS = 500, 100  # rows, and draws of each, by which a fit is compared with its start
FELL = (
    "The fit is less likely than the variational fit that it began from: by {gain:.1f} nats, give or take {error:.1f} "
    "(penalised log-likelihood, paired draws). It is not the maximum: try other seeds (random_state), n_init, or a "
    "smaller model."
)
# The variational fit that chains begin from: short for a free Sigma, which they soon leave; long for loadings,
# whose likelihood has several optima, the bound's best of which is near a good one.
DIRECT_START = Settings(100, 1e-6, 0.0)
FACTOR_START = Settings(5_000, 1e-8, 0.0)


class Result(NamedTuple):
    """A fit as arrays: B, C (direct form: a Cholesky factor of Sigma), and how it was reached."""

    coef: np.ndarray
    loadings: np.ndarray
    direct: bool
    posterior: str
    shrinkage: float  # the share by which correlations were pulled
    weight: float  # kappa / (N + kappa) of the kappa pseudo-rows that pulled them
    rows: tuple[np.ndarray, np.ndarray] | None  # mean and variance of the rows' own Gaussians (the bound)
    objective: float | None  # their bound
    converged: bool
    interrupted: bool
    trace: dict[str, np.ndarray]
    messages: tuple[str, ...]
    extras: dict[str, Any] | None = None  # further fitted attributes by name
    encoder: Any = None  # a `methods.amortised.Embedder`, where rows are embedded by one
    broken: str = ""  # what happened, where the last phase ended in numbers that are none
    parts: Parts | None = None  # C and psi of a Sigma that is C C' + diag(psi)
    law: AbstractLaw = POISSON  # of the counts, with its parameters

    def axes(self) -> np.ndarray:
        """What the columns share: C, of a Sigma without such a part any root of it."""
        return self.loadings if self.parts is None else self.parts.loadings

    def own(self, name: str) -> np.ndarray | None:
        """A field of `parts`, None without them."""
        return None if self.parts is None else getattr(self.parts, name)

    def rank(self) -> int | None:
        """Q of a rank or of a basis; None where every entry of Sigma may be free."""
        return None if self.direct and self.parts is None else self.axes().shape[1]


def keeper(counts: Counts, settings: FitSettings) -> Keeper | None:
    """The checkpoint that the settings ask for, None if they do not; `fitted` begins or goes on with it.

    Raises `InputError` for a file that cannot serve, or belongs to another fit.
    """
    path, every = settings.checkpoint, settings.checkpoint_every
    if path is None:
        if every is not None:
            raise InputError(f"checkpoint_every={every!r} needs a file: give checkpoint='name.npz' as well.")
        return None
    return Keeper(checkpoints.place(path, facts(counts, settings)), EVERY if every is None else every)


def facts(counts: Counts, settings: FitSettings) -> dict[str, Any]:
    """What says which fit it is, see `checkpoints.facts`; options that change nothing are their method's name."""
    told = {name: value for name, value in settings.plain().items() if name not in OF_A_RUN}
    told["method"] = told["method"] if isinstance(told["method"], str) else repr(settings.method)
    data = {words: getattr(counts, part) for part, words in DATA.items()}
    data |= {} if counts.zero_features is None else {ZEROS: counts.zero_features}
    return checkpoints.facts(data, told)


def fitted(counts: Counts, settings: FitSettings, began: float, *, keeper: Keeper | None = None) -> Result:
    """Run the phases that the settings ask for; `keeper` keeps where they stand."""
    way, main = WAYS[type(settings.method)], main_settings(settings, began)._replace(keeper=keeper)
    check(counts, settings, keeper)
    check_law(counts, settings)
    with double_precision():
        model = settings.recipe(counts)
        short = DIRECT_START if model.loadings is None else FACTOR_START
        short = short._replace(began=began, callback=main.callback, keeper=keeper)
        in_blocks = streamed.wanted(counts, settings.method, loadings=model.loadings is not None)
        if in_blocks:
            block = phases.training_block(streamed.sample(counts, settings.random_state))
        else:
            block = phases.spread_block(counts) if way.over_devices else phases.training_block(counts)
        task = Task(model, block, counts, settings, main, short)
        ended = streamed.OVER_BLOCKS[type(settings.method)](task) if in_blocks else way.carry_out(task)
        pull = None if isinstance(settings.method, Variational) else _pull(task, ended, in_blocks=in_blocks)
        return _finished(ended, task, pull)


def main_settings(settings: FitSettings, began: float) -> Settings:
    """Iterations, tolerance and callback of the main phase."""
    way = WAYS[type(settings.method)]
    limit = way.max_iter if settings.max_iter is None else settings.max_iter
    return Settings(limit, way.tol if settings.tol is None else settings.tol, began, settings.callback)


def fit_bound(task: Task) -> Ended:
    """The bound with diagonal Gaussians, and from there with full ones where they are asked for."""
    task = task._replace(recipe=phases.with_shrinkage(task.recipe, task.kappa()))
    done = [task.begin(task.main)]
    if task.settings.posterior == "full" and not done[0].outcome.interrupted:
        done.append(phases.fit_full(task.recipe, task.block, done[0], task.main))
    return Ended(done, task.kappa(), {})


def fit_ml(task: Task) -> Ended:
    """The bound, from its rows chains; a pilot where the data choose the shrinkage; then maximum likelihood."""
    model, block, chains = task.recipe, task.block, task.settings.method.chains
    ready = compile_ahead(task)
    start, kappa, words = task.begin(), task.kappa(), ()
    done = [start]
    if start.outcome.interrupted:  # what comes next is not waited for, which is compiled meanwhile
        return Ended(done, kappa, {})
    ready.chains.result()
    where = phases.chain_start(model, block, start, task.key, chains=chains)
    if task.weight is None and isinstance(model.shape, Full):
        pilot, where, kappa = piloted(model, where, task.main, whole=task.rows(), block=block)
        done.append(pilot)
    if not done[-1].outcome.interrupted:
        shrunk = phases.with_shrinkage(model, kappa)
        end, _ = phases.ml_phase(shrunk, where, task.main, phase="ml")
        done.append(end)
        try:
            words = _below_start(shrunk, block, start, end, task.main.tol, task.key)
        except KeyboardInterrupt:  # the fit is done; what was not looked at is not claimed
            done[-1] = end._replace(outcome=end.outcome._replace(converged=False, interrupted=True))
        if words:
            done[-1] = end._replace(outcome=end.outcome._replace(converged=False))
    return Ended(done, kappa, {}, words)


class Way(NamedTuple):
    """How a method is carried out, its usual number of iterations and tolerance, and what it can do.

    laws: it fits other laws of the counts than Poisson. informed: its errors follow from information or from a
    sandwich; over_devices: several devices share its rows.
    """

    carry_out: Callable[[Task], Ended]
    max_iter: int
    tol: float
    informed: bool = False
    over_devices: bool = False
    laws: bool = False


WAYS: dict[type, Way] = {
    MaximumLikelihood: Way(fit_ml, 5_000, 0.2, informed=True, over_devices=True, laws=True),
    Variational: Way(fit_bound, 20_000, 1e-10, informed=True, over_devices=True, laws=True),
    Exact: Way(alternatives.fit_exact, 1_000, 1e-9, informed=True, laws=True),
    MCMC: Way(alternatives.fit_mcmc, 600, 0.1, informed=True, laws=True),
    BBVI: Way(alternatives.fit_bbvi, 2_000, 0.2),
    IWAE: Way(alternatives.fit_iwae, 2_000, 0.2),
    Moments: Way(alternatives.fit_moments, 1, 1e-10),
    Composite: Way(alternatives.fit_composite, 1_000, 1e-9),
    Amortised: Way(amortised.fit_amortised, 100, 1e-3, laws=True),
    Smoothed: Way(amortised.fit_smoothed, 20_000, 1e-10, laws=True),
}


def check_informed(method: Any) -> None:
    """An `InputError` where standard errors of a method's estimates do not follow from the likelihood's information."""
    if not WAYS[type(chosen(method))].informed:
        raise InputError(
            f"Standard errors of method={name_of(method)!r} do not follow from the likelihood's information. Give "
            "n_boot, for example n_boot=200, or fit with method='ml'."
        )


def _pull(task: Task, ended: Ended, *, in_blocks: bool) -> float | None:
    """What a fit that is whole reports as its shrinkage."""
    end, counts = ended.fits[-1], task.counts
    sound = all(np.isfinite(np.asarray(part)).all() for part in end.model)
    if not sound or end.outcome.interrupted or not isinstance(task.recipe.shape, Full):
        return None
    if not in_blocks:
        return pulled(task.recipe, task.block.under(end.law), end.model, ended.kappa)
    root = np.asarray(end.model.loadings)
    return pull_alone(
        root @ root.T, np.asarray(column_sums(counts.y, counts.weights)), task.rows(), ended.kappa
    )


def _below_start(
    recipe: Recipe, block: Block, start: Fitted, end: Fitted, tol: float, key
) -> tuple[str, ...]:
    """What to say of a fit that claims to have converged, and is less likely than its start; else nothing."""
    if not end.outcome.converged or layout(block) is not None:
        return ()
    gain, error = _gain(recipe, block, start, end, key)
    # the tolerance allows half its square for each number
    allowed = tol**2 * (end.model.coef.size + end.model.loadings.size)
    return (FELL.format(gain=gain, error=error),) if gain < -3 * error - allowed else ()


def _gain(recipe: Recipe, block: Block, start: Fitted, end: Fitted, key) -> tuple[float, float]:
    """Penalised log-likelihood of the end less that of the start (nats, all rows), and its standard error.

    By paired draws (`inference/selection.py`) of `COMPARED` rows at most, spread over the table. Cost: that of two
    log-likelihoods of so many rows with a tenth of the usual draws.
    """
    fits = start, end
    if not all(np.isfinite(part).all() for fit in fits for part in jax.tree.leaves((fit.model, fit.law))):
        return 0.0, 0.0  # `_sound` has the word
    used = np.flatnonzero(np.asarray(block.weights) > 0)
    some = used[np.unique(np.linspace(0, len(used) - 1, min(len(used), COMPARED)).astype(int))]
    part = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[some]), block)
    models = (Placed(part.under(fit.law), *(np.asarray(a) for a in fit.model)) for fit in fits)
    found = paired_loglik(jax.random.fold_in(key, 7), *models, draws=COMPARED_DRAWS)
    weights = np.asarray(part.weights)
    share = float(np.sum(np.asarray(block.weights))) / weights.sum()
    variance = np.sum((weights * found.standard_error) ** 2)
    if len(some) < len(used):
        variance += np.sum(weights**2) * np.var(found.difference)
    gain = share * float(weights @ found.difference) - _penalty(recipe, end)
    return gain + _penalty(recipe, start), share * float(np.sqrt(variance))


def _penalty(recipe: Recipe, fit: Fitted) -> float:
    """Minus the log prior of a fit's model and law, nats."""
    return float(phases.penalty(recipe, fit.model)) + float(own_penalty(fit.law))


def _sound(end: Fitted, fits: list[Fitted]) -> tuple[Fitted, str]:
    """The last phase whose model is finite, and what to say where that is not the end."""
    finite = [k for k, fit in enumerate(fits) if all(np.isfinite(part).all() for part in fit.model)]
    begun = finite and any(len(fit.outcome.trace.iteration) for fit in fits)
    if end.outcome.interrupted and not begun:  # there is nothing to keep
        raise KeyboardInterrupt
    if not finite:
        raise InputError(
            "No finite parameters were found, not even to begin with. Look at the largest counts, and at offsets and "
            "covariates far from 0: exp of their sum has to be a number."
        )
    last = finite[-1]
    if last == len(fits) - 1:
        return end, ""
    before, broken = (fits[k].outcome.trace.phase for k in (last, last + 1))
    told = {"phase": broken[-1], "count": len(broken), "before": before[-1]}
    return fits[last]._replace(outcome=end.outcome, rows=None), BROKEN.format(**told)


def _finished(ended: Ended, task: Task, pull: float | None) -> Result:
    """The fit as arrays. `pull`: the share by which correlations were pulled, None where the weight says it."""
    model, messages = task.recipe, ended.messages
    end, broken = _sound(ended.fits[-1], ended.fits)
    outcome, weight = end.outcome, ended.kappa / (task.rows() + ended.kappa)
    # a weight that is none comes of chains that broke: the estimates are of a phase before them, which shrinks nothing
    weight = weight if isinstance(model.shape, Full) and np.isfinite(weight) else 0.0
    rows = None if end.rows is None else tuple(on_host(a)[: len(task.counts.weights)] for a in end.rows)
    low = ended.bounds is not None and not ended.bounds[1] > ended.bounds[0] - BELOW
    if low:
        begun, reached = ended.bounds  # type: ignore[misc]
        messages = (*messages, LOW.format(begun=begun, reached=reached))
    return Result(
        coef=np.asarray(end.model.coef),
        loadings=np.asarray(end.model.loadings),
        direct=model.loadings is None,
        posterior=task.settings.posterior,
        shrinkage=weight if pull is None else pull,
        weight=weight,
        rows=rows,  # type: ignore[arg-type]
        objective=None if rows is None else float(outcome.state.objective),
        converged=outcome.converged and not broken and not low,
        interrupted=outcome.interrupted,
        trace=joined([f.outcome.trace for f in ended.fits]),
        messages=(*((broken,) if broken else ()), *messages),
        extras=ended.extras or None,
        encoder=ended.encoder,
        broken=broken,
        parts=_parts(model.shape, end.model) if isinstance(model.shape, Specific) else None,
        law=jax.tree.map(np.asarray, end.law),
    )


def _parts(shape: Specific, model: Model) -> Parts:
    """C and psi of the fitted Sigma."""
    parts = jax.tree.map(np.asarray, _parted(shape, jnp.asarray(np.asarray(model.loadings))))
    return parts._replace(loadings=parts.loadings[:, : shape.axes.columns()])


@compiled()
def _parted(shape: Specific, root: jax.Array) -> Parts:
    return shape.parts(root @ root.T)
