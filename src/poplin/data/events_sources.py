"""Where events are read from: text and Parquet files of any size, and the tables of OMOP, as SQL for DuckDB.

Start at `file_source` (one file or a folder of Parquet files) and `omop_sources`. Columns are read as text, so that
codes stay as they are spelled ("007", "250.00"); nothing is read before DuckDB runs the SQL. What else lies in a folder
is told or refused, as twice the same events, or half of them, would be.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from poplin._errors import InputError
from poplin.data.tables import Names, listed
from poplin.data.textfiles import DAMAGE, opened

TEXT = (".csv", ".tsv", ".txt", ".tab")
DELIMITERS = (",", ";", "\t", "|")
# OMOP common data model, version 5: a table, its concept, its date.
OMOP = {
    "condition_occurrence": ("condition_concept_id", "condition_start_date"),
    "drug_exposure": ("drug_concept_id", "drug_exposure_start_date"),
    "procedure_occurrence": ("procedure_concept_id", "procedure_date"),
}
NO_CONCEPT = "0"  # OMOP's word for a source code that has no concept


class Source(NamedTuple):
    """A table as SQL, and the type of each of its columns."""

    name: str
    sql: str
    types: dict[str, str]

    def column(self, wanted: str) -> str:
        """The column of that name (or of that name in other letter case), quoted."""
        found = [name for name in self.types if name == wanted] or [
            name for name in self.types if name.lower() == wanted.lower()
        ]
        if not found:
            raise InputError(f"{self.name} has no column '{wanted}'; it has {listed(self.types, 12)}.")
        return quoted(found[0])

    def has(self, wanted: str) -> bool:
        """Whether there is such a column."""
        return wanted.lower() in (name.lower() for name in self.types)

    def text(self, wanted: str) -> str:
        """A column as text; whole numbers that a gap has turned into 12.0 are 12 again; '' is nothing."""
        column = self.column(wanted)
        if self.types[column[1:-1].replace('""', '"')] in ("DOUBLE", "FLOAT"):
            whole = f"{column} = trunc({column}) AND abs({column}) < 1e15"
            plain = f"CAST({column} AS VARCHAR)"
            column = f"CASE WHEN {whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) ELSE {plain} END"
        return f"nullif(CAST({column} AS VARCHAR), '')"

    def whole(self, wanted: str) -> str:
        """A column as a whole number, nothing where it is none."""
        # nullif: else DuckDB 2.0 hands the cast down to its reader of text, where a cast that fails is an error.
        number = f"TRY_CAST(nullif(CAST({self.column(wanted)} AS VARCHAR), '') AS DOUBLE)"
        return f"CASE WHEN {number} = trunc({number}) AND {number} >= 0 THEN CAST({number} AS BIGINT) END"


def quoted(name: str) -> str:
    """A name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Text as a constant of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _file(path: Path) -> str:
    """A file's path as a constant of SQL; DuckDB would take brackets and stars for a pattern of names."""
    return literal(re.sub(r"([\[*?])", r"[\1]", str(path)))


