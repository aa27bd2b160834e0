"""Every Python block of the documentation runs, page by page, in an empty folder."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import poplin
from tests import commandline

REPOSITORY = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): BLOCK.findall(path.read_text())
    for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
}


@pytest.mark.parametrize("page", [page for page, blocks in PAGES.items() if blocks])
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    script = "\n".join([commandline.QUICKLY, "import matplotlib", "matplotlib.use('Agg')", *PAGES[page]])
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


def slug(heading: str) -> str:
    """How the site calls a heading in an address."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def section(page: str, anchor: str) -> str:
    """The text of a page below a heading, up to the next one of its level or above; all of it without an anchor."""
    parts = re.split(r"^(#+) (.*)$", page, flags=re.MULTILINE)
    if not anchor:
        return page
    found = [k for k in range(1, len(parts), 3) if slug(parts[k + 1]) == anchor]
    assert found, f"no heading is called {anchor}"
    first = found[0]
    ends = (k for k in range(first + 3, len(parts), 3) if len(parts[k]) <= len(parts[first]))
    return "".join(parts[first + 2 : next(ends, len(parts))])


def leads_to_code(link: str) -> bool:
    """Whether a link of the table of features ends at code that a test runs: a block of a page, or a doctest."""
    name, _, anchor = link.partition("#")
    if name == "api.md":
        module, _, thing = anchor.rpartition(".")
        return ">>>" in (getattr(importlib.import_module(module), thing).__doc__ or "")
    return "```python" in section((REPOSITORY / "docs" / (name or "features.md")).read_text(), anchor)


def test_each_yes_of_the_table_of_features_leads_to_code() -> None:
    page = (REPOSITORY / "docs" / "features.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ")]
    cells = {row[1].strip(): row[2].strip() for row in rows if row[2].strip() not in ("", "poplin")}
    assert len(cells) > 30
    for feature, cell in cells.items():
        links = re.findall(r"\]\(([^)]+)\)", cell)
        assert links or re.match(r"(no|not measured|part)\b", cell), f"{feature}: {cell}"
        assert all(leads_to_code(link) for link in links), f"{feature}: {links}"


def test_every_model_has_its_plate_diagrams(tmp_path: Path) -> None:
    """The committed script draws one for each model, and `models.md` shows all that it draws."""
    script = REPOSITORY / "docs" / "plates.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, capture_output=True)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    shown = re.findall(r"\(figures/plates/(\w+\.png)\)", (REPOSITORY / "docs" / "models.md").read_text())
    kept = {path.name for path in (REPOSITORY / "docs" / "figures" / "plates").iterdir()}
    assert sorted(shown) == sorted(drawn) == sorted(kept)
    models = [name for name in poplin.__all__ if isinstance(getattr(poplin, name), type)]
    models = [name for name in models if not issubclass(getattr(poplin, name), Exception)]
    assert models and {f"{name}.png" for name in models} <= drawn


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
