"""One Markov chain per row, all rows at once: Hamiltonian moves that leave p(w_i | y_i; B, C) invariant.

Start at `move`. Chains live in the whitened latent w (Z = XB + C w). A move works in the coordinates v of
`Frame`, in which a row with average rates has a spherical posterior; what is left of a row's own shape goes
into its diagonal mass and its step size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from poplin._axes import Counts, Latent, Loadings, Rows
from poplin.data.blocks import Block

VARYING = 0.3  # share by which a move's step size is longer or shorter than the row's own
TARGET = 0.8  # acceptance that the step sizes are steered to


class Frame(NamedTuple):
    """Coordinates of a move: Z - XB = v loadings', prior precision diag(stiffness), v = w to_frame.

    With D the mean rates and C'DC = U diag(lambda) U': loadings = C U (1 + lambda)^(-1/2), stiffness = 1 /
    (1 + lambda).
    """

    loadings: Loadings
    stiffness: Array
    to_frame: Array
    from_frame: Array


class Chains(NamedTuple):
    """What a row keeps: w (n, q), its running mean rates (n, p), log step size and acceptance (n,)."""

    position: Latent
    mean_rate: Counts
    log_step: Rows
    acceptance: Rows


def frame(loadings: Loadings, mean_rate: Array) -> Frame:
    """The frame for columns with these mean rates; O(p q^2 + q^3), once an iteration."""
    curvature, axes = jnp.linalg.eigh(loadings.T @ (mean_rate[:, None] * loadings))
    spread = jnp.sqrt(1 + jnp.maximum(curvature, 0))
    return Frame(loadings @ (axes / spread), spread**-2, axes * spread, (axes / spread).T)


def row_noise(key: Array, index: Array, size: int, dtype) -> tuple[Array, Array, Array]:
    """Standard normals (n, size) and two uniforms (n,) each, from keys folded with the rows' global numbers."""

    def one(i):
        bits = jax.random.fold_in(key, i)
        normal = jax.random.normal(bits, (size + 2,), dtype)
        # length and angle of two normals (Box-Muller backwards) save a second key per row
        length = jnp.exp(-0.5 * (normal[size] ** 2 + normal[size + 1] ** 2))
        return normal[:size], length, 0.5 + jnp.arctan2(normal[size], normal[size + 1]) / (2 * jnp.pi)

    return jax.vmap(one)(index)


def move(
    key: Array, chains: Chains, block: Block, *, coef: Array, frame: Frame, steps: int, adapt: Array
) -> tuple[Chains, Counts]:
    """One Hamiltonian trajectory per row, accepted or refused; also the rates at the new positions (n, p).

    `adapt` in [0, 1] is how far step sizes and mean rates still learn (it must vanish for exactness). Cost:
    (steps + 1) (n p exponentials and 2 n p q). Source: Neal (2011), MCMC using Hamiltonian dynamics.
    """
    base = block.offset + block.x @ coef
    start = chains.position @ frame.to_frame
    noise, uniform, other = row_noise(key, block.index, start.shape[1], start.dtype)
    curvature = frame.stiffness + chains.mean_rate @ frame.loadings**2
    # of varying length: a trajectory of half a period would return each v to -v, of a whole one to where it was
    length = jnp.exp(chains.log_step) * (1 + VARYING * (2 * other - 1))
    step = length[:, None] / jnp.sqrt(curvature)

    def gradient(rate, v):
        return (block.y - rate) @ frame.loadings - frame.stiffness * v

    def leap(_, carry):
        v, momentum, _ = carry
        v = v + step * momentum
        rate = jnp.exp(base + v @ frame.loadings.T)
        return v, momentum + step * gradient(rate, v), rate

    first_rate = jnp.exp(base + start @ frame.loadings.T)
    momentum = noise + 0.5 * step * gradient(first_rate, start)
    v, momentum, rate = jax.lax.fori_loop(0, steps, leap, (start, momentum, first_rate))
    momentum = momentum - 0.5 * step * gradient(rate, v)
    # differences first: counts of 1e5 would drown the change in single precision
    gain = jnp.sum(block.y * ((v - start) @ frame.loadings.T) - (rate - first_rate), axis=1)
    gain -= 0.5 * jnp.sum(frame.stiffness * (v - start) * (v + start) + momentum**2 - noise**2, axis=1)
    probability = jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0)), 0.0)
    taken = (uniform < probability)[:, None]
    rate = jnp.where(taken, rate, first_rate)
    moved = Chains(
        position=jnp.where(taken, v, start) @ frame.from_frame,
        mean_rate=chains.mean_rate,
        log_step=jnp.clip(chains.log_step + 0.2 * adapt * (probability - TARGET), -8.0, 0.7),
        acceptance=chains.acceptance + 0.1 * (probability - chains.acceptance),
    )
    return moved, rate
