"""A block of rows as the numerical rooms see it: plain arrays on the device, nothing missing, no names.

Start at `as_block`. Two facts are folded into the arrays here, so that no formula further right needs a case:
a missing count is a count with no exposure (offset minus infinity, y = 0: probability one whatever the
latent position), and a column without a single count carries the weak prior of half a count.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln

from poplin._axes import Counts, Covariates, Rows

# exp(NO_EXPOSURE + z) is zero for every z, and 0 * NO_EXPOSURE is zero: finite in single precision too.
NO_EXPOSURE = -1e30


class Block(NamedTuple):
    """Rows on the device: y, offset (n, p), x (n, d), weights, log_factorial, index (n,)."""

    y: Counts
    x: Covariates
    offset: Counts
    weights: Rows
    log_factorial: Rows  # sum over j of log y_ij!
    index: Rows  # global row number; a row's random key is folded from it


def half_a_count(y: np.ndarray, offset: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spread half a count over each column that has none: y_ij = 0.5 e^o_ij / sum_i w_i e^o_ij.

    The weak prior that keeps a coefficient finite when a column (of this fold, of this table) is all zero:
    it adds sum_i y_ij (o_ij + Z_ij) to the log density, as a gamma prior of shape 1/2 on the column's rate
    would.
    """
    empty = (weights @ y) == 0
    if not empty.any():
        return y
    exposure = np.where(offset[:, empty] > NO_EXPOSURE / 2, offset[:, empty], -np.inf)
    share = np.exp(exposure - exposure.max(axis=0))
    filled = y.copy()
    filled[:, empty] = 0.5 * share / (weights @ share)
    return filled


def as_rows(
    y, x, offset, weights, *, prior: bool = True, kind: Any = np.float64, log_factorial=None
) -> Block:
    """Rows that passed the door, still in the host's memory; `prior` adds half a count to columns without any.

    `log_factorial` (n,), where it is known already: it takes longer than all else here.
    """
    missing = np.isnan(y)
    some = missing.any()
    seen, exposed = (
        (np.where(missing, 0.0, y), np.where(missing, NO_EXPOSURE, offset)) if some else (y, offset)
    )
    constant = gammaln(seen + 1).sum(axis=1) if log_factorial is None else log_factorial
    if prior:
        seen = half_a_count(seen, exposed, weights)
    arrays = (seen, x, exposed, weights, constant)
    numbers = [np.asarray(a, dtype=kind) for a in arrays]
    return Block(*numbers, index=np.arange(len(y)))  # type: ignore[arg-type]


def as_block(y, x, offset, weights, *, prior: bool = True, kind=jnp.float64, log_factorial=None) -> Block:
    """Device arrays for rows that passed the door; see `as_rows`."""
    rows = as_rows(y, x, offset, weights, prior=prior, kind=kind, log_factorial=log_factorial)
    return Block(*(jnp.asarray(a) for a in rows))
