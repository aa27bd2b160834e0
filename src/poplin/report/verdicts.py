"""Diagnostics in plain words: what was looked at, whether it looks well, and what follows.

Start at `found` and `verdicts`. Margins and correlations are tested (`inference/departures.py`: of
tables drawn from the model 5 % are called unlike it by either); the other limits are where a statistician would look
closer.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

import numpy as np

from poplin.data import held
from poplin.data.tables import listed
from poplin.inference import summary
from poplin.inference.departures import (
    LEVEL,
    REPLICATES,
    Associations,
    Departures,
    Zeros,
    associations,
    departures,
    extra_zeros,
    looked,
)
from poplin.inference.summary import LARGEST_KHAT, Fitted
from poplin.report import views

RARE = 10  # counts of a column below which its own parameters are hardly known
WIDE, NARROW, OFF = 1.15, 0.85, 0.1  # spread and mean of residuals that are remarkable

MOST_NAMED = 4  # columns that a verdict names
SURE = 2.0  # standard deviations, below which a lean is chance
HEAVY, FLAT, LEANING = "heavy tails", "flat or in two humps", "lopsided"
ADVICE = {
    HEAVY: "Heavy tails: intervals of variances and covariances cover less than they say (of t3 latents 66 % instead "
    "of 95 %, by robust=True more, though not all); effects keep their level. A few rows may be of another kind: look "
    "at those with the largest residuals.",
    FLAT: "Flat, or two humps: rows of two kinds may lie together; a covariate, or a factor that tells them, is "
    "missing.",
    LEANING: "Lopsided: a few rows or zeros of another kind, or a covariate whose effect is not linear on the log "
    "scale.",
}


class Verdict(NamedTuple):
    """One line: what was looked at, whether it is well, what was found and what follows."""

    about: str
    good: bool
    words: str


class Found(NamedTuple):
    """What the verdicts are made of; `associations` is None where Sigma is free, so that there is nothing to test."""

    frequencies: views.Frequencies
    residuals: views.Residuals
    departures: Departures
    associations: Associations | None
    zeros: Zeros


def found(fit: Fitted, *, draws: int = views.MOST_DRAWS, most: int = views.MOST_ENTRIES) -> Found:
    """All of it; `draws` and `most` as in `goodness`. A second or two, whatever the table's size."""
    seen = looked(fit)
    frequencies, residuals = views.frequencies(fit, draws=draws), views.residuals(fit, most=most)
    together = associations(fit, seen, level=LEVEL / 2)
    alone = departures(seen, level=LEVEL if together is None else LEVEL / 2)
    return Found(frequencies, residuals, alone, together, extra_zeros(seen))


def verdicts(fit: Fitted, found: Found, command: str = "") -> list[Verdict]:
    """Everything that can be said without another computation; `command` is that of the fit, where there is one."""
    said, _, more = summary.verdict(fit).partition(": ")
    lines = [Verdict("Convergence", fit.converged_, f"{said.capitalize()}: {more}")]
    lines += [_margins(fit, found), _together(fit, found.associations)]
    lines += [_zeros(fit, found, command), _rare(fit), _rows(fit)]
    known = summary.known_khat(fit)
    if known is not None:
        lines.append(_weights(fit, known))
    return lines


def _margins(fit: Fitted, found: Found) -> Verdict:
    left, tested = found.residuals, found.departures
    mean, spread = float(np.mean(left.value)), float(np.std(left.value))
    words = f"Residuals have mean {mean:.2f} and standard deviation {spread:.2f} (wanted: 0 and 1). "
    if not (NARROW < spread < WIDE and abs(mean) < OFF):
        why = "more" if spread >= WIDE else "less" if spread <= NARROW else "elsewhere"
        advice = (
            "Counts vary less than the fitted variances say, as where Sigma has few rows to learn from or is shrunk."
            if why == "less"
            else "Something is missing: a covariate, an offset, a column of another kind. Look at single columns."
        )
        return Verdict("Margins of the counts", False, words + advice)
    p, columns = fit.sigma_.p, len(tested.columns)
    where = f"{columns} of {p} columns" if columns < p else f"{p} columns" if p > 1 else "one column"
    said = f"p = {tested.p:.2g}" if tested.p else f"p < {1 / REPLICATES:.1g}"
    words += (
        "Their distribution, of all and of each column, was compared with that of tables drawn from the fit "
    )
    words += f"({said}; {tested.rows} rows, {where}): "
    if tested.p >= tested.level:
        return Verdict("Margins of the counts", True, words + "each column's counts vary as the model says.")
    return Verdict("Margins of the counts", False, words + _departure(fit, tested))


def _departure(fit: Fitted, tested: Departures) -> str:
    """Which columns stand out, in what way, and what follows."""
    names, kinds = fit.counts_.column_names, [_kind(tested.kind[j]) for j in tested.flagged]
    told = [f"{names[tested.columns[j]]} ({kind})" for j, kind in zip(tested.flagged, kinds, strict=True)]
    together = _kind(tested.kind_together)
    words = (
        f"they differ. Look closer at {listed(told, MOST_NAMED)}. "
        if told
        else "they differ, no column alone. "
    )
    words += f"All together: {together}; the curve is up to {tested.distance:.1%} off. "
    seen = {together, *kinds}
    return words + " ".join(advice for kind, advice in ADVICE.items() if kind in seen)


