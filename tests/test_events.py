"""Events to counts: the same table as pandas makes, whatever the codes look like, and every drop is told.

`twin` is the slow way: the whole file in memory, one group-by after another. Random tables hold what hospitals' files
hold: quotes, commas, line breaks, other scripts, empty fields, codes that are numbers in some lines and text in others.
"""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import poplin.cli
from poplin import InputError
from poplin.data.events import Columns, EventCounts, Rules, count_events
from poplin.data.readers import read_counts
from tests.twins_events import twin

CODES = [
    "E11",
    "e11",
    "250.0",
    "250.00",
    "250",
    "",
    "NA",
    "null",
    'say "x"',
    "a,b",
    "Ä ß",
    "糖尿病",
    "two\nlines",
    " E11",
    "'",
]
PATIENTS = ["p1", "p2", "10", "2", "", "Ω'", '"', "p,3"]
DAYS = ["2024-01-01", "2024-01-02", "2024-03-31 10:00:00", "2023-12-31", "", "NA"]
COLUMNS = Columns("patient", "code", "date", "times")

rows = st.tuples(
    st.sampled_from(PATIENTS),
    st.sampled_from(CODES),
    st.sampled_from(DAYS),
    st.sampled_from(["1", "2", "0", "3.0", "", "-1", "1.5", "x"]),
)
maps = st.lists(
    st.tuples(st.sampled_from(CODES), st.sampled_from(["diabetes", "Ä", 'q"', ""])), min_size=1, max_size=12
)
days = st.none() | st.sampled_from([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)])


def table_of(lines: list[Any]) -> pandas.DataFrame:
    """Lines as a DataFrame of text."""
    return pandas.DataFrame(lines, columns=["patient", "code", "date", "times"], dtype=str)


def frame_of(found: EventCounts) -> pandas.DataFrame:
    """What was found, in the same form."""
    wide = pandas.DataFrame(found.counts.toarray(), list(found.row_names), list(found.column_names))
    wide.insert(0, "(total)", found.totals)
    return wide


def write(frame: pandas.DataFrame, folder: Path, kind: str) -> Path:
    """The events as a file of that kind."""
    path = folder / f"events{kind}"
    if kind == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in kind else ",")
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(rows, min_size=1, max_size=40),
    roll_up=st.none() | maps,
    kind=st.sampled_from([".csv", ".csv.gz", ".tsv", ".parquet"]),
    counted=st.booleans(),
    rules=st.builds(Rules, days, days, st.none(), st.integers(0, 3), st.booleans()),
)
def test_the_table_is_the_one_that_pandas_makes(
    tmp_path: Path, lines: list[Any], roll_up: Any, kind: str, counted: bool, rules: Rules
) -> None:
    frame, becomes = table_of(lines), None
    path = write(frame, tmp_path, kind)
    columns = COLUMNS if counted else COLUMNS._replace(count=None)
    if rules.since and rules.until and rules.since > rules.until:
        rules = rules._replace(since=rules.until, until=rules.since)
    if roll_up is not None:
        becomes = pandas.DataFrame(roll_up, columns=["from", "to"], dtype=str)
        becomes.to_csv(tmp_path / "map.csv", index=False)
        rules = rules._replace(roll_up=tmp_path / "map.csv")
    expected = twin(frame, columns, rules, becomes)
    try:
        found = count_events(path, columns, rules, scratch=tmp_path)
    except InputError as error:
        assert expected.shape[0] == 0 or expected.shape[1] == 1, error
        return
    seen = frame_of(found)
    assert list(seen.index) == list(expected.index) and list(seen.columns) == list(expected.columns)
    np.testing.assert_array_equal(seen.to_numpy(), expected.to_numpy())
    assert found.rows_seen.tolist() == (expected.iloc[:, 1:] > 0).sum(axis=0).tolist()
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".poplin")]


def test_codes_of_numbers_and_text_stay_as_they_are_written(tmp_path: Path) -> None:
    mixed = pandas.DataFrame({"patient": [1, 1, 2], "code": pandas.Series([7, "007", 7.5], dtype=object)})
    mixed.to_csv(tmp_path / "events.csv", index=False)
    assert count_events(tmp_path / "events.csv", Columns("patient", "code")).column_names == (
        "007",
        "7",
        "7.5",
    )
    gap = pandas.DataFrame({"patient": [1.0, np.nan, 2.0], "code": [5.0, 6.0, 7.5]})
    gap.to_parquet(tmp_path / "gap.parquet")
    found = count_events(tmp_path / "gap.parquet", Columns("patient", "code"))
    assert (found.row_names, found.column_names) == (("1", "2"), ("5", "7.5"))
    assert "1 events have no row name; they are left out." in found.report


