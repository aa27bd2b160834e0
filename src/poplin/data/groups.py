"""Columns of the covariates that group the rows: donors, plates, sites, seen more than once each.

Start at `groups_in` (what a table of covariates has) and at `grouping` (what a user names or gives). A grouping is a
whole number a row; a row without a label has -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.sides import aligned
from poplin.data.tables import Names, is_frame, listed

FEWEST_A_NUMBER = 3.0  # rows that share a number on average; with fewer, it measures rather than labels
FEWEST_CLUSTERS = 3  # from which the spread of their sums says anything
Codes = Mapping[str, np.ndarray]


class Grouping(NamedTuple):
    """A name, and the group of each row as the bytes of int32: two alike are equal and have one hash."""

    name: str
    packed: bytes

    def codes(self) -> np.ndarray:
        """The group of each row, from 0."""
        return np.frombuffer(self.packed, np.int32)

    def count(self) -> int:
        """How many groups there are."""
        return int(self.codes().max()) + 1


def groups_in(frame: Any) -> dict[str, np.ndarray]:
    """The groups of rows (n,) under every column of a DataFrame that has fewer labels than rows, and more than one.

    Text, categories, true or false count, and whole numbers that are shared by three rows on average; measurements
    do not, nor does a name that occurs twice.
    """
    names = [str(name) for name in frame.columns]
    found = {}
    for k, name in enumerate(names):
        if names.count(name) == 1:
            codes = _codes_of(frame.iloc[:, k])
            if codes is not None:
                found[name] = codes
    return found


def _codes_of(column: Any) -> np.ndarray | None:
    """The groups of a column of a DataFrame, None where it labels nothing."""
    labels = column.dtype.name in ("category", "bool", "boolean") or column.dtype.kind in "OUSb"
    if not labels and (column.dtype.kind not in "iuf" or not _is_whole(column)):
        return None
    try:
        codes, levels = column.factorize()
    except TypeError:  # lists, dictionaries
        return None
    known = int(np.sum(codes >= 0))
    if not 2 <= len(levels) < known or (not labels and known < FEWEST_A_NUMBER * len(levels)):
        return None
    return codes.astype(np.min_scalar_type(-len(levels)))


def _is_whole(column: Any) -> bool:
    values = column.to_numpy(dtype=float, na_value=np.nan)
    there = values[np.isfinite(values)]
    return bool(np.all(there == np.floor(there)))


def grouping(cluster: Any, known: Codes | None, rows: Names) -> Grouping:
    """The grouping that `cluster` names (a column of the covariates) or gives: one label a row, matched by name.

    Raises `InputError` where there is no such column, a label is missing, or groups are fewer than 3 or all of one row.
    """
    if isinstance(cluster, Grouping):
        return cluster
    if isinstance(cluster, str):
        if known is None or cluster not in known:
            has = f"they are {listed(known, 12)}" if known else "there are none"
            raise InputError(
                f"cluster={cluster!r}: no column of that name groups the rows of this fit; {has}. A column of `data` "
                f"(or "
                "obs) does where rows share its labels; labels can also be given themselves, one for each row."
            )
        name, codes = cluster, np.asarray(known[cluster])
    else:
        name, codes = _given(cluster, rows)
    _check(name, codes, rows)
    _, packed = np.unique(codes, return_inverse=True)
    return Grouping(name, packed.astype(np.int32).tobytes())


def _given(cluster: Any, rows: Names) -> tuple[str, np.ndarray]:
    """Name and groups of labels, one a row: of a Series or a DataFrame of one column matched by row names."""
    framed = cluster.to_frame() if hasattr(cluster, "to_frame") and hasattr(cluster, "index") else cluster
    if is_frame(framed):
        if framed.shape[1] != 1:
            raise InputError(f"cluster has {framed.shape[1]} columns; wanted is one label for each row.")
        column = aligned(framed, "cluster", rows, len(rows), []).iloc[:, 0]
        return str(framed.columns[0]), column.factorize()[0]
    labels = np.asarray(cluster)
    if labels.shape != (len(rows),):
        raise InputError(
            f"cluster has the shape {labels.shape}; wanted is one label for each of the {len(rows)} rows, or the "
            f"name of "
            "a column of `data`."
        )
    missing = (
        np.isin(labels.astype(str), ("None", "nan", "<NA>", "NaT")) if labels.dtype.kind in "Of" else False
    )
    _, codes = np.unique(labels.astype(str), return_inverse=True)
    return "cluster", np.where(missing, -1, codes)


def _check(name: str, codes: np.ndarray, rows: Names) -> None:
    lacking = [rows[i] for i in np.flatnonzero(codes < 0)]
    if lacking:
        raise InputError(
            f"cluster '{name}': the label is missing at the rows {listed(lacking)}. Fill it in, or give these rows "
            f"labels "
            "of their own if they belong to nobody else."
        )
    count = len(np.unique(codes))
    if count < FEWEST_CLUSTERS or count == len(codes):
        what = f"{count} groups" if count < len(codes) else "a group of its own for every row"
        raise InputError(
            f"cluster '{name}': there is {what} among {len(codes)} rows; wanted are at least {FEWEST_CLUSTERS} "
            f"groups of "
            "rows, and fewer than rows. (robust=True takes every row for itself.)"
        )
