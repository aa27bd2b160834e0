"""For all tests and examples: programs are compiled quickly, once for all workers, and do not pile up in one process.

Start at `quickly`. XLA maps memory for each program; a process that has run out of maps (65530 by default on Linux)
ends with a segmentation fault in the compiler.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from poplin._compile import hurried

MOST_MAPS = 20_000
MAPS = Path("/proc/self/maps")
# Workers, and the commands that tests run, keep compiled programs here, not in the home of whoever runs the tests: a
# worker inherits what the process that started it was given.
if "POPLIN_TESTS_CACHES" not in os.environ:
    os.environ["POPLIN_TESTS_CACHES"] = tempfile.mkdtemp(prefix="poplin-tests-")
os.environ["XDG_CACHE_HOME"] = os.environ["POPLIN_TESTS_CACHES"]
jax.config.update("jax_compilation_cache_dir", f"{os.environ['XDG_CACHE_HOME']}/poplin")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


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
