"""What every test can ask for: the shared tables, where a checkout has them beside it.

Warnings are errors (see `pyproject.toml`); a test that expects one says so with `pytest.warns`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# Commands that a test runs keep their compiled programs here, not in the home of whoever runs the tests.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="poplin-tests-")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real tables; the test is skipped where there is none."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the shared folder of real tables is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_designs() -> Path:
    """The folder of reference designs; the test is skipped where there is none."""
    folder = SHARED / "reference" / "designs"
    if not folder.is_dir():
        pytest.skip("the shared folder of reference designs is not beside this checkout")
    return folder
