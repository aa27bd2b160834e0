"""Candidates side by side: each is fitted to the same parts of the rows and scored on the same rows.

Start at `Contest`. `of_rank` and `of_shape` make a candidate (once), `search` looks for the best rank, `winner` applies
the rule: for held-out likelihood the simplest candidate within one standard error of the best, for a deviance the
lowest. By likelihood throughout, never by the bound, whose gap to the likelihood grows with the rank.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poplin import starts
from poplin._errors import InputError
from poplin._numerics import double_precision
from poplin._random import Purpose, derive
from poplin.data.blocks import NO_EXPOSURE, Block, as_block
from poplin.data.counts import Counts, check_basis
from poplin.data.held import check_dense
from poplin.data.tables import listed
from poplin.estimators import likely
from poplin.fit import Outcome
from poplin.fitting import checkpoints, driver, phases, recipes
from poplin.fitting.checkpoints import Keeper
from poplin.fitting.phases import Chained, Settings
from poplin.fitting.recipes import FitSettings, Recipe, count, one_of
from poplin.inference import selection
from poplin.inference.likelihood import RowLikelihood, padded, row_loglik
from poplin.laws import POISSON, AbstractLaw
from poplin.methods import ml
from poplin.methods.options import MaximumLikelihood
from poplin.models.loadings import BorrowedBasis
from poplin.rows.gaussian import fit_rows
from poplin.updates.low_rank import Borrowed, LowRank
from poplin.updates.specific import most_axes
from poplin.updates.structure import AbstractStructure, Model

# Fits along a path of ranks, on parts of the rows: one generous rank from scratch, the others from its leading axes.
#
# Start at `RankPath`. `parts` divides the rows: those left out have weight zero, so that all parts have one shape and
# one compilation serves them. Held-out rows are scored by `row_loglik` with loadings filled up to one width
# (`Score`): all ranks then share one compilation, and the draws of a row.


DRAWS = 1000  # importance draws of a row


class Part(NamedTuple):
    """Counts in which rows left out have weight zero, and the rows to be scored: left-out ones, or all in use."""

    name: str
    counts: Counts
    scored: np.ndarray
    held_out: bool


class Fit(NamedTuple):
    """B (d, p), C (p, q), whether the stopping rule held, and the law of the counts with its parameters."""

    coef: np.ndarray
    loadings: np.ndarray
    converged: bool
    law: AbstractLaw = POISSON


def parts(counts: Counts, labels: np.ndarray) -> list[Part]:
    """A part for each fold: the fold's rows are scored, the others are fitted.

    Raises `InputError` where the rows that are left do not tell the covariates apart.
    """
    made, folds = [], int(labels.max()) + 1
    for fold in range(folds):
        left_out = labels == fold
        weights = np.where(left_out, 0.0, counts.weights)
        x = counts.x[weights > 0]
        if np.linalg.matrix_rank(x) < x.shape[1]:
            raise InputError(
                f"folds: without fold {fold + 1} the other {len(x)} rows do not tell the covariates "
                f"{listed(counts.covariate_names)} apart. Use fewer or other folds, or fewer covariates."
            )
        name = f"fold {fold + 1} of {folds}"
        made.append(Part(name, counts._replace(weights=weights), np.flatnonzero(left_out), True))
    return made


def whole(counts: Counts) -> Part:
    """All rows, fitted and scored."""
    return Part("all rows", counts, np.flatnonzero(counts.weights > 0), False)


class RankPath:
    """Maximum-likelihood fits of nested ranks on one part of the rows.

    A generous rank is fitted from scratch. Every rank up to it then begins at its leading axes (principal axes of
    free loadings, columns of a basis), its chains where they stand, and is fitted in the same shapes with its other
    dimensions empty: one compilation serves all ranks, and their draws agree, so that chance in the fits hardly
    enters their differences. A rank is never helped by rows that are left out.
    """

    def __init__(self, form: Callable[[int], Recipe], part: Part, key: jax.Array) -> None:
        self.form, self.key = form, key
        self.block = phases.training_block(part.counts)
        self.top: int = 0
        self._where: Chained | None = None

    def begin(self, top: int, main: Settings) -> np.ndarray:
        """Fit the generous rank; its sizes of axes, (top,): eigenvalues of Sigma, or scales of the basis."""
        recipe = self.form(top)
        if top != self.top:
            short = main._replace(max_iter=driver.FACTOR_START.max_iter, tol=driver.FACTOR_START.tol)
            start = phases.fit_variational(recipe, self.block, short)
            _heed(start.outcome)
            where = phases.chain_start(recipe, self.block, start, self.key)
            outcome, _ = _settle(_structure(recipe, top), where, main, remains=checkpoints.whole)
            state = outcome.state
            first = ml.First(state.model, outcome.rows, state.mean_rate, jax.random.fold_in(self.key, 1))
            self._where, self.top = where._replace(first=first), top
        assert self._where is not None
        loadings = np.asarray(self._where.first.model.loadings)
        if isinstance(recipe.loadings, BorrowedBasis):
            return np.sum(loadings**2, axis=0)
        return np.linalg.svd(loadings, compute_uv=False) ** 2

    def fit(self, rank: int, main: Settings) -> Fit:
        """The fit of one rank, not above the generous one. Raises KeyboardInterrupt if it was interrupted."""
        assert self._where is not None
        recipe = self.form(self.top)
        own_axes = not isinstance(recipe.loadings, BorrowedBasis)
        first = _truncated(self._where.first, jnp.asarray(rank), own_axes=own_axes)
        # copied, as the loop takes over the memory of what it is given
        first = jax.tree.map(jnp.copy, first._replace(key=None))._replace(key=first.key)
        outcome, model = _settle(_structure(recipe, rank), self._where._replace(first=first), main)
        loadings = np.asarray(model.loadings)[:, :rank]
        return Fit(np.asarray(model.coef), loadings, outcome.converged)


def _structure(recipe: Recipe, rank: int) -> AbstractStructure:
    """The M-step of the first `rank` dimensions of a factor form, the others empty."""
    active = (jnp.arange(recipe.rank) < rank) * 1.0
    if isinstance(recipe.loadings, BorrowedBasis):
        return Borrowed(recipe.loadings.basis * active, recipe.level)
    return LowRank(active, recipe.level)


def _settle(
    structure: AbstractStructure,
    where: Chained,
    main: Settings,
    *,
    remains: Callable[[Any], Any] = checkpoints.nothing,
) -> tuple[Outcome, Model]:
    """Maximum likelihood from where chains stand: how the loop ended, and the averaged model.

    `remains` of the chains are in the outcome.
    """
    rank = where.first.model.loadings.shape[1]
    method = ml.StochasticApproximation(
        structure, phases.constant_gamma(len(where.block.y), rank, direct=False), main.tol
    )
    outcome = checkpoints.run_resumed(method, where.first, where.block, main, phase="ml", remains=remains)
    _heed(outcome)
    return outcome, _estimate(method, outcome.state)


@jax.jit
def _estimate(method: ml.StochasticApproximation, state: ml.State) -> Model:
    return method.estimate(state)


def _heed(outcome: Outcome) -> None:
    if outcome.interrupted:
        raise KeyboardInterrupt


@partial(jax.jit, static_argnames="own_axes")
def _truncated(first: ml.First, rank: jax.Array, *, own_axes: bool) -> ml.First:
    """Model and chains in leading axes, those after `rank` without loadings."""
    q = first.model.loadings.shape[1]
    turn = jnp.linalg.svd(first.model.loadings, full_matrices=False)[2].T if own_axes else jnp.eye(q)
    chains, centre, earlier = first.rows
    turned = turn.astype(centre.dtype)
    earlier = None if earlier is None else earlier @ turned
    rows = ml.ChainRows(chains._replace(position=chains.position @ turned), centre @ turned, earlier)
    loadings = jnp.where(jnp.arange(q) < rank, first.model.loadings @ turn, 0.0)
    return first._replace(model=Model(first.model.coef, loadings), rows=rows)


class Score(NamedTuple):
    """Scores rows under fitted models: all rows on the device, weights aside, and the draws' key."""

    block: Block
    key: jax.Array

    def loglik(self, fit: Fit, rows: np.ndarray, *, width: int, size: int) -> RowLikelihood:
        """Importance-sampled log p(y_i) of the rows (m,), in nats.

        `width`: latent dimensions to which C is filled up with zeros; `size`: rows to which the rows are
        filled up. Neither changes what is computed, both make shapes equal.
        """
        loadings = padded(fit.loadings, width)
        chosen = jax.tree.map(lambda a: a[_filled(rows, size)], self.block).under(fit.law)
        found = row_loglik(self.key, chosen, jnp.asarray(fit.coef), jnp.asarray(loadings), draws=DRAWS)
        value, error, effective, _, unsure = found
        value, error, effective, unsure = (a[: len(rows)] for a in (value, error, effective, unsure))
        return RowLikelihood(value, error, effective, None, unsure)

    def entropy(self, fit: Fit) -> np.ndarray:
        """Entropy of each row's position w given its counts, (n,), by its best full Gaussian, in nats."""
        rows = fit_rows(self.block.under(fit.law), jnp.asarray(fit.coef), jnp.asarray(fit.loadings))
        q = fit.loadings.shape[1]
        return 0.5 * np.linalg.slogdet(np.asarray(rows.covariance))[1] + 0.5 * q * np.log(2 * np.pi * np.e)


