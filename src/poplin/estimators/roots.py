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
            return intervals.covariance_root(intervals.observed_information(self.found(kind)))
        return intervals.product_root(self.found(kind, more=more), simulated=kind == "expected")

    def _sandwich(self) -> Root:
        found = self.found("observed")
        bread = self._plain("observed")
        unsure = bread.lost.size or intervals.noise_of(bread, np.asarray(found.observed_gap)) > NOISY
        if unsure and self.free.rows is None:  # a bound has no expected information to put in its place
            more = 0
            while self.improvable(Asked(), more):
                more += 1
            bread = self.of(Asked(), more=more)
            self.said.add(caveats.BREAD)
        return intervals.sandwich(bread, found.products)
