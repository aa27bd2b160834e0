"""What a user's process may have set of JAX: fits work, with the same numbers; where they cannot, it is said.

Start at `SETTINGS`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import poplin
from poplin._numerics import FORKED, usual_rules
from poplin._random import Purpose, derive
from tests.instances import TABLES

SETTINGS: dict[str, Callable[[], Any]] = {
    "NaN is an error": lambda: jax.debug_nans(True),
    "infinity is an error": lambda: jax.debug_infs(True),
    "another generator": lambda: jax.default_prng_impl("rbg"),
    "an unsafe generator": lambda: jax.default_prng_impl("unsafe_rbg"),
    "ranks are not promoted": lambda: jax.numpy_rank_promotion("raise"),
    "types are not promoted": lambda: jax.numpy_dtype_promotion("strict"),
}


def fits(method: str) -> Any:
    """Five iterations, with what is asked afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = poplin.PLN(method=method, max_iter=5, shrinkage=0).fit(**TABLES["plain"].arguments())
        return np.r_[fit.coef_.ravel(), fit.covariance_.ravel(), fit.loglik_]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("method", ["variational", "ml"])
def test_fits_are_the_same_whatever_is_set(setting: str, method: str) -> None:
    usual = fits(method)
    with SETTINGS[setting]():
        np.testing.assert_array_equal(fits(method), usual)


@pytest.mark.parametrize("setting", SETTINGS)
def test_networks_are_trained_whatever_is_set(setting: str) -> None:
    def trained() -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = poplin.VAE(2, max_epochs=2, random_state=1).fit(TABLES["plain"].arguments()["Y"])
            return fit.transform(TABLES["plain"].arguments()["Y"])

    usual = trained()
    with SETTINGS[setting]():
        np.testing.assert_array_equal(trained(), usual)


def test_what_is_set_is_set_again_afterwards() -> None:
    with jax.debug_nans(True), jax.default_prng_impl("rbg"):
        with usual_rules():
            assert not jax.debug_nans.value and jax.default_prng_impl.value == "threefry2x32"
        assert jax.debug_nans.value and jax.default_prng_impl.value == "rbg"
        assert jax.random.key_data(derive(3, Purpose.MAIN).key()).shape == (2,)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_a_fork_of_a_process_that_has_fitted_is_told_instead_of_waiting() -> None:
    fits("variational")
    ear, mouth = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX says so too, before there is anything to wait for
        child = os.fork()
    if child == 0:
        words = "no error"
        with contextlib.suppress(BaseException):
            try:
                fits("variational")
            except poplin.InputError as error:
                words = str(error)
        os.write(mouth, words.encode())
        os._exit(0)
    os.close(mouth)
    assert os.read(ear, 1000).decode() == FORKED and os.waitpid(child, 0)[1] == 0
