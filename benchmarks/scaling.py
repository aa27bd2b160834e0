"""`python -m benchmarks.scaling`: time and memory of a fit against rows, columns, rank and the share of zeros.

One thing is varied at a time around 10 000 x 100 counts of rank 10; every run has a process of its own (`measure.py`).
A call that takes under a minute is repeated, and the second counts. Interrupted, it goes on where it was. Writes
`scaling.csv`, `scaling.md` with exponents fitted to the largest sizes, and `scaling.png`. Start at `AXES`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import records
from benchmarks.child import SECOND_CALL_BELOW, pin, timed
from benchmarks.contenders import CONTENDERS, Task
from benchmarks.designs import Design
from benchmarks.errors import peak
from benchmarks.measure import REPOSITORY, facts, in_child
from benchmarks.records import Line
from benchmarks.scaling_figure import NAMES, Curve, draw_axes

PIECE = 10_000_000  # counts drawn together


class Law(NamedTuple):
    """Rows, columns, rank (0: full Sigma, AR1(0.6)), mean of Z."""

    rows: int = 10_000
    columns: int = 100
    rank: int = 10
    level: float = 0.0

    @property
    def label(self) -> str:
        """The law in words: the key of its lines."""
        return f"n={self.rows} p={self.columns} q={self.rank or self.columns} mean={self.level:g}"


BASE, FREE = Law(), Law(rank=0)
AXES: dict[str, tuple[Law, ...]] = {
    "n": tuple(BASE._replace(rows=n) for n in (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)),
    "p": tuple(BASE._replace(columns=p) for p in (10, 30, 100, 300, 1000, 2000)),
    "q": tuple(BASE._replace(rank=q) for q in (1, 2, 5, 10, 20, 50)),
    "mean": tuple(BASE._replace(level=level) for level in (1.0, 0.0, -1.0, -2.0, -4.0)),
    "n-full": tuple(FREE._replace(rows=n) for n in (1000, 3000, 10_000, 30_000, 100_000)),
    "p-full": tuple(FREE._replace(columns=p) for p in (10, 30, 100, 300)),
}
FIELDS = {"n": "rows", "p": "columns", "q": "rank", "mean": "level"}
TITLES = {
    "n": "Rows (100 columns, rank 10)",
    "p": "Columns (10 000 rows, rank 10)",
    "q": "Rank (10 000 x 100)",
    "mean": "Mean of Z (10 000 x 100, rank 10)",
    "n-full": "Rows, Sigma free (100 columns)",
    "p-full": "Columns, Sigma free (10 000 rows)",
}
RIVALS = ("poplin-variational", "poplin-ml", "poplin-amortised", "pyPLNmodels")
COLUMNS = (
    *("design", "model", "contender", "threads", "status", "rows", "columns", "rank", "zeros", "wall_s"),
    *("first_call_s", "cpu_s", "others", "iterations", "converged", "peak_mib"),
    *("commit", "date", "cpu", "cores", "python"),
)


def main(arguments: list[str] | None = None) -> None:
    """Measure what has no line yet, write after every run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--axes", default="n,p,q,mean", help=f"of {','.join(AXES)}")
    parser.add_argument("--contenders", default=",".join(RIVALS))
    parser.add_argument("--most", type=float, default=np.inf, help="entries of the largest table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a fit may take")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has pyPLNmodels")
    chosen = parser.parse_args(arguments)
    out = chosen.out.resolve()
    lines = records.read(out / "scaling.csv")
    asked = {law for axis in chosen.axes.split(",") for law in AXES[axis]}
    for law in sorted(asked, key=lambda law: law.rows * law.columns):
        for rival in chosen.contenders.split(",") if law.rows * law.columns <= chosen.most else ():
            lines = _with_line(lines, law, rival, chosen)
            records.write(out / "scaling.csv", lines, COLUMNS)
    write(out, lines)


def _with_line(lines: list[Line], law: Law, rival: str, chosen: argparse.Namespace) -> list[Line]:
    """The lines with that of this run; what was stopped at a smaller size of everything is not tried."""
    line: Line = {"design": law.label, "model": "rank" if law.rank else "full", "contender": rival}
    line |= {"threads": chosen.threads, "rows": law.rows, "columns": law.columns, "rank": law.rank}
    if any(records.key(known) == records.key(line) and records.finished(known) for known in lines):
        return lines
    task = {"law": law, "contender": rival, "threads": chosen.threads, "limit": chosen.limit}
    beyond = [known for known in lines if known["contender"] == rival and _smaller(known, line)]
    if any(not str(known["status"]).startswith("done") for known in beyond):
        told: Line = {"status": "not tried: smaller ones were stopped"}
    else:
        python = chosen.peer_python if rival.startswith("pyPLNmodels") else sys.executable
        told = in_child(python, "benchmarks.scaling", task, REPOSITORY)
    print(law.label, rival, told["status"], told.get("wall_s"), told.get("peak_mib"), flush=True)
    return records.put(lines, line | told | facts())


def _smaller(one: Line, other: Line) -> bool:
    return one["model"] == other["model"] and all(one[a] <= other[a] for a in ("rows", "columns", "rank"))


