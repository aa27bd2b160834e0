"""Log-likelihoods of rows under every law of the counts: draws of one dimension and whole rows against quadrature.

Start at `test_rows_are_the_quadrature`. Quadrature here is the trapezoid rule over the law's own log probability.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from poplin._numerics import double_precision
from poplin.data.blocks import Block, as_block
from poplin.inference import likelihood
from poplin.inference.likelihood import independent_loglik, row_loglik
from poplin.inference.selection import Placed, paired_loglik
from poplin.inference.sequential import Curve, draw
from poplin.laws import POISSON, AbstractLaw, with_parameters
from poplin.methods.exact import Likelihood
from poplin.models.loadings import FreeLoadings
from poplin.rows.nodes import joint_nodes
from tests.test_laws import LAWS, every_law
from tests.tolerances import within_errors

KEY = 0
LOWER = np.array([[1.3, 0.0], [0.7, 1.1]])
COEF = np.array([[0.4, 0.9]])


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    with double_precision():
        yield


def law_of_columns(name: str, count: int = 2) -> AbstractLaw:
    """The law of the table of laws, its numbers (1, count) those of a model."""
    return jax.tree.map(lambda a: jnp.asarray(a)[None, :count], LAWS[name][0])


def rows_of(name: str) -> tuple[Block, np.ndarray]:
    """Rows of two columns: pairs of the law's small counts, its largest, and a missing one; offsets differ."""
    values = LAWS[name][1]
    largest = min(values[-1], 300.0)
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (0, largest), (largest, largest), (np.nan, 0), (largest, np.nan)]
    y = np.array(pairs, float)
    offset = np.linspace(-0.5, 0.5, y.size).reshape(y.shape)
    block = as_block(y, np.ones((len(y), 1)), offset, np.ones(len(y)), prior=False)
    return block.under(law_of_columns(name)), y


def by_trapezoids(block: Block, coef: np.ndarray, lower: np.ndarray, reach: float = 9.0) -> np.ndarray:
    """Log p(y_i) of two columns over a grid of w, whose mass is where |w| < `reach`."""
    place = np.linspace(-reach, reach, 401)
    w = np.stack(np.meshgrid(place, place, indexing="ij"), axis=-1).reshape(-1, 2)
    step = place[1] - place[0]

    @jax.jit
    def one_row(row: Block) -> jax.Array:
        eta = row.offset + row.x @ coef + w @ lower.T
        counts = row.law.log_prob(eta, row.y[None])
        return jax.nn.logsumexp(jnp.sum(counts, axis=1) - 0.5 * np.sum(w**2, axis=1)) - row.log_factorial

    rows = [jax.tree.map(lambda a, i=i: a[i], block) for i in range(len(block.y))]
    return np.array([one_row(row) for row in rows]) + 2 * np.log(step) - np.log(2 * np.pi)


@every_law
@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize(
    ("pull", "stiffness", "log_rate", "slope"),
    [
        (0.0, 1.0, -1.0, 1.0),
        (0.5, 0.3, 0.0, 2.0),
        (2.0, 0.05, 0.5, 1.5),
        (-3.0, 0.9, 4.0, 2.5),
        (6.0, 1.0, 0.0, 1.0),
    ],
)
def test_draws_of_one_dimension_have_the_law(
    name: str, count: int, pull: float, stiffness: float, log_rate: float, slope: float
) -> None:
    """Ratios whose mean is the integral and that hardly vary, of one mode or of two; they give mean and variance."""
    law, values = LAWS[name]
    y, cell = values[min(count, len(values) - 1)], jax.tree.map(lambda a: jnp.asarray(a)[0], law)
    pull += y * slope * (stiffness < 1)  # what the rest of a row says beside the count
    curve = Curve(*(jnp.full(2000, a) for a in (pull, stiffness, log_rate, slope)), cell, jnp.asarray(y))
    place, log_ratio = (
        np.asarray(a) for a in jax.jit(draw)(jnp.asarray((np.arange(2000) + 0.5) / 2000), curve)
    )
    sd = 1 / np.sqrt(stiffness)
    grid = np.linspace(-40 * sd, pull / stiffness + 12 * sd, 400_001)
    height = np.asarray(
        curve._replace(log_rate=log_rate, pull=pull, stiffness=stiffness, slope=slope).value(grid)
    )
    density = np.exp(height - height.max())
    density /= density.sum()
    integral = logsumexp(height) + np.log(grid[1] - grid[0])
    assert np.all(np.diff(place) > 0)
    assert log_ratio.std() < 0.05
    assert abs(logsumexp(log_ratio) - np.log(len(place)) - integral) < 1e-3
    weights = np.exp(log_ratio - log_ratio.max())
    mean, expected = np.average(place, weights=weights), density @ grid
    variance = density @ (grid - expected) ** 2
    assert abs(mean - expected) < 5e-3 * np.sqrt(variance)
    assert abs(np.average((place - mean) ** 2, weights=weights) / variance - 1) < 2e-2


