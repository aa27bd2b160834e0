"""`python -m benchmarks.cold`: `poplin fit trichoptera.csv --out DIR` from the shell to written results.

Two kinds of cold process, five of each: "first" has an empty cache of compiled programs (start of the interpreter,
imports, reading, compilation, fit, files), "later" finds the programs that an earlier run of the same shape kept.
Without the shared folder a table of the same shape (49 x 17) is drawn. Writes `cold.csv`.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import records
from benchmarks.measure import REPOSITORY, facts

LIMIT = 6.0  # seconds, the target
COLUMNS = ("kind", "run", "wall_s", "cpu_s", "exit_code", "commit", "date", "cpu", "cores", "python")


def main(arguments: list[str] | None = None) -> None:
    """Time the runs and write the lines."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    chosen = parser.parse_args(arguments)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        counts = write_counts(Path(folder, "trichoptera.csv"), chosen.shared)
        warm = Path(folder, "cache")
        timed_fit(counts, Path(folder, "out"), warm)
        for kind in ("first", "later"):
            for run in range(1, chosen.runs + 1):
                where = facts()
                cache = Path(folder, f"cache-{run}") if kind == "first" else warm
                wall, cpu, code = timed_fit(counts, Path(folder, f"out-{kind}-{run}"), cache)
                print(f"{kind} {run}: {wall:.2f} s wall, {cpu:.2f} s CPU, exit code {code}")
                lines.append(
                    {"kind": kind, "run": run, "wall_s": wall, "cpu_s": cpu, "exit_code": code} | where
                )
    records.write(chosen.out.resolve() / "cold.csv", lines, COLUMNS)
    for kind in ("first", "later"):
        seconds = sorted(line["wall_s"] for line in lines if line["kind"] == kind)
        median = statistics.median(seconds)
        met = "met" if median < LIMIT and not any(line["exit_code"] for line in lines) else "MISSED"
        print(f"{kind}: median {median:.2f} s, from {seconds[0]:.2f} to {seconds[-1]:.2f} s")
        print(f"target under {LIMIT:g} s: {met}")


def timed_fit(counts: Path, out: Path, cache: Path) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and exit code of one `poplin fit`; what it says is shown when it fails."""
    program = Path(sysconfig.get_path("scripts"), "poplin")
    command = [str(program) if program.is_file() else "poplin", "fit", str(counts), "--out", str(out)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"XDG_CACHE_HOME": str(cache)}
    )
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.returncode


def write_counts(path: Path, shared: Path) -> Path:
    """The table as CSV, names of rows in a first column without a heading."""
    source = shared / "data" / "trichoptera.npz"
    if source.is_file():
        with np.load(source) as arrays:
            counts, rows, columns = (arrays[name] for name in ("counts", "obs_names", "var_names"))
    else:
        generator = np.random.default_rng(0)
        counts = generator.poisson(np.exp(generator.normal(size=(49, 17))))
        rows, columns = [f"night{i}" for i in range(49)], [f"taxon{j}" for j in range(17)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *columns])
        writer.writerows([name, *row] for name, row in zip(rows, counts.tolist(), strict=True))
    return path


if __name__ == "__main__":
    main()
