"""How much shrinkage left-out rows ask for: cross-validation of kappa in the Gaussian model of `rows/cells.py`.

Start at `most_likely_shrinkage`. A fit to the other rows is there an EM of some steps, a score a few factorisations, so
that folds cost a part of a fit and no chain has to be run. `pull_of` asks the same model by how much correlations
were drawn toward zero.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._numerics import compiled
from poplin.inference.coordinates import Coordinates
from poplin.inference.intervals import Root, deviations
from poplin.rows.cells import Sites, score, told

FOLDS = 5
FIRST_STEPS = 16  # of EM, from the estimate of all rows
STEPS = 6  # from the estimate at the kappa before
FACTOR = 3.0  # between one kappa that is tried and the next
LEAST = 0.03  # pseudo-rows: less is none
MOST = 3.0  # in rows of the table: Sigma is then nearly diagonal
LONGER = 3.0  # most by which a step of Sigma is lengthened
LEAP = 0.5  # relative change of Sigma up to which one is
UNSHRUNK_STEPS = 60


class Estimate(NamedTuple):
    """(B, Sigma)."""

    coef: np.ndarray
    covariance: np.ndarray


def folds_of(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Numbers of the folds (n,) to which rows are dealt out: by their sums, whatever the order of rows and columns.

    Rows alike are in the same fold, so that a row of weight two is one that is there twice, and one of weight zero
    none.
    """
    used = weights > 0
    looks = np.stack([counts.sum(axis=1), np.square(counts).sum(axis=1)], axis=1)
    numbers = np.zeros(len(counts), int)
    numbers[used] = np.unique(looks[used], axis=0, return_inverse=True)[1].ravel() % FOLDS
    return numbers


def most_likely_shrinkage(
    at: Sites, whole: Estimate, level: np.ndarray, begin: float, numbers: np.ndarray
) -> float:
    """kappa, in pseudo-rows, at which rows that are left out are most likely; `whole` is an estimate from all rows.

    `numbers` (n,) are those of the rows' folds (`folds_of`). kappa is tripled, or divided by three, from `begin` on
    until the likelihood falls again; then the parabola through the best and its neighbours. `level` (d, d) is the weak
    prior's precision of each column of B. Cost: some 200 n p^3.
    """
    folds = [(at.rows(numbers != k), at.rows(numbers == k)) for k in np.unique(numbers)]
    reached: dict[int | None, list[Estimate]] = {None: [whole] * len(folds)}

    def likelihood(k: int, before: int | None) -> float:
        kappa, steps = start * FACTOR**k, FIRST_STEPS if before is None else STEPS
        reached[k] = [
            fitted(kept, begun, kappa, level, steps)
            for (kept, _), begun in zip(folds, reached[before], strict=True)
        ]
        return sum(score(left, *end) for (_, left), end in zip(folds, reached[k], strict=True))

    rows = float(np.sum(at.weights))
    start = float(np.clip(begin, LEAST, MOST * rows))
    lowest, highest = (round(np.log(edge / start) / np.log(FACTOR)) for edge in (LEAST, MOST * rows))
    return start * FACTOR ** _highest(likelihood, lowest, highest)


def _highest(value: Callable[[int, int | None], float], lowest: int, highest: int) -> float:
    """Where a function of whole numbers from `lowest` to `highest` is highest, looked for from 0 on.

    `value(k, before)` is told from which neighbour the walk comes. The place is that of the parabola's top.
    """
    found = {0: value(0, None)}
    for way in (1, -1):
        k = 0
        while found[k] == max(found.values()) and lowest <= k + way <= highest:
            k += way
            found[k] = value(k, k - way)
        if max(found, key=found.__getitem__) > 0:
            break
    best = max(found, key=found.__getitem__)
    if best - 1 not in found or best + 1 not in found:
        return float(best)
    below, above = found[best] - found[best - 1], found[best] - found[best + 1]
    return best + 0.5 * (below - above) / max(below + above, 1e-12)


def fitted(at: Sites, begun: Estimate, kappa: float, level: np.ndarray, steps: int) -> Estimate:
    """So many steps of EM, penalised as `updates.covariance.Full` is; n p^3 each."""
    for _ in range(steps):
        begun = _step(at, begun, kappa, level)
    return begun


