"""Laws of fits that see some rows an iteration, and of what follows them: steps by share, and when gamma falls.

Start at `test_steps_are_as_long_as_the_share_of_rows`. Fits over blocks of rows are in `test_streams.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poplin import fit as loop
from poplin._precision import double_precision
from poplin.data.blocks import as_block
from poplin.estimators import phases
from poplin.estimators.resuming import Settings
from poplin.methods import ml
from poplin.updates.covariance import Full
from poplin.updates.direct import Direct
from poplin.updates.structure import Model
from tests.instances import TABLES, block_of, recipe_of, simulated
from tests.tolerances import close

SHARES = (0.0, 0.25, 1.0)
ROOT = np.array([[0.8, 0.0, 0.0], [0.3, 0.7, 0.0], [0.1, -0.2, 0.9]])
TABLE = simulated(5, ROOT, n=300)


def advanced(visited: float) -> Model:
    """The model after one draw, which is the true Z, from a model a little off."""
    block = as_block(TABLE.y, TABLE.x, TABLE.offset, TABLE.weights)
    model = Model(jnp.asarray(TABLE.coef + 0.02), jnp.asarray(1.02 * ROOT))
    w = jnp.asarray(np.linalg.solve(model.loadings, (TABLE.latent - TABLE.x @ model.coef).T).T)
    rate = jnp.exp(block.offset + TABLE.latent)
    structure = Direct(Full(jnp.zeros(())), visited=visited)
    total, begun = structure.statistic(model, w, rate, block), structure.begin(model)
    after, *_ = structure.advance(model, begun, total, gamma=jnp.asarray(0.5), first=jnp.asarray(True))
    return jax.tree.map(np.asarray, after)


def test_steps_are_as_long_as_the_share_of_rows() -> None:
    """Without rows B is the closed form of the draw; from there regressions move B and log scales by their share."""
    with double_precision():
        none, some, every = map(advanced, SHARES)
    moved, scales = every.coef - none.coef, [np.log(np.diag(model.loadings)) for model in (none, some, every)]
    assert np.abs(moved).max() > 1e-3 and np.abs(scales[2] - scales[0]).max() > 1e-3
    assert close(none.coef, np.linalg.lstsq(TABLE.x, TABLE.latent, rcond=None)[0])
    assert close(some.coef - none.coef, SHARES[1] * moved)
    assert close(scales[1] - scales[0], SHARES[1] * (scales[2] - scales[0]))
