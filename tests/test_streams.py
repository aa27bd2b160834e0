"""Tables whose rows are dense a block at a time give what whole tables give; what cannot be done with them is said.

Start at `in_blocks` of `conftest.py`, which cuts tables into blocks. Fits of the bound are in `test_streams_bound.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import poplin
from poplin._numerics import double_precision
from poplin.data.blocks import Block, as_block
from poplin.data.counts import as_counts
from poplin.data.streams import Stream
from poplin.fitting import streamed
from poplin.methods import ml
from poplin.rows import chains as chain
from poplin.rows.chains import modes
from poplin.rows.gaussian import TOLERANCE
from poplin.updates.direct import Direct
from poplin.updates.low_rank import Borrowed, LowRank
from poplin.updates.structure import AbstractStructure, Full, Model, Transport
from tests.blockwise import TABLE, TABLES
from tests.instances import LOADINGS, orthonormal
from tests.programs import at_once
from tests.tolerances import close

STRUCTURES = {
    "full": Direct(Full(jnp.asarray(0.0))),
    "rank": LowRank(),
    "basis": Borrowed(jnp.asarray(orthonormal(4, 2))),
}
# models of the same 4 columns; Sigma of the table is of full rank
FITS: dict[str, dict[str, Any]] = {
    "full": {},
    "diagonal": {"covariance": "diagonal"},
    "rank": {"rank": 2},
    "basis": {"basis": orthonormal(4, 2)},
}


def stream(y: Any = TABLE.y, **sides: Any) -> Stream:
    """The table in blocks."""
    return Stream(as_counts(y, **sides), seed=0, kind=jnp.float64)


@pytest.mark.filterwarnings("ignore::poplin.DataWarning")
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.usefixtures("in_blocks")
def test_blocks_hold_each_row_once_as_the_whole_table_has_it(name: str) -> None:
    y, sides = TABLES[name]
    dense = y.toarray() if sparse.issparse(y) else y
    with double_precision():
        parts = stream(y, **sides)
        blocks = [parts.block(k) for k in range(parts.blocks)]
        assert len({block.y.shape for block in blocks}) == 1 and parts.blocks == 15
        counts = as_counts(dense, **sides)
        whole = as_block(counts.y, counts.x, counts.offset, counts.weights)
    rows = jax.tree.map(lambda *a: np.concatenate(a), *blocks)
    used = rows.weights > 0
    order = np.argsort(rows.index[used], kind="stable")
    there = np.asarray(whole.weights) > 0
    assert np.array_equal(rows.index[used][order], np.flatnonzero(there))
    parts = (jax.tree.leaves(block._replace(index=None)) for block in (rows, whole))
    for found, wanted in zip(*parts, strict=True):
        assert np.allclose(found[used][order], np.asarray(wanted)[there], rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("in_blocks")
def test_each_block_is_visited_once_before_any_is_again() -> None:
    parts = stream()
    visits = [parts.visits(k, 4) for k in range(8)]  # 15 blocks in four iterations
    for first in (0, 4):
        assert sorted(k for visited in visits[first : first + 4] for k in visited) == list(range(15))
    assert visits[:4] != visits[4:] and visits == [parts.visits(k, 4) for k in range(8)]


def _method(structure: AbstractStructure, whole: float) -> ml.Minibatch:
    return ml.Minibatch(ml.StochasticApproximation(structure, 0.5, 0.2), whole)


def _begun(name: str, block: Block) -> tuple[ml.Minibatch, ml.MinibatchState, ml.Visited]:
    root = jnp.asarray(LOADINGS if name == "full" else orthonormal(4, 2))
    model = Model(jnp.asarray([[0.5] * 4]), root)
    rate = jnp.mean(block.y, axis=0)
    first = ml.MinibatchFirst(model, _at(block, model, rate), rate, jax.random.key(1))
    method = _method(STRUCTURES[name], float(block.weights.sum()))
    return method, *at_once(method.start, first, block)


def _at(block: Block, model: Model, rate: Any) -> ml.Visited:
    def place(block: Block, model: Model, rate: Any) -> ml.Visited:
        return ml.at(modes(block, model.coef, chain.frame(model.loadings, rate)), block.x.shape[1])

    return at_once(place, block, model, rate)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.usefixtures("in_blocks")
def test_sums_over_blocks_are_those_of_the_whole(name: str) -> None:
    """A row's noise belongs to its number, so that its move is the same in whatever block it is."""
    with double_precision():
        parts = stream()
        blocks = [parts.block(k) for k in range(parts.blocks)]
        whole: Block = jax.tree.map(lambda *a: jnp.concatenate(a), *blocks)
        method, state, rows = _begun(name, whole)
        moved, total = at_once(method.move, state, rows, whole)

        def piece(block: Block) -> Any:
            return method.move(state, _at(block, state.inner.model, state.inner.mean_rate), block)

        move = jax.jit(piece)  # blocks have one shape
        pieces = [move(block) for block in blocks]
        added = jax.tree.map(lambda *a: sum(a), *(t for _, t in pieces))
        together = jnp.concatenate([r.position for r, _ in pieces])
    assert close(together, moved.position)
    for one, other in zip(jax.tree.leaves(added), jax.tree.leaves(total), strict=True):
        assert close(one, other)


