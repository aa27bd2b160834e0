"""Every reader of files, fuzzed: a damaged file is refused in one line that names it, or read as others read it.

Seeds choose what is done to a valid file (`benchmarks/doors/mutations.py`); `python -m benchmarks.doors` tries
thousands of them in processes with limits, and files of fits as well.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import hypothesis
import hypothesis.strategies as some
import numpy as np
import pytest

from benchmarks.doors.formats import CHECKPOINT, FIT, FORMATS, Format, Table, by_anndata, counts
from benchmarks.doors.worker import compared, read, tried, warm

READERS = [name for name, door in FORMATS.items() if door.file not in (FIT, CHECKPOINT)]
GOOD = ("refused", "same")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a valid file of each kind."""
    folder = tmp_path_factory.mktemp("valid")
    for name in READERS:
        (folder / name).mkdir()
        FORMATS[name].write(folder / name / FORMATS[name].file)
    return {name: folder / name for name in READERS}


@pytest.mark.parametrize("name", READERS)
def test_a_valid_file_is_read_as_another_library_reads_it(name: str, valid: dict[str, Path]) -> None:
    warm(FORMATS[name], valid[name])
    found = FORMATS[name].read(valid[name] / FORMATS[name].file)
    assert np.array_equal(found.values, counts())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", READERS)
@hypothesis.settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(seed=some.integers(0, 2**32))
def test_a_damaged_file_is_refused_by_name_or_read_as_it_is(
    name: str, seed: int, valid: dict[str, Path], tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries, about what they find
        found = tried(FORMATS[name], valid[name], tmp_path, seed)
    assert found["outcome"] in GOOD, found
    assert found["seconds"] < 20


SPACES = {  # around what stands in a text table: part of names of rows, not of numbers, and no gap
    "in the name of a row": ("\u00a0leaf", 1),
    "behind the name of a row": ("leaf\u00a0", 1),
    "alone for a name": ("\u00a0", 1),
    "behind a number": ("leaf", "1\u00a0"),
    "in place of a number": ("leaf", "\u00a0"),
    "behind a word for a gap": ("leaf", "NA\u00a0"),
}


@pytest.mark.parametrize("where", SPACES)
def test_no_break_spaces_are_to_both_what_they_are(where: str, tmp_path: Path) -> None:
    name, cell = SPACES[where]
    path = tmp_path / "c.csv"
    path.write_text(f",a,b\n{name},{cell},2\ns,3,4\nt,3,5\n", encoding="utf-8")
    outcome, said, found = read(FORMATS["csv"], path)
    if isinstance(cell, str) and cell != "1\u00a0":
        assert outcome == "refused" and "which is no number" in said
        with pytest.raises(ValueError, match="could not convert"):
            FORMATS["csv"].reference(path)
        return
    assert found is not None and found.rows == (name, "s", "t") and found.values[0, 0] == 1  # type: ignore[index]
    assert compared(FORMATS["csv"], path, found)[0] == "same"


def odd(path: Path) -> Table:
    """A reader that reads another number."""
    found = FORMATS["csv"].read(path)
    assert found.values is not None
    return found._replace(values=found.values + 1)


def careless(path: Path) -> Table:
    """A reader that passes on what it meets."""
    raise KeyError(path)


@pytest.mark.parametrize("reader,outcome", [(odd, "different"), (careless, "traceback")])
def test_the_check_sees_a_reader_that_is_wrong(
    reader: object, outcome: str, valid: dict[str, Path], tmp_path: Path
) -> None:
    door = FORMATS["csv"]._replace(read=reader)  # type: ignore[arg-type]
    seen = [tried(door, valid["csv"], tmp_path, seed)["outcome"] for seed in range(20)]
    assert outcome in seen and "same" not in seen


DOORS = {
    ".npz": "npz",
    ".gz": "csv.gz",
    ".mtx": "mtx",
    ".h5ad": "h5ad",
    ".zarr": "zarr",
    ".parquet": "parquet",
}


def test_cases_that_failed_once(shared_cases: Path) -> None:
    """Files that ended in tracebacks, signals or hangs: each by its door."""
    several = 0
    for path in sorted((shared_cases / "damaged").glob("*/c*")):
        name = "mtx.gz" if path.name.endswith(".mtx.gz") else DOORS.get(path.suffix)
        if name is None or not (path.parent.name.count("__") or path.suffix == ".h5ad"):
            continue
        door: Format = FORMATS[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome, said, found = read(door, path)
            if found is not None:
                outcome, said = compared(door, path, found)
        assert outcome in GOOD, (path.parent.name, outcome, said)
        several += 1
    assert several > 30
    assert FORMATS["h5ad"].reference is by_anndata
