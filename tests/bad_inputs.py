"""Bad inputs in Python, each of which has to be one clear error: `BAD_CALLS`, and good tables to spoil.

`words` are what the message must hold: what was found, where, and how to mend it. Bad files, for the readers
and for the command line, are in `bad_files.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from poplin.data.counts import as_counts, check_basis, check_covariance, check_rank

LEAVES = tuple(f"leaf{i}" for i in range(1, 7))
TAXA = ("alder", "birch", "cedar")
COUNTS = ((3, 0, 1), (0, 2, 5), (7, 1, 0), (2, 2, 2), (0, 4, 1), (1, 0, 9))


def good_counts() -> pd.DataFrame:
    """Six leaves by three taxa, nothing wrong with them."""
    return pd.DataFrame(COUNTS, index=list(LEAVES), columns=list(TAXA))


def good_covariates() -> pd.DataFrame:
    """A factor, a number and a total for each of the six leaves."""
    return pd.DataFrame(
        {
            "tree": ["oak", "elm", "oak", "elm", "oak", "elm"],
            "height": [1.5, 2.0, 0.5, 3.0, 2.5, 1.0],
            "reads": [10, 20, 30, 40, 50, 60],
        },
        index=list(LEAVES),
    )


def counts_with(row: str, column: str, value: Any) -> pd.DataFrame:
    """The good counts with one entry replaced."""
    frame = good_counts().astype(object if isinstance(value, str) else float)
    frame.loc[row, column] = value
    return frame


def covariates_with(row: str, column: str, value: Any) -> pd.DataFrame:
    """The good covariates with one entry replaced."""
    frame = good_covariates().astype({"reads": float})
    frame.loc[row, column] = value
    return frame


def matrix(**columns: Any) -> pd.DataFrame:
    """A design with an intercept and the columns given, one value for each leaf."""
    return pd.DataFrame({"Intercept": 1.0, **columns}, index=list(LEAVES))


class BadCall(NamedTuple):
    """A call in Python that must raise `InputError` with these words."""

    name: str
    call: Callable[[], object]
    words: tuple[str, ...]


def _calls(
    build: Callable[..., object], table: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]]
) -> list[BadCall]:
    """Rows of the table of calls: one function, its keyword arguments, the words."""
    return [
        BadCall(name, lambda given=given: build(**given), words) for name, (given, words) in table.items()
    ]


def _fit(**given: Any) -> object:
    return as_counts(given.pop("Y", good_counts()), **given)


BAD_COUNTS = {
    "negative": (
        {"Y": counts_with("leaf2", "cedar", -3)},
        ("negative", "-3", "'leaf2'", "'cedar'", "from 0"),
    ),
    "fractional": (
        {"Y": counts_with("leaf3", "alder", 0.5)},
        ("fractional", "0.5", "'leaf3'", "'alder'", "offset"),
    ),
    "infinite": ({"Y": counts_with("leaf1", "birch", np.inf)}, ("infinite", "'leaf1'", "'birch'", "NaN")),
    "too large": ({"Y": counts_with("leaf1", "birch", 2.0**54)}, ("2^53", "'leaf1'", "'birch'")),
    "text": ({"Y": counts_with("leaf4", "birch", "many")}, ("'many'", "'leaf4'", "'birch'", "no number")),
    "text in an array": ({"Y": [["a", 1], ["b", 2]]}, ("'a'", "'row1'", "'Y1'", "no number")),
    "a mapping": ({"Y": {"a": [1, 2]}}, ("no number",)),
    "nothing": ({"Y": None}, ("()", "rows and columns")),
    "no such file": ({"Y": "nowhere.csv"}, ("no file nowhere.csv",)),
    "dates": ({"Y": np.array([["2020-01-01"]] * 2, dtype="datetime64[D]")}, ("datetime64", "numbers")),
    "complex": ({"Y": np.ones((3, 2)) * 1j}, ("complex", "numbers")),
    "ragged": ({"Y": [[1, 2], [3]]}, ("different lengths",)),
    "one-dimensional": ({"Y": [1, 2, 3]}, ("(3,)", "rows and columns", "reshape")),
    "three-dimensional": ({"Y": np.ones((2, 2, 2))}, ("(2, 2, 2)", "rows and columns")),
    "no rows": ({"Y": good_counts().iloc[:0]}, ("empty", "0 rows")),
    "no columns": ({"Y": good_counts().iloc[:, :0]}, ("empty", "0 columns")),
    "one row": ({"Y": good_counts().iloc[:1]}, ("one row", "at least two")),
    "column unobserved": (
        {"Y": good_counts().assign(cedar=np.nan)},
        ("No count is observed", "'cedar'", "leave them out"),
    ),
    "column unobserved where it counts": (
        {
            "Y": counts_with("leaf1", "cedar", 1).assign(cedar=[1] + [np.nan] * 5),
            "weights": [0, 1, 1, 1, 1, 1],
        },
        ("No count is observed", "'cedar'", "positive weight"),
    ),
    "duplicated rows": ({"Y": good_counts().rename({"leaf2": "leaf1"})}, ("Duplicated row", "'leaf1'")),
    "duplicated columns": (
        {"Y": good_counts().set_axis(["alder", "alder", "cedar"], axis=1)},
        ("Duplicated column", "'alder'"),
    ),
    "half a character": (
        {"Y": good_counts().set_axis(["alder", "b\ud800", "cedar"], axis=1)},
        ("half a character", "b\\ud800", "encoding"),
    ),
    "weights negative": ({"weights": [1, 1, -1, 1, 1, 1]}, ("weight", "'leaf3'", "negative")),
    "weights nan": ({"weights": [1, 1, np.nan, 1, 1, 1]}, ("weight", "nan", "'leaf3'")),
    "weights all zero": ({"weights": np.zeros(6)}, ("Every weight is 0",)),
    "weights short": ({"weights": [1, 1]}, ("weights has 2 rows", "Y has 6")),
    "weights a matrix": ({"weights": np.ones((6, 3))}, ("weights", "(6, 3)", "(6,)")),
}

BAD_COVARIATES = {
    "covariate nan": (
        {"X": matrix(height=[1, np.nan, 3, 4, 5, 7])},
        ("covariate", "nan", "'leaf2'", "'height'", "Fill it in"),
    ),
    "covariate infinite": ({"X": matrix(height=[1, 2, np.inf, 4, 5, 7])}, ("inf", "'leaf3'", "'height'")),
    "covariate text": ({"X": good_covariates()}, ("'oak'", "'leaf1'", "'tree'", "formula")),
    "covariate constant": ({"X": matrix(depth=3.0)}, ("'depth'", "constant", "'Intercept'", "Leave")),
    "covariate zero": ({"X": matrix(depth=0.0)}, ("'depth'", "0 in every row")),
    "covariates collinear": (
        {"X": matrix(a=[1, 2, 3, 4, 5, 7], b=[2, 1, 3, 1, 5, 2], c=[3, 3, 6, 5, 10, 9])},
        ("collinear", "'a'", "'b'", "'c'", "leave out one"),
    ),
    "covariate nearly constant": (
        {"X": matrix(time=1e12 + np.array([1, 2, 4, 3, 5, 9.0]))},
        ("collinear", "'time'", "'Intercept'", "centre"),
    ),
    "covariate huge in a cell": (
        {"X": matrix(a=[1, 2, 3, 4, 5, 7], b=[1, 2, 1e200, 4, 5, 6])},
        ("'b'", "1e+200", "another unit"),
    ),
    "covariate tiny": ({"X": matrix(a=1e-200 * np.arange(1.0, 7.0))}, ("'a'", "6e-200", "another unit")),
    "interaction without rows in a cell": (
        {
            "data": good_covariates()
            .assign(side=["n", "s", "n", "s", "n", "s"])
            .assign(part=["a", "a", "b", "a", "b", "a"]),
            "formula": "~ side * part",
        },
        ("'side[T.s]:part[T.b]'", "0 in every row", "write + in place of *"),
    ),
    "interaction that another column tells": (
        {
            "data": good_covariates().assign(part=["b", "a", "b", "a", "a", "a"]),
            "formula": "~ tree * part",
        },
        ("collinear", ":", "combination of levels", "write + in place of *"),
    ),
    "covariates equal where weighed": (
        {"X": matrix(a=[1, 2, 3, 4, 5, 7], b=[9, 2, 3, 4, 5, 7]), "weights": [0, 1, 1, 1, 1, 1]},
        ("collinear", "'a'", "'b'"),
    ),
    "covariates many": (
        {"X": np.random.default_rng(0).normal(size=(6, 6))},
        ("6 covariates", "6 rows", "fewer"),
    ),
    "covariates few rows weighed": (
        {"X": np.c_[np.ones(6), np.arange(6.0)], "weights": [1, 1, 0, 0, 0, 0]},
        ("2 covariates", "2 rows"),
    ),
    "covariates short": ({"X": np.ones((5, 1))}, ("X has 5 rows", "Y has 6")),
    "covariates three-dimensional": ({"X": np.ones((6, 2, 2))}, ("X", "(6, 2, 2)", "(n, d)")),
    "covariates none": ({"X": np.ones((6, 0))}, ("X", "(6, 0)")),
    "covariate rows missing": (
        {"X": matrix(a=np.arange(6.0)).drop(["leaf2", "leaf5"])},
        ("X lacks 2", "'leaf2', 'leaf5'", "by name"),
    ),
    "covariate rows duplicated": (
        {"X": matrix(a=np.arange(6.0)).rename({"leaf2": "leaf1"})},
        ("Duplicated row", "'leaf1'", "X"),
    ),
    "covariate names duplicated": (
        {"X": matrix(a=np.arange(6.0)).set_axis(["a", "a"], axis=1)},
        ("Duplicated", "'a'"),
    ),
    "table rows missing": (
        {"data": good_covariates().iloc[:4], "formula": "~ tree"},
        ("data lacks 2", "'leaf5', 'leaf6'"),
    ),
    "table rows of other names": (
        {"data": good_covariates().rename(lambda name: name.upper()), "formula": "~ tree"},
        ("data lacks 6", "'leaf1'", "'LEAF1'"),
    ),
    "table too short": (
        {"data": good_covariates().reset_index().iloc[:4], "formula": "~ tree"},
        ("data has 4 rows", "6"),
    ),
    "table of no kind": ({"data": 3, "formula": "~ tree"}, ("int", "DataFrame")),
    "table ragged": ({"data": {"a": [1, 2], "b": [1]}, "formula": "~ a"}, ("no table", "equal length")),
    "table without formula": ({"data": good_covariates()}, ("without a formula", "formula='~ tree'")),
    "formula without table": ({"formula": "~ tree"}, ("table", "`data`")),
    "formula and X": (
        {"formula": "~ tree", "X": np.ones((6, 1)), "data": good_covariates()},
        ("Both X", "formula"),
    ),
}

BAD_OFFSETS = {
    "offset -inf": ({"offset": [0, 0, -np.inf, 0, 0, 0]}, ("-inf", "'leaf3'", "a missing count is NaN in Y")),
    "offset nan": (
        {"offset": pd.DataFrame(0.0, index=list(LEAVES), columns=list(TAXA)).replace(0.0, np.nan)},
        ("nan", "'leaf1'", "'alder'", "17 more"),
    ),
    "offset infinite": ({"offset": np.inf}, ("offset", "inf", "log scale")),
    "offset of a column": ({"offset": [0, 0, 0]}, ("offset has 3 rows", "6")),
    "offset wide": ({"offset": np.zeros((6, 2))}, ("offset", "(6, 2)", "(6, 3)", "log scale")),
    "offset deep": ({"offset": np.zeros((6, 3, 1))}, ("offset", "(6, 3, 1)")),
    "offset of no known name": ({"offset": "depth"}, ("'depth'", "'tss'", "log")),
    "offset of other columns": (
        {"offset": pd.DataFrame(0.0, index=list(LEAVES), columns=["alder", "birch", "elder"])},
        ("offset lacks", "'cedar'"),
    ),
    "offset rows missing": (
        {"offset": pd.Series(0.0, index=list(LEAVES[1:]))},
        ("offset lacks 1", "'leaf1'"),
    ),
}

SIGMA = np.eye(3) + 0.5
BAD_PARTS = {
    "basis skewed": (lambda: check_basis(np.ones((3, 2)), 3), ("not orthonormal", "V'V", "numpy.linalg.qr")),
    "basis transposed": (lambda: check_basis(np.eye(3)[:2], 3), ("(2, 3)", "(3, q)", "V.T")),
    "basis wide": (lambda: check_basis(np.ones((3, 4)), 3), ("(3, 4)", "q <= 3")),
    "basis nan": (
        lambda: check_basis([[0], [np.nan], [0]], 3, TAXA),
        ("basis V is nan", f"row '{TAXA[1]}', column '1'"),
    ),
    "basis of other columns": (
        lambda: check_basis(pd.DataFrame(np.eye(3), index=["alder", "birch", "elder"]), 3, TAXA),
        ("basis V lacks rows for 1 of the 3", "'cedar'", "begin with 'alder', 'birch', 'elder'"),
    ),
    "basis of more columns": (
        lambda: check_basis(pd.DataFrame(np.eye(4)[:, :2], index=[*TAXA, "elder"]), 3, TAXA),
        ("rows that are no columns of Y: 'elder'", "Leave them out", "numpy.linalg.qr(V)"),
    ),
    "rank too large": (lambda: check_rank(4, 6, 3), ("rank is 4", "min(6, 3)")),
    "rank zero": (lambda: check_rank(0, 6, 3), ("rank is 0",)),
    "rank fractional": (lambda: check_rank(1.5, 6, 3), ("rank is 1.5", "whole number")),
    "rank true": (lambda: check_rank(True, 6, 3), ("rank is True",)),
    "covariance unknown": (
        lambda: check_covariance("round", 3),
        ("'round'", "'full', 'diagonal', 'spherical'"),
    ),
    "covariance of other size": (lambda: check_covariance(np.eye(2), 3), ("(2, 2)", "(3, 3)")),
    "covariance asymmetric": (
        lambda: check_covariance(SIGMA + np.eye(3, k=1), 3),
        ("not symmetric", "(S + S.T) / 2"),
    ),
    "covariance indefinite": (
        lambda: check_covariance(SIGMA - 2 * np.eye(3), 3),
        ("not positive definite", "eigenvalue is -1"),
    ),
    "covariance singular": (lambda: check_covariance(np.ones((3, 3)), 3), ("not positive definite",)),
    "covariance nan": (lambda: check_covariance(np.full((3, 3), np.nan), 3), ("covariance", "NaN")),
}

BAD_CALLS = [
    *_calls(_fit, BAD_COUNTS),
    *_calls(_fit, BAD_COVARIATES),
    *_calls(_fit, BAD_OFFSETS),
    *(BadCall(name, call, words) for name, (call, words) in BAD_PARTS.items()),
]
