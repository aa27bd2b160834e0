"""Cells drawn one by one: the draws have the law of the cell, and a sweep leaves the row's posterior as it is.

Start at `test_draws_have_the_law_of_the_cell`. The oracle is quadrature on a fine grid.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poplin._numerics import double_precision
from poplin.data.blocks import as_block
from poplin.rows import cells
from poplin.rows.chains import frame

DRAWS = 40_000
# count, mean and variance of its log rate given the others: zeros far above and below, thousands, next to no variance
CELLS = {
    "zero": (0, 0.0, 16.0),
    "zero, the others say hundreds": (0, 6.0, 30.0),
    "zero, the others say nothing": (0, -40.0, 4.0),
    "one": (1, -2.0, 0.1),
    "fifty": (50, 3.0, 9.0),
    "thousands": (5_000, 2.0, 25.0),
    "a hundred thousand": (100_000, 11.0, 25.0),
    "hardly free": (2, 5.0, 0.01),
}


def law(y: float, a: float, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """A grid and the weights of exp(f) on it."""
    near = np.log(y + 0.5) if y else min(a, 0.0)
    grid = np.linspace(min(near, a) - 12 * np.sqrt(variance), max(near, a) + 12 * np.sqrt(variance), 400_001)
    height = y * grid - np.exp(np.minimum(grid, 600)) - (grid - a) ** 2 / (2 * variance)
    weight = np.exp(height - height.max())
    return grid, weight / weight.sum()


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("name", CELLS)
def test_draws_have_the_law_of_the_cell(name: str, kind: str) -> None:
    y, a, variance = CELLS[name]
    with double_precision():
        at = [jnp.full(DRAWS, value, kind) for value in (y, a, variance)]
        u, moved = cells.proposal_of(*at).mode, []
        for k in range(6):
            uniform = jax.random.uniform(jax.random.key(k), (2, DRAWS), kind, minval=1e-7)
            new = jax.jit(cells.draw)(uniform, u, *at)
            moved.append(np.mean(np.asarray(new != u)))
            u = new
        drawn = np.asarray(u, dtype=float)
    grid, weight = law(y, a, variance)
    mean = weight @ grid
    sd = np.sqrt(weight @ (grid - mean) ** 2)
    fourth = weight @ (grid - mean) ** 4 / sd**4
    assert abs(drawn.mean() - mean) < 4 * sd / np.sqrt(DRAWS)
    assert abs(drawn.var() / sd**2 - 1) < 4 * np.sqrt((fourth - 1) / DRAWS)
    assert np.mean(moved) > 0.85  # the hull is near the law, so that next to every proposal is taken


def test_a_sweep_leaves_the_rows_posterior_as_it_is() -> None:
    """Two correlated columns, one row many times: means and covariance of Z by quadrature."""
    n, y = 20_000, np.array([0.0, 300.0])
    mean, sigma = np.array([3.0, 3.0]), np.array([[9.0, 6.0], [6.0, 8.0]])
    precision = np.linalg.inv(sigma)
    with double_precision():
        block = as_block(np.tile(y, (n, 1)), np.ones((n, 1)), np.zeros((n, 2)), np.ones(n))
        base = jnp.tile(jnp.asarray(mean), (n, 1))
        residual = jnp.zeros((n, 2))
        sweep = jax.jit(cells.sweep)
        every = jnp.ones(2, bool)
        for k in range(12):
            residual = sweep(jax.random.key(k), residual, base, jnp.asarray(precision), block, chosen=every)
        z = np.asarray(residual) + mean
    axes = [np.linspace(m - 20, m + 12, 1201) for m in (0.0, np.log(300))]
    first, second = np.meshgrid(*axes, indexing="ij")
    off = np.stack([first - mean[0], second - mean[1]])
    height = y[0] * first + y[1] * second - np.exp(first) - np.exp(second)
    height -= 0.5 * np.einsum("iab,ij,jab->ab", off, precision, off)
    weight = np.exp(height - height.max())
    weight /= weight.sum()
    points = np.stack([first.ravel(), second.ravel()])
    true_mean = points @ weight.ravel()
    centred = points - true_mean[:, None]
    true_covariance = (centred * weight.ravel()) @ centred.T
    error = np.sqrt(np.diag(true_covariance) / n)
    assert np.all(np.abs(z.mean(axis=0) - true_mean) < 4 * error)
    scale = np.sqrt(np.outer(np.diag(true_covariance), np.diag(true_covariance)) * 3 / n)
    assert np.all(np.abs(np.cov(z.T) - true_covariance) < 4 * scale)


def test_a_column_that_is_not_chosen_stays() -> None:
    with double_precision():
        block = as_block(np.ones((5, 3)), np.ones((5, 1)), np.zeros((5, 3)), np.ones(5))
        before = jnp.asarray(np.arange(15.0).reshape(5, 3))
        chosen = jnp.array([False, True, False])
        after = cells.sweep(jax.random.key(0), before, before, jnp.eye(3), block, chosen=chosen)
    moved = np.asarray(after != before).all(axis=0)
    assert moved.tolist() == [False, True, False]


def test_columns_of_zeros_and_thousands_are_slow_and_others_are_not() -> None:
    """Slow: a trajectory's steps are those of the thousands, and a zero beside them is a hundred times as wide."""
    random = np.random.default_rng(0)
    counts = np.where(random.random((400, 6)) < 0.5, 0.0, 3000.0)
    counts[:, 3:] = random.poisson(5.0, (400, 3))
    sigma = np.where(np.arange(6) < 3, 16.0, 0.3)
    rate = np.where(counts == 0, 0.3, counts)
    with double_precision():
        block = as_block(counts, np.ones((400, 1)), np.zeros((400, 6)), np.ones(400))
        # loadings that mix the columns, as those of a fit do
        mixing = np.linalg.cholesky(0.5 * np.eye(6) + 0.5)
        loadings = jnp.asarray(np.sqrt(sigma)[:, None] * mixing)
        at = frame(loadings, jnp.asarray(rate.mean(axis=0)))
        variance = 1 / (rate + 1 / sigma)
        found = cells.slow_columns(at, jnp.asarray(rate), jnp.asarray(variance), block)
    assert np.asarray(found).tolist() == [True] * 3 + [False] * 3
