"""What tests of the command line share: a small table with its covariates, and reading what was written.

The fixture `run`, in `conftest.py`, runs `poplin ...` with `tests.standin.StandIn` as estimator.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas

Run = Callable[..., int]
# What a page or an example begins with when a test runs it in a process of its own: programs compiled as in tests, also
# those for tables that are not small, since what tests make of them is short.
QUICKLY = """
from poplin import _numerics
_numerics.SMALL = float("inf")
quick = _numerics.hurried(tells_all=False)
quick.__enter__()
"""


def leaves(rows: int = 12) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """A small table of counts and its covariates, with names, the covariates in another order."""
    random = np.random.default_rng(3)
    names = [f"leaf{i}" for i in range(rows)]
    counts = pandas.DataFrame(random.poisson(4.0, (rows, 3)), index=names, columns=["Picea", "Ä, b", "<i>"])
    facts = {"tree": np.resize(["elm", "oak"], rows), "reads": random.integers(50, 90, rows), "half": 0.5}
    covariates = pandas.DataFrame(facts, index=names)
    return counts, covariates.iloc[::-1]


def write_leaves(folder: Path) -> None:
    """counts.csv and leaves.csv."""
    counts, covariates = leaves()
    counts.to_csv(folder / "counts.csv")
    covariates.to_csv(folder / "leaves.csv")


def table(path: Path) -> list[list[str]]:
    """The lines of a csv file."""
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.reader(handle))
