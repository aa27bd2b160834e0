"""Offsets computed from the counts: how much of each row was looked at, on the log scale.

Start at `tss` (the row's total); `rle`, `css`, `gmpr`, `tmm` and `wrench` are robust to a few columns that hold
much of a row. Each takes counts (n, p) and returns (n,), ready for `PLN().fit(Y, offset=...)`; the fit takes
their names too. For proportional rows (counts = size_i c_j) every one is log(size_i) plus a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data import held
from poplin.data.checks import check_counts
from poplin.data.offsets_wrench import log_factors as _wrench
from poplin.data.tables import CountTable, Names, as_table, column_defaults, listed, row_defaults

INSTABILITY = 0.1  # css: a step of the distance between rows by a tenth of it is too much
TRIM_RATIO, TRIM_SIZE = 0.3, 0.05  # tmm: shares cut off at either end


def tss(counts: Any) -> np.ndarray:
    """Total-sum scaling: log of the row's total.

    offset_i = log sum_j y_ij. The only one of these that does not depend on the other rows, so it is right for rows
    that come later, too. Raises `InputError` for rows without any count. Cost O(n p).

    >>> import numpy as np
    >>> np.exp(tss([[1, 2, 3], [2, 4, 6]])).round(6).tolist()
    [6.0, 12.0]
    """
    return np.log(held.row_sums(_checked(counts, sparse=True)))


def rle(counts: Any, *, positive: bool = False) -> np.ndarray:
    """Relative log expression: the row's median ratio to the geometric mean row.

    size_i = median_j y_ij / g_j, g_j = (prod_i y_ij)^(1/n), over the columns that are positive in every row (Anders &
    Huber 2010, equation 5). `positive`: for tables where no column is; g_j = (product of the positive y_ij)^(1/n),
    the median is over the columns that are positive in the row, and the sizes have geometric mean one (as the
    option "poscounts" of DESeq2). Raises `InputError` where there is no such column. Cost O(n p log p).

    >>> import numpy as np
    >>> np.exp(rle([[1, 2, 3], [4, 8, 12]])).round(6).tolist()
    [0.5, 2.0]
    """
    y = _checked(counts)
    with np.errstate(divide="ignore"):
        logs = np.log(y)
    if positive:
        seen = y > 0
        middle = np.where(seen, logs, 0.0).sum(axis=0) / len(y)
        ratio = np.where(seen, y / np.exp(middle), np.nan)
        return _centred(np.log(np.nanmedian(ratio, axis=1)))
    common = (y > 0).all(axis=0)
    if not common.any():
        raise InputError(
            "The offset 'rle' needs a column that is positive in every row, and there is none. Use "
            "offset='gmpr', or offset=poplin.offsets.rle(Y, positive=True)."
        )
    return np.log(np.median(y[:, common] / np.exp(logs[:, common].mean(axis=0)), axis=1))


def css(counts: Any) -> np.ndarray:
    """Cumulative-sum scaling: the row's counts up to a quantile below which rows look alike.

    q_i^l: quantiles (linear interpolation) of the row's positive counts, l = 1..p evenly from 0 to 1; d^l = median_i
    |q_i^l - median_i q_i^l|. The l taken is the first, from the middle on, after which d rises by a tenth or more (the
    last if none is). size_i = sum of y_ij <= q_i^l, divided by its median over rows (Paulson et al. 2013).
    Cost O(n p log p).

    >>> import numpy as np
    >>> np.exp(css(np.outer([1, 2, 3], [1, 2, 3, 4]))).round(6).tolist()
    [0.5, 1.0, 1.5]
    """
    y = _checked(counts)
    y = y[:, (y > 0).any(axis=0)]
    p = y.shape[1]
    grid = np.linspace(0.0, 1.0, p) if p > 1 else np.ones(1)
    quantiles = np.stack([np.quantile(row[row > 0], grid) for row in y])
    apart = np.median(np.abs(quantiles - np.median(quantiles, axis=0)), axis=0)
    rise = np.diff(apart)
    unstable = np.flatnonzero((rise > 0) & (rise >= INSTABILITY * apart[:-1]))
    taken = max(int(unstable[0]), (p + 1) // 2 - 1) if len(unstable) else p - 1
    bound = quantiles[:, taken, None] * (1 + 1e-12)  # an interpolated quantile may miss its count by rounding
    sizes = np.where(y <= bound, y, 0.0).sum(axis=1)
    return np.log(sizes / np.median(sizes))


def gmpr(counts: Any) -> np.ndarray:
    """Geometric mean of pairwise ratios: rows compared two by two over what they share.

    size_i = (prod_k r_ik)^(1/n), r_ik = median over the columns j positive in both of y_ij / y_kj (Chen et al. 2018); k
    runs over all rows, i itself (r_ii = 1) included, pairs that share no column are left out. Raises `InputError`
    for a row that shares no column with any other. Cost O(n^2 p).

    >>> import numpy as np
    >>> np.exp(gmpr([[1, 2, 0, 5], [4, 8, 3, 0]])).round(6).tolist()
    [0.5, 2.0]
    """
    y = _checked(counts)
    seen = y > 0
    floats = np.where(seen, y, np.nan)
    sizes, alone = np.empty(len(y)), []
    for i in range(len(y)):
        own = seen[i]
        shared = seen[:, own].any(axis=1)
        sizes[i] = np.log(np.nanmedian(floats[i, own] / floats[shared][:, own], axis=1)).mean()
        if shared.sum() == 1 < len(y):
            alone.append(i)
    if alone:
        rows = as_table(counts).row_names or row_defaults(len(y))
        raise InputError(
            f"The offset 'gmpr' compares rows over columns that both have, and the rows "
            f"{listed(rows[i] for i in alone)} share none with any other. Leave them out, or use offset='tss'."
        )
    return sizes


def tmm(counts: Any) -> np.ndarray:
    """Trimmed mean of log ratios to a reference row, times the row's total.

    M_j = log2 (y_ij / N_i) / (y_rj / N_r), A_j = mean of the two log2 shares, over columns positive in both; the 30 %
    extreme M and 5 % extreme A at either end are left out, and log2 f_i is the mean of the rest with weights 1 / v_j,
    v_j = (N_i - y_ij) / (N_i y_ij) + (N_r - y_rj) / (N_r y_rj) (Robinson & Oshlack 2010). The reference r is the row
    whose upper quartile of shares is nearest to their mean. size_i = N_i f_i, with geometric mean one. Cost
    O(n p log p).

    >>> import numpy as np
    >>> np.exp(tmm(np.outer([1, 4], [1, 2, 3, 4]))).round(6).tolist()
    [0.5, 2.0]
    """
    y = _checked(counts)
    y = y[:, (y > 0).any(axis=0)]
    total = y.sum(axis=1)
    upper = np.quantile(y, 0.75, axis=1) / total
    reference = (
        int(np.argmin(np.abs(upper - upper.mean())))
        if np.median(upper) > 1e-20
        else int(np.argmax(np.sqrt(y).sum(axis=1)))  # mostly zeros, as edgeR does
    )
    factors = np.array([_trimmed_mean(row, y[reference]) for row in y])
    return _centred(np.log(total) + np.log(2.0) * factors)


def wrench(counts: Any, groups: Any = None) -> np.ndarray:
    """Wrench: ratios to the mean composition, averaged with weights for zeros and noisy columns.

    See `offsets_wrench.py` for the formulas (Kumar et al. 2018, estimator W2). `groups` (n,): labels of rows whose
    ratios are pulled to their group's; None: one group. size_i has geometric mean one. Cost O(n p).

    >>> import numpy as np
    >>> np.exp(wrench(np.outer([1, 4], [1, 2, 3, 4]))).round(6).tolist()
    [0.5, 2.0]
    """
    y = _checked(counts)
    labels = np.zeros(len(y)) if groups is None else np.asarray(groups)
    if labels.shape != (len(y),):
        raise InputError(
            f"groups has the shape {labels.shape}; wanted is one label for each of {len(y)} rows."
        )
    y = y[:, (y > 0).any(axis=0)]
    return _wrench(y, np.unique(labels, return_inverse=True)[1])


NAMED: dict[str, Callable[[Any], np.ndarray]] = {
    **{"tss": tss, "rle": rle, "css": css},
    **{"gmpr": gmpr, "tmm": tmm, "wrench": wrench},
}


def is_name(text: Any) -> bool:
    """Whether `text` names one of these offsets, in upper or lower case ("none" included)."""
    return isinstance(text, str) and text.lower() in (*NAMED, "none")


def by_name(name: str, values: Any, rows: Names | None = None, columns: Names | None = None) -> np.ndarray:
    """The offset of that name (upper or lower case) for a table of counts; zeros for "none"."""
    if not is_name(name):
        raise InputError(
            f"The offset '{name}' is no name that is known. Known are {listed(NAMED, 12)} and 'none'; or give "
            "numbers on the log scale, for example offset=numpy.log(depth)."
        )
    if name.lower() == "none":
        return np.zeros(values.shape[0])
    return NAMED[name.lower()](CountTable(values, rows, columns))


def check_row_by_row(offset: Any) -> None:
    """Raise `InputError` for the name of an offset that compares rows: later rows have others beside them."""
    if is_name(offset) and offset.lower() not in ("tss", "none"):
        raise InputError(
            f"The offset '{offset}' compares the rows of one table, so it means something else for later rows. "
            f"Give them numbers on the log scale, for example from poplin.offsets.{offset.lower()} of all rows."
        )


def check_needs_no_counts(offset: Any) -> None:
    """Raise `InputError` for an offset by name where there are no counts to compute it from."""
    if isinstance(offset, str) and offset.lower() != "none":
        raise InputError(
            f"The offset '{offset}' is computed from counts, and here there are none. Give numbers on the log scale."
        )


def _checked(counts: Any, *, sparse: bool = False) -> Any:
    """Counts as float64, all there, with something in every row; `sparse`: a large sparse table may stay one."""
    table = as_table(counts)
    if not sparse:
        held.check_dense(table.values, "An offset that compares rows")
    n, p = table.values.shape
    rows, columns = table.row_names or row_defaults(n), table.column_names or column_defaults(p)
    y = check_counts(table.values, rows, columns)
    missing = held.missing(y) > 0
    if missing.any():
        raise InputError(
            f"An offset cannot be computed from rows with missing counts: {listed(_which(missing, rows))}. Give "
            "it as numbers on the log scale."
        )
    empty = held.row_sums(y) == 0
    if empty.any():
        raise InputError(
            f"An offset cannot be computed from rows in which every count is 0: {listed(_which(empty, rows))}. "
            "Leave them out, or give the offset as numbers on the log scale."
        )
    return y


def _which(chosen: np.ndarray, rows: Names) -> list[str]:
    return [rows[i] for i in np.flatnonzero(chosen)]


def _trimmed_mean(row: np.ndarray, reference: np.ndarray) -> float:
    """log2 of the factor between two rows' compositions; 0 where nothing is left to compare."""
    both = (row > 0) & (reference > 0)
    a, b = row[both] / row.sum(), reference[both] / reference.sum()
    ratio, size = np.log2(a / b), (np.log2(a) + np.log2(b)) / 2
    if not len(ratio) or np.max(np.abs(ratio)) < 1e-6:
        return 0.0
    kept = _inside(ratio, TRIM_RATIO) & _inside(size, TRIM_SIZE)
    variance = (1 - a[kept]) / row[both][kept] + (1 - b[kept]) / reference[both][kept]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = float(np.sum(ratio[kept] / variance) / np.sum(1 / variance))
    return mean if np.isfinite(mean) else 0.0


def _inside(values: np.ndarray, share: float) -> np.ndarray:
    """Which values are left after a share is cut off at either end, by ranks (ties have the mean of theirs)."""
    _, which, many = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(many) - (many - 1) / 2)[which]
    lowest = np.floor(len(values) * share) + 1
    return (rank >= lowest) & (rank <= len(values) + 1 - lowest)


def _centred(logs: np.ndarray) -> np.ndarray:
    return logs - logs.mean()
