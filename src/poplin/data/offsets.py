"""Offsets computed from the counts: how much of each row was looked at, on the log scale.

Start at `tss` (the row's total); `rle`, `css`, `gmpr`, `tmm` and `wrench` are robust to a few columns that hold
much of a row. Each takes counts (n, p) and returns (n,), ready for `PLN().fit(Y, offset=...)`; the fit takes
their names too. For proportional rows (counts = size_i c_j) every one is log(size_i) plus a constant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data import held
from poplin.data.checks import check_counts
from poplin.data.tables import CountTable, Names, as_table, column_defaults, listed, row_defaults

__all__ = ["css", "gmpr", "rle", "tmm", "tss", "wrench"]

# The offset of Kumar et al. (2018): how a row's composition differs from the mean one, where many counts are zero.
#
# Start at `log_factors`. With shares s_ij = y_ij / N_i, reference m_j = mean_i s_ij and ratios r_ij = s_ij / m_j:
#
# 1. A column's chance of a zero, pi_ij: logistic regression of "is zero" on log N_i, without intercept. 2. A column's
# variance v_j of log positive counts around its groups' means and log N_i, pulled to the other columns' by the
# empirical-Bayes rule for variances (Smyth 2004). 3. Ratios pulled to those of the row's group g, whose ratios have
# mean t_g and log variance w_g: with e_ij = log(r_ij / t_g), row effect a_i = sum_j e_ij / (v_j + w_g) / sum_j 1 /
# (v_j + w_g) over positive counts, the pulled ratio is t_g exp(a_i + w_g / (v_j + w_g) (e_ij - a_i)); a zero stays
# zero. 4. size_i = N_i c_i, c_i the weighted mean over j of the pulled ratios over exp(v_j / 2), with weights 1 / ((1
# - pi_ij) (pi_ij + exp(v_j + w_g) - 1)). Sizes have geometric mean one.
#
# The authors' program also reads the variance of a column with too few positive counts off a smooth trend; here it is
# the prior variance of step 2, which is what the empirical-Bayes rule says where there is no data.


SMALLEST = 1e-12  # a variance that is zero (proportional rows) would be an infinite weight
NEWTON_STEPS = 50


def log_factors(y: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Log of the sizes (n,) for counts y (n, p), without empty rows or columns; group (n,) from 0."""
    total = y.sum(axis=1)
    zero_chance = chance_of_zero(y == 0, np.log(total))
    variance = log_variances(y, group)
    ratio = y / total[:, None]
    ratio, spread = pulled_ratios(ratio / ratio.mean(axis=0), y, group, variance)
    weight = 1 / ((1 - zero_chance) * (zero_chance + np.expm1(variance + spread[:, None])))
    weight = np.where(zero_chance < 1, weight, 0.0)
    composition = (weight * ratio / np.exp(variance / 2)).sum(axis=1) / weight.sum(axis=1)
    sizes = np.log(total) + np.log(composition)
    return sizes - sizes.mean()


def chance_of_zero(zero: np.ndarray, log_total: np.ndarray) -> np.ndarray:
    """Fitted P(zero), (n, p): logit P = b_j log N_i, by Newton steps from 0; a column without zeros has none."""
    x = np.maximum(log_total, np.finfo(float).tiny)[:, None]
    slope = np.zeros(zero.shape[1])
    for _ in range(NEWTON_STEPS):
        chance = _logistic(x * slope)
        gradient = (x * (zero - chance)).sum(axis=0)
        curvature = (x**2 * chance * (1 - chance)).sum(axis=0)
        step = gradient / np.maximum(curvature, np.finfo(float).tiny)
        slope = np.clip(slope + np.clip(step, -1, 1), -700, 700)
        if np.max(np.abs(step)) < 1e-12:
            break
    return np.where(zero.any(axis=0), _logistic(x * slope), 0.0)


def _logistic(value: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(value / 2))


