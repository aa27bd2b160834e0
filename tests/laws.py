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


def same_fit(one: Any, other: Any, *, scale: float = 10.0) -> None:
    """Two fits have the same bound (1e-10 relative) and, to the root of that, the same parameters."""
    assert one.converged_ and other.converged_
    assert abs(one.elbo_ - other.elbo_) <= 1e-10 * abs(one.elbo_), f"{one.elbo_!r} is not {other.elbo_!r}"
    assert_close(other.coef_, one.coef_, scale, "coef_")
    assert_close(other.covariance_, one.covariance_, scale, "covariance_")


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


def never_falls(values: Any) -> None:
    """A sequence does not decrease (1e-10 relative)."""
    values = np.asarray(values)
    assert len(values) > 3
    fall = np.max(values[:-1] - values[1:] - DECREASE * np.abs(values[1:]))
    assert fall <= 0, f"fell by {fall:.3g} at step {np.argmax(values[:-1] - values[1:])}"


def objective_is_reached(objective: Any, twin: Any, *, exactly: bool) -> None:
    """What a method says it has reached is the twin's bound, the best so far; or less at first, but the same in the end."""
    best = np.maximum.accumulate(twin)
    gap = (best - np.asarray(objective)) / (1 + np.abs(best))
    assert np.min(gap) >= -1e-11, f"the objective is {-np.min(gap):.3g} (relative) above the bound"
    limit = np.max(gap) if exactly else gap[-1]
    assert limit <= 1e-11 if exactly else limit <= 1e-8, (
        f"the objective is {limit:.3g} (relative) below the bound"
    )


def stopping_rule_holds_at_the_optimum_only(run: Any, optimum: Any, away: Any, *, tol: float) -> None:
    """`done` is true at once where a fit begins at the optimum, false away from it until the optimum is near.

    `run(first, steps)` gives the outcome of at most so many steps.
    """
    best = float(run(optimum, 1000).state.objective)
    near = tol * (1 + abs(best))
    at = run(optimum, 8)
    assert at.converged and abs(float(at.state.objective) - best) <= 10 * near
    early = run(away, 3)
    assert float(early.state.objective) < best - 1000 * near, "the start is no start away from the optimum"
    assert not early.converged
    late = run(away, 1000)
    assert late.converged and float(late.state.objective) >= best - 100 * near
