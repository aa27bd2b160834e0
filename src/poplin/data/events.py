"""Long tables of events (patient, code, perhaps a date and a count) to counts, rows by codes, out of core.

Start at `count_events`. DuckDB reads the files once, groups on disk what does not fit in memory, and hands over the
cells of a sparse table. What was left out, and why, is told in `EventCounts.report`: nothing is dropped in silence.
"""

from __future__ import annotations

import datetime
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poplin import _process
from poplin._errors import InputError, is_slip, library
from poplin.data.events_sources import (
    NO_CONCEPT,
    OMOP,
    Source,
    file_source,
    fill_names,
    literal,
    named,
    omop_sources,
)
from poplin.data.tables import listed
from poplin.data.textfiles import GAP_WORDS

__all__ = ["Columns", "EventCounts", "Rules", "count_events"]

# Dates of events as people write them: one format for the whole column, inferred or asked for.
#
# Start at `days`. Two readings that differ (4/10/03 in America and in Britain) are a question, not a guess, and what
# does not read as the other dates do is an error with examples: a day that is misread moves an event in silence.


FIRST_YEAR = 1900  # no earlier event was recorded; 4/10/03 read with a year of four digits is of the year 3
_NONE = (*GAP_WORDS, "NaN", "nan", "NaT")
# What may follow the day; only the day counts, so it is cut off, and not turned into another time zone.
_ZONE = r"( *(Z|UTC|GMT|[+-]\d{1,2}(:?\d{2})?))?"
_TIME = rf"[ T]+([01]?\d|2[0-4]):[0-5]\d(:[0-6]\d([.,]\d+)?)?( *[AaPp]\.?[Mm]\.?)?{_ZONE}$"
_PARTS = {
    "%Y": r"\d{4}",
    "%y": r"\d{2}",
    "%m": r"\d{1,2}",
    "%d": r"\d{1,2}",
    "%b": "[A-Za-z]{3}",
    "%B": "[A-Za-z]{3,}",
}
_WORDS = {"yyyy": "%Y", "yy": "%y", "mmmm": "%B", "mmm": "%b", "mm": "%m", "m": "%m", "dd": "%d", "d": "%d"}


class Days(NamedTuple):
    """A column of dates: the SQL of its day, and how it was read, in words for the report."""

    sql: str
    told: tuple[str, ...] = ()


class _Column(NamedTuple):
    """Where dates are, for messages, and the table of the different ones, `part`."""

    base: Any
    name: str
    source: str

    def one(self, sql: str) -> tuple[Any, ...]:
        """What is asked of all of them at once."""
        return self.base.execute(f"SELECT {sql} FROM dates").fetchone()

    def examples(self, test: str) -> tuple[int, list[str]]:
        """How many different dates pass the test, and the first few."""
        many = self.one(f"count(*) FILTER ({test})")[0]
        few = self.base.execute(f"SELECT part FROM dates WHERE {test} ORDER BY part LIMIT 3").fetchall()
        return many, [part for (part,) in few]


def days(base: Any, source: Source, column: str, asked: str | None) -> Days:
    """The day of each event of a `source`, by its `column`; `asked` is a format, or None.

    A format is one of strptime, or in letters (M/D/YY). Raises `InputError` for dates that do not all read alike, that
    read in two ways, or are before 1900. An empty cell is no date. One pass over the column where it is text.
    """
    kind = source.types[source.column(column)[1:-1].replace('""', '"')]
    if kind in ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"):
        day = f"CAST({source.column(column)} AS DATE)"
        _fill(base, source, f"CAST({day} AS VARCHAR)")
        _check_years(_Column(base, column, source.name), "CAST(part AS DATE)")
        return Days(day)
    text = f"trim({source.text(column)})"
    text = f"CASE WHEN {text} NOT IN ({', '.join(map(literal, ('', *_NONE)))}) THEN {text} END"
    wanted = None if asked is None else _as_format(asked)
    part = (
        f"CASE WHEN contains({text}, ':') THEN regexp_replace({text}, {literal(_TIME)}, '') ELSE {text} END"
    )
    part = text if wanted is not None and re.search("%[HIMSTX]", wanted) else part
    _fill(base, source, part)
    held = _Column(base, column, source.name)
    if held.one("count(*)")[0] == 0:
        return Days("NULL::DATE")
    form = _inferred(held) if wanted is None else wanted
    _check_all(held, form, wanted is not None)
    _check_years(held, _day(form))
    example, day = held.one(f"min(part), min_by({_day(form)}, part)")
    return Days(_day(form, part), (f"The dates in '{column}' are read as {form}: '{example}' is {day}.",))


