"""Tables on disk, for tests: `STORES` are the files that they stay in, `kept` writes one.

Under `large_is_small` tables of this size stay on disk; `counted` tells how many rows are read together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from poplin.data import held, streams
from poplin.fitting import streamed
from tests.annotated import stored
from tests.instances import LOADINGS, simulated

Y = simulated(3, LOADINGS, n=1200, level=0.5).y
N, P = Y.shape
PIECE = 1000  # entries that are dense together
CELLS, GENES = [f"cell{i}" for i in range(N)], [f"gene{j}" for j in range(P)]


class Store(NamedTuple):
    """A kind of file, whether its tables come sparse, and whether it is handed over opened by AnnData."""

    file: str
    sparse: bool
    opened: bool = False


STORES = {
    "h5ad": Store("y.h5ad", True),
    "h5ad, dense": Store("y.h5ad", False),
    "h5ad, opened": Store("y.h5ad", True, opened=True),
    "h5ad, dense, opened": Store("y.h5ad", False, opened=True),
    "zarr": Store("y.zarr", True),
    "zarr, dense": Store("y.zarr", False),
    "parquet": Store("y.parquet", False),
}
QUICK = ("h5ad", "h5ad, dense", "zarr", "parquet")  # one of each way in which rows are read


def large_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table is large; blocks have 80 rows, runs five; the start is a sample of 600 rows."""
    for room, name, value in (
        (held, "MOST_DENSE", 0),
        (held, "PIECE", PIECE),
        (held, "LONGEST", PIECE),
        (streams, "ENTRIES", 320),
        (streamed, "LARGE", 0),
        (streamed, "SAMPLE_ENTRIES", 2400),
        (streamed, "SAMPLE_ROWS", 1),
        (streamed, "LEAST_ROWS", 400),
    ):
        monkeypatch.setattr(room, name, value)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were asked of a file together, each time."""
    rows: list[int] = []
    for kind in (held.SparseRows, held.DenseRows):

        def counting(self: Any, stretches: Any, read: Any = kind.read) -> Any:
            rows.append(sum(last - first for first, last in stretches))
            return read(self, stretches)

        monkeypatch.setattr(kind, "read", counting)
    return rows


def kept(folder: Path, name: str, y: np.ndarray = Y) -> tuple[Any, Any]:
    """The table as it is handed over on disk, and as it is in memory."""
    store, frame = STORES[name], pd.DataFrame(y, CELLS, GENES)
    path = folder / store.file
    if store.file.endswith(".parquet"):
        frame.to_parquet(path, row_group_size=500)
        return path, frame
    values = sparse.csr_matrix(y) if store.sparse else y
    cells = anndata.AnnData(values, pd.DataFrame({"depth": np.log1p(Y[:, 0])}, CELLS), frame.iloc[:0].T)
    stored(path, cells)
    return (anndata.read_h5ad(path, backed="r") if store.opened else path), cells


def with_entries(*entries: tuple[int, int, float]) -> np.ndarray:
    """The table with other entries."""
    y = Y.copy()
    for i, j, value in entries:
        y[i, j] = value
    return y
