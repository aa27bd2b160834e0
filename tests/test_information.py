"""Information about (B, Sigma) from draws, against quadrature: every structure, weights, order, the expected kind.

Start at `test_observed_information_is_that_of_quadrature`. The oracle has parameters of its own (B and the entries of
C that are free), a likelihood by quadrature, and derivatives by JAX; what is compared are standard errors.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import gammaln, logsumexp

from poplin._numerics import double_precision
from poplin.data.blocks import Block, as_block
from poplin.inference import intervals
from poplin.inference.coordinates import coordinates
from poplin.inference.information import Information, Request, information
from poplin.models.loadings import BorrowedBasis, FreeLoadings
from poplin.updates.structure import Diagonal, Fixed, Full, Model, Spherical
from tests.tolerances import STANDARD_ERRORS

ROWS, SEEDS = 40, 8
AXIS = np.array([[0.8], [0.6]])
KNOWN = np.array([[0.8, 0.4], [0.4, 0.6]])


class Structure(NamedTuple):
    """The objects under test, first values of what is free in C, and C from it."""

    shape: Any
    loadings: Any
    free: list[float]
    build: Any


def lower(t: Any) -> Any:
    return jnp.array([[t[0], 0.0], [t[1], t[2]]])


with double_precision():
    STRUCTURES = {
        "full": Structure(Full(jnp.asarray(0.0)), None, [0.8, 0.4, 0.6], lower),
        "diagonal": Structure(Diagonal(), None, [0.8, 0.7], jnp.diag),
        "spherical": Structure(Spherical(), None, [0.8], lambda t: t[0] * jnp.eye(2)),
        "fixed": Structure(
            Fixed(jnp.asarray(KNOWN)), None, [], lambda t: jnp.linalg.cholesky(jnp.asarray(KNOWN))
        ),
        "rank": Structure(None, FreeLoadings(), [0.8, 0.5], lambda t: t[:, None]),
        "basis": Structure(None, BorrowedBasis(jnp.asarray(AXIS)), [0.9], lambda t: t[0] * jnp.asarray(AXIS)),
    }


def table(level: float) -> tuple[np.ndarray, np.ndarray]:
    """Counts of two correlated columns with an intercept and a covariate."""
    random = np.random.default_rng(8)
    x = np.column_stack([np.ones(ROWS), random.normal(size=ROWS)])
    coef = np.array([[level, level - 0.5], [0.3, -0.4]])
    latent = x @ coef + random.normal(size=(ROWS, 2)) @ np.linalg.cholesky(KNOWN).T
    return random.poisson(np.exp(latent)).astype(float), x


def loglik(theta: Any, structure: Structure, block: Block, nodes: Any) -> Any:
    """Of all rows, weighted; the nodes (n, g, q) with their log weights (n, g) do not move with theta."""
    coef, loadings = theta[:4].reshape(2, 2), structure.build(theta[4:])
    points, log_weights = nodes
    eta = (block.offset + block.x @ coef)[:, None, :] + points @ loadings.T
    counts = jnp.sum(block.y[:, None] * eta - jnp.exp(eta) - gammaln(block.y[:, None] + 1), axis=2)
    prior = -0.5 * jnp.sum(points**2 + jnp.log(2 * jnp.pi), axis=2)
    return block.weights @ logsumexp(counts + prior + log_weights, axis=1)


def grid(q: int) -> Any:
    """The trapezoid rule on [-7, 7]^q, for all rows."""
    at = np.linspace(-7, 7, 71)
    points = np.stack(np.meshgrid(*[at] * q, indexing="ij"), axis=-1).reshape(-1, q)
    return jnp.asarray(points)[None], jnp.full((1, 1), q * np.log(at[1] - at[0]))


@cache
def slopes(name: str) -> Any:
    """Gradient and Hessian of the log-likelihood, compiled once for all tables."""
    structure = STRUCTURES[name]
    return jax.jit(
        lambda t, block, nodes: (
            jax.grad(loglik)(t, structure, block, nodes),
            jax.hessian(loglik)(t, structure, block, nodes),
        )
    )


class Exact(NamedTuple):
    """The maximum of the likelihood by quadrature, and standard errors of B and Sigma from its Hessian."""

    model: Model
    coef: np.ndarray
    covariance: np.ndarray


@cache
def exact(name: str, level: float, weights: tuple[float, ...] = (1.0,) * ROWS) -> tuple[Exact, Block]:
    structure = STRUCTURES[name]
    y, x = table(level)
    with double_precision():
        block = as_block(y, x, np.zeros((ROWS, 2)), np.array(weights))
        theta = jnp.concatenate([jnp.array([level, level - 0.5, 0.3, -0.4]), jnp.array(structure.free)])
        nodes = grid(structure.build(theta[4:]).shape[1])
        for _ in range(40):
            gradient, hessian = slopes(name)(theta, block, nodes)
            step = jnp.linalg.solve(-hessian, gradient)
            theta = theta + step * jnp.minimum(1.0, 0.3 / jnp.max(jnp.abs(step)))
            if jnp.max(jnp.abs(step)) < 1e-10:
                break
        assert jnp.max(jnp.abs(gradient)) < 1e-6
        root = np.linalg.cholesky(np.linalg.inv(-hessian))
        sigma = jax.jacfwd(lambda t: structure.build(t[4:]) @ structure.build(t[4:]).T)(theta)
        model = Model(theta[:4].reshape(2, 2), structure.build(theta[4:]))
        for_coef = np.linalg.norm(root[:4], axis=1).reshape(2, 2)
        return Exact(model, for_coef, np.linalg.norm(np.asarray(sigma) @ root, axis=2)), block


def found_at(name: str, at: Exact, block: Block, request: Request) -> tuple[Any, Information]:
    structure = STRUCTURES[name]
    with double_precision():
        here = coordinates(structure.shape, structure.loadings, at.model, jnp.mean(block.y, axis=0))
        return here, jax.tree.map(np.asarray, information(block, here, request))


def errors(here: Any, root: intervals.Root) -> np.ndarray:
    """Standard errors of B and Sigma in a row."""
    changes = intervals.of_coef, intervals.of_covariance
    with double_precision():
        return np.concatenate([intervals.standard_error(here, root, change).ravel() for change in changes])


def louis(key: int, draws: int = 1000) -> Request:
    with double_precision():
        return Request(jax.random.key(key), louis=True, draws=draws, kind=jnp.float64)


Estimate = tuple[np.ndarray, np.ndarray]


def agree(actual: Estimate, expected: Estimate, *, limit: float = 0.03) -> None:
    """Means over seeds are equal within four Monte-Carlo errors, which are small; what is not free has none."""
    free = expected[0] > 1e-12
    assert np.array_equal(free, actual[0] > 1e-12)
    error = np.hypot(actual[1], expected[1])[free]
    gap = np.abs(actual[0] - expected[0])[free]
    assert np.all(error < limit * expected[0][free]), error / expected[0][free]
    assert np.all(gap <= STANDARD_ERRORS * error), f"{gap / error} Monte-Carlo errors off"


def over_seeds(one: Any) -> Estimate:
    """Mean over seeds and its standard error."""
    values = np.stack([one(key) for key in range(SEEDS)])
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(SEEDS)


def observed(name: str, at: Exact, block: Block, draws: int = 1000) -> Estimate:
    """Standard errors by Louis' identity."""

    def one(key: int) -> np.ndarray:
        here, found = found_at(name, at, block, louis(key, draws))
        return errors(here, intervals.covariance_root(intervals.observed_information(found)))

    return over_seeds(one)


