"""NumPyro as an oracle: the same model and draws give the same bound, importance-weighted bound and gradients.

Skipped where NumPyro is not installed (it is in the extra `test`). Start at `densities`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poplin._numerics import double_precision
from poplin.rows.frames import (
    Diagonals,
    DirectFrame,
    FactorFrame,
    ImportanceWeighted,
    Place,
    Reparameterised,
    Score,
    noise,
)
from tests.instances import TABLES, block_of
from tests.tolerances import STANDARD_ERRORS

numpyro = pytest.importorskip("numpyro", reason="NumPyro is not installed")

DRAWS = 6
FEW = TABLES["weighted"].rows(slice(0, 4))._replace(weights=np.ones(4))


def place_of(form: str) -> tuple[Place, Diagonals]:
    """Parameters, rows and diagonal Gaussians of w (rank 2), or of Z."""
    random = np.random.default_rng(5)
    with double_precision():
        block, coef = block_of(FEW), jnp.asarray(FEW.coef)
        loadings = jnp.asarray(FEW.loadings if form == "direct" else FEW.loadings[:, :2])
        shape = len(FEW.y), loadings.shape[1]
        centre = block.x @ coef if form == "direct" else 0.0
        rows = Diagonals(
            jnp.asarray(centre + 0.3 * random.normal(size=shape)),
            jnp.asarray(-0.7 + 0.2 * random.normal(size=shape)),
        )
        return Place(DirectFrame() if form == "direct" else FactorFrame(), coef, loadings, block), rows


def model_of(form: str, place: Place) -> Any:
    """The model as NumPyro writes it."""
    import numpyro.distributions as law

    block, coef, loadings = place.block, place.coef, place.loadings
    n, q = len(block.y), loadings.shape[1]

    def model() -> None:
        base = block.x @ coef
        with numpyro.plate("rows", n):
            if form == "direct":
                latent = numpyro.sample("latent", law.MultivariateNormal(base, scale_tril=loadings))
                predictor = latent
            else:
                latent = numpyro.sample("latent", law.Normal(jnp.zeros((n, q)), 1.0).to_event(1))
                predictor = base + latent @ loadings.T
            numpyro.sample("y", law.Poisson(jnp.exp(block.offset + predictor)).to_event(1), obs=block.y)

    return model


def guide_of(rows: Diagonals) -> Any:
    """The rows' Gaussians as NumPyro writes them."""
    import numpyro.distributions as law

    def guide() -> None:
        with numpyro.plate("rows", len(rows.mean)):
            numpyro.sample("latent", law.Normal(rows.mean, jnp.exp(rows.log_sd)).to_event(1))

    return guide


def densities(form: str, place: Place, rows: Diagonals, unit: jax.Array) -> jax.Array:
    """Log p(y_i, latent) - log q(latent) of every draw and row by NumPyro, (s, n)."""
    from numpyro import handlers

    def of_draw(e: jax.Array) -> jax.Array:
        held = {"latent": rows.mean + jnp.exp(rows.log_sd) * e}
        total = []
        for function in (model_of(form, place), guide_of(rows)):
            sites = handlers.trace(handlers.substitute(function, held)).get_trace()
            total.append(sum(s["fn"].log_prob(s["value"]) for s in sites.values() if s["type"] == "sample"))
        return total[0] - total[1]

    return jnp.stack([of_draw(e) for e in unit])


@pytest.mark.parametrize("form", ["direct", "factor"])
def test_bounds_and_gradients_are_numpyros(form: str) -> None:
    """The bound, the importance-weighted bound, and the reparameterised gradient, draw for draw."""
    place, rows = place_of(form)
    with double_precision():
        unit = noise(jax.random.key(2), place.block.index, DRAWS, rows.mean.shape[1])

        def value(rows: Diagonals) -> jax.Array:
            return jnp.sum(jnp.mean(densities(form, place, rows, unit), axis=0))

        ratios = np.asarray(densities(form, place, rows, unit))
        found = Reparameterised().slopes(place, rows, unit)
        np.testing.assert_allclose(found.value, ratios.mean(axis=0), rtol=1e-10)
        weighted = ImportanceWeighted().slopes(place, rows, unit)
        expected = np.logaddexp.reduce(ratios, axis=0) - np.log(DRAWS)
        np.testing.assert_allclose(weighted.value, expected, rtol=1e-10)
        slope = jax.grad(value)(rows)
        np.testing.assert_allclose(found.mean, slope.mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found.log_sd, slope.log_sd, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("form", ["direct", "factor"])
def test_means_are_those_of_numpyros_own_estimators(form: str) -> None:
    """`Trace_ELBO` with draws of its own, and the mean of our score-function gradient against its gradient."""
    from numpyro.infer import Trace_ELBO

    place, rows = place_of(form)
    with double_precision():
        model, many = model_of(form, place), 4000

        def theirs(rows: Diagonals) -> jax.Array:
            return -Trace_ELBO(num_particles=many).loss(jax.random.key(3), {}, model, guide_of(rows))

        value, slope = jax.jit(jax.value_and_grad(theirs))(rows)
        unit = noise(jax.random.key(4), place.block.index, many, rows.mean.shape[1])
        slopes = jax.jit(jax.vmap(lambda e: Score(True, False).slopes(place, rows, e[None])))(unit)
    ours = np.asarray(slopes.value).sum(axis=1)
    assert abs(ours.mean() - float(value)) < STANDARD_ERRORS * ours.std() * np.sqrt(2 / many)
    for mine, their in ((slopes.mean, slope.mean), (slopes.log_sd, slope.log_sd)):
        mine = np.asarray(mine)
        # their gradient goes through the draws and varies far less than ours
        error = mine.std(axis=0) * np.sqrt(2 / many)
        assert np.all(np.abs(mine.mean(axis=0) - np.asarray(their)) < STANDARD_ERRORS * error)
