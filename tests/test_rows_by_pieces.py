"""A step over rows that are taken a few at a time is the step over all of them.

Start at `test_a_move_by_pieces_is_that_of_all_rows`.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from poplin._numerics import double_precision
from poplin.data.blocks import as_block
from poplin.fitting import phases
from poplin.rows import batches
from tests.instances import COLUMNS, MODELS, TABLES, recipe_of
from tests.programs import at_once


@pytest.mark.parametrize("rows", [7, 20])
@pytest.mark.parametrize("model", MODELS)
def test_a_move_by_pieces_is_that_of_all_rows(model: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and sums, with and without rows that are left over."""
    table, recipe = TABLES["weighted"], recipe_of(model, TABLES["weighted"])
    with double_precision():
        block = as_block(table.y, table.x, table.offset, table.weights)
        settings = phases.Settings(5, 1e-6, 0.0)
        start = phases.fit_variational(recipe, block, settings)
        first, many = phases.chain_start(recipe, block, start, jax.random.key(0))
        many = jax.tree.map(lambda a: a[: 4 * rows + 3], many)
        first = first._replace(rows=jax.tree.map(lambda a: a[: 4 * rows + 3], first.rows))
        method = phases.ml_method(recipe, len(many.weights), tol=0.2)
        state, begun = at_once(method.start, first, many)
        expected = at_once(method.move, state, begun, many)
        monkeypatch.setattr(batches, "ENTRIES", rows * COLUMNS)
        actual = at_once(method.move, state, begun, many)
    for found, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.allclose(found, wanted, rtol=1e-9, atol=1e-9)