@pytest.mark.usefixtures("in_blocks")
def test_rows_that_were_not_visited_hear_of_all_that_happened() -> None:
    """Products of transports against one transport after the other."""
    random = np.random.default_rng(0)
    with double_precision():
        block = stream().block(0)
        start = ml.at(jnp.asarray(random.normal(size=(80, 3))), 1)
        before, now, w = start.carried, start.carried, start.position
        for step in range(6):
            turn = jnp.asarray(np.eye(3) + 0.2 * random.normal(size=(3, 3)))
            transport = Transport(turn, jnp.asarray(random.normal(size=(1, 3))))
            now = ml.followed_by(now, transport)
            if step == 2:
                before, w = now, start.position  # a visit: from here on they must be told
            elif step > 2:
                w = w @ transport.turn + block.x @ transport.shift
        missed = ml.since(now, before)
        found = start.position @ missed.turn + block.x @ missed.shift
    assert np.allclose(found, w, rtol=1e-10)


def test_modes_are_where_the_gradient_vanishes() -> None:
    y, root = TABLE.y[:200], jnp.asarray(LOADINGS)
    with double_precision():
        block = as_block(y, np.ones((200, 1)), np.zeros_like(y), np.ones(200))
        coef = jnp.asarray([[0.5] * 4])
        frame = chain.frame(root, jnp.asarray(y.mean(axis=0)))

        def height(w: Any) -> Any:
            predictor = 0.5 + w @ root.T
            return jnp.sum(y * predictor - jnp.exp(predictor), axis=1) - 0.5 * jnp.sum(w**2, axis=1)

        found = {steps: at_once(partial(modes, steps=steps), block, coef, frame) for steps in (0, 1, 12, 200)}
        slope = at_once(jax.grad(lambda w: jnp.sum(height(w))), found[200])
        heights = [np.asarray(height(w)) for w in found.values()]
    assert np.abs(slope).max() < 1e-6
    for lower, higher in zip(heights[:-1], heights[1:], strict=True):
        assert np.all(higher >= lower - 1e-12)
    assert np.mean(heights[3] - heights[2]) < 0.01  # nats: what the usual number of steps leaves


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
@pytest.mark.parametrize("name", FITS)
def test_the_fit_is_that_of_the_whole_table(name: str, request: pytest.FixtureRequest) -> None:
    """Both to half a tenth of complete-data standard errors; observed ones are larger, so a fifth is four errors."""
    settings = FITS[name] | {"shrinkage": 0, "tol": 0.05, "max_iter": 1500}
    whole = poplin.PLN(**settings).fit(TABLE.y)
    errors = whole.standard_errors()
    request.getfixturevalue("in_blocks")
    parts = poplin.PLN(**settings).fit(sparse.csr_matrix(TABLE.y))
    assert not isinstance(parts.counts_.y, np.ndarray)
    free = errors.covariance > 0
    apart = [
        ((parts.coef_ - whole.coef_) / errors.coef).ravel(),
        ((parts.covariance_ - whole.covariance_)[free] / errors.covariance[free]).ravel(),
    ]
    assert max(np.sqrt(np.mean(gap**2)) for gap in apart) < 0.2


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
@pytest.mark.usefixtures("in_blocks")
def test_sparse_and_dense_are_one_table_and_all_can_be_asked(tmp_path: Any) -> None:
    settings: dict[str, Any] = {"rank": 2, "max_iter": 60}
    dense, given = poplin.PLN(**settings).fit(TABLE.y), sparse.csc_matrix(TABLE.y)
    fit = poplin.PLN(**settings).fit(given)
    assert np.array_equal(fit.coef_, dense.coef_) and np.array_equal(fit.covariance_, dense.covariance_)
    assert "blocks of rows" in " ".join(fit.messages_) and "1200 rows, 4 columns" in fit.summary()
    # rows' Gaussians are found to 1e-8 nats, which leaves 1.4e-4 of a standard deviation
    for other in (dense.latent_mean_, fit.transform(given)):
        assert np.abs(fit.latent_mean_ - other).max() < np.sqrt(2 * TOLERANCE)
    assert close(fit.score_samples(TABLE.y[:30]), fit.score_samples(sparse.csr_array(TABLE.y[:30])))
    assert abs(fit.loglik_ - dense.loglik_) < 4 * np.hypot(fit.loglik_se_, dense.loglik_se_)
    assert close(fit.elbo_, dense.elbo_, 10)
    frame = fit.confint("coef")
    assert np.isfinite(frame.drop(columns="method").to_numpy(dtype=float)).all()
    fit.save(tmp_path / "fit.npz")
    again = poplin.load(tmp_path / "fit.npz")
    assert np.array_equal(again.counts_.y.toarray(), TABLE.y) and np.array_equal(
        again.transform(given[:7]), fit.transform(given[:7])
    )


