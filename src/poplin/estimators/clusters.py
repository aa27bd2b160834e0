"""Where clusters begin: a label for every row from its latent position, without any label from elsewhere.

Start at `STARTS`. k-means looks for round groups of one size; a graph of neighbours follows groups of any shape,
and cuts where few rows are near each other. `fitted_mixture` is the start of a normal mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from poplin.models.networks import Mixture

SMALLEST_VARIANCE = 1e-3  # of a component when the mixture starts
NEIGHBOURS = 10  # of each row, in the graph
TRIALS = 20  # starts of k-means, of which the best is kept


def by_means(latent: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Labels (n,) of the best of 20 starts of k-means on positions (n, q)."""
    from sklearn.cluster import KMeans

    found: Any = KMeans(clusters, n_init=TRIALS, random_state=seed)  # type: ignore[arg-type]
    return found.fit_predict(latent)


def by_neighbours(latent: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Labels (n,) by spectral clustering of the graph in which each row is tied to its ten nearest.

    A ties i and j with 1 where each is near the other, 1/2 where one is; leading eigenvectors of D^(-1/2) A D^(-1/2),
    rows scaled to length one, are grouped by k-means: as many as clusters, and up to half as many more, since a group
    that the first ones leave together shows in the next. Kept is the grouping of the smallest normalised cut. Cost: a
    search for neighbours (n log n while q is small) and products of a sparse matrix of 20 n entries. Sources: Ng,
    Jordan & Weiss (2001), NIPS; Shi & Malik (2000), IEEE PAMI 22.
    """
    import scipy.sparse
    from scipy.sparse.linalg import eigsh
    from sklearn.neighbors import kneighbors_graph

    n = len(latent)
    near: Any = kneighbors_graph(latent, min(NEIGHBOURS, n - 1), include_self=False)
    ties = (near + near.T) / 2
    root = np.sqrt(np.asarray(ties.sum(axis=1)).ravel())
    scaled = scipy.sparse.diags_array(1 / root)
    first = root + 0.1 * root.mean() * np.random.default_rng(seed).standard_normal(n)
    numbers = sorted({min(clusters + more, n - 1) for more in (0, clusters // 4, clusters // 2)})
    # to machine precision: a looser one misses that a graph in pieces has the largest eigenvalue several times
    how: Any = {"which": "LA", "v0": first, "tol": 0, "ncv": min(6 * clusters, n)}
    _, vectors = eigsh(scaled @ ties @ scaled, numbers[-1], **how)
    found = [by_means(_unit(vectors[:, -many:]), clusters, seed) for many in numbers]
    return min(found, key=lambda labels: normalised_cut(ties, labels))


def normalised_cut(ties: Any, labels: np.ndarray) -> float:
    """Sum over groups of the share of their ties (sparse, n x n) that leads out of them."""
    member = np.eye(labels.max() + 1)[labels]
    inside, whole = np.sum(member * (ties @ member), axis=0), np.asarray(ties.sum(axis=1)).ravel() @ member
    return float(np.sum(1 - inside[whole > 0] / whole[whole > 0]))


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


class Grouping(NamedTuple):
    """How rows are grouped, and for how many epochs those groups are what clustering aims at."""

    labels: Callable[[np.ndarray, int, int], np.ndarray]
    held: int


STARTS = {"k-means": Grouping(by_means, 0), "neighbours": Grouping(by_neighbours, 1)}


def centres(latent: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """The mean position of each group, (k, q); that of all rows for a group without any."""
    members = [latent[labels == k] for k in range(clusters)]
    means = [(one if len(one) else latent).mean(axis=0) for one in members]
    return np.stack(means).astype(np.float32)


def fitted_mixture(latent: np.ndarray, components: int, seed: int) -> Mixture:
    """The normal mixture of diagonal covariances that fits latent positions (n, q) best, of 5 starts."""
    from sklearn.mixture import GaussianMixture

    floor = SMALLEST_VARIANCE * float(np.mean(np.var(latent, axis=0)))
    found = GaussianMixture(components, covariance_type="diag", n_init=5, reg_covar=floor, random_state=seed)
    found.fit(latent.astype(float))
    held: Any = found  # scikit-learn's types say that they may be None
    arrays = (np.log(held.weights_), held.means_, 0.5 * np.log(held.covariances_))
    return jax.tree.map(lambda a: np.asarray(a, dtype=np.float32), Mixture(*arrays))
