"""How models with an encoder are trained: settings, schedules of the learning rate, when training stops.

Start at `test_settings_are_those_of_the_signature`. Fits that go on are in `test_checkpoints_everywhere.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

import poplin
from poplin.fitting.training import SCHEDULES
from tests.oracles_neural import quickly as quickly

MODELS = {
    "Autoencoder": poplin.Autoencoder(3, max_epochs=7),
    "IDEC": poplin.IDEC(4, 3, gamma=0.2),
    "MixtureVAE": poplin.MixtureVAE(4, 3, pretrain_epochs=2),
    "VAE": poplin.VAE(3, posterior="full", hidden=(5, 4)),
}
HOW: dict[str, Any] = {"likelihood": "poisson", "hidden": (8,), "max_epochs": 6, "batch_size": 20}
HOW |= {"patience": None, "kl_warmup": 1}


def table() -> np.ndarray:
    return np.random.default_rng(0).poisson(3.0, (90, 4)).astype(float)


@pytest.mark.parametrize("name", MODELS)
def test_settings_are_those_of_the_signature(name: str) -> None:
    model = MODELS[name]
    again = clone(model)
    assert again is not model and again.get_params() == model.get_params()
    assert {"hidden", "batch", "layer", "random_state", "n_components"} <= set(model.get_params())
    told = repr(model)
    assert "n_components=3" in told and "activation" not in told  # only what differs from the default
    assert eval(told, {name: type(model)}).get_params() == model.get_params()
    with pytest.raises(ValueError, match="no setting 'depth'"):
        model.set_params(depth=2)


def test_a_default_that_differs_is_the_models_own() -> None:
    assert (poplin.VAE().hidden, poplin.MixtureVAE().hidden) == ((128,), (500, 500))
    assert (poplin.VAE().scale, poplin.Autoencoder().scale, poplin.IDEC().scale) == (
        "column",
        "fixed",
        "fixed",
    )


def test_steps_of_the_learning_rate() -> None:
    """The i-th of eight rates lasts 3^i epochs of 3280."""
    found = SCHEDULES["steps"](np.arange(3280) / 3280)
    expected = np.concatenate([np.full(3**i, 10 ** (-i / 7)) for i in range(8)])
    assert np.allclose(found, expected, rtol=1e-12)
    for schedule in SCHEDULES.values():
        assert schedule(np.zeros(1)) == 1


def stop_at(step: int) -> Any:
    """A callback that presses Ctrl-C once so many steps are done."""

    def callback(progress: Any) -> None:
        if progress.iteration >= step:
            raise KeyboardInterrupt

    return callback


def test_a_fit_that_was_stopped_in_its_first_epoch_is_kept_whole(tmp_path: Path) -> None:
    model = poplin.VAE(2, **HOW).set_params(batch_size=2, callback=stop_at(1))
    with pytest.warns(poplin.ConvergenceWarning, match="reached 0.00 only"):
        stopped = model.fit(table())
    stopped.save(tmp_path / "fit.npz")
    loaded = poplin.load(tmp_path / "fit.npz")
    assert stopped.n_iter_ == 0 and list(loaded.history_) == list(stopped.history_) != []
    assert np.array_equal(loaded.transform(table()), stopped.transform(table()))


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_of_few_rows_patience_is_steps_and_columns_means_are_told(spread: float) -> None:
    """26 rows are one step an epoch: 20 of them would end at the columns' means."""
    random = np.random.default_rng(0)
    latent = spread * random.normal(size=(26, 1)) @ random.normal(size=(1, 10))
    fit = poplin.VAE(2, hidden=(16,), max_epochs=3000, learning_rate=0.01).fit(
        random.poisson(np.exp(1 + latent))
    )
    assert fit.stopped_ == "patience"
    kept = 1 + fit.history_["held_out_objective"].idxmax()
    assert fit.n_iter_ - kept >= 200
    assert any("columns' means" in message for message in fit.messages_) == (spread == 0)
