"""Methods by name and by options: one table of them, the same fit either way, and through a file and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import poplin
from poplin import methods
from poplin.fitting import driver, phases, recipes
from poplin.methods.options import METHODS, chosen, from_plain, name_of, to_plain
from tests.instances import TABLES, block_of, fit, recipe_of

OTHER = [
    methods.MaximumLikelihood(chains=2),
    methods.Variational(posterior="full"),
    methods.Exact(order=12),
    methods.MCMC(draws=7),
    methods.Composite(order=6),
    methods.BBVI(gradient="score"),
    methods.IWAE(draws=3),
    methods.Amortised(refine=2),
    methods.Smoothed(epochs=3),
]


def test_every_method_is_told_once_and_carried_out() -> None:
    assert set(METHODS.values()) == set(driver.WAYS)
    assert {kind.__name__ for kind in METHODS.values()} == set(methods.__all__)
    assert {type(options) for options in OTHER} == set(METHODS.values()) - {methods.Moments}


@pytest.mark.parametrize("name", METHODS)
def test_a_name_stands_for_its_usual_options(name: str) -> None:
    assert chosen(name) == METHODS[name]() and name_of(METHODS[name]()) == name
    assert to_plain(METHODS[name]()) == name == from_plain(name)


@pytest.mark.parametrize("options", OTHER, ids=name_of)
def test_options_come_back_from_a_file(options: Any) -> None:
    assert from_plain(to_plain(options)) == options
    assert recipes.checked(poplin.PLN(method=options).get_params()).method == options


@pytest.mark.parametrize("name", ["ml", "variational"])
def test_a_fit_by_options_is_that_by_name(name: str) -> None:
    one, other = (
        fit(TABLES["plain"], rank=2, method=METHODS[name]()),
        fit(TABLES["plain"], rank=2, method=name),
    )
    for a, b in zip(one.result_[:2], other.result_[:2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_rows_gaussians_are_an_option_of_the_bound() -> None:
    one = recipes.checked(poplin.PLN(method=methods.Variational(posterior="full")).get_params())
    assert one.posterior == "full"
    with pytest.raises(poplin.InputError, match="posterior='wide'"):
        recipes.checked(poplin.PLN(method=methods.Variational(posterior="wide")).get_params())


def test_chains_of_a_row_are_an_option_of_maximum_likelihood() -> None:
    recipe, block = recipe_of("full", TABLES["plain"]), block_of(TABLES["plain"])
    usual, two = (phases.chain_kind(recipe, block, chains).copies for chains in (None, 2))
    assert usual > two == 2
    with pytest.raises(poplin.InputError, match="chains=0"):
        phases.chain_kind(recipe, block, 0)


@pytest.mark.parametrize(
    "setting", [{"tol": "0.1"}, {"tol": -1}, {"max_iter": 0}, {"n_init": 1.5}, {"method": "em"}]
)
def test_a_setting_that_cannot_be_is_named(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(poplin.InputError, match=f"^{name}="):
        recipes.checked(poplin.PLN(**setting).get_params())
