"""The log-likelihood of each row of a model with an encoder, by importance sampling around the encoder's Gaussian.

Start at `amortised_loglik`; `in_slices` runs a program over slices of rows of one shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from poplin._compile import compiled
from poplin.data.blocks import Block
from poplin.inference.marginal import ENOUGH, RowLikelihood, pareto_shape
from poplin.inference.summary import LARGEST_KHAT
from poplin.methods.objectives import log_ratios

DRAWS = 50  # of a row that are decoded together
NUMBERS = 4_000_000  # most numbers in one array of decoded draws
KHAT_DRAWS = 25  # fewest that k-hat is told from
SLICE = 4096  # rows of a slice, where nothing is drawn


def in_slices(program: Callable[[Block, int], Any], block: Block, size: int) -> Any:
    """`program(slice, first row)` over slices of `size` rows; results are joined along their first axis.

    The last slice is filled up with the first row, so that one compilation serves all slices.
    """
    n = len(block.index)
    size = min(size, n)
    parts = []
    for first in range(0, n, size):
        chosen = np.arange(first, first + size)
        chosen = np.where(chosen < n, chosen, 0)
        parts.append(
            jax.device_get(program(jax.tree.map(lambda a, c=chosen: np.asarray(a)[c], block), first))
        )
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[:n], *parts)


def amortised_loglik(
    model: Any,
    block: Block,
    *,
    seed: int,
    draws: int = 1000,
    width: int = 1,
    khat: bool = False,
    student: bool = True,
) -> RowLikelihood:
    """Log p(y_i) = log mean_s p(y_i, w_s) / t(w_s), every constant included; t: see `log_ratios`.

    At least `draws` draws are made, and the divisor is the number made. The standard error is that of the log by the
    delta method; a k-hat above 0.7 says that it is too small, and is looked at, unless `khat` asks for all, where fewer
    than a quarter of the draws (of 25 or more) are effective. The log of a mean is low by half its variance on
    average: nothing is added for that, so that the number can be set beside published ones. `width` is the number of
    values a decoded draw takes. Cost: n draws decodings.
    """
    batches = -(-draws // DRAWS)
    each = -(-draws // batches)
    size = int(np.clip(NUMBERS // (each * max(width, 1)), 1, SLICE))
    key = np.array([seed >> 32, seed & 0xFFFFFFFF], dtype=np.uint32)  # as jax.random.key, without a program

    def program(part: Block, first: int) -> tuple[np.ndarray, ...]:
        ratios = np.asarray(
            _ratios(model, key, part, jnp.asarray(first), batches=batches, each=each, student=student),
            dtype=float,
        )
        value, error, effective = summary(ratios)
        looked_at = khat | (ratios.shape[1] >= KHAT_DRAWS) & ~(effective >= ENOUGH * ratios.shape[1])
        shape = np.zeros(len(ratios))
        if np.any(looked_at):
            shape[looked_at] = pareto_shape(ratios[looked_at])
        return value, error, effective, shape

    value, error, effective, shape = in_slices(program, block, size)
    return RowLikelihood(value, error, effective, shape if khat else None, shape > LARGEST_KHAT)


def summary(ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log of the mean ratio of each row, its standard error and the effective number of draws, from (n, s)."""
    largest = ratios.max(axis=1, keepdims=True)
    weights = np.exp(ratios - largest)
    mean = weights.mean(axis=1)
    error = (
        weights.std(axis=1, ddof=1) / np.sqrt(weights.shape[1]) / mean
        if weights.shape[1] > 1
        else mean * np.inf
    )
    effective = weights.sum(axis=1) ** 2 / np.sum(weights**2, axis=1)
    return largest[:, 0] + np.log(mean), error, effective


@compiled(static_argnames=("batches", "each", "student"))
def _ratios(
    model: Any, key: Array, block: Block, first: Array, *, batches: int, each: int, student: bool
) -> Array:
    """Log ratios of all draws of a slice of rows, (rows, batches * each)."""
    own = jax.random.fold_in(key, first)

    def some(number: Array) -> Array:
        return log_ratios(model, jax.random.fold_in(own, number), block, each, student=student)

    return lax.map(some, jnp.arange(batches)).reshape(batches * each, -1).T
