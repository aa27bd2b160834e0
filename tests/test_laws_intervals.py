"""Intervals of a law's own parameters as users ask for them: tables, what has none, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import poplin


@pytest.fixture(scope="module")
def fit() -> poplin.PLN:
    """Two columns: of the first half the zeros are no counts; the second has none of these."""
    random = np.random.default_rng(6)
    y = random.poisson(np.exp(1.5 + 0.5 * random.normal(size=(200, 2)))).astype(float)
    y[random.uniform(size=200) < 0.5, 0] = 0
    return poplin.PLN(likelihood="zero-inflated-poisson", method="variational").fit(y)


def test_zeros_have_intervals_where_there_are_such(fit: poplin.PLN) -> None:
    """About the logit that drew them, in the width of a share of 200 rows; none where zeros are those of counts."""
    table, errors = fit.confint("zero"), fit.standard_errors()
    first, second = table.loc["Y1"], table.loc["Y2"]
    assert list(table.index) == ["Y1", "Y2"] and table.index.name == "column"
    assert first.lower < 0 < first.upper and first.method == "wald"
    assert abs(first.probability - 1 / (1 + np.exp(-first.estimate))) < 1e-12
    assert first.probability_lower < 0.5 < first.probability_upper
    assert np.sqrt(4 / 200) < first.se < 2 * np.sqrt(4 / 200)  # of a share seen without error 1 / sqrt(n / 4)
    assert second.method == "edge" and np.isnan(second.lower)
    assert errors.dispersion is None and errors.zero is not None
    np.testing.assert_allclose(errors.zero[0], table.se)
    assert any("'Y2'" in note and "at 0" in note for note in errors.notes)
    assert "Zeros beyond those of the counts" in fit.summary()


def test_what_is_of_poisson_counts_steps_aside(fit: poplin.PLN) -> None:
    assert set(fit.confint("coef").method) == {"wald"}
    assert any("Wald's" in note for note in fit.coef_notes())
    with pytest.raises(poplin.InputError, match="has none"):
        fit.confint("dispersion")
    with pytest.raises(poplin.InputError, match="wald"):
        fit.likelihood_ratio("Intercept")


@pytest.mark.parametrize("whose", ["single", "row"])
def test_zeros_of_all_columns_together_and_of_rows(whose: str) -> None:
    """One line for all columns, or one a row; the truth where there is enough to tell it."""
    random = np.random.default_rng(7)
    y = random.poisson(np.exp(2.5 + 0.4 * random.normal(size=(60, 12)))).astype(float)
    truth = np.where(np.arange(60) < 30, 0.5, 0.2) if whose == "row" else 0.3
    y[random.uniform(size=y.shape) < np.broadcast_to(truth, 60)[:, None]] = 0
    settings = {"zero_probability": whose, "covariance": "diagonal", "method": "variational"}
    told = poplin.PLN(likelihood="zero-inflated-poisson", **settings).fit(y).confint("zero")
    if whose == "single":
        assert list(told.index) == ["all columns"] and abs(told.probability.iloc[0] - 0.3) < 4 * np.sqrt(
            0.21 / 720
        )
        assert abs(told.se.iloc[0] / np.sqrt(1 / (720 * 0.21)) - 1) < 4 / np.sqrt(
            2 * 60
        )  # from 60 rows' scores
        return
    shown = told.dropna(subset=["lower"])
    logit = np.log(truth / (1 - truth))
    assert len(told) == 60 and len(shown) > 50
    inside = [
        (low <= at <= high) for low, high, at in zip(told.lower, told.upper, logit, strict=True) if low == low
    ]
    # of a share of 12 cells seen without error 1 / sqrt(12 pi (1 - pi)); a row's own score has no spread
    size = 1 / np.sqrt(12 * told.estimate.map(lambda a: 1 / (2 + np.exp(a) + np.exp(-a))))
    assert np.all(np.abs(told.se / size - 1).dropna() < 0.2)
    assert np.mean(inside) > 0.95 - 4 * np.sqrt(0.05 * 0.95 / len(inside))
