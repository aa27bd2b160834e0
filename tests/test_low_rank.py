"""Maximum likelihood of free loadings: what its stopping rule knows of Sigma, and columns that are hardly seen.

Start at `test_rarely_seen_columns_settle_where_a_long_fit_ends`. Its control variates are in `test_controls.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import poplin
from poplin._numerics import double_precision
from poplin.estimators import placed_rows
from poplin.rows.chains import Shares
from poplin.updates import structure as structures
from poplin.updates.low_rank import Borrowed, LowRank
from poplin.updates.structure import AbstractStructure, Model, Place
from tests.instances import orthonormal, simulated
from tests.tolerances import STANDARD_ERRORS


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
def test_rarely_seen_columns_settle_where_a_long_fit_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """98 % zeros and half of the columns with at most 18 counts: 5 000 iterations were not enough once.

    A usual fit needs some 200, whatever the seed; of the long one only its likelihood is asked, since chance says when
    it stops. Likelihoods are of 200 draws a row, with an error of 0.15 nats.
    """
    monkeypatch.setattr(placed_rows, "DRAWS", 200)
    random = np.random.default_rng(0)
    root = np.sqrt(0.1) * np.random.default_rng(1).normal(size=(40, 5))
    level = -4.2 + random.normal(size=40)
    counts = random.poisson(np.exp(level + random.normal(size=(1000, 5)) @ root.T))

    def fitted(tol: float, seed: int) -> poplin.PLN:
        return poplin.PLN(rank=5, tol=tol, max_iter=1000, random_state=seed).fit(counts)

    usual, long = [fitted(0.2, seed) for seed in range(3)], fitted(0.05, 0)
    assert all(one.converged_ for one in usual) and long.loglik_se_ < 0.3
    gaps = [long.loglik_ - one.loglik_ for one in usual]
    error = np.std(gaps, ddof=1) / np.sqrt(len(gaps))
    assert np.mean(gaps) + STANDARD_ERRORS * error < 5  # 2 and 0.5, of 240 parameters


def test_counting_variances_of_sigma_are_those_of_columns_that_vary() -> None:
    """Low rank: columns theta_j ~ N(., H_j^-1), apart from each other; Sigma = CC' to first order, by simulation."""
    random, (p, q, size) = np.random.default_rng(2), (3, 2, 200_000)
    root = random.normal(size=(p, 1 + q, 1 + q))
    hessian = 1e4 * (root @ np.swapaxes(root, 1, 2) + np.eye(1 + q))
    coef, loadings = random.normal(size=(1, p)), random.normal(size=(p, q))
    with double_precision():
        model = Model(jnp.asarray(coef), jnp.asarray(loadings))
        structure = LowRank()
        average = structure.begin(model)._replace(hessian=jnp.asarray(hessian))
        told = structure.counting_variance(average, model)
    noise = np.stack([random.multivariate_normal(np.zeros(1 + q), np.linalg.inv(h), size) for h in hessian])
    c = loadings[:, None] + noise[:, :, 1:]
    sigma = np.einsum("jsk,isk->sji", c, c)
    off = ~np.eye(p, dtype=bool)
    error = 4 * np.sqrt(2 / size)  # of a variance, relatively
    for_coef, for_sigma = np.asarray(told.coef), np.asarray(told.sigma)
    assert np.all(np.abs(np.var(noise[:, :, 0], axis=1) / for_coef[0] - 1) < error)
    assert np.all(np.abs(np.var(sigma, axis=0) / for_sigma - 1)[off] < 2 * error)
    assert np.all(np.diagonal(for_sigma) > 0)


SHAPE = (200, 4, 2, 2)  # rows, columns, axes, covariates


