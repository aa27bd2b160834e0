"""What is told of fits under other laws of the counts: where counts lie in their law, files, pages, verdicts, doors.

Start at `FITS`: each fit is made once.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gammaln

from poplin._numerics import double_precision
from poplin.inference import departures, margins
from poplin.laws import POISSON
from poplin.report import verdicts
from tests.test_laws import LAWS as EVERY
from tests.told import drawn

COUNTS = np.array([0.0, 1.0, 2.0, 9.0, 60.0])
CENTERS = np.array([-1.0, 1.5, 4.0])


def by_brute_force(law, y: float, center: float, sd: float) -> np.ndarray:
    """P(Y = 0..y) by sums over 2001 values of the log rate (y + 1, 3)."""
    z = np.linspace(-9, 9, 2001)
    weight = np.exp(-(z**2) / 2) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    values = np.arange(y + 1)[:, None, None]
    eta = (center + sd * z)[None, :, None] + np.zeros(3)
    with double_precision():
        probability = np.exp(law.log_prob(eta + 0 * values, values + 0 * eta) - gammaln(values + 1))
    return np.einsum("ykj,k->yj", np.asarray(probability), weight)


@pytest.mark.parametrize("name", EVERY)
def test_where_counts_lie_under_any_law(name: str) -> None:
    law, values = EVERY[name]
    cases = [(y, c, sd) for y in COUNTS[COUNTS <= values[-1]] for c in CENTERS for sd in (0.05, 0.7, 2.0)]
    y, center, sd = (np.repeat(a, 3) for a in zip(*cases, strict=True))
    told = margins.placed(y, center, sd**2, law.over(lambda a: np.tile(a, len(cases))))
    for k, case in enumerate(cases):
        truth, here = by_brute_force(law, *case), slice(3 * k, 3 * k + 3)
        np.testing.assert_allclose(told.upto[here], truth.sum(axis=0), atol=2e-3)
        np.testing.assert_allclose((told.upto - told.below)[here], truth[-1], rtol=3e-2, atol=2e-5)


def test_the_closed_forms_of_poisson_are_those_of_the_sums() -> None:
    y, center, variance = (a.ravel() for a in np.meshgrid([0.0, 2.0, 9.0], [-1.0, 3.0], [0.04, 1.0, 3.0]))
    closed = margins.placed(y, center, variance)
    summed = margins.placed(y, center, variance, POISSON)
    for one, other in zip(closed[:4], summed[:4], strict=True):
        np.testing.assert_allclose(other, one, rtol=3e-2, atol=3e-3)


COMMAND = (
    "poplin fit 'my counts.csv' --likelihood=negative-binomial --out there --method variational --resume"
)


def test_the_law_to_try_is_named_with_its_command() -> None:
    changed = verdicts._with_options(COMMAND, "zero-inflated-negative-binomial", None)
    assert changed == (
        "poplin fit 'my counts.csv' --method variational --likelihood zero-inflated-negative-binomial --out DIR"
    )
    assert verdicts._with_options(COMMAND, "x", "ml").endswith("--likelihood x --method ml --out DIR")


def test_zeros_beyond_the_law_are_seen_where_variances_have_taken_them_up() -> None:
    """A Poisson-lognormal with the moments that zero-inflated counts have on the log scale, and counts of its own."""
    plain = departures.looked(drawn(400, 12, q=6, rank=6))
    inflated = drawn(400, 12, q=6, rank=6)
    random = np.random.default_rng(0)
    inflated.counts_.y[random.uniform(size=inflated.counts_.y.shape) < 0.15] = 0
    inflated.coef_[0] -= 0.3
    inflated.eigenvalues_ = 1.4 * inflated.eigenvalues_
    inflated.covariance_ = 1.4 * inflated.covariance_
    assert departures.extra_zeros(plain).p > 0.01
    found = departures.extra_zeros(departures.looked(inflated))
    assert found.p < 1e-6 and found.share > 0.01 and len(found.columns)


def test_the_size_of_the_test_of_zeros() -> None:
    """Of tables of the model 5 % are below 0.05, within four standard errors."""
    p = [
        departures.extra_zeros(departures.looked(drawn(120, 6, q=3, rank=3, seed=seed))).p
        for seed in range(60)
    ]
    below = np.mean(np.array(p) < 0.05)
    assert abs(below - 0.05) < 4 * np.sqrt(0.05 * 0.95 / len(p))
