"""The command `poplin study`: check the plan, run it, write what came of it, say how it ended.

Start at `carry_out`. Nothing here prints; the command line does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from poplin._interrupts import whole
from poplin.studies import page, runner
from poplin.studies.runner import Plan, Teller
from poplin.studies.study import NAMES, chosen_cells, find

__all__ = ["Ended", "Plan", "carry_out", "listing"]


class Ended(NamedTuple):
    """Exit code (0 done, 3 not all done, 130 interrupted), what was written, and what went wrong ('': nothing)."""

    code: int
    written: list[str]
    trouble: str


def listing() -> str:
    """The studies, one a line, with their titles."""
    width = max(map(len, NAMES))
    return "\n".join(f"{name:{width}}  {find(name).title}" for name in NAMES)


def carry_out(plan: Plan, out: Path, *, jobs: int | None, tell: Teller | None, command: str) -> Ended:
    """Run what is missing and write tables, figures and page into `out`; `InputError` for a meaningless plan."""
    chosen_cells(find(plan.study), plan.small, plan.methods)
    trouble = runner.run(plan, out, jobs=jobs or os.cpu_count() or 1, tell=tell)
    with whole():
        paths = page.write(plan, out, command=command, trouble=trouble)
    if trouble:
        kept = f"The study is not complete ({trouble}); the same command goes on from here."
        return Ended(130 if trouble == "interrupted" else 3, [f"Written so far: {p}" for p in paths], kept)
    return Ended(0, [f"Written: {path}" for path in paths], "")
