"""`python -m benchmarks.embedding`: how near an amortised fit comes to the free bound, and how fast it embeds rows.

The 10000 x 100 design of rank 10. Writes `embedding.md`: the bound a row of the free fit and of the amortised one on
the training rows; the same on 10000 new rows under the amortised fit's parameters (free: every row optimised); seconds
in which `transform` embeds a million new rows, twice: by the clock, and CPU seconds of all threads.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

import poplin
from benchmarks.designs import LAWS, load, simulate
from benchmarks.measure import REPOSITORY, facts
from poplin._numerics import double_precision
from poplin.estimators import placed_rows
from poplin.fitting import amortised
from poplin.updates.structure import Model

NAME, NEW = "lowrank_10k", 1_000_000


def bounds(fit: poplin.PLN, counts: np.ndarray) -> tuple[float, float]:
    """The bound a row at the fit's parameters: with the network's Gaussians, and with the best diagonal ones."""
    with double_precision():
        block = placed_rows.new_block(fit.result_, fit.counts_._replace(**_rows(counts)))
        model = Model(*placed_rows._arrays(fit.result_))
        ours = amortised.bound(fit.result_.encoder, model, block)
        best = placed_rows.diagonal_rows(fit.result_, block)[2]
    return ours / len(counts), best / len(counts)


def _rows(counts: np.ndarray) -> dict[str, np.ndarray]:
    n = len(counts)
    return {"y": counts, "x": np.ones((n, 1)), "offset": np.zeros(counts.shape), "weights": np.ones(n)}


def seconds(fit: poplin.PLN, counts: np.ndarray) -> str:
    """Of embedding these counts, by the clock (of all threads' work, in brackets)."""
    began, worked = time.perf_counter(), time.process_time()
    fit.transform(counts)
    return f"{time.perf_counter() - began:.1f} ({time.process_time() - worked:.1f})"


def main(arguments: list[str] | None = None) -> None:
    """Fit, embed, write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedding", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    parser.add_argument("--new", type=int, default=NEW)
    chosen = parser.parse_args(arguments)
    counts, rank = load(NAME, chosen.shared).counts.astype(float), LAWS[NAME].rank
    free = poplin.PLN(rank=rank, method="variational").fit(counts)
    lines = [
        f"Free bound: {free.elbo_ / len(counts):.4f} nats a row in {free.seconds_:.0f} s.\n",
        "| fit | seconds | rounds | training rows | below the free fit | new rows | below their best | "
        "a million rows, s (CPU) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    fresh = simulate(NAME, seed=2026).counts.astype(float)
    many = np.tile(fresh, (-(-chosen.new // len(fresh)), 1))[: chosen.new]
    for label, options in (("as it comes", {}), ("one free step", {"refine": 1})):
        fit = poplin.PLN(rank=rank, method=poplin.methods.Amortised(**options)).fit(counts)
        ours, best = bounds(fit, fresh)
        gap = (free.elbo_ - fit.elbo_) / len(counts)
        times = ", ".join(seconds(fit, many) for _ in range(2)) if not options else ""
        lines.append(
            f"| {label} | {fit.seconds_:.0f} | {np.sum(fit.trace_['phase'] == 'amortised')} | "
            f"{fit.elbo_ / len(counts):.4f} | {gap:.4f} | {ours:.4f} | {best - ours:.4f} | {times} |"
        )
        print(lines[-1], fit.converged_, flush=True)
    where = facts()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines.append(
        f"\n`python -m benchmarks.embedding`, {where['date']}, commit {where['commit']}, {cores} cores of "
        f"{where['cpu']}."
    )
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "embedding.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
