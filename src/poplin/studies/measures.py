"""What is measured on one estimate of one table: errors of B and Sigma, lags, positions, coverage, held-out rows.

Each measure is a function (table, estimate) -> numbers; a study lists those it wants. Lists under names that
end in `_errors` are kept entry by entry, since bias is a property of an entry over replicates (`summary.py`).
"""

from __future__ import annotations

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
    """Mean log-likelihood of fresh rows, in nats a row, higher is better; and minus it under the truth.

    By importance sampling. `heldout_gap` is the truth's value less the method's: small is better.
    """
    if table.fresh is None or estimate.fit is None:
        return {}
    values, spread = estimate.fit.score_samples(
        table.fresh, X=np.ones((len(table.fresh), table.x.shape[1])), return_se=True
    )
    return {
        "heldout": float(values.mean()),
        "heldout_mc": float(np.linalg.norm(spread) / len(spread)),
    }


def coverage(table: Table, estimate: Estimate) -> Numbers:
    """Shares of the entries of B, and of Sigma, that 95 % intervals cover, and the mean standard errors."""
    if estimate.fit is None or not hasattr(estimate.fit, "confint"):
        return {}
    found: Numbers = {}
    upper = np.triu_indices(len(table.covariance))
    truths = {"coef": table.coef.ravel(), "covariance": table.covariance[upper]}
    for which, truth in truths.items():
        told = estimate.fit.confint(which)
        estimates, lower, above = (told[name].to_numpy() for name in ("estimate", "lower", "upper"))
        if len(told) != len(truth):
            raise ValueError(f"confint({which!r}) has {len(told)} lines for {len(truth)} entries")
        known = np.isfinite(lower) & np.isfinite(above)
        found[f"{which}_covered"] = float(np.mean((lower <= truth) & (truth <= above)))
        found[f"{which}_below"] = float(np.mean(above < truth))
        found[f"{which}_unknown"] = float(1 - known.mean())
        found[f"{which}_se"] = float(np.sqrt(np.nanmean(told["se"].to_numpy() ** 2)))
        assert len(estimates) == len(truth)
    return found


def also(name: str, number: Callable[[Table, Estimate], float]) -> Callable[[Table, Estimate], Numbers]:
    """A measure of one number under this name."""
    return lambda table, estimate: {name: float(number(table, estimate))}


def _short(values: np.ndarray) -> list[float]:
    """Numbers with six digits: errors are far larger than what is cut off."""
    return [float(f"{value:.6g}") for value in np.asarray(values)]
