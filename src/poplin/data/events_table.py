"""The end of counting events: from a database to a sparse table with names, totals and what is known of persons.

Start at `table_of`, which `events.count_events` calls last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.events_names import named
from poplin.data.events_sources import Source
from poplin.data.tables import listed


class EventCounts(NamedTuple):
    """Counts (n, p), sparse, rows and columns by name in order.

    `totals` (n,): what each row counts within the dates, before codes are rolled up or left out: its log is an offset.
    `rows_seen` (p,): rows in which a column is not zero. `people`: a DataFrame's columns by name, or nothing. `report`:
    what was read and what was dropped, one sentence each. `concepts` (p,): the numbers of OMOP's concepts, where
    columns have their names.
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
