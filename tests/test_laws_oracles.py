"""Fits under other laws of the counts against independent maxima: statsmodels, scipy over trapezoids, Poisson's limit.

Start at `test_without_latents_it_is_statsmodels`. Units are standard errors of the maximum itself. ml stops within
`TIGHT` complete-data standard errors, a half of `CLOSE`; those are smaller than these by what counts leave open, and n
does not matter to that: what n has to be is large enough for the weak priors, whose share falls as 1 / sqrt(n).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

import poplin
from poplin._numerics import hurried

pytestmark = pytest.mark.filterwarnings("ignore::poplin.DataWarning")

CLOSE, TENTH = 0.05, 0.1
TIGHT = {"ml": 0.025, "exact": None}
# statsmodels 0.15.0 on `overdispersed()`: sm.NegativeBinomial(y, x).fit(method="newton", tol=1e-12, maxiter=200)
STATSMODELS = np.array(
    [1.143743639424562, 0.5748345221061557, 0.6692193133407504]
)  # intercept, slope, dispersion
STATSMODELS_ERRORS = np.array([0.05132855155367296, 0.05306936637587903, 0.07602468694075941])
STATSMODELS_LOGLIK = -931.079006578697


def overdispersed() -> tuple[np.ndarray, np.ndarray]:
    """Counts (400, 1) of one covariate and a Gamma factor, no lognormal one, and the covariates."""
    random = np.random.default_rng(14)
    x = np.column_stack([np.ones(400), random.normal(size=400)])
    return random.poisson(random.gamma(1.5, 1 / 1.5, 400) * np.exp(x @ [1.2, 0.5]))[:, None], x


def fit(y: np.ndarray, **settings: Any) -> poplin.PLN:
    with hurried(tells_all=False):
        own = {"X": settings.pop("X")} if "X" in settings else {}
        return poplin.PLN(**{"shrinkage": 0, "max_iter": 10_000, **settings}).fit(
            y, standard_errors=False, **own
        )


@pytest.mark.parametrize("method", ["exact", "ml"])
def test_without_latents_it_is_statsmodels(method: str) -> None:
    """Sigma is known and next to nothing: a regression of negative binomial counts."""
    y, x = overdispersed()
    found = fit(y, X=x, likelihood="negative-binomial", covariance=[[1e-8]], method=method, tol=TIGHT[method])
    numbers = np.append(found.coef_[:, 0], found.dispersion_)
    assert found.converged_
    assert np.all(np.abs(numbers - STATSMODELS) < CLOSE * STATSMODELS_ERRORS), numbers
    assert abs(found.loglik_ - STATSMODELS_LOGLIK) < 4 * found.loglik_se_ + 5e-3


def log_probability(law: str, y: Any, eta: Any, zero: Any, size: Any) -> Any:
    """Log P(y | eta) by SciPy's distributions."""
    if law == "bernoulli":
        return stats.bernoulli.logpmf(y, expit(eta))
    if "negative" in law:
        counted = stats.nbinom.logpmf(y, size, 1 / (1 + np.exp(eta) / size))
    else:
        counted = stats.poisson.logpmf(y, np.exp(eta))
    if "inflated" not in law:
        return counted
    return np.log(zero * (y == 0) + (1 - zero) * np.exp(counted) + 1e-300)


class Maximum(NamedTuple):
    """Of (B, log size, and log sd where it is free): the maximum and the standard errors there."""

    numbers: np.ndarray
    errors: np.ndarray


ROWS, LATENT_SD, LATENT_SIZE = 1000, 0.8, 3.0


@cache
def two_groups() -> tuple[np.ndarray, np.ndarray]:
    """Counts about 20 and 50 whose logs vary by both a normal and the log of a Gamma; the group as covariates."""
    random = np.random.default_rng(15)
    group = np.resize([0.0, 1.0], ROWS)
    eta = 3 + group + LATENT_SD * random.normal(size=ROWS)
    y = random.poisson(np.exp(eta) * random.gamma(LATENT_SIZE, 1 / LATENT_SIZE, ROWS))
    return y[:, None], np.column_stack([np.ones(ROWS), group])


def by_scipy(*, free: bool) -> Maximum:
    """The maximum over trapezoids in one dimension, with an inverse Hessian by differences."""
    y, x = two_groups()
    pairs, often = np.unique(np.column_stack([x[:, 1], y[:, 0]]), axis=0, return_counts=True)
    at = np.linspace(-8, 8, 161)

    def lost(theta: np.ndarray) -> float:
        sd = np.exp(theta[3]) if free else LATENT_SD
        eta = theta[0] + theta[1] * pairs[:, :1] + sd * at
        law = log_probability("negative-binomial", pairs[:, 1:], eta, None, np.exp(theta[2]))
        return -float(often @ logsumexp(law + stats.norm.logpdf(at) + np.log(at[1] - at[0]), axis=1))

    begin = np.array([3.0, 1.0, np.log(LATENT_SIZE), np.log(LATENT_SD)])[: 3 + free]
    found = minimize(lost, begin, method="BFGS", options={"gtol": 1e-3}).x
    step, signs = 1e-3 * np.eye(len(found)), ((1, 1), (1, -1), (-1, 1), (-1, -1))
    second = lambda a, b: sum(s * t * lost(found + s * a + t * b) for s, t in signs) / 4e-6
    hessian = np.array([[second(a, b) for a in step] for b in step])
    return Maximum(found, np.sqrt(np.diag(np.linalg.inv(hessian))))


