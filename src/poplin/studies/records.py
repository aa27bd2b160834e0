"""Records on disk: one line of JSON for each (cell, replicate, method), appended as it is finished.

Start at `append` and `read`. A line is written by one call, so several processes may append to one file; a line
that a kill cut short is taken out by `mend` before anything is added. `pack` leaves a compressed copy, small enough
to be kept beside the page, from which `mend` begins where the records themselves are not there.
"""

from __future__ import annotations

import json
import lzma
import math
import os
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas

from poplin.store import written_whole
from poplin.studies.study import Cell, Estimate, Numbers, Table

Key = tuple[str, int, str]
PACKED = ".xz"  # follows the name of the file


def append(path: Path, record: Numbers) -> None:
    """Add one line at the end of the file, by one system call."""
    line = json.dumps(record, separators=(",", ":")) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def mend(path: Path) -> None:
    """Cut the file after its last whole line; where there is none, begin with what its packed copy holds."""
    packed = path.with_name(path.name + PACKED)
    if not path.is_file() and packed.is_file():
        with written_whole(path, "wb") as handle:
            handle.write(lzma.decompress(packed.read_bytes()))
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as handle:
            handle.truncate(whole)


def pack(path: Path) -> Path:
    """Leave a compressed copy beside the records; its path."""
    packed = path.with_name(path.name + PACKED)
    with written_whole(packed, "wb") as handle:
        handle.write(lzma.compress(path.read_bytes(), preset=9))
    return packed


def read(path: Path) -> list[Numbers]:
    """The records of the file; the last of several with the same key; a line that is no JSON is passed over."""
    found: dict[Key, Numbers] = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
                found[key(record)] = record
            except (ValueError, KeyError, TypeError):
                continue
    return list(found.values())


def key(record: Numbers) -> Key:
    """What makes two records the same piece of work."""
    return record["cell"], record["replicate"], record["method"]


def done(records: list[Numbers]) -> set[Key]:
    """The keys that need not be run again: a failed one is tried again."""
    return {key(record) for record in records if record["status"] == "done"}


def in_order(records: list[Numbers], cells: list[Cell], replicates: int | None) -> list[Numbers]:
    """The records of these cells by cell, replicate and method, whatever the order in which they were finished."""
    place: dict[Key, int] = {}
    for cell in cells:
        for replicate in range(replicates or cell.replicates):
            for column in cell.columns:
                place[cell.label, replicate, column.name] = len(place)
    return sorted((r for r in records if key(r) in place), key=lambda record: place[key(record)])


# From records to the table of a study: a line for each cell and method, with Monte-Carlo errors.
#
# Start at `summarise`. The formulas for bias are in `Bias`: what is left of a bias once the noise of a finite number
# of replicates is taken out of its square.


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


# What is measured on one estimate of one table: errors of B and Sigma, lags, positions, coverage, held-out rows.
#
# Each measure is a function (table, estimate) -> numbers; a study lists those it wants. Lists under names that end in
# `_errors` are kept entry by entry, since bias is a property of an entry over replicates (`summary.py`).


KEPT_UP_TO = 60  # columns up to which the errors of all entries of Sigma are kept
QUANTILES = (5, 25, 50, 75, 95)


def errors(table: Table, estimate: Estimate) -> Numbers:
    """Estimate minus truth, entry by entry (Sigma: on and above its diagonal), and the relative Frobenius error.

    Above 60 columns only the diagonal of Sigma and its first lag are kept.
    """
    coef, sigma = estimate.coef - table.coef, estimate.covariance - table.covariance
    p = len(sigma)
    upper = np.triu_indices(p)
    if p > KEPT_UP_TO:
        upper = tuple(index[upper[1] - upper[0] <= 1] for index in upper)
    frobenius = np.linalg.norm(sigma) / np.linalg.norm(table.covariance)
    return {
        "coef_errors": _short(coef.ravel()),
        "sigma_errors": _short(sigma[upper]),
        "frobenius": float(frobenius),
    }


def lags(table: Table, estimate: Estimate) -> Numbers:
    """Mean of B, and means of Sigma's diagonals 0, 1, 2 and 5, with the truth beside them (`true_...`)."""
    found: Numbers = {"mean_coef": float(estimate.coef.mean()), "true_mean_coef": float(table.coef.mean())}
    for lag in (0, 1, 2, 5):
        if lag < len(table.covariance):
            found[f"lag{lag}"] = float(np.diagonal(estimate.covariance, lag).mean())
            found[f"true_lag{lag}"] = float(np.diagonal(table.covariance, lag).mean())
    return found


