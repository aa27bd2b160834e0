"""Tests of the fitted law: nothing of the model's own tables beyond their size, and other laws by what they are.

Start at `test_tables_of_the_model_are_called_as_often_as_said`. Fits are stand-ins whose parameters are the truth; with
fitted ones size and power are measured in `benchmarks/trust/verdicts.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import integrate, special, stats

from poplin.inference import departures, margins
from poplin.report import verdicts
from tests.told import drawn
from tests.tolerances import close

LAWS = [(0, 0.0, 1.0), (3, 1.0, 0.5), (50, 2.0, 2.0), (1000, 5.0, 1.0), (7, 2.0, 1e-6), (0, 3.0, 2.0)]


def mass(y: int, center: float, sd: float) -> float:
    """P(Y = y) by adaptive quadrature."""
    top = (np.log(max(y, 0.3)) - center) / sd

    def density(z: float) -> float:
        log_rate = center + sd * z
        return np.exp(y * log_rate - np.exp(log_rate) - special.gammaln(y + 1) - z**2 / 2) / np.sqrt(
            2 * np.pi
        )

    return integrate.quad(density, -12, 12, points=[float(np.clip(top, -11, 11))], limit=500)[0]


@pytest.mark.parametrize("law", LAWS)
def test_where_a_count_lies_and_its_scores_are_those_of_quadrature(law: tuple[int, float, float]) -> None:
    y, center, variance = law
    sd, step = np.sqrt(variance), 1e-4
    told = margins.placed(*(np.array([part], float) for part in law))
    assert abs(told.upto[0] - told.below[0] - mass(y, center, sd)) <= 1e-4 * mass(y, center, sd)
    slopes = [
        np.log(mass(y, center + step, sd) / mass(y, center - step, sd)) / (2 * step),
        np.log(mass(y, center, sd * np.exp(step)) / mass(y, center, sd * np.exp(-step))) / (2 * step),
    ]
    assert np.allclose([told.by_center[0], told.by_log_sd[0]], slopes, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("center", [-3.0, 0.5, 4.0])
def test_normal_scores_have_mean_zero_under_their_law(center: float) -> None:
    y = np.arange(3000.0)
    told = margins.placed(y, np.full(3000, center), np.full(3000, 0.6))
    weight = told.upto - told.below
    assert abs(weight @ margins.normal_scores(told)) < 1e-4 and abs(weight.sum() - 1) < 1e-4


def shaped(law: str, seed: int = 0, n: int = 300, p: int = 8) -> Any:
    """A fit at the moments of latents of another law, whose counts are drawn from that law."""
    fit, random = drawn(n, p, rank=None, seed=seed), np.random.default_rng(seed + 100)
    fit.coef_[0] += 1.5
    fit.loadings_ = None
    z = random.standard_normal((n, p))
    if law == "heavy":
        z = random.standard_t(3, (n, p)) / np.sqrt(3)
    if law == "humps":
        z = 0.95 * random.choice([-1.0, 1.0], (n, p)) + np.sqrt(1 - 0.95**2) * z
    if law == "lopsided":
        z = random.exponential(size=(n, p)) - 1
    if law == "one column":
        z[:, 3] = random.exponential(size=n) - 1
    scale = 0.8
    fit.covariance_, fit.components_ = scale**2 * np.eye(p), np.eye(p)
    fit.eigenvalues_ = np.full(p, scale**2)
    log_rate = fit.counts_.offset + fit.counts_.x @ fit.coef_ + scale * z
    fit.counts_ = fit.counts_._replace(y=1.0 * random.poisson(np.exp(log_rate)))
    return fit


def test_tables_of_the_model_are_called_as_often_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures, "EVALUATIONS", 8000)
    tables = 50
    p = [departures.departures(departures.looked(shaped("normal", s, n=50, p=3))).p for s in range(tables)]
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / tables)
    assert 0.5 - 4 / np.sqrt(12 * tables) <= np.mean(p) <= 0.5 + 4 / np.sqrt(12 * tables)


@pytest.mark.parametrize(
    ("law", "kind", "advice"),
    [
        ("heavy", verdicts.HEAVY, "of t3 latents"),
        ("humps", verdicts.FLAT, "rows of two kinds"),
        ("lopsided", verdicts.LEANING, "not linear"),
    ],
)
def test_another_law_is_told_by_its_kind(law: str, kind: str, advice: str) -> None:
    fit = shaped(law)
    found = departures.departures(departures.looked(fit))
    assert found.p < 0.01 and found.p_together < 0.01
    words = verdicts._departure(fit, found)
    assert kind in words and advice in words and "'taxon " in words
    outside = (found.curve.share < found.curve.lower) | (found.curve.share > found.curve.upper)
    assert outside.any()  # the picture agrees


def test_a_single_column_is_named_and_nobody_else() -> None:
    fit = shaped("one column", n=400)
    found = departures.departures(departures.looked(fit))
    assert found.columns[found.flagged].tolist() == [3] and found.p < 0.01
    assert "'taxon 3 (lopsided)'" in verdicts._departure(fit, found)


def test_what_is_left_does_not_feel_the_parameters() -> None:
    """Of the draws, the cleared process is uncorrelated with every score; of moved parameters it is nearly the same."""
    fit = shaped("normal", n=400, p=2)
    at = departures.looked(fit)
    _, many = departures._clear_of_scores(at)
    _, scores = departures._process(at.drawn, at)
    for j in range(2):
        products = scores[:, :, j].reshape(-1, 3).T @ many.process[:, :, j].reshape(-1, len(departures.GRID))
        size = np.sqrt(np.sum(scores[:, :, j] ** 2) * np.sum(many.process[:, :, j] ** 2))
        assert np.max(np.abs(products)) <= 1e-8 * size
    plain, cleared = [], []
    for shift in (0.0, 0.05):
        fit.coef_[0] += shift
        found, _ = departures._clear_of_scores(departures.looked(fit))
        plain.append(found.plain.sum(axis=0))
        cleared.append(found.process.sum(axis=(0, 1)))
    moved, felt = (np.sqrt(np.mean((many[1] - many[0]) ** 2)) for many in (plain, cleared))
    assert felt < 0.25 * moved  # of 400 rows; it falls with their root


def test_missing_counts_and_rows_of_weight_zero_are_left_out() -> None:
    fit = shaped("normal", n=120, p=3)
    fit.counts_.y[::7, 1] = np.nan
    fit.counts_.y[5] = 1e6
    weights = np.ones(120)
    weights[5] = 0
    fit.counts_ = fit.counts_._replace(weights=weights)
    at = departures.looked(fit)
    assert 5 not in at.seen.rows and np.sum(~at.there) == np.isnan(fit.counts_.y).sum()
    assert departures.departures(at).p > 0.01


def test_large_tables_are_looked_at_in_part() -> None:
    fit = shaped("normal", n=300, p=200)
    at = departures.looked(fit)
    assert at.there.size <= departures.MOST_COUNTS and len(at.seen.columns) <= departures.MOST_COLUMNS


def structured(kind: str, sigma: np.ndarray, seed: int = 0, n: int = 300) -> Any:
    """A fit that has the structure `kind` of Sigma, of counts that have `sigma`."""
    p = len(sigma)
    fit, random = shaped("normal", seed, n, p), np.random.default_rng(seed + 50)
    z = random.standard_normal((n, p)) @ np.linalg.cholesky(sigma).T
    fit.counts_ = fit.counts_._replace(
        y=1.0 * random.poisson(np.exp(fit.counts_.offset + fit.counts_.x @ fit.coef_ + z))
    )
    values, axes = np.linalg.eigh(sigma)
    values, axes = values[::-1], axes[:, ::-1]
    fit.params |= {"covariance": kind if kind == "diagonal" else "full", "rank": None}
    if kind == "diagonal":
        fit.covariance_, fit.components_, fit.eigenvalues_ = (
            np.diag(np.diag(sigma)),
            np.eye(p),
            np.diag(sigma),
        )
    if kind.startswith("rank"):
        q = int(kind[-1])
        fit.params["rank"] = q
        fit.components_, fit.eigenvalues_ = axes[:, :q], values[:q]
        fit.loadings_ = axes[:, :q] * np.sqrt(values[:q])
        fit.covariance_ = fit.loadings_ @ fit.loadings_.T
    return fit


def of_rank(q: int, p: int = 8) -> np.ndarray:
    """A covariance of q axes, and hardly anything beside them."""
    loads = np.random.default_rng(q).normal(0, 0.6, (p, q))
    return loads @ loads.T + 1e-9 * np.eye(p)


def test_correlations_that_a_structure_leaves_out_are_told_by_pair() -> None:
    sigma = 0.6 * np.eye(8)
    sigma[2, 5] = sigma[5, 2] = 0.35
    fit = structured("diagonal", sigma)
    found = departures.associations(fit, departures.looked(fit))
    assert found is not None and found.p < 0.01
    assert found.pairs.tolist() == [[2, 5]] and found.excess[0] > 3
    words = verdicts._together(fit, found)
    assert not words.good and "'taxon 2 and taxon 5 (more)'" in words.words


@pytest.mark.parametrize(("kind", "q", "well"), [("rank1", 2, False), ("rank2", 2, True), ("rank1", 1, True)])
def test_a_rank_that_is_too_low_is_told(kind: str, q: int, well: bool) -> None:
    fit = structured(kind, of_rank(q))
    found = departures.associations(fit, departures.looked(fit))
    assert found is not None and (found.p >= 0.01) == well


def test_correlations_of_the_model_are_called_as_often_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures, "EVALUATIONS", 8000)
    tables, p = 40, []
    for s in range(tables):
        fit = structured("diagonal", 0.6 * np.eye(5), s, n=60)
        found = departures.associations(fit, departures.looked(fit))
        assert found is not None
        p.append(found.p)
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / tables)


def test_two_tests_share_the_level_that_one_has_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures, "EVALUATIONS", 8000)
    for fit in (structured("diagonal", 0.6 * np.eye(5), n=60), shaped("normal", n=50, p=3)):
        found = verdicts.found(fit)
        levels = [found.departures.level] + ([found.associations.level] if found.associations else [])
        assert len(levels) == 1 + (found.associations is not None) and sum(levels) == departures.LEVEL


def test_a_free_sigma_leaves_nothing_to_test() -> None:
    fit = shaped("normal", p=3)
    assert departures.associations(fit, departures.looked(fit)) is None
    assert "Sigma is free" in verdicts._together(fit, None).words


def test_tail_probabilities_are_those_of_the_gamma_law_with_these_moments() -> None:
    random = np.random.default_rng(0)
    values = random.gamma(2.0, 3.0, (20001, 1))
    values[0] = 20.0
    assert close(departures.tail(values)[0, 0], stats.gamma.sf(20.0, 2.0, scale=3.0), scale=2e5)
