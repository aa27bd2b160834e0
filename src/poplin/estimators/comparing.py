"""`likelihood_ratio`: is the larger of two nested fits better than chance would make it?

Start at `likelihood_ratio`. Regular questions are answered by chi-squared, questions of rank and of variances that may
be zero by the parametric bootstrap only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from poplin._errors import InputError
from poplin._precision import double_precision
from poplin._rules import key_of
from poplin.data.blocks import as_block
from poplin.data.counts import Counts
from poplin.data.held import check_dense
from poplin.estimators import doubts, driver, recipes
from poplin.estimators.phases import Recipe
from poplin.estimators.pln import PLN
from poplin.fit import Progress
from poplin.inference.ratio import Nesting, Paired, Placed, covariates_within, nesting, paired_loglik
from poplin.inference.selection import free_parameters


class LikelihoodRatio(NamedTuple):
    """The test: `statistic` 2 (log p large - log p small), its Monte-Carlo error `se`, `df`, and `p` with `p_se`.

    `p` is from chi-squared with `df` degrees of freedom, or, where there is a `bootstrap` (statistics of tables drawn
    from the smaller fit), the share of those at least as large. `p_se`: what the Monte-Carlo error makes of p.
    """

    statistic: float
    se: float
    df: int
    p: float
    p_se: float
    bootstrap: np.ndarray | None


class Side(NamedTuple):
    """One of the two fits: its table, settings with the rank as a number, and what they stand for."""

    counts: Counts
    settings: dict[str, Any]
    recipe: Recipe

    def parameters(self) -> int:
        """Free parameters, of covariates that tell something new."""
        d, p = int(np.linalg.matrix_rank(self.counts.x)), self.counts.y.shape[1]
        return free_parameters(self.recipe.loadings or self.recipe.shape, d=d, p=p, q=self.recipe.rank)


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

    statistic = 2 sum_i w_i [log p(y_i; large) - log p(y_i; small)], importance-sampled with paired draws (`draws` a
    row). Under the smaller model it tends to chi-squared with `df` = difference of free parameters where the smaller
    lies inside the larger: fewer covariates, correlations of zero, equal variances, a given Sigma, given axes. Where it
    lies on the boundary (a lower rank) it does not: give `n_boot` (at least 99), tables drawn from the smaller
    fit and fitted by both, with progress to `callback`; p = (1 + number at least as large) / (1 + n_boot).

    `se` is the error of the likelihoods' sampling; chance in the fits lowers each log-likelihood by about
    tol^2 / 2 a parameter more: fit both with tol=0.05 where that matters. Raises `InputError` for fits that are not
    nested, not of the same counts, shrunk, or not by method="ml"; KeyboardInterrupt if interrupted. Cost: n draws p q;
    with `n_boot`, so many fits of both.

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
    _check_nested(lies, sides, n_boot)
    key = key_of(recipes.count(random_state, "random_state", least=0))
    paired = _compared(sides, (small.result_, large.result_), key, draws)
    doubts.warn_of(paired.unsure, sides[0].counts.row_names, of=" under one of the fits")
    weights = sides[0].counts.weights
    statistic = 2 * float(weights @ paired.difference)
    error = 2 * float(np.linalg.norm(weights * paired.standard_error))
    df = sides[1].parameters() - sides[0].parameters()
    if n_boot == 0:
        p, slope = _chi_squared(statistic, df)
        return LikelihoodRatio(statistic, error, df, p, slope * error, None)
    drawn = _bootstrap(small, sides, n_boot=n_boot, draws=draws, seed=random_state, callback=callback)
    p = (1 + int(np.sum(drawn >= statistic))) / (1 + n_boot)
    return LikelihoodRatio(statistic, error, df, p, math.sqrt(p * (1 - p) / n_boot), drawn)


def _chi_squared(statistic: float, df: int) -> tuple[float, float]:
    """Upper tail, and the density: how fast the tail changes."""
    from scipy.stats import chi2

    if df == 0:
        raise InputError("Both fits have as many free parameters: there is nothing to test.")
    return float(chi2.sf(statistic, df)), float(chi2.pdf(max(statistic, 0.0), df))


def _side(fit: PLN, name: str) -> Side:
    """A fit as the test needs it; an `InputError` where it is no unshrunk maximum-likelihood fit."""
    if not hasattr(fit, "result_"):
        raise InputError(f"{name} is not fitted: call fit first.")
    settings = fit.get_params()
    if settings["method"] != "ml":
        raise InputError(
            f"{name} was fitted by method={settings['method']!r}: a ratio of likelihoods needs their maxima. "
            "Fit with method='ml'."
        )
    if fit.shrinkage_weight_ > 0:
        raise InputError(
            f"{name} has a shrunk Sigma (weight {fit.shrinkage_weight_:.3g}). Fit with shrinkage=0."
        )
    if settings["rank"] is not None:
        settings["rank"] = fit.components_.shape[1]
    settings["callback"] = None
    with double_precision():
        model = recipes.recipe(fit.counts_, **{k: settings[k] for k in ("covariance", "rank", "basis")})
    return Side(fit.counts_, settings, model)


def _check_same_rows(small: Counts, large: Counts) -> None:
    for name, words in (("y", "counts"), ("offset", "offsets"), ("weights", "weights")):
        one, other = getattr(small, name), getattr(large, name)
        if one.shape != other.shape or not np.array_equal(one, other, equal_nan=True):
            raise InputError(f"The two fits have different {words}. Fit both to the same rows and columns.")


def _check_nested(lies: Nesting, sides: tuple[Side, Side], n_boot: int) -> None:
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
            block = as_block(counts.y, counts.x, counts.offset, counts.weights, prior=False)
            placed.append(Placed(block, result.coef, result.loadings))
        return paired_loglik(key, placed[0], placed[1], draws=draws)


def _bootstrap(
    fit: PLN, sides: tuple[Side, Side], *, n_boot: int, draws: int, seed: int, callback: Any
) -> np.ndarray:
    """Statistics of tables drawn from the smaller fit, missing where the counts are."""
    random, began = np.random.default_rng(seed), time.perf_counter()
    counts, weights = sides[0].counts, sides[0].counts.weights
    drawn = np.empty(n_boot)
    for b in range(n_boot):
        noise = random.standard_normal((len(weights), fit.result_.loadings.shape[1]))
        position = counts.offset + counts.x @ fit.coef_ + noise @ fit.result_.loadings.T
        y = np.where(np.isnan(counts.y), np.nan, random.poisson(np.exp(np.minimum(position, 40.0))))
        again = tuple(side._replace(counts=side.counts._replace(y=y)) for side in sides)
        results = tuple(driver.fit(side.counts, side.settings, began) for side in again)
        if any(result.interrupted for result in results):
            raise KeyboardInterrupt
        paired = _compared(again, results, key_of(seed), draws)  # type: ignore[arg-type]
        drawn[b] = 2 * float(weights @ paired.difference)
        if callback is not None:
            callback(Progress("bootstrap", b + 1, n_boot, math.nan, time.perf_counter() - began))
    return drawn