def _step(at: Sites, here: Estimate, kappa: float, level: np.ndarray) -> Estimate:
    sums = told(at, *here)
    n, variance = sums.rows, np.diag(here.covariance)
    # (X'X + level Sigma_jj) dB_j = X'E[Z - XB] - level Sigma_jj B_j, column by column
    pull = sums.cross - variance * (level @ here.coef)
    move = np.linalg.solve(sums.gram + variance[:, None, None] * level, pull.T[:, :, None])[:, :, 0].T
    half = sums.cross.T @ move
    moment = (sums.second - half - half.T + move.T @ sums.gram @ move) / n
    there = (n * moment + kappa * np.diag(np.diag(moment))) / (n + kappa)
    v = np.diag(there) * np.diag(np.linalg.inv(there))
    free = np.exp(-kappa * (v - 1) / (n * (1 + v)))  # without force on the variances: see `Direct._unforced`
    there = free[:, None] * there * free
    return Estimate(here.coef + move, _lengthened(at, here.covariance, there, kappa / n))


def _lengthened(at: Sites, here: np.ndarray, there: np.ndarray, share: float) -> np.ndarray:
    """Sigma after a step that is longer along the pairs of axes of which counts say little: see `rows/chains.py`.

    Along axes k and l EM closes the share f_kl of what is left, or what the penalty has of it.
    """
    lower, weights = np.linalg.cholesky(here), at.weights / np.sum(at.weights)
    _, turn = np.linalg.eigh(lower.T @ ((weights @ at.precision)[:, None] * lower))
    axes = lower @ turn
    known = 1 - 1 / (1 + at.precision @ axes**2)
    known = (weights[:, None] * known).T @ known
    back = np.linalg.solve(lower.T, turn)
    change = back.T @ there @ back - np.eye(len(here))
    longer = np.minimum((1 + share) / (known + share), LONGER) * change
    if np.max(np.abs(np.linalg.eigvalsh(longer))) > LEAP:
        return there
    return here + axes @ longer @ axes.T


def pull_of(at: Sites, whole: Estimate, level: np.ndarray, kappa: float) -> float:
    """The share by which kappa pseudo-rows pull the correlations R of Sigma toward zero, 1 - <R, R_0> / <R_0, R_0>.

    R_0 are those without any, off the diagonal; both from the sites, so that what these miss is missed twice.
    """
    shrunk = fitted(at, whole, kappa, level, UNSHRUNK_STEPS // 4)
    free = fitted(at, shrunk, 0.0, level, UNSHRUNK_STEPS)
    one, other = (_correlations(estimate.covariance) for estimate in (shrunk, free))
    size = float(np.sum(other**2))
    return 1 - float(np.sum(one * other)) / size if size > 0 else 0.0


def _correlations(covariance: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.diag(covariance))
    return (covariance / scale / scale[:, None])[np.triu_indices(len(scale), 1)]


# Where a fit without shrinkage would be, from a shrunk one: intervals are drawn about that place.
#
# Start at `change_of_covariance`. At a shrunk estimate the score of the likelihood is the force that shrinkage has,
# so that one step of scoring, V times this force with V the inverse information of the data, leads to the maximum of
# the likelihood: exactly where the rows' positions are known, else to first order. What it leads to is unbiased to
# that order, as a shrunk estimate is not, and need not be a covariance matrix. Source: van der Vaart (1998),
# Asymptotic statistics, section 5.7, on one-step estimators.


def change_of_covariance(here: Coordinates, root: Root, force: np.ndarray) -> np.ndarray:
    """The step of Sigma (p, p) from where the likelihood has this gradient in Sigma; V = root root', K^2 products."""
    along = np.asarray(_along(here, jnp.asarray(force)))
    numbers = root.spread @ (root.spread.T @ along)
    return next(deviations(here, numbers[:, None]))[1][0]


def force_of_em(covariance: np.ndarray, rows: float, kappa: float) -> np.ndarray:
    """N Sigma^-1 (S - Sigma) Sigma^-1 / 2 where `Full` and `Direct` made Sigma from the moment S of N rows.

    With u = diag(f), Sigma = u (N S + kappa diag(S)) u / (N + kappa), f of v_j = Sigma_jj (Sigma^-1)_jj.
    """
    precision = np.linalg.inv(covariance)
    v = np.diag(precision) * np.diag(covariance)
    free = np.exp(kappa * (v - 1) / (rows * (1 + v)))
    before = free[:, None] * covariance * free
    moment = ((rows + kappa) * before - kappa * np.diag(np.diag(before))) / rows
    return 0.5 * rows * precision @ (moment - covariance) @ precision


def penalty_gradient(covariance: np.ndarray) -> np.ndarray:
    """Of [log det R + tr(R^-1) - p] / 2, R the correlations of Sigma, in the entries of Sigma: see `Full`."""
    precision, variance = np.linalg.inv(covariance), np.diag(covariance)
    free = np.diag(np.diag(precision) - 1 / variance)
    return 0.5 * (precision + free - (precision * variance) @ precision)


@compiled()
def _along(here: Coordinates, gradient: Array) -> Array:
    return jax.grad(lambda numbers: jnp.sum(gradient * here.tangents(numbers[None])[1][0]))(
        jnp.zeros(here.size())
    )
