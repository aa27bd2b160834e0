"""From a fit to what its standard errors are computed from: rows, free directions, and how draws are asked for.

Start at `free_directions`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError
from poplin._numerics import caught_up
from poplin._random import Purpose, derive
from poplin.data.blocks import Block
from poplin.data.counts import Counts, some_rows
from poplin.data.held import is_held_sparse
from poplin.fitting import phases, recipes, streamed
from poplin.fitting.recipes import FitSettings
from poplin.inference.coordinates import Coordinates, bound_coordinates, coordinates, with_law
from poplin.inference.information import (
    Groups,
    Information,
    Request,
    ahead,
    information,
)
from poplin.inference.sandwich import (
    AbstractFamily,
    DiagonalFamily,
    full_family,
    profiled,
    profiled_scores,
)
from poplin.laws import telling
from poplin.methods.options import Variational
from poplin.models.loadings import BorrowedBasis
from poplin.rows.gaussian import fit_rows
from poplin.updates.specific import GivenAxes, Specific
from poplin.updates.structure import AbstractShape, Model

SIMULATED_ROWS = 5_000  # at least, of the expected information; and so many for each free number:
SIMULATED_ROWS_EACH = 10
SIMULATED_MOVES = 5_000_000  # rows times columns times draws of a set, of small tables
DRAWS = {"expected": 8, "outer": 64}  # draws a set of a row at least; of a simulated one at most:
MOST_DRAWS = 64
MORE_DRAWS = 200  # at most, where so few leave directions of which nothing can be told apart from noise
OFTEN = 2  # times that four times as many are tried
MOST_MOVES = 200_000_000  # rows times columns times draws, of those
PLACES = 15  # of Z, over which what counts say is averaged
LARGEST_RATE = 1e8  # that counts as a mean rate: more is as good
MOST_FULL = 20  # latent dimensions of full Gaussians whose bound is profiled
MOST_PRODUCTS = 3e11  # of two scores, by Louis' identity, where more draws are tried
OBSERVED_DRAWS = 200_000, 128  # over all rows, and for each free number, of Louis' identity


class Free(NamedTuple):
    """What standard errors of a fit are computed from: the rows, the free directions, the basis if one was borrowed.

    `shape` of Sigma is None in a factor form; `mean_rate` (p,) are the model's mean rates,
    `usual_rate` (p,) those where Z is at its mean; `rows` is None, or the result of a variational fit, whose rows'
    Gaussians are profiled out.
    """

    block: Block
    here: Coordinates
    basis: np.ndarray | None
    shape: AbstractShape | None
    mean_rate: np.ndarray
    usual_rate: np.ndarray
    rows: Any

    def in_parts(self) -> bool:
        """Whether standard errors can be found a few columns at a time."""
        tied = self.basis is not None or self.here.tie is not None
        p = self.block.y.shape[1]
        shared = any(a.shape[1] < p for a in jax.tree.leaves(self.here.own))
        return self.rows is None and not (tied or shared)


def free_directions(fit: Any) -> Free:
    """The rows and the free directions of a fit."""
    result, counts, settings = fit.result_, fit.counts_, recipes.checked(fit.get_params())
    if settings.rank == "auto":
        settings = replace(settings, rank=result.rank())
    recipe = settings.recipe(counts)
    counts, result = _seen(counts, result, settings.random_state)
    block = phases.training_block(counts).under(result.law)
    law = jax.tree.map(jnp.asarray, result.law)
    model = Model(jnp.asarray(result.coef), jnp.asarray(result.loadings))
    basis = _basis(recipe)
    weights = np.asarray(block.weights)
    mean_rate, usual = (
        weights @ _expected_rates(block, model, mean=m) / weights.sum() for m in (True, False)
    )
    if result.rows is None and not isinstance(settings.method, Variational):
        here = coordinates(recipe.shape, recipe.loadings, model, jnp.asarray(mean_rate))
        return Free(block, with_law(here, law), basis, recipe.shape, mean_rate, usual, None)
    diagonal = result.posterior == "diagonal"
    here = bound_coordinates(recipe.shape, recipe.loadings, model, diagonal=diagonal)
    return Free(block, with_law(here, law), basis, recipe.shape, mean_rate, usual, result)


def _basis(recipe: recipes.Recipe) -> np.ndarray | None:
    """V, where it was given."""
    given = recipe.shape.axes if isinstance(recipe.shape, Specific) else recipe.loadings
    return np.asarray(given.basis) if isinstance(given, BorrowedBasis | GivenAxes) else None


def _seen(counts: Counts, result: Any, seed: int) -> tuple[Counts, Any]:
    """The rows that information is taken from: of a sparse table a sample, which weighs as much as all.

    With the result, whose rows' own Gaussians, if it has any, are those of the same rows.
    """
    if not is_held_sparse(counts.y):
        return counts, result
    chosen = streamed.sampled(counts, seed)
    part = some_rows(counts, chosen)
    part = part._replace(weights=part.weights * (counts.weights.sum() / part.weights.sum()))
    rows = None if result.rows is None else tuple(a[chosen] for a in result.rows)
    return part, result._replace(rows=rows)


def _expected_rates(block: Block, model: Model, *, mean: bool) -> np.ndarray:
    """What counts will say of log rates (n, p), at most `LARGEST_RATE`: rates of Poisson counts, else `laws.telling`.

    `mean`: where Z is as the model has it, else at its mean. The model's, not the data's: where Sigma is large the mean
    is made by rows that are rare, in a simulated table too.
    """
    variance = np.sum(np.asarray(model.loadings) ** 2, axis=1)
    log_rate = np.asarray(block.offset) + np.asarray(block.x) @ np.asarray(model.coef)
    if block.law.exponential():
        return np.exp(np.minimum(log_rate + (0.5 if mean else 0.0) * variance, np.log(LARGEST_RATE)))
    points, shares = np.polynomial.hermite_e.hermegauss(PLACES) if mean else (np.zeros(1), np.ones(1))
    told = sum(
        share * np.asarray(telling(block.law, jnp.asarray(log_rate + point * np.sqrt(variance))))
        for point, share in zip(points, shares / shares.sum(), strict=True)
    )
    return np.minimum(told, LARGEST_RATE)


def _family(result: Any, block: Block, here: Coordinates) -> AbstractFamily:
    """The rows' own Gaussians of a variational fit."""
    q = here.model.loadings.shape[1]
    if result.posterior == "full":
        if q > MOST_FULL:
            raise InputError(
                f"Standard errors of a bound with full Gaussians of {q} latent dimensions: at most {MOST_FULL} are "
                "possible. Fit with posterior='diagonal', or method='ml'."
            )
        rows = fit_rows(block, here.model.coef, here.model.loadings)
        return full_family(rows.mean, rows.covariance)
    mean, variance = (jnp.asarray(a) for a in result.rows or _best(here.model, block, direct=result.direct))
    if not result.direct:
        return DiagonalFamily(jnp.concatenate([mean, 0.5 * jnp.log(variance)], axis=1), jnp.eye(q))
    unknown = jnp.concatenate([mean - block.x @ here.model.coef, 0.5 * jnp.log(variance)], axis=1)
    return DiagonalFamily(unknown, jnp.linalg.inv(here.model.loadings))


