"""Which files events are read from: all parts of a table, each name as it is spelled, and nothing twice.

`EVENTS` are cut into parts, named and nested as exports are; the whole is what pandas counts in them together.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from poplin import InputError
from poplin.data.events import Columns, count_events

COLUMNS = Columns("person_id", "condition_concept_id")
EVENTS = pandas.DataFrame(
    {
        "person_id": [i % 5 + 1 for i in range(80)],
        "condition_concept_id": [201826 + i % 3 for i in range(80)],
        "condition_start_date": ["2024-01-01"] * 80,
    }
)
WHOLE = pandas.crosstab(EVENTS.person_id, EVENTS.condition_concept_id)


def write(part: pandas.DataFrame, path: Path) -> None:
    """Events as a file of that kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".parquet":
        part.to_parquet(path)
    else:
        part.to_csv(path, index=False, sep="\t" if ".tsv" in path.name.lower() else ",")


def written(folder: Path, *names: str) -> Path:
    """The events, in as many parts as there are names."""
    for place, name in enumerate(names):
        write(EVENTS.iloc[place :: len(names)], folder / name)
    return folder


PARTS = {
    "one file": ("condition_occurrence.csv",),
    "numbers after a dot": ("condition_occurrence.1.csv", "condition_occurrence.2.csv"),
    "numbers after a line": ("condition_occurrence_001.csv.gz", "condition_occurrence_002.csv.gz"),
    "capitals": ("CONDITION_OCCURRENCE_PART1.TSV", "CONDITION_OCCURRENCE_PART2.TSV"),
    "of how many": (
        "condition_occurrence-00000-of-00002.parquet",
        "condition_occurrence-00001-of-00002.PARQUET",
    ),
    "a folder": ("condition_occurrence/part-0.parquet", "condition_occurrence/part-1.PARQUET"),
    "folders": ("condition_occurrence/a/0.parquet", "condition_occurrence/b/c/0.parquet"),
}


@pytest.mark.parametrize("names", PARTS.values(), ids=PARTS)
def test_a_table_of_omop_is_read_in_all_its_parts(tmp_path: Path, names: tuple[str, ...]) -> None:
    found = count_events(written(tmp_path / "omop", *names), None)
    assert found.counts.toarray().tolist() == WHOLE.to_numpy().tolist()
    assert found.report[0] == "80 events were read, 80 of them count."


TWICE = {
    "another kind": ("condition_occurrence.csv", "condition_occurrence.parquet"),
    "packed and not": ("condition_occurrence.csv", "condition_occurrence.csv.gz"),
    "whole and in parts": ("condition_occurrence.csv", "condition_occurrence.1.csv"),
    "a folder and a file": ("condition_occurrence/0.parquet", "condition_occurrence.parquet"),
}


@pytest.mark.parametrize("names", TWICE.values(), ids=TWICE)
def test_a_table_that_may_be_there_twice_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="the same table twice, or parts of it"):
        count_events(written(tmp_path, *names), None)


def test_a_file_that_is_named_nearly_as_a_table_is_told(tmp_path: Path) -> None:
    written(tmp_path, "condition_occurrence.csv")
    write(EVENTS, tmp_path / "condition_occurrence_old.csv")
    (tmp_path / "concept.csv").write_text("concept_id\n1\n")  # a table that is of no use here
    report = count_events(tmp_path, None).report
    assert report[0].startswith("80 events")
    assert [said for said in report if "'condition_occurrence_old.csv' in" in said]
    assert [said for said in report if "concept.csv has no columns" in said]


@pytest.mark.parametrize("name", ["e[1]", "e*", "e?", "e**", "[a-z]1", "a[", "a]"])
@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_names_are_no_patterns(tmp_path: Path, name: str, kind: str) -> None:
    for other in ("e1", "e2", "ab"):
        write(EVENTS, tmp_path / f"{other}{kind}")
    for folder in (tmp_path, tmp_path / "d[1]*"):
        write(EVENTS.iloc[:7], folder / f"{name}{kind}")
        found = count_events(folder / f"{name}{kind}", COLUMNS)
        assert found.report[0] == "7 events were read, 7 of them count."


def test_a_folder_of_parquet_files_is_read_whole(tmp_path: Path) -> None:
    written(tmp_path / "e", "a.parquet", "b[1].PARQUET", "more/c.parquet", "more/of it/d.Parquet")
    (tmp_path / "e" / "_temporary").mkdir()  # what Spark leaves
    write(EVENTS, tmp_path / "e" / "_temporary" / "a.parquet")
    assert count_events(tmp_path / "e", COLUMNS).counts.toarray().tolist() == WHOLE.to_numpy().tolist()
    write(EVENTS, tmp_path / "e" / "f.csv")
    with pytest.raises(InputError, match="holds Parquet files and 'f.csv'"):
        count_events(tmp_path / "e", COLUMNS)


