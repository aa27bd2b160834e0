"""Standard errors and intervals of a fit as users ask for them: names, tables, and what goes with the numbers.

Start at `Uncertainty`, which is made once for a fit and answers `standard_errors` and `confint`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from poplin._errors import InputError
from poplin._numerics import double_precision
from poplin.data.tables import listed
from poplin.estimators import standard_errors
from poplin.estimators.intervals import (
    FISHER,
    PLAIN,
    POSITIVE,
    PROFILE,
    SCORE,
    WALD,
    Profiles,
    Replicates,
    Scale,
    basic,
    coef_index,
    entry_index,
    hypothesis_matrix,
    own_table,
    replicates,
    simes,
    table_of,
)
from poplin.estimators.standard_errors import (
    KINDS,
    SIZE,
    STOPPED,
    VIEWED,
    Asked,
    Piecewise,
    Roots,
    StandardErrors,
    parted,
    tests_by_parts,
)
from poplin.fitting import driver, recipes
from poplin.fitting.directions import OverTime, Watch, free_directions
from poplin.inference import intervals
from poplin.inference.coordinates import Coordinates
from poplin.inference.intervals import Interval, Tests, adjusted, tests_of, untold, with_degrees
from poplin.inference.shrinkage import change_of_covariance, force_of_em, penalty_gradient
from poplin.laws import AbstractLaw, named
from poplin.methods.options import Exact
from poplin.models.covariance import SQUARE_UP_TO, Covariance
from poplin.updates.specific import Specific

if TYPE_CHECKING:
    from pandas import DataFrame

WHICH = ("coef", "covariance", "correlation", "eigenvalues", "scales", "specific", "zero", "dispersion")
OWN = {"zero": "logit", "dispersion": "log_size"}  # the law's parameters
LEAST_LOGIT, LEAST_DISPERSION = -8.0, 3e-4  # below which a parameter is as good as 0
MOST_ERROR = 3.0  # standard error of a logit or a log dispersion above which nothing is known of it
BY_AXIS = ("eigenvalues", "scales", "specific")  # told of the whole fit alone
AT_EDGE = "edge"  # method of what is as small as it may be, or might be
ALL = "all columns"
SIMES = "simes"  # how columns are tested together where one of them has no quadratic
NO_RATIO = (
    "likelihood_ratio needs counts in memory and covariates of which none is a combination of the others. Leave out "
    "the covariates that are, or fit a part of the rows that was read before."
)
NOT_POISSON = (
    "likelihood_ratio asks each column's own likelihood of Poisson counts, and this fit has likelihood={likelihood!r}. "
    "Use wald(), or poplin.likelihood_ratio of two fits of the whole table."
)
PLAINLY = Asked()


class Uncertainty:
    """Answers for one fit; what is expensive is kept."""

    def __init__(self, fit: Any) -> None:
        self.fit, self.result = fit, fit.result_
        self.watch = Watch(fit.get_params()["callback"])
        with double_precision():
            self.free = free_directions(fit)
        self.basis = self.free.basis
        self.size = self.free.here.size()
        self.large = self.size > standard_errors.MOST_NUMBERS
        self.pieces = Piecewise(fit, self.free, self.watch)
        self.said: set[str] = set()
        self.roots = Roots(fit, self.free, self.said, self.watch)
        self.profiles = Profiles(fit, bound=self.free.rows is not None or self.roots.of_pairs)
        self._in_time: np.ndarray | None = None
        self._blocks = np.zeros(fit.coef_.shape, bool)  # whose standard errors are those of parts
        self._errors: dict[tuple[Asked, str], np.ndarray] = {}
        self._more: dict[tuple[Asked, str], int] = {}
        self._replicates: dict[int, Replicates] = {}
        self._changes: dict[Asked, np.ndarray] = {}

    def replicates(self, count: int) -> Replicates:
        """The bootstrap's estimates."""
        if count not in self._replicates:
            self._replicates[count] = replicates(self.fit, count)
        return self._replicates[count]

    def errors(self, which: str, asked: Asked) -> np.ndarray:
        """Standard errors of the coefficients, covariances, correlations, eigenvalues or scales."""
        if asked.n_boot is not None:
            return np.std(self.drawn(which, asked.n_boot), axis=0, ddof=1)
        if which in OWN and (self.by_parts(asked) or self._wide(asked)):
            return self._own_by_parts(which)
        if self.by_parts(asked):
            # eigenvalues are computed from the whole alone
            return self._coef_by_parts() if which == "coef" else np.full(self._estimate(which).shape, np.nan)
        if which == "coef" and self._wide(asked):
            return self._coef_by_parts()
        return self._whole(which, asked)

    def _wide(self, asked: Asked) -> bool:
        """Whether B's standard errors come by parts although the whole could be formed.

        With so many numbers, noise in the products of scores widens the whole's as much as parts leave out, and it
        takes ten times as long (`python -m benchmarks.errors`).
        """
        if self.size <= standard_errors.MOST_AT_ONCE or asked != Asked() or self.roots.of_pairs:
            return False
        if not self._divisible():
            return False
        driver.check_informed(self.fit.get_params()["method"])
        self._say_parts()
        return True

    def _divisible(self) -> bool:
        """Whether parts are smaller than the whole table."""
        return self.free.in_parts() and self.fit.sigma_.p > SIZE

    def _whole(self, which: str, asked: Asked) -> np.ndarray:
        """From the information of all columns together, with more draws where these are needed."""
        if (asked, which) not in self._errors:
            more, se = 0, self._of_root(which, asked, 0)
            while (
                np.isnan(se).any()
                and not self._has_spare(which, asked)
                and self.roots.improvable(asked, more)
            ):
                try:
                    more, se = more + 1, self._of_root(which, asked, more + 1)
                except OverTime:  # what fewer draws have told stays
                    self.said.add(standard_errors.FEWER_DRAWS)
                    break
            self._errors[asked, which], self._more[asked, which] = se, more
        return self._filled(which, asked)

    def _of_root(self, which: str, asked: Asked, more: int) -> np.ndarray:
        """From the covariance of all estimates; what is asked for before or after changes nothing."""
        if which == "coef":
            with double_precision():
                told = intervals.tangent_error(
                    self.free.here, self.roots.of(asked, more=more), Coordinates.coef_tangents
                )
            if not self.roots.corrected(asked):
                return told
            return np.where(np.isnan(self.roots.sandwich(asked).degrees.coef), np.nan, told)
        with double_precision():
            root = self.roots.of(asked, more=more)
            if which in OWN:
                told = intervals.tangent_error(self.free.here, root, Coordinates.own_tangents)
                return self._told_own(which, parted(self.result.law, told)[OWN[which]])
            if which in BY_AXIS and isinstance(self.free.shape, Specific):
                return intervals.standard_error(self.free.here, root, self._change_of_parts(which))
            if which in BY_AXIS:
                axes = self.fit.components_ if which == "eigenvalues" else np.asarray(self.basis)
                return intervals.tangent_error(self.free.here, root, Coordinates.axis_tangents, axes)
            sigma, plainly = self.fit.sigma_, which == "covariance"
            change = intervals.of_covariance if plainly else intervals.of_correlation(sigma.dense())
            return intervals.standard_error(self.free.here, root, change)

    def _told_own(self, which: str, errors: np.ndarray) -> np.ndarray:
        """Standard errors of a law's parameter in the shape and on the scale in which it is told."""
        return errors if which == "zero" else errors[0] * self._estimate(which)

    def _own_by_parts(self, which: str) -> np.ndarray:
        """NaN for columns whose parts were not ready in time."""
        errors = np.full(named(self.result.law)[OWN[which]].shape, np.nan)
        self._coef_by_parts()
        for core in self.pieces.ready():
            errors[:, core.columns] = core.own[OWN[which]]
        return self._told_own(which, errors)

    def _change_of_parts(self, which: str) -> intervals.Change:
        """Of psi, of the scales of a basis, or of the eigenvalues of C C', with a change of Sigma; NaN if untold."""
        assert isinstance(self.free.shape, Specific)
        p, axes = self.fit.sigma_.p, self.fit.components_
        seen = jax.tree.map(np.asarray, self.free.shape.seen(self.free.here.model.loadings))
        told = np.where(np.asarray(seen.known()), 1.0, np.nan)

        def change(coef: np.ndarray, sigma: np.ndarray) -> np.ndarray:
            own = np.asarray(seen.numbers(seen.inward @ sigma @ seen.inward.T))
            if which == "eigenvalues":
                return np.einsum("jk,mjl,lk->mk", axes, sigma, axes, optimize=True) - own[:, -p:] @ axes**2
            return (own * told)[:, -p:] if which == "specific" else (own * told)[:, :-p]

        return change

    def degrees(self, which: str, at: Any, asked: Asked) -> np.ndarray | None:
        """Student's degrees of freedom of some entries; None where the normal serves."""
        if asked.n_boot is not None or not self.roots.corrected(asked):
            return None
        found = self.roots.sandwich(asked).degrees
        if which in (*BY_AXIS, *OWN):
            return np.full(self._estimate(which).shape, float(found.axes))
        return found.coef[at] if which == "coef" else getattr(found, which)(*at)

    def _filled(self, which: str, asked: Asked) -> np.ndarray:
        """With what is missing taken from sub-tables: a column's lost direction need not touch all others."""
        se = self._errors[asked, which]
        if not np.isnan(se).any() or not self._has_spare(which, asked):
            return se
        try:
            filled = self.pieces.filled(which, se)
        except OverTime:
            self.said.add(standard_errors.UNFINISHED)
            return se
        if np.isnan(filled).sum() < np.isnan(se).sum():
            self.said.add(standard_errors.FILLED.format(columns=SIZE))
            if which == "coef":
                self._blocks = np.isnan(se) & ~np.isnan(filled)
        return filled

    def _has_spare(self, which: str, asked: Asked) -> bool:
        """Whether sub-tables know of this too: of eigenvalues they do not."""
        return which in WHICH[:3] and asked == Asked() and self.pieces.by_sub_tables

    def by_parts(self, asked: Asked) -> bool:
        """Whether a few columns are looked at at a time; raises InputError where that is not possible."""
        if not self.large or not self.free.in_parts() or asked.n_boot is not None:
            return False
        driver.check_informed(self.fit.get_params()["method"])
        recipes.one_of(asked.information, KINDS, "information")
        if asked.robust or asked.cluster is not None or asked.information != "expected":
            told = {"size": self.size, "most": standard_errors.MOST_NUMBERS, "information": asked.information}
            raise InputError(standard_errors.EXPECTED_ONLY.format(**told))
        self._say_parts()
        return True

    def _say_parts(self) -> None:
        views = self.pieces.by_views
        told = {"size": self.size, "columns": VIEWED if views else SIZE}
        self.said.add((standard_errors.VIEWS if views else standard_errors.SUB_TABLES).format(**told))

    def _coef_by_parts(self) -> np.ndarray:
        """All of B; NaN for columns whose parts were not ready in time."""
        errors = np.full(self.fit.coef_.shape, np.nan)
        try:
            cores = self.pieces.coef()
        except OverTime:
            cores = self.pieces.ready()
            self.said.add(standard_errors.UNFINISHED)
        for core in cores:
            errors[:, core.columns] = core.coef
        self._blocks = ~np.isnan(errors)
        return errors

    def drawn(self, which: str, count: int, at: Any = ...) -> np.ndarray:
        """The bootstrap's values of the same, or of the entries `at`, (m, ...)."""
        found = self.replicates(count)
        if which in ("coef", "eigenvalues", "specific"):
            return np.stack(getattr(found, which))
        if which in OWN:
            return np.stack([_own_estimate(law, which) for law in found.law])
        parts = found.shared if which == "scales" else found.sigma
        return np.stack([self._of_sigma(which, part, at) for part in parts])

    def _of_sigma(self, which: str, sigma: Covariance, at: Any) -> np.ndarray:
        """Covariances or correlations, all or the entries `at`; scales v_k' C C' v_k, in the order of the basis."""
        if which == "scales":
            axes = np.asarray(self.basis)
            return np.einsum("jk,jk->k", axes, sigma.product(axes))
        root = sigma if which == "covariance" else sigma.unit()
        return root.dense() if at is ... else root.entries(*at)

    def standard_errors(self, asked: Asked) -> StandardErrors:
        """All of them, with notes."""
        coef, every = self.errors("coef", asked), np.arange(self.fit.sigma_.p)
        variances = self.errors_at("covariance", (every, every), asked)
        by_groups = asked.cluster is not None
        by_name = self._names_of(coef, asked) if by_groups or self.sandwich(asked) else ()
        if by_groups:
            coef = np.where(self.profiles.decided(coef, sandwich=True).profiled, np.nan, coef)
        if self.sandwich(asked):
            coef = np.where(self.profiles.decided(coef, sandwich=True).no_number, np.nan, coef)
        eigenvalues = self.eigenvalue_errors(asked)
        scales = None if self.basis is None else self.errors("scales", asked)
        specific = None if self.fit.specific_variance_ is None else self.errors("specific", asked)
        covariance, known = None, variances
        if not self.by_parts(asked) and not (self.large and len(every) > SQUARE_UP_TO):
            covariance = known = self.errors("covariance", asked)
        elif len(every) <= SQUARE_UP_TO:
            covariance = np.where(np.eye(len(every), dtype=bool), variances, np.nan)
        notes = self.notes(np.concatenate([coef.ravel(), known.ravel()]), asked) + by_name
        edge = variances > self.fit.sigma_.diag()
        if edge.any():
            notes += (standard_errors.EDGE.format(count=int(edge.sum()), all=edge.size),)
        notes += self._edge_notes()
        notes += tuple(self._own_notes(asked))
        own = {
            which: self._own_errors(which, asked)
            for which, name in OWN.items()
            if name in named(self.result.law)
        }
        return StandardErrors(coef, variances, covariance, eigenvalues, scales, notes, specific, **own)

    def _edge_notes(self) -> tuple[str, ...]:
        """Which variances of the columns' own have no interval."""
        at_edge = self.fit.specific_at_edge_
        if at_edge is None or not at_edge.any():
            return ()
        edge = np.flatnonzero(at_edge)
        names = listed([self.fit.counts_.column_names[j] for j in edge])
        return (standard_errors.OWN_EDGE.format(count=len(edge), all=len(at_edge), names=names),)

    def _own_notes(self, asked: Asked) -> Iterator[str]:
        """Which of the law's parameters have no interval."""
        for which, words in (
            ("zero", standard_errors.ZERO_EDGE),
            ("dispersion", standard_errors.DISPERSION_EDGE),
        ):
            if OWN[which] not in named(self.result.law):
                continue
            edge = self._edge_of(which, asked)
            if edge.any():
                names = np.array(self._own_names(which)[-1], object)[edge.ravel()]
                yield words.format(count=len(names), all=edge.size, names=listed(list(dict.fromkeys(names))))

    def _own_errors(self, which: str, asked: Asked) -> np.ndarray:
        """Those of parameters that have an interval, NaN for the others."""
        return np.where(self._edge_of(which, asked), np.nan, self.errors(which, asked))

    def _edge_of(self, which: str, asked: Asked) -> np.ndarray:
        """Parameters of the law that are as good as 0, or of which nothing is known."""
        estimate, se = self._estimate(which), self.errors(which, asked)
        if asked.n_boot is not None:
            return np.zeros(estimate.shape, bool)
        if which == "dispersion":
            return ~(se < MOST_ERROR * estimate) | (estimate < LEAST_DISPERSION)
        features = self.fit.counts_.zero_features
        features = np.ones((1, 1)) if features is None else features
        low = features @ estimate < LEAST_LOGIT  # of a feature's rows all
        none = np.stack([low[feature != 0].all(axis=0) for feature in features.T])
        return ~(se < MOST_ERROR) | none

    def _own_names(self, which: str) -> list[list[str]]:
        """Of every entry the column, before it the feature of zeros where there are such."""
        columns, zeros = list(self.fit.counts_.column_names), self.fit.counts_.zeros
        shape = named(self.result.law)[OWN[which]].shape
        columns = columns if shape[1] == len(columns) else [ALL]
        if which != "zero" or zeros is None:
            return [columns]
        return [[a for a in zeros.names for _ in columns], [b for _ in zeros.names for b in columns]]

    def sandwich(self, asked: Asked) -> bool:
        """Whether standard errors are from the rows' own scores: of a bound, of pairs, or asked for."""
        return asked.n_boot is None and (asked.robust or self.free.rows is not None or self.roots.of_pairs)

    def eigenvalue_errors(self, asked: Asked) -> np.ndarray:
        """NaN where a neighbour is too close for the delta method; axes of a borrowed basis are known and may tie."""
        se = self.errors("eigenvalues", asked)
        if self.basis is not None or asked.n_boot is not None:
            return se
        return np.where(intervals.separated(self.fit.eigenvalues_, se), se, np.nan)

    def notes(self, errors: np.ndarray, asked: Asked) -> tuple[str, ...]:
        """What has to be known to read these standard errors."""
        bound = self.free.rows is not None
        told = standard_errors.notes(self.fit, self.said, errors, bound=bound, large=self.large)
        if asked.cluster is not None:
            name, count = asked.cluster.name, asked.cluster.count()
            told = (standard_errors.CLUSTERED.format(name=name, count=count), *told)
        if self.roots.corrected(asked):
            alone = np.isnan(self.roots.sandwich(asked).degrees.coef)
            if alone.any():
                told += (standard_errors.ONE_GROUP.format(count=int(alone.sum()), all=alone.size),)
        return told

    def confint(self, which: str, level: float, asked: Asked, entries: Any = None) -> DataFrame:
        """The table of intervals."""
        which = recipes.one_of(which, WHICH, "which")
        if not 0 < level < 1:
            raise InputError(f"level={level!r}: wanted is a share between 0 and 1, such as 0.95.")
        fit = self.fit
        if which == "scales" and self.basis is None:
            raise InputError(standard_errors.NO_BASIS)
        if which == "specific" and fit.specific_variance_ is None:
            raise InputError(standard_errors.NO_OWN)
        if which in OWN and OWN[which] not in named(self.result.law):
            raise InputError(standard_errors.NO_ZERO if which == "zero" else standard_errors.NO_DISPERSION)
        if entries is not None and which in ("coef", *BY_AXIS, *OWN):
            entry_index(entries, fit.counts_.column_names, which)  # says that there are none
        if which == "coef":
            return table_of(self._interval(which, PLAIN, ..., level, asked), coef_index(fit))
        if which in OWN:
            return own_table(
                self._own_interval(which, level, asked), self._own_names(which), zero=which == "zero"
            )
        if which in BY_AXIS:
            if self.by_parts(asked):
                raise InputError(
                    standard_errors.NO_AXES.format(size=self.size, most=standard_errors.MOST_NUMBERS)
                )
            if which == "specific":
                told = self._specific_interval(level, asked)
                return table_of(told, list(fit.counts_.column_names)).rename_axis("column")
            names = [f"axis{k + 1}" for k in range(len(self._estimate(which)))]
            return table_of(self._interval(which, POSITIVE, ..., level, asked), names)
        names = fit.counts_.column_names
        j, k = self._entries(which, asked, entries)
        index = [[names[a] for a in j], [names[b] for b in k]]
        if which == "correlation":
            told = self._interval(which, FISHER, (j, k), level, asked)
        else:
            with np.errstate(invalid="ignore"):  # covariances below 0 have no logarithm, and no need of one
                alone, plain = (self._interval(which, s, (j, k), level, asked) for s in (POSITIVE, PLAIN))
            numbers = ("estimate", "se", "z", "p", "lower", "upper")
            chosen = {name: np.where(j == k, getattr(alone, name), getattr(plain, name)) for name in numbers}
            told = alone._replace(**chosen)  # method and degrees of freedom are those of both
        return table_of(told, index, ("column", "column"))

    def _entries(self, which: str, asked: Asked, entries: Any) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the entries that a table of covariances or correlations has."""
        if entries is not None:
            j, k = entry_index(entries, self.fit.counts_.column_names, which)
            free = ~(self.errors_at("covariance", (j, k), asked) == 0)
        elif self.by_parts(asked):
            told = {"which": which, "size": self.size, "most": standard_errors.MOST_NUMBERS}
            raise InputError(standard_errors.ENTRIES.format(count=self.fit.sigma_.p**2, **told))
        else:
            se = self.errors("covariance", asked)
            j, k = np.nonzero(np.triu(~(se == 0), 1 if which == "correlation" else 0))
            free = np.ones(len(j), bool)
        if not free.any():
            raise InputError(f"which={which!r}: nothing of it is estimated under this covariance.")
        return j, k

    def errors_at(self, which: str, at: Any, asked: Asked) -> np.ndarray:
        """Standard errors of some entries: of a large fit, and of replicates, only these are computed."""
        if which in ("covariance", "correlation") and asked.n_boot is not None:
            return np.std(self.drawn(which, asked.n_boot, at), axis=0, ddof=1)
        if which in ("covariance", "correlation") and self.by_parts(asked):
            return self.pieces.entries(which, *at)
        return (self.eigenvalue_errors(asked) if which == "eigenvalues" else self.errors(which, asked))[at]

    def _estimate(self, which: str, at: Any = ...) -> np.ndarray:
        """The quantity as it is estimated."""
        if which in ("coef", "eigenvalues"):
            return getattr(self.fit, f"{which}_")
        if which == "specific":
            return self.fit.specific_variance_
        if which in OWN:
            return _own_estimate(self.result.law, which)
        shared = Covariance(self.result.axes()) if which == "scales" else self.fit.sigma_
        return self._of_sigma(which, shared, at)

    def _interval(self, which: str, scale: Scale, at: Any, level: float, asked: Asked) -> Interval:
        """Intervals of the entries `at` of a quantity."""
        estimate, se = self._estimate(which, at), self.errors_at(which, at, asked)
        df, shift = self.degrees(which, at, asked), self._shift(which, at, asked)
        told = scale.interval(estimate, se, level, df, shift)
        if asked.n_boot is None:
            return self._replaced(told, se, level, asked) if which == "coef" else told
        drawn = self.drawn(which, asked.n_boot, at)
        lower, upper = basic(scale.there(estimate), scale.there(drawn), level)
        return told._replace(lower=scale.back(lower), upper=scale.back(upper), method="bootstrap")

    def _own_interval(self, which: str, level: float, asked: Asked) -> Interval:
        """Intervals of the law's parameters: of logits as they are, of dispersions on the log scale; none at 0."""
        told = self._interval(which, PLAIN if which == "zero" else POSITIVE, ..., level, asked)
        edge = self._edge_of(which, asked)
        no_test = edge | (which != "zero" or self.fit.counts_.zeros is None)
        parts = {name: np.where(edge, np.nan, getattr(told, name)) for name in ("se", "lower", "upper")}
        tests = {name: np.where(no_test, np.nan, getattr(told, name)) for name in ("z", "p")}
        return told._replace(**parts, **tests, method=np.where(edge, AT_EDGE, told.method))

    def _specific_interval(self, level: float, asked: Asked) -> Interval:
        """Intervals of psi; near the edge, where the log scale says nothing, from 0 to so much above; none at it."""
        told = self._interval("specific", POSITIVE, ..., level, asked)
        if asked.n_boot is not None:
            return told
        near = told.se > told.estimate
        above = self._interval("specific", PLAIN, ..., level, asked).upper
        lower, upper = np.where(near, 0.0, told.lower), np.where(near, above, told.upper)
        method = np.where(near | self.fit.specific_at_edge_, AT_EDGE, told.method)
        return told._replace(lower=lower, upper=upper, method=method)

    def _replaced(self, told: Interval, se: np.ndarray, level: float, asked: Asked) -> Interval:
        """With profile likelihoods where Wald's quadratic does not serve; by clusters, with score tests."""
        if asked.cluster is None:
            how = {"sandwich": self.sandwich(asked), "robust": asked.robust}
            return self.profiles.replaced(told, se, level, **how)
        lost = self.profiles.decided(se, sandwich=True).profiled
        z, p = self.profiles.scored(lost, asked.cluster.codes())
        z, p = np.where(lost, z, told.z), np.where(lost, p, told.p)
        se, lower, upper = (np.where(lost, np.nan, part) for part in (told.se, told.lower, told.upper))
        return Interval(told.estimate, se, z, p, lower, upper, np.where(lost, SCORE, WALD), df=told.df)

    def _names_of(self, se: np.ndarray, asked: Asked) -> tuple[str, ...]:
        """Notes on coefficients that Wald's quadratic does not serve."""
        if asked.n_boot is not None:
            return ()
        if not self.profiles.poisson:
            return (standard_errors.WALD_ONLY.format(likelihood=self.fit.get_params()["likelihood"]),)
        if asked.cluster is None:
            return self.profiles.notes(se, sandwich=self.sandwich(asked))
        lost = self.profiles.decided(se, sandwich=True).profiled
        told = {"count": int(lost.sum()), "all": lost.size}
        return (standard_errors.NO_QUADRATIC.format(**told),) if lost.any() else ()

    def _shift(self, which: str, at: Any, asked: Asked) -> np.ndarray | float:
        """From the estimate to the middle of its interval: where a fit without shrinkage would be."""
        weight = self.fit.shrinkage_weight_
        of_pairs = self.roots.of_pairs or self.free.rows is not None
        if not weight or which not in ("covariance", "correlation") or self.large or of_pairs:
            return 0.0
        if asked.n_boot is not None:
            return 0.0
        # the outside of the sandwich
        asked = Asked(information="observed") if asked.robust or asked.cluster is not None else asked
        if asked not in self._changes:
            rows, sigma = float(np.sum(self.fit.counts_.weights)), self.fit.covariance_
            kappa = weight / (1 - weight) * rows
            exact = isinstance(self.roots.settings.method, Exact)
            force = kappa * penalty_gradient(sigma) if exact else force_of_em(sigma, rows, kappa)
            with double_precision():
                root = self.roots.of(asked)
                self._changes[asked] = change_of_covariance(self.free.here, root, force)
        change = self._changes[asked][None]
        if which == "correlation":
            change = intervals.of_correlation(self.fit.covariance_)(change, change)
        return change[0][at]

    def wald(self, hypothesis: Any, asked: Asked) -> DataFrame:
        """The table of Wald tests, one line a column and one for all."""
        import pandas

        fit = self.fit
        names = fit.counts_.column_names
        matrix = hypothesis_matrix(hypothesis, fit.counts_.covariate_names)
        if self.by_parts(asked):
            told = tests_by_parts(self.pieces, matrix, fit.coef_, untold(len(names)))
        else:
            told = self._tests_of_root(matrix, asked)
            if np.isnan(told.p).any() and self._has_spare("coef", asked):
                told = tests_by_parts(self.pieces, matrix, fit.coef_, told)
        told, method = self._profiled(told, matrix, asked)
        table = pandas.DataFrame(told._asdict(), pandas.Index([*names, ALL], name="column"))
        return table.assign(p_adjusted=np.append(adjusted(told.p[:-1]), np.nan), method=method)

    def _profiled(self, told: Tests, matrix: np.ndarray, asked: Asked) -> tuple[Tests, np.ndarray]:
        """Wald's tests, with those of the likelihood ratio for columns that have a coefficient to be profiled."""
        se = self.errors("coef", asked)
        entries = self.profiles.decided(se, sandwich=self.sandwich(asked)).profiled
        columns = np.flatnonzero(entries[(matrix != 0).any(axis=0)].any(axis=0))
        method = np.full(len(told.p), WALD, object)
        if not len(columns):
            return told, method
        told = Tests(*(each.copy() for each in told))
        if asked.cluster is not None:  # of groups a likelihood of rows knows nothing
            found, way = self.profiles.clustered(matrix, columns, asked.cluster.codes()), SCORE
        else:
            found, way = self.profiles.ratio(matrix, columns), PROFILE
        for whole, part in zip(told, found, strict=True):
            whole[columns] = part
        method[columns] = way
        told.statistic[-1], told.df[-1], told.p[-1] = np.nan, 0, simes(told.p[:-1])
        method[-1] = SIMES
        return told, method

    def likelihood_ratio(self, hypothesis: Any) -> DataFrame:
        """The table of likelihood-ratio tests, one line a column."""
        import pandas

        names = self.fit.counts_.column_names
        matrix = hypothesis_matrix(hypothesis, self.fit.counts_.covariate_names)
        if not self.profiles.poisson:
            raise InputError(NOT_POISSON.format(likelihood=self.fit.get_params()["likelihood"]))
        if not self.profiles.possible:
            raise InputError(NO_RATIO)
        told = self.profiles.ratio(matrix, np.arange(len(names)))
        table = pandas.DataFrame(told._asdict(), pandas.Index(names, name="column"))
        return table.assign(p_adjusted=adjusted(told.p), method=PROFILE)

    def _tests_of_root(self, matrix: np.ndarray, asked: Asked) -> Tests:
        """From the covariance of all estimates; NaN where it has lost a column's coefficients."""
        self._whole("coef", asked)
        known = self._errors[asked, "coef"]
        with double_precision():
            root = self.roots.of(asked, more=self._more[asked, "coef"])
            moved = intervals.coef_deviations(self.free.here, root.spread)
        moved = np.where(np.isnan(known), np.nan, moved)
        told = tests_of(matrix @ self.fit.coef_, np.einsum("rd,mdp->mrp", matrix, moved))
        degrees = self.degrees("coef", ..., asked)
        if degrees is None:
            return told
        least = degrees[np.any(matrix != 0, axis=0)].min(axis=0)
        return with_degrees(told, np.append(least, least.min()))

    def coef_errors(self, asked: Asked = PLAINLY) -> np.ndarray:
        """Those of B as summary and files have them: in the seconds that they may take, or else by a cheaper way.

        By clusters there is no cheaper way, and they were asked for.
        """
        if asked != Asked():
            return self.errors("coef", asked)
        if self._in_time is None:
            self.watch.begin(self.fit.standard_error_seconds())
            try:
                self._in_time = self.errors("coef", Asked())
            except OverTime:
                self._in_time = self._cheaper()
            finally:
                self.watch.end()
        return self._in_time

    def _cheaper(self) -> np.ndarray:
        """The same by parts, in what time is left, at least half of it; NaN where a fit has no parts."""
        seconds = self.fit.standard_error_seconds()
        if not self._divisible():
            self.said.add(standard_errors.OVER_TIME.format(seconds=seconds))
            return np.full(self.fit.coef_.shape, np.nan)
        told = {"seconds": seconds, "columns": VIEWED if self.pieces.by_views else SIZE}
        self.said.add(
            (standard_errors.VIEWS_IN_TIME if self.pieces.by_views else standard_errors.PARTS_IN_TIME).format(
                **told
            )
        )
        self.watch.begin(max(self.watch.left(), 0.5 * seconds))
        return self._coef_by_parts()

    def coef_interval(self, asked: Asked = PLAINLY) -> Interval | None:
        """Intervals of B, None where there are none to be had."""
        if self.fit.interrupted_ or STOPPED in self.said:
            return None
        try:
            se = self.coef_errors(asked)
            told = intervals.plain(self.fit.coef_, se, 0.95, self.degrees("coef", ..., asked))
            return self._replaced(told, se, 0.95, asked)
        except InputError:  # asked for directly, it is raised, with what to do
            return None
        except KeyboardInterrupt:  # the fit is done and is still to be told or written
            self.said.add(STOPPED)
            return None

    def coef_information(self, asked: Asked = PLAINLY) -> np.ndarray:
        """From what each standard error of B is, in words (d, p); empty where there is none."""
        errors = self.coef_errors(asked)
        if asked.cluster is not None:
            return np.where(np.isnan(errors), "", f"sandwich, clusters by {asked.cluster.name}")
        kind = "expected" if self.free.rows is None and not self.roots.of_pairs else "sandwich"
        words = np.where(self._blocks, f"{kind}, by column blocks", kind)
        return np.where(np.isnan(errors), "", words)

    def coef_notes(self, asked: Asked = PLAINLY) -> tuple[str, ...]:
        """What has to be known to read them; why there are none."""
        if self.fit.interrupted_ or STOPPED in self.said:
            return tuple(self.said)
        try:
            errors = self.coef_errors(asked)
            return self.notes(errors, asked) + self._names_of(errors, asked)
        except InputError as error:
            return (str(error),)


def _own_estimate(law: AbstractLaw, which: str) -> np.ndarray:
    """Logits, or dispersions 1 / size."""
    parameter = np.asarray(named(law)[OWN[which]])
    return parameter if which == "zero" else np.exp(-parameter[0])
