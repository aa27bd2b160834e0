"""The nouns of a simulation study: settings, tables drawn from them, and the methods that stand as columns.

Start at `Study`. A study file declares one `STUDY`; `runner.py` carries it out, `summary.py` turns its records
into a table, `runner.py` writes what comes of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.models.draws import draw_counts

Numbers = dict[str, Any]


class Table(NamedTuple):
    """Counts (n, p) and the truth behind them: coef B (d, p), covariance Sigma (p, p), latent Z (n, p).

    basis V (p, q) and scales Lambda (q,): the leading eigenpairs of Sigma, as many as it has. x (n, d) is an
    intercept, unless a study draws another. `fresh` are more counts from the same law, which no method sees;
    `lent` is a V (p, q) to borrow, `elsewhere` are counts of another site to learn a V from.
    """

    counts: np.ndarray
    x: np.ndarray
    latent: np.ndarray
    coef: np.ndarray
    covariance: np.ndarray
    basis: np.ndarray
    scales: np.ndarray
    fresh: np.ndarray | None = None
    lent: np.ndarray | None = None
    elsewhere: np.ndarray | None = None


class Estimate(NamedTuple):
    """What a method says: coef (d, p), covariance (p, p), and if it has them positions Z (n, p), scales Lambda (q,).

    `fit` is the fitted `PLN` for measures that ask it more; `numbers` go into the record as they are;
    `intervals` says whether coverage is to be measured.
    """

    coef: np.ndarray
    covariance: np.ndarray
    latent: Callable[[], np.ndarray] | None = None
    scales: np.ndarray | None = None
    converged: bool = True
    fit: Any = None
    numbers: Numbers | None = None
    intervals: bool = False


class Column(NamedTuple):
    """A method: its name in tables, the fit of a table with a seed, and why it cannot be run here ('': it can).

    `at_most` (None: no limit) is how many of a cell's tables it is declared for: a slow one whose bias is plain in few.
    """

    name: str
    fit: Callable[[Table, int], Estimate]
    missing: Callable[[], str] = lambda: ""
    at_most: int | None = None


class Cell(NamedTuple):
    """One setting: its factors (n, p, ...), how a table is drawn, the methods, and how many tables."""

    factors: dict[str, Any]
    draw: Callable[[np.random.Generator], Table]
    columns: tuple[Column, ...]
    replicates: int

    def tables(self, column: Column, asked: int | None = None) -> int:
        """How many tables this column is fitted to: as many as are asked for (None: as declared), or its own limit."""
        count = asked or self.replicates
        return count if column.at_most is None else min(count, column.at_most)

    @property
    def label(self) -> str:
        """The factors in words; the key of the records and, hashed, of the seeds."""
        return " ".join(f"{name}={value}" for name, value in self.factors.items())

    def table(self, replicate: int) -> Table:
        """The table of this replicate: its seed depends on the cell's label and the replicate alone."""
        seed = np.random.SeedSequence([zlib.crc32(self.label.encode()), replicate])
        return self.draw(np.random.default_rng(seed))


Measure = Callable[[Table, Estimate], Numbers]


class Figure(NamedTuple):
    """A figure: the name of its file, one line on what it shows, and the function that draws it.

    `draw(table, records)` takes the summary as a DataFrame (a line a cell and method) and the records.
    """

    name: str
    caption: str
    draw: Callable[[Any, list[Numbers]], Any]


class Study(NamedTuple):
    """A study: name, what it asks, its cells (small or full), what is measured, and what is shown.

    `shown` are the columns of the summary that the page prints (`table.csv` has all); `absent` are methods
    that the question calls for and that poplin does not have yet; `remarks(table, records)` are lines that are
    worked out from the records (slopes, picks), in Markdown. `reference` is the method whose held-out likelihood is
    taken from that of the others table by table (`heldout_gap`; '': none).
    """

    name: str
    title: str
    question: str
    cells: Callable[[bool], list[Cell]]
    measures: tuple[Measure, ...]
    shown: tuple[str, ...]
    figures: tuple[Figure, ...] = ()
    absent: tuple[str, ...] = ()
    remarks: Callable[[Any, list[Numbers]], str] = lambda table, records: ""
    reference: str = ""


NAMES = (
    *("scenario1", "scenario2", "families", "rank1", "rank"),
    *("smoothing", "known_sigma", "borrowed", "coverage"),
)


