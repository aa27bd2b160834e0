"""The covariance of all estimates of one fit, as a root: from which information, with how many draws; kept once made.

Start at `Roots.of`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin._precision import double_precision
from poplin.estimators import caveats, esteps, pairwise, recipes
from poplin.estimators.directions import Free, sums
from poplin.inference import intervals
from poplin.inference.information import Information
from poplin.inference.intervals import Root

KINDS = ("expected", "observed", "outer")
OFTEN = 2  # times that four times as many draws are tried
NOISY = 0.5  # Monte-Carlo error from which the observed information is not used for a sandwich


class Asked(NamedTuple):
    """From what standard errors are asked for: see `AbstractAsked`."""

    robust: bool = False
    information: str = "expected"
    n_boot: int | None = None


class Roots:
    """Information and roots of one fit; `said` gains what has to be known of them."""

    def __init__(self, fit: Any, free: Free, said: set[str]) -> None:
        self.fit, self.free, self.said = fit, free, said
        self.size = free.here.size()
        self._found: dict[str, Information] = {}
        self._more: dict[Asked, int] = {}
        self._roots: dict[Asked, Root] = {}

    def found(self, kind: str, *, more: int = 0) -> Information:
        """The sums of a kind of information; `more` forgets those and draws four times as often, so many times."""
        esteps.check_informed(self.fit.get_params()["method"])
        if self.size > caveats.MOST_NUMBERS:
            raise InputError(caveats.TOO_MANY.format(size=self.size, most=caveats.MOST_NUMBERS))
        if more or kind not in self._found:
            with double_precision():
                self._found[kind] = sums(kind, self.free, self.fit.get_params(), more=more)
        return self._found[kind]

    def of(self, asked: Asked) -> Root:
        """The root of the estimates' covariance matrix."""
        recipes.one_of(asked.information, KINDS, "information")
        pairs = esteps.name_of(self.fit.get_params()["method"]) == "composite"
        if self.free.rows is not None or pairs:  # of a bound, of pairs, the sandwich is the only one
            asked = Asked(True, "observed")
        if asked not in self._roots and pairs:
            self._roots[asked] = pairwise.root(self.fit, self.free)
        if asked not in self._roots:
            self._roots[asked] = self._sandwich() if asked.robust else self._plain(asked.information)
        return self._roots[asked]

    def improved(self, asked: Asked) -> bool:
        """Draw more where a direction is lost; False if that is no help, or was done often enough."""
        more = self._more.get(asked, 0) + 1
        by_products = not asked.robust and asked.information != "observed" and self.free.rows is None
        if more > OFTEN or not by_products or not self.of(asked).lost.size:
            return False
        self._more[asked] = more
        self.found(asked.information, more=more)
        self._roots[asked] = self._plain(asked.information)
        return True

    def _plain(self, kind: str) -> Root:
        if kind == "observed":
            return intervals.covariance_root(intervals.observed_information(self.found(kind)))
        return intervals.product_root(self.found(kind), simulated=kind == "expected")

    def _sandwich(self) -> Root:
        found = self.found("observed")
        bread = self._plain("observed")
        if bread.lost.size or intervals.noise_of(bread, np.asarray(found.observed_gap)) > NOISY:
            bread = self._plain("expected")
            self.said.add(caveats.BREAD)
        return intervals.sandwich(bread, found.products)
