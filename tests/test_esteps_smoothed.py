"""Laws of two-step smoothing: the notes' networks, what they are trained for, and what follows from what they say.

Start at `test_the_networks_are_the_notes`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

import poplin
from poplin._numerics import double_precision
from poplin.fitting import amortised, phases
from poplin.fitting.phases import Task
from poplin.methods.bounds import Lesson, Nearness, Smoother
from poplin.methods.options import Smoothed
from poplin.models.networks import random_network
from poplin.rows.encoders import Excess
from tests import laws
from tests.instances import MODELS, TABLES, block_of, fit, recipe_of, simulated

MANY = simulated(71, 0.8 * np.random.default_rng(4).normal(size=(12, 2)), n=600, level=0.5, offsets=0.3)


def test_the_networks_are_the_notes() -> None:
    """Two hidden layers of 30 units with ReLU, a linear output for means, softplus for standard deviations."""
    table = TABLES["plain"]
    with double_precision():
        recipe, block = recipe_of("rank", table), block_of(table)
        start = phases.fit_variational(recipe, block, phases.Settings(50, 1e-6, 0.0))
        assert start.rows is not None
        task = Task(recipe, block, None, None, None, None)  # type: ignore[arg-type]
        lesson = amortised._lesson(task, *(np.asarray(a) for a in start.rows))
        made = amortised._first(Smoothed(), start, task, lesson, 0)
    for network in (made.for_mean, made.for_sd):
        assert [w.shape[1] for w in network.weights] == [30, 30, 2]
        assert network.activation is jax.nn.relu
    seen = made.features(lesson.y, lesson.x, lesson.offset)
    mean, sd = made(lesson)
    np.testing.assert_allclose(mean, made.for_mean(seen))
    np.testing.assert_allclose(sd, np.log1p(np.exp(np.asarray(made.for_sd(seen)))), rtol=1e-5)
    assert seen.shape == (len(table.y), table.y.shape[1] + 3)


def test_what_is_climbed_is_minus_half_the_squared_errors() -> None:
    random = np.random.default_rng(0)
    y, x, offset = random.poisson(2.0, (7, 3)), np.ones((7, 1)), np.zeros((7, 3))
    wanted = random.normal(size=(7, 2)), np.exp(random.normal(size=(7, 2)))
    features = Excess(np.zeros(3), np.ones(3), np.zeros(3), np.zeros((1, 3)), np.zeros((3, 0)))  # type: ignore[arg-type]
    networks = [random_network(random, (5, 4, 2), jax.nn.relu) for _ in range(2)]
    model = Smoother(features, *networks)
    lesson = Lesson(y, x, offset, np.ones(7), np.arange(7), *wanted)  # type: ignore[arg-type]
    found = Nearness().terms(model, None, lesson, None).objective
    told = [np.asarray(a) for a in model(lesson)]
    expected = -0.5 * sum(np.sum((a - b) ** 2, axis=1) for a, b in zip(told, wanted, strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@cache
def fits() -> tuple[Any, Any]:
    return fit(MANY, method="variational", rank=2), fit(MANY, method="smoothed", rank=2)


def test_smoothing_stays_near_the_variational_fit() -> None:
    """What networks cannot reproduce is noise of rows, which B and Sigma hardly see."""
    best, one = fits()
    assert one.converged_ and np.all(one.smoothing_r2_ < 1) and one.smoothing_r2_[0] > 0.8
    unit = laws.complete_errors(best.coef_, best.covariance_, MANY.x, MANY.weights)
    gap = laws.flat(one.coef_, one.covariance_) - laws.flat(best.coef_, best.covariance_)
    assert 1e-3 < laws.root_mean_square(gap, unit) < 3
    assert one.elbo_ < best.elbo_


def test_the_direct_form_and_missing_counts() -> None:
    one = fit(TABLES["missing"], method="smoothed", **MODELS["diagonal"])
    assert np.all(np.isfinite(one.coef_)) and np.isfinite(one.elbo_)
    assert one.smoothing_r2_.shape == (2,)


@pytest.mark.parametrize(
    ("options", "words"),
    [(Smoothed(hidden=()), "hidden"), (Smoothed(epochs=0), "epochs"), (Smoothed(rate=2.0), "rate")],
)
def test_options_that_mean_nothing_are_refused(options: Any, words: str) -> None:
    with pytest.raises(poplin.InputError, match=words):
        poplin.PLN(method=options).fit(TABLES["plain"].y)
