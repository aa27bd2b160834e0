"""Laws of the fits by the bound, with a diagonal or a full Gaussian for each row.

Start at `test_bound_of_a_larger_family_is_higher`. Then: what a diagonal Sigma decouples, what weights and the order
of rows and columns mean, and how estimates follow the units of covariates and offsets.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import poplin
from poplin import starts
from poplin._numerics import double_precision
from tests.instances import (
    COLUMNS,
    DOUBLED,
    METHODS,
    MODELS,
    ROWS,
    TABLES,
    Table,
    fit,
    fitted,
    settings_of,
)
from tests.laws import assert_close, same_fit

TOLERANCE = 1e-9  # of a fit, relative to its bound: two optima may differ by that much for no reason
TIGHT = 1e-13  # where parameters are compared: they are known to the root of the tolerance
SHRUNK_FULL = ("shrunk", "full posterior")  # does not converge yet, see test_ascent
CASES = [
    (model, method)
    for model in MODELS
    for method in ("variational", "full posterior")
    if (model, method) != SHRUNK_FULL
]


def tight(table: Table, model: str, method: str, **settings: Any) -> Any:
    return fit(table, **{**settings_of(model), **METHODS[method], "tol": TIGHT, **settings})


def slack(value: float) -> float:
    return 10 * TOLERANCE * (1 + abs(value))


@pytest.mark.parametrize("table", ["plain", "weighted", "missing"])
@pytest.mark.parametrize("method", ["variational", "full posterior"])
def test_bound_of_a_larger_family_is_higher(method: str, table: str) -> None:
    """Unshrunk, full >= diagonal >= spherical, in the direct form."""
    full, diagonal, spherical = (fitted(m, method, table).elbo_ for m in ("full", "diagonal", "spherical"))
    assert full > diagonal - slack(full) and diagonal > spherical - slack(diagonal)


@pytest.mark.parametrize("table", ["plain", "weighted", "missing"])
@pytest.mark.parametrize("model", [m for m in MODELS if m != "shrunk"])
def test_full_gaussians_give_a_higher_bound(model: str, table: str) -> None:
    """And the same bound where Sigma is diagonal: each row's best Gaussian is diagonal then."""
    full, diagonal = (fitted(model, method, table).elbo_ for method in ("full posterior", "variational"))
    assert full >= diagonal - slack(diagonal)
    if model in ("diagonal", "spherical"):
        assert abs(full - diagonal) <= slack(diagonal)


@pytest.mark.parametrize("table", ["plain", "weighted", "missing"])
def test_bound_rises_with_rank(table: str) -> None:
    """With full Gaussians up to a Sigma of full rank, as the bound is then the same in both forms."""
    one = fit(TABLES[table], rank=1, method="variational").elbo_
    two = fitted("rank", "variational", table).elbo_
    two_full, all_full = (fitted(m, "full posterior", table).elbo_ for m in ("rank", "full"))
    assert two > one - slack(one) and all_full > two_full - slack(two_full)


@pytest.mark.parametrize("table", ["plain", "weighted", "missing"])
def test_diagonal_sigma_decouples_the_columns(table: str) -> None:
    """One fit of p columns is p fits of one column."""
    whole = tight(TABLES[table], "diagonal", "variational")
    alone = [tight(TABLES[table].columns([j]), "diagonal", "variational") for j in range(COLUMNS)]
    assert abs(sum(one.elbo_ for one in alone) - whole.elbo_) <= 1e-9 * abs(whole.elbo_)
    assert_close(np.column_stack([one.coef_ for one in alone]), whole.coef_, 20, "coef_")
    variances = np.array([one.covariance_[0, 0] for one in alone])
    assert_close(variances, np.diag(whole.covariance_), 20, "variances")


@pytest.mark.parametrize(("model", "method"), CASES)
def test_weight_two_is_a_doubled_row_and_weight_zero_is_none(model: str, method: str) -> None:
    weights = np.ones(ROWS)
    weights[3], weights[-1] = 2, 0
    other = DOUBLED._replace(y=DOUBLED.y.copy(), weights=weights)
    other.y[-1] = 1000  # of no weight
    same_fit(tight(DOUBLED, model, method), tight(other, model, method))


@pytest.mark.parametrize("model", ["full", "rank"])
def test_a_row_of_weight_zero_is_left_out(model: str) -> None:
    table = TABLES["weighted"]
    kept = table.rows(table.weights > 0)
    same_fit(tight(table, model, "variational"), tight(kept, model, "variational"))


