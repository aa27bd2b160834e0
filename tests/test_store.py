"""The store: what is read is what was written, and whatever is not ours is refused in words."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import hypothesis
import hypothesis.extra.numpy as arrays_of
import hypothesis.strategies as some
import numpy as np
import pytest

from poplin import store
from poplin._errors import InputError

KINDS = some.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_, np.dtype("U7")])
NAMES = some.text(some.characters(codec="utf-8", exclude_characters="/\\\0:"), min_size=1, max_size=12)
PLAIN = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(max_size=20),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def of(kind: np.dtype | type) -> some.SearchStrategy:
    """What an array of a kind holds: of text whole characters, as names are checked to at the door."""
    letters = {"alphabet": some.characters(codec="utf-8")} if np.dtype(kind).kind == "U" else {}
    return arrays_of.from_dtype(np.dtype(kind), **letters)


ARRAYS = some.dictionaries(
    NAMES.filter(lambda name: name != "poplin" and not name.endswith(".npy")),
    KINDS.flatmap(
        lambda kind: arrays_of.arrays(kind, arrays_of.array_shapes(min_dims=0, min_side=0), elements=of(kind))
    ),
    max_size=4,
)


def example() -> dict[str, np.ndarray]:
    """Two arrays as a fit has them."""
    return {"coef": np.arange(6.0).reshape(2, 3), "names": np.array(["Picea", "Ä<b>"])}


@hypothesis.settings(
    deadline=None, max_examples=50, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(arrays=ARRAYS, meta=some.dictionaries(some.text(max_size=8), PLAIN, max_size=4))
def test_what_is_read_is_what_was_written(tmp_path: Path, arrays: dict, meta: dict) -> None:
    store.write_npz(tmp_path / "model.npz", arrays, meta)
    back, settings = store.read_npz(tmp_path / "model.npz")
    assert settings == meta
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_the_same_content_gives_the_same_bytes_and_numpy_reads_it(tmp_path: Path) -> None:
    for name in ("a", "b.npz"):
        store.write_npz(tmp_path / name, example(), {"method": "ml"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a", allow_pickle=False) as held:
        np.testing.assert_array_equal(held["coef"], example()["coef"])


def test_objects_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'odd' cannot be stored"):
        store.write_npz(tmp_path / "model.npz", {"odd": np.array([{}], dtype=object)}, {})
    assert not list(tmp_path.iterdir())


def test_an_error_on_the_way_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "coef.csv"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), store.written_whole(path) as handle:
        handle.write("half of it")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file"):
        store.write_npz(tmp_path / "nowhere" / "model.npz", example(), {})


def cut(path: Path, kept: float) -> None:
    """Keep only the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])


def flip(path: Path) -> None:
    """Change one byte of the first array's numbers."""
    held = bytearray(path.read_bytes())
    held[held.index(example()["coef"].tobytes()) + 9] ^= 0xFF
    path.write_bytes(bytes(held))


def header(text: str) -> np.ndarray:
    """Bytes in the place where ours keep what they are."""
    return np.frombuffer(text.encode(), dtype=np.uint8)


def newer(path: Path) -> None:
    """Raise the number of the format."""
    np.savez(
        path, poplin=header(json.dumps({"format": store.FORMAT, "version": store.VERSION + 1, "meta": {}}))
    )


def remove_and_make_folder(path: Path) -> None:
    """Put a folder in the place of the file."""
    path.unlink()
    path.mkdir()


BROKEN = {
    "missing": (lambda path: path.unlink(), "does not exist"),
    "a folder": (remove_and_make_folder, "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "not saved by poplin: its 0 bytes"),
    "text": (lambda path: path.write_text("a,b\n1,2\n"), r"but with b'a,b"),
    "counts": (lambda path: np.savez(path, counts=np.eye(2), cov_tree=np.ones(2)), "'counts', 'cov_tree'"),
    "another header": (lambda path: np.savez(path, poplin=header("[]")), "not saved by poplin"),
    "a header that is no JSON": (lambda path: np.savez(path, poplin=header("{")), "cut short or damaged"),
    "half": (lambda path: cut(path, 0.5), "cut short or damaged"),
    "nearly all": (lambda path: cut(path, 0.98), "cut short or damaged"),
    "a flipped byte": (flip, "cut short or damaged .* CRC"),
    "a newer format": (newer, "newer poplin .format 2; this one reads up to 1.. Update"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_not_ours_is_refused_in_words(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.npz"
    store.write_npz(path, example(), {"method": "ml"})
    damage, said = BROKEN[kind]
    damage(path)
    with pytest.raises(InputError, match=said) as caught:
        store.read_npz(path)
    assert "model.npz" in str(caught.value)


def test_no_flipped_byte_goes_unnoticed_or_ends_in_another_error(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    store.write_npz(path, example(), {"method": "ml"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            arrays, meta = store.read_npz(path)
        except InputError:
            continue
        assert meta == {"method": "ml"}, place  # dates and the like do not matter
        assert {name: array.tolist() for name, array in arrays.items()} == {
            name: array.tolist() for name, array in example().items()
        }, place


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    store.write_npz(path, example(), {})
    with zipfile.ZipFile(path, "a") as archive, archive.open("evil.npy", "w") as member:
        np.lib.format.write_array(member, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="damaged"):
        store.read_npz(path)