def cosine(table: Table, estimate: Estimate) -> Numbers:
    """Cosine similarity of each row's fitted and true Z: mean and quantiles over rows; nothing without positions."""
    if estimate.latent is None:
        return {}
    found = estimate.latent()
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(table.latent, axis=1)
    similarity = np.sum(found * table.latent, axis=1) / np.maximum(lengths, 1e-300)
    quantiles = np.percentile(similarity, QUANTILES)
    named = {f"cosine_{level:02d}": float(value) for level, value in zip(QUANTILES, quantiles, strict=True)}
    return {"cosine": float(similarity.mean()), **named}


def scales(table: Table, estimate: Estimate) -> Numbers:
    """Lambda-hat in the order of the columns of V (`scales`, a list) beside the truth; only where V was given."""
    if estimate.scales is None:
        return {}
    true = np.zeros(len(estimate.scales))
    shared = min(len(true), len(table.scales))
    true[:shared] = table.scales[:shared]
    return {"scales": _short(estimate.scales), "true_scales": _short(true)}


def heldout(table: Table, estimate: Estimate) -> Numbers:
    """Mean log-likelihood of fresh rows by importance sampling, in nats a row: higher is better."""
    if table.fresh is None or estimate.fit is None:
        return {}
    return {"heldout": float(estimate.fit.score(table.fresh, X=np.ones((len(table.fresh), 1))))}


def criteria(_: Table, estimate: Estimate) -> Numbers:
    """Log-likelihood of the rows of the fit, and BIC = loglik - log(n) k / 2, for loadings: higher is better.

    k counts p intercepts and q scales under a lent V, p q - q (q - 1) / 2 loadings under a free one.
    """
    fit = estimate.fit
    if fit is None or fit.loadings_ is None:
        return {}
    p, q = fit.loadings_.shape
    free = p + (q if fit.basis is not None else p * q - q * (q - 1) // 2)
    value = float(fit.loglik_)
    return {"loglik": value, "bic": value - 0.5 * np.log(len(fit.counts_.y)) * free}


def coverage(table: Table, estimate: Estimate) -> Numbers:
    """Shares of the entries of B, and of Sigma, that 95 % intervals cover; root mean square of standard errors.

    `..._above`: the interval lies above the truth. `..._unknown`: there is no interval. Only for methods that
    were asked for intervals. `ValueError` if the intervals are not of the entries on and above the diagonal.
    """
    if not estimate.intervals:
        return {}
    found: Numbers = {}
    upper = np.triu_indices(len(table.covariance))
    began = time.process_time()
    parts = {
        "coef": (table.coef.ravel(), estimate.coef.ravel()),
        "covariance": (table.covariance[upper], estimate.covariance[upper]),
    }
    for which, (truth, fitted) in parts.items():
        told = estimate.fit.confint(which)
        centre, se, lower, above = (told[name].to_numpy() for name in ("estimate", "se", "lower", "upper"))
        if len(told) != len(truth) or not np.allclose(centre, fitted, rtol=1e-5, atol=1e-8):
            raise ValueError(f"confint({which!r}) is not of the entries in the order that was expected")
        known = ~np.isnan(lower) & ~np.isnan(above)  # an open end is one
        found[f"{which}_covered"] = float(np.mean((lower <= truth) & (truth <= above)))
        found[f"{which}_above"] = float(np.mean(lower > truth))
        found[f"{which}_unknown"] = float(1 - known.mean())
        found[f"{which}_se"] = float(np.sqrt(np.mean(se[np.isfinite(se)] ** 2)))
    return found | {"interval_cpu": time.process_time() - began}


def also(name: str, number: Callable[[Table, Estimate], float]) -> Callable[[Table, Estimate], Numbers]:
    """A measure of one number under this name."""
    return lambda table, estimate: {name: float(number(table, estimate))}


def _short(values: np.ndarray) -> list[float]:
    """Numbers with six digits: errors are far larger than what is cut off."""
    return [float(f"{value:.6g}") for value in np.asarray(values)]
