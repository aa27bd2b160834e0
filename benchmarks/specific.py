"""`python -m benchmarks.specific`: what variances of the columns' own add to a rank and to a borrowed basis.

Parts: `insample` (log-likelihood of the fitted rows), `heldout` (rows left out, five folds, against a rank alone, a
diagonal and a full Sigma), `coverage` (intervals of a basis's scales where a fifth of the variance is outside of it),
`nothing` (what is lost where there is no such variance). One line a fit in `specific.csv`, finished ones are kept; the
page is `specific.md`. In `heldout` a rank is chosen in the first fold that is fitted, by bounds of fits to four fifths
of its rows and the importance-sampled log-likelihood of the others, and serves in all folds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import records, report
from benchmarks.heldout import paired
from benchmarks.measure import REPOSITORY, facts
from benchmarks.tables import Table, folds, real_table

FOLDS = 5
RANKS = (1, 2, 3, 5, 8)
# fmt: off
COLUMNS = (
    "part", "table", "model", "fold", "rows", "columns", "rank", "loglik", "loglik_se", "rows_scored", "covered",
    "intervals", "shrinkage", "converged", "iterations", "seconds", "commit", "date", "cpu", "cores", "python",
)
# fmt: on
KEY = ("part", "table", "model", "fold")
OWN: dict[str, Any] = {"specific": "column"}
PARTS = ("insample", "heldout", "coverage", "nothing")
INSAMPLE: dict[str, dict[str, dict[str, Any]]] = {
    "oaks, ~ 1": {
        "rank 5": {"rank": 5},
        "diagonal": {"covariance": "diagonal"},
        "full": {},
        "rank 5 and own": {"rank": 5, **OWN},
    },
    "scRNA-50": {"rank 6": {"rank": 6}, "full": {}, "rank 6 and own": {"rank": 6, **OWN}},
}
HELDOUT = (
    "trichoptera", "barents", "mollusk", "microcosm-30", "oaks", "scRNA-50", "kang_ifnb_small-100", "kang_donors-100",
    "microcosm",
)  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "rank and own": {"rank": "chosen", **OWN},
    "rank": {"rank": "chosen"},
    "diagonal": {"covariance": "diagonal"},
    "full": {},
}
LARGE_RANK = 6  # of the widest table, where no rank is chosen
FIRST_ROWS = 2_000  # of a table of many cells
LAW = {"n": 1000, "p": 30, "q": 5}
TABLES = 200


def main(arguments: list[str] | None = None) -> None:
    """Fit what is missing, then write the page."""
    chosen = parse(arguments)
    out = chosen.out / "specific.csv"
    lines = records.read(out)
    done = {tuple(str(line[name]) for name in KEY) for line in lines}
    for part in chosen.parts:
        for table, model, fold in tasks(part, chosen):
            if (part, table, model, str(fold)) in done:
                continue
            print(part, table, model, fold, end=" ... ", flush=True)
            same = [line["rank"] for line in lines if (part, table, model) == tuple(line[k] for k in KEY[:3])]
            lines.append(fitted(part, table, model, fold, chosen, known=same) | facts())
            records.write(out, lines, COLUMNS)
            print(
                {name: lines[-1].get(name) for name in ("rank", "loglik", "covered", "converged", "seconds")}
            )
    page = chosen.out / "specific.md"
    page.write_text(markdown(lines, chosen.out / "specific"))
    print(f"written: {out}, {page}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.specific", description=__doc__)
    split = lambda text: text.split(",")
    parser.add_argument("--parts", type=split, default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--tables", type=split, help="of the parts on real tables; all if not given")
    parser.add_argument("--folds", type=int, default=FOLDS, help=f"how many of the {FOLDS} folds are fitted")
    parser.add_argument("--count", type=int, default=TABLES, help="simulated tables")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared", help="the shared folder")
    return parser.parse_args(arguments)


def tasks(part: str, chosen: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Tables, models and folds (or numbers of simulated tables) of a part."""
    if part == "insample":
        yield from (
            (table, model, 0) for table in INSAMPLE for model in INSAMPLE[table] if wanted(table, chosen)
        )
    elif part == "heldout":
        some = [table for table in HELDOUT if wanted(table, chosen)]
        yield from (
            (table, model, fold) for table in some for fold in range(chosen.folds) for model in MODELS
        )
    else:
        models = ("basis and own",) if part == "coverage" else ("basis and own", "basis")
        yield from ((part, model, seed) for seed in range(chosen.count) for model in models)


def wanted(table: str, chosen: argparse.Namespace) -> bool:
    """Whether the table was asked for."""
    return chosen.tables is None or table in chosen.tables


