"""One fit in its own process (started by `insample.py`): time, memory, likelihood of the fitted rows."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import pin, timed
from benchmarks.contenders import package_versions
from benchmarks.tables import Table, real_table


def main(task_path: str, result_path: str, shared: str) -> None:
    """Run the fit and write its result as JSON."""
    task = json.loads(Path(task_path).read_text())
    pin(task["threads"])
    table = real_table(task["table"], Path(shared))
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = run(table, task)
    result["notes"] = "; ".join(sorted({str(each.message)[:160] for each in told}))
    Path(result_path).write_text(json.dumps(result))


def run(table: Table, task: dict[str, Any]) -> dict[str, Any]:
    """Fit once without shrinkage (compilation included), then score."""
    import poplin

    model = poplin.PLN(method=task["estimator"], rank=task["rank"], shrinkage=0)
    fit, clock = timed(
        lambda: model.fit(table.counts, X=table.covariates, offset=table.offsets), task["limit"]
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    eigenvalues = np.linalg.eigvalsh(fit.covariance_)[-(task["rank"] or len(fit.covariance_)) :]
    return {
        "status": "done",
        "loglik": float(fit.loglik_),
        "loglik_se": float(fit.loglik_se_),
        "elbo": float(fit.elbo_),
        "smallest_eigenvalue": float(eigenvalues[0]),
        "finite": bool(np.isfinite(fit.covariance_).all() and np.isfinite(fit.coef_).all()),
        "converged": bool(fit.converged_),
        "iterations": int(fit.n_iter_),
        "wall_s": clock.wall,
        "cpu_s": clock.processor,
        "peak_mib": peak,
        "versions": package_versions("poplin-ml"),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
