"""Do 95 % intervals cover in 95 % of the tables? Over n, p, mean level and correlation.

Start at `STUDY`. Intervals belong to the unshrunk maximum-likelihood fit; both variational families stand beside it
for their bias in standard deviations.
"""

from __future__ import annotations

from typing import Any

from poplin.studies import columns as use
from poplin.studies import records, study
from poplin.studies.figures import Axis, curves
from poplin.studies.study import Cell, Column, Figure, Numbers, Study

ML = use.with_intervals(use.pln("ml", {"shrinkage": 0}))
FEW = 20  # tables in which the bias of a bound is plain; full Gaussians take ten times as long as "ml"
DIAGONAL, FULL = use.DIAGONAL._replace(at_most=FEW), use.FULL._replace(at_most=FEW)
WANTED, SLACK, ENOUGH = 0.95, 0.015, 20  # the aim: 95 % +- 1.5 % +- 2 Monte-Carlo errors, where n >= 20 p


def cells(small: bool) -> list[Cell]:
    """Full covariance over the grid (1000 replicates at p=5, 200 at p=20), and three models of 5000 x 50 (100)."""
    if small:
        return [_full(200, 3, 1, 0.3, 4)]
    grid = [(n, p) for p in (5, 20) for n in (300, 1000, 5000)]
    found = [
        _full(n, p, mean, correlation, 1000 if p == 5 else 200)
        for n, p in grid
        for mean in (-1, 1)
        for correlation in (0.3, 0.8)
    ]
    return [*found, _full(5000, 50, 0, 0.8, 100), _borrowed(5000, 50, 20, 100), _low_rank(5000, 50, 5, 100)]


def _full(n: int, p: int, mean: int, correlation: float, replicates: int) -> Cell:
    law = study.law(n, study.autoregressive(p, correlation), mean=mean)
    columns = (ML, DIAGONAL) if p > 20 else (ML, DIAGONAL, FULL)
    return _cell("full", law, {"q": p, "mean": mean, "rho": correlation}, columns, replicates)


def _borrowed(n: int, p: int, q: int, replicates: int) -> Cell:
    law = study.law(n, study.autoregressive(p, 0.8), rank=q)
    columns = tuple(
        use.pln(name, lambda table, settings=settings: {"basis": table.basis, **settings})
        for name, settings in (("ml", {}), ("variational diagonal", {"method": "variational"}))
    )
    columns = (use.with_intervals(columns[0]), columns[1]._replace(at_most=FEW))
    return _cell("borrowed", law, {"q": q, "mean": 0, "rho": 0.8}, columns, replicates)


def _low_rank(n: int, p: int, q: int, replicates: int) -> Cell:
    law = study.law(n, study.autoregressive(p, 0.8), rank=q)
    columns = (
        use.with_intervals(use.low_rank("ml", q)),
        use.low_rank("variational diagonal", q, method="variational")._replace(at_most=FEW),
    )
    return _cell("rank", law, {"q": q, "mean": 0, "rho": 0.8}, columns, replicates)


def _cell(
    model: str, law: study.Law, factors: dict[str, Any], columns: tuple[Column, ...], replicates: int
) -> Cell:
    n, p = law.rows, law.coef.shape[1]
    return Cell({"model": model, "n": n, "p": p, **factors}, study.drawn_from(law), columns, replicates)


def remarks(table: Any, _: list[Numbers]) -> str:
    """Which cells miss the aim."""
    if "coef_covered" not in table:
        return ""
    told = table[table["coef_covered"].notna() & (table["n"] >= ENOUGH * table["p"])]
    lines = [
        f"Cells with n >= {ENOUGH} p whose pooled coverage is off {WANTED:.0%} by more than {SLACK:.1%} and two "
        "Monte-Carlo errors, or whose rms bias is above 0.15 standard deviations by two of its errors:\n"
    ]
    for row in told.to_dict("records"):
        where = f"{row['model']} n={row['n']} p={row['p']} mean={row['mean']} rho={row['rho']}"
        for part, short in (("coef", "coef"), ("covariance", "sigma")):
            off = abs(row[f"{part}_covered"] - WANTED) - SLACK - 2 * row.get(f"{part}_covered_mc", 0)
            bias = row.get(f"bias_in_sd_{short}", 0) - 2 * row.get(f"bias_in_sd_{short}_mc", 0)
            if off > 0 or bias > 0.15:
                value, size = row[f"{part}_covered"], row.get(f"bias_in_sd_{short}", float("nan"))
                lines.append(
                    f"- {where}, {part}: {value:.1%} covered, rms bias {size:.2f} standard deviations."
                )
    return "\n".join(lines if len(lines) > 1 else [*lines, "- none."]) + "\n"


SIZE = Axis("n", "rows n", log=True)

STUDY = Study(
    name="coverage",
    title="Coverage of 95 % intervals",
    question=(
        "Full covariance AR1(rho), p=5 and 20, and three models of 5000 x 50: how often do the intervals of B's and "
        "Sigma's entries cover, pooled over entries, and how large is the bias in standard deviations?"
    ),
    cells=cells,
    measures=(records.errors, records.coverage),
    shown=(
        *("coef_covered", "covariance_covered", "bias_in_sd_coef", "bias_in_sd_sigma"),
        *("covariance_above", "covariance_unknown", "interval_cpu", "cpu_s"),
    ),
    figures=(
        Figure(
            "coef",
            "Pooled coverage of the entries of B against n.",
            curves(
                SIZE,
                Axis("coef_covered", "coverage of B"),
                panels="p",
                lines=("model", "mean", "rho"),
                truth=0.95,
            ),
        ),
        Figure(
            "sigma",
            "Pooled coverage of the entries of Sigma against n.",
            curves(
                SIZE,
                Axis("covariance_covered", "coverage of Sigma"),
                panels="p",
                lines=("model", "mean", "rho"),
                truth=0.95,
            ),
        ),
    ),
    remarks=remarks,
)
