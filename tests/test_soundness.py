"""Files of fits that were edited: what would predict no number is refused when it is loaded, by name.

`EDITS` change one array of a fit that was saved; the bytes of the file are whole.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import poplin
from poplin.store import read_npz, write_npz
from tests.instances import TABLES


def edited(path: Path, name: str, change: Any) -> None:
    """The same file with one array changed."""
    arrays, meta = read_npz(path)
    arrays[name] = change(arrays[name].copy())
    write_npz(path, arrays, meta)


def first(value: float) -> Any:
    """A change of the first entry."""

    def change(array: np.ndarray) -> np.ndarray:
        array.flat[0] = value
        return array

    return change


EDITS: dict[str, tuple[str, Any]] = {
    "a coefficient is no number": ("coef", first(np.nan)),
    "a coefficient is infinite": ("coef", first(np.inf)),
    "a coefficient is a giant": ("coef", first(1e300)),
    "a coefficient is too large": ("coef", first(2000.0)),
    "coefficients are short": ("coef", lambda array: array[:, :-1]),
    "loadings are no numbers": ("loadings", first(np.nan)),
    "loadings are giants": ("loadings", first(1e300)),
    "loadings are large": ("loadings", first(1e50)),
    "loadings are short": ("loadings", lambda array: array[1:]),
    "a weight is no number": ("counts_weights", first(np.nan)),
    "a weight is negative": ("counts_weights", first(-1.0)),
    "weights are short": ("counts_weights", lambda array: array[1:]),
    "a covariate is no number": ("counts_x", first(np.nan)),
    "an offset is infinite": ("counts_offset", first(np.inf)),
    "offsets are of other rows": ("counts_offset", lambda array: np.zeros((3, 1))),
    "a count is negative": ("counts_y", first(-1.0)),
    "a count is infinite": ("counts_y", first(np.inf)),
    "counts are of other columns": ("counts_y", lambda array: array[:, :-1]),
    "an offset is a giant": ("counts_offset", first(1e300)),
    "a weight is a giant": ("counts_weights", first(1e300)),
    "coefficients are text": ("coef", lambda array: array.astype("U9")),
    "loadings have one dimension": ("loadings", lambda array: array[:, 0]),
    "the trace is a giant": ("trace_objective", first(1e300)),
    "an encoder is short": ("encoder_5", lambda array: array[:-1]),
    "a covariance is no covariance": ("setting_covariance", lambda array: -array),
    "an encoder is no number": ("encoder_5", first(np.nan)),
    "an encoder is a giant": ("encoder_5", first(1e30)),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fit with a given covariance, and one with an encoder."""
    folder = tmp_path_factory.mktemp("fits")
    y = TABLES["plain"].y
    with pytest.warns(poplin.ConvergenceWarning):
        poplin.PLN(covariance=np.eye(y.shape[1]), max_iter=5).fit(y).save(folder / "plain.npz")
        poplin.PLN(2, method="amortised", max_iter=5).fit(y).save(folder / "encoder.npz")
    return {"plain": folder / "plain.npz", "encoder": folder / "encoder.npz"}


@pytest.mark.parametrize("how", EDITS)
def test_an_edited_fit_is_refused(how: str, saved: dict[str, Path], tmp_path: Path) -> None:
    name, change = EDITS[how]
    path = tmp_path / "fit.npz"
    path.write_bytes(saved["encoder" if name.startswith("encoder") else "plain"].read_bytes())
    assert np.isfinite(poplin.load(path).predict(n=2)).all()
    edited(path, name, change)
    with pytest.raises(poplin.InputError, match=r"fit.npz is damaged or was changed: .*fit again\.$"):
        poplin.load(path)


def named(name: str, value: Any) -> Any:
    """A change of what is kept as JSON."""
    return lambda meta: meta.__setitem__(name, value)


def setting(name: str, value: Any) -> Any:
    """A change of the settings."""
    return lambda meta: meta["settings"].__setitem__(name, value)


META: dict[str, tuple[Any, str]] = {
    "another class": (named("model", "GLM"), "does not know, 'GLM'"),
    "a class that is none": (named("model", 3), "does not know, '3'"),
    "a class of its own kind": (named("model", "PPCA"), "'mean' is not in it"),
    "a setting that is new": (setting("sparsity", 3), "sparsity"),
    "a method that is new": (setting("method", ["adam", {}]), "'adam' is not in it"),
    "a method with another option": (setting("method", ["exact", {"nodes": 3}]), "nodes"),
    "names that are a number": (named("column_names", 3), "damaged or was changed"),
    "a name too few": (lambda meta: meta["row_names"].pop(), "'row_names' has the shape"),
    "a weight that is no number": (named("shrinkage", float("nan")), "'shrinkage' is nan"),
    "settings that are gone": (lambda meta: meta.pop("settings"), "'settings' is not in it"),
    "a checkpoint": (named("checkpoint", 1), "is the checkpoint of a fit that was stopped"),
    "a design that is none": (named("design", "[]"), "saved design cannot be read"),
}


@pytest.mark.parametrize("how", META)
def test_edited_words_are_refused(how: str, saved: dict[str, Path], tmp_path: Path) -> None:
    change, said = META[how]
    arrays, meta = read_npz(saved["plain"])
    change(meta)
    write_npz(tmp_path / "fit.npz", arrays, meta)
    with pytest.raises(poplin.InputError, match=rf"fit.npz .*{said}"):
        poplin.load(tmp_path / "fit.npz")


@pytest.mark.parametrize("version", ["1", None, 1.5, [1]])
def test_a_version_that_is_none_is_refused(version: Any, saved: dict[str, Path], tmp_path: Path) -> None:
    with np.load(saved["plain"]) as held:
        arrays = {name: held[name] for name in held.files}
    header = json.loads(arrays["poplin"].tobytes()) | {"version": version}
    arrays["poplin"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(tmp_path / "fit.npz", **arrays)
    with pytest.raises(poplin.InputError, match="fit.npz is cut short or damaged .* its version is"):
        poplin.load(tmp_path / "fit.npz")


@pytest.mark.parametrize("value", [np.nan, 1e30])
@pytest.mark.parametrize("kind", ["VAE", "PPCA"])
def test_edited_models_of_other_kinds_are_refused(kind: str, value: float, tmp_path: Path) -> None:
    y, path = TABLES["plain"].y, tmp_path / "fit.npz"
    if kind == "VAE":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what one pass over the rows leaves undone
            poplin.VAE(2, max_epochs=1).fit(y).save(path)
        name = next(
            name for name, array in read_npz(path)[0].items() if name.startswith("model_") and array.size > 1
        )
    else:
        poplin.PPCA(2).fit(y).save(path)
        name, value = "loadings", np.nan
    poplin.load(path)
    edited(path, name, first(value))
    with pytest.raises(poplin.InputError, match=rf"fit.npz is damaged or was changed: '{name}' holds"):
        poplin.load(path)
