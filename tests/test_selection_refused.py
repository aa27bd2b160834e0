"""What cannot be chosen between, or not divided into folds, is said and not fitted.

Start at `WRONG`: arguments of `poplin.select`, and words of the error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import poplin
from poplin._errors import InputError
from tests.instances import orthonormal
from tests.test_selection import TWO

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"rank": 2}, "give ranks"),
    "covariance": ({"covariance": "full"}, "give covariances"),
    "criterion": ({"criterion": "likelihood"}, "criterion='likelihood'"),
    "no criterion": ({"criterion": ()}, "criterion is empty"),
    "folds": ({"folds": 1}, "folds=1"),
    "many folds": ({"folds": 1000}, "only 300 rows"),
    "short folds": ({"folds": [0, 1]}, "a label for each"),
    "one fold": ({"folds": np.zeros(300)}, "one label"),
    "ranks": ({"ranks": "all"}, "ranks='all'"),
    "number": ({"ranks": 3}, "sequences"),
    "too high": ({"ranks": [9]}, "rank is 9"),
    "nothing": ({"ranks": ()}, "Nothing to choose from"),
    "lost covariate": ({"folds": (TWO.x[:, 1] > 5).astype(int), "ranks": [1]}, "one label"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_chosen_is_said(wrong: str) -> None:
    given, words = WRONG[wrong]
    with pytest.raises(InputError, match=words):
        poplin.select(TWO.y, X=TWO.x, **given)


def test_folds_that_lose_a_covariate_are_said() -> None:
    group = (np.arange(300) < 150).astype(float)
    with pytest.raises(InputError, match="apart"):
        poplin.select(TWO.y, X=np.column_stack([np.ones(300), group]), folds=group, ranks=[1])


def test_rank_auto_goes_with_a_full_covariance_only() -> None:
    with pytest.raises(InputError, match="rank goes with covariance='full'"):
        poplin.PLN(rank="auto", covariance="diagonal").fit(TWO.y)
    with pytest.raises(InputError, match="Both rank and basis"):
        poplin.PLN(rank="auto", basis=orthonormal(8, 2)).fit(TWO.y)
