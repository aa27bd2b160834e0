"""Sigma of a fitted model as its factor: answers about entries, diagonal and trace without a p x p array.

Start at `Covariance`. At p = 20 000 a square of doubles is 3.2 GB, and a fit of rank q knows Sigma by p x q numbers;
whoever reads a fit asks here, and only `dense` makes the square.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

PIECE = 4_000_000  # entries of Sigma that are made together, where all of them are looked at


class Covariance(NamedTuple):
    """Sigma = C C', with the loadings C (p, q), or any root (p, p) of a Sigma of full rank."""

    loadings: np.ndarray

    @property
    def p(self) -> int:
        """The number of columns."""
        return self.loadings.shape[0]

    def diag(self) -> np.ndarray:
        """The variances (p,); p q products."""
        return np.einsum("jk,jk->j", self.loadings, self.loadings)

    def trace(self) -> float:
        """Their sum."""
        return float(np.vdot(self.loadings, self.loadings))

    def block(self, rows: Any, columns: Any = None) -> np.ndarray:
        """The entries (rows, columns) of Sigma; `columns` None: those of the rows, a square."""
        left = self.loadings[rows]
        return left @ (left if columns is None else self.loadings[columns]).T

    def product(self, x: np.ndarray) -> np.ndarray:
        """Sigma x, (p, ...); 2 p q products each."""
        return self.loadings @ (self.loadings.T @ x)

    def pieces(self) -> Iterator[slice]:
        """All rows of Sigma, few enough together that their entries are no square."""
        step = max(1, PIECE // self.p)
        yield from (slice(first, min(first + step, self.p)) for first in range(0, self.p, step))

    def distance(self, other: Covariance) -> float:
        """||Sigma - Sigma'|| (Frobenius); p^2 q products."""
        gaps = (np.vdot(gap, gap) for gap in (self._rows(i) - other._rows(i) for i in self.pieces()))
        return float(np.sqrt(sum(gaps)))

    def norm(self) -> float:
        """||Sigma|| (Frobenius), that of C' C; p q^2 products."""
        return float(np.linalg.norm(self.loadings.T @ self.loadings))

    def upper_correlations(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Correlations of some columns with all, (m, p), some at a time; NaN on and below the diagonal.

        NaN also where a column has no variance.
        """
        deviation = np.sqrt(self.diag())[:, None]
        root = Covariance(self.loadings / np.where(deviation > 0, deviation, np.nan))
        for part in self.pieces():
            found = np.clip(root._rows(part), -1.0, 1.0)
            found[np.tril(np.ones(found.shape, bool), part.start)] = np.nan
            yield part, found

    def _rows(self, part: slice) -> np.ndarray:
        return self.loadings[part] @ self.loadings.T

    def dense(self) -> np.ndarray:
        """All of it (p, p)."""
        return self.loadings @ self.loadings.T
