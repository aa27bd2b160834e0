"""Integrals over a row's latent position by Gauss-Hermite nodes that are placed on the row's fitted Gaussian.

Start at `AbstractRule`. `JointNodes` is for a few latent dimensions (order^q nodes a row), `ColumnNodes` for a diagonal
Sigma, where a row's integral is a product of p one-dimensional ones. Nodes on the prior would miss the mass.
"""

from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from poplin._axes import Coefficients, Counts, Loadings, Rows
from poplin.data.blocks import Block
from poplin.laws import AbstractLaw
from poplin.rows.batches import in_chunks
from poplin.rows.gaussian import fit_rows

SMOOTH = 1e-12  # nats: where nodes lie must not jump with the parameters, or a line search sees steps
LOG_ROOT = 0.5 * np.log(2 * np.pi)


class Integrals(NamedTuple):
    """Per row: log p(y_i) in nats, every constant (n,); and the scores' parts given y_i, Y - E[A] and E[(Y - A) w'].

    `surprise` (n, p) is what B_j's score needs, `tilted` (n, p, q) what C_j's needs. For a diagonal C (`ColumnNodes`)
    only the diagonal of C has a score: `tilted` is then (n, p). slopes: the law's in its own parameters, (n, p) each.
    """

    loglik: Rows
    surprise: Counts
    tilted: Array
    slopes: AbstractLaw


class AbstractRule(eqx.Module):
    """Nodes in units of the rows' Gaussians, with log weights in which exp(-|e|^2 / 2) is divided out."""

    @abstractmethod
    def loglik(self, block: Block, coef: Coefficients, loadings: Loadings) -> Rows:
        """Log p(y_i) of each row under eta = o + XB + C w, w ~ N(0, I), in nats, every constant, (n,)."""

    @abstractmethod
    def loglik_and_scores(
        self, block: Block, coef: Coefficients, loadings: Loadings
    ) -> tuple[Rows, tuple[Coefficients, Loadings], AbstractLaw]:
        """The same with the gradient of its weighted sum in B (d, p) and C (p, q), by Fisher's identity.

        Last the slopes of each cell's part in the law's own parameters, (n, p) each.
        """


class JointNodes(AbstractRule):
    """A grid of nodes (k, q), k = order^q. Cost of a pass: n p k exponentials; memory n p q."""

    points: Array
    log_weights: Array

    def integrals(self, block, coef, loadings) -> Integrals:
        """All three at once, one node after the other."""

        def of_chunk(chunk) -> Integrals:
            (block,) = chunk
            (n, p), q = block.y.shape, loadings.shape[1]
            visit, scale = self._visitor(block, coef, loadings)

            def add(sums, node):
                share, w, surprise, told = visit(node)
                mass, first, second, slopes = sums
                weighted = share[:, None] * surprise
                slopes = jax.tree.map(lambda a, b: a + share[:, None] * b, slopes, told)
                return (
                    mass + share,
                    first + weighted,
                    second + weighted[:, :, None] * w[:, None, :],
                    slopes,
                ), None

            none = (
                jnp.zeros(n),
                jnp.zeros((n, p)),
                jnp.zeros((n, p, q)),
                jax.tree.map(jnp.zeros_like, block.law),
            )
            (mass, first, second, slopes), _ = lax.scan(add, none, (self.points, self.log_weights))
            slopes = jax.tree.map(lambda a: a / mass[:, None], slopes)
            return Integrals(
                scale + jnp.log(mass), first / mass[:, None], second / mass[:, None, None], slopes
            )

        return in_chunks(of_chunk, (block,), loadings)

    def loglik(self, block, coef, loadings):
        def of_chunk(chunk) -> Array:
            (block,) = chunk
            visit, scale = self._visitor(block, coef, loadings)
            mass, _ = lax.scan(
                lambda mass, node: (mass + visit(node)[0], None),
                jnp.zeros(len(block.y)),
                (self.points, self.log_weights),
            )
            return scale + jnp.log(mass)

        return in_chunks(of_chunk, (block,), loadings)

    def loglik_and_scores(self, block, coef, loadings):
        found, weights = self.integrals(block, coef, loadings), block.weights
        for_coef = block.x.T @ (weights[:, None] * found.surprise)
        return found.loglik, (for_coef, jnp.tensordot(weights, found.tilted, 1)), found.slopes

    def _visitor(self, block, coef, loadings):
        """A function from a node to (share of the row's mass in units of `scale`, w, y - rate, slopes), and `scale`."""
        rows = fit_rows(block, coef, loadings, tol=SMOOTH)
        lower = jnp.linalg.cholesky(rows.covariance)
        base = block.offset + block.x @ coef
        # the bound is near log p(y), so that shares are of order one
        constant = (
            jnp.sum(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)), axis=1)
            - block.log_factorial
            - loadings.shape[1] * LOG_ROOT
            - rows.bound
        )

        def visit(node):
            point, log_weight = node
            w = rows.mean + lower @ point
            predictor = base + w @ loadings.T
            counts = jnp.sum(block.law.log_prob(predictor, block.y), axis=1)
            log_joint = counts - 0.5 * jnp.sum(w**2, axis=1)
            surprise = block.y - block.law.rate(predictor, block.y)
            slopes = block.law.scores(predictor, block.y)
            return jnp.exp(log_joint + constant + log_weight), w, surprise, slopes

        return visit, rows.bound


