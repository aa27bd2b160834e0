"""What is asked of a model before `fit`: scikit-learn's NotFittedError, from every method and every attribute.

Start at `ASKED`, which finds the methods by looking at the classes.
"""

from __future__ import annotations

import inspect
from typing import Any

import anndata
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import poplin

MODELS = ("PLN", "PPCA", "VAE", "Autoencoder", "MixtureVAE", "IDEC", "CommonBasis")
NEED_NONE = {"fit", "fit_transform", "get_params", "set_params", "go_without"}
TABLE = np.ones((3, 2))
GIVEN: dict[str, Any] = {"Y": TABLE, "W": TABLE, "n": 3, "data": anndata.AnnData(TABLE), "path": "a file"}
GIVEN |= {"hypothesis": "tree", "cluster": "donor", "site": "mgh", "summaries": [], "name": "mgh"}
GIVEN |= {"plan": poplin.SitePlan(("a", "b"), 1)}


def methods(model: str) -> list[str]:
    """The public methods of a class that need a fit."""
    kind = getattr(poplin, model)
    names = {
        name for name in dir(kind) if not name.startswith("_") and inspect.isfunction(getattr(kind, name))
    }
    return sorted(names - NEED_NONE)


def attributes(model: str) -> list[str]:
    """What it has after a fit."""
    kind = getattr(poplin, model)
    stated = {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})}
    return sorted(name for name in stated | set(dir(kind)) if name.endswith("_") and not name.startswith("_"))


ASKED = [(model, name) for model in MODELS for name in methods(model)]
HELD = [(model, name) for model in MODELS for name in attributes(model)]


@pytest.mark.parametrize("model,method", ASKED)
def test_a_method_that_needs_a_fit_says_so(model: str, method: str) -> None:
    ask = getattr(getattr(poplin, model)(), method)
    wanted = inspect.signature(ask).parameters.values()
    given = {
        one.name: GIVEN[one.name]
        for one in wanted
        if one.default is one.empty and one.kind != one.VAR_KEYWORD
    }
    if method == "predict" and model == "PLN":
        given = {"n": 3}
    with pytest.raises(
        NotFittedError, match=rf"^This {model} has not been fitted, so it has no \w+_\. Call fit"
    ):
        ask(**given)


@pytest.mark.parametrize("model,attribute", HELD)
def test_an_attribute_of_a_fit_is_not_there_before(model: str, attribute: str) -> None:
    one = getattr(poplin, model)()
    assert not hasattr(one, attribute)
    with pytest.raises(NotFittedError, match=f"^This {model} has not been fitted, so it has no {attribute}"):
        getattr(one, attribute)


def test_functions_of_fits_say_so() -> None:
    with pytest.raises(NotFittedError, match="^small has not been fitted"):
        poplin.likelihood_ratio(poplin.PLN(), poplin.PLN())
    with pytest.raises(NotFittedError, match="^This PLN has not been fitted"):
        poplin.plots.embedding(poplin.PLN())
    with pytest.raises(NotFittedError, match="^This VAE has not been fitted"):
        poplin.predict_shift(poplin.VAE(), TABLE, TABLE, to=TABLE)


def test_what_a_fit_does_not_have_is_an_error_of_its_own() -> None:
    fit = poplin.PLN(method="moments").fit(np.random.default_rng(0).poisson(3.0, (40, 3)))
    with pytest.raises(AttributeError, match="only a fit by method='variational'") as told:
        _ = fit.variational_
    assert not isinstance(told.value, NotFittedError)
    with pytest.raises(AttributeError, match="'PLN' object has no attribute 'lodaings_'"):
        _ = fit.lodaings_  # pyright: ignore[reportAttributeAccessIssue]