def known(values: np.ndarray) -> Estimate:
    return values, np.zeros_like(values)


@pytest.mark.parametrize("level", [1.0, -1.0])
@pytest.mark.parametrize("name", STRUCTURES)
def test_observed_information_is_that_of_quadrature(name: str, level: float) -> None:
    """At the maximum of the likelihood, to a per cent or so."""
    if name == "rank" and level < 0:
        pytest.skip("the likelihood of this table has its maximum at infinity")
    at, block = exact(name, level)
    draws = 1000 if level > 0 else 4000  # counts that say less leave more to chance
    agree(observed(name, at, block, draws), known(np.concatenate([at.coef.ravel(), at.covariance.ravel()])))


def test_the_scores_sum_to_zero_at_the_maximum() -> None:
    """Fisher's identity: mean scores are the gradient of the likelihood, zero at its maximum."""
    at, block = exact("full", 1.0)
    scores = np.stack([found_at("full", at, block, louis(key, 400))[1].score for key in range(8)])
    assert np.all(
        np.abs(scores.mean(axis=0)) <= STANDARD_ERRORS * scores.std(axis=0, ddof=1) / np.sqrt(8) + 1e-9
    )
    assert np.all(scores.std(axis=0) < 0.5)


def test_products_are_those_of_the_likelihoods_gradients() -> None:
    """Sum of s-bar s-bar': as a meat it gives the sandwich of quadrature."""
    at, block = exact("full", 1.0)
    structure = STRUCTURES["full"]
    with double_precision():
        theta = jnp.concatenate([at.model.coef.ravel(), at.model.loadings[jnp.tril_indices(2)]])
        nodes = grid(2)
        each = jax.jit(
            jax.jacfwd(
                lambda t: jax.vmap(lambda i: loglik(t, structure, _row(block, i), nodes))(jnp.arange(ROWS))
            )
        )(theta)
        _, hessian = slopes("full")(theta, block, nodes)
        bread = np.linalg.inv(-hessian)
        spread = np.linalg.cholesky(bread @ (each.T @ each) @ bread)
        sigma = jax.jacfwd(lambda t: structure.build(t[4:]) @ structure.build(t[4:]).T)(theta)
    expected = [
        np.linalg.norm(spread[:4], axis=1),
        np.linalg.norm(np.asarray(sigma) @ spread, axis=2).ravel(),
    ]

    def one(key: int) -> np.ndarray:
        here, found = found_at("full", at, block, louis(key, 4000))
        bread = intervals.covariance_root(intervals.observed_information(found))
        return errors(here, intervals.sandwich(bread, found.products))

    agree(over_seeds(one), known(np.concatenate(expected)))


