"""Laws of control variates: over a row's whole posterior they change no expectation, and take most of the noise out.

Start at `test_expectations_are_those_of_plain_draws`. The posterior is a fine grid whose nodes stand as rows, weighted
by their density: sums over rows are then expectations, without Monte-Carlo error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import norm

import poplin
from poplin._numerics import double_precision
from poplin.data.blocks import Block, as_block
from poplin.rows import chains as chain
from poplin.rows.chains import controlled, controlled_columns, shares
from poplin.updates.direct import Direct
from poplin.updates.low_rank import LowRank
from poplin.updates.structure import Full, Model
from tests.programs import at_once
from tests.tolerances import close

SETTINGS = {
    "one column": ([2.0], [0.3], [[0.9]]),
    "no counts": ([0.0, 0.0], [-1.0, 0.5], [[1.0, 0.0], [0.7, 0.5]]),
    "many counts": ([7.0, 1.0], [1.0, 0.0], [[1.2, 0.0], [-0.4, 0.8]]),
    "thirty columns in two directions": (
        np.arange(30) % 3,
        np.linspace(-1, 1, 30),
        0.4 * np.stack([np.cos(np.arange(30)), np.sin(np.arange(30))], axis=1),
    ),
    "a direction that counts say nothing of": ([3.0, 4.0], [0.5, 1.0], [[1.0, 0.0], [1.0, 0.01]]),
}


SQUARE = [name for name, (_, _, loadings) in SETTINGS.items() if len(loadings) == len(loadings[0])]


class Posterior(NamedTuple):
    """A row's posterior as nodes: the table of nodes, chains that stand there, their rates, model, frame, centres."""

    block: Block
    chains: chain.Chains
    rate: jax.Array
    model: Model
    frame: chain.Frame
    centre: jax.Array


def posterior(name: str) -> Posterior:
    """With masses and centres that are a fifth off, and a row that is not the average one."""
    counts, level, loadings = (np.asarray(a) for a in SETTINGS[name])
    q = loadings.shape[1]
    axis = np.linspace(-9, 9, 241)
    nodes = np.stack(np.meshgrid(*[axis] * q, indexing="ij"), axis=-1).reshape(-1, q)
    eta = level + nodes @ loadings.T
    log_density = eta @ counts - np.exp(eta).sum(axis=1) - 0.5 * (nodes**2).sum(axis=1)
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    size = len(nodes)
    y, ones = np.tile(counts, (size, 1)), np.ones((size, 1))
    block = Block(y, ones, np.zeros(y.shape), weights, np.zeros(size), np.arange(size))
    mean, mean_rate = weights @ nodes, weights @ np.exp(eta)
    still = np.full(size, -0.7), np.full(size, 0.8)
    chains = chain.Chains(nodes, np.tile(1.2 * mean_rate, (size, 1)), *still)
    model = Model(level[None], loadings)
    frame = chain.frame(jnp.asarray(loadings), jnp.asarray(1.5 * mean_rate))
    centre = np.tile(0.8 * mean, (size, 1))
    return jax.tree.map(jnp.asarray, Posterior(block, chains, np.exp(eta), model, frame, centre))


@pytest.mark.parametrize("name", SQUARE)
def test_expectations_are_those_of_plain_draws(name: str) -> None:
    """Of the moments, and of the columns' gradients that are made from them."""
    with double_precision():
        at = posterior(name)
        means = at_once(controlled, at.chains, at.centre, at.rate, at.block, at.frame)
        w, weights = at.chains.position, at.block.weights
        assert close(means.cross, (weights @ w)[None])
        assert close(means.second, w.T @ (weights[:, None] * w))
        structure = Direct(Full(jnp.zeros(())))
        total = at_once(structure.statistic, at.model, w, at.rate, at.block)
        before = structure.begin(at.model)._replace(noise=total.noise)
        quieter = jax.jit(lambda *given: structure.quieter(*given))
        told, after = quieter(at.model, before, total, means, at.frame)
        assert np.abs(np.asarray(told.gradient - total.gradient)).max() < 1e-9
        assert close(told.second, total.second) and close(told.cross, total.cross)
        far = means._replace(second=3 * jnp.eye(len(means.second)))
        plain, spoilt = quieter(at.model, before, total, far, at.frame)
        assert after.trusted and not spoilt.trusted and np.array_equal(plain.second, total.second)


