"""Matrix work for many rows at once, in chunks of rows whose memory is bounded.

Start at `in_chunks`. `precisions` and `spreads` are the two directions between the columns' weights (n, p) and the
rows' matrices (n, q, q); written as products with the table of all c_j c_j' they are several times as fast as
row by row. A batch of small matrices is inverted by LAPACK's Cholesky and triangular solve: on a CPU faster than an
inverse by LU or elimination across the batch; a recursion of block inverses saves a quarter and compiles in seconds.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from poplin._axes import Counts, Loadings, Rows
from poplin.data.blocks import Block

CHUNK = 1_000_000  # most numbers in one array of a chunk of rows, where a single row allows it
LARGEST_PAIRS = 8_000_000  # most numbers in the table of all c_j c_j'


def all_pairs(loadings: Loadings) -> Array | None:
    """Every c_j c_j' as a row, (p, q^2), or None where that table would be too large."""
    p, q = loadings.shape
    if p * q * q > LARGEST_PAIRS:
        return None
    return (loadings[:, :, None] * loadings[:, None, :]).reshape(p, q * q)


def precisions(weight: Counts, loadings: Loadings, pairs: Array | None) -> Array:
    """I + C' diag(weight_i) C for every row, (n, q, q)."""
    q = loadings.shape[1]
    if pairs is None:
        gram = jnp.einsum("njk,jl->nkl", weight[:, :, None] * loadings, loadings)
    else:
        gram = (weight @ pairs).reshape(-1, q, q)
    return gram + jnp.eye(q, dtype=gram.dtype)


def spreads(covariance: Array, loadings: Loadings, pairs: Array | None) -> Counts:
    """c_j'S_i c_j for every row and column, (n, p)."""
    if pairs is None:
        return jnp.einsum("njk,jk->nj", jnp.einsum("nkl,jl->njk", covariance, loadings), loadings)
    return covariance.reshape(covariance.shape[0], -1) @ pairs.T


def inverses(precision: Array) -> tuple[Array, Rows]:
    """Inverses and minus the log-determinants of (n, q, q) precisions.

    Batched LAPACK calls wait for JAX's own threads: two of them that do not depend on each other can wait
    for one another for ever. So each call here needs the result of the one before it, and there is no other
    beside it.
    """
    root = inverse_root(precision)
    logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2)), axis=1)
    return root @ root.swapaxes(1, 2), logdet


def inverse_root(precision: Array) -> Array:
    """R with R R' = P^-1 for each (q, q) matrix of a batch, upper triangular."""
    lower = lax.linalg.cholesky(precision, symmetrize_input=False)
    identity = jnp.broadcast_to(jnp.eye(precision.shape[-1], dtype=precision.dtype), precision.shape)
    return lax.linalg.triangular_solve(lower, identity, left_side=False, lower=True, transpose_a=True)


def in_chunks(function: Callable[[Any], Any], rows: Any, loadings: Loadings) -> Any:
    """Apply a function of rows to equal chunks of them, one after the other; the last is filled with row 0."""
    n = jax.tree.leaves(rows)[0].shape[0]
    p, q = loadings.shape
    most = max(1, CHUNK // max(q * q, p if p * q * q <= LARGEST_PAIRS else p * q))
    chunks = -(-n // most)
    if chunks == 1:
        return function(rows)
    size = -(-n // chunks)
    index = jnp.minimum(jnp.arange(chunks * size), n - 1)
    index = jnp.where(jnp.arange(chunks * size) < n, index, 0).reshape(chunks, size)
    done = lax.map(lambda chosen: function(jax.tree.map(lambda a: a[chosen], rows)), index)
    return jax.tree.map(lambda a: a.reshape(chunks * size, *a.shape[2:])[:n], done)


# Rows a few at a time within a compiled step, so that what is computed of them stays in the processor's cache.
#
# Start at `by_pieces`. A step over all rows of a large table reads and writes many (n, p) arrays, one after the
# other, and waits for memory; over some thousand rows at a time the same arrays hardly leave the processor.


ENTRIES = 1_000_000  # counts of a piece: fewer would stay nearer, but are not shared out to all threads
LEAST = 4  # pieces, below which rows are taken together


def by_pieces(local: Callable[[Any, Block], tuple[Any, Any]], rows: Any, block: Block) -> tuple[Any, Any]:
    """`local(rows, block)` gives what rows become and a sum over them; the same, one piece after the other."""
    n, p = block.y.shape
    size = max(ENTRIES // p, 1)
    if n < LEAST * size:
        return local(rows, block)

    def piece(start: Any, many: int, kept: Any, total: Any) -> tuple[Any, Any]:
        some, of = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, many), (kept, block))
        moved, part = local(some, of)
        kept = jax.tree.map(lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, start, 0), kept, moved)
        return kept, jax.tree.map(jnp.add, total, part)

    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), (rows, block))
    # sums of many pieces are added up in double precision
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float64), jax.eval_shape(local, *first)[1])
    count, rest = divmod(n, size)
    kept, total = jax.lax.fori_loop(0, count, lambda k, at: piece(k * size, size, *at), (rows, nothing))
    return piece(count * size, rest, kept, total) if rest else (kept, total)
