"""A table whose rows are dense one block at a time: what the loop walks over when a whole table would not fit.

Start at `Stream`. Rows are dealt out to the blocks at random, once: a table in the order of its sites would give
blocks that are alike within and differ between. Of a table on disk short runs of rows are dealt out, which are read
together. Of what is small (covariates, an offset a row) all is kept.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError
from poplin._random import Purpose, derive
from poplin.data.blocks import Block, as_block
from poplin.data.counts import Counts
from poplin.data.held import column_sums, dense_rows, is_on_disk, seen

# Where what rows keep lies between visits of their blocks: in memory, or in a scratch file mapped into it.
#
# Start at `Shelf`. The file has no name once it is open: it goes when nothing refers to it any more, or the process
# ends.


IN_MEMORY = 2 * 2**30  # bytes that rows may keep in memory, all blocks together
ALIGNED = 64  # bytes, as arrays on the processor lie


class Shelf:
    """Places for the trees of arrays of `blocks` blocks, all of the same shapes; `folder` is where a file would be.

    Raises `InputError` where the file cannot be made or has no room: all of it is claimed at once, for a disk that is
    full later would end the process.
    """

    def __init__(self, blocks: int, folder: Path | None = None) -> None:
        self._blocks, self._folder = blocks, folder
        self._places: Iterator[Any] | None = None
        self.on_disk = False

    def laid(self, kept: Any) -> Any:
        """The first values of the next block, where they will lie."""
        if self._places is None:
            self._places = self._made(kept)
        return self.again(next(self._places), kept) if self.on_disk else kept

    def again(self, place: Any, kept: Any) -> Any:
        """What a block keeps now, in the place of what it kept."""
        if not self.on_disk:
            return kept
        for there, now in zip(jax.tree.leaves(place), jax.tree.leaves(kept), strict=True):
            there[...] = np.asarray(now)
        return place

    def _made(self, kept: Any) -> Iterator[Any]:
        leaves, tree = jax.tree.flatten(kept)
        ends = np.cumsum([-(-leaf.nbytes // ALIGNED) * ALIGNED for leaf in leaves])
        size = int(ends[-1]) * self._blocks
        self.on_disk = size > IN_MEMORY
        return self._in_file(leaves, tree, [0, *map(int, ends)], size) if self.on_disk else iter(())

    def _in_file(self, leaves: list[Any], tree: Any, ends: list[int], size: int) -> Iterator[Any]:
        memory = self._mapped(size)
        for block in range(self._blocks):
            begins = (block * ends[-1] + end for end in ends)
            parts = (
                memory[at : at + leaf.nbytes].view(leaf.dtype).reshape(leaf.shape)
                for at, leaf in zip(begins, leaves, strict=False)
            )
            yield jax.tree.unflatten(tree, parts)

    def _mapped(self, size: int) -> np.ndarray:
        folder = self._folder or Path(tempfile.gettempdir())
        try:
            with tempfile.TemporaryFile(prefix=".poplin-rows-", dir=folder) as file:
                claim = getattr(os, "posix_fallocate", None)  # not everywhere
                os.ftruncate(file.fileno(), size) if claim is None else claim(file.fileno(), 0, size)
                return np.memmap(file, np.uint8, "r+", shape=(size,))
        except OSError as error:
            raise InputError(
                f"What the rows keep between two visits takes {size / 2**30:.1f} GiB, which go to a scratch file in "
                f"{folder}; it cannot be made there: {error.strerror or error}. Make room, name a checkpoint in "
                "another folder, or set TMPDIR to one."
            ) from None


# Reading ahead: what is wanted next is read by another thread while this one works.
#
# Start at `Ahead`. The thread only reads; an error, or Ctrl-C, is met where what was read is taken.


@final
class Ahead:
    """`take(number)` gives what `read(number)` gives; `begin(number)` has it read meanwhile, one at a time."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        self._read, self._thread = read, ThreadPoolExecutor(1, "poplin-read-ahead")
        self._number, self._coming = -1, None

    def begin(self, number: int) -> None:
        """Begin to read this; what was begun before and not taken is let go."""
        if number != self._number:
            self._let_go()
            self._number, self._coming = number, self._thread.submit(self._read, number)

    def take(self, number: int) -> Any:
        """What was read, as soon as it is there."""
        coming: Future[Any] | None = self._coming if number == self._number else None
        self._number, self._coming = -1, None
        return self._read(number) if coming is None else coming.result()

    def _let_go(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
        self._number, self._coming = -1, None


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
        self._order = dealt(derive(seed, Purpose.ORDER, n).generator(), n, run)
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
        zeros = self.counts.zero_features
        features = None if zeros is None else zeros[chosen]
        how: dict[str, Any] = {"kind": self.kind, "log_factorial": known, "zero_features": features}
        block = as_block(*rows, prior=False, **how)
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
        random = derive(self.seed, Purpose.VISITS, iteration // pace).generator()
        order = random.permutation(self.blocks)
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
