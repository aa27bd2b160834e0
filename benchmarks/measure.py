"""Runs one task in a fresh process with a fixed number of threads; `facts` says where.

`in_child` never raises for a failed run: a run that dies, or passes the limit and is stopped, is a result
with a status.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def in_child(python: str, module: str, task: dict[str, Any], shared: Path) -> dict[str, Any]:
    """Run `python -m MODULE TASK.json RESULT.json SHARED` and return the result with a `status`.

    done; stopped (the limit in `task["limit"]` was passed); failed: with the last line of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        task_path, result_path = Path(folder, "task.json"), Path(folder, "result.json")
        log_path = Path(folder, "log.txt")
        task_path.write_text(json.dumps(task))
        command = [python, "-m", module, str(task_path), str(result_path), str(shared)]
        begun = time.monotonic()
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, env=_environment(task["threads"]), stdout=log, stderr=log
            )
            _, exit_status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(exit_status)
        if result_path.is_file():
            return json.loads(result_path.read_text())
        said = log_path.read_text(errors="replace")
        seconds = time.monotonic() - begun
    lost = {"peak_mib": usage.ru_maxrss / 1024.0, "cpu_s": usage.ru_utime + usage.ru_stime}
    if "Timeout (" in said and seconds > task["limit"]:
        return {"status": f"stopped at {task['limit']:.0f} s", **lost}
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "nothing said")
    return {"status": f"failed: {last.strip()[:200]} (exit {process.returncode})", **lost}


def _environment(threads: int) -> dict[str, str]:
    """The caller's environment with every thread pool at `threads` (XLA's follows the child's affinity)."""
    return dict(os.environ) | {name: str(threads) for name in THREAD_VARIABLES} | {"PYTHONWARNINGS": "ignore"}


def facts() -> dict[str, Any]:
    """Commit, date and machine, as columns."""
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def commit() -> str:
    """Short hash of the checkout, + when the package or the benchmarks differ from it; '' outside one."""

    def git(*arguments: str) -> str:
        try:
            answer = subprocess.run(
                ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return ""
        return answer.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
