"""Small tables cut into blocks of rows: what tests of fits over blocks share.

Start at `cut`, under which tables of this size are walked over in blocks, and sparse ones stay sparse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from poplin.data import held, streams
from poplin.fitting import streamed
from tests.instances import LOADINGS, simulated

TABLE = simulated(3, LOADINGS, n=1200, level=0.5)


def cut(monkeypatch: pytest.MonkeyPatch, *, rows: int = 80) -> None:
    """Blocks of so many rows, five of which an iteration visits; the start is a sample of 600 rows."""
    for room, name, value in (
        (held, "MOST_DENSE", 0),
        (held, "PIECE", 1000),
        (streams, "ENTRIES", 4 * rows),
        (streamed, "LARGE", 0),
        (streamed, "SAMPLE_ENTRIES", 2400),
        (streamed, "SAMPLE_ROWS", 1),
        (streamed, "LEAST_ROWS", 400),
    ):
        monkeypatch.setattr(room, name, value)


def _with(entries: Callable[[np.ndarray], Any]) -> np.ndarray:
    y = TABLE.y.copy()
    entries(y)
    return y


# counts as they come in, and what goes with them
TABLES: dict[str, tuple[Any, dict[str, Any]]] = {
    "dense": (TABLE.y, {}),
    "sparse": (sparse.csc_matrix(TABLE.y), {}),
    "weights and offsets": (TABLE.y, {"weights": np.arange(1200) % 3, "offset": TABLE.x[:, 1]}),
    "missing": (_with(lambda y: y.__setitem__((slice(0, 900, 7), 1), np.nan)), {}),
    "a column without a count": (sparse.csr_array(_with(lambda y: y.__setitem__((slice(None), 2), 0))), {}),
}