def fitted(
    part: str, table: str, model: str, fold: int, chosen: argparse.Namespace, *, known: list[Any]
) -> dict[str, Any]:
    """One line; the scores of left-out rows are kept beside it. `known`: ranks of other folds."""
    key = dict(zip(KEY, (part, table, model, fold), strict=True))
    if part in ("coverage", "nothing"):
        return key | simulated(part, model, fold)
    data = table_of(table, chosen.shared)
    if part == "insample":
        fit, told = fit_of(data, np.ones(len(data.counts)), INSAMPLE[table][model])
        return (
            key | told | {"loglik": fit.loglik_, "loglik_se": fit.loglik_se_, "rows_scored": len(data.counts)}
        )
    left_out = folds(len(data.counts), FOLDS) == fold
    settings = dict(MODELS[model])
    if settings.get("rank") == "chosen":
        wide = LARGE_RANK if table == "microcosm" else None
        settings["rank"] = known[0] if known else wide or rank_of(data, ~left_out, settings)
    fit, told = fit_of(data, 1.0 * ~left_out, settings)
    scores, errors = scored(fit, data.rows(left_out))
    keep = chosen.out / "specific" / f"{table}-{model}-{fold}.npy"
    keep.parent.mkdir(parents=True, exist_ok=True)
    np.save(keep, scores)
    told |= {
        "loglik": float(scores.sum()),
        "loglik_se": float(np.linalg.norm(errors)),
        "rows_scored": len(scores),
    }
    return key | told


def table_of(name: str, shared: Path) -> Table:
    """The table, with its design's covariates; "-30": its so many commonest columns; "~ 1": an intercept alone."""
    plain, _, most = name.replace(", ~ 1", "").partition("-")
    data = real_table(plain, shared, intercept_only="~ 1" in name)
    if name == "scRNA-50":
        return cells(shared)
    data = data.rows(np.arange(len(data.counts)) < FIRST_ROWS)
    if not most:
        return data
    columns = np.sort(np.argsort(-data.counts.sum(axis=0), kind="stable")[: int(most)])
    return data._replace(counts=data.counts[:, columns], offsets=data.offsets[:, columns])


def cells(shared: Path) -> Table:
    """1000 cells at random and the 50 genes that vary most among all; offset the log of a cell's total."""
    with np.load(shared / "data" / "scRNA.npz") as arrays:
        counts, totals = arrays["counts"].astype(np.int64), arrays["cov_total_counts"].astype(float)
    rows = np.random.default_rng(0).choice(len(counts), 1000, replace=False)
    genes = np.argsort(-counts.var(axis=0), kind="stable")[:50]
    offset = np.repeat(np.log(totals[rows])[:, None], 50, axis=1)
    return Table(counts[rows][:, genes], np.ones((1000, 1)), offset)


