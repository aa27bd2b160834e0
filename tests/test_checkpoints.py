"""Checkpoints: a fit that was stopped goes on to the numbers of one that was not; no other file is taken for one.

Start at `FITS`, over which the laws are checked; every other method and model is in `test_checkpoints_everywhere.py`.
Whole processes are killed in `test_checkpoints_command.py`.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import poplin
from poplin import store
from poplin.data.counts import as_counts
from poplin.fitting import checkpoints, driver, recipes
from tests.instances import TABLES

EVERY = 5
FITS: dict[str, dict[str, Any]] = {
    "variational, full covariance": {"method": "variational"},
    "variational, full Gaussians": {"method": "variational", "posterior": "full", "max_iter": 60},
    "variational, rank 2, two starts": {"method": "variational", "rank": 2, "n_init": 2, "random_state": 3},
    "ml, full covariance": {},
    "ml, rank 2": {"rank": 2},
}
TABLE = TABLES["missing"].arguments()
NUMBERS = ("coef_", "covariance_", "loadings_", "shrinkage_", "converged_", "n_iter_", "latent_mean_")
QUICK = FITS["variational, full covariance"]


def fit(table: dict[str, Any] | None = None, **settings: Any) -> poplin.PLN:
    """A fit without its warnings of convergence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poplin.ConvergenceWarning)
        warnings.simplefilter("ignore", poplin.DataWarning)
        return poplin.PLN(**settings).fit(**(TABLE if table is None else table))


def kept(path: Path, **settings: Any) -> poplin.PLN:
    """A fit with its checkpoint."""
    return fit(checkpoint=path, checkpoint_every=EVERY, **settings)


def stopping(after: int) -> Callable[[Any], None]:
    """A callback that is Ctrl-C the so-manieth time."""
    left = iter(range(after - 1))

    def tell(_: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return tell


def same(one: poplin.PLN, other: poplin.PLN) -> None:
    """All numbers but seconds are equal, bit for bit."""
    for name in NUMBERS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
    for name in ("phase", "iteration", "objective"):
        np.testing.assert_array_equal(one.trace_[name], other.trace_[name], name)


@pytest.fixture(params=FITS, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[dict[str, Any], poplin.PLN]:
    """Settings, and the fit of them that was never stopped and kept nothing."""
    settings = FITS[request.param]
    return settings, fit(**settings)


@pytest.fixture
def half_done(tmp_path: Path) -> Path:
    """The checkpoint of a fit that was stopped."""
    path = tmp_path / "c.npz"
    assert kept(path, callback=stopping(2), **QUICK).interrupted_
    return path


def test_checkpoints_change_no_number(case: Any, tmp_path: Path) -> None:
    settings, whole = case
    same(kept(tmp_path / "c.npz", **settings), whole)


def test_a_fit_that_is_over_is_read_back_without_a_step(case: Any, tmp_path: Path) -> None:
    settings, whole = case
    kept(tmp_path / "c.npz", **settings)
    before = (tmp_path / "c.npz").read_bytes()
    told: list[Any] = []
    same(kept(tmp_path / "c.npz", callback=told.append, **settings), whole)
    assert told == [] and (tmp_path / "c.npz").read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.35, 0.6, 0.95])
def test_a_stopped_fit_goes_on_to_the_same_numbers(case: Any, tmp_path: Path, share: float) -> None:
    settings, whole = case
    path, told = tmp_path / "c.npz", []
    kept(tmp_path / "other.npz", callback=told.append, **settings)
    stop = max(1, round(share * len(told)))
    first = kept(path, callback=stopping(stop), **settings)
    assert first.interrupted_ and first.n_iter_ <= whole.n_iter_
    told.clear()
    again = kept(path, callback=told.append, **settings)
    same(again, whole)
    assert not again.interrupted_ and np.all(np.diff(again.trace_["seconds"]) >= 0)
    assert again.seconds_ >= again.trace_["seconds"][-1]


def test_a_fit_that_is_stopped_over_and_over_comes_to_the_same_end(case: Any, tmp_path: Path) -> None:
    settings, whole = case
    for _ in range(1000):
        again = kept(tmp_path / "c.npz", callback=stopping(3), **settings)
        if not again.interrupted_:
            break
    same(again, whole)


def test_another_interval_goes_on_to_the_same_numbers(half_done: Path) -> None:
    same(fit(checkpoint=str(half_done), checkpoint_every=7, **QUICK), fit(**QUICK))


def test_settings_are_those_of_a_run_and_not_of_the_fit(half_done: Path, tmp_path: Path) -> None:
    from sklearn.base import clone

    one = kept(half_done, **QUICK)
    again = clone(one)
    assert again.get_params() == one.get_params() and again.checkpoint == half_done
    one.save(tmp_path / "saved.npz")
    assert poplin.load(tmp_path / "saved.npz").checkpoint is None
    assert "c.npz" not in one.summary() and b"c.npz" not in (tmp_path / "saved.npz").read_bytes()


def refused(path: Path, *words: str, **settings: Any) -> None:
    """The file is refused by all these words, and is as it was."""
    before = path.read_bytes()
    told: list[Any] = []
    with pytest.raises(poplin.InputError) as error:
        kept(path, callback=told.append, **(QUICK | settings))
    for word in (*words, path.name, "remove"):
        assert word.lower() in str(error.value).lower()
    assert path.read_bytes() == before and told == []


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_short_is_refused(half_done: Path, share: float) -> None:
    held = half_done.read_bytes()
    half_done.write_bytes(held[: int(share * len(held))])
    refused(half_done, "cannot be used")


