"""Diagnostics in plain words: what was looked at, whether it looks well, and what follows.

Start at `verdicts`. Nothing here is a test; the limits are where a statistician would look closer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from poplin.data import held
from poplin.data.tables import listed
from poplin.inference import summary
from poplin.inference.summary import LARGEST_KHAT, Fitted
from poplin.report import goodness

RARE = 10  # counts of a column below which its own parameters are hardly known
WIDE, NARROW, OFF = 1.15, 0.85, 0.1  # spread and mean of residuals that are remarkable


class Verdict(NamedTuple):
    """One line: what was looked at, whether it is well, what was found and what follows."""

    about: str
    good: bool
    words: str


def verdicts(fit: Fitted, found: goodness.Frequencies, left: goodness.Residuals) -> list[Verdict]:
    """Everything that can be said without another computation."""
    said, _, more = summary.verdict(fit).partition(": ")
    lines = [Verdict("Convergence", fit.converged_, f"{said.capitalize()}: {more}")]
    lines += [_margins(left), _zeros(found), _rare(fit), _rows(fit)]
    known = summary.known_khat(fit)
    if known is not None:
        lines.append(_weights(fit, known))
    return lines


def _margins(left: goodness.Residuals) -> Verdict:
    mean, spread = float(np.mean(left.value)), float(np.std(left.value))
    outside = float(np.mean(np.abs(left.value) > 1.96))
    good = NARROW < spread < WIDE and abs(mean) < OFF
    words = f"Residuals have mean {mean:.2f} and standard deviation {spread:.2f} (wanted: 0 and 1), "
    words += f"{outside:.1%} lie beyond 1.96 (wanted: 5 %). "
    if good:
        return Verdict("Margins of the counts", True, words + "Each column's counts vary as the model says.")
    why = "more" if spread >= WIDE else "less" if spread <= NARROW else "elsewhere"
    advice = (
        "Counts vary less than the fitted variances say, as where Sigma has few rows to learn from or is shrunk."
        if why == "less"
        else "Something is missing: a covariate, an offset, a column of another kind. Look at single columns."
    )
    return Verdict("Margins of the counts", False, words + advice)


def _zeros(found: goodness.Frequencies) -> Verdict:
    seen, expected = int(found.seen[0]), float(found.expected[0])
    words = f"{seen} zeros are seen; tables drawn from the fit have {expected:.0f} "
    words += f"({found.lower[0]:.0f} to {found.upper[0]:.0f}). "
    if found.lower[0] <= seen <= found.upper[0]:
        return Verdict("Zeros", True, words + "The model needs no extra zeros.")
    off = abs(seen - expected) / max(found.seen.sum(), 1)
    if off < 0.01:
        return Verdict(
            "Zeros", True, words + f"The difference is {off:.1%} of all counts, small though not by chance."
        )
    more = "more zeros than it explains: some may have another cause (never looked for, never there)"
    less = "fewer zeros than it expects: the fitted variances are large for some columns"
    return Verdict("Zeros", False, words + f"The table has {more if seen > expected else less}.")


def _rare(fit: Fitted) -> Verdict:
    counts = fit.counts_
    total = held.column_sums(counts.y, 1.0 * (counts.weights > 0))
    rare = [counts.column_names[j] for j in np.flatnonzero(total < RARE)]
    if not rare:
        return Verdict("Rare columns", True, f"Every column was counted {RARE} times or more.")
    words = f"{len(rare)} of {len(total)} columns were counted fewer than {RARE} times: {listed(rare)}. "
    words += "Read nothing into their effects."
    return Verdict("Rare columns", False, words)


def _rows(fit: Fitted) -> Verdict:
    n, p = int(np.sum(fit.counts_.weights > 0)), fit.covariance_.shape[0]
    free = summary.shape_words(fit)
    full = fit.loadings_ is None and free.startswith("full")
    if not full or n >= 5 * p:
        return Verdict("Rows for the covariance", True, f"{n} rows for {p} columns ({free}).")
    words = (
        f"{n} rows for {p} columns: single correlations are known roughly, and shrinkage is there for that. "
    )
    words += "A rank asks for less."
    return Verdict("Rows for the covariance", False, words)


def _weights(fit: Fitted, values: np.ndarray) -> Verdict:
    bad = np.flatnonzero(values > LARGEST_KHAT)
    if not len(bad):
        words = (
            f"The importance weights of all {len(values)} rows behave (k-hat up to {np.nanmax(values):.2f})."
        )
        return Verdict("Log-likelihood", True, words)
    rows = listed(fit.counts_.row_names[i] for i in bad[np.argsort(-values[bad], kind="stable")])
    words = f"k-hat is above {LARGEST_KHAT} in {len(bad)} of {len(values)} rows (largest first: {rows}): "
    words += "their part is unsure."
    return Verdict("Log-likelihood", False, words)