def file_source(base: Any, path: Path, *, quotes_at_tabs: bool = True) -> Source:
    """A file of events (csv, tsv, txt, also .gz, or Parquet) or a folder of Parquet files; `base` is the connection.

    `quotes_at_tabs` is whether quotes enclose a field in text that is cut at tabs; else they are part of it.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = next(iter(suffixes[-2:-1] if packed else suffixes[-1:]), "")
    if not path.exists():
        raise InputError(f"There is no file {path}. Check the path (relative to {Path.cwd().name}/).")
    if path.is_dir() or kind == ".parquet":
        return _parquet(base, path)
    if kind not in TEXT:
        raise InputError(
            f"{path.name} is of no known kind. Known are {listed((*TEXT, '.parquet'))} (.gz after text)."
        )
    names, delimiter = _head(path)
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    packing = "gzip" if packed else "none"
    quote = literal('"' if quotes_at_tabs or delimiter != "\t" else "")
    sql = (
        f"read_csv({_file(path)}, auto_detect=false, header=true, delim={literal(delimiter)}, quote={quote}, "
        f"escape={quote}, compression='{packing}', columns={{{columns}}})"
    )
    return Source(path.name, sql, dict.fromkeys(names, "VARCHAR"))


def _parquet(base: Any, path: Path) -> Source:
    files = _parquet_files(path) if path.is_dir() else [path]
    sql = f"read_parquet([{', '.join(map(_file, files))}])"
    types = {name: str(kind) for name, kind, *_ in base.execute(f"DESCRIBE SELECT * FROM {sql}").fetchall()}
    return Source(path.name, sql, types)


def _parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder and of those in it, without what writers leave there (names with _ or . before)."""
    every = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part[0] in "_." for part in file.relative_to(folder).parts)
    ]
    files = [file for file in every if file.suffix.lower() == ".parquet"]
    if not files:
        said = f"{folder} is a folder without .parquet files."
        if any(_OF_TABLE.match(kind_and_stem(file)[1]) for file in every):
            said += " It holds tables of OMOP, it seems:"
            raise InputError(f"{said} give columns=None.", at_command_line=f"{said} say --omop.")
        raise InputError(f"{said} Give a file, or a folder of Parquet files.")
    others = [file.name for file in every if kind_and_stem(file)[0] in TEXT]
    if others:
        raise InputError(
            f"{folder} holds Parquet files and {listed(others)}: are these events too, or the same once more? Leave in "
            "the folder what is to be counted, as Parquet files."
        )
    return files


def kind_and_stem(path: Path) -> tuple[str, str]:
    """The kind of a file, in small letters and without .gz, and its name before that, in small letters."""
    name = path.name.lower().removesuffix(".gz")
    stem, dot, kind = name.rpartition(".")
    return (f".{kind}", stem) if dot and f".{kind}" in (*TEXT, ".parquet") else ("", name)


def _head(path: Path) -> tuple[list[str], str]:
    """The names at the head of a text file, and what stands between them."""
    try:
        with opened(path) as handle:
            first = handle.readline()
            handle.seek(0)
            counts = {mark: first.count(mark) for mark in DELIMITERS}
            delimiter = (
                "\t"
                if kind_and_stem(path)[0] in (".tsv", ".tab")
                else max(counts, key=lambda mark: counts[mark])
            )
            names = [name.strip() for name in next(csv.reader(handle, delimiter=delimiter), [])]
    except UnicodeError as error:
        raise InputError(f"{path.name} is no text in UTF-8: {error}. Save it as UTF-8.") from error
    except DAMAGE as error:
        raise InputError(f"{path.name} is damaged: {error}. Copy it again.") from error
    if not any(names):
        raise InputError(
            f"{path.name} is empty. It needs a line of column names and one line for each event."
        )
    lower = [name.lower() for name in names]
    twice = {name for name in names if lower.count(name.lower()) > 1}
    if twice:
        raise InputError(
            f"{path.name} has columns of the same name, or with other capitals: {listed(sorted(twice))}. Rename one."
        )
    return names, delimiter


def omop_sources(base: Any, folder: Path) -> tuple[dict[str, list[Source]], Names]:
    """The tables of OMOP in a folder, by name, each in one part or several, and what is to be told.

    They are those of `OMOP` that are there, and `person`. A table is a file or a folder of Parquet files of its name;
    parts have a number after it (drug_exposure.1.csv, drug_exposure_part2.csv).
    """
    if not folder.is_dir():
        raise InputError(f"--omop: {folder} is no folder. Give the one that holds {listed(OMOP)}.")
    files: dict[str, list[Path]] = {}
    odd = []
    for file in sorted(folder.iterdir()):
        kind, stem = kind_and_stem(file)
        of_table = _OF_TABLE.match(stem)
        if of_table is None or not (kind or file.is_dir() or file.suffix.lower() == ".gz"):
            continue
        if _PART.fullmatch(stem, of_table.end()):
            files.setdefault(of_table[0], []).append(file)
        else:
            odd.append(file.name)
    if not set(files) & set(OMOP):
        raise InputError(f"--omop: {folder} holds none of {listed(OMOP)} (as .csv, .csv.gz or .parquet).")
    told = (
        (f"{listed(odd)} in {folder.name} were not read: they are named as no part of a table.",)
        if odd
        else ()
    )
    for name, parts in files.items():
        _check_parts(name, parts)
    order = [name for name in (*OMOP, "person") if name in files]
    return {name: [file_source(base, file) for file in files[name]] for name in order}, told


