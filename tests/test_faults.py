"""Faults of poplin's own code are not told as damage of a file; at the command line they are one line all the same.

Start at `FAULTS`: a line of Python that raises, and in whose file it stands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import poplin
from poplin._errors import InputError, is_slip
from poplin.data import framed
from poplin.data.located import loaded
from poplin.data.readers import read_counts
from tests.commandline import Run, write_leaves

OURS, THEIRS = (str(Path(str(module.__file__)).with_name("some.py")) for module in (poplin, np))
FAULTS = {
    "no such key": ("{}['shape']", OURS, True),
    "no such entry": ("[][1]", OURS, True),
    "no such attribute": ("None.shape", OURS, True),
    "no such argument": ("len(1)", OURS, True),
    "no such name": ("shape_", OURS, True),
    "no number, which cells may be": ("float('a')", OURS, False),
    "no letters, which bytes may be": ("bytes([255]).decode()", OURS, False),
    "a key that a library misses": ("{}['shape']", THEIRS, False),
    "an attribute that a library misses": ("None.shape", THEIRS, False),
    "an argument that a library does not take": ("len(1)", THEIRS, False),
}


@pytest.mark.parametrize("what", FAULTS)
def test_slips_of_ours_stay_what_they_are(what: str, tmp_path: Path) -> None:
    line, file, ours = FAULTS[what]
    with pytest.raises(Exception) as met:
        loaded(tmp_path / "a.h5ad", lambda: eval(compile(line, file, "eval")))
    assert isinstance(met.value, InputError) is not ours
    if not ours:
        assert "a.h5ad cannot be read as .h5ad file" in str(met.value)


def test_what_is_raised_for_the_sake_of_a_library_is_its_own() -> None:
    words = "try:\n    int('a')\nexcept ValueError as error:\n    raise KeyError('a') from error"
    with pytest.raises(KeyError) as met:
        exec(compile(words, OURS, "exec"))
    assert not is_slip(met.value)


@pytest.mark.parametrize("shown", [False, True])
def test_the_command_tells_a_fault_in_a_line(
    run: Run, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    write_leaves(tmp_path)
    monkeypatch.setattr(framed, "layout", lambda *_, **__: None)
    with pytest.raises(AttributeError):
        read_counts("counts.csv")
    if shown:
        with pytest.raises(AttributeError):
            run("fit", "counts.csv", "--out", "out")
        return
    monkeypatch.delenv("POPLIN_TRACEBACK")
    assert run("fit", "counts.csv", "--out", "out") == 1
    told = capsys.readouterr().err
    assert told.startswith("poplin: a fault of poplin itself") and told.count("\n") == 1
    assert "AttributeError" in told and "(data/textfiles.py, line " in told and "POPLIN_TRACEBACK=1" in told


BIOM = {
    "rows": [{"id": "t1"}, {"id": "t2"}],
    "columns": [{"id": "s1", "metadata": {"depth": "3"}}],
    "shape": [2, 1],
    "data": [[0, 0, 3], [1, 0, 4]],
    "matrix_type": "sparse",
}
ODD_BIOM = {
    "a list": (lambda held: [held], "its JSON is no object"),
    "a number for a row": (lambda held: held | {"rows": [3, 4]}, "not each of its 'rows' has an id"),
    "a row without an id": (lambda held: held | {"rows": [{}, {}]}, "not each of its 'rows' has an id"),
    "no list of samples": (lambda held: held | {"columns": 1}, "not each of its 'columns' has an id"),
    "a shape that is a number": (lambda held: held | {"shape": 2}, "declares counts of the shape 2"),
    "an entry that is none": (lambda held: held | {"data": [[0, 0, {}]]}, "'data' are no table of numbers"),
    "an entry in words": (lambda held: held | {"data": [[0, 0, "x"]]}, "'data' are no table of numbers"),
}


@pytest.mark.parametrize("how", ODD_BIOM)
def test_json_of_another_form_is_no_biom(how: str, tmp_path: Path) -> None:
    change, said = ODD_BIOM[how]
    file = tmp_path / "a.biom"
    file.write_text(json.dumps(BIOM))
    assert read_counts(file).values.tolist() == [[3, 4]]
    file.write_text(json.dumps(change(BIOM)))
    with pytest.raises(InputError, match=f"a.biom .*{said}"):
        read_counts(file)
