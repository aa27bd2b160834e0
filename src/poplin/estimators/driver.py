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
from jax import Array, ShapeDtypeStruct

from poplin import fit
from poplin._errors import InputError
from poplin._numerics import double_precision, in_a_hurry, key_of, meanwhile
from poplin.data.blocks import Block, check_agreed, layout, on_host, rows_in
from poplin.data.counts import Counts
from poplin.data.held import column_sums
from poplin.estimators import alternatives, amortised, checkpoints, directions, phases, streamed
from poplin.estimators.checkpoints import Keeper
from poplin.estimators.phases import Ended, Fitted, Recipe, RowGaussians, Settings, Task
from poplin.estimators.refit import piloted, pull_alone, pulled
from poplin.fit import joined
from poplin.inference.selection import Placed, paired_loglik
from poplin.methods import ml
from poplin.methods.options import BBVI, IWAE, MCMC, Amortised, Composite, Exact, Moments, Smoothed
from poplin.rows import gaussian
from poplin.updates.structure import Full, Model

# The ways to fit that are not "ml" or "variational": from a method's options to phases on the loop.
#
# Start at `fit_by`. Each way ends in `Fitted` phases, the pseudo-rows behind a shrunk Sigma, and what else it has to
# report. The options themselves are in `methods/options.py`.


PLAIN = ("ml", "variational")


class Way(NamedTuple):
    """A method's options, how it is carried out, and its usual number of iterations and tolerance."""

    options: type
    carry_out: Callable[[Any, Task], Ended]
    max_iter: int
    tol: float


WAYS: dict[str, Way] = {
    "exact": Way(Exact, alternatives.fit_exact, 1_000, 1e-9),
    "mcmc": Way(MCMC, alternatives.fit_mcmc, 600, 0.1),
    "bbvi": Way(BBVI, alternatives.fit_bbvi, 2_000, 0.2),
    "iwae": Way(IWAE, alternatives.fit_iwae, 2_000, 0.2),
    "moments": Way(Moments, alternatives.fit_moments, 1, 1e-10),
    "composite": Way(Composite, alternatives.fit_composite, 1_000, 1e-9),
    "amortised": Way(Amortised, amortised.fit_amortised, 100, 1e-3),
    "smoothed": Way(Smoothed, amortised.fit_smoothed, 20_000, 1e-10),
}
NAMES = (*PLAIN, *WAYS)
INFORMED = ("ml", "variational", "exact", "mcmc")  # whose errors follow from information or from a sandwich


def chosen(method: Any) -> Any:
    """Either "ml" or "variational", or the options of another way; an `InputError` that lists the names."""
    if isinstance(method, str) and method in PLAIN:
        return method
    if isinstance(method, str) and method in WAYS:
        return WAYS[method].options()
    if type(method) in _by_options():
        return method
    raise InputError(
        f"method={method!r}: wanted is one of {', '.join(map(repr, NAMES))}, or options from poplin.methods."
    )


def way_of(options: Any) -> Way:
    """The way that these options belong to."""
    return WAYS[_by_options()[type(options)]]


def name_of(method: Any) -> str:
    """The name of a method that is given by its name or by its options."""
    return method if isinstance(method, str) else _by_options()[type(method)]


def check_informed(method: Any) -> None:
    """An `InputError` where standard errors of a method's estimates do not follow from the likelihood's information."""
    if name_of(method) not in INFORMED:
        raise InputError(
            f"Standard errors of method={name_of(method)!r} do not follow from the likelihood's information. Give "
            "n_boot, for example n_boot=200, or fit with method='ml'."
        )


def _by_options() -> dict[type, str]:
    return {way.options: name for name, way in WAYS.items()}


def to_plain(method: Any) -> Any:
    """A method as a word or a list, for a file."""
    return method if isinstance(method, str) else [name_of(method), dict(method._asdict())]


def from_plain(kept: Any) -> Any:
    """The method that `to_plain` wrote."""
    return kept if isinstance(kept, str) else WAYS[kept[0]].options(**kept[1])


def fit_by(options: Any, task: Task) -> Ended:
    """Carry a way out."""
    return way_of(options).carry_out(options, task)


# Compiles what maximum likelihood will need while the variational fit before it is compiled and runs.
#
# Start at `compile_ahead`. Only shapes are known then, and only shapes are needed.


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


# A fit that several processes make together: what is refused, and whether all of them make the same one.
#
# Start at `check`. Nothing is done where there is one process.


