"""The scales on which intervals are made: plain, logarithmic for variances, Fisher's for correlations.

Start at `Scale`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from scipy.special import expit

from poplin._errors import ConvergenceWarning, DataWarning, InputError
from poplin._random import Purpose, derive
from poplin.data import held
from poplin.data.blocks import NO_EXPOSURE, as_block
from poplin.data.held import check_dense
from poplin.data.tables import listed
from poplin.fit import Progress
from poplin.inference import intervals, profile
from poplin.inference.intervals import Interval, Tests, adjusted, rows_of_term
from poplin.inference.profile import Climbed, Columns, curved, maximise, pieces
from poplin.inference.summary import OF_A_RUN
from poplin.laws import AbstractLaw
from poplin.models.covariance import Covariance
from poplin.models.draws import draw_counts


class Scale(NamedTuple):
    """The scale of an interval: from a standard error and a shift, and where replicates are looked at."""

    interval: Callable[..., Interval]
    there: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


PLAIN = Scale(intervals.plain, np.asarray, np.asarray)
POSITIVE = Scale(intervals.positive, np.log, np.exp)
FISHER = Scale(intervals.fisher, np.arctanh, np.tanh)


# Named tables of what was computed, and hypotheses from what users write.
#
# Start at `table_of`.


if TYPE_CHECKING:
    from pandas import DataFrame


def hypothesis_matrix(hypothesis: Any, covariates: tuple[str, ...]) -> np.ndarray:
    """H (r, d) from a term's name or a matrix."""
    if isinstance(hypothesis, str):
        rows = rows_of_term(hypothesis, covariates)
        if not rows:
            raise InputError(
                f"wald({hypothesis!r}): no such term; the covariates are {', '.join(covariates)}."
            )
        return np.eye(len(covariates))[rows]
    matrix = np.atleast_2d(np.asarray(hypothesis, dtype=float))
    if matrix.ndim != 2 or matrix.shape[1] != len(covariates) or not np.isfinite(matrix).all():
        raise InputError(
            f"wald: the hypothesis has shape {matrix.shape}; wanted is a term's name, or a matrix with one column for "
            f"each covariate ({', '.join(covariates)})."
        )
    return matrix


