"""`python -m benchmarks.run`: every (design, model, contender) once, then `runs.csv` and `runs.md`.

Interrupt it at will: finished lines are kept and skipped the next time (`--again` measures them anew). A run
above `--limit` seconds is stopped and told as such. Without the shared folder the simulated designs are drawn
from a seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import designs, records, report
from benchmarks.contenders import CONTENDERS, Task
from benchmarks.measure import REPOSITORY, facts, in_child
from benchmarks.records import Line
from benchmarks.targets import slack

ALIASES = {"poplin": ("poplin-variational", "poplin-variational-starts", "poplin-ml")}


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure what is missing, write after every run."""
    chosen = parse(arguments)
    path = chosen.out / "runs.csv"
    lines = records.read(path)
    known = designs.known(chosen.shared)
    for task in tasks(chosen):
        label = (task.design, designs.model_label(task.rank), task.contender, str(task.threads))
        if not chosen.again and any(
            records.key(line) == label and settled(line, chosen.quiet) for line in lines
        ):
            continue
        print(" | ".join(label[:3]), end=" ... ", flush=True)
        python = chosen.peer_python if task.contender.startswith("pyPLNmodels") else sys.executable
        where = facts()
        result = in_child(python, "benchmarks.child", task._asdict(), chosen.shared)
        line = complete(task, result, known) | where
        seconds, bound = report.number(line["wall_s"], ".2f"), report.number(line["bound"], ".2f")
        print(f"{line['status']}, {seconds} s, bound {bound}")
        lines = records.put(lines, line)
        records.write(path, lines)
    (chosen.out / "runs.md").write_text(report.markdown(in_order(lines)))
    print(f"written: {path}, {chosen.out / 'runs.md'}")


def settled(line: Line, quiet: bool) -> bool:
    """Finished, and, where quiet is asked for, hardly disturbed."""
    return records.finished(line) and not (quiet and report.disturbed(line))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; names are checked here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--designs", type=_names, default=["short"], help="names, 'short' (default) or 'all'")
    parser.add_argument("--models", type=_names, default=["full", "pca"], help="full, pca (default: both)")
    parser.add_argument(
        "--contenders", type=_names, default=["poplin", "pyPLNmodels"], help=", ".join(CONTENDERS)
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a fit may take")
    parser.add_argument(
        "--loglik", action="store_true", help="also the log-likelihood of poplin's fits (untimed)"
    )
    parser.add_argument("--again", action="store_true", help="measure finished lines anew")
    parser.add_argument(
        "--quiet", action="store_true", help="measure anew what other work on the machine disturbed"
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has pyPLNmodels")
    chosen = parser.parse_args(arguments)
    chosen.shared, chosen.out = chosen.shared.resolve(), chosen.out.resolve()
    names = designs.available(chosen.shared)
    groups = {"all": names, "short": [name for name in names if name not in designs.LONG]}
    chosen.designs = [name for given in chosen.designs for name in groups.get(given, [given])]
    chosen.contenders = [name for given in chosen.contenders for name in ALIASES.get(given, (given,))]
    for kind, given, allowed in (
        ("design", chosen.designs, names),
        ("model", chosen.models, ["full", "pca"]),
        ("contender", chosen.contenders, list(CONTENDERS)),
    ):
        unknown = sorted(set(given) - set(allowed))
        if unknown:
            parser.error(f"unknown {kind} {', '.join(unknown)}; there are {', '.join(allowed)}")
    return chosen


def tasks(chosen: argparse.Namespace) -> Iterator[Task]:
    """Contenders innermost, so that rivals on one design run within minutes of each other."""
    for design in chosen.designs:
        ranks: list[int | None] = [None] if "full" in chosen.models else []
        ranks += designs.RANKS[design] if "pca" in chosen.models else ()
        for rank in ranks:
            for contender in chosen.contenders:
                if contender.endswith("-starts") and (rank is None or design not in designs.SEVERAL_OPTIMA):
                    continue
                options = dict(CONTENDERS[contender].options)
                yield Task(design, rank, contender, chosen.threads, chosen.limit, options, chosen.loglik)


def complete(task: Task, result: dict[str, Any], known: dict[str, Any]) -> Line:
    """The result with its name, the recorded values beside it, and when its trace reached the best peer's."""
    model = designs.model_label(task.rank)
    line: Line = dict.fromkeys(records.COLUMNS) | result
    line |= {"design": task.design, "model": model, "contender": task.contender, "threads": task.threads}
    line["options"] = " ".join(f"{name}={value}" for name, value in task.options.items())
    if result.get("source") != "shared":  # drawn anew: the recorded values belong to other arrays
        return line
    best = known.get("best", {}).get(f"{task.design} | {model}")
    if best is not None:
        line["best"] = best["elbo"]
        line["gap"] = None if line["bound"] is None else (line["bound"] - best["elbo"]) / abs(best["elbo"])
    oracle = known.get("sigma_rel_frobenius_of_other_estimators", {}).get(task.design, {})
    line["frobenius_oracle"] = line["frobenius_oracle"] or oracle.get("oracle")
    peer = known.get("best_peer", {}).get(f"{task.design} | {model}")
    if peer is not None:
        line |= {"best_peer": peer["elbo"], "best_peer_by": peer["by"], "best_peer_cpu_s": peer["cpu_s"]}
        for column, value in (("to", peer["elbo"] - slack(peer["elbo"])), ("past", peer["elbo"])):
            # A trace is believed only as far as the recomputed bound confirms it.
            if line["bound"] is not None and line["bound"] >= value:
                line[f"seconds_{column}_peer"] = seconds_to(result.get("trace", []), value)
    return line


def seconds_to(trace: list[list[float]], value: float) -> float | None:
    """First time at which the trace is at or above the value, None where it never is."""
    return next((seconds for seconds, reached in trace if reached >= value), None)


def in_order(lines: list[Line]) -> list[Line]:
    """By design, model and contender as they are listed in the tables of names."""
    names, rivals = list(designs.RANKS), list(CONTENDERS)
    ranks = {line["model"]: int(line["model"].partition("=")[2] or 0) for line in lines}
    return sorted(
        lines,
        key=lambda line: (names.index(line["design"]), ranks[line["model"]], rivals.index(line["contender"])),
    )


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    main()