def _fill(base: Any, source: Source, part: str) -> None:
    base.execute(
        f"CREATE OR REPLACE TEMP TABLE dates AS SELECT DISTINCT {part} AS part FROM {source.sql} "
        f"WHERE {part} IS NOT NULL"
    )


def _day(form: str, part: str = "part") -> str:
    return f"CAST(try_strptime({part}, {literal(form)}) AS DATE)"


def _as_format(asked: str) -> str:
    """A format for strptime; M/D/YY, in either case, is what people write."""
    if "%" in asked:
        return asked
    day = re.sub(r"[ T]+[Hh].*", "", asked)  # of a time, which is cut off
    form = re.sub("y{4}|y{2}|m{1,4}|d{1,2}", lambda found: _WORDS[found[0].lower()], day, flags=re.IGNORECASE)
    if not all(any(code in form for code in codes) for codes in (("%Y", "%y"), ("%m", "%b", "%B"), ("%d",))):
        raise InputError(
            f"The format of dates is '{asked}'; wanted are year, month and day, as in M/D/YY or %m/%d/%y."
        )
    return form


def _formats() -> Iterator[str]:
    """Formats that are tried. Of two digits, a year stands last, but between dashes it may be first."""
    yield from (f"%Y{mark}%m{mark}%d" for mark in "-/.")
    yield "%Y%m%d"
    for year in ("%Y", "%y"):
        yield f"%d.%m.{year}"
        yield from (f"{first}{mark}{year}" for mark in "/-" for first in (f"%m{mark}%d", f"%d{mark}%m"))
        for month in ("%b", "%B"):
            yield from (f"%d{mark}{month}{mark}{year}" for mark in ("-", "/", " ", "."))
            yield from (
                f"%d{month}{year}",
                f"%d. {month} {year}",
                f"{month} %d, {year}",
                f"{month} %d {year}",
            )
    yield "%y-%m-%d"


def _reads(form: str) -> str:
    """SQL: whether a date reads in this format, digit for digit."""
    shape = re.sub("%.", lambda found: _PARTS[found[0]], form.replace(".", r"\."))
    return f"regexp_full_match(part, {literal(shape)}) AND {_day(form)} IS NOT NULL"


def _inferred(held: _Column) -> str:
    """The one format in which all dates read; the one that reads most, where none does."""
    forms = list(_formats())
    every, *many = held.one(", ".join(["count(*)", *(f"count(*) FILTER ({_reads(form)})" for form in forms)]))
    most = max(many)
    if most == 0:
        _, few = held.examples("true")
        raise InputError(
            f"The dates in '{held.name}' of {held.source} read in no known way: {listed(few)}. {_say('%d.%m.%Y')[0]}",
            at_command_line=f"The dates in '{held.name}' of {held.source} read in no known way: {listed(few)}. "
            f"{_say('%d.%m.%Y')[1]}",
        )
    best = [form for form, count in zip(forms, many, strict=True) if count == most]
    for other in best[1:] if most == every else ():
        unsure = f"{_day(best[0])} <> {_day(other)}"
        example, one, two = held.one(
            f"min(part) FILTER ({unsure}), min_by({_day(best[0])}, part) FILTER ({unsure}), "
            f"min_by({_day(other)}, part) FILTER ({unsure})"
        )
        if example is not None:
            said = (
                f"'{example}' in '{held.name}' of {held.source} may be {one} ({best[0]}) or {two} ({other}), and no "
                "other date tells which."
            )
            python, command = _say(best[0])
            raise InputError(f"{said} {python}", at_command_line=f"{said} {command}")
    return best[0]


def _say(form: str) -> tuple[str, str]:
    """How a format is given, in Python and at the command line."""
    return (
        f"Say how they are written, for example date_format='{form}'.",
        f"Say how they are written, for example --date-format '{form}'.",
    )


