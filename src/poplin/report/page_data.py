"""What the page's own script works on: coefficients to sort and search, rows to point at. Plain lists, ready for JSON.

Start at `for_script`. A value that is no number is None; names go through jinja2's tojson, which leaves nothing that
ends a script.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from poplin.inference import summary
from poplin.inference.summary import Fitted
from poplin.report import figures, views

MOST_EFFECTS, MOST_FACTS = 20_000, 12
DIGITS = 5
OPEN = 1e308  # JSON has no infinity


def for_script(fit: Fitted, colour: views.Colour | None, covariates: Any) -> dict[str, Any]:
    """Everything that the script reads."""
    return {"effects": effects(fit), "points": points(fit, colour, covariates), "groups": figures.GROUPS}


def effects(fit: Fitted) -> dict[str, Any]:
    """Coefficients, one list each: covariate, column, estimate, ends of the interval, p, adjusted p, method.

    An open end is 1e308.

    Above 20 000 of them, those that are largest against their error (without errors: the largest).
    """
    counts = fit.counts_
    told = summary.coef_interval(fit)
    d, p = fit.coef_.shape
    lists, methods = [fit.coef_.ravel()], None
    size = np.abs(fit.coef_)
    if told is not None:
        from poplin.inference.wald import adjusted

        size = np.nan_to_num(np.abs(told.z))
        ends = (np.clip(part, -OPEN, OPEN) for part in (told.lower, told.upper))
        lists += [np.broadcast_to(part, (d, p)).ravel() for part in (*ends, told.p)]
        methods = np.broadcast_to(told.method, (d, p)).ravel()
        lists.append(np.concatenate([adjusted(told.p[k]) for k in range(d)]))
    kept = np.sort(np.argsort(-size, axis=None, kind="stable")[:MOST_EFFECTS])
    rows = [[int(at // p), int(at % p), *(_number(values[at]) for values in lists)] for at in kept]
    if methods is not None:
        rows = [[*row, str(methods[at])] for row, at in zip(rows, kept, strict=True)]
    return {
        **{"covariates": list(counts.covariate_names), "columns": list(counts.column_names)},
        **{"rows": rows, "of": d * p, "tested": told is not None},
    }


def points(fit: Fitted, colour: views.Colour | None, covariates: Any) -> dict[str, Any]:
    """Names of the rows that are drawn, and what is known of each: covariates as given, else as they were coded."""
    counts = fit.counts_
    shown = figures.drawn_rows(len(counts.row_names))
    facts: dict[str, list[Any]] = {}
    if colour is not None:
        facts[colour.name] = _values(np.asarray(colour.values)[shown])
    if covariates is not None and len(covariates) == len(counts.row_names):
        for name in covariates.columns:
            facts.setdefault(str(name), _values(covariates[name].to_numpy()[shown]))
    else:
        for k, name in enumerate(counts.covariate_names):
            if name != "Intercept" and colour is None:
                facts[name] = _values(counts.x[shown, k])
    kept = dict(list(facts.items())[:MOST_FACTS])
    return {"names": [counts.row_names[i] for i in shown], "facts": kept}


def _values(values: np.ndarray) -> list[Any]:
    if values.dtype.kind in "iuf":
        return [_number(value) for value in values.astype(float)]
    return [str(value) for value in values]


def _number(value: Any) -> float | None:
    value = float(value)
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