def _kind(excess: np.ndarray) -> str:
    """What is most unlike the normal: tails, middle, or one side."""
    tails, middle, right = excess
    if abs(right) > max(SURE, 0.5 * max(abs(tails), abs(middle))):
        return LEANING
    return HEAVY if middle + tails > 0 else FLAT


def _together(fit: Fitted, tested: Associations | None) -> Verdict:
    about = "Correlations of the columns"
    if tested is None:
        alone = fit.sigma_.p == 1
        why = "there is one column" if alone else "Sigma is free, and follows those of the counts"
        return Verdict(about, True, f"Nothing to test: {why}.")
    said = f"p = {tested.p:.2g}" if tested.p else f"p < {1 / REPLICATES:.1g}"
    words = f"Residuals of pairs of columns were compared with those of tables drawn from the fit ({said}): "
    if tested.p >= tested.level:
        return Verdict(about, True, words + "nothing goes together beyond the fitted Sigma.")
    names = fit.counts_.column_names
    pairs = [
        f"{names[j]} and {names[k]} ({'more' if excess > 0 else 'less'})"
        for (j, k), excess in zip(tested.pairs, tested.excess, strict=True)
    ]
    which = f"Look closer at {listed(pairs, MOST_NAMED)}. " if pairs else ""
    words += f"they go together otherwise than the fitted Sigma says. {which}"
    return Verdict(about, False, words + "A higher rank, or a full Sigma, can follow them.")


def _zeros(fit: Fitted, all_found: Found, command: str) -> Verdict:
    found, extra = all_found.frequencies, all_found.zeros
    seen, expected = int(found.seen[0]), float(found.expected[0])
    words = f"{seen} zeros are seen; tables drawn from the fit have {expected:.0f} "
    words += f"({found.lower[0]:.0f} to {found.upper[0]:.0f}). "
    off = abs(seen - expected) / max(found.seen.sum(), 1)
    more = seen > found.upper[0] and off >= SMALL
    if extra.p < ZERO_LEVEL and extra.share >= SMALL:
        names = [fit.counts_.column_names[j] for j in extra.columns]
        where = f", most in {listed(names, MOST_NAMED)}" if names else ""
        words += "However levels and variances of the columns are chosen, the law leaves "
        words += f"{extra.share:.1%} of the counts as zeros too many (p = {extra.p:.1g}){where}: some may have another "
        words += f"cause (never looked for, never there). {_law_to_try(fit, command)}"
        return Verdict("Zeros", False, words.strip())
    if found.lower[0] <= seen <= found.upper[0]:
        return Verdict("Zeros", True, words + "The model needs no extra zeros.")
    if off < SMALL:
        return Verdict(
            "Zeros", True, words + f"The difference is {off:.1%} of all counts, small though not by chance."
        )
    if more:
        words += (
            "The table has more zeros than it explains: some may have another cause (never looked for, never "
        )
        return Verdict("Zeros", False, f"{words}there). {_law_to_try(fit, command)}".strip())
    less = "The table has fewer zeros than it expects: the fitted variances are large for some columns"
    return Verdict("Zeros", False, f"{words}{less}.")


SMALL = 0.01  # share of counts below which zeros too many are no matter
ZERO_LEVEL = 0.01


def _law_to_try(fit: Fitted, command: str) -> str:
    """The zero-inflated law beside the fit's own, and how to fit it; nothing where there is none."""
    from poplin.fitting import driver, recipes  # it brings JAX

    settings = fit.get_params()
    law = f"zero-inflated-{settings.get('likelihood', 'poisson')}"
    if law not in recipes.ZERO_INFLATED:
        return ""
    method = settings.get("method", "ml")
    knows = driver.WAYS[type(recipes.chosen(method))].laws
    told = f"The law to try is {law}: "
    if command.startswith("poplin fit "):
        return f"{told}{_with_options(command, law, None if knows else 'ml')}"
    changed = {"likelihood": law} | ({} if knows else {"method": "ml"})
    return f"{told}poplin.{summary.call(fit, changed)}"


def _with_options(command: str, law: str, method: str | None) -> str:
    """The command of a fit with another law, and another folder for its results."""
    words = shlex.split(command)
    for option in ("--likelihood", "--out", "--method") if method else ("--likelihood", "--out"):
        at = next((k for k, word in enumerate(words) if word.partition("=")[0] == option), None)
        if at is not None:
            del words[at : at + (1 if "=" in words[at] else 2)]
    words = [word for word in words if word != "--resume"]
    more = ["--likelihood", law, *(["--method", method] if method else [])]
    return f"{shlex.join([*words, *more])} --out DIR"


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
    n, p = int(np.sum(fit.counts_.weights > 0)), fit.sigma_.p
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