def test_days_of_any_type_are_days(tmp_path: Path) -> None:
    days = pandas.to_datetime(["2024-01-01 08:00", "2024-01-01 23:59", "2024-01-02 00:00"])
    base = {"patient": ["a"] * 3, "code": ["x"] * 3}
    for name, column in {"stamps": days, "days": days.date, "text": days.astype(str)}.items():
        pandas.DataFrame(base | {"date": column}).to_parquet(tmp_path / f"{name}.parquet")
        found = count_events(
            tmp_path / f"{name}.parquet", COLUMNS._replace(count=None), Rules(distinct_days=True)
        )
        assert found.counts.toarray().tolist() == [[2]], name


def test_the_report_adds_up(tmp_path: Path) -> None:
    lines = [
        *[
            ("a", "x", "2024-01-01"),
            ("a", "rare", "2024-01-01"),
            ("b", "x", "2024-01-01"),
            ("c", "odd", "2024-01-01"),
        ],
        *[
            ("", "x", "2024-01-01"),
            ("a", "", "2024-01-01"),
            ("a", "x", ""),
            ("a", "x", "2020-01-01"),
            ("a", "x", "2030-01-01"),
        ],
    ]
    pandas.DataFrame(lines, columns=["patient", "code", "date"]).to_csv(tmp_path / "e.csv", index=False)
    (tmp_path / "map.csv").write_text("code,group\nx,X\nrare,R\n")
    rules = Rules(datetime.date(2024, 1, 1), datetime.date(2024, 1, 1), tmp_path / "map.csv", 2)
    report = "\n".join(count_events(tmp_path / "e.csv", COLUMNS._replace(count=None), rules).report)
    for said in (
        "9 events were read, 4 of them count.",
        "1 events have no row name",
        "1 events have no code",
        "1 events have no date",
        "1 events are before the first day",
        "1 events are after the last day",
        "map.csv maps 2 codes",
        "1 events have one of 1 codes that it lacks; they are left out: 'odd' (1)",
        "1 of 2 columns are above 0 in fewer than 2 rows; they are left out, with a count of 1",
        "1 rows have none of the columns that are left",
        "The table has 3 rows and 1 columns, 2 of its cells",
    ):
        assert said in report, said


def test_explicit_counts_of_0_stay_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    """Visits counted by species: a visit and a species that were looked for and not seen belong to the table."""
    lines = [
        ("a", "GP", "3"),
        ("a", "PR", ""),
        ("b", "GP", "-1"),
        ("b", "TT", "2.5"),
        ("c", "GP", "0"),
        ("c", "PR", "0"),
    ]
    pandas.DataFrame(lines, columns=["visit", "spp", "n"]).to_csv(tmp_path / "long.csv", index=False)
    columns = Columns("visit", "spp", count="n")
    found = count_events(tmp_path / "long.csv", columns)
    assert (found.row_names, found.column_names) == (("a", "c"), ("GP", "PR"))
    assert found.counts.toarray().tolist() == [[3, 0], [0, 0]] and found.totals.tolist() == [3, 0]
    report = " ".join(found.report)
    assert "6 events were read, 3 of them count. 3 events have no whole number from 0 in 'n'" in report
    assert "1 rows have no event that counts; they are left out: 'b'." in report
    assert "1 columns have no event that counts; they are left out: 'TT'." in report
    assert "1 rows have counts of 0 only; they are kept." in report
    found = count_events(tmp_path / "long.csv", columns, Rules(min_rows=1))
    assert found.column_names == ("GP",)
    assert "1 of 2 columns are above 0 in no row" in " ".join(found.report)


