"""The laws that the numerical rooms hold, one check a law; tests run them over the table of instances.

Start at `value_is_the_twins`. A law raises an AssertionError that says by how much it is broken.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poplin._numerics import double_precision
from poplin.fit import _advance, begin
from tests import twins
from tests.tolerances import STANDARD_ERRORS, close, within_errors

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


def complete_errors(coef: Any, covariance: Any, x: Any, weights: Any) -> np.ndarray:
    """Standard errors of (B, Sigma) if Z were seen: the unit in which Monte-Carlo errors are told, (k,)."""
    variance, rows = np.diag(covariance), np.sum(weights)
    spread = np.diag(np.linalg.inv(x.T @ (weights[:, None] * x)))
    for_coef = np.sqrt(spread[:, None] * variance)
    for_covariance = np.sqrt((variance[:, None] * variance + covariance**2) / rows)
    return flat(for_coef, for_covariance)


def flat(coef: Any, covariance: Any) -> np.ndarray:
    """(B, Sigma) as one vector: all of B, the upper triangle of Sigma."""
    return np.concatenate([np.ravel(coef), np.asarray(covariance)[np.triu_indices(len(covariance))]])


def root_mean_square(gap: np.ndarray, unit: np.ndarray) -> float:
    """Of the entries that are free, each in its unit."""
    return float(np.sqrt(np.mean((gap[unit > 0] / unit[unit > 0]) ** 2)))


def differs_by_chance(actual: np.ndarray, fits: np.ndarray, unit: np.ndarray, what: str) -> None:
    """An estimate is within four Monte-Carlo errors of the mean of fits that differ in the seed only (s, k).

    Errors are root mean squares over the parameters, each in its unit, as in the stopping rule.
    """
    s, mean = len(fits), fits.mean(axis=0)
    error = np.sqrt(np.sum([root_mean_square(one - mean, unit) ** 2 for one in fits]) / (s - 1) * (1 + 1 / s))
    gap = root_mean_square(actual - mean, unit)
    assert gap <= STANDARD_ERRORS * error, f"{what}: {gap / error:.2f} Monte-Carlo errors off"


def within(gap: np.ndarray, standard_error: np.ndarray, what: str) -> None:
    """Differences that should be zero are within four of their standard errors, entry by entry."""
    largest = np.max(np.abs(gap) / standard_error)
    assert within_errors(gap, 0, standard_error), f"{what}: {largest:.2f} standard errors off"


def value_and_slopes(bound: Any, shared: Any, unknown: Any, block: Any) -> tuple[float, Any, Any, Any]:
    """Value, profile, gradient in the shared unknowns and in the rows', as a method computes them."""

    @jax.jit
    def both(bound, shared, unknown, block):
        kept, total = bound.measure(shared, unknown, block)
        value, profile = bound.value(total)
        for_rows, total = bound.slope(shared, profile, unknown, kept, block)
        return value, profile, bound.shared_slope(shared, profile, total), for_rows

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
        state, rows = begin(method, first, block)
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
    """What a method says it has reached is the best of the twin, or less at first and the same in the end."""
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
