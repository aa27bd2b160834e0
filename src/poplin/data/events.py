"""Long tables of events (patient, code, perhaps a date and a count) to counts, rows by codes, out of core.

Start at `count_events`. DuckDB reads the files once, groups on disk what does not fit in memory, and hands over the
cells of a sparse table. What was left out, and why, is told in `EventCounts.report`: nothing is dropped in silence.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from poplin import _scratch
from poplin._errors import InputError
from poplin.data.events_dates import Days, days
from poplin.data.events_names import fill_names
from poplin.data.events_sources import NO_CONCEPT, OMOP, Source, file_source, literal, omop_sources
from poplin.data.events_table import EventCounts, table_of
from poplin.data.tables import listed

# Why an event is left out: the words of the report. The first that holds is told.
NO_ROW, NO_CODE, NO_DAY, NO_NUMBER = (
    "have no row name",
    "have no code",
    "have no date",
    "have no whole number",
)
EARLY, LATE, UNMATCHED = (
    "are before the first day",
    "are after the last day",
    "have concept 0 (no match in OMOP)",
)
MOST_UNMAPPED = 10  # codes that the map lacks, told by name


class Columns(NamedTuple):
    """Which columns of the events hold what; `date` and `count` may be absent."""

    row: str
    code: str
    date: str | None = None
    count: str | None = None


class Rules(NamedTuple):
    """Which events count, and as what.

    `since`, `until`: first and last day, both included. `roll_up`: a file whose first two columns are a code and what
    it becomes (a code with several lines counts in each). `min_rows`: columns above 0 in fewer rows are left out.
    `distinct_days`: the days of a code are counted, not its events.
    """

    since: datetime.date | None = None
    until: datetime.date | None = None
    roll_up: Path | None = None
    min_rows: int = 0
    distinct_days: bool = False

    def needs_days(self) -> bool:
        """Whether dates matter."""
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

    `columns` None: `events` is a folder of OMOP tables (condition_occurrence, drug_exposure, procedure_occurrence,
    person, and concept, which names columns). `date_format` is how dates are written, for strptime or in letters
    (M/D/YY); without it, the one format is inferred in which all read. `memory` is DuckDB's limit; what does not fit
    goes to files in `scratch` (a folder, by default the system's for temporary files), removed at the end. `tell` hears
    what is going on. Raises `InputError` for files that cannot be read and for tables of which nothing is left. One
    pass over the file, and one over its dates where they matter; cost grows with the events.
    """
    rules = rules or Rules()
    if rules.since is not None and rules.until is not None and rules.since > rules.until:
        raise InputError(f"The first day, {rules.since}, is after the last, {rules.until}. Swap them.")
    with _base(memory, scratch) as base:
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
        tell(f"Reading {events.name}")
        read = [_days(base, source, named, rules, date_format) for source, named in sources]
        parts = [
            _events(source, named, rules, day.sql, omop=columns is None)
            for (source, named), day in zip(sources, read, strict=True)
        ]
        _fill_cells(base, parts, rules)
        tell("Counting")
        report = _told_events(base) + told + tuple(words for day in read for words in day.told)
        report += _fill_rolled(base, rules) + _fill_names(base, rules)
        tell("Building the table")
        return table_of(base, report, people, concepts=columns is None)


@contextmanager
def _base(memory: str, scratch: Path | None) -> Iterator[Any]:
    """An empty database on disk that is gone afterwards; DuckDB's complaints become `InputError`."""
    import duckdb

    with _scratch.scratch(scratch or Path(tempfile.gettempdir())) as folder:
        base = duckdb.connect(str(folder / "events.duckdb"))
        try:
            _limit(base, memory)
            base.execute(f"SET temp_directory = {literal(str(folder / 'spill'))}")
            base.execute("SET preserve_insertion_order = false")
            base.execute("SET enable_progress_bar = false")
            yield base
        except InputError:
            raise
        except (
            Exception
        ) as error:  # of damaged files, of memory that is none or too little; DuckDB's, and Arrow's
            words = " ".join(str(error).splitlines()[:2]).rstrip(".") or type(error).__name__
            raise InputError(f"The events cannot be read: {words}.") from error
        finally:
            base.close()


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
        raise InputError(
            f"Days are asked for, and {source.name} has no column '{columns.date or 'date'}' with dates. Name it with "
            f"--date (Columns(date=...)); there are {listed(source.types, 12)}."
        )
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


def _fill_rolled(base: Any, rules: Rules) -> tuple[str, ...]:
    """Cells of the codes as they are in the table: rolled up if there is a map."""
    number = "count(DISTINCT day)" if rules.distinct_days else "sum(number)"
    grouped = f"CAST({number} AS BIGINT) AS number FROM cells"
    if rules.roll_up is None:
        base.execute(f"CREATE TABLE rolled AS SELECT who, code, {grouped} WHERE fate = '' GROUP BY who, code")
        return ()
    source = file_source(base, rules.roll_up)
    if len(source.types) < 2:
        raise InputError(f"{rules.roll_up.name} has one column; wanted are a code and what it becomes.")
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
    every, rare, rare_number = base.execute(
        f"SELECT count(*), count(*) FILTER (many < {int(rules.min_rows)}), "
        f"CAST(coalesce(sum(number) FILTER (many < {int(rules.min_rows)}), 0) AS BIGINT) FROM seen"
    ).fetchone()
    if every == 0:
        raise InputError(
            "The map has none of the codes of the events. Check that it begins with their column."
        )
    if rare == every:
        rows = "one row" if rules.min_rows == 1 else f"{rules.min_rows} rows"
        raise InputError(
            f"No column (there are {every}) is above 0 in {rows} or more. Lower min_rows.",
            at_command_line=f"No column (there are {every}) is above 0 in {rows} or more. Lower --min-rows.",
        )
    if not rare:
        return ()
    where = "no row" if rules.min_rows == 1 else f"fewer than {rules.min_rows} rows"
    return (
        f"{rare} of {every} columns are above 0 in {where}; they are left out, with a count of {rare_number}.",
    )
