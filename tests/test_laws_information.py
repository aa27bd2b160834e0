"""Information under every law of the counts, its own parameters among the numbers: against quadrature.

Start at `test_products_are_those_of_the_likelihoods_gradients`. The oracle is the log-likelihood of rows on a grid of
w, with derivatives by JAX in B, C and the law's parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poplin._numerics import double_precision
from poplin.data.blocks import Block, as_block
from poplin.inference import sandwich
from poplin.inference.coordinates import Coordinates, bound_coordinates, coordinates, with_law
from poplin.inference.information import Request, information
from poplin.laws import AbstractLaw, curvatures, telling, with_parameters
from poplin.models.loadings import FreeLoadings
from poplin.rows.gaussian import fit_rows
from poplin.updates.structure import Full, Model
from tests.test_laws import LAWS, cells
from tests.tolerances import STANDARD_ERRORS, within_errors

SEEDS = 4
LOWER = np.array([[0.9, 0.0], [0.4, 0.7]])
COEF = np.array([[0.3, 0.9], [0.3, -0.4]])


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    with double_precision():
        yield


def law_of_columns(name: str) -> AbstractLaw:
    """Of two columns: sizes of each, a probability of zeros that a feature of the rows moves."""
    law = jax.tree.map(lambda a: jnp.asarray(a)[None, :2], LAWS[name][0])
    leaves = jax.tree.leaves(law)
    if name.startswith("zero"):
        leaves[-1] = jnp.asarray([[-1.0, 0.0], [0.5, -0.5]])
    return with_parameters(law, tuple(leaves))


def table(name: str, n: int) -> tuple[Block, AbstractLaw]:
    """Rows drawn from the model, an intercept and a covariate, which moves zeros as well."""
    random = np.random.default_rng(5)
    x = np.column_stack([np.ones(n), random.normal(size=n)])
    law, like = law_of_columns(name), np.zeros((n, 2))
    empty = as_block(like, x, like, np.ones(n), zero_features=x).under(law)
    eta = x @ COEF + random.normal(size=(n, 2)) @ LOWER.T
    of_cells = jax.tree.map(np.asarray, empty.law)
    y = np.asarray(of_cells.sample(random, eta, lambda random, log_rate: random.poisson(np.exp(log_rate))))
    block = as_block(y.astype(float), x, like, np.ones(n), zero_features=x)
    return block.under(law), law


def along(here: Coordinates, numbers: Any, block: Block) -> tuple[Model, Block]:
    """The model and the rows under the law, moved along the numbers."""
    d, moved = here.model.coef.shape[0], here.outward.moves(here._moved(numbers[None]))[0]
    rest, leaves = here.own_tangents(numbers[None])[0], []
    for leaf in jax.tree.leaves(here.own):
        leaves.append(leaf + rest[: leaf.size].reshape(leaf.shape))
        rest = rest[leaf.size :]
    model = Model(here.model.coef + moved[:d], here.model.loadings + moved[d:].T)
    return model, block.under(with_parameters(here.own, tuple(leaves)))


def row_logliks(here: Coordinates, block: Block) -> Callable[[Any], Any]:
    """Log p(y_i) of the rows (n,) as a function of the numbers, by the trapezoid rule over w."""
    q = here.model.loadings.shape[1]
    at = np.linspace(-7, 7, 57)
    w = np.stack(np.meshgrid(*[at] * q, indexing="ij"), axis=-1).reshape(-1, q)
    constant = q * np.log(at[1] - at[0]) - 0.5 * np.sum(w**2 + np.log(2 * np.pi), axis=1)

    def value(numbers: Any) -> Any:
        (coef, loadings), rows = along(here, numbers, block)
        eta = (rows.offset + rows.x @ coef)[:, None] + w @ loadings.T
        law = jax.tree.map(lambda a: a[:, None], rows.law)
        counts = jnp.sum(law.log_prob(eta, rows.y[:, None] + 0 * eta), axis=2)
        return jax.nn.logsumexp(counts + constant, axis=1)

    return value


def numbers_of(block: Block, law: AbstractLaw, *, rank: bool) -> Coordinates:
    if rank:
        model = Model(jnp.asarray(COEF), jnp.asarray(LOWER[:, :1]))
        made = coordinates(None, FreeLoadings(), model, jnp.mean(block.y, axis=0))
    else:
        model = Model(jnp.asarray(COEF), jnp.asarray(LOWER))
        made = coordinates(Full(jnp.asarray(0.0)), None, model, jnp.mean(block.y, axis=0))
    return with_law(made, law)


@pytest.mark.parametrize(
    ("name", "rank"), [*((name, False) for name in LAWS), ("zero-inflated negative binomial", True)]
)
def test_products_are_those_of_the_likelihoods_gradients(name: str, rank: bool) -> None:
    block, law = table(name, 24)
    here = numbers_of(block, law, rank=rank)
    scores = np.asarray(jax.jit(jax.jacfwd(row_logliks(here, block)))(jnp.zeros(here.size())))
    request = lambda key: Request(jax.random.key(key), draws=2000, kind=jnp.float64)
    found = [jax.tree.map(np.asarray, information(block, here, request(key))) for key in range(SEEDS)]
    exact, scale = scores.T @ scores, np.sqrt(np.sum(scores**2, axis=0))
    unit = np.stack([(one.products - exact) / scale / scale[:, None] for one in found])
    error = unit.std(axis=0, ddof=1) / np.sqrt(SEEDS)
    assert np.median(error) < 0.02 and np.max(error) < 0.1  # the largest of what counts hardly tell
    assert np.all(
        np.abs(unit.mean(axis=0)) < 3 * STANDARD_ERRORS * (error + 1e-3)
    )  # errors are of four seeds
    total = np.stack([one.score for one in found])
    assert within_errors(
        total.mean(axis=0), scores.sum(axis=0), 3 * total.std(axis=0, ddof=1) / 2 + 1e-3 * scale
    )


@pytest.mark.parametrize("name", ["negative binomial", "bernoulli", "zero-inflated negative binomial"])
def test_observed_information_is_the_likelihoods_curvature(name: str) -> None:
    """By Louis' identity, in numbers that move (B, C) and the law's parameters in straight lines: at any values."""
    block, law = table(name, 24)
    plain = numbers_of(block, law, rank=False)
    here = replace(plain, held=jnp.zeros_like(plain.held))
    total = lambda numbers: -jnp.sum(row_logliks(here, block)(numbers))
    exact = np.asarray(jax.jit(jax.hessian(total))(jnp.zeros(here.size())))
    request = lambda key: Request(jax.random.key(key), louis=True, draws=2000, kind=jnp.float64)
    found = np.stack([np.asarray(information(block, here, request(key)).observed) for key in range(SEEDS)])
    scale = np.sqrt(np.mean([np.diag(information(block, here, request(9)).whole)], axis=0)) + 1e-3
    unit = (found - exact) / scale / scale[:, None]
    error = unit.std(axis=0, ddof=1) / np.sqrt(SEEDS)
    assert np.median(error) < 0.05
    assert np.all(np.abs(unit.mean(axis=0)) < 3 * STANDARD_ERRORS * (error + 2e-3))


@pytest.mark.parametrize("name", ["negative binomial", "bernoulli", "zero-inflated negative binomial"])
def test_a_bounds_information_is_its_curvature(name: str) -> None:
    """Scores and negative Hessian of the bound with full Gaussians profiled out: by differences, nothing drawn."""
    block, law = table(name, 24)
    model = Model(jnp.asarray(COEF), jnp.asarray(LOWER))
    here = with_law(bound_coordinates(None, FreeLoadings(), model, diagonal=False), law)
    bound = lambda numbers: float(jnp.sum(fitted(numbers).bound))

    def fitted(numbers: np.ndarray) -> Any:
        moved, rows = along(here, jnp.asarray(numbers), block)
        return fit_rows(rows, *moved, tol=1e-13)

    rows, step = fitted(np.zeros(here.size())), 2e-3
    found = sandwich.profiled(here, sandwich.full_family(rows.mean, rows.covariance), block)
    for direction in np.random.default_rng(2).normal(size=(5, here.size())):
        up, still, down = (bound(move * direction) for move in (step, 0.0, -step))
        np.testing.assert_allclose(found.score @ direction, (up - down) / (2 * step), rtol=1e-3, atol=1e-2)
        curvature = (2 * still - up - down) / step**2
        np.testing.assert_allclose(direction @ np.asarray(found.observed) @ direction, curvature, rtol=2e-3)


@pytest.mark.parametrize("name", LAWS)
def test_curvatures_are_second_derivatives(name: str) -> None:
    law, eta, y = cells(name)
    of_cells = jax.tree.map(lambda a: jnp.broadcast_to(a, eta.shape), law)
    eta, y = jnp.asarray(eta), jnp.asarray(y)
    leaves, rebuild = jax.tree.flatten(of_cells)

    def one(numbers: Any, y: Any) -> Any:
        return jax.tree.unflatten(rebuild, list(numbers[1:])).log_prob(numbers[0], y)

    numbers = jnp.stack([eta, *leaves], axis=-1)
    exact = -jax.vmap(jax.vmap(jax.hessian(one)))(numbers, y)
    found = curvatures(of_cells, eta, y)
    lines = [
        [found.counts, *found.beside],
        *([b, *line] for b, line in zip(found.beside, found.among, strict=True)),
    ]
    for k, line in enumerate(lines):
        for m, part in enumerate(line):
            np.testing.assert_allclose(part, exact[..., k, m], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_what_counts_will_say_is_at_most_their_information(name: str) -> None:
    law, values = LAWS[name]
    eta = jnp.asarray([[-2.0, 0.3, 1.5]])
    y = jnp.asarray(values)[:, None] * jnp.ones((1, 3))
    there = eta + 0 * y
    log_prob = law.log_prob(there, y) - jax.scipy.special.gammaln(y + 1)
    exact = jnp.sum(jnp.exp(log_prob) * (y - law.rate(there, y)) ** 2, axis=0)
    found = telling(law, eta)[0]
    assert np.all(np.asarray(found) <= np.asarray(exact) * (1 + 1e-9))
    if not name.startswith("zero"):
        np.testing.assert_allclose(found, exact, rtol=1e-7)
