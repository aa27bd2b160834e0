"""Finished runs as lines of one CSV: read, replaced, written whole, so that an interrupted benchmark goes on.

A line's key is (design, model, contender, threads); a failed line is tried again, a done or stopped one is
kept.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# fmt: off
COLUMNS = (
    "design", "model", "contender", "options", "threads", "status",
    "wall_s", "cpu_s", "others", "first_call_s", "compile_s", "peak_mib",
    "bound", "reported_bound", "best", "gap", "best_peer", "best_peer_by", "best_peer_cpu_s",
    "seconds_to_peer", "seconds_past_peer", "iterations", "converged", "loglik", "loglik_se",
    "coef_error", "coef_error_abs", "lag1", "lag1_truth", "frobenius", "frobenius_oracle",
    "rows", "columns", "source", "notes", "commit", "date", "cpu", "cores", "python", "versions",
)
TEXT = (
    "design", "model", "contender", "options", "status", "best_peer_by", "source", "notes",
    "commit", "date", "cpu", "python", "versions", "table", "form", "estimator", "covariates",
)
# fmt: on
KEY = ("design", "model", "contender", "threads")
Line = dict[str, Any]


def key(line: Line) -> tuple[str, ...]:
    """What makes two lines the same run."""
    return tuple(str(line[name]) for name in KEY)


def finished(line: Line) -> bool:
    """Done, or stopped at the limit: no need to run it again."""
    return not str(line.get("status", "")).startswith("failed")


def read(path: Path) -> list[Line]:
    """Lines of the file with numbers as numbers and empty cells as None; [] where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: _value(name, cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def write(path: Path, lines: Iterable[Line], columns: Sequence[str] = COLUMNS) -> None:
    """Write the whole file, or leave the old one as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
        writer.writeheader()
        for line in lines:
            writer.writerow({name: _cell(line.get(name)) for name in columns})
    os.replace(unfinished, path)


def put(lines: list[Line], line: Line) -> list[Line]:
    """The lines with this one at the place of the line of the same key, or at the end."""
    keys = [key(other) for other in lines]
    if key(line) in keys:
        place = keys.index(key(line))
        return [*lines[:place], line, *lines[place + 1 :]]
    return [*lines, line]


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else value


def _value(name: str, cell: str) -> Any:
    if cell in ("", None):
        return None
    if name in TEXT:
        return cell
    if cell in ("True", "False"):
        return cell == "True"
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