def scores_of(counts: Counts, key: jax.Array) -> Score:
    """The rows of a table, ready to be scored."""
    arrays = counts.y, counts.x, counts.offset, counts.weights
    return Score(as_block(*arrays, prior=False, zero_features=counts.zero_features), key)


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.full(size - len(rows), rows[0])])


def direct_fit(counts: Counts, settings: FitSettings, began: float, keeper: Keeper | None) -> Fit:
    """A fit from scratch of whatever the settings say. Raises KeyboardInterrupt if it was interrupted."""
    result = driver.fitted(counts, settings, began, keeper=keeper)
    if result.interrupted:
        raise KeyboardInterrupt
    return Fit(result.coef, result.loadings, result.converged, result.law)


PLAIN = next(iter(recipes.LAWS))  # the law that chains along ranks are of
HELD_OUT, DEVIANCES = "heldout", ("aic", "bic", "icl")
CRITERIA = (HELD_OUT, *DEVIANCES)
DIRECTION = {HELD_OUT: "higher is better"} | dict.fromkeys(DEVIANCES, "lower is better")
GENEROUS = 1.25  # times the first guess: the rank from whose axes the others begin
NARROW = 20  # highest possible rank up to which it is the generous one: one set of programs serves all ranks
ITERATIONS = 1_000  # of fits that are compared (ml), at most: the last of them hardly move a held-out row
TOLERANCE = 0.1  # of fits that are compared (ml): chance in a fit must not decide between neighbours


