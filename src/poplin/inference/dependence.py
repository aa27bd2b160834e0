"""Are rows of a group more alike than the model lets them be? A test of every column that groups rows, at the fit.

Start at `alike`. Of each count r = E[Phi^-1(U) | y], U uniform over its place in its fitted law: mean zero where the
model holds. Rows of one group g are alike where T_g = sum over its pairs of rows of r_i'r_l is too large; the
statistic of a column is T = sum over groups of T_g / sqrt(number of pairs). Its reference are the same residuals with
signs by chance, a row as a whole, and what the covariates explain taken out again: this keeps each row's own spread
and what goes together in it, asks for no law, and has the same loss through the covariates as the residuals had. The
p-value is that of T among the replicates, beyond them of the gamma law of their moments. All columns together are
called at `LEVEL` by Holm's rule.

Sources: Mammen (1993), Bootstrap and wild bootstrap for high-dimensional linear models; Holm (1979).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from poplin.data import held
from poplin.data.counts import Counts
from poplin.inference import margins

LEVEL = 0.01  # share of tables of independent rows in which any column is called
REPLICATES = 400
MOST_COUNTS, MOST_ROWS = (
    20_000,
    4_000,
)  # that are looked at; of larger tables groups, rows of large groups, and columns
MOST_OF_GROUP = 60  # rows of a group, where there are more rows than that
MOST_GROUPINGS = 40  # columns that are tested, those with fewest groups


class Alike(NamedTuple):
    """A column of the covariates whose rows are alike: p, number of groups, correlation within them."""

    name: str
    p: float
    groups: int
    correlation: float


def alike(counts: Counts, coef: np.ndarray, variance: np.ndarray, *, seed: int = 0) -> list[Alike]:
    """The groupings of `counts` whose residuals go together, surest first; B (d, p), the variances of Sigma (p,).

    Factors of the formula are not asked: they are in the fit. Cost: 20 microseconds for each of at most `MOST_COUNTS`
    of a grouping, and REPLICATES x as many products.
    """
    known = set() if counts.design is None else {name for name, told in counts.design.columns.items() if told}
    groupings = {name: codes for name, codes in (counts.groups or {}).items() if name not in known}
    if not groupings:
        return []
    few = sorted(groupings, key=lambda name: int(groupings[name].max()))[:MOST_GROUPINGS]
    random = np.random.default_rng([seed, 11])
    found = [_tested(name, groupings[name], counts, coef, variance, random) for name in few]
    told = sorted((one for one in found if one is not None), key=lambda one: one.p)
    kept = []
    for k, one in enumerate(told):
        if one.p > LEVEL / (len(told) - k):
            break
        kept.append(one)
    return kept


def _tested(
    name: str,
    codes: np.ndarray,
    counts: Counts,
    coef: np.ndarray,
    variance: np.ndarray,
    random: np.random.Generator,
) -> Alike | None:
    """One grouping; None where no two rows share a group, or the covariates already say all of it."""
    rows = _rows(codes, counts.weights, random)
    if len(rows) < 3:
        return None
    rows = rows[np.argsort(codes[rows], kind="stable")]
    _, first, size = np.unique(codes[rows], return_index=True, return_counts=True)
    residual = _residuals(counts, coef, variance, rows, random)
    x = counts.x[rows]
    frame = np.linalg.qr(x)[0]
    residual = residual - frame @ (frame.T @ residual)
    weight = np.where(size > 1, 1 / np.sqrt(np.maximum(size * (size - 1.0), 1.0)), 0.0)
    sign = np.concatenate([np.ones((1, len(rows))), random.choice([-1.0, 1.0], (REPLICATES, len(rows)))])
    statistic = np.array([_statistic(residual * one[:, None], frame, first, weight) for one in sign])
    spread = statistic[1:].std()
    if not spread > 1e-9 * np.sum(residual**2):
        return None
    p = _tail_probability(statistic)
    total = np.sum(residual**2)
    pairs = np.sum(np.add.reduceat(residual, first, axis=0) ** 2) - total
    correlation = pairs / np.sum(size * (size - 1.0)) / (total / len(rows))
    return Alike(name, p, len(size), float(correlation))


def _statistic(residual: np.ndarray, frame: np.ndarray, first: np.ndarray, weight: np.ndarray) -> float:
    """Of rows in the order of their groups, which begin at `first`."""
    left = residual - frame @ (frame.T @ residual)
    both = np.sum(np.add.reduceat(left, first, axis=0) ** 2, axis=1)
    alone = np.add.reduceat(np.sum(left**2, axis=1), first)
    return float(weight @ (both - alone))


def _tail_probability(statistic: np.ndarray) -> float:
    """P(replicate >= the first): counted where many are, by the gamma law with their first three moments beyond."""
    from scipy.special import gammaincc, ndtr

    value, drawn = statistic[0], statistic[1:]
    counted = (1 + np.sum(drawn >= value)) / (1 + len(drawn))
    if counted > 0.05:
        return float(counted)
    z = (value - drawn.mean()) / drawn.std()
    skewness = max(float(np.mean(((drawn - drawn.mean()) / drawn.std()) ** 3)), 0.0)
    if skewness < 0.05:
        return float(ndtr(-z))
    shape = 4 / skewness**2
    return float(gammaincc(shape, max(shape + z * np.sqrt(shape), 0.0)))


def _rows(codes: np.ndarray, weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rows that have a label and company: some of each group, of some groups where there are too many."""
    order = random.permutation(np.flatnonzero((codes >= 0) & (weights > 0)))
    if len(order) > MOST_ROWS:
        by_group = order[np.argsort(codes[order], kind="stable")]
        _, first = np.unique(codes[by_group], return_index=True)
        place = np.arange(len(by_group)) - np.repeat(first, np.diff(np.r_[first, len(by_group)]))
        by_group = by_group[place < MOST_OF_GROUP]
        groups = random.permutation(np.unique(codes[by_group]))
        size = np.bincount(codes[by_group], minlength=int(codes.max()) + 1)[groups]
        kept = groups[np.cumsum(size) <= max(MOST_ROWS, size[0])]
        order = by_group[np.isin(codes[by_group], kept)]
    return np.sort(order)


def _residuals(
    counts: Counts, coef: np.ndarray, variance: np.ndarray, rows: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The normal scores of these rows (n, m), of some columns where there are too many, 0 where a count is missing."""
    p = counts.y.shape[1]
    columns = np.sort(random.choice(p, min(p, max(MOST_COUNTS // len(rows), 1)), replace=False))
    y = held.dense_rows(counts.y, rows)[:, columns]
    there = ~np.isnan(y)
    center = counts.offset[rows][:, columns] + counts.x[rows] @ coef[:, columns]
    spread = np.broadcast_to(variance[columns], y.shape)
    out = np.zeros(y.shape)
    out[there] = margins.normal_scores(margins.placed(y[there], center[there], spread[there]))
    return out
