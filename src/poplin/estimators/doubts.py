"""Likelihoods that are less exact than they say, told alike by every door that returns one.

Start at `warn_of`; `doubt` is its sentence.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from poplin._errors import LikelihoodWarning
from poplin.data.tables import listed
from poplin.inference.summary import LARGEST_KHAT


def doubt(unsure: np.ndarray, names: Sequence[str], *, of: str = "") -> str | None:
    """How many rows are unsure, and which, by name; `of` says under what model. None where none is."""
    rows = np.flatnonzero(unsure)
    if not len(rows):
        return None
    return (
        f"The log-likelihoods{of} of {len(rows)} of {len(names)} rows are less exact than their standard errors say "
        f"(Pareto k-hat above {LARGEST_KHAT}): {listed(names[int(i)] for i in rows)}. Their counts may lie far from "
        "what the model expects. Look at these rows, and compare models without them too."
    )


def warn_of(unsure: np.ndarray, names: Sequence[str], *, of: str = "", stacklevel: int = 3) -> None:
    """A `LikelihoodWarning` where there are unsure rows."""
    told = doubt(unsure, names, of=of)
    if told is not None:
        warnings.warn(told, LikelihoodWarning, stacklevel=stacklevel)
