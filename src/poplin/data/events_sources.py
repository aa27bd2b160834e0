"""Where events are read from: text and Parquet files of any size, and the tables of OMOP, as SQL for DuckDB.

Start at `file_source` (one file or a folder of Parquet files) and `omop_sources`. Columns are read as text, so that
codes stay as they are spelled ("007", "250.00"); nothing is read before DuckDB runs the SQL.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

from poplin._errors import InputError
from poplin.data.tables import listed
from poplin.data.textfiles import opened

TEXT = (".csv", ".tsv", ".txt")
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


def file_source(base: Any, path: Path) -> Source:
    """A file of events (csv, tsv, txt, also .gz, or Parquet) or a folder of Parquet files; `base` is the connection."""
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
    sql = (
        f"read_csv({literal(str(path))}, auto_detect=false, header=true, delim={literal(delimiter)}, quote='\"', "
        f"escape='\"', compression='{packing}', columns={{{columns}}})"
    )
    return Source(path.name, sql, dict.fromkeys(names, "VARCHAR"))


def _parquet(base: Any, path: Path) -> Source:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError(
            f"{path} is a folder without .parquet files. Give a file, or a folder of Parquet files."
        )
    sql = f"read_parquet([{', '.join(literal(str(file)) for file in files)}])"
    types = {name: str(kind) for name, kind, *_ in base.execute(f"DESCRIBE SELECT * FROM {sql}").fetchall()}
    return Source(path.name, sql, types)


def _head(path: Path) -> tuple[list[str], str]:
    """The names at the head of a text file, and what stands between them."""
    try:
        with opened(path) as handle:
            first = handle.readline()
            handle.seek(0)
            counts = {mark: first.count(mark) for mark in DELIMITERS}
            delimiter = "\t" if ".tsv" in path.suffixes else max(counts, key=lambda mark: counts[mark])
            names = [name.strip() for name in next(csv.reader(handle, delimiter=delimiter), [])]
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise InputError(f"{path.name} is no text in UTF-8: {error}.") from error
    if not any(names):
        raise InputError(
            f"{path.name} is empty. It needs a line of column names and one line for each event."
        )
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"{path.name} has two columns of the name {listed(sorted(twice))}. Rename one.")
    return names, delimiter


def omop_sources(base: Any, folder: Path) -> dict[str, Source]:
    """The tables of OMOP in a folder, by name: those of `OMOP` that are there, and `person`."""
    if not folder.is_dir():
        raise InputError(f"--omop: {folder} is no folder. Give the one that holds {listed(OMOP)}.")
    found = {}
    for name in (*OMOP, "person"):
        files = [
            file
            for file in sorted(folder.iterdir())
            if file.name.lower().split(".")[0] == name
            and (file.suffix.lower() in (*TEXT, ".gz", ".parquet") or file.is_dir())
        ]
        if files:
            found[name] = file_source(base, files[0])
    if not set(found) & set(OMOP):
        raise InputError(f"--omop: {folder} holds none of {listed(OMOP)} (as .csv, .csv.gz or .parquet).")
    return found
