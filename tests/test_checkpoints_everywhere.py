"""Checkpoints of every method and every model: a fit that was stopped goes on to the numbers of one that was not.

Start at `INSTANCES`, over which the laws are checked. "ml" and "variational" have more in `test_checkpoints.py`.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import poplin
from poplin import methods, store
from poplin.fitting import alternatives
from poplin.fitting.checkpoints import digest
from tests.instances import TABLES
from tests.oracles_neural import quickly as quickly

COUNTS = TABLES["missing"].arguments()
PLAIN = {"Y": TABLES["plain"].y}
TWO = {"Y": PLAIN["Y"][:, :2]}
FEW = {"checkpoint_every": 3, "max_iter": 10}
NETWORKS: dict[str, Any] = {"likelihood": "poisson", "hidden": (4,), "batch_size": 4}
EPOCHS = NETWORKS | {"max_epochs": 5, "patience": None}


class Instance(NamedTuple):
    """A model with its settings, what it is fitted to, and how often it tells before Ctrl-C."""

    face: type
    settings: dict[str, Any]
    given: dict[str, Any]
    after: int = 1


def by(method: Any, *, after: int = 3, given: dict[str, Any] = COUNTS, **settings: Any) -> Instance:
    """A `PLN` by some method."""
    return Instance(poplin.PLN, FEW | {"method": method} | settings, given, after)


INSTANCES: dict[str, Instance] = {
    "exact, diagonal": by("exact", covariance="diagonal"),
    "exact, shrunk": by("exact", given=TWO),
    "mcmc": by(methods.MCMC(1, 1), rank=1, max_iter=100, after=10),
    "bbvi": by("bbvi"),
    "iwae": by(methods.IWAE(2), rank=1),
    "moments": by("moments"),
    "composite": by("composite"),
    "amortised": by(methods.Amortised(hidden=(4,), epochs=1), max_iter=4),
    "amortised, gradient": by(methods.Amortised("full", (4,), "gradient", epochs=1), rank=1, max_iter=2),
    "smoothed": by(methods.Smoothed(hidden=(4,), epochs=1), checkpoint_every=500),
    "rank auto, variational": by("variational", rank="auto", given=TWO, after=12, checkpoint_every=None),
    "rank auto, ml": by("ml", rank="auto", given=TWO, after=16, checkpoint_every=None),
    "VAE": Instance(poplin.VAE, EPOCHS | {"n_components": 2, "kl_warmup": 1}, PLAIN),
    "Autoencoder": Instance(poplin.Autoencoder, EPOCHS | {"n_components": 2}, PLAIN),
    "MixtureVAE": Instance(
        poplin.MixtureVAE, EPOCHS | {"n_clusters": 2, "n_components": 2, "pretrain_epochs": 3}, PLAIN
    ),
    "IDEC": Instance(
        poplin.IDEC,
        NETWORKS
        | {"n_clusters": 2, "n_components": 2, "pretrain_epochs": 3, "max_iter": 40, "update_interval": 9},
        PLAIN,
        after=2,
    ),
    "PPCA, em": Instance(poplin.PPCA, {"method": "em", "max_iter": 60, "tol": 1e-14}, PLAIN),
    "PPCA, closed": Instance(poplin.PPCA, {"method": "closed"}, PLAIN),
}
CLOSED = ("moments", "PPCA, closed")


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pairs of four columns are several rounds."""
    monkeypatch.setattr(alternatives, "PAIRS", 2)


class Stop:
    """A callback that is Ctrl-C the so-manieth time."""

    def __init__(self, after: int) -> None:
        self.left, self.phase = after, ""

    def __call__(self, progress: Any) -> None:
        self.left -= 1
        if not self.left:
            self.phase = progress.phase
            raise KeyboardInterrupt


