"""One Markov chain per row, all rows at once: Hamiltonian moves that leave p(w_i | y_i; B, C) invariant.

Start at `move`. Chains live in the whitened latent w (Z = XB + C w). A move works in the coordinates v of
`Frame`, in which a row with average rates has a spherical posterior; what is left of a row's own shape goes
into its diagonal mass and its step size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.random import threefry_2x32

from poplin._axes import Counts, Latent, Loadings, Rows
from poplin.data.blocks import Block
from poplin.models.special import row_sums

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
    """Standard normals (size, n) and two uniforms (n,) each: words of Threefry, counted by (row's number, place).

    A row's numbers depend on the key and on its global number alone, and no key per row has to be made. They have
    single precision whatever `dtype`: a move needs no finer ones.
    """
    uniform = row_words(key, index, size + 2, jnp.float32)
    normal = jnp.float32(2**0.5) * jax.lax.erf_inv(2 * uniform[:size] - 1)
    return normal.astype(dtype), uniform[size].astype(dtype), uniform[size + 1].astype(dtype)


def row_words(key: Array, index: Array, size: int, dtype) -> Array:
    """Uniforms inside (0, 1), (size, n) or one more: see `row_noise`."""
    pairs = -(-size // 2)
    shape = pairs, len(index)
    rows = jnp.broadcast_to(index.astype(jnp.uint32), shape)
    places = jnp.broadcast_to(jnp.arange(pairs, dtype=jnp.uint32)[:, None], shape)
    words = threefry_2x32(jax.random.key_data(key), jnp.concatenate([rows.ravel(), places.ravel()]))
    words = words.reshape(2 * pairs, len(index))
    return (((words >> 8).astype(jnp.float32) + 0.5) * jnp.float32(2**-24)).astype(dtype)


def move(
    key: Array, chains: Chains, block: Block, *, coef: Array, frame: Frame, steps: int, adapt: Array
) -> tuple[Chains, Counts]:
    """One Hamiltonian trajectory per row, accepted or refused; also the rates at the new positions (n, p).

    `adapt` in [0, 1] is how far step sizes and mean rates still learn (it must vanish for exactness). Cost:
    (steps + 1) (n p exponentials and 2 n p q). Source: Neal (2011), MCMC using Hamiltonian dynamics.
    """
    across = frame.loadings.T
    base = block.offset + block.x @ coef
    start = chains.position @ frame.to_frame
    noise, uniform, other = row_noise(key, block.index, start.shape[1], start.dtype)
    noise, stiffness = noise.T, frame.stiffness
    # of varying length: a trajectory of half a period would return each v to -v, of a whole one to where it was
    length = jnp.exp(chains.log_step) * (1 + VARYING * (2 * other - 1))
    step = length[:, None] / jnp.sqrt(stiffness + chains.mean_rate @ frame.loadings**2)

    def gradient(rate, v):
        return (block.y - rate) @ frame.loadings - stiffness * v

    first_rate = jnp.exp(base + start @ across)

    def leap(_, at):
        v = at[0] + step * at[1]
        rate = jnp.exp(base + v @ across)
        return v, at[1] + step * gradient(rate, v), rate

    # a loop, not steps written out: compiled once
    begun = start, noise + 0.5 * step * gradient(first_rate, start), first_rate
    v, momentum, rate = jax.lax.fori_loop(0, steps, leap, begun)
    momentum = momentum - 0.5 * step * gradient(rate, v)
    # differences first: counts of 1e5 would drown the change in single precision
    gain = row_sums(block.y * ((v - start) @ across) - (rate - first_rate))
    gain -= 0.5 * jnp.sum(stiffness * (v - start) * (v + start) + momentum**2 - noise**2, axis=1)
    probability = jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0)), 0.0)
    taken = uniform < probability
    moved = Chains(
        position=jnp.where(taken[:, None], v, start) @ frame.from_frame,
        mean_rate=chains.mean_rate,
        log_step=jnp.clip(chains.log_step + 0.2 * adapt * (probability - TARGET), -8.0, 0.7),
        acceptance=chains.acceptance + 0.1 * (probability - chains.acceptance),
    )
    rate = jnp.where(taken[:, None], rate, first_rate)
    return moved, rate
