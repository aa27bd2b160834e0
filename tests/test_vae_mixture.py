"""Mixture priors find clusters without labels, and say of what they are sure.

Start at `test_clusters_are_found_without_labels`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score

import poplin
from poplin.estimators.building import fitted_mixture
from tests.oracles_neural import quickly as quickly

HOW: dict[str, Any] = {"hidden": (16,), "max_epochs": 30, "pretrain_epochs": 40, "learning_rate": 0.005}
HOW |= {"patience": None, "batch_size": 60, "likelihood": "poisson"}


def table() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    truth = np.repeat(np.arange(3), 80)
    rates = np.exp(random.normal(1.0, 1.0, size=(3, 8)))
    return random.poisson(rates[truth] * np.exp(0.2 * random.normal(size=(240, 1)))).astype(float), truth


@pytest.mark.filterwarnings(
    "ignore::poplin.LikelihoodWarning"
)  # a network's proposals; its rows in doubt are named
def test_clusters_are_found_without_labels(tmp_path: Any) -> None:
    y, truth = table()
    fit = poplin.MixtureVAE(3, 2, **HOW).fit(y)
    shares = fit.responsibilities(y)
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(fit.predict(y), shares.argmax(axis=1))
    assert adjusted_rand_score(truth, fit.predict(y)) > 0.95
    assert np.mean(fit.bound_samples(y)) < np.mean(fit.score_samples(y, draws=200))
    fit.save(tmp_path / "fit.npz")
    back = poplin.load(tmp_path / "fit.npz")
    assert isinstance(back, poplin.MixtureVAE) and np.array_equal(back.responsibilities(y), shares)


def test_the_mixture_that_starts_it_is_the_likeliest_one() -> None:
    random = np.random.default_rng(0)
    latent = np.concatenate([random.normal(-4, 1, (50, 2)), random.normal(4, 0.5, (70, 2))])
    prior = fitted_mixture(latent, 2, 0)
    parts = [latent[:50], latent[50:]]
    expected = sum(
        multivariate_normal(part.mean(axis=0), np.diag(part.var(axis=0))).logpdf(part).sum()
        + len(part) * np.log(len(part) / 120)
        for part in parts
    )
    found = np.asarray(prior.log_prob(latent.astype(np.float32))).sum()
    assert abs(found - expected) < 1e-2 * abs(expected)
