"""The report's verdicts: how often a table of the model's own is called unlike it, and other laws found out.

Start at `line`: tables drawn from the model or from another law, fitted as a user would, and judged as the report does.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

TITLE = "Verdicts of the report"
QUESTION = (
    "How often does the report say 'look closer' of the margins, of the zeros or of the correlations, where the "
    "table is "
    "drawn from the model (wanted: 5 % ± 2 in all), and where it is not? And do intervals of variances cover there?"
)
PART = 20  # tables a line
NULL_TABLES, OTHER_TABLES = 100, 20
NULL = {  # rows, columns, mean of Z, settings of the fit
    "200 x 10": (200, 10, 2.0, {}),
    "60 x 6, low counts": (60, 6, 0.0, {}),
    "200 x 10, diagonal": (200, 10, 1.0, {"covariance": "diagonal"}),
    "200 x 10, rank 2": (200, 10, 1.0, {"rank": 2}),
}
LAWS = (
    "bimodal",
    "uniform",
    "t3",
    "t3 of each column",
    "outlier rows",
    "outlier cells",
    "negative binomial",
    "zeros",
)
VARIANCE, CORRELATION = 0.64, 0.5


def tasks() -> list[dict[str, Any]]:
    """Parts of the tables of each setting."""
    null = [
        {"law": "the model", "setting": name, "part": k} for k in range(NULL_TABLES // PART) for name in NULL
    ]
    other = [
        {"law": law, "setting": "200 x 10", "part": k} for k in range(OTHER_TABLES // PART) for law in LAWS
    ]
    return null + other


def line(task: dict[str, Any]) -> dict[str, Any]:
    """Means over a part's tables."""
    seeds = range(task["part"] * PART, (task["part"] + 1) * PART)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = pd.DataFrame([judged(task["law"], task["setting"], seed) for seed in seeds])
    return {name: table[name].mean() for name in table} | {"tables": len(table)}


def judged(law: str, setting: str, seed: int) -> dict[str, float]:
    """What the report says of one table; of the heavy tails also what intervals of variances cover."""
    import poplin
    from poplin.report import verdicts

    n, p, level, settings = NULL[setting]
    counts, x, truth = drawn(law, n, p, level, seed, settings)
    fit = poplin.PLN(random_state=seed, **settings).fit(counts, X=x)
    found = verdicts.found(fit)
    said = {one.about: one.good for one in verdicts.verdicts(fit, found)}
    looked = [said[about] for about in ("Margins of the counts", "Zeros", "Correlations of the columns")]
    told = {
        "margins": not looked[0],
        "zeros": not looked[1],
        "correlations": not looked[2],
        "any": not all(looked),
    }
    told |= {"columns": len(found.departures.flagged), "heavy": "Heavy tails" in _words(fit, found)}
    if law.startswith("t3") or (law == "the model" and setting == "200 x 10"):
        for name, asked in {"plain": {}, "robust": {"robust": True}}.items():
            ends = fit.confint("covariance", **asked)
            own = ends.index.get_level_values(0) == ends.index.get_level_values(1)
            told[f"{name} variances"] = np.mean(
                ((ends.lower <= truth) & (truth <= ends.upper)).to_numpy(), where=own
            )
    return {name: float(value) for name, value in told.items()}


def _words(fit: Any, found: Any) -> str:
    from poplin.report import verdicts

    return verdicts.verdicts(fit, found)[1].words


def drawn(
    law: str, n: int, p: int, level: float, seed: int, settings: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Counts, covariates and the variance of Z in every column; latents of all laws have that variance."""
    random = np.random.default_rng([seed, n, p])
    x = np.column_stack([np.ones(n), random.standard_normal(n)])
    coef = np.stack([random.normal(level, 0.7, p), random.normal(0, 0.4, p)])
    away = np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
    sigma = np.eye(p) if "covariance" in settings else CORRELATION**away
    if "rank" in settings:
        loads = random.normal(size=(p, settings["rank"]))
        loads /= np.linalg.norm(loads, axis=1)[:, None]
        sigma = loads @ loads.T
    values, axes = np.linalg.eigh(sigma)
    e = random.standard_normal((n, p)) @ (axes * np.sqrt(np.maximum(values, 0))).T
    z = x @ coef + np.sqrt(VARIANCE) * latents(law, e, random)
    if law == "negative binomial":
        shape = 1 / VARIANCE
        return random.poisson(np.exp(x @ coef) * random.gamma(shape, 1 / shape, (n, p))), x, VARIANCE
    counts = random.poisson(np.exp(z))
    return (counts * (random.random((n, p)) > 0.2) if law == "zeros" else counts), x, VARIANCE


def latents(law: str, e: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Deviations of Z of variance 1 (outliers beside), from normal ones (n, p)."""
    from scipy.special import ndtr

    n, p = e.shape
    if law == "bimodal":
        return 0.9 * random.choice([-1.0, 1.0], n)[:, None] + np.sqrt(1 - 0.9**2) * e
    if law == "uniform":
        return np.sqrt(12) * (ndtr(e) - 0.5)
    if law == "t3":
        return e / np.sqrt(random.chisquare(3, n))[:, None]
    if law == "t3 of each column":
        return random.standard_t(3, (n, p)) / np.sqrt(3)
    if law == "outlier rows":
        return e + 3.75 * (random.random(n) < 0.03)[:, None]
    if law == "outlier cells":
        return e + 3.75 * (random.random((n, p)) < 0.02)
    return e


def words(frame: pd.DataFrame) -> str:
    """The table of false alarms, and that of other laws."""
    head = "| {} | tables | any | margins | zeros | correlations |{}"
    text = ["'Look closer' in % of tables drawn from the model, ± standard error:", ""]
    text += [head.format("table, fit", ""), "|---|---|---|---|---|---|"]
    names = ("any", "margins", "zeros", "correlations")
    null = frame[frame.law == "the model"]
    for setting, part in null.groupby("setting", sort=False):
        text.append(
            f"| {setting} | {part.tables.sum():.0f} | {' | '.join(share(part, name) for name in names)} |"
        )
    text.append(f"| all | {null.tables.sum():.0f} | {' | '.join(share(null, name) for name in names)} |")
    text += [
        "",
        "Of tables of other laws (200 x 10), columns named on average, and whether heavy tails are told:",
        "",
    ]
    text += [head.format("law", " columns named | heavy tails told |"), "|---|---|---|---|---|---|---|---|"]
    for law in LAWS:
        part = frame[frame.law == law]
        if len(part):
            cells = [share(part, name) for name in names]
            named = float(np.average(part["columns"], weights=part.tables))
            told = f"{named:.1f} | {share(part, 'heavy')}"
            text.append(f"| {law} | {part.tables.sum():.0f} | {' | '.join(cells)} | {told} |")
    text += ["", "Intervals of variances that cover, in %: plain, and by `robust=True`:", ""]
    text += ["| law | plain | robust |", "|---|---|---|"]
    for law in ("the model", "t3", "t3 of each column"):
        part = frame[(frame.law == law) & (frame.setting == "200 x 10")]
        if len(part):
            text.append(f"| {law} | {share(part, 'plain variances')} | {share(part, 'robust variances')} |")
    return "\n".join(text) + "\n"


def share(part: pd.DataFrame, name: str) -> str:
    """A share in percent with its binomial standard error."""
    tables = float(part.tables.sum())
    mean = float(np.sum(part.tables * part[name]) / tables)
    return f"{100 * mean:.1f} ± {100 * np.sqrt(max(mean * (1 - mean), 0.25 / tables) / tables):.1f}"
