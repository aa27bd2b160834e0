"""Deep embedded clustering: its formulas against plain loops, its target over all rows, its stopping rule.

Start at `test_clusters_are_found_and_kept`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import poplin
from poplin.methods.clustering import shares, target
from tests.oracles_neural import quickly as quickly

HOW: dict[str, Any] = {"hidden": (16,), "pretrain_epochs": 60, "batch_size": 50, "update_interval": 20}


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


def test_clusters_that_still_change_are_told() -> None:
    y, _ = table()
    with pytest.warns(poplin.ConvergenceWarning, match="max_iter=10"):
        fit = poplin.IDEC(3, 2, **HOW | {"max_iter": 10, "pretrain_epochs": 2}).fit(y)
    assert fit.stopped_ == "max_iter" and not fit.converged_
