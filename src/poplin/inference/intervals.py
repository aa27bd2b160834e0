"""From an information matrix to standard errors and intervals of B, Sigma and what is made of Sigma.

Start at `covariance_root`, then `deviations`. The covariance of the estimates is kept as a root, V = R R': each column
of R, carried through the tangents of `Coordinates`, is one deviation of (B, Sigma); the variance of any smooth function
is the sum of its squared first-order changes along them (the delta method, with no matrix of derivatives).
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from scipy.linalg import LinAlgError, cholesky, eigh, solve_triangular
from scipy.special import chdtrc, expit, fdtrc, stdtr, stdtrit

from poplin._numerics import compiled
from poplin.inference.coordinates import Coordinates
from poplin.inference.information import Information
from poplin.models.covariance import Covariance

CHUNK = 4_000_000  # most numbers in a batch of deviations of Sigma
LOST = 1e-6  # share of its own scale below which a direction holds no information
TRUSTED = 0.1  # share of the whole, noise included, below which what is left of a direction cannot be told
LEAST_SHARE, RIDGE = (
    0.01,
    1e-9,
)  # of the whole, noise included, that a direction keeps; added to a whole of unit scale
LARGE = 500  # numbers from which more than one thread is worth its start
TOUCHED = 0.2  # share of a quantity's variance that may lie along such directions

Matrix = np.ndarray | Array


class Root(NamedTuple):
    """V = spread spread' + lost lost' (K, K) in the numbers of `Coordinates`.

    `lost` (K, m): directions of which no information can be told, with the least standard error that they may have.
    """

    spread: np.ndarray
    lost: np.ndarray


class Interval(NamedTuple):
    """Estimates with their intervals, arrays of one shape.

    Attributes:
        estimate: the estimates.
        se: standard errors.
        z: estimate over standard error, or the signed root of a likelihood ratio; NaN where zero is no hypothesis.
        p: two-sided p-values; NaN where zero is no hypothesis.
        lower: lower ends.
        upper: upper ends.
        method: of all, or of each, where z, p and the ends are from: "wald", "profile", "score" or "bootstrap".
        df: Student's degrees of freedom, None where the normal serves.
    """

    estimate: np.ndarray
    se: np.ndarray
    z: np.ndarray
    p: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    method: np.ndarray | str = "wald"
    df: np.ndarray | None = None


def observed_information(found: Information) -> np.ndarray:
    """The data's own information, by Louis' identity."""
    assert found.observed is not None and found.observed_gap is not None
    return _without_noise(found.observed, found.observed_gap)


def product_root(found: Information, *, simulated: bool) -> Root:
    """Root of the inverse of the mean scores' products, summed, times N / (N - K - 2).

    The inverse of a Wishart matrix is too large by that share; N is the number of rows that it was summed over: the sum
    of weights, or of simulated ones Kish's effective size. Raw products of the two sets may be negative by chance;
    they are looked at beside the whole, from which such a direction keeps a little.
    """
    rows = float(found.rows) ** 2 / float(found.squares) if simulated else float(found.rows)
    share = rows / (rows - len(found.products) - 2)
    if share <= 0:
        return covariance_root(np.full_like(np.asarray(found.products), np.nan))
    with _threads(len(found.products)):
        plain = _without_noise(found.products, found.products_gap)
        return _root_beside(plain * share, np.asarray(found.whole) * share)


@contextmanager
def _threads(size: int) -> Iterator[None]:
    """As many threads for large matrices as the process may use: nothing of JAX runs beside them here."""
    from threadpoolctl import threadpool_limits

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with threadpool_limits(cores, user_api="blas") if size >= LARGE else nullcontext():
        yield


def _without_noise(matrix: Matrix, gap: Matrix) -> np.ndarray:
    """A matrix whose inverse, on average, is the inverse of what the matrix estimates.

    With noise D, E[(I + D)^-1] = I^-1 + I^-1 E[D I^-1 D] I^-1 + ...: half the difference of two independent estimates
    has the size of D, so D I^-1 D' is added to the information. Unlike a subtraction it leaves the inverse positive.
    """
    noise = np.asarray(gap) @ covariance_root(np.asarray(matrix)).spread
    return np.asarray(matrix) + noise @ noise.T


def positive_information(found: Information) -> np.ndarray:
    """The scores' products as an information: of a direction that noise makes negative a share of the whole is left."""
    whole = np.asarray(found.whole)
    scale = np.sqrt(np.maximum(np.diag(whole), 1e-300))
    lower = cholesky(whole / scale / scale[:, None] + RIDGE * np.eye(len(whole)), lower=True)
    plain = _without_noise(found.products, found.products_gap) / scale / scale[:, None]
    unit = solve_triangular(lower, solve_triangular(lower, plain, lower=True).T, lower=True)
    values, vectors = eigh(0.5 * (unit + unit.T))
    root = scale[:, None] * (lower @ (vectors * np.sqrt(np.maximum(values, LEAST_SHARE))))
    return root @ root.T


