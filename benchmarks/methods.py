"""`python -m poplin study benchmarks.methods --out benchmarks/out/methods`: every method on the same small tables.

Four laws: a free Sigma (AR1(0.8), n=1000, p=10), rank 2 of 20 columns, and for Monte-Carlo EM the n=200, p=6 of the
notes' source and n=200, p=100 of rank 5. Low counts (mean of Z zero), where methods differ. It can be interrupted and
started again. Start at `STUDY`.
"""

from __future__ import annotations

from typing import Any

from poplin.studies import columns as use
from poplin.studies import records, study
from poplin.studies.study import Cell, Column, Study

BOUND = {"method": "variational"}
FULL_BOUND = {**BOUND, "posterior": "full", "max_iter": 500}


def methods(names: tuple[str, ...], **form: Any) -> tuple[Column, ...]:
    """These methods for a model of this form, unshrunk."""
    settings = {"variational": BOUND, "variational-full": FULL_BOUND}
    chosen = [
        use.pln(name, {"shrinkage": 0, **form, **settings.get(name, {"method": name})}) for name in names
    ]
    return (*chosen, use.TRUE_LATENT)


BOUNDS = ("variational", "variational-full", "bbvi", "iwae", "amortised", "smoothed")
LIKELIHOOD = ("moments", "composite", "mcmc", "ml")


def cells(small: bool) -> list[Cell]:
    """Sigma free and of rank 2, five tables each; the notes' sizes for chains."""
    replicates = 1 if small else 5
    free = study.law(1000, study.autoregressive(10, 0.8))
    low = study.random_low_rank(1000, 20, 2)
    notes = study.law(200, study.autoregressive(6, 0.8))
    wide = study.random_low_rank(200, 100, 5)
    return [
        Cell(
            {"sigma": "AR1(0.8)", "n": 1000, "p": 10},
            study.drawn_from(free),
            methods(BOUNDS + LIKELIHOOD),
            replicates,
        ),
        Cell(
            {"sigma": "rank 2", "n": 1000, "p": 20},
            study.drawn_from(low),
            methods((*BOUNDS, "exact", *LIKELIHOOD), rank=2),
            replicates,
        ),
        Cell(
            {"sigma": "AR1(0.8)", "n": 200, "p": 6},
            study.drawn_from(notes),
            methods(("variational", "mcmc", "ml")),
            replicates,
        ),
        Cell(
            {"sigma": "rank 5", "n": 200, "p": 100},
            study.drawn_from(wide),
            methods(("variational", "mcmc", "ml"), rank=5),
            replicates,
        ),
    ]


STUDY = Study(
    name="methods",
    title="Every method on the same tables",
    question="What does each way to the E-step cost, and how far from the truth does it end? Mean of Z zero.",
    cells=cells,
    measures=(records.errors, records.lags),
    shown=("bias_coef", "rms_bias_coef", "rms_bias_sigma", "rmse_sigma", "frobenius", "cpu_s"),
)