@pytest.mark.usefixtures("in_blocks")
def test_row_totals_need_no_dense_table() -> None:
    y = TABLE.y + 1
    assert np.array_equal(poplin.offsets.tss(sparse.csr_matrix(y)), np.log(y.sum(axis=1)))
    assert np.array_equal(
        as_counts(sparse.csr_matrix(y), offset="tss").offset, as_counts(y, offset="tss").offset
    )


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
@pytest.mark.parametrize(
    ("rank", "phase", "iteration"), [(2, "ml", 6), (2, "ml", 13), (None, "ml", 6), (None, "ml", 9)]
)
@pytest.mark.usefixtures("in_blocks")
def test_a_stopped_fit_goes_on_to_the_same_numbers(
    rank: int | None, phase: str, iteration: int, tmp_path: Any
) -> None:
    """Kept every 4 iterations: what was done after the last time is done again."""

    def stop(told: Any) -> None:
        if told.phase == phase and told.iteration == iteration:
            raise KeyboardInterrupt

    y, settings = sparse.csr_array(TABLE.y), {"rank": rank, "max_iter": 16}
    kept: dict[str, Any] = settings | {"checkpoint": tmp_path / "fit.npz", "checkpoint_every": 4}
    whole = poplin.PLN(**settings).fit(y)
    assert poplin.PLN(**kept, callback=stop).fit(y).interrupted_
    fit = poplin.PLN(**kept).fit(y)
    assert np.array_equal(fit.coef_, whole.coef_) and np.array_equal(fit.covariance_, whole.covariance_)
    for name in ("phase", "objective"):
        assert np.array_equal(fit.trace_[name], whole.trace_[name], equal_nan=name == "objective")
    with pytest.raises(poplin.InputError, match="the counts"):
        poplin.PLN(**kept).fit(sparse.csr_array(TABLE.y + 1))


def test_the_users_matrix_stays_as_it_is(in_blocks: None) -> None:
    rows = np.r_[np.repeat(np.arange(1200), 4), 0]
    doubled = sparse.coo_matrix(
        (np.r_[TABLE.y.ravel(), 3.0], (rows, np.r_[np.tile(np.arange(4), 1200), 1])), shape=(1200, 4)
    )
    held_apart = sparse.csr_matrix((doubled.data, (doubled.row, doubled.col)), shape=doubled.shape)
    before = doubled.copy(), held_apart.copy()
    assert as_counts(doubled).y[0, 1] == TABLE.y[0, 1] + 3 == as_counts(held_apart).y[0, 1]
    assert (before[0] != doubled).nnz == 0 and (before[1] != held_apart).nnz == 0
    assert doubled.nnz == 4801


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another method": (lambda y: poplin.PLN(method="exact").fit(y), "'ml', 'variational'"),
    "ranks": (lambda y: poplin.PLN(rank="auto").fit(y), "The choice among models"),
    "offset": (lambda y: poplin.PLN().fit(y, offset="tmm"), "An offset that compares rows"),
    "negative": (lambda y: poplin.PLN().fit(-y), "negative count"),
    "fractional": (lambda y: poplin.PLN().fit(0.5 * y), "fractional count"),
    "infinite": (lambda y: poplin.PLN().fit(y.astype(float) * np.inf), "infinite count"),
    "missing": (lambda y: poplin.PLN().fit(y * np.nan), r"missing counts \(NaN\)"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.usefixtures("in_blocks")
def test_what_cannot_be_done_is_said(name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises(poplin.InputError, match=words) as told:
        call(sparse.csr_matrix(TABLE.y))
    if name in ("negative", "fractional", "infinite"):
        assert "row 'row" in str(told.value) and "column 'Y" in str(told.value)


def test_columns_that_a_sample_hardly_saw_begin_at_the_level_of_all_their_counts() -> None:
    """Others stay; whatever the sample's fit made of these, loadings are short and expected counts right."""
    random = np.random.default_rng(0)
    y = random.poisson(np.exp([3.0, 2.0, -2.5, -4.0]), (200, 4)).astype(float)
    x = np.column_stack([np.ones(200), random.normal(size=200)])
    offset, totals = random.normal(size=(200, 4)), np.array([1e5, 1e5, 700.0, 0.0])
    wild = random.normal(size=(2, 4)) - np.array([0, 0, 50, 90]), 40 * random.normal(size=(4, 2))
    with double_precision():
        part = as_block(y, x, offset, np.ones(200))
        coef, loadings = map(np.asarray, streamed.tamed(Model(*map(jnp.asarray, wild)), part, totals, 1000.0))
    np.testing.assert_array_equal(coef[:, :2], wild[0][:, :2])
    np.testing.assert_array_equal(loadings[:2], wild[1][:2])
    variance = np.sum(loadings[2:] ** 2, axis=1)
    assert np.all(variance <= 1)
    expected = 5 * np.sum(np.exp(offset[:, 2:] + x @ coef[:, 2:] + 0.5 * variance), axis=0)
    np.testing.assert_allclose(expected, [700, 0.5], rtol=1e-10)
