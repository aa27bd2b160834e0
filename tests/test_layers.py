"""The structure of the code, held by reading the code: who imports whom, how long files are, who may print.

Start at `ROOMS`: a room imports only rooms to its left. Imports inside functions count as well, since a
hidden circle is a circle. What `import poplin` does to a user's process is looked at in a fresh interpreter.
"""

from __future__ import annotations

import ast
import graphlib
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.structure import (
    PACKAGE,
    REPOSITORY,
    SOURCES,
    Structure,
    imported,
    label,
    module_of,
    own_imports,
    room_of,
    structure,
    tree_of,
)

ROOMS = (
    "_errors | _axes < _numerics | _process < _random < laws < data < models < rows < updates | starts < methods < "
    "store < fit < inference < fitting < sites < estimators < poplin < studies | report | tl | datasets | stopping < "
    "job < cli < __main__"
)
FLOOR = {room: i for i, rooms in enumerate(ROOMS.split(" < ")) for room in rooms.split(" | ")}
HEAVY = {"sklearn", "anndata", "pandas", "matplotlib", "pooch", "rich", "typer"}
HEAVY_ALLOWED = {f"data/{name}.py" for name in ("readers", "framed", "large_files", "formula", "formats")}
LONGEST_FILE, LONGEST_FUNCTION = 700, 60
# lines: of which docstrings of public callables, which `test_words.py` asks for, are a thousand
# `sites`, a room of five files, and its face at the command line are of the joint model of several sites
MOST = Structure(files=149, lines=44_500, with_one_importer=35, estimators=17, floors_of_estimators=6)

EVERYTHING = sorted(
    path for top in ("src", "tests", "benchmarks") for path in (REPOSITORY / top).rglob("*.py")
)


def code_lines(source: str, tree: ast.Module) -> set[int]:
    """The numbers of the lines that hold code: no blank lines, comments or docstrings."""
    quiet = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in quiet:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_a_room_imports_only_rooms_to_its_left(path: Path) -> None:
    room = room_of(module_of(path))
    assert room in FLOOR, f"{label(path)}: the room '{room}' is not in the plan; give it a place in ROOMS"
    for target in own_imports(path):
        other = room_of(target)
        assert other == room or FLOOR[other] < FLOOR[room], f"{label(path)} imports {target}, to its right"


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_heavy_libraries_stay_right_of_the_numerics(path: Path) -> None:
    if (
        FLOOR[room_of(module_of(path))] >= FLOOR["fitting"]
        or path.relative_to(PACKAGE).as_posix() in HEAVY_ALLOWED
    ):
        return
    heavy = {name for name in imported(path) if name.split(".")[0] in HEAVY}
    assert not heavy, f"{label(path)} imports {sorted(heavy)}; that belongs into fitting or right of it"


def test_the_house_does_not_grow_by_splitting() -> None:
    """`python -m tests.structure` prints these; a bound is lowered when the house has become smaller."""
    found = structure()
    over = [name for name, most in MOST._asdict().items() if getattr(found, name) > most]
    assert not over, f"more than {MOST}: {found}"


def test_there_is_one_loop() -> None:
    """Sweeps over rows are driven in `fit.py` alone; a method over devices hands on those of the one within."""
    driven = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if ".sweeps()" in path.read_text()
    }
    assert driven == {"fit.py", "methods/method.py"}


def test_no_circle() -> None:
    graph = {module_of(path): own_imports(path) - {module_of(path), "poplin"} for path in SOURCES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"these files import one another in a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_only_the_face_prints(path: Path) -> None:
    if FLOOR[room_of(module_of(path))] >= FLOOR["report"]:
        return
    for node in ast.walk(tree_of(path)):
        prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        assert not prints, f"{label(path)}: line {node.lineno} prints"  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_every_library_is_declared(path: Path) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    ours = ("datasets", "events", "formats", "mcmc")  # the others are of who works on poplin
    asked = project["dependencies"] + [line for name in ours for line in extras[name]]
    declared = {_import_name(line) for line in asked} | set(sys.stdlib_module_names) | {"poplin"}
    loose = {name.split(".")[0] for name in imported(path)} - declared
    assert not loose, f"{label(path)} imports {sorted(loose)}, which pyproject.toml does not ask for"


def _import_name(requirement: str) -> str:
    name = next(requirement[:i] for i in count(1) if i >= len(requirement) or requirement[i] in "<>=~![; ")
    return {"scikit-learn": "sklearn", "pillow": "PIL"}.get(name, name.replace("-", "_"))


class Kind(NamedTuple):
    """A class as it is written: its own bases, and its methods, documented or not, abstract or not."""

    bases: tuple[str, ...]
    documented: dict[str, bool]
    abstract: set[str]


def kinds() -> dict[str, Kind]:
    """Every class of the package by its name."""
    nodes = [node for path in SOURCES for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef)]
    names = {node.name for node in nodes}
    found = {}
    for node in nodes:
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        found[node.name] = Kind(
            tuple(base.id for base in node.bases if isinstance(base, ast.Name) and base.id in names),
            {method.name: ast.get_docstring(method) is not None for method in methods},
            {
                method.name
                for method in methods
                if "abstract" in "".join(map(ast.unparse, method.decorator_list))
            },
        )
    return found


