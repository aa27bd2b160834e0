"""`python -m benchmarks.errors`: time and peak memory of standard errors.

`--part commands`: the whole of `poplin fit` on small tables of communities with many columns, twice: with no compiled
program kept from before, and again. When the fit is on disk is told by model.npz, which is written once, by then.
Writes `errors_commands.csv` and `errors_commands.md`.

`--part columns`: against the number of columns, n = 2000. Counts are drawn from the model with Sigma_jk = 0.8^|j - k|,
an intercept and a covariate. Each run has its own process, which fits first and then asks for the standard errors of B
and for the intervals of ten covariances, each with the compilation that it needs; peak memory is that of the process
after each step. "full" is a free Sigma, "rank" a rank of 5. Writes `errors.csv` and `errors.md`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import records
from benchmarks.child import pin, timed
from benchmarks.measure import REPOSITORY, facts, in_child

ROWS, CORRELATION, LEVEL, RANK = 2000, 0.8, 1.0, 5
LIMIT = 3600.0  # seconds for one step
MODELS = {"full": {"shrinkage": 0}, "rank": {"rank": RANK}}


class Community(NamedTuple):
    """Counts of a community: log-normal abundances, a factor, a few latent axes, and a column's own noise."""

    rows: int
    columns: int
    levels: int
    axes: int
    mean: float
    options: tuple[str, ...]

    def counts(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Counts (n, p) and the level of each row (n,); every column is seen at least once."""
        random, (n, p) = np.random.default_rng(seed), self[:2]
        level = np.arange(n) % self.levels
        effects = np.vstack([random.normal(self.mean, 1.5, p), random.normal(size=(self.levels - 1, p))])
        log_rate = effects[0] + np.where(level[:, None] > 0, effects[level], 0.0)
        log_rate = log_rate + random.normal(size=(n, self.axes)) @ random.normal(0.0, 0.7, (self.axes, p))
        log_rate += random.normal(0.0, 0.9, (n, p)) + random.normal(0.0, 0.5, (n, 1))
        counts = random.poisson(np.exp(np.minimum(log_rate, 9.0)))
        counts[random.integers(n, size=p), np.arange(p)] += counts.sum(axis=0) == 0
        return counts, level

    def write(self, folder: Path, seed: int) -> float:
        """counts.csv and levels.csv; returns the share of zeros."""
        import pandas as pd

        counts, level = self.counts(seed)
        rows = [f"plot {i}" for i in range(len(counts))]
        pd.DataFrame(counts, rows, [f"taxon {j}" for j in range(counts.shape[1])]).to_csv(
            folder / "counts.csv", index_label="id"
        )
        pd.DataFrame({"level": [f"level {k}" for k in level]}, rows).to_csv(
            folder / "levels.csv", index_label="id"
        )
        return float((counts == 0).mean())


COMMUNITIES = {
    "60 x 75, a factor of six levels": Community(60, 75, 6, 3, -2.2, ("--formula", "~ level")),
    "70 x 35": Community(70, 35, 1, 3, 0.0, ()),
    "56 x 985, rank 2": Community(56, 985, 1, 2, -0.8, ("--rank", "2")),
    "28 x 12, rank auto": Community(28, 12, 1, 2, 1.0, ("--rank", "auto")),
}
FIRST, AGAIN = "first", "again"
OF_COMMANDS = (
    *("table", "run", "seed", "zeros", "status", "fit_s", "errors_s", "all_s", "cpu_s", "peak_mib"),
    *("by_blocks", "missing", "entries", "load", "commit", "date", "cpu", "cores", "python"),
)
COLUMNS = (
    *("model", "p", "numbers", "status", "fit_s", "errors_s", "entries_s", "cpu_s", "others"),
    *("fit_mib", "errors_mib", "missing", "commit", "date", "cpu", "cores", "python"),
)


def main(arguments: list[str] | None = None) -> None:
    """Run every size in a process of its own and write the lines."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.errors", description=__doc__)
    parser.add_argument("--part", choices=["columns", "commands"], default="commands")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--tables", default="", help="words of the tables' names, with commas between [all]")
    parser.add_argument("--columns", default="20,50,100,200,500")
    parser.add_argument("--models", default="full,rank")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    chosen = parser.parse_args(arguments)
    if chosen.part == "commands":
        commands(chosen)
    else:
        columns(chosen)


def columns(chosen: argparse.Namespace) -> None:
    """Against the number of columns."""
    lines = []
    for model in chosen.models.split(","):
        for p in map(int, chosen.columns.split(",")):
            task = {"model": model, "p": p, "threads": chosen.threads, "limit": LIMIT}
            told = in_child(sys.executable, "benchmarks.errors", task, chosen.out)
            lines.append({"model": model, "p": p} | told | facts())
            shown = ", ".join(f"{k} {v:.4g}" for k, v in told.items() if isinstance(v, float))
            print(f"{model} p={p}: {told['status']}, {shown}", flush=True)
            records.write(chosen.out.resolve() / "errors.csv", lines, COLUMNS)
    (chosen.out.resolve() / "errors.md").write_text(table(lines))


