"""Standard errors of a large fit, a few columns at a time: which entries are wanted, and where their parts are kept.

Start at `Piecewise`. Why a part will do, and what it leaves out, is told in `inference/intervals.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError
from poplin._numerics import double_precision
from poplin.data.sides import Grouping
from poplin.fitting import driver, recipes
from poplin.fitting.directions import OFTEN, Free, Watch, request, sums
from poplin.fitting.recipes import level_precision
from poplin.inference import intervals, sandwich
from poplin.inference.coordinates import Coordinates, coordinates, with_law
from poplin.inference.information import (
    Groups,
    Information,
    information,
    information_of_parts,
)
from poplin.inference.intervals import LARGE, Part, Root, Tests, Wanted, tests_of
from poplin.inference.sandwich import Margins, Sandwich, deviations
from poplin.laws import AbstractLaw, ZeroInflated, named, telling
from poplin.methods.exact import Likelihood
from poplin.methods.options import Composite, chosen
from poplin.models.loadings import DiagonalRoot
from poplin.rows.nodes import column_nodes, joint_nodes
from poplin.updates.structure import Diagonal, Full, Model

CORE, SIZE = 10, 20  # columns of a sub-table: whose errors are wanted, and all
VIEWED = 20  # columns of a part where the others stay, for a rank
Key = tuple[int, ...]
Moves = list[tuple[np.ndarray, np.ndarray]]  # of B and Sigma, batch by batch


def parted(law: AbstractLaw, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers that belong to the law's parameters, one leaf behind the other, by name and in their shapes."""
    found, first = {}, 0
    for name, parameter in named(law).items():
        found[name] = numbers[first : first + parameter.size].reshape(parameter.shape)
        first += parameter.size
    return found


class CoreErrors(NamedTuple):
    """Of a core: its columns, standard errors (d, c), (c, c), (c, c), covariances of B within columns (c, d, d).

    own: standard errors of the law's parameters, (k, c) each.
    """

    columns: np.ndarray
    coef: np.ndarray
    covariance: np.ndarray
    correlation: np.ndarray
    within: np.ndarray
    own: dict[str, np.ndarray]


