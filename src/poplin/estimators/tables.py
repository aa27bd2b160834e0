"""Named tables of what was computed, and hypotheses from what users write.

Start at `table_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from poplin._errors import InputError
from poplin.inference.intervals import Interval
from poplin.inference.wald import rows_of_term

if TYPE_CHECKING:
    from pandas import DataFrame


def hypothesis_matrix(hypothesis: Any, covariates: tuple[str, ...]) -> np.ndarray:
    """H (r, d) from a term's name or a matrix."""
    if isinstance(hypothesis, str):
        rows = rows_of_term(hypothesis, covariates)
        if not rows:
            raise InputError(
                f"wald({hypothesis!r}): no such term; the covariates are {', '.join(covariates)}."
            )
        return np.eye(len(covariates))[rows]
    matrix = np.atleast_2d(np.asarray(hypothesis, dtype=float))
    if matrix.ndim != 2 or matrix.shape[1] != len(covariates) or not np.isfinite(matrix).all():
        raise InputError(
            f"wald: the hypothesis has shape {matrix.shape}; wanted is a term's name, or a matrix with one column for "
            f"each covariate ({', '.join(covariates)})."
        )
    return matrix


def entry_index(entries: Any, names: Sequence[str], which: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions (j, k) of pairs of columns, given by name or position."""
    if which in ("coef", "eigenvalues", "scales"):
        raise InputError(f"entries= belongs to which='covariance' or 'correlation', not to {which!r}.")
    place = {name: j for j, name in enumerate(names)}
    found = []
    for pair in entries:
        told = tuple(pair) if isinstance(pair, Sequence | np.ndarray) and not isinstance(pair, str) else ()
        at = [
            place.get(one, -1) if isinstance(one, str) else int(one) if isinstance(one, Integral) else -1
            for one in told
        ]
        if len(at) != 2 or not all(0 <= j < len(names) for j in at):
            raise InputError(
                f"entries: {pair!r} is no pair of columns; wanted are two names, or two positions from 0 to "
                f"{len(names) - 1}."
            )
        if which == "correlation" and at[0] == at[1]:
            raise InputError(f"entries: {pair!r} is one column; a correlation is between two.")
        found.append(at)
    if not found:
        raise InputError("entries is empty; wanted is a list of pairs of columns.")
    return np.array(found)[:, 0], np.array(found)[:, 1]


def coef_index(fit: Any) -> list[list[str]]:
    """Covariate and column of every coefficient."""
    covariates, columns = fit.counts_.covariate_names, fit.counts_.column_names
    return [[a for a in covariates for _ in columns], [b for _ in covariates for b in columns]]


def table_of(told: Interval, index: Any, names: tuple[str, str] = ("covariate", "column")) -> DataFrame:
    """Intervals as a DataFrame, under single names or pairs of them; `df` where they are of Student's t."""
    import pandas

    shape = np.shape(told.estimate)
    columns = {
        name: np.ravel(np.broadcast_to(values, shape))
        for name, values in told._asdict().items()
        if values is not None
    }
    rows = pandas.Index(index, name="axis") if isinstance(index[0], str) else None
    return pandas.DataFrame(
        columns, pandas.MultiIndex.from_arrays(index, names=names) if rows is None else rows
    )
