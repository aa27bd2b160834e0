"""Information about (B, Sigma) and the law's own parameters from draws of latent positions: of the data, or expected.

Start at `information`. With s_i the complete-data score of row i (see `Coordinates`) and s-bar_i = E[s_i | y_i], by
Fisher's and Louis' identities

    I = sum_i s-bar_i s-bar_i'  (in expectation),    I = E[complete information] - sum_i Cov(s_i | y_i)  (observed).

The first may be summed over the data (their counts as they are) or over counts simulated under the fitted model at the
rows' covariates and offsets, as many as are wanted: the expected information. The draws are a method on the loop whose
parameters do not move. Source: Louis (1982), Finding the observed information matrix when using the EM algorithm.
"""

import operator
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._axes import Counts, Latent, Loadings, Scalar
from poplin._numerics import compiled
from poplin.data.blocks import Block
from poplin.fit import Outcome, Progress, run
from poplin.fit import ahead as compile_ahead
from poplin.inference.coordinates import Coordinates, OwnHessian, no_own_hessian
from poplin.laws import AbstractLaw, Curvatures, curvatures, features_of
from poplin.methods.method import AbstractMethod, Sweep
from poplin.models.draws import draw_counts
from poplin.rows import chains as chain
from poplin.rows.gaussian import fit_rows

# Draws of the rows' latent positions at fixed parameters, and the means of the scores that go with them.
#
# Start at `Draws`, a method on the loop whose model does not move: each row keeps two chains and the mean scores of
# each.


SETS = 2  # independent chains of a row: the product of their means has no Monte-Carlo bias


class Means(NamedTuple):
    """Means over draws: of the products f g' (n, k, p), and of the law's slopes in its own parameters, (n, p) each."""

    outer: Array
    slopes: AbstractLaw


class First(NamedTuple):
    """Where the chains begin.

    The model's loadings; positions in both sets (2 n, q); rates near the rows' own (n, p); near what the scores' means
    are (n, K or 1); random key.
    """

    loadings: Loadings
    position: Latent
    rate: Counts
    centre: Array
    key: Array


class RowScores(NamedTuple):
    """What the rows keep: chains of both sets (2 n), their means (2 n, ...), the centre (n, K or 1)."""

    chains: chain.Chains
    mean: Means
    centre: Array

    def sets(self) -> tuple[Means, Means]:
        """The means of each set."""
        n = len(self.centre)
        return jax.tree.map(lambda a: a[:n], self.mean), jax.tree.map(lambda a: a[n:], self.mean)


class Sums(NamedTuple):
    """Of each set: sum_i s s' about the centre (2, K, K), the columns' Hessians (2, p, k, k); acceptance of moves.

    own: the law's, of each set (2, ...), None where it has no parameters.
    """

    second: Array
    hessian: Array
    acceptance: Scalar
    own: OwnHessian | None = None


class State(NamedTuple):
    """Shared state: the means of the sums over draws."""

    frame: chain.Frame
    key: Array
    sums: Sums | None
    iteration: Array
    objective: Scalar