class Candidate(NamedTuple):
    """A model with what was found of it; what was not asked for is None.

    `scores` (n,): held-out log p(y_i), zero for rows not in use; `loglik`, `loglik_se`, `entropy`: of all rows;
    `unsure` (n,): rows whose likelihood, held out or not, is less exact than it says.
    """

    label: str
    settings: dict[str, Any]
    parameters: int
    scores: np.ndarray | None
    loglik: float | None
    loglik_se: float | None
    entropy: float | None
    unsure: np.ndarray
    converged: bool
    seconds: float


class Contest:
    """Candidates over one table: the parts, the draws and the settings that they share; `keeper` keeps their fits."""

    def __init__(
        self,
        counts: Counts,
        settings: FitSettings,
        criteria: tuple[str, ...],
        labels: np.ndarray,
        keeper: Keeper | None = None,
    ) -> None:
        check_dense(counts.y, "The choice among models")
        self.counts, self.criteria, self.labels, self.keeper = counts, criteria, labels, keeper
        self.basis = None
        if settings.basis is not None:
            self.basis = check_basis(settings.basis, counts.y.shape[1], counts.column_names)
        self.settings = replace(settings, rank=None, basis=None, covariance="full")
        self.by_chains = isinstance(settings.method, MaximumLikelihood)
        # a Sigma in two parts is fitted in the direct form, from scratch at each rank, as are laws beside Poisson
        self.by_paths = self.by_chains and settings.specific == "none" and settings.likelihood == PLAIN
        if HELD_OUT in criteria and settings.zero_probability == "row":
            raise InputError(
                "zero_probability='row' says nothing of rows that are left out, by which candidates are compared. Use "
                "'column', 'single' or a zero_formula, or criterion='bic'."
            )
        self.began = time.perf_counter() - (0.0 if keeper is None else keeper.spent)
        self.found: dict[Any, Candidate] = {}
        self.top = 0  # the highest rank fitted from scratch
        self.parts = parts(counts, labels) if HELD_OUT in criteria else []
        if set(criteria) & set(DEVIANCES):
            self.parts.append(whole(counts))
        key = derive(settings.random_state, Purpose.MAIN).key()
        with double_precision():
            keys = [jax.random.fold_in(key, k) for k in range(len(self.parts))]
            self.paths = [RankPath(self._form, *each) for each in zip(self.parts, keys, strict=True)]
            self.score = scores_of(counts, derive(settings.random_state, Purpose.LIKELIHOOD).key())

    def of_rank(self, rank: int, likelihood: str | None = None) -> Candidate:
        """The candidate of a rank (with a basis: of its so many leading columns), under a law of the counts."""
        key = rank if likelihood is None else (rank, likelihood)
        if key in self.found:
            return self.found[key]
        given = {"rank": rank} if self.basis is None else {"basis": self.basis[:, :rank]}
        given |= self._law(likelihood)
        with double_precision():
            recipe = self._recipe(given)
        if rank > self.top:
            self.top = min(self.limit, max(rank, math.ceil(GENEROUS * self.top)))

        def fit(k: int, main: Settings) -> Fit:
            if likelihood is not None or not self.by_paths:
                return self._alone(k, given, main)
            self._begin(k)
            return self.paths[k].fit(rank, main)

        label = f"rank {rank}" if self.basis is None else f"basis, {rank} columns"
        label = label if likelihood is None else f"{likelihood} ({label})"
        self.found[key] = self._candidate(label, given, recipe, fit, width=lambda: max(self.top, recipe.rank))
        return self.found[key]

    def of_shape(self, covariance: Any, likelihood: str | None = None) -> Candidate:
        """The candidate of the direct form with a Sigma of this shape (a word, or Sigma itself), under a law."""
        key: Any = covariance if isinstance(covariance, str) else ("fixed", id(covariance))
        key = key if likelihood is None else (key, likelihood)
        if key not in self.found:
            alike = [one for one in self.found.values() if one.settings.get("likelihood") == likelihood]
            fixed = sum("fixed" in one.label for one in alike)
            label = covariance if isinstance(covariance, str) else f"fixed {fixed + 1}" if fixed else "fixed"
            label = label if likelihood is None else f"{likelihood} ({label})"
            given = {"covariance": covariance} | self._law(likelihood)
            with double_precision():
                recipe = self._recipe(given)
            fit = lambda k, main: self._alone(k, given, main)
            self.found[key] = self._candidate(label, given, recipe, fit, width=lambda: recipe.rank)
        return self.found[key]

    def _law(self, likelihood: str | None) -> dict[str, Any]:
        """The settings of a law; one without zeros of its own has nothing that says what they depend on."""
        if likelihood is None:
            return {}
        plain = {"zero_probability": recipes.ZEROS[0], "zero_formula": None}
        return {"likelihood": likelihood} | ({} if likelihood in recipes.ZERO_INFLATED else plain)

    def search(self) -> None:
        """Look for the best rank with few fits: from a guess uphill, then down to where the winner ends.

        Raises KeyboardInterrupt if it was interrupted.
        """
        generous = math.ceil(GENEROUS * self._guess()) + 1
        self.top = self.limit if self.limit <= NARROW else min(self.limit, generous)
        selection.peak(lambda rank: self.value(self.of_rank(rank)), self._first(), low=1, high=self.limit)
        while (lower := self._rank_of(self.winner()) - 1) > 0 and lower not in self.found:
            self.of_rank(lower)

    def winner(self) -> Candidate:
        """The candidate that the first criterion chooses."""
        every = list(self.found.values())
        if self.criteria[0] != HELD_OUT:
            return max(every, key=self.value)
        sizes = [candidate.parameters for candidate in every]
        return every[selection.simplest([self._scores(c) for c in every], sizes, self.counts.weights)]

    def value(self, candidate: Candidate, criterion: str | None = None) -> float:
        """What a criterion (the first, if none is named) says of a candidate, turned so that higher is better."""
        criterion = criterion or self.criteria[0]
        told = self.told(candidate, criterion)
        return told if criterion == HELD_OUT else -told

    def told(self, candidate: Candidate, criterion: str) -> float:
        """The criterion as it is reported: held-out nats, or a deviance."""
        if criterion == HELD_OUT:
            return float(self.counts.weights @ self._scores(candidate))
        assert candidate.loglik is not None
        rows = float(self.counts.weights.sum())
        if criterion == "aic":
            return selection.aic(candidate.loglik, candidate.parameters)
        if criterion == "bic":
            return selection.bic(candidate.loglik, candidate.parameters, rows=rows)
        assert candidate.entropy is not None
        return selection.icl(candidate.loglik, candidate.parameters, rows=rows, entropy=candidate.entropy)

    @property
    def folds(self) -> int:
        """How many folds the rows are divided into."""
        return int(self.labels.max()) + 1

    @property
    def limit(self) -> int:
        """The highest rank that every part allows."""
        if self.basis is not None:
            return self.basis.shape[1]
        fewest = min(int((part.counts.weights > 0).sum()) for part in self.parts)
        highest = min(fewest, self.counts.y.shape[1])
        return (
            highest if self.settings.specific == "none" else min(highest, most_axes(self.counts.y.shape[1]))
        )

    def _scores(self, candidate: Candidate) -> np.ndarray:
        assert candidate.scores is not None
        return candidate.scores

    def _recipe(self, given: dict[str, Any]) -> Recipe:
        asked = replace(self.settings, **given)
        words = {name: getattr(asked, name) for name in ("covariance", "rank", "basis", "specific")}
        law = recipes.law_of(asked.likelihood, asked.zero_probability, self.counts)
        return recipes.recipe(self.counts, **words)._replace(law=law)

    def _form(self, rank: int) -> Recipe:
        return self._recipe({"rank": rank} if self.basis is None else {"basis": self.basis[:, :rank]})

    def _alone(self, k: int, given: dict[str, Any], main: Settings) -> Fit:
        told = replace(self.settings, callback=main.callback, tol=main.tol, **given)
        return direct_fit(self.parts[k].counts, told, main.began, main.keeper)

    def _candidate(self, label: str, given, recipe: Recipe, fit, *, width) -> Candidate:
        """Fit every part and score its rows."""
        began = time.perf_counter()
        free = recipes.parameters(recipe, self.counts)
        sure = np.zeros(len(self.counts.weights), bool)
        made = Candidate(label, given, free, None, None, None, None, sure, True, 0.0)
        for k, part in enumerate(self.parts):
            with double_precision():
                one = fit(k, self._main(f"{label}, {part.name}"))
                made = self._scored(made, part, one, width())
        return made._replace(seconds=time.perf_counter() - began)

    def _scored(self, made: Candidate, part: Part, one: Fit, width: int) -> Candidate:
        """The candidate with what this part says of it."""
        made = made._replace(converged=made.converged and one.converged)
        size = max(len(other.scored) for other in self.parts if other.held_out == part.held_out)
        values, errors, _, _, unsure = self.score.loglik(one, part.scored, width=width, size=size)
        made = made._replace(unsure=made.unsure | _spread(unsure, part.scored, len(made.unsure)))
        if part.held_out:
            scores = np.zeros(len(self.counts.weights)) if made.scores is None else made.scores
            scores[part.scored] = values
            return made._replace(scores=scores)
        weights = self.counts.weights
        used = weights[part.scored]
        entropy = float(weights @ self.score.entropy(one)) if "icl" in self.criteria else None
        error = float(np.linalg.norm(used * errors))
        return made._replace(loglik=float(used @ values), loglik_se=error, entropy=entropy)

    def _main(self, words: str) -> Settings:
        """Iterations, tolerance and progress of a fit that is one of many."""
        main = driver.main_settings(self.settings, self.began)._replace(keeper=self.keeper)
        if self.settings.tol is None and self.by_chains:
            main = main._replace(tol=TOLERANCE)
        if self.settings.max_iter is None and self.by_chains:
            main = main._replace(max_iter=min(main.max_iter, ITERATIONS))
        callback = self.settings.callback
        if callback is None:
            return main
        return main._replace(callback=lambda told: callback(told._replace(phase=f"{words}: {told.phase}")))

    def _guess(self) -> int:
        """A rank near the right one, from residuals of log(y + 1/2): where a search begins."""
        with double_precision():
            block = phases.training_block(self.counts)
            residual = starts.log_residuals(block).residual
            weights = block.weights / jnp.sum(block.weights)
            noise = jnp.where(block.offset > NO_EXPOSURE / 2, jnp.minimum(1 / (block.y + 0.5), 1.0), 0.0)
            covariance = residual.T @ (weights[:, None] * residual)
            rows = float((self.counts.weights > 0).sum())
            return selection.dimensions(np.asarray(covariance), np.asarray(weights @ noise), rows=rows)

    def _first(self) -> int:
        """The rank at which the generous fit's eigenvalues drop most."""
        if not self.by_paths:
            return self._guess()
        with double_precision():
            sizes = self._begin(0)
        # of a basis the columns keep their order: what counts is what comes after
        return selection.widest_gap(np.maximum.accumulate(sizes[::-1])[::-1])

    def _begin(self, k: int) -> np.ndarray:
        """The generous fit of a part, from which its other ranks begin; the sizes of its axes."""
        main = self._main(f"rank {self.top}, where lower ones begin, {self.parts[k].name}")
        return self.paths[k].begin(self.top, main._replace(tol=driver.WAYS[MaximumLikelihood].tol))

    def _rank_of(self, candidate: Candidate) -> int:
        return next(rank for rank, one in self.found.items() if one is candidate)


