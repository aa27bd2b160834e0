"""Annotated tables: batches are read from obs, embeddings are written to obsm.

Start at `test_batches_are_taken_out_and_put_in`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

import poplin
from tests.oracles_neural import quickly as quickly

HOW: dict[str, Any] = {"likelihood": "poisson", "hidden": (8,), "kl_warmup": 2, "patience": None}


@cache
def cells() -> anndata.AnnData:
    """Two kinds of cells from two donors, who are numbers; the second donor's cells count ten times as much."""
    random = np.random.default_rng(5)
    kind, donor = np.repeat([0, 1, 0, 1], 30), np.repeat([101, 107], 60)
    rate = (
        np.array([[4.0, 1.0, 2.0, 2.0], [1.0, 4.0, 2.0, 2.0]])[kind] * np.where(donor == 107, 10, 1)[:, None]
    )
    obs = pd.DataFrame({"donor": donor, "kind": kind}, [f"cell{i}" for i in range(120)])
    return anndata.AnnData(random.poisson(rate).astype(float), obs=obs)


@cache
def fitted() -> poplin.VAE:
    return poplin.VAE(1, batch="donor", max_epochs=150, learning_rate=0.02, **HOW).fit(cells())


def test_batches_are_taken_out_and_put_in() -> None:
    data, fit = cells(), fitted()
    assert fit.coded_.design is not None and fit.shape_.covariates == 1
    other = pd.DataFrame({"donor": np.repeat([107, 101], 60)})
    swapped = fit.reconstruct(data, under=other)
    assert swapped[:60].sum(axis=1).mean() > 60 > 30 > swapped[60:].sum(axis=1).mean()
    # donors 101 and 107 are names: in between there is nothing
    with pytest.raises(poplin.InputError, match="104"):
        fit.inverse_transform(np.zeros((1, 1)), data=pd.DataFrame({"donor": [104]}))


def test_a_condition_and_a_batch_go_together() -> None:
    fit = poplin.VAE(1, batch="donor", condition="kind", max_epochs=2, **HOW).fit(cells())
    assert fit.shape_.covariates == 2
    assert fit.transform(cells()).shape == (120, 1)


def test_an_embedding_is_written_to_obsm() -> None:
    data, fit = cells().copy(), fitted()
    fit.embed(data)
    fit.embed(data, key="X_other")
    assert np.array_equal(data.obsm["X_poplin"], fit.transform(data))
    assert np.array_equal(data.obsm["X_other"], data.obsm["X_poplin"])
    with pytest.raises(poplin.InputError, match="ndarray"):
        fit.embed(data.X)


def test_a_file_keeps_the_batch(tmp_path: Any) -> None:
    fit = fitted()
    fit.save(tmp_path / "fit.npz")
    back = poplin.load(tmp_path / "fit.npz")
    assert back.batch == "donor" and np.array_equal(back.transform(cells()), fit.transform(cells()))


def test_one_batch_is_none() -> None:
    with pytest.raises(poplin.InputError, match="single level"):
        poplin.VAE(1, batch="donor", max_epochs=2, **HOW).fit(cells()[:60].copy())


def test_shifts_are_decoded_under_the_rows_own_batch_and_offset() -> None:
    data = cells()
    first, second, to = (data[data.obs["kind"] == kind].copy() for kind in (0, 1, 0))
    found = poplin.predict_shift(fitted(), first, second, to=to)
    assert np.allclose(found.without, fitted().reconstruct(to), rtol=1e-5)
    fit = poplin.VAE(1, max_epochs=30, **HOW).fit(data.X, offset=np.log(data.X.sum(axis=1)))
    depth = [np.log(group.X.sum(axis=1)) for group in (first, second, to)]
    found = poplin.predict_shift(fit, first.X, second.X, to=to.X, offset=tuple(depth))
    assert np.allclose(found.without, fit.reconstruct(to.X, offset=depth[2]), rtol=1e-5)
    assert not np.allclose(found.rows, found.without)
