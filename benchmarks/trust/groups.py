"""Rows in groups: how often a treatment without effect is called one, by clusters and without; robust standard errors.

Start at `line`: tables of donors with a level of their own in each column, a treatment given to half of the donors (or
to half of each donor's rows), no effect. The other kind of task asks how often robust intervals cover the truth where
rows are independent.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

TITLE = "Rows in groups"
QUESTION = (
    "Donors give 20 rows each, in each of 10 columns a donor's level varies by 0.5 (log scale), and a treatment "
    "without "
    "effect is given to half of the donors: how many of its p-values are below 0.05? Wanted: 3 to 8 %. Of "
    "independent rows, "
    "how many intervals of `robust=True` cover? Wanted: 95 %."
)
TABLES, COVERED = 100, 100  # of 12 donors whose treatment is theirs; of each mean
PART = 20  # tables a line
DONORS, ROWS, COLUMNS, SPREAD = (6, 12, 30), 20, 10, 0.5
LEVELS = (0.0, 2.0)
CORRELATION, VARIANCE = 0.5, 0.6
ROBUST_ROWS, ROBUST_COLUMNS = 150, 8


def tasks() -> list[dict[str, Any]]:
    """Parts of the tables of each setting, the first part of all before the second of any."""
    settings = [(g, given, SPREAD) for g in DONORS for given in ("to donors", "to rows")] + [
        (12, "to donors", 0.0)
    ]
    found = []
    for k in range(TABLES // PART):
        found += [
            {"kind": "null", "donors": g, "given": given, "spread": spread, "part": k}
            for g, given, spread in settings
            if k == 0 or (g, given) == (12, "to donors")
        ]
        found += [{"kind": "robust", "level": level, "part": k} for level in LEVELS if k < COVERED // PART]
    return found


def line(task: dict[str, Any]) -> dict[str, Any]:
    """Sums over a part's tables."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeds = range(task["part"] * PART, (task["part"] + 1) * PART)
        found = [
            null(task, seed) if task["kind"] == "null" else covered(task["level"], seed) for seed in seeds
        ]
    table = pd.DataFrame(found)
    told = {name: table[name].mean() for name in table}
    return told | {f"{name} var": table[name].var() for name in table} | {"tables": len(table)}


def grouped(
    donors: int, given: str, spread: float, seed: int, *, effect: float = 0.0
) -> tuple[np.ndarray, pd.DataFrame]:
    """Counts (n, 10) of donors with 20 rows each, and their covariates."""
    random = np.random.default_rng([seed, donors])
    donor = np.repeat(np.arange(donors), ROWS)
    treated = donor % 2 if given == "to donors" else np.arange(len(donor)) % 2
    levels = random.normal(1.0, 0.7, COLUMNS)
    own = spread * random.standard_normal((donors, COLUMNS))[donor]
    sigma = VARIANCE * CORRELATION ** np.abs(np.subtract.outer(np.arange(COLUMNS), np.arange(COLUMNS)))
    z = levels + own + random.multivariate_normal(np.zeros(COLUMNS), sigma, len(donor))
    z += effect * treated[:, None]
    data = pd.DataFrame({"treated": treated, "donor": [f"d{k}" for k in donor]})
    return random.poisson(np.exp(z)), data


def null(task: dict[str, Any], seed: int) -> dict[str, float]:
    """Shares of p-values below 0.05 in one table, and whether the grouping was noticed."""
    import poplin

    counts, data = grouped(task["donors"], task["given"], task["spread"], seed)
    fit = poplin.PLN(formula="~ treated", random_state=seed).fit(counts, data=data)
    asked = {"plain": {}, "robust": {"robust": True}, "cluster": {"cluster": "donor"}}
    found = {name: fit.confint(**settings).p.to_numpy()[COLUMNS:] for name, settings in asked.items()}
    return {name: float(np.mean(p < 0.05)) for name, p in found.items()} | {
        "warned": float(any("donor" in words for words in fit.messages_))
    }


def covered(level: float, seed: int) -> dict[str, float]:
    """Shares of robust and of plain intervals that hold the truth, of B and of Sigma."""
    import poplin

    n, p = ROBUST_ROWS, ROBUST_COLUMNS
    random = np.random.default_rng([seed, int(level)])
    x = np.column_stack([np.ones(n), random.standard_normal(n)])
    sigma = 0.7 * 0.5 ** np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
    coef = np.stack([np.full(p, level), np.linspace(-0.5, 0.5, p)])
    z = x @ coef + random.multivariate_normal(np.zeros(p), sigma, n)
    fit = poplin.PLN(shrinkage=0, random_state=seed).fit(random.poisson(np.exp(z)), X=x)
    truth = {"coef": coef.ravel(), "covariance": sigma[np.triu_indices(p)]}
    shares = {}
    for name, settings in {"plain": {}, "robust": {"robust": True}}.items():
        for which, values in truth.items():
            told = fit.confint(which, **settings)
            shares[f"{name} {which}"] = float(np.mean((told.lower <= values) & (values <= told.upper)))
    return shares


def words(frame: pd.DataFrame) -> str:
    """Both tables."""
    null_lines = frame[frame.kind == "null"]
    text = [
        "Share of p-values below 0.05, ± standard error over tables; in how many tables the fit warned of donors:",
        "",
        "| donors | treatment given | donors' spread | tables | plain | `robust=True` | `cluster=` | warned |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (donors, given, spread), part in null_lines.groupby(["donors", "given", "spread"]):
        cells = [percent(part, name) for name in ("plain", "robust", "cluster", "warned")]
        text.append(f"| {donors:.0f} | {given} | {spread} | {part.tables.sum():.0f} | {' | '.join(cells)} |")
    text += ["", "Intervals that cover, 150 independent rows, 8 columns:", ""]
    text += [
        "| mean of Z | tables | B, plain | B, robust | Sigma, plain | Sigma, robust |",
        "|---|---|---|---|---|---|",
    ]
    names = ("plain coef", "robust coef", "plain covariance", "robust covariance")
    for level, part in frame[frame.kind == "robust"].groupby("level"):
        cells = [percent(part, name) for name in names]
        text.append(f"| {level} | {part.tables.sum():.0f} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def percent(part: pd.DataFrame, name: str) -> str:
    """A share in percent with its standard error over tables."""
    weight = part.tables / part.tables.sum()
    mean = float(np.sum(weight * part[name]))
    within = float(np.sum(weight * part[f"{name} var"])) + float(np.sum(weight * (part[name] - mean) ** 2))
    return f"{100 * mean:.1f} ± {100 * np.sqrt(within / part.tables.sum()):.1f}"
