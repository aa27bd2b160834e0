"""L-BFGS whose vectors never leave the rows: only inner products are summed (Chen, Wang & Zhou 2014).

Start at `direction`. The history is kept as arrays of 2m past steps and gradient changes (single precision:
it only shapes the direction), split between rows and shared unknowns; their Gram matrix is an additive
statistic. Each is one long vector, row after row: with more axes XLA reorders it at every step.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

MEMORY = 6


def empty_history(unknown: Any) -> Any:
    """Zeroed slots for m steps and m gradient changes beside every array of unknowns, (2 m, its size)."""
    return jax.tree.map(lambda a: jnp.zeros((2 * MEMORY, a.size), jnp.float32), unknown)


def push(history: Any, step: Any, change: Any, *, pairs: Array, keep: Array) -> Any:
    """Write the newest pair over the oldest, unless `keep` is false."""
    slot = pairs % MEMORY

    def write(slots: Array, vector: Array, place: Array) -> Array:
        vector = vector.reshape(-1).astype(slots.dtype)
        return jax.lax.dynamic_update_index_in_dim(slots, vector, place, 0)

    def written(history: Any) -> Any:
        history = jax.tree.map(lambda h, s: write(h, s, slot), history, step)
        return jax.tree.map(lambda h, y: write(h, y, MEMORY + slot), history, change)

    return jax.lax.cond(keep, written, lambda history: history, history)


def products(history: Any, gradient: Any, *, pairs: Array) -> Array:
    """Inner products of the newest step, the newest change and the gradient with every slot, (3, 2m+1).

    The last column holds the products with the gradient itself. Additive over rows.
    """
    slot = pairs % MEMORY

    def one(slots: Array, g: Array) -> Array:
        flat = g.reshape(-1).astype(slots.dtype)
        # three passes: as one product with a matrix it is copied into another order first
        with_history = jnp.stack([slots @ slots[slot], slots @ slots[MEMORY + slot], slots @ flat]).astype(
            g.dtype
        )
        with_gradient = jnp.append(with_history[2, jnp.array([slot, MEMORY + slot])], jnp.sum(g * g))
        return jnp.concatenate([with_history, with_gradient[:, None]], axis=1)

    return sum(jax.tree.leaves(jax.tree.map(one, history, gradient)), jnp.zeros((3, 2 * MEMORY + 1)))


def update_gram(gram: Array, new: Array, *, pairs: Array, keep: Array) -> Array:
    """The Gram matrix of (m steps, m changes, gradient) with the newest rows and columns put in."""
    slot = pairs % MEMORY
    last = 2 * MEMORY
    out = gram
    for row, place in ((0, slot), (1, MEMORY + slot), (2, last)):
        out = out.at[place, :].set(new[row]).at[:, place].set(new[row])
    return jnp.where(keep, out, gram)


def direction(gram: Array, pairs: Array) -> Array:
    """Coefficients of the descent direction on (m steps, m changes, gradient): the two-loop recursion.

    Nocedal & Wright (2006), algorithm 7.4, with every vector replaced by its coefficients. `pairs` counts
    the pairs pushed so far; a pair without positive curvature is passed over. O(m^3), independent of n.
    """
    count = jnp.minimum(pairs, MEMORY)
    curvature = jnp.diagonal(gram[:MEMORY, MEMORY : 2 * MEMORY])
    change = jnp.diagonal(gram[MEMORY : 2 * MEMORY, MEMORY : 2 * MEMORY])
    usable = curvature > 1e-10 * change
    safe = jnp.where(usable, curvature, 1.0)

    def backward(i, carry):
        coefficients, alphas = carry
        slot = (pairs - 1 - i) % MEMORY
        alpha = jnp.where(usable[slot] & (i < count), gram[slot] @ coefficients / safe[slot], 0.0)
        return coefficients.at[MEMORY + slot].add(-alpha), alphas.at[slot].set(alpha)

    def forward(i, coefficients):
        i = MEMORY - 1 - i
        slot = (pairs - 1 - i) % MEMORY
        beta = gram[MEMORY + slot] @ coefficients / safe[slot]
        return coefficients.at[slot].add(jnp.where(usable[slot] & (i < count), alphas[slot] - beta, 0.0))

    start = jnp.zeros(2 * MEMORY + 1, gram.dtype).at[2 * MEMORY].set(1.0)
    coefficients, alphas = jax.lax.fori_loop(0, MEMORY, backward, (start, jnp.zeros(MEMORY, gram.dtype)))
    newest = (pairs - 1) % MEMORY
    ready = (pairs > 0) & usable[newest]
    coefficients *= jnp.where(ready, curvature[newest] / jnp.where(ready, change[newest], 1.0), 1.0)
    return -jax.lax.fori_loop(0, MEMORY, forward, coefficients)


def combine(coefficients: Array, history: Any, gradient: Any) -> Any:
    """The vector that the coefficients stand for: sum_k c_k slot_k + c_last gradient."""

    def one(slots: Array, g: Array) -> Array:
        past = coefficients[:-1].astype(slots.dtype) @ slots
        return coefficients[-1] * g + past.reshape(g.shape)

    return jax.tree.map(one, history, gradient)
