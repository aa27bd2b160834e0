"""Standard errors a few columns at a time, for models whose whole information matrix is too large to be formed.

Start at `parts`. Two ways, by the form of Sigma.

Direct forms: columns A of the table follow a Poisson-lognormal model of their own, with B_A and Sigma_AA. Its
information is that of the table without the other columns, so its standard errors are never too small, and were Z
seen, they would be the same: estimates of B_A and Sigma_AA would not use the other columns. Counts use them only
to weigh rows. A part is therefore a sub-table: a core, whose numbers are wanted, and the columns that tell most of
the core's Z.

Factor forms: the other columns are what tells w, and stay. What is free is every number of the core, and of the
others only the map w -> E w + D'x that they could follow together (`part_view`): E lower triangular, for a rotation of
all is none of Sigma. Uncertainty of each of them alone hardly moves w where there are many, and is left out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from poplin.inference.coordinates import Coordinates

Wanted = tuple[int, int]  # a pair of columns that have to be in one core; (j, j) for column j alone


class Part(NamedTuple):
    """Columns of a part, the core first, and how many are its core."""

    columns: np.ndarray
    core: int


def telling(covariance: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """How much of Z_j is known from the counts of column k, (p, p): r_jk^2 E[t_k / (1 + t_k)].

    t_k = Sigma_kk rate_k e^(Z_k - E Z_k), with `rate` (p,) where Z is at its mean: a large variance alone, which makes
    the mean rate large by rows that are rare, tells nothing of the others.
    """
    variance = np.maximum(np.diag(covariance), 1e-300)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    log_signal = np.log(variance * np.maximum(rate, 1e-300)) + nodes[:, None] * np.sqrt(variance)
    known = weights / weights.sum() @ expit(log_signal)
    return covariance**2 / variance[:, None] / variance * known


def parts(wanted: Sequence[Wanted], telling: np.ndarray, *, core: int, size: int) -> list[Part]:
    """Parts of `size` columns whose cores hold every wanted pair; a core has at most `core` columns.

    Greedy: the first pair that is left, then whichever is nearest. Cost: number of parts x core x pairs.
    """
    left = np.array(sorted({(min(pair), max(pair)) for pair in wanted})).reshape(-1, 2)
    made = []
    while len(left):
        chosen = list(dict.fromkeys(left[0].tolist()))
        left = left[1:]
        while len(left):
            near = telling[chosen].max(axis=0)
            near[chosen] = np.inf
            inside = np.isin(left, chosen)
            new = 2 - inside.sum(axis=1) - (~inside[:, 0] & (left[:, 0] == left[:, 1]))
            score = np.where(len(chosen) + new <= core, near[left].min(axis=1), -1.0)
            best = int(np.argmax(score))
            if score[best] < 0:
                break
            chosen += [int(j) for j in dict.fromkeys(left[best].tolist()) if j not in chosen]
            left = left[~np.isin(left, chosen).all(axis=1)]
        made.append(_filled(chosen, telling, size))
    return made


def _filled(chosen: list[int], telling: np.ndarray, size: int) -> Part:
    """The core with the columns that tell most of any of its own, up to `size`."""
    near = telling[chosen].max(axis=0)
    near[chosen] = -np.inf
    order = np.argsort(-near, kind="stable")[: max(0, min(size, len(near)) - len(chosen))]
    return Part(np.array([*chosen, *order]), len(chosen))


def inverse_of_outward(here: Coordinates) -> np.ndarray:
    """R^-1 (p, p), by which changes of columns become numbers; O(p^3), once."""
    return np.linalg.pinv(np.asarray(here.outward))


def part_view(here: Coordinates, inverse: np.ndarray, columns: np.ndarray) -> Coordinates:
    """The numbers of these columns (d c of B, q c of C, each by feature) and of the frame of all others.

    With C <- C + (R F)', F = R^-1 dC'; pairs keep one triangle of F between latents, onto which the other is folded.
    """
    d, p = here.model.coef.shape
    loadings = np.asarray(here.model.loadings)
    q, rest = loadings.shape[1], np.setdiff1d(np.arange(p), columns)
    alone, frame = inverse[:, columns], inverse[:, rest] @ loadings[rest]  # (p, c), (p, q)
    made = [_of_feature(here, a, alone) for a in range(d + q)]
    made += [_of_feature(here, a, frame) for a in range(d)]
    made += [_of_feature(here, d + a, frame[:, : a + 1]) for a in range(q)]
    tie = jnp.asarray(np.concatenate(made, axis=1))
    return eqx.tree_at(lambda one: one.tie, here, tie, is_leaf=lambda one: one is None)


def _of_feature(here: Coordinates, feature: int, along: np.ndarray) -> np.ndarray:
    """Numbers (pairs, m) of changes R along (p, m) of one feature's coefficients."""
    features, columns = (np.asarray(a) for a in here.pairs)
    d = here.model.coef.shape[0]
    numbers = np.zeros((len(features), along.shape[1]))
    own = features == feature
    numbers[own] = along[columns[own]]
    if feature >= d:
        folded = (columns == feature - d) & (features >= d) & (features < feature)
        numbers[folded] += along[features[folded] - d]
    return numbers


def view_deviations(
    here: Coordinates, columns: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Changes of a core's B (m, d, c) and Sigma (m, c, c) along columns of numbers (K, m), as `part_view` has them."""
    d, c = here.model.coef.shape[0], len(columns)
    own = np.asarray(here.model.loadings)[columns]
    coef = numbers[: d * c].T.reshape(-1, d, c)
    moved = numbers[d * c : (d + own.shape[1]) * c].T.reshape(-1, own.shape[1], c)
    half = own @ moved
    return coef, half + np.swapaxes(half, 1, 2)