def check(counts: Counts, settings: dict[str, Any], keeper: Keeper | None) -> None:
    """Raise `InputError` for a fit that processes cannot share, and in all of them where one has another fit."""
    if jax.process_count() == 1:
        return
    name = name_of(chosen(settings["method"]))
    if name not in PLAIN:
        raise InputError(
            f"method='{name}' runs in one process; several ({jax.process_count()} here) share a fit by 'ml' or "
            "'variational'. Choose one of these, or fit in one process."
        )
    # of several devices' fits whether they have loadings makes no difference
    if streamed.wanted(counts, name, loadings=False):
        raise InputError(
            "A table whose rows are dense a block at a time (sparse, or very large) is fitted in one process. Use one."
        )
    told = json.dumps(checkpoints.facts(counts, settings), sort_keys=True)
    told += repr(settings["checkpoint_every"]) + ("" if keeper is None else keeper.standing)
    check_agreed(hashlib.sha256(told.encode()).hexdigest(), "Counts, settings or checkpoints")


ITERATIONS = {"variational": 20_000, "ml": 5_000}
TOLERANCE = {"variational": 1e-10, "ml": 0.2}
EVERY = 100  # iterations between two checkpoints
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
    rows: (
        tuple[np.ndarray, np.ndarray] | None
    )  # mean and variance of the rows' own Gaussians (variational fits)
    objective: float | None  # their bound
    converged: bool
    interrupted: bool
    trace: dict[str, np.ndarray]
    messages: tuple[str, ...]
    extras: dict[str, Any] | None = None  # further fitted attributes by name
    encoder: Any = None  # a `methods.amortised.Embedder`, where rows are embedded by one
    broken: str = ""  # what happened, where the last phase ended in numbers that are none


def keeper(counts: Counts, settings: dict[str, Any]) -> Keeper | None:
    """The checkpoint that the settings ask for, None if they do not; `fitted` begins or goes on with it.

    Raises `InputError` for a file that cannot serve, or belongs to another fit, and for fits that have none.
    """
    path, every = settings["checkpoint"], settings["checkpoint_every"]
    if path is None:
        if every is not None:
            raise InputError(f"checkpoint_every={every!r} needs a file: give checkpoint='name.npz' as well.")
        return None
    every = EVERY if every is None else phases.count(every, "checkpoint_every", least=1)
    name = name_of(chosen(settings["method"]))
    if name not in PLAIN:
        raise InputError(
            f"checkpoint: fits by method='{name}' keep none, those by 'ml' and 'variational' do. Leave it out."
        )
    if isinstance(settings["rank"], str):
        raise InputError(
            f"checkpoint goes with a rank that is given, not with rank={settings['rank']!r}, which is many fits. "
            "Choose the rank first (poplin.select), then fit with it."
        )
    return Keeper(checkpoints.place(path, counts, settings), every)


def fitted(counts: Counts, settings: dict[str, Any], began: float, *, keeper: Keeper | None = None) -> Result:
    """Run the phases that the settings ask for; `keeper` keeps where they stand."""
    method = chosen(settings["method"])
    posterior = phases.one_of(settings["posterior"], phases.POSTERIORS, "posterior")
    weight = phases.shrinkage_weight(settings["shrinkage"])
    starts = phases.count(settings["n_init"], "n_init", least=1)
    seed = phases.count(settings["random_state"], "random_state", least=0)
    main = main_settings(settings, began)._replace(keeper=keeper)
    check(counts, settings, keeper)
    with double_precision():
        model = phases.recipe(counts, **{k: settings[k] for k in ("covariance", "rank", "basis")})
        model = phases.unshrunk(model) if weight == 0 else model
        if streamed.wanted(counts, name_of(method), loadings=model.loadings is not None):
            begin = _sample_fit(_start_settings(model, main), starts, seed)
            return _streamed(method, model, counts, main, weight, posterior, seed, begin)
        block = phases.spread_block(counts) if isinstance(method, str) else phases.training_block(counts)
        key = key_of(seed)
        if method == "variational":
            return _variational(model, block, main, weight or 0.0, starts, posterior, key)
        if method == "ml":
            return _ml(model, block, main, weight, starts, posterior, key)
        short = _start_settings(model, main)
        task = Task(
            model, block, counts, main, weight, key, lambda: _best_bound(model, block, short, starts, key)
        )
        ended = fit_by(method, task)
        pull = _pull(task.recipe, block, ended.fits[-1], ended.kappa)
        return _another(ended, task.recipe, posterior, task.rows(), pull)


