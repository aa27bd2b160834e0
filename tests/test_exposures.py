"""Offsets that are exposures rather than their logarithms are warned of, by their values and by their names."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from poplin import DataWarning
from poplin.data.counts import Coding, as_counts, as_new_rows
from poplin.estimators import neural
from tests.bad_inputs import LEAVES, good_counts, good_covariates
from tests.commandline import Run, write_leaves

DEPTH = np.array([38.1, 47.8, 31.3, 43.8, 14.4, 12.7])
UNLOGGED = {
    "reads": np.arange(10.0, 70.0, 10.0),
    "hours": np.array([1.0, 2.0, 3.0, 1.0, 2.0, 8.0]),
    "depths": DEPTH,
    "a number": 35.0,
    "a table": np.outer(DEPTH, [1.0, 1.1, 1.2]),
    "effort": DEPTH[:, None] / 3,
}
LOGGED = {
    "nothing": None,
    "zero": 0.0,
    "by name": "tss",
    "logarithms of reads": np.log([1e4, 3e5, 2e6, 7e4, 1e5, 1e6]),
    "logarithms of shares": np.log([0.1, 0.3, 0.2, 0.7, 0.1, 1e-6]),
    "logarithms that are small": np.log1p(DEPTH / 10),
    "one number": 7.0,
    "steps from 0": np.arange(6.0),
    "indicators": np.array([0.0, 1.0] * 3),
}


@pytest.mark.parametrize("offset", UNLOGGED.values(), ids=UNLOGGED)
def test_values_that_look_like_exposures_are_warned_of(offset: Any) -> None:
    with pytest.warns(DataWarning, match=r"The offset runs from .*np\.log"):
        counts = as_counts(good_counts(), offset=offset)
    assert any("--offset 'log(reads)'" in note for note in counts.notes)
    like = Coding(counts.column_names, counts.covariate_names, counts.design)
    with warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error")
        as_new_rows(like, good_counts(), offset=offset)


@pytest.mark.parametrize("offset", LOGGED.values(), ids=LOGGED)
def test_logarithms_are_not(offset: Any) -> None:
    assert not any("log scale" in note for note in as_counts(good_counts(), offset=offset).notes)


def test_models_with_an_encoder_warn_too() -> None:
    wanted = neural.Wanted("poisson", False, (), None)
    beside = {"data": None, "weights": None}
    with pytest.warns(DataWarning, match="The offset runs from 12.7"):
        neural.training_rows(wanted, good_counts(), offset=DEPTH, **beside)
    neural.training_rows(wanted, good_counts(), offset=np.log(DEPTH), **beside)


def facts() -> pd.DataFrame:
    """Exposures small enough to be taken for their logarithms, but for their names."""
    names = ["depth", "samplingEffort", "N_READS", "log_total", "logReads", "height", "leaf area"]
    return pd.DataFrame({name: DEPTH / 20 for name in names}, index=list(LEAVES))


@pytest.mark.parametrize(
    "expression", ["depth", "samplingEffort", "N_READS / 2", "`leaf area`", "scale(depth)"]
)
def test_an_exposure_by_its_name_is_warned_of(expression: str) -> None:
    with pytest.warns(DataWarning, match="by the name is an exposure") as told:
        as_counts(good_counts(), data=facts(), formula=f"~ offset({expression})")
    assert f"offset(log({expression}))" in str(told[0].message)


@pytest.mark.parametrize("expression", ["log(depth)", "np.log(depth)", "log_total", "logReads", "height"])
def test_a_logarithm_by_its_name_is_not(expression: str) -> None:
    assert not as_counts(good_counts(), data=facts(), formula=f"~ offset({expression})").notes


def test_an_unlogged_term_is_warned_of_by_its_values() -> None:
    with pytest.warns(DataWarning, match=r"'offset\(reads\)' runs from 10 to 60"):
        as_counts(good_counts(), data=good_covariates(), formula="~ tree + offset(reads)")


def test_the_command_line_tells_it(run: Run, tmp_path: Path, capsys: Any) -> None:
    write_leaves(tmp_path)
    frame = pd.read_csv(tmp_path / "leaves.csv", index_col=0)
    frame.assign(effort=np.arange(12) % 5 / 3 + 1).to_csv(tmp_path / "leaves.csv")
    words = ("fit", "counts.csv", "--covariates", "leaves.csv", "--out", "out")
    said = {}
    for asked in ("effort", "log(effort)", "reads", "log(reads)"):
        assert run(*words, "--offset", asked) == 0
        said[asked] = " ".join(capsys.readouterr().out.split())
    assert "write --offset 'log(effort)'" in said["effort"]
    assert "The offset runs from 50" in said["reads"] and "--offset 'log(reads)'" in said["reads"]
    assert not any("Offsets are on" in said[asked] for asked in ("log(effort)", "log(reads)"))
