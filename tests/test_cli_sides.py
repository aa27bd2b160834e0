"""What goes beside the counts at the command line: covariates, offsets, weights, names, layers.

The stand-in takes the place of the estimator, so that what it was given can be looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from tests.annotated import stored
from tests.commandline import Run, leaves, table, write_leaves
from tests.standin import StandIn


def test_covariates_that_travel_with_the_counts_serve_a_formula(run: Run, tmp_path: Path) -> None:
    counts, covariates = leaves()
    np.savez(
        tmp_path / "leaves.npz", counts=counts.to_numpy(), cov_tree=covariates["tree"].to_numpy(dtype="U3")
    )
    assert run("fit", "leaves.npz", "--formula", "~ tree", "--out", "out", "--quiet") == 0
    assert {line[0] for line in table(Path("out/coef.csv"))[1:]} == {"Intercept", "tree[T.oak]"}


def test_offset_and_weights_are_columns_matched_by_name(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    write_leaves(tmp_path)
    fitted: list[Any] = []
    fit = StandIn.fit
    monkeypatch.setattr(
        StandIn, "fit", lambda self, Y, **more: fitted.append(fit(self, Y, **more)) or fitted[0]
    )
    options = ("--covariates", "leaves.csv", "--offset", "half", "--weights", "reads", "--out", "out")
    assert run("fit", "counts.csv", *options) == 0
    counts = fitted[0].counts_
    np.testing.assert_array_equal(counts.offset, np.full((12, 3), 0.5))
    np.testing.assert_array_equal(counts.weights, leaves()[1]["reads"].loc[list(counts.row_names)])


def test_an_offset_may_be_a_table_with_a_column_for_each_of_the_counts(
    run: Run, tmp_path: Path, monkeypatch: Any
) -> None:
    """Read totals that differ between groups of columns; rows and columns in another order than the counts'."""
    write_leaves(tmp_path)
    counts = leaves()[0]
    totals = pandas.DataFrame(
        10.0 + np.arange(counts.size).reshape(counts.shape), counts.index, counts.columns
    )
    totals.iloc[::-1, ::-1].to_csv(tmp_path / "totals.csv", index_label="leaf_id")
    fitted: list[Any] = []
    fit = StandIn.fit
    monkeypatch.setattr(
        StandIn, "fit", lambda self, Y, **more: fitted.append(fit(self, Y, **more)) or fitted[-1]
    )
    for asked, expected in {"totals.csv": totals, "log(totals.csv)": np.log(totals)}.items():
        assert run("fit", "counts.csv", "--offset", asked, "--out", "out", "--quiet") == 0
        held = fitted[-1].counts_
        assert held.column_names == tuple(counts.columns)
        np.testing.assert_array_equal(held.offset, expected.loc[list(held.row_names)])
    options = ("--covariates", "leaves.csv", "--offset", "log(reads)", "--out", "out", "--quiet")
    assert run("fit", "counts.csv", *options) == 0
    held = fitted[-1].counts_
    np.testing.assert_array_equal(
        held.offset[:, 0], np.log(leaves()[1]["reads"].loc[list(held.row_names)].to_numpy())
    )


@pytest.mark.parametrize("where", ["counts", "covariates", "both"])
def test_row_names_may_be_named_in_either_file(run: Run, tmp_path: Path, where: str) -> None:
    counts, covariates = leaves()
    numbers = {name: 100 + i for i, name in enumerate(counts.index)}
    for frame, file, named in ((counts, "c.csv", "counts"), (covariates, "x.csv", "covariates")):
        plain = "plot" if where in (named, "both") else ""
        frame.rename(index=numbers).rename_axis(plain).to_csv(tmp_path / file)
    options = ("--covariates", "x.csv", "--formula", "~ tree", "--row-names", "plot", "--out", "out", "-q")
    assert run("fit", "c.csv", *options) == 0
    assert [line[0] for line in table(Path("out/embedding.csv"))[1:]] == [str(100 + i) for i in range(12)]


@pytest.mark.parametrize("source", ["a.h5ad", "a.zarr"])
def test_an_anndata_file_gets_its_embedding(run: Run, tmp_path: Path, source: str) -> None:
    import anndata

    counts, covariates = leaves()
    numbers = counts.to_numpy(dtype=float)
    held = anndata.AnnData(numbers / 3, covariates.loc[counts.index], layers={"raw": numbers})
    stored(tmp_path / source, held)
    options = ("--layer", "raw", "--formula", "~ tree", "--rank", "2", "--h5ad-out", "b.h5ad")
    assert run("fit", source, *options, "--out", "out", "--quiet") == 0
    assert anndata.read_h5ad(tmp_path / "b.h5ad").obsm["X_poplin"].shape == (12, 2)
