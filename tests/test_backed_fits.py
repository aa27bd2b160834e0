"""Fits of tables that stay on disk: those of the table in memory, kept, stopped, and broken off.

Start at `test_a_fit_is_that_of_the_table_in_memory`; the tables are in `ondisk.py`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import poplin
from poplin.data import held, streams
from poplin.data.counts import as_counts
from poplin.fitting import driver, recipes
from poplin.job import Inputs, prepare
from poplin.report import files
from poplin.report.views import residuals
from tests.ondisk import (
    CELLS,
    GENES,
    PIECE,
    QUICK,
    N,
    P,
    Y,
    kept,
    with_entries,
)

FIT: dict[str, Any] = {"rank": 2, "max_iter": 12}


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
@pytest.mark.parametrize("name", QUICK)
def test_a_fit_is_that_of_the_table_in_memory(
    name: str, tmp_path: Path, small: None, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows in memory are dealt in runs, too, blocks hold the same ones, and the numbers are the same bits."""
    monkeypatch.setattr(streams, "is_on_disk", lambda y: True)
    fit = poplin.PLN(**FIT).fit(kept(tmp_path, name)[0])
    other = _in_memory()
    assert np.array_equal(fit.coef_, other.coef_) and np.array_equal(fit.covariance_, other.covariance_)
    assert max(asked) <= PIECE // P
    if name != "h5ad":
        return
    assert np.array_equal(fit.latent_mean_, other.latent_mean_) and fit.elbo_ == other.elbo_
    fit.seconds_ = other.seconds_
    assert fit.summary() == other.summary()
    assert np.array_equal(residuals(fit).value, residuals(other).value)
    assert np.array_equal(fit.standard_errors().coef, other.standard_errors().coef)
    assert np.array_equal(fit.transform(tmp_path / "y.h5ad"), other.transform(tmp_path / "y.h5ad"))
    assert max(asked) <= PIECE // P


@cache
def _in_memory() -> Any:
    names = pd.DataFrame(Y, CELLS, GENES).iloc[:, :0], pd.DataFrame(index=GENES)
    return poplin.PLN(**FIT).fit(anndata.AnnData(sparse.csr_matrix(Y), *names))


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
def test_a_fit_by_runs_ends_where_that_of_all_rows_does(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Both to half a tenth of complete-data standard errors, as in `test_streams.py`."""
    settings: dict[str, Any] = {"covariance": "diagonal", "tol": 0.05, "max_iter": 1500}
    whole = poplin.PLN(**settings).fit(Y)
    errors = whole.standard_errors()
    request.getfixturevalue("small")
    fit = poplin.PLN(**settings).fit(kept(tmp_path, "h5ad")[0])
    free = errors.covariance > 0
    apart = [
        ((fit.coef_ - whole.coef_) / errors.coef).ravel(),
        ((fit.covariance_ - whole.covariance_)[free] / errors.covariance[free]).ravel(),
    ]
    assert max(np.sqrt(np.mean(gap**2)) for gap in apart) < 0.2


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
def test_a_kept_fit_finds_its_counts_again(tmp_path: Path, small: None) -> None:
    """In the file where they were, or beside the fit; where they are gone, that is said when they are asked for."""
    (tmp_path / "there").mkdir()
    given, _ = kept(tmp_path / "there", "h5ad, opened")
    fit = poplin.tl.pln(given, rank=2, max_iter=5)
    assert given.obsm["X_poplin"].shape == (N, 2)
    given.file.close()  # the fit opens it again
    latent = fit.latent_mean_
    assert np.array_equal(given.obsm["X_poplin"], latent)
    fit.save(tmp_path / "fit.npz")
    assert np.array_equal(poplin.load(tmp_path / "fit.npz").latent_mean_, latent)
    files.write_h5ad(fit, tmp_path / "there" / "y.h5ad", tmp_path / "fitted.h5ad")
    written = anndata.read_h5ad(tmp_path / "fitted.h5ad")
    assert np.array_equal(written.X.toarray(), Y) and written.obsm["X_poplin"].shape == (N, 2)

    (tmp_path / "there" / "y.h5ad").rename(tmp_path / "y.h5ad")
    again = poplin.load(tmp_path / "fit.npz")
    assert np.array_equal(again.latent_mean_, latent)
    (tmp_path / "y.h5ad").unlink()
    gone = poplin.load(tmp_path / "fit.npz")
    assert np.array_equal(gone.coef_, fit.coef_)
    with pytest.raises(poplin.InputError, match="stay on disk, in .*y.h5ad"):
        gone.latent_mean_  # noqa: B018


@pytest.mark.parametrize("name", QUICK)
def test_a_checkpoint_knows_the_table_again(name: str, tmp_path: Path, small: None) -> None:
    settings = recipes.checked(poplin.PLN().get_params())
    facts = []
    for folder, y in (("one", Y), ("two", Y), ("three", with_entries((5, 1, 77.0)))):
        (tmp_path / folder).mkdir()
        facts.append(driver.facts(as_counts(kept(tmp_path / folder, name, y)[0]), settings))
    assert facts[0] == facts[1] != facts[2]


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
def test_a_fit_is_interrupted_and_broken_off_cleanly(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, _ = kept(tmp_path, "h5ad")

    def stop(told: Any) -> None:
        if told.phase == "ml" and told.iteration == 3:
            raise KeyboardInterrupt

    assert poplin.PLN(**FIT, callback=stop).fit(given).interrupted_

    def cut(told: Any) -> None:
        if told.phase == "ml":
            monkeypatch.setattr(held.SparseRows, "read", _broken)

    with pytest.raises(poplin.InputError, match="cannot be read: .*y.h5ad. The disk is gone"):
        poplin.PLN(**FIT, callback=cut).fit(given)


def _broken(*_: Any) -> Any:
    raise OSError("The disk is gone.")


def test_the_command_takes_covariates_that_travel_with_a_large_table(tmp_path: Path, small: None) -> None:
    given, _ = kept(tmp_path, "h5ad")
    job = prepare(Inputs(given, formula="~ depth", colour="depth"), {}, tmp_path / "out")
    assert held.is_on_disk(job.table.values) and list(job.data.columns) == ["depth"]
