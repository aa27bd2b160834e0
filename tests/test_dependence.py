"""Rows that are alike within groups: said by name where they are, and no more often than told where they are not."""

from __future__ import annotations

import warnings

import numpy as np
import pandas
import pytest

import poplin
from poplin.data.counts import Counts, as_counts
from poplin.inference import departures


def table(
    spread: float, seed: int, *, groups: int = 10, size: int = 8, p: int = 3, formula: str = "~ treated"
) -> tuple[Counts, np.ndarray, np.ndarray, pandas.DataFrame]:
    """Counts in groups with levels of their own, with B and the variances that they have besides."""
    random = np.random.default_rng(seed)
    n = groups * size
    donor = np.repeat(np.arange(groups), size)
    depth = random.normal(0, 0.5, n) + 0.4 * (
        donor % 3
    )  # depth goes with the donor: an offset is no dependence
    data = pandas.DataFrame(
        {
            "donor": [f"d{k}" for k in donor],
            "treated": donor % 2,
            "plate": random.integers(0, 5, n).astype(str),
        }
    )
    coef = np.stack([np.full(p, 0.5), np.zeros(p)])
    z = coef[0] + spread * random.standard_normal((groups, p))[donor] + 0.7 * random.standard_normal((n, p))
    counts = as_counts(random.poisson(np.exp(z + depth[:, None])), formula=formula, data=data, offset=depth)
    return counts, coef[: counts.x.shape[1]], np.full(p, 0.49), data


def test_groups_whose_rows_are_alike_are_told_by_name() -> None:
    counts, coef, variance, _ = table(0.6, 0)
    found = departures.alike(counts, coef, variance)
    assert [one.name for one in found] == ["donor"] and found[0].groups == 10
    assert found[0].p < 1e-4 and 0.1 < found[0].correlation < 0.6


def test_independent_rows_are_called_as_often_as_said() -> None:
    """With depths that go with the donor and a treatment that is given to donors: p-values are uniform."""
    random, p = np.random.default_rng(0), []
    for seed in range(150):
        counts, coef, variance, _ = table(0.0, seed)
        assert counts.groups is not None
        one = departures._tested(
            "donor",
            np.asarray(counts.groups["donor"]),
            counts,
            departures.Margins(coef, variance, None),
            random,
        )
        assert one is not None
        p.append(one.p)
    for level in (0.05, 0.2, 0.5):
        assert abs(np.mean(np.array(p) < level) - level) <= 4 * np.sqrt(level * (1 - level) / len(p))


def test_a_factor_of_the_formula_and_what_it_says_are_not_called() -> None:
    counts, _, variance, data = table(0.6, 1, formula="~ donor")
    log = np.log(counts.y + 0.5) - counts.offset
    coef = np.linalg.lstsq(counts.x, log, rcond=None)[0]
    assert departures.alike(counts, coef, variance) == []
    data["same"] = data.donor  # another name for it
    counts = as_counts(counts.y, formula="~ donor", data=data, offset=counts.offset[:, 0])
    assert departures.alike(counts, coef, variance) == []


def test_tables_without_groups_cost_nothing() -> None:
    counts, coef, variance, _ = table(0.6, 2)
    assert departures.alike(counts._replace(groups=None), coef, variance) == []


@pytest.mark.parametrize(("groups", "size"), [(400, 30), (3, 9000)])
def test_of_large_tables_some_groups_and_some_of_their_rows_are_looked_at(groups: int, size: int) -> None:
    codes = np.repeat(np.arange(groups), size).astype(np.int16)
    rows = departures._rows(codes, np.ones(len(codes)), np.random.default_rng(0))
    _, count = np.unique(codes[rows], return_counts=True)
    assert (
        len(rows) <= departures.MOST_GROUP_ROWS
        and count.max() <= departures.MOST_OF_GROUP
        and count.min() >= 30
    )


def test_a_fit_warns_and_says_what_to_do() -> None:
    counts, _, _, data = table(0.6, 0)
    with pytest.warns(poplin.DataWarning, match="'donor'"):
        fit = poplin.PLN(formula="~ treated", method="variational").fit(
            counts.y, data=data, offset=counts.offset[:, 0]
        )
    said = next(words for words in fit.messages_ if "more alike" in words)
    assert "confint(cluster='donor')" in said and "--cluster donor" in said and "10 groups" in said
    assert "more alike" in fit.summary().replace("\n    ", " ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inside = poplin.PLN(formula="~ donor", method="variational").fit(
            counts.y, data=data, offset=counts.offset[:, 0]
        )
    assert not any("more alike" in words for words in inside.messages_)
