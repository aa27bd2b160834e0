"""From records to the table of a study: a line for each cell and method, with Monte-Carlo errors.

Start at `summarise`. The formulas for bias are in `Bias`: what is left of a bias once the noise of a finite
number of replicates is taken out of its square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
import pandas

from poplin.studies.study import Cell, Numbers

PARTS = ("coef", "sigma")
NOT_AVERAGED = ("seconds", "cpu_seconds", "first", "converged", "replicate")


class Bias(NamedTuple):
    """What errors e (R replicates, K entries) say, each with its Monte-Carlo error (`_mc`).

    bias: mean of e. rms_bias: root of mean_k (ebar_k^2 - s_k^2 / R), s_k the entry's standard deviation, zero
    where that is negative. sd: root of mean_k s_k^2. rmse: root of mean e^2. bias_in_sd: root of
    mean_k ebar_k^2 / s_k^2 (R - 3) / (R - 1) - 1 / R, the root-mean-square bias in standard deviations. The
    Monte-Carlo errors of the last four are by the jackknife over replicates.
    """

    bias: float
    bias_mc: float
    rms_bias: float
    rms_bias_mc: float
    sd: float
    rmse: float
    rmse_mc: float
    bias_in_sd: float
    bias_in_sd_mc: float


def bias(errors: np.ndarray) -> Bias:
    """`Bias` of errors (R, K); with one replicate only `bias` and `rmse` are known, the others are NaN.

    >>> found = bias(np.array([[0.9, 1.1], [1.1, 0.9], [1.0, 1.0], [1.0, 1.0]]))
    >>> round(found.bias, 3), round(found.rms_bias, 3), round(found.sd, 3)
    (1.0, 0.999, 0.082)
    """
    count = len(errors)
    unknown = math.nan
    mean, rmse = float(errors.mean()), float(np.sqrt(np.mean(errors**2)))
    if count < 2:
        return Bias(mean, unknown, unknown, unknown, unknown, rmse, unknown, unknown, unknown)
    spread = float(np.std(errors.mean(axis=1), ddof=1) / np.sqrt(count))
    sd = float(np.sqrt(np.mean(np.var(errors, axis=0, ddof=1))))
    rms, rms_mc = jackknife(_squared_bias, errors)
    mse_mc = float(np.std(np.mean(errors**2, axis=1), ddof=1) / np.sqrt(count))
    scaled, scaled_mc = jackknife(_squared_bias_in_sd, errors) if count > 4 else (unknown, unknown)
    return Bias(
        mean, spread, rms, rms_mc, sd, rmse, mse_mc / (2 * rmse) if rmse > 0 else 0.0, scaled, scaled_mc
    )


def _squared_bias(total: np.ndarray, squares: np.ndarray, count: int) -> float:
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0) * count / (count - 1)
    return float(np.mean(mean**2 - variance / count))


def _squared_bias_in_sd(total: np.ndarray, squares: np.ndarray, count: int) -> float:
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 1e-24) * count / (count - 1)
    return float(np.mean(mean**2 / variance)) * (count - 3) / (count - 1) - 1 / count


def jackknife(
    square: Callable[[np.ndarray, np.ndarray, int], float], errors: np.ndarray
) -> tuple[float, float]:
    """The root of `square` (sums, sums of squares, count) and its error by leaving out one replicate at a time.

    The error of the root is that of the square over twice the root, and no more than the root of the former:
    near zero the root of a square is as uncertain as that.
    """
    total, squares, count = errors.sum(axis=0), (errors**2).sum(axis=0), len(errors)
    value = square(total, squares, count)
    if count < 3:
        return math.sqrt(max(value, 0)), math.nan
    without = np.array([square(total - e, squares - e**2, count - 1) for e in errors])
    spread = math.sqrt((count - 1) / count * float(np.sum((without - without.mean()) ** 2)))
    root = math.sqrt(max(value, 0))
    return root, min(spread / (2 * root) if root > 0 else math.inf, math.sqrt(spread))


def summarise(cells: list[Cell], records: list[Numbers]) -> pandas.DataFrame:
    """A line for each cell and method that has a record, in the order of the study.

    Factors, `method`, `replicates`, `failed`, `not_converged`; `cpu_s`: the median seconds of one thread
    (fits that had to compile are left out where there are others); `Bias` of B (`..._coef`) and of Sigma
    (`..._sigma`); every other number as its mean, with `..._mc` where there are several replicates.
    """
    held: dict[tuple[str, str], list[Numbers]] = {}
    for record in records:
        held.setdefault((record["cell"], record["method"]), []).append(record)
    lines = [
        cell.factors | {"method": column.name} | _line(held[cell.label, column.name])
        for cell in cells
        for column in cell.columns
        if (cell.label, column.name) in held
    ]
    return pandas.DataFrame(lines)


def paired(records: list[Numbers], reference: str) -> list[Numbers]:
    """The records with `heldout_gap`, the held-out likelihood less that of the reference on the same table."""
    known = {
        (record["cell"], record["replicate"]): record["heldout"]
        for record in records
        if record["method"] == reference and "heldout" in record
    }
    found = []
    for record in records:
        where = record["cell"], record["replicate"]
        gap = (
            {"heldout_gap": record["heldout"] - known[where]}
            if where in known and "heldout" in record
            else {}
        )
        found.append(record | gap)
    return found


def side_by_side(
    records: list[Numbers], number: Callable[[Numbers], float]
) -> dict[str, list[dict[str, float]]]:
    """Of every cell, a table at a time: this number under each method that was run on it."""
    held: dict[str, dict[int, dict[str, float]]] = {}
    for record in records:
        found = held.setdefault(record["cell"], {}).setdefault(record["replicate"], {})
        found[record["method"]] = number(record)
    return {cell: list(tables.values()) for cell, tables in held.items()}


def mean_with_error(values: list[float]) -> tuple[float, float]:
    """The mean of independent values and its Monte-Carlo error; NaN where there are too few of them."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)) if values else math.nan, float(error)