def _check_all(held: _Column, form: str, asked: bool) -> None:
    bad, few = held.examples(f"NOT ({f'{_day(form)} IS NOT NULL' if asked else _reads(form)})")
    if bad:
        every = held.one("count(*)")[0]
        said = (
            f"{bad} of {every} different dates in '{held.name}' of {held.source} do not read as {form}"
            f"{'' if asked else ', as the others do'}: {listed(few)}. Mend these cells, or empty them (an event "
            "without a date is left out, and counted as such)."
        )
        python, command = (" Or " + words[0].lower() + words[1:] for words in _say(form))
        raise InputError(said + ("" if asked else python), at_command_line=said + ("" if asked else command))


def _check_years(held: _Column, day: str) -> None:
    early, few = held.examples(f"year({day}) < {FIRST_YEAR}")
    if early:
        said = (
            f"{early} different dates in '{held.name}' of {held.source} read as days before {FIRST_YEAR}: "
            f"{listed(few)}. Mend these cells, or empty them."
        )
        python, command = _say("%m/%d/%y")
        raise InputError(f"{said} {python}", at_command_line=f"{said} {command}")


# The end of counting events: from a database to a sparse table with names, totals and what is known of persons.
#
# Start at `table_of`, which `events.count_events` calls last.


class EventCounts(NamedTuple):
    """Counts (n, p), sparse, rows and columns by name in order.

    Attributes:
        counts: scipy.sparse, (n, p).
        row_names: of the rows (n,).
        column_names: codes, or the names of OMOP's concepts (p,).
        totals: what each row counts within the dates, before codes are rolled up or left out (n,): its log is an
            offset.
        rows_seen: rows in which a column is not zero (p,).
        people: columns (n,) of what is known of the rows by name, or nothing.
        report: what was read and what was dropped, one sentence each.
        concepts: numbers of OMOP's concepts, where columns have their names (p,); else nothing.
    """

    counts: Any
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    totals: np.ndarray
    rows_seen: np.ndarray
    people: dict[str, np.ndarray]
    report: tuple[str, ...]
    concepts: tuple[str, ...] = ()


def table_of(
    base: Any, report: tuple[str, ...], people: list[Source], *, concepts: bool = False
) -> EventCounts:
    """The counts from the tables `rolled`, `people` and `codes` of the database; `report` goes on.

    `people` are the parts of OMOP's table of persons, if there is one; `concepts` is whether codes are OMOP's, which
    may have names.
    """
    from scipy import sparse

    rows = base.execute("SELECT who, total FROM people ORDER BY place").fetchnumpy()
    codes = base.execute("SELECT code, many FROM codes ORDER BY place").fetchnumpy()
    cells = base.execute(
        "SELECT people.place AS i, codes.place AS j, CAST(rolled.number AS INTEGER) AS number FROM rolled "
        "JOIN people USING (who) JOIN codes USING (code) WHERE rolled.number > 0"
    ).fetchnumpy()
    i, j, number = (np.asarray(cells[name]) for name in ("i", "j", "number"))
    shape = (len(rows["who"]), len(codes["code"]))
    counts = sparse.coo_array((number, (i, j)), shape=shape).tocsr()
    counts.sort_indices()
    silent = int((np.asarray(rows["total"]) == 0).sum())
    if silent:
        report += (
            f"{silent} rows have counts of 0 only; they are kept. They have no log_total: fit without it as an offset.",
        )
    empty = int((np.diff(counts.indptr) == 0).sum()) - silent
    if empty:
        report += (f"{empty} rows have none of the columns that are left; they are kept, as rows of 0.",)
    report += (f"The table has {shape[0]} rows and {shape[1]} columns, {counts.nnz} of its cells are not 0.",)
    names, columns = (tuple(map(str, part)) for part in (rows["who"], codes["code"]))
    totals, seen = np.asarray(rows["total"]), np.asarray(codes["many"])
    facts, told = _people(base, people)
    labels = tuple(named(base, columns)) if concepts else columns
    ids = columns if labels != columns else ()
    return EventCounts(counts, names, labels, totals, seen, facts, report + told, ids)