def test_a_flipped_byte_is_refused_or_harmless(half_done: Path) -> None:
    facts = driver.facts(as_counts(**TABLE), recipes.checked(poplin.PLN(**QUICK).get_params()))
    at = checkpoints.place(half_done, facts)
    held, right, caught = half_done.read_bytes(), checkpoints.read(at), 0
    places = np.random.default_rng(5).choice(len(held), 300, replace=False)
    for byte in places:
        half_done.write_bytes(held[:byte] + bytes([held[byte] ^ 0x55]) + held[byte + 1 :])
        try:
            found = checkpoints.read(at)
        except poplin.InputError:
            caught += 1
        else:  # dates and the like, which zip has beside each array
            assert [run[:3] for run in found] == [run[:3] for run in right]
            for one, other in zip(found, right, strict=True):
                for a, b in zip(one.leaves, other.leaves, strict=True):
                    np.testing.assert_array_equal(a, b)
    assert caught > 200
    array = held.index(b"run0_0.npy") + 150
    half_done.write_bytes(held[:array] + bytes([held[array] ^ 1]) + held[array + 1 :])
    refused(half_done, "cannot be used", "damaged")


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """The file with something else in it."""
    arrays, meta = store.read_npz(path)
    change(arrays, meta)
    store.write_npz(path, arrays, meta)


def test_contents_that_were_exchanged_are_refused(half_done: Path) -> None:
    rewritten(half_done, lambda arrays, _: arrays.update(run0_objective=arrays["run0_objective"] + 1))
    refused(half_done, "damaged")


def test_another_format_is_refused(half_done: Path) -> None:
    rewritten(half_done, lambda _, meta: meta.update(checkpoint=2))
    refused(half_done, "format 2", "knows format 1")


@pytest.mark.parametrize("package", ["poplin", "jax"])
def test_another_version_is_refused(half_done: Path, monkeypatch: Any, package: str) -> None:
    right = checkpoints.version
    newer: Callable[[str], str] = lambda name: "99.1" if name == package else right(name)
    monkeypatch.setattr(checkpoints, "version", newer)
    refused(half_done, f"{package} is '{right(package)}' there and '99.1' here")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", counts=np.ones((3, 3)))
    refused(tmp_path / "a.npz", "not saved by poplin")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    refused(tmp_path / "b.csv", "not saved by poplin")
    fit(**QUICK).save(tmp_path / "c.npz")
    refused(tmp_path / "c.npz", "no checkpoint of a fit")


@pytest.mark.parametrize("part", ["Y", "X", "offset", "weights"])
def test_other_data_are_refused(half_done: Path, monkeypatch: Any, part: str) -> None:
    words = {"Y": "the counts differ", "X": "the covariates differ"}
    changed = TABLE[part].copy()
    changed[0] = changed[0] + 1
    monkeypatch.setitem(TABLE, part, changed)
    refused(half_done, words.get(part, "differ"), "another fit")


OTHER: dict[str, dict[str, Any]] = {
    "rank is None there and 2 here": {"rank": 2},
    "method is 'variational' there and 'ml' here": {"method": "ml"},
    "shrinkage is 'auto' there and 0.5 here": {"shrinkage": 0.5},
    "random_state is 0 there and 4 here": {"random_state": np.int64(4)},
    "max_iter is None there and 9 here": {"max_iter": 9},
    "covariance is 'full' there and an array here": {"covariance": np.eye(4)},
    "method is 'variational' there and 'Exact(order=3)' here": {"method": poplin.methods.Exact(3)},
    "posterior is 'diagonal' there and 'full' here; n_init is 1 there and 2 here": {
        "posterior": "full",
        "n_init": 2,
    },
}


@pytest.mark.parametrize("words", OTHER)
def test_other_settings_are_refused(half_done: Path, words: str) -> None:
    refused(half_done, words, **OTHER[words])


DOOR: dict[str, dict[str, Any]] = {
    "needs a file": {"checkpoint": None, "checkpoint_every": 5},
    "checkpoint_every=0": {"checkpoint_every": 0},
    "checkpoint=3": {"checkpoint": 3},
    "is a folder": {"checkpoint": "."},
    "is a file; wanted is a folder": {"checkpoint": "file/c.npz"},
}


@pytest.mark.parametrize("words", DOOR)
def test_what_can_have_no_checkpoint_is_told(tmp_path: Path, monkeypatch: Any, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(poplin.InputError, match=words):
        fit(**({"checkpoint": "new/c.npz", "method": "variational"} | DOOR[words]))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_compare_takes_none(tmp_path: Path) -> None:
    with pytest.raises(poplin.InputError, match="for one fit"):
        poplin.compare(TABLE["Y"], checkpoint=tmp_path / "c.npz")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """A disk with room for so many more arrays; of the one after these half is written."""
    room, write = {"arrays": 0}, np.lib.format.write_array

    def writing(handle: Any, array: np.ndarray, **how: Any) -> None:
        room["arrays"] -= 1
        if room["arrays"] < 0:
            handle.write(array.tobytes()[: array.nbytes // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(handle, array, **how)

    monkeypatch.setattr(np.lib.format, "write_array", writing)
    yield room


def test_a_full_disk_costs_no_fit_and_no_checkpoint(half_done: Path, full_disk: dict[str, int]) -> None:
    before, full_disk["arrays"] = half_done.read_bytes(), 3
    with pytest.warns(UserWarning, match="one that was there before stays.*No space left") as told:
        again = poplin.PLN(checkpoint=half_done, checkpoint_every=EVERY, **QUICK).fit(**TABLE)
    assert len([w for w in told if "checkpoint" in str(w.message)]) == 1
    assert half_done.read_bytes() == before and list(half_done.parent.iterdir()) == [half_done]
    full_disk["arrays"] = 10**6
    same(again, fit(**QUICK))
    same(kept(half_done, **QUICK), again)