def main_settings(settings: dict[str, Any], began: float) -> Settings:
    """Iterations, tolerance and callback of the main phase."""
    method = chosen(settings["method"])
    if isinstance(method, str):
        usual, near = ITERATIONS[method], TOLERANCE[method]
    else:
        _, _, usual, near = way_of(method)
    limit = settings["max_iter"]
    limit = usual if limit is None else phases.count(limit, "max_iter", least=1)
    tol = near if settings["tol"] is None else float(settings["tol"])
    if not tol > 0:
        raise InputError(f"tol={settings['tol']!r}: wanted is a positive number.")
    return Settings(limit, tol, began, settings["callback"])


def _start_settings(model: Recipe, main: Settings) -> Settings:
    """Of the variational fit that other methods begin from."""
    short = DIRECT_START if model.loadings is None else FACTOR_START
    return short._replace(began=main.began, callback=main.callback, keeper=main.keeper)


def _another(ended: Ended, model: Recipe, posterior: str, rows: float, pull: float | None = None) -> Result:
    """A fit by one of the ways below, to rows of so much weight."""
    fits, kappa, extras, messages, encoder, bounds = ended
    weight = kappa / (rows + kappa)
    done = _result(model, fits[-1]._replace(rows=None), fits, posterior, weight, 0, pull)
    if bounds is not None and not bounds[1] > bounds[0] - BELOW:
        messages = (*messages, LOW.format(begun=bounds[0], reached=bounds[1]))
        done = done._replace(converged=False)
    return done._replace(extras=extras, messages=(*done.messages, *messages), encoder=encoder)


def _kappa(weight: float, block: Block) -> float:
    return weight / (1 - weight) * float(np.sum(on_host(block.weights)))


def _variational(
    model: Recipe, block: Block, main: Settings, weight: float, starts: int, posterior: str, key
) -> Result:
    model = phases.with_shrinkage(model, _kappa(weight, block))
    best = _best_bound(model, block, main, starts, key)
    done = [best]
    if posterior == "full" and not best.outcome.interrupted:
        done.append(phases.fit_full(model, block, best, main))
    return _result(model, done[-1], done, posterior, weight, rows_in(block))


def _best_bound(model: Recipe, block: Block, settings: Settings, starts: int, key) -> Fitted:
    """The best of a variational fit from the usual first values and others from random neighbours of them."""
    fits = [phases.fit_variational(model, block, settings)]
    while len(fits) < starts and not fits[-1].outcome.interrupted:
        fits.append(phases.fit_variational(model, block, settings, key=jax.random.fold_in(key, len(fits))))
    best = max(fits, key=lambda f: float(f.outcome.state.objective))
    if not fits[-1].outcome.interrupted:
        return best
    return best._replace(outcome=best.outcome._replace(interrupted=True, converged=False))


def _ml(
    model: Recipe, block: Block, main: Settings, weight: float | None, starts: int, posterior: str, key
) -> Result:
    short = _start_settings(model, main)
    ready = compile_ahead(model, block, key, direct_rows=model.loadings is None)
    start = _best_bound(model, block, short, starts, key)
    done = [start]
    rows = float(np.sum(on_host(block.weights)))
    kappa, words = _kappa(weight or 0.0, block), ()
    if start.outcome.interrupted:  # what comes next is not waited for, which is compiled meanwhile
        return _result(model, start, done, posterior, kappa / (rows + kappa), rows_in(block))
    ready.chains.result()
    where = phases.chain_start(model, block, start, key)
    if weight is None and isinstance(model.shape, Full):
        pilot, where, kappa = piloted(model, where, main, whole=rows, block=block)
        done.append(pilot)
    if not done[-1].outcome.interrupted:
        shrunk = phases.with_shrinkage(model, kappa)
        end, _ = phases.ml_phase(shrunk, where, main, phase="ml")
        done.append(end)
        try:
            words = _below_start(shrunk, block, start.model, end, main.tol, key)
        except KeyboardInterrupt:  # the fit is done; what was not looked at is not claimed
            done[-1] = end._replace(outcome=end.outcome._replace(converged=False, interrupted=True))
        if words:
            done[-1] = end._replace(outcome=end.outcome._replace(converged=False))
    pull = _pull(model, block, done[-1], kappa)
    result = _result(model, done[-1], done, posterior, kappa / (rows + kappa), rows_in(block), pull)
    return result._replace(messages=(*result.messages, *words))


def _pull(model: Recipe, block: Block, end: Fitted, kappa: float) -> float | None:
    """What a fit that is whole reports as its shrinkage."""
    sound = all(np.isfinite(np.asarray(part)).all() for part in end.model)
    return pulled(model, block, end.model, kappa) if sound and not end.outcome.interrupted else None


