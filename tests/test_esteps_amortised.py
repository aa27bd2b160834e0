"""Laws of amortised fits: the bound with an encoder's Gaussians, the M-step behind it, free steps, embedding.

Start at `test_the_bound_is_that_of_the_rows_gaussians`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import poplin
from poplin._numerics import double_precision
from poplin.fitting import phases
from poplin.fitting.amortised import root_of
from poplin.fitting.refit import RowMoments, refit
from poplin.methods.bounds import DirectBound, DirectLatent, FactorBound, FactorLatent, bound_terms
from poplin.methods.options import Amortised
from poplin.models.loadings import FrozenLoadings
from poplin.rows.encoders import DiagonalPosterior, FullPosterior
from poplin.rows.gaussian import Law, Seen, climb, fit_rows
from poplin.updates.structure import Fixed, Model
from tests import laws
from tests.instances import MODELS, TABLES, autoregressive, block_of, fit, fitted, recipe_of, simulated
from tests.programs import at_once

# a small cousin of the 10000 x 100 design, of which the same is asked: 0.05 nats a row
VALUES, AXES = np.linalg.eigh(autoregressive(12, 0.5))
MANY = simulated(61, AXES[:, -2:] * np.sqrt(VALUES[-2:]), n=600, level=0.0)
NEAR = 0.05


def posterior_of(n: int, k: int, centre: Any = 0.0) -> DiagonalPosterior:
    random = np.random.default_rng(8)
    with double_precision():
        mean = jnp.asarray(centre + 0.3 * random.normal(size=(n, k)))
        return DiagonalPosterior(mean, jnp.asarray(-0.7 + 0.2 * random.normal(size=(n, k))))


def as_full(posterior: DiagonalPosterior) -> FullPosterior:
    with double_precision():
        lower = jax.vmap(jnp.diag)(jnp.exp(posterior.log_scale))
        return FullPosterior(posterior.mean, lower, posterior.log_scale)


@pytest.mark.parametrize("table", ["weighted", "missing"])
def test_the_bound_is_that_of_the_rows_gaussians(table: str) -> None:
    """In both forms, and a full Gaussian that is diagonal has the same."""
    known = TABLES[table]
    block = block_of(known)
    n, p = known.y.shape
    sigma = known.loadings @ known.loadings.T
    with double_precision():
        coef = jnp.asarray(known.coef)
        origin = coef + 0.3
        posterior = posterior_of(n, p)
        direct = DirectBound(Fixed(jnp.asarray(sigma)), coef)
        unknown = posterior.mean + block.x @ origin, posterior.log_scale
        expected = float(at_once(lambda *of: direct.value(direct.measure((), *of)[1])[0], unknown, block))
        model = Model(coef, jnp.asarray(np.linalg.cholesky(sigma)))
        for one in (posterior, as_full(posterior)):
            terms = at_once(bound_terms, DirectLatent(origin), one, model, block)
            found = block.weights @ terms.objective
            laws.value_is_the_twins(float(found), expected)
        small = jnp.asarray(known.loadings[:, :2])
        factor, posterior = FactorBound(FrozenLoadings(coef, small)), posterior_of(n, 2)
        unknown = posterior.mean, posterior.log_scale
        expected = float(at_once(lambda *of: factor.value(factor.measure((), *of)[1])[0], unknown, block))
        for one in (posterior, as_full(posterior)):
            terms = at_once(bound_terms, FactorLatent(), one, Model(coef, small), block)
            found = block.weights @ terms.objective
            laws.value_is_the_twins(float(found), expected)


@pytest.mark.parametrize("model", ["full", "shrunk", "fixed", "rank", "basis"])
def test_refitting_at_the_optimum_of_the_bound_changes_nothing(model: str) -> None:
    """The bound's optimum is the M-step's fixed point; from elsewhere the M-step comes back to it."""
    recipe, block = recipe_of(model, TABLES["weighted"]), block_of(TABLES["weighted"])
    with double_precision():
        best = phases.fit_variational(recipe, block, phases.Settings(20_000, 1e-13, 0.0))
        assert best.rows is not None
        free = root_of(recipe)
        coef, loadings = best.model
        away = free.expand(free.collapse(coef + 0.2, 0.8 * loadings))
        found, _ = refit(recipe, block, RowMoments(*best.rows), Model(*away))
        wanted, told = (np.asarray(m.loadings) for m in (best.model, found))
        np.testing.assert_allclose(np.asarray(found.coef), np.asarray(coef), atol=2e-4)
        np.testing.assert_allclose(told @ told.T, wanted @ wanted.T, atol=2e-4)
        full = RowMoments(best.rows.mean, jax.vmap(jnp.diag)(best.rows.variance))
        again, _ = refit(recipe, block, full, best.model)
        np.testing.assert_allclose(np.asarray(again.coef), np.asarray(found.coef), atol=1e-6)


@pytest.mark.parametrize("form", ["direct", "factor"])
def test_free_steps_lower_no_row_and_end_at_its_best_gaussian(form: str) -> None:
    """From far away; the end is where the gradient of the diagonal bound is zero."""
    table = TABLES["missing"]
    block = block_of(table)
    n, p = table.y.shape
    with double_precision():
        coef, y = jnp.asarray(table.coef), block.y
        sigma = jnp.asarray(table.loadings @ table.loadings.T)
        if form == "direct":
            law = Law(jnp.eye(p), jnp.linalg.inv(sigma))
            bound: Any = DirectBound(Fixed(sigma), coef)
            rows = Seen(y, block.offset, block.x @ coef)
        else:
            law = Law(jnp.asarray(table.loadings[:, :2]), jnp.eye(2))
            bound = FactorBound(FrozenLoadings(coef, law.outward))
            rows = Seen(y, block.offset + block.x @ coef, jnp.zeros((n, 2)))
        place = tuple(2 * a for a in jax.tree.leaves(posterior_of(n, law.outward.shape[1])))
        row_bound = jax.jit(lambda *row: bound.value(bound.measure((), *row)[1])[0])
        values = []
        for _ in range(12):
            alone = [jax.tree.map(lambda a, i=i: a[i : i + 1], (place, block)) for i in (0, 7)]
            values.append([float(row_bound(*row)) for row in alone])
            place = climb(law, rows, *place, steps=2)
        values = np.array(values)
        assert np.all(np.diff(values, axis=0) > -1e-9 * np.abs(values[:-1]))
    _, _, _, slopes = laws.value_and_slopes(bound, (), place, block)
    for slope in slopes:
        np.testing.assert_allclose(slope, 0, atol=1e-4)


@cache
def amortised(**options: Any) -> Any:
    return fit(MANY, method=Amortised(epochs=10, **options), rank=2)


@cache
def variational() -> Any:
    return fit(MANY, method="variational", rank=2)


def test_the_bound_is_near_the_free_one() -> None:
    """Below it, within 0.05 nats a row; free steps close nine tenths of what is left."""
    best, one, refined = variational(), amortised(), amortised(refine=3)
    gaps = [(best.elbo_ - each.elbo_) / len(MANY.y) for each in (one, refined)]
    assert one.converged_ and -1e-6 < gaps[0] < NEAR
    assert -1e-6 < gaps[1] < gaps[0] / 10
    unit = laws.complete_errors(best.coef_, best.covariance_, MANY.x, MANY.weights)
    apart = laws.flat(one.coef_, one.covariance_) - laws.flat(best.coef_, best.covariance_)
    assert laws.root_mean_square(apart, unit) < 1


def test_full_covariances_are_above_the_diagonal_bound() -> None:
    """And below the best full Gaussians at the same parameters."""
    one = amortised(posterior="full", refine=3)
    assert one.elbo_ > variational().elbo_
    with double_precision():
        block = block_of(MANY)
        rows = fit_rows(block, *(jnp.asarray(a) for a in (one.result_.coef, one.result_.loadings)))
        best = float(block.weights @ rows.bound)
    assert one.elbo_ <= best + 1e-6 * abs(best)
    assert best - one.elbo_ < NEAR * len(MANY.y)


@pytest.mark.parametrize("options", [{}, {"refine": 3}, {"posterior": "full", "refine": 3}])
def test_new_rows_are_embedded_as_the_old_ones_were(options: dict[str, Any]) -> None:
    """One by one or together, to single precision; with free steps, where the bound's own rows are."""
    one = amortised(**options)
    arguments = MANY.rows(slice(0, 5)).arguments()
    arguments.pop("weights")
    mean, variance = one.transform(arguments.pop("Y"), **arguments, return_variance=True)
    np.testing.assert_allclose(mean, one.latent_mean_[:5], atol=1e-4)
    np.testing.assert_allclose(variance, one.latent_variance_[:5], rtol=1e-3)
    correlation = [
        np.corrcoef(one.latent_mean_[:, k], variational().latent_mean_[:, k])[0, 1] for k in (0, 1)
    ]
    assert np.min(np.abs(correlation)) > 0.98


