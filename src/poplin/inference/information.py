"""Information about (B, Sigma) from draws of the rows' latent positions: of the data at hand, or expected.

Start at `information`. With s_i the complete-data score of row i (see `coordinates.py`) and s-bar_i = E[s_i | y_i], by
Fisher's and Louis' identities

    I = sum_i s-bar_i s-bar_i'  (in expectation),    I = E[complete information] - sum_i Cov(s_i | y_i)  (observed).

The first may be summed over the data (their counts as they are) or over counts simulated under the fitted model at the
rows' covariates and offsets, as many as are wanted: the expected information. The draws are a method on the loop whose
parameters do not move. Source: Louis (1982), Finding the observed information matrix when using the EM algorithm.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._axes import Scalar
from poplin._compile import compiled
from poplin.data.blocks import Block
from poplin.fit import Outcome, Progress, run
from poplin.fit import ahead as compile_ahead
from poplin.inference.coordinates import Coordinates
from poplin.inference.score_draws import SETS, Draws, First, RowScores, State, cast
from poplin.rows.gaussian import fit_rows
from poplin.rows.plane import rates

PHASE = "information"
SETTLING = 16  # moves before draws are used
PARTING = 8  # the same of simulated rows, which begin at a draw already, both sets at the same
LARGEST_RATE = 1e15  # of a simulated count
NUMBERS = 16_000_000  # most numbers in one array of a slice of rows


class Information(NamedTuple):
    """Sums over rows; parts over slices of rows add up.

    products (K, K): sum_i s-bar s-bar', from both sets; products_gap (K, K): half the difference between its two sides,
    of the size of its Monte-Carlo noise; whole (K, K): the same with both sets in each s-bar, too large by the noise
    left in it, but never negative; score (K,): sum_i s-bar; rows: sum of weights; squares: sum of their squares.
    observed (K, K), observed_gap (K, K): by Louis' identity, the mean of both sets and half their difference, or None.
    by_group (2, G, K): of each set the sums of s-bar over the groups of rows that were asked for, or None.
    """

    products: Array
    products_gap: Array
    whole: Array
    score: Array
    rows: Scalar
    squares: Scalar
    observed: Array | None
    observed_gap: Array | None
    by_group: Array | None = None


@compiled()
def _scores_of_rows(here: Coordinates, rows: RowScores, weights: Array) -> Array:
    """The rows' mean scores from each set, times their weights, (2, n, K)."""
    n, kind = len(rows.centre), rows.centre.dtype
    plain = cast(here, kind)
    both = jnp.stack([plain.mean_scores(part) for part in (rows.mean[:n], rows.mean[n:])])
    return weights[:, None] * both.astype(jnp.float64)


@compiled()
def _reduced(here: Coordinates, state: State, rows: RowScores, block: Block) -> Information:
    n, kind = len(rows.centre), rows.centre.dtype
    weights, plain = block.weights[:n].astype(jnp.float64), cast(here, kind)
    one, other = (plain.mean_scores(part) - rows.centre for part in (rows.mean[:n], rows.mean[n:]))
    weighted = weights.astype(kind)[:, None]

    def across(left, right):
        product = ((left * weighted).T @ right).astype(jnp.float64)
        return 0.5 * (product + product.T), 0.5 * (product - product.T)

    products, products_gap = across(rows.centre + one, rows.centre + other)
    observed, observed_gap = None, None
    if state.sums is not None:
        x = block.x[:n].astype(jnp.float64)
        gram, total = x.T @ (weights[:, None] * x), jnp.sum(weights)
        about_centre = across(one, other)[0]
        first, second = (
            here.complete(total, gram, state.sums.hessian[g]) - state.sums.second[g] + about_centre
            for g in range(SETS)
        )
        observed, observed_gap = 0.5 * (first + second), 0.5 * (first - second)
    mean = rows.centre + 0.5 * (one + other)
    whole, score = across(mean, mean)[0], weights @ mean.astype(jnp.float64)
    squares = jnp.sum(weights**2)
    return Information(
        products, products_gap, whole, score, jnp.sum(weights), squares, observed, observed_gap
    )


