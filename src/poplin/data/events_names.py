"""Names for OMOP's concepts, from the table CONCEPT that vocabularies come with, where it lies beside the events.

Start at `fill_names`, then `named`. A concept is a number to everybody but a machine; columns of the counts and what is
known of persons take its name. Where two have one name, their numbers tell them apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poplin._errors import InputError
from poplin.data.events_sources import file_source, kind_and_stem
from poplin.data.tables import Names, listed

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
