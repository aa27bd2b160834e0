"""Large tables of low rank: free, low-rank, smoothed and amortised fits (the notes' Figures 4 and 5).

Start at `STUDY`.
"""

from __future__ import annotations

from poplin.studies import columns as use
from poplin.studies import records, study
from poplin.studies.figures import Axis, curves
from poplin.studies.study import Cell, Figure, Study


def cells(small: bool) -> list[Cell]:
    """n=10000 (5 replicates) and 50000 (1), p=50 to 200, q=5 to 20; Sigma = AR1(0.5) cut to q."""
    if small:
        return [_cell(300, 8, 2, 2)]
    sizes = [(10_000, 5), (50_000, 1)]
    return [_cell(n, p, q, count) for n, count in sizes for p in (50, 100, 200) for q in (5, 10, 20)]


def _cell(n: int, p: int, q: int, replicates: int) -> Cell:
    methods = (
        use.pln("full", {"method": "variational"}),
        use.low_rank("true rank", q, method="variational"),
        use.low_rank("two-step smoothing", q, method="smoothed"),
        use.low_rank("amortised", q, method="amortised"),
        use.low_rank("ml", q),
        use.MOMENTS,
        use.TRUE_LATENT,
    )
    law = study.law(n, study.autoregressive(p, 0.5), rank=q)
    return Cell({"n": n, "p": p, "q": q}, study.drawn_from(law), methods, replicates)


RANK = Axis("q", "rank q")

STUDY = Study(
    name="smoothing",
    title="Smoothing: large tables of low rank",
    question=(
        "Sigma = AR1(0.5) cut to rank q, mean 0. `full` is the bound with 2np variational parameters, `true rank` the "
        "one with 2nq, `two-step smoothing` that with networks in the place of its Gaussians, `amortised` networks "
        "from the start, `ml` maximum likelihood of the same rank. Does smoothing reduce the bias?"
    ),
    cells=cells,
    measures=(records.errors, records.lags),
    shown=(
        "bias_coef",
        "rmse_coef",
        "lag0",
        "true_lag0",
        "lag1",
        "true_lag1",
        "rmse_sigma",
        "frobenius",
        "cpu_s",
    ),
    figures=(
        Figure(
            "coef",
            "Mean bias of B against q (the notes' Figures 4 and 5), n=10000.",
            curves(RANK, Axis("bias_coef", "bias of B"), panels="p", where={"n": 10_000}, truth=0.0),
        ),
        Figure(
            "frobenius",
            "Relative error of Sigma against q, n=10000.",
            curves(RANK, Axis("frobenius", "relative Frobenius error"), panels="p", where={"n": 10_000}),
        ),
    ),
)
