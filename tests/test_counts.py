"""The door: whatever form a table comes in, one carrier comes out, and a bad one is one clear error.

`FORMS` are the ways to hold the same table. The bad inputs are the rows of `bad_inputs.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from poplin._errors import DataWarning, InputError
from poplin.data.counts import (
    Counts,
    as_counts,
    check_basis,
    check_covariance,
    check_rank,
)
from tests.bad_inputs import BAD_CALLS, LEAVES, TAXA, BadCall, good_counts, good_covariates, matrix


def named(y: np.ndarray) -> pd.DataFrame:
    """A table with row and column names."""
    return pd.DataFrame(y, [f"r{i}" for i in range(y.shape[0])], [f"c{j}" for j in range(y.shape[1])])


FORMS = {
    "array": lambda y: y,
    "integers": lambda y: y.astype(np.int32),
    "single precision": lambda y: y.astype(np.float32),
    "Fortran order": np.asfortranarray,
    "lists": lambda y: y.tolist(),
    "masked": lambda y: np.ma.masked_array(y),
    "frame": pd.DataFrame,
    "frame of objects": lambda y: pd.DataFrame(y, dtype=object),
    "frame of nullable": lambda y: pd.DataFrame(y).convert_dtypes(),
    "frame with names": named,
    "arrow": lambda y: pyarrow.table(pd.DataFrame(y)),
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_array,
    "coo": sparse.coo_matrix,
    "anndata": lambda y: anndata.AnnData(y, named(y).iloc[:, :0], named(y).iloc[:0].T),
    "anndata sparse": lambda y: anndata.AnnData(sparse.csr_matrix(y)),
    "text of digits": lambda y: y.astype(int).astype(str),
}

tables = hnp.arrays(
    np.float64,
    st.tuples(st.integers(2, 6), st.integers(1, 4)),
    elements=st.integers(1, 2**24).map(float) | st.just(0.0),
).map(lambda y: np.vstack([y, np.ones(y.shape[1])]))  # the last row leaves no column all zero


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@given(y=tables)
@settings(max_examples=15, deadline=None)
def test_every_form_gives_the_same_counts(form: Any, y: np.ndarray) -> None:
    counts = as_counts(form(y))
    assert np.array_equal(counts.y, y) and counts.y.dtype == np.float64
    assert np.array_equal(counts.x, np.ones((len(y), 1))) and counts.covariate_names == ("Intercept",)
    assert counts.offset.shape == y.shape and not counts.offset.any()
    assert len(counts.row_names) == y.shape[0] and len(counts.column_names) == y.shape[1]
    assert counts.row_names[0] in ("row1", "r0") and counts.column_names[0] in ("Y1", "c0")


MISSING = {
    "array": lambda y: y,
    "masked": lambda y: np.ma.masked_invalid(y),
    "None": lambda y: np.where(np.isnan(y), None, y).tolist(),
    "frame": pd.DataFrame,
    "nullable": lambda y: pd.DataFrame(y).convert_dtypes(),
    "sparse": sparse.csr_matrix,
}


@pytest.mark.parametrize("form", MISSING.values(), ids=MISSING)
def test_a_missing_count_is_nan_and_noted(form: Any) -> None:
    y = np.array([[1.0, np.nan], [np.nan, np.nan], [2.0, 3.0]])
    counts = as_counts(form(y))
    assert np.array_equal(counts.y, y, equal_nan=True)
    assert any("3 of 6 counts are missing" in note for note in counts.notes)
    assert any("without any observed count" in note and "'row2'" in note for note in counts.notes)


def test_booleans_and_very_large_counts_are_counts() -> None:
    assert np.array_equal(as_counts(np.eye(3, dtype=bool)).y, np.eye(3))
    assert as_counts([[2**53 - 1], [1]]).y[0, 0] == 2.0**53 - 1


@pytest.mark.parametrize("bad", BAD_CALLS, ids=lambda bad: bad.name)
def test_a_bad_input_is_one_clear_error(bad: BadCall) -> None:
    with pytest.raises(InputError) as caught:
        bad.call()
    message = str(caught.value)
    assert all(word in message for word in bad.words), message
    assert message.endswith(".") and len(message) < 500


def test_long_lists_of_names_are_cut() -> None:
    frame = named(np.ones((40, 2)))
    with pytest.raises(InputError, match="'r0', 'r1', 'r2', 'r3', 'r4' and 35 more"):
        as_counts(frame, X=frame.rename(lambda name: name + "x"))


def test_rows_of_zeros_are_kept_and_named() -> None:
    frame = good_counts()
    frame.loc["leaf4"] = 0
    counts = as_counts(frame)
    assert counts.y.shape == (6, 3)
    assert [note for note in counts.notes if "every count is 0" in note and "'leaf4'" in note]


@pytest.mark.parametrize("weights", [None, [0, 1, 1, 1, 1, 1]], ids=["all rows", "rows of positive weight"])
def test_columns_of_zeros_are_kept_with_a_warning(weights: Any) -> None:
    frame = good_counts().assign(birch=0)
    frame.loc["leaf1", "birch"] = 0 if weights is None else 7
    with pytest.warns(DataWarning, match="'birch'; kept finite by a weak prior: half a count spread") as told:
        counts = as_counts(frame, weights=weights)
    assert len(told) == 1 and str(told[0].message) in counts.notes


def test_a_good_table_has_nothing_to_note() -> None:
    assert as_counts(good_counts()).notes == ()


@given(order=st.permutations(range(6)), extra=st.booleans())
@settings(max_examples=20, deadline=None)
def test_rows_are_matched_by_name(order: list[int], extra: bool) -> None:
    """Covariates, offsets and weights in another order, with or without rows that Y lacks, change nothing."""
    table = good_covariates()
    X, log_reads = matrix(height=table["height"]), np.log(table["reads"])
    more = pd.concat([table, table.iloc[:1].rename({"leaf1": "leaf99"})]) if extra else table
    order = order + [6] * extra
    straight = as_counts(good_counts(), data=table, formula="~ tree + height", weights=table["reads"])
    turned = as_counts(
        good_counts(), data=more.iloc[order], formula="~ tree + height", weights=more["reads"].iloc[order]
    )
    assert same(straight, turned)
    given_x = as_counts(good_counts(), X=X.iloc[order[:6]], offset=log_reads.iloc[order[:6]])
    assert same(as_counts(good_counts(), X=X, offset=log_reads), given_x)
    if extra:
        assert any("1 of which were left out" in note for note in turned.notes)
    assert bool(given_x.notes) == (order[:6] != list(range(6)))


def same(one: Counts, other: Counts) -> bool:
    """Whether two carriers hold the same, but for their notes."""
    arrays = all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("y", "x", "offset", "weights")
    )
    names = all(
        getattr(one, name) == getattr(other, name)
        for name in ("row_names", "column_names", "covariate_names")
    )
    return arrays and names and one.design == other.design


def test_rows_without_names_are_matched_by_order_and_noted() -> None:
    bare = as_counts(good_counts().to_numpy(), data=good_covariates(), formula="~ tree")
    assert np.array_equal(bare.x, as_counts(good_counts(), data=good_covariates(), formula="~ tree").x)
    assert any("by the order of the rows, as Y has no row names" in note for note in bare.notes)


X_FORMS = {
    "array": lambda x: x,
    "lists": lambda x: x.tolist(),
    "frame": lambda x: pd.DataFrame(x, columns=["X1", "X2"]),
    "sparse": sparse.csr_matrix,
}


@pytest.mark.parametrize("form", X_FORMS.values(), ids=X_FORMS)
def test_covariates_are_used_as_given(form: Any) -> None:
    x = np.c_[np.ones(6), np.arange(6.0)]
    counts = as_counts(good_counts(), X=form(x))
    assert np.array_equal(counts.x, x) and counts.covariate_names == ("X1", "X2") and counts.notes == ()
    single = as_counts(good_counts(), X=np.arange(6.0))
    assert single.x.shape == (6, 1) and "no intercept" in single.notes[0]


OFFSETS = {
    "number": (0.5, np.full((6, 3), 0.5)),
    "a row": (np.arange(6.0), np.tile(np.arange(6.0)[:, None], 3)),
    "one column": (np.arange(6.0)[:, None], np.tile(np.arange(6.0)[:, None], 3)),
    "full": (np.arange(18.0).reshape(6, 3), np.arange(18.0).reshape(6, 3)),
    "full by name": (
        pd.DataFrame(np.arange(18.0).reshape(6, 3), list(LEAVES), list(TAXA)).iloc[::-1, ::-1],
        np.arange(18.0).reshape(6, 3),
    ),
}


@pytest.mark.parametrize(("offset", "expected"), OFFSETS.values(), ids=OFFSETS)
def test_offsets_fill_the_table(offset: Any, expected: np.ndarray) -> None:
    assert np.array_equal(as_counts(good_counts(), offset=offset).offset, expected)
    both = as_counts(
        good_counts(), offset=offset, data=good_covariates(), formula="~ offset(log(reads)) + offset(height)"
    )
    table = good_covariates()
    assert np.allclose(both.offset, expected + (np.log(table["reads"]) + table["height"]).to_numpy()[:, None])


def test_covariates_that_travel_with_the_counts_serve_the_formula() -> None:
    table = anndata.AnnData(good_counts().astype(float), obs=good_covariates())
    counts = as_counts(table, formula="~ tree")
    assert same(counts, as_counts(good_counts(), data=good_covariates(), formula="~ tree"))
    other = good_covariates().assign(tree=["elm", "oak"] * 3)
    assert np.array_equal(as_counts(table, formula="~ tree", data=other).x[:, 1], 1 - counts.x[:, 1])


def test_parts_of_a_model_pass_when_they_fit() -> None:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 2)))[0]
    frame = pd.DataFrame(basis, index=list(TAXA))
    assert np.array_equal(check_basis(basis, 3), basis)
    assert np.array_equal(check_basis(frame.iloc[::-1], 3, TAXA), basis)
    assert check_basis([1, 0, 0], 3).shape == (3, 1)
    assert check_rank(np.int64(3), 6, 3) == 3
    assert [check_covariance(shape, 3) for shape in ("full", "diagonal", "spherical")] == [
        "full",
        "diagonal",
        "spherical",
    ]
    sigma = pd.DataFrame(np.diag([1.0, 2.0, 3.0]) + 0.1, list(TAXA), list(TAXA))
    assert np.array_equal(check_covariance(sigma.iloc[::-1, [1, 0, 2]], 3, TAXA), sigma)


TABLES = {
    "trichoptera": (49, 17),
    "barents": (89, 30),
    "mollusk": (163, 32),
    "oaks": (116, 114),
    "kang_ifnb_small": (1556, 1267),
}


@pytest.mark.parametrize(("name", "shape"), TABLES.items(), ids=TABLES)
def test_real_tables_pass(shared_data: Path, name: str, shape: tuple[int, int]) -> None:
    counts = as_counts(shared_data / f"{name}.npz")
    with np.load(shared_data / f"{name}.npz") as held:
        assert counts.row_names == tuple(held["obs_names"]) and counts.column_names == tuple(
            held["var_names"]
        )
        total = held["counts" if "counts" in held else "data"].sum()
    assert counts.y.shape == shape and counts.y.sum() == total


SKEWED = {
    "too few digits": (np.ones((3, 2)), "qr.Q(qr(V)) in R"),
    "turned": (np.eye(3)[:2], "turn the file, so that it has a line for each column of the counts"),
    "other rows": (pd.DataFrame(np.eye(4)[:, :2], index=[*TAXA, "elder"]), "qr.Q(qr(V)) in R"),
}


@pytest.mark.parametrize("what", SKEWED)
def test_a_basis_is_mended_in_the_language_of_the_door(what: str) -> None:
    basis, said = SKEWED[what]
    with pytest.raises(InputError) as met:
        check_basis(basis, 3, TAXA)
    assert said in met.value.at_command_line and said not in str(met.value)
