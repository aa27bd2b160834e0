"""Do counts follow the fitted law? A test of the whole distribution, of each column and of all, with a drawn reference.

Start at `looked` and `departures`. A count's place in its fitted law is U, uniform between P(Y < y) and P(Y <= y);
where the model holds it is uniform from 0 to 1. Of each count we take P(U <= u | y) - u on a grid of u, which has
mean zero and needs no random number. From its sum over rows we take out what the scores of the column's own
parameters (its coefficients, its standard deviation, those of the law) say: what is left does not feel to first order
how the parameters were estimated (Neyman's C(alpha)), so that shrunk, variational and maximum-likelihood fits are
judged alike.

The reference are tables drawn from the fit at the same covariates and offsets: whole rows, so that columns go
together as the model says; a row's draws are put together anew for each of the replicates. Statistics: of a column
the mean over the grid of the squared standardised sum (Anderson and Darling's weighing), of all columns the largest
standardised sum, which is whether the curve of the quantile plot leaves its band. The least p-value of all these has
its own law among the replicates: that law makes the size of the whole.

Sources: Dunn & Smyth (1996), Randomized quantile residuals; Czado, Gneiting & Held (2009), Predictive model
assessment for count data; Neyman (1959), Optimal asymptotic tests of composite hypotheses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from poplin._random import Purpose, derive
from poplin.data import held
from poplin.data.counts import Counts
from poplin.inference.margins import LEAST, Placed, cells, cells_of, normal_scores, placed, sampled
from poplin.inference.summary import Fitted

if TYPE_CHECKING:  # it brings JAX
    from poplin.laws import AbstractLaw

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

    `latent` (draws, n, m): the deviation of Z that each drawn count comes from, in its standard deviations; `zero`:
    which drawn counts are 0.
    """

    seen: Sample
    data: Placed
    drawn: Placed
    there: np.ndarray
    latent: np.ndarray
    zero: np.ndarray


class Sample(NamedTuple):
    """The counts looked at: rows, columns, y (n, m) NaN where missing, center (n, m), variance (m,), x (n, d).

    law: that of the cells, None where it is Poisson's; features (n, k) of each of its own parameters.
    """

    rows: np.ndarray
    columns: np.ndarray
    y: np.ndarray
    center: np.ndarray
    variance: np.ndarray
    x: np.ndarray
    law: AbstractLaw | None
    features: tuple[np.ndarray, ...]


