"""Turning latent axes: as good as a search over all angles, never worse than before, nothing else changed.

Start at `test_two_axes_against_every_angle`. The twin computes the sum of logs row by row in NumPy.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from poplin import fit as loop
from poplin._numerics import double_precision
from poplin.data.blocks import as_block
from poplin.data.counts import as_counts
from poplin.fitting import phases, recipes
from poplin.fitting.phases import training_block
from poplin.methods.variational import Turning, rotation
from poplin.studies.simulate import simulate
from tests.tolerances import close


def table(n: int, p: int, q: int, seed: int):
    """Loadings, rates that differ between rows, and weights."""
    random = np.random.default_rng(seed)
    loadings = random.normal(size=(p, q))
    rate = np.exp(random.normal(size=(n, p)) + random.normal(size=(n, 1)))
    weights = random.uniform(0.5, 2.0, n)
    return loadings, rate, weights


def value(turn, loadings, rate, weights) -> float:
    """-1/2 sum_i w_i sum_k log (R'(I + C' diag(A_i) C) R)_kk, row by row."""
    total = 0.0
    for a, w in zip(rate, weights, strict=True):
        precision = np.eye(loadings.shape[1]) + loadings.T @ np.diag(a) @ loadings
        total -= 0.5 * w * np.sum(np.log(np.diag(turn.T @ precision @ turn)))
    return total


def turned(loadings, rate, weights, *, tol: float = 1e-12, steps: int = 300):
    with double_precision():
        y = np.zeros(rate.shape)
        block = as_block(y + 1, np.ones((len(y), 1)), y, weights)
        first = jnp.asarray(loadings), jnp.asarray(rate)
        return loop.run(Turning(tol), first, block, phase="", max_iter=steps, began=0.0)


def plane_turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_two_axes_against_every_angle(seed):
    """With two axes there is one angle: the best of a fine search over a quarter turn is what is found."""
    given = table(40, 6, 2, seed)
    angles = np.linspace(0, np.pi / 2, 91)
    best = max(angles, key=lambda angle: value(plane_turn(angle), *given))
    sharp = minimize_scalar(
        lambda angle: -value(plane_turn(angle), *given), bounds=(best - 0.02, best + 0.02), method="bounded"
    )
    outcome = turned(*given)
    assert outcome.converged
    assert close(float(outcome.state.objective), -sharp.fun, 10)


@pytest.mark.parametrize(("p", "q"), [(6, 2), (8, 3), (12, 6)])
def test_turning_climbs_to_a_stationary_rotation(p, q):
    given = table(60, p, q, 7)
    outcome = turned(*given)
    objective, turn = outcome.trace.objective, np.asarray(outcome.state.turn)
    assert outcome.converged
    assert np.all(np.diff(objective) >= 0) and objective[-1] > objective[0] + 1e-3
    assert close(turn.T @ turn, np.eye(q), 10)
    assert close(objective[-1], value(turn, *given), 10)
    assert close(objective[0], value(np.eye(q), *given), 10)
    # no small turn of any two axes is better
    for a in range(q):
        for b in range(a):
            for angle in (-1e-3, 1e-3):
                more = np.eye(q)
                more[np.ix_([a, b], [a, b])] = plane_turn(angle)
                assert value(turn @ more, *given) < objective[-1]


def test_the_first_slope_is_the_finite_difference():
    """The Newton step's direction rises at the rate that finite differences say."""
    given = table(30, 7, 4, 3)
    with double_precision():
        state = turned(*given, steps=1).state
        generator = np.asarray(state.generator)
        h = 1e-5
        ahead, behind = (value(np.asarray(rotation(jnp.asarray(s * generator))), *given) for s in (h, -h))
    slope = (ahead - behind) / (2 * h)
    assert abs(slope - 2 * float(state.gain) * given[2].sum()) <= 1e-6 * abs(slope)


def test_axes_that_are_diagonal_stay():
    """One column an axis: every row's precision is diagonal, and nothing is to be gained."""
    _, rate, weights = table(20, 3, 3, 5)
    outcome = turned(np.diag([1.0, 2.0, 0.5]), rate, weights)
    assert outcome.converged and len(outcome.trace.objective) == 1


def test_turned_sketches_save_iterations_and_lose_nothing():
    """Against the same climb without turning: the same bound of a well-determined table in half the steps."""
    simulated = simulate(1000, 50, correlation=0.8, seed=2)
    counts = as_counts(simulated.counts)
    with double_precision():
        recipe = recipes.recipe(counts, covariance="full", rank=12, basis=None)
        block = training_block(counts)
        settings = phases.Settings(5000, 1e-9, 0.0)
        plain = phases.climb(recipe, block, phases.first_values(recipe, block), settings)
        turned = phases.fit_variational(recipe, block, settings).outcome
    assert plain.converged and turned.converged
    best = plain.trace.objective[-1]
    assert turned.trace.objective[-1] >= best - 1e-6 * abs(best)
    there = best - 1e-5 * abs(best)
    steps, plain_steps = (int(np.argmax(o.trace.objective >= there)) for o in (turned, plain))
    assert steps <= 0.5 * plain_steps
    assert np.array_equal(turned.trace.iteration, 1 + np.arange(len(turned.trace.iteration)))
