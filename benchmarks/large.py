"""`python -m benchmarks.large DESIGN`: maximum likelihood of tables that are never dense as a whole.

Designs: `sparse` (10^6 x 1000, rank 10, 98 % zeros), `full` (200 000 x 200, full Sigma AR1(0.6)), `wide` (20 000 x
14 000, rank 5). Counts are drawn in one process, written, and fitted in another, whose seconds and peak memory count;
reading is told apart. `--share 0.01` draws so many of the rows. A line is appended to `large.csv`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from benchmarks.measure import REPOSITORY, facts

SLICE = 10_000_000  # counts drawn together


class Design(NamedTuple):
    """Rows, columns, rank (None: full Sigma), mean and standard deviation of the columns' log rates."""

    rows: int
    columns: int
    rank: int | None
    level: float
    spread: float


DESIGNS = {
    "sparse": Design(1_000_000, 1000, 10, -4.9, 1.0),
    "full": Design(200_000, 200, None, 0.0, 0.5),
    "wide": Design(20_000, 14_000, 5, -3.5, 1.5),
}


def root_of(design: Design) -> np.ndarray:
    """C (p, q) of the law: variances of about 0.5."""
    p, q = design.columns, design.rank
    if q is None:
        return np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(np.arange(p), np.arange(p))))
    return np.sqrt(0.5 / q) * np.random.default_rng(1).normal(size=(p, q))


def draw(design: Design, path: Path) -> dict[str, Any]:
    """Write the counts and the truth beside them; what share of them is zero."""
    random, root = np.random.default_rng(0), root_of(design)
    level = design.level + design.spread * random.normal(size=design.columns)
    slices, each = [], max(1, SLICE // design.columns)
    for first in range(0, design.rows, each):
        n = min(each, design.rows - first)
        rate = np.exp(level + random.normal(size=(n, root.shape[1])) @ root.T)
        slices.append(sparse.csr_array(random.poisson(rate).astype(np.int32)))
    counts = sparse.vstack(slices, format="csr")
    sparse.save_npz(path, counts, compressed=False)
    np.savez(path.with_name("truth.npz"), level=level, root=root)
    return {"zeros": round(1 - counts.nnz / (design.rows * design.columns), 4)}


def fit(path: Path) -> dict[str, Any]:
    """Fit the counts of the file; seconds, iterations and distance to the truth."""
    import poplin

    begun = time.perf_counter()
    counts, truth = sparse.load_npz(path), np.load(path.with_name("truth.npz"))
    rank = truth["root"].shape[1] if truth["root"].shape[1] < counts.shape[1] else None
    given = counts if rank else counts.toarray().astype(float)
    read = time.perf_counter() - begun
    told = _told(begun)
    model = poplin.PLN(rank=rank, callback=told).fit(given)
    seconds = time.perf_counter() - begun - read
    phases = model.trace_["phase"]
    last = {str(name): int(np.sum(phases == name)) for name in dict.fromkeys(phases)}
    error = np.sqrt(np.mean((model.coef_[0] - truth["level"]) ** 2))
    return {
        **{"read_s": round(read, 1), "fit_s": round(seconds, 1), "converged": bool(model.converged_)},
        **{"iterations": json.dumps(last), "rms_coef": round(float(error), 5)},
        "relative_sigma": round(_apart(model.result_.loadings, truth["root"]), 4),
    }


def _told(begun: float) -> Any:
    """Every half minute where the fit stands, on standard error."""
    last = [begun]

    def told(progress: Any) -> None:
        now = time.perf_counter()
        if now - last[0] > 30:
            last[0] = now
            print(f"{progress.phase} {progress.iteration}, {now - begun:.0f} s", file=sys.stderr, flush=True)

    return told


def _apart(found: np.ndarray, true: np.ndarray) -> float:
    """|CC' - DD'| / |DD'| in Frobenius' norm, by products of q x q."""
    inner = [float(np.sum((a.T @ b) ** 2)) for a, b in ((found, found), (found, true), (true, true))]
    return float(np.sqrt(max(inner[0] - 2 * inner[1] + inner[2], 0) / inner[2]))


def measured(path: Path) -> dict[str, Any]:
    """The fit in a process of its own, with its peak memory."""
    command = [sys.executable, "-m", "benchmarks.large", "--fit", str(path)]
    with path.with_name("said.txt").open("w+") as said:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().splitlines()
    line = json.loads(lines[-1]) if process.returncode == 0 else {"converged": f"failed {process.returncode}"}
    cpu = round(usage.ru_utime + usage.ru_stime, 1)
    return line | {"cpu_s": cpu, "peak_mib": round(usage.ru_maxrss / 1024)}


def main(arguments: list[str] | None = None) -> None:
    """Draw, fit, append a line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("design", nargs="?", choices=DESIGNS)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.fit is not None:
        print(json.dumps(fit(chosen.fit)))
        return
    if chosen.design is None:
        parser.error(f"say which design: {', '.join(DESIGNS)}")
    design = DESIGNS[chosen.design]
    design = design._replace(rows=int(design.rows * chosen.share))
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=chosen.out) as folder:
        path = Path(folder).resolve() / "counts.npz"
        line = {"design": chosen.design, "rows": design.rows, "columns": design.columns, "rank": design.rank}
        line |= draw(design, path) | measured(path) | facts()
    print(line)
    target = chosen.out / "large.csv"
    fresh = not target.exists()
    with target.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, list(line), lineterminator="\n", extrasaction="ignore")
        writer.writerows([dict(zip(line, line, strict=True))] if fresh else [])
        writer.writerow(line)


if __name__ == "__main__":
    main()