@pytest.mark.parametrize(
    ("name", "skewness"),
    [
        *((name, -1.0) for name in LAWS),
        *((name, 1e9) for name in ("negative binomial", "zero-inflated poisson")),
    ],
)
def test_rows_are_the_quadrature(name: str, skewness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Column by column, and around Gaussians where these are said to do."""
    monkeypatch.setattr(likelihood, "LARGEST_SKEWNESS", skewness)
    block, _ = rows_of(name)
    exact = by_trapezoids(block, COEF, LOWER)
    found = row_loglik(jax.random.key(KEY), block, jnp.asarray(COEF), jnp.asarray(LOWER), khat=True)
    assert not np.any(found.unsure)
    assert np.all(found.standard_error < 0.06)
    assert within_errors(found.value, exact, found.standard_error + 1e-6)


@pytest.mark.parametrize("name", ["zero-inflated negative binomial", "bernoulli"])
def test_independent_columns_are_the_quadrature(name: str) -> None:
    block, _ = rows_of(name)
    scale = np.array([1.3, 0.8])
    exact = by_trapezoids(block, COEF, np.diag(scale))
    np.testing.assert_allclose(
        independent_loglik(block, jnp.asarray(COEF), jnp.asarray(scale)), exact, atol=2e-6
    )


@pytest.mark.parametrize("skewness", [-1.0, 1e9], ids=["by columns", "around Gaussians"])
def test_two_laws_of_the_same_rows_are_compared(skewness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """By shared draws: the difference is that of quadratures, and its error smaller than that of its parts."""
    monkeypatch.setattr(likelihood, "LARGEST_SKEWNESS", skewness)
    plain = rows_of("negative binomial")[0].under(POISSON)
    other = plain.under(law_of_columns("zero-inflated negative binomial"))
    ways = [Placed(block, COEF, LOWER) for block in (plain, other)]
    found = paired_loglik(jax.random.key(KEY), *ways)
    exact = by_trapezoids(other, COEF, LOWER) - by_trapezoids(plain, COEF, LOWER)
    assert not np.any(found.unsure)
    assert within_errors(found.difference, exact, found.standard_error + 1e-6)


@every_law
def test_what_exact_climbs_is_the_penalised_likelihood(name: str) -> None:
    """Its value, and its slopes in B, C and the law's parameters, against the trapezoid rule and its derivatives."""
    block, _ = rows_of(name)
    block = jax.tree.map(lambda a: a[:4], block)
    law = law_of_columns(name)
    free, level = FreeLoadings(), jnp.asarray([[0.3]])
    target = Likelihood(free, joint_nodes(48, 2), 0.01, 0.0, 0.0, level, law)
    shared = jnp.asarray(COEF), jnp.asarray(LOWER), *jax.tree.leaves(law)

    def objective(shared: tuple[jax.Array, ...]) -> jax.Array:
        coef, lower, *own = shared
        place = jnp.linspace(-8.0, 8.0, 161)
        w = jnp.stack(jnp.meshgrid(place, place, indexing="ij"), axis=-1).reshape(-1, 2)
        rows = block.under(with_parameters(law, tuple(own)))
        eta = (rows.offset + rows.x @ coef)[:, None] + w @ lower.T
        cells = jax.tree.map(lambda a: a[:, None], rows.law)
        counts = jnp.sum(cells.log_prob(eta, rows.y[:, None] + 0 * eta), axis=2) - 0.5 * jnp.sum(w**2, axis=1)
        value = jax.nn.logsumexp(counts, axis=1) + 2 * jnp.log(place[1] - place[0]) - jnp.log(2 * jnp.pi)
        weak = (
            0.01 * jnp.sum(lower**2) + jnp.sum(coef * (level @ coef)) + sum(jnp.sum(a**2) / 100 for a in own)
        )
        return jnp.sum(value - rows.log_factorial) - 0.5 * weak

    @jax.jit
    def climbed(shared: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        value, scores = target.value(target.measure(shared, (), block)[1])
        return value, target.shared_slope(shared, scores, ())

    value, slopes = climbed(shared)
    exact, derivatives = jax.jit(jax.value_and_grad(objective))(shared)
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    for one, other in zip(slopes, derivatives, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
