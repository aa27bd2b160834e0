"""The joint point of several sites, from their quadratics: generalised least squares over what is common.

Start at `pooled`. With t_k(x) the numbers of the joint point x in the chart of site k, the sites' log-likelihoods add
up to

l(x) = sum_k l_k + g_k't_k(x) - t_k(x)'I_k t_k(x) / 2,

a sum of squares about I_k^-1 g_k, climbed by Levenberg and Marquardt's steps. Coefficients that a site shares with
nobody are linear in it, and are profiled out before (their Schur complement). Cost of a step: K_k^3 a site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, eigh, solve_triangular

from poplin._numerics import compiled, double_precision
from poplin.sites.structures import (
    AbstractCommon,
    Common,
    Steps,
    loadings_of,
    point,
    simultaneous_axes,
    steps_from,
)
from poplin.sites.summaries import Chart, SiteSummary

MOST_STEPS = 200
ENOUGH = 1e-8  # nats that a step gains, below which a climb has ended
NOTHING = 1e-12  # share of the largest information of a direction, below which nothing is known of it
LEAST_UNIT = 1e-6  # of a direction's information, on its own scale
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e-9, 1e9


class Reduced(NamedTuple):
    """A site's quadratic in what it shares with others: coefficients (s p_k), then its chart's numbers of C.

    where: its codes among all codes; shared: its lines of B that are shared; upper (m, m): U'U = S, the information
    with its own coefficients profiled out; target (m,): S^-1 times the score with these profiled out; coefficients
    that are its own follow as own_score, own_factor (of their information) and beside, as `own_coef` takes them.
    constant: the log-likelihood at the quadratic's own maximum, nats.
    """

    rows: int
    chart: Chart
    where: np.ndarray
    shared: np.ndarray
    upper: np.ndarray
    target: np.ndarray
    own_score: np.ndarray
    own_factor: np.ndarray
    beside: np.ndarray
    constant: float

    def own_coef(self, told: np.ndarray) -> np.ndarray:
        """B (d, p_k) where the other numbers are `told` (m,)."""
        d, p = self.chart.coef.shape
        kept = np.setdiff1d(np.arange(d), self.shared)
        coef, split = np.array(self.chart.coef), len(self.shared) * p
        coef[self.shared] += told[:split].reshape(-1, p)
        moved = self._solved(self.own_score - self.beside @ told)
        coef[kept] += moved.reshape(len(kept), p)
        return coef

    def _solved(self, score: np.ndarray) -> np.ndarray:
        back = solve_triangular(self.own_factor, score, trans=1)
        return solve_triangular(self.own_factor, back)

    def coef_covariance(self, told: np.ndarray) -> np.ndarray:
        """Covariance of B's entries (d p_k, d p_k), from that of the other numbers as a root (m, .)."""
        d, p = self.chart.coef.shape
        kept = np.setdiff1d(np.arange(d), self.shared)
        root = np.zeros((d * p, told.shape[1] + len(self.own_factor)))
        root[_lines(self.shared, p), : told.shape[1]] = told[: len(self.shared) * p]
        if len(kept):
            root[_lines(kept, p), : told.shape[1]] = -self._solved(self.beside @ told)
            root[_lines(kept, p), told.shape[1] :] = solve_triangular(
                self.own_factor, np.eye(len(self.own_factor))
            )
        return root @ root.T


def _lines(rows: np.ndarray, p: int) -> np.ndarray:
    """Where the entries of these rows of a (d, p) array lie in it, flat."""
    return (rows[:, None] * p + np.arange(p)).ravel()


def reduced(site: SiteSummary, codes: Sequence[str], share: Sequence[str]) -> Reduced:
    """A site's quadratic with the coefficients that are its own profiled out."""
    place = {code: j for j, code in enumerate(codes)}
    where = np.array([place[code] for code in site.codes])
    (d, p), about = site.coef.shape, site.chart
    shared = np.array([site.covariates.index(name) for name in share], int)
    kept = np.setdiff1d(np.arange(d), shared)
    score, information = in_units_of_coef(site)
    own, rest = _lines(kept, p), np.concatenate([_lines(shared, p), np.arange(d * p, len(score))])
    order, m = np.concatenate([own, rest]), len(own)
    whole = upper_root(information[np.ix_(order, order)])
    factor, across, upper = whole[:m, :m], whole[:m, m:], whole[m:, m:]
    own_score = solve_triangular(factor, score[own], trans=1)
    slope = score[rest] - across.T @ own_score
    target = solve_triangular(upper, solve_triangular(upper, slope, trans=1))
    constant = site.loglik + 0.5 * (own_score @ own_score + slope @ target)
    beside = information[np.ix_(own, rest)]
    return Reduced(site.rows, about, where, shared, upper, target, score[own], factor, beside, constant)


