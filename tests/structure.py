"""The structure of the package, read from its code: modules, who imports whom, floors; `python -m tests.structure`.

Start at `Structure`. `test_layers.py` holds it within bounds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "poplin"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def label(path: Path) -> str:
    """How a file is called in the list of tests."""
    return path.relative_to(REPOSITORY).as_posix()


def module_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The first part of a name below `poplin`; `poplin` itself is the room of the public names."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "poplin"


MODULES = {module_of(path): path for path in SOURCES}


@cache
def tree_of(path: Path) -> ast.Module:
    """What a file says."""
    return ast.parse(path.read_text())


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions, as absolute dotted names."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{label(path)}: line {node.lineno} imports by a relative name"
            base = node.module or ""
            yield from (_target(f"{base}.{alias.name}", base) for alias in node.names)


def _target(longer: str, base: str) -> str:
    """`from poplin.data import counts` is a module, `from poplin.data.counts import Counts` is not."""
    return longer if longer in MODULES else base


def own_imports(path: Path) -> set[str]:
    """The modules of the package that a file imports."""
    return {name for name in imported(path) if name.split(".")[0] == "poplin"}


class Structure(NamedTuple):
    """Sizes of the package: a file is counted with all its lines, a module's importers within the package."""

    files: int
    lines: int
    with_one_importer: int
    estimators: int
    floors_of_estimators: int


def structure() -> Structure:
    """The sizes as they are."""
    graph = {module_of(path): own_imports(path) - {module_of(path), "poplin"} for path in SOURCES}
    importers = {name: sum(name in targets for targets in graph.values()) for name in graph}
    room = {name for name in graph if name.startswith("poplin.estimators.")}

    @cache
    def floor(name: str) -> int:
        return 1 + max((floor(target) for target in graph[name] & room), default=0)

    rooms = {module_of(path) for path in SOURCES if path.name == "__init__.py"}
    return Structure(
        len(SOURCES),
        sum(len(path.read_text().splitlines()) for path in SOURCES),
        sum(count <= 1 for name, count in importers.items() if name not in rooms),
        len(room) + 1,
        max(map(floor, room)),
    )


if __name__ == "__main__":
    for name, value in structure()._asdict().items():
        print(f"{name.replace('_', ' '):24s} {value}")
