"""Do counts follow the fitted law? A test of the whole distribution, of each column and of all, with a drawn reference.

Start at `looked` and `departures`. A count's place in its fitted law is U, uniform between P(Y < y) and P(Y <= y);
where the model holds it is uniform from 0 to 1. Of each count we take P(U <= u | y) - u on a grid of u, which has
mean zero and needs no random number. From its sum over rows we take out what the scores of the column's own
parameters (its coefficients, its standard deviation) say: what is left does not feel to first order how the
parameters were estimated (Neyman's C(alpha)), so that shrunk, variational and maximum-likelihood fits are judged alike.

The reference are tables drawn from the fit at the same covariates and offsets: whole rows, so that columns go
together as the model says; a row's draws are put together anew for each of the replicates. Statistics: of a column
the mean over the grid of the squared standardised sum (Anderson and Darling's weighing), of all columns the largest
standardised sum, which is whether the curve of the quantile plot leaves its band. The least p-value of all these has
its own law among the replicates: that law makes the size of the whole.

Sources: Dunn & Smyth (1996), Randomized quantile residuals; Czado, Gneiting & Held (2009), Predictive model
assessment for count data; Neyman (1959), Optimal asymptotic tests of composite hypotheses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from poplin.data import held
from poplin.inference import margins
from poplin.inference.summary import Fitted

LEVEL = 0.05  # size of the whole; of each test where two are made, half of it
GRID = np.linspace(-2.7, 2.7, 31)  # normal quantiles
MOST_COUNTS, MOST_COLUMNS, MOST_ROWS = (
    12_000,
    60,
    600,
)  # that are looked at; of a larger table, some at random
EVALUATIONS = 60_000  # counts drawn from the fit, in all
FEWEST_DRAWS, MOST_DRAWS = 5, 60  # of each row
REPLICATES = 500
LARGEST_RATE = 1e15
TAIL, MIDDLE = 2.2, 0.5  # normal quantiles beyond, within which residuals say what kind a departure is


class Curve(NamedTuple):
    """The distribution of all residuals on `GRID`: the share below each, and the band (k,) that it should stay in."""

    share: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class Departures(NamedTuple):
    """What was found: p of the whole; p of all columns together; of each column looked at, its p and its kind.

    `columns` (m,) are those looked at, `flagged` those (of them) beyond what chance explains, worst first; `kind` of
    each, and of all together: standardised excess in both tails, in the middle, and to the right (m, 3), (3,).
    `distance`: the largest difference of all residuals' distribution from the normal. `rows` were looked at. They are
    unlike the law where `p` is below `level`.
    """

    p: float
    level: float
    p_together: float
    p_columns: np.ndarray
    columns: np.ndarray
    flagged: np.ndarray
    kind: np.ndarray
    kind_together: np.ndarray
    curve: Curve
    distance: float
    rows: int


class Looked(NamedTuple):
    """Where the counts lie in their law, and where those of the draws do: (n, m) each, and (draws, n, m).

    `latent` (draws, n, m): the deviation of Z that each drawn count comes from, in its standard deviations.
    """

    seen: Sample
    data: margins.Placed
    drawn: margins.Placed
    there: np.ndarray
    latent: np.ndarray


class Sample(NamedTuple):
    """The counts looked at: rows, columns, y (n, m) NaN where missing, center (n, m), variance (m,), x (n, d)."""

    rows: np.ndarray
    columns: np.ndarray
    y: np.ndarray
    center: np.ndarray
    variance: np.ndarray
    x: np.ndarray


def looked(fit: Fitted, *, seed: int = 0) -> Looked:
    """Some of the counts, and tables drawn from the fit; cost: 10 to 20 microseconds for each of `EVALUATIONS`."""
    random = np.random.default_rng([seed, 7])
    seen = _sample(fit, random)
    n, m = seen.y.shape
    draws = int(np.clip(EVALUATIONS // (n * m), FEWEST_DRAWS, MOST_DRAWS))
    root = (fit.components_ * np.sqrt(np.maximum(fit.eigenvalues_, 0)))[seen.columns]
    noise = random.standard_normal((draws, n, root.shape[1])) @ root.T
    y = 1.0 * random.poisson(np.exp(np.minimum(seen.center + noise, np.log(LARGEST_RATE))))
    there = ~np.isnan(seen.y)
    latent = noise / np.sqrt(np.maximum(seen.variance, margins.LEAST))
    return Looked(seen, _placed(seen.y, seen, there), _placed(y, seen, there), there, latent)


def _sample(fit: Fitted, random: np.random.Generator) -> Sample:
    """Rows of weight above zero and columns, at random where there are too many."""
    counts = fit.counts_
    used = np.flatnonzero(counts.weights > 0)
    p = counts.y.shape[1]
    m = min(p, MOST_COLUMNS, max(MOST_COUNTS // min(len(used), MOST_COUNTS), MOST_COUNTS // MOST_ROWS))
    columns = np.sort(random.choice(p, m, replace=False))
    rows = np.sort(random.choice(used, min(len(used), MOST_COUNTS // m), replace=False))
    y = held.dense_rows(counts.y, rows)[:, columns]
    center = counts.offset[rows][:, columns] + counts.x[rows] @ fit.coef_[:, columns]
    return Sample(rows, columns, y, center, np.diag(fit.covariance_)[columns], counts.x[rows])


def _placed(y: np.ndarray, seen: Sample, there: np.ndarray) -> margins.Placed:
    """The same for every count that is there; zeros elsewhere."""
    kept = np.broadcast_to(there, y.shape)
    center, variance = (np.broadcast_to(a, y.shape)[kept] for a in (seen.center, seen.variance))
    found = margins.placed(y[kept], center, variance)
    filled = [np.zeros(y.shape) for _ in found]
    for whole, part in zip(filled, found, strict=True):
        whole[kept] = part
    return margins.Placed(*filled)


def departures(at: Looked, *, level: float = LEVEL, seed: int = 0) -> Departures:
    """Test the fitted law of the counts at `level`. Cost: REPLICATES x EVALUATIONS x 31 products."""
    random = np.random.default_rng([seed, 8])
    return _judged(at, *_clear_of_scores(at), level, random)


def _process(found: margins.Placed, at: Looked) -> tuple[np.ndarray, np.ndarray]:
    """P(U <= u | y) - u (..., n, m, k), and scores of the columns' parameters (..., n, m, d + 1); 0 where missing."""
    from scipy.special import ndtr

    u = ndtr(GRID)
    mass = np.maximum(found.upto - found.below, 1e-12)[..., None]
    share = (np.clip((u - found.below[..., None]) / mass, 0.0, 1.0) - u) * at.there[..., None]
    by_coef = at.seen.x[:, None, :] * found.by_center[..., None]
    return share, np.concatenate([by_coef, found.by_log_sd[..., None]], axis=-1)