@pytest.mark.parametrize("coding", [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]])
def test_gradients_are_about_as_quiet_as_the_quieter_source_in_every_level(coding: list[list[float]]) -> None:
    """Of rows that see a column of three often, and rows that lack it, the others tell Z: there moments are noisy."""
    x, count, draws = np.asarray(coding), 30, 300
    root = np.linalg.cholesky(0.8 + 0.2 * np.eye(3))
    kinds = [
        (np.array([25.0, 12.0, 14.0]), np.full(3, 2.5)),
        (np.array([0, 12.0, 14.0]), np.array([-5, 2.5, 2.5])),
    ]
    coef = np.linalg.solve(x, np.stack([level for _, level in kinds]))
    random, structure = np.random.default_rng(0), Direct(Full(jnp.zeros(())))
    drawn = [drawn_rows(random, counts, level, root, count * draws) for counts, level in kinds]
    w = np.stack([rows.reshape(draws, count, 3) for rows in drawn], axis=1).reshape(draws, 2 * count, 3)
    y, each = (np.repeat(np.asarray(a), count, axis=0) for a in ([counts for counts, _ in kinds], x))
    rate = np.exp(each @ coef + w @ root.T)
    with double_precision():
        block = as_block(y, each, np.zeros(y.shape), np.ones(len(y)))
        model, mean_rate = Model(jnp.asarray(coef), jnp.asarray(root)), jnp.asarray(rate.mean(axis=0))
        frame, centre = chain.frame(model.loadings, mean_rate.mean(axis=0)), jnp.asarray(w.mean(axis=0))
        still = jnp.zeros(len(y)), jnp.ones(len(y))

        def one(w, rate, noise):
            total = structure.statistic(model, w, rate, block)
            means = structure.means(chain.Chains(w, mean_rate, *still), centre, rate, block, frame)
            before = structure.begin(model)._replace(noise=noise)
            quiet, _ = structure.quieter(model, before, total, means, frame)
            told = jax.scipy.linalg.solve_triangular(model.loadings.T, means.cross.T, lower=False).T
            return total.noise, total.gradient[:-1], told, quiet.gradient[:-1]

        many = jax.jit(jax.vmap(one, in_axes=(0, 0, None)))
        noise = many(jnp.asarray(w), jnp.asarray(rate), jnp.zeros((2, 3, 3, 3)))[0].mean(axis=0)
        parts = many(jnp.asarray(w), jnp.asarray(rate), noise)[1:]
    # a level's own score: slopes of B in directions that tell one kind of rows alone
    plain, told, quiet = (np.var(np.linalg.solve(x.T, np.asarray(part)), axis=0) for part in parts)
    assert (
        plain[1, 0] < 0.01 * told[1, 0] and told[0, 0] < 0.2 * plain[0, 0]
    )  # either source is the better one
    assert np.all(quiet < 1.5 * np.minimum(plain, told)), (plain, told, quiet)


def drawn_rows(random: np.random.Generator, counts, level, root, size: int) -> np.ndarray:
    """Draws of w (size, 3) from one row's posterior: Metropolis moves of many chains from its mode."""

    def log_density(w):
        eta = level + w @ root.T
        return eta @ counts - np.exp(eta).sum(axis=1) - 0.5 * (w**2).sum(axis=1)

    w = np.zeros((size, 3))
    here = log_density(w)
    for _ in range(300):
        trial = w + 0.35 * random.normal(size=w.shape)
        there = log_density(trial)
        taken = np.log(random.random(size)) < there - here
        w[taken], here[taken] = trial[taken], there[taken]
    return w


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_of_columns_keep_their_expectation(name: str) -> None:
    """In B and C, with mean rates that are a fifth off; moments that are far off are not trusted here either."""
    with double_precision():
        at = posterior(name)
        structure = LowRank()
        total = at_once(structure.statistic, at.model, at.chains.position, at.rate, at.block)
        means = at_once(structure.means, at.chains, at.centre, at.rate, at.block, at.frame)
        begun = at_once(structure.begin, at.model)
        quieter = jax.jit(lambda *given: structure.quieter(*given))
        told, after = quieter(at.model, begun, total, means, at.frame)
        assert np.abs(np.asarray(told.gradient - total.gradient)).max() < 1e-9 and after.trusted
        far = means._replace(second=3 * jnp.eye(len(means.second)))
        plain, after = quieter(at.model, begun, total, far, at.frame)
        assert not after.trusted and np.array_equal(plain.gradient, total.gradient)