def find(name: str) -> Study:
    """The study of this name ('known-sigma' and 'known_sigma' are the same), or any module's `STUDY` by a dotted name.

    Raises `InputError` for a name that is none.
    """
    from importlib import import_module

    plain = name.replace("-", "_")
    if "." not in name and plain not in NAMES:
        raise InputError(f"There is no study '{name}'; wanted is one of {', '.join(NAMES)}.")
    return import_module(name if "." in name else f"poplin.studies.{plain}").STUDY


def chosen_cells(study: Study, small: bool, methods: tuple[str, ...] = ()) -> list[Cell]:
    """The cells with only these methods (all, if none is named); `InputError` for a method that is in none."""
    cells = study.cells(small)
    known = {column.name for cell in cells for column in cell.columns}
    strange = [name for name in methods if name not in known]
    if strange:
        raise InputError(
            f"Study {study.name} has no method '{strange[0]}'; it has {', '.join(sorted(known))}."
        )
    if not methods:
        return cells
    kept = [cell._replace(columns=tuple(c for c in cell.columns if c.name in methods)) for cell in cells]
    return [cell for cell in kept if cell.columns]


# Laws that the studies draw tables from: an intercept a column, and Sigma by its shape or rank.
#
# Start at `Law` and `table`. `simulate.py` is the public, simpler face; here the eigenvectors of the truth are kept
# as well, since studies lend them to methods.


class Law(NamedTuple):
    """n rows; B (1, p); Sigma = V diag(Lambda) V' by its eigenpairs, the largest first."""

    rows: int
    coef: np.ndarray
    basis: np.ndarray
    scales: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """Sigma (p, p)."""
        return (self.basis * self.scales) @ self.basis.T


def autoregressive(p: int, correlation: float) -> np.ndarray:
    """Sigma_jk = correlation^|j - k|."""
    return correlation ** np.abs(np.subtract.outer(np.arange(p), np.arange(p)))


def eigenpairs(sigma: np.ndarray, rank: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The `rank` leading eigenvectors (p, q), each with its largest entry positive, and their eigenvalues."""
    values, vectors = np.linalg.eigh(sigma)
    vectors, values = vectors[:, ::-1][:, :rank], values[::-1][:rank]
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(vectors.shape[1])]
    return vectors * np.sign(largest), np.maximum(values, 0)


def law(rows: int, sigma: np.ndarray, *, mean: float = 0.0, rank: int | None = None) -> Law:
    """A law of n rows with this mean of Z in every column and this Sigma, cut to its `rank` leading eigenpairs."""
    return Law(rows, np.full((1, len(sigma)), float(mean)), *eigenpairs(sigma, rank))


def random_low_rank(rows: int, p: int, rank: int, *, mean: float = 0.0) -> Law:
    """Sigma = C C', C (p, q) from N(0, 1/q): variances are one on average whatever the rank. One C per (p, q)."""
    loadings = np.random.default_rng([p, rank]).standard_normal((p, rank)) / np.sqrt(rank)
    return law(rows, loadings @ loadings.T, mean=mean, rank=rank)


def cut_but_with_all_axes(rows: int, sigma: np.ndarray, rank: int) -> Law:
    """As `law` with a rank, but V keeps all p axes (p, p), with Lambda = 0 beyond the rank."""
    axes, values = eigenpairs(sigma)
    kept = np.where(np.arange(len(values)) < rank, values, 0.0)
    return Law(rows, np.zeros((1, len(sigma))), axes, kept)


def one_factor(rows: int, p: int) -> Law:
    """Rank one: Z_ij = c_j w_i, c_j evenly spread from 0.4 to 1, mean 0."""
    loadings = np.linspace(0.4, 1.0, p)[:, None]
    return law(rows, loadings @ loadings.T, rank=1)


def table(law: Law, random: np.random.Generator, *, fresh: int = 0) -> Table:
    """Counts of n rows, y_ij ~ Poisson(exp(z_ij)), and `fresh` more that no method sees.

    >>> table(law(4, autoregressive(3, 0.5)), np.random.default_rng(0)).counts.shape
    (4, 3)
    """
    n = law.rows + fresh
    noise = random.standard_normal((n, len(law.scales)))
    latent = law.coef + (noise * np.sqrt(law.scales)) @ law.basis.T
    counts = draw_counts(random, latent)
    held = counts[law.rows :] if fresh else None
    x = np.ones((law.rows, 1))
    seen = counts[: law.rows], x, latent[: law.rows]
    return Table(*seen, law.coef, law.covariance, law.basis, law.scales, held)


def drawn_from(law: Law, *, fresh: int = 0) -> Callable[[np.random.Generator], Table]:
    """`table` as what a `Cell` wants: a function of the generator alone."""
    return lambda random: table(law, random, fresh=fresh)
