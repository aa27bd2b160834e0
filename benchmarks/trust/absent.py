"""Effects of columns that one level lacks: p-values against each column's own likelihood ratio, size, discoveries.

Start at `line`. Three kinds of tasks: `effects` (columns that the second group lacks, in the default's `confint`, by
the bound, and by an oracle that shares no code with poplin), `size` (columns without effect, a group of 12 % of the
rows) and `discoveries` (40 columns, 4 of them with an effect, two of these absent from the group).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import chi2

TITLE = "Columns that a group lacks"
QUESTION = (
    "A column that is present in nearly all controls and in no treated row has no largest likelihood: is its p-value "
    "that of its own likelihood ratio, do columns without effect keep their size, and are few discoveries false?"
)
IMBALANCE = 0.12
TESTS = {"ratio": "`likelihood_ratio`", "wald": "`wald` of the bound", "default": "`wald` of the default"}
METHODS = ("ml", "variational")
DEFAULTS = 6  # tables of 40 columns that maximum likelihood is tried on too: most of the time is theirs


def tasks() -> list[dict[str, Any]]:
    """What is run: kind, rows, level of the log rates, seed."""
    effects = [
        {"kind": "effects", "n": n, "mean": mean, "seed": seed}
        for n, mean in ((60, 1.5), (200, 1.5), (60, 0.0), (200, 0.0))
        for seed in range(2)
    ]
    size = [
        {"kind": "size", "n": n, "mean": mean, "seed": seed}
        for seed in range(16)
        for n in (60, 200)
        for mean in (-1.0, 0.0, 1.5)
    ]
    found = [
        {"kind": "discoveries", "n": n, "mean": 0.5, "seed": seed} for seed in range(30) for n in (60, 200)
    ]
    return effects + size + found


def line(task: dict[str, Any]) -> dict[str, Any]:
    """One table, fitted and compared."""
    random = np.random.default_rng([task["n"], round(10 * task["mean"]) + 50, task["seed"]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if task["kind"] == "discoveries":
            return _discoveries(task["n"], task["mean"], random, default=task["seed"] < DEFAULTS)
        return {"effects": _effects, "size": _size}[task["kind"]](task["n"], task["mean"], random)


def _table(random: Any, n: int, level: Any, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Counts at these levels with correlated variation of variance about one, and the design of two groups."""
    p = len(level)
    loadings = 0.5 * random.normal(size=(p, 2))
    noise = random.normal(size=(n, 2)) @ loadings.T + 0.7 * random.normal(size=(n, p))
    group = np.arange(n) < round(share * n)
    return random.poisson(np.exp(level + noise)).astype(float), np.column_stack([np.ones(n), group]).astype(
        float
    )


def _effects(n: int, mean: float, random: Any) -> dict[str, Any]:
    """Four columns that half of the rows lack, beside four others."""
    import poplin

    y, x = _table(random, n, np.full(8, mean), 0.5)
    y[x[:, 1] == 1, :4] = 0
    logs = np.array([np.log(chi2.sf(_own_ratio(y[:, j], x), 1)) for j in range(4)])
    told: dict[str, Any] = {"oracle": float(logs.mean() / np.log(10))}
    for method in METHODS:
        table = poplin.PLN(method=method).fit(y, X=x).confint().iloc[8:12]
        ratio = np.log(table.p.to_numpy()) / logs
        told |= {
            f"{method}_{name}": float(value)
            for name, value in zip(("least", "most"), (ratio.min(), ratio.max()), strict=True)
        }
        told[f"{method}_factor"] = float(np.exp(np.abs(np.log(table.p.to_numpy()) - logs).max()))
        told[f"{method}_open"] = int(np.isneginf(table.lower).sum())
    return told


def _size(n: int, mean: float, random: Any) -> dict[str, Any]:
    """Eight columns without effect."""
    import poplin

    y, x = _table(random, n, np.full(8, mean), IMBALANCE)
    told: dict[str, Any] = {}
    for method in METHODS:
        table = poplin.PLN(method=method).fit(y, X=x).confint().iloc[8:]
        told[f"{method}_tests"] = int(table.p.notna().sum())
        told[f"{method}_rejected"] = int((table.p < 0.05).sum())
        told[f"{method}_profiled"] = int((table.method == "profile").sum())
    ratios = poplin.PLN(method="variational").fit(y, X=x).likelihood_ratio([[0.0, 1.0]])
    return told | {"ratio_tests": int(ratios.p.notna().sum()), "ratio_rejected": int((ratios.p < 0.05).sum())}


