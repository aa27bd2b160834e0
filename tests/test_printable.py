"""Names from files of strangers: they steer no terminal and no spreadsheet, and stay what they are.

Start at `NAMES`.
"""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import poplin
from poplin._errors import printable
from tests.commandline import Run, table

NAMES = {
    "a window's title": "a\x1b]0;owned\x07b",
    "a cleared screen": "a\x1b[2Jb",
    "one control character for both": "a\x9b2Jb",
    "a line of its own": "a\npoplin: all is well",
    "back to the beginning": "a\rb",
    "written over": "a\x08\x08b",
    "turned round": "a\u202egpj.exe\u202c",
    "isolated": "a\u2066b\u2069",
    "another line": "a\u2028b",
    "deleted": "a\x7fb",
}
STEERING = ("Cc", "Zl", "Zp")
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def steers(text: str) -> bool:
    """Whether something in it is no plain character of a line."""
    return any(unicodedata.category(c) in STEERING or c in TURNING for c in text)


def plain(text: str) -> bool:
    """Whether lines of text hold nothing that steers."""
    return not any(steers(line) for line in text.split("\n"))


@pytest.mark.parametrize("kind", NAMES)
def test_what_steers_is_written_as_in_quotes(kind: str) -> None:
    assert steers(NAMES[kind]) and not steers(printable(NAMES[kind]))
    assert printable(NAMES[kind]).encode("ascii").decode("unicode_escape") == NAMES[kind]


@pytest.mark.parametrize("name", ["Ä, b", "<i>", "naïve café", "日本語", "می‌خواهم", "👩‍🔬", "a\\b", "'=1'"])
def test_names_of_all_languages_stay(name: str) -> None:
    assert printable(name) == name


def named(folder: Path, name: str, bad: float | None = None) -> None:
    """counts.csv with a column and a row of this name, and a count that is none if asked for."""
    random = np.random.default_rng(3)
    counts = random.poisson(4.0, (12, 3)).astype(float)
    if bad is not None:
        counts[0, 0] = bad
    rows = [name, *(f"row{i}" for i in range(1, 12))]
    pandas.DataFrame(counts, rows, [name, "b", "c"]).to_csv(folder / "counts.csv", quoting=csv.QUOTE_ALL)


@pytest.mark.parametrize("kind", NAMES)
def test_no_name_steers_the_terminal(run: Run, tmp_path: Path, capsys: Any, kind: str) -> None:
    named(tmp_path, NAMES[kind], bad=-1)
    assert run("fit", "counts.csv", "--out", "out") == 2
    said = capsys.readouterr().err
    assert plain(said) and printable(NAMES[kind]) in said and said.count("\n") == 1
    named(tmp_path, NAMES[kind])
    assert run("fit", "counts.csv", "--out", "out") == 0
    told = capsys.readouterr()
    assert plain(told.out + told.err) and printable(NAMES[kind]) in told.out
    assert "\npoplin: all is well" not in told.out
    written = [line[1] for line in table(Path("out/coef.csv"))[1:]]
    assert written == [NAMES[kind], "b", "c"]


def test_errors_and_warnings_of_python_do_not_either() -> None:
    for kind in (poplin.InputError, poplin.DataWarning, poplin.LikelihoodWarning):
        assert not any(steers(str(kind(name))) for name in NAMES.values())
    assert not steers(poplin.InputError("a", at_command_line=NAMES["deleted"]).at_command_line)


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+1", "@SUM(1)", "-2+3", "=1"])
def test_names_that_are_formulas_are_told_and_stay(run: Run, tmp_path: Path, capsys: Any, name: str) -> None:
    named(tmp_path, name)
    assert run("fit", "counts.csv", "--out", "out", "-q") == 0
    said = capsys.readouterr().err
    assert "a spreadsheet takes for formulas" in said and printable(name) in said
    assert [line[1] for line in table(Path("out/coef.csv"))[1:]] == [name, "b", "c"]
    assert poplin.data.readers.read_table("out/embedding.csv").index[0] == name


@pytest.mark.parametrize("name", ["-1", "+0.5", "a=b", "'=1", "E. coli"])
def test_other_names_are_not_told(run: Run, tmp_path: Path, capsys: Any, name: str) -> None:
    named(tmp_path, name)
    assert run("fit", "counts.csv", "--out", "out", "-q") == 0
    assert "spreadsheet" not in capsys.readouterr().err