class ColumnNodes(AbstractRule):
    """Nodes (k,) for each entry: C = diag(scale). Cost of a pass: n p k exponentials; memory n k."""

    points: Array
    log_weights: Array

    def loglik(self, block, coef, loadings):
        return self.integrals(block, coef, loadings).loglik

    def loglik_and_scores(self, block, coef, loadings):
        found = self.integrals(block, coef, loadings)
        for_coef = block.x.T @ (block.weights[:, None] * found.surprise)
        return found.loglik, (for_coef, jnp.diag(block.weights @ found.tilted)), found.slopes

    def integrals(self, block, coef, loadings) -> Integrals:
        """Column by column; log p(y_i) is the sum over columns."""

        def one_column(column):
            y, offset, law, coef, scale = column
            law = jax.tree.map(lambda a: a[:, None], law)
            alone = block._replace(y=y[:, None], offset=offset[:, None], law=law)
            fitted = fit_rows(alone, coef[:, None], scale[None, None], tol=SMOOTH)
            sd = jnp.sqrt(fitted.covariance[:, 0])
            w = fitted.mean + sd * self.points
            predictor = (offset + block.x @ coef)[:, None] + scale * w
            rate = law.rate(predictor, y[:, None])
            log_terms = law.log_prob(predictor, y[:, None]) - 0.5 * w**2 + self.log_weights
            value = jax.nn.logsumexp(log_terms, axis=1)
            share = jnp.exp(log_terms - value[:, None])
            weighted = share * (y[:, None] - rate)
            slopes = jax.tree.map(lambda a: jnp.sum(share * a, axis=1), law.scores(predictor, y[:, None]))
            parts = jnp.sum(weighted, axis=1), jnp.sum(weighted * w, axis=1), slopes
            return value + jnp.log(sd[:, 0]) - LOG_ROOT, *parts

        law = jax.tree.map(jnp.transpose, block.law)
        columns = block.y.T, block.offset.T, law, coef.T, jnp.diagonal(loadings)
        value, surprise, tilted, slopes = lax.map(one_column, columns)
        slopes = jax.tree.map(jnp.transpose, slopes)
        return Integrals(jnp.sum(value, axis=0) - block.log_factorial, surprise.T, tilted.T, slopes)


def hermite(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Hermite nodes for integrals against one: sum_k exp(log_weight_k) f(e_k), (order,) each."""
    points, weights = np.polynomial.hermite_e.hermegauss(order)
    return points, np.log(weights) + 0.5 * points**2


def joint_nodes(order: int, q: int) -> JointNodes:
    """The product rule with `order` nodes along each of q axes."""
    points, logs = hermite(order)
    grid, log_weights = (
        np.stack(np.meshgrid(*[a] * q, indexing="ij"), axis=-1).reshape(-1, q) for a in (points, logs)
    )
    return JointNodes(jnp.asarray(grid), jnp.asarray(log_weights.sum(axis=1)))


def column_nodes(order: int) -> ColumnNodes:
    """`order` nodes for each entry."""
    points, logs = hermite(order)
    return ColumnNodes(jnp.asarray(points), jnp.asarray(logs))
