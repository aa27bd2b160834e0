"""Standard errors of a large fit, a few columns at a time: which entries are wanted, and where their parts are kept.

Start at `Piecewise`. Why a part will do, and what it leaves out, is told in `inference/parts.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from poplin._precision import double_precision
from poplin.estimators.budget import Watch
from poplin.estimators.directions import OFTEN, Free, request
from poplin.inference import intervals
from poplin.inference import parts as pieces
from poplin.inference.coordinates import coordinates
from poplin.inference.information import information, informations
from poplin.inference.intervals import Moves
from poplin.inference.parts import Part, Wanted
from poplin.inference.wald import Tests, tests_of
from poplin.updates.structure import Model

CORE, SIZE = 10, 20  # columns of a sub-table: whose errors are wanted, and all
VIEWED = 20  # columns of a part where the others stay, for a rank
Key = tuple[int, ...]


class CoreErrors(NamedTuple):
    """Of a core: its columns, standard errors (d, c), (c, c), (c, c), covariances of B within columns (c, d, d)."""

    columns: np.ndarray
    coef: np.ndarray
    covariance: np.ndarray
    correlation: np.ndarray
    within: np.ndarray


class Piecewise:
    """Standard errors of B and of entries of Sigma by parts; what was computed is kept."""

    def __init__(self, fit: Any, free: Free, watch: Watch) -> None:
        self.free, self.covariance, self.watch = free, fit.covariance_, watch
        self.settings = fit.get_params() | {"callback": watch}
        self.by_views = free.shape is None
        self.by_sub_tables = free.in_parts() and not self.by_views and len(self.covariance) > SIZE
        self._made: dict[Key, CoreErrors] = {}
        self._coef: list[CoreErrors] = []

    def coef(self) -> list[CoreErrors]:
        """Parts whose cores hold every column."""
        if not self._coef:
            self._coef = self.of_columns(range(len(self.covariance)))
        return self._coef

    def ready(self) -> list[CoreErrors]:
        """Parts that are there already."""
        return list(self._made.values())

    def of_columns(self, columns: Iterable[int]) -> list[CoreErrors]:
        """Parts whose cores hold these columns; those lost beside others come once more, last, as cores of their own.

        Covariances of two columns that tell little are easily lost, and take the columns' own numbers with them.
        """
        cores = self.of([(j, j) for j in columns])
        told = [(j, c) for core in cores for j, c in zip(core.columns.tolist(), core.coef.T, strict=True)]
        lost = [] if self.by_views else [j for j, coef in told if np.isnan(coef).any()]
        return [*cores, *self.of([(j, j) for j in lost], core=1)]

    def filled(self, which: str, errors: np.ndarray) -> np.ndarray:
        """`errors` of the coefficients (d, p), of covariances or correlations (p, p) with what is missing found."""
        errors, lost = errors.copy(), np.isnan(errors)
        if which == "coef":
            for core in self.of_columns(np.flatnonzero(lost.any(axis=0)).tolist()):
                there = lost[:, core.columns]
                errors[:, core.columns] = np.where(there, core.coef, errors[:, core.columns])
            return errors
        j, k = np.nonzero(np.triu(lost))
        errors[j, k] = errors[k, j] = self.entries(which, j, k)
        return errors

    def entries(self, which: str, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Standard errors of these covariances or correlations."""
        known = self._looked_up(which, j, k, self._made.values())
        open_ = np.isneginf(known)
        if open_.any():
            wanted = list(zip(j[open_].tolist(), k[open_].tolist(), strict=True))
            known[open_] = self._looked_up(which, j[open_], k[open_], self.of(wanted))
        return known

    def _looked_up(self, which: str, j: np.ndarray, k: np.ndarray, cores: Any) -> np.ndarray:
        """Those that the cores hold; minus infinity for the others."""
        found = np.full(len(j), -np.inf)
        for core in cores:
            place = np.full(len(self.covariance), -1)
            place[core.columns] = np.arange(len(core.columns))
            there = (place[j] >= 0) & (place[k] >= 0)
            found[there] = getattr(core, which)[place[j[there]], place[k[there]]]
        return found

    def of(self, wanted: Sequence[Wanted], *, core: int = 0) -> list[CoreErrors]:
        """Parts whose cores (of the usual size, or of `core` columns) hold these pairs, computed where they are new."""
        with double_precision():
            core, size = (VIEWED, VIEWED) if self.by_views else (core or CORE, SIZE)
            telling = pieces.telling(self.covariance, self.free.usual_rate)
            found = pieces.parts(wanted, telling, core=core, size=size)
            new = [part for part in found if _key(part) not in self._made]
            self.watch.anew("a few columns at a time")
            made = self._viewed(new) if self.by_views else self._sub_tables(new)
            for part, errors in zip(new, made, strict=True):
                self._made[_key(part)] = errors
        return [self._made[_key(part)] for part in found]

    def _sub_tables(self, new: Sequence[Part]) -> Iterator[CoreErrors]:
        for k, part in enumerate(new):
            self.watch.share(k / len(new), (k + 1) / len(new))
            yield self._sub_table(part)

    def _sub_table(self, part: Part) -> CoreErrors:
        """From the table of a part's columns alone; a column of its own is worth more draws."""
        free = self._part_of_free(part.columns)
        told = self._told(part, free, more=0)
        return self._told(part, free, more=OFTEN) if part.core == 1 and np.isnan(told.coef).any() else told

    def _told(self, part: Part, free: Free, *, more: int) -> CoreErrors:
        asked = request("expected", free, self.settings, more=more)
        root = intervals.product_root(information(free.block, free.here, asked), simulated=True)

        def moves(numbers: np.ndarray) -> Moves:
            for coef, sigma in intervals.deviations(free.here, numbers):
                yield coef[:, :, : part.core], sigma[:, : part.core, : part.core]

        return self._errors(part.columns[: part.core], list(moves(root.spread)), list(moves(root.lost)))

    def _part_of_free(self, columns: np.ndarray) -> Free:
        """The rows and free directions of a sub-table."""
        free = self.free
        block = free.block._replace(
            **{
                name: jnp.asarray(np.asarray(getattr(free.block, name))[:, columns])
                for name in ("y", "offset")
            }
        )
        coef = np.asarray(free.here.model.coef)[:, columns]
        loadings = np.linalg.cholesky(self.covariance[np.ix_(columns, columns)])
        model = Model(jnp.asarray(coef), jnp.asarray(loadings))
        rate, usual = free.mean_rate[columns], free.usual_rate[columns]
        return free._replace(
            block=block,
            here=coordinates(free.shape, None, model, jnp.asarray(rate)),
            mean_rate=rate,
            usual_rate=usual,
        )

    def _viewed(self, new: Sequence[Part]) -> Iterator[CoreErrors]:
        """From the whole table, with the columns outside a part held together."""
        if not new:
            return
        here = self.free.here
        inverse = pieces.inverse_of_outward(here)
        views = [lambda part=part: pieces.part_view(here, inverse, part.columns) for part in new]
        asked = request("expected", self.free, self.settings, size=views[0]().size())
        for part, found in zip(new, informations(self.free.block, here, views, asked), strict=True):
            root = intervals.product_root(found, simulated=True)
            spread, lost = (
                [pieces.view_deviations(here, part.columns, numbers)] for numbers in (root.spread, root.lost)
            )
            yield self._errors(part.columns, spread, lost)

    def _errors(self, columns: np.ndarray, spread: Moves, lost: Moves) -> CoreErrors:
        own = self.covariance[np.ix_(columns, columns)]
        changes = intervals.of_coef, intervals.of_covariance, intervals.of_correlation(own)
        coef, covariance, correlation = (intervals.error_along(spread, lost, change) for change in changes)
        moved = np.where(np.isnan(coef), np.nan, np.concatenate([moved for moved, _ in spread]))
        return CoreErrors(
            columns, coef, covariance, correlation, np.einsum("mdp,mep->pde", moved, moved, optimize=True)
        )


def _key(part: Part) -> Key:
    return tuple(part.columns[: part.core].tolist())


def tests_by_parts(pieces: Piecewise, matrix: np.ndarray, coef: np.ndarray, told: Tests) -> Tests:
    """`told` with the Wald tests that H B = 0 of the columns that it does not tell, where parts know them.

    Over all columns together nothing is added: the covariance of parts is not formed.
    """
    found, lost = Tests(*(each.copy() for each in told)), np.flatnonzero(np.isnan(told.p[:-1]))
    for core in pieces.of_columns(lost.tolist()):
        for j, within in zip(core.columns, core.within, strict=True):
            if j not in lost or not np.isfinite(within).all():
                continue
            values, vectors = np.linalg.eigh(within)
            spread = (vectors * np.sqrt(np.maximum(values, 0))).T
            one = tests_of(matrix @ coef[:, [j]], (spread @ matrix.T)[:, :, None])
            for whole, of_one in zip(found, one, strict=True):
                whole[j] = of_one[0]
    return found