def _discoveries(n: int, mean: float, random: Any, *, default: bool) -> dict[str, Any]:
    """40 columns: two are absent from the group, one is rarer and one commoner there."""
    import poplin

    level = random.uniform(mean - 1.5, mean + 1.5, 40)
    y, x = _table(random, n, level, IMBALANCE)
    group = x[:, 1] == 1
    y[np.ix_(group, [0, 1])] = 0
    for j, effect in ((2, -2.5), (3, 2.0)):
        y[group, j] = random.poisson(np.exp(level[j] + effect + random.normal(size=group.sum())))
    fit = poplin.PLN(method="variational").fit(y, X=x)
    told: dict[str, Any] = {}
    kinds = {"ratio": fit.likelihood_ratio([[0.0, 1.0]]), "wald": fit.wald([[0.0, 1.0]]).iloc[:-1]}
    if default:
        kinds["default"] = poplin.PLN().fit(y, X=x).wald([[0.0, 1.0]]).iloc[:-1]
    for name, table in kinds.items():
        for level_ in (5, 10):
            found = (table.p_adjusted < level_ / 100).to_numpy()
            told[f"{name}_false_{level_}"] = found[4:].sum() / max(found.sum(), 1)
            told[f"{name}_power_{level_}"] = found[:4].mean()
    return told


def _own_ratio(y: np.ndarray, x: np.ndarray) -> float:
    """Twice the log-likelihood ratio of a column against no effect of the group: trapezoid rule and BFGS."""
    at = np.linspace(-9, 9, 181)

    def lost(theta: np.ndarray, design: np.ndarray) -> float:
        sd = np.exp(np.clip(theta[-1], -4, 3))
        log_rate = np.clip(design @ theta[:-1], -60, 60)[:, None] + sd * at
        terms = y[:, None] * log_rate - np.exp(np.minimum(log_rate, 500)) - 0.5 * at**2
        return -float(np.sum(logsumexp(terms, axis=1))) + sd**2 / 200 + 1e-4 / sd**2

    least = []
    for design in (x, x[:, :1]):
        begun = np.append(np.linalg.lstsq(design, np.log(y + 0.2), rcond=None)[0], -0.3)
        least.append(minimize(lost, begun, args=(design,), method="BFGS", options={"gtol": 1e-5}).fun)
    return 2 * (least[1] - least[0])


def words(lines: pd.DataFrame) -> str:
    """Three tables, with their spread."""
    parts = []
    effects = lines[lines.kind == "effects"]
    if len(effects):
        parts.append(_effects_words(effects))
    size = lines[lines.kind == "size"]
    if len(size):
        parts.append(_size_words(size))
    found = lines[lines.kind == "discoveries"]
    if len(found):
        parts.append(_discoveries_words(found))
    return "\n".join(parts)


def _effects_words(lines: pd.DataFrame) -> str:
    text = [
        "Four columns that the first half of the rows lacks. log p over the log p of the column's own likelihood "
        "ratio (chi-squared, an oracle that shares no code), least and most; the largest factor between both.\n",
        "| n | mean | log10 p of the ratio | method | log p, least to most | factor | intervals open below |",
        "|---|---|---|---|---|---|---|",
    ]
    for (n, mean), some in lines.groupby(["n", "mean"]):
        for method in METHODS:
            least, most = some[f"{method}_least"].min(), some[f"{method}_most"].max()
            text.append(
                f"| {n} | {mean} | {some.oracle.mean():.1f} | {method} | {least:.3f} to {most:.3f} | "
                f"{some[f'{method}_factor'].max():.3g} | {int(some[f'{method}_open'].sum())} of {4 * len(some)} |"
            )
    return "\n".join(text) + "\n"


def _size_words(lines: pd.DataFrame) -> str:
    text = [
        "\nColumns without effect, a group of 12 % of the rows: share of p below 0.05 ± its error (between tables).\n",
        "| n | mean | ml | variational | likelihood ratio of each column | profiled (ml) |",
        "|---|---|---|---|---|---|",
    ]
    for (n, mean), some in [
        *lines.groupby(["n", "mean"]),
        *((((n, "all"), part)) for n, part in lines.groupby("n")),
    ]:
        cells = [_share(some[f"{name}_rejected"] / some[f"{name}_tests"]) for name in (*METHODS, "ratio")]
        profiled = some.ml_profiled.sum() / some.ml_tests.sum()
        text.append(f"| {n} | {mean} | {' | '.join(cells)} | {profiled:.2f} |")
    return "\n".join(text) + "\n"


def _discoveries_words(lines: pd.DataFrame) -> str:
    text = [
        "\n40 columns, 4 with an effect (2 absent from the group), adjusted by Benjamini and Hochberg: share of "
        "discoveries that are false, and of effects that are found.\n",
        "| n | tests | false at 5 % | found | false at 10 % | found |",
        "|---|---|---|---|---|---|",
    ]
    for n, some in lines.groupby("n"):
        for name, title in TESTS.items():
            if f"{name}_false_5" not in some:
                continue
            tried = some[some[f"{name}_false_5"].notna()]
            cells = [
                _share(tried[f"{name}_{what}_{level}"]) for level in (5, 10) for what in ("false", "power")
            ]
            text.append(f"| {n} | {title}, {len(tried)} tables | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def _share(values: Any) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan:.3f}"
