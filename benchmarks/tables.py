"""Real count tables for the likelihood comparisons, with the covariates and offsets of the recorded designs.

`real_table(name, shared)` gives a `Table`; microcosm and kang are read from the data folder (intercept, log
offset).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import load_npz

from benchmarks.designs import load

# Rank of the factor form (None: the direct form with a free covariance) that each table is compared at.
HELDOUT = {"trichoptera": None, "barents": None, "mollusk": None, "oaks": None, "microcosm": 10}
INSAMPLE: dict[str, tuple[int | None, ...]] = {
    "trichoptera": (None, 5, 10),
    "barents": (None, 5, 10),
    "mollusk": (None, 5, 10),
    "oaks": (None, 5, 10),
    "microcosm": (10,),
    "scRNA": (10,),
    "kang_ifnb_small": (10,),
}


class Table(NamedTuple):
    """Counts n x p, covariates n x d, offsets n x p (log scale)."""

    counts: NDArray[np.int64]
    covariates: NDArray[np.float64]
    offsets: NDArray[np.float64]

    def rows(self, chosen: NDArray[np.bool_]) -> Table:
        """The chosen rows."""
        return Table(self.counts[chosen], self.covariates[chosen], self.offsets[chosen])


def real_table(name: str, shared: Path, *, intercept_only: bool = False) -> Table:
    """The named table; FileNotFoundError where the shared folder lacks it."""
    if name in ("trichoptera", "barents", "mollusk", "oaks", "scRNA"):
        if not (shared / "reference" / "designs" / f"{name}.npz").is_file():
            raise FileNotFoundError(
                f"{name} is a real table and lies in the shared folder only, not in {shared}"
            )
        design = load(name, shared)
        offsets = np.zeros(design.counts.shape) if design.offsets is None else design.offsets
        table = Table(design.counts, design.covariates, offsets)
    else:
        table = _from_data(shared / "data" / f"{name}.npz")
    if intercept_only:
        table = table._replace(covariates=np.ones((len(table.counts), 1)))
    return table


def _from_data(path: Path) -> Table:
    """A table of the data folder: sparse or dense, offset as given or the log of the row sum."""
    with np.load(path) as arrays:
        dense = arrays["counts"] if "counts" in arrays.files else None
        given = arrays["offset"] if "offset" in arrays.files else None
    counts = np.asarray(load_npz(path).todense() if dense is None else dense, dtype=np.int64)
    effort = counts.sum(1) if given is None else given
    offsets = np.log(effort.astype(float))
    offsets = offsets[:, None] if offsets.ndim == 1 else offsets
    return Table(counts, np.ones((len(counts), 1)), np.broadcast_to(offsets, counts.shape).copy())


def folds(rows: int, count: int = 5, seed: int = 0) -> NDArray[np.int64]:
    """Fold of each row, balanced, the same for every contender."""
    return np.random.default_rng(seed).permutation(np.arange(rows) % count)
