"""Bias as the rank grows: n=1000, p=50 and 100, q from 1 to p (the notes' Figure 3); once with four times the rows.

Start at `STUDY`.
"""

from __future__ import annotations

from poplin.studies import columns as use
from poplin.studies import records, study
from poplin.studies.figures import Axis, curves
from poplin.studies.study import Cell, Figure, Study

RANKS = (1, 2, 5, 10, 20, 35, 50, 75, 100)


def cells(small: bool) -> list[Cell]:
    """Random loadings, variances one on average, mean 0; of q = p = 50 with 4000 rows, to see which bias is O(1/n)."""
    n, columns, ranks, replicates = (200, (8,), (1, 3), 2) if small else (1000, (50, 100), RANKS, 10)
    found = [_cell(n, p, q, replicates) for p in columns for q in ranks if q <= p]
    return found if small else [*found, _cell(4000, 50, 50, 5)]


def _cell(n: int, p: int, q: int, replicates: int) -> Cell:
    methods = (
        use.pln("full", {"method": "variational"}),
        use.low_rank("true rank", q, method="variational"),
        use.low_rank("ml", q),
        use.MOMENTS,
    )
    drawn = study.drawn_from(study.random_low_rank(n, p, q))
    return Cell({"n": n, "p": p, "q": q}, drawn, methods, replicates)


RANK = Axis("q", "rank q", log=True)
VARIANCES = Axis("lag0", "bias of the variances", less="true_lag0")
ERROR = Axis("frobenius", "relative Frobenius error of Sigma")
SAME_ROWS = {"n": 1000}

STUDY = Study(
    name="rank",
    title="Rank: how the bias grows with q",
    question=(
        "n=1000 (4000 in one cell), Sigma of rank q with variances one on average. `full` is the bound with 2np "
        "variational parameters, `true rank` the one with 2nq, `ml` maximum likelihood of the same rank: how do their "
        "biases grow with q?"
    ),
    cells=cells,
    measures=(records.errors, records.lags),
    shown=(
        *("bias_coef", "rms_bias_coef", "bias_in_sd_coef", "lag0", "true_lag0"),
        *("rms_bias_sigma", "bias_in_sd_sigma"),
        *("rmse_sigma", "frobenius", "cpu_s"),
    ),
    figures=(
        Figure(
            "coef",
            "Mean bias of B against q (the notes' Figure 3).",
            curves(RANK, Axis("bias_coef", "bias of B"), panels="p", where=SAME_ROWS, truth=0.0),
        ),
        Figure(
            "sigma",
            "Bias of the variances (mean over Sigma's diagonal, less the truth) against q.",
            curves(RANK, VARIANCES, panels="p", where=SAME_ROWS, truth=0.0),
        ),
        Figure(
            "frobenius",
            "Relative error of Sigma against q.",
            curves(RANK, ERROR, panels="p", where=SAME_ROWS),
        ),
    ),
)