def test_a_class_is_abstract_or_final_and_a_method_is_told_once() -> None:
    every = kinds()
    for name, kind in every.items():
        for method, documented in kind.documented.items():
            told = documented or any(every[base].documented.get(method) for base in kind.bases)
            assert told or method.startswith("_"), (
                f"{name}.{method} has no docstring, nor has what it implements"
            )
        for base in kind.bases:
            concrete = {method for method in every[base].documented if not method.startswith("_")}
            again = (concrete - every[base].abstract) & set(kind.documented)
            assert not again, f"{name} overrides {sorted(again)}, which {base} already implements"
            assert not every[base].bases, (
                f"{name} < {base} < {every[base].bases}: a class is abstract or final"
            )


@pytest.mark.parametrize("path", EVERYTHING, ids=label)
def test_a_file_says_what_it_is_for_and_is_short(path: Path) -> None:
    source = path.read_text()
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{label(path)} does not open with a docstring"
    length = len(source.splitlines())
    assert length <= LONGEST_FILE, f"{label(path)} has {length} lines, more than {LONGEST_FILE}"
    lines = code_lines(source, tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = len(lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)))
            assert size <= LONGEST_FUNCTION, f"{label(path)}: {node.name} has {size} lines of code"


STEPS = re.findall(r"^\d\. `(.+?)`: (.+)$", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.MULTILINE)


def test_from_a_fit_to_a_chain_are_few_files() -> None:
    """The path in CONTRIBUTING.md: what is said of a file stands in it."""
    assert 0 < len(STEPS) <= 8
    for name, words in STEPS:
        source = (PACKAGE / name).read_text()
        said = re.findall(r"`([\w.]+)`", words)
        assert said and all(re.search(rf"\b{each.split('.')[-1]}\b", source) for each in said), name


QUICK = [line.split("::") for line in (REPOSITORY / "tests" / "quick.txt").read_text().split()]
BY_COMMAND = {"demo": '"demo"', "__main__": '"-m", "poplin"'}  # rooms that are entered by what is typed


@pytest.mark.parametrize("path,test", [(path, *test) for path, *test in QUICK if test])
def test_what_make_quick_runs_is_there(path: str, test: str) -> None:
    assert f"def {test}(" in (REPOSITORY / path).read_text(), f"tests/quick.txt: no {test} in {path}"


def test_make_quick_enters_every_room() -> None:
    text = "".join((REPOSITORY / path).read_text() for path in sorted({path for path, *_ in QUICK}))
    for room in set(FLOOR) - {"_axes"}:  # names of shapes, which no line runs
        entered = rf"\bpoplin\.{room}\b|\bfrom poplin import .*\b{room}\b|\bimport {room}\b"
        by_command = BY_COMMAND.get(room)
        assert (by_command and by_command in text) or re.search(entered, text), f"tests/quick.txt: no {room}"


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_poplin_loads_nothing_heavy() -> None:
    heavy = sorted(HEAVY | {"formulaic", "scipy.sparse", "jinja2"})
    loaded = run_python(f"import sys, poplin; print(*[name for name in {heavy} if name in sys.modules])")
    assert loaded == "", f"import poplin loads {loaded}"


def test_importing_poplin_changes_no_jax_flag() -> None:
    code = """
import jax, importlib, pkgutil
before = dict(jax.config.values)
import poplin
for found in pkgutil.walk_packages(poplin.__path__, "poplin."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print(*[name for name, value in jax.config.values.items() if before.get(name) != value])
"""
    assert run_python(code) == ""
