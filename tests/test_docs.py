"""The documentation: the site builds, its code runs meanwhile and says what the text says; links lead where they say.

Start at `test_the_site_builds_without_a_warning`: the code of the pages is run by the build (`docs/hooks`), so that a
page that fails, or whose numbers are not those of its code, fails this test. Only README.md is run apart.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import poplin

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "reference").glob("*.md"))]
WIDEST = 80  # signs in a line of code: what the site shows beside its two lists at 1300 pixels


def build(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Build a site, with warnings as errors."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder), *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """No code that fails, no number that it does not say, no link that leads nowhere, no page that is forgotten."""
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    for path in PAGES[1:]:
        page = pages[path.relative_to(DOCS).with_suffix(".html").as_posix()]
        shown = "print(" in "".join(
            code for language, code in BLOCK.findall(path.read_text()) if language == "python"
        )
        assert not shown or 'class="result"' in page, f"{path.name} shows nothing of what its code prints"
    elsewhere = re.compile(
        r"<(?:script|img|iframe)[^>]* src=\"?https?:|<link[^>]* rel=\"?stylesheet\"?[^>]* href=\"?https?:"
    )
    assert not [name for name, page in pages.items() if elsewhere.search(page)], (
        "something is loaded from elsewhere"
    )


FAULTS = {
    "code that fails": ("```python\n1 / 0\n```", "ZeroDivisionError"),
    "a picture that is not made": ("```python\nx = 1\n```\n\n![a picture](none.png)", "none.png"),
    "a command of no formula": (r"A formula $\nosuch{x}$.", "nosuch"),
    "a number that is not printed": ("```python\nprint(1.25)\n```\n\nIt is 1.52.", "1.52"),
}


def test_a_page_with_a_fault_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name, (text, _) in FAULTS.items():
        (tmp_path / "docs" / f"{name}.md").write_text(f"# Page\n\n{text}\n")
    settings = (REPOSITORY / "mkdocs.yml").read_text().partition("nav:")[0]
    settings = settings.replace("docs/", f"{DOCS}/").replace("[src]", f"[{REPOSITORY / 'src'}]")
    (tmp_path / "mkdocs.yml").write_text(settings)
    done = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0
    assert {name: told for name, (_, told) in FAULTS.items() if told not in done.stderr} == {}


def hook(name: str) -> ModuleType:
    """A file of docs/hooks as a module."""
    found = importlib.util.spec_from_file_location(f"hook_{name}", DOCS / "hooks" / f"{name}.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


# What a page prints, what it says, and what is wrong with that.
AGREEMENT = [
    ("0.4812", "The estimate is 0.48.", []),
    ("0.4812", "The estimate is 0.84.", ["0.84"]),
    ("0.4812", "On another processor it was 0.45.", []),
    ("-7052.61", "It is -7052.6 nats.", []),
    ("-7052.61", "It is -7152.6 nats.", ["-7152.6"]),
    ("14 of 15 hold", "14 of the 15 hold it.", []),
    ("14 of 15 hold", "11 of the 15 hold it.", ["11 of 15"]),
    ("47% zeros", "There are 47 % zeros, and 95 % intervals.", []),
    ("47% zeros", "There are 40 % zeros.", ["40 %"]),
    ("0.34", "It explains 34 %.", []),
    ("1", "Version <code>0.15</code> is code.", []),
]


@pytest.mark.parametrize(("printed", "text", "missing"), AGREEMENT)
def test_numbers_of_the_text_are_those_of_the_code(printed: str, text: str, missing: list[str]) -> None:
    page = f'<div class="result"><pre><code>{printed}</code></pre></div><p>{text}</p>'
    assert [number for _, numbers in hook("agreement").missing(page) for number in numbers] == missing


def test_lines_of_code_are_seen_whole() -> None:
    wide = [
        f"{path.name}: {line}"
        for path in PAGES
        for language, code in BLOCK.findall(path.read_text())
        for line in code.splitlines()
        if len(line) > WIDEST
    ]
    assert not wide


def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [code for language, code in BLOCK.findall(PAGES[0].read_text()) if language == "python"]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks), {"__name__": "__main__"})
    assert blocks


def test_commands_of_the_pages_have_such_options() -> None:
    """Each `poplin NAME ... --option` of a page, shown or run, also where a line ends with a backslash."""
    import typer

    from poplin.cli import app

    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    said = {
        (path.name, name, option)
        for path in PAGES
        for command in re.findall(r"\bpoplin ((?:[^\n`|&\\]|\\\n)*)", path.read_text())
        for name in command.split()[:1]
        if name in known
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", command)
    }
    assert len(said) > 20
    names = {name: {word for each in command.params for word in each.opts} for name, command in known.items()}
    assert not {each for each in said if each[2] not in names[each[1]] | {"--help"}}


def test_the_gallery_has_every_picture() -> None:
    takes = {
        name: [*inspect.signature(each).parameters]
        for name, each in inspect.getmembers(poplin.plots, inspect.isfunction)
    }
    pictures = {name for name, words in takes.items() if words[:1] in (["fit"], ["found"]) and "ax" in words}
    assert len(pictures) > 10
    for page in ("pictures.md", "reference/plots.md"):
        text = (DOCS / page).read_text()
        assert not [name for name in pictures if not re.search(rf"\b{name}\b", text)], page


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
    if name.startswith("reference/"):
        module, _, thing = anchor.rpartition(".")
        return ">>>" in (getattr(importlib.import_module(module), thing).__doc__ or "")
    return "```python" in section((DOCS / (name or "features.md")).read_text(), anchor)


def test_each_yes_of_the_table_of_features_leads_to_code() -> None:
    page = (DOCS / "features.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ")]
    cells = {row[1].strip(): row[2].strip() for row in rows if row[2].strip() not in ("", "poplin")}
    assert len(cells) > 30
    for feature, cell in cells.items():
        links = re.findall(r"\]\(([^)]+)\)", cell)
        assert links or re.match(r"(no|not measured|part)\b", cell), f"{feature}: {cell}"
        assert all(leads_to_code(link) for link in links), f"{feature}: {links}"


def test_every_model_has_its_plate_diagrams(tmp_path: Path) -> None:
    """The committed script draws one for each model, and `models.md` shows all that it draws."""
    script = DOCS / "plates.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, capture_output=True)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    shown = re.findall(r"\(figures/plates/(\w+\.png)\)", (DOCS / "models.md").read_text())
    kept = {path.name for path in (DOCS / "figures" / "plates").iterdir()}
    assert sorted(shown) == sorted(drawn) == sorted(kept)
    models = [name for name in poplin.__all__ if isinstance(getattr(poplin, name), type)]
    models = [name for name in models if hasattr(getattr(poplin, name), "fit")]
    assert models and {f"{name}.png" for name in models} <= drawn


def test_the_reference_has_every_public_name() -> None:
    page = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    missing = [name for name in dir(poplin) if name != "__version__" and f"poplin.{name}" not in page]
    assert not missing
