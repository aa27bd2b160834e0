"""The methods that stand as columns of a study: each a name and a function from a table to an `Estimate`.

Start at `pln`, which makes a column of `poplin.PLN` with any settings. `moments`, `true_latent` and `peer` are
the others. Nothing heavy is loaded before a fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln

from poplin._errors import InputError
from poplin.methods.moments import poisson_regression
from poplin.studies.repeated import gaussians, integrated
from poplin.studies.study import Column, Estimate, Table

# Maximum likelihood of independent columns by one-dimensional integrals, sigma_j^2 known or not.
#
# Start at `fit`. The model is Y_ij ~ Poisson(exp(mu_j + sigma_j W_ij)); a column's likelihood rests on how often each
# count occurs, so n hardly matters.


class Fit(NamedTuple):
    """mu (p,), sigma^2 (p,), and whether every column's optimiser says it is done."""

    mean: np.ndarray
    variance: np.ndarray
    converged: bool


def fit(counts: np.ndarray, variance: np.ndarray | None = None) -> Fit:
    """Fit each column of counts (n, p); `variance` (p,) is sigma^2 where it is known.

    40 Gauss-Hermite nodes are placed on the Gaussian that is fitted to each distinct count; BFGS over mu_j and
    log sigma_j^2 with exact gradients.

    >>> y = np.random.default_rng(0).poisson(np.exp(np.random.default_rng(1).normal(1, 0.5, (50_000, 1))))
    >>> bool(abs(fit(y).mean[0] - 1) < 0.02), bool(abs(fit(y).variance[0] - 0.25) < 0.02)
    (True, True)
    """
    found = [
        _column(y, None if variance is None else variance[j]) for j, y in enumerate(np.asarray(counts).T)
    ]
    means, variances, converged = (np.array(part) for part in zip(*found, strict=True))
    return Fit(means, variances, bool(converged.all()))


def _column(y: np.ndarray, variance: float | None) -> tuple[float, float, bool]:
    values, times = np.unique(y, return_counts=True)
    share = times / times.sum()
    start = np.array([np.log(y.mean() + 0.1) - 0.25, np.log(0.5)])
    known = None if variance is None else np.log(variance)

    def negative(theta: np.ndarray) -> tuple[float, np.ndarray]:
        full = theta if known is None else np.array([theta[0], known])
        value, gradient = loglik(full, values.astype(float))
        return -float(share @ value), -(share @ gradient)[: len(theta)]

    start = start if known is None else start[:1]
    found = minimize(negative, start, jac=True, method="BFGS", options={"gtol": 1e-7})
    log_variance = found.x[1] if known is None else known
    return found.x[0], float(np.exp(log_variance)), bool(np.abs(found.jac).max() < 1e-5)


