"""`compare`: several methods on one table, side by side.

Start at `compare`. Every method is an ordinary `PLN` fit; bound, log-likelihood and k-hat are computed the same way for
each, at the parameters that it ended with.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from poplin._errors import ConvergenceWarning, DataWarning, InputError
from poplin.estimators import doubts, esteps
from poplin.estimators.pln import PLN

if TYPE_CHECKING:
    import pandas

USUAL = ("variational", "ml")
FULL = "variational-full"  # the bound with full Gaussians, beside the names of `PLN(method=...)`
FULL_STEPS = 500  # its last decimals take thousands of steps that change nothing else
REFERENCE = "ml"
COLUMNS = (
    *("seconds", "iterations", "converged", "bound", "loglik", "loglik_se", "khat"),
    *("coef_difference", "covariance_difference", "note"),
)


class Comparison(NamedTuple):
    """`table` (a DataFrame, one line a method) and `fits` (the fitted `PLN` by method)."""

    table: pandas.DataFrame
    fits: dict[str, PLN]


def compare(
    Y: Any,
    methods: Sequence[Any] = USUAL,
    *,
    X: Any = None,
    offset: Any = None,
    weights: Any = None,
    data: Any = None,
    **settings: Any,
) -> Comparison:
    """Fit a table by several methods and set them side by side.

    `methods`: names or options, as `PLN(method=...)` takes them, and "variational-full" for the bound with full
    Gaussians (500 steps unless `max_iter` says otherwise). `settings` are those of `PLN` and hold for all. The table
    has, for each method: seconds (compiling included), iterations, converged; the bound of the rows' Gaussians
    (`posterior`) and the importance-sampled log-likelihood with its error, in nats, higher is better; the largest
    Pareto k-hat of a row; and how far the estimates are from those of "ml" (of the first method that did it, where
    "ml" is not among them): coef_difference, the root mean square over entries of B, and covariance_difference, the
    Frobenius norm relative to Sigma's. A method that cannot fit this model has a `note` that says why. Raises
    `InputError` where none can, KeyboardInterrupt if it was interrupted.

    >>> import numpy as np, poplin
    >>> counts = np.random.default_rng(0).poisson(3.0, (60, 3))
    >>> compared = poplin.compare(counts, ["variational", "moments"])
    >>> list(compared.table.index), float(compared.table.loc["variational", "coef_difference"])
    (['variational', 'moments'], 0.0)
    """
    if isinstance(methods, str):
        raise InputError(f"methods={methods!r}: wanted is a list of methods, for example [{methods!r}].")
    if settings.get("checkpoint") is not None:
        raise InputError("checkpoint is for one fit, and compare makes several: give it to poplin.PLN.")
    labels = _labels(methods)
    rows = {"X": X, "offset": offset, "weights": weights, "data": data}
    fits: dict[str, PLN] = {}
    lines: dict[str, dict[str, Any]] = {}
    refused: InputError | None = None
    for label, method in labels.items():
        try:
            fits[label], lines[label] = _fitted(method, settings, Y, rows)
        except InputError as error:
            refused, lines[label] = error, {"note": str(error)}
    if not fits and refused is not None:
        raise refused
    reference = fits.get(REFERENCE) or next(iter(fits.values()))
    for label, fit in fits.items():
        lines[label] |= _apart(fit, reference)
    return Comparison(_table(lines), fits)


def _labels(methods: Sequence[Any]) -> dict[str, Any]:
    """The methods by name; options that share a name are numbered."""
    labels: dict[str, Any] = {}
    for method in methods:
        name = method if isinstance(method, str) and method == FULL else esteps.name_of(esteps.chosen(method))
        label, again = name, 2
        while label in labels:
            label, again = f"{name} {again}", again + 1
        labels[label] = method
    return labels


def _fitted(
    method: Any, settings: dict[str, Any], Y: Any, rows: dict[str, Any]
) -> tuple[PLN, dict[str, Any]]:
    """The fit by one method, and its line of the table but for the differences."""
    full = isinstance(method, str) and method == FULL
    chosen: dict[str, Any] = {"method": "variational", "posterior": "full"} if full else {"method": method}
    if full and settings.get("max_iter") is None:
        chosen["max_iter"] = FULL_STEPS
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a column of the table
        warnings.simplefilter("ignore", DataWarning)
        fit = PLN(**{**settings, **chosen}).fit(Y, **rows)
        if fit.interrupted_:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - began
        scores = fit._marginal
    doubts.warn_of(scores.unsure, fit.counts_.row_names, of=f" by {fit.method!r}", stacklevel=4)
    assert scores.khat is not None
    counts = fit.counts_
    return fit, {
        "seconds": seconds,
        "iterations": fit.n_iter_,
        "converged": fit.converged_,
        "bound": fit.elbo_,
        "loglik": float(counts.weights @ scores.value),
        "loglik_se": float(np.linalg.norm(counts.weights * scores.standard_error)),
        "khat": float(np.max(scores.khat)),
        "note": " ".join(fit.result_.messages),
    }


def _apart(fit: PLN, reference: PLN) -> dict[str, float]:
    gap = np.linalg.norm(fit.covariance_ - reference.covariance_)
    return {
        "coef_difference": float(np.sqrt(np.mean((fit.coef_ - reference.coef_) ** 2))),
        "covariance_difference": float(gap / np.linalg.norm(reference.covariance_)),
    }


def _table(lines: dict[str, dict[str, Any]]) -> pandas.DataFrame:
    import pandas

    index = pandas.Index(list(lines), name="method")
    return pandas.DataFrame(list(lines.values()), index=index, columns=pandas.Index(COLUMNS))
