"""Counts drawn from rates: one function and one limit, whatever the model that the rates are of.

Start at `draw_counts`. By NumPy, which has nothing to compile: JAX's Poisson draws take longer to compile than most of
what they serve, and hold 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from poplin._errors import InputError
from poplin.data.tables import place

LARGEST_RATE = (
    1e15  # counts drawn there are still exact in float64, so that a fit takes them (`held.LARGEST_COUNT`)
)


def draw_counts(
    random: np.random.Generator,
    log_rate: np.ndarray,
    *,
    columns: Sequence[str] | None = None,
    mend: str | None = None,
) -> np.ndarray:
    """Poisson counts (int64) at rates exp(`log_rate`), of the same shape; minus infinity draws 0.

    A rate above `LARGEST_RATE` has no count that a computer tells from the next one. Where a user asked for the draws,
    `mend` says what to do about it, and it is an `InputError` that names the row and, of `columns`, the column; in
    simulations behind other numbers (`mend` None) the rate is held there.
    """
    largest = np.log(LARGEST_RATE)
    if mend is not None and not np.all(log_rate <= largest):
        i, j = np.argwhere(~(log_rate <= largest))[0]
        raise InputError(
            f"The log rate{place((i, j), None, columns)} is {log_rate[i, j]:.4g}; above {largest:.1f} (a count of "
            f"{LARGEST_RATE:.0e}) counts are no longer exact whole numbers and are not drawn. {mend}"
        )
    return random.poisson(np.exp(np.minimum(log_rate, largest)))