def _row(block: Block, i: Any) -> Block:
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, i, 1), block)


@pytest.mark.parametrize("name", ["full", "rank"])
def test_weight_two_is_a_doubled_row(name: str) -> None:
    weights = np.ones(ROWS)
    weights[[3, 5]] = 2, 0
    at, block = exact(name, 1.0, tuple(weights))
    one = observed(name, at, block)
    chosen = jnp.asarray([*(i for i in range(ROWS) if i != 5), 3])
    doubled = jax.tree.map(lambda a: a[chosen], block)
    doubled = doubled._replace(weights=jnp.ones(ROWS), index=jnp.arange(ROWS))
    agree(observed(name, at, doubled), one)


def test_order_of_columns_does_not_matter() -> None:
    at, block = exact("full", 1.0)
    one = observed("full", at, block)
    with double_precision():
        sigma = at.model.loadings @ at.model.loadings.T
        other = at._replace(model=Model(at.model.coef[:, ::-1], jnp.linalg.cholesky(sigma[::-1, ::-1])))
    actual = observed("full", other, block._replace(y=block.y[:, ::-1]))
    mean, error = (np.concatenate([a[:4].reshape(2, 2)[:, ::-1].ravel(), a[4:][::-1]]) for a in actual)
    agree((mean, error), one)


def test_slices_of_rows_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's draws depend on its number alone, so slices change nothing but the frame of the moves."""
    at, block = exact("full", 1.0)
    one = observed("full", at, block)
    monkeypatch.setattr("poplin.inference.information.NUMBERS", 15 * 2 * 7)
    agree(observed("full", at, block), one)


def expected_by_enumeration(model: Model, x: np.ndarray) -> np.ndarray:
    """Standard errors of (B, Sigma) of one column from sum_y p(y) g g', by quadrature and all counts up to 400."""

    def log_p(theta: Any, y: Any, row: Any) -> Any:
        at = jnp.linspace(-8, 8, 321)
        eta = row @ theta[:2] + theta[2] * at
        terms = y * eta - jnp.exp(eta) - gammaln(y + 1) - 0.5 * at**2
        return logsumexp(terms) + jnp.log((at[1] - at[0]) / jnp.sqrt(2 * jnp.pi))

    counts = jnp.arange(400.0)
    theta = jnp.append(model.coef[:, 0], model.loadings[0, 0])
    every = jax.vmap(jax.vmap(jax.value_and_grad(log_p), (None, 0, None)), (None, None, 0))
    value, gradient = jax.jit(every)(theta, counts, jnp.asarray(x))
    assert jnp.all(jnp.abs(jnp.exp(value).sum(axis=1) - 1) < 1e-6)
    matrix = jnp.einsum("ny,nyk,nyl->kl", jnp.exp(value), gradient, gradient)
    se = jnp.sqrt(jnp.diagonal(jnp.linalg.inv(matrix)))
    return np.asarray(se * jnp.array([1.0, 1.0, 2 * theta[2]]))


def test_expected_information_is_that_of_all_counts() -> None:
    x = np.column_stack([np.ones(30), np.linspace(-1, 1, 30)])
    with double_precision():
        model = Model(jnp.array([[0.5], [0.4]]), jnp.array([[0.7]]))
        expected = expected_by_enumeration(model, x)
        block = as_block(np.ones((30, 1)), x, np.zeros((30, 1)), np.ones(30))
        here = coordinates(Full(jnp.asarray(0.0)), None, model, jnp.full(1, 2.0))
        seeds = []
        for key in range(8):
            found = information(block, here, Request(jax.random.key(key), copies=200, draws=16))
            root = intervals.product_root(found, simulated=True)
            seeds.append(errors(here, root))
    error = np.std(seeds, axis=0, ddof=1) / np.sqrt(len(seeds))
    gap = np.abs(np.mean(seeds, axis=0) - expected)
    assert np.all(gap <= STANDARD_ERRORS * error), f"{gap / error} Monte-Carlo errors off"
    assert np.all(error < 0.02 * expected)