def entry_index(entries: Any, names: Sequence[str], which: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions (j, k) of pairs of columns, given by name or position."""
    if which in ("coef", "eigenvalues", "scales", "specific"):
        raise InputError(f"entries= belongs to which='covariance' or 'correlation', not to {which!r}.")
    place = {name: j for j, name in enumerate(names)}
    found = []
    for pair in entries:
        told = tuple(pair) if isinstance(pair, Sequence | np.ndarray) and not isinstance(pair, str) else ()
        at = [
            place.get(one, -1) if isinstance(one, str) else int(one) if isinstance(one, Integral) else -1
            for one in told
        ]
        if len(at) != 2 or not all(0 <= j < len(names) for j in at):
            raise InputError(
                f"entries: {pair!r} is no pair of columns; wanted are two names, or two positions from 0 to "
                f"{len(names) - 1}."
            )
        if which == "correlation" and at[0] == at[1]:
            raise InputError(f"entries: {pair!r} is one column; a correlation is between two.")
        found.append(at)
    if not found:
        raise InputError("entries is empty; wanted is a list of pairs of columns.")
    return np.array(found)[:, 0], np.array(found)[:, 1]


def coef_index(fit: Any) -> list[list[str]]:
    """Covariate and column of every coefficient."""
    covariates, columns = fit.counts_.covariate_names, fit.counts_.column_names
    return [[a for a in covariates for _ in columns], [b for _ in covariates for b in columns]]


def table_of(told: Interval, index: Any, names: tuple[str, str] = ("covariate", "column")) -> DataFrame:
    """Intervals as a DataFrame, under single names or pairs of them; `df` where they are of Student's t."""
    import pandas

    shape = np.shape(told.estimate)
    columns = {
        name: np.ravel(np.broadcast_to(values, shape))
        for name, values in told._asdict().items()
        if values is not None
    }
    rows = pandas.Index(index, name="axis") if isinstance(index[0], str) else None
    return pandas.DataFrame(
        columns, pandas.MultiIndex.from_arrays(index, names=names) if rows is None else rows
    )


def own_table(told: Interval, index: list[list[str]], *, zero: bool) -> DataFrame:
    """Of a law's parameters, under columns or (feature, column); logits of probabilities with these beside them."""
    features = len(index) > 1
    table = table_of(told, index if features else index[0], ("feature", "column"))
    table = table if features else table.rename_axis("column")
    if not zero or features:
        return table
    ends = {name: expit(table[name]) for name in ("estimate", "lower", "upper")}
    return table.assign(**{f"probability_{name}".replace("_estimate", ""): a for name, a in ends.items()})


# The parametric bootstrap: tables drawn from the fitted model, fitted as it was, and what their spread says.
#
# Start at `replicates`. It also shows, to first order, how far a method is from its own truth: the mean of the
# replicates less the estimate is the method's bias at the fitted model, and `basic` intervals take it out.


MOST_SEED = 2**31


class Replicates(NamedTuple):
    """Estimates of each bootstrap table: B (d, p), Sigma, eigenvalues (k,), what columns share, psi (p,), its law."""

    coef: tuple[np.ndarray, ...]
    sigma: tuple[Covariance, ...]
    eigenvalues: tuple[np.ndarray, ...]
    shared: tuple[Covariance, ...]
    specific: tuple[np.ndarray | None, ...]
    law: tuple[AbstractLaw, ...]


def replicates(fit: Any, count: int) -> Replicates:
    """Fit `count` tables drawn from the fit, at its covariates, offsets, weights and missing counts.

    The callback is told of each. Cost: so many fits, compiled once. Raises KeyboardInterrupt on Ctrl-C.
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 2:
        raise InputError(f"n_boot={count!r}: wanted is a whole number, 2 or more (200 for standard errors).")
    check_dense(fit.counts_.y, "The bootstrap (n_boot)")
    settings, began, found = fit.get_params(), time.perf_counter(), []
    tell = settings["callback"]
    settings |= dict.fromkeys(OF_A_RUN) | {"formula": None, "rank": _rank(fit)}
    for r in range(count):
        random = derive(fit.random_state, Purpose.BOOTSTRAP, r).generator()
        one = _refit(fit, settings | {"random_state": int(random.integers(MOST_SEED))}, random)
        shared = Covariance(one.result_.axes())
        own = one.specific_variance_, one.result_.law
        found.append((one.coef_, one.sigma_, one.eigenvalues_, shared, *own))
        if tell is not None:
            tell(Progress("bootstrap", r + 1, count, float("nan"), time.perf_counter() - began))
    return Replicates(*zip(*found, strict=True))


def _rank(fit: Any) -> int | None:
    given = fit.get_params()["rank"]
    return given if given != "auto" else fit.result_.rank()


def _refit(fit: Any, settings: dict[str, Any], random: np.random.Generator) -> Any:
    counts, loadings = fit.counts_, fit.result_.loadings
    latent = counts.x @ fit.coef_ + random.standard_normal((len(counts.y), loadings.shape[1])) @ loadings.T
    like = as_block(counts.y, counts.x, counts.offset, counts.weights, zero_features=counts.zero_features)
    law = jax.tree.map(np.asarray, like.under(fit.result_.law).law)
    drawn = np.asarray(law.sample(random, counts.offset + latent, draw_counts)).astype(float)
    features, covariates = counts.zeros, {"X": counts.x}
    if features is not None and features.design is not None:  # the columns that both formulas have made
        parts = {"formula": counts.x, "zero_formula": features.x}
        made = {name: {f"{name}{k}": a for k, a in enumerate(x.T)} for name, x in parts.items()}
        settings = settings | {name: " + ".join(["0", *columns]) for name, columns in made.items()}
        covariates = {"data": made["formula"] | made["zero_formula"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        one = type(fit)(**settings).fit(
            np.where(np.isnan(counts.y), np.nan, drawn),
            **covariates,
            offset=counts.offset,
            weights=counts.weights,
        )
    if one.interrupted_:
        raise KeyboardInterrupt
    return one


def basic(estimate: np.ndarray, found: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Basic bootstrap interval from 2 t - q(upper) to 2 t - q(lower): t the estimate, q the replicates (m, ...)."""
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return 2 * estimate - high, 2 * estimate - low


# Which coefficients of a fit Wald's quadratic does not serve, and what their profile likelihoods say instead.
#
# Start at `Profiles.replaced`. The rule and the formulas are in `inference/profile.py`; here they meet a fit: its
# table, its estimates, its standard errors, and the names in the notes.


WALD, PROFILE, SCORE = "wald", "profile", "score"
MOST_CELLS = 1_000_000  # cells of all entries that are profiled: about a minute
NO_NUMBER = 0.5  # of a column's own standard error, below which a sandwich's is none
FLAT = 20.0  # own standard error, in root mean square log rates, from which the likelihood has no maximum
SURE = 0.7  # the same where an approximation stands in
FEW_ROWS = (
    20  # that a sandwich of a bound or of pairs has to rest on: (sum v^2)^2 / sum v^4 of the rows' shares v
)
LEVEL = 0.95  # at which it is looked whether a profile ever falls
PROFILED = (
    "{count} of {all} coefficients have their interval and p-value from the profile likelihood of their own column "
    "(method 'profile'), for counts say too little of them for Wald's quadratic: {names}."
)
NEVER = (
    "{count} of them the likelihood sends to infinity (no count on one side of a contrast): the interval is open "
    "there, the estimate is where a weak prior holds it: {names}."
)
NO_SANDWICH = (
    "{count} standard errors are no number (NaN): the sandwich is below half of what the column's own likelihood "
    "says, or that has no maximum, as where a level has one row or a column no count: {names}."
)
RESTS = (
    "Sandwiches of {names} would rest on fewer than {rows} rows, and be too small; these coefficients have profile "
    "likelihoods."
)
TOO_LARGE = (
    "{count} of {all} coefficients may need a profile likelihood, more than is computed for {rows} rows: {left} of "
    "them, those that counts say most of, have Wald's intervals, which may be wrong."
)


FOREIGN = (
    "{count} columns tell by themselves another level or variance than the rank allows them: a higher rank may fit "
    "them. Their coefficients have Wald's intervals, which take the rank as right: {names}."
)


class Decided(NamedTuple):
    """Which entries (d, p) are profiled, which sandwiches are no number, and how many were left out.

    foreign (p,): columns that would be profiled, and are not those of this model by themselves (`_foreign`).
    """

    profiled: np.ndarray
    no_number: np.ndarray
    left: int
    foreign: np.ndarray


class Profiles:
    """Answers for one fit; columns' own fits, tests and ends are kept."""

    def __init__(self, fit: Any, *, bound: bool) -> None:
        """`bound`: standard errors are the uncorrected sandwich of a bound or of pairs."""
        self.fit, self.counts = fit, fit.counts_
        used = self.counts.weights > 0
        self.rows, self.weights = np.flatnonzero(used), self.counts.weights[used]
        self.x = self.counts.x[used]
        self.poisson = fit.result_.law.exponential()
        self.possible = (
            self.poisson
            and not held.is_on_disk(self.counts.y)
            and np.linalg.matrix_rank(self.x) == self.x.shape[1]
        )
        d, p = fit.coef_.shape
        covariance = fit.get_params().get("covariance")
        self.free = np.append(np.ones(d, bool), isinstance(covariance, str))  # a Sigma that is given is known
        self.coef, self.log_scale, self.value = (
            np.full((d, p), np.nan),
            np.full(p, np.nan),
            np.full(p, np.nan),
        )
        self._fitted, self._done = np.zeros(p, bool), np.zeros(p, bool)
        self._statistic, self._share = np.full((d, p), np.nan), np.full((d, p), np.nan)
        self._ends: dict[float, tuple[np.ndarray, np.ndarray]] = {}
        self._decided: dict[bytes, Decided] = {}
        self._screen: tuple[np.ndarray, np.ndarray] | None = None
        if self.possible:
            self.into = profile.standardised(self.x, self.weights)
            shares = (
                self.x @ self.into @ self.into.T
            )  # the rows' shares in each coefficient, but for a factor
            rests = (self.weights @ shares**2) ** 2 / (self.weights @ shares**4)
            self.few = (rests < FEW_ROWS) & bound

    def decided(self, se: np.ndarray, *, sandwich: bool) -> Decided:
        """The rule, for standard errors (d, p) of the coefficients."""
        key = np.ascontiguousarray(se).tobytes() + bytes([sandwich])
        if key not in self._decided:
            self._decided[key] = self._decide(se, sandwich)
        return self._decided[key]

    def _decide(self, se: np.ndarray, sandwich: bool) -> Decided:
        nothing = np.zeros(se.shape, bool)
        if not self.possible:
            return Decided(nothing, nothing, 0, nothing[0])
        likely, rough = self._screened()
        doubtful = ~likely | (sandwich & (se < SURE * rough)) | self.few[:, None]
        suspects = doubtful | ~np.isfinite(se)
        most, left = MOST_CELLS // len(self.rows), 0
        if suspects.sum() > most:  # first those that Wald cannot serve, and of which counts say least
            left = int(suspects.sum()) - most
            rank = np.where(suspects, -rough / rough.max(), np.inf) - doubtful
            order = np.argsort(rank, axis=None, kind="stable")
            suspects = np.isin(np.arange(se.size), order[:most]).reshape(se.shape)
        self._fit_columns(np.flatnonzero(suspects.any(axis=0)))
        profiled, no_number, apart = nothing.copy(), nothing.copy(), nothing[0].copy()
        for part in pieces(se.shape[1], len(self.rows)):
            part = part[suspects[:, part].any(axis=0) & self._done[part]]
            columns, at = self._columns(part, self.x @ self.into), self._at(part, np.linalg.inv(self.into))
            hessian = curved(columns, at.numbers).hessian
            if not self.free[-1]:
                hessian[:, -1, :] = hessian[:, :, -1] = 0
                hessian[:, -1, -1] = -1
            foreign = self._foreign(part, columns, at)
            for k in range(len(se)):
                some = suspects[k, part].nonzero()[0]
                mine = Climbed(*(a[some] for a in at))
                good, own = profile.holds(columns.at(some), mine, hessian[some], self.into[k])
                j = part[some]
                flat = own > FLAT * np.linalg.norm(self.into[k])
                no_number[k, j] = sandwich & ((se[k, j] < NO_NUMBER * own) | flat)
                profiled[k, j] = ~good | ~np.isfinite(se[k, j]) | no_number[k, j] | self.few[k]
                apart[j] |= profiled[k, j] & foreign[some]
                profiled[k, j] &= ~foreign[some]
        return Decided(profiled, no_number, left, apart)

    def _foreign(self, part: np.ndarray, columns: Columns, at: Climbed) -> np.ndarray:
        """Columns whose own likelihood rejects what the fit says of them: theirs is no profile of this model.

        A low rank may hold a column's variance far below its own; its level then belongs to that variance.
        """
        from scipy.stats import chi2

        if self.fit.result_.direct:  # the column's level and scale are free in the fit as they are alone
            return np.zeros(len(part), bool)
        scale = 0.5 * np.log(np.maximum(self.fit.sigma_.diag()[part], 1e-8))
        said = np.column_stack([(np.linalg.inv(self.into) @ self.fit.coef_[:, part]).T, scale])
        apart = 2 * (at.value - curved(columns, said).value)
        return apart > chi2.ppf(LEVEL, said.shape[1])

    def replaced(
        self, told: Interval, se: np.ndarray, level: float, *, sandwich: bool, robust: bool
    ) -> Interval:
        """Wald's intervals of B (d, p), with those of the profile likelihood where the rule says so."""
        decided = self.decided(se, sandwich=sandwich)
        method = np.where(decided.profiled, PROFILE, WALD).astype(object)
        statistic, share, one_sided = self.statistics(decided.profiled)
        share = share if robust else np.ones_like(share)
        p = profile.p_value(statistic * share, 1, one_sided)
        z = np.sign(self.coef) * np.sqrt(statistic * share)
        lower, upper = self.ends(decided.profiled, level, share)
        found = decided.profiled & np.isfinite(p)
        z, p, lower, upper = (
            np.where(found, new, old)
            for new, old in zip((z, p, lower, upper), (told.z, told.p, told.lower, told.upper), strict=True)
        )
        method[decided.profiled & ~found] = WALD
        return Interval(
            told.estimate, np.where(decided.no_number, np.nan, told.se), z, p, lower, upper, method, told.df
        )

    def statistics(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the entries `which` (d, p): the ratio's statistic, its share (`Ratio`), and whether a side is open."""
        lower, upper = self.ends(which, LEVEL, np.ones(which.shape))
        return self._statistic, self._share, np.isinf(lower) ^ np.isinf(upper)

    def ends(self, which: np.ndarray, level: float, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends (d, p) of the profiled intervals of the entries `which`; NaN elsewhere."""
        plain = bool(np.all(share[which & np.isfinite(share)] == 1)) if which.any() else True
        kept = self._ends.get(level) if plain else None
        lower, upper = kept or (np.full(which.shape, np.nan), np.full(which.shape, np.nan))
        for k in range(len(which)):
            todo = np.flatnonzero(which[k] & np.isnan(lower[k]))
            if not len(todo):
                continue
            turned = profile.turned(self.x, self.weights, np.eye(len(which))[[k]])
            for part in pieces(len(todo), len(self.rows)):
                j = todo[part]
                columns, at = self._columns(j, turned.design), self._at(j, np.linalg.inv(turned.back))
                new = np.isnan(self._statistic[k, j])
                if new.any():
                    found = profile.ratio(columns, at, self.free, 1)
                    self._statistic[k, j], self._share[k, j] = found
                told = profile.ends(columns, at, self.free, level, share[k, j])
                both = np.sort(turned.out * np.stack(told), axis=0)
                lower[k, j], upper[k, j] = both
        if plain:
            self._ends[level] = lower, upper
        return lower, upper

    def ratio(self, matrix: np.ndarray, columns: np.ndarray) -> Tests:
        """Likelihood-ratio tests of H B = 0 of these columns, from each column's own likelihood."""
        self._fit_columns(columns)
        turned = profile.turned(self.x, self.weights, matrix)
        statistic, one_sided = np.full(len(columns), np.nan), np.zeros(len(columns), bool)
        back = np.linalg.inv(turned.back)
        for part in pieces(len(columns), len(self.rows)):
            part = part[self._done[columns[part]]]
            mine, at = self._columns(columns[part], turned.design), self._at(columns[part], back)
            statistic[part] = profile.ratio(mine, at, self.free, turned.rank).statistic
            if turned.rank == 1:
                told = profile.ends(mine, at, self.free, LEVEL, np.ones(len(part)))
                one_sided[part] = np.isinf(told.lower) ^ np.isinf(told.upper)
        p = profile.p_value(statistic, turned.rank, one_sided)
        return Tests(statistic, np.full(len(columns), turned.rank), p)

    def scored(self, which: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed roots and p-values (d, p) of score tests by clusters of rows, of the entries `which`."""
        z, p = np.full(which.shape, np.nan), np.full(which.shape, np.nan)
        for k in np.flatnonzero(which.any(axis=1)):
            j = np.flatnonzero(which[k])
            told = self.clustered(np.eye(len(which))[[k]], j, codes)
            z[k, j], p[k, j] = np.sign(self.coef[k, j]) * np.sqrt(told.statistic), told.p
        return z, p

    def clustered(self, matrix: np.ndarray, columns: np.ndarray, codes: np.ndarray) -> Tests:
        """Score tests by clusters of rows that H B = 0 of these columns."""
        self._fit_columns(columns)
        turned = profile.turned(self.x, self.weights, matrix)
        _, codes = np.unique(codes[self.rows], return_inverse=True)
        statistic, back = np.full(len(columns), np.nan), np.linalg.inv(turned.back)
        for part in pieces(len(columns), len(self.rows)):
            part = part[self._done[columns[part]]]
            mine, at = self._columns(columns[part], turned.design), self._at(columns[part], back)
            statistic[part] = profile.clustered_score(mine, at, self.free, turned.rank, codes)[1]
        p = profile.clustered_p_value(statistic, turned.rank, int(codes.max()) + 1)
        return Tests(statistic, np.full(len(columns), turned.rank), p)

    def notes(self, se: np.ndarray, *, sandwich: bool) -> tuple[str, ...]:
        """What the rule has done, by name."""
        decided = self.decided(se, sandwich=sandwich)
        profiled, no_number, left, foreign = decided
        columns = np.array(self.counts.column_names, object)[foreign]
        apart = [FOREIGN.format(count=len(columns), names=listed(columns))] if len(columns) else []
        if not profiled.any():
            return tuple(apart)
        lower, upper = self.ends(profiled, LEVEL, np.ones(profiled.shape))
        open_ = np.isinf(lower) | np.isinf(upper)
        told = [
            *apart,
            PROFILED.format(count=int(profiled.sum()), all=profiled.size, names=self._names(profiled)),
        ]
        if open_.any():
            told.append(NEVER.format(count=int(open_.sum()), names=self._names(open_)))
        if self.few.any():
            few = listed(np.array(self.counts.covariate_names, object)[self.few])
            told.append(RESTS.format(names=few, rows=FEW_ROWS))
        if no_number.any():
            told.append(NO_SANDWICH.format(count=int(no_number.sum()), names=self._names(no_number)))
        if left:
            count = int(profiled.sum()) + left
            told.append(TOO_LARGE.format(count=count, all=profiled.size, rows=len(self.rows), left=left))
        return tuple(told)

    def _names(self, which: np.ndarray) -> str:
        covariates, columns = self.counts.covariate_names, self.counts.column_names
        return listed([f"{covariates[k]}: {columns[j]}" for k, j in np.argwhere(which)])

    def _dense(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Counts and offsets (m, n) of these columns; a missing count is a count without exposure."""
        some = held.in_columns(self.counts.y, columns)
        y = np.asarray(
            some[self.rows] if isinstance(some, np.ndarray) else some[self.rows].toarray(), dtype=float
        ).T
        offset, missing = self.counts.offset[:, columns][self.rows].T, np.isnan(y)
        return np.where(missing, 0.0, y), np.where(missing, NO_EXPOSURE, offset)

    def _columns(self, columns: np.ndarray, design: np.ndarray) -> Columns:
        return Columns(*self._dense(columns), design, self.weights)

    def _at(self, columns: np.ndarray, back: np.ndarray) -> Climbed:
        """The columns' own fits, in the coordinates of a design."""
        numbers = np.column_stack([(back @ self.coef[:, columns]).T, self.log_scale[columns]])
        return Climbed(numbers, self.value[columns], self._done[columns])

    def _fit_columns(self, columns: np.ndarray) -> None:
        """The columns' own maxima, where they are not known yet."""
        columns = columns[~self._fitted[columns]]
        design = self.x @ self.into
        variance = self.fit.sigma_.diag()
        for part in pieces(len(columns), len(self.rows)):
            j = columns[part]
            mine = self._columns(j, design)
            exposed = mine.offset > NO_EXPOSURE / 2
            level = np.where(exposed, np.log(mine.y + 0.5) - mine.offset, 0.0)
            level = np.where(
                exposed, level, (level.sum(axis=1) / np.maximum(exposed.sum(axis=1), 1))[:, None]
            )
            start = np.zeros((len(j), len(self.free)))
            start[:, :-1] = (self.weights * level) @ design / self.weights.sum()
            start[:, -1] = 0.5 * np.log(np.maximum(variance[j], 4e-4))
            if self.free[-1]:
                start[:, -1] = np.clip(start[:, -1], np.log(0.2), np.log(2.0))
            found = maximise(mine, start, self.free)
            self.coef[:, j], self.log_scale[j] = self.into @ found.numbers[:, :-1].T, found.numbers[:, -1]
            self.value[j], self._done[j], self._fitted[j] = found.value, found.done, True

    def _screened(self) -> tuple[np.ndarray, np.ndarray]:
        """Entries (d, p) for which Wald surely holds, and rough standard errors: at the fit's rates and the counts."""
        if self._screen is None:
            d, p = self.fit.coef_.shape
            likely, rough, design = np.ones((d, p), bool), np.zeros((d, p)), self.x @ self.into
            variance = self.fit.sigma_.diag()
            for j in pieces(p, len(self.rows)):
                y, offset = (a.T for a in self._dense(j))
                expected = np.exp(
                    np.minimum(offset + self.x @ self.fit.coef_[:, j] + 0.5 * variance[j], 30.0)
                )
                for told in (expected, y):
                    good, se = profile.quadratic_likely(design, self.weights, told, variance[j], self.into)
                    likely[:, j] &= good
                    rough[:, j] = np.maximum(rough[:, j], se)
            self._screen = likely, rough
        return self._screen


def simes(p: np.ndarray) -> float:
    """The least adjusted p-value: a test of all columns together (Simes 1986), if they do not depend negatively."""
    found = adjusted(p)
    return float(np.nanmin(found)) if np.isfinite(found).any() else np.nan
