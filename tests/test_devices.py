"""Several devices in one process: the numbers of one device, and checkpoints that go from one number to another.

Eight devices on one processor need a flag that is read when a process begins, so they are in a process of their own
(`tests/devices.py`). Several processes are in `test_processes.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from poplin._numerics import double_precision
from poplin.data import blocks
from poplin.data.blocks import as_rows
from poplin.methods.bounds import DirectBound
from poplin.methods.method import over_devices
from poplin.methods.variational import QuasiNewton
from poplin.starts import direct_start
from poplin.updates.structure import Diagonal
from tests import devices
from tests.devices import FITS
from tests.instances import TABLES

DEVICES = 8


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The estimates of all fits on eight devices, made by one process."""
    folder = tmp_path_factory.mktemp("eight")
    begun = devices.started(devices.program(*FITS), folder, devices=DEVICES)
    assert devices.ended(begun) == [0], devices.heard(folder, 0)
    return np.load(folder / "out.npz")


@pytest.mark.parametrize("name", FITS)
def test_eight_devices_give_the_numbers_of_one(name: str, eight: Any) -> None:
    assert int(eight["devices"]) == DEVICES
    devices.check(name, devices.estimates(name), eight)


STOPPED = ["bound", "bound, full Gaussians", "ml"]


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which one process with eight devices went on with fits that one device had begun."""
    folder = tmp_path_factory.mktemp("gone_on")
    for name in STOPPED:
        devices.stopped(name, folder / f"{name}.npz")
    begun = devices.started(devices.program(*STOPPED), folder, devices=DEVICES)
    assert devices.ended(begun) == [0], devices.heard(folder, 0)
    return folder


@pytest.mark.parametrize("name", STOPPED)
def test_a_fit_goes_on_with_another_number_of_devices(name: str, gone_on: Path) -> None:
    whole = devices.estimates(name)
    devices.check(name, whole, np.load(gone_on / "out.npz"))
    shutil.copy(gone_on / f"{name}, again.npz", gone_on / f"{name}.npz")
    devices.check(name, whole, devices.estimates(name, **devices.going_on(gone_on, name)))


def test_one_device_is_left_alone() -> None:
    table = TABLES["plain"]
    with double_precision():
        block = blocks.placed(as_rows(table.y, table.x, table.offset, table.weights))
        method = QuasiNewton(DirectBound(Diagonal()), 1e-6)  # type: ignore[arg-type]
        assert jax.device_count() == 1 and blocks.layout(block) is None
        assert over_devices(method, direct_start(block), block) is method
        assert blocks.rows_in(block) == len(table.y) and blocks.agreed(7, block) == 7
