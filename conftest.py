"""For all tests and examples: programs are compiled quickly, and do not pile up in one process.

Start at `quickly`. XLA maps memory for each program; a process that has run out of maps (65530 by default on Linux)
ends with a segmentation fault in the compiler.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from poplin._compile import hurried

MOST_MAPS = 20_000
MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="session", autouse=True)
def quickly() -> Iterator[None]:
    """Small programs, of which tests have thousands, are compiled as `poplin fit` compiles them."""
    with hurried(tells_all=False):
        yield


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between two files, forget what was compiled if that is much."""
    if nextitem is not None and nextitem.path != item.path and MAPS.exists():
        with MAPS.open("rb") as lines:
            many = sum(1 for _ in lines) > MOST_MAPS
        if many:
            jax.clear_caches()
