"""`python -m benchmarks.insample`: does ml without shrinkage beat the bound on the fitted rows?

Each (table, rank) is fitted by ml (shrinkage 0) and by the bound in fresh processes; the importance-sampled
log-likelihood of the fitted rows, time and peak memory go to `insample.csv` and `insample.md`. Finished
lines are kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import records, report
from benchmarks.measure import REPOSITORY, facts, in_child
from benchmarks.tables import INSAMPLE

SHORT = ("trichoptera", "barents", "mollusk", "oaks", "microcosm")
# fmt: off
COLUMNS = (
    "table", "rank", "estimator", "status", "loglik", "loglik_se", "elbo", "smallest_eigenvalue", "finite",
    "converged", "iterations", "wall_s", "cpu_s", "peak_mib", "notes", "commit", "date", "cpu", "cores",
    "python", "versions",
)
HEADER = (
    "table", "rank", "status", "variational", "ml", "ml minus variational", "ml >= variational - 3 se",
    "smallest eigenvalue of ml's Sigma", "seconds: variational", "ml", "peak MiB (ml)",
)
# fmt: on


def main(arguments: list[str] | None = None) -> None:
    """Fit what is missing, then write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.insample", description=__doc__)
    parser.add_argument(
        "--tables", type=lambda text: text.split(","), default=list(SHORT), help=", ".join(INSAMPLE)
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a fit may take")
    parser.add_argument("--again", action="store_true", help="measure finished lines anew")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    chosen = parser.parse_args(arguments)
    path, shared = chosen.out.resolve() / "insample.csv", chosen.shared.resolve()
    lines = records.read(path)
    for task in tasks(chosen):
        same = [line for line in lines if _key(line) == _key(task) and records.finished(line)]
        if same and not chosen.again:
            continue
        print(f"{task['table']}, rank {task['rank'] or 'full'}, {task['estimator']}", end=" ... ", flush=True)
        where = facts()
        line = {**task, **in_child(sys.executable, "benchmarks.insample_child", task, shared), **where}
        print(line["status"])
        lines = [other for other in lines if _key(other) != _key(task)] + [line]
        records.write(path, lines, COLUMNS)
    path.with_suffix(".md").write_text(markdown(records.read(path)))
    print(f"written: {path}, {path.with_suffix('.md')}")


def tasks(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Both estimators of every (table, rank)."""
    return [
        {
            "table": name,
            "rank": rank,
            "estimator": estimator,
            "threads": chosen.threads,
            "limit": chosen.limit,
        }
        for name in chosen.tables
        for rank in INSAMPLE[name]
        for estimator in ("variational", "ml")
    ]


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["table"], line["rank"], line["estimator"]


def markdown(lines: list[dict[str, Any]]) -> str:
    """One row a (table, rank): both likelihoods and their difference."""
    held = {_key(line): line for line in lines if line["status"] == "done"}
    rows = []
    for line in lines:
        other = held.get((line["table"], line["rank"], "variational"))
        if line["estimator"] != "ml":
            continue
        name = (line["table"], str(line["rank"] or "full"), line["status"])
        if line["status"] != "done" or other is None:
            rows.append((*name, *[""] * 8))
            continue
        difference = line["loglik"] - other["loglik"]
        error = (line["loglik_se"] ** 2 + other["loglik_se"] ** 2) ** 0.5
        values = [f"{each['loglik']:.1f} ± {each['loglik_se']:.1f}" for each in (other, line)]
        verdict = "yes" if difference >= -3.0 * error else "**no**"
        eigenvalue = report.number(line["smallest_eigenvalue"], ".2g")
        seconds = [f"{each['wall_s']:.1f}" for each in (other, line)]
        memory = f"{line['peak_mib']:.0f}"
        rows.append((*name, *values, f"{difference:+.1f}", verdict, eigenvalue, *seconds, memory))
    return "# Log-likelihood of the fitted rows, no shrinkage (nats)\n\n" + report.table(HEADER, rows) + "\n"


if __name__ == "__main__":
    main()
