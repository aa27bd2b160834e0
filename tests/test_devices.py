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

from poplin._precision import double_precision
from poplin.data import placing
from poplin.data.blocks import as_rows
from poplin.inference import summary
from poplin.methods.bounds import DirectBound
from poplin.methods.spread import over_devices
from poplin.methods.variational import Variational
from poplin.starts import direct_start
from poplin.updates.covariance import Diagonal
from tests import devices
from tests.devices import FITS, estimates, fitted
from tests.instances import TABLES

DEVICES = 8
SAME = {"bound": 1e-6, "ml, begun": 1e-5}  # what is asked for, by how a fit is called


def program(*words: str) -> list[str]:
    """The program that makes fits, writing to out.npz."""
    return ["-m", "tests.devices", "out.npz", *words]


def gap(name: str, one: dict[str, np.ndarray], other: Any) -> float:
    """How far the estimates of a fit are apart, at most, in parts of the largest of them."""
    parts = [f"{name}: {part}" for part in devices.ESTIMATES]
    return max(float(np.max(np.abs(one[k] - other[k])) / max(1.0, np.max(np.abs(one[k])))) for k in parts)


@pytest.mark.parametrize("name", FITS)
def test_eight_devices_give_the_numbers_of_one(name: str, tmp_path: Path) -> None:
    begun = devices.started(program(name), tmp_path, devices=DEVICES)
    one = estimates(name)
    assert devices.ended(begun) == [0], devices.heard(tmp_path, 0)
    eight = np.load(tmp_path / "out.npz")
    assert int(eight["devices"]) == DEVICES
    if name == "ml":
        assert within_monte_carlo_error(eight)
    else:
        assert gap(name, one, eight) <= next(SAME[kind] for kind in SAME if name.startswith(kind))


def within_monte_carlo_error(estimated: Any) -> bool:
    """Whether estimates of "ml" are as near to those of one device as two fits of the same likelihood are."""
    fit = fitted("ml")
    told = summary.coef_interval(fit)
    assert told is not None
    variance = np.diag(fit.covariance_)
    of_covariance = np.sqrt((np.outer(variance, variance) + fit.covariance_**2) / len(FITS["ml"].table["Y"]))
    # each of two fits stops when its own error is a fifth of a standard error; four times their difference's
    most = 4 * np.sqrt(2) * 0.2
    of_coef = np.abs(estimated["ml: coef_"] - fit.coef_) <= most * told.se
    return bool(
        np.all(of_coef)
        and np.all(np.abs(estimated["ml: covariance_"] - fit.covariance_) <= most * of_covariance)
    )


RESUMED = ("bound", "bound, full Gaussians", "ml")


def test_a_fit_goes_on_with_another_number_of_devices(tmp_path: Path) -> None:
    for name in RESUMED:
        devices.stopped(name, tmp_path / f"{name}.npz")
    begun = devices.started(program(*RESUMED), tmp_path, devices=DEVICES)
    whole = {name: estimates(name) for name in RESUMED}
    assert devices.ended(begun) == [0], devices.heard(tmp_path, 0)
    more = np.load(tmp_path / "out.npz")
    for name in RESUMED:
        shutil.copy(tmp_path / f"{name}, again.npz", tmp_path / f"{name}.npz")
        fewer = estimates(name, **devices.going_on(tmp_path, name))
        for estimated in (more, fewer):
            if name == "ml":
                assert within_monte_carlo_error(estimated)
            else:
                assert gap(name, whole[name], estimated) <= SAME["bound"], name


def test_one_device_is_left_alone() -> None:
    table = TABLES["plain"]
    with double_precision():
        block = placing.placed(as_rows(table.y, table.x, table.offset, table.weights))
        method = Variational(DirectBound(Diagonal()), 1e-6)  # type: ignore[arg-type]
        assert jax.device_count() == 1 and placing.layout(block) is None
        assert over_devices(method, direct_start(block), block) is method
        assert placing.rows_in(block) == len(table.y) and placing.agreed(7, block) == 7
