"""The parametric bootstrap: tables drawn from the fitted model, fitted as it was, and what their spread says.

Start at `replicates`. It also shows, to first order, how far a method is from its own truth: the mean of the replicates
less the estimate is the method's bias at the fitted model, and `basic` intervals take it out.
"""

from __future__ import annotations

import time
import warnings
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import ConvergenceWarning, DataWarning, InputError
from poplin.data.held import check_dense
from poplin.fit import Progress
from poplin.inference.summary import OF_A_RUN

MOST = 2**31


class Replicates(NamedTuple):
    """Estimates of each bootstrap table: coef (m, d, p), covariance (m, p, p), eigenvalues (m, k)."""

    coef: np.ndarray
    covariance: np.ndarray
    eigenvalues: np.ndarray


def replicates(fit: Any, count: int) -> Replicates:
    """Fit `count` tables drawn from the fit, at its covariates, offsets, weights and missing counts.

    The callback is told of each. Cost: so many fits, compiled once. Raises KeyboardInterrupt on Ctrl-C.
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 2:
        raise InputError(f"n_boot={count!r}: wanted is a whole number, 2 or more (200 for standard errors).")
    check_dense(fit.counts_.y, "The bootstrap (n_boot)")
    settings, began, found = fit.get_params(), time.perf_counter(), []
    tell = settings["callback"]
    settings |= dict.fromkeys(OF_A_RUN) | {"formula": None, "rank": _rank(fit)}
    for r in range(count):
        # a seed far from those of the fit itself
        seed = (settings["random_state"] + 1_000_003 * (r + 1)) % MOST
        one = _refit(fit, settings | {"random_state": seed}, seed)
        found.append((one.coef_, one.covariance_, one.eigenvalues_))
        if tell is not None:
            tell(Progress("bootstrap", r + 1, count, float("nan"), time.perf_counter() - began))
    return Replicates(*(np.stack(part) for part in zip(*found, strict=True)))


def _rank(fit: Any) -> int | None:
    given = fit.get_params()["rank"]
    return given if given != "auto" else (None if fit.result_.direct else fit.result_.loadings.shape[1])


def _refit(fit: Any, settings: dict[str, Any], seed: int) -> Any:
    counts, random = fit.counts_, np.random.default_rng(seed)
    loadings = fit.result_.loadings
    latent = counts.x @ fit.coef_ + random.standard_normal((len(counts.y), loadings.shape[1])) @ loadings.T
    drawn = random.poisson(np.exp(counts.offset + latent)).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        one = type(fit)(**settings).fit(
            np.where(np.isnan(counts.y), np.nan, drawn),
            X=counts.x,
            offset=counts.offset,
            weights=counts.weights,
        )
    if one.interrupted_:
        raise KeyboardInterrupt
    return one


def basic(estimate: np.ndarray, found: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Basic bootstrap interval from 2 t - q(upper) to 2 t - q(lower): t the estimate, q the replicates (m, ...)."""
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return 2 * estimate - high, 2 * estimate - low
