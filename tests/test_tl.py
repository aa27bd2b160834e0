"""AnnData in, AnnData out; and the estimators among those of scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.validation import check_is_fitted

import poplin
from poplin import InputError
from poplin.report import views

QUICK: dict[str, Any] = {"method": "variational", "random_state": 0}


def cells(n: int = 50, p: int = 6) -> anndata.AnnData:
    """Cells with raw counts in a layer and something else in X."""
    random = np.random.default_rng(8)
    counts = random.poisson(np.exp(1 + random.standard_normal((n, 2)) @ random.standard_normal((2, p)) / 2))
    obs = pandas.DataFrame(
        {"batch": np.resize(["a", "b"], n), "depth": random.normal(size=n)}, [f"cell{i}" for i in range(n)]
    )
    held = anndata.AnnData(np.log1p(counts), obs, pandas.DataFrame(index=[f"gene{j}" for j in range(p)]))
    held.layers["counts"] = counts
    return held


def test_what_is_written_is_the_fit(tmp_path: Path) -> None:
    held = cells()
    fit = poplin.tl.pln(held, layer="counts", formula="~ batch", offset="tss", rank=2, **QUICK)
    alone = poplin.PLN(rank=2, formula="~ batch", **QUICK).fit(
        held.layers["counts"], data=held.obs, offset="TSS"
    )
    np.testing.assert_array_equal(fit.coef_, alone.coef_)
    np.testing.assert_array_equal(held.obsm["X_poplin"], fit.latent_mean_)
    np.testing.assert_array_equal(held.varm["poplin_coef"], fit.coef_.T)
    np.testing.assert_allclose(held.varm["poplin_loadings"], fit.loadings_, atol=1e-12)
    assert list(held.uns["poplin"]["covariate_names"]) == ["Intercept", "batch[T.b]"]
    held.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(again.obsm["X_poplin"], held.obsm["X_poplin"])
    assert again.uns["poplin"]["converged"] and again.uns["poplin"]["elbo"] == fit.elbo_
    np.testing.assert_array_equal(again.varp["poplin_covariance"], fit.covariance_)


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")  # of so few iterations
@pytest.mark.parametrize("n,p,k", [(50, 3, 3), (4, 6, 4), (50, 12, 10)])
def test_small_tables_have_as_many_axes_as_they_allow(n: int, p: int, k: int) -> None:
    held = cells(n, p)
    poplin.tl.pln(held, layer="counts", **QUICK | {"max_iter": 2})
    assert held.obsm["X_poplin"].shape == (n, k)


def test_a_setting_that_there_is_not_is_told_with_those_there_are() -> None:
    with pytest.raises(
        InputError, match="poplin.tl.pln has no setting 'weights'; it has .*shrinkage.* use poplin.PLN"
    ):
        poplin.tl.pln(cells(), layer="counts", weights="depth")


def test_a_direct_form_has_the_axes_that_the_report_draws() -> None:
    held = cells()
    held.X = held.layers["counts"]
    fit = poplin.tl.pln(held, offset="depth", rank=None, key_added="full", **QUICK)
    np.testing.assert_array_equal(held.obsm["X_full"], views.embedding(fit).scores)
    np.testing.assert_array_equal(fit.counts_.offset[:, 0], held.obs["depth"])


def test_a_backed_file_is_read_and_written_beside(tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "cells.h5ad")
    held = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    poplin.tl.pln(held, layer="counts", rank=2, **QUICK)
    assert held.obsm["X_poplin"].shape == (50, 2)
    held.file.close()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a layer that is not there": ({"layer": "raw"}, "no layer 'raw'; it has 'counts'"),
    "an offset that is not there": (
        {"layer": "counts", "offset": "size"},
        "no column of obs, which has 'batch', 'depth'",
    ),
    "logarithms": ({}, "fractional count"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_fitted_is_said(kind: str) -> None:
    with pytest.raises(InputError, match=BAD[kind][1]):
        poplin.tl.pln(cells(), **BAD[kind][0])
    with pytest.raises(InputError, match="poplin.PLN"):
        poplin.tl.pln(np.ones((3, 2)))


ESTIMATORS = {
    "PLN": poplin.PLN(rank=2, **QUICK),
    "PPCA": poplin.PPCA(2),
    "Autoencoder": poplin.Autoencoder(),
    "VAE": poplin.VAE(),
    "MixtureVAE": poplin.MixtureVAE(),
    "IDEC": poplin.IDEC(),
}
CHECKS = (
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_valid_tag_types,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_checks_of_scikit_learn_that_need_no_continuous_data(name: str, check: Any) -> None:
    check(name, clone(ESTIMATORS[name]))


def test_in_a_pipeline() -> None:
    counts = cells().layers["counts"]
    line = Pipeline([("model", poplin.PLN(rank=2, **QUICK)), ("scale", StandardScaler())])
    scores = line.fit_transform(counts, model__offset="tss")
    alone = poplin.PLN(rank=2, **QUICK).fit(counts, offset="tss").latent_mean_
    np.testing.assert_allclose(scores, StandardScaler().fit_transform(alone))
    copy = clone(line).set_params(model__rank=1)
    assert copy.fit_transform(counts).shape == (50, 1) and line.named_steps["model"].rank == 2
    ends = make_pipeline(FunctionTransformer(np.rint), poplin.PLN(rank=1, **QUICK))
    assert np.isfinite(ends.fit(counts).score(counts))
    check_is_fitted(line.named_steps["model"])


def test_in_a_grid_search() -> None:
    counts = cells().layers["counts"]
    grid = GridSearchCV(poplin.PLN(**QUICK), {"rank": [1, 2]}, cv=2).fit(counts)
    assert grid.best_params_["rank"] in (1, 2) and np.isfinite(grid.cv_results_["mean_test_score"]).all()
    held = poplin.PLN(rank=1, **QUICK).fit(counts[25:]).score(counts[:25])
    np.testing.assert_allclose(grid.cv_results_["split0_test_score"][0], held)


def test_tags_say_that_no_target_is_needed() -> None:
    tags = get_tags(poplin.PLN())
    assert not tags.target_tags.required and tags.requires_fit and tags.estimator_type is None