class Cleared(NamedTuple):
    """The process without what scores explain, (n, m, k) or (draws, n, m, k); as it is, summed over rows (m, k)."""

    process: np.ndarray
    plain: np.ndarray


def _clear_of_scores(at: Looked) -> tuple[Cleared, Cleared]:
    """Of the data and of the draws, each column's process less its regression on the scores, as the draws have it."""
    (process, scores), (many, scores_of_many) = _process(at.data, at), _process(at.drawn, at)
    plain = process.sum(axis=0), many.sum(axis=(0, 1))
    for j in range(len(at.seen.columns)):
        s = scores_of_many[:, :, j].reshape(-1, scores.shape[2])
        slope = np.linalg.lstsq(s.T @ s, s.T @ many[:, :, j].reshape(len(s), -1), rcond=1e-10)[0]
        process[:, j] -= scores[:, j] @ slope
        many[:, :, j] -= scores_of_many[:, :, j] @ slope
    return Cleared(process, plain[0]), Cleared(many, plain[1])


def _judged(
    at: Looked, found: Cleared, reference: Cleared, level: float, random: np.random.Generator
) -> Departures:
    """Statistics of the data and of replicates, and how they stand among them."""
    draws, n, m, k = reference.process.shape
    flat = reference.process.reshape(draws * n, m * k)
    total = np.concatenate([found.process.sum(axis=0).reshape(1, -1), resampled(flat, draws, n, random)])
    total = total.reshape(-1, m, k)
    scale = np.sqrt(np.maximum(n * np.mean(reference.process**2, axis=(0, 1)), 1e-12))
    of_columns = np.mean((total / scale) ** 2, axis=2)
    together = total.sum(axis=1)
    width = np.sqrt(np.maximum(n * np.mean(reference.process.sum(axis=2) ** 2, axis=(0, 1)), 1e-12))
    of_all = np.max(np.abs(together) / width, axis=1)
    p_columns, p_all = (tail(each) for each in (of_columns, of_all[:, None]))
    least = ranks(p_columns.min(axis=1))
    all_ranks = ranks(p_all[:, 0])
    both = np.minimum(least, all_ranks)
    p = float(np.mean(both[1:] <= both[0]))
    bound = np.quantile(both[1:], level)  # of the ranks of each: what the whole is rejected at
    threshold = np.quantile(p_columns[1:].min(axis=1), bound)
    flagged = np.flatnonzero(p_columns[0] <= threshold)
    flagged = flagged[np.argsort(p_columns[0][flagged], kind="stable")]
    reach = np.quantile(of_all[1:], 1 - bound) * width
    kind = _kinds(np.concatenate([found.plain[None], total[1:]]))
    there = int(np.sum(at.there))
    plain = found.plain.sum(axis=0)
    curve = _curve(plain, reach, there)
    return Departures(
        *(p, level, float(all_ranks[0]), p_columns[0], at.seen.columns, flagged),
        *(kind[0], kind[1], curve, float(np.max(np.abs(plain)) / there), n),
    )


