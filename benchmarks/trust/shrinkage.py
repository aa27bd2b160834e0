"""How much a free Sigma is shrunk: left-out rows under the default and under other weights, and what intervals cover.

Start at `held`: of each table a fold is left out, and its log-likelihood asked of the default, of maximum likelihood
and of the bound at fixed weights. `covered` draws tables from the model at n = 19 p and asks the default's intervals.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.trust.convergence import SHARED, microcosm

TITLE = "Shrinkage"
QUESTION = (
    "Is the default as likely as other weights, and as the bound, on rows that were left out? By how much are "
    "correlations pulled, and do the intervals of a shrunk fit cover? Wanted: level with or ahead of every other "
    "setting; 95 % ± 2."
)
FOLDS = 3
WEIGHTS = (0.0, 0.02, 0.1, 0.3)
REAL = ("trichoptera", "mollusk", "oaks", "barents", "microcosm")
SIMULATED = ((20, 40), (40, 20), (100, 20), (200, 10))  # rows that are fitted, columns
MEANS = (-1.0, 2.0)
LEVELS, TABLES, PART = (-1.0, 0.0, 2.0, 4.0), 60, 10
ROWS, COLUMNS, CORRELATION = 150, 8, 0.7


def tasks() -> list[dict[str, Any]]:
    """The first fold of all tables before the second of any; parts of the tables of each mean likewise."""
    tables = [*REAL, *(f"{n} x {p}, mean {mean:g}" for n, p in SIMULATED for mean in MEANS)]
    found: list[dict[str, Any]] = []
    for k in range(max(FOLDS, TABLES // PART)):
        found += [{"kind": "held", "table": table, "fold": k} for table in tables if k < FOLDS]
        found += [{"kind": "covered", "level": level, "part": k} for level in LEVELS if k < TABLES // PART]
    return found


def line(task: dict[str, Any]) -> dict[str, Any]:
    """The figures of one task."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return held(task["table"], task["fold"]) if task["kind"] == "held" else covered(task)


