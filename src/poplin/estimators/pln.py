"""`PLN`, the Poisson-lognormal model as users meet it: settings, fit, and what a fit can be asked.

Start at `PLN.fit`. The numbers come from `phases.py` (how it is fitted), from below (what is asked of rows) and from
`statistics.py` (standard errors, intervals and tests); here they get names, NumPy arrays and words.
"""

from __future__ import annotations

import time
import warnings
from functools import cached_property, partial
from typing import Any, Self

import jax.numpy as jnp
import numpy as np

from poplin._errors import ConvergenceWarning, DataWarning, InputError, LikelihoodWarning
from poplin._numerics import double_precision
from poplin._random import Purpose, derive
from poplin.data.counts import (
    Coding,
    Counts,
    as_counts,
    as_covariates,
    as_new_rows,
    zeros_like,
    zeros_of_rows,
)
from poplin.data.tables import CountTable
from poplin.estimators import contest, keeping, likely, uncertainty
from poplin.estimators.building import AbstractEstimator
from poplin.estimators.placed_rows import (
    bound,
    bound_frame,
    latent,
    mean_counts,
    new_block,
    position,
    row_scores,
    training_latent,
)
from poplin.estimators.statistics import AbstractStatistics
from poplin.fitting import directions, driver, recipes
from poplin.fitting.driver import Result
from poplin.inference import departures, selection
from poplin.inference.likelihood import RowLikelihood
from poplin.inference.summary import summary
from poplin.laws import AbstractLaw, NegativeBinomial, ZeroInflated, at_rows
from poplin.models.covariance import Covariance
from poplin.models.draws import draw_counts
from poplin.models.loadings import principal_axes
from poplin.sites.plan import SitePlan
from poplin.sites.summaries import SiteSummary, check_site, summarised

TOO_LARGE = (
    "Check that the offset is on the log scale and that X is like that of the fit. If both are, the column varies too "
    "much in the fit (`covariance_`): fit a smaller model (a rank, shrinkage) or leave it out."
)


def attributes(result: Result) -> dict[str, Any]:
    """The fitted attributes that cost nothing more."""
    axes, eigenvalues, _ = principal_axes(result.axes())
    return {
        "coef_": result.coef,
        "loadings_": None if result.rank() is None else axes * np.sqrt(eigenvalues),
        **{"specific_variance_": result.own("specific"), "specific_at_edge_": result.own("edge")},
        "components_": axes,
        "eigenvalues_": eigenvalues,
        "shrinkage_": result.shrinkage,
        "shrinkage_weight_": result.weight,
        "trace_": result.trace,
        "converged_": result.converged,
        "interrupted_": result.interrupted,
        "n_iter_": len(result.trace["iteration"]),
        "messages_": result.messages,
        **(result.extras or {}),
        "law_": result.law,
        **_of_law(result.law),
    } | ({"elbo_": result.objective} if result.objective is not None and not result.weight else {})


def _of_law(law: AbstractLaw) -> dict[str, Any]:
    """The law's own parameters as they are reported."""
    counts, told = law, {}
    if isinstance(law, ZeroInflated):
        counts, told["zero_coef_"] = law.counts, np.asarray(law.logit)
    if isinstance(counts, NegativeBinomial):
        told["dispersion_"] = np.exp(-np.asarray(counts.log_size)[0])
    return told


def not_converged(fit: Any) -> str:
    """What to say, and to do, when the stopping rule did not hold."""
    if fit.interrupted_:
        return f"The fit was interrupted after {fit.n_iter_} iterations; the estimates are those reached by then."
    if fit.result_.broken:
        return fit.result_.broken
    return (
        f"The fit stopped after {fit.n_iter_} iterations before its stopping rule held. Raise max_iter, fit a "
        "smaller model (a rank), or let Sigma be shrunk (shrinkage='auto')."
    )


def row_count(X: Any, offset: Any, data: Any, n: int | None) -> int:
    """How many rows a prediction has: said by X, data, a row-wise offset, or n."""
    told = next((a for a in (X, data, offset) if a is not None and np.ndim(a) > 0), None)
    if told is not None:
        return len(told)
    if n is None:
        raise InputError("predict: nothing says how many rows. Give X, data, an offset for each row, or n.")
    return n