def _people(base: Any, parts: list[Source]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """What OMOP's table of persons says of the rows: year of birth as a number, concepts as text."""
    if not parts:
        return {}, ()
    wanted = [
        name
        for name in ("gender_concept_id", "race_concept_id", "ethnicity_concept_id")
        if parts[0].has(name)
    ]
    born = parts[0].has("year_of_birth")

    def facts_of(part: Source) -> str:
        facts = [f"coalesce({part.text(name)}, 'unknown') AS {name}" for name in wanted]
        facts += [f"CAST({part.whole('year_of_birth')} AS DOUBLE) AS year_of_birth"] if born else []
        return f"SELECT DISTINCT {', '.join([part.text('person_id') + ' AS who', *facts])} FROM {part.sql}"

    base.execute(f"CREATE TABLE person AS {' UNION '.join(map(facts_of, parts))}")
    twice = base.execute(
        "SELECT who FROM person WHERE who IS NOT NULL GROUP BY who HAVING count(*) > 1 ORDER BY who"
    ).fetchall()
    if twice:
        raise InputError(
            f"The table of persons says different things of {listed(who for (who,) in twice)} in several lines. Leave "
            "one line for each person."
        )
    held = base.execute(
        "SELECT person.* FROM people LEFT JOIN person USING (who) ORDER BY place"
    ).fetchnumpy()
    silent = base.execute("SELECT count(*) FROM person ANTI JOIN people USING (who)").fetchone()[0]
    told = (f"{silent} persons have no event that counts; they are no rows of the table.",) if silent else ()
    filled = {
        name: np.ma.filled(column, np.nan if name == "year_of_birth" else "unknown")
        for name, column in held.items()
    }
    for name in wanted:
        filled[name] = np.array(_called(base, filled[name]), dtype=object)
    return {name: column for name, column in filled.items() if name != "who"}, told


def _called(base: Any, ids: np.ndarray) -> list[str]:
    """The names of concepts in a column; those without one stay numbers."""
    different = list(dict.fromkeys(map(str, ids)))
    names = dict(zip(different, named(base, different), strict=True))
    return [names[str(one)] for one in ids]


# Why an event is left out: the words of the report. The first that holds is told.
NO_ROW, NO_CODE, NO_DAY, NO_NUMBER = (
    "have no row name",
    "have no code",
    "have no date",
    "have no whole number from 0",
)
EARLY, LATE, UNMATCHED = (
    "are before the first day",
    "are after the last day",
    "have concept 0 (no match in OMOP)",
)
MOST_UNMAPPED = 10  # codes that the map lacks, told by name


class Columns(NamedTuple):
    """Which columns of the events hold what.

    Attributes:
        row: the names of the rows: patients, sites.
        code: what is counted.
        date: when it was; None: dates do not matter.
        count: how many of it; None: each line is one.
    """

    row: str
    code: str
    date: str | None = None
    count: str | None = None


class Rules(NamedTuple):
    """Which events count, and as what.

    Attributes:
        since: first day, included; None: no limit.
        until: last day, included; None: no limit.
        roll_up: a file whose first two columns are a code and what it becomes (a code with several lines counts in
            each).
        min_rows: columns above 0 in fewer rows are left out.
        distinct_days: the days of a code are counted, not its events.
    """

    since: datetime.date | None = None
    until: datetime.date | None = None
    roll_up: Path | None = None
    min_rows: int = 0
    distinct_days: bool = False

    def needs_days(self) -> bool:
        """Whether dates matter.

        Returns:
            True where a rule needs days.
        """
        return self.distinct_days or self.since is not None or self.until is not None


def count_events(
    events: Path,
    columns: Columns | None,
    rules: Rules | None = None,
    *,
    date_format: str | None = None,
    memory: str = "4GB",
    scratch: Path | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> EventCounts:
    """Count the events of a file: rows by codes.

    One pass over the file, and one over its dates where they matter; cost grows with the events. What is left out, and
    why, stands in the report.

    Args:
        events: a table of events (patient, code, perhaps a date and a count) as .csv, .tsv, .txt (also .gz) or Parquet,
            or a folder of OMOP tables.
        columns: which columns hold what; None: `events` is a folder of OMOP tables (condition_occurrence,
            drug_exposure, procedure_occurrence, person, and concept, which names columns).
        rules: which events count; None: all.
        date_format: how dates are written, for strptime or in letters (M/D/YY); None: the one format in which all read.
        memory: DuckDB's limit, as "4GB".
        scratch: a folder for what does not fit in memory, removed at the end; None: the system's for temporary files.
        tell: called with a sentence at each stage.

    Returns:
        An `EventCounts`.

    Raises:
        InputError: files that cannot be read, dates that read in no or two ways, and tables of which nothing is left.
    """
    rules = rules or Rules()
    if rules.since is not None and rules.until is not None and rules.since > rules.until:
        raise InputError(f"The first day, {rules.since}, is after the last, {rules.until}. Swap them.")
    with _base(events, memory, scratch) as base:
        people: list[Source] = []
        told: tuple[str, ...] = ()
        if columns is None:
            found, told = omop_sources(base, events)
            people = found.pop("person", [])
            told += fill_names(base, events)
            sources = [
                (source, Columns("person_id", *OMOP[name]))
                for name, parts in found.items()
                for source in parts
            ]
        else:
            sources = [(file_source(base, events), columns)]
            _check_columns(sources[0][0], columns)
        changes = _map_of(base, rules)  # first, as counting may take long
        tell(f"Reading {events.name}")
        read = [_days(base, source, named, rules, date_format) for source, named in sources]
        parts = [
            _events(source, named, rules, day.sql, omop=columns is None)
            for (source, named), day in zip(sources, read, strict=True)
        ]
        _fill_cells(base, parts, rules)
        tell("Counting")
        report = _told_events(base) + told + tuple(words for day in read for words in day.told)
        report += _fill_rolled(base, rules, changes) + _fill_names(base, rules)
        tell("Building the table")
        return table_of(base, report, people, concepts=columns is None)


@contextmanager
def _base(events: Path, memory: str, scratch: Path | None) -> Iterator[Any]:
    """An empty database on disk that is gone afterwards; DuckDB's complaints become `InputError`."""
    duckdb = library("duckdb", extra="events", what="Counting events")
    with _process.scratch(scratch or Path(tempfile.gettempdir())) as folder:
        base = duckdb.connect(str(folder / "events.duckdb"))
        try:
            _limit(base, memory)
            base.execute(f"SET temp_directory = {literal(str(folder / 'spill'))}")
            base.execute("SET preserve_insertion_order = false")
            base.execute("SET enable_progress_bar = false")
            yield base
        except InputError:
            raise
        except Exception as error:  # of damaged files, of too little memory; DuckDB's, and Arrow's
            if is_slip(error):
                raise
            raise _unread(events, memory, error) from error
        finally:
            base.close()


def _unread(events: Path, memory: str, error: Exception) -> InputError:
    """What is said where the database gave up."""
    words = " ".join(str(error).split("\n")[0].split()).rstrip(" .") or type(error).__name__
    if "out of memory" in words.lower():
        said = f"{events.name} was not counted, as {memory} of memory are too few ({words})."
        return InputError(
            f"{said} Give more, for example memory='4GB'.",
            at_command_line=f"{said} Give more, for example --memory 4GB.",
        )
    return InputError(
        f"{events.name} cannot be read: {words}. It may be damaged: copy it again, or write it again from where it "
        "came."
    )


def _check_columns(source: Source, columns: Columns) -> None:
    """Raises `InputError` where the events lack a column that is asked for; how it is named is said at each door."""
    kinds = {
        "row": "names the row of an event",
        "code": "names its column",
        "count": "says how often it happened",
    }
    for option, what in kinds.items():
        name = getattr(columns, option)
        if name is not None and not source.has(name):
            said = f"{source.name} has no column '{name}', which {what}; it has {listed(source.types, 12)}. Say which"
            wide = " A table with a line for each row and a column for each code is for poplin fit as it is."
            wide = wide if option == "row" else ""
            raise InputError(
                f"{said} does, Columns({option}=...).{wide}",
                at_command_line=f"{said} does, --{option} COLUMN.{wide}",
            )


def _map_of(base: Any, rules: Rules) -> Source | None:
    """The table that says what codes become, if there is one."""
    if rules.roll_up is None:
        return None
    source = file_source(base, rules.roll_up)
    if len(source.types) < 2:
        raise InputError(f"{rules.roll_up.name} has one column; wanted are a code and what it becomes.")
    return source


def _limit(base: Any, memory: str) -> None:
    """Memory that the database may take; `InputError` where it is no size."""
    import duckdb

    try:
        base.execute(f"SET memory_limit = {literal(memory)}")
    except duckdb.Error as error:
        words = "{} is '{}'; wanted is a size, a number with its unit, for example {}."
        raise InputError(
            words.format("memory", memory, "memory='4GB'"),
            at_command_line=words.format("--memory", memory, "--memory 4GB"),
        ) from error


def _days(base: Any, source: Source, columns: Columns, rules: Rules, asked: str | None) -> Days:
    """The days of the events of a source, where days matter."""
    if not rules.needs_days():
        return Days("NULL::DATE")
    if columns.date is None or not source.has(columns.date):
        said = (
            f"Days are asked for, and {source.name} has no column '{columns.date or 'date'}' with dates; it has "
            f"{listed(source.types, 12)}. Say which it is,"
        )
        raise InputError(f"{said} Columns(date=...).", at_command_line=f"{said} --date COLUMN.")
    return days(base, source, columns.date, asked)


def _events(source: Source, columns: Columns, rules: Rules, day: str, *, omop: bool) -> str:
    """SQL for the events of a source: fate ('' if it counts), who, code, day, number."""
    number = "1" if columns.count is None else source.whole(columns.count)
    fates = [("who IS NULL", NO_ROW), ("code IS NULL", NO_CODE)]
    fates += [(f"code = {literal(NO_CONCEPT)}", UNMATCHED)] if omop else []
    fates += [("day IS NULL", NO_DAY)] if rules.needs_days() else []
    fates += [(f"day < DATE '{rules.since}'", EARLY)] if rules.since else []
    fates += [(f"day > DATE '{rules.until}'", LATE)] if rules.until else []
    fates += [("number IS NULL", f"{NO_NUMBER} in '{columns.count}'")] if columns.count is not None else []
    cases = " ".join(f"WHEN {test} THEN {literal(fate)}" for test, fate in fates)
    plain = (
        f"SELECT {source.text(columns.row)} AS who, {source.text(columns.code)} AS code, {day} AS day, "
        f"CAST({number} AS BIGINT) AS number FROM {source.sql}"
    )
    return f"SELECT CASE {cases} ELSE '' END AS fate, * FROM ({plain})"


def _fill_cells(base: Any, parts: list[str], rules: Rules) -> None:
    """The one pass over the events: cells (who, code[, day]) with their number, and how many have another fate.

    Of events that do not count, the row is kept, and the code where the number is at fault: it is told which of them
    are left out with their events.
    """
    only = lambda name: f"CASE WHEN fate = '' THEN {name} END"
    day = only("day") if rules.distinct_days else "NULL::DATE"
    every = " UNION ALL ".join(f"({part})" for part in parts)
    base.execute(
        f"CREATE TABLE cells AS SELECT fate, who, "
        f"CASE WHEN fate = '' OR starts_with(fate, {literal(NO_NUMBER)}) THEN code END AS code, {day} AS day, "
        f"count(*) AS events, {'1' if rules.distinct_days else 'CAST(sum(number) AS BIGINT)'} AS number "
        f"FROM ({every}) GROUP BY ALL"
    )


def _told_events(base: Any) -> tuple[str, ...]:
    fates = base.execute(
        "SELECT fate, CAST(sum(events) AS BIGINT) FROM cells GROUP BY fate ORDER BY 2 DESC"
    ).fetchall()
    every = sum(many for _, many in fates)
    if every == 0:
        raise InputError(
            "There are no events. The file needs a line of column names and one line for each event."
        )
    dropped = [f"{many} events {fate}; they are left out." for fate, many in fates if fate]
    kept = dict(fates).get("", 0)
    if not kept:
        raise InputError(f"None of the {every} events counts: {' '.join(dropped)}")
    return (f"{every} events were read, {kept} of them count.", *dropped, *_told_lost(base))


def _told_lost(base: Any) -> Iterator[str]:
    """Rows and columns that are left out with all their events."""
    for name, what in (("who", "rows"), ("code", "columns")):
        lost = base.execute(
            f"SELECT DISTINCT {name} FROM cells WHERE {name} IS NOT NULL EXCEPT "
            f"SELECT {name} FROM cells WHERE fate = '' ORDER BY 1"
        ).fetchall()
        if lost:
            names = listed(name for (name,) in lost)
            yield f"{len(lost)} {what} have no event that counts; they are left out: {names}."


def _fill_rolled(base: Any, rules: Rules, source: Source | None) -> tuple[str, ...]:
    """Cells of the codes as they are in the table: rolled up if there is a map."""
    number = "count(DISTINCT day)" if rules.distinct_days else "sum(number)"
    grouped = f"CAST({number} AS BIGINT) AS number FROM cells"
    if source is None or rules.roll_up is None:
        base.execute(f"CREATE TABLE rolled AS SELECT who, code, {grouped} WHERE fate = '' GROUP BY who, code")
        return ()
    one, other = (source.text(name) for name in list(source.types)[:2])
    base.execute(
        f"CREATE TABLE changes AS SELECT DISTINCT {one} AS code, {other} AS becomes FROM {source.sql}"
    )
    base.execute("DELETE FROM changes WHERE code IS NULL OR becomes IS NULL")
    base.execute(
        f"CREATE TABLE rolled AS SELECT who, becomes AS code, {grouped} JOIN changes USING (code) WHERE fate = '' "
        "GROUP BY who, becomes"
    )
    lost = base.execute(
        "SELECT code, CAST(sum(events) AS BIGINT) FROM cells ANTI JOIN changes USING (code) WHERE fate = '' "
        "GROUP BY code ORDER BY 2 DESC, 1"
    ).fetchall()
    told = f"{rules.roll_up.name} maps {base.execute('SELECT count(DISTINCT code) FROM changes').fetchone()[0]} codes."
    if not lost:
        return (told,)
    names = ", ".join(f"'{name}' ({many})" for name, many in lost[:MOST_UNMAPPED])
    more = f" and {len(lost) - MOST_UNMAPPED} more" if len(lost) > MOST_UNMAPPED else ""
    events = sum(many for _, many in lost)
    return (
        told,
        f"{events} events have one of {len(lost)} codes that it lacks; they are left out: {names}{more}.",
    )


def _fill_names(base: Any, rules: Rules) -> tuple[str, ...]:
    """Rows and columns with their places, in the order of their names."""
    base.execute(
        "CREATE TABLE people AS SELECT who, CAST(sum(number) AS BIGINT) AS total, "
        "CAST(row_number() OVER (ORDER BY who) - 1 AS INTEGER) AS place FROM cells WHERE fate = '' GROUP BY who"
    )
    base.execute(
        "CREATE TABLE seen AS SELECT code, CAST(count(*) FILTER (number > 0) AS INTEGER) AS many, "
        "CAST(sum(number) AS BIGINT) AS number FROM rolled GROUP BY code"
    )
    base.execute(
        "CREATE TABLE codes AS SELECT code, many, CAST(row_number() OVER (ORDER BY code) - 1 AS INTEGER) AS place "
        f"FROM seen WHERE many >= {int(rules.min_rows)}"
    )
    every, most, rare, rare_number = base.execute(
        f"SELECT count(*), max(many), count(*) FILTER (many < {int(rules.min_rows)}), "
        f"CAST(coalesce(sum(number) FILTER (many < {int(rules.min_rows)}), 0) AS BIGINT) FROM seen"
    ).fetchone()
    if every == 0 and rules.roll_up is not None:
        codes, begins = (
            listed(
                code
                for (code,) in base.execute(
                    f"SELECT DISTINCT code FROM {table} ORDER BY 1 LIMIT 3"
                ).fetchall()
            )
            for table in ("cells WHERE fate = ''", "changes")
        )
        raise InputError(
            f"{rules.roll_up.name} has none of the codes of the events, which are such as {codes}; its first column "
            f"holds {begins}. Wanted are a code as the events spell it, and what it becomes."
        )
    if rare == every:
        rows = "one row" if rules.min_rows == 1 else f"{rules.min_rows} rows"
        said = f"No column (there are {every}) is above 0 in {rows} or more; the most are {most}. Lower"
        raise InputError(f"{said} min_rows.", at_command_line=f"{said} --min-rows.")
    if not rare:
        return ()
    where = "no row" if rules.min_rows == 1 else f"fewer than {rules.min_rows} rows"
    return (
        f"{rare} of {every} columns are above 0 in {where}; they are left out, with a count of {rare_number}.",
    )
