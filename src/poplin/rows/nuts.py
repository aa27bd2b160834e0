"""No-U-turn moves of every row's latent position, by BlackJAX, which is loaded when the first one is compiled.

Start at `move`. Chains move in e, w = m_i + L_i e, with (m_i, L_i) a Gaussian near the row's posterior, so that one
step size of order one suits every row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Coefficients, Counts, Latent, Loadings, Rows
from poplin.data.blocks import Block
from poplin.rows.gaussian import GaussianRows
from poplin.rows.plane import rates

DOUBLINGS = 6  # of a trajectory at most: 63 steps
TARGET = 0.8  # acceptance that the step sizes are steered to


class Chains(NamedTuple):
    """What a row keeps: e (n, q), log step size and acceptance (n,), and its Gaussian: mean (n, q), root (n, q, q)."""

    position: Latent
    log_step: Rows
    acceptance: Rows
    mean: Latent
    lower: Array


def begin(rows: GaussianRows) -> Chains:
    """Chains at the means of the rows' Gaussians."""
    n, q = rows.mean.shape
    still = jnp.full(n, jnp.log(0.8) - 0.25 * jnp.log(q)), jnp.full(n, TARGET)
    return Chains(jnp.zeros_like(rows.mean), *still, rows.mean, jnp.linalg.cholesky(rows.covariance))


def latent(chains: Chains) -> Latent:
    """W where the chains are, (n, q)."""
    return chains.mean + jnp.einsum("nkl,nl->nk", chains.lower, chains.position)


def carried(chains: Chains, w: Latent) -> Chains:
    """The chains at other positions w."""
    apart = (w - chains.mean)[:, :, None]
    return chains._replace(
        position=jax.scipy.linalg.solve_triangular(chains.lower, apart, lower=True)[:, :, 0]
    )


def move(
    key: Array, chains: Chains, block: Block, coef: Coefficients, loadings: Loadings, *, adapt: Array
) -> tuple[Chains, Counts]:
    """One NUTS transition per row that leaves p(w_i | y_i; B, C) invariant; also the rates there (n, p).

    `adapt` in [0, 1] is how far step sizes still learn (it must vanish for exactness). Cost: up to 63 leapfrog steps of
    every row, as many as the row that needs most. Source: Hoffman & Gelman (2014).
    """
    from blackjax.mcmc import nuts

    kernel = nuts.build_kernel()
    base = block.offset + block.x @ coef
    unit = jnp.ones(loadings.shape[1])

    def one(index, position, log_step, mean, lower, y, base):
        def log_density(e):
            w = mean + lower @ e
            predictor = base + loadings @ w
            return y @ predictor - jnp.sum(rates(predictor)) - 0.5 * w @ w

        state, info = kernel(
            jax.random.fold_in(key, index),
            nuts.init(position, log_density),
            log_density,
            jnp.exp(log_step),  # type: ignore[arg-type]
            unit,
            DOUBLINGS,
        )
        return state.position, info.acceptance_rate

    position, acceptance = jax.vmap(one)(
        block.index, chains.position, chains.log_step, chains.mean, chains.lower, block.y, base
    )
    moved = chains._replace(
        position=position,
        log_step=jnp.clip(chains.log_step + 0.2 * adapt * (acceptance - TARGET), -8.0, 1.0),
        acceptance=chains.acceptance + 0.1 * (acceptance - chains.acceptance),
    )
    return moved, rates(base + latent(moved) @ loadings.T)
