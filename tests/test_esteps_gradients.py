"""Laws of estimated gradients: every estimator of the bound's gradient has its mean; what control saves; the ladder.

Start at `test_mean_of_an_estimate_is_the_gradient_of_the_bound`. The closed form is that of the diagonal bounds.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import poplin
from poplin._numerics import double_precision
from poplin.fitting.alternatives import CONTROLS
from poplin.methods.bbvi import gradient_variance
from poplin.methods.bounds import DirectBound, FactorBound
from poplin.methods.options import BBVI, IWAE
from poplin.models.loadings import FrozenLoadings
from poplin.rows.frames import (
    Diagonals,
    DirectFrame,
    FactorFrame,
    ImportanceWeighted,
    Place,
    Reparameterised,
    noise,
)
from poplin.rows.gaussian import fit_rows
from poplin.rows.nodes import joint_nodes
from poplin.updates.structure import Fixed
from tests import laws
from tests.instances import MODELS, TABLES, autoregressive, block_of, fit, fitted, simulated
from tests.programs import at_once
from tests.tolerances import STANDARD_ERRORS

ESTIMATORS = {"reparam": Reparameterised(), **CONTROLS}
FRAMES = {"direct": DirectFrame(), "factor": FactorFrame()}
DRAWS, REPEATS = 8, 4000
FEW = TABLES["missing"].rows(slice(0, 3))._replace(weights=np.ones(3))


def place_of(frame: str, table: Any = FEW) -> Place:
    """Where gradients are asked for: the true parameters (rank 2 in the factor frame)."""
    block = block_of(table)
    loadings = table.loadings if frame == "direct" else table.loadings[:, :2]
    with double_precision():
        return Place(FRAMES[frame], jnp.asarray(table.coef), jnp.asarray(loadings), block)


def rows_of(place: Place, seed: int = 3) -> Diagonals:
    random = np.random.default_rng(seed)
    shape = len(place.block.y), place.loadings.shape[1]
    direct = isinstance(place.frame, DirectFrame)
    centre = np.asarray(place.block.x) @ np.asarray(place.coef) if direct else 0
    mean, log_sd = centre + 0.3 * random.normal(size=shape), -0.7 + 0.2 * random.normal(size=shape)
    with double_precision():
        return Diagonals(jnp.asarray(mean), jnp.asarray(log_sd))


@cache
def repeated(frame: str, estimator: str) -> np.ndarray:
    """Many estimates of every row's gradient and of the bound, (repeats, n, 2 k + 1)."""
    with double_precision():
        place = place_of(frame)
        rows = rows_of(place)

        @jax.jit
        def one(key):
            unit = noise(key, place.block.index, DRAWS, rows.mean.shape[1])
            found = ESTIMATORS[estimator].slopes(place, rows, unit)
            return jnp.concatenate([found.mean, found.log_sd, found.value[:, None]], axis=1)

        return np.asarray(jax.lax.map(one, jax.random.split(jax.random.key(1), REPEATS)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("frame", FRAMES)
def test_mean_of_an_estimate_is_the_gradient_of_the_bound(frame: str, estimator: str) -> None:
    """Four standard errors, entry by entry; and the estimate of the bound itself."""
    place = place_of(frame)
    rows = rows_of(place)
    with double_precision():
        if frame == "direct":
            bound: Any = DirectBound(Fixed(place.loadings @ place.loadings.T), place.coef)
        else:
            bound = FactorBound(FrozenLoadings(place.coef, place.loadings))
    value, _, _, slopes = laws.value_and_slopes(bound, (), tuple(rows), place.block)
    found = repeated(frame, estimator)
    mean, error = found.mean(axis=0), found.std(axis=0) / np.sqrt(REPEATS)
    laws.within(mean[:, :-1] - np.concatenate(slopes, axis=1), error[:, :-1], f"{frame}, {estimator}")
    gap = mean[:, -1].sum() - value
    assert abs(gap) <= STANDARD_ERRORS * np.linalg.norm(error[:, -1])


@pytest.mark.parametrize("frame", FRAMES)
def test_gradient_of_the_joint_density_is_its_difference(frame: str) -> None:
    """And a component's local terms change by as much as the whole when this component moves."""
    place = place_of(frame)
    at, move = rows_of(place).mean, 1e-5
    with double_precision():
        slope = np.asarray(place.slope(at))
        for k in range(at.shape[1]):
            ends = [at.at[:, k].add(sign * move) for sign in (1, -1)]
            whole = np.subtract(*(np.asarray(place.joint(end)) for end in ends)) / (2 * move)
            local = np.subtract(*(np.asarray(place.local(end))[:, k] for end in ends)) / (2 * move)
            np.testing.assert_allclose(whole, slope[:, k], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(local, slope[:, k], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("frame", FRAMES)
def test_no_direction_is_sharper_than_its_bound(frame: str) -> None:
    """The largest eigenvalue of the curvature, by differentiation; the bound is above it by less than k times."""
    place = place_of(frame)
    rows = rows_of(place)
    with double_precision():
        bent = at_once(jax.hessian(lambda latent: -jnp.sum(place.joint(latent))), rows.mean)
        told, sd = np.asarray(at_once(place.sharpest, rows)), np.exp(np.asarray(rows.log_sd))
    for i, scale in enumerate(sd):
        largest = np.linalg.eigvalsh(scale[:, None] * np.asarray(bent)[i, :, i] * scale)[-1]
        assert largest <= told[i] * (1 + 1e-9) and told[i] < len(scale) * largest


def test_control_takes_out_nine_tenths_of_the_variance() -> None:
    """Twenty columns, full Sigma: local terms with leave-one-out against the plain score function."""
    table = simulated(33, np.linalg.cholesky(autoregressive(20, 0.8)), n=50, level=0.0)
    with double_precision():
        place = place_of("direct", table)
        rows = rows_of(place)
        found = {
            name: float(
                gradient_variance(ESTIMATORS[name], place, rows, jax.random.key(0), draws=10, repeats=100)
            )
            for name in ("none", "both", "reparam")
        }
    assert found["both"] < found["none"] / 10
    assert found["reparam"] < found["both"]


@cache
def ladder(q: int) -> tuple[float, float, np.ndarray, np.ndarray, float]:
    """Diagonal and full bound, importance-weighted bounds of 1, 4, 16, 64 draws with their errors, log-likelihood."""
    table = simulated(50 + q, 0.9 * np.random.default_rng(q).normal(size=(4, q)), n=12, level=0.0)
    with double_precision():
        block, coef, loadings = block_of(table), jnp.asarray(table.coef), jnp.asarray(table.loadings)
        rows = fit_rows(block, coef, loadings)
        place = Place(FactorFrame(), coef, loadings, block)
        lower = jnp.linalg.cholesky(rows.covariance)
        logdet = jnp.sum(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)), axis=1)
        unit = noise(jax.random.key(2), block.index, 64 * 500, q)
        latent = rows.mean + jnp.einsum("nkl,snl->snk", lower, unit)
        log_q = -0.5 * jnp.sum(unit**2, axis=2) - 0.5 * q * jnp.log(2 * jnp.pi) - logdet
        ratio = np.asarray(place.joint(latent) - log_q).reshape(500, 64, -1)
        sums = [
            np.logaddexp.reduce(ratio.reshape(500, 64 // k, k, -1), axis=2).mean(axis=1) - np.log(k)
            for k in (1, 4, 16, 64)
        ]
        totals = np.stack([s.sum(axis=1) for s in sums])  # common draws: (orders, repeats)
        exact = float(jnp.sum(joint_nodes(40, q).loglik(block, coef, loadings)))
        full = float(jnp.sum(rows.bound))
    from scipy.optimize import minimize

    bound = FactorBound(FrozenLoadings(coef, loadings))

    @jax.jit
    def lost(flat):
        unknown = flat[0], flat[1]
        return -bound.value(bound.measure((), unknown, block)[1])[0]

    begin = np.stack([np.asarray(rows.mean), np.full(rows.mean.shape, -0.5)])

    def both(flat: np.ndarray) -> tuple[float, np.ndarray]:
        with double_precision():
            value, slope = jax.value_and_grad(lost)(jnp.asarray(flat.reshape(begin.shape)))
        return float(value), np.asarray(slope).ravel()

    diagonal = -minimize(
        both, begin.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-13}
    ).fun
    return diagonal, full, totals.mean(axis=1), totals, exact


@pytest.mark.parametrize("q", [2, 3])
def test_the_ladder(q: int) -> None:
    """bound(diagonal) <= bound(full) <= IWAE_K, nondecreasing in K <= log-likelihood, one theta, one latent."""
    diagonal, full, means, totals, exact = ladder(q)
    assert diagonal < full
    steps = np.diff(totals, axis=0)
    error = steps.std(axis=1) / np.sqrt(steps.shape[1])
    assert np.all(steps.mean(axis=1) > -STANDARD_ERRORS * error), "more draws lower the bound"
    spread = totals.std(axis=1) / np.sqrt(totals.shape[1])
    assert abs(means[0] - full) <= STANDARD_ERRORS * spread[0], "one draw is the plain bound"
    assert means[-1] > full
    assert means[-1] <= exact + STANDARD_ERRORS * spread[-1]


def test_the_doubly_reparameterised_gradient_is_that_of_the_importance_weighted_bound() -> None:
    """In mean, four standard errors: against differentiation through the draws, same draws."""
    with double_precision():
        place = place_of("factor")
        rows = rows_of(place)

        def value(rows, unit):
            return jnp.sum(ImportanceWeighted().slopes(place, rows, unit).value)

        @jax.jit
        def one(key):
            unit = noise(key, place.block.index, 5, rows.mean.shape[1])
            found = ImportanceWeighted().slopes(place, rows, unit)
            plain = jax.grad(value)(rows, unit)
            return found.mean - plain.mean, found.log_sd - plain.log_sd

        gaps = jax.lax.map(one, jax.random.split(jax.random.key(4), REPEATS))
    for gap in map(np.asarray, gaps):
        laws.within(gap.mean(axis=0), gap.std(axis=0) / np.sqrt(REPEATS), "the gradient")


@pytest.mark.parametrize(("model", "options"), [("full", BBVI()), ("rank", BBVI("score", "both", draws=20))])
def test_a_fit_ends_at_the_optimum_of_the_bound(model: str, options: BBVI) -> None:
    """Within four of the Monte-Carlo errors that the stopping rule asks for."""
    best = fitted(model, "variational", "weighted")
    one = fit(TABLES["weighted"], method=options, **MODELS[model])
    unit = laws.complete_errors(
        best.coef_, best.covariance_, TABLES["weighted"].x, TABLES["weighted"].weights
    )
    gap = laws.flat(one.coef_, one.covariance_) - laws.flat(best.coef_, best.covariance_)
    assert one.converged_ and laws.root_mean_square(gap, unit) < STANDARD_ERRORS * 0.2
    assert one.gradient_variance_.shape == (2,) and np.all(one.gradient_variance_ > 0)


def test_importance_weights_bring_a_fit_nearer_to_the_likelihoods_maximum() -> None:
    fits = [
        fitted("full", "variational", "weighted"),
        fit(TABLES["weighted"], method="iwae", **MODELS["full"]),
    ]
    error = np.hypot(*(one.loglik_se_ for one in fits))
    assert fits[1].loglik_ > fits[0].loglik_ + STANDARD_ERRORS * error


def test_steps_are_short_where_posteriors_are_correlated() -> None:
    """Steps of 0.3 of a variance overshoot in twenty columns of AR1(0.8): weighted draws then end in no number."""
    table = simulated(33, np.linalg.cholesky(autoregressive(20, 0.8)), n=60, level=0.0)
    assert fit(table, method="iwae", shrinkage=0).converged_


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BBVI("finite"), "'score', 'reparam'"),
        (BBVI("score", "baseline"), "'rloo'"),
        (BBVI("reparam", "rloo"), "gradient='score'"),
        (BBVI("score", "rloo", draws=1), "2 or more"),
        (IWAE(rate=0.0), "rate"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: Any, words: str) -> None:
    with pytest.raises(poplin.InputError, match=words):
        poplin.PLN(method=options).fit(TABLES["plain"].y)
