"""From words to objects: the settings of `PLN`, checked, become a `Recipe` for the numerical rooms.

Start at `recipe`. This is the only place where a string chooses code.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError
from poplin.data.blocks import Block, as_block, as_rows
from poplin.data.counts import Counts, check_basis, check_covariance, check_rank
from poplin.data.placing import placed
from poplin.estimators.phases import Recipe
from poplin.models.loadings import BorrowedBasis, FreeLoadings
from poplin.updates.covariance import Diagonal, Fixed, Full, Spherical
from poplin.updates.structure import LEVEL_SD, LOADING_SD, SCALE_SD

POSTERIORS = ("diagonal", "full")


def one_of(value: Any, allowed: tuple[str, ...], name: str) -> str:
    """The value if it is one of the words allowed, else an `InputError` that lists them."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{name}={value!r}: wanted is one of {', '.join(map(repr, allowed))}.")
    return value


def count(value: Any, name: str, *, least: int) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name}={value!r}: wanted is a whole number, {least} or more.")
    return int(value)


def recipe(counts: Counts, *, covariance: Any, rank: Any, basis: Any) -> Recipe:
    """The model that covariance, rank and basis name; an `InputError` for combinations that have no meaning."""
    n, p = counts.y.shape
    if rank is not None and basis is not None:
        raise InputError(
            "Both rank and basis are given: a borrowed basis V has its own rank. Give one of them."
        )
    factor = "rank" if rank is not None else "basis" if basis is not None else None
    if factor and not (isinstance(covariance, str) and covariance == "full"):
        raise InputError(
            f"{factor} goes with covariance='full' only: Sigma is then C C'. Leave covariance out."
        )
    level = jnp.asarray(level_precision(counts.x, counts.weights))
    if rank is not None:
        return Recipe(None, FreeLoadings(), check_rank(rank, n, p), level)
    if basis is not None:
        axes = check_basis(basis, p, counts.column_names)
        return Recipe(None, BorrowedBasis(jnp.asarray(axes)), axes.shape[1], level)
    known = check_covariance(covariance, p, counts.column_names)
    if isinstance(known, str):
        shapes = {"full": Full(jnp.asarray(0.0)), "diagonal": Diagonal(), "spherical": Spherical()}
        return Recipe(shapes[known], None, p, level, 1 / SCALE_SD**2)
    return Recipe(Fixed(jnp.asarray(known)), None, p, level)


def level_precision(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Precision (d, d) of the weak prior of each column of B: between rows, XB varies with `LEVEL_SD`, N(0, sd^2).

    B_j ~ N(0, sd^2 V^-1), V the covariance matrix of the covariates: no regard to their units, none to a common level.
    """
    centred = x - np.average(x, axis=0, weights=weights)
    return centred.T @ (weights[:, None] * centred) / weights.sum() / LEVEL_SD**2


def unshrunk(recipe: Recipe) -> Recipe:
    """The recipe for shrinkage=0: XB and Z about it vary by N(0, 10^2), which only keeps them finite."""
    assert recipe.level is not None
    return recipe._replace(level=recipe.level * (LEVEL_SD / LOADING_SD) ** 2, spread=1 / LOADING_SD**2)


def training_block(counts: Counts) -> Block:
    """The rows of a fit on the device, with half a count in columns that have none."""
    return as_block(counts.y, counts.x, counts.offset, counts.weights)


def spread_block(counts: Counts) -> Block:
    """The same on all devices that there are, for methods that can use several."""
    return placed(as_rows(counts.y, counts.x, counts.offset, counts.weights))


def shrinkage_weight(value: Any) -> float | None:
    """None for "auto", else the weight in [0, 1)."""
    if isinstance(value, str) and value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
        raise InputError(f"shrinkage={value!r}: wanted is 'auto', 0, or a weight below 1.")
    return float(value)
