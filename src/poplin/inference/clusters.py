"""The sandwich over groups of rows that depend on each other, or over single rows, right in small samples as well.

Start at `sandwich`. With S_g the sum of the scores of group g, the estimates move by J^-1 S_g, and their covariance is
sum_g (J^-1 S_g)(J^-1 S_g)'. As the fit has made the sums smaller than the truth's, each is first multiplied by
(I - J^-1 J_g)^-1/2, J_g what the group adds to the information: under a working model this makes the sum unbiased (CR2;
of single rows HC2). Intervals are of Student's t, with Satterthwaite's degrees of freedom under the same model: the
sum's mean squared, twice, over its variance.

The working model is that of Z seen through counts: row i says omega_ij = 1 / (Sigma_jj + 1 / rate_ij) of column j. So
for the coefficients of a column J_g = sum over rows of omega x x'. Numbers of Sigma, whose scores are products of two
normal deviations, are multiplied by one factor a group; their products' fourth cumulants count in the degrees of
freedom.

Sources: Bell & McCaffrey (2002), Bias reduction in standard errors for linear regression with multi-stage samples;
Pustejovsky & Tipton (2018), Small-sample methods for cluster-robust variance estimation.
"""

from typing import NamedTuple

import numpy as np

from poplin.inference.coordinates import Coordinates
from poplin.inference.intervals import Root

DETERMINED = (
    1e-6  # share of its information that a coefficient keeps without a group, below which it keeps none
)
KEPT = 0.9  # share of a coefficient's working variance that groups have to show
SQUARE, PRODUCT = (
    12.0,
    6.0,
)  # fourth cumulant of a squared normal and of a product of two, over their variance squared


class Working(NamedTuple):
    """The working model: x (n, d), what each count says omega (n, p), its row's weight (n,) and group (n,).

    `copies` (groups,): how many independent groups each one stands for: the weight of a row that is a group for
    itself, 1 of a cluster, in whose sum the weights are.
    """

    x: np.ndarray
    omega: np.ndarray
    weight: np.ndarray
    group: np.ndarray
    copies: np.ndarray


class Degrees(NamedTuple):
    """Degrees of freedom of B (d, p), of Sigma's entries and correlations (p, p), of eigenvalues and scales ()."""

    coef: np.ndarray
    covariance: np.ndarray
    correlation: np.ndarray
    axes: np.ndarray


class Sandwich(NamedTuple):
    """Root of the estimates' covariance, and the degrees of freedom of its diagonal."""

    root: Root
    degrees: Degrees


class Leverage(NamedTuple):
    """Of one column: M_g (G, d, d), by which influences on its coefficients are multiplied; degrees of freedom (d,).

    These are NaN where the coefficient hangs on a single group.
    """

    factor: np.ndarray
    df: np.ndarray


def working(
    x: np.ndarray, rate: np.ndarray, covariance: np.ndarray, weight: np.ndarray, group: np.ndarray | None
) -> Working:
    """The working model from rates (n, p) where Z is at its mean, 0 where a count is missing; no group: single rows."""
    variance = np.diag(covariance)
    omega = rate / (1 + variance * rate)
    if group is None:
        return Working(x, omega, weight, np.arange(len(x)), weight)
    return Working(x, omega, weight, group, np.ones(int(group.max()) + 1))


def sandwich(
    here: Coordinates,
    inverse: np.ndarray,
    bread: Root,
    sums: np.ndarray,
    model: Working,
    covariance: np.ndarray,
) -> Sandwich:
    """The sandwich from the groups' sums of scores (2, G, K), of two independent sets of draws whose noise cancels.

    `bread` is a root of J^-1, `inverse` R^-1 of `Coordinates.outward`. Sums of groups that stand for c copies are
    those of a copy times the root of c. Cost: G K^2 + min(G, K)^2 K, p G d^3 for clusters.
    """
    d, p = here.model.coef.shape
    one, other = (part @ bread.spread @ bread.spread.T for part in sums)
    groups, degrees = len(model.copies), np.empty((d, p))
    share = shares(model)
    by_group = _summed(share, model.group, groups) / np.maximum(model.copies, 1e-300)[:, None]
    alike = 1 / np.sqrt(np.maximum(1 - by_group.mean(axis=1), DETERMINED))
    change = np.zeros((2, groups, d, p))
    own = coef_numbers(here)
    moved = np.stack([_of_coef(here, own, part) for part in (one, other)])
    for j in range(p):
        told = leverage(model, j)
        degrees[:, j] = told.df
        change[..., j] = np.einsum("gkl,sgl->sgk", told.factor, moved[..., j])
    back = np.einsum("sgdp,mp->sgdm", change, inverse)
    both = []
    for numbers, coef in zip((one, other), back, strict=True):
        numbers = numbers * alike[:, None]
        numbers[:, own.place] = coef[:, own.feature, own.column]
        both.append(numbers)
    root = bread._replace(spread=_root_of_products(both[0], both[1]))
    return Sandwich(root, Degrees(degrees, *_degrees_of_sigma(model, share, by_group, covariance)))


class CoefNumbers(NamedTuple):
    """Where the numbers of B stand, and the feature of x and the column of R that each belongs to."""

    place: np.ndarray
    feature: np.ndarray
    column: np.ndarray


def coef_numbers(here: Coordinates) -> CoefNumbers:
    """The numbers of B among all, which are free under every model."""
    feature, column = (np.asarray(a) for a in here.pairs)
    pair = np.flatnonzero(feature < here.model.coef.shape[0])
    place = pair if here.tie is None else np.argmax(np.abs(np.asarray(here.tie)[pair]), axis=1)
    return CoefNumbers(place, feature[pair], column[pair])


