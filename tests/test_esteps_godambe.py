"""Laws of the pairwise composite likelihood's standard errors.

Start at `test_a_row_moves_the_estimates_as_refitting_says`: the derivative of the estimates in a row's weight.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import poplin
from poplin._numerics import double_precision
from poplin.estimators import standard_errors
from poplin.inference.sandwich import Margins, deviations
from poplin.methods.moments import correlations
from poplin.methods.options import Composite
from poplin.rows.nodes import joint_nodes
from tests import laws
from tests.instances import autoregressive, block_of, fit, simulated

SMALL = simulated(81, np.linalg.cholesky(0.6 * autoregressive(3, 0.5)), n=60, level=1.0, offsets=0.3)
STEP = 0.05  # of a row's weight
OPTIONS = Composite(order=14, margin_order=40)


def estimates(table: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """B, the upper triangle of Sigma with correlations found to the last digit, and the fit."""
    one = fit(table, method=OPTIONS, shrinkage=0)
    scale = np.sqrt(np.diag(one.covariance_))
    j, k = np.triu_indices(3)
    apart = np.flatnonzero(j != k)
    with double_precision():
        found, settled = correlations(
            joint_nodes(OPTIONS.order, 2),
            block_of(table),
            jnp.asarray(one.coef_),
            jnp.asarray(scale),
            jnp.asarray(np.stack([j, k], axis=1)[apart]),
            jnp.asarray(1e-7),
        )
    assert np.all(settled)
    upper = np.where(j == k, scale[j] ** 2, 0.0)
    upper[apart] = scale[j[apart]] * scale[k[apart]] * np.asarray(found)
    return one.coef_, upper, one


def test_a_row_moves_the_estimates_as_refitting_says() -> None:
    """Central differences of the estimates in the weights of some rows (1 % of the largest change)."""
    table = SMALL._replace(weights=np.tile([1.0, 2.0, 0.5], 20))
    coef, upper, one = estimates(table)
    sigma = np.zeros((3, 3))
    sigma[np.triu_indices(3)] = upper
    sigma = sigma + np.triu(sigma, 1).T
    with double_precision():
        margins = Margins(jnp.asarray(coef), jnp.asarray(np.sqrt(np.diag(sigma))))
        target = standard_errors._margins(OPTIONS.margin_order, one)
        found = deviations(target, joint_nodes(OPTIONS.order, 2), block_of(table), margins, sigma)
    found = [np.asarray(a) / np.sqrt(table.weights)[:, None] for a in found]
    for row in (0, 10, 35):
        ends = []
        for sign in (1, -1):
            weights = table.weights.copy()
            weights[row] += sign * STEP
            ends.append(estimates(table._replace(weights=weights))[:2])
        for which in (0, 1):
            change = (ends[0][which] - ends[1][which]).ravel() / (2 * STEP)
            largest = np.abs(found[which]).max()
            np.testing.assert_allclose(found[which][row], change, atol=0.01 * largest)


def test_they_are_those_of_tables_drawn_from_the_fit() -> None:
    """Forty tables of 300 rows: root mean square ratio of errors, whose own error is 11 % a number."""
    table = simulated(82, np.linalg.cholesky(0.6 * autoregressive(3, 0.5)), n=300, level=1.0)
    one = fit(table, method="composite")
    told, drawn = one.standard_errors(), one.standard_errors(n_boot=40)
    ratio = np.concatenate(
        [(told.coef / drawn.coef).ravel(), (told.covariance / drawn.covariance)[np.triu_indices(3)]]
    )
    assert abs(np.mean(np.log(ratio))) < 4 * 0.11 / np.sqrt(4)


@pytest.mark.parametrize("shape", ["full", "diagonal"])
def test_they_are_near_those_of_maximum_likelihood(shape: str) -> None:
    """For a diagonal Sigma both maximise the same; for a full one no smaller but for chance."""
    table = simulated(83, np.linalg.cholesky(0.6 * autoregressive(3, 0.5)), n=400, level=1.5)
    fits = [fit(table, method=method, covariance=shape, shrinkage=0) for method in ("composite", "ml")]
    ours, theirs = (one.standard_errors() for one in fits)
    for a, b in ((ours.coef, theirs.coef), (np.diag(ours.covariance), np.diag(theirs.covariance))):
        assert np.all(np.abs(np.log(a / b)) < 0.3)
    one = fits[0]
    assert list(one.confint("coef").columns) == ["estimate", "se", "z", "p", "lower", "upper", "method"]
    if shape == "full":
        table_of = one.confint("correlation")
        assert len(table_of) == 3 and np.all(table_of["lower"] < table_of["estimate"])
        assert np.all(np.isfinite(one.standard_errors().eigenvalues))
        unit = laws.complete_errors(one.coef_, one.covariance_, table.x, table.weights)
        gap = laws.flat(one.coef_, one.covariance_) - laws.flat(fits[1].coef_, fits[1].covariance_)
        assert laws.root_mean_square(gap, unit) < 1
    else:
        assert np.all(ours.covariance[np.triu_indices(3, 1)] == 0)


def test_other_forms_are_sent_to_the_bootstrap() -> None:
    one = fit(SMALL, method="composite", covariance="spherical")
    with pytest.raises(poplin.InputError, match="n_boot"):
        one.standard_errors()
