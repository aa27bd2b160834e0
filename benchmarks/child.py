"""One run in its own process (started by `measure.py`): `python -m benchmarks.child TASK RESULT SHARED`.

Times construction and fit twice on the same arrays (the first call also compiles, or warms up: the difference
is told as `compile_s`), notes CPU time and the peak memory of the process, and only then recomputes bounds
and errors.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from benchmarks.contenders import CONTENDERS, Outcome, Task, package_versions
from benchmarks.designs import Design, load, truth_errors

Result = TypeVar("Result")
SECOND_CALL_BELOW = 60.0  # seconds: a longer first call is not repeated, its compile time is not told apart


def main(task_path: str, result_path: str, shared: str) -> None:
    """Run the task and write its result, one flat JSON object."""
    task = Task(**json.loads(Path(task_path).read_text()))
    pin(task.threads)
    design = load(task.design, Path(shared))
    with contextlib.redirect_stdout(sys.stderr):
        result = run(task, design)
    Path(result_path).write_text(json.dumps({key: _plain(value) for key, value in result.items()}))


def run(task: Task, design: Design) -> dict[str, Any]:
    """Measure, then score."""
    fit = CONTENDERS[task.contender].prepare(task, design)
    outcome, first = timed(fit, task.limit)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    clock, compile_seconds = first, None
    if first.wall < SECOND_CALL_BELOW:
        outcome, clock = timed(fit, task.limit)
        compile_seconds = first.wall - clock.wall
    result = {
        "status": "done",
        "rows": design.counts.shape[0],
        "columns": design.counts.shape[1],
        "source": design.source,
        "wall_s": clock.wall,
        "cpu_s": clock.processor,
        "others": clock.others,
        "first_call_s": first.wall,
        "compile_s": compile_seconds,
        "peak_mib": peak,
        "iterations": outcome.iterations,
        "converged": outcome.converged,
        "notes": outcome.notes,
        "versions": package_versions(task.contender),
    }
    return result | scores(task, design, outcome)


def pin(threads: int) -> None:
    """Keep the process on that many cores: XLA's thread pool follows this and no environment variable."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


class Clock(NamedTuple):
    """Seconds of one call: wall, CPU of all threads, share of the machine that others used meanwhile."""

    wall: float
    processor: float
    others: float | None


def timed(fit: Callable[[], Result], limit: float) -> tuple[Result, Clock]:
    """One call and its clock; past the limit the process ends at once."""
    faulthandler.dump_traceback_later(limit, exit=True)
    busy, wall, processor = machine_busy(), time.perf_counter(), time.process_time()
    outcome = fit()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    faulthandler.cancel_dump_traceback_later()
    after, others = machine_busy(), None
    if busy is not None and after is not None:
        others = max(0.0, (after - busy - processor) / (wall * (os.cpu_count() or 1)))
    return outcome, Clock(wall, processor, others)


def machine_busy() -> float | None:
    """CPU seconds that the machine spent since it started, stolen ones too; None where it is not told."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _wait, interrupts, soft, stolen = map(int, fields)
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def scores(task: Task, design: Design, outcome: Outcome) -> dict[str, Any]:
    """Recomputed bound, the package's own, trace, errors against the truth, likelihood where asked for."""
    seconds, values = outcome.trace
    result: dict[str, Any] = {
        "bound": outcome.bound(),
        "reported_bound": outcome.reported(),
        "trace": [[float(s), float(v)] for s, v in zip(seconds, values, strict=True)],
    }
    if task.loglik and task.contender.startswith("poplin"):
        result |= {"loglik": float(outcome.fit.loglik_), "loglik_se": float(outcome.fit.loglik_se_)}
    return result | truth_errors(design, outcome.coef, outcome.covariance)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main(*sys.argv[1:])
