"""Single rows of many kinds, and what a slow quadrature says of each: instances for the laws of a row's posterior.

Start at `CASES`: low and high counts, missing entries, offsets, rows without a count, wide priors, for q = 1, 2 and 3.
All cases of one q have one shape, so that one compilation serves them.
"""

from __future__ import annotations

from functools import cache

import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._numerics import double_precision
from poplin.data.blocks import Block, as_block
from tests.instances import Table, simulated
from tests.oracles import row_loglik_by_quadrature

ROWS, COLUMNS = 12, 4
RANKS = (1, 2, 3)
NODES = {1: 50, 2: 50, 3: 30}  # enough for ten digits, nearly


def _loadings(q: int, size: float) -> np.ndarray:
    return size * np.random.default_rng(q).normal(size=(COLUMNS, q)) / np.sqrt(q)


def _cases() -> dict[tuple[str, int], Table]:
    out = {}
    for q in RANKS:
        low = simulated(11, _loadings(q, 0.8), n=ROWS, level=-1.5)
        high = simulated(12, _loadings(q, 0.8), n=ROWS, level=6.0)
        offset = simulated(13, _loadings(q, 0.8), n=ROWS, level=0.5, offsets=2.0)
        wide = simulated(14, _loadings(q, 1.5), n=ROWS, level=0.0)
        missing = simulated(15, _loadings(q, 0.8), n=ROWS, level=1.0, offsets=0.5)
        missing.y[np.random.default_rng(16).random(missing.y.shape) < 0.3] = np.nan
        missing.y[0] = np.nan
        zero = simulated(17, _loadings(q, 1.0), n=ROWS, level=1.0)
        zero.y[:] = 0
        for name, table in (
            ("low", low),
            ("high", high),
            ("offset", offset),
            ("wide", wide),
            ("missing", missing),
            ("zero", zero),
        ):
            out[name, q] = table
    return out


CASES = _cases()


def device(table: Table) -> tuple[Block, Array, Array]:
    """Block, B and C on the device, as a new table meets a fitted model."""
    with double_precision():
        block = as_block(table.y, table.x, table.offset, table.weights, prior=False)
        return block, jnp.asarray(table.coef), jnp.asarray(table.loadings)


@cache
def exact(case: tuple[str, int], more: int = 0) -> np.ndarray:
    """Log-likelihood of each row by quadrature with so many more nodes an axis, (n,)."""
    table = CASES[case]
    nodes = NODES[case[1]] + more
    base = table.offset + table.x @ table.coef
    return np.array(
        [row_loglik_by_quadrature(y, b, table.loadings, nodes) for y, b in zip(table.y, base, strict=True)]
    )
