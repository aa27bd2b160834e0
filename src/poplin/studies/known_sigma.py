"""Sigma known or not: is the bias of B smaller, or only its variance? What the notes left pending.

Start at `STUDY`. Sigma known or not, by the bound and by exact integration (diagonal Sigma) or maximum likelihood
(AR1).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from poplin.studies import columns as use
from poplin.studies import records, study
from poplin.studies.figures import Axis, curves
from poplin.studies.study import Cell, Column, Figure, Study


def cells(small: bool) -> list[Cell]:
    """Diagonal Sigma (variances 0.5 to 1.5) with p=10, and AR1(0.8) with p=20, over mean and n."""
    if small:
        return [_cell("diagonal", 200, 4, 0, 4), _cell("AR1", 200, 4, 0, 4)]
    grid = [("diagonal", n, 10, mean, 100) for n in (300, 3000) for mean in (-1, 0, 1)]
    return [
        _cell(*each) for each in grid + [("AR1", n, 20, mean, 30) for n in (300, 3000) for mean in (-1, 0, 1)]
    ]


def _cell(shape: str, n: int, p: int, mean: int, replicates: int) -> Cell:
    diagonal = shape == "diagonal"
    sigma = np.diag(np.linspace(0.5, 1.5, p)) if diagonal else study.autoregressive(p, 0.8)
    drawn = study.drawn_from(study.law(n, sigma, mean=mean))
    unknown = {"covariance": "diagonal"} if diagonal else {"shrinkage": 0}
    return Cell(
        {"sigma": shape, "n": n, "p": p, "mean": mean},
        drawn,
        _methods(unknown, integrals=diagonal),
        replicates,
    )


def _methods(unknown: dict[str, Any], *, integrals: bool) -> tuple[Column, ...]:
    """The bound, maximum likelihood, and integration where it can be, Sigma known and not."""
    bound, exact = {"method": "variational"}, {"method": "exact"}
    known = lambda table: {"covariance": table.covariance}
    found = (
        use.pln("bound, Sigma known", lambda table: {**bound, **known(table)}),
        use.pln("bound", {**bound, **unknown, "shrinkage": 0}),
        use.pln("ml, Sigma known", known),
        use.pln("ml", unknown),
    )
    if not integrals:
        return found
    return (
        *found,
        use.pln("integral, Sigma known", lambda table: {**exact, **known(table)}),
        use.pln("integral", {**exact, **unknown, "shrinkage": 0}),
    )


MEAN = Axis("mean", "mean of Z")

STUDY = Study(
    name="known_sigma",
    title="Sigma known or not: bias or variance?",
    question=(
        "The bound and exact maximum likelihood (by integration where Sigma is diagonal), with Sigma known and not: "
        "does knowing Sigma take the bias out of B, or only some of its variance?"
    ),
    cells=cells,
    measures=(records.errors, records.lags),
    shown=("bias_coef", "rms_bias_coef", "sd_coef", "rmse_coef", "bias_in_sd_coef", "lag0", "lag1", "cpu_s"),
    figures=(
        Figure(
            "diagonal",
            "Bias of B, diagonal Sigma, n=3000.",
            curves(MEAN, Axis("bias_coef", "bias of B"), where={"sigma": "diagonal", "n": 3000}, truth=0.0),
        ),
        Figure(
            "ar1",
            "Bias of B, Sigma = AR1(0.8), n=3000.",
            curves(MEAN, Axis("bias_coef", "bias of B"), where={"sigma": "AR1", "n": 3000}, truth=0.0),
        ),
    ),
)
