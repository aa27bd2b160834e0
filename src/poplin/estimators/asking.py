"""What every fitted model can be asked about its uncertainty: the methods that users call.

Start at `AbstractAsked.confint`. The numbers are made in `uncertainty.py`, once for a fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poplin.estimators.uncertainty import Asked, StandardErrors, Uncertainty
from poplin.inference.intervals import Interval

if TYPE_CHECKING:
    from pandas import DataFrame


class AbstractAsked:
    """Standard errors, intervals and tests of a fit.

    `information` says from what: "expected" (the default; simulated under the fitted model), "observed" (Louis'
    identity at the data) or "outer" (products of scores). `robust` gives the sandwich of the last two, which does not
    trust the model's variances. Variational fits always get the sandwich of their bound, which does not show its bias,
    and `method="composite"` the sandwich of its pairs.
    `n_boot` fits so many tables drawn from the fit instead (parametric bootstrap): it takes as many fits, and its
    intervals take out the method's bias as it is seen at the fitted model.
    """

    def _asked(self) -> Uncertainty:
        """What has been computed for the present fit."""
        held = vars(self).get("_uncertainty")
        if held is None or held.result is not vars(self)["result_"]:
            held = Uncertainty(self)
            vars(self)["_uncertainty"] = held
        return held

    def standard_errors(
        self, *, robust: bool = False, information: str = "expected", n_boot: int | None = None
    ) -> StandardErrors:
        """Standard errors of B, Sigma, its eigenvalues and a borrowed basis's scales, with notes on what to know.

        Cost (expected): two chains of 16 to 72 moves for each of 5000 simulated rows, or 10 for each of K free numbers;
        K^2 memory and K^3 algebra.
        Above K = 6000, B and the variances are found a few columns at a time, the rest is NaN: cost and memory grow
        with p.
        """
        return self._asked().standard_errors(Asked(robust, information, n_boot))

    def confint(
        self,
        which: str = "coef",
        level: float = 0.95,
        *,
        entries: Any = None,
        robust: bool = False,
        information: str = "expected",
        n_boot: int | None = None,
    ) -> DataFrame:
        """Intervals of "coef", "covariance", "correlation", "eigenvalues" or "scales".

        Columns estimate, se, z, p, lower, upper; index (covariate, column), (column, column) or axis. "scales" are
        those of a borrowed basis, in its order (eigenvalues are sorted). Variances, eigenvalues and scales are on the
        log scale, correlations on Fisher's z. `entries` lists the pairs of columns, by name or position, whose
        covariance or correlation is wanted; above 6000 free numbers (about 100 columns with a full
        Sigma) only such lists are answered. Raises `InputError` where nothing is estimated.
        """
        return self._asked().confint(which, level, Asked(robust, information, n_boot), entries)

    def wald(self, hypothesis: Any, *, robust: bool = False, information: str = "expected") -> DataFrame:
        """Wald tests that a term of the formula, or H B with H (r, d), is zero: each column, then all of them.

        Columns statistic, df, p, p_adjusted (Benjamini-Hochberg over the columns); the last line, named "all columns",
        tests them jointly (NaN above 6000 free numbers).
        """
        return self._asked().wald(hypothesis, Asked(robust, information))

    def coef_interval(self) -> Interval | None:
        """95 % intervals of B as arrays (d, p), or None where there are none (interrupted, too many numbers)."""
        return self._asked().coef_interval()

    def coef_notes(self) -> tuple[str, ...]:
        """What has to be known to read these intervals."""
        return self._asked().coef_notes()