def test_a_line_break_in_the_header_loses_no_events(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text('"patient\nname",code\na,x\na,x\nb,y\n')
    assert count_events(tmp_path / "e.csv", Columns("patient\nname", "code")).counts.toarray().tolist() == [
        [2, 0],
        [0, 1],
    ]


# lines of the table of persons, and what follows for the years of birth of the persons 1 to 5
PERSONS: dict[str, tuple[dict[str, str], Callable[[Any], bool]]] = {
    "each once": ({"person.csv": "1,1950\n2,1960\n"}, lambda years: years[:2] == [1950, 1960]),
    "the same twice": ({"person.csv": "1,1950\n1,1950\n2,1960\n"}, lambda years: years[:2] == [1950, 1960]),
    "in parts": ({"person.1.csv": "1,1950\n", "person.2.csv": "2,1960\n1,1950\n"}, lambda years: years[1] == 1960),
}  # fmt: skip


@pytest.mark.parametrize("how", PERSONS)
def test_persons_are_one_a_row(tmp_path: Path, how: str) -> None:
    files, right = PERSONS[how]
    written(tmp_path, "condition_occurrence.csv")
    for name, lines in files.items():
        (tmp_path / name).write_text("person_id,year_of_birth\n" + lines)
    found = count_events(tmp_path, None)
    years = found.people["year_of_birth"].tolist()
    assert len(years) == len(found.row_names) == 5 and right(years)


def test_a_person_of_whom_lines_differ_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "condition_occurrence.csv")
    (tmp_path / "person.csv").write_text("person_id,year_of_birth\n1,1950\n1,1951\n2,1960\n")
    with pytest.raises(InputError, match="says different things of '1' in several lines"):
        count_events(tmp_path, None)


VOCABULARY = {
    "1": (
        "concept.csv",
        'concept_id,concept_name\n201826,Type 2 diabetes\n201827,"Pain, acute"\n8507,MALE\n9,other\n',
    ),
    "quotes that nothing closes": (
        "CONCEPT.csv",
        'concept_id\tconcept_name\tdomain_id\n9\t5" nail\tDevice\n201826\tType 2 diabetes\tCondition\n'
        "201827\tPain, acute\tCondition\n8507\tMALE\tGender\n",
    ),
}


@pytest.mark.parametrize(("name", "text"), VOCABULARY.values(), ids=VOCABULARY)
def test_columns_and_persons_have_the_names_of_concepts(tmp_path: Path, name: str, text: str) -> None:
    written(tmp_path, "condition_occurrence.csv")
    (tmp_path / name).write_text(text)
    (tmp_path / "CONCEPT_ANCESTOR.csv").write_text("a,b\n1,2\n")
    (tmp_path / "person.csv").write_text("person_id,gender_concept_id\n1,8507\n2,8532\n")
    found = count_events(tmp_path, None)
    assert found.column_names == ("Type 2 diabetes", "Pain, acute", "201828")
    assert found.concepts == ("201826", "201827", "201828")
    assert found.people["gender_concept_id"].tolist() == ["MALE", "8532", "unknown", "unknown", "unknown"]
    assert found.counts.toarray().tolist() == WHOLE.to_numpy().tolist()
    assert any(name in said for said in found.report)


SAME = {
    "two alike": ({201826: "Pain", 201827: "Pain"}, ("Pain (201826)", "Pain (201827)", "201828")),
    "a name that looks like another with its number": (
        {201826: "Pain", 201827: "Pain", 201828: "Pain (201826)"},
        ("Pain (201826)", "Pain (201827)", "Pain (201826) (201828)"),
    ),
}


@pytest.mark.parametrize(("names", "right"), SAME.values(), ids=SAME)
def test_names_of_concepts_are_told_apart(
    tmp_path: Path, names: dict[int, str], right: tuple[str, ...]
) -> None:
    written(tmp_path, "condition_occurrence.parquet")
    pandas.DataFrame({"concept_id": list(names), "concept_name": list(names.values())}).to_parquet(
        tmp_path / "concept.parquet"
    )
    assert count_events(tmp_path, None).column_names == right


def test_two_tables_of_concepts_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "condition_occurrence.csv")
    for name in ("concept.csv", "CONCEPT.tsv"):
        (tmp_path / name).write_text("concept_id\tconcept_name\n1\tx\n")
    with pytest.raises(InputError, match="twice. Leave one"):
        count_events(tmp_path, None)
