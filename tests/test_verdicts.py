"""What the report says in plain words: nothing to say of a true model, and the right thing of a wrong one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from poplin.report import figures, html, verdicts
from tests.told import drawn


def said(fit: Any) -> dict[str, verdicts.Verdict]:
    """The verdicts by what they are about."""
    return {one.about: one for one in verdicts.verdicts(fit, verdicts.found(fit))}


def test_of_the_true_model_all_is_well() -> None:
    found = said(drawn(400, 12, q=6, rank=6))
    assert all(one.good for one in found.values()), found


def test_zeros_that_the_model_does_not_explain_are_told() -> None:
    fit = drawn(400, 12, q=6, rank=6)
    fit.counts_.y[np.random.default_rng(0).uniform(size=fit.counts_.y.shape) < 0.3] = 0
    found = said(fit)
    assert not found["Zeros"].good and "zeros too many" in found["Zeros"].words
    assert "likelihood='zero-inflated-poisson'" in found["Zeros"].words
    assert not found["Margins of the counts"].good


def test_variances_that_are_too_large_are_told() -> None:
    fit = drawn(400, 12, q=6, rank=6)
    fit.covariance_, fit.eigenvalues_ = 9 * fit.covariance_, 9 * fit.eigenvalues_
    found = said(fit)
    assert "vary less than the fitted variances" in found["Margins of the counts"].words


def test_rare_columns_and_few_rows_are_told_by_name() -> None:
    fit = drawn(30, 12, q=6)
    fit.loadings_ = None
    fit.counts_.y[:, 3] = 0
    found = said(fit)
    assert "'taxon 3'" in found["Rare columns"].words and not found["Rare columns"].good
    assert "30 rows for 12 columns" in found["Rows for the covariance"].words


def test_the_log_likelihood_is_judged_only_once_it_is_there() -> None:
    fit = drawn(40, 4)
    assert "Log-likelihood" not in said(fit)
    fit._marginal = SimpleNamespace(khat=fit.khat_)  # what `PLN` keeps once it has been asked
    assert not said(fit)["Log-likelihood"].good and "'leaf 39'" in said(fit)["Log-likelihood"].words


def test_the_page_draws_khat_where_it_is_known_already() -> None:
    fit = drawn(400, 5)
    assert figures.khat(fit) is None
    fit._marginal = SimpleNamespace(khat=fit.khat_)
    picture = figures.khat(fit)
    assert picture is not None
    names = [shape.at["data-name"] for shape in picture.chart.shapes if shape.tag == "circle"]
    assert len(names) == 300 and names[-1] == "leaf 399: 0.90" and "The 300 largest of 400" in picture.caption
    assert "Pareto k-hat" in html.page(fit)
