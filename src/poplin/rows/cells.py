"""One sweep over the cells of each row, all rows at once: every Z_ij is drawn anew given the others of its row.

Start at `sweep`; `slow_columns` says where it is worth its time. A trajectory (`rows/chains.py`) moves a row as a
whole, in steps as short as its stiffest cell wants. In a row of zeros and thousands the cell of a zero is wide and
one-sided, and that of a thousand narrow: there such steps lead nowhere, while cell by cell each has its own width.

Given the rest of its row a cell has the log density, up to a constant, with u = o_ij + Z_ij,

    f(u) = y u - exp(u) - (u - a)^2 / (2 s^2),    a, s^2: mean and variance of u given the others, before it is counted.

f is concave, so its tangents at the mode and one unit below it, on either side, lie above it: a proposal, flat
between two exponential tails, whose area is 1.13 times that under f where f is quadratic. As the proposal depends on
the other cells alone, and f is never above it, a cell forgets where it was at once. Sources: Devroye (1986),
Non-uniform random variate generation, chapter VII; Gilks & Wild (1992); Liu (1996), the independence sampler.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._axes import Coefficients, Counts, Covariance, Latent, Loadings
from poplin._numerics import compiled
from poplin.data.blocks import Block
from poplin.rows.batches import CHUNK
from poplin.rows.chains import Frame, row_words
from poplin.rows.gaussian import fit_rows

NOTHING = -60.0  # log rate below which a cell is as good as not counted (missing counts have no exposure)
NEAR, MANY = 0.5, 0.05  # a trajectory's way in a cell's standard deviations; share of such cells that is many
TO_MODE, TO_TANGENT = 4, 3  # Newton steps; they shape the proposal alone


class Proposal(NamedTuple):
    """Flat over (-left, right) about the mode, then tails that fall by `fall_left` and `fall_right` a unit of u."""

    mode: Array
    left: Array
    right: Array
    fall_left: Array
    fall_right: Array


def slow_columns(frame: Frame, rate: Counts, variance: Counts, block: Block) -> Array:
    """Columns (p,) many of whose cells a trajectory in this frame would hardly move.

    `rate` and `variance` (n, p): means of the rates and variances of Z under the rows' diagonal Gaussians. A
    trajectory of four leaps moves Z_ij by about 2 (sum_k L_jk^2 / m_ik)^(1/2), m_ik the row's masses in the frame's
    coordinates: `NEAR` of a cell's own standard deviation, or less, is hardly. Cost 2 n p q.
    """
    across = frame.loadings**2
    travel = 2 * jnp.sqrt((1 / (frame.stiffness + rate @ across)) @ across.T)
    slow = travel < NEAR * jnp.sqrt(variance)
    return block.weights @ slow > MANY * jnp.sum(block.weights)


def sweep(
    key: Array, residual: Latent, base: Array, precision: Covariance, block: Block, *, chosen: Array
) -> Latent:
    """R = Z - XB (n, p) after one draw of each cell of the chosen columns (p,) from p(Z_ij | Z_i,-j, y_ij), in turn.

    `base` (n, p) is o + XB, `precision` Sigma^-1 (p, p). Leaves p(Z_i | y_i) invariant. Cost: 2 n p and about 14 n
    exponentials for each chosen column.
    """
    n, p = residual.shape
    uniform = row_words(key, block.index, 2 * p, residual.dtype).reshape(2, p, n)
    y, base = block.y.T, jnp.maximum(base.T, NOTHING)  # a column is contiguous

    order = jnp.argsort(~chosen)

    def one(k: Array, r: Array) -> Array:
        j = order[k]
        scale = precision[j, j]
        given = r[j] - precision[j] @ r / scale
        drawn = draw(uniform[:, j], base[j] + r[j], y[j], base[j] + given, 1 / scale)
        return r.at[j].set(drawn - base[j])

    return jax.lax.fori_loop(0, jnp.sum(chosen), one, residual.T).T


def draw(uniform: Array, u: Array, y: Array, a: Array, variance: Array) -> Array:
    """A draw of each cell (n,), from where it is, u, by two uniforms (2, n)."""
    proposal = proposal_of(y, a, variance)
    place, above = _proposed(uniform[0], proposal)
    new = proposal.mode + place
    old = u - proposal.mode
    rate = jnp.exp(proposal.mode)
    # heights below the mode, so that counts of 1e5 do not drown them
    slope = y - (proposal.mode - a) / variance

    def height(t: Array) -> Array:
        return slope * t - rate * jnp.expm1(t) - 0.5 * t**2 / variance

    gain = height(place) - above - height(old) + _above(old, proposal)
    taken = jnp.log(uniform[1]) < jnp.where(jnp.isnan(gain), -jnp.inf, gain)
    return jnp.where(taken, new, u)


def proposal_of(y: Array, a: Array, variance: Array) -> Proposal:
    """The tangents above f; 10 exponentials a cell."""
    log_variance = jnp.log(variance)
    # f'(u) = 0 where v + exp(v) = x, v = u + log s^2: Newton from above, where it cannot go astray
    x = variance * y + a + log_variance
    v = jnp.where(x > 1, jnp.log(jnp.maximum(x, 1)), x)
    for _ in range(TO_MODE):
        up = jnp.exp(v)
        v = v - (up + v - x) / (up + 1)
    mode = v - log_variance
    rate, prior = jnp.exp(mode), 1 / variance
    wide = jnp.sqrt(2 / (rate + prior))
    left = _one_below(wide, -rate, prior)
    right = _one_below(wide, rate, prior)
    fall_left = -rate * jnp.expm1(-left) + left * prior
    fall_right = rate * jnp.expm1(right) + right * prior
    drop_left = rate * (jnp.expm1(-left) + left) + 0.5 * left**2 * prior
    drop_right = rate * (jnp.expm1(right) - right) + 0.5 * right**2 * prior
    return Proposal(
        mode, left - drop_left / fall_left, right - drop_right / fall_right, fall_left, fall_right
    )


def _one_below(t: Array, rate: Array, prior: Array) -> Array:
    """How far from the mode f is about one below it, to the right (rate > 0) or to the left (minus the rate)."""
    side = jnp.sign(rate)
    for _ in range(TO_TANGENT):
        grown = jnp.expm1(side * t)
        drop = jnp.abs(rate) * (grown - side * t) + 0.5 * t**2 * prior
        t = jnp.maximum(t - (drop - 1) / (rate * grown + t * prior), 0.25 * t)
    return t


def _proposed(uniform: Array, at: Proposal) -> tuple[Array, Array]:
    """A draw from the proposal, from the mode, and the proposal's log height there."""
    tails = 1 / at.fall_left, 1 / at.fall_right
    mass = uniform * (tails[0] + at.left + at.right + tails[1])
    tiny = jnp.finfo(mass.dtype).tiny
    low = jnp.log(jnp.maximum(mass * at.fall_left, tiny))
    beyond = mass - tails[0] - at.left - at.right
    high = jnp.log(jnp.maximum(1 - beyond * at.fall_right, tiny))
    place = jnp.where(
        mass < tails[0],
        -at.left + low * tails[0],
        jnp.where(beyond > 0, at.right - high * tails[1], mass - tails[0] - at.left),
    )
    return place, _above(place, at)


