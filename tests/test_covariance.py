"""Sigma by its factor: every answer is that of the p x p array, whatever the shape of the factor."""

from __future__ import annotations

import numpy as np
import pytest

from poplin.models import covariance
from poplin.models.covariance import Covariance
from tests.tolerances import close

SHAPES = {"rank 1": (7, 1), "rank 3": (12, 3), "full": (6, 6), "one column": (1, 1)}


def drawn(shape: str, seed: int = 0) -> Covariance:
    return Covariance(np.random.default_rng(seed).normal(size=SHAPES[shape]))


@pytest.mark.parametrize("piece", [1, 4_000_000])
@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_those_of_the_square(shape: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covariance, "PIECE", piece)
    sigma, other = drawn(shape), drawn(shape, 1)
    square, p = sigma.dense(), SHAPES[shape][0]
    some, x = np.arange(p)[::2], np.random.default_rng(2).normal(size=(p, 2))
    assert sigma.p == p and close(sigma.diag(), np.diag(square)) and close(sigma.trace(), np.trace(square))
    assert close(sigma.block(some), square[np.ix_(some, some)])
    assert close(sigma.block(some, slice(None)), square[some])
    j, k = np.arange(p), np.arange(p)[::-1]
    assert close(sigma.entries(j, k), square[j, k])
    assert close(sigma.unit().entries(j, k), square[j, k] / np.sqrt(np.diag(square)[j] * np.diag(square)[k]))
    assert close(sigma.product(x), square @ x)
    assert close(sigma.norm(), np.linalg.norm(square))
    assert close(sigma.distance(other), np.linalg.norm(square - other.dense()))
    together = np.concatenate([rows for _, rows in sigma.upper_correlations()])
    upper = np.triu_indices(p, 1)
    deviation = np.sqrt(np.diag(square))
    assert close(together[upper], (square / deviation / deviation[:, None])[upper])
    assert np.isnan(together[np.tril_indices(p)]).all()


def test_two_that_are_nearly_one_are_told_apart() -> None:
    """No difference of large squares: the distance is right to its own size."""
    sigma = drawn("rank 3")
    moved = Covariance(sigma.loadings * (1 + 1e-9))
    assert abs(sigma.distance(moved) / (2e-9 * sigma.norm()) - 1) < 1e-5


def test_a_column_without_variance_has_no_correlation() -> None:
    loadings = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    (_, found), *_ = Covariance(loadings).upper_correlations()
    assert np.isnan(found[0, 1]) and np.isnan(found[1, 2]) and abs(found[0, 2] - np.sqrt(0.5)) < 1e-12