@pytest.mark.parametrize(("method", "free"), [("exact", True), ("exact", False), ("ml", False)])
def test_with_a_latent_it_is_the_maximum_over_trapezoids(method: str, free: bool) -> None:
    """Its variance free, or known. Free, ml is slow along a ridge of dispersion, variance and level, and says so."""
    y, x = two_groups()
    sigma = "diagonal" if free else [[LATENT_SD**2]]
    found = fit(y, X=x, likelihood="negative-binomial", covariance=sigma, method=method, tol=TIGHT[method])
    scale = [0.5 * np.log(found.covariance_[0, 0])] if free else []
    numbers, exact = (
        np.array([*found.coef_[:, 0], -np.log(found.dispersion_[0]), *scale]),
        by_scipy(free=free),
    )
    gap = (numbers - exact.numbers) / exact.errors
    assert found.converged_ and np.all(np.abs(gap) < CLOSE), gap


@pytest.mark.parametrize("method", ["exact", "ml"])
def test_without_dispersion_it_is_poisson(method: str) -> None:
    """Where the known Sigma is more than counts have, their size goes to infinity, and B is that of Poisson's law."""
    _, x = overdispersed()
    random = np.random.default_rng(16)
    y = random.poisson(np.exp(x @ [1.2, 0.5] + 0.3 * random.normal(size=len(x))))[:, None]
    known = {"X": x, "covariance": [[0.25]], "method": method, "tol": TIGHT[method]}
    plain, other = (fit(y, likelihood=law, **known) for law in ("poisson", "negative-binomial"))
    assert other.converged_ and other.dispersion_[0] < 0.01
    errors = 0.5 * np.sqrt(np.diag(np.linalg.inv(x.T @ x)))  # as if Z were seen: smaller than they are
    assert np.all(np.abs(other.coef_ - plain.coef_)[:, 0] < CLOSE * errors), other.coef_ - plain.coef_
    assert abs(other.loglik_ - plain.loglik_) < 0.5


EXACT: dict[str, dict[str, Any]] = {
    "poisson": {},
    "zero-inflated-poisson": {},
    # Sigma as it was drawn: dispersions and variances are hardly told apart, and a bit tells no variance
    **{
        law: {"covariance": np.array([[0.64, 0.3], [0.3, 0.64]])}
        for law in ("negative-binomial", "bernoulli")
    },
}


def two_columns(law: str) -> np.ndarray:
    """Counts (300, 2) of the law about e^3, or presence."""
    random = np.random.default_rng(17)
    eta = random.multivariate_normal([0, 0], [[0.64, 0.3], [0.3, 0.64]], 300)
    if law == "bernoulli":
        return (random.random(eta.shape) < expit(eta)).astype(float)
    extra = random.gamma(3.0, 1 / 3.0, eta.shape) if "negative" in law else 1.0
    counts = random.poisson(extra * np.exp(3 + eta))
    return counts * (random.random(eta.shape) > 0.3 * ("inflated" in law))


def by_trapezoids(law: str, y: np.ndarray, found: poplin.PLN) -> float:
    """The log-likelihood of a fit of two columns, over a grid of w."""
    at = np.linspace(-6, 6, 61)
    w = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2)
    eta = found.coef_[0] + w @ np.linalg.cholesky(found.covariance_).T
    total = np.sum(stats.norm.logpdf(w), axis=1) + 2 * np.log(at[1] - at[0])
    size = 1 / found.dispersion_ if "negative" in law else np.ones(2)
    rows = total[None].repeat(len(y), axis=0)
    for j in range(2):
        values, place = np.unique(y[:, j], return_inverse=True)
        zero = found.zero_probability_[j]
        rows += log_probability(law, values[:, None], eta[:, j], zero, size[j])[place]
    return float(np.sum(logsumexp(rows, axis=1)))


@pytest.mark.parametrize("law", EXACT)
def test_two_columns_by_exact_and_by_ml(law: str) -> None:
    """By the likelihood at both: 9 numbers that are each a tenth of a standard error off cost 9 x 0.1^2 / 2 nats."""
    y = two_columns(law)
    exact, ml = (fit(y, likelihood=law, method=method, **EXACT[law]) for method in ("exact", "ml"))
    assert exact.converged_ and ml.converged_
    lost = by_trapezoids(law, y, exact) - by_trapezoids(law, y, ml)
    assert abs(lost) < 9 * TENTH**2 / 2, lost
    reported = by_trapezoids(law, y, exact)
    assert abs(exact.loglik_ - reported) < 4 * exact.loglik_se_ + 0.05
