"""What is measured on one estimate of one table: errors of B and Sigma, lags, positions, coverage, held-out rows.

Each measure is a function (table, estimate) -> numbers; a study lists those it wants. Lists under names that
end in `_errors` are kept entry by entry, since bias is a property of an entry over replicates (`summary.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from poplin.studies.study import Estimate, Numbers, Table

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