def fit(one: Instance, **run: Any) -> Any:
    """A fit without its warnings; None where it was stopped with nothing to show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return one.face(**one.settings, **run).fit(**one.given)
        except KeyboardInterrupt:
            return None


@cache
def whole(name: str) -> dict[str, Any]:
    """The numbers of the fit that was never stopped and kept nothing."""
    one = INSTANCES[name]
    alone = {key: value for key, value in one.settings.items() if key != "checkpoint_every"}
    return numbers(fit(one._replace(settings=alone)))


def numbers(found: Any) -> dict[str, Any]:
    """All that a fit has found, by name, but for seconds."""
    if isinstance(found, poplin.PLN):
        told = {"coef": found.coef_, "covariance": found.covariance_, "latent": found.latent_mean_}
        told |= {f"extra {key}": value for key, value in (found.result_.extras or {}).items()}
        told |= {"n_iter": found.n_iter_, "converged": found.converged_, "shrinkage": found.shrinkage_}
        if found.selection_ is not None:
            told["selection"] = found.selection_.drop(columns="seconds").to_numpy(dtype=float)
    elif isinstance(found, poplin.PPCA):
        told = {"loadings": found.loadings_, "noise": found.noise_variance_, "converged": found.converged_}
    else:
        told = {
            "latent": found.transform(**PLAIN),
            "history": found.history_.to_numpy(),
            "why": found.stopped_,
        }
        told |= {f"leaf {i}": leaf for i, leaf in enumerate(jax.tree.leaves(found.model_))} | found._kept()
    trace = getattr(found, "trace_", None) or {}
    return told | {f"trace {key}": column for key, column in trace.items() if key != "seconds"}


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal, bit for bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], name)


@pytest.mark.parametrize("name", INSTANCES)
def test_a_fit_that_is_stopped_over_and_over_comes_to_the_same_end(name: str, tmp_path: Path) -> None:
    one, path, stopped = INSTANCES[name], tmp_path / "c.npz", []
    for _ in range(300):
        stop = Stop(one.after)
        again = fit(one, checkpoint=path, callback=stop)
        if not stop.phase:
            break
        stopped.append(stop.phase)
    same(numbers(again), whole(name))
    assert bool(stopped) == path.exists() == (name not in CLOSED)
    assert "rank auto" in name or "variational" not in stopped[-1:]  # the main phase was stopped, too
    if path.exists():  # a fit that is over is read back without a step
        before, told = path.read_bytes(), []
        same(numbers(fit(one, checkpoint=path, callback=told.append)), whole(name))
        assert told == [] and path.read_bytes() == before


def half_done(name: str, path: Path) -> Instance:
    """An instance of which there is a checkpoint."""
    fit(INSTANCES[name], checkpoint=path, callback=Stop(1))
    assert path.exists()
    return INSTANCES[name]


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("VAE", {"learning_rate": 0.1}, "learning_rate is 0.001 there and 0.1 here"),
    ("VAE", {"hidden": (5,)}, r"hidden is \[4\] there and \[5\] here"),
    ("VAE", {"max_epochs": 6}, "max_epochs is 5 there and 6 here"),
    ("PPCA, em", {"n_components": 1}, "n_components is 2 there and 1 here"),
    ("PPCA, em", {"random_state": 3}, "random_state is 0 there and 3 here"),
    ("exact, diagonal", {"method": methods.Exact(9)}, r"method is 'exact' there and 'Exact\(order=9\)' here"),
    ("exact, diagonal", {"rank": "auto", "covariance": "full"}, "rank is None there and 'auto' here"),
]


@pytest.mark.parametrize(("name", "change", "words"), OTHERS, ids=[words for *_, words in OTHERS])
def test_the_file_of_another_fit_is_refused(name: str, change: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    one = half_done(name, path)
    before = path.read_bytes()
    with pytest.raises(poplin.InputError, match=words):
        fit(one._replace(settings=one.settings | change), checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("name", "words"), [("VAE", "the values differ"), ("PPCA, em", "the values differ")])
def test_other_rows_are_refused(name: str, words: str, tmp_path: Path) -> None:
    one = half_done(name, tmp_path / "c.npz")
    changed = PLAIN["Y"].copy()
    changed[:2] = changed[1::-1]  # their sum stays
    with pytest.raises(poplin.InputError, match=words):
        fit(one._replace(given={"Y": changed}), checkpoint=tmp_path / "c.npz")


@pytest.mark.parametrize("name", ["VAE", "PPCA, em", "exact, diagonal"])
def test_a_damaged_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    one = half_done(name, path)
    arrays, meta = store.read_npz(path)
    store.write_npz(path, arrays | {"run0_objective": arrays["run0_objective"] + 1}, meta)
    with pytest.raises(poplin.InputError, match="damaged.*remove"):
        fit(one, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(poplin.InputError, match="cannot be used.*remove"):
        fit(one, checkpoint=path)


def test_training_in_a_file_of_its_state_alone_goes_on(tmp_path: Path) -> None:
    """As such files were before there was one format."""
    path = tmp_path / "c.npz"
    one = half_done("VAE", path)
    arrays, meta = store.read_npz(path)
    state = {name.replace("run0", "state"): a for name, a in arrays.items() if name[5:].isdigit()}
    known = {name: meta["facts"][name] for name in ("learning_rate", "max_epochs", "rows", "sum of Y")}
    meta = {"model": "training", "facts": known | {"seed": 0, "weights": [1.0]}}
    store.write_npz(path, state, meta | {"sha256": digest(state, meta)})
    with pytest.raises(poplin.InputError, match=r"sum of Y is .* there and"):
        fit(one._replace(given={"Y": PLAIN["Y"] + 1}), checkpoint=path)
    with pytest.raises(poplin.InputError, match="the checkpoint of a fit that was stopped"):
        poplin.load(path)
    same(numbers(fit(one, checkpoint=path)), whole("VAE"))


def test_training_is_kept_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the disk where nobody could write at the end."""
    from poplin import fit as loop

    path, seen = tmp_path / "c.npz", []
    monkeypatch.setattr(loop, "MINUTE", 0.0)
    fit(INSTANCES["VAE"], checkpoint=path, callback=lambda _: seen.append(path.exists()))
    assert seen[0]