def commands(chosen: argparse.Namespace) -> None:
    """The whole command on every table, first and again."""
    lines, out = [], chosen.out.resolve()
    wanted = [word for word in chosen.tables.split(",") if word]
    for name, community in COMMUNITIES.items():
        if wanted and not any(word in name for word in wanted):
            continue
        for seed in map(int, chosen.seeds.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                zeros = community.write(Path(folder), seed)
                for run in (FIRST, AGAIN):
                    told = whole_command(Path(folder), community.options, chosen.threads)
                    lines.append({"table": name, "run": run, "seed": seed, "zeros": zeros} | told | facts())
                    print(", ".join(f"{k} {v}" for k, v in list(lines[-1].items())[:14]), flush=True)
                    records.write(out / "errors_commands.csv", lines, OF_COMMANDS)
    (out / "errors_commands.md").write_text(table_of_commands(lines))


def whole_command(folder: Path, options: tuple[str, ...], threads: int) -> dict[str, Any]:
    """Seconds until the fit is on disk and until the end, CPU time and peak memory of `poplin fit`."""
    out = folder / "out"
    words = ["fit", str(folder / "counts.csv"), "--out", str(out), "--quiet", *options]
    if "--formula" in options:
        words += ["--covariates", str(folder / "levels.csv")]
    environment = dict(os.environ) | {"XDG_CACHE_HOME": str(folder / "cache")}
    (out / "model.npz").unlink(missing_ok=True)
    begun, load = time.time(), os.getloadavg()[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "poplin", *words],
        cwd=REPOSITORY,
        env=environment,
        preexec_fn=lambda: pin(threads),
    )
    _, status, usage = os.wait4(process.pid, 0)
    ended, process.returncode = time.time(), os.waitstatus_to_exitcode(status)
    told = {"status": process.returncode, "all_s": ended - begun, "load": load}
    told |= {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024.0}
    if not (out / "model.npz").is_file():
        return told
    fitted = (out / "model.npz").stat().st_mtime
    with open(out / "coef.csv", newline="") as handle:
        entries = list(csv.DictReader(handle))
    blocks = sum("blocks" in entry.get("information", "") for entry in entries)
    missing = sum(not entry.get("se") for entry in entries)
    told |= {"fit_s": fitted - begun, "errors_s": ended - fitted}
    return told | {"by_blocks": blocks, "missing": missing, "entries": len(entries)}


def table_of_commands(lines: list[dict[str, Any]]) -> str:
    """Median, least and most over the seeds, by table and run."""
    names = {
        "fit_s": "fit on disk, s",
        "errors_s": "standard errors, s",
        "all_s": "all, s",
        "peak_mib": "MiB",
    }
    rows = [["table", "run", *names.values(), "by blocks", "missing"]]
    rows.append(["---"] * len(rows[0]))
    for key in dict.fromkeys((line["table"], line["run"]) for line in lines):
        some = [line for line in lines if (line["table"], line["run"]) == key and "fit_s" in line]
        if not some:
            continue
        cells = [np.array([line[name] for line in some]) for name in names]
        shown = [f"{np.median(c):.0f} ({c.min():.0f} to {c.max():.0f})" for c in cells]
        shares = [
            f"{sum(line[name] for line in some) / sum(line['entries'] for line in some):.0%}"
            for name in ("by_blocks", "missing")
        ]
        rows.append([*key, *shown, *shares])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as a Markdown table; seconds and MiB."""
    names = ("model", "p", "numbers", "fit_s", "errors_s", "entries_s", "fit_mib", "errors_mib")
    cells = [[_cell(line.get(name)) for name in names] for line in lines]
    rows = [names, ["---"] * len(names), *cells]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def child(task_path: str, result_path: str, _: str) -> None:
    """One fit and its standard errors, timed."""
    import poplin

    task = json.loads(Path(task_path).read_text())
    pin(task["threads"])
    warnings.simplefilter("ignore")
    counts, x = draw(task["p"])
    fit, fitting = timed(lambda: poplin.PLN(**MODELS[task["model"]]).fit(counts, X=x), task["limit"])
    before = peak()
    told, asking = timed(lambda: fit.standard_errors(), task["limit"])
    pairs = [(j, j + 1) for j in range(10)]
    _, entries = timed(lambda: fit.confint("covariance", entries=pairs), task["limit"])
    result = {
        "status": "done",
        "numbers": numbers(task["model"], task["p"]),
        "fit_s": fitting.wall,
        "errors_s": asking.wall,
        "entries_s": entries.wall,
        "cpu_s": asking.processor,
        "others": asking.others,
        "fit_mib": before,
        "errors_mib": peak(),
        "missing": int(np.isnan(told.coef).sum()),
    }
    Path(result_path).write_text(json.dumps(result))


def numbers(model: str, p: int) -> int:
    """How many numbers are free: of B and of Sigma, rotations of C left out."""
    return 2 * p + (p * (p + 1) // 2 if model == "full" else p * RANK - RANK * (RANK - 1) // 2)


def draw(p: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts (n, p) and covariates (n, 2)."""
    random = np.random.default_rng(p)
    x = np.column_stack([np.ones(ROWS), random.normal(size=ROWS)])
    lags = np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
    coef = np.vstack([np.full(p, LEVEL), 0.3 * random.normal(size=p)])
    latent = x @ coef + random.normal(size=(ROWS, p)) @ np.linalg.cholesky(CORRELATION**lags).T
    return random.poisson(np.exp(latent)), x


def peak() -> float:
    """Peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1].endswith(".json"):
        child(*sys.argv[1:])
    else:
        main()
