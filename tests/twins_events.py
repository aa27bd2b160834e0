"""Counts of events the slow way, by pandas: the twin of `poplin.data.events`, for tables that fit in memory.

Start at `twin`.
"""

from __future__ import annotations

import pandas

from poplin.data.events import Columns, Rules


def twin(
    events: pandas.DataFrame, columns: Columns, rules: Rules, roll_up: pandas.DataFrame | None
) -> pandas.DataFrame:
    """The counts by pandas: rows by columns, with the row's total in front."""
    held = events[(events["patient"] != "") & (events["code"] != "")].copy()
    held["day"] = pandas.to_datetime(held["date"], errors="coerce", format="mixed").dt.normalize()
    held["number"] = 1.0 if columns.count is None else pandas.to_numeric(held["times"], errors="coerce")
    held = held[(held["number"] >= 0) & (held["number"] % 1 == 0)]
    if rules.needs_days():
        held = held[held["day"].notna()]
    if rules.since:
        held = held[held["day"] >= pandas.Timestamp(rules.since)]
    if rules.until:
        held = held[held["day"] <= pandas.Timestamp(rules.until)]
    if rules.distinct_days:
        held = held.drop_duplicates(["patient", "code", "day"]).assign(number=1.0)
    total = held.groupby("patient")["number"].sum()
    if roll_up is not None:
        known = roll_up[(roll_up["from"] != "") & (roll_up["to"] != "")].drop_duplicates()
        held = held.merge(known, left_on="code", right_on="from").assign(code=lambda frame: frame["to"])
        if rules.distinct_days:
            held = held.drop_duplicates(["patient", "code", "day"])
    wide = held.pivot_table(index="patient", columns="code", values="number", aggfunc="sum", fill_value=0)
    wide = wide.loc[:, (wide > 0).sum(axis=0) >= rules.min_rows] if wide.shape[1] else wide
    wide = wide.reindex(index=sorted(total.index), columns=sorted(wide.columns), fill_value=0)
    wide.insert(0, "(total)", total.reindex(wide.index))
    return wide
