"""The Godambe sandwich of a composite fit in the numbers in which standard errors are told.

Start at `root`.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError
from poplin._precision import double_precision
from poplin.estimators import esteps
from poplin.estimators.recipes import level_precision
from poplin.inference.coordinates import Coordinates
from poplin.inference.intervals import Root
from poplin.inference.pairwise import Margins, deviations
from poplin.methods.exact import Likelihood
from poplin.models.roots import DiagonalRoot
from poplin.rows.nodes import column_nodes, joint_nodes
from poplin.updates.covariance import Diagonal, Full

MOST = 300_000_000  # numbers of all rows' changes
SHAPES = (
    "Standard errors of method='composite' follow from its pairs where Sigma is full or diagonal. Give n_boot, for "
    "example n_boot=200, or fit with method='ml'."
)
LARGE = (
    "Standard errors of method='composite' of {rows} rows and {size} free numbers need too much memory. Give n_boot, "
    "or fit with method='ml'."
)


def root(fit: Any, free: Any) -> Root:
    """A root of the estimates' covariance; `free` says what is free (`directions.Free`)."""
    if not isinstance(free.shape, (Full, Diagonal)):
        raise InputError(SHAPES)
    if len(free.block.index) * free.here.size() > MOST:
        raise InputError(LARGE.format(rows=len(free.block.index), size=free.here.size()))
    options = esteps.chosen(fit.get_params()["method"])
    with double_precision():
        margins = Margins(jnp.asarray(fit.coef_), jnp.asarray(np.sqrt(np.diag(fit.covariance_))))
        rule = joint_nodes(options.order, 2) if isinstance(free.shape, Full) else None
        target = _margins(options.margin_order, fit)
        moves = deviations(target, rule, free.block, margins, fit.covariance_)
        return _in_numbers(free.here, np.concatenate(moves, axis=1), pairs=rule is not None)


def _margins(order: int, fit: Any) -> Likelihood:
    """What the margins maximise, priors included."""
    level = jnp.asarray(level_precision(fit.counts_.x, fit.counts_.weights))
    return Likelihood(DiagonalRoot(), column_nodes(order), 1.0, 1.0, 0.0, level)


def _in_numbers(here: Coordinates, moves: np.ndarray, *, pairs: bool) -> Root:
    """The changes of (B, Sigma's upper triangle) in the numbers of `Coordinates`, which are as many."""
    size, p = here.size(), here.model.coef.shape[1]
    upper = np.triu_indices(p)
    if not pairs:
        kept = np.concatenate([np.ones(here.model.coef.size, bool), upper[0] == upper[1]])
        moves = moves[:, kept]
    coef, sigma = (np.asarray(a) for a in here.tangents(jnp.eye(size)))
    told = sigma[:, *upper] if pairs else np.diagonal(sigma, axis1=1, axis2=2)
    tangents = np.concatenate([coef.reshape(size, -1), told], axis=1)
    if len(moves) > size:  # the same products in fewer columns
        moves = np.asarray(np.linalg.qr(moves, mode="r"))
    return Root(np.linalg.solve(tangents.T, moves.T), np.zeros((size, 0)))