@pytest.mark.parametrize(("rate", "variance"), [(0.5, 0.3), (3.0, 1.0), (50.0, 0.5)])
def test_shares_are_what_em_closes_at_a_step(rate: float, variance: float) -> None:
    """One column: the shares against derivatives of the EM map, by quadrature over the counts and over z.

    They are those of a Gaussian model with the rows' precisions, so they are near and not the same.
    """
    counts = np.arange(int(rate * 60) + 40)
    z, deviation = np.linspace(-9, 9, 4001), np.sqrt(variance)

    def posterior(mean: float, sd: float) -> tuple[np.ndarray, np.ndarray]:
        """Of z / deviation on the grid, a row a count; the counts' probabilities."""
        level = np.log(rate) - 0.5 * variance + deviation * z
        joint = np.exp(counts[:, None] * level - np.exp(level) - gammaln(counts + 1)[:, None])
        joint = joint * norm.pdf(z, mean, sd)
        return joint / joint.sum(axis=1, keepdims=True), joint.sum(axis=1) * (z[1] - z[0])

    truth, chance = posterior(0.0, 1.0)
    step = 1e-3
    closed_level = 1 - chance @ (posterior(step, 1.0)[0] @ z) / step
    closed_second = (
        1 - (chance @ (posterior(0.0, np.sqrt(1 + step))[0] @ z**2) - chance @ (truth @ z**2)) / step
    )
    mean_rate = truth @ np.exp(np.log(rate) - 0.5 * variance + deviation * z)
    size = len(counts)
    with double_precision():
        block = as_block(counts[:, None] * 1.0, np.ones((size, 1)), np.zeros((size, 1)), chance)
        still = jnp.zeros(size)
        chains = chain.Chains(jnp.zeros((size, 1)), jnp.asarray(mean_rate)[:, None], still, still)
        frame = chain.frame(jnp.array([[deviation]]), jnp.array([chance @ mean_rate]))
        means = at_once(controlled, chains, jnp.zeros((size, 1)), chains.mean_rate, block, frame)
        told = at_once(shares, means.known, frame)
    assert 0.6 < float(told.level[0]) / closed_level < 1.6
    assert 0.6 < float(told.second[0, 0]) / closed_second < 1.6


@pytest.mark.parametrize("name", SETTINGS)
def test_most_noise_is_taken_out(name: str) -> None:
    """The variance over draws, in the coordinates of the frame, where directions have one scale."""
    with double_precision():
        at = posterior(name)

        def of_one(part: tuple) -> tuple[jax.Array, jax.Array]:
            chains, centre, rate, block = jax.tree.map(lambda a: a[None], part)
            means = controlled(chains, centre, rate, block._replace(weights=jnp.ones(1)), at.frame)
            v = chains.position[0] @ at.frame.to_frame
            return jnp.outer(v, v), at.frame.to_frame.T @ means.second @ at.frame.to_frame

        plain, quiet = at_once(jax.vmap(of_one), (at.chains, at.centre, at.rate, at.block))

        def variance(values: jax.Array) -> float:
            middle = jnp.tensordot(at.block.weights, values, 1)
            return float(jnp.sum(jnp.tensordot(at.block.weights, (values - middle) ** 2, 1)))

        assert variance(quiet) < 0.25 * variance(plain)