def _best(model: Model, block: Block, *, direct: bool) -> tuple[np.ndarray, np.ndarray]:
    """The rows' best diagonal Gaussians, where a fit that was interrupted has none of its own."""
    first = phases.first_rows(model, block, direct=direct)
    mean, log_sd = phases.best_rows(model, block, first, direct=direct).rows.unknown
    return mean, np.exp(2 * np.asarray(log_sd))


def request(
    kind: str,
    free: Free,
    settings: FitSettings,
    *,
    more: int = 0,
    size: int | None = None,
    simulated: int | None = None,
) -> Request:
    """How information of a kind is found for a table of this size; `more`: how often to take four times the draws.

    `size` is how many numbers are told at once: all free ones if it is not given. `simulated`: rows at least, of the
    expected information, if these are to be more than usual; the more rows, the fewer draws of each.
    """
    n, size = len(free.block.index), free.here.size() if size is None else size
    key = derive(settings.random_state, Purpose.INFORMATION).key()
    single = float(np.max(np.asarray(free.block.y))) < phases.SINGLE_UP_TO
    # a size's score is a difference of digamma functions, of which single precision leaves nothing
    single = single and not jax.tree.leaves(free.here.own)
    plain = Request(key, kind=jnp.float32 if single else jnp.float64, callback=settings.callback)
    if kind == "observed":
        all_rows, each = OBSERVED_DRAWS
        draws = int(np.clip(max(all_rows, each * size) / (2 * n), 32, 2000))
        affordable = int(MOST_PRODUCTS / (2 * n * size**2))
        return plain._replace(louis=True, draws=max(draws, min(draws * 4**more, affordable)))
    copies = (
        -(-max(simulated or SIMULATED_ROWS, SIMULATED_ROWS_EACH * size) // n) if kind == "expected" else 0
    )
    draws, affordable = DRAWS[kind], MOST_MOVES // (n * max(copies, 1) * free.block.y.shape[1])
    if copies:
        draws = int(np.clip(SIMULATED_MOVES // (n * copies * free.block.y.shape[1]), draws, MOST_DRAWS))
    draws = max(draws, min(draws * 4**more, affordable, MORE_DRAWS))
    return plain._replace(copies=copies, draws=draws)


def compile_ahead(recipe: recipes.Recipe, block: Block, settings: FitSettings) -> None:
    """Compile what the usual standard errors need for a fit of this recipe to a table of this shape."""
    (_, p), d = block.y.shape, block.x.shape[1]
    like = Model(jnp.asarray(np.zeros((d, p))), jnp.asarray(np.eye(p, recipe.rank)))
    block, law = block.under(recipe.law), jax.tree.map(jnp.asarray, recipe.law)
    here = with_law(coordinates(recipe.shape, recipe.loadings, like, jnp.asarray(np.ones(p))), law)
    free = Free(block, here, None, recipe.shape, np.ones(p), np.ones(p), None)
    ahead(block, here, request("expected", free, settings))


def sums(
    kind: str, free: Free, settings: FitSettings, *, more: int = 0, groups: Groups | None = None
) -> Information:
    """The sums of a kind of information: the expensive part. `more`: see `request`; `groups`: see `Information`."""
    caught_up()
    if free.rows is not None:
        family = _family(free.rows, free.block, free.here)
        found = jax.tree.map(np.asarray, profiled(free.here, family, free.block))
        return found if groups is None else found._replace(by_group=_grouped(free, family, groups))
    asked = request(kind, free, settings, more=more)._replace(groups=groups)
    return jax.tree.map(np.asarray, information(free.block, free.here, asked))


def _grouped(free: Free, family: AbstractFamily, groups: Groups) -> np.ndarray:
    """Sums over groups of the bound's scores, which are exact, as of two sets of draws."""
    scores = groups.weights[:, None] * np.asarray(profiled_scores(free.here, family, free.block))
    total = np.zeros((groups.count, scores.shape[1]))
    np.add.at(total, groups.of_row, scores)
    return np.stack([total, total])


# How far standard errors are, how long the rest will take, and whether that is longer than they may take.
#
# Start at `Watch`, which stands between the loop and a user's callback: what is a phase to the loop (a slice of
# simulated rows, a part of the columns) is a share of one piece of work to whoever waits.


PHASE = "standard errors"
LEAST, TIMES = 60.0, 2.0  # seconds that they may take, or times the fit's, whichever is longer
TELLING = 2.0  # seconds of work before it is said how long the rest will take: the first ones compile


class OverTime(Exception):
    """Standard errors would take longer than they may."""


class Standing(NamedTuple):
    """What the callback is told, with the fields of `poplin.fit.Progress`: percent of all that has to be done."""

    phase: str
    iteration: int
    max_iter: int
    objective: float
    seconds: float
    unit: str = "percent"


def usual(fit_seconds: float) -> float:
    """Seconds that standard errors may take where nobody has said."""
    return max(LEAST, TIMES * fit_seconds)


def checked(asked: bool | float) -> bool | float:
    """True, False or a number of seconds above zero; an `InputError` for anything else."""
    if isinstance(asked, bool | np.bool_):
        return bool(asked)
    if isinstance(asked, int | float | np.number) and 0 < asked < np.inf:
        return float(asked)
    raise InputError(f"standard_errors={asked!r}: wanted is True, False, or a number of seconds above zero.")


class Watch:
    """Tells the callback what share is done, and raises `OverTime` where the work will not end in time.

    The limit holds between `begin` and `end`; `anew` opens a kind of work, `share` says what part of it comes next.
    """

    def __init__(
        self, callback: Callable[[Any], None] | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.callback = callback
        self._clock, self._began = clock, clock()
        self._deadline: float | None = None
        self._phase = PHASE
        self._first, self._last = 0.0, 1.0
        self._mark: tuple[float, float] | None = None

    def begin(self, seconds: float) -> None:
        """From now on the work may take so many seconds."""
        self._began = self._clock()
        self._deadline = self._began + seconds
        self.anew()

    def end(self) -> None:
        """From now on it may take as long as it takes."""
        self._deadline = None
        self.anew()

    def left(self) -> float:
        """Seconds that are left of the limit; none where there is none."""
        return 0.0 if self._deadline is None else self._deadline - self._clock()

    def anew(self, what: str = "", *, last: float = 1.0) -> None:
        """Work of another kind, in words if need be: the pace is measured again. Its told steps end at share `last`."""
        self._phase = f"{PHASE} ({what})" if what else PHASE
        self._first, self._last, self._mark = 0.0, last, None

    def share(self, first: float, last: float) -> None:
        """The steps that follow are this share of the work, from `first` to `last` in [0, 1]."""
        self._first, self._last = first, last

    def __call__(self, progress: Any) -> None:
        """A step is done: `iteration` of `max_iter`."""
        inside = progress.iteration / max(progress.max_iter, 1)
        done, now = self._first + (self._last - self._first) * inside, self._clock()
        if self._mark is None:
            self._mark = done, now
        if self.callback is not None:
            self.callback(Standing(self._phase, round(100 * done), 100, float("nan"), now - self._began))
        if self._deadline is not None and self._ends(done, now) > self._deadline:
            raise OverTime

    def _ends(self, done: float, now: float) -> float:
        """When all will be done, at the pace since the first report; `now` before that can be said."""
        assert self._mark is not None
        share, spent = done - self._mark[0], now - self._mark[1]
        if share <= 0 or spent < TELLING:
            return now
        return now + (1 - done) * spent / share
