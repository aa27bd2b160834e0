"""A fit whose numbers break is data: the last finite estimates, one warning that says so, and `converged_`.

Start at `test_estimates_are_those_of_the_phase_before`. Chains are broken by a weight of the newest draw that is NaN.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import poplin
from poplin.fitting import driver, phases, streamed
from poplin.updates.structure import Model
from tests.instances import TABLES

CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "full": ({"shrinkage": 0}, False),
    "shrunk": ({}, False),
    "rank": ({"rank": 2}, False),
    "rank, in blocks": ({"rank": 2}, True),
}


@pytest.mark.parametrize("name", CASES)
def test_estimates_are_those_of_the_phase_before(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    settings, blocks = CASES[name]
    monkeypatch.setattr(phases, "constant_gamma", lambda *_, **__: float("nan"))
    if blocks:
        monkeypatch.setattr(streamed, "LARGE", 0)
    with pytest.warns(poplin.ConvergenceWarning, match="no longer finite.*'variational'"):
        found = poplin.PLN(**settings).fit(TABLES["plain"].y)
    assert not found.converged_ and any("no longer finite" in said for said in found.messages_)
    assert np.isfinite(found.coef_).all() and np.isfinite(found.covariance_).all()
    assert np.isfinite(found.loglik_)
    found.save(tmp_path / "fit.npz")
    assert np.array_equal(poplin.load(tmp_path / "fit.npz").coef_, found.coef_)


def test_where_nothing_is_finite_the_fit_is_refused() -> None:
    ended: Any = SimpleNamespace(interrupted=False)
    nowhere = phases.Fitted(Model(np.zeros((1, 2)), np.full((2, 1), np.nan)), None, ended)  # type: ignore[arg-type]
    with pytest.raises(poplin.InputError, match="No finite parameters"):
        driver._sound(nowhere, [nowhere])
