"""Standard errors and intervals of a fit as users ask for them: names, tables, and what goes with the numbers.

Start at `Uncertainty`, which is made once for a fit and answers `standard_errors` and `confint`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin._precision import double_precision
from poplin.estimators import esteps, recipes
from poplin.estimators.bootstrap import Replicates, basic, replicates
from poplin.estimators.directions import free_directions, sums
from poplin.estimators.tables import coef_index, hypothesis_matrix, table_of
from poplin.inference import intervals
from poplin.inference.information import Information
from poplin.inference.intervals import Interval, Root
from poplin.inference.wald import adjusted, tests_of

if TYPE_CHECKING:
    from pandas import DataFrame

WHICH = ("coef", "covariance", "correlation", "eigenvalues")
KINDS = ("expected", "observed", "outer")
ALL = "all columns"
MOST_NUMBERS = 6_000  # free numbers whose whole information matrix is formed
NOISY = 0.5  # Monte-Carlo error from which the observed information is not used for a sandwich
SHRUNK = (
    "Sigma is shrunk (weight {weight:.3g}): intervals are centred on the shrunk estimate, with the width of the "
    "unshrunk likelihood. Fit with shrinkage=0 for intervals that cover what they say."
)
EDGE = (
    "{count} of {all} variances are within one standard error of 0: their intervals are not to be relied on."
)
STOPPED = "Standard errors were interrupted before they were ready."
LOST = "{count} of {all} standard errors are missing (NaN): the data do not determine them."
BOUND = (
    "These are standard errors about the value that the bound's maximiser tends to. That value is biased, which they "
    "do not show and intervals do not cover. Fit with method='ml' for intervals about the truth."
)
TOO_MANY = (
    "Standard errors of {size} free numbers: at most {most} are possible (about 100 columns with a full Sigma). Fit a "
    "rank, covariance='diagonal', or fewer columns."
)
BREAD = (
    "The observed information could not be told from its Monte-Carlo noise: the sandwich has the expected information "
    "at its outside."
)


class StandardErrors(NamedTuple):
    """Standard errors: coef (d, p), covariance (p, p), eigenvalues (k,), scales of a borrowed basis (q,) or None.

    NaN where the data do not determine one: directions without information, eigenvalues too close to their
    neighbours. What is not estimated (a fixed Sigma, the zeros of a diagonal one) has 0. `notes` say what to know.
    """

    coef: np.ndarray
    covariance: np.ndarray
    eigenvalues: np.ndarray
    scales: np.ndarray | None
    notes: tuple[str, ...]


class Asked(NamedTuple):
    """From what standard errors are asked for: see `AbstractAsked`."""

    robust: bool = False
    information: str = "expected"
    n_boot: int | None = None


class Scale(NamedTuple):
    """The scale of an interval: from a standard error, and where replicates are looked at."""

    interval: Callable[[np.ndarray, np.ndarray, float], Interval]
    there: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


PLAIN = Scale(intervals.plain, np.asarray, np.asarray)
POSITIVE = Scale(intervals.positive, np.log, np.exp)
FISHER = Scale(intervals.fisher, np.arctanh, np.tanh)


class Uncertainty:
    """Answers for one fit; what is expensive is kept."""

    def __init__(self, fit: Any) -> None:
        self.fit, self.result = fit, fit.result_
        with double_precision():
            self.free = free_directions(fit)
        self.basis = self.free.basis
        self.said: set[str] = set()
        self._found: dict[str, Information] = {}
        self._roots: dict[Asked, Root] = {}
        self._errors: dict[tuple[Asked, str], np.ndarray] = {}
        self._replicates: dict[int, Replicates] = {}

    def found(self, kind: str, *, more: bool = False) -> Information:
        """The sums of a kind of information; `more` forgets those and draws more."""
        esteps.check_informed(self.fit.get_params()["method"])
        if self.free.here.size() > MOST_NUMBERS:
            raise InputError(TOO_MANY.format(size=self.free.here.size(), most=MOST_NUMBERS))
        if more or kind not in self._found:
            with double_precision():
                self._found[kind] = sums(kind, self.free, self.fit.get_params(), more=more)
        return self._found[kind]

    def root(self, asked: Asked) -> Root:
        """The root of the estimates' covariance matrix."""
        recipes.one_of(asked.information, KINDS, "information")
        if self.free.rows is not None:  # of a bound, the sandwich is the only one
            asked = Asked(True, "observed")
        if asked not in self._roots:
            self._roots[asked] = self._sandwich() if asked.robust else self._plain(asked.information)
        return self._roots[asked]

    def _plain(self, kind: str) -> Root:
        if kind == "observed":
            return intervals.covariance_root(intervals.observed_information(self.found(kind)))
        root = intervals.product_root(self.found(kind), simulated=kind == "expected")
        if root.lost.size:
            root = intervals.product_root(self.found(kind, more=True), simulated=kind == "expected")
        return root

    def _sandwich(self) -> Root:
        found = self.found("observed")
        bread = self._plain("observed")
        if bread.lost.size or intervals.noise_of(bread, np.asarray(found.observed_gap)) > NOISY:
            bread = self._plain("expected")
            self.said.add(BREAD)
        return intervals.sandwich(bread, found.products)

    def replicates(self, count: int) -> Replicates:
        """The bootstrap's estimates."""
        if count not in self._replicates:
            self._replicates[count] = replicates(self.fit, count)
        return self._replicates[count]

    def errors(self, which: str, asked: Asked) -> np.ndarray:
        """Standard errors of the coefficients, covariances, correlations, eigenvalues or scales."""
        if asked.n_boot is not None:
            return np.std(self.drawn(which, asked.n_boot), axis=0, ddof=1)
        if (asked, which) not in self._errors:
            change = {
                "coef": lambda: intervals.of_coef,
                "covariance": lambda: intervals.of_covariance,
                "correlation": lambda: intervals.of_correlation(self.fit.covariance_),
                "eigenvalues": lambda: intervals.of_axes(self.fit.components_),
                "scales": lambda: intervals.of_axes(self.basis),  # type: ignore[arg-type]
            }[which]()
            with double_precision():
                self._errors[asked, which] = intervals.standard_error(
                    self.free.here, self.root(asked), change
                )
        return self._errors[asked, which]

    def drawn(self, which: str, count: int) -> np.ndarray:
        """The bootstrap's values of the same, (m, ...)."""
        found = self.replicates(count)
        if which == "correlation":
            return np.stack([correlations(sigma) for sigma in found.covariance])
        if which == "scales":
            axes = np.asarray(self.basis)
            return np.einsum("jk,mjl,lk->mk", axes, found.covariance, axes)
        return getattr(found, which)

    def standard_errors(self, asked: Asked) -> StandardErrors:
        """All of them, with notes."""
        coef, covariance = (self.errors(which, asked) for which in ("coef", "covariance"))
        eigenvalues = self.eigenvalue_errors(asked)
        scales = None if self.basis is None else self.errors("scales", asked)
        notes = self.notes(np.concatenate([coef, covariance]))
        edge = np.diag(covariance) > np.diag(self.fit.covariance_)
        if edge.any():
            notes += (EDGE.format(count=int(edge.sum()), all=edge.size),)
        return StandardErrors(coef, covariance, eigenvalues, scales, notes)

    def eigenvalue_errors(self, asked: Asked) -> np.ndarray:
        """NaN where a neighbour is too close for the delta method; axes of a borrowed basis are known and may tie."""
        se = self.errors("eigenvalues", asked)
        if self.basis is not None or asked.n_boot is not None:
            return se
        return np.where(intervals.separated(self.fit.eigenvalues_, se), se, np.nan)

    def notes(self, errors: np.ndarray) -> tuple[str, ...]:
        """What has to be known to read these standard errors."""
        told = sorted(self.said | ({BOUND} if self.free.rows is not None else set()))
        if self.fit.shrinkage_:
            told.append(SHRUNK.format(weight=self.fit.shrinkage_))
        lost = int(np.isnan(errors).sum())
        if lost:
            told.append(LOST.format(count=lost, all=errors.size))
        return tuple(told)

    def confint(self, which: str, level: float, asked: Asked) -> DataFrame:
        """The table of intervals."""
        which = recipes.one_of(which, WHICH, "which")
        if not 0 < level < 1:
            raise InputError(f"level={level!r}: wanted is a share between 0 and 1, such as 0.95.")
        fit = self.fit
        if which == "coef":
            return table_of(self._interval(which, PLAIN, ..., level, asked), coef_index(fit))
        if which == "eigenvalues":
            names = [f"axis{k + 1}" for k in range(len(fit.eigenvalues_))]
            return table_of(self._interval(which, POSITIVE, ..., level, asked), names)
        se = self.errors("covariance", asked)
        j, k = np.nonzero(np.triu(~(se == 0), 1 if which == "correlation" else 0))
        if not len(j):
            raise InputError(f"which={which!r}: nothing of it is estimated under this covariance.")
        names = fit.counts_.column_names
        index = [[names[a] for a in j], [names[b] for b in k]]
        if which == "correlation":
            told = self._interval(which, FISHER, (j, k), level, asked)
        else:
            with np.errstate(invalid="ignore"):  # covariances below 0 have no logarithm, and no need of one
                alone, plain = (self._interval(which, s, (j, k), level, asked) for s in (POSITIVE, PLAIN))
            told = Interval(*(np.where(j == k, a, b) for a, b in zip(alone, plain, strict=True)))
        return table_of(told, index, ("column", "column"))

    def _interval(self, which: str, scale: Scale, at: Any, level: float, asked: Asked) -> Interval:
        """Intervals of the entries `at` of a quantity."""
        fit = self.fit
        estimate = correlations(fit.covariance_) if which == "correlation" else getattr(fit, f"{which}_")
        se = self.eigenvalue_errors(asked) if which == "eigenvalues" else self.errors(which, asked)
        told = scale.interval(estimate[at], se[at], level)
        if asked.n_boot is None:
            return told
        drawn = self.drawn(which, asked.n_boot)[(slice(None), *at) if at is not ... else ...]
        lower, upper = basic(scale.there(estimate[at]), scale.there(drawn), level)
        return told._replace(lower=scale.back(lower), upper=scale.back(upper))

    def wald(self, hypothesis: Any, asked: Asked) -> DataFrame:
        """The table of Wald tests, one line a column and one for all."""
        import pandas

        fit = self.fit
        names = fit.counts_.column_names
        matrix = hypothesis_matrix(hypothesis, fit.counts_.covariate_names)
        with double_precision():
            root = self.root(asked)
            moved = [coef for coef, _ in intervals.deviations(self.free.here, root.spread)]
        told = tests_of(matrix @ fit.coef_, np.einsum("rd,mdp->mrp", matrix, np.concatenate(moved)))
        table = pandas.DataFrame(told._asdict(), pandas.Index([*names, ALL], name="column"))
        return table.assign(p_adjusted=np.append(adjusted(told.p[:-1]), np.nan))

    def coef_interval(self) -> Interval | None:
        """Intervals of B, None where there are none to be had."""
        if self.fit.interrupted_ or STOPPED in self.said:
            return None
        try:
            return intervals.plain(self.fit.coef_, self.errors("coef", Asked()), 0.95)
        except InputError:  # asked for directly, it is raised, with what to do
            return None
        except KeyboardInterrupt:  # the fit is done and is still to be told or written
            self.said.add(STOPPED)
            return None

    def coef_notes(self) -> tuple[str, ...]:
        """What has to be known to read them; why there are none."""
        if self.fit.interrupted_ or STOPPED in self.said:
            return tuple(self.said)
        try:
            return self.notes(self.errors("coef", Asked()))
        except InputError as error:
            return (str(error),)


def correlations(covariance: np.ndarray) -> np.ndarray:
    """Sigma_jk / (s_j s_k)."""
    scale = np.sqrt(np.diag(covariance))
    return covariance / scale / scale[:, None]
