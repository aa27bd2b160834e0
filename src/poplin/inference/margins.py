"""The law of one count under a fitted model: where it lies in it, and the slopes of its log probability.

Start at `placed`; `marginal_cdf` is for the Poisson-lognormal alone. Y has the fitted law given T, T ~ N(center,
variance) its log rate. All by quadrature, entry by entry, in NumPy. Other laws of the counts than Poisson's are asked
(`laws.py`); of Poisson's there are closed forms, which are quicker and more exact.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from poplin.data.counts import Counts
from poplin.inference.summary import Fitted
from poplin.models.draws import draw_counts

if TYPE_CHECKING:  # it brings JAX
    from poplin.laws import AbstractLaw

NODES = 201  # of the trapezoidal rule for distribution functions
FEW_NODES = 61  # where an error of 1e-5 is nothing
BATCH = 4096  # counts at a time
POINTS = 20  # of the Gauss-Hermite rule about the mode
CLIMBS = 40  # Newton steps at most to a count's mode
LEAST = 1e-10  # a variance below is taken for that


class Placed(NamedTuple):
    """Of each count (m,): P(Y < y), P(Y <= y), and the slopes of log P(Y = y) in the center and in log sd.

    own (m, k): the slopes in the law's own parameters, in the order of its arrays.
    """

    below: np.ndarray
    upto: np.ndarray
    by_center: np.ndarray
    by_log_sd: np.ndarray
    own: np.ndarray


def marginal_cdf(
    y: np.ndarray, center: np.ndarray, variance: np.ndarray, *, nodes: int = NODES
) -> np.ndarray:
    """P(Y <= y) for Y ~ Poisson(exp(center + sqrt(variance) z)), z standard normal, by quadrature; all (m,).

    Two forms of one integral: over z of the Poisson's distribution function, which is smooth where the variance is
    small against that of the count, and else over t of P(center + sqrt(variance) z < t) with exp(t) ~ Gamma(y + 1).
    """
    y, center, variance = np.broadcast_arrays(*(np.asarray(a, float) for a in (y, center, variance)))
    found = np.zeros(y.shape)
    inside = y >= 0
    narrow = inside & (variance * (y + 1) <= 1)
    wide = inside & ~narrow
    found[narrow] = _over_normal(y[narrow], center[narrow], variance[narrow], nodes)
    found[wide] = _over_gamma(y[wide], center[wide], variance[wide], nodes)
    return np.clip(found, 0.0, 1.0)


def _over_normal(y: np.ndarray, center: np.ndarray, variance: np.ndarray, nodes: int) -> np.ndarray:
    from scipy.special import pdtr

    z, step = np.linspace(-9, 9, 1 + 3 * nodes // 5, retstep=True)
    weight = np.exp(-(z**2) / 2) * step / np.sqrt(2 * np.pi)
    rate = np.exp(np.minimum(center[:, None] + np.sqrt(variance)[:, None] * z, 700.0))
    return pdtr(y[:, None], rate) @ weight


def _over_gamma(y: np.ndarray, center: np.ndarray, variance: np.ndarray, nodes: int) -> np.ndarray:
    from scipy.special import gammaln, ndtr

    each, place = np.unique(y, return_inverse=True)  # the density is the count's own, whatever the law
    shape = (each + 1)[:, None]
    spread = 1 / np.sqrt(shape)
    low, high = np.log(shape) - 9 * spread - 36 / shape, np.log(shape) + 9 * spread
    t = low + (high - low) * np.linspace(0, 1, nodes)
    density = np.exp(shape * t - np.exp(t) - gammaln(shape)) * ((high - low) / (nodes - 1))
    found, scale = np.empty(y.shape), 1 / np.sqrt(variance)
    for first in range(0, len(y), BATCH):
        some = slice(first, first + BATCH)
        share = ndtr((t[place[some]] - center[some, None]) * scale[some, None])
        found[some] = np.einsum("mk,mk->m", density[place[some]], share)
    return found


def placed(y: np.ndarray, center: np.ndarray, variance: np.ndarray, law: AbstractLaw | None = None) -> Placed:
    """Where counts lie in their law, and the scores of its parameters: of the center c and the log of sd s.

    `law` is that of the cells, arrays (m,); None: Poisson's.

    By Fisher's identity d log P / dc = E[T - c | y] / s^2 and d log P / d log s = E[(T - c)^2 | y] / s^2 - 1, with T
    | y by Gauss-Hermite about its mode. Cost: some 150 exponentials a count.
    """
    from scipy.special import gammaln

    y, center, variance = np.broadcast_arrays(*(np.asarray(a, float) for a in (y, center, variance)))
    variance = np.maximum(variance, LEAST)
    if law is not None:
        return _placed_under(law, y, center, variance)
    mode = _modes(y, center, variance)
    width = 1 / np.sqrt(np.exp(mode) + 1 / variance)
    x, weight = np.polynomial.hermite_e.hermegauss(POINTS)
    t = mode[:, None] + width[:, None] * x
    away = t - center[:, None]
    log_value = y[:, None] * t - np.exp(t) - away**2 / (2 * variance[:, None]) + x**2 / 2
    top = log_value.max(axis=1)
    value = np.exp(log_value - top[:, None]) * weight
    total = value.sum(axis=1)
    log_mass = top + np.log(total * width / np.sqrt(2 * np.pi * variance)) - gammaln(y + 1)
    by_center = (value * away).sum(axis=1) / total / variance
    by_log_sd = (value * away**2).sum(axis=1) / total / variance - 1
    mass = np.exp(log_mass)
    upto = np.where(y > 0, marginal_cdf(y, center, variance, nodes=FEW_NODES), np.minimum(mass, 1.0))
    below = np.where(y > 0, np.maximum(upto - mass, 0.0), 0.0)
    return Placed(below, upto, by_center, by_log_sd, np.empty((len(y), 0)))


def _modes(y: np.ndarray, center: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The largest y t - e^t - (t - c)^2 / (2 v): Newton from the right, where the slope is concave and falls.

    The mode is below the larger of c and log y, and below c + v y.
    """
    with np.errstate(divide="ignore"):
        t = np.minimum(np.maximum(center, np.log(y)), center + variance * y)
    t = np.minimum(t, 700.0)
    for _ in range(CLIMBS):
        rate = np.exp(t)
        step = (y - rate - (t - center) / variance) / (rate + 1 / variance)
        t = t + step
        if np.all(np.abs(step) <= 1e-9 * (1 + np.abs(t))):
            break
    return t


