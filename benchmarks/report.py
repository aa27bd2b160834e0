"""Markdown from finished lines: tables of runs, ratios and verdicts, and where they were measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.records import Line
from benchmarks.targets import TOLERANCE, peer_seconds, verdicts

DISTURBED = 0.05
NOTES = f"""\
Wall and CPU seconds are those of the second of two identical calls in a fresh process (construction and fit;
of the only call where it took over a minute); "first" is how much longer the first took (compilation, warming
up). Peak memory is the process's after the first call. "Bound" is recomputed from the returned parameters in
double precision with every constant (nats, higher is better), "gap" is relative to the best value known. "To
peer" is when the trace comes within {TOLERANCE:g} (relative) of the best value that a peer was recorded to
reach, "past peer" when it is above that value.
Seconds marked * were measured while other work used more than {DISTURBED:.0%} of the machine.
"""


def markdown(lines: list[Line]) -> str:
    """The whole page."""
    parts = ["# poplin and pyPLNmodels on the same arrays", _where(lines), NOTES]
    parts += ["## Runs", table(RUN_HEADER, (_run_row(line) for line in lines))]
    ratios = [row for line in lines for row in _ratio_rows(line, lines)]
    parts += ["## Ratios (above 1: poplin is faster)", table(RATIO_HEADER, ratios)]
    decided = verdicts(lines)
    rows = [(*verdict[:5], {True: "yes", False: "**no**", None: "?"}[verdict.met]) for verdict in decided]
    met = sum(verdict.met is True for verdict in decided)
    parts += [f"## Targets: {met} of {len(decided)} met", table(TARGET_HEADER, rows)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


RUN_HEADER = (
    "design", "model", "contender", "status", "wall s", "CPU s", "first s", "peak MiB", "bound", "gap",
    "to peer s", "past peer s", "iterations", "converged", "mean B error", "lag 1", "Sigma error", "oracle",
    "log-likelihood",
)  # fmt: skip
RATIO_HEADER = (
    "design", "model", "contender", "pyPLNmodels wall / wall", "pyPLNmodels CPU / CPU",
    "pyPLNmodels to peer / to peer", "best peer", "its seconds", "its seconds / to peer",
)  # fmt: skip
TARGET_HEADER = ("design", "model", "claim", "measured", "wanted", "met")


def _run_row(line: Line) -> Sequence[str]:
    loglik = "" if line.get("loglik") is None else f"{line['loglik']:.1f} ± {line['loglik_se']:.1f}"
    return (
        line["design"],
        line["model"],
        line["contender"],
        line["status"],
        number(line.get("wall_s"), ".2f") + ("*" if disturbed(line) else ""),
        *(number(line.get(name), ".2f") for name in ("cpu_s", "compile_s")),
        number(line.get("peak_mib"), ".0f"),
        number(line.get("bound"), ".2f"),
        number(line.get("gap"), "+.1e"),
        number(line.get("seconds_to_peer"), ".2f"),
        number(line.get("seconds_past_peer"), ".2f"),
        number(line.get("iterations"), "d"),
        {True: "yes", False: "no", None: ""}[line.get("converged")],
        number(line.get("coef_error"), "+.4f"),
        number(line.get("lag1"), ".3f"),
        number(line.get("frobenius"), ".4f"),
        number(line.get("frobenius_oracle"), ".4f"),
        loglik,
    )


def _ratio_rows(line: Line, lines: list[Line]) -> list[Sequence[str]]:
    if not line["contender"].startswith("poplin") or line["status"] != "done":
        return []
    peers = [
        other
        for other in lines
        if other["contender"] == "pyPLNmodels"
        and other["status"] == "done"
        and all(
            other[name] == line[name] for name in ("design", "model", "threads", "cpu", "cores", "source")
        )
    ]
    walls = [f"{peer['wall_s'] / line['wall_s']:.1f}" for peer in peers]
    processors = [f"{peer['cpu_s'] / line['cpu_s']:.1f}" for peer in peers]
    row = (line["design"], line["model"], line["contender"], "".join(walls), "".join(processors))
    if line["contender"] != "poplin-variational":
        return [(*row, "", "", "", "")]
    reached = line["seconds_to_peer"]
    both = [
        f"{peer['seconds_to_peer'] / reached:.1f}" for peer in peers if peer["seconds_to_peer"] and reached
    ]
    seconds, source = peer_seconds(line, lines)
    to_peer = f"{seconds / reached:.1f}" if seconds is not None and reached else ""
    return [(*row, "".join(both), source, number(seconds, ".2f"), to_peer)]


def disturbed(line: Line) -> bool:
    """Other work used more than `DISTURBED` of the machine while the clock ran."""
    return (line.get("others") or 0.0) > DISTURBED


def _where(lines: list[Line]) -> str:
    """One line a distinct machine and day."""
    seen = {}
    for line in lines:
        place = (
            line["cpu"],
            line["cores"],
            line["threads"],
            line["python"],
            str(line["date"])[:10],
            line["commit"],
        )
        seen.setdefault(place, set()).update(filter(None, [line.get("versions")]))
    return "\n".join(
        f"- {cpu}, {cores} cores, {threads} threads, Python {python}, {date}, commit {commit}: "
        + "; ".join(sorted(packages))
        for (cpu, cores, threads, python, date, commit), packages in seen.items()
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    body = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(header) + " |", "|" + " --- |" * len(header), *body])


def number(value: Any, form: str) -> str:
    """The formatted number, '' for None."""
    return "" if value is None else format(value, form)