@pytest.mark.parametrize("table", ["weighted", "missing"])
@pytest.mark.parametrize(("model", "method"), CASES)
def test_order_of_rows_does_not_matter(model: str, method: str, table: str) -> None:
    order = np.random.default_rng(32).permutation(ROWS)
    one = tight(TABLES[table], model, method)
    other = tight(TABLES[table].rows(order), model, method)
    same_fit(one, other)
    assert_close(other.latent_mean_, one.latent_mean_[order], 20, "latent_mean_")
    assert_close(other.latent_variance_, one.latent_variance_[order], 20, "latent_variance_")


@pytest.mark.parametrize("table", ["weighted", "missing"])
@pytest.mark.parametrize(("model", "method"), CASES)
def test_order_of_columns_does_not_matter(model: str, method: str, table: str) -> None:
    order = np.random.default_rng(33).permutation(COLUMNS)
    back = np.argsort(order)
    one = tight(TABLES[table], model, method)
    other = tight(TABLES[table].columns(order), model, method, **settings_of(model, order))
    assert abs(one.elbo_ - other.elbo_) <= 1e-10 * abs(one.elbo_)
    assert_close(other.coef_[:, back], one.coef_, 10, "coef_")
    assert_close(other.covariance_[back][:, back], one.covariance_, 10, "covariance_")


@pytest.mark.parametrize("method", ["variational", "full posterior"])
@pytest.mark.parametrize("model", ["full", "diagonal", "rank", "basis"])
def test_units_of_covariates_and_offsets(model: str, method: str) -> None:
    """X times 1000 divides its coefficients by 1000; an offset more is as much less in the intercept."""
    table = TABLES["missing"]
    one = tight(table, model, method)
    factor = np.array([1.0, 1000.0])
    scaled = tight(table._replace(x=table.x * factor), model, method)
    scaled.coef_ = scaled.coef_ * factor[:, None]
    same_fit(one, scaled)
    shifted = tight(table._replace(offset=table.offset + 3), model, method)
    shifted.coef_ = shifted.coef_ + np.array([[3.0], [0.0]])
    same_fit(one, shifted)


@pytest.mark.parametrize("method", ["variational", "full posterior"])
@pytest.mark.parametrize("model", ["full", "rank"])
def test_same_seed_same_numbers(model: str, method: str) -> None:
    one, other = (fit(TABLES["plain"], **MODELS[model], **METHODS[method]) for _ in range(2))
    assert one.elbo_ == other.elbo_
    for name in ("coef_", "covariance_", "latent_mean_"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_more_starts_never_lose() -> None:
    """`n_init` keeps the best bound; its other starts are drawn from the seed."""
    few, many = (fit(TABLES["missing"], rank=2, method="variational", n_init=k) for k in (1, 4))
    assert many.elbo_ >= few.elbo_ - slack(few.elbo_)


def test_rare_columns_have_their_counts() -> None:
    """98 % zeros: sum_i A_ij = sum_i y_ij at an optimum with an intercept, and no column runs away to it."""
    random, (n, p, q) = np.random.default_rng(3), (600, 40, 2)
    level = random.normal(-5.0, 1.0, size=p)
    counts = random.poisson(np.exp(level + random.normal(size=(n, q)) @ (0.4 * random.normal(size=(q, p)))))
    counts = counts[:, counts.any(axis=0)]
    found = poplin.PLN(rank=q, method="variational").fit(counts)
    assert found.converged_ and found.coef_.min() > -25
    held = found.variational_
    position = held["coef"] + held["mean"] @ held["loadings"].T
    rate = np.exp(position + 0.5 * held["variance"] @ (held["loadings"] ** 2).T)
    assert np.allclose(rate.sum(axis=0), counts.sum(axis=0), rtol=1e-3)


@pytest.mark.parametrize(("n", "p"), [(7, 30), (30, 7), (3, 30)])
def test_first_axes_are_those_of_the_residuals_covariance(n: int, p: int) -> None:
    """Of a wide table they come from products of rows; three rows have no four axes there."""
    random = np.random.default_rng(n)
    residual, weights = random.normal(size=(n, p)), random.integers(0, 3, n) + 1.0
    with double_precision():
        values, axes = map(
            np.asarray, starts.leading_axes(jnp.asarray(residual), jnp.asarray(weights), rank=4)
        )
    covariance = residual.T @ (weights[:, None] * residual) / weights.sum()
    np.testing.assert_allclose(values, np.linalg.eigvalsh(covariance)[::-1][:4], atol=1e-12)
    np.testing.assert_allclose(axes.T @ axes, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(covariance @ axes, axes * values, atol=1e-12)