@compiled(static_argnames="kind")
def _from_data(here: Coordinates, block: Block, key: Array, kind) -> tuple[First, Block]:
    """Chains at draws from the rows' best Gaussians."""
    mean, covariance, _, _ = fit_rows(block, here.model.coef, here.model.loadings)
    spread = jnp.einsum("jk,nkl,jl->nj", here.model.loadings, covariance, here.model.loadings)
    base = block.offset + block.x @ here.model.coef
    rate = rates(base + mean @ here.model.loadings.T + 0.5 * spread)
    centre = here.expected_scores(mean, covariance, rate, block)
    both = _both_sets(block, jnp)
    noise = _normals(key, both.index, mean.shape[1])
    root = jnp.tile(jnp.linalg.cholesky(covariance), (SETS, 1, 1))
    position = jnp.tile(mean, (SETS, 1)) + jnp.einsum("nkl,nl->nk", root, noise)
    centre, both = (cast(a, kind) for a in (centre, both))
    return First(here.model.loadings, position, rate, centre, jax.random.fold_in(key, 3)), both


def _simulated(here: Coordinates, block: Block, key: Array, *, kind) -> tuple[First, Block]:
    """Counts drawn from the model at the rows' covariates and offsets; chains at the positions that they came from.

    Those positions are draws from p(w | y) already; moves that are not used part the two sets. By NumPy, which has
    nothing to compile: JAX's Poisson draws take longer to compile than all the rest.
    """
    block = jax.tree.map(np.asarray, block)
    coef, loadings = (np.asarray(a) for a in here.model)
    random = np.random.default_rng([*np.asarray(jax.random.key_data(key)), int(block.index[0])])
    position = random.standard_normal((len(block.index), loadings.shape[1]))
    base = block.offset + block.x @ coef
    rate = np.exp(np.minimum(base + position @ loadings.T, np.log(LARGEST_RATE)))
    counts = random.poisson(rate).astype(float)
    # of the counts alone: the chains' law must not know where they start
    mass = counts + 0.5 * np.exp(np.minimum(base, 0.0))
    centre = np.zeros((len(position), 1))  # whatever the numbers of a view
    both = _both_sets(block._replace(y=counts), np)
    centre, both = jax.tree.map(jnp.asarray, (cast(centre, kind), cast(both, kind)))
    position, mass = jnp.asarray(np.tile(position, (SETS, 1))), jnp.asarray(mass)
    return First(here.model.loadings, position, mass, centre, key), both


def _both_sets(block: Block, arrays: Any) -> Block:
    """Every row twice; `arrays` is NumPy, or JAX's."""
    both = jax.tree.map(lambda a: arrays.tile(a, (SETS,) + (1,) * (a.ndim - 1)), block)
    return both._replace(index=arrays.concatenate([SETS * block.index + g for g in range(SETS)]))


def _normals(key: Array, index: Array, size: int) -> Array:
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (size,)))(index)


Views = Sequence[Callable[[], Coordinates]]


class Groups(NamedTuple):
    """The group of each row of the table (n,), how many there are, and the weight of each row in its group's sum."""

    of_row: np.ndarray
    count: int
    weights: np.ndarray


class Request(NamedTuple):
    """How information is found.

    `louis`: by Louis' identity too, not by products alone; `copies`: simulated copies of each row (0: the data);
    `draws` a set and row; `kind`: precision of the chains; `callback` is told of progress; `groups` of the data's rows,
    whose sums of scores are wanted.
    """

    key: Array
    louis: bool = False
    copies: int = 0
    draws: int = 64
    kind: Any = jnp.float32
    groups: Groups | None = None
    callback: Callable[[Progress], None] | None = None


def information(block: Block, here: Coordinates, request: Request) -> Information:
    """Information about (B, Sigma) in the numbers of `Coordinates`, see the head of this file.

    Rows are taken in slices whose memory is bounded; their parts add up. Raises KeyboardInterrupt on Ctrl-C. Cost, for
    n rows (times copies): draws x 2 moves of each, with n k m numbers; n K^2 products once, with Louis' identity twice
    a draw; memory n k m and K^2 numbers.
    """
    return informations(block, here, (lambda: here,), request)[0]


