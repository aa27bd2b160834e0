"""The covariance of all estimates of one fit, as a root: from which information, with how many draws; kept once made.

Start at `Roots.of`; `Roots.sandwich` is that of robust and of clustered standard errors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin._precision import double_precision
from poplin.data.groups import Grouping
from poplin.estimators import caveats, esteps, pairwise, recipes
from poplin.estimators.budget import Watch
from poplin.estimators.directions import OFTEN, Free, request, sums
from poplin.inference import clusters, intervals
from poplin.inference.clusters import Sandwich
from poplin.inference.information import Groups, Information
from poplin.inference.intervals import LARGE, Root
from poplin.inference.parts import inverse_of_outward

KINDS = ("expected", "observed", "outer")
SUMS = 0.6  # share of the time that the sums take where there are many numbers; the rest is algebra
NOISY = 0.5  # Monte-Carlo error from which the observed information is not used for a sandwich
MOST_SCORES = 20_000_000  # numbers of all rows' scores that are kept; above, only sums over clusters are


class Asked(NamedTuple):
    """From what standard errors are asked for: see `AbstractAsked`."""

    robust: bool = False
    information: str = "expected"
    n_boot: int | None = None
    cluster: Grouping | None = None


class Roots:
    """Information and roots of one fit; `said` gains what has to be known of them."""

    def __init__(self, fit: Any, free: Free, said: set[str], watch: Watch) -> None:
        self.fit, self.free, self.said, self.watch = fit, free, said, watch
        self.settings = fit.get_params() | {"callback": watch}
        self.size = free.here.size()
        self.of_pairs = esteps.name_of(self.settings["method"]) == "composite"
        self._found: dict[str, tuple[int, Information]] = {}
        self._roots: dict[tuple[Asked, int], Root] = {}
        self._sandwiches: dict[Grouping | None, Sandwich] = {}

    def found(self, kind: str, *, more: int = 0, groups: Groups | None = None) -> Information:
        """The sums of a kind of information, the last of its kind kept; `more`: see `directions.request`."""
        esteps.check_informed(self.settings["method"])
        if self.size > caveats.MOST_NUMBERS:
            raise InputError(caveats.TOO_MANY.format(size=self.size, most=caveats.MOST_NUMBERS))
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
                made = pairwise.root(self.fit, self.free)
            elif asked.robust:
                made = intervals.sandwich(self._bread(), self.found("observed").products)
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
                raise InputError(caveats.NO_CLUSTERS_OF_PAIRS)
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
        self.said.add(caveats.OBSERVED_LOST)
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

    def _bread(self) -> Root:
        """The observed information's root, the expected one's where noise leaves nothing to be told from it."""
        bread, noise = self._louis()
        # a bound has no expected information to put in its place
        if (bread.lost.size or noise > NOISY) and self.free.rows is None:
            bread = self._sure_expected()
            self.said.add(caveats.BREAD)
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
            inverse = inverse_of_outward(free.here)
            return clusters.sandwich(free.here, inverse, self._bread(), sums, model, self.fit.covariance_)

    def _working(self, weights: np.ndarray, codes: np.ndarray | None) -> clusters.Working:
        block, model = self.free.block, self.free.here.model
        x = np.asarray(block.x)
        rate = np.exp(np.clip(np.asarray(block.offset) + x @ np.asarray(model.coef), -700.0, 50.0))
        rate = np.where(np.asarray(block.offset) > -1e29, rate, 0.0)
        return clusters.working(x, rate, self.fit.covariance_, weights, codes)