@pytest.mark.parametrize("name", SETTINGS)
def test_centres_come_to_the_means_of_rows_from_far_away(name: str) -> None:
    """The noise that is left from there is that from means of the rows; it is many times as much from far away."""
    with double_precision():
        at = posterior(name)
        far = at.centre[:1] + 8.0
        row = jax.tree.map(lambda a: a[:1], (at.chains.mean_rate, at.block))
        nearer = jax.jit(
            lambda centre: chain.nearer(centre, *row, coef=at.model.coef, frame=at.frame),
        )
        near = far
        for _ in range(30):
            near = nearer(near)
        assert close(nearer(near), near)
        mean = at.block.weights @ at.chains.position
        # a Gaussian's mean, not the posterior's: a fraction of a standard deviation from it
        assert np.abs(np.asarray(near[0] - mean)).max() < 0.1


def test_most_noise_is_taken_out_of_gradients() -> None:
    """Of loadings, over draws; where a single column moves much with w, its rate is far from linear."""
    with double_precision():
        at = posterior("thirty columns in two directions")
        rows = at.chains, at.centre, at.rate, at.block._replace(weights=jnp.ones(len(at.centre)))

        def of_one(part: tuple) -> tuple[jax.Array, jax.Array]:
            chains, centre, rate, block = jax.tree.map(lambda a: a[None], part)
            plain = chains.position.T @ (block.y - rate)
            return plain, controlled_columns(chains, centre, rate, block, at.frame).gradient[1:]

        def variance(values: jax.Array) -> jax.Array:
            middle = jnp.tensordot(at.block.weights, values, 1)
            return jnp.tensordot(at.block.weights, (values - middle) ** 2, 1).sum(axis=0)

        plain, quiet = (variance(a) for a in at_once(jax.vmap(of_one), rows))
        assert quiet.sum() < 0.25 * plain.sum()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("sums", [controlled, controlled_columns])
def test_what_crosses_from_rows_is_additive(sums: Callable, name: str) -> None:
    with double_precision():
        at = posterior(name)
        rows = at.chains, at.centre, at.rate, at.block
        cut = len(at.centre) // 3
        head, tail = (jax.tree.map(lambda a, p=part: a[p], rows) for part in (slice(cut), slice(cut, None)))
        whole, *parts = (at_once(sums, *some, at.frame) for some in (rows, head, tail))
        added = jax.tree.map(jnp.add, *parts)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(added), strict=True):
        assert np.allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, 4])
def test_rows_keep_their_noise_wherever_they_stand(size: int) -> None:
    """Noise belongs to the row's number: blocks and their order change nothing; and it is standard normal."""
    key, index = jax.random.key(0), jnp.arange(4000)
    normal, one, other = chain.row_noise(key, index, size, jnp.float32)
    part, half, _ = chain.row_noise(key, index[1000:1010][::-1], size, jnp.float32)
    assert np.array_equal(normal[:, 1000:1010][:, ::-1], part) and np.array_equal(one[1000:1010][::-1], half)
    error = 1 / np.sqrt(normal.size)
    assert abs(float(normal.mean())) < 4 * error and abs(float(normal.var()) - 1) < 4 * np.sqrt(2) * error
    for uniform in (one, other):
        assert abs(float(uniform.mean()) - 0.5) < 4 / np.sqrt(12 * 4000) and 0 < float(uniform.min())


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
def test_directions_that_counts_hardly_see_do_not_stop_short() -> None:
    """Counts of mean 0.6 and 20 columns in a chain: EM closes a thirtieth of the gap along the last axes at a step."""
    random = np.random.default_rng(5)
    root = np.linalg.cholesky(0.8 ** np.abs(np.subtract.outer(np.arange(20), np.arange(20))))
    counts = random.poisson(np.exp(-1 + random.normal(size=(1000, 20)) @ root.T))
    long = poplin.PLN(shrinkage=0, tol=0.001, max_iter=1500).fit(counts)
    usual = [poplin.PLN(shrinkage=0, random_state=seed).fit(counts).loglik_ for seed in range(3)]
    # 3 on average, from 0.5 to 5.4; with EM's own steps 16, and their own long run stands 10 below this one
    assert np.mean(usual) > long.loglik_ - 5
