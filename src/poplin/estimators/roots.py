"""The covariance of all estimates of one fit, as a root: from which information, with how many draws; kept once made.

Start at `Roots.of`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin._precision import double_precision
from poplin.estimators import caveats, esteps, pairwise, recipes
from poplin.estimators.budget import Watch
from poplin.estimators.directions import OFTEN, Free, request, sums
from poplin.inference import intervals
from poplin.inference.information import Information
from poplin.inference.intervals import LARGE, Root

KINDS = ("expected", "observed", "outer")
SUMS = 0.6  # share of the time that the sums take where there are many numbers; the rest is algebra
NOISY = 0.5  # Monte-Carlo error from which the observed information is not used for a sandwich


class Asked(NamedTuple):
    """From what standard errors are asked for: see `AbstractAsked`."""

    robust: bool = False
    information: str = "expected"
    n_boot: int | None = None


class Roots:
    """Information and roots of one fit; `said` gains what has to be known of them."""

    def __init__(self, fit: Any, free: Free, said: set[str], watch: Watch) -> None:
        self.fit, self.free, self.said, self.watch = fit, free, said, watch
        self.settings = fit.get_params() | {"callback": watch}
        self.size = free.here.size()
        self.of_pairs = esteps.name_of(self.settings["method"]) == "composite"
        self._found: dict[str, tuple[int, Information]] = {}
        self._roots: dict[tuple[Asked, int], Root] = {}

    def found(self, kind: str, *, more: int = 0) -> Information:
        """The sums of a kind of information, the last of its kind kept; `more`: see `directions.request`."""
        esteps.check_informed(self.settings["method"])
        if self.size > caveats.MOST_NUMBERS:
            raise InputError(caveats.TOO_MANY.format(size=self.size, most=caveats.MOST_NUMBERS))
        if kind not in self._found or self._found[kind][0] != more:
            words = "" if more == 0 else f"again with more draws, {more} of at most {OFTEN}"
            self.watch.anew(words, last=SUMS if self.size >= LARGE else 1.0)
            with double_precision():
                self._found[kind] = more, sums(kind, self.free, self.settings, more=more)
        return self._found[kind][1]

    def of(self, asked: Asked, *, more: int = 0) -> Root:
        """The root of the estimates' covariance matrix."""
        recipes.one_of(asked.information, KINDS, "information")
        if self.free.rows is not None or self.of_pairs:  # of a bound, of pairs, the sandwich is the only one
            asked = Asked(True, "observed")
        if (asked, more) not in self._roots:
            if self.of_pairs:
                made = pairwise.root(self.fit, self.free)
            else:
                made = self._sandwich() if asked.robust else self._plain(asked.information, more=more)
            self._roots[asked, more] = made
        return self._roots[asked, more]

    def improvable(self, asked: Asked, more: int) -> bool:
        """Whether a direction is lost that more draws may find."""
        kind = asked.information
        if asked.robust or kind == "observed" or self.free.rows is not None or self.of_pairs or more >= OFTEN:
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

    def _sandwich(self) -> Root:
        bread, noise = self._louis()
        found = self.found("observed")
        # a bound has no expected information to put in its place
        if (bread.lost.size or noise > NOISY) and self.free.rows is None:
            bread = self._sure_expected()
            self.said.add(caveats.BREAD)
        return intervals.sandwich(bread, found.products)
