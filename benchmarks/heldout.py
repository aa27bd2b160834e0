"""`python -m benchmarks.heldout`: which estimator predicts unseen rows of real tables best, in five folds.

Each fold is one fresh process that fits, on the same rows, default `ml`, `variational`, and `variational`
with the shrinkage that ml chose (free covariance only), and scores the left-out rows by the
importance-sampled log-likelihood. Finished folds are kept in `heldout.csv`'s folder; the pooled sums and
paired differences go to CSV and Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import records, report
from benchmarks.measure import REPOSITORY, facts, in_child
from benchmarks.tables import HELDOUT

ESTIMATORS = ("ml", "variational", "variational, shrunk")
FOLDS = 5
# fmt: off
COLUMNS = (
    "table", "covariates", "rank", "estimator", "rows", "loglik", "monte_carlo_se", "difference",
    "difference_se", "difference_median", "rows_better", "shrinkage", "converged", "lost", "seconds",
    "commit", "date", "cpu", "cores", "python",
    "versions",
)
# fmt: on
HEADER = (
    "table",
    "covariates",
    "rank",
    "estimator",
    "log-likelihood of left-out rows",
    "Monte-Carlo se",
    "ml minus this",
    "its se over rows",
    "its median over rows",
    "share of rows that ml predicts better",
    "ml not worse by > 2 se",
    "shrinkage",
    "seconds",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Fit the folds that are missing, then write the tables."""
    chosen = parse(arguments)
    covariates = "intercept" if chosen.intercept_only else "design"
    for name in chosen.tables:
        for fold in range(FOLDS):
            path = fold_path(chosen.out, name, covariates, fold)
            if path.is_file() and not chosen.again:
                continue
            print(f"{name}, {covariates}, fold {fold + 1} of {FOLDS}", end=" ... ", flush=True)
            task = {"table": name, "rank": HELDOUT[name], "fold": fold, "folds": FOLDS}
            task |= {name: getattr(chosen, name) for name in ("threads", "limit", "intercept_only")}
            where = facts()
            result = in_child(sys.executable, "benchmarks.heldout_child", task, chosen.shared)
            print(result["status"])
            if result["status"] == "done":
                write_json(path, result | where)
    lines = [
        line
        for name in HELDOUT
        for kind in ("design", "intercept")
        for line in compare(name, kind, read_folds(chosen.out, name, kind))
    ]
    records.write(chosen.out / "heldout.csv", lines, COLUMNS)
    missing = [name for name in chosen.tables if not read_folds(chosen.out, name, covariates)]
    told = f"\nNot complete, and not in any sum: {', '.join(missing)} ({covariates}).\n" if missing else ""
    (chosen.out / "heldout.md").write_text(markdown(lines) + told)
    print(told, end="")
    print(f"written: {chosen.out / 'heldout.csv'}, {chosen.out / 'heldout.md'}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heldout", description=__doc__)
    parser.add_argument(
        "--tables", type=lambda text: text.split(","), default=list(HELDOUT), help=", ".join(HELDOUT)
    )
    parser.add_argument("--intercept-only", action="store_true", help="leave the designs' covariates out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a fit may take")
    parser.add_argument("--again", action="store_true", help="measure finished folds anew")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    chosen = parser.parse_args(arguments)
    chosen.shared, chosen.out = chosen.shared.resolve(), chosen.out.resolve()
    unknown = sorted(set(chosen.tables) - set(HELDOUT))
    if unknown:
        parser.error(f"unknown table {', '.join(unknown)}; there are {', '.join(HELDOUT)}")
    return chosen


def fold_path(out: Path, name: str, covariates: str, fold: int) -> Path:
    """Where a finished fold is kept."""
    return out / "heldout" / f"{name}-{covariates}-{fold}.json"


def read_folds(out: Path, name: str, covariates: str) -> list[dict[str, Any]]:
    """Finished folds; [] unless all are there, since a pooled sum needs every row."""
    paths = [fold_path(out, name, covariates, fold) for fold in range(FOLDS)]
    return [json.loads(path.read_text()) for path in paths] if all(path.is_file() for path in paths) else []


def write_json(path: Path, result: dict[str, Any]) -> None:
    """The whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(result))
    unfinished.replace(path)


def compare(name: str, covariates: str, folds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line an estimator: sum over left-out rows, ml's paired difference and its standard error."""
    lines = []
    for estimator in ESTIMATORS:
        held = [fold["estimators"][estimator] for fold in folds if estimator in fold["estimators"]]
        if len(held) < FOLDS:
            continue
        scores = np.concatenate([each["scores"] for each in held])
        reference = np.concatenate([fold["estimators"]["ml"]["scores"] for fold in folds])
        difference, error = paired(reference, scores)
        lines.append(
            {key: folds[-1][key] for key in ("commit", "date", "cpu", "cores", "python", "versions")}
            | {
                "table": name,
                "covariates": covariates,
                "rank": HELDOUT[name],
                "estimator": estimator,
                "rows": len(scores),
                "loglik": float(scores.sum()),
                "monte_carlo_se": math.sqrt(sum(error**2 for each in held for error in each["errors"])),
                "difference": difference,
                "difference_se": error,
                "difference_median": float(np.median(reference - scores)),
                "rows_better": float(np.mean(reference > scores)),
                "shrinkage": float(np.mean([each["shrinkage"] for each in held])),
                "converged": all(each["converged"] for each in held),
                "lost": sum(int(np.sum(~np.isfinite(each["scores"]))) for each in held),
                "seconds": sum(each["seconds"] for each in held),
            }
        )
    return lines


def paired(reference: NDArray[np.float64], scores: NDArray[np.float64]) -> tuple[float, float]:
    """Sum of reference - scores over rows, and its standard error sqrt(n) sd."""
    each = reference - scores
    return float(each.sum()), float(math.sqrt(len(each)) * each.std(ddof=1))


def markdown(lines: list[dict[str, Any]]) -> str:
    """The table, and the pooled difference over all tables of each kind."""
    rows = []
    for line in lines:
        worse = "" if line["estimator"] == "ml" else str(line["difference"] >= -2.0 * line["difference_se"])
        rows.append(
            (line["table"], line["covariates"], str(line["rank"] or "full"), line["estimator"],
             f"{line['loglik']:.1f}", f"{line['monte_carlo_se']:.1f}", f"{line['difference']:+.1f}",
             f"{line['difference_se']:.1f}", f"{line['difference_median']:+.2f}",
             "" if line["estimator"] == "ml" else f"{line['rows_better']:.2f}",
             {"True": "yes", "False": "**no**"}.get(worse, ""),
             f"{line['shrinkage']:.3f}", f"{line['seconds']:.1f}")
        )  # fmt: skip
    parts = [
        "# Log-likelihood of left-out rows, five folds (nats, higher is better)",
        report.table(HEADER, rows),
    ]
    for kind in ("design", "intercept"):
        for estimator in ESTIMATORS[1:]:
            same = [line for line in lines if line["covariates"] == kind and line["estimator"] == estimator]
            if same:
                total = sum(line["difference"] for line in same)
                error = math.sqrt(sum(line["difference_se"] ** 2 for line in same))
                pooled = f"Pooled over {len(same)} tables ({kind} covariates), ml minus {estimator}"
                parts.append(f"{pooled}: {total:+.1f} ± {error:.1f}.")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
