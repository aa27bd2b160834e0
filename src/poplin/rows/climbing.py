"""A few free steps of each row's diagonal Gaussian from wherever it is: what makes an encoder's answer semi-amortised.

Start at `climb`. For full Gaussians the steps are those of `gaussian.advance_rows`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from poplin._axes import Counts, Latent, Loadings, Rows
from poplin._compile import compiled
from poplin.rows.batches import all_pairs, in_chunks, inverses, precisions
from poplin.rows.plane import rates

LENGTHS = (1.0, 0.5, 0.25, 0.0625)  # of a step; the best of them is taken, or none
LONGEST = 1.0  # change of a log standard deviation in one step


class Law(NamedTuple):
    """Log rates base + D u, u ~ N(centre, precision^-1): D (p, k), precision (k, k)."""

    outward: Loadings
    precision: Array


class Seen(NamedTuple):
    """Rows: counts and base (n, p), and the means of their latents' law (n, k)."""

    y: Counts
    base: Counts
    centre: Latent


@compiled(static_argnames="steps")
def climb(law: Law, rows: Seen, mean: Latent, log_sd: Latent, *, steps: int) -> tuple[Latent, Latent]:
    """Mean and log standard deviations (n, k) after so many steps; no row's bound falls.

    A step is Newton's for the mean and the fixed point s_k^-2 = P_kk + sum_j A_j D_jk^2 for the variances, both as far
    as the row's bound rises most. Cost of a step: n (p k^2 + k^3 + 5 p k).
    """
    pairs = all_pairs(law.outward)

    def of_chunk(chunk):
        rows, mean, log_sd = chunk

        def step(_, place):
            moved = _directions(law, rows, place, pairs)
            best, value = place, _bound(law, rows, *place)
            for length in LENGTHS:
                trial = tuple(a + length * b for a, b in zip(place, moved, strict=True))
                found = _bound(law, rows, *trial)
                better = (found > value)[:, None]
                best = tuple(jnp.where(better, a, b) for a, b in zip(trial, best, strict=True))
                value = jnp.where(better[:, 0], found, value)
            return best

        return lax.fori_loop(0, steps, step, (mean, log_sd))

    return in_chunks(of_chunk, (rows, mean, log_sd), law.outward)


def _directions(
    law: Law, rows: Seen, place: tuple[Latent, Latent], pairs: Array | None
) -> tuple[Latent, Latent]:
    mean, log_sd = place
    rate = _rate(law, rows, mean, log_sd)
    extra = law.precision - jnp.eye(len(law.precision), dtype=mean.dtype)
    covariance, _ = inverses(precisions(rate, law.outward, pairs) + extra)
    gradient = (rows.y - rate) @ law.outward - (mean - rows.centre) @ law.precision
    for_mean = jnp.einsum("nkl,nl->nk", covariance, gradient)
    target = -0.5 * jnp.log(jnp.diagonal(law.precision) + rate @ law.outward**2)
    for_log_sd = jnp.clip(target - log_sd, -LONGEST, LONGEST)
    return jnp.nan_to_num(for_mean), for_log_sd


def _rate(law: Law, rows: Seen, mean: Latent, log_sd: Latent) -> Counts:
    spread = jnp.exp(2 * log_sd) @ (law.outward**2).T
    return rates(rows.base + mean @ law.outward.T + 0.5 * spread)


def _bound(law: Law, rows: Seen, mean: Latent, log_sd: Latent) -> Rows:
    """Each row's bound but for what no step changes."""
    counts = jnp.sum(rows.y * (mean @ law.outward.T) - _rate(law, rows, mean, log_sd), axis=1)
    away = mean - rows.centre
    quadratic = jnp.sum((away @ law.precision) * away, axis=1)
    trace = jnp.exp(2 * log_sd) @ jnp.diagonal(law.precision)
    return counts - 0.5 * (quadratic + trace) + jnp.sum(log_sd, axis=1)
