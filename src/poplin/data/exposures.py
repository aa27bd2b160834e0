"""Offsets that were meant as logarithms and are none: by their values, and by the names of their columns.

Start at `doubtful_values` and `doubtful_names`: what they say is a warning, since a logarithm may look like that, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from poplin.data.tables import Names

# exp(20) is more reads than any machine gives, and exp(10) more than the effort for one row over that for another.
LARGEST, WIDEST = 20.0, 10.0
_NAMES = frozenset(
    "total totals depth depths read reads effort efforts time times exposure exposures coverage hour hours day days "
    "minutes seconds duration area areas volume volumes weight mass size sizes length umi umis population persons "
    "counted".split()
)
_LOGGED = ("log", "ln")


def doubtful_values(values: np.ndarray) -> str:
    """The beginning of a sentence about values that look like exposures rather than their logarithms, or nothing.

    Logarithms of totals, hours or areas are hardly ever all whole, above 20, or 10 apart. Where one is below 0, these
    are logarithms; nor is 0 an exposure, unless of a row that nobody looked at.
    """
    if not values.size or not values.min() >= 0:
        return ""
    low, high = float(values.min()), float(values.max())
    whole = high >= 2 and low < high and bool((values == np.trunc(values)).all())
    if not (high > LARGEST or (low > 0 and (whole or high - low > WIDEST))):
        return ""
    return f"runs from {low:g} to {high:g}, as reads, hours or areas do and hardly their logarithms"


def doubtful_names(names: Iterable[str]) -> Names:
    """Those names that by their words are exposures (readsTotal, sampling_effort), and no logarithms (log_total)."""
    found = []
    for name in names:
        words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
        logged = any(word.startswith(_LOGGED) for word in words)
        if not logged and _NAMES.intersection(words):
            found.append(name)
    return tuple(found)
