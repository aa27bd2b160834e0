"""A linear Gaussian variational autoencoder is probabilistic PCA: bounds, gaps and importance sampling, exactly.

Start at `with_posterior`, the model whose encoder is the exact posterior or the best diagonal one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

import poplin
from poplin.models.networks import LinearDecoder
from tests.oracles_neural import quickly as quickly
from tests.oracles_neural import rotation
from tests.tolerances import within_errors

Q = 2


def table() -> np.ndarray:
    random = np.random.default_rng(1)
    loadings = random.normal(size=(5, Q)) * [2.0, 1.2]
    return random.normal(size=(200, Q)) @ loadings.T + 0.5 * random.normal(size=(200, 5)) + 3


def untrained(y: np.ndarray, posterior: str, noise: float) -> poplin.VAE:
    """A linear VAE of the right sizes after one careless epoch."""
    return linear(posterior, noise, max_epochs=1).fit(y)


def linear(posterior: str, noise: float, **others: Any) -> poplin.VAE:
    settings = {"kl_warmup": 0, "patience": None, "validation_fraction": 0.0, "batch_size": 50} | others
    return poplin.VAE(Q, posterior=posterior, scale=float(np.sqrt(noise)), hidden=(), **settings)


def with_posterior(y: np.ndarray, fit: poplin.PPCA, turn: np.ndarray, posterior: str) -> poplin.VAE:
    """The VAE whose decoder is the fitted PPCA's, turned, and whose encoder gives the best Gaussians."""
    model = untrained(y, posterior, fit.noise_variance_)
    loadings, noise = fit.loadings_ @ turn, fit.noise_variance_
    precision = np.eye(Q) + loadings.T @ loadings / noise
    covariance = np.linalg.inv(precision)
    gain = loadings @ covariance / noise  # E[w | y] = (y - mu) gain
    encoder, decoder, likelihood, prior = jax.tree.map(lambda a: np.asarray(a, float), model.model_)
    features, network = encoder.features, encoder.network
    if posterior == "full":
        lower = np.linalg.cholesky(covariance)
        rest = [np.log(np.diag(lower)), np.tril(lower, -1).ravel()]
    else:
        rest = [-0.5 * np.log(np.diag(precision))]
    tail = np.concatenate(rest)
    weight = np.zeros((len(gain) + 1, Q + len(tail)))  # the last input is the offset
    weight[:-1, :Q] = gain * features.unit[:, None]
    bias = np.concatenate([(features.place - fit.mean_) @ gain, tail])
    network = type(network)((weight,), (bias,), network.activation)
    encoder = type(encoder)(features, network, *([Q] if posterior == "full" else []))
    unit = np.full(len(gain), np.sqrt(noise))  # what training keeps in single precision
    likelihood = dataclasses.replace(likelihood, unit=unit)
    decoder = LinearDecoder(
        (fit.mean_ - likelihood.place) / unit,
        decoder.coef,
        loadings / unit[:, None],
    )
    model.model_ = model.model_._replace(encoder=encoder, decoder=decoder, likelihood=likelihood, prior=prior)
    return model


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_the_full_bound_is_the_likelihood_and_importance_sampling_has_no_error(angle: float) -> None:
    y = table()
    fit = poplin.PPCA(Q).fit(y)
    model = with_posterior(y, fit, rotation(angle), "full")
    exact = fit.score_samples(y)
    assert np.max(np.abs(model.bound_samples(y) - exact)) < 1e-9
    for draws in (1, 7, 51, 60):  # 51 draws are made as 2 times 26: the divisor is what was drawn
        found = model.loglik_rows(y[:5], draws=draws, proposal="gaussian")
        assert np.max(np.abs(found.value - exact[:5])) < 1e-9


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_the_gap_of_the_diagonal_bound(angle: float) -> None:
    """1/2 (sum log P_kk - log det P), P the posterior precision: 0 where the axes are principal."""
    y = table()
    fit = poplin.PPCA(Q).fit(y)
    model = with_posterior(y, fit, rotation(angle), "diagonal")
    loadings = fit.loadings_ @ rotation(angle)
    precision = np.eye(Q) + loadings.T @ loadings / fit.noise_variance_
    gap = 0.5 * (np.sum(np.log(np.diag(precision))) - np.linalg.slogdet(precision)[1])
    assert np.max(np.abs(fit.score_samples(y) - model.bound_samples(y) - gap)) < 1e-9
    assert (gap < 1e-12) == (angle == 0)
    found = model.loglik_rows(y, draws=2000, khat=True)
    assert within_errors(found.value, fit.score_samples(y), found.standard_error)
    assert found.khat is not None and found.khat.max() < 0.5


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_training_ends_at_the_likelihood(posterior: str) -> None:
    y = table()
    fit = poplin.PPCA(Q).fit(y)
    # diagonal Gaussians crawl along rotations of w: the whole table in a step, and many of them
    how = {"max_epochs": 8000, "batch_size": len(y), "learning_rate": 0.02, "schedule": "cosine"}
    trained = linear(posterior, fit.noise_variance_, **how).fit(y)
    bound = float(np.mean(trained.bound_samples(y)))
    assert 0 <= fit.score(y) - bound < 1e-3
    loadings = trained.model_.decoder.loadings() * trained.model_.likelihood.unit[:, None]
    scale = np.max(np.abs(fit.covariance_))
    assert np.max(np.abs(loadings @ loadings.T - fit.loadings_ @ fit.loadings_.T)) < 0.02 * scale