def upper_root(information: np.ndarray) -> np.ndarray:
    """U, upper triangular, U'U = I; what rounding left negative counts as next to nothing known. O(K^3)."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
    unit = information / scale / scale[:, None]
    try:
        return cholesky(unit) * scale
    except LinAlgError:
        values, vectors = eigh(unit)
        root = (vectors * np.sqrt(np.maximum(values, LEAST_UNIT))).T
        return cholesky(root.T @ root) * scale


def in_units_of_coef(site: SiteSummary) -> tuple[np.ndarray, np.ndarray]:
    """Score and information with B itself in the place of E: a line of B moves by E_f R'."""
    d, p = site.coef.shape
    numbers = np.asarray(site.chart.outward.numbers(jnp.eye(p)))
    score, information = site.score.copy(), site.information.copy()
    for f in range(d):
        line = slice(f * p, (f + 1) * p)
        score[line] = numbers @ score[line]
        information[line] = numbers @ information[line]
        information[:, line] = information[:, line] @ numbers.T
    return score, information


class Pooled(NamedTuple):
    """The joint point, and what is known there.

    told: the numbers (m_k,) of each site in its chart; slopes: theirs along the steps (m_k, steps); loglik: the sites'
    quadratics there, nats.
    """

    structure: AbstractCommon
    here: Common
    told: list[np.ndarray]
    slopes: list[np.ndarray]
    loglik: float
    converged: bool

    def root(self, sites: Sequence[Reduced]) -> np.ndarray:
        """Of the covariance of the steps' numbers, (steps, .): directions of which nothing is known are left out."""
        _, curvature = normal(sites, self.told, self.slopes)
        values, vectors = eigh(curvature)
        kept = values > NOTHING * values[-1]
        return vectors[:, kept] / np.sqrt(values[kept])

    def coef(self, site: Reduced, k: int) -> np.ndarray:
        """B_k (d, p_k)."""
        return site.own_coef(self.told[k])

    def loadings(self, site: Reduced, k: int) -> np.ndarray:
        """C_k (p_k, q + r)."""
        return np.asarray(loadings_of(self.structure, self.here, k))[site.where]


def begin(
    structure: AbstractCommon, sites: Sequence[Reduced], *, codes: int, rank: int, remainder: int = 0
) -> Common:
    """First axes: of the mean of the sites' covariances, turned to diagonalise each as far as they can."""
    rows = np.array([float(site.rows) for site in sites])
    each = np.zeros((len(sites), codes, codes))
    there = np.zeros((len(sites), codes))
    for k, site in enumerate(sites):
        each[k][np.ix_(site.where, site.where)] = np.asarray(site.chart.loadings @ site.chart.loadings.T)
        there[k, site.where] = 1
    pairs = np.einsum("k,kj,kl->jl", rows, there, there)
    mean = np.einsum("k,kjl->jl", rows, each) / np.maximum(pairs, 1e-300)
    basis = np.linalg.eigh(mean)[1][:, ::-1][:, :rank]
    # of a site that lacks codes V'Sigma V would be too small: its own rows of V say what w has been
    within = np.stack([_within(basis, site) for site in sites])
    turn = simultaneous_axes(within, rows)
    basis, within = basis @ turn, turn.T @ within @ turn
    own = np.zeros((len(sites), codes, remainder))
    for k, site in enumerate(sites):
        if remainder:
            inside = np.linalg.lstsq(basis[site.where], site.chart.loadings, rcond=None)[0]
            left = site.chart.loadings - basis[site.where] @ inside
            axes, size, _ = np.linalg.svd(left, full_matrices=False)
            own[k][site.where] = (axes * np.maximum(size, 0.1 * size[0]))[:, :remainder]
    first = sites[0]
    coef = np.zeros((len(first.shared), codes))
    weights = np.zeros(codes)
    for site, n in zip(sites, rows, strict=True):
        coef[:, site.where] += n * np.asarray(site.chart.coef)[site.shared]
        weights[site.where] += n
    return point(basis, structure.begin(within), own, coef / np.maximum(weights, 1e-300))


