"""Standard errors of variational fits: the sandwich of the bound with the rows' own Gaussians profiled out.

Start at `profiled`. The bound J(theta) = sum_i max over psi_i of J_i(theta, psi_i) is maximised, so by the envelope

    score_i = dJ_i / dtheta at the row's best psi_i,
    -J'' = sum_i [ -d2J_i/dtheta2 - G_i P_i^-1 G_i' ],   G_i = dscore_i / dpsi_i,   P_i = -d2J_i/dpsi_i2,

and the maximiser has the covariance I^-1 (sum_i score_i score_i') I^-1 about the value that it tends to. That value is
not the truth: the bound's bias is not in these errors. Source: Westling & McCormick (2019), Beyond prediction: a
framework for inference with variational approximations.
"""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin.data.blocks import Block
from poplin.inference.coordinates import Coordinates
from poplin.inference.information import Information
from poplin.rows.plane import rates

BATCH = 32  # rows at a time


class AbstractFamily(eqx.Module):
    """The rows' Gaussians of w: `unknown` numbers psi_i and what mean and covariance they stand for."""

    unknown: eqx.AbstractVar[Array]

    @abstractmethod
    def moments(self, unknown: Array) -> tuple[Array, Array]:
        """Mean (q,) and covariance (q, q) of one row's w."""


class DiagonalFamily(AbstractFamily):
    """Diagonal in W^-1 w, psi = (mean, log standard deviation) there: W = I, or C^-1 for a Gaussian of Z - XB."""

    unknown: Array
    into: Array

    def moments(self, unknown):
        mean, log_sd = jnp.split(unknown, 2)
        return self.into @ mean, (self.into * jnp.exp(2 * log_sd)) @ self.into.T


class FullFamily(AbstractFamily):
    """Any covariance: psi = (mean, lower triangle of S)."""

    unknown: Array
    size: int = eqx.field(static=True)

    def moments(self, unknown):
        mean, entries = unknown[: self.size], unknown[self.size :]
        half = jnp.zeros((self.size, self.size)).at[jnp.tril_indices(self.size)].set(entries)
        return mean, half + half.T - jnp.diag(jnp.diagonal(half))


def full_family(mean: Array, covariance: Array) -> FullFamily:
    """The family of full Gaussians, at these moments."""
    q = mean.shape[1]
    entries = covariance[(slice(None), *jnp.tril_indices(q))]
    return FullFamily(jnp.concatenate([mean, entries], axis=1), q)


def _rate(here: Coordinates, mean: Array, covariance: Array, row: Block) -> tuple[Array, Array]:
    """Log rates at the mean and mean rates of one row, (p,)."""
    loadings = here.model.loadings
    predictor = row.offset + row.x @ here.model.coef + loadings @ mean
    return predictor, rates(predictor + 0.5 * jnp.sum((loadings @ covariance) * loadings, axis=1))


def _bound(here: Coordinates, family: AbstractFamily, unknown: Array, row: Block) -> Array:
    """J_i of one row, without what does not depend on psi."""
    mean, covariance = family.moments(unknown)
    predictor, rate = _rate(here, mean, covariance, row)
    entropy = 0.5 * jnp.linalg.slogdet(covariance)[1]
    return jnp.sum(row.y * predictor - rate) - 0.5 * (mean @ mean + jnp.trace(covariance)) + entropy


def _score(here: Coordinates, family: AbstractFamily, unknown: Array, row: Block) -> Array:
    mean, covariance = family.moments(unknown)
    rate = _rate(here, mean, covariance, row)[1]
    one = jax.tree.map(lambda a: a[None], (mean, covariance, rate, row))
    return here.expected_scores(*one)[0]


def _curvature(here: Coordinates, family: AbstractFamily, unknown: Array, row: Block) -> Array:
    """E[rate_j f f'] of one row's columns, (p, k, k): the rates lean toward m + S c_j."""
    mean, covariance = family.moments(unknown)
    rate = _rate(here, mean, covariance, row)[1]
    leaning = mean + here.model.loadings @ covariance
    features = jnp.concatenate([jnp.broadcast_to(row.x, (len(rate), len(row.x))), leaning], axis=1)
    d = len(row.x)
    square = features[:, :, None] * features[:, None, :]
    return rate[:, None, None] * square.at[:, d:, d:].add(covariance)


@jax.jit
def profiled_scores(here: Coordinates, family: AbstractFamily, block: Block) -> Array:
    """The rows' scores of the profiled bound (n, K), without their weights."""
    return jax.lax.map(
        lambda row: _score(here, family, row[1], row[0]), (block, family.unknown), batch_size=BATCH
    )


@jax.jit
def profiled(here: Coordinates, family: AbstractFamily, block: Block) -> Information:
    """The profiled bound's negative Hessian (`observed`) and the sum of its scores' products, in `Coordinates`.

    With r numbers psi a row (2 q, or q (q + 3) / 2 for full Gaussians): n (r^3 + r^2 K + r K^2).
    """
    d, (p, q) = block.x.shape[1], here.model.loadings.shape
    size, k = here.size(), d + q

    def of_row(row_and_unknown):
        row, unknown = row_and_unknown
        lower = jnp.linalg.cholesky(-jax.hessian(_bound, 2)(here, family, unknown, row))
        slope = jax.jacfwd(_score, 2)(here, family, unknown, row)
        missing = jax.scipy.linalg.solve_triangular(lower, slope.T, lower=True)
        return missing, _score(here, family, unknown, row), _curvature(here, family, unknown, row)

    def add(total, batch):
        row, _ = batch
        missing, score, curvature = jax.vmap(of_row)(batch)
        root = jnp.sqrt(row.weights)[:, None]
        wide = (missing * root[:, :, None]).reshape(-1, size)
        found = wide.T @ wide, jnp.tensordot(row.weights, curvature, 1), (score * root).T @ (score * root)
        return jax.tree.map(jnp.add, total, (*found, row.weights @ score)), None

    zeros = (
        jnp.zeros((size, size)),
        jnp.zeros((p, k, k)),
        jnp.zeros((size, size)),
        jnp.zeros(size),
    )
    batches = jax.tree.map(_batched, (block, family.unknown))
    n = len(block.weights)
    there = (jnp.arange(batches[0].weights.size) < n).reshape(batches[0].weights.shape)
    batches = (batches[0]._replace(weights=batches[0].weights * there), batches[1])
    (missing, hessian, products, score), _ = jax.lax.scan(add, zeros, batches)
    rows, gram = jnp.sum(block.weights), block.x.T @ (block.weights[:, None] * block.x)
    observed = here.complete(rows, gram, hessian) - missing
    nothing = jnp.zeros_like(observed)
    return Information(products, nothing, products, score, rows, jnp.sum(block.weights**2), observed, nothing)


def _batched(a: Array) -> Array:
    """Rows in batches, the last filled with row 0."""
    n = len(a)
    count = -(-n // BATCH)
    index = jnp.arange(count * BATCH)
    return a[jnp.where(index < n, index, 0)].reshape(count, BATCH, *a.shape[1:])