def _of_coef(here: Coordinates, own: CoefNumbers, numbers: np.ndarray) -> np.ndarray:
    """Changes of B (G, d, p) along the numbers (G, K)."""
    (d, _), outward = here.model.coef.shape, np.asarray(here.outward)
    filled = np.zeros((len(numbers), d, outward.shape[1]))
    filled[:, own.feature, own.column] = numbers[:, own.place]
    return filled @ outward.T


def _summed(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sums over the rows of each group."""
    total = np.zeros((groups, *values.shape[1:]))
    np.add.at(total, group, values)
    return total


def leverage(model: Working, j: int) -> Leverage:
    """What column j's influences are multiplied by, M_g = (I - J^-1 J_g)^-1/2, and its degrees of freedom.

    With J = L L' and E_g = L^-1 J_g L^-T: M_g = L^-T N_g L', N_g = (I - E_g)^-1/2. An influence b'N_g (S_g - E_g S) has
    covariances b'N_g (delta E_g - E_g E_h) N_h b under the working model; a direction that only one group tells has
    none.
    """
    groups = len(model.copies)
    each = (model.omega[:, j] * model.weight)[:, None, None] * model.x[:, :, None] * model.x[:, None, :]
    information = _summed(each, model.group, groups) / np.maximum(model.copies, 1e-300)[:, None, None]
    whole = np.einsum("g,gkl->kl", model.copies, information)
    values, vectors = np.linalg.eigh(whole)
    known = values > 1e-12 * values[-1]
    white = np.where(known, vectors / np.sqrt(np.where(known, values, 1.0)), 0.0).T  # L^-1 (d, d)
    inside = white @ information @ white.T
    shares_, axes = np.linalg.eigh(inside)
    left = 1 - shares_
    power = np.where(left > DETERMINED, 1 / np.sqrt(np.maximum(left, DETERMINED)), 0.0)
    root = np.einsum("gkl,gl,gml->gkm", axes, power, axes)  # N_g
    back = np.where(known, vectors * np.sqrt(np.where(known, values, 1.0)), 0.0)  # L
    factor = np.einsum("lk,glm,nm->gkn", white, root, back)
    moved = np.einsum("gkl,gln,dn->gkd", inside, root, white.T)  # U_g = E_g N_g b of each coefficient
    alone = np.einsum("dk,gkl,gld->gd", white.T, root, moved)
    return Leverage(factor, _satterthwaite(model.copies, alone, moved, np.sum(white**2, axis=0)))


def _satterthwaite(
    copies: np.ndarray, alone: np.ndarray, moved: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """tr(P)^2 / tr(P^2) of P = diag(alone) - U U' (G, G) for each coefficient; U_g = `moved` (G, d, d)."""
    length = np.sum(moved**2, axis=1)
    trace = copies @ (alone - length)
    gram = np.einsum("g,gkd,gld->dkl", copies, moved, moved)
    square = copies @ alone**2 - 2 * copies @ (alone * length) + np.sum(gram**2, axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(trace > KEPT * variance, trace**2 / square, np.nan)


def shares(model: Working) -> np.ndarray:
    """What part of the information about its variance each row holds, (n, p)."""
    held = model.weight[:, None] * model.omega**2
    return held / np.maximum(held.sum(axis=0), 1e-300)


def _degrees_of_sigma(
    model: Working, share: np.ndarray, by_group: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Degrees of freedom of covariances, correlations (p, p) and of what all columns make together ().

    The sum over groups of squared sums has the relative variance 2 sum h_g^2 / (1 - sum h_g^2) (its terms' variances,
    the mean taken off) and the cumulants sum h_i^2 of single rows.
    """
    copies = model.copies[:, None]
    squares = np.minimum(np.sum(copies * by_group**2, axis=0), 0.999)
    row_copies = np.maximum(model.weight, 1e-300)[:, None]
    rows = np.sum(share**2 / row_copies, axis=0)
    normal = 2 * squares / (1 - squares)

    def pairs(of_column: np.ndarray) -> np.ndarray:
        return 0.5 * (of_column[:, None] + of_column)

    scale = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    r = np.clip(covariance / scale / scale[:, None], -1, 1)
    cumulant = 6 * (1 + 6 * r**2 + r**4) / (1 + r**2) ** 2
    with np.errstate(divide="ignore"):
        of_covariance = 2 / (pairs(normal) + cumulant * pairs(rows))
        of_correlation = 2 / (pairs(normal) + PRODUCT * pairs(rows))
        of_axes = 2 / (normal.mean() + SQUARE * rows.mean())
    return of_covariance, of_correlation, np.asarray(of_axes)


def _root_of_products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A root of sum_g (a_g b_g' + b_g a_g') / 2 without its negative part, noise, (K, at most 2 G)."""
    half, gap = 0.5 * (one + other), 0.5 * (one - other)
    both = np.concatenate([half, gap])
    sign = np.concatenate([np.ones(len(half)), -np.ones(len(gap))])
    scale = np.sqrt(np.maximum(np.mean(both**2, axis=0), 1e-300))
    unit = both / scale
    if len(unit) < unit.shape[1]:
        frame, inside = np.linalg.qr(unit.T)
    else:
        frame, inside = np.eye(unit.shape[1]), unit.T
    values, vectors = np.linalg.eigh((inside * sign) @ inside.T)
    return scale[:, None] * (frame @ (vectors * np.sqrt(np.maximum(values, 0))))
