"""`compare`: several methods on one table, side by side.

Start at `compare`. Every method is an ordinary `PLN` fit; bound, log-likelihood and k-hat are computed the same way for
each, at the parameters that it ended with.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from poplin._errors import ConvergenceWarning, DataWarning, InputError
from poplin._numerics import double_precision
from poplin._random import Purpose, derive
from poplin.data.counts import Counts, as_counts, check_rank, zeros_of_rows
from poplin.data.held import check_dense
from poplin.estimators import contest as standings
from poplin.estimators import likely
from poplin.estimators.building import not_fitted
from poplin.estimators.contest import DIRECTION, Contest
from poplin.estimators.placed_rows import new_block
from poplin.estimators.pln import PLN
from poplin.fit import Progress
from poplin.fitting import driver, recipes
from poplin.fitting.recipes import FitSettings, Recipe
from poplin.inference.intervals import adjusted
from poplin.inference.margins import log_masses
from poplin.inference.selection import (
    LawNesting,
    Nesting,
    Paired,
    Placed,
    covariates_within,
    law_nesting,
    nesting,
    paired_loglik,
)
from poplin.laws import of_cells
from poplin.methods.options import MaximumLikelihood, name_of
from poplin.models.draws import draw_counts
from poplin.updates.structure import Diagonal

# `select`: which rank, which shape of Sigma? Candidates side by side, by likelihood.
#
# Start at `select`; `Selection` is what it returns.


if TYPE_CHECKING:
    import pandas


class Selection(NamedTuple):
    """Candidates and the choice.

    Attributes:
        table: DataFrame, a line a candidate in the order of their free parameters: parameters, each criterion, of
            held-out log-likelihood the paired difference to the best and its standard error, how the fits went, chosen.
        fit: the chosen one, fitted to all rows.
        settings: what it takes beside the common ones.
        criterion: which one chose.
        direction: which way is better.
        words: all of it in a sentence.
    """

    table: pandas.DataFrame
    fit: PLN
    settings: dict[str, Any]
    criterion: str
    direction: str
    words: str

    def summary(self) -> str:
        """The table and the choice as plain text.

        Returns:
            Lines of text.
        """
        shown = self.table.drop(columns="chosen").to_string(float_format=lambda value: f"{value:.2f}")
        told = [f"{name}: {direction}" for name, direction in self.table.attrs.items()]
        return "\n".join([shown, "", "; ".join(told), self.words])


def select(
    Y: Any,
    *,
    ranks: Any = "auto",
    covariances: Sequence[Any] = (),
    likelihoods: Sequence[str] = (),
    basis: Any = None,
    criterion: str | Sequence[str] = "heldout",
    folds: Any = standings.FOLDS,
    X: Any = None,
    offset: Any = None,
    weights: Any = None,
    data: Any = None,
    **settings: Any,
) -> Selection:
    """Fit candidates, compare them by likelihood, and fit the chosen one to all rows.

    Cost: for ranks, each fold (each table) one generous fit from scratch, then a short one a rank; a search needs 3
    ranks if its guess is right. Memory: 4 n p numbers a fold.

    Args:
        Y: counts (n, p), as in `PLN.fit`.
        ranks: of free loadings, or of the leading columns of `basis`: "auto" looks for the best with few fits, a
            sequence takes these, () none.
        covariances: direct forms as well, with a Sigma of each: "full", "diagonal", "spherical", or Sigma (p, p).
        likelihoods: laws of the counts, as in `PLN`: each with each of the shapes; without `covariances` and a sequence
            of ranks with a full Sigma (with `basis`, with all of it). A zero_formula is of those that have zeros of
            their own.
        basis: V (p, q), orthonormal columns.
        criterion: one or several; the first chooses. "heldout" (higher is better): sum over rows of w_i log p(y_i),
            each row scored by a fit to the other folds, importance-sampled, the same folds and draws for all; chosen is
            the simplest candidate within one standard error of the best, by the paired differences of rows. "aic",
            "bic", "icl" (lower is better): -2 log p(Y) plus 2 K, K log n, K log n + 2 H, with K free parameters, n the
            sum of weights, H the entropy of the rows' positions.
        folds: a number, or a label for each row (n,): rows that belong together should share one.
        X: covariates (n, d), as in `PLN.fit`.
        offset: log scale, as in `PLN.fit`.
        weights: (n,), as in `PLN.fit`.
        data: the formula's covariates, as in `PLN.fit`.
        settings: those of `PLN` (method, shrinkage, formula, callback, random_state, ...); `tol` is 0.1 unless given,
            so that chance in the fits does not decide.

    Returns:
        A `Selection`: the table, the chosen fit, and how it was chosen.

    Raises:
        InputError: what cannot be fitted or divided, or nothing to choose from.
        KeyboardInterrupt: it was interrupted.

    >>> import numpy as np, poplin
    >>> random = np.random.default_rng(0)
    >>> counts = random.poisson(np.exp(1 + random.normal(size=(100, 1)) * np.ones(4)))
    >>> found = poplin.select(counts, ranks=[1, 2], criterion="bic")
    >>> found.table.index[found.table.chosen].tolist(), found.fit.loadings_.shape
    (['rank 1'], (4, 1))
    """
    face = PLN(**_common(settings, likelihoods))
    criteria = standings.criteria_of(criterion)
    asked = _asked(face, basis, likelihoods)
    sides = {"X": X, "offset": offset, "weights": weights, "data": data}
    counts = as_counts(Y, **sides, formula=face.formula, zero_formula=face.zero_formula)
    counts = zeros_of_rows(counts) if asked.zero_probability == "row" else counts
    labels = standings.labels_of(counts, folds, seed=asked.random_state)
    contest = Contest(counts, asked, criteria, labels)
    _enter(contest, ranks, covariances, likelihoods)
    winner = contest.winner()
    standings.warn_of_doubt(contest, stacklevel=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # said above
        fit = PLN(**(settings | winner.settings)).fit(Y, **sides)
    told = standings.words(contest)
    return Selection(
        standings.table(contest), fit, winner.settings, criteria[0], DIRECTION[criteria[0]], told
    )


def _asked(face: PLN, basis: Any, likelihoods: Sequence[str]) -> FitSettings:
    """The settings that candidates share, checked; what zeros depend on goes with one law of several at least."""
    if isinstance(likelihoods, str):
        raise InputError(f"likelihoods={likelihoods!r}: wanted is a sequence, for example [{likelihoods!r}].")
    for law in likelihoods:
        recipes.one_of(law, tuple(recipes.LAWS), "likelihoods")
    inflated = next((law for law in likelihoods if law in recipes.ZERO_INFLATED), None)
    law = face.likelihood if inflated is None else inflated
    asked = recipes.checked(face.get_params() | {"basis": basis, "likelihood": law})
    return replace(asked, likelihood=face.likelihood)


def _common(settings: dict[str, Any], likelihoods: Sequence[str]) -> dict[str, Any]:
    """The settings that all candidates share; those that tell them apart have arguments of their own."""
    chosen = [("rank", "ranks"), ("covariance", "covariances")]
    for name, own in chosen + ([("likelihood", "likelihoods")] if len(likelihoods) else []):
        if name in settings:
            raise InputError(f"{name} is what select chooses: give {own}, a sequence of candidates.")
    return settings


def _enter(contest: Contest, ranks: Any, covariances: Sequence[Any], likelihoods: Sequence[str]) -> None:
    """Fit and score every candidate."""
    laws: list[str | None] = [None, *likelihoods][1 if len(likelihoods) else 0 :]
    if len(likelihoods) and isinstance(ranks, str) and ranks == "auto":
        ranks = () if contest.basis is None else [contest.limit]
        covariances = covariances if len(covariances) or contest.basis is not None else ("full",)
    if isinstance(covariances, str) or isinstance(ranks, int | np.integer):
        raise InputError(
            "ranks and covariances are sequences, for example ranks=[2, 5], covariances=['full']."
        )
    if isinstance(ranks, str):
        if ranks != "auto":
            raise InputError(f"ranks={ranks!r}: wanted is 'auto' or a sequence of whole numbers.")
        contest.search()
    else:
        wanted = [check_rank(rank, contest.limit, contest.limit) for rank in (() if ranks is None else ranks)]
        for rank in sorted(wanted, reverse=True):
            for law in laws:
                contest.of_rank(rank, law)
    for covariance in covariances:
        for law in laws:
            contest.of_shape(covariance, law)
    if not contest.found:
        raise InputError("Nothing to choose from: give ranks, covariances or likelihoods.")


if TYPE_CHECKING:
    import pandas

USUAL = ("variational", "ml")
FULL = "variational-full"  # the bound with full Gaussians, beside the names of `PLN(method=...)`
FULL_STEPS = 500  # its last decimals take thousands of steps that change nothing else
REFERENCE = "ml"
COLUMNS = (
    *("seconds", "iterations", "converged", "bound", "loglik", "loglik_se", "khat"),
    *("coef_difference", "covariance_difference", "note"),
)


class Comparison(NamedTuple):
    """Several methods side by side.

    Attributes:
        table: DataFrame, one line a method; its columns are those of `compare`.
        fits: the fitted `PLN` by method.
    """

    table: pandas.DataFrame
    fits: dict[str, PLN]


def compare(
    Y: Any,
    methods: Sequence[Any] = USUAL,
    *,
    X: Any = None,
    offset: Any = None,
    weights: Any = None,
    data: Any = None,
    **settings: Any,
) -> Comparison:
    """Fit a table by several methods and set them side by side.

    Bound, log-likelihood and k-hat are computed the same way for each, at the parameters that it ended with. Cost: the
    fits, and 1000 importance draws a row for each.

    Args:
        Y: counts (n, p), as in `PLN.fit`.
        methods: names or options, as `PLN(method=...)` takes them, and "variational-full" for the bound with full
            Gaussians (500 steps unless `max_iter` says otherwise).
        X: covariates (n, d), as in `PLN.fit`.
        offset: log scale, as in `PLN.fit`.
        weights: (n,), as in `PLN.fit`.
        data: the formula's covariates, as in `PLN.fit`.
        settings: those of `PLN`, the same for all.

    Returns:
        A `Comparison`. Its table has, for each method, seconds (compiling included), iterations, converged; bound of
        the rows' Gaussians (`posterior`) and importance-sampled loglik with its error loglik_se, in nats, higher is
        better; khat, the largest Pareto k-hat of a row; and how far the estimates are from those of "ml" (of the first
        method that did it, where "ml" is not among them): coef_difference, the root mean square over entries of B, and
        covariance_difference, the Frobenius norm relative to Sigma's. A method that cannot fit this model has a note
        that says why.

    Raises:
        InputError: no method can fit this model, or `methods` is one name.
        KeyboardInterrupt: it was interrupted.

    >>> import numpy as np, poplin
    >>> counts = np.random.default_rng(0).poisson(3.0, (60, 3))
    >>> compared = poplin.compare(counts, ["variational", "moments"])
    >>> list(compared.table.index), float(compared.table.loc["variational", "coef_difference"])
    (['variational', 'moments'], 0.0)
    """
    if isinstance(methods, str):
        raise InputError(f"methods={methods!r}: wanted is a list of methods, for example [{methods!r}].")
    if not len(methods):
        said = "There is no method to fit by; wanted is at least one, for example "
        raise InputError(f"{said}['variational', 'ml'].", at_command_line=f"{said}--methods variational,ml.")
    if settings.get("checkpoint") is not None:
        raise InputError("checkpoint is for one fit, and compare makes several: give it to poplin.PLN.")
    labels = _labels(methods)
    rows = {"X": X, "offset": offset, "weights": weights, "data": data}
    fits: dict[str, PLN] = {}
    lines: dict[str, dict[str, Any]] = {}
    refused: InputError | None = None
    for label, method in labels.items():
        try:
            fits[label], lines[label] = _fitted(method, settings, Y, rows, told=bool(fits))
        except InputError as error:
            refused, lines[label] = error, {"note": str(error)}
    if not fits and refused is not None:
        raise refused
    reference = fits.get(REFERENCE) or next(iter(fits.values()))
    for label, fit in fits.items():
        lines[label] |= _apart(fit, reference)
    return Comparison(_table(lines), fits)


def _labels(methods: Sequence[Any]) -> dict[str, Any]:
    """The methods by name; options that share a name are numbered."""
    labels: dict[str, Any] = {}
    for method in methods:
        name = method if isinstance(method, str) and method == FULL else name_of(method)
        label, again = name, 2
        while label in labels:
            label, again = f"{name} {again}", again + 1
        labels[label] = method
    return labels


def _fitted(
    method: Any, settings: dict[str, Any], Y: Any, rows: dict[str, Any], *, told: bool
) -> tuple[PLN, dict[str, Any]]:
    """The fit by one method, and its line of the table but for the differences.

    `told` is whether a fit before has warned of what is odd about the data, which is the same for all.
    """
    full = isinstance(method, str) and method == FULL
    chosen: dict[str, Any] = {"method": "variational", "posterior": "full"} if full else {"method": method}
    if full and settings.get("max_iter") is None:
        chosen["max_iter"] = FULL_STEPS
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a column of the table
        if told:
            warnings.simplefilter("ignore", DataWarning)
        fit = PLN(**{**settings, **chosen}).fit(Y, **rows)
        if fit.interrupted_:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - began
        scores = fit._marginal
    likely.warn_of(scores.unsure, fit.counts_.row_names, of=f" by {fit.method!r}", stacklevel=4)
    assert scores.khat is not None
    counts = fit.counts_
    return fit, {
        "seconds": seconds,
        "iterations": fit.n_iter_,
        "converged": fit.converged_,
        "bound": fit.elbo_,
        "loglik": float(counts.weights @ scores.value),
        "loglik_se": float(np.linalg.norm(counts.weights * scores.standard_error)),
        "khat": float(np.max(scores.khat)),
        "note": " ".join(fit.result_.messages),
    }


def _apart(fit: PLN, reference: PLN) -> dict[str, float]:
    return {
        "coef_difference": float(np.sqrt(np.mean((fit.coef_ - reference.coef_) ** 2))),
        "covariance_difference": fit.sigma_.distance(reference.sigma_) / reference.sigma_.norm(),
    }


def _table(lines: dict[str, dict[str, Any]]) -> pandas.DataFrame:
    import pandas

    index = pandas.Index(list(lines), name="method")
    return pandas.DataFrame(list(lines.values()), index=index, columns=pandas.Index(COLUMNS))


# `likelihood_ratio`: is the larger of two nested fits better than chance would make it?
#
# Start at `likelihood_ratio`. Regular questions are answered by chi-squared, questions of rank and of variances that
# may be zero by the parametric bootstrap only.


class LikelihoodRatio(NamedTuple):
    """A likelihood-ratio test.

    Attributes:
        statistic: 2 (log p large - log p small), nats.
        se: its Monte-Carlo error.
        df: difference of free parameters.
        p: from chi-squared with `df` degrees of freedom (with parameters at their boundary, see `boundary`: from their
            mixture), or, where there is a bootstrap, the share of its statistics at least as large.
        p_se: what the Monte-Carlo error makes of p.
        bootstrap: statistics of tables drawn from the smaller fit (n_boot,), or None.
        boundary: how many of the `df` parameters are at their boundary under the smaller fit: probabilities of zeros
            and dispersions that are 0 there.
        columns: of two laws with a diagonal Sigma each column's statistic, p and p_adjusted (Benjamini-Hochberg), a
            DataFrame, or None.
    """

    statistic: float
    se: float
    df: int
    p: float
    p_se: float
    bootstrap: np.ndarray | None
    boundary: int = 0
    columns: Any = None


class Side(NamedTuple):
    """One of the two fits: its table, settings with the rank as a number, and what they stand for."""

    counts: Counts
    settings: FitSettings
    recipe: Recipe

    def parameters(self) -> int:
        """Free parameters, of covariates that tell something new."""
        return recipes.parameters(self.recipe, self.counts)


def likelihood_ratio(
    small: PLN,
    large: PLN,
    *,
    n_boot: int = 0,
    draws: int = 1000,
    callback: Callable[[Progress], None] | None = None,
    random_state: int = 0,
) -> LikelihoodRatio:
    """Likelihood-ratio test of the smaller of two nested fits to the same counts, by maximum likelihood.

    statistic = 2 sum_i w_i [log p(y_i; large) - log p(y_i; small)], importance-sampled with paired draws. Under the
    smaller model it tends to chi-squared with df = difference of free parameters where the smaller lies inside the
    larger: fewer covariates, correlations of zero, equal variances, a given Sigma, given axes. Where it lies on the
    boundary (a lower rank) it does not: give `n_boot`; p = (1 + number at least as large) / (1 + n_boot).

    Of two laws (Poisson within zero-inflated Poisson or negative binomial, either within zero-inflated negative
    binomial) the smaller one is that of a probability of zeros, or a dispersion, of 0, the least there is, in each of m
    columns (m = 1 with zero_probability="single"). Then the statistic tends to the mixture sum_k C(m, k) 2^-m
    chi2(df - m + k), of one column 1/2 chi2(0) + 1/2 chi2(1) (Self & Liang 1987, cases 5 and 9). It takes columns'
    estimates of these as independent, which a diagonal Sigma makes true and others nearly; rows as independent; and
    true values of the others that are inside. Two such parameters a column, or a zero_formula, need `n_boot`.

    `se` is the error of the likelihoods' sampling; chance in the fits lowers each log-likelihood by about tol^2 / 2 a
    parameter more: fit both with tol=0.05 where that matters. Cost: n draws p q; with `n_boot`, so many fits of both.

    Args:
        small: the smaller fit, by method="ml" and shrinkage=0.
        large: the larger fit, of the same counts, offsets and weights.
        n_boot: tables drawn from the smaller fit and fitted by both (use 99 or more); 0: chi-squared.
        draws: importance draws a row.
        callback: called after each table of the bootstrap with `poplin.fit.Progress`.
        random_state: the seed of the draws.

    Returns:
        A `LikelihoodRatio`.

    Raises:
        InputError: fits that are not nested, not of the same counts, shrunk, or not by method="ml".
        NotFittedError: one of them is not fitted (scikit-learn's; call fit first).
        KeyboardInterrupt: it was interrupted.

    >>> import numpy as np, poplin
    >>> random = np.random.default_rng(0)
    >>> x = np.column_stack([np.ones(80), random.normal(size=80)])
    >>> counts = random.poisson(np.exp(1 + random.normal(size=(80, 2))))
    >>> fits = [poplin.PLN(covariance="diagonal").fit(counts, X=x[:, :d]) for d in (1, 2)]
    >>> poplin.likelihood_ratio(*fits).df
    2
    """
    sides = _side(small, "small"), _side(large, "large")
    n_boot = recipes.count(n_boot, "n_boot", least=0)
    _check_same_rows(*(side.counts for side in sides))
    lies = nesting(
        *(side.recipe.loadings or side.recipe.shape for side in sides),
        ranks=(sides[0].recipe.rank, sides[1].recipe.rank),
    )
    (one, features), (other, more) = ((side.recipe.law, side.counts.zero_features) for side in sides)
    laws = law_nesting(one, other, features, more)
    _check_nested(lies, laws, sides, n_boot)
    key = derive(recipes.count(random_state, "random_state", least=0), Purpose.LIKELIHOOD).key()
    results = small.result_, large.result_
    columns = _by_columns(sides, results) if laws.boundary else None
    statistic, error = _statistic(sides, results, columns, key, draws)
    df = sides[1].parameters() - sides[0].parameters()
    if n_boot == 0:
        p, slope = _chi_squared(statistic, df, laws.boundary)
        return LikelihoodRatio(statistic, error, df, p, slope * error, None, laws.boundary, columns)
    how = {"n_boot": n_boot, "draws": draws, "seed": random_state, "callback": callback}
    drawn = _bootstrap(small, sides, **how, by_columns=columns is not None)
    p = (1 + int(np.sum(drawn >= statistic))) / (1 + n_boot)
    return LikelihoodRatio(
        statistic, error, df, p, math.sqrt(p * (1 - p) / n_boot), drawn, laws.boundary, columns
    )


def _chi_squared(statistic: float, df: int, boundary: int = 0) -> tuple[float, float]:
    """Upper tail, and the density: how fast the tail changes.

    Of m parameters at their boundary the mixture over k of chi2(df - m + k) with binomial weights, chi2(0) being 0.
    """
    from scipy.stats import binom, chi2

    if df == 0:
        raise InputError("Both fits have as many free parameters: there is nothing to test.")
    inside = np.arange(boundary + 1)
    weight, degrees = binom.pmf(inside, boundary, 0.5), df - boundary + inside
    above = max(statistic, 0.0)
    some = degrees > 0
    tail = weight[some] @ chi2.sf(above, degrees[some])
    return float(tail + (weight[~some].sum() if above == 0 else 0.0)), float(
        weight[some] @ chi2.pdf(max(above, 1e-6), degrees[some])
    )


def _statistic(
    sides: tuple[Side, Side], results: tuple[Any, Any], columns: Any, key: jax.Array, draws: int
) -> tuple[float, float]:
    """Twice the log ratio and its Monte-Carlo error; of columns that are independent their sum, which has none."""
    if columns is not None:
        return float(columns["statistic"].sum()), 0.0
    paired = _compared(sides, results, key, draws)
    likely.warn_of(paired.unsure, sides[0].counts.row_names, of=" under one of the fits", stacklevel=4)
    weights = sides[0].counts.weights
    return 2 * float(weights @ paired.difference), 2 * float(np.linalg.norm(weights * paired.standard_error))


def _by_columns(sides: tuple[Side, Side], results: tuple[Any, Any]) -> pandas.DataFrame | None:
    """Each column's statistic and p, where columns are independent and share nothing; None elsewhere."""
    import pandas

    p = sides[0].counts.y.shape[1]
    alone = all(isinstance(side.recipe.shape, Diagonal) for side in sides)
    if not alone or any(leaf.shape[1] != p for side in sides for leaf in jax.tree.leaves(side.recipe.law)):
        return None
    small, large = (_column_logliks(side.counts, result) for side, result in zip(sides, results, strict=True))
    statistic = 2 * (large - small)
    tails = [_chi_squared(float(value), 1, 1)[0] for value in statistic]
    told = {"statistic": statistic, "p": tails, "p_adjusted": adjusted(np.array(tails))}
    return pandas.DataFrame(told, index=pandas.Index(sides[0].counts.column_names, name="column"))


def _column_logliks(counts: Counts, result: Any) -> np.ndarray:
    """Weighted log-likelihood of each column alone, by quadrature."""
    law = of_cells(result.law, counts.zero_features, len(counts.weights), np.arange(counts.y.shape[1]))
    center, there = counts.offset + counts.x @ result.coef, ~np.isnan(counts.y)
    variance = np.broadcast_to(np.sum(result.loadings**2, axis=1), there.shape)
    found = np.zeros(there.shape)
    found[there] = log_masses(law.over(lambda a: a[there]), counts.y[there], center[there], variance[there])
    return counts.weights @ found


def _side(fit: PLN, name: str) -> Side:
    """A fit as the test needs it; an `InputError` where it is no unshrunk maximum-likelihood fit."""
    if "result_" not in vars(fit):
        raise not_fitted(name, "loglik_")
    settings = recipes.of_fit(fit)
    if not isinstance(settings.method, MaximumLikelihood):
        raise InputError(
            f"{name} was fitted by method={name_of(settings.method)!r}: a ratio of likelihoods needs their maxima. "
            "Fit with method='ml'."
        )
    if fit.shrinkage_weight_ > 0:
        raise InputError(
            f"{name} has a shrunk Sigma (weight {fit.shrinkage_weight_:.3g}). Fit with shrinkage=0."
        )
    with double_precision():
        return Side(fit.counts_, settings, settings.recipe(fit.counts_))


def _check_same_rows(small: Counts, large: Counts) -> None:
    for name, words in (("y", "counts"), ("offset", "offsets"), ("weights", "weights")):
        one, other = getattr(small, name), getattr(large, name)
        if one.shape != other.shape or not np.array_equal(one, other, equal_nan=True):
            raise InputError(f"The two fits have different {words}. Fit both to the same rows and columns.")


def _check_nested(lies: Nesting, laws: LawNesting, sides: tuple[Side, Side], n_boot: int) -> None:
    if laws.lies is Nesting.NONE:
        names = [side.settings.likelihood for side in sides]
        raise InputError(
            f"{names[0]!r} is no special case of {names[1]!r} as the two were fitted (zero_probability, zero_formula): "
            "the fits are not nested. Exchange them, or compare them by poplin.select(likelihoods=...)."
        )
    if laws.lies is Nesting.BOUNDARY and not laws.boundary and n_boot == 0:
        raise InputError(
            "The smaller law is on the boundary of the larger one in two ways at once, or leaves coefficients of zeros "
            "without a meaning: the statistic's law is not known. Give n_boot, for example n_boot=199, or go by one "
            "step (poisson, negative-binomial, zero-inflated-negative-binomial)."
        )
    if lies is Nesting.NONE:
        raise InputError(
            "The smaller model's Sigma is no special case of the larger one's: the fits are not nested. Exchange "
            "them, or compare them by poplin.select."
        )
    if not covariates_within(sides[0].counts.x, sides[1].counts.x):
        raise InputError(
            "The smaller model's covariates are no combinations of the larger one's: the fits are not nested. "
            "Exchange them, or compare them by poplin.select."
        )
    if lies is Nesting.BOUNDARY and n_boot == 0:
        raise InputError(
            "The smaller model lies on the boundary of the larger one (a rank, a variance of zero): the statistic is "
            "not chi-squared. Give n_boot, for example n_boot=199, or compare them by poplin.select."
        )
    weights = sides[0].counts.weights
    if n_boot and not np.all((weights == 0) | (weights == 1)):
        raise InputError(
            "n_boot draws tables from the fit, and weighted rows have no one law. Fit without weights."
        )


def _compared(sides: tuple[Side, Side], results: tuple[Any, Any], key: jax.Array, draws: int) -> Paired:
    with double_precision():
        placed = []
        for (counts, _, _), result in zip(sides, results, strict=True):
            check_dense(counts.y, "The likelihood-ratio test")
            placed.append(Placed(new_block(result, counts), result.coef, result.loadings))
        return paired_loglik(key, placed[0], placed[1], draws=draws)


def _bootstrap(
    fit: PLN,
    sides: tuple[Side, Side],
    *,
    n_boot: int,
    draws: int,
    seed: int,
    callback: Any,
    by_columns: bool,
) -> np.ndarray:
    """Statistics of tables drawn from the smaller fit, missing where the counts are."""
    random, began = derive(seed, Purpose.BOOTSTRAP).generator(), time.perf_counter()
    counts, weights = sides[0].counts, sides[0].counts.weights
    every = np.arange(counts.y.shape[1])
    law = of_cells(fit.result_.law, counts.zero_features, len(weights), every)
    drawn = np.empty(n_boot)
    for b in range(n_boot):
        noise = random.standard_normal((len(weights), fit.result_.loadings.shape[1]))
        position = counts.offset + counts.x @ fit.coef_ + noise @ fit.result_.loadings.T
        y = np.where(np.isnan(counts.y), np.nan, law.sample(random, position, draw_counts))
        again = tuple(side._replace(counts=side.counts._replace(y=y)) for side in sides)
        results = tuple(driver.fitted(side.counts, side.settings, began) for side in again)
        if any(result.interrupted for result in results):
            raise KeyboardInterrupt
        key = derive(seed, Purpose.LIKELIHOOD).key()
        columns = _by_columns(again, results) if by_columns else None  # type: ignore[arg-type]
        drawn[b] = _statistic(again, results, columns, key, draws)[0]  # type: ignore[arg-type]
        if callback is not None:
            callback(Progress("bootstrap", b + 1, n_boot, math.nan, time.perf_counter() - began))
    return drawn
