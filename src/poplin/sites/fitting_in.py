"""Does a site fit in? Leave-one-out tests of sites, forward selection of codes that mean something else at a site.

Start at `site_test` and `code_gains`. All follow from the sites' quadratics: at a joint point they are score tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.linalg import cho_factor, cho_solve, subspace_angles
from scipy.special import chdtrc

from poplin._numerics import compiled
from poplin.sites.pooling import Pooled, Reduced, in_units_of_coef, normal, pooled
from poplin.sites.structures import Common, loadings_of, steps_from, with_free_row
from poplin.sites.summaries import Chart, SiteSummary

RIDGE = 1e-10  # share of the largest information, added where nothing is known
TOLD = 1e-9  # share of a row's largest information below which a direction is not told


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


class SiteTest(NamedTuple):
    """A site against all others.

    statistic, df, p: twice what the joint maximum loses by the site's being in it, chi-squared; loss: nats a row;
    angle: the widest between the site's own span and the common one, degrees.
    """

    statistic: float
    df: int
    p: float
    loss: float
    angle: float


def site_test(joint: Pooled, sites: Sequence[Reduced], k: int) -> SiteTest:
    """Whether site k has the others' axes: l(others) + l(k alone) - l(all), twice.

    Degrees of freedom: the numbers of the site's own chart, less those that the joint model has for it alone.
    """
    kept = [i for i in range(len(sites)) if i != k]
    others = pooled(joint.structure, sites, joint.here, at=kept)
    statistic = 2 * (others.loglik + sites[k].constant - joint.loglik)
    steps = steps_from(joint.structure, joint.here)
    r = joint.here.own.shape[2]
    own = len(steps.of_site(k)) - r * (r - 1) // 2
    lacking = _only_there(sites, k) * joint.here.basis.shape[1]
    df = len(sites[k].target) - own - lacking
    statistic = max(statistic, 0.0)
    numbers = sites[k].target[len(sites[k].shared) * len(sites[k].where) :]
    angle = widest_angle(np.asarray(joint.here.basis)[sites[k].where], sites[k].chart.loadings_at(numbers))
    return SiteTest(statistic, df, float(chdtrc(df, statistic)), 0.5 * statistic / sites[k].rows, angle)


def _only_there(sites: Sequence[Reduced], k: int) -> int:
    """How many codes no other site has."""
    others = set().union(*(site.where.tolist() for i, site in enumerate(sites) if i != k))
    return sum(j not in others for j in sites[k].where.tolist())


def widest_angle(basis: np.ndarray, loadings: np.ndarray) -> float:
    """The widest principal angle between V's span and the nearest directions of C's, degrees."""
    return float(np.rad2deg(np.max(subspace_angles(basis, loadings))))


def code_gains(joint: Pooled, sites: Sequence[Reduced], k: int) -> np.ndarray:
    """For each code of site k: what its row of C_k's being its own would gain, twice, by the score (p_k,).

    With z_j (q,) added to row j: u_j'(H_jj - H_j. H^-1 H_.j)^-1 u_j, u_j the slope in z_j, H the information of it and
    of the steps at the joint maximum.
    """
    site, here = sites[k], jnp.asarray(joint.loadings(sites[k], k))
    rows, q = here.shape
    along = np.zeros((len(site.target), rows, q))
    along[len(site.shared) * rows :] = _row_slopes(site.chart, here)
    moved = np.einsum("ab,bjq->ajq", site.upper, along)
    apart = site.upper @ (site.target - joint.told[k])
    _, curvature = normal(sites, joint.told, joint.slopes)
    factor = cho_factor(curvature + RIDGE * np.max(np.diag(curvature)) * np.eye(len(curvature)))
    slopes, found = site.upper @ joint.slopes[k], np.empty(rows)
    for j in range(rows):
        own = moved[:, j]
        across = slopes.T @ own
        left = own.T @ own - across.T @ cho_solve(factor, across)
        values, vectors = np.linalg.eigh(left)
        told = values > TOLD * values[-1]
        found[j] = np.sum((vectors.T @ (own.T @ apart))[told] ** 2 / values[told])
    return found


@compiled()
def _row_slopes(about: Chart, loadings: Array) -> Array:
    return jax.jacfwd(about.of_loadings)(loadings)


class CodeTest(NamedTuple):
    """A code that means something else at a site: its place, statistic, p-value and that of Holm's step."""

    place: int
    statistic: float
    p: float
    p_adjusted: float


def selected_codes(
    joint: Pooled, sites: Sequence[Reduced], k: int, level: float, among: np.ndarray
) -> tuple[list[CodeTest], np.ndarray]:
    """Codes of site k that do not fit in, one after the other, by Holm's steps; and the gains of all others at the end.

    Looked at are those `among` (p_k,). One exchanged code turns the site's axes and makes others look odd: the most
    telling one is set free first.
    """
    q, codes = sites[k].chart.loadings.shape[1], sites[k].where
    found: list[CodeTest] = []
    while True:
        gains = code_gains(joint, sites, k)
        gains[[test.place for test in found]], gains[~among] = np.nan, np.nan
        left = int(np.isfinite(gains).sum())
        if not left or len(codes) - len(found) <= q:
            return found, gains
        j = int(np.nanargmax(gains))
        p = float(chdtrc(q, gains[j]))
        if p * left > level:
            return found, gains
        found.append(CodeTest(j, float(gains[j]), p, min(1.0, p * left)))
        joint = pooled(joint.structure, sites, with_free_row(joint.here, k, int(codes[j])))


def unrelated(sites: Sequence[Reduced]) -> tuple[float, int]:
    """Log-likelihood of sites that have nothing in common but shared coefficients' names, and their numbers."""
    return sum(site.constant for site in sites), sum(len(site.target) for site in sites)


def common_at(joint: Pooled, k: int) -> np.ndarray:
    """C_k of all codes (p, q + r), those that the site lacks too."""
    here = Common(*map(jnp.asarray, joint.here))
    return np.asarray(loadings_of(joint.structure, here, k))