def _line(group: list[Numbers]) -> dict[str, Any]:
    done = [record for record in group if record["status"] == "done"]
    line: dict[str, Any] = {"replicates": len(done), "failed": len(group) - len(done)}
    if not done:
        return line
    line["not_converged"] = sum(not record["converged"] for record in done)
    warm = [record["cpu_seconds"] for record in done if not record["first"]]
    line["cpu_s"] = float(np.median(warm or [record["cpu_seconds"] for record in done]))
    for part in PARTS:
        if all(f"{part}_errors" in record for record in done):
            found = bias(np.array([record[f"{part}_errors"] for record in done]))
            line |= {_called(name, part): value for name, value in found._asdict().items()}
    for name, value in done[0].items():
        if isinstance(value, int | float) and name not in NOT_AVERAGED:
            line |= _mean(name, np.array([float(record[name]) for record in done if name in record]))
    return line


def _called(name: str, part: str) -> str:
    """bias_mc of coef is bias_coef_mc."""
    stem = name.removesuffix("_mc")
    return f"{stem}_{part}" + ("_mc" if name.endswith("_mc") else "")


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
    found = {name: float(values.mean())}
    if len(values) > 1 and not name.startswith("true_"):
        found[f"{name}_mc"] = float(values.std(ddof=1) / np.sqrt(len(values)))
    return found


def markdown(table: pandas.DataFrame, factors: list[str], shown: tuple[str, ...]) -> str:
    """The table with these columns for a page: a value, with its Monte-Carlo error where it has one, a cell."""
    names = [*factors, "method", "replicates", *(name for name in shown if name in table)]
    for flag in ("failed", "not_converged"):
        if flag in table and table[flag].fillna(0).sum() > 0:
            names.append(flag)
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("|" + "---|" * len(names))
    for row in table.to_dict("records"):
        lines.append("| " + " | ".join(_shown(row, name) for name in names) + " |")
    return "\n".join(lines) + "\n"


def _shown(row: dict[Hashable, Any], name: str) -> str:
    value = row[name]
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return ""
    error = float(row.get(f"{name}_mc", math.nan))
    if math.isnan(error):
        whole = float(value).is_integer() or abs(value) >= 1000
        return f"{value:.0f}" if whole else f"{value:.3g}"
    if error == 0:
        return f"{value:.4g}"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 6)
    return f"{value:.{digits}f} ± {error:.{digits}f}"
