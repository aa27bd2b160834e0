"""Entries that are no counts: which kinds there are, and where the first of each is, piece by piece.

Start at `faults`; `checks.check_counts` makes the message of what is found.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LARGEST_COUNT = 2.0**53 - 1  # above it, what was another whole number may be the same float64

# what was found, and how it is mended, in the order in which it is told
KINDS = (
    ("an infinite count", "Mark a missing count as NaN."),
    ("a negative count", "Counts are whole numbers from 0; pass them as counted, not logged or centred."),
    (
        "a fractional count",
        "Counts are whole numbers; pass them as counted (AnnData often keeps them in a layer) and give "
        "depth or effort as `offset` on the log scale.",
    ),
    ("a count of 2^53 or more", "Such a number is no longer exact; check the units of the table."),
)


class Fault(NamedTuple):
    """The first entry of a kind: its row, its column, what stands there; and how many there are."""

    row: int
    column: int
    value: float
    many: int


Faults = dict[int, Fault]  # by the place of the kind in `KINDS`


def faults(y: np.ndarray, first: int = 0) -> Faults:
    """What is wrong with a dense piece that begins at the row `first`; NaN is a missing count, which is not."""
    found = {}
    for kind, bad in enumerate((np.isinf(y), y < 0, _fractional(y), y > LARGEST_COUNT)):
        if bad.any():
            i, j = (int(k) for k in np.argwhere(bad)[0])
            found[kind] = Fault(first + i, j, float(y[i, j]), int(bad.sum()))
    return found


def faults_of_entries(y: Any, first: int = 0) -> Faults:
    """The same of a sparse piece, by its entries: what is wrong with the first row that has a bad one."""
    entries = y.data
    bad = np.isinf(entries) | (entries < 0) | _fractional(entries) | (entries > LARGEST_COUNT)
    if not bad.any():
        return {}
    row = int(np.searchsorted(y.indptr, np.flatnonzero(bad)[0], side="right")) - 1
    return faults(y[[row]].toarray(), first + row)


def together(one: Faults, other: Faults) -> Faults:
    """What is wrong with two dense pieces, of which `one` comes first."""
    found = other | one
    for kind in one.keys() & other.keys():
        found[kind] = one[kind]._replace(many=one[kind].many + other[kind].many)
    return found


def _fractional(values: np.ndarray) -> np.ndarray:
    return ~np.isnan(values) & (values != np.rint(values))
