"""`python -m benchmarks.events --events 1e8`: `poplin counts` on events drawn at random; seconds and peak memory.

Patients have gamma-distributed numbers of events, codes a long tail (rank to the power -1.2), days five years. The
events are written as Parquet (or `--csv`) and counted by the command line in a process of its own. A line is appended
to `events.csv`; the files are removed at the end.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.measure import REPOSITORY, facts

DRAWN = """
SELECT 'patient' || CAST(floor({patients} * pow(random(), 1.6)) AS BIGINT) AS patient,
       'C' || CAST(floor(pow(1 - random() * (1 - pow({codes}, -0.2)), -5.0)) AS BIGINT) AS code,
       DATE '2020-01-01' + CAST(floor(random() * 1826) AS INTEGER) AS date
FROM range({events})
"""


def draw(path: Path, events: int, patients: int, codes: int) -> float:
    """Write the events; the size of the file in MiB."""
    kind = "PARQUET" if path.suffix == ".parquet" else "CSV"
    with duckdb.connect() as base:
        base.execute("SET memory_limit = '4GB'")
        base.execute("SELECT setseed(0.5)")
        sql = DRAWN.format(events=events, patients=patients, codes=codes)
        base.execute(f"COPY ({sql}) TO '{path}' (FORMAT {kind})")
    return path.stat().st_size / 2**20


def measure(path: Path, options: list[str], memory: str) -> dict[str, Any]:
    """Seconds, peak memory (MiB) and the last line of the report of `poplin counts`."""
    out = path.with_name("counts.h5ad")
    command = [
        sys.executable,
        "-m",
        "poplin",
        "counts",
        str(path),
        "--memory",
        memory,
        *options,
        "--out",
        str(out),
    ]
    begun = time.monotonic()
    with path.with_name("said.txt").open("w+") as said:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begun
        said.seek(0)
        lines = said.read().splitlines()
    told = [line for line in lines if line.startswith("The table has")]
    return {
        **{"exit": process.returncode, "wall_s": round(seconds, 1)},
        **{"cpu_s": round(usage.ru_utime + usage.ru_stime, 1), "peak_mib": round(usage.ru_maxrss / 1024)},
        "table": told[0] if told else " ".join(lines[-2:]),
    }


def main(arguments: list[str] | None = None) -> None:
    """Draw, count, append a line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.events", description=__doc__)
    parser.add_argument("--events", type=lambda text: int(float(text)), default=10**6)
    parser.add_argument("--patients", type=lambda text: int(float(text)), help="one for every hundred events")
    parser.add_argument("--codes", type=int, default=5000)
    parser.add_argument("--csv", action="store_true", help="text instead of Parquet")
    parser.add_argument("--distinct-days", action="store_true")
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    chosen = parser.parse_args(arguments)
    patients = chosen.patients or max(chosen.events // 100, 10)
    chosen.out.mkdir(parents=True, exist_ok=True)
    options = ["--min-rows", "50", *(["--distinct-days"] if chosen.distinct_days else [])]
    with tempfile.TemporaryDirectory(dir=chosen.out) as folder:
        path = Path(folder) / ("events.csv" if chosen.csv else "events.parquet")
        size = draw(path, chosen.events, patients, chosen.codes)
        line = {"events": chosen.events, "patients": patients, "codes": chosen.codes, "kind": path.suffix}
        line |= {"file_mib": round(size), "options": " ".join(options), "memory": chosen.memory}
        line |= measure(path, options, chosen.memory) | facts()
    print(line)
    target = chosen.out / "events.csv"
    fresh = not target.exists()
    with target.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, list(line), lineterminator="\n")
        writer.writerows([dict(zip(line, line, strict=True))] if fresh else [])
        writer.writerow(line)


if __name__ == "__main__":
    main()
