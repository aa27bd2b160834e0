"""Rows that a fitted model has not seen: coded as in the fit, matched by name, or one clear error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from poplin._errors import InputError
from poplin.data.counts import Coding, Counts, as_counts, as_covariates, as_new_rows
from tests.bad_inputs import LEAVES, TAXA, good_counts, good_covariates, matrix


def coding(counts: Counts) -> Coding:
    """What a fitted model remembers of the counts."""
    return Coding(counts.column_names, counts.covariate_names, counts.design)


FITS = {
    "intercept": {},
    "X": {"X": matrix(height=good_covariates()["height"])},
    "formula": {"data": good_covariates(), "formula": "~ tree + center(height) + offset(log(reads))"},
}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize("rows", [[0], [4, 1], [5, 4, 3, 2, 1, 0]], ids=str)
def test_training_rows_come_back_as_they_were(fit: dict[str, Any], rows: list[int]) -> None:
    """New rows that are training rows, with columns in another order, are coded as in the fit."""
    counts = as_counts(good_counts(), **fit)
    later = {name: value.iloc[rows] for name, value in fit.items() if name != "formula"}
    new = as_new_rows(coding(counts), good_counts().iloc[rows, ::-1], **later)
    x, offset = as_covariates(coding(counts), len(rows), **later)
    assert np.array_equal(new.y, counts.y[rows]) and new.column_names == counts.column_names
    for found in (new.x, x):
        assert np.array_equal(found, counts.x[rows])
    for found in (new.offset, offset):
        assert np.array_equal(found, counts.offset[rows])


FULL = np.arange(18.0).reshape(6, 3)
NEW_OFFSETS = {
    "in the order of Y": FULL[:, ::-1],
    "by name": pd.DataFrame(FULL, list(LEAVES), list(TAXA)),
    "a row": FULL[:, 0],
}


@pytest.mark.parametrize("name", NEW_OFFSETS)
def test_offsets_follow_the_columns_of_new_rows(name: str) -> None:
    like = coding(as_counts(good_counts()))
    expected = np.tile(FULL[:, :1], 3) if name == "a row" else FULL
    new = as_new_rows(like, good_counts().iloc[:, ::-1], offset=NEW_OFFSETS[name])
    assert np.array_equal(new.offset, expected)
    if name != "in the order of Y":
        part = as_new_rows(like, good_counts()[["birch"]], offset=NEW_OFFSETS[name], partial=True)
        assert np.array_equal(part.offset, expected)


def test_columns_by_position_when_the_fit_had_no_names() -> None:
    like = coding(as_counts(good_counts().to_numpy()))
    new = as_new_rows(like, good_counts(), offset=pd.DataFrame(FULL, list(LEAVES), list(TAXA)).iloc[:, ::-1])
    assert np.array_equal(new.y, good_counts()) and np.array_equal(new.offset, FULL)


def test_columns_not_given_are_missing_counts_when_allowed() -> None:
    like = coding(as_counts(good_counts()))
    new = as_new_rows(like, good_counts()[["cedar", "alder"]], partial=True)
    assert np.isnan(new.y[:, 1]).all() and np.array_equal(new.y[:, [0, 2]], good_counts()[["alder", "cedar"]])


WRONG_ROWS = {
    "column lacking": (
        lambda like: as_new_rows(like, good_counts()[["alder"]]),
        ("lacks", "'birch', 'cedar'"),
    ),
    "column unknown": (
        lambda like: as_new_rows(like, good_counts().assign(elder=1)),
        ("'elder'", "not fitted"),
    ),
    "columns by number": (lambda like: as_new_rows(like, np.ones((2, 2))), ("2 columns", "fitted on 3")),
    "no columns shared": (
        lambda like: as_new_rows(like, good_counts().add_prefix("x"), partial=True),
        ("lacks", "'alder'"),
    ),
    "offset for some columns": (
        lambda like: as_new_rows(
            like, good_counts()[["cedar", "alder"]], offset=np.ones((6, 2)), partial=True
        ),
        ("offset", "(6, 2)", "(6, 3)"),
    ),
    "negative": (lambda like: as_new_rows(like, -good_counts()), ("negative", "'leaf1'")),
    "X lacking": (
        lambda like: as_new_rows(like._replace(covariate_names=("a", "b")), good_counts()),
        ("X is missing", "'a'"),
    ),
    "X narrow": (
        lambda like: as_new_rows(like._replace(covariate_names=("a", "b")), good_counts(), X=np.ones(6)),
        ("1 covariates", "fitted with 2"),
    ),
    "X of other names": (
        lambda like: as_new_rows(
            like._replace(covariate_names=("Intercept", "b")), good_counts(), X=matrix(a=1.0)
        ),
        ("lacks", "'b'"),
    ),
    "data for X": (
        lambda like: as_new_rows(like, good_counts(), data=good_covariates()),
        ("without a formula",),
    ),
    "X for data": (
        lambda like: as_new_rows(as_fitted(like), good_counts(), X=np.ones((6, 2))),
        ("formula '~ tree'", "`data`"),
    ),
    "data lacking": (lambda like: as_covariates(as_fitted(like), 6), ("formula needs the table",)),
    "level unknown": (
        lambda like: as_covariates(as_fitted(like), 6, data=good_covariates().assign(tree="ash")),
        ("'tree'", "'ash'", "'elm', 'oak'"),
    ),
}


def as_fitted(like: Coding) -> Coding:
    """The same columns after a fit with a formula."""
    counts = as_counts(good_counts(), data=good_covariates(), formula="~ tree")
    return like._replace(covariate_names=counts.covariate_names, design=counts.design)


@pytest.mark.parametrize(("call", "words"), WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_rows_that_do_not_fit_the_model_are_one_clear_error(call: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        call(coding(as_counts(good_counts())))
    assert all(word in str(caught.value) for word in words), str(caught.value)