def loglik(theta: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log p(y) of each count under (mu, log sigma^2), in nats, and its gradient (k, 2)."""
    variance = float(np.exp(theta[1]))
    level = np.full_like(counts, np.exp(theta[0]))
    mean, spread = gaussians(counts, level, variance)
    value, growth, square = integrated(counts, level, variance, mean, spread)
    gradient = np.column_stack([counts - level * growth, 0.5 * (square / variance - 1)])
    return value + counts * theta[0] - gammaln(counts + 1), gradient


# The estimator by moments: B and Sigma from means and cross-products of the counts, in closed form.
#
# Start at `moments`. It is consistent and needs no latent variable, so it is an independent check on every other
# method; it is also noisy, since a few large counts carry the cross-products.


class Moments(NamedTuple):
    """coef (d, p), covariance (p, p), and whether Sigma had to be mended to have no negative eigenvalue."""

    coef: np.ndarray
    covariance: np.ndarray
    mended: bool


def moments(
    counts: np.ndarray,
    x: np.ndarray,
    offset: np.ndarray | float = 0.0,
    weights: np.ndarray | None = None,
) -> Moments:
    """B and Sigma of a Poisson-lognormal model by moments, counts (n, p), x (n, d) with an intercept in its span.

    With mu_ij = E Y_ij = exp(o_ij + x_i'B_j + Sigma_jj / 2): E Y_ij (Y_ij - 1) = mu_ij^2 exp(Sigma_jj) and
    E Y_ij Y_ik = mu_ij mu_ik exp(Sigma_jk). The means are a Poisson regression, which gives B up to
    Sigma_jj / 2 in the intercept; then Sigma_jk = log(sum_i w_i y_ij y_ik / sum_i w_i mu_ij mu_ik). A sum of
    zero counts as one half pair of counts. Negative eigenvalues are cut at zero. Cost: n p^2, once.
    Source: Aitchison & Ho (1989), whose moments these are.

    Raises `InputError` where the intercept is not in the span of x: variances and means could not be told
    apart.

    >>> y = np.random.default_rng(0).poisson(np.exp(np.random.default_rng(1).normal(1, 0.5, (50_000, 1))))
    >>> fit = moments(y, np.ones((50_000, 1)))
    >>> bool(abs(fit.coef[0, 0] - 1) < 0.02), bool(abs(fit.covariance[0, 0] - 0.25) < 0.02)
    (True, True)
    """
    y = np.asarray(counts, dtype=float)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float)
    ones = np.linalg.lstsq(x, np.ones(len(x)), rcond=None)[0]
    if not np.allclose(x @ ones, 1):
        raise InputError("moments: no combination of the covariates is an intercept. Add a column of ones.")
    slopes = poisson_regression(y, x, offset + np.zeros_like(y), w)
    mean = np.exp(offset + x @ slopes)
    seen = y.T @ (w[:, None] * y)
    seen[np.diag_indices_from(seen)] = w @ (y * (y - 1))
    sigma = np.log(np.maximum(seen, 0.5) / (mean.T @ (w[:, None] * mean)))
    coef = slopes - np.outer(ones, np.diag(sigma) / 2)
    values, vectors = np.linalg.eigh(sigma)
    if values[0] >= 0:
        return Moments(coef, sigma, False)
    return Moments(coef, (vectors * np.maximum(values, 0)) @ vectors.T, True)


Settings = Mapping[str, Any] | Callable[[Table], Mapping[str, Any]]


def pln(name: str, settings: Settings) -> Column:
    """`poplin.PLN` with these settings, or with what a function makes of the table (to lend it the true V)."""

    def fit(table: Table, seed: int) -> Estimate:
        import poplin

        chosen = settings(table) if callable(settings) else settings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", poplin.ConvergenceWarning)  # kept as a number
            warnings.simplefilter("ignore", poplin.DataWarning)
            fitted = poplin.PLN(**{"random_state": seed, **chosen}).fit(table.counts, X=table.x)
        return estimate(fitted, table, chosen.get("basis"))

    return Column(name, fit)


def estimate(fitted: Any, table: Table, basis: np.ndarray | None = None) -> Estimate:
    """What a fitted `PLN` says; with a borrowed V, Lambda-hat in the order of V's columns."""

    def latent() -> np.ndarray:
        centred = fitted.latent_mean_
        if fitted.loadings_ is not None:
            centred = centred @ fitted.loadings_.T
        return table.x @ fitted.coef_ + centred

    scales = None if basis is None else np.einsum("pq,pr,rq->q", basis, fitted.covariance_, basis)
    sigma = fitted.covariance_
    numbers = {"iterations": int(fitted.n_iter_), "shrinkage": float(fitted.shrinkage_weight_)}
    return Estimate(fitted.coef_, sigma, latent, scales, bool(fitted.converged_), fitted, numbers)


ML = pln("ml", {})
UNSHRUNK = pln("ml unshrunk", {"shrinkage": 0})
DIAGONAL = pln("variational diagonal", {"method": "variational"})
# Its last decimals take thousands of EM steps. Lag 1 of Sigma, n=1000, p=20, one table: 0.7532 after 100 steps,
# 0.7557 after 400, 0.7565 after 1600, where the diagonal family has 0.53: what is cut off is small beside its bias.
STEPS = 100
FULL = pln("variational full", {"method": "variational", "posterior": "full", "max_iter": STEPS})


def borrowed(q: int, **settings: Any) -> Column:
    """Lambda and B fitted under the first q true axes V; w-diagonal when `method="variational"`."""
    method = settings.get("method", "ml")
    return pln(f"{method} V q={q}", lambda table: {"basis": table.basis[:, :q], **settings})


def _moments(table: Table, _: int) -> Estimate:
    found = moments(table.counts, table.x)
    return Estimate(found.coef, found.covariance, numbers={"mended": found.mended})


def _true_latent(table: Table, _: int) -> Estimate:
    coef = np.linalg.lstsq(table.x, table.latent, rcond=None)[0]
    residual = table.latent - table.x @ coef
    return Estimate(coef, residual.T @ residual / len(residual), lambda: table.latent)


def _no_peer() -> str:
    return "" if find_spec("pyPLNmodels") else "pyPLNmodels is not installed"


def _peer(table: Table, seed: int) -> Estimate:
    torch, package = import_module("torch"), import_module("pyPLNmodels")  # nothing that poplin asks for
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = package.Pln(table.counts, exog=table.x, add_const=False)
    model.fit(verbose=False)
    coef, sigma = (np.asarray(a, dtype=float) for a in (model.coef, model.covariance))
    return Estimate(coef, sigma, lambda: np.asarray(model.latent_mean, dtype=float))


def with_intervals(column: Column) -> Column:
    """The same method, asked for its intervals as well."""
    return column._replace(fit=lambda table, seed: column.fit(table, seed)._replace(intervals=True))


def low_rank(name: str, q: int, **settings: Any) -> Column:
    """A free C (p, q)."""
    return pln(name, {"rank": q, **settings})


MOMENTS = Column("moments", _moments)
COMPOSITE = pln("composite", {"method": "composite"})
TRUE_LATENT = Column("true Z", _true_latent)
PEER = Column("pyPLNmodels", _peer, _no_peer)
