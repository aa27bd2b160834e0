"""`python -m benchmarks.trust`: is a fit as sure as it says? Every design, its lines and one page.

Each design is a module of this folder with a title, the question it answers, `tasks()` (what is run, one dictionary a
line), `line(task)` (runs one and returns its figures) and `words(lines)` (Markdown: tables with their spread). Lines
that are done are kept in `out/trust/NAME.csv`, so that a stopped run goes on; the page is made of the lines that are
there. `python -m benchmarks.trust absent likelihoods` runs some; `--quick` runs a tenth of the tasks; `--page` only
writes the page.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.measure import REPOSITORY, facts

DESIGNS = ("convergence", "absent", "shrinkage", "groups", "verdicts", "likelihoods")


def main(arguments: list[str] | None = None) -> None:
    """Run the designs asked for, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust", description=__doc__)
    parser.add_argument("designs", nargs="*", default=None, help="some of " + ", ".join(present()))
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks of each design")
    parser.add_argument("--page", action="store_true", help="write the page from the lines that are there")
    parser.add_argument("--lines", type=Path, default=REPOSITORY / "benchmarks" / "out" / "trust")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "benchmarks" / "trust.md")
    chosen = parser.parse_args(arguments)
    if not chosen.page:
        for name in chosen.designs or present():
            run(name, chosen.lines, quick=chosen.quick)
    chosen.out.write_text(page(chosen.lines))


def present() -> list[str]:
    """Designs whose module is there."""
    return [name for name in DESIGNS if (Path(__file__).parent / f"{name}.py").is_file()]


def run(name: str, folder: Path, *, quick: bool) -> None:
    """Run the tasks of one design that have no line yet."""
    design = importlib.import_module(f"benchmarks.trust.{name}")
    lines = read(folder / f"{name}.csv")
    done = {line["task"] for line in lines}
    tasks = design.tasks()
    for task in tasks[:: 10 if quick else 1]:
        key = json.dumps(task, sort_keys=True)
        if key in done:
            continue
        lines.append({"task": key} | task | design.line(task) | facts())
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{name}.csv.part"
        pd.DataFrame(lines).to_csv(unfinished, index=False)
        unfinished.replace(folder / f"{name}.csv")
        print(name, key, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of one design so far."""
    if not path.is_file():
        return []
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])  # "null" is a kind of task
    return [{str(name): value for name, value in line.items()} for line in table.to_dict("records")]


def page(folder: Path) -> str:
    """The page: of each design its title, its question and its tables, with where they were measured."""
    parts = ["# Can a fit be trusted? What was measured\n", "Written by `python -m benchmarks.trust`.\n"]
    for name in present():
        design, lines = importlib.import_module(f"benchmarks.trust.{name}"), read(folder / f"{name}.csv")
        parts.append(f"## {design.TITLE}\n\n{design.QUESTION}\n")
        if not lines:
            parts.append("Not run yet.\n")
            continue
        parts.append(design.words(pd.DataFrame(lines)))
        commits = ", ".join(sorted({str(line["commit"]) for line in lines}))
        parts.append(
            f"\n{len(lines)} of {len(design.tasks())} lines; {lines[-1]['cpu']}, "
            f"{lines[-1]['cores']} cores; at {commits}.\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    main()