@pytest.mark.parametrize("model", ["full", "spherical", "fixed", "basis"])
def test_every_form_is_fitted(model: str) -> None:
    """Forty rows with missing counts: below the bound's optimum, with free steps next to it; as a file the same."""
    table = TABLES["missing"]
    best = fit(table, method="variational", **MODELS[model])
    one = fit(table, method=Amortised(refine=10, hidden=(8,), epochs=2), **MODELS[model])
    assert np.all(np.isfinite(one.latent_mean_)) and one.latent_mean_.shape == best.latent_mean_.shape
    assert best.elbo_ - 2 < one.elbo_ < best.elbo_ + 1e-6


def test_the_decoder_may_climb_with_the_network() -> None:
    one = amortised(decoder="gradient")
    assert (variational().elbo_ - one.elbo_) / len(MANY.y) < NEAR


def test_a_kept_fit_embeds_as_before(tmp_path: Path) -> None:
    options = Amortised(posterior="full", refine=1, hidden=(8, 4), epochs=1)
    one = fit(TABLES["missing"], method=options, tol=100.0, **MODELS["full"])
    one.save(tmp_path / "fit.npz")
    other = poplin.load(tmp_path / "fit.npz")
    np.testing.assert_array_equal(other.latent_mean_, one.latent_mean_)
    assert other.elbo_ == one.elbo_ and other.loglik_ == one.loglik_


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Amortised("wide"), "'diagonal', 'full'"),
        (Amortised(decoder="both"), "'exact', 'gradient'"),
        (Amortised(refine=-1), "0 or more"),
        (Amortised(hidden=()), "hidden"),
        (Amortised(rate=0.0), "rate"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: Any, words: str) -> None:
    with pytest.raises(poplin.InputError, match=words):
        poplin.PLN(method=options).fit(TABLES["plain"].y)


def test_standard_errors_need_the_bootstrap() -> None:
    with pytest.raises(poplin.InputError, match="n_boot"):
        amortised().standard_errors()


def test_the_usual_fit_is_not_touched() -> None:
    assert fitted("rank", "variational").result_.encoder is None