def noise_of(root: Root, gap: Matrix) -> float:
    """Root mean square relative Monte-Carlo error of the estimates' variances, over the numbers of `Coordinates`."""
    relative = root.spread.T @ np.asarray(gap) @ root.spread
    return float(np.sqrt(np.sum(relative**2) / max(len(relative), 1)))


def worst_noise(root: Root, gap: Matrix) -> float:
    """The same in the direction in which it is largest."""
    return float(np.linalg.norm(root.spread.T @ np.asarray(gap) @ root.spread, 2))


def sandwich(bread: Root, products: Matrix) -> Root:
    """A root of I^-1 G I^-1, given that of I^-1 and the sum of the scores' products G; O(K^3)."""
    if not (np.isfinite(products).all() and np.isfinite(bread.spread).all()):  # a score that overflows
        return bread._replace(spread=np.full_like(bread.spread, np.nan))
    values, vectors = eigh(bread.spread.T @ np.asarray(products) @ bread.spread)
    return bread._replace(spread=bread.spread @ (vectors * np.sqrt(np.maximum(values, 0))))


def covariance_root(information: np.ndarray) -> Root:
    """R with R R' = I^-1; a direction in which I is not positive, on its own scale, is lost. O(K^3)."""
    size = len(information)
    if not np.isfinite(information).all():
        return Root(np.full((size, size), np.nan), np.zeros((size, 0)))
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(information)), 1e-300))
    unit = information * scale[:, None] * scale
    try:
        lower = cholesky(unit, lower=True)
        if np.min(np.diag(lower)) ** 2 > LOST:
            back = solve_triangular(lower, np.eye(size), lower=True).T
            return Root(scale[:, None] * back, np.zeros((size, 0)))
    except LinAlgError:
        pass
    return _split(np.diag(scale), unit, LOST)


def _root_beside(information: np.ndarray, whole: np.ndarray) -> Root:
    """R with R R' = I^-1; a direction that has less than a share of `whole` is lost."""
    scale = 1 / np.sqrt(np.maximum(np.diag(whole), 1e-300))
    try:
        lower = cholesky(whole * scale[:, None] * scale, lower=True)
    except (LinAlgError, ValueError):  # fewer rows than numbers, or a number that is none
        return covariance_root(information)
    if np.min(np.diag(lower)) ** 2 < LOST:
        return covariance_root(information)
    whiten = scale[:, None] * solve_triangular(lower, np.eye(len(lower)), lower=True).T
    return _split(whiten, whiten.T @ information @ whiten, TRUSTED)


def _split(whiten: np.ndarray, unit: np.ndarray, least: float) -> Root:
    """The root from W' I W, whose eigenvalues are told when they are above `least`."""
    size = len(unit)
    try:  # Cholesky's factor tells whether all are, in a tenth of the time that they take
        cholesky(unit - least * np.eye(size), lower=True)
        lower = cholesky(unit, lower=True)
        return Root(whiten @ solve_triangular(lower, np.eye(size), lower=True).T, np.zeros((size, 0)))
    except LinAlgError:
        pass
    values, vectors = eigh(unit)
    kept = values > least
    root = whiten @ (vectors / np.sqrt(np.maximum(values, least)))
    return Root(root[:, kept], root[:, ~kept])


@compiled(static_argnames="tangents")
def _along(here: Coordinates, tangents: Callable[..., Any], numbers: Array, *more: Array) -> Any:
    return tangents(here, numbers, *more)


