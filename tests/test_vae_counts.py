"""The Poisson-lognormal autoencoder is the Poisson-lognormal model: its likelihood and its bound, from other rooms.

Start at `test_the_likelihood_is_that_of_the_count_model`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import poplin
from poplin._numerics import double_precision
from poplin.data.blocks import as_block
from poplin.inference.likelihood import row_loglik
from poplin.rows.gaussian import fit_rows
from tests.instances import LOADINGS, orthonormal, simulated
from tests.oracles_neural import quickly as quickly
from tests.tolerances import within_errors

HOW: dict[str, Any] = {
    "likelihood": "poisson-lognormal",
    "posterior": "full",
    "hidden": (32,),
    "kl_warmup": 5,
}
HOW |= {
    "max_epochs": 400,
    "learning_rate": 0.01,
    "schedule": "cosine",
    "patience": None,
    "validation_fraction": 0.0,
}


@cache
def fitted() -> tuple[np.ndarray, np.ndarray, Any]:
    table = simulated(4, LOADINGS[:, :2], n=120)
    offset = 0.3 * np.random.default_rng(0).normal(size=120)
    y = np.random.default_rng(1).poisson(np.exp(table.latent + offset[:, None])).astype(float)
    return y, offset, poplin.VAE(2, batch_size=40, **HOW).fit(y, offset=offset)


def as_model(y: np.ndarray, offset: np.ndarray, fit: Any) -> tuple[Any, Any, Any]:
    """The rows and (B, C) as the rooms of the count model take them."""
    decoder = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), fit.model_.decoder)
    ones = np.ones((len(y), 1))
    block = as_block(y, ones, np.broadcast_to(offset[:, None], y.shape), ones[:, 0], prior=False)
    return block, decoder.intercept[None, :], decoder.loadings()


def test_the_likelihood_is_that_of_the_count_model() -> None:
    y, offset, fit = fitted()
    found = fit.loglik_rows(y, offset=offset, draws=4000, khat=True)
    with double_precision():
        expected = row_loglik(jax.random.key(0), *as_model(y, offset, fit), draws=4000)
    told = found.khat < 0.5
    assert told.mean() > 0.8
    error = np.hypot(found.standard_error, expected.standard_error)
    assert within_errors(found.value[told], expected.value[told], error[told])


def test_no_row_is_above_the_best_gaussian_of_its_own() -> None:
    y, offset, fit = fitted()
    with double_precision():
        best = np.asarray(fit_rows(*as_model(y, offset, fit)).bound)
    gap = best - fit.bound_samples(y, offset=offset)
    assert gap.min() > -1e-5 and gap.mean() < 0.3  # the network's position is near the row's best one


def test_no_fit_is_above_the_best_bound() -> None:
    y, offset, fit = fitted()
    free = poplin.PLN(rank=2, method="variational", posterior="full").fit(y, offset=offset)
    bound = fit.bound_samples(y, offset=offset).sum()
    assert free.elbo_ - 0.5 * len(y) < bound < free.elbo_


def test_a_borrowed_basis_keeps_its_directions() -> None:
    y, offset, _ = fitted()
    basis = orthonormal(4, 2)
    fit = poplin.VAE(2, basis=basis, batch_size=40, **HOW | {"max_epochs": 3, "kl_warmup": 1}).fit(
        y, offset=offset
    )
    loadings = np.asarray(fit.model_.decoder.loadings())
    assert np.allclose(loadings, basis * np.linalg.norm(loadings, axis=0), atol=1e-6)
