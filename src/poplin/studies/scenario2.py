"""Scenario 2 of the notes: Sigma of rank 12, fitted with its axes V lent (too many, right, too few) and freely.

Start at `STUDY`. Fresh rows say which rank a criterion would pick.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from poplin.studies import columns as use
from poplin.studies import records as measures
from poplin.studies import study
from poplin.studies.figures import boxes, scale_plot
from poplin.studies.scenario1 import FREE, lent
from poplin.studies.study import Cell, Figure, Numbers, Study


def cells(small: bool) -> list[Cell]:
    """n=5000, p=50, rank 12 of AR1(0.8); the small one has 300 rows, 8 columns, rank 3."""
    n, p, rank, replicates = (300, 8, 3, 2) if small else (5000, 50, 12, 5)
    lent_ranks, free_ranks = ((8, 3, 2), (2, 3, 4)) if small else ((50, 20, 12, 10, 5), (5, 10, 12, 14, 20))
    law = study.cut_but_with_all_axes(n, study.autoregressive(p, 0.8), rank)
    free = tuple(use.low_rank(f"ml rank q={q}", q) for q in free_ranks)
    bound = (use.low_rank(f"variational rank q={rank}", rank, method="variational"),)
    drawn = study.drawn_from(law, fresh=n // 5)
    return [Cell({"n": n, "p": p, "rank": rank}, drawn, FREE + lent(lent_ranks) + free + bound, replicates)]


def remarks(table: Any, records: list[Numbers]) -> str:
    """Which q has the highest held-out likelihood, and BIC, in each replicate."""
    lines = []
    for kind, words in (("ml V ", "V given"), ("ml rank ", "V free")):
        for criterion in ("heldout", "bic"):
            best: dict[int, tuple[float, str]] = {}
            for record in records:
                if record["method"].startswith(kind) and criterion in record:
                    found = record[criterion], record["method"].partition("q=")[2]
                    best[record["replicate"]] = max(found, best.get(record["replicate"], found))
            if best:
                picks = Counter(q for _, q in best.values())
                told = ", ".join(f"q={q} in {count}" for q, count in picks.most_common())
                lines.append(f"- Best {criterion} with {words}: {told} of {len(best)} replicates.")
    return "\n".join(lines) + "\n"


STUDY = Study(
    name="scenario2",
    title="Scenario 2: Sigma of rank 12, its axes known or not",
    question=(
        "Sigma = AR1(0.8) cut to its first 12 eigenpairs, mean 0. What do too many or too few axes cost, and does "
        "the likelihood of fresh rows (a fifth as many as were fitted), or BIC pick the rank, V given or free?"
    ),
    cells=cells,
    measures=(
        *(measures.errors, measures.lags, measures.cosine, measures.scales),
        *(measures.heldout, measures.criteria),
    ),
    shown=(
        *("bias_coef", "rmse_coef", "lag0", "lag1", "lag2", "rms_bias_sigma", "sd_sigma", "rmse_sigma"),
        *("frobenius", "cosine", "heldout_gap", "bic", "cpu_s"),
    ),
    figures=(
        Figure("cosine", "Cosine similarity of each row's fitted and true Z.", boxes()),
        Figure("scales", "Fitted Lambda against the true one, where V was lent.", scale_plot),
    ),
    remarks=remarks,
    reference="ml V q=12",
)
