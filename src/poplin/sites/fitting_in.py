"""Does a site fit in? Score tests of sites, forward selection of codes that mean something else at a site.

Start at `known_at`, then `site_test` and `code_gains`. All follow from the sites' quadratics: at a joint point they are
score tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.linalg import cho_factor, cho_solve, null_space, subspace_angles
from scipy.special import chdtrc

from poplin._numerics import compiled
from poplin.sites.pooling import Pooled, Reduced, in_units_of_coef, normal, pooled
from poplin.sites.structures import Common, loadings_of, with_free_row
from poplin.sites.summaries import Chart, SiteSummary

RIDGE = 1e-10  # share of the largest information, added where nothing is known
TOLD = 1e-6  # share of the largest information below which a direction is not told
SURE = 0.2  # radians (and changes of log scale) that a site must tell of a direction, to be tested in it
LEAST_TOLD = 0.2  # standard error of a code's level, in standard deviations of its Z, up to which it is told


def told_codes(site: SiteSummary) -> np.ndarray:
    """Whether a site's counts tell each code well enough for a quadratic about the site's own maximum, (p_k,).

    Of a rare code the likelihood is skewed, and far from the site's own estimates its quadratic says too much: the
    tests of sites that do fit in reject too often. A code is told where the level of its log rates, the
    best known of its coefficients, has a standard error of at most a fifth of the standard deviation of its Z.
    """
    d, p = site.coef.shape
    _, information = in_units_of_coef(site)
    variance = np.diag(np.linalg.inv(information))[: d * p].reshape(d, p).min(axis=0)
    return variance <= LEAST_TOLD**2 * np.sum(site.loadings**2, axis=1)


class Known(NamedTuple):
    """A joint point, and what all tests there have in common.

    factor: of the curvature H of the joint model's steps; rest: H^-1 times the gradient, which is zero at a maximum.
    """

    joint: Pooled
    sites: Sequence[Reduced]
    factor: tuple[np.ndarray, bool]
    rest: np.ndarray


def known_at(joint: Pooled, sites: Sequence[Reduced]) -> Known:
    """What tests at a joint point need, once for all sites and codes. Cost: a step of the pool."""
    gradient, curvature = normal(sites, joint.told, joint.slopes)
    factor = cho_factor(curvature + RIDGE * np.max(np.diag(curvature)) * np.eye(len(curvature)))
    return Known(joint, sites, factor, cho_solve(factor, gradient))


class SiteTest(NamedTuple):
    """A site against all others.

    statistic, df, p: twice what its own C_k would gain in the directions that it tells, chi-squared; loss: nats a row;
    angle: the widest between the site's own span and the common one, over the codes that are not free there, degrees.
    """

    statistic: float
    df: int
    p: float
    loss: float
    angle: float


def site_test(at: Known, k: int) -> SiteTest:
    """Whether site k has the others' axes: what its C_k's going its own way would gain, by the score.

    C_k may turn against the common axes, within their span and out of it, by any angles, and have other scales: of
    these directions those are tested that the site alone tells to `SURE`. In others, which rare codes have, its
    likelihood is no quadratic as far as it reaches.
    """
    site = at.sites[k]
    loadings = at.joint.loadings(site, k)
    moves = _moves(loadings)
    first = len(site.shared) * len(site.where)
    along = np.zeros((len(site.target), len(moves)))
    slopes = np.asarray(_row_slopes(site.chart, jnp.asarray(loadings)))
    along[first:] = np.tensordot(slopes, moves, ([1, 2], [1, 2]))
    moved = site.upper @ along
    values, vectors = np.linalg.eigh(moved.T @ moved)
    sure = vectors[:, values > 1 / SURE**2]
    (statistic,), (df,) = _gains(at, k, (along @ sure)[None])
    # of codes that are free there, their rows have nothing to do with the common axes
    free = [code for number, code in at.joint.here.free_at.tolist() if number == k]
    kept, own = ~np.isin(site.where, free), site.chart.loadings_at(site.target[first:])
    angle = widest_angle(np.asarray(at.joint.here.basis)[site.where[kept]], own[kept])
    return SiteTest(statistic, df, float(chdtrc(df, statistic)), 0.5 * statistic / site.rows, angle)


def _moves(loadings: np.ndarray) -> np.ndarray:
    """Directions of C (., p, q): along its own axes U, turns out of their span, within it, and log scales."""
    axes, size, turned = np.linalg.svd(loadings, full_matrices=False)
    q, root = len(size), size[:, None] * turned
    out = np.einsum("pa,br->abpr", null_space(axes.T), root).reshape(-1, *loadings.shape)
    one, other = np.tril_indices(q, -1)
    outer = lambda a, b: np.einsum("pm,mr->mpr", a, b)
    within = outer(axes[:, one], root[other]) - outer(axes[:, other], root[one])
    return np.concatenate([out, within, outer(axes, root)])


def widest_angle(basis: np.ndarray, loadings: np.ndarray) -> float:
    """The widest principal angle between V's span and the nearest directions of C's, degrees; NaN if C is no number."""
    if not np.isfinite(loadings).all():
        return float("nan")
    return float(np.rad2deg(np.max(subspace_angles(basis, loadings))))


def _gains(at: Known, k: int, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each set of directions of site k's numbers (sets, m, r): what z along them would gain, twice; numbers told.

    u'(H_zz - H_z. H^-1 H_.z)^-1 u, u the slope in z with the joint model's steps profiled out, H the information.
    """
    site, joint = at.sites[k], at.joint
    slopes, apart = site.upper @ joint.slopes[k], site.upper @ (site.target - joint.told[k])
    found, told = np.empty(len(along)), np.empty(len(along), int)
    for s, own in enumerate(site.upper @ along):
        across = slopes.T @ own
        values, vectors = np.linalg.eigh(own.T @ own - across.T @ cho_solve(at.factor, across))
        there = values > TOLD * np.max(values, initial=0.0)
        score = vectors.T @ (own.T @ apart - across.T @ at.rest)
        found[s], told[s] = np.sum(score[there] ** 2 / values[there]), there.sum()
    return found, told