def fit_of(data: Table, weights: NDArray[np.float64], settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The fit, and how it went; rows of weight 0 are left out, so that all folds share their programs."""
    import poplin
    from poplin._numerics import hurried

    begun = time.perf_counter()
    with warnings.catch_warnings(), hurried(tells_all=False):  # most of the time is compiling
        warnings.simplefilter("ignore")
        fit = poplin.PLN(**settings).fit(
            data.counts, X=data.covariates, offset=data.offsets, weights=weights, standard_errors=False
        )
    n, p = data.counts.shape
    told = {"rows": n, "columns": p, "rank": settings.get("rank"), "shrinkage": fit.shrinkage_weight_}
    told |= {"converged": fit.converged_, "iterations": fit.n_iter_, "seconds": time.perf_counter() - begun}
    return fit, told


def scored(fit: Any, rows: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-likelihoods of rows, and their Monte-Carlo errors."""
    from poplin._numerics import hurried

    with warnings.catch_warnings(), hurried(tells_all=False):
        warnings.simplefilter("ignore")
        return fit.score_samples(rows.counts, X=rows.covariates, offset=rows.offsets, return_se=True)


def rank_of(data: Table, kept: NDArray[np.bool_], settings: dict[str, Any]) -> int:
    """The rank whose bound's fit to four fifths of these rows predicts the last fifth best, up to two falls."""
    inner = np.zeros(len(kept), int)
    inner[kept] = 1 + (folds(int(kept.sum()), FOLDS, seed=1) == 0)
    best: tuple[float, int] = (-np.inf, 1)
    falls = 0
    for rank in (rank for rank in RANKS if rank < data.counts.shape[1] / 2):
        fit, _ = fit_of(data, 1.0 * (inner == 1), settings | {"rank": rank, "method": "variational"})
        value = float(scored(fit, data.rows(inner == 2))[0].sum())
        falls = 0 if value > best[0] else falls + 1
        best = max(best, (value, rank))
        if falls == 2:
            break
    return best[1]


def simulated(part: str, model: str, seed: int) -> dict[str, Any]:
    """A table of a basis, with a fifth of the variance outside it or none; intervals, or what new rows are worth."""
    n, p, q = LAW["n"], LAW["p"], LAW["q"]
    random = np.random.default_rng([PARTS.index(part), seed])
    basis = np.linalg.qr(random.standard_normal((p, q)))[0]
    scales = np.array([8.0, 5.0, 3.5, 2.5, 1.5]) * np.exp(0.2 * random.standard_normal(q))
    own = random.uniform(0.5, 1.5, p) if part == "coverage" else np.zeros(p)
    own *= 0.25 * scales.sum() / max(own.sum(), 1e-300)

    def drawn() -> Table:
        latent = 1 + random.standard_normal((n, q)) @ (basis * np.sqrt(scales)).T
        latent = latent + random.standard_normal((n, p)) * np.sqrt(own)
        return Table(random.poisson(np.exp(latent)), np.ones((n, 1)), np.zeros((n, p)))

    settings = {"basis": basis, **(OWN if model == "basis and own" else {})}
    fit, told = fit_of(drawn(), np.ones(n), settings)
    if part == "coverage":
        ends = fit.confint("scales")
        inside = (ends.lower.to_numpy() <= scales) & (scales <= ends.upper.to_numpy())
        return told | {
            "covered": int(inside.sum()),
            "intervals": q,
            "loglik": float(np.mean(ends.estimate / scales)),
        }
    scores, errors = scored(fit, drawn())
    return told | {
        "loglik": float(scores.sum()),
        "loglik_se": float(np.linalg.norm(errors)),
        "rows_scored": n,
    }


def markdown(lines: list[dict[str, Any]], scores: Path) -> str:
    """The page."""
    where = lines[-1] if lines else {}
    parts = [
        "# Variances of the columns' own",
        "Made by `python -m benchmarks.specific`; log-likelihoods in nats, higher is better.",
        "; ".join(f"{name} {where.get(name)}" for name in ("commit", "date", "cpu", "cores", "python")),
    ]
    inside = [
        (line["table"], line["model"], f"{line['loglik']:.0f} ± {line['loglik_se']:.0f}", str(line["converged"]),
         str(line["iterations"]), f"{line['seconds']:.0f}")
        for line in lines if line["part"] == "insample"
    ]  # fmt: skip
    header = ("table", "model", "log-likelihood", "converged", "iterations", "seconds")
    parts += ["## Fitted rows", report.table(header, inside)]
    header = (
        "table",
        "folds",
        "ranks",
        "other",
        "its ranks",
        "log-likelihood",
        "rank and own minus other",
        "not worse",
    )
    parts += [
        "## Rows left out",
        report.table(header, compared(lines, scores)),
        *covered(lines),
        *lost(lines),
    ]
    return "\n\n".join(parts) + "\n"


def compared(lines: list[dict[str, Any]], scores: Path) -> Iterator[tuple[str, ...]]:
    """A row for each table and other model: the paired difference over rows of the folds that both have."""
    held = {(line["table"], line["model"], line["fold"]): line for line in lines if line["part"] == "heldout"}
    for table in HELDOUT:
        for other in list(MODELS)[1:]:
            both = [k for k in range(FOLDS) if {(table, "rank and own", k), (table, other, k)} <= set(held)]
            if not both:
                continue
            one, two = (
                np.concatenate([np.load(scores / f"{table}-{model}-{k}.npy") for k in both])
                for model in ("rank and own", other)
            )
            gap, error = paired(one, two)
            ranks = [
                ", ".join(str(held[table, m, k]["rank"] or "") for k in both) for m in ("rank and own", other)
            ]
            yield (table, str(len(both)), ranks[0], other, ranks[1], f"{two.sum():.0f}", f"{gap:+.0f} ± {error:.0f}",
                   "yes" if gap >= -2 * error else "**no**")  # fmt: skip


def covered(lines: list[dict[str, Any]]) -> list[str]:
    """How often intervals of scales hold the truth."""
    told = [line for line in lines if line["part"] == "coverage"]
    if not told:
        return []
    shares = np.array([line["covered"] / line["intervals"] for line in told])
    error = shares.std(ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else np.nan
    law = "n = {n}, p = {p}, q = {q}".format(**LAW)
    return [
        "## Scales of a basis, a fifth of the variance outside it",
        f"{law}, {len(told)} tables: intervals of 95 % hold {100 * shares.mean():.1f} ± {100 * error:.1f} % of the "
        f"scales; mean ratio of estimate and truth {np.mean([line['loglik'] for line in told]):.3f}; "
        f"{sum(bool(line['converged']) for line in told)} fits converged.",
    ]


def lost(lines: list[dict[str, Any]]) -> list[str]:
    """What variances that are not there cost new rows."""
    told = {(line["model"], line["fold"]): line["loglik"] for line in lines if line["part"] == "nothing"}
    both = [k for model, k in told if model == "basis" and ("basis and own", k) in told]
    if not both:
        return []
    gaps = np.array([told["basis", k] - told["basis and own", k] for k in both]) / LAW["p"]
    error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
    return [
        "## No variance outside the basis",
        f"As many new rows, {len(both)} tables: {gaps.mean():.3f} ± {error:.3f} nats lost for each variance that is "
        f"not there, {gaps.max():.3f} at most in a table.",
    ]


if __name__ == "__main__":
    main()
