"""What a fit says of rows that depend on each other, by the columns of its covariates that group them.

Start at `words`. The test is in `inference/dependence.py`; it is made when a fit is made, so that whoever reads
estimates alone, a summary, a file or the report is told.
"""

from __future__ import annotations

import numpy as np

from poplin.data.counts import Counts
from poplin.estimators.driver import Result
from poplin.inference.dependence import Alike, alike

DEPEND = (
    "Rows with the same {what} are more alike than independent rows ({found}): standard errors and p-values that "
    "take them "
    "for independent are too small for what differs between groups. Ask for confint(cluster={name!r}) (command line: "
    "--cluster {plain}), or compare within groups by having {name!r} in the formula.{several}"
)
SEVERAL = " Where one column's groups hold those of another, cluster by the larger groups."


def words(result: Result, counts: Counts, seed: int) -> str | None:
    """One sentence or two where rows go together within groups, None where they do not or there are none."""
    found = alike(counts, result.coef, np.sum(result.loadings**2, axis=1), seed=seed)
    if not found:
        return None
    first = found[0].name
    plain = first if first.isidentifier() else f"'{first}'"
    what = " or ".join(repr(one.name) for one in found)
    told = "; ".join(_told(one, several=len(found) > 1) for one in found)
    return DEPEND.format(
        what=what, found=told, name=first, plain=plain, several=SEVERAL if len(found) > 1 else ""
    )


def _told(one: Alike, *, several: bool) -> str:
    who = f"'{one.name}': " if several else ""
    p = f"p = {one.p:.1g}" if one.p > 1e-12 else "p < 1e-12"
    return f"{who}{one.groups} groups, correlation of residuals {one.correlation:.2f} within, {p}"
