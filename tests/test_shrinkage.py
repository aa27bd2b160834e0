"""How much a free Sigma is shrunk, and what is said of it: against closed forms, and against fits without shrinkage."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import poplin
from poplin._numerics import double_precision
from poplin.fitting.refit import pull_alone
from poplin.inference.shrinkage import Estimate, fitted, most_likely_shrinkage, penalty_gradient, pull_of
from poplin.rows.cells import Sites, score, told
from poplin.studies.simulate import simulate

N, P, RHO = 60, 5, 0.7
COVARIANCE = RHO ** np.abs(np.subtract.outer(range(P), range(P)))
NO_PRIOR = np.zeros((1, 1))


def gaussian_rows(precision: float, *, n: int = N, seed: int = 0) -> Sites:
    """Sites whose places were drawn from their own model, with every precision."""
    random = np.random.default_rng(seed)
    noise = precision * np.exp(random.standard_normal((n, P)))
    latent = random.standard_normal((n, P)) @ np.linalg.cholesky(COVARIANCE).T
    place = 1 + latent + random.standard_normal((n, P)) / np.sqrt(noise)
    return Sites(noise, noise * place, np.ones((n, 1)), random.uniform(0.5, 2.0, n))


def densities(at: Sites, coef: np.ndarray, covariance: np.ndarray) -> float:
    """The weighted log density of the places, row by row."""
    rows = zip(at.pull / at.precision, at.precision, at.x @ coef, at.weights, strict=True)
    return sum(w * multivariate_normal(mean, covariance + np.diag(1 / a)).logpdf(t) for t, a, mean, w in rows)


def test_differences_of_scores_are_those_of_densities() -> None:
    at, one, other = gaussian_rows(0.5), (np.full((1, P), 0.8), COVARIANCE), (np.ones((1, P)), np.eye(P))
    gap = score(at, *one) - score(at, *other)
    assert gap == pytest.approx(densities(at, *one) - densities(at, *other), rel=1e-9)


def test_a_missing_count_says_nothing() -> None:
    at = gaussian_rows(0.5)
    less = at._replace(precision=at.precision.copy(), pull=at.pull.copy())
    less.precision[:, -1] = less.pull[:, -1] = 0
    fewer = at._replace(precision=at.precision[:, :-1], pull=at.pull[:, :-1])
    coef = np.ones((1, P))
    assert score(less, coef, COVARIANCE) == pytest.approx(score(fewer, coef[:, 1:], COVARIANCE[1:, 1:]))


def test_moments_are_those_of_the_conditional_normal() -> None:
    at, coef = gaussian_rows(0.5), np.full((1, P), 0.8)
    sums = told(at, coef, COVARIANCE)
    second = np.zeros((P, P))
    for t, a, w in zip(at.pull / at.precision, at.precision, at.weights, strict=True):
        gain = COVARIANCE @ np.linalg.inv(COVARIANCE + np.diag(1 / a))
        mean = gain @ (t - coef[0])
        second += w * (np.outer(mean, mean) + COVARIANCE - gain @ COVARIANCE)
    np.testing.assert_allclose(sums.second, second, rtol=1e-9)


@pytest.mark.parametrize(("kappa", "nats"), [(0.0, 1e-3), (6.0, 0.1)])
def test_a_fit_to_sites_is_where_their_density_is_highest(kappa: float, nats: float) -> None:
    """Penalised, to first order in kappa / n: the force on the variances is taken off by one Newton step."""
    at = gaussian_rows(2.0)
    end = fitted(at, Estimate(np.ones((1, P)), COVARIANCE), kappa, NO_PRIOR, 300)

    def objective(coef: np.ndarray, covariance: np.ndarray) -> float:
        scale = np.sqrt(np.diag(covariance))
        r = covariance / scale / scale[:, None]
        penalty = 0.5 * kappa * (np.linalg.slogdet(r)[1] + np.trace(np.linalg.inv(r)) - P)
        return densities(at, coef, covariance) - penalty

    random, best = np.random.default_rng(1), objective(*end)
    for _ in range(20):
        change = np.eye(P) + 0.02 * random.standard_normal((P, P))
        assert objective(end.coef + 0.02 * random.standard_normal(P), end.covariance) < best + nats
        assert objective(end.coef, change @ end.covariance @ change.T) < best + nats


def test_folds_ask_for_what_folds_of_known_positions_ask_for() -> None:
    """Where counts tell everything, Sigma of the rows kept is (n S + kappa diag(S)) / (n + kappa)."""
    at = gaussian_rows(1e6, n=30)
    at = at._replace(weights=np.ones(30))
    place, order = at.pull / at.precision, np.random.default_rng(0).permutation(30)
    numbers = np.empty(30, int)
    numbers[order] = np.arange(30) % 5
    estimate = Estimate(np.ones((1, P)), COVARIANCE)
    kappa = most_likely_shrinkage(at, estimate, NO_PRIOR, 2.0, numbers)

    def likelihood(kappa: float) -> float:
        total = 0.0
        for k in range(5):
            kept, left = np.delete(order, np.s_[k::5]), order[k::5]
            mean = place[kept].mean(0)
            moment = (place[kept] - mean).T @ (place[kept] - mean) / len(kept)
            shrunk = (len(kept) * moment + kappa * np.diag(np.diag(moment))) / (len(kept) + kappa)
            total += multivariate_normal(mean, shrunk).logpdf(place[left]).sum()
        return total

    tried = np.geomspace(0.1, 30, 200)
    assert likelihood(kappa) > max(map(likelihood, tried)) - 0.3


def test_the_pull_is_the_weight_where_counts_tell_everything() -> None:
    at, kappa = gaussian_rows(1e6), 6.0
    rows = float(at.weights.sum())
    pull = pull_of(at, Estimate(np.ones((1, P)), COVARIANCE), NO_PRIOR, kappa)
    assert pull == pytest.approx(kappa / (rows + kappa), abs=0.01)
    assert pull_alone(COVARIANCE, np.full(P, 1e9), rows, kappa) == pytest.approx(
        kappa / (rows + kappa), rel=1e-6
    )


def test_the_pull_is_larger_where_counts_tell_less() -> None:
    pulls = [
        pull_of(gaussian_rows(a), Estimate(np.ones((1, P)), COVARIANCE), NO_PRIOR, 2.0)
        for a in (10.0, 1.0, 0.2)
    ]
    assert pulls[0] < pulls[1] < pulls[2]


def correlations(fit: poplin.PLN) -> np.ndarray:
    scale = np.sqrt(np.diag(fit.covariance_))
    return (fit.covariance_ / scale / scale[:, None])[np.triu_indices(len(scale), 1)]


@pytest.mark.parametrize(("mean", "tolerance"), [(-1.0, 0.05), (4.0, 0.01)])
def test_shrinkage_is_the_share_by_which_correlations_were_pulled(mean: float, tolerance: float) -> None:
    """Against a fit without any, on three tables; at mean -1 the weight alone would say a tenth of it."""
    said, pulls = [], []
    for seed in range(3):
        counts = simulate(150, 8, correlation=0.7, mean=mean, seed=seed).counts
        shrunk, free = (poplin.PLN(shrinkage=s).fit(counts) for s in (0.006, 0))
        one, other = correlations(shrunk), correlations(free)
        said.append(shrunk.shrinkage_)
        pulls.append(1 - one @ other / (other @ other))
    assert np.mean(said) == pytest.approx(np.mean(pulls), abs=tolerance)


def test_the_gradient_of_the_penalty() -> None:
    def penalty(covariance: jax.Array) -> jax.Array:
        scale = jnp.sqrt(jnp.diag(covariance))
        r = covariance / scale / scale[:, None]
        return 0.5 * (jnp.linalg.slogdet(r)[1] + jnp.trace(jnp.linalg.inv(r)))

    covariance = COVARIANCE * np.outer(np.arange(1, P + 1), np.arange(1, P + 1))
    with double_precision():
        expected = jax.grad(penalty)(jnp.asarray(covariance))
    np.testing.assert_allclose(penalty_gradient(covariance), expected, rtol=1e-9, atol=1e-12)


def test_intervals_lie_about_the_fit_without_shrinkage() -> None:
    """A fifth of the way to independence, high counts: one step leads to where a fit without it is."""
    counts = simulate(150, 4, correlation=0.7, mean=5.0, seed=3).counts
    shrunk, free = (poplin.PLN(shrinkage=s).fit(counts) for s in (0.2, 0))
    told, there = (fit.confint("correlation") for fit in (shrunk, free))
    middle, other = (np.tanh((np.arctanh(t.lower) + np.arctanh(t.upper)) / 2) for t in (told, there))
    assert np.abs(told.estimate - other).max() > 0.1
    assert np.abs(middle - other).max() < 0.03
    np.testing.assert_allclose(told.estimate, correlations(shrunk))
    variances = [fit.confint("covariance") for fit in (shrunk, free)]
    one, other = (0.5 * np.log(t.lower * t.upper).to_numpy()[[0, 4, 7, 9]] for t in variances)
    error = (variances[1].se / variances[1].estimate).to_numpy()[[0, 4, 7, 9]]
    assert (np.abs(one - other) < 0.3 * error).all()
