"""Deep embedded clustering: its formulas against plain loops, its target over all rows, its stopping rule.

Start at `test_clusters_are_found_and_kept`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import poplin
from poplin.estimators.building import STARTS, by_means, by_neighbours, centres, normalised_cut
from poplin.methods.gradient import shares, target
from tests.oracles_neural import quickly as quickly

HOW: dict[str, Any] = {"hidden": (16,), "pretrain_epochs": 150, "batch_size": 50, "update_interval": 20}


def table() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    truth = np.repeat(np.arange(3), 70)
    return 2.0 * random.normal(size=(3, 6))[truth] + random.normal(size=(210, 6)), truth


def test_shares_and_target_are_the_formulas() -> None:
    random = np.random.default_rng(0)
    latent, centres = random.normal(size=(5, 2)), random.normal(size=(3, 2))
    q = np.array([[1 / (1 + np.sum((w - m) ** 2)) for m in centres] for w in latent])
    q /= q.sum(axis=1, keepdims=True)
    p = np.array([[q[i, k] ** 2 / q[:, k].sum() for k in range(3)] for i in range(5)])
    p /= p.sum(axis=1, keepdims=True)
    found = np.asarray(shares(latent, centres))  # type: ignore[arg-type]
    assert np.allclose(found, q, atol=1e-6)
    assert np.allclose(target(q, q.sum(axis=0)), p, atol=1e-12)  # type: ignore[arg-type]


def test_clusters_are_found_and_kept(tmp_path: Any) -> None:
    y, truth = table()
    fit = poplin.IDEC(3, 2, **HOW).fit(y)
    assert fit.converged_ and fit.stopped_ == "tol"
    assert adjusted_rand_score(truth, fit.labels_) > 0.9
    assert np.mean(fit.predict(y) == fit.labels_) > 0.98  # labels are those of the last look at all rows
    shares_ = fit.responsibilities(y)
    assert np.allclose(shares_.sum(axis=1), 1, atol=1e-5)
    # the clustering term sharpens: without it, the same start leaves rows less sure
    plain = poplin.IDEC(3, 2, gamma=0.0, **HOW).fit(y)
    assert shares_.max(axis=1).mean() > plain.responsibilities(y).max(axis=1).mean()
    fit.save(tmp_path / "fit.npz")
    back = poplin.load(tmp_path / "fit.npz")
    assert np.array_equal(back.responsibilities(y), shares_) and np.array_equal(back.labels_, fit.labels_)


def rings() -> tuple[np.ndarray, np.ndarray]:
    """Two rings, one inside the other: no mean tells them apart."""
    random = np.random.default_rng(3)
    truth, angle = np.repeat([0, 1], 200), np.tile(np.linspace(0, 2 * np.pi, 200), 2)
    radius = np.array([1.0, 4.0])[truth] + 0.1 * random.normal(size=400)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), truth


def test_neighbours_follow_groups_that_are_not_round() -> None:
    places, truth = rings()
    found = {name: adjusted_rand_score(truth, start.labels(places, 2, 0)) for name, start in STARTS.items()}
    assert found["neighbours"] == 1 and found["k-means"] < 0.2


def test_neighbours_are_those_of_the_dense_twin() -> None:
    """Ng, Jordan & Weiss with dense matrices, on rows whose groups touch; the least cut of three, added up by loops."""
    places = table()[0][:, :2]
    n = len(places)
    distance = np.sum((places[:, None] - places) ** 2, axis=2)
    near = np.zeros((n, n))
    np.put_along_axis(near, np.argsort(distance, axis=1)[:, 1:11], 1.0, axis=1)
    ties = (near + near.T) / 2
    root = np.sqrt(ties.sum(axis=1))
    vectors = np.linalg.eigh(ties / root / root[:, None])[1]

    def cut(labels: np.ndarray) -> float:
        groups = [labels == k for k in range(4)]
        return sum(ties[one][:, ~one].sum() / ties[one].sum() for one in groups if one.any())

    found = []
    for many in (4, 5, 6):
        chosen = vectors[:, -many:]
        found.append(by_means(chosen / np.linalg.norm(chosen, axis=1, keepdims=True), 4, 0))
    assert np.allclose([normalised_cut(ties, labels) for labels in found], [cut(labels) for labels in found])
    assert adjusted_rand_score(min(found, key=cut), by_neighbours(places, 4, 0)) > 0.98


def test_a_start_by_neighbours_is_kept_for_an_epoch() -> None:
    y, truth = table()
    fit = poplin.IDEC(3, 2, start="neighbours", **HOW).fit(y)
    assert fit.start_positions_.shape == (210, 2) and fit.converged_
    assert adjusted_rand_score(truth, fit.start_labels_) > 0.9
    assert adjusted_rand_score(fit.labels_, fit.start_labels_) > 0.9
    with pytest.raises(poplin.InputError, match="start='middle'"):
        poplin.IDEC(3, 2, start="middle", **HOW).fit(y)


def test_a_group_without_rows_begins_in_the_middle() -> None:
    latent = np.arange(6.0).reshape(3, 2)
    assert np.array_equal(centres(latent, np.array([0, 0, 2]), 3), [[1, 2], [2, 3], [4, 5]])


def test_clusters_that_still_change_are_told() -> None:
    y, _ = table()
    with pytest.warns(poplin.ConvergenceWarning, match="max_iter=10"):
        fit = poplin.IDEC(3, 2, **HOW | {"max_iter": 10, "pretrain_epochs": 2}).fit(y)
    assert fit.stopped_ == "max_iter" and not fit.converged_