def informations(block: Block, here: Coordinates, views: Views, request: Request) -> list[Information]:
    """The same for several sets of numbers along which the model moves, from one set of draws.

    A view is made when it is needed and differs from `here` in its `tie` alone.
    """
    copies = max(request.copies, 1)
    slices, each = _slices(block, here, copies)
    method, began = _draws(here, request), time.perf_counter()
    inside, total = request if slices == 1 else request._replace(callback=None), None
    for k in range(slices):
        part = block if slices * copies == 1 else _slice(block, k * each, each, copies)
        outcome, both = _of_slice(method, part, inside)
        found = [_told(view(), outcome, both, request.groups) for view in views]
        total = found if total is None else jax.tree.map(np.add, total, found)
        if slices > 1 and request.callback is not None:  # of several slices each is one step
            accepted = float(outcome.state.objective)
            request.callback(Progress(PHASE, k + 1, slices, accepted, time.perf_counter() - began))
    assert total is not None
    return total


def _told(here: Coordinates, outcome: Outcome, both: Block, groups: Groups | None) -> Information:
    """What the draws of a slice of rows say; rows that only fill it are in no group's sum."""
    found = jax.device_get(_reduced(here, outcome.state, outcome.rows, both))
    if groups is None:
        return found
    place = np.asarray(both.index[: len(outcome.rows.centre)]) // SETS
    used = np.asarray(both.weights[: len(place)]) > 0
    weights = np.where(used, groups.weights[place], 0.0)
    scores = np.asarray(_scores_of_rows(here, outcome.rows, jnp.asarray(weights)))
    total = np.zeros((SETS, groups.count, scores.shape[2]))
    for part, each in zip(total, scores, strict=True):
        np.add.at(part, groups.of_row[place], each)
    return found._replace(by_group=total)


def ahead(block: Block, here: Coordinates, request: Request) -> None:
    """Compile what `information` from simulated counts needs for a table and numbers of these shapes."""
    _, each = _slices(block, here, request.copies)
    part = jax.tree.map(lambda a: np.zeros((each, *a.shape[1:]), a.dtype), block)
    first, both = _simulated(here, part, request.key, kind=request.kind)
    state, rows = compile_ahead(_draws(here, request), first, both)
    _reduced.ahead(here, state, rows, both)


def _slices(block: Block, here: Coordinates, copies: int) -> tuple[int, int]:
    """How many slices of rows, and the rows of each, so that memory stays bounded."""
    (n, _), (p, q) = block.y.shape, here.model.loadings.shape
    widest = SETS * max((block.x.shape[1] + q) * here.outward.shape[1], p, q**2)
    slices = -(-n * copies * widest // NUMBERS)
    return slices, -(-n * copies // slices)


def _draws(here: Coordinates, request: Request) -> Draws:
    return Draws(here, request.draws, PARTING if request.copies else SETTLING, request.louis)


def _of_slice(method: Draws, block: Block, request: Request) -> tuple[Outcome, Block]:
    begin = _simulated if request.copies else _from_data
    first, both = begin(method.coordinates, block, request.key, kind=request.kind)
    outcome = run(
        method,
        first,
        both,
        phase=PHASE,
        max_iter=int(method.draws) + int(method.settling),
        began=time.perf_counter(),
        callback=request.callback,
    )
    if outcome.interrupted:
        raise KeyboardInterrupt
    return outcome, both


def _slice(block: Block, first: int, size: int, copies: int) -> Block:
    """`size` rows of the table repeated `copies` times, from `first` on; filled up with row 0 at weight 0.

    All slices have one shape, so that one compilation serves them; the copies share out a row's weight.
    """
    n = len(block.index)
    chosen = np.arange(first, first + size)
    there, chosen = chosen < n * copies, np.where(chosen < n * copies, chosen, 0)
    part = jax.tree.map(lambda a: np.asarray(a)[chosen % n], block)
    weights = np.where(there, part.weights / copies, 0.0)
    part = part._replace(weights=weights, index=part.index + n * (chosen // n))
    return jax.tree.map(jnp.asarray, part)