def _within(basis: np.ndarray, site: Reduced) -> np.ndarray:
    latent = np.linalg.lstsq(basis[site.where], site.chart.loadings, rcond=None)[0]
    return latent @ latent.T


class Place(NamedTuple):
    """Where a site's numbers are made: its number, its chart, its codes among all, the shared lines of its B."""

    number: Array
    chart: Chart
    where: Array
    shared: Array


@compiled()
def _numbers_of(structure: AbstractCommon, here: Common, place: Place) -> Array:
    """The numbers (m,) of a joint point in a site's chart."""
    coef = here.coef[:, place.where] - place.chart.coef[place.shared]
    loadings = loadings_of(structure, here, place.number)[place.where]
    return jnp.concatenate([coef.ravel(), place.chart.of_loadings(loadings)])


@compiled()
def _slopes_of(steps: Steps, place: Place) -> Array:
    """Theirs along the steps (m, steps)."""
    told = lambda step: _numbers_of(steps.structure, steps.at(step), place)
    return jax.jacfwd(told)(jnp.zeros(sum(steps.sizes())))


class _Climb:
    """Residuals and slopes of some sites at a point."""

    def __init__(self, structure: AbstractCommon, sites: Sequence[Reduced]) -> None:
        self.structure, self.sites = structure, sites
        self.places = [
            Place(jnp.asarray(k), site.chart, jnp.asarray(site.where), jnp.asarray(site.shared))
            for k, site in enumerate(sites)
        ]

    def told(self, here: Common) -> list[np.ndarray]:
        here = Common(*map(jnp.asarray, here))
        return [np.asarray(_numbers_of(self.structure, here, place)) for place in self.places]

    def slopes(self, here: Common) -> list[np.ndarray]:
        steps = steps_from(self.structure, here)
        return [np.asarray(_slopes_of(steps, place)) for place in self.places]

    def value(self, told: Sequence[np.ndarray]) -> float:
        """The sites' quadratics, nats."""
        found = 0.0
        for site, numbers in zip(self.sites, told, strict=True):
            apart = site.upper @ (numbers - site.target)
            found += site.constant - 0.5 * float(apart @ apart)
        return found if np.isfinite(found) else -np.inf


def pooled(structure: AbstractCommon, sites: Sequence[Reduced], here: Common) -> Pooled:
    """The joint maximum of the sites' quadratics, from a point on."""
    with double_precision():
        climb, damping = _Climb(structure, sites), FIRST_DAMPING
        told, slopes = climb.told(here), climb.slopes(here)
        value, converged = climb.value(told), False
        for _ in range(MOST_STEPS):
            gradient, curvature = normal(sites, told, slopes)
            scale = np.diag(curvature) + 1e-9 * np.max(np.diag(curvature))
            steps, gained = steps_from(structure, here), -np.inf
            while damping < MOST_DAMPING:
                step = cho_solve(cho_factor(curvature + damping * np.diag(scale)), gradient)
                there = steps.moved(steps.shortened(step))
                numbers = climb.told(there)
                gained = climb.value(numbers) - value
                if gained >= 0 and _finite(reached := climb.slopes(there)):
                    break
                gained, damping = -np.inf, damping * 8
            if gained < 0:
                break
            here, told, slopes, value = there, numbers, reached, value + gained
            damping = max(damping / 8, LEAST_DAMPING)
            if gained < ENOUGH:
                converged = True
                break
        return Pooled(structure, here, told, slopes, value, converged)


def _finite(slopes: Sequence[np.ndarray]) -> bool:
    return all(np.isfinite(slope).all() for slope in slopes)


def at_point(structure: AbstractCommon, sites: Sequence[Reduced], here: Common) -> Pooled:
    """What the sites' quadratics say of a point, which is not their maximum."""
    climb = _Climb(structure, sites)
    told = climb.told(here)
    return Pooled(structure, here, told, climb.slopes(here), climb.value(told), False)


def normal(
    sites: Sequence[Reduced], told: Sequence[np.ndarray], slopes: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and curvature of the normal equations."""
    gradient, curvature = 0.0, 0.0
    for site, numbers, slope in zip(sites, told, slopes, strict=True):
        along = site.upper @ slope
        gradient = gradient + along.T @ (site.upper @ (site.target - numbers))
        curvature = curvature + along.T @ along
    return np.asarray(gradient), np.asarray(curvature)