def resampled(flat: np.ndarray, draws: int, n: int, random: np.random.Generator) -> np.ndarray:
    """Sums over rows (REPLICATES, m k), each row with one of its draws."""
    out = np.empty((REPLICATES, flat.shape[1]))
    each = max(1, 20_000_000 // (draws * n))
    plain = flat.astype(np.float32)
    for first in range(0, REPLICATES, each):
        part = min(each, REPLICATES - first)
        chosen = np.zeros((part, draws, n), np.float32)
        chosen[np.arange(part)[:, None], random.integers(0, draws, (part, n)), np.arange(n)] = 1
        out[first : first + part] = chosen.reshape(part, -1) @ plain
    return out


def tail(values: np.ndarray) -> np.ndarray:
    """Tail probabilities by the gamma law with the replicates' moments, smooth far out; the data are line 0."""
    from scipy.special import gammaincc

    mean, variance = values[1:].mean(axis=0), np.maximum(values[1:].var(axis=0), 1e-300)
    return gammaincc(mean**2 / variance, values * mean / variance)


def ranks(p: np.ndarray) -> np.ndarray:
    """The share of replicates whose p is as small, of each line."""
    order = np.sort(p[1:])
    return np.searchsorted(order, p, side="right") / len(order)


def _kinds(total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of columns (m, 3) and all (3,): excess in both tails, in the middle, to the right, in sds of replicates."""
    tail, middle = (np.argmin(np.abs(GRID - at)) for at in (TAIL, MIDDLE))
    low_tail, low_middle = (len(GRID) - 1 - at for at in (tail, middle))

    def contrasts(sums: np.ndarray) -> np.ndarray:
        tails = sums[..., low_tail] - sums[..., tail]
        inside = sums[..., middle] - sums[..., low_middle]
        right = -(sums[..., tail] + sums[..., low_tail])
        both = np.stack([tails, inside, right], axis=-1)
        return both[0] / np.maximum(both[1:].std(axis=0), 1e-12)

    return contrasts(total), contrasts(total.sum(axis=1))


def _curve(plain: np.ndarray, reach: np.ndarray, there: int) -> Curve:
    from scipy.special import ndtr

    u = ndtr(GRID)
    return Curve(u + plain / there, np.clip(u - reach / there, 0, 1), np.clip(u + reach / there, 0, 1))