def code_gains(at: Known, k: int) -> np.ndarray:
    """For each code of site k: what its row of C_k's being its own would gain, twice, by the score (p_k,)."""
    site, here = at.sites[k], jnp.asarray(at.joint.loadings(at.sites[k], k))
    rows, q = here.shape
    along = np.zeros((rows, len(site.target), q))
    along[:, len(site.shared) * rows :] = np.moveaxis(np.asarray(_row_slopes(site.chart, here)), 1, 0)
    return _gains(at, k, along)[0]


@compiled()
def _row_slopes(about: Chart, loadings: Array) -> Array:
    return jax.jacfwd(about.of_loadings)(loadings)


class CodeTest(NamedTuple):
    """A code that means something else at a site: the site's number, its place there, statistic, p-value, Holm's."""

    site: int
    place: int
    statistic: float
    p: float
    p_adjusted: float


def selected_codes(
    joint: Pooled, sites: Sequence[Reduced], among: Mapping[int, np.ndarray], level: float
) -> tuple[list[CodeTest], dict[int, np.ndarray]]:
    """Codes that do not fit in, one after the other, by Holm's steps; and the gains (p_k,) of all others at the end.

    Looked at are those `among` (p_k,), by number of site. One exchanged code turns the common axes and makes others
    look odd, at its own site and elsewhere: the most telling one is set free first.
    """
    q = sites[0].chart.loadings.shape[1]
    found: list[CodeTest] = []
    while True:
        at, free = known_at(joint, sites), np.bincount(joint.here.free_at[:, 0], minlength=len(sites))
        gains = {k: np.where(looked, code_gains(at, k), np.nan) for k, looked in among.items()}
        for test in found:
            gains[test.site][test.place] = np.nan
        for k, each in gains.items():
            if len(each) - free[k] <= q + 1:  # no more of its codes can be free (`free_rows`)
                each[:] = np.nan
        left = sum(int(np.isfinite(each).sum()) for each in gains.values())
        if not left:
            return found, gains
        k = max(gains, key=lambda k: np.max(gains[k], initial=-np.inf, where=np.isfinite(gains[k])))
        j = int(np.nanargmax(gains[k]))
        p = float(chdtrc(q, gains[k][j]))
        if p * left > level:
            return found, gains
        found.append(CodeTest(k, j, float(gains[k][j]), p, min(1.0, p * left)))
        joint = pooled(joint.structure, sites, with_free_row(joint.here, k, int(sites[k].where[j])))


def unrelated(sites: Sequence[Reduced]) -> tuple[float, int]:
    """Log-likelihood of sites that have nothing in common but shared coefficients' names, and their numbers."""
    return sum(site.constant for site in sites), sum(len(site.target) for site in sites)


def common_at(joint: Pooled, k: int) -> np.ndarray:
    """C_k of all codes (p, q + r), those that the site lacks too."""
    here = Common(*map(jnp.asarray, joint.here))
    return np.asarray(loadings_of(joint.structure, here, k))
