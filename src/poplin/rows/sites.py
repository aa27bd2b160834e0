"""What each count says of its own log rate, as a normal: the model is then Gaussian, all of it in closed form.

Start at `sites`. About the best Gaussian of a row, with A_ij its mean rates, the likelihood of a count is, as a
function of eta_ij = x_i'B_j + Z_ij, close to that of one observation

    t_ij = eta_ij + (y_ij - A_ij) / A_ij    of precision    A_ij,

so that t_i ~ N(B'x_i, Sigma + diag(1 / A_i)) whatever (B, Sigma) are. `told` is the E-step of that model, `score` its
log-likelihood. Estimates come out as near as the bound of full Gaussians brings them; comparisons of parameters that
are near each other are what it is for. By NumPy: there is nothing to compile. Source: the sites of Minka (2001),
Expectation propagation, here of a variational fit.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poplin._axes import Coefficients, Loadings
from poplin._compile import compiled
from poplin.data.blocks import Block
from poplin.rows.batches import CHUNK
from poplin.rows.gaussian import fit_rows
from poplin.rows.plane import rates

SUREST = 1e8  # precision at most: what counts beyond it say more is not needed


class Sites(NamedTuple):
    """Precision A (n, p), A t (n, p) (both zero where a count is missing), covariates (n, d), weights (n,)."""

    precision: np.ndarray
    pull: np.ndarray
    x: np.ndarray
    weights: np.ndarray

    def rows(self, chosen: np.ndarray) -> "Sites":
        """Those of some rows."""
        return Sites(*(a[chosen] for a in self))

    def chunks(self) -> Iterator["Sites"]:
        """A few rows at a time, so that their (p, p) matrices stay bounded in memory."""
        n, p = self.precision.shape
        each = max(1, CHUNK // p**2)
        return (Sites(*(a[k : k + each] for a in self)) for k in range(0, n, each))


class Told(NamedTuple):
    """Sums over rows: of E[Z] - XB the product with x (d, p), of Z - XB the expected second moment (p, p).

    rows: sum of weights; gram (d, d): X'X.
    """

    cross: np.ndarray
    second: np.ndarray
    rows: float
    gram: np.ndarray


def sites(block: Block, coef: Coefficients, loadings: Loadings) -> Sites:
    """The sites about the rows' best Gaussians under (B, C); the cost is that of `fit_rows`."""
    found = fit_rows(block, coef, loadings)
    precision, pull = jax.device_get(_sites(block, coef, loadings, found.mean, found.covariance))
    return Sites(precision, pull, np.asarray(block.x, float), np.asarray(block.weights, float))


@compiled()
def _sites(block: Block, coef, loadings, mean, covariance):
    latent = block.x @ coef + mean @ loadings.T
    spread = jnp.einsum("jk,nkj->nj", loadings, covariance @ loadings.T)
    rate = jnp.minimum(rates(block.offset + latent + 0.5 * spread), SUREST)
    return rate, jnp.where(rate > 0, rate * latent + block.y - rate, 0.0)


def told(at: Sites, coef: np.ndarray, covariance: np.ndarray) -> Told:
    """The E-step at (B, Sigma): a row's Z - XB has the precision Sigma^-1 + diag(A); n p^3, rows in chunks."""
    (d, p), prior = coef.shape, np.linalg.inv(covariance)
    cross, second, gram = np.zeros((d, p)), np.zeros((p, p)), np.zeros((d, d))
    for rows in at.chunks():
        spread = np.linalg.inv(prior + rows.precision[:, :, None] * np.eye(p))
        apart = rows.pull - rows.precision * (rows.x @ coef)
        mean = np.matmul(spread, apart[:, :, None])[:, :, 0]
        weighted = rows.weights[:, None] * mean
        cross += rows.x.T @ weighted
        second += mean.T @ weighted + np.tensordot(rows.weights, spread, 1)
        gram += rows.x.T @ (rows.weights[:, None] * rows.x)
    return Told(cross, 0.5 * (second + second.T), float(np.sum(at.weights)), gram)


def score(at: Sites, coef: np.ndarray, covariance: np.ndarray) -> float:
    """The weighted log-likelihood of the rows, up to what does not depend on (B, Sigma); n p^3."""
    total = 0.0
    for rows in at.chunks():
        root = np.sqrt(rows.precision)
        noisy = np.eye(len(covariance)) + root[:, :, None] * covariance * root[:, None, :]
        apart = (rows.pull - rows.precision * (rows.x @ coef)) / np.maximum(root, 1e-150)
        white = np.linalg.solve(noisy, apart[:, :, None])[:, :, 0]
        each = np.linalg.slogdet(noisy)[1] + np.sum(apart * white, axis=1)
        total -= 0.5 * float(rows.weights @ each)
    return total
