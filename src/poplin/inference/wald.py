"""Wald tests of several coefficients at once, column by column and over all columns.

Start at `tests_of`. The coefficients' covariance is made of their deviations (see `intervals.py`).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import chdtrc, fdtrc  # scipy.stats would take half a second to import

RANK = 1e-10  # share of the largest eigenvalue below which a contrast's variance is zero


class Tests(NamedTuple):
    """Statistic, degrees of freedom and p-value: of each column (p,), and of all columns together (last)."""

    statistic: np.ndarray
    df: np.ndarray
    p: np.ndarray


def rows_of_term(term: str, covariates: Sequence[str]) -> list[int]:
    """Which covariates belong to a term: those of its name, once levels such as [T.oak] are left out."""

    def plain(name: str) -> str:
        return re.sub(r"\[[^\]]*\]|\s", "", name)

    return [k for k, name in enumerate(covariates) if name == term or plain(name) == plain(term)]


def tests_of(contrast: np.ndarray, deviations: np.ndarray) -> Tests:
    """Wald tests that H B = 0: `contrast` H B (r, p) and its deviations (m, r, p), sum of squares = variance.

    W = (H b)' V^-1 (H b) ~ chi-squared with rank(V) degrees of freedom. Cost m r^2 p, and m (r p)^2 for all columns.
    """
    r, p = contrast.shape
    single = [_wald(contrast[:, j], deviations[:, :, j]) for j in range(p)]
    both = [*single, _wald(contrast.ravel(), deviations.reshape(len(deviations), r * p))]
    statistic, df = np.array(both).T
    return Tests(statistic, df.astype(int), chdtrc(df, statistic))


def with_degrees(told: Tests, degrees: np.ndarray) -> Tests:
    """The same by Hotelling's F where variances have `degrees` (p + 1,) of freedom; NaN where they are too few.

    F = (g - r + 1) / (g r) W with r and g - r + 1 degrees of freedom (Pustejovsky & Tipton 2018).
    """
    r = np.maximum(told.df, 1)
    left = degrees - r + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        p = fdtrc(r, np.maximum(left, 1e-9), np.maximum(left, 0) / (degrees * r) * told.statistic)
    return told._replace(p=np.where(left > 0, p, np.nan))


def untold(p: int) -> Tests:
    """Tests of p columns, and of all together, of which nothing is known."""
    nothing = np.full(p + 1, np.nan)
    return Tests(nothing, np.zeros(p + 1, int), nothing)


def _wald(value: np.ndarray, deviations: np.ndarray) -> tuple[float, int]:
    variance = deviations.T @ deviations
    if not np.isfinite(variance).all():
        return np.nan, 0
    scale = np.sqrt(np.maximum(np.diag(variance), 1e-300))
    values, vectors = np.linalg.eigh(variance / scale / scale[:, None])
    kept = values > RANK * values[-1]
    along = (vectors.T @ (value / scale))[kept]
    return float(np.sum(along**2 / values[kept])), int(kept.sum())


def adjusted(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values; NaN stay and do not count."""
    out, there = np.full(np.shape(p), np.nan), np.isfinite(p)
    known = p[there]
    order = np.argsort(known)[::-1]
    rank = np.arange(len(known), 0, -1)
    known[order] = np.minimum(np.minimum.accumulate(known[order] * len(known) / rank), 1.0)
    out[there] = known
    return out
