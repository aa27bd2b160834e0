"""Where what rows keep lies between visits of their blocks: in memory, or in a scratch file mapped into it.

Start at `Shelf`. The file has no name once it is open: it goes when nothing refers to it any more, or the process ends.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from poplin._errors import InputError

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
