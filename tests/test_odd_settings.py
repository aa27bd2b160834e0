"""What a beginner may hand to `PPCA` and the networks: odd tables, odd settings, what was not fitted; one line each.

Start at `SETTINGS`; none of these compiles a network, as all are refused before.
"""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pytest

import poplin
from poplin import InputError
from poplin.fitting.training import describe

TABLE = np.random.default_rng(0).poisson(3.0, (12, 4)).astype(float)
SETTINGS: dict[str, tuple[Any, ...]] = {
    "n_components": (0, -1, 2.5, "2", None, True),
    "hidden": ((0,), "a", (2.5,), (4, -1), 0, None),
    "beta": (-1, "a", float("nan"), None),
    "draws": (0, 1.5),
    "importance": (0, 2.5),
    "max_epochs": (0, 2.5, "3"),
    "batch_size": (0, 2.5),
    "learning_rate": (0, -1, "fast", float("inf")),
    "kl_warmup": (-1, 1.5),
    "validation_fraction": (1, -0.1, "x"),
    "patience": (0, -1, 2.5),
    "random_state": (None, -1, "a", np.random.default_rng(0)),
    "callback": (3,),
    "binarise": ("yes",),
}


@pytest.mark.parametrize(
    "name,value", [(name, value) for name, values in SETTINGS.items() for value in values]
)
def test_a_setting_of_another_kind_is_told(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^{name}=.*; wanted is "):
        poplin.VAE(**{name: value}).fit(TABLE)


TABLES: dict[str, tuple[Any, Any, str]] = {
    "one column": (poplin.PPCA(1), TABLE[:, :1], "Y has one column; principal components need at least two"),
    "rows that are the same": (poplin.PPCA(2), np.ones((9, 4)), "Y does not vary: all rows"),
    "two rows": (poplin.PPCA(2), TABLE[:2], "varies in 1 direction only .* Add rows that differ"),
    "three rows": (poplin.PPCA(2), TABLE[:3], "varies in 2 directions only .* at most 1 components"),
    "numbers too large for squares": (poplin.PPCA(2), TABLE * 1e160, r"more than 1e\+150 in size. Divide Y"),
    "numbers too large for a network": (poplin.VAE(2), TABLE * 1e30, r"more than 1e\+18 in size. Divide Y"),
    "categories without end": (
        poplin.VAE(2, likelihood="categorical"),
        TABLE * 1e12,
        "not a category. .* at most 1000 of them",
    ),
    "a layer of an array": (
        poplin.VAE(2, layer="counts"),
        TABLE,
        "layer='counts' is of an AnnData, and Y is of",
    ),
    "a basis of other rows": (
        poplin.VAE(2, likelihood="poisson-lognormal", basis=np.eye(3)[:, :2]),
        TABLE,
        r"The basis V has the shape \(3, 2\); wanted is \(4, q\)",
    ),
    "a basis of other width": (
        poplin.VAE(2, likelihood="poisson-lognormal", basis=np.eye(4)[:, :3]),
        TABLE,
        "The basis V has 3 columns and n_components=2",
    ),
}


@pytest.mark.parametrize("what", TABLES)
def test_a_table_that_cannot_be_fitted_is_told(what: str) -> None:
    model, table, said = TABLES[what]
    with pytest.raises(InputError, match=said):
        model.fit(table)


def test_the_layer_of_a_file_is_the_one_that_is_read(tmp_path: Any) -> None:
    held = anndata.AnnData(np.zeros_like(TABLE), layers={"counts": TABLE})
    held.write_h5ad(tmp_path / "a.h5ad")
    found = [
        poplin.data.counts.as_values(given, layer="counts").y  # type: ignore[attr-defined]
        for given in (held, tmp_path / "a.h5ad")
    ]
    assert all(np.array_equal(y, TABLE) for y in found)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e9])
def test_units_are_those_of_the_table(scale: float) -> None:
    y = np.column_stack([TABLE, np.full(len(TABLE), 3.0), np.zeros(len(TABLE))]) * scale
    found = describe(y, np.zeros((len(y), 1)), counts=False).unit
    assert np.allclose(found, [*(TABLE.std(axis=0) * scale), 1, 1], rtol=1e-6, atol=0)


POSITIONS = {
    "of another width": (np.zeros((2, 3)), r"W has the shape \(2, 3\); wanted is \(n, 2\)"),
    "in words": ("a", "W holds 'a', which is no number"),
    "missing": (np.full((2, 2), np.nan), "A position in W is nan at row 'row1', column 'axis1'"),
}


@pytest.mark.parametrize("what", POSITIONS)
def test_positions_that_are_none_are_told(what: str) -> None:
    given, said = POSITIONS[what]
    with pytest.raises(InputError, match=said) as caught:
        poplin.PPCA(2).fit(TABLE).inverse_transform(given)
    assert "--row-names" not in caught.value.at_command_line, "that is a mend for counts"


WEIGHTS = {
    "in words": (["a"] * 12, "weights holds 'a' at row 'row1', which is no number"),
    "below 0": (-np.ones(12), "The weight at row 'row1' is negative"),
    "too few": (np.ones(11), "weights has 11 rows and Y has 12"),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_that_are_none_are_told(what: str) -> None:
    given, said = WEIGHTS[what]
    with pytest.raises(InputError, match=said):
        poplin.PPCA(2).fit(TABLE, weights=given)