class PLN(AbstractStatistics, AbstractEstimator):
    """Poisson-lognormal model of counts, and models with other laws of theirs, by maximum likelihood or by the bound.

    Y_ij | Z_ij ~ Poisson(exp(o_ij + Z_ij)), Z_i = B'x_i + C w_i, w_i ~ N(0, I_q), Sigma = C C': Y counts, o `offset`,
    x_i a row of `X`, B `coef_`, Sigma `covariance_`, C `loadings_`. `likelihood` puts another law in the place of
    Poisson's, m = exp(o + Z): negative binomial of variance m + a_j m^2; 0 with probability pi, else such a count
    (zero-inflated); or presence, 1 with probability m / (1 + m). Cost of an iteration: n p exponentials and n p q
    products, a handful of times. Source: Aitchison & Ho (1989), Biometrika 76; the bound of Chiquet, Mariadassou &
    Robin (2018), Ann. Appl. Stat. 12.

    Args:
        rank: q from 1 to min(n, p) for a low-rank Sigma = C C'; None: Sigma is p x p; "auto": chosen by held-out
            log-likelihood (see `poplin.select`).
        covariance: "full", "diagonal", "spherical", or a p x p array (Sigma known, only B is fitted).
        basis: V (p, q), orthonormal columns from elsewhere: Sigma = V Lambda V', only Lambda's diagonal is fitted.
        specific: "column" adds diag(psi), variances of the columns' own, to a rank's or a basis's Sigma; or "none".
        method: "ml" (maximum likelihood by stochastic-approximation EM), "variational" (the bound: quicker, biased
            where counts are low), "exact", "mcmc", "moments", "composite", "bbvi", "iwae", "amortised", "smoothed", or
            one of these with options: `poplin.methods.MaximumLikelihood(...)`, `poplin.methods.Exact(...)`.
        posterior: "diagonal" or "full" Gaussian of each row in the bound; under "ml" it serves `elbo_` only.
        shrinkage: weight in [0, 1) of a free Sigma's diagonal: Sigma = (n S + kappa T) / (n + kappa), T the diagonal
            of S, weight kappa / (n + kappa), kappa a prior sample size. "auto": under "ml" left-out rows choose it (it
            vanishes as n grows), under "variational" it is 0. Take 0 for intervals and ratios of the likelihood itself.
        formula: covariates from `data`, such as "~ tree + offset(log(reads))"; it brings its own intercept.
        likelihood: the law of the counts: "poisson", "zero-inflated-poisson", "negative-binomial" (a dispersion of each
            column's own), "zero-inflated-negative-binomial", or "bernoulli" (presence, 1 and 0). Others than "poisson"
            by every method but "moments", "composite", "bbvi" and "iwae".
        zero_probability: whose probability of zeros beyond the counts' own is: of each "column", one for the whole
            table ("single"), or of each "row".
        zero_formula: covariates of those zeros, from `data`, such as "~ site": logit pi_ij = z_i'g_j, of each column
            its own g_j, or one for all with zero_probability="single"; None: pi is the same in all rows.
        n_init: starts of the variational fit (which ml begins from); the best bound is kept. More where seeds disagree.
        max_iter: iterations of the main phase at most. None: 5000 for "ml", 20000 for "variational" and "smoothed",
            2000 for "bbvi" and "iwae", 1000 for "exact" and "composite", 600 for "mcmc", 100 rounds for "amortised".
        tol: tolerance of the main phase. None: 0.2 complete-data standard errors for "ml", 1e-10 of the bound for
            "variational", the method's own elsewhere.
        callback: called between compiled chunks with `poplin.fit.Progress`.
        random_state: the seed; the same seed gives the same numbers on the same machine.
        checkpoint: a file (.npz) of the fit's state so far. Where it exists already, `fit` goes on from it, to
            the numbers of a fit that was never stopped; a file of other data or settings is refused. For every
            method, and `rank="auto"`; one in closed form has nothing to keep.
        checkpoint_every: iterations between two checkpoints (None: 100).

    Attributes:
        coef_: B (d, p), log scale.
        covariance_: Sigma (p, p), log scale; computed when it is first used.
        sigma_: Sigma by its factor: diagonal, trace and blocks without a square of p x p.
        loadings_: C in principal axes (p, q); None without rank and basis.
        components_: orthonormal principal axes of Sigma (p, q), of C C' where psi is added to it.
        eigenvalues_: of the same (q,), descending.
        specific_variance_: psi (p,), variances of the columns' own; None without them.
        specific_at_edge_: which of them (p,) are so small that counts say no more of them; None without them.
        zero_probability_: pi (p,), by rows or a zero_formula (n, p): the probability of a zero whatever the rate; 0
            where the law has none.
        zero_coef_: g (k, p), or (k, 1) where columns share it, on the logit scale; only of zero-inflated laws. Without
            a formula k = 1: the logit of pi; by rows k = n.
        law_: the law of the counts as poplin keeps it (internal).
        dispersion_: a (p,), of variance m + a m^2: 1 / size; only of negative binomial laws.
        latent_mean_: posterior means of the training rows: w in principal axes (n, q), or Z - XB (n, p).
        latent_variance_: posterior variances that go with `latent_mean_`.
        elbo_: the bound, nats, every constant, higher is better.
        loglik_: importance-sampled log-likelihood, nats, weighted sum over rows, every constant, higher is better.
        loglik_se_: its Monte-Carlo standard error, nats.
        n_parameters_: free parameters: of B, of Sigma in its shape, and the law's own.
        aic_: -2 loglik_ + 2 n_parameters_, lower is better.
        bic_: -2 loglik_ + n_parameters_ log(sum of weights), lower is better.
        khat_: Pareto k-hat of each row's importance weights (n,); above 0.7 a row's log-likelihood is not to be
            trusted.
        effective_draws_: effective number of draws of each row (n,).
        variational_: unknowns of the bound, for method="variational".
        shrinkage_: the share by which correlations were pulled in these data (under "variational" the weight).
        shrinkage_weight_: kappa / (n + kappa), less than `shrinkage_` where counts are low.
        trace_: arrays phase, iteration, objective (the bound in nats, or the share of moves accepted) and seconds.
        converged_: whether the stopping rule held.
        interrupted_: whether Ctrl-C ended it.
        n_iter_: iterations of all phases.
        seconds_: that the fit took.
        messages_: what has to be known of the fit, one sentence each.
        selection_: under rank="auto" the table of ranks (DataFrame), else None.
        n_features_in_: p.
        counts_: the checked table, with names.
        result_: the fit as poplin keeps it (internal).

    >>> import numpy as np, poplin
    >>> counts = np.random.default_rng(0).poisson(3.0, (60, 4))
    >>> fit = poplin.PLN(method="variational").fit(counts)
    >>> fit.coef_.shape, fit.covariance_.shape, fit.converged_
    ((1, 4), (4, 4), True)
    """

    coef_: np.ndarray
    loadings_: np.ndarray | None
    specific_variance_: np.ndarray | None
    law_: AbstractLaw
    zero_coef_: np.ndarray
    dispersion_: np.ndarray
    specific_at_edge_: np.ndarray | None
    components_: np.ndarray
    eigenvalues_: np.ndarray
    shrinkage_: float
    shrinkage_weight_: float
    trace_: dict[str, np.ndarray]
    converged_: bool
    interrupted_: bool
    n_iter_: int
    seconds_: float
    messages_: tuple[str, ...]
    counts_: Counts
    selection_: Any
    n_features_in_: int

    def __init__(
        self,
        rank: Any = None,
        covariance: Any = "full",
        basis: Any = None,
        specific: str = recipes.SPECIFIC[0],
        method: Any = "ml",
        posterior: str = "diagonal",
        shrinkage: Any = "auto",
        formula: str | None = None,
        likelihood: str = "poisson",
        zero_probability: str = "column",
        zero_formula: str | None = None,
        n_init: int = 1,
        max_iter: int | None = None,
        tol: float | None = None,
        callback: Any = None,
        random_state: int = 0,
        checkpoint: Any = None,
        checkpoint_every: int | None = None,
    ) -> None:
        self.rank = rank
        self.covariance = covariance
        self.basis = basis
        self.specific = specific
        self.method = method
        self.posterior = posterior
        self.shrinkage = shrinkage
        self.formula = formula
        self.likelihood = likelihood
        self.zero_probability = zero_probability
        self.zero_formula = zero_formula
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.callback = callback
        self.random_state = random_state
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every

    def fit(
        self,
        Y: Any,
        y: Any = None,
        *,
        X: Any = None,
        offset: Any = None,
        weights: Any = None,
        data: Any = None,
        standard_errors: bool | float = True,
    ) -> Self:
        """Fit the model to a table of counts.

        Warns `ConvergenceWarning` if the stopping rule did not hold, `DataWarning` if rows go together within groups of
        a column of `data`. Ctrl-C keeps what there is (`interrupted_`).

        Args:
            Y: counts (n, p): array, list of lists, DataFrame, scipy.sparse, AnnData or a path; NaN is a missing count.
            y: ignored; scikit-learn passes it second.
            X: covariates (n, d), array, DataFrame or a path, used as given (no intercept is added); None: an intercept,
                or the formula's.
            offset: on the log scale, a number, (n,), (n, 1) or (n, p), or the name of one that is computed ("tss",
                "rle", "css", "gmpr", "tmm", "wrench"); None: 0. Adds to offset(...) terms of the formula.
            weights: (n,), how often a row counts; 0 leaves it out. None: 1.
            data: the formula's covariates, a DataFrame or a path, n rows; an AnnData's obs serves as well.
            standard_errors: of the summary and the report, which are computed when they are first looked at. False:
                none; a number: the seconds after which cheaper ones are shown; True: twice the fit's, or a minute if
                that is longer. `confint` and its like always answer, and take as long as it takes.

        Returns:
            The estimator itself, with its fitted attributes.

        Raises:
            InputError: what cannot be fitted, by row and column name, with how to mend it.
        """
        began = time.perf_counter()
        self._standard_errors = directions.checked(standard_errors)
        self.go_without(None)
        given = {"X": X, "offset": offset, "weights": weights, "data": data}
        settings = recipes.checked(self.get_params())
        presence = recipes.largest_count(settings.likelihood) == 1
        counts = as_counts(
            Y, **given, formula=self.formula, zero_formula=self.zero_formula, presence=presence
        )
        if settings.zero_probability == "row":
            counts = zeros_of_rows(counts)
        return self._fit_counts(counts, began)

    def _fit_counts(self, counts: Counts, began: float | None = None) -> Self:
        """`fit` of a table that has been checked."""
        began = time.perf_counter() if began is None else began
        settings = recipes.checked(self.get_params())
        keeper = driver.keeper(counts, settings)
        began -= 0.0 if keeper is None else keeper.spent
        settings, chosen = contest.with_rank(counts, settings, keeper)
        result = driver.fitted(counts, settings, began, keeper=keeper)
        if chosen is not None:
            result = result._replace(messages=(chosen.words, *result.messages))
        scale = np.sum(result.loadings**2, axis=1)
        seed = self.random_state
        depends = (
            None if result.interrupted else departures.words(counts, result.coef, scale, result.law, seed)
        )
        if depends is not None:
            result = result._replace(messages=(*result.messages, depends))
            warnings.warn(depends, DataWarning, stacklevel=3)
        self._take(result, counts)
        if chosen is not None:
            self.selection_ = chosen.table
        self.seconds_ = time.perf_counter() - began
        if not self.converged_:
            warnings.warn(not_converged(self), ConvergenceWarning, stacklevel=3)
        return self

    def _take(self, result: driver.Result, counts: Counts) -> None:
        for name in [n for n, v in vars(type(self)).items() if isinstance(v, cached_property)]:
            vars(self).pop(name, None)
        self.result_ = result
        self.selection_ = None
        self.counts_ = counts
        self.coding_ = Coding(counts.column_names, counts.covariate_names, counts.design, counts.zeros)
        self.n_features_in_ = len(counts.column_names)
        vars(self).update(attributes(result))  # into __dict__: `elbo_` may be among them

    @cached_property
    def zero_probability_(self) -> np.ndarray:
        """Probability of a zero whatever the log rate: (p,), or (n, p) where rows or a formula say so; else 0."""
        law = self.result_.law
        if not isinstance(law, ZeroInflated):
            return np.zeros(self.n_features_in_)
        features = self.counts_.zero_features
        logit = np.asarray(law.logit)[0] if features is None else features @ np.asarray(law.logit)
        like = (self.n_features_in_,) if features is None else (len(features), self.n_features_in_)
        return np.broadcast_to(1 / (1 + np.exp(-logit)), like).copy()

    def _asked(self) -> uncertainty.Uncertainty:
        held = vars(self).get("_uncertainty")
        if held is None or held.result is not self.result_:
            held = uncertainty.Uncertainty(self)
            vars(self)["_uncertainty"] = held
        return held

    @property
    def sigma_(self) -> Covariance:
        """Sigma by its factor: `diag()`, `trace()`, `block(...)` and the like, without a square of p x p."""
        return Covariance(self.result_.loadings)

    @cached_property
    def covariance_(self) -> np.ndarray:
        """Sigma = C C' (p, p), computed when it is first used: with many columns it is the largest part of a fit."""
        return self.sigma_.dense()

    @cached_property
    def latent_mean_(self) -> np.ndarray:
        """Posterior means of the training rows: w in principal axes (n, q), or Z - XB (n, p)."""
        return self._latent[0]

    @cached_property
    def latent_variance_(self) -> np.ndarray:
        """Posterior variances that go with `latent_mean_`."""
        return self._latent[1]

    @cached_property
    def _latent(self) -> tuple[np.ndarray, np.ndarray]:
        with double_precision():
            return training_latent(self.result_, self.counts_)

    @cached_property
    def elbo_(self) -> float:
        """The bound at the fitted parameters with the Gaussian family `posterior`, in nats, all constants."""
        with double_precision():
            return bound(self.result_, self.counts_)

    @cached_property
    def _marginal(self) -> RowLikelihood:
        with double_precision():
            found = row_scores(self.result_, self.counts_, seed=self.random_state, khat=True)
        doubt = likely.doubt(found.unsure, self.counts_.row_names)
        if doubt is not None:
            self.messages_ = (*self.messages_, doubt)
            warnings.warn(doubt, LikelihoodWarning, stacklevel=4)
        return found

    @cached_property
    def loglik_(self) -> float:
        """Importance-sampled log-likelihood (nats, weighted sum); a `LikelihoodWarning` names rows that are unsure."""
        return float(self.counts_.weights @ self._marginal.value)

    @cached_property
    def loglik_se_(self) -> float:
        """Monte-Carlo standard error of `loglik_`."""
        return float(np.linalg.norm(self.counts_.weights * self._marginal.standard_error))

    @cached_property
    def n_parameters_(self) -> int:
        """Free parameters: B, Sigma in its shape, and the law's own; what shrinkage takes away is not taken off."""
        with double_precision():
            return recipes.parameters(recipes.of_fit(self).recipe(self.counts_), self.counts_)

    @property
    def aic_(self) -> float:
        """Akaike's criterion -2 `loglik_` + 2 `n_parameters_`; lower is better."""
        return selection.aic(self.loglik_, self.n_parameters_)

    @property
    def bic_(self) -> float:
        """Schwarz's criterion -2 `loglik_` + `n_parameters_` log n, n the sum of weights; lower is better."""
        return selection.bic(self.loglik_, self.n_parameters_, rows=float(self.counts_.weights.sum()))

    @property
    def khat_(self) -> np.ndarray:
        """Pareto k-hat of each training row's importance weights (n,); above 0.7 a row is not to be trusted."""
        assert self._marginal.khat is not None
        return self._marginal.khat

    @property
    def effective_draws_(self) -> np.ndarray:
        """Effective number of draws of each training row (n,), of 1000, or of 128 to 2048 drawn column by column."""
        return self._marginal.effective_size

    def _scores(self, counts: Counts) -> RowLikelihood:
        with double_precision():
            return row_scores(self.result_, counts, seed=self.random_state)

    def _new_rows(self, Y: Any, **given: Any) -> Counts:
        """Rows that the fit has not seen, checked."""
        counts = as_new_rows(self.coding_, Y, **given)
        driver.check_largest(counts, self.likelihood)
        return counts

    def transform(
        self, Y: Any, *, X: Any = None, offset: Any = None, data: Any = None, return_variance: bool = False
    ) -> Any:
        """Positions of rows, new or old, under the fitted model: as `latent_mean_` (and `latent_variance_`).

        Cost: a Newton fit of each row's Gaussian, some tens of times n p q products.

        Args:
            Y: counts (n, p): array, DataFrame, scipy.sparse, AnnData or a path. Columns are matched by name where both
                have names; NaN is a missing count.
            X: covariates (n, d) as in the fit; None where the fit had an intercept alone, or a formula.
            offset: on the log scale, a number, (n,), (n, 1) or (n, p), or "tss"; None: 0.
            data: the formula's covariates (DataFrame), for a fit with a formula; an AnnData's obs serves as well.
            return_variance: also return the variances.

        Returns:
            Means (n, q) of w in principal axes, or (n, p) of Z - XB; with `return_variance` the pair (means,
            variances).

        Raises:
            InputError: columns or covariates are not those of the fit; the message names them.
        """
        counts = self._new_rows(Y, X=X, offset=offset, data=data)
        with double_precision():
            mean, variance = latent(self.result_, counts)
        return (mean, variance) if return_variance else mean

    def fit_transform(self, Y: Any, y: Any = None, **others: Any) -> np.ndarray:
        """Fit, then the positions of the training rows.

        Args:
            Y: counts (n, p), as in `fit`.
            y: ignored.
            others: arguments of `fit` by name: X, offset, weights, data, standard_errors.

        Returns:
            `latent_mean_`, (n, q) or (n, p).
        """
        return self.fit(Y, y, **others).latent_mean_

    def predict(
        self, X: Any = None, offset: Any = None, *, data: Any = None, n: int | None = None
    ) -> np.ndarray:
        """Marginal mean counts, exp(o + XB + diag(Sigma) / 2) under a Poisson law.

        Args:
            X: covariates (n, d) as in the fit; None where the fit had an intercept alone, or a formula.
            offset: on the log scale, a number, (n,), (n, 1) or (n, p); None: 0.
            data: the formula's covariates (DataFrame), for a fit with a formula.
            n: number of rows, where neither X nor data nor an offset for each row says it.

        Returns:
            Mean counts (n, p).

        Raises:
            InputError: nothing says how many rows, or covariates are not those of the fit.
        """
        rows = row_count(X, offset, data, n)
        x, o = as_covariates(self.coding_, rows, X=X, offset=offset, data=data)
        law = self._law_of_rows(rows, data)
        with double_precision():
            return mean_counts(law, o + x @ self.coef_, self.sigma_.diag())

    def predict_conditional(
        self, Y: Any, *, X: Any = None, offset: Any = None, data: Any = None, latent: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Mean counts of every column given the known ones: NaN entries and absent columns of Y are unknown.

        E[exp(o + Z) | known] = exp(o + m + v / 2) with (m, v) of the row's full Gaussian.

        Args:
            Y: counts (n, p) with NaN where they are unknown; named columns may be absent.
            X: covariates (n, d) as in the fit; None where the fit had an intercept alone, or a formula.
            offset: on the log scale, a number, (n,), (n, 1) or (n, p), or "tss"; None: 0.
            data: the formula's covariates (DataFrame), for a fit with a formula; an AnnData's obs serves as well.
            latent: return m and v instead.

        Returns:
            Mean counts (n, p); with `latent` the pair (m, v) of Z, both (n, p), log scale.

        Raises:
            InputError: columns or covariates are not those of the fit; the message names them.
        """
        counts = self._new_rows(Y, X=X, offset=offset, data=data, partial=True)
        with double_precision():
            mean, variance = position(self.result_, counts)
        if latent:
            return mean, variance
        with double_precision():
            law = new_block(self.result_, counts._replace(y=np.zeros_like(mean))).law
            return mean_counts(law, counts.offset + mean, variance)

    def sample(
        self, n: int, *, X: Any = None, offset: Any = None, data: Any = None, random_state: int = 0
    ) -> np.ndarray:
        """Draw rows of counts from the fitted model.

        Args:
            n: number of rows.
            X: covariates (n, d) as in the fit; None where the fit had an intercept alone, or a formula.
            offset: on the log scale, a number, (n,), (n, 1) or (n, p); None: 0.
            data: the formula's covariates (DataFrame), for a fit with a formula.
            random_state: the seed of the draws.

        Returns:
            Counts (n, p), whole numbers.

        Raises:
            InputError: a rate above 1e15, at which counts are not exact, or covariates that are not those of the
                fit.
        """
        x, o = as_covariates(self.coding_, n, X=X, offset=offset, data=data)
        random = derive(random_state, Purpose.MAIN).generator()
        noise = random.standard_normal((n, self.result_.loadings.shape[1]))
        log_rate = o + x @ self.coef_ + noise @ self.result_.loadings.T
        draw = partial(draw_counts, columns=self.counts_.column_names, mend=TOO_LARGE)
        return self._law_of_rows(n, data).sample(random, log_rate, draw)

    def _law_of_rows(self, n: int, data: Any) -> AbstractLaw:
        """The law with the parameters of the cells of n rows without counts."""
        table = CountTable(np.empty((n, self.n_features_in_)), None, self.coding_.column_names)
        zeros = zeros_like(self.coding_, table, data)
        with double_precision():
            features = None if zeros is None else jnp.asarray(zeros.x)
            return at_rows(self.result_.law, features, jnp.asarray(table.values))

    def score_samples(
        self, Y: Any, *, X: Any = None, offset: Any = None, data: Any = None, return_se: bool = False
    ) -> Any:
        """Importance-sampled log-likelihood of each row.

        A `LikelihoodWarning` names rows whose error may be larger than stated. Cost: 1000 draws a row, n p q products
        each.

        Args:
            Y: counts (n, p): array, DataFrame, scipy.sparse, AnnData or a path. Columns are matched by name where both
                have names; NaN is a missing count.
            X: covariates (n, d) as in the fit; None where the fit had an intercept alone, or a formula.
            offset: on the log scale, a number, (n,), (n, 1) or (n, p), or "tss"; None: 0.
            data: the formula's covariates (DataFrame), for a fit with a formula; an AnnData's obs serves as well.
            return_se: also return the Monte-Carlo standard errors.

        Returns:
            Log-likelihoods (n,), nats, every constant, higher is better; with `return_se` the pair with their errors
            (n,).

        Raises:
            InputError: columns or covariates are not those of the fit; the message names them.
        """
        counts = self._new_rows(Y, X=X, offset=offset, data=data)
        scores = self._scores(counts)
        likely.warn_of(scores.unsure, counts.row_names)
        return (scores.value, scores.standard_error) if return_se else scores.value

    def score(self, Y: Any, y: Any = None, **others: Any) -> float:
        """Mean of `score_samples`: held-out rows compare models by it.

        Args:
            Y: counts (n, p), as in `score_samples`.
            y: ignored.
            others: arguments of `score_samples` by name: X, offset, data.

        Returns:
            Nats a row, higher is better.
        """
        return float(np.mean(self.score_samples(Y, **others)))

    def summary(self, *, cluster: Any = None) -> str:
        """The fit as plain text: the model, what to know, largest effects, axes.

        Args:
            cluster: groups of rows for the standard errors, as in `confint`.

        Returns:
            Lines of text.
        """
        return summary(self if cluster is None else self.clustered(cluster))

    def site_summary(self, plan: SitePlan, *, name: str, round: int = 1) -> SiteSummary:
        """What this fit, of a site of several, tells the others: a quadratic of its log-likelihood, and not a row.

        Cost: the information of 50 000 simulated rows, or of ten for each free number if these are more.

        Args:
            plan: what the sites agreed on; the fit's rank is the plan's, and its columns are codes of the plan.
            name: of the site.
            round: from 2 on the fit's axes are those of the joint model of the round before (`SitePoint.refitted`), and
                the score is told as well.

        Returns:
            The summary; `save` writes the file that leaves.

        Raises:
            InputError: the fit does not follow the plan, is none by maximum likelihood, did not converge, or has a code
                that too few patients have.
        """
        check_site(self, plan)
        return summarised(self, str(name), plan.fingerprint, round=round)

    def save(self, path: Any) -> None:
        """Write the fit, and what new rows need, to one .npz file (no pickle), whole or not at all.

        Args:
            path: the file; `poplin.load` reads it. Training counts, names and covariates are kept in it.

        Raises:
            InputError: the file cannot be written.
        """
        keeping.save(self, path)

    @property
    def variational_(self) -> dict[str, np.ndarray]:
        """The bound's own unknowns, in its own parameterisation: mean, variance, coef, and covariance or loadings."""
        return bound_frame(self.result_)


def load(path: Any) -> PLN:
    """A fitted `PLN` from a file that `PLN.save` wrote; new rows can be embedded and scored at once.

    Raises `InputError` for a file that is foreign, damaged or of a newer format. Costs no fit.
    """
    return keeping.load(PLN, path)
