"""Bias as the rank grows: n=1000, p=50 and 100, q from 1 to p (the notes' Figure 3).

Start at `STUDY`.
"""

from __future__ import annotations

from poplin.studies import columns as use
from poplin.studies import laws, measures
from poplin.studies.figures import Axis, curves
from poplin.studies.study import Cell, Figure, Study

RANKS = (1, 2, 5, 10, 20, 35, 50, 75, 100)


def cells(small: bool) -> list[Cell]:
    """Random loadings, variances one on average, mean 0; the small one has p=8."""
    n, columns, ranks, replicates = (200, (8,), (1, 3), 2) if small else (1000, (50, 100), RANKS, 10)
    return [_cell(n, p, q, replicates) for p in columns for q in ranks if q <= p]


def _cell(n: int, p: int, q: int, replicates: int) -> Cell:
    methods = (
        use.pln("full", {"method": "variational"}),
        use.low_rank("true rank", q, method="variational"),
        use.low_rank("ml", q),
        use.MOMENTS,
    )
    drawn = laws.drawn_from(laws.random_low_rank(n, p, q))
    return Cell({"n": n, "p": p, "q": q}, drawn, methods, replicates)


RANK = Axis("q", "rank q", log=True)

STUDY = Study(
    name="rank",
    title="Rank: how the bias grows with q",
    question=(
        "n=1000, Sigma of rank q with variances one on average. `full` is the bound with 2np variational parameters, "
        "`true rank` the one with 2nq, `ml` maximum likelihood of the same rank: how do their biases grow with q?"
    ),
    cells=cells,
    measures=(measures.errors, measures.lags),
    shown=(
        *("bias_coef", "rms_bias_coef", "bias_in_sd_coef", "lag0", "rms_bias_sigma", "bias_in_sd_sigma"),
        *("rmse_sigma", "frobenius", "cpu_s"),
    ),
    figures=(
        Figure(
            "coef",
            "Mean bias of B against q (the notes' Figure 3).",
            curves(RANK, Axis("bias_coef", "bias of B"), panels="p", truth=0.0),
        ),
        Figure(
            "sigma",
            "Bias of the variances (mean of Sigma's diagonal; the truth is near 1) against q.",
            curves(RANK, Axis("lag0", "mean of Sigma's diagonal"), panels="p"),
        ),
        Figure(
            "frobenius",
            "Relative error of Sigma against q.",
            curves(RANK, Axis("frobenius", "relative Frobenius error of Sigma"), panels="p"),
        ),
    ),
)