_OF_TABLE = re.compile("|".join((*OMOP, "person")))
_PART = re.compile(r"([._ -]?(part)?[._ -]?\(?\d[\w.()-]*)?")


def _check_parts(name: str, parts: list[Path]) -> None:
    """Raises `InputError` where files may be the same table twice: of several kinds, or whole beside parts."""
    kinds = {(part.is_dir(), kind_and_stem(part)[0], part.suffix.lower() == ".gz") for part in parts}
    whole = [part.name for part in parts if kind_and_stem(part)[1] == name]
    if len(parts) > 1 and (whole or len(kinds) > 1):
        raise InputError(
            f"The folder holds {listed(part.name for part in parts)}: the same table twice, or parts of it? Leave one "
            f"file of {name}, or parts of one kind with a number each ({name}.1.csv, {name}.2.csv)."
        )


# Names for OMOP's concepts, from the table CONCEPT that vocabularies come with, where it lies beside the events.
#
# Start at `fill_names`, then `named`. A concept is a number to everybody but a machine; columns of the counts and
# what is known of persons take its name. Where two have one name, their numbers tell them apart.


TABLE = "concept"


def fill_names(base: Any, folder: Path) -> Names:
    """The view `named` (id, name) in the database, empty where the folder has no table of concepts; what is told."""
    found = [file for file in sorted(folder.iterdir()) if kind_and_stem(file)[1] == TABLE]
    found = [file for file in found if file.is_dir() or kind_and_stem(file)[0]]
    if len(found) > 1:
        raise InputError(
            f"The folder holds {listed(file.name for file in found)}: the names of concepts twice. Leave one of them."
        )
    nothing = "SELECT '' AS id, '' AS name WHERE false"
    if not found:
        base.execute(f"CREATE VIEW named AS {nothing}")
        return ()
    # Vocabularies come cut at tabs, and with quotes that nothing closes.
    source = file_source(base, found[0], quotes_at_tabs=False)
    if not (source.has("concept_id") and source.has("concept_name")):
        base.execute(f"CREATE VIEW named AS {nothing}")
        return (f"{found[0].name} has no columns concept_id and concept_name; concepts stay numbers.",)
    columns = f"{source.text('concept_id')} AS id, min({source.text('concept_name')}) AS name"
    base.execute(f"CREATE VIEW named AS SELECT {columns} FROM {source.sql} GROUP BY ALL")
    return (f"Concepts have the names that {found[0].name} gives them.",)


def named(base: Any, ids: Sequence[str]) -> list[str]:
    """What these ids are called, each by another name; those without a name as they are."""
    base.execute(
        "CREATE OR REPLACE TEMP TABLE asked AS SELECT DISTINCT unnest($1::VARCHAR[]) AS id", [list(ids)]
    )
    names = dict(base.execute("SELECT id, name FROM named SEMI JOIN asked USING (id)").fetchall())
    called = {one: names.get(one) or one for one in ids}
    times = Counter(called.values())
    labels = {one: name if times[name] == 1 else f"{name} ({one})" for one, name in called.items()}
    if len(set(labels.values())) < len(labels):  # a name looks like another with its number
        labels = {one: f"{name} ({one})" for one, name in called.items()}
    return [labels[one] for one in ids]
