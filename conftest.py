"""For all tests and examples: programs are compiled quickly, once for all workers, and do not pile up in one process.

Start at `quickly`. Two thirds of the suite's time is compiling, most of it of programs that run once. XLA maps memory
for each program; a process that has run out of maps (65530 by default on Linux) ends with a segmentation fault in the
compiler.
"""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from poplin._numerics import hurried

MOST_MAPS = 20_000
COPIED = (
    "test_formats.py",
    "test_damage.py",
    "test_damage_sizes.py",
    "test_fuzz_readers.py",
    "test_backed.py",
)
QUICK = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)
MAPS = Path("/proc/self/maps")
# Workers, and the commands that tests run, keep compiled programs here, not in the home of whoever runs the tests: a
# worker inherits what the process that started it was given.
if "POPLIN_TESTS_CACHES" not in os.environ:
    os.environ["POPLIN_TESTS_CACHES"] = tempfile.mkdtemp(prefix="poplin-tests-")
os.environ["XDG_CACHE_HOME"] = os.environ["POPLIN_TESTS_CACHES"]
os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{os.environ['XDG_CACHE_HOME']}/poplin"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Two workers on two cores: a second thread of BLAS only waits, and waiting it takes the other worker's core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# Single operations, and programs that tests jit themselves, take half as long to compile; all programs take a tenth
# less when they are not cut in parts, for which no core is idle. Else poplin's own programs say how they want to be
# compiled. (If a newer XLA does not know one of these words, it ends the process and says which.)
if QUICK not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
# Traces are trees of small objects of which next to none is garbage: looking through all of them at every 700 takes a
# fifteenth of the time.
gc.set_threshold(100_000, 10, 10)


@pytest.fixture(scope="session", autouse=True)
def quickly() -> Iterator[None]:
    """Small programs, of which tests have thousands, are compiled as `poplin fit` compiles them."""
    with hurried(tells_all=False):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First the files of HDF5: each is read in a copy of the process, which is ten times as slow with many programs."""
    items.sort(key=lambda item: item.path.name not in COPIED)  # the others keep their order


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between two files, forget what was compiled if that is much."""
    if nextitem is not None and nextitem.path != item.path and MAPS.exists():
        with MAPS.open("rb") as lines:
            many = sum(1 for _ in lines) > MOST_MAPS
        if many:
            jax.clear_caches()
            gc.collect()