def test_a_map_of_other_codes_is_told(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("patient,code\na,x\n")
    (tmp_path / "map.csv").write_text("code,group\ny,Y\n")
    with pytest.raises(InputError, match="none of the codes"):
        count_events(tmp_path / "events.csv", Columns("patient", "code"), Rules(roll_up=tmp_path / "map.csv"))


def test_visits_of_a_real_kind(shared_cases: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--row", "visit", "--code", "spp", "--count", "count", "--out", "long.npz")
    assert run(monkeypatch, "counts", str(shared_cases / "long_odd.csv"), *options) == 0
    assert "poplin fit long.npz --out DIR" in capsys.readouterr().out
    table = read_counts("long.npz")
    assert (table.row_names, table.column_names) == (("a", "c", "d"), ("GP", "PR"))
    assert table.values.tolist() == [[3, 0], [0, 0], [1, 0]]


def write_omop(folder: Path) -> Path:
    """A small folder of OMOP tables, one of them in capitals, one in Parquet."""
    folder.mkdir()
    (folder / "condition_occurrence.csv").write_text(
        "PERSON_ID,CONDITION_CONCEPT_ID,CONDITION_START_DATE\n1,201826,2024-01-01\n1,0,2024-01-01\n2,201826,2024-01-05\n"
    )
    drugs = {"person_id": [1, 1], "drug_concept_id": [1503297, 1503297]}
    dates = {"drug_exposure_start_date": pandas.to_datetime(["2024-01-01", "2024-01-01"])}
    pandas.DataFrame(drugs | dates).to_parquet(folder / "drug_exposure.parquet")
    (folder / "person.csv").write_text(
        "person_id,gender_concept_id,year_of_birth\n1,8507,1950\n2,,\n3,8532,1960\n"
    )
    return folder


def test_tables_of_omop(tmp_path: Path) -> None:
    found = count_events(write_omop(tmp_path / "omop"), None, Rules(distinct_days=True))
    assert (found.row_names, found.column_names) == (("1", "2"), ("1503297", "201826"))
    assert found.counts.toarray().tolist() == [[1, 1], [0, 1]]
    assert found.people["gender_concept_id"].tolist() == ["8507", "unknown"]
    assert found.people["year_of_birth"][0] == 1950 and np.isnan(found.people["year_of_birth"][1])
    report = " ".join(found.report)
    assert "1 events have concept 0" in report and "1 persons have no event" in report


BAD: dict[str, tuple[str, Columns, Rules, str]] = {
    "no such file": ("", COLUMNS, Rules(), "There is no file"),
    "a column that is not there": (
        "who,code\na,x\n",
        COLUMNS,
        Rules(),
        "no column 'times'|no column 'patient'",
    ),
    "no events": ("patient,code\n", Columns("patient", "code"), Rules(), "no events"),
    "dates that are not there": (
        "patient,code\na,x\n",
        Columns("patient", "code", "date"),
        Rules(distinct_days=True),
        "no column 'date'.*Columns.date",
    ),
    "too few rows": (
        "patient,code\na,x\n",
        Columns("patient", "code"),
        Rules(min_rows=2),
        "above 0 in 2 rows or more; the most are 1. Lower min_rows",
    ),
    "lines of another length": (
        "patient,code\na,x\nb,y,z\n",
        Columns("patient", "code"),
        Rules(),
        "cannot be read",
    ),
    "days that end before they begin": (
        "patient,code\na,x\n",
        COLUMNS,
        Rules(datetime.date(2024, 1, 2), datetime.date(2024, 1, 1)),
        "Swap",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_counted_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    text, columns, rules, said = BAD[kind]
    if text:
        (tmp_path / "events.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        count_events(tmp_path / "events.csv", columns, rules, scratch=tmp_path)
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".poplin")]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """`poplin ...`; gives the exit code."""
    monkeypatch.setattr(sys, "argv", ["poplin", *words])
    with pytest.raises(SystemExit) as ended:
        poplin.cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("kind", [".h5ad", ".npz"])
def test_the_command_writes_what_fit_reads(kind: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write_omop(tmp_path / "omop")
    assert run(monkeypatch, "counts", "omop", "--omop", "--out", f"counts{kind}") == 0
    said = capsys.readouterr().out
    assert re.search(r"5 events were read, 4 of them count", said) and f"poplin fit counts{kind}" in said
    table = read_counts(tmp_path / f"counts{kind}")
    assert (table.row_names, table.column_names) == (("1", "2"), ("1503297", "201826"))
    assert table.values.tolist() == [[2, 1], [0, 1]]
    np.testing.assert_array_equal(table.covariates["log_total"], np.log([3, 1]))
    if kind == ".h5ad":
        held = anndata.read_h5ad("counts.h5ad")
        assert "5 events were read" in held.uns["poplin_counts"]["report"][0] and held.var[
            "rows"
        ].tolist() == [1, 2]
        assert "poplin counts omop" in held.uns["poplin_counts"]["command"]


@pytest.mark.parametrize("kind", [".h5ad", ".npz"])
def test_numbers_of_concepts_are_kept_beside_their_names(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write_omop(tmp_path / "omop")
    (tmp_path / "omop" / "concept.csv").write_text(
        "concept_id\tconcept_name\n201826\tType 2 diabetes\n8507\tMALE\n"
    )
    assert run(monkeypatch, "counts", "omop", "--omop", "--quiet", "--out", f"counts{kind}") == 0
    assert read_counts(f"counts{kind}").column_names == ("1503297", "Type 2 diabetes")
    held = (
        anndata.read_h5ad("counts.h5ad").var["concept_id"]
        if kind == ".h5ad"
        else np.load("counts.npz")["var_concept_id"]
    )
    assert list(held) == ["1503297", "201826"]


def test_the_command_refuses_before_it_reads(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.csv").write_text("patient,code\na,x\n")
    assert run(monkeypatch, "counts", "e.csv", "--out", "counts.csv") == 2
    assert run(monkeypatch, "counts", "e.csv", "--out", "there/counts.h5ad") == 2
    assert run(monkeypatch, "counts", "e.csv", "--since", "1.2.2024", "--out", "c.h5ad") == 2
    said = capsys.readouterr().err
    assert "ends in .h5ad or .npz" in said and "no folder there" in said and "a day such as" in said
    assert [left.name for left in tmp_path.iterdir()] == ["e.csv"]


ASKED: dict[str, tuple[str, Columns, Rules, str, str]] = {
    "no such rows": ("a.csv", Columns("person", "code"), Rules(), "Columns(row=...)", "--row COLUMN"),
    "no such codes": ("a.csv", Columns("patient", "icd"), Rules(), "Columns(code=...)", "--code COLUMN"),
    "no such counts": (
        "a.csv",
        Columns("patient", "code", None, "n"),
        Rules(),
        "Columns(count=...)",
        "--count COLUMN",
    ),
    "no such days": (
        "a.csv",
        Columns("patient", "code", "day"),
        Rules(distinct_days=True),
        "Columns(date=...)",
        "--date COLUMN",
    ),
    "too many rows asked for": (
        "a.csv",
        Columns("patient", "code"),
        Rules(min_rows=9),
        "the most are 2. Lower min_rows",
        "the most are 2. Lower --min-rows",
    ),
    "tables of OMOP": ("omop", Columns("patient", "code"), Rules(), "give columns=None", "say --omop"),
    "a map of other codes": (
        "a.csv",
        Columns("patient", "code"),
        Rules(roll_up=Path("map.csv")),
        "such as 'x', 'y'; its first column holds 'E11'",
        "such as 'x', 'y'; its first column holds 'E11'",
    ),
}


@pytest.mark.parametrize("what", ASKED)
def test_what_is_asked_in_vain_is_mended_in_the_language_of_the_door(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, columns, rules, python, command = ASKED[what]
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("patient,code\np,x\nq,x\nq,y\n")
    Path("map.csv").write_text("fine,code\nE11,E\n")
    Path("omop").mkdir()
    Path("omop/condition_occurrence.csv").write_text("person_id\n1\n")
    with pytest.raises(InputError) as met:
        count_events(Path(name), columns, rules)
    assert python in str(met.value) and command in met.value.at_command_line


@pytest.mark.parametrize("content", [None, "code\nx\n"])
def test_a_map_is_looked_at_before_anything_is_counted(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "a.csv").write_text("patient,code\np,x\n")
    if content is not None:
        (tmp_path / "map.csv").write_text(content)
    heard: list[str] = []
    with pytest.raises(InputError, match="map.csv"):
        count_events(
            tmp_path / "a.csv",
            Columns("patient", "code"),
            Rules(roll_up=tmp_path / "map.csv"),
            tell=heard.append,
        )
    assert heard == []
