"""Amortised fits over blocks of rows: near the bound of free Gaussians, with an M-step that is that of the whole table.

Start at `test_the_bound_is_near_the_free_one`. How tables are cut into blocks is in `blockwise.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import poplin
from poplin import fit as loop
from poplin._numerics import double_precision
from poplin.data.counts import as_counts
from poplin.data.streams import Stream
from poplin.fitting.refit import First, Refit, RowMoments, refit
from poplin.fitting.streamed import InBlocks, used_rows
from poplin.methods.options import Amortised
from poplin.updates.structure import Model
from tests.blockwise import TABLE, cut
from tests.instances import BASIS, autoregressive, orthonormal, recipe_of
from tests.tolerances import close

NEAR = 0.05  # nats a row
SHORT = Amortised(hidden=(8,), epochs=1, refine=3, rate=0.01)
FITS: dict[str, dict[str, Any]] = {
    "full": {"covariance": "full"},
    "diagonal": {"covariance": "diagonal"},
    "fixed": {"covariance": 0.6 * autoregressive(4, 0.5)},
    "rank": {"rank": 2, "method": SHORT._replace(posterior="full")},
    "basis": {"basis": orthonormal(4, 2), "method": SHORT._replace(decoder="gradient")},
}


@pytest.fixture
def in_large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, rows=300)


def amortised(y: Any, **settings: Any) -> Any:
    return poplin.PLN(**{"method": SHORT} | settings).fit(y, X=TABLE.x)


@pytest.mark.parametrize("model", FITS)
def test_the_bound_is_near_the_free_one(model: str, request: pytest.FixtureRequest) -> None:
    """Full Gaussians may be above the bound of diagonal ones."""
    settings = FITS[model]
    posterior = settings.get("method", SHORT).posterior
    free = poplin.PLN(**settings | {"method": "variational", "posterior": posterior}).fit(TABLE.y, X=TABLE.x)
    request.getfixturevalue("in_large_blocks")
    fit = amortised(sparse.csr_array(TABLE.y), **settings)
    assert fit.converged_ and "blocks of rows" in " ".join(fit.messages_)
    assert -1e-6 < (free.elbo_ - fit.elbo_) / len(TABLE.y) < NEAR


@pytest.mark.usefixtures("in_large_blocks")
def test_sparse_and_dense_are_one_table_and_all_can_be_asked(tmp_path: Any) -> None:
    given = sparse.csr_matrix(TABLE.y)
    fit, dense = (amortised(y, rank=2, tol=0.1) for y in (given, TABLE.y))
    assert np.array_equal(fit.coef_, dense.coef_) and np.array_equal(fit.covariance_, dense.covariance_)
    assert close(fit.elbo_, dense.elbo_) and close(fit.latent_mean_, dense.latent_mean_, 100)
    assert close(fit.transform(given[:7], X=TABLE.x[:7]), fit.latent_mean_[:7], 100)
    with pytest.raises(poplin.InputError, match="n_boot"):
        fit.standard_errors()
    fit.save(tmp_path / "fit.npz")
    again = poplin.load(tmp_path / "fit.npz")
    assert np.array_equal(again.latent_mean_, fit.latent_mean_) and again.elbo_ == fit.elbo_


def stop(progress: Any) -> None:
    """Ctrl-C after the second round."""
    if progress.phase == "amortised" and progress.iteration == 2:
        raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
@pytest.mark.usefixtures("in_large_blocks")
def test_a_stopped_fit_goes_on_to_the_same_numbers(tmp_path: Any) -> None:
    given, how = sparse.csr_matrix(TABLE.y), {"rank": 2, "tol": 0.1, "max_iter": 4}
    whole = amortised(given, **how)
    kept = how | {"checkpoint": tmp_path / "checkpoint.npz"}
    stopped, again = amortised(given, callback=stop, **kept), amortised(given, **kept)
    assert stopped.interrupted_ and not again.interrupted_
    assert np.array_equal(again.coef_, whole.coef_) and np.array_equal(again.covariance_, whole.covariance_)
    assert np.array_equal(again.trace_["objective"], whole.trace_["objective"], equal_nan=True)


@pytest.mark.parametrize("model", ["shrunk", "rank", "basis"])
@pytest.mark.usefixtures("in_large_blocks")
def test_the_m_step_over_blocks_is_that_of_the_whole(model: str) -> None:
    """Each row's Gaussian belongs to its number."""
    recipe, random = recipe_of(model, TABLE), np.random.default_rng(5)
    q = 4 if model == "shrunk" else 2
    mean, variance = 0.3 * random.normal(size=(1200, q)), np.exp(0.2 * random.normal(size=(1200, q)))
    root = np.eye(4) if q == 4 else 0.5 * BASIS
    with double_precision():
        parts = Stream(as_counts(TABLE.y, X=TABLE.x), seed=0, kind=jnp.float64)
        model_ = Model(jnp.asarray(TABLE.coef), jnp.asarray(root))
        blocks = [parts.block(k) for k in range(parts.blocks)]
        whole = jax.tree.map(lambda *a: jnp.concatenate(a), *blocks)

        def rows(block: Any) -> RowMoments:
            index = np.asarray(block.index)
            return RowMoments(jnp.asarray(mean[index]), jnp.asarray(variance[index]))

        wanted = refit(recipe, whole, rows(whole), model_)[0]
        found = loop.run_blocks(
            Refit(recipe),
            lambda k, block: First(model_, rows(block)),
            parts,
            phase="refit",
            max_iter=50,
            began=0.0,
            many=parts.blocks,
        )
    assert found.converged
    for one, other in zip(found.state.model, wanted, strict=True):
        assert close(one, other)


@pytest.mark.usefixtures("in_large_blocks")
def test_rows_without_weight_teach_nothing() -> None:
    weights = (np.arange(1200) % 3 == 0).astype(float)
    blocks = InBlocks(as_counts(TABLE.y, weights=weights), 0).single
    seen = [used_rows(blocks.block(k)) for k in range(blocks.blocks)]
    assert all(block is not None and np.all(block.weights == 1) for block in seen)
    found = np.unique(np.concatenate([np.asarray(block.index) for block in seen if block is not None]))
    assert np.array_equal(found, np.flatnonzero(weights))