def table_of(name: str, fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Counts, design, offsets, and which rows are left out."""
    if name == "microcosm":
        counts, x, offset = microcosm()
    elif name in REAL:
        file = np.load(SHARED / "data" / f"{name}.npz")
        counts, factor = file["counts"].astype(float), {"oaks": "tree", "mollusk": "method"}.get(name)
        levels = np.zeros(len(counts)) if factor is None else file[f"cov_{factor}"].astype(str)
        x = np.eye(len(np.unique(levels)))[np.unique(levels, return_inverse=True)[1]]
        effort = file["offset"].astype(float) if "offset" in file.files else counts.sum(axis=1, keepdims=True)
        offset = np.broadcast_to(np.log(np.maximum(effort, 1)), counts.shape)
    else:
        size, mean = name.split(", mean ")
        n, p = (int(part) for part in size.split(" x "))
        random = np.random.default_rng([n, p, fold, int(float(mean)) + 9])
        sigma = CORRELATION ** np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
        z = float(mean) + random.multivariate_normal(np.zeros(p), sigma, n + 200)
        x, offset = np.ones((n + 200, 1)), np.zeros(z.shape)
        return random.poisson(np.exp(z)).astype(float), x, offset, np.arange(n + 200) >= n
    return counts, x, offset, np.arange(len(counts)) % FOLDS == fold


def held(name: str, fold: int) -> dict[str, Any]:
    """Log-likelihood of the rows left out, less the default's, of each setting, with the rows' spread."""
    import poplin

    counts, x, offset, out = table_of(name, fold)
    settings: dict[str, dict[str, Any]] = {"default": {}}
    settings |= {f"ml {weight:g}": {"shrinkage": weight} for weight in WEIGHTS}
    settings |= {f"bound {weight:g}": {"method": "variational", "shrinkage": weight} for weight in WEIGHTS}
    rows, told = {}, {"rows": int(out.sum())}
    for setting, asked in settings.items():
        fit = poplin.PLN(**asked).fit(counts[~out], X=x[~out], offset=offset[~out], standard_errors=False)
        rows[setting] = fit.score_samples(counts[out], X=x[out], offset=offset[out])
        if setting == "default":
            told |= {"weight": fit.shrinkage_weight_, "pull": fit.shrinkage_}
            settings["bound default"] = {"method": "variational", "shrinkage": fit.shrinkage_weight_}
            asked = settings["bound default"]
            same = poplin.PLN(**asked).fit(counts[~out], X=x[~out], offset=offset[~out])
            rows["bound, same"] = same.score_samples(counts[out], X=x[out], offset=offset[out])
            del settings["bound default"]
    for setting, values in rows.items():
        apart = values - rows["default"]
        told |= {setting: float(apart.sum()), f"{setting} var": float(len(apart) * apart.var(ddof=1))}
    return told | {"default": float(rows["default"].sum())}


def covered(task: dict[str, Any]) -> dict[str, Any]:
    """Means over a part's tables: shares of the default's intervals that hold the truth, and the pull that it says."""
    import poplin

    level = task["level"]
    sigma = CORRELATION ** np.abs(np.subtract.outer(np.arange(COLUMNS), np.arange(COLUMNS)))
    upper = np.triu_indices(COLUMNS, 1)
    found = []
    for seed in range(task["part"] * PART, (task["part"] + 1) * PART):
        random = np.random.default_rng([seed, int(level) + 9])
        x = np.column_stack([np.ones(ROWS), random.standard_normal(ROWS)])
        coef = np.stack([np.full(COLUMNS, level), np.linspace(-0.5, 0.5, COLUMNS)])
        z = x @ coef + random.multivariate_normal(np.zeros(COLUMNS), sigma, ROWS)
        counts = random.poisson(np.exp(z))
        fit, free = (poplin.PLN(shrinkage=s, random_state=seed).fit(counts, X=x) for s in ("auto", 0))
        truth = {"coef": coef.ravel(), "correlation": sigma[upper]}
        shares: dict[str, float] = {"converged": float(fit.converged_ and free.converged_)}
        for which, values in truth.items():
            told = fit.confint(which)
            shares[which] = float(np.mean((told.lower <= values) & (values <= told.upper)))
        near = fit.confint("correlation")
        near = near[(sigma[upper] == CORRELATION)]
        shares["neighbours"] = float(np.mean((near.lower <= CORRELATION) & (CORRELATION <= near.upper)))
        one, other = (_correlations(f.covariance_)[upper] for f in (fit, free))
        found.append(shares | {"said": fit.shrinkage_, "pulled": 1 - one @ other / (other @ other)})
    table = pd.DataFrame(found)
    return {name: table[name].mean() for name in table} | {f"{name} var": table[name].var() for name in table}


def _correlations(covariance: np.ndarray) -> np.ndarray:
    deviation = np.sqrt(np.diag(covariance))
    return covariance / deviation / deviation[:, None]


def words(frame: pd.DataFrame) -> str:
    """Both tables."""
    some, drawn = (frame[frame.kind == kind] for kind in ("held", "covered"))
    names = [f"{kind} {weight:g}" for kind in ("ml", "bound") for weight in WEIGHTS] + ["bound, same"]
    text = [
        "Log-likelihood of rows left out (so many of three folds; of simulated tables, 200 rows each) less the "
        "default's, ± the standard error of the rows' differences. `bound, same` has the default's weight.",
        "",
        f"| table | folds, rows | weight, pull | {' | '.join(names)} |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for table, part in some.groupby("table", sort=False):
        cells = [f"{part[n].sum():+.0f} ± {np.sqrt(part[f'{n} var'].sum()):.0f}" for n in names]
        size = (
            f"{len(part)}, {part['rows'].sum():.0f} | {part['weight'].mean():.2f}, {part['pull'].mean():.2f}"
        )
        text.append(f"| {table} | {size} | {' | '.join(cells)} |")
    if drawn.empty:
        return "\n".join(text) + "\n"
    text += [
        "",
        f"Intervals of the default that cover, {ROWS} rows, {COLUMNS} columns, correlation of neighbours "
        f"{CORRELATION}; the pull of correlations that the fit says, and that a fit without shrinkage shows; ± "
        "over tables:",
        "",
        "| mean of Z | tables | B | correlations | neighbours' | said | seen |",
        "|---|---|---|---|---|---|---|",
    ]
    for level, part in drawn.groupby("level"):
        count = PART * len(part)
        cells = []
        for name in ("coef", "correlation", "neighbours", "said", "pulled"):
            variance = part[f"{name} var"].mean() + part[name].var(ddof=0)
            cells.append(f"{100 * part[name].mean():.1f} ± {100 * np.sqrt(variance / count):.1f} %")
        text.append(f"| {level:g} | {count} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"
