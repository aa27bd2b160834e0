"""A table whose rows are dense one block at a time: what the loop walks over when a whole table would not fit.

Start at `Stream`. Rows are dealt out to the blocks at random, once: a table in the order of its sites would give
blocks that are alike within and differ between. Of what is small (covariates, an offset a row) all is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from poplin.data.blocks import Block, as_block
from poplin.data.counts import Counts
from poplin.data.held import column_sums, dense_column, dense_rows

ENTRIES = 2_000_000  # of a block


class Stream:
    """The rows of `counts` in blocks of equal shape; `seed` says which rows are in which, `kind` their precision.

    The last block is filled with rows of weight zero. A column without a count has half a one, as in `blocks.as_block`.
    """

    def __init__(self, counts: Counts, *, seed: int, kind: Any) -> None:
        n, p = counts.y.shape
        self.counts, self.kind, self.seed = counts, kind, seed
        self.rows = -(-n // -(-n // max(1, ENTRIES // p)))
        self.blocks = -(-n // self.rows)
        self.whole = float(np.sum(counts.weights))
        self._order = np.random.default_rng([seed, n]).permutation(n)
        self._filled = self._half_counts()
        self._log_factorial: dict[int, Any] = {}  # (rows,) of blocks that were dense once

    def block(self, number: int) -> Block:
        """Rows on the device, dense."""
        chosen = self._order[number * self.rows : (number + 1) * self.rows]
        lacking = self.rows - len(chosen)
        chosen = np.concatenate([chosen, np.repeat(self._order[:1], lacking)])
        y, offset = dense_rows(self.counts.y, chosen), self.counts.offset[chosen]
        weights = self.counts.weights[chosen]
        weights[self.rows - lacking :] = 0.0
        rows, known = (y, self.counts.x[chosen], offset, weights), self._log_factorial.get(number)
        block = as_block(*rows, prior=False, kind=self.kind, log_factorial=known)
        self._log_factorial[number] = np.asarray(block.log_factorial)
        for column, level in self._filled:
            part = np.where(np.isnan(y[:, column]), 0.0, np.exp(offset[:, column] + level))
            block = block._replace(y=block.y.at[:, column].set(part))
        return block._replace(index=jnp.asarray(chosen))

    def in_order(self, parts: Sequence[Any]) -> np.ndarray:
        """What each block has of its rows (rows, ...) as one array in the order of the table (n, ...)."""
        found = np.empty((len(self._order), *parts[0].shape[1:]))
        found[self._order] = np.concatenate(parts)[: len(self._order)]
        return found

    def visits(self, iteration: int, many: int) -> list[int]:
        """Which blocks the iteration visits: all in a new order, `many` at a time, then all anew."""
        pace = -(-self.blocks // many)
        order = np.random.default_rng([self.seed, 1 + iteration // pace]).permutation(self.blocks)
        return [int(k) for k in order[iteration % pace :: pace]]

    def _half_counts(self) -> list[tuple[int, float]]:
        """Columns without a count, and log c of the c exp(o) = 0.5 exp(o) / sum_i w_i exp(o_i) that stand in each."""
        found, weights = [], self.counts.weights
        for column in map(int, np.flatnonzero(column_sums(self.counts.y, weights) == 0)):
            seen = ~np.isnan(dense_column(self.counts.y, column))
            offset = self.counts.offset[seen, column]
            most = offset.max()
            total = weights[seen] @ np.exp(offset - most)
            found.append((column, float(np.log(0.5 / total) - most)))
        return found