class Draws(AbstractMethod):
    """Draws of every row at fixed parameters: `draws` are used after `settling` moves of `leaps` steps.

    `louis`: whether the draws' own products are summed (n K^2 a draw), or only the rows' mean f g' kept (n k p).
    """

    coordinates: Coordinates
    draws: Array = eqx.field(converter=jnp.asarray)
    settling: Array = eqx.field(converter=jnp.asarray)
    louis: bool = eqx.field(static=True)
    leaps: int = eqx.field(static=True, default=4)

    def start(self, first, block):
        kind, weights = first.centre.dtype, block.weights[: len(first.rate)]
        frame = chain.frame(first.loadings, weights @ first.rate / jnp.sum(weights))
        still = jnp.full(len(first.position), jnp.log(0.5)), jnp.full(len(first.position), 0.8)
        chains = chain.Chains(first.position, jnp.tile(first.rate, (SETS, 1)), *still)
        size, (n, k) = self.coordinates.size(), self.coordinates.features(first.position, block).shape
        sums = None
        if self.louis:
            p = block.y.shape[1]
            hessian = jnp.zeros((SETS, p, k, k)), jnp.zeros(())
            sums = Sums(jnp.zeros((SETS, size, size)), *hessian, no_own_hessian(self.coordinates, SETS))
        state = State(frame, first.key, sums, jnp.asarray(0), jnp.asarray(jnp.nan))
        slopes = jax.tree.map(jnp.zeros_like, block.law)
        mean = Means(jnp.zeros((n, k, block.y.shape[1]), kind), cast(slopes, kind))
        return state, RowScores(cast(chains, kind), mean, first.centre)

    def sweeps(self):
        return (Sweep(self.draw, self.add),)

    def share(self, state):
        """Weight of the newest draw in the means; 0 while the chains settle."""
        used = state.iteration + 1 - self.settling
        return jnp.where(used > 0, 1 / jnp.maximum(used, 1), 0.0)

    def draw(self, state, rows, block):
        """Every chain moves once; the rows' mean products f g', and the sums of the scores' products."""
        kind = rows.centre.dtype
        here, frame = cast((self.coordinates, state.frame), kind)
        settles = state.iteration < self.settling
        adapt = jnp.where(settles, 1 / (1 + state.iteration / 10), 0.0).astype(kind)
        key = jax.random.fold_in(state.key, state.iteration)
        chains, rate = chain.move(
            key, rows.chains, block, coef=here.model.coef, frame=frame, steps=self.leaps, adapt=adapt
        )

        def used(mean):
            f, g = here.factors(chains.position, rate, block)
            sums = ()
            if self.louis:
                scores = here.scores(chains.position, rate, block) - jnp.tile(rows.centre, (SETS, 1))
                sums = _products(here, scores, rate, chains.position, block)
            share = self.share(state).astype(kind)
            fresh = Means(f[:, :, None] * g[:, None, :], here.slopes(chains.position, block))
            return jax.tree.map(lambda a, b: a + share * (b - a), mean, fresh), sums

        def unused(mean):
            if not self.louis:
                return mean, ()
            found = state.sums.second, state.sums.hessian, state.sums.own
            return mean, jax.tree.map(lambda a: jnp.zeros_like(a, kind), found)

        mean, sums = jax.lax.cond(settles, unused, used, rows.mean)
        accepted = block.weights @ chains.acceptance / jnp.sum(block.weights)
        return RowScores(chains, mean, rows.centre), (sums, accepted)

    def add(self, state, total):
        """Running means of the sums."""
        (found, accepted), share = total, self.share(state)
        sums = state.sums
        if self.louis:
            fresh = Sums(found[0], found[1], accepted, found[2])
            sums = jax.tree.map(lambda a, b: a + share * (b - a), sums, fresh)
        return state._replace(
            sums=sums, iteration=state.iteration + 1, objective=accepted.astype(jnp.float64)
        )

    def done(self, state):
        return state.iteration >= self.settling + self.draws

    def failed(self, state):
        return state.objective < 0  # never: a chain that cannot move stays where it is


