"""Autoencoders: the linear one is principal components, the others rebuild what they were trained on.

Start at `test_a_linear_one_spans_the_principal_axes`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from scipy.stats import norm
from sklearn.decomposition import PCA

import poplin
from tests.oracles_neural import quickly as quickly

SETTINGS: dict[str, Any] = {"batch_size": 100, "patience": None, "validation_fraction": 0.0}


def table() -> np.ndarray:
    random = np.random.default_rng(2)
    loadings = random.normal(size=(3, 6)) * np.array([3.0, 2.0, 1.5])[:, None]
    return random.normal(size=(200, 3)) @ loadings + 0.3 * random.normal(size=(200, 6)) + 1


def linear(y: np.ndarray) -> poplin.Autoencoder:
    how = SETTINGS | {"learning_rate": 0.05, "schedule": "cosine", "max_epochs": 5000, "batch_size": len(y)}
    return poplin.Autoencoder(3, hidden=(), **how).fit(y)


def test_a_linear_one_spans_the_principal_axes_and_its_encoder_is_the_pseudo_inverse() -> None:
    y = table()
    fit = linear(y)
    axes = PCA(3).fit(y).components_.T
    decoder = fit.inverse_transform(np.eye(3)) - fit.inverse_transform(np.zeros((3, 3)))
    assert np.max(subspace_angles(decoder.T.astype(float), axes)) < 1e-3
    centre = y.mean(axis=0)
    encoder = fit.transform(centre + np.eye(6)) - fit.transform(centre[None, :])
    inverse = np.linalg.pinv(decoder.astype(float))
    assert np.max(np.abs(encoder - inverse)) < 2e-3 * np.max(np.abs(inverse))


def test_its_score_is_the_density_of_what_it_rebuilds() -> None:
    y = table()
    fit = poplin.Autoencoder(2, hidden=(8,), max_epochs=5, **SETTINGS).fit(y)
    expected = norm(fit.reconstruct(y), 1.0).logpdf(y).sum(axis=1)
    assert np.allclose(fit.score_samples(y), expected, rtol=1e-4, atol=1e-3)
    assert fit.score(y) == pytest.approx(expected.mean(), rel=1e-4)
    assert fit.history_["objective"].iloc[-1] > fit.history_["objective"].iloc[0]


def test_a_saved_one_comes_back(tmp_path: Any) -> None:
    y = table()
    fit = poplin.Autoencoder(2, hidden=(8, 5), max_epochs=2, **SETTINGS).fit(y)
    fit.save(tmp_path / "fit.npz")
    back = poplin.load(tmp_path / "fit.npz")
    assert np.array_equal(back.transform(y), fit.transform(y))
