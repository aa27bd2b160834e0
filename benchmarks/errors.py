"""`python -m benchmarks.errors`: time and peak memory of standard errors against the number of columns, n = 2000.

Counts are drawn from the model with Sigma_jk = 0.8^|j - k|, an intercept and a covariate. Each run has its own process,
which fits first and then asks for the standard errors of B and for the intervals of ten covariances, each with the
compilation that it needs; peak memory is that of the process after each step. "full" is a free Sigma, "rank" a rank of
5. Writes `errors.csv` and `errors.md`.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.child import pin, timed
from benchmarks.measure import REPOSITORY, facts, in_child

ROWS, CORRELATION, LEVEL, RANK = 2000, 0.8, 1.0, 5
LIMIT = 3600.0  # seconds for one step
MODELS = {"full": {"shrinkage": 0}, "rank": {"rank": RANK}}
COLUMNS = (
    *("model", "p", "numbers", "status", "fit_s", "errors_s", "entries_s", "cpu_s", "others"),
    *("fit_mib", "errors_mib", "missing", "commit", "date", "cpu", "cores", "python"),
)


def main(arguments: list[str] | None = None) -> None:
    """Run every size in a process of its own and write the lines."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.errors", description=__doc__)
    parser.add_argument("--columns", default="20,50,100,200,500")
    parser.add_argument("--models", default="full,rank")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    chosen = parser.parse_args(arguments)
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