def cast(tree: Any, kind) -> Any:
    """The tree with its real numbers in another precision."""
    return jax.tree.map(lambda a: a.astype(kind) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def _products(
    here: Coordinates, scores: Array, rate: Counts, w: Latent, block: Block
) -> tuple[Array, Array, OwnHessian | None]:
    """Sum_i weight_i s_i s_i' of each set (2, K, K), and its columns' Hessians (2, p, k, k), the law's own as well."""
    n = len(scores) // SETS
    apart = scores.reshape(SETS, n, -1)
    second = jnp.einsum("gnk,gnl->gkl", apart * block.weights[:n, None], apart)
    f = here.features(w, block)
    k, p = f.shape[1], rate.shape[1]
    upper = jnp.triu_indices(k)
    pairs = (f[:, upper[0]] * f[:, upper[1]]).reshape(SETS, n, -1)
    own, told = None, rate
    if not block.law.exponential():
        seen = curvatures(block.law, here.predictor(w, block), block.y)
        own, told = _own_hessian(here, seen, f, block), seen.counts
    weighted = (told * block.weights[:, None]).reshape(SETS, n, p)
    half = jnp.zeros((SETS, p, k, k), scores.dtype)
    half = half.at[:, :, upper[0], upper[1]].set(jnp.einsum("gnj,gnk->gjk", weighted, pairs))
    return second, half + jnp.swapaxes(jnp.triu(half, 1), 2, 3), own


def _own_hessian(here: Coordinates, seen: Curvatures, f: Array, block: Block) -> OwnHessian | None:
    """Of each set, from the curvatures of cells."""
    if not jax.tree.leaves(here.own):
        return None
    features = jax.tree.leaves(features_of(here.own, block.zero_features, block.y))
    n, weights = len(f) // SETS, block.weights[:, None]

    def summed(left: Array, cells: Counts, right: Array) -> Array:
        parts = left, weights * cells, right
        return jnp.einsum("gnk,gnj,gnr->gjkr", *(a.reshape(SETS, n, -1) for a in parts))

    beside = tuple(summed(f, cells, u) for cells, u in zip(seen.beside, features, strict=True))
    among = tuple(
        tuple(summed(u, cells, v) for cells, v in zip(line, features, strict=True))
        for line, u in zip(seen.among, features, strict=True)
    )
    return OwnHessian(beside, among)


PHASE = "information"
SETTLING = 16  # moves before draws are used
PARTING = 8  # the same of simulated rows, which begin at a draw already, both sets at the same
NUMBERS = (
    16_000_000  # most numbers in one array of a slice of rows, and in those of its counts and rates together
)
BESIDE = 6  # such arrays


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


def _of_one_set(block: Block, rows: RowScores) -> Block:
    """Every row once."""
    return jax.tree.map(lambda a: a[: len(rows.centre)], block)


def _means_of(here: Coordinates, mean: Means, block: Block) -> Array:
    """Mean scores (n, K)."""
    return here.with_own(here.mean_scores(mean.outer), mean.slopes, block)


@compiled()
def _scores_of_rows(here: Coordinates, rows: RowScores, block: Block, weights: Array) -> Array:
    """The rows' mean scores from each set, times their weights, (2, n, K)."""
    plain, each = cast(here, rows.centre.dtype), _of_one_set(block, rows)
    both = jnp.stack([_means_of(plain, part, each) for part in rows.sets()])
    return weights[:, None] * both.astype(jnp.float64)


@compiled()
def _reduced(here: Coordinates, state: State, rows: RowScores, block: Block) -> Information:
    n, kind = len(rows.centre), rows.centre.dtype
    weights, plain = block.weights[:n].astype(jnp.float64), cast(here, kind)
    each = _of_one_set(block, rows)
    one, other = (_means_of(plain, part, each) - rows.centre for part in rows.sets())
    found = _products_of_means(rows.centre + one, rows.centre + other, weights)
    if state.sums is None:
        return found
    x = block.x[:n].astype(jnp.float64)
    told = state.sums.hessian, state.sums.own
    gram, about_centre = x.T @ (weights[:, None] * x), _across(one, other, weights)[0]
    first, second = (
        here.complete(found.rows, gram, *jax.tree.map(operator.itemgetter(g), told))
        - state.sums.second[g]
        + about_centre
        for g in range(SETS)
    )
    return found._replace(observed=0.5 * (first + second), observed_gap=0.5 * (first - second))


@compiled()
def _reduced_to_parts(here: Coordinates, rows: RowScores, block: Block, columns: Array) -> Information:
    """The same of parts of the columns (parts, c), one after the other along the first axis."""
    n, kind = len(rows.centre), rows.centre.dtype
    weights, plain = block.weights[:n].astype(jnp.float64), cast(here, kind)
    each = _of_one_set(block, rows)
    both = [(plain.by_column(part.outer), part.slopes) for part in rows.sets()]

    def part(chosen: Array) -> Information:
        own = plain.of_columns(chosen)
        one, other = (
            own.with_own(
                plain.part_scores(*products, chosen), jax.tree.map(lambda a: a[:, chosen], slopes), each
            )
            for products, slopes in both
        )
        return _products_of_means(one, other, weights)

    return jax.lax.map(part, columns)


def _products_of_means(one: Array, other: Array, weights: Array) -> Information:
    """From the rows' mean scores from each set (n, K)."""
    mean = 0.5 * (one + other)
    whole, score = _across(mean, mean, weights)[0], weights @ mean.astype(jnp.float64)
    sums = jnp.sum(weights), jnp.sum(weights**2)
    return Information(*_across(one, other, weights), whole, score, *sums, None, None)


def _across(left: Array, right: Array, weights: Array) -> tuple[Array, Array]:
    product = ((left * weights.astype(left.dtype)[:, None]).T @ right).astype(jnp.float64)
    return 0.5 * (product + product.T), 0.5 * (product - product.T)


@compiled(static_argnames="kind")
def _from_data(here: Coordinates, block: Block, key: Array, kind) -> tuple[First, Block]:
    """Chains at draws from the rows' best Gaussians."""
    mean, covariance, _, _ = fit_rows(block, here.model.coef, here.model.loadings)
    predictor = here.predictor(mean, block)
    spread = jnp.einsum("jk,nkl,jl->nj", here.model.loadings, covariance, here.model.loadings)
    told = block.law.expected(predictor, spread, block.y)
    centre = here.expected_scores(mean, covariance, told, block)
    centre = here.with_own(centre, block.law.expected_scores(predictor, spread, block.y), block)
    both = _both_sets(block, jnp)
    noise = _normals(key, both.index, mean.shape[1])
    root = jnp.tile(jnp.linalg.cholesky(covariance), (SETS, 1, 1))
    position = jnp.tile(mean, (SETS, 1)) + jnp.einsum("nkl,nl->nk", root, noise)
    centre, both = (cast(a, kind) for a in (centre, both))
    return First(here.model.loadings, position, told.weight, centre, jax.random.fold_in(key, 3)), both


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
    drawn = block.law.sample(random, np.asarray(base) + position @ loadings.T, draw_counts)
    counts = np.asarray(drawn).astype(float)
    # of the counts alone: the chains' law must not know where they start
    mass = counts + 0.5 * np.exp(np.minimum(base, 0.0))
    if not block.law.exponential():
        seen = jnp.asarray(counts)
        mass = np.asarray(block.law.curvature(block.law.rate(jnp.log(mass), seen), seen))
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
    n rows (times copies): draws x 2 moves of each, with n k p numbers; n K^2 products once, with Louis' identity twice
    a draw; memory n k p and K^2 numbers.
    """
    return _summed(block, here, request, lambda outcome, both: _told(here, outcome, both, request.groups))


def information_of_parts(
    block: Block, here: Coordinates, columns: np.ndarray, request: Request
) -> list[Information]:
    """The same for parts of the columns (parts, c), all others held together, from one set of draws.

    In the numbers of `Coordinates.part_scores`, and by products alone.
    """
    told = lambda outcome, both: jax.device_get(_reduced_to_parts(here, outcome.rows, both, columns))
    found = _summed(block, here, request, told)
    return [jax.tree.map(operator.itemgetter(k), found) for k in range(len(columns))]


def _summed(
    block: Block, here: Coordinates, request: Request, told: Callable[[Outcome, Block], Information]
) -> Information:
    """What is told of the draws of each slice of rows, added up."""
    copies = max(request.copies, 1)
    slices, each = _slices(block, here, copies)
    method, began = _draws(here, request), time.perf_counter()
    inside, total = request if slices == 1 else request._replace(callback=None), None
    for k in range(slices):
        part = block if slices * copies == 1 else _slice(block, k * each, each, copies)
        outcome, both = _of_slice(method, part, inside)
        found = told(outcome, both)
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
    scores = np.asarray(_scores_of_rows(here, outcome.rows, both, jnp.asarray(weights)))
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
    widest = SETS * max(max(block.x.shape[1] + q, BESIDE) * p, q**2)
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
