"""Several devices in one process: the numbers of one device, and checkpoints that go from one number to another.

Eight devices on one processor need a flag that is read when a process begins, so they are in a process of their own
(`tests/devices.py`). Several processes are in `test_processes.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

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


STOPPED = ["bound", "bound, full Gaussians", "ml"]


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which one process with eight devices made all fits, and went on with those that one had begun."""
    folder = tmp_path_factory.mktemp("eight")
    for name in STOPPED:
        devices.stopped(name, folder / f"{name}.npz")
    begun = devices.started(devices.program(*FITS), folder, devices=DEVICES)
    assert devices.ended(begun) == [0], devices.heard(folder, 0)
    return folder


@pytest.mark.parametrize("name", FITS)
def test_eight_devices_give_the_numbers_of_one(name: str, eight: Path) -> None:
    found = np.load(eight / "out.npz")
    assert int(found["devices"]) == DEVICES
    devices.check(name, devices.alone(name), found)


@pytest.mark.parametrize("name", STOPPED)
def test_a_fit_goes_on_with_another_number_of_devices(name: str, eight: Path) -> None:
    whole = devices.alone(name)
    devices.check(name, whole, np.load(eight / "gone_on.npz"))
    shutil.copy(eight / f"{name}, again.npz", eight / f"{name}.npz")
    devices.check(name, whole, devices.estimates(name, **devices.going_on(eight, name)))


def test_one_device_is_left_alone() -> None:
    table = TABLES["plain"]
    with double_precision():
        block = blocks.placed(as_rows(table.y, table.x, table.offset, table.weights))
        method = QuasiNewton(DirectBound(Diagonal()), 1e-6)  # type: ignore[arg-type]
        assert jax.device_count() == 1 and blocks.layout(block) is None
        assert over_devices(method, direct_start(block), block) is method
        assert blocks.rows_in(block) == len(table.y) and blocks.agreed(7, block) == 7