def _below_start(recipe: Recipe, block: Block, start: Model, end: Fitted, tol: float, key) -> tuple[str, ...]:
    """What to say of a fit that claims to have converged, and is less likely than its start; else nothing."""
    if not end.outcome.converged or layout(block) is not None:
        return ()
    gain, error = _gain(recipe, block, start, end.model, key)
    # the tolerance allows half its square for each number
    allowed = tol**2 * (end.model.coef.size + end.model.loadings.size)
    return (FELL.format(gain=gain, error=error),) if gain < -3 * error - allowed else ()


def _gain(recipe: Recipe, block: Block, start: Model, end: Model, key) -> tuple[float, float]:
    """Penalised log-likelihood of the end less that of the start (nats, all rows), and its standard error.

    By paired draws (`inference/selection.py`) of `COMPARED` rows at most, spread over the table. Cost: that of two
    log-likelihoods of so many rows with a tenth of the usual draws.
    """
    models = [Placed(block, np.asarray(model.coef), np.asarray(model.loadings)) for model in (start, end)]
    if not all(np.isfinite(part).all() for model in models for part in model[1:]):
        return 0.0, 0.0  # `_sound` has the word
    used = np.flatnonzero(np.asarray(block.weights) > 0)
    some = used[np.unique(np.linspace(0, len(used) - 1, min(len(used), COMPARED)).astype(int))]
    part = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[some]), block)
    found = paired_loglik(
        jax.random.fold_in(key, 7), *(model._replace(block=part) for model in models), draws=COMPARED_DRAWS
    )
    weights = np.asarray(part.weights)
    share = float(np.sum(np.asarray(block.weights))) / weights.sum()
    variance = np.sum((weights * found.standard_error) ** 2)
    if len(some) < len(used):
        variance += np.sum(weights**2) * np.var(found.difference)
    gain = share * float(weights @ found.difference) - _penalty(recipe, end)
    return gain + _penalty(recipe, start), share * float(np.sqrt(variance))


def _penalty(recipe: Recipe, model: Model) -> float:
    """Minus the log prior of a model, nats."""
    return float(phases.penalty(recipe, model))


Begin = Callable[[Recipe, Block], Fitted]


def _sample_fit(short: Settings, starts: int, seed: int) -> Begin:
    """The bound's fit of a sample of rows, from which a fit over blocks begins."""
    return lambda model, part: _best_bound(model, part, short, starts, key_of(seed))


def _streamed(
    method: Any,
    model: Recipe,
    counts: Counts,
    main: Settings,
    weight: float | None,
    posterior: str,
    seed: int,
    begin: Begin,
) -> Result:
    """The same methods, rows dense one block at a time."""
    rows = float(np.sum(counts.weights))
    if not isinstance(method, str):
        ended = streamed.fit_amortised(method, model, counts, main, weight, seed=seed, start=begin)
        return _another(ended, model, posterior, rows)
    if method == "ml":
        found = streamed.fit_ml(model, counts, main, weight, seed=seed, start=begin)
    else:
        full = posterior == "full"
        found = streamed.fit_variational(
            model, counts, main, weight or 0.0, seed=seed, full=full, start=begin
        )
    fits, kappa, words = found
    root, pull = np.asarray(fits[-1].model.loadings), None
    if method == "ml" and isinstance(model.shape, Full) and np.isfinite(root).all():
        pull = pull_alone(root @ root.T, np.asarray(column_sums(counts.y, counts.weights)), rows, kappa)
    done = _result(model, fits[-1], fits, posterior, kappa / (rows + kappa), len(counts.weights), pull)
    return done._replace(messages=(*done.messages, words))


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


def _result(
    model: Recipe,
    end: Fitted,
    fits: list[Fitted],
    posterior: str,
    weight: float,
    n: int,
    pull: float | None = None,
) -> Result:
    end, broken = _sound(end, fits)
    outcome = end.outcome
    # a weight that is none comes of chains that broke: the estimates are of a phase before them, which shrinks nothing
    weight = weight if isinstance(model.shape, Full) and np.isfinite(weight) else 0.0
    rows = None if end.rows is None else tuple(on_host(a)[:n] for a in end.rows)
    return Result(
        coef=np.asarray(end.model.coef),
        loadings=np.asarray(end.model.loadings),
        direct=model.loadings is None,
        posterior=posterior,
        shrinkage=weight if pull is None else pull,
        weight=weight,
        rows=rows,  # type: ignore[arg-type]
        objective=None if rows is None else float(outcome.state.objective),
        converged=outcome.converged and not broken,
        interrupted=outcome.interrupted,
        trace=joined([f.outcome.trace for f in fits]),
        messages=(broken,) if broken else (),
        broken=broken,
    )