def _spread(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Truths of some rows among all."""
    every = np.zeros(n, bool)
    every[rows] = values
    return every


# How candidates stand: the table, the sentence, and the rank that `PLN(rank="auto")` takes.
#
# Start at `table`. The public face is in `compare.py`.


if TYPE_CHECKING:
    import pandas

FOLDS = 5
NAMES = {
    HELD_OUT: "the log-likelihood of held-out rows",
    "aic": "AIC",
    "bic": "BIC",
    "icl": "ICL",
}
RULE = "the simplest candidate within one standard error of the best"


class Chosen(NamedTuple):
    """The rank, how the candidates stand, and a sentence that says why."""

    rank: int
    table: pandas.DataFrame
    words: str


def criteria_of(criterion: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the criteria, the one that chooses first; an `InputError` for other names."""
    names = (criterion,) if isinstance(criterion, str) else tuple(criterion)
    if not names:
        raise InputError(f"criterion is empty: wanted is one or more of {', '.join(CRITERIA)}.")
    return tuple(one_of(name, CRITERIA, "criterion") for name in names)


def labels_of(counts: Counts, folds: Any, *, seed: int) -> np.ndarray:
    """The fold of each row, (n,), -1 for rows of weight zero: so many equal folds at random, or as given.

    `folds` (n,) are labels of any kind; rows that belong together (of one patient, one site) should share one.
    """
    used = counts.weights > 0
    if np.ndim(folds) == 0:
        number = count(folds, "folds", least=2)
        if number > used.sum():
            raise InputError(f"folds={number}, but only {int(used.sum())} rows are in use. Use fewer folds.")
        return selection.fold_labels(used, number, seed=seed)
    given = np.asarray(folds)
    if given.shape != used.shape:
        raise InputError(
            f"folds has shape {given.shape}; wanted is a label for each of the {len(used)} rows."
        )
    labels = np.full(len(used), -1)
    labels[used] = np.unique(given[used], return_inverse=True)[1]
    if labels.max() < 1:
        raise InputError("folds: all rows in use have one label; wanted are two folds or more.")
    return labels


def with_rank(
    counts: Counts, settings: FitSettings, keeper: Keeper | None = None
) -> tuple[FitSettings, Chosen | None]:
    """Settings in which rank="auto" has become a number, and how it was chosen (None where it was given)."""
    if not isinstance(settings.rank, str) or settings.rank != "auto":
        return settings, None
    replace(settings, rank=1).recipe(counts)  # does a rank go with the others?
    chosen = choose_rank(counts, settings, keeper)
    return replace(settings, rank=chosen.rank), chosen


def choose_rank(counts: Counts, settings: FitSettings, keeper: Keeper | None = None) -> Chosen:
    """The rank by held-out log-likelihood, five folds (fewer rows: a fold each)."""
    folds = min(FOLDS, int((counts.weights > 0).sum()))
    labels = labels_of(counts, folds, seed=settings.random_state)
    contest = Contest(counts, settings, (HELD_OUT,), labels, keeper)
    contest.search()
    warn_of_doubt(contest, stacklevel=5)
    return Chosen(contest.winner().settings["rank"], table(contest), words(contest))


def table(contest: Contest) -> pandas.DataFrame:
    """One line a candidate, in the order of their free parameters.

    Columns: parameters, each criterion asked for, beside held-out log-likelihood the paired difference to the
    best and its standard error, and how the fits went.
    """
    import pandas

    every = sorted(contest.found.values(), key=lambda candidate: candidate.parameters)
    winner = contest.winner()
    lines = [_line(contest, candidate) | {"chosen": candidate is winner} for candidate in every]
    made = pandas.DataFrame(lines, index=pandas.Index([c.label for c in every], name="candidate"))
    made.attrs |= {name: DIRECTION[name] for name in contest.criteria}
    return made


def _line(contest: Contest, candidate: Candidate) -> dict[str, Any]:
    line: dict[str, Any] = {"parameters": candidate.parameters}
    for name in contest.criteria:
        line[name] = contest.told(candidate, name)
        if name == HELD_OUT:
            best = max(contest.found.values(), key=lambda one: contest.value(one, HELD_OUT))
            assert candidate.scores is not None and best.scores is not None
            gap = selection.difference(candidate.scores, best.scores, contest.counts.weights)
            line |= {"difference": gap.value, "difference_se": gap.standard_error}
    if candidate.loglik is not None:
        line |= {"loglik": candidate.loglik, "loglik_se": candidate.loglik_se}
    return line | {"converged": candidate.converged, "seconds": candidate.seconds}


def words(contest: Contest) -> str:
    """Which candidate was chosen, among which, by what, and which direction is better."""
    name = contest.criteria[0]
    others = sorted(contest.found.values(), key=lambda candidate: candidate.parameters)
    among = ", ".join(candidate.label for candidate in others)
    how = f"{NAMES[name]} ({DIRECTION[name]}"
    how += f"; {contest.folds} folds; taken is {RULE})" if name == HELD_OUT else ")"
    told = f"Chosen: {contest.winner().label}, among {among}, by {how}."
    unsure = [candidate.label for candidate in others if not candidate.converged]
    return told + (f" Not every fit converged: {', '.join(unsure)}." if unsure else "")


def warn_of_doubt(contest: Contest, *, stacklevel: int) -> None:
    """A `LikelihoodWarning` where the likelihoods of some rows under a candidate are less exact than they say."""
    unsure = np.any([candidate.unsure for candidate in contest.found.values()], axis=0)
    likely.warn_of(unsure, contest.counts.row_names, of=" under some candidate", stacklevel=stacklevel)
