"""A stand-in fit that can be asked for intervals and k-hat, all made up, for tests of pictures and pages.

Start at `Told`; `drawn` makes one from a model that is known, so that what a picture shows can be checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas

from poplin.inference.intervals import Interval
from tests.standin import StandIn


class Told(StandIn):
    """Standard errors that grow along the columns; k-hat from 0 to 0.9 along the rows."""

    specific_variance_ = None
    specific_at_edge_ = None

    def coef_interval(self) -> Interval:
        """Intervals of two standard errors."""
        se = np.linspace(0.1, 3.0, self.coef_.size).reshape(self.coef_.shape)
        z = self.coef_ / se
        return Interval(self.coef_, se, z, np.exp(-np.abs(z)), self.coef_ - 2 * se, self.coef_ + 2 * se)

    def confint(self, which: str) -> pandas.DataFrame:
        """A fifth up and down."""
        assert which == "eigenvalues"
        return pandas.DataFrame({"lower": 0.8 * self.eigenvalues_, "upper": 1.2 * self.eigenvalues_})

    @property
    def khat_(self) -> np.ndarray:
        """Rising."""
        return np.linspace(0.0, 0.9, len(self.counts_.y))


def drawn(n: int, p: int, *, q: int = 2, seed: int = 0, **settings: Any) -> Told:
    """A fit whose B and Sigma are those that its counts were drawn from; with the covariate `age` and an offset."""
    random = np.random.default_rng(seed)
    age = random.normal(size=n)
    coef = np.stack([random.normal(0.5, 0.7, p), random.normal(0, 0.4, p)])
    loads = random.normal(0, 0.7, (p, q))
    offset = random.normal(0, 0.3, n)
    z = np.column_stack([np.ones(n), age]) @ coef + random.standard_normal((n, q)) @ loads.T
    counts = pandas.DataFrame(
        random.poisson(np.exp(z + offset[:, None])), columns=[f"taxon {j}" for j in range(p)]
    )
    counts.index = [f"leaf {i}" for i in range(n)]
    data = pandas.DataFrame({"age": age}, index=counts.index)
    fit = Told(formula="~ age", **settings).fit(counts, data=data, offset=offset)
    left, values, _ = np.linalg.svd(loads, full_matrices=False)
    fit.coef_, fit.covariance_ = coef, loads @ loads.T
    fit.components_, fit.eigenvalues_, fit.loadings_ = left, values**2, left * values
    fit.latent_mean_ = (z - np.column_stack([np.ones(n), age]) @ coef) @ left / values
    return fit
