"""Scenario 1 of the notes: Sigma of full rank, fitted with its own axes V lent, with fewer of them, and freely.

Start at `STUDY`.
"""

from __future__ import annotations

from poplin.studies import columns as use
from poplin.studies import records, study
from poplin.studies.figures import boxes, scale_plot
from poplin.studies.study import Cell, Column, Figure, Study

FREE = (use.ML, use.UNSHRUNK, use.DIAGONAL, use.FULL, use.MOMENTS, use.TRUE_LATENT, use.PEER)
SHOWN = (
    *("bias_coef", "rmse_coef", "lag0", "lag1", "lag2", "lag5", "rms_bias_sigma", "sd_sigma"),
    *("rmse_sigma", "frobenius", "cosine", "cpu_s"),
)


def lent(ranks: tuple[int, ...]) -> tuple[Column, ...]:
    """Fits under the first q axes of the truth, by maximum likelihood and by the bound (diagonal in w)."""
    methods = ("ml", "variational")
    return tuple(use.borrowed(q, method=method) for q in ranks for method in methods)


def cells(small: bool) -> list[Cell]:
    """One cell, n=5000 and p=50, with V of q = 50, 20, 10, 5; the small one has 300 rows and 8 columns."""
    n, p, ranks, replicates = (300, 8, (8, 3), 2) if small else (5000, 50, (50, 20, 10, 5), 5)
    law = study.law(n, study.autoregressive(p, 0.8))
    return [Cell({"n": n, "p": p}, study.drawn_from(law), FREE + lent(ranks), replicates)]


STUDY = Study(
    name="scenario1",
    title="Scenario 1: Sigma of full rank, its axes known or not",
    question=(
        "Sigma = AR1(0.8), mean 0. How close are B, Sigma, Lambda and the rows' Z to the truth when Sigma is free, and "
        "when its first q axes V are lent and only their scales Lambda are fitted?"
    ),
    cells=cells,
    measures=(records.errors, records.lags, records.cosine, records.scales),
    shown=SHOWN,
    figures=(
        Figure("cosine", "Cosine similarity of each row's fitted and true Z (the notes' Figure 1).", boxes()),
        Figure("scales", "Fitted Lambda against the true one, where V was lent.", scale_plot),
    ),
)
