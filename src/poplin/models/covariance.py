"""Sigma of a fitted model as its factor: answers about entries, diagonal and trace without a p x p array.

Start at `Covariance`. At p = 20 000 a square of doubles is 3.2 GB, and a fit of rank q knows Sigma by p x q numbers;
whoever reads a fit asks here, and only `dense` makes the square.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

SQUARE_UP_TO = 2000  # columns; above, a square table of Sigma is more than anybody reads
PIECE = 4_000_000  # entries of Sigma that are made together, where all of them are looked at


class Covariance(NamedTuple):
    """Sigma = C C', known by a factor, without a square of p x p numbers.

    Attributes:
        loadings: C (p, q), or any root (p, p) of a Sigma of full rank.
    """

    loadings: np.ndarray

    @property
    def p(self) -> int:
        """The number of columns."""
        return self.loadings.shape[0]

    def diag(self) -> np.ndarray:
        """The variances; p q products.

        Returns:
            (p,), log scale.
        """
        return np.einsum("jk,jk->j", self.loadings, self.loadings)

    def trace(self) -> float:
        """The sum of the variances; p q products.

        Returns:
            tr Sigma.
        """
        return float(np.vdot(self.loadings, self.loadings))

    def block(self, rows: Any, columns: Any = None) -> np.ndarray:
        """Some entries of Sigma; q products each.

        Args:
            rows: positions of columns of the counts, an index of NumPy.
            columns: the same of the block's other side; None: those of `rows`, a square.

        Returns:
            Entries (rows, columns), log scale.
        """
        left = self.loadings[rows]
        return left @ (left if columns is None else self.loadings[columns]).T

    def entries(self, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Single entries of Sigma; q products each.

        Args:
            j: positions of columns of the counts (m,).
            k: as many others.

        Returns:
            Sigma_jk (m,), log scale.
        """
        return np.einsum("mq,mq->m", self.loadings[j], self.loadings[k])

    def unit(self) -> Covariance:
        """The correlations; p q divisions.

        Returns:
            The same of a unit diagonal: NaN where a column has no variance.
        """
        deviation = np.sqrt(self.diag())[:, None]
        return Covariance(self.loadings / np.where(deviation > 0, deviation, np.nan))

    def product(self, x: np.ndarray) -> np.ndarray:
        """Sigma x; 2 p q products for each column of x.

        Args:
            x: (p, ...).

        Returns:
            (p, ...).
        """
        return self.loadings @ (self.loadings.T @ x)

    def pieces(self) -> Iterator[slice]:
        """All rows of Sigma, few enough together that their entries are no square.

        Returns:
            Slices of 0..p, one after the other.
        """
        step = max(1, PIECE // self.p)
        yield from (slice(first, min(first + step, self.p)) for first in range(0, self.p, step))

    def distance(self, other: Covariance) -> float:
        """||Sigma - Sigma'|| (Frobenius); p^2 q products.

        Args:
            other: Sigma', of as many columns.

        Returns:
            The distance.
        """
        gaps = (np.vdot(gap, gap) for gap in (self._rows(i) - other._rows(i) for i in self.pieces()))
        return float(np.sqrt(sum(gaps)))

    def norm(self) -> float:
        """||Sigma|| (Frobenius), that of C' C; p q^2 products.

        Returns:
            The norm.
        """
        return float(np.linalg.norm(self.loadings.T @ self.loadings))

    def upper_correlations(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Correlations of some columns with all, some at a time; p^2 q products.

        Returns:
            Pairs of a slice of m columns and an array (m, p): NaN on and below the diagonal, and where a column has no
            variance.
        """
        root = self.unit()
        for part in self.pieces():
            found = np.clip(root._rows(part), -1.0, 1.0)
            found[np.tril(np.ones(found.shape, bool), part.start)] = np.nan
            yield part, found

    def _rows(self, part: slice) -> np.ndarray:
        return self.loadings[part] @ self.loadings.T

    def dense(self) -> np.ndarray:
        """All of Sigma; p^2 q products.

        Returns:
            (p, p), log scale.
        """
        return self.loadings @ self.loadings.T
