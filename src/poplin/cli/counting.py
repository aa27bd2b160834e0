"""The command `poplin counts`: events as hospitals have them, to a table of counts for `poplin fit`.

Start at `counts`; `data/events.py` does the work.
"""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from poplin._errors import InputError, printable
from poplin.cli.options import RESULT, Quiet
from poplin.cli.screen import mention, say

WHAT, WHICH = "Columns", "Which events"
Events = Annotated[
    Path,
    typer.Argument(
        metavar="EVENTS", help="csv, tsv, txt (.gz) or parquet; a folder of .parquet; OMOP: its folder."
    ),
]
Row = Annotated[str, typer.Option(metavar="COLUMN", help="Names the row of an event.", rich_help_panel=WHAT)]
Code = Annotated[str, typer.Option(metavar="COLUMN", help="Names its column.", rich_help_panel=WHAT)]
Date = Annotated[
    str, typer.Option(metavar="COLUMN", help="Its day, where days matter.", rich_help_panel=WHAT)
]
DateFormat = Annotated[
    str | None,
    typer.Option(metavar="M/D/YY", help="How days are written [found out].", rich_help_panel=WHAT),
]
Number = Annotated[
    str | None,
    typer.Option("--count", metavar="COLUMN", help="How often it happened [once].", rich_help_panel=WHAT),
]
Omop = Annotated[
    bool,
    typer.Option(
        "--omop",
        help="EVENTS is a folder of OMOP tables (conditions, drugs, procedures).",
        rich_help_panel=WHAT,
    ),
]
RollUp = Annotated[
    Path | None,
    typer.Option(
        "--map",
        metavar="TABLE",
        help="Its first two columns: a code, what it becomes.",
        rich_help_panel=WHICH,
    ),
]
Day = Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Counts itself.", rich_help_panel=WHICH)]
MinRows = Annotated[
    int,
    typer.Option(
        min=0, help="Leave out columns above 0 in fewer rows, for example 50.", rich_help_panel=WHICH
    ),
]
DistinctDays = Annotated[
    bool, typer.Option("--distinct-days", help="Count days with a code, not events.", rich_help_panel=WHICH)
]
Memory = Annotated[
    str, typer.Option(metavar="SIZE", help="Memory of the database at most.", rich_help_panel=RESULT)
]
Table = Annotated[
    Path, typer.Option(metavar="FILE", help="counts.h5ad or counts.npz.", rich_help_panel=RESULT)
]


def counts(
    events: Events,
    *,
    row: Row = "patient",
    code: Code = "code",
    date: Date = "date",
    date_format: DateFormat = None,
    number: Number = None,
    omop: Omop = False,
    roll_up: RollUp = None,
    since: Day = None,
    until: Day = None,
    min_rows: MinRows = 0,
    distinct_days: DistinctDays = False,
    memory: Memory = "4GB",
    out: Table,
    quiet: Quiet = False,
) -> None:
    """Count a long table of events (patient, code, date): rows by codes, of any size, for poplin fit."""
    from poplin.data import events as counting
    from poplin.report import counted

    counted.check_target(out)
    since_day, until_day = _day(since, "--since"), _day(until, "--until")
    rules = counting.Rules(since_day, until_day, roll_up, min_rows, distinct_days)
    columns = None if omop else counting.Columns(row, code, date, number)
    tell = (lambda words: None) if quiet else lambda words: mention(f"{words} ...")
    scratch = out.absolute().parent
    found = counting.count_events(
        events, columns, rules, date_format=date_format, memory=memory, scratch=scratch, tell=tell
    )
    counted.write(found, out, shlex.join(["poplin", *sys.argv[1:]]))
    if not quiet:
        say("\n".join(printable(line) for line in found.report))
        say(f"\nWritten: {out}")
        offset = "--offset log_total " if found.totals.all() else ""
        say(f"Next: poplin fit {shlex.quote(str(out))} {offset}--out DIR")


def _day(text: str | None, option: str) -> datetime.date | None:
    try:
        return None if text is None else datetime.date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option} is '{text}'; wanted is a day such as 2024-03-31.") from None
