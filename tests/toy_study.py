"""A study of seconds, for the tests of the runner: nothing is compiled, one method fails, one is not installed."""

from __future__ import annotations

import time

from poplin.studies import columns, records, study
from poplin.studies.figures import Axis, curves
from poplin.studies.study import Cell, Column, Estimate, Figure, Study, Table

PAUSE = 0.02  # seconds a fit, so that a test can end a run in its middle


def _slow(table: Table, seed: int) -> Estimate:
    time.sleep(PAUSE)
    return columns.MOMENTS.fit(table, seed)


def _fails(table: Table, seed: int) -> Estimate:
    if seed == 1:
        raise ValueError("nothing to be had")
    return columns.TRUE_LATENT.fit(table, seed)


METHODS = (
    Column("slow", _slow),
    columns.TRUE_LATENT,
    Column("few", _slow, at_most=2),
    Column("fails", _fails),
    Column("absent", _fails, lambda: "it is not installed"),
)


def cells(small: bool) -> list[Cell]:
    """Two cells that differ in n."""
    replicates = 3 if small else 8
    sigma = study.autoregressive(3, 0.5)
    return [
        Cell({"n": n, "p": 3}, study.drawn_from(study.law(n, sigma)), METHODS, replicates) for n in (50, 80)
    ]


STUDY = Study(
    name="toy",
    title="A toy",
    question="Does the runner run?",
    cells=cells,
    measures=(records.errors, records.lags, records.cosine),
    shown=("bias_coef", "rms_bias_sigma", "lag1", "cosine"),
    figures=(
        Figure("bias", "Bias against n.", curves(Axis("n", "rows"), Axis("bias_sigma", "bias of Sigma"))),
    ),
)