class Piecewise:
    """Standard errors of B and of entries of Sigma by parts; what was computed is kept."""

    def __init__(self, fit: Any, free: Free, watch: Watch) -> None:
        self.free, self.sigma, self.watch = free, fit.sigma_, watch
        self.settings = replace(recipes.checked(fit.get_params()), callback=watch)
        self.by_views = free.shape is None
        self.by_sub_tables = free.in_parts() and not self.by_views and self.sigma.p > SIZE
        self._made: dict[Key, CoreErrors] = {}
        self._coef: list[CoreErrors] = []

    def coef(self) -> list[CoreErrors]:
        """Parts whose cores hold every column."""
        if not self._coef:
            self._coef = self.of_columns(range(self.sigma.p))
        return self._coef

    def ready(self) -> list[CoreErrors]:
        """Parts that are there already."""
        return list(self._made.values())

    def of_columns(self, columns: Iterable[int]) -> list[CoreErrors]:
        """Parts whose cores hold these columns; those lost beside others come once more, last, as cores of their own.

        Covariances of two columns that tell little are easily lost, and take the columns' own numbers with them.
        """
        cores = self.of([(j, j) for j in columns])
        told = [(j, c) for core in cores for j, c in zip(core.columns.tolist(), core.coef.T, strict=True)]
        lost = [] if self.by_views else [j for j, coef in told if np.isnan(coef).any()]
        return [*cores, *self.of([(j, j) for j in lost], core=1)]

    def filled(self, which: str, errors: np.ndarray) -> np.ndarray:
        """`errors` of the coefficients (d, p), of covariances or correlations (p, p) with what is missing found."""
        errors, lost = errors.copy(), np.isnan(errors)
        if which == "coef":
            for core in self.of_columns(np.flatnonzero(lost.any(axis=0)).tolist()):
                there = lost[:, core.columns]
                errors[:, core.columns] = np.where(there, core.coef, errors[:, core.columns])
            return errors
        j, k = np.nonzero(np.triu(lost))
        errors[j, k] = errors[k, j] = self.entries(which, j, k)
        return errors

    def entries(self, which: str, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Standard errors of these covariances or correlations."""
        known = self._looked_up(which, j, k, self._made.values())
        open_ = np.isneginf(known)
        if open_.any():
            wanted = list(zip(j[open_].tolist(), k[open_].tolist(), strict=True))
            known[open_] = self._looked_up(which, j[open_], k[open_], self.of(wanted))
        return known

    def _looked_up(self, which: str, j: np.ndarray, k: np.ndarray, cores: Any) -> np.ndarray:
        """Those that the cores hold; minus infinity for the others."""
        found = np.full(len(j), -np.inf)
        for core in cores:
            place = np.full(self.sigma.p, -1)
            place[core.columns] = np.arange(len(core.columns))
            there = (place[j] >= 0) & (place[k] >= 0)
            found[there] = getattr(core, which)[place[j[there]], place[k[there]]]
        return found

    def of(self, wanted: Sequence[Wanted], *, core: int = 0) -> list[CoreErrors]:
        """Parts whose cores (of the usual size, or of `core` columns) hold these pairs, computed where they are new."""
        with double_precision():
            core, size = (VIEWED, VIEWED) if self.by_views else (core or CORE, SIZE)
            telling = intervals.telling(self.sigma, self.free.usual_rate)
            found = intervals.parts(wanted, telling, core=core, size=size)
            new = [part for part in found if _key(part) not in self._made]
            self.watch.anew("a few columns at a time")
            made = self._viewed(new) if self.by_views else self._sub_tables(new)
            for part, errors in zip(new, made, strict=True):
                self._made[_key(part)] = errors
        return [self._made[_key(part)] for part in found]

    def _sub_tables(self, new: Sequence[Part]) -> Iterator[CoreErrors]:
        for k, part in enumerate(new):
            self.watch.share(k / len(new), (k + 1) / len(new))
            yield self._sub_table(part)

    def _sub_table(self, part: Part) -> CoreErrors:
        """From the table of a part's columns alone; a column of its own is worth more draws."""
        free = self._part_of_free(part.columns)
        told = self._told(part, free, more=0)
        return self._told(part, free, more=OFTEN) if part.core == 1 and np.isnan(told.coef).any() else told

    def _told(self, part: Part, free: Free, *, more: int) -> CoreErrors:
        asked = request("expected", free, self.settings, more=more)
        root, c = intervals.product_root(information(free.block, free.here, asked), simulated=True), part.core
        moves = (
            [(coef[:, :, :c], sigma[:, :c, :c]) for coef, sigma in intervals.deviations(free.here, numbers)]
            for numbers in root
        )
        return self._errors(part.columns[:c], part.columns, root, *moves)

    def _part_of_free(self, columns: np.ndarray) -> Free:
        """The rows and free directions of a sub-table."""
        free = self.free
        block = free.block._replace(
            **{
                name: jax.tree.map(
                    lambda a: jnp.asarray(np.asarray(a)[:, columns]), getattr(free.block, name)
                )
                for name in ("y", "offset", "law")
            }
        )
        coef = np.asarray(free.here.model.coef)[:, columns]
        loadings = np.linalg.cholesky(self.sigma.block(columns))
        model = Model(jnp.asarray(coef), jnp.asarray(loadings))
        rate, usual = free.mean_rate[columns], free.usual_rate[columns]
        return free._replace(
            block=block,
            here=with_law(
                coordinates(free.shape, None, model, jnp.asarray(rate)), free.here.of_columns(columns).own
            ),
            mean_rate=rate,
            usual_rate=usual,
        )

    def _viewed(self, new: Sequence[Part]) -> Iterator[CoreErrors]:
        """From the whole table, with the columns outside a part held together."""
        if not new:
            return
        here, columns = self.free.here, np.stack([part.columns for part in new])
        asked = request("expected", self.free, self.settings, size=here.part_size(columns.shape[1]))
        sums = information_of_parts(self.free.block, here, columns, asked)
        for own, found in zip(columns, sums, strict=True):
            root = intervals.product_root(found, simulated=True)
            moves = ([intervals.part_deviations(here, own, numbers)] for numbers in root)
            yield self._errors(own, own, root, *moves)

    def _errors(
        self, columns: np.ndarray, every: np.ndarray, root: Root, spread: Moves, lost: Moves
    ) -> CoreErrors:
        """Of a core; `every` column of its part has a place in the root, where the law's numbers come last."""
        own = self.sigma.block(columns)
        changes = intervals.of_coef, intervals.of_covariance, intervals.of_correlation(own)
        coef, covariance, correlation = (
            intervals.error_along(*([change(*moved) for moved in part] for part in (spread, lost)))
            for change in changes
        )
        moved = np.where(np.isnan(coef), np.nan, np.concatenate([moved for moved, _ in spread]))
        law = self.free.here.of_columns(every).own
        size = sum(a.size for a in jax.tree.leaves(law))
        ends = ([part[len(part) - size :].T] for part in root)
        told = parted(law, intervals.error_along(*ends))
        return CoreErrors(
            columns,
            coef,
            covariance,
            correlation,
            np.einsum("mdp,mep->pde", moved, moved, optimize=True),
            {name: a[:, : len(columns)] for name, a in told.items()},
        )


def _key(part: Part) -> Key:
    return tuple(part.columns[: part.core].tolist())


def tests_by_parts(pieces: Piecewise, matrix: np.ndarray, coef: np.ndarray, told: Tests) -> Tests:
    """`told` with the Wald tests that H B = 0 of the columns that it does not tell, where parts know them.

    Over all columns together nothing is added: the covariance of parts is not formed.
    """
    found, lost = Tests(*(each.copy() for each in told)), np.flatnonzero(np.isnan(told.p[:-1]))
    for core in pieces.of_columns(lost.tolist()):
        for j, within in zip(core.columns, core.within, strict=True):
            if j not in lost or not np.isfinite(within).all():
                continue
            values, vectors = np.linalg.eigh(within)
            spread = (vectors * np.sqrt(np.maximum(values, 0))).T
            one = tests_of(matrix @ coef[:, [j]], (spread @ matrix.T)[:, :, None])
            for whole, of_one in zip(found, one, strict=True):
                whole[j] = of_one[0]
    return found


# The Godambe sandwich of a composite fit in the numbers in which standard errors are told.
#
# Start at `root`.


MOST_CHANGES = 300_000_000  # numbers of all rows' changes
SHAPES = (
    "Standard errors of method='composite' follow from its pairs where Sigma is full or diagonal. Give n_boot, for "
    "example n_boot=200, or fit with method='ml'."
)
LARGE_CHANGE = (
    "Standard errors of method='composite' of {rows} rows and {size} free numbers need too much memory. Give n_boot, "
    "or fit with method='ml'."
)


def root(fit: Any, free: Any) -> Root:
    """A root of the estimates' covariance; `free` says what is free (`directions.Free`)."""
    if not isinstance(free.shape, (Full, Diagonal)):
        raise InputError(SHAPES)
    if len(free.block.index) * free.here.size() > MOST_CHANGES:
        raise InputError(LARGE_CHANGE.format(rows=len(free.block.index), size=free.here.size()))
    options = chosen(fit.get_params()["method"])
    with double_precision():
        margins = Margins(jnp.asarray(fit.coef_), jnp.asarray(np.sqrt(fit.sigma_.diag())))
        rule = joint_nodes(options.order, 2) if isinstance(free.shape, Full) else None
        target = _margins(options.margin_order, fit)
        moves = deviations(target, rule, free.block, margins, fit.covariance_)
        return _in_numbers(free.here, np.concatenate(moves, axis=1), pairs=rule is not None)


def _margins(order: int, fit: Any) -> Likelihood:
    """What the margins maximise, priors included."""
    level = jnp.asarray(level_precision(fit.counts_.x, fit.counts_.weights))
    return Likelihood(DiagonalRoot(), column_nodes(order), 1.0, 1.0, 0.0, level)


def _in_numbers(here: Coordinates, moves: np.ndarray, *, pairs: bool) -> Root:
    """The changes of (B, Sigma's upper triangle) in the numbers of `Coordinates`, which are as many."""
    size, p = here.size(), here.model.coef.shape[1]
    upper = np.triu_indices(p)
    if not pairs:
        kept = np.concatenate([np.ones(here.model.coef.size, bool), upper[0] == upper[1]])
        moves = moves[:, kept]
    coef, sigma = (np.asarray(a) for a in here.tangents(jnp.eye(size)))
    told = sigma[:, *upper] if pairs else np.diagonal(sigma, axis1=1, axis2=2)
    tangents = np.concatenate([coef.reshape(size, -1), told], axis=1)
    if len(moves) > size:  # the same products in fewer columns
        moves = np.asarray(np.linalg.qr(moves, mode="r"))
    return Root(np.linalg.solve(tangents.T, moves.T), np.zeros((size, 0)))


# What has to be known to read standard errors: the sentences, and which of them hold for a fit.
#
# Start at `notes`.


MOST_NUMBERS = 6_000  # free numbers whose whole information matrix is formed
MOST_AT_ONCE = 2_000  # free numbers up to which the standard errors of B alone are taken from it
PULLED = 0.005  # share of their size by which correlations are pulled, below which nobody needs to know
SHRUNK = (
    "Correlations are shrunk (by {pull:.2g} of their size): intervals of correlations and covariances lie about where "
    "an unshrunk fit would be, not about the estimates beside them. Eigenvalues' intervals lie about the shrunk ones."
)
SHRUNK_CENTRE = (
    "Correlations are shrunk (by {pull:.2g} of their size), and intervals are centred on the shrunk estimates, with "
    "the width of the unshrunk likelihood. Fit with shrinkage=0 for intervals that cover what they say."
)
EDGE = (
    "{count} of {all} variances are within one standard error of 0: their intervals are not to be relied on."
)
OWN_EDGE = (
    "{count} of {all} variances of columns' own are at their lower edge ({names}): what such a column does is told by "
    "the axes, and there is no interval."
)
NO_ZERO = (
    "which='zero' is of fits with zeros beyond those of the counts (likelihood='zero-inflated-poisson' or "
    "'zero-inflated-negative-binomial'); this one has none."
)
NO_DISPERSION = (
    "which='dispersion' is of fits with likelihood='negative-binomial' or 'zero-inflated-negative-binomial'; this one "
    "has none."
)
ZERO_EDGE = (
    "{count} of {all} probabilities of zeros are at 0, or nothing in the counts tells them ({names}): these zeros are "
    "as good as all those of counts, and there is no interval."
)
DISPERSION_EDGE = (
    "{count} of {all} dispersions are at 0, or nothing in the counts tells them ({names}): such counts vary as those "
    "of a Poisson law about their rates, and there is no interval."
)
WALD_ONLY = (
    "Intervals and tests are Wald's: profile likelihoods of columns of which counts say little are those of Poisson "
    "counts, and this fit has likelihood={likelihood!r}."
)
STOPPED = "Standard errors were interrupted before they were ready."
LOST = "{count} of {all} standard errors are missing (NaN): the data do not determine them."
BOUND = (
    "These are standard errors about the value that the bound's maximiser tends to. That value is biased, which they "
    "do not show and intervals do not cover. Fit with method='ml' for intervals about the truth."
)
BREAD = (
    "The observed information could not be told from its Monte-Carlo noise: the sandwich has the expected information "
    "at its outside."
)
OBSERVED_LOST = (
    "The observed information of this table has no inverse that could be told from its Monte-Carlo noise (a Sigma that "
    "is nearly singular, or a column that is hardly seen): these standard errors are from the expected information."
)
TOO_MANY = (
    "Standard errors of {size} free numbers: at most {most} are possible for this model and method. Fit with "
    "method='ml' and a full or diagonal Sigma or a rank, or fewer columns."
)
EXPECTED_ONLY = (
    "{size} free numbers are more than the {most} whose whole information is formed. Standard errors are then found a "
    "few columns at a time, from the expected information: robust, cluster and information={information!r} are not "
    "possible. Leave them out, fit fewer columns or, for single rows, use n_boot."
)
CLUSTERED = (
    "Standard errors are those of clusters by '{name}' ({count} groups): rows of a group may depend on each other. "
    "Intervals and p-values are of Student's t."
)
ONE_GROUP = (
    "{count} of {all} coefficients hang on one group of rows alone: how they vary between groups cannot be seen, and "
    "their "
    "standard errors are missing (NaN)."
)
ONE_CLUSTER = (
    "cluster= is a sandwich of its own: leave n_boot and information out (robust=True adds nothing to it)."
)
NO_QUADRATIC = (
    "{count} of {all} coefficients have no standard error by clusters (NaN): counts say too little of them, as of a "
    "column that is absent from a level. Their p-values are those of score tests by clusters (method 'score')."
)
NO_CLUSTERS_OF_PAIRS = (
    "cluster= is not there for method='composite'. Fit with method='ml' (or 'variational')."
)
SAMPLED_ROWS = (
    "cluster= needs all counts dense, and this table is too large for that. Fit a part of its rows or columns, or "
    "add up "
    "each group's rows to one."
)
ENTRIES = (
    "which={which!r} of all {count} entries: a fit of {size} free numbers has too many ({most} is the most). Say which "
    'are wanted: entries=[("name", "other name"), ...], names or positions of columns.'
)
NOT_ASKED = "Standard errors were not asked for: `confint()` finds them."
FEWER_DRAWS = (
    "Some standard errors need more draws than there was time for (--se-time, fit.standard_errors())."
)
PARTS_IN_TIME = (
    "Standard errors from the whole information would take more than {seconds:.0f} s: these are those of sub-tables of "
    "{columns} columns (expected information by column blocks). --se-time SECONDS, fit.standard_errors(): the whole."
)
VIEWS_IN_TIME = (
    "Standard errors from the whole information would take more than {seconds:.0f} s: these are found {columns} "
    "columns at a time, while all others can only shift, scale and turn the latent position together (expected "
    "information by column blocks). --se-time SECONDS, fit.standard_errors(): the whole."
)
UNFINISHED = "Some columns' standard errors were not ready in time: --se-time SECONDS allows more."
OVER_TIME = (
    "Standard errors would take more than {seconds:.0f} s, and this model has no cheaper ones. --se-time SECONDS or "
    "fit.standard_errors() take longer."
)
NO_AXES = (
    "which='eigenvalues' (or 'scales') needs the whole covariance of Sigma's estimate, which is formed up to {most} "
    "free numbers; here are {size}. Use n_boot, fit a rank, or fewer columns."
)
NO_OWN = (
    "which='specific' is of fits with variances of the columns' own (specific='column', with a rank or a basis); this "
    "one has none."
)
NO_BASIS = (
    "which='scales' is of fits with a borrowed basis (PLN(basis=V)); this one has none. Use 'eigenvalues'."
)
SUB_TABLES = (
    "{size} free numbers: standard errors are those of sub-tables of {columns} columns, the most telling ones for each "
    "entry, and a little too large rather than too small. Covariances: confint('covariance', entries=[...])."
)
FILLED = (
    "Some directions of the whole fit are lost in Monte-Carlo noise. The standard errors that these touch are those of "
    "sub-tables of {columns} columns, a little too large rather than too small."
)
VIEWS = (
    "{size} free numbers: standard errors are found {columns} columns at a time, while all others can only shift, "
    "scale and turn the latent position together. Covariances: confint('covariance', entries=[...])."
)


def notes(
    fit: Any, said: set[str], errors: np.ndarray, *, bound: bool, large: bool = False
) -> tuple[str, ...]:
    """What has to be known to read these standard errors."""
    told = sorted(said | ({BOUND} if bound else set()))
    if fit.shrinkage_ >= PULLED:
        told.append((SHRUNK_CENTRE if bound or large else SHRUNK).format(pull=fit.shrinkage_))
    lost = int(np.isnan(errors).sum())
    if lost:
        told.append(LOST.format(count=lost, all=errors.size))
    return tuple(told)


# The covariance of all estimates of one fit, as a root: from which information, with how many draws; kept once made.
#
# Start at `Roots.of`; `Roots.sandwich` is that of robust and of clustered standard errors.


KINDS = ("expected", "observed", "outer")
SUMS = 0.6  # share of the time that the sums take where there are many numbers; the rest is algebra
NOISY = 0.5  # Monte-Carlo error from which the observed information is not used for a sandwich
MOST_SCORES = 20_000_000  # numbers of all rows' scores that are kept; above, only sums over clusters are


class StandardErrors(NamedTuple):
    """Standard errors of a fit's estimates.

    NaN where the data do not determine one: directions without information, eigenvalues too close to their neighbours.
    What is not estimated (a fixed Sigma, the zeros of a diagonal one) has 0. Of a large fit, covariances that were not
    asked for and eigenvalues are NaN too.

    Attributes:
        coef: of B (d, p).
        variances: of the diagonal of Sigma (p,).
        covariance: of Sigma (p, p); None of a large fit of more than 2000 columns: `confint("covariance",
            entries=...)` has those that are asked for.
        eigenvalues: of Sigma's eigenvalues (k,).
        scales: of a borrowed basis's scales (q,), in its order; None without a basis.
        notes: what to know to read them, one sentence each.
        specific: of the variances of the columns' own (p,), NaN at their lower edge; None without them.
        zero: of the logits of zero probabilities, in the shape of `zero_coef_`; None without them.
        dispersion: of the dispersions, in the shape of `dispersion_`; None without them.
    """

    coef: np.ndarray
    variances: np.ndarray
    covariance: np.ndarray | None
    eigenvalues: np.ndarray
    scales: np.ndarray | None
    notes: tuple[str, ...]
    specific: np.ndarray | None = None
    zero: np.ndarray | None = None
    dispersion: np.ndarray | None = None


class Asked(NamedTuple):
    """From what standard errors are asked for: see `AbstractStatistics`."""

    robust: bool = False
    information: str = "expected"
    n_boot: int | None = None
    cluster: Grouping | None = None


class Roots:
    """Information and roots of one fit; `said` gains what has to be known of them."""

    def __init__(self, fit: Any, free: Free, said: set[str], watch: Watch) -> None:
        self.fit, self.free, self.said, self.watch = fit, free, said, watch
        self.settings = replace(recipes.checked(fit.get_params()), callback=watch)
        self.size = free.here.size()
        self.of_pairs = isinstance(self.settings.method, Composite)
        self._found: dict[str, tuple[int, Information]] = {}
        self._roots: dict[tuple[Asked, int], Root] = {}
        self._sandwiches: dict[Grouping | None, Sandwich] = {}

    def found(self, kind: str, *, more: int = 0, groups: Groups | None = None) -> Information:
        """The sums of a kind of information, the last of its kind kept; `more`: see `directions.request`."""
        driver.check_informed(self.settings.method)
        if self.size > MOST_NUMBERS:
            raise InputError(TOO_MANY.format(size=self.size, most=MOST_NUMBERS))
        lacks = groups is not None and kind in self._found and self._found[kind][1].by_group is None
        if kind not in self._found or self._found[kind][0] != more or lacks:
            words = "" if more == 0 else f"again with more draws, {more} of at most {OFTEN}"
            self.watch.anew(words, last=SUMS if self.size >= LARGE else 1.0)
            with double_precision():
                self._found[kind] = more, sums(kind, self.free, self.settings, more=more, groups=groups)
        return self._found[kind][1]

    def of(self, asked: Asked, *, more: int = 0) -> Root:
        """The root of the estimates' covariance matrix."""
        recipes.one_of(asked.information, KINDS, "information")
        if self.corrected(asked):
            return self.sandwich(asked).root
        if self.free.rows is not None or self.of_pairs:  # of a bound, of pairs, the sandwich is the only one
            asked = Asked(True, "observed")
        if (asked, more) not in self._roots:
            if self.of_pairs:
                made = root(self.fit, self.free)
            elif asked.robust:
                made = intervals.sandwich(self._bread(), self._products())
            else:
                made = self._plain(asked.information, more=more)
            self._roots[asked, more] = made
        return self._roots[asked, more]

    def corrected(self, asked: Asked) -> bool:
        """Whether standard errors come from the groups' own scores, with Student's t; very many rows need not."""
        rows = len(self.free.block.index)
        robust = asked.robust and self.free.rows is None and not self.of_pairs
        return asked.cluster is not None or (robust and rows * self.size <= MOST_SCORES)

    def sandwich(self, asked: Asked) -> Sandwich:
        """That of clusters, or of rows each for itself."""
        if asked.cluster not in self._sandwiches:
            if asked.cluster is not None and self.of_pairs:
                raise InputError(NO_CLUSTERS_OF_PAIRS)
            self._sandwiches[asked.cluster] = self._sandwich(asked.cluster)
        return self._sandwiches[asked.cluster]

    def improvable(self, asked: Asked, more: int) -> bool:
        """Whether a direction is lost that more draws may find."""
        kind = asked.information
        if asked.robust or kind == "observed" or self.free.rows is not None or self.of_pairs or more >= OFTEN:
            return False
        if asked.cluster is not None:
            return False
        here, there = (request(kind, self.free, self.settings, more=k).draws for k in (more, more + 1))
        return there > here and self.of(asked, more=more).lost.size > 0

    def _plain(self, kind: str, *, more: int = 0) -> Root:
        if kind == "observed":
            return self._observed()
        return intervals.product_root(self.found(kind, more=more), simulated=kind == "expected")

    def _observed(self) -> Root:
        """By Louis' identity; by the expected information where a direction is lost, or cannot be told from noise.

        A difference of two large matrices can lose a direction, above all of a Sigma that is nearly singular, and one
        lost direction touches every entry. Four times the draws find about half of them; more find no more.
        """
        for more in range(2):
            root, _ = self._louis(more)
            gap = np.asarray(self.found("observed", more=more).observed_gap)
            if not root.lost.size and intervals.worst_noise(root, gap) <= NOISY:
                return root
        self.said.add(OBSERVED_LOST)
        return self._sure_expected()

    def _louis(self, more: int = 0) -> tuple[Root, float]:
        """The root of the observed information and the Monte-Carlo error of the variances that it gives."""
        found = self.found("observed", more=more)
        root = intervals.covariance_root(intervals.observed_information(found))
        return root, intervals.noise_of(root, np.asarray(found.observed_gap))

    def _sure_expected(self) -> Root:
        """That of the expected information, with as many draws as it takes."""
        more = 0
        while self.improvable(Asked(), more):
            more += 1
        return self.of(Asked(), more=more)

    def _products(self) -> np.ndarray:
        """Sums of the scores' products; the information in the place of those of zeros that are of one row alone.

        Such a row's own score is 0 at the maximum: one score has no spread, and would say that nothing is uncertain.
        """
        found = self.found("observed")
        products, features = np.array(found.products), self.free.block.zero_features
        if features is not None and isinstance(self.free.here.own, ZeroInflated):
            alone = np.count_nonzero(np.asarray(features), axis=0) == 1
            logit = self.free.here.own.logit
            at = self.size - logit.size + np.flatnonzero(np.repeat(alone, logit.shape[1]))
            products[at], products[:, at] = 0.0, 0.0
            products[at, at] = np.diag(intervals.observed_information(found))[at]
        return products

    def _bread(self) -> Root:
        """The observed information's root, the expected one's where noise leaves nothing to be told from it."""
        bread, noise = self._louis()
        # a bound has no expected information to put in its place
        if (bread.lost.size or noise > NOISY) and self.free.rows is None:
            bread = self._sure_expected()
            self.said.add(BREAD)
        return bread

    def _sandwich(self, cluster: Grouping | None) -> Sandwich:
        """From the scores of rows, or their sums where those would take too much memory."""
        free, rows = self.free, len(self.free.block.index)
        codes = None if cluster is None else cluster.codes()
        every = rows * self.size <= MOST_SCORES
        if every or codes is None:
            groups = Groups(np.arange(rows), rows, np.ones(rows))
        else:
            groups = Groups(codes, int(codes.max()) + 1, np.asarray(free.block.weights))
            self._found.pop("observed", None)
        sums = np.asarray(self.found("observed", groups=groups).by_group)
        weights = np.asarray(free.block.weights)
        if codes is None:
            sums = sums * np.sqrt(weights)[:, None]
        elif every:
            total = np.zeros((2, int(codes.max()) + 1, sums.shape[2]))
            for part, each in zip(total, weights[:, None] * sums, strict=True):
                np.add.at(part, codes, each)
            sums = total
        with double_precision():
            model = self._working(weights, codes)
            return sandwich.sandwich(free.here, self._bread(), sums, model, self.fit.sigma_)

    def _working(self, weights: np.ndarray, codes: np.ndarray | None) -> sandwich.Working:
        block, model = self.free.block, self.free.here.model
        x = np.asarray(block.x)
        log_rate = np.clip(np.asarray(block.offset) + x @ np.asarray(model.coef), -700.0, 50.0)
        rate = np.exp(log_rate) if block.law.exponential() else np.asarray(telling(block.law, log_rate))
        rate = np.where(np.asarray(block.offset) > -1e29, rate, 0.0)
        return sandwich.working(x, rate, self.fit.sigma_.diag(), weights, codes)