def looked(fit: Fitted, *, seed: int = 0) -> Looked:
    """Some of the counts, and tables drawn from the fit; cost: 10 to 20 microseconds for each of `EVALUATIONS`."""
    random = derive(seed, Purpose.TABLES).generator()
    seen = _sample(fit, random)
    n, m = seen.y.shape
    draws = int(np.clip(EVALUATIONS // (n * m), FEWEST_DRAWS, MOST_DRAWS))
    root = (fit.components_ * np.sqrt(np.maximum(fit.eigenvalues_, 0)))[seen.columns]
    noise = random.standard_normal((draws, n, root.shape[1])) @ root.T
    y = 1.0 * sampled(seen.law, random, seen.center + noise)
    there = ~np.isnan(seen.y)
    latent = noise / np.sqrt(np.maximum(seen.variance, LEAST))
    return Looked(seen, _placed(seen.y, seen, there), _placed(y, seen, there), there, latent, y == 0)


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
    law = cells(fit, rows, columns)
    told = _features(law, None if counts.zeros is None else counts.zeros.x[rows], len(rows))
    return Sample(rows, columns, y, center, fit.sigma_.diag()[columns], counts.x[rows], law, told)


MOST_FEATURES = 20  # of a parameter of the law; of more (one a row) only their sum is taken out


def _features(law: Any, zeros: np.ndarray | None, n: int) -> tuple[np.ndarray, ...]:
    """What each of the law's own parameters is multiplied by in a row, (n, k)."""
    if law is None:
        return ()
    import jax

    from poplin._numerics import double_precision
    from poplin.laws import features_of

    ones = np.ones((n, 1))
    few = ones if zeros is None or zeros.shape[1] > MOST_FEATURES else zeros
    with double_precision():
        told = jax.tree.leaves(features_of(law, few, ones))
    return tuple(np.asarray(each, float) for each in told)


def _placed(y: np.ndarray, seen: Sample, there: np.ndarray) -> Placed:
    """The same for every count that is there; zeros elsewhere."""
    kept = np.broadcast_to(there, y.shape)
    center, variance = (np.broadcast_to(a, y.shape)[kept] for a in (seen.center, seen.variance))
    law = None if seen.law is None else seen.law.over(lambda a: np.broadcast_to(a, y.shape)[kept])
    found = placed(y[kept], center, variance, law)
    filled = [np.zeros(y.shape + part.shape[1:]) for part in found]
    for whole, part in zip(filled, found, strict=True):
        whole[kept] = part
    return Placed(*filled)


def departures(at: Looked, *, level: float = LEVEL, seed: int = 0) -> Departures:
    """Test the fitted law of the counts at `level`. Cost: REPLICATES x EVALUATIONS x 31 products."""
    random = derive(seed, Purpose.MARGINS).generator()
    return _judged(at, *_clear_of_scores(at), level, random)


def _process(found: Placed, at: Looked) -> tuple[np.ndarray, np.ndarray]:
    """P(U <= u | y) - u (..., n, m, k), and scores of the columns' parameters (..., n, m, r); 0 where missing."""
    from scipy.special import ndtr

    u = ndtr(GRID)
    mass = np.maximum(found.upto - found.below, 1e-12)[..., None]
    share = (np.clip((u - found.below[..., None]) / mass, 0.0, 1.0) - u) * at.there[..., None]
    by_coef = at.seen.x[:, None, :] * found.by_center[..., None]
    own = [found.own[..., k, None] * each[:, None, :] for k, each in enumerate(at.seen.features)]
    return share, np.concatenate([by_coef, found.by_log_sd[..., None], *own], axis=-1)


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


class Zeros(NamedTuple):
    """Zeros beyond what the law has: p of all columns together, one-sided, their share of counts, columns by surety."""

    p: float
    share: float
    columns: np.ndarray


def extra_zeros(at: Looked) -> Zeros:
    """Are there more zeros than the law has, however a column's level, variance and the law's own are chosen?

    Of each count whether it is 0, less P(Y = 0), less its regression on the scores of the column's parameters as the
    draws have it (Neyman's C(alpha) test of a probability of zeros); whole rows of draws say how sums vary. Where the
    law chooses that probability itself nothing is left, and p is 1.
    """
    from scipy.special import ndtr

    probability = _placed(np.zeros(at.there.shape), at.seen, at.there).upto
    found, many = ((zero - probability) * at.there for zero in (at.seen.y == 0, at.zero))
    (_, scores), (_, scores_of_many) = _process(at.data, at), _process(at.drawn, at)
    plain = np.sum(many**2)
    for j in range(found.shape[1]):
        s = scores_of_many[:, :, j].reshape(-1, scores.shape[2])
        slope = np.linalg.lstsq(s.T @ s, s.T @ many[:, :, j].ravel(), rcond=1e-10)[0]
        found[:, j] -= scores[:, j] @ slope
        many[:, :, j] -= scores_of_many[:, :, j] @ slope
    if np.sum(many**2) < LEFT * plain:
        return Zeros(1.0, 0.0, np.empty(0, int))
    draws = len(many)
    of_columns = np.sqrt(np.maximum(np.sum(many**2, axis=(0, 1)) / draws, 1e-12))
    of_all = np.sqrt(np.sum(many.sum(axis=2) ** 2) / draws)
    z = found.sum(axis=0) / of_columns
    sure = np.argsort(-z, kind="stable")
    worst = at.seen.columns[sure[z[sure] > SURE]]
    return Zeros(float(ndtr(-found.sum() / of_all)), float(found.sum() / at.there.sum()), worst)


SURE = 3.0  # standard deviations from which a column is named for its zeros
LEFT = 1e-3  # of the variance of zeros, below which the law follows them


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


# Do columns go together as a structured Sigma says? A test of the correlations that a rank or a shape leaves out.
#
# Start at `associations`. Of each count r = E[Phi^-1(U) | y], U uniform over its place in its fitted law: mean zero
# where the law holds. The sums over rows of r_j r_k, less what tables drawn from the fit have, move with the
# parameters along
#
# a_j a_k dSigma_jk / (s_j s_k) and the columns' scales,
#
# a_j how well counts show Z (from the draws). What is left across these directions does not feel to first order how
# Sigma was estimated. A full Sigma can move in all of them: of it there is nothing to test. Reference and size as in
# `departures.py`.


FLAT = 1e-3  # length that a pair keeps across the free directions, below which it is free


class Associations(NamedTuple):
    """p of the whole, and its `level`; pairs of columns (m, 2) beyond chance, worst first, their excess in sds (m,)."""

    p: float
    level: float
    pairs: np.ndarray
    excess: np.ndarray


def associations(fit: Fitted, at: Looked, *, level: float = LEVEL, seed: int = 0) -> Associations | None:
    """Test what goes together beyond the fitted Sigma; None where Sigma is free, or columns are fewer than two.

    Of m columns, P = m (m - 1) / 2 pairs. Cost: the directions' QR, P f^2 with f free ones, and replicates, as in
    `departures.py`.
    """
    free = _free_directions(fit, at)
    if free is None:
        return None
    random = derive(seed, Purpose.CORRELATIONS).generator()
    upper = np.triu_indices(at.there.shape[1], 1)
    one, many = (normal_scores(part) * at.there for part in (at.data, at.drawn))
    draws, n, _ = many.shape
    products = (many[..., upper[0]] * many[..., upper[1]]).reshape(draws * n, -1)
    center = products.mean(axis=0)
    products -= center
    found = (one[:, upper[0]] * one[:, upper[1]] - center).sum(axis=0)
    scale = np.sqrt(np.maximum(n * np.mean(products**2, axis=0), 1e-12))
    basis, _ = np.linalg.qr(_independent(free / scale[:, None]))
    total = np.concatenate([found[None], resampled(products, draws, n, random)]) / scale
    total -= (total @ basis) @ basis.T
    kept = np.sqrt(np.maximum(1 - np.sum(basis**2, axis=1), 0))
    total = total / np.where(kept > FLAT, kept, np.inf)
    if not (kept > FLAT).any():
        return None
    largest = np.max(np.abs(total), axis=1)
    each = np.stack([tail(np.mean(total**2, axis=1)[:, None])[:, 0], tail(largest[:, None])[:, 0]])
    both = np.minimum(*(ranks(one) for one in each))
    bound = np.quantile(both[1:], level)
    beyond = np.flatnonzero(np.abs(total[0]) >= np.quantile(largest[1:], 1 - bound))
    beyond = beyond[np.argsort(-np.abs(total[0][beyond]), kind="stable")]
    pairs = at.seen.columns[np.stack(upper, axis=1)[beyond]]
    return Associations(float(np.mean(both[1:] <= both[0])), level, pairs, total[0][beyond])


def _free_directions(fit: Fitted, at: Looked) -> np.ndarray | None:
    """Changes of the pairs' expected products (P, f) along what is estimated of Sigma; None where all are free."""
    settings, m = fit.get_params(), at.there.shape[1]
    upper = np.triu_indices(m, 1)
    direct, shape = fit.loadings_ is None, settings.get("covariance")
    if m < 2 or (direct and isinstance(shape, str) and shape == "full"):
        return None
    shown = np.mean(normal_scores(at.drawn) * at.latent * at.there, axis=(0, 1))
    sigma = fit.sigma_.block(at.seen.columns)
    deviation = np.sqrt(np.maximum(np.diag(sigma), LEAST))
    moved = [_scales(shown[:, None] * sigma / deviation / deviation[:, None] * shown)]
    if not direct:
        axes, values = fit.components_[at.seen.columns], np.maximum(fit.eigenvalues_, 0)
        if settings.get("basis") is not None:
            moved.append(np.einsum("jk,lk->kjl", axes, axes))
        else:
            half = np.einsum("jk,la->kajl", axes * np.sqrt(values), np.eye(m)).reshape(-1, m, m)
            moved.append(half + np.swapaxes(half, 1, 2))
        moved[1] = moved[1] * (shown / deviation)[:, None] * (shown / deviation)
    if sum(len(one) for one in moved) >= len(upper[0]):
        return None
    return np.concatenate(moved)[:, *upper].T


def _scales(products: np.ndarray) -> np.ndarray:
    """How they move with each column's scale (m, m, m)."""
    m = len(products)
    alone = np.eye(m)
    return products * (alone[:, :, None] + alone[:, None, :])


def _independent(directions: np.ndarray) -> np.ndarray:
    """Directions of the same span, without those that the others make up."""
    size = np.sqrt(np.maximum(np.sum(directions**2, axis=0), 1e-300))
    left, values, _ = np.linalg.svd(directions / size, full_matrices=False)
    return left[:, values > 1e-6 * max(values[0], 1e-300)] if values[0] > 1e-150 else left[:, :0]


# Are rows of a group more alike than the model lets them be? A test of every column that groups rows, at the fit.
#
# Start at `alike`. Of each count r = E[Phi^-1(U) | y], U uniform over its place in its fitted law: mean zero where
# the model holds. Rows of one group g are alike where T_g = sum over its pairs of rows of r_i'r_l is too large; the
# statistic of a column is T = sum over groups of T_g / sqrt(number of pairs). Its reference are the same residuals
# with signs by chance, a row as a whole, and what the covariates explain taken out again: this keeps each row's own
# spread and what goes together in it, asks for no law, and has the same loss through the covariates as the residuals
# had. The p-value is that of T among the replicates, beyond them of the gamma law of their moments. All columns
# together are called at `GROUP_LEVEL` by Holm's rule.
#
# Sources: Mammen (1993), Bootstrap and wild bootstrap for high-dimensional linear models; Holm (1979).


GROUP_LEVEL = 0.01  # share of tables of independent rows in which any column is called
GROUP_REPLICATES = 400
MOST_GROUPED, MOST_GROUP_ROWS = (
    20_000,
    4_000,
)  # that are looked at; of larger tables groups, rows of large groups, and columns
MOST_OF_GROUP = 60  # rows of a group, where there are more rows than that
MOST_GROUPINGS = 40  # columns that are tested, those with fewest groups


class Alike(NamedTuple):
    """A column of the covariates whose rows are alike: p, number of groups, correlation within them."""

    name: str
    p: float
    groups: int
    correlation: float


def alike(
    counts: Counts, coef: np.ndarray, variance: np.ndarray, law: AbstractLaw | None = None, *, seed: int = 0
) -> list[Alike]:
    """The groupings of `counts` whose residuals go together, surest first; B (d, p), the variances of Sigma (p,).

    `law` is that of the counts, with the parameters of the model; None: Poisson's.

    Factors of the formula are not asked: they are in the fit. Cost: 20 microseconds for each of at most `MOST_GROUPED`
    of a grouping, and REPLICATES x as many products.
    """
    known = set() if counts.design is None else {name for name, told in counts.design.columns.items() if told}
    groupings = {name: codes for name, codes in (counts.groups or {}).items() if name not in known}
    if not groupings:
        return []
    few = sorted(groupings, key=lambda name: int(groupings[name].max()))[:MOST_GROUPINGS]
    random = derive(seed, Purpose.GROUPS).generator()
    model = Margins(coef, variance, law)
    found = [_tested(name, groupings[name], counts, model, random) for name in few]
    told = sorted((one for one in found if one is not None), key=lambda one: one.p)
    kept = []
    for k, one in enumerate(told):
        if one.p > GROUP_LEVEL / (len(told) - k):
            break
        kept.append(one)
    return kept


class Margins(NamedTuple):
    """A model column by column: B (d, p), the variances of Sigma (p,), the law of the counts (None: Poisson's)."""

    coef: np.ndarray
    variance: np.ndarray
    law: AbstractLaw | None


def _tested(
    name: str,
    codes: np.ndarray,
    counts: Counts,
    model: Margins,
    random: np.random.Generator,
) -> Alike | None:
    """One grouping; None where no two rows share a group, or the covariates already say all of it."""
    rows = _rows(codes, counts.weights, random)
    if len(rows) < 3:
        return None
    rows = rows[np.argsort(codes[rows], kind="stable")]
    _, first, size = np.unique(codes[rows], return_index=True, return_counts=True)
    residual = _residuals(counts, model, rows, random)
    x = counts.x[rows]
    frame = np.linalg.qr(x)[0]
    residual = residual - frame @ (frame.T @ residual)
    weight = np.where(size > 1, 1 / np.sqrt(np.maximum(size * (size - 1.0), 1.0)), 0.0)
    sign = np.concatenate(
        [np.ones((1, len(rows))), random.choice([-1.0, 1.0], (GROUP_REPLICATES, len(rows)))]
    )
    statistic = np.array([_statistic(residual * one[:, None], frame, first, weight) for one in sign])
    spread = statistic[1:].std()
    if not spread > 1e-9 * np.sum(residual**2):
        return None
    p = _tail_probability(statistic)
    total = np.sum(residual**2)
    pairs = np.sum(np.add.reduceat(residual, first, axis=0) ** 2) - total
    correlation = pairs / np.sum(size * (size - 1.0)) / (total / len(rows))
    return Alike(name, p, len(size), float(correlation))


def _statistic(residual: np.ndarray, frame: np.ndarray, first: np.ndarray, weight: np.ndarray) -> float:
    """Of rows in the order of their groups, which begin at `first`."""
    left = residual - frame @ (frame.T @ residual)
    both = np.sum(np.add.reduceat(left, first, axis=0) ** 2, axis=1)
    alone = np.add.reduceat(np.sum(left**2, axis=1), first)
    return float(weight @ (both - alone))


def _tail_probability(statistic: np.ndarray) -> float:
    """P(replicate >= the first): counted where many are, by the gamma law with their first three moments beyond."""
    from scipy.special import gammaincc, ndtr

    value, drawn = statistic[0], statistic[1:]
    counted = (1 + np.sum(drawn >= value)) / (1 + len(drawn))
    if counted > 0.05:
        return float(counted)
    z = (value - drawn.mean()) / drawn.std()
    skewness = max(float(np.mean(((drawn - drawn.mean()) / drawn.std()) ** 3)), 0.0)
    if skewness < 0.05:
        return float(ndtr(-z))
    shape = 4 / skewness**2
    return float(gammaincc(shape, max(shape + z * np.sqrt(shape), 0.0)))


def _rows(codes: np.ndarray, weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rows that have a label and company: some of each group, of some groups where there are too many."""
    order = random.permutation(np.flatnonzero((codes >= 0) & (weights > 0)))
    if len(order) > MOST_GROUP_ROWS:
        by_group = order[np.argsort(codes[order], kind="stable")]
        _, first = np.unique(codes[by_group], return_index=True)
        place = np.arange(len(by_group)) - np.repeat(first, np.diff(np.r_[first, len(by_group)]))
        by_group = by_group[place < MOST_OF_GROUP]
        groups = random.permutation(np.unique(codes[by_group]))
        size = np.bincount(codes[by_group], minlength=int(codes.max()) + 1)[groups]
        kept = groups[np.cumsum(size) <= max(MOST_GROUP_ROWS, size[0])]
        order = by_group[np.isin(codes[by_group], kept)]
    return np.sort(order)


def _residuals(counts: Counts, model: Margins, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The normal scores of these rows (n, m), of some columns where there are too many, 0 where a count is missing."""
    p = counts.y.shape[1]
    columns = np.sort(random.choice(p, min(p, max(MOST_GROUPED // len(rows), 1)), replace=False))
    y = held.dense_rows(counts.y, rows)[:, columns]
    there = ~np.isnan(y)
    center = counts.offset[rows][:, columns] + counts.x[rows] @ model.coef[:, columns]
    spread = np.broadcast_to(model.variance[columns], y.shape)
    law = cells_of(model.law, counts, rows, columns)
    of_those = None if law is None else law.over(lambda a: a[there])
    out = np.zeros(y.shape)
    out[there] = normal_scores(placed(y[there], center[there], spread[there], of_those))
    return out


# What a fit says of rows that depend on each other, by the columns of its covariates that group them.
#
# Start at `words`. The test is made when a fit is made, so that whoever reads
# estimates alone, a summary, a file or the report is told.


DEPEND = (
    "Rows with the same {what} are more alike than independent rows ({found}): standard errors and p-values that "
    "take them "
    "for independent are too small for what differs between groups. Ask for confint(cluster={name!r}) (command line: "
    "--cluster {plain}), or compare within groups by having {name!r} in the formula.{several}"
)
SEVERAL = " Where one column's groups hold those of another, cluster by the larger groups."


def words(counts: Counts, coef: np.ndarray, variance: np.ndarray, law: AbstractLaw, seed: int) -> str | None:
    """One sentence or two where rows go together within groups, None where they do not or there are none."""
    found = alike(counts, coef, variance, law, seed=seed)
    if not found:
        return None
    first = found[0].name
    plain = first if first.isidentifier() else f"'{first}'"
    what = " or ".join(repr(one.name) for one in found)
    told = "; ".join(_told(one, several=len(found) > 1) for one in found)
    return DEPEND.format(
        what=what, found=told, name=first, plain=plain, several=SEVERAL if len(found) > 1 else ""
    )


def _told(one: Alike, *, several: bool) -> str:
    who = f"'{one.name}': " if several else ""
    p = f"p = {one.p:.1g}" if one.p > 1e-12 else "p < 1e-12"
    return f"{who}{one.groups} groups, correlation of residuals {one.correlation:.2f} within, {p}"
