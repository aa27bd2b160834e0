"""Every random stream: a seed, and what its numbers are for.

Start at `derive`. What uses one seed for two purposes has two streams that know nothing of each other; a stream's
numbers depend on nothing else, so that the same seed gives the same fit, whatever was asked of a fit before.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # commands begin here, and many of them end without JAX
    import jax


class Purpose(IntEnum):
    """What random numbers are for. `MAIN` is what the seed was given for: a fit, a table that is drawn."""

    MAIN = 0
    VALIDATION = 1  # rows that networks do not learn from
    LIKELIHOOD = 2  # draws of importance sampling
    INFORMATION = 3  # chains behind standard errors
    ORDER = 4  # of rows in blocks
    VISITS = 5  # which blocks an iteration visits
    SAMPLE = 6  # rows that stand for a table where a fit begins
    TABLES = 7  # tables that verdicts compare with
    MARGINS = 8  # the verdict on margins
    CORRELATIONS = 9  # the verdict on correlations
    FREQUENCIES = 10  # tables of the rootogram
    GROUPS = 11  # the verdict on groups of rows
    RESIDUALS = 12
    FOLDS = 13
    BOOTSTRAP = 14


class Stream(NamedTuple):
    """Random numbers of one purpose, for NumPy or for JAX."""

    words: tuple[int, ...]

    def generator(self) -> np.random.Generator:
        """The stream for NumPy."""
        return np.random.default_rng(self.words)

    def key_data(self) -> np.ndarray:
        """The two words of the stream's Threefry key; nothing has to be compiled for them."""
        seed, purpose, *numbers = self.words
        if purpose == Purpose.MAIN and not numbers:  # as `jax.random.key(seed)`
            return np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], dtype=np.uint32)
        return np.random.SeedSequence(self.words).generate_state(2)

    def key(self) -> jax.Array:
        """The stream for JAX, whose keys are Threefry's whatever the user's process has set."""
        import jax

        from poplin._numerics import THREEFRY

        return jax.random.wrap_key_data(jax.numpy.asarray(self.key_data()), impl=THREEFRY)


def derive(seed: int, purpose: Purpose, *numbers: int) -> Stream:
    """The stream of a seed for a purpose; `numbers` part streams of one purpose, such as replicates.

    >>> one, other = (derive(0, purpose).generator().random() for purpose in (Purpose.MAIN, Purpose.FOLDS))
    >>> one == other, one == derive(0, Purpose.MAIN).generator().random()
    (False, True)
    """
    return Stream((int(seed), int(purpose), *(int(number) for number in numbers)))