def _above(t: Array, at: Proposal) -> Array:
    """Log height of the proposal at a distance t from the mode, with 0 at the mode."""
    outside = jnp.minimum((t + at.left) * at.fall_left, (at.right - t) * at.fall_right)
    return jnp.minimum(outside, 0.0)


# What each count says of its own log rate, as a normal: the model is then Gaussian, all of it in closed form.
#
# Start at `sites`. About the best Gaussian of a row, with A_ij its mean rates, the likelihood of a count is, as a
# function of eta_ij = x_i'B_j + Z_ij, close to that of one observation
#
# t_ij = eta_ij + (y_ij - A_ij) / A_ij of precision A_ij,
#
# so that t_i ~ N(B'x_i, Sigma + diag(1 / A_i)) whatever (B, Sigma) are. `told` is the E-step of that model, `score`
# its log-likelihood. Estimates come out as near as the bound of full Gaussians brings them; comparisons of parameters
# that are near each other are what it is for. By NumPy: there is nothing to compile. Source: the sites of Minka
# (2001), Expectation propagation, here of a variational fit.


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
    _, rate, weight = block.law.expected(block.offset + latent, spread, block.y)
    rate, told = jnp.minimum(rate, SUREST), jnp.minimum(weight, SUREST)
    return told, jnp.where(told > 0, told * latent + block.y - rate, 0.0)


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
