"""Laws of Monte-Carlo EM: its maximum is that of quadrature and of "ml"; its chains leave the posterior as it is.

Start at `test_it_agrees_with_quadrature`. Units are complete-data standard errors.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import poplin
from poplin._numerics import double_precision
from poplin.fitting.alternatives import mixing
from poplin.rows import chains as nuts
from poplin.rows.gaussian import fit_rows
from poplin.rows.nodes import joint_nodes
from poplin.updates.structure import Model
from tests import laws
from tests.instances import TABLES, Table, fit, fitted
from tests.rowcases import CASES, device
from tests.tolerances import STANDARD_ERRORS

CASE = ("low", 2)  # the posterior is skewed


def test_chains_leave_the_posterior_as_it_is() -> None:
    """Means of the latent position times surprise, which the scores are made of, against quadrature."""
    block, coef, loadings = device(CASES[CASE])
    with double_precision():
        exact = np.asarray(joint_nodes(40, 2).integrals(block, coef, loadings).tilted)

        @jax.jit
        def run(key, block, coef, loadings):
            first = nuts.begin(fit_rows(block, coef, loadings))

            def step(chains, s):
                chains, rate = nuts.nuts_move(
                    jax.random.fold_in(key, s), chains, block, coef, loadings, adapt=1.0 * (s < 50)
                )
                return chains, (block.y - rate)[:, :, None] * nuts.latent(chains)[:, None, :]

            return jax.lax.scan(step, first, jnp.arange(450))[1][50:].mean(axis=0)

        means = np.stack([run(jax.random.key(seed), block, coef, loadings) for seed in range(16)])
    error = means.std(axis=0, ddof=1) / np.sqrt(len(means))
    gap = (means.mean(axis=0) - exact) / error
    assert np.sqrt(np.mean(gap**2)) < 1.5, "root mean square, in standard errors of 16 chains"
    assert np.abs(gap).max() < 1.5 * STANDARD_ERRORS


@pytest.mark.parametrize("model", ["diagonal", "rank"])
def test_it_agrees_with_quadrature(model: str) -> None:
    """Columns apart, and two latent dimensions: within four of the Monte-Carlo errors that the rule asks for."""
    settings = {"diagonal": {"covariance": "diagonal"}, "rank": {"rank": 2}}[model]
    table = TABLES["plain"]
    best = fit(table, method="exact", **settings)
    one = fit(table, method="mcmc", **settings)
    unit = laws.complete_errors(best.coef_, best.covariance_, table.x, table.weights)
    expected = laws.flat(best.coef_, best.covariance_)
    gap = laws.flat(one.coef_, one.covariance_) - expected
    assert one.converged_
    assert laws.root_mean_square(gap, unit * (expected != 0)) < STANDARD_ERRORS * 0.1


def test_it_agrees_with_ml() -> None:
    """A free Sigma, unshrunk, weighted rows."""
    other = fitted("full", "ml", "weighted")
    one = fit(TABLES["weighted"], method=poplin.methods.MCMC(draws=10), shrinkage=0)
    unit = laws.complete_errors(
        other.coef_, other.covariance_, TABLES["weighted"].x, TABLES["weighted"].weights
    )
    gap = laws.flat(one.coef_, one.covariance_) - laws.flat(other.coef_, other.covariance_)
    assert laws.root_mean_square(gap, unit) < STANDARD_ERRORS * np.hypot(0.1, 0.2)
    assert one.rhat_.shape == one.chain_effective_draws_.shape == (len(TABLES["weighted"].y),)
    assert np.nanmax(one.rhat_) < 1.1 and np.nanmin(one.chain_effective_draws_) > 100
    assert one.draws_[0] == 10 and np.all(np.diff(one.draws_) >= 0)


@pytest.mark.parametrize("q", [1, 2])
def test_chains_mix(q: int) -> None:
    """R-hat near one and draws that count, of skewed posteriors of one and two dimensions."""
    table: Table = CASES["low", q]
    block, coef, loadings = device(table)
    with double_precision():
        found = mixing(block, Model(coef, loadings), jax.random.key(0))
    assert found["rhat_"].shape == (len(table.y),) and np.all(found["rhat_"] < 1.1)
    assert np.all(found["chain_effective_draws_"] > 100)