def normal_scores(found: Placed) -> np.ndarray:
    """E[Phi^-1(U) | y], U uniform between P(Y < y) and P(Y <= y): of mean zero where the law holds, whatever it is."""
    from scipy.special import ndtri

    low, high = found.below, np.maximum(found.upto, found.below)
    mass = high - low
    density = [np.exp(-0.5 * np.clip(ndtri(a), -38, 38) ** 2) / np.sqrt(2 * np.pi) for a in (low, high)]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (density[0] - density[1]) / mass
    middle = ndtri(np.clip(0.5 * (low + high), 1e-300, 1 - 1e-16))
    return np.where(mass > 1e-9, mean, middle)


# The same under any law of the counts.
#
# Start at `_placed_under`. Edges of intervals of z, (T - center) / sd, are even ones and others that are dense about
# where the count's likelihood is; an interval has its normal mass, and the law is taken at its middle.

EDGES, NEARBY = 34, 28
FURTHEST, NEAR = 6.5, 6.0  # of even edges in sds of T; of those nearby in widths of the count's likelihood
CELLS = 8192  # at a time: one program serves all


def cells(fit: Fitted, rows: np.ndarray, columns: np.ndarray) -> AbstractLaw | None:
    """The law of these rows and columns under a fit, arrays (n, m); None where it is Poisson's."""
    return cells_of(getattr(fit, "law_", None), fit.counts_, rows, columns)


def cells_of(law: Any, counts: Counts, rows: np.ndarray, columns: np.ndarray) -> AbstractLaw | None:
    """The law with the parameters of a model as that of some cells of a table."""
    if law is None or law.is_plain():
        return None
    from poplin.laws import of_cells

    return of_cells(law, None if counts.zeros is None else counts.zeros.x[rows], len(rows), columns)


def sampled(law: AbstractLaw | None, random: np.random.Generator, log_rate: np.ndarray) -> np.ndarray:
    """Counts drawn given their log rates (..., n, m); `law` is that of the cells, None: Poisson's."""
    return draw_counts(random, log_rate) if law is None else law.sample(random, log_rate, draw_counts)