def child(task_path: str, result_path: str, _: str) -> None:
    """Draw, fit, and write what it took."""
    task = json.loads(Path(task_path).read_text())
    pin(task["threads"])
    warnings.simplefilter("ignore")
    law = Law(*task["law"])
    design = draw(law)
    named = Task(law.label, law.rank or None, task["contender"], task["threads"], task["limit"], {})
    with contextlib.redirect_stdout(sys.stderr):
        fit = CONTENDERS[named.contender].prepare(named, design)
        outcome, clock = timed(fit, named.limit)
        first, most = clock.wall, peak()
        if first < SECOND_CALL_BELOW:
            outcome, clock = timed(fit, named.limit)
    result = {
        "status": "done",
        "zeros": round(float(np.mean(design.counts == 0)), 4),
        "wall_s": clock.wall,
        "first_call_s": first,
        "cpu_s": clock.processor,
        "others": clock.others,
        "iterations": outcome.iterations,
        "converged": bool(outcome.converged),
        "peak_mib": most,
    }
    Path(result_path).write_text(json.dumps(result))


def draw(law: Law) -> Design:
    """Counts with variances of Z of 0.5 on average (rank q) or 1 (full)."""
    random, p = np.random.default_rng(0), law.columns
    lags = np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
    loadings = np.sqrt(0.5 / max(law.rank, 1)) * random.normal(size=(p, law.rank))
    root = loadings if law.rank else np.linalg.cholesky(0.6**lags)
    counts = np.empty((law.rows, p), np.int64)
    for first in range(0, law.rows, max(1, PIECE // p)):
        part = counts[first : first + max(1, PIECE // p)]
        part[:] = random.poisson(np.exp(law.level + random.normal(size=(len(part), root.shape[1])) @ root.T))
    ones = np.ones((law.rows, 1))
    return Design(law.label, counts, ones, None, None, None, None, "drawn")


def write(out: Path, lines: list[Line]) -> None:
    """Tables and exponents, and the figure."""
    parts = [part for axis in AXES if (part := section(axis, lines))]
    (out / "scaling.md").write_text("\n\n".join(parts) + "\n")
    draw_axes(
        {axis: {name: curve(axis, name, lines) for name in RIVALS} for axis in NAMES}, out / "scaling.png"
    )


def along(axis: str, contender: str, lines: list[Line]) -> list[tuple[float, Line]]:
    """The lines of an axis with its values; against means of Z the share of zeros is the value."""
    field, found = FIELDS[axis.removesuffix("-full")], []
    for law in AXES[axis]:
        for line in lines:
            same = line["design"] == law.label and line["model"] == ("rank" if law.rank else "full")
            if same and line["contender"] == contender:
                found.append((float(getattr(law, field)), line))
    return found


def curve(axis: str, contender: str, lines: list[Line]) -> Curve:
    """Size, seconds and MiB of the runs that came to an end."""
    done = [(value, line) for value, line in along(axis, contender, lines) if line["status"] == "done"]
    share = axis == "mean"  # against which the share of zeros is drawn
    return [(line["zeros"] if share else value, line["wall_s"], line["peak_mib"]) for value, line in done]


def exponent(points: list[tuple[float, float]]) -> str:
    """Slope of log time on log size over the four largest sizes, with its standard error."""
    if len(points) < 3:
        return ""
    x, y = np.log(np.array(points[-4:])).T
    slope, level = np.polyfit(x, y, 1)
    left = y - slope * x - level
    error = np.sqrt(left @ left / max(len(x) - 2, 1) / np.sum((x - x.mean()) ** 2))
    return f"{slope:.2f} ± {error:.2f}"


def section(axis: str, lines: list[Line]) -> str:
    """One axis: seconds to the stop, milliseconds an iteration, peak MiB, and what they grow with."""
    rivals = [name for name in RIVALS if along(axis, name, lines)]
    if not rivals:
        return ""
    values = sorted({value for name in rivals for value, _ in along(axis, name, lines)})
    rows = [[axis.removesuffix("-full"), *(f"{name}: s, ms/iteration, MiB" for name in rivals)]]
    rows.append(["---"] * len(rows[0]))
    for value in values:
        rows.append([f"{value:g}", *(_cell(value, along(axis, name, lines)) for name in rivals)])
    if axis[0] in "npq":
        rows.append(
            ["exponent: s, iteration, MiB", *(_exponents(along(axis, name, lines)) for name in rivals)]
        )
    return f"## {TITLES[axis]}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(value: float, found: list[tuple[float, Line]]) -> str:
    line = next((line for at, line in found if at == value), None)
    if line is None:
        return ""
    if line["status"] != "done":
        return str(line["status"])
    each = 1000 * line["wall_s"] / line["iterations"]
    star = "*" if (line["others"] or 0) > 0.05 else ""
    open_ = "" if line["converged"] else " (not converged)"
    return f"{line['wall_s']:.3g}{star}, {each:.3g}, {line['peak_mib']:.0f}{open_}"


def _exponents(found: list[tuple[float, Line]]) -> str:
    done = [(value, line) for value, line in found if line["status"] == "done"]
    if len(done) < 3:
        return ""
    return "; ".join(
        exponent([(value, number(line)) for value, line in done])
        for number in (
            lambda line: line["wall_s"],
            lambda line: line["wall_s"] / line["iterations"],
            lambda line: line["peak_mib"],
        )
    )


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1].endswith(".json"):
        child(*sys.argv[1:])
    else:
        main()
