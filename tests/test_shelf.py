"""What rows keep may lie in a file between visits: the same numbers, no file left behind, and a full disk is said.

Start at `test_fits_are_the_same_wherever_rows_lie`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import poplin
from poplin.data import streams
from poplin.data.streams import Shelf
from tests.blockwise import TABLE, cut

FITS: dict[str, dict[str, Any]] = {
    "ml": {"rank": 2},
    "bound": {"method": "variational", "rank": 2},
    "full": {"method": "variational", "posterior": "full", "max_iter": 8},
}


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
@pytest.mark.parametrize("name", FITS)
def test_fits_are_the_same_wherever_rows_lie(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, also after a stop; the file is beside the checkpoint, and has no name."""
    cut(monkeypatch)
    settings: dict[str, Any] = {"max_iter": 12} | FITS[name]
    y = sparse.csr_array(TABLE.y)
    in_memory = poplin.PLN(**settings).fit(y)
    monkeypatch.setattr(streams, "IN_MEMORY", 0)
    folders: list[str] = []
    mapped = Shelf._mapped
    monkeypatch.setattr(
        Shelf, "_mapped", lambda self, size: folders.append(str(self._folder)) or mapped(self, size)
    )

    def stop(told: Any) -> None:
        if told.iteration == 7:
            raise KeyboardInterrupt

    kept: dict[str, Any] = settings | {"checkpoint": tmp_path / "fit.npz", "checkpoint_every": 3}
    assert poplin.PLN(**kept, callback=stop).fit(y).interrupted_
    fit = poplin.PLN(**kept).fit(y)
    assert set(folders) == {str(tmp_path)} and len(os.listdir(tmp_path)) <= 1
    assert np.array_equal(fit.coef_, in_memory.coef_)
    assert np.array_equal(fit.covariance_, in_memory.covariance_)
    assert np.array_equal(fit.latent_mean_, in_memory.latent_mean_)


def test_every_block_has_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IN_MEMORY", 0)
    random = np.random.default_rng(0)
    trees = [
        {"a": random.normal(size=(5, 3)), "b": (np.float32(random.normal(size=7)), np.int64(k))}
        for k in range(4)
    ]
    held = Shelf(4)
    places = [held.laid(tree) for tree in trees]
    places[2] = held.again(places[2], trees[0])
    for place, tree in zip(places, [*trees[:2], trees[0], trees[3]], strict=True):
        assert np.array_equal(place["a"], tree["a"]) and np.array_equal(place["b"][0], tree["b"][0])
        assert place["b"][0].dtype == np.float32 and place["b"][1] == tree["b"][1]
        assert isinstance(place["a"], np.memmap)


def test_a_disk_without_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(streams, "IN_MEMORY", 0)
    with pytest.raises(poplin.InputError, match="No space left on device. Make room"):
        Shelf(2, tmp_path).laid(np.zeros(3))
    assert not os.listdir(tmp_path)
