"""The sandwich of variational fits, against differences of the bound with the rows' Gaussians at their best.

Start at `test_the_hessian_is_that_of_the_profiled_bound`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import poplin
from poplin._numerics import double_precision
from poplin.estimators import placed_rows
from poplin.fitting import recipes
from poplin.fitting.directions import free_directions, sums
from poplin.rows.gaussian import fit_rows
from tests.instances import TABLES, fit

MODELS: dict[str, dict[str, Any]] = {
    "full": {"shrinkage": 0},
    "diagonal": {"covariance": "diagonal"},
    "spherical": {"covariance": "spherical"},
    "rank": {"rank": 2},
    "basis": {"basis": np.linalg.qr(np.random.default_rng(7).normal(size=(4, 2)))[0]},
}


def profiled_bound(one: Any, free: Any, numbers: np.ndarray) -> float:
    """The bound at (B, C) moved along these numbers, its Gaussians at their best there."""
    result, here = one.result_, free.here
    with double_precision():
        coef, sigma = (np.asarray(a)[0] for a in here.tangents(jnp.asarray(numbers)[None]))
        loadings = (
            np.linalg.cholesky(one.covariance_ + sigma) if result.direct else moved_loadings(here, numbers)
        )
        if result.posterior == "full":
            rows = fit_rows(free.block, jnp.asarray(result.coef + coef), jnp.asarray(loadings), tol=1e-12)
            return float(free.block.weights @ rows.bound)
        return placed_rows.diagonal_rows(
            result._replace(coef=result.coef + coef, loadings=loadings), free.block
        )[2]


def moved_loadings(here: Any, numbers: np.ndarray) -> np.ndarray:
    """C <- C + (R F)'."""
    (feature, column), d = (np.asarray(a) for a in here.pairs), here.model.coef.shape[0]
    loadings = np.array(here.model.loadings)
    outward = np.asarray(here.outward.moves(jnp.eye(len(loadings)))).T
    for value, f, c in zip(numbers, feature, column, strict=True):
        if f >= d:
            loadings[:, f - d] += value * outward[:, c]
    return loadings


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
@pytest.mark.parametrize("model", MODELS)
def test_the_hessian_is_that_of_the_profiled_bound(model: str, posterior: str) -> None:
    """Along random directions, second differences of the bound (its optimum is known to 1e-10 of its size)."""
    one = fit(TABLES["weighted"], method="variational", posterior=posterior, tol=1e-13, **MODELS[model])
    with double_precision():
        free = free_directions(one)
        found = sums("observed", free, recipes.checked(one.get_params()))
    size, random, step = free.here.size(), np.random.default_rng(0), 0.03
    here = profiled_bound(one, free, np.zeros(size))
    for _ in range(2):
        along = random.normal(size=size)
        along /= np.linalg.norm(along)
        ends = [profiled_bound(one, free, t * along) for t in (-2 * step, -step, step, 2 * step)]
        curvature = -(-ends[0] + 16 * ends[1] - 30 * here + 16 * ends[2] - ends[3]) / (12 * step**2)
        told = float(along @ np.asarray(found.observed) @ along)
        assert abs(curvature - told) <= 5e-3 * abs(told), f"{told} is not {curvature}"
    # the fit's own gradient, small beside the scores that add up to it
    assert np.max(np.abs(found.score)) <= 0.02 * np.sqrt(np.max(np.diag(found.products)))


def test_the_bootstrap_shows_the_bias_of_the_bound() -> None:
    """Basic intervals of the variances lie above the bound's own estimates, which are too small."""
    table = TABLES["plain"]
    told = []

    one = fit(table, method="variational", callback=lambda progress: told.append(progress), max_iter=300)
    found = one.confint("covariance", n_boot=20)
    again = one.confint("covariance", n_boot=20)
    assert found.equals(again)
    assert [p.iteration for p in told if p.phase == "bootstrap"] == list(range(1, 21))
    spread = one.standard_errors(n_boot=20)
    assert np.allclose(found.se.to_numpy(), spread.covariance[np.triu_indices(4)])
    assert np.all(found.lower < found.upper)
    with pytest.raises(poplin.InputError, match="n_boot"):
        one.confint(n_boot=1)


def test_a_bound_without_information_in_a_direction_has_intervals_all_the_same() -> None:
    """Zeros or thousands, at random: a direction carries no information; what it touches is NaN, and that is said."""
    counts = np.random.default_rng(0).choice([0.0, 2000.0], (40, 4))
    with pytest.warns(poplin.ConvergenceWarning):
        one = poplin.PLN(rank=2, method="variational", max_iter=300).fit(counts)
    assert one._asked().roots._plain("observed").lost.size
    told = one.confint()
    assert np.array_equal(told.estimate, one.coef_.ravel()) and not np.any(told.se <= 0)
    assert told.se.isna().any() and any("missing (NaN)" in note for note in one.standard_errors().notes)
