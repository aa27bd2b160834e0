"""One fold in its own process (started by `heldout.py`): fit on the other rows, score the left-out ones."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import pin
from benchmarks.contenders import package_versions
from benchmarks.tables import Table, folds, real_table


def main(task_path: str, result_path: str, shared: str) -> None:
    """Run the fold and write its result as JSON."""
    task = json.loads(Path(task_path).read_text())
    pin(task["threads"])
    table = real_table(task["table"], Path(shared), intercept_only=task["intercept_only"])
    left_out = folds(len(table.counts), task["folds"]) == task["fold"]
    with contextlib.redirect_stdout(sys.stderr):
        estimators = run(table.rows(~left_out), table.rows(left_out), task)
    result = {"status": "done", "estimators": estimators, "versions": package_versions("poplin-ml")}
    Path(result_path).write_text(json.dumps(result))


def run(kept: Table, left_out: Table, task: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Default ml, variational, and variational with ml's shrinkage where the covariance is free."""
    rank, limit = task["rank"], task["limit"]
    scored = {
        "ml": score(kept, left_out, limit, method="ml", rank=rank),
        "variational": score(kept, left_out, limit, method="variational", rank=rank),
    }
    if rank is None:
        weight = scored["ml"]["shrinkage"]
        scored["variational, shrunk"] = score(kept, left_out, limit, method="variational", shrinkage=weight)
    return scored


def score(kept: Table, left_out: Table, limit: float, **options: Any) -> dict[str, Any]:
    """Fit and score: per-row log-likelihoods with their Monte-Carlo standard errors, and how the fit went."""
    import poplin

    faulthandler.dump_traceback_later(limit, exit=True)
    begun = time.perf_counter()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit = poplin.PLN(**options).fit(kept.counts, X=kept.covariates, offset=kept.offsets)
        seconds = time.perf_counter() - begun
        scores, errors = fit.score_samples(
            left_out.counts, X=left_out.covariates, offset=left_out.offsets, return_se=True
        )
    faulthandler.cancel_dump_traceback_later()
    return {
        "scores": np.asarray(scores, dtype=float).tolist(),
        "errors": np.asarray(errors, dtype=float).tolist(),
        "shrinkage": float(getattr(fit, "shrinkage_weight_", 0.0) or 0.0),
        "converged": bool(fit.converged_),
        "seconds": seconds,
        "notes": sorted({str(each.message)[:160] for each in told}),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
