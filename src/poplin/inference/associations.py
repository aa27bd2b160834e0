"""Do columns go together as a structured Sigma says? A test of the correlations that a rank or a shape leaves out.

Start at `associations`. Of each count r = E[Phi^-1(U) | y], U uniform over its place in its fitted law: mean zero
where the law holds. The sums over rows of r_j r_k, less what tables drawn from the fit have, move with the parameters
along

    a_j a_k dSigma_jk / (s_j s_k)   and   the columns' scales,

a_j how well counts show Z (from the draws). What is left across these directions does not feel to first order how
Sigma was estimated. A full Sigma can move in all of them: of it there is nothing to test. Reference and size as in
`departures.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from poplin.inference import margins
from poplin.inference.departures import LEVEL, Looked, ranks, resampled, tail
from poplin.inference.summary import Fitted

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
    random = np.random.default_rng([seed, 9])
    upper = np.triu_indices(at.there.shape[1], 1)
    one, many = (margins.normal_scores(part) * at.there for part in (at.data, at.drawn))
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
    shown = np.mean(margins.normal_scores(at.drawn) * at.latent * at.there, axis=(0, 1))
    sigma = fit.covariance_[np.ix_(at.seen.columns, at.seen.columns)]
    deviation = np.sqrt(np.maximum(np.diag(sigma), margins.LEAST))
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