def _batches(
    here: Coordinates, columns: np.ndarray, size: int, tangents: Callable[..., Any], *more: np.ndarray
) -> Iterator[Any]:
    """What `tangents` of `Coordinates` tell of the columns (K, .), so many at a time that memory holds their `size`."""
    each = max(1, CHUNK // size)
    for k in range(0, columns.shape[1], each):
        part = columns[:, k : k + each].T
        filled = np.zeros((min(each, columns.shape[1]), part.shape[1]))
        filled[: len(part)] = part
        told = jax.device_get(_along(here, tangents, filled, *more))
        yield tuple(a[: len(part)] for a in told) if isinstance(told, tuple) else told[: len(part)]


def deviations(here: Coordinates, columns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of (m, d, p) changes of B and (m, p, p) changes of Sigma along the columns (K, .); O(p^2 q) each."""
    return _batches(here, columns, here.model.coef.shape[1] ** 2, Coordinates.tangents)


def coef_deviations(here: Coordinates, columns: np.ndarray) -> np.ndarray:
    """Changes of B alone along the columns, (., d, p): p q d each, and nothing of Sigma is made."""
    size = here.model.coef.size + here.model.loadings.size
    return np.concatenate(
        [np.zeros((0, *here.model.coef.shape)), *_batches(here, columns, size, Coordinates.coef_tangents)]
    )


def tangent_error(
    here: Coordinates, root: Root, tangents: Callable[..., Any], *more: np.ndarray
) -> np.ndarray:
    """Standard errors of what thin `tangents` of `Coordinates` tell: of B, or of Sigma along axes (p, .)."""
    size = here.model.coef.size + here.model.loadings.size
    return error_along(*(_batches(here, part, size, tangents, *more) for part in root))


Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


def standard_error(here: Coordinates, root: Root, change: Change) -> np.ndarray:
    """Standard error of a function of (B, Sigma), given its first-order `change` along (dB, dSigma), m at a time.

    NaN where more than a share of its variance is along directions without information.
    """
    return error_along(*((change(*moved) for moved in deviations(here, part)) for part in root))


def error_along(spread: Iterable[np.ndarray], lost: Iterable[np.ndarray]) -> np.ndarray:
    """The same, from batches of changes along what is known and along what is not."""
    known, unknown = (sum((np.sum(a**2, axis=0) for a in part), np.zeros(())) for part in (spread, lost))
    total = known + unknown
    return np.sqrt(np.where(unknown > TOUCHED * total, np.nan, total))


def of_coef(coef: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Every entry of B."""
    return coef


def of_covariance(coef: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Every entry of Sigma."""
    return sigma


def of_correlation(covariance: np.ndarray) -> Change:
    """Every correlation r_jk: dr = dSigma_jk / (s_j s_k) - r_jk (dSigma_jj / Sigma_jj + dSigma_kk / Sigma_kk) / 2."""
    variance = np.diag(covariance)
    scale = np.sqrt(variance)
    correlation = covariance / scale / scale[:, None]

    def change(coef, sigma):
        relative = np.diagonal(sigma, axis1=1, axis2=2) / variance
        both = relative[:, :, None] + relative[:, None, :]
        return sigma / (scale[:, None] * scale) - 0.5 * correlation * both

    return change


Shift = np.ndarray | float
Degrees = np.ndarray | None


def plain(
    estimate: np.ndarray, se: np.ndarray, level: float, df: Degrees = None, shift: Shift = 0.0
) -> Interval:
    """Interval estimate + shift +- z se (Student's t with `df`), with the Wald test of zero."""
    reach, centre = _quantile(level, df) * se, estimate + shift
    with np.errstate(divide="ignore", invalid="ignore"):
        z = centre / se
    p = 2 * stdtr(np.inf if df is None else df, -np.abs(z))
    return Interval(estimate, se, z, p, centre - reach, centre + reach, df=df)


def _quantile(level: float, df: Degrees) -> np.ndarray:
    return stdtrit(np.inf if df is None else df, (1 + level) / 2)


def positive(
    estimate: np.ndarray, se: np.ndarray, level: float, df: Degrees = None, shift: Shift = 0.0
) -> Interval:
    """An interval on the log scale, for variances and eigenvalues; zero is at the edge, so there is no test of it.

    `shift` is where the estimate is not the middle, to first order: of its logarithm shift / estimate.
    """
    none = np.full_like(estimate, np.nan)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factor = np.exp(_quantile(level, df) * se / estimate)
        centre = estimate * np.exp(shift / estimate)
        return Interval(estimate, se, none, none, centre / factor, centre * factor, df=df)


def fisher(
    estimate: np.ndarray, se: np.ndarray, level: float, df: Degrees = None, shift: Shift = 0.0
) -> Interval:
    """An interval for correlations on Fisher's scale atanh(r), and the test of zero there.

    With a shift, first order in r, the middle is another correlation, and the slope 1 / (1 - r^2) of the scale is the
    geometric mean of those at both: where counts are low these differ by half.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = np.arctanh(estimate) + shift / (1 - estimate**2)
        slope = 1 / np.sqrt((1 - estimate**2) * (1 - np.tanh(middle) ** 2))
        there = plain(middle, se * slope, level, df)
    return Interval(estimate, se, there.z, there.p, np.tanh(there.lower), np.tanh(there.upper), df=df)


def separated(values: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Which eigenvalues (descending) are two standard errors clear of their neighbours: only those have one."""
    gap = np.abs(np.diff(values))
    clear = gap > 2 * np.hypot(se[:-1], se[1:])
    return np.concatenate([[True], clear]) & np.concatenate([clear, [True]])


# Wald tests of several coefficients at once, column by column and over all columns.
#
# Start at `tests_of`. The coefficients' covariance is made of their deviations (see `intervals.py`).


RANK = 1e-10  # share of the largest eigenvalue below which a contrast's variance is zero


class Tests(NamedTuple):
    """Statistic, degrees of freedom and p-value: of each column (p,), and of all columns together (last)."""

    statistic: np.ndarray
    df: np.ndarray
    p: np.ndarray


def rows_of_term(term: str, covariates: Sequence[str]) -> list[int]:
    """Which covariates belong to a term: those of its name, once levels such as [T.oak] are left out."""

    def plain(name: str) -> str:
        return re.sub(r"\[[^\]]*\]|\s", "", name)

    return [k for k, name in enumerate(covariates) if name == term or plain(name) == plain(term)]


def tests_of(contrast: np.ndarray, deviations: np.ndarray) -> Tests:
    """Wald tests that H B = 0: `contrast` H B (r, p) and its deviations (m, r, p), sum of squares = variance.

    W = (H b)' V^-1 (H b) ~ chi-squared with rank(V) degrees of freedom. Cost m r^2 p, and m (r p)^2 for all columns.
    """
    r, p = contrast.shape
    single = [_wald(contrast[:, j], deviations[:, :, j]) for j in range(p)]
    both = [*single, _wald(contrast.ravel(), deviations.reshape(len(deviations), r * p))]
    statistic, df = np.array(both).T
    return Tests(statistic, df.astype(int), chdtrc(df, statistic))


def with_degrees(told: Tests, degrees: np.ndarray) -> Tests:
    """The same by Hotelling's F where variances have `degrees` (p + 1,) of freedom; NaN where they are too few.

    F = (g - r + 1) / (g r) W with r and g - r + 1 degrees of freedom (Pustejovsky & Tipton 2018).
    """
    r = np.maximum(told.df, 1)
    left = degrees - r + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        p = fdtrc(r, np.maximum(left, 1e-9), np.maximum(left, 0) / (degrees * r) * told.statistic)
    return told._replace(p=np.where(left > 0, p, np.nan))


def untold(p: int) -> Tests:
    """Tests of p columns, and of all together, of which nothing is known."""
    nothing = np.full(p + 1, np.nan)
    return Tests(nothing, np.zeros(p + 1, int), nothing)


def _wald(value: np.ndarray, deviations: np.ndarray) -> tuple[float, int]:
    variance = deviations.T @ deviations
    if not np.isfinite(variance).all():
        return np.nan, 0
    scale = np.sqrt(np.maximum(np.diag(variance), 1e-300))
    values, vectors = np.linalg.eigh(variance / scale / scale[:, None])
    kept = values > RANK * values[-1]
    along = (vectors.T @ (value / scale))[kept]
    return float(np.sum(along**2 / values[kept])), int(kept.sum())


def adjusted(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values; NaN stay and do not count."""
    out, there = np.full(np.shape(p), np.nan), np.isfinite(p)
    known = p[there]
    order = np.argsort(known)[::-1]
    rank = np.arange(len(known), 0, -1)
    known[order] = np.minimum(np.minimum.accumulate(known[order] * len(known) / rank), 1.0)
    out[there] = known
    return out


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values; NaN stay and do not count."""
    out, there = np.full(np.shape(p), np.nan), np.isfinite(p)
    known = p[there]
    order = np.argsort(known, kind="stable")
    stepped = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1))
    known[order] = np.minimum(stepped, 1.0)
    out[there] = known
    return out


# Standard errors a few columns at a time, for models whose whole information matrix is too large to be formed.
#
# Start at `parts`. Two ways, by the form of Sigma.
#
# Direct forms: columns A of the table follow a Poisson-lognormal model of their own, with B_A and Sigma_AA. Its
# information is that of the table without the other columns, so its standard errors are never too small, and were Z
# seen, they would be the same: estimates of B_A and Sigma_AA would not use the other columns. Counts use them only to
# weigh rows. A part is therefore a sub-table: a core, whose numbers are wanted, and the columns that tell most of the
# core's Z.
#
# Factor forms: the other columns are what tells w, and stay. What is free is every number of the core, and of the
# others only the map w -> E w + D'x that they could follow together (`Coordinates.part_scores`): E lower triangular,
# for a rotation of all is none of Sigma. Uncertainty of each of them alone hardly moves w where there are many, and is
# left out.


Wanted = tuple[int, int]  # a pair of columns that have to be in one core; (j, j) for column j alone


class Part(NamedTuple):
    """Columns of a part, the core first, and how many are its core."""

    columns: np.ndarray
    core: int


class Telling(NamedTuple):
    """How much of Z_j is known from the counts of column k: r_jk^2 known_k, asked for some columns j at a time."""

    sigma: Covariance
    known: np.ndarray

    def of(self, columns: Sequence[int]) -> np.ndarray:
        """The most that any of these columns is told by column k, (p,)."""
        variance = np.maximum(self.sigma.diag(), 1e-300)
        shared = self.sigma.block(columns, slice(None)) ** 2 / variance[columns, None] / variance
        return (shared * self.known).max(axis=0)


def telling(sigma: Covariance, rate: np.ndarray) -> Telling:
    """How much of Z_j is known from the counts of column k: r_jk^2 E[t_k / (1 + t_k)].

    t_k = Sigma_kk rate_k e^(Z_k - E Z_k), with `rate` (p,) where Z is at its mean: a large variance alone, which makes
    the mean rate large by rows that are rare, tells nothing of the others.
    """
    variance = np.maximum(sigma.diag(), 1e-300)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    log_signal = np.log(variance * np.maximum(rate, 1e-300)) + nodes[:, None] * np.sqrt(variance)
    known = weights / weights.sum() @ expit(log_signal)
    return Telling(sigma, known)


def parts(wanted: Sequence[Wanted], telling: Telling, *, core: int, size: int) -> list[Part]:
    """Parts of `size` columns whose cores hold every wanted pair; a core has at most `core` columns.

    Greedy: the first pair that is left, then whichever is nearest. Cost: number of parts x core x (pairs + p q).
    """
    pairs = sorted({(min(pair), max(pair)) for pair in wanted})
    (first, second), made = np.array(pairs).reshape(-1, 2).T, []
    while len(first):
        chosen: list[int] = []
        near, best = np.zeros(telling.sigma.p), 0
        while best >= 0:
            new = [j for j in dict.fromkeys((int(first[best]), int(second[best]))) if j not in chosen]
            chosen, near = chosen + new, np.maximum(near, telling.of(new))
            near[chosen] = np.inf
            left = ~np.isinf(np.minimum(near[first], near[second]))
            first, second = first[left], second[left]
            inside = np.isinf(near[first]), np.isinf(near[second])
            count = 2 - inside[0] - inside[1] - (~inside[0] & (first == second))
            score = np.where(len(chosen) + count <= core, np.minimum(near[first], near[second]), -1.0)
            best = int(np.argmax(score)) if np.any(score >= 0) else -1
        # with the columns that tell most of any of its own, up to `size`
        near[chosen] = -np.inf
        others = np.argsort(-near, kind="stable")[: max(0, min(size, len(near)) - len(chosen))]
        made.append(Part(np.array([*chosen, *others]), len(chosen)))
    return made


def part_deviations(
    here: Coordinates, columns: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Changes of a part's B (m, d, c) and Sigma (m, c, c) along vectors of its numbers (K, m), see `part_scores`."""
    d, c = here.model.coef.shape[0], len(columns)
    own = np.asarray(here.model.loadings)[columns]
    coef = numbers[: d * c].T.reshape(-1, d, c)
    moved = numbers[d * c : (d + own.shape[1]) * c].T.reshape(-1, own.shape[1], c)
    half = own @ moved
    return coef, half + np.swapaxes(half, 1, 2)
