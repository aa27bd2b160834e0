"""Counts that are drawn from a model: one limit for the rates of all of them, and one error beyond it.

Start at `DOORS`: everything that a user can ask for draws.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

import poplin
from poplin import InputError
from poplin.data.held import LARGEST_COUNT
from poplin.models.draws import LARGEST_RATE, draw_counts
from poplin.models.likelihoods import NegativeBinomial, Poisson
from poplin.studies.simulate import simulate

RANDOM = np.random.default_rng(0)
OUT = np.zeros((2, 3))


@cache
def fitted() -> poplin.PLN:
    """By moments, which is the quickest."""
    return poplin.PLN(method="moments").fit(RANDOM.poisson(3.0, (40, 3)))


DOORS: dict[str, Callable[[float], np.ndarray]] = {
    "draw_counts": lambda level: draw_counts(np.random.default_rng(0), OUT + level, mend="Lower it."),
    "PLN.sample": lambda level: fitted().sample(2, X=np.full((2, 1), level)),
    "VAE, Poisson": lambda level: Poisson().sample(np.random.default_rng(0), OUT, np.float32(level)),
    "VAE, negative binomial": lambda level: NegativeBinomial(np.full(3, 9.0)).sample(  # type: ignore[arg-type]
        np.random.default_rng(0), OUT, np.float32(level)
    ),
    "simulate": lambda level: simulate(2, 3, mean=level).counts,
}


@pytest.mark.parametrize("name", DOORS)
def test_rates_that_cannot_be_drawn_are_one_error(name: str) -> None:
    assert np.all(DOORS[name](20.0) > 0)
    words = r"log rate at row '\w+', column '\w+' is [\d.]+; above 34.5 .* not drawn\. \w+"
    for level in (60.0, 800.0):
        with pytest.raises(InputError, match=words):
            DOORS[name](level)


def test_a_rate_behind_other_numbers_is_held_where_counts_are_exact() -> None:
    rates = np.log(LARGEST_RATE) + np.array([[-50.0, 0.0, 1.0, 500.0, np.inf]])
    held = draw_counts(np.random.default_rng(0), rates)
    assert (
        held[0, 0] == 0 and np.allclose(held[0, 1:], LARGEST_RATE, rtol=1e-6) and held.max() < LARGEST_COUNT
    )


def test_what_nobody_looked_at_has_no_count() -> None:
    assert not draw_counts(np.random.default_rng(0), np.full((2, 2), -np.inf), mend="Lower it.").any()
