"""The laws that the numerical rooms hold, one check a law; tests run them over the table of instances.

Start at `value_is_the_twins`. A law raises an AssertionError that says by how much it is broken.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poplin._precision import double_precision
from poplin.fit import _advance, _begin
from tests import twins
from tests.tolerances import close

DECREASE = 1e-10  # relative, of an objective that must not fall


def assert_close(actual: Any, expected: Any, scale: float = 1.0, what: str = "") -> None:
    """`close`, with the largest difference told."""
    gap = np.max(np.abs(np.asarray(actual) - np.asarray(expected)), initial=0.0)
    assert close(actual, expected, scale), f"{what} differs by {gap:.3g} from {np.asarray(expected)}"


def value_and_slopes(bound: Any, shared: Any, unknown: Any, block: Any) -> tuple[float, Any, Any, Any]:
    """Value, profile, gradient in the shared unknowns and in the rows', as a method computes them."""

    @jax.jit
    def both(bound, shared, unknown, block):
        value, profile = bound.value(bound.measure(shared, unknown, block))
        for_rows, total = bound.slope(shared, profile, unknown, block)
        return value, profile, bound.shared_slope(shared, total), for_rows

    with double_precision():
        value, *others = jax.device_get(both(bound, shared, unknown, block))
    return float(value), *others


def value_is_the_twins(value: float, twin: float) -> None:
    """A bound equals its slow NumPy twin, every constant included (1e-11 relative)."""
    assert abs(value - twin) <= 1e-11 * (1 + abs(twin)), f"{value!r} is not {twin!r}"


def slopes_are_differences(slopes: Any, unknowns: Any, function: Any, *, directions: int = 4) -> None:
    """A gradient, along random directions through all unknowns at once, equals differences of the twin."""
    random = np.random.default_rng(0)
    given = [np.asarray(a) for a in jax.tree.leaves(slopes)]
    at, rebuild = jax.tree.flatten(jax.tree.map(np.asarray, unknowns))
    for _ in range(directions):
        along = [random.normal(size=a.shape) for a in at]
        moved = lambda t, along=along: function(
            jax.tree.unflatten(rebuild, [a + t * v for a, v in zip(at, along, strict=True)])
        )
        expected = twins.slope_along(moved)
        actual = sum(float(np.sum(g * v)) for g, v in zip(given, along, strict=True))
        size = np.sqrt(sum(float(np.sum(g**2)) for g in given))
        assert abs(actual - expected) <= 5e-8 * (size + abs(expected)), f"{actual!r} is not {expected!r}"


def steps_of(method: Any, first: Any, block: Any, *, steps: int) -> list[tuple[Any, Any]]:
    """The shared state and the rows' state after each of the first steps, as NumPy arrays."""
    with double_precision():
        state, rows = _begin(method, first, block)
        seen = []
        for _ in range(steps):
            state, rows, _, _, done, failed = _advance(method, state, rows, block, jnp.asarray(1))
            seen.append(jax.device_get((state, rows)))
            if done or failed:
                break
    return seen


def objective_never_falls(steps: list[tuple[Any, Any]], twin: Any) -> None:
    """What a method says it has reached is the bound where it stands (the twin's), and does not decrease."""
    values = np.array([float(state.objective) for state, _ in steps])
    assert len(values) > 3
    fall = np.max(values[:-1] - values[1:] - DECREASE * np.abs(values[1:]))
    assert fall <= 0, f"the objective fell by {fall:.3g}"
    for state, rows in steps:
        value_is_the_twins(float(state.objective), twin(state, rows))
