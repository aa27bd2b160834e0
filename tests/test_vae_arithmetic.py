"""Latent arithmetic: shifts that a model has seen on some types are predicted for another.

Start at `test_the_change_of_an_unseen_type_is_predicted`.
"""

from __future__ import annotations

import numpy as np
import pytest

import poplin
from poplin.estimators.vae import balanced_difference
from tests.oracles_neural import quickly as quickly


def test_the_change_of_an_unseen_type_is_predicted() -> None:
    random = np.random.default_rng(0)
    centres, change = 3 * random.normal(size=(4, 8)), random.normal(size=8)
    types = np.repeat(np.arange(4), 60)
    control = centres[types] + 0.3 * random.normal(size=(240, 8))
    treated = centres[types] + change + 0.3 * random.normal(size=(240, 8))
    seen = types != 3  # the treated rows of type 3 are never shown
    how = {"max_epochs": 600, "learning_rate": 0.02, "schedule": "cosine", "batch_size": 240}
    how |= {"patience": None, "validation_fraction": 0.0}
    fit = poplin.Autoencoder(5, hidden=(), **how).fit(np.vstack([control, treated[seen]]))
    found = poplin.predict_shift(
        fit, control[seen], treated[seen], to=control[~seen], types=(types[seen], types[seen])
    )
    true = treated[~seen].mean(axis=0) - control[~seen].mean(axis=0)
    predicted = (found.rows - found.without).mean(axis=0)
    assert 1 - np.sum((predicted - true) ** 2) / np.sum((true - true.mean()) ** 2) > 0.9


def test_a_change_of_the_mixture_of_types_is_no_shift() -> None:
    latent = np.array([[0.0], [0.0], [0.0], [10.0]]), np.array([[1.0], [11.0], [11.0], [11.0], [99.0]])
    labels = np.array(["a", "a", "a", "b"]), np.array(["a", "b", "b", "b", "c"])
    assert balanced_difference(latent, labels) == pytest.approx(1.0)


def test_types_must_meet() -> None:
    latent = np.zeros((2, 1)), np.zeros((2, 1))
    with pytest.raises(poplin.InputError, match="'a' and 'b'"):
        balanced_difference(latent, (["a", "a"], ["b", "b"]))
    with pytest.raises(poplin.InputError, match="one label a row"):
        balanced_difference(latent, (["a"], ["a", "b"]))
