"""`python -m benchmarks.backed`: memory of fits of a table that stays on disk, beside the same table in memory.

200 000 x 300 counts of rank 2, a fifth of them not 0, in .h5ad (`--dense`: with every 0 written, in single precision).
Each fit is a process of its own, with few iterations: memory and what reading costs are measured, not where it ends.
Writes `backed.md`: peak memory, seconds of the processor and of the clock.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.large import SLICE, Design, root_of
from benchmarks.measure import REPOSITORY, facts

DESIGN = Design(200_000, 300, 2, -1.5, 0.5)
WAYS = ("memory", "backed", "path")


def draw(path: Path, *, dense: bool) -> None:
    """Write the counts, some rows at a time in the memory of this process."""
    import anndata
    from scipy import sparse

    random, root = np.random.default_rng(0), 0.5 * root_of(DESIGN)
    level = DESIGN.level + DESIGN.spread * random.normal(size=DESIGN.columns)
    slices, each = [], SLICE // DESIGN.columns
    for first in range(0, DESIGN.rows, each):
        n = min(each, DESIGN.rows - first)
        rate = np.exp(level + random.normal(size=(n, root.shape[1])) @ root.T)
        slices.append(sparse.csr_matrix(random.poisson(rate).astype(np.float32)))
    counts = sparse.vstack(slices, format="csr")
    anndata.AnnData(counts.toarray() if dense else counts).write_h5ad(path)


def fit(path: Path, way: str, iterations: int) -> None:
    """Fit the table of a file that is read, opened backed or named."""
    import anndata

    import poplin
    from poplin.fitting import streamed

    # a small start: what counts here are the passes over all rows
    streamed.SAMPLE_ENTRIES = 300_000
    warnings.simplefilter("ignore", poplin.ConvergenceWarning)
    given: Any = path if way == "path" else anndata.read_h5ad(path, backed="r" if way == "backed" else None)
    poplin.PLN(rank=DESIGN.rank, max_iter=iterations).fit(given)


def measured(path: Path, way: str, iterations: int) -> str:
    """A line of the table: a fit in a process of its own."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.backed", "--fit", str(path), "--way", way]
    process = subprocess.Popen([*command, "--iterations", str(iterations)], cwd=REPOSITORY)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    ending = "" if process.returncode == 0 else f" (failed, {process.returncode})"
    cpu, clock = usage.ru_utime + usage.ru_stime, time.perf_counter() - begun
    return f"| {way}{ending} | {usage.ru_maxrss / 1024:.0f} | {cpu:.0f} | {clock:.0f} |"


def main(arguments: list[str] | None = None) -> None:
    """Draw, fit each way, write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backed", description=__doc__)
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, action="append")
    chosen = parser.parse_args(arguments)
    if chosen.fit is not None:
        fit(chosen.fit, chosen.way[0], chosen.iterations)
        return
    chosen.out.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{DESIGN.rows} x {DESIGN.columns}, {'dense' if chosen.dense else 'sparse'}. {facts()}\n",
        "| table | peak MiB | CPU s | clock s |\n|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=chosen.out) as folder:
        path = Path(folder).resolve() / "counts.h5ad"
        draw(path, dense=chosen.dense)
        lines += [measured(path, way, chosen.iterations) for way in chosen.way or WAYS[:2]]
    text = "\n".join(lines) + "\n"
    print(text)
    with (chosen.out / "backed.md").open("a") as handle:
        handle.write(text)


if __name__ == "__main__":
    main()