def marginal_means(law: AbstractLaw, center: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """E[Y] of cells (m,)."""
    import jax.numpy as jnp

    from poplin._numerics import double_precision

    with double_precision():
        return np.asarray(law.marginal_mean(*map(jnp.asarray, (center, variance))))


def log_masses(law: AbstractLaw, y: np.ndarray, center: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Log P(Y = y) of cells (m,), by as fine a grid as likelihoods need."""
    from poplin._numerics import double_precision

    with double_precision():
        variance = np.maximum(variance, LEAST)
        parts = _in_batches(law, y, center, np.sqrt(variance), lambda *here: (_mass_of_cells(*here),))
    return np.log(np.maximum(parts[0], 1e-300))


FINE = 8  # times as many edges for likelihoods


def _mass_of_cells(law: AbstractLaw, y: np.ndarray, center: np.ndarray, sd: np.ndarray) -> np.ndarray:
    z, square, mass = _grid(law, y, center, sd, FINE)
    return np.asarray(_programs()[1](law, center + sd * z, y, z, square, mass)[0])


def _placed_under(law: AbstractLaw, y: np.ndarray, center: np.ndarray, variance: np.ndarray) -> Placed:
    """Cost: some 60 probabilities and distribution functions a count."""
    from poplin._numerics import double_precision

    with double_precision():
        return Placed(*_in_batches(law, y, center, np.sqrt(variance), _of_cells))


def _in_batches(
    law: AbstractLaw, y: np.ndarray, center: np.ndarray, sd: np.ndarray, ask: Callable[..., Any]
) -> list[np.ndarray]:
    """What is asked of cells (m,), as many at a time: one program serves all."""
    parts = []
    for first in range(0, len(y), CELLS):
        some = np.minimum(np.arange(first, first + CELLS), len(y) - 1)
        here = law.over(lambda a, some=some: a[some][:, None])
        told = ask(here, *(a[some][:, None] for a in (y, center, sd)))
        parts.append([part[: len(y) - first] for part in told])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _grid(law: AbstractLaw, y: np.ndarray, center: np.ndarray, sd: np.ndarray, fine: int = 1) -> Any:
    """Means of z and of z^2 in intervals of z, and their normal masses, (m, k) each."""
    from scipy.special import ndtr

    at, width = (np.asarray(a) for a in _programs()[0](law, y))
    nearby = (at + NEAR * width * np.linspace(-1, 1, fine * NEARBY) - center) / sd
    even = np.broadcast_to(np.linspace(-FURTHEST, FURTHEST, fine * EDGES), (len(y), fine * EDGES))
    edges = np.sort(np.concatenate([even, np.clip(nearby, -FURTHEST, FURTHEST)], axis=1), axis=1)
    mass, middle = np.diff(ndtr(edges), axis=1), 0.5 * (edges[:, 1:] + edges[:, :-1])
    density = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi)
    some = mass > 1e-14  # elsewhere differences are noise
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(some, -np.diff(density, axis=1) / mass, middle)
        square = np.where(some, 1 - np.diff(edges * density, axis=1) / mass, middle**2)
    return z, square, mass


def _of_cells(law: AbstractLaw, y: np.ndarray, center: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, ...]:
    """`Placed` of some cells (m, 1)."""
    z, square, mass = _grid(law, y, center, sd)
    eta = center + sd * z
    total, by_z, by_square, own = (np.asarray(a) for a in _programs()[1](law, eta, y, z, square, mass))
    plain = y[:, 0]
    upto = np.clip(np.sum(mass * law.cdf(eta, y), axis=1), 0, 1)
    upto = np.where(plain > 0, upto, np.minimum(total, 1.0))
    below = np.where(plain > 0, np.maximum(upto - total, 0.0), 0.0)
    return below, upto, by_z / sd[:, 0], by_square, own


@cache
def _programs() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Where the likelihood of a count is as a function of its log rate, and how wide; what its slopes are."""
    import jax
    import jax.numpy as jnp
    from jax.scipy.special import gammaln

    from poplin._numerics import compiled

    @compiled()
    def whereabouts(law: AbstractLaw, y: Any) -> Any:
        at = jnp.log(y + 0.5)
        return at, 1 / jnp.sqrt(jnp.maximum(law.curvature(law.rate(at, y), y), 1e-2))

    @compiled()
    def slopes(law: AbstractLaw, eta: Any, y: Any, z: Any, square: Any, mass: Any) -> Any:
        """P(Y = y), and the means given y of z, of z^2 - 1 and of the law's own scores (m, k)."""
        share = mass * jnp.exp(law.log_prob(eta, y) - gammaln(y + 1))
        total = jnp.sum(share, axis=1)
        given = share / jnp.maximum(total, 1e-300)[:, None]
        own = [jnp.sum(given * slope, axis=1) for slope in jax.tree.leaves(law.scores(eta, y))]
        stacked = jnp.stack(own, axis=1) if own else jnp.zeros((len(y), 0))
        return total, jnp.sum(given * z, axis=1), jnp.sum(given * square, axis=1) - 1, stacked

    return whereabouts, slopes
