"""What every test can ask for: the shared tables, where a checkout has them beside it; the command line.

Warnings are errors (see `pyproject.toml`); a test that expects one says so with `pytest.warns`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["POPLIN_TRACEBACK"] = "1"  # of commands too: a fault of poplin's is no line here
SHARED = Path(__file__).resolve().parents[2] / "shared"


def _beside(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the shared folder {name} is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real tables; the test is skipped where there is none."""
    return _beside("data")


@pytest.fixture(scope="session")
def shared_designs() -> Path:
    """The folder of reference designs; the test is skipped where there is none."""
    return _beside("reference/designs")


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """The folder of inputs as people have them; the test is skipped where there is none."""
    return _beside("cases")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of a few rows count as too large for memory."""
    from tests.ondisk import large_is_small

    large_is_small(monkeypatch)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were asked of a file together, each time."""
    from tests.ondisk import counted

    return counted(monkeypatch)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run `poplin ...` in an empty folder with the stand-in as estimator; gives the exit code."""
    import poplin.cli
    from tests.standin import StandIn

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(poplin), "PLN", StandIn)
    monkeypatch.setattr(StandIn, "ending", "converged")

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["poplin", *words])
        with pytest.raises(SystemExit) as ended:
            poplin.cli.main()
        return int(ended.value.code or 0)

    return call


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are cut into blocks of a few rows."""
    from tests.blockwise import cut

    cut(monkeypatch)
