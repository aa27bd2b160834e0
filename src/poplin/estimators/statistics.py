"""Standard errors, intervals and tests of a fit: the methods that users call.

Start at `AbstractStatistics.confint`. The numbers are made in `uncertainty.py`, once for a fit.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from poplin._errors import InputError
from poplin.data.counts import Counts
from poplin.data.held import is_held_sparse
from poplin.data.sides import Grouping, grouping
from poplin.estimators import standard_errors
from poplin.estimators.standard_errors import NOT_ASKED, Asked, StandardErrors
from poplin.fitting import directions
from poplin.fitting.driver import Result
from poplin.inference.intervals import Interval

if TYPE_CHECKING:
    from pandas import DataFrame


class AbstractStatistics:
    """Standard errors, intervals and tests of a fit.

    Variational fits always get the sandwich of their bound, which does not show its bias, and `method="composite"` the
    sandwich of its pairs. By clusters: the sandwich over the groups, with the CR2 correction and Student's t
    (`inference/sandwich.py`).
    """

    seconds_: float
    result_: Result
    counts_: Counts

    @abstractmethod
    def _asked(self) -> Any:
        """What has been computed for the present fit (`uncertainty.Uncertainty`)."""

    def standard_error_seconds(self) -> float:
        """Seconds that standard errors may take in a summary or a report, where nobody requested them.

        Returns:
            The number given as `fit(standard_errors=...)`; else twice the seconds of the fit, or a minute if that is
            longer.
        """
        told = vars(self).get("_standard_errors", True)
        return directions.usual(self.seconds_) if isinstance(told, bool) else float(told)

    def go_without(self, why: str | None) -> None:
        """Let summary and report go without standard errors, and say why.

        Args:
            why: a sentence for the reader; None: they come again.
        """
        vars(self)["_why_without"] = why

    def _ask(
        self,
        *,
        robust: bool = False,
        information: str = "expected",
        n_boot: int | None = None,
        cluster: Any = None,
    ) -> Asked:
        """What is asked for, checked; where nothing else is, the groups of `clustered`."""
        if cluster is None:
            asked = Asked(robust, information, n_boot)
            return asked._replace(cluster=vars(self).get("_cluster")) if asked == Asked() else asked
        if n_boot is not None or information != "expected":
            raise InputError(standard_errors.ONE_CLUSTER)
        return Asked(cluster=self._grouping(cluster))

    def _grouping(self, cluster: Any) -> Grouping:
        counts = self.counts_
        if is_held_sparse(counts.y):
            raise InputError(standard_errors.SAMPLED_ROWS)
        return grouping(cluster, counts.groups, counts.row_names)

    def clustered(self, cluster: Any) -> Self:
        """The same fit, whose summary, files, report, intervals and tests are by these groups of rows from now on.

        Nothing is fitted again; the fit itself stays as it is.

        Args:
            cluster: name of a column of the fit's `data` (or obs) that groups the rows, or one label a row (n,).

        Returns:
            A copy of the fit that shares its arrays.

        Raises:
            InputError: no column of that name groups the rows, labels are missing or too few (fewer than three groups),
                or the table is too large to be dense.
        """
        other = copy.copy(self)
        vars(other)["_cluster"] = self._grouping(cluster)
        return other

    def standard_errors(
        self,
        *,
        robust: bool = False,
        information: str = "expected",
        n_boot: int | None = None,
        cluster: Any = None,
    ) -> StandardErrors:
        """Standard errors of B, Sigma, its eigenvalues and a borrowed basis's scales, with notes on what to know.

        Cost (expected): two chains of 16 to 72 moves for each of 5000 simulated rows, or 10 for each of K free numbers;
        K^2 memory and K^3 algebra. Above K = 2000 standard errors of B are found a few columns at a time, which a note
        and `coef_information` say; above K = 6000 those of the variances too, and the rest is NaN: cost and memory grow
        with p.

        Args:
            robust: the sandwich of the rows' own scores, which does not trust the model's variances.
            information: "expected" (the default; simulated under the fitted model), "observed" (Louis' identity at the
                data) or "outer" (products of the rows' scores).
            n_boot: fit so many tables drawn from the fit instead (parametric bootstrap); costs as many fits. Its
                intervals take out the method's bias, as estimated at the fitted model.
            cluster: rows that may depend on each other (donors, plates): the name of a column of the fit's `data` (or
                obs), or one label a row. None: rows are independent.

        Returns:
            A `StandardErrors`: arrays of the shapes of the estimates, and notes. A second call costs nothing.

        Raises:
            InputError: the method has no information (give `n_boot`, or fit by "ml"), or two kinds are requested at
                once.
        """
        asked = self._ask(robust=robust, information=information, n_boot=n_boot, cluster=cluster)
        return self._asked().standard_errors(asked)

    def confint(
        self,
        which: str = "coef",
        level: float = 0.95,
        *,
        entries: Any = None,
        robust: bool = False,
        information: str = "expected",
        n_boot: int | None = None,
        cluster: Any = None,
    ) -> DataFrame:
        """Intervals of coefficients, covariances, correlations, eigenvalues or scales.

        Wald intervals: estimate +- z se on the log scale for variances, eigenvalues and scales, on Fisher's z for
        correlations, else as they are. Coefficients of which counts say too little for Wald's quadratic (a level
        without a count of that column, a column seen once; the rule is that of `inference.profile.holds`) have
        "profile" as their method: z is the signed root of the likelihood ratio, p and the ends are those of the profile
        likelihood of the column alone, infinite where it never falls. `robust` rescales that likelihood by what the
        rows' scores say. By clusters, of which that likelihood knows nothing, they are NaN and p is that of a score
        test.

        Args:
            which: "coef" (B), "covariance", "correlation" (entries on and above the diagonal that are estimated),
                "eigenvalues" (descending), "scales" (those of a borrowed basis, in its order), "specific" (variances of
                the columns' own), "zero" (logits of the probabilities of zeros, and these probabilities), or
                "dispersion" (on the log scale). A parameter that is as good as 0 has method "edge" and no interval.
            level: share of tables in which an interval holds the truth, between 0 and 1.
            entries: pairs of columns, by name or position, whose covariance or correlation is wanted; None: all. Above
                6000 free numbers (about 100 columns with a full Sigma) only such lists are answered.
            robust: the sandwich of the rows' own scores, which does not trust the model's variances.
            information: "expected" (the default; simulated under the fitted model), "observed" (Louis' identity at the
                data) or "outer" (products of the rows' scores).
            n_boot: fit so many tables drawn from the fit instead (parametric bootstrap); costs as many fits. Its
                intervals take out the method's bias, as estimated at the fitted model.
            cluster: rows that may depend on each other (donors, plates): the name of a column of the fit's `data` (or
                obs), or one label a row. None: rows are independent.

        Returns:
            A DataFrame with columns estimate, se, z, p, lower, upper, method ("wald", "profile", "score", "bootstrap"),
            and df of Student's t where robust or by clusters; index (covariate, column), (column, column) or axis.

        Raises:
            InputError: an unknown `which`, a level outside (0, 1), nothing of it estimated under this covariance, or a
                method without information (give `n_boot`).
        """
        asked = self._ask(robust=robust, information=information, n_boot=n_boot, cluster=cluster)
        return self._asked().confint(which, level, asked, entries)

    def wald(
        self, hypothesis: Any, *, robust: bool = False, information: str = "expected", cluster: Any = None
    ) -> DataFrame:
        """Wald tests that a term of the formula, or H B with H (r, d), is zero: each column, then all of them.

        statistic = (H b_j)' (H V_j H')^-1 (H b_j), V_j the covariance matrix of b_j's estimate: chi-squared with
        rank(H) degrees of freedom, by clusters or robust with the p-value of Hotelling's F. A column with a coefficient
        that Wald's quadratic does not serve (see `confint`) has the test of `likelihood_ratio` instead, method
        "profile"; all columns together then have that of Simes (1986).

        Args:
            hypothesis: name of a term (all of its coefficients are zero), or H (r, d), one column a covariate.
            robust: the sandwich of the rows' own scores, which does not trust the model's variances.
            information: "expected" (the default; simulated under the fitted model), "observed" (Louis' identity at the
                data) or "outer" (products of the rows' scores).
            cluster: rows that may depend on each other (donors, plates): the name of a column of the fit's `data` (or
                obs), or one label a row. None: rows are independent.

        Returns:
            A DataFrame with columns statistic, df, p, p_adjusted (Benjamini-Hochberg over the columns) and method;
            index the columns, and "all columns" (NaN above 6000 free numbers).

        Raises:
            InputError: no such term, or an H of another shape.
        """
        asked = self._ask(robust=robust, information=information, cluster=cluster)
        return self._asked().wald(hypothesis, asked)

    def likelihood_ratio(self, hypothesis: Any) -> DataFrame:
        """Likelihood-ratio tests that a term of the formula, or H B with H (r, d), is zero, column by column.

        Each column's own likelihood, a Poisson-lognormal regression by quadrature, is maximised with and without the
        term; what other columns would add is left out, so that no draw is needed and columns that a level lacks have a
        test. `poplin.likelihood_ratio` compares two fits of the whole table. Cost: some twenty times the table's cells
        times 11 to 41 exponentials.

        Args:
            hypothesis: name of a term (all of its coefficients are zero), or H (r, d), one column a covariate.

        Returns:
            A DataFrame with columns statistic, df, p, p_adjusted (Benjamini-Hochberg over the columns), method; index
            column.

        Raises:
            InputError: no such term, an H of another shape, counts that are not in memory, or covariates of which one
                is a combination of others.
        """
        return self._asked().likelihood_ratio(hypothesis)

    def coef_interval(self) -> Interval | None:
        """95 % intervals of B as arrays, in the seconds that `fit(standard_errors=...)` allows.

        Where the whole information takes longer, by column blocks, which `coef_notes` say. By clusters they take the
        time that they need.

        Returns:
            An `Interval` of arrays (d, p), or None where there are none (interrupted, too many numbers).
        """
        return None if self._without() else self._asked().coef_interval(self._ask())

    def coef_information(self) -> np.ndarray | None:
        """From what each standard error of `coef_interval` is, in words.

        Returns:
            An array (d, p) of "expected", "expected, by column blocks", ...; None where there are no intervals.
        """
        return None if self.coef_interval() is None else self._asked().coef_information(self._ask())

    def coef_notes(self) -> tuple[str, ...]:
        """What has to be known to read the intervals of `coef_interval`.

        Returns:
            Sentences, none where there is nothing to know.
        """
        why = self._without()
        return (why,) if why else self._asked().coef_notes(self._ask())

    def _without(self) -> str | None:
        """Why there are no standard errors unasked."""
        if vars(self).get("_standard_errors", True) is False:
            return NOT_ASKED
        return vars(self).get("_why_without")
