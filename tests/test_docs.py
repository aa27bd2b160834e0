"""Every Python block of the documentation runs, page by page, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import poplin

REPOSITORY = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): BLOCK.findall(path.read_text())
    for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
}


@pytest.mark.parametrize("page", [page for page, blocks in PAGES.items() if blocks])
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    script = "import matplotlib\nmatplotlib.use('Agg')\n" + "\n".join(PAGES[page])
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_reference_has_every_public_name() -> None:
    page = (REPOSITORY / "docs" / "api.md").read_text()
    missing = [name for name in dir(poplin) if name != "__version__" and f"poplin.{name}" not in page]
    assert not missing


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """No link that leads nowhere, no page that is forgotten, no docstring that cannot be read."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "api" / "index.html").is_file()