@pytest.mark.parametrize("by_counts", [1e6, 30.0])
@pytest.mark.parametrize("kind", ["loadings", "scales"])
def test_errors_of_rows_and_of_counts_are_one_standard_error(kind: str, by_counts: float) -> None:
    """W'W / N - I and the level of w, of which counts tell the half, move all columns' B and C together.

    Counts tell each column by itself beside that. Squares of such errors are 1 on average, by simulation.
    """
    random, (n, p, q, d) = np.random.default_rng(5), SHAPE
    size, half = 20_000, 0.5
    x = np.column_stack([np.ones(n), random.normal(size=n)])
    loadings, free = random.normal(size=(p, q)), kind == "loadings"
    k = d + q if free else d
    mixed = random.normal(size=(p, k, k))
    hessian = by_counts * (mixed @ np.swapaxes(mixed, 1, 2) + np.eye(k))
    axes = np.linalg.qr(random.normal(size=(q, q)))[0]
    covariances = np.linalg.inv(hessian)
    own = np.stack([random.multivariate_normal(np.zeros(k), v, size) for v in covariances], axis=2)
    level = random.normal(size=(size, d, q)) @ axes.T / np.sqrt(half)
    level = np.linalg.solve(np.linalg.cholesky(x.T @ x).T, level)
    e = random.normal(size=(size, q, q))
    e = (
        axes @ (e + np.swapaxes(e, 1, 2)) @ axes.T / np.sqrt(2 * n * half)
    )  # variances (1 + [k = l]) / (N / 2)
    moved = own.copy()
    moved[:, :d] += level @ loadings.T
    with double_precision():
        model = Model(jnp.zeros((d, p)), jnp.asarray(loadings))
        told = (jnp.full(q, half), jnp.full((d, q), half), jnp.full((q, q), half), jnp.ones(()))
        structure = LowRank() if free else Borrowed(jnp.eye(p)[:, :q])
        average = structure.begin(model)._replace(hessian=jnp.asarray(hessian))
        gram, known = jnp.asarray(x.T @ x), Shares(jnp.asarray(axes), *told)
        at = Place(model, average, gram, jnp.asarray(float(n)), known, jnp.ones((d, p)))
        second = jnp.zeros(q)
        if free:
            moved[:, d:] += 0.5 * e @ loadings.T
            second = jnp.zeros((p, q))
        still = (jnp.zeros((d, p)), second)
        squares = jax.vmap(lambda m: structure.apart(at, (m[:d], m[d:].T if free else second), still))
        found = np.asarray(squares(jnp.asarray(moved)))[:, :p]
    error = found.std(axis=0) / np.sqrt(size)
    assert np.all(np.abs(found.mean(axis=0) - 1) < STANDARD_ERRORS * error)


@pytest.mark.parametrize("kind", ["rank", "basis"])
def test_of_very_many_columns_some_are_looked_at(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stopping rule compares is a part of what it would see of all columns."""
    random, (p, q) = np.random.default_rng(3), (7, 2)
    coef, axes = random.normal(size=(1, p)), np.linalg.qr(random.normal(size=(p, q)))[0]
    with double_precision():
        made: dict[str, AbstractStructure] = {"rank": LowRank(), "basis": Borrowed(jnp.asarray(axes))}
        structure, model = made[kind], Model(jnp.asarray(coef), jnp.asarray(axes))

        def seen() -> tuple[np.ndarray, ...]:
            pair = structure.meaning(structure.parameters(model))
            counting = structure.counting_variance(structure.begin(model), model)
            return tuple(np.asarray(a) for a in (*pair, *counting))

        whole = seen()
        monkeypatch.setattr(structures, "LOOKED", 3)
        part = seen()
    some = [0, 3, 6]
    for all_of_it, of_some in zip(whole, part, strict=True):
        wanted = all_of_it[:, some] if len(all_of_it) == 1 else all_of_it[np.ix_(some, some)]
        assert np.allclose(of_some, wanted, rtol=1e-12)


def test_a_variance_that_counts_hardly_tell_ends_where_quadrature_has_it() -> None:
    """The bound has it at zero, from where EM never comes back, whatever the likelihood says."""
    random, variances = np.random.default_rng(3), (4.0, 0.4)
    axes = np.linalg.qr(random.standard_normal((12, 2)))[0]
    latent = random.standard_normal((1500, 2)) * np.sqrt(variances)
    counts = random.poisson(np.exp(-2.0 + latent @ axes.T))
    best, fitted = (
        poplin.PLN(basis=axes, method=method, random_state=0).fit(counts) for method in ("exact", "ml")
    )
    assert fitted.converged_
    wanted, found = (fit.confint("scales") for fit in (best, fitted))
    off = np.abs(found["estimate"].to_numpy() - wanted["estimate"].to_numpy()) / wanted["se"].to_numpy()
    assert np.all(off < 0.5)
    assert fitted.loglik_ > best.loglik_ - 0.4


def test_variances_that_are_zero_in_truth_settle() -> None:
    """Along three of five given axes nothing varies: fits end, on four seeds, and none below the others."""
    axes = orthonormal(8, 8)
    table = simulated(51, axes[:, :2] * np.array([2.5, 1.5]), n=300, level=1.0)
    fits = [
        poplin.PLN(basis=axes[:, :5], max_iter=2000, random_state=seed).fit(**table.arguments())
        for seed in range(4)
    ]
    assert [fit.converged_ for fit in fits] == [True] * 4
    reached = [fit.loglik_ for fit in fits]
    assert np.ptp(reached) < 0.5, reached
