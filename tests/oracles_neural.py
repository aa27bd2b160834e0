"""Small twins for the tests of neural models."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from poplin._numerics import hurried


@pytest.fixture(autouse=True)
def quickly() -> Iterator[None]:
    """Programs of tests run once or twice: they are compiled quickly, not well. Imported where it is to act."""
    with hurried():
        yield


def rotation(angle: float) -> np.ndarray:
    """A turn of the plane."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
