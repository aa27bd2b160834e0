"""A table whose rows are dense one block at a time: what the loop walks over when a whole table would not fit.

Start at `Stream`. Rows are dealt out to the blocks at random, once: a table in the order of its sites would give
blocks that are alike within and differ between. Of a table on disk short runs of rows are dealt out, which are read
together. Of what is small (covariates, an offset a row) all is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np

from poplin.data.ahead import Ahead
from poplin.data.blocks import Block, as_block
from poplin.data.counts import Counts
from poplin.data.held import column_sums, dense_rows, is_on_disk, seen

ENTRIES = 1_000_000  # of a block: a few megabytes, which stay near the processor
# Rows of a run on disk, and fewest runs of a block. Neighbours on disk are often alike (one site, one batch): of what
# differs between sites a sum over R runs knows what R rows know. So runs are no longer than a disk needs to be quick.
RUN, RUNS = 64, 16


class Stream:
    """The rows of `counts` in blocks of equal shape; `seed` says which rows are in which, `kind` their precision.

    The last block is filled with rows of weight zero. A column without a count has half a one, as in `blocks.as_block`.
    The rows of the block that is visited next are read while this one is computed.
    """

    def __init__(self, counts: Counts, *, seed: int, kind: Any) -> None:
        n, p = counts.y.shape
        self.counts, self.kind, self.seed = counts, kind, seed
        self.rows = -(-n // -(-n // max(1, ENTRIES // p)))
        self.blocks = -(-n // self.rows)
        self.whole = float(np.sum(counts.weights))
        run = int(np.clip(self.rows // RUNS, 1, RUN)) if is_on_disk(counts.y) else 1
        self._order = dealt(np.random.default_rng([seed, n]), n, run)
        self._filled = self._half_counts()
        self._ahead = Ahead(lambda number: dense_rows(counts.y, self._chosen(number)))
        self._next = {k: k + 1 for k in range(self.blocks - 1)}
        self._log_factorial: dict[int, Any] = {}  # (rows,) of blocks that were dense once

    def block(self, number: int) -> Block:
        """Rows on the device, dense."""
        chosen, y = self._chosen(number), self._ahead.take(number)
        if number in self._next:
            self._ahead.begin(self._next[number])
        offset, weights = self.counts.offset[chosen], self.counts.weights[chosen]
        if (number + 1) * self.rows > len(self._order):
            weights[len(self._order) - number * self.rows :] = 0.0
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
        visited = self._visits(iteration, many)
        self._next = dict(pairwise([*visited, self._visits(iteration + 1, many)[0]]))
        return visited

    def _visits(self, iteration: int, many: int) -> list[int]:
        pace = -(-self.blocks // many)
        order = np.random.default_rng([self.seed, 1 + iteration // pace]).permutation(self.blocks)
        return [int(k) for k in order[iteration % pace :: pace]]

    def _chosen(self, number: int) -> np.ndarray:
        """The rows of a block; the last one is filled with the first row."""
        chosen = self._order[number * self.rows : (number + 1) * self.rows]
        return np.concatenate([chosen, np.repeat(self._order[:1], self.rows - len(chosen))])

    def _half_counts(self) -> list[tuple[int, float]]:
        """Columns without a count, and log c of the c exp(o) = 0.5 exp(o) / sum_i w_i exp(o_i) that stand in each."""
        found, weights = [], self.counts.weights
        empty = np.flatnonzero(column_sums(self.counts.y, weights) == 0)
        for column, there in zip(map(int, empty), seen(self.counts.y, empty).T, strict=True):
            offset = self.counts.offset[there, column]
            most = offset.max()
            total = weights[there] @ np.exp(offset - most)
            found.append((column, float(np.log(0.5 / total) - most)))
        return found


def dealt(random: np.random.Generator, n: int, run: int) -> np.ndarray:
    """The numbers of n rows in the order of a random permutation of runs of neighbours."""
    order = (random.permutation(-(-n // run))[:, None] * run + np.arange(run)).ravel()
    return order[order < n]
