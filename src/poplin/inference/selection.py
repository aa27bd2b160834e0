"""Choosing between models by what they say of rows: free parameters, criteria, paired differences, a short search.

Start at `difference` and `simplest`. Nothing is fitted here: scores of rows come in, a choice goes out. Held-out
log-likelihoods are nats, higher is better; `aic`, `bic` and `icl` are deviances, lower is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from poplin.models.loadings import BorrowedBasis, FreeLoadings, FrozenLoadings
from poplin.updates.covariance import Diagonal, Fixed, Full, Spherical

# What is free in Sigma, for p columns and q latent dimensions; a rotation of free loadings changes nothing.
_FREE: dict[type, Callable[[int, int], int]] = {
    Full: lambda p, q: p * (p + 1) // 2,
    Diagonal: lambda p, q: p,
    Spherical: lambda p, q: 1,
    Fixed: lambda p, q: 0,
    FreeLoadings: lambda p, q: p * q - q * (q - 1) // 2,
    BorrowedBasis: lambda p, q: q,
    FrozenLoadings: lambda p, q: 0,
}

NEGLIGIBLE = 0.01  # of the first eigenvalue: what differs by less has no gap between


def free_parameters(form: Any, *, d: int, p: int, q: int) -> int:
    """Free parameters of a model: d p of B, and those of Sigma (p x p, rank q) in the shape or loadings `form`.

    Full p (p + 1) / 2, diagonal p, spherical 1, fixed 0, free loadings p q - q (q - 1) / 2 (a rotation of C is
    not free in Sigma = C C'), borrowed basis q. Shrinkage is not counted: it takes away less than one knows.

    >>> free_parameters(FreeLoadings(), d=1, p=50, q=12)
    584
    """
    return d * p + _FREE[type(form)](p, q)


def aic(loglik: float, parameters: int) -> float:
    """Akaike's criterion -2 log p(Y) + 2 K, lower is better (Akaike 1974)."""
    return 2 * (parameters - loglik)


def bic(loglik: float, parameters: int, *, rows: float) -> float:
    """Schwarz's criterion -2 log p(Y) + K log n, lower is better (Schwarz 1978)."""
    return parameters * math.log(rows) - 2 * loglik


def icl(loglik: float, parameters: int, *, rows: float, entropy: float) -> float:
    """Integrated completed likelihood BIC + 2 H, lower is better (Biernacki, Celeux & Govaert 2000).

    H is the entropy of the rows' positions w given their counts, in nats: a model pays for positions that
    the counts leave open. w ~ N(0, I) before the counts are seen, whatever the form, so that forms compare.
    """
    return bic(loglik, parameters, rows=rows) + 2 * entropy


class Difference(NamedTuple):
    """A sum over rows of differences between two models, and its standard error, in nats."""

    value: float
    standard_error: float


def difference(scores: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> Difference:
    """Sum of w_i (scores_i - reference_i) over rows, and sqrt(n) times the standard deviation of its terms.

    Both models score the same rows, so what makes a row hard for both cancels. Rows of weight zero are left
    out.
    """
    used = weights > 0
    each = weights[used] * (scores[used] - reference[used])
    spread = each.std(ddof=1) if len(each) > 1 else math.inf
    return Difference(float(each.sum()), float(math.sqrt(len(each)) * spread))


def simplest(scores: Sequence[np.ndarray], parameters: Sequence[int], weights: np.ndarray) -> int:
    """The one-standard-error rule: the place in the list of the simplest model that is as good as the best.

    As good is who falls short by at most one standard error of the paired difference; simplest is who has the
    fewest free parameters.
    """
    best = max(range(len(scores)), key=lambda k: float(weights @ scores[k]))
    near = [k for k in range(len(scores)) if within_one_error(scores[k], scores[best], weights)]
    return min([*near, best], key=lambda k: parameters[k])


def within_one_error(scores: np.ndarray, best: np.ndarray, weights: np.ndarray) -> bool:
    """Whether a model falls short of the best by at most one standard error of the difference."""
    gap = difference(scores, best, weights)
    return -gap.value <= gap.standard_error


def peak(value: Callable[[int], float], start: int, *, low: int, high: int) -> int:
    """Where a function of whole numbers with a single peak is largest on [low, high], in few looks.

    From `start` upward in strides that double; once it falls, the bracket is halved. Looks: 3 if `start` is
    the peak, at most about 3 log2 |peak - start| + 4 otherwise. Nothing is looked at twice.
    """
    seen: dict[int, float] = {}

    def look(k: int) -> float:
        if k < low or k > high:
            return -math.inf
        if k not in seen:
            seen[k] = value(k)
        return seen[k]

    here = min(max(start, low), high)
    side = next((s for s in (1, -1) if look(here + s) > look(here)), 0)
    if side == 0:
        return here
    behind, here, stride = here, here + side, 2
    while look(ahead := min(max(here + side * stride, low - 1), high + 1)) > look(here):
        behind, here, stride = here, ahead, 2 * stride
    return _narrowed(look, behind, here, ahead)


def _narrowed(look: Callable[[int], float], behind: int, here: int, ahead: int) -> int:
    """The peak between `behind` and `ahead`, where `here` is no lower than both."""
    while max(abs(here - behind), abs(ahead - here)) > 1:
        longer_ahead = abs(ahead - here) >= abs(here - behind)
        far = ahead if longer_ahead else behind
        probe = here + (far - here) // 2 if far > here else here - (here - far) // 2
        if look(probe) > look(here):
            behind, ahead = (here, ahead) if longer_ahead else (here, behind)
            here = probe
        elif longer_ahead:
            ahead = probe
        else:
            behind = probe
    return here


def fold_labels(rows: np.ndarray, folds: int, *, seed: int) -> np.ndarray:
    """A fold 0..folds-1 for each row in use (`rows`, boolean (n,)), -1 for others: equal sizes, at random."""
    labels = np.full(len(rows), -1)
    used = np.flatnonzero(rows)
    labels[np.random.default_rng(seed).permutation(used)] = np.arange(len(used)) % folds
    return labels


def dimensions(covariance: np.ndarray, noise: np.ndarray, *, rows: float) -> int:
    """A first guess of the rank: eigenvalues that stand out from the counts' own noise.

    `covariance` (p, p): of the residuals of log(y + 1/2); `noise` (p,): the part of its diagonal that is
    Poisson. Of rows without a latent position the largest eigenvalue of the rest would be about mean(noise)
    (2 r + r^2), r = sqrt(p / n) (Marchenko & Pastur 1967). At least one. Only where a search begins: cost p^3.
    """
    ratio = math.sqrt(len(noise) / rows)
    edge = float(np.mean(noise)) * (2 * ratio + ratio**2)
    return max(1, int(np.sum(np.linalg.eigvalsh(covariance - np.diag(noise)) > edge)))


def widest_gap(eigenvalues: np.ndarray) -> int:
    """The number of eigenvalues (descending) before the largest ratio of one to the next.

    With a share of the first added to each: those that are nothing but noise may differ by any factor.
    """
    if len(eigenvalues) < 2:
        return len(eigenvalues)
    values = eigenvalues + NEGLIGIBLE * eigenvalues[0]
    return int(np.argmax(values[:-1] / values[1:])) + 1
