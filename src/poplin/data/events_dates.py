"""Dates of events as people write them: one format for the whole column, inferred or asked for.

Start at `days`. Two readings that differ (4/10/03 in America and in Britain) are a question, not a guess, and what does
not read as the other dates do is an error with examples: a day that is misread moves an event in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from poplin._errors import InputError
from poplin.data.events_sources import Source, literal
from poplin.data.spellings import GAP_WORDS
from poplin.data.tables import listed

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