def log_variances(y: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Variance (p,) of a column's log positive counts given group and log total, pulled to the others'."""
    depth = np.log(y.sum(axis=1))
    design = np.column_stack([np.eye(group.max() + 1)[group], depth - depth.mean()])
    variance, freedom = np.zeros(y.shape[1]), np.zeros(y.shape[1])
    for j, column in enumerate(y.T):
        seen = column > 0
        fitted, _, rank, _ = np.linalg.lstsq(design[seen], np.log(column[seen]), rcond=None)
        freedom[j] = seen.sum() - rank
        if freedom[j] > 0:
            variance[j] = np.sum((np.log(column[seen]) - design[seen] @ fitted) ** 2) / freedom[j]
    return np.maximum(squeezed(variance, freedom), SMALLEST)


def squeezed(variance: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Posterior mean variances (p,): (d_0 s_0^2 + d_j s_j^2) / (d_0 + d_j) (Smyth 2004, section 6.2).

    s_0^2 and d_0 come from the mean and variance of log s_j^2; where these vary no more than chance, d_0 is infinite.
    A column without degrees of freedom (d_j = 0) has s_0^2.
    """
    from scipy.special import digamma, polygamma

    known = (freedom > 0) & (variance > SMALLEST)
    if not known.any():
        return variance
    half, logs = freedom[known] / 2, np.log(variance[known])
    e = logs - digamma(half) + np.log(half)
    center = e.mean()
    extra = ((e - center) ** 2).sum() / max(known.sum() - 1, 1) - polygamma(1, half).mean()
    if extra <= 0:
        return np.full(len(variance), np.exp(center))
    prior = inverse_trigamma(float(extra))
    level = np.exp(center + digamma(prior) - np.log(prior))
    return (2 * prior * level + freedom * variance) / (2 * prior + freedom)


def inverse_trigamma(value: float) -> float:
    """Y with trigamma(y) = value, by Newton steps on 1 / trigamma, which is nearly straight."""
    from scipy.special import polygamma

    y = 0.5 + 1 / value
    for _ in range(NEWTON_STEPS):
        now = float(polygamma(1, y))
        step = now * (1 - now / value) / float(polygamma(2, y))
        y += step
        if abs(step) < 1e-12 * y:
            break
    return y


def pulled_ratios(
    ratio: np.ndarray, y: np.ndarray, group: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ratios (n, p) pulled to their group's, and the variance of the group's log ratios for each row (n,)."""
    reference = (y / y.sum(axis=1, keepdims=True)).mean(axis=0)
    pooled = np.stack([y[group == g].sum(axis=0) for g in range(group.max() + 1)])
    pooled = pooled / pooled.sum(axis=1, keepdims=True) / reference
    level = pooled.mean(axis=1)[group]
    spread = np.array(
        [np.var(np.log(one[one > 0]), ddof=1) if (one > 0).sum() > 1 else 0.0 for one in pooled]
    )
    spread = np.maximum(spread, SMALLEST)[group]
    seen = y > 0
    effect = np.log(np.where(seen, ratio, 1.0) / level[:, None])
    weight = np.where(seen, 1 / (variance + spread[:, None]), 0.0)
    row = (weight * effect).sum(axis=1) / weight.sum(axis=1)
    share = spread[:, None] / (variance + spread[:, None])
    pulled = level[:, None] * np.exp(row[:, None] + share * (effect - row[:, None]))
    return np.where(seen, pulled, 0.0), spread


INSTABILITY = 0.1  # css: a step of the distance between rows by a tenth of it is too much
TRIM_RATIO, TRIM_SIZE = 0.3, 0.05  # tmm: shares cut off at either end


def tss(counts: Any) -> np.ndarray:
    """Total-sum scaling: log of the row's total.

    offset_i = log sum_j y_ij. The only one of these that does not depend on the other rows, so it is right for rows
    that come later, too. Cost O(n p).

    Args:
        counts: (n, p), array, DataFrame, scipy.sparse (stays sparse) or AnnData, every row with a count.

    Returns:
        The offset (n,) on the log scale.

    Raises:
        InputError: a row without any count.

    >>> import numpy as np
    >>> np.exp(tss([[1, 2, 3], [2, 4, 6]])).round(6).tolist()
    [6.0, 12.0]
    """
    return np.log(held.row_sums(_checked(counts, sparse=True)))


def rle(counts: Any, *, positive: bool = False) -> np.ndarray:
    """Relative log expression: the row's median ratio to the geometric mean row.

    size_i = median_j y_ij / g_j, g_j = (prod_i y_ij)^(1/n), over the columns that are positive in every row. Cost O(n p
    log p). Source: Anders & Huber (2010), Genome Biol. 11, equation 5.

    Args:
        counts: (n, p), array, DataFrame, scipy.sparse or AnnData, every row with a count.
        positive: for tables where no column is positive in every row: g_j = (product of the positive y_ij)^(1/n), the
            median is over the columns that are positive in the row, and the sizes have geometric mean one (as the
            option "poscounts" of DESeq2).

    Returns:
        The offset (n,) on the log scale.

    Raises:
        InputError: no column is positive in every row (positive=True, or another offset), or a row without any count.

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
    last if none is). size_i = sum of y_ij <= q_i^l, divided by its median over rows. Cost O(n p log p). Source: Paulson
    et al. (2013), Nat. Methods 10.

    Args:
        counts: (n, p), array, DataFrame, scipy.sparse or AnnData, every row with a count.

    Returns:
        The offset (n,) on the log scale.

    Raises:
        InputError: a row without any count.

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

    size_i = (prod_k r_ik)^(1/n), r_ik = median over the columns j positive in both of y_ij / y_kj; k runs over all
    rows, i itself (r_ii = 1) included, pairs that share no column are left out. Cost O(n^2 p). Source: Chen et al.
    (2018), PeerJ 6.

    Args:
        counts: (n, p), array, DataFrame, scipy.sparse or AnnData, every row with a count.

    Returns:
        The offset (n,) on the log scale.

    Raises:
        InputError: a row that shares no column with any other, or a row without any count.

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
    v_j = (N_i - y_ij) / (N_i y_ij) + (N_r - y_rj) / (N_r y_rj). The reference r is the row whose upper quartile of
    shares is nearest to their mean. size_i = N_i f_i, with geometric mean one. Cost O(n p log p). Source: Robinson &
    Oshlack (2010), Genome Biol. 11.

    Args:
        counts: (n, p), array, DataFrame, scipy.sparse or AnnData, every row with a count.

    Returns:
        The offset (n,) on the log scale.

    Raises:
        InputError: a row without any count.

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

    size_i = N_i c_i, with geometric mean one; how c_i is found stands above `log_factors` in this file. Cost O(n p).
    Source: Kumar et al. (2018), BMC Genomics 19, estimator W2.

    Args:
        counts: (n, p), array, DataFrame, scipy.sparse or AnnData, every row with a count.
        groups: (n,), labels of rows whose ratios are pulled to their group's; None: one group.

    Returns:
        The offset (n,) on the log scale.

    Raises:
        InputError: groups is not one label a row, or a row without any count.

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
    return log_factors(y, np.unique(labels, return_inverse=True)[1])


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


# Offsets that were meant as logarithms and are none: by their values, and by the names of their columns.
#
# Start at `doubtful_values` and `doubtful_names`: what they say is a warning, since a logarithm may look like that,
# too.


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
