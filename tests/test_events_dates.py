"""Dates of events in the ways in which people write them: each day is the one that pandas reads with that format.

What reads in two ways, or not as the rest does, is one error with examples, and is never a day.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from poplin import InputError
from poplin.data.events import Columns, EventCounts, Rules, count_events
from tests.test_events import run

COLUMNS = Columns("patient", "code", "date")
DAYS = [datetime.date(2003, 4, 10) + datetime.timedelta(days=int(i)) for i in np.arange(40) ** 2 * 7]
FORMATS = [
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%m/%d/%y", "%m/%d/%Y", "%d/%m/%Y", "%d/%m/%y"),
    *("%d.%m.%Y", "%d.%m.%y", "%m-%d-%Y", "%d-%m-%Y", "%d-%b-%Y", "%d-%b-%y", "%d%b%Y", "%d %B %Y"),
    *("%B %d, %Y", "%b %d, %Y", "%d. %B %Y"),
]
TIMES = ["", " 7:05", " 23:59:59", "T23:59:59.123Z", " 11:59 PM", " 23:30:00+02:00"]


def spelled(form: str, *, padded: bool = True, times: list[str] | None = None) -> list[str]:
    """The days in this format, without zeros in front if not padded, each with a time."""
    kept = form if padded else form.replace("%d", "%-d").replace("%m", "%-m")
    return [
        f"{day.strftime(kept)}{time}"
        for day, time in zip(DAYS, np.resize(times or [""], len(DAYS)), strict=True)
    ]


def counted(folder: Path, dates: list[Any], rules: Rules, kind: str = ".csv", **how: Any) -> EventCounts:
    """One event a date, of a patient who is named after the day that is meant."""
    frame = pandas.DataFrame(
        {"patient": [str(day) for day in DAYS[: len(dates)]], "code": "x", "date": dates}
    )
    path = folder / f"events{kind}"
    frame.to_csv(path, index=False) if kind == ".csv" else frame.to_parquet(path)
    return count_events(path, COLUMNS, rules, **how)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("padded", [True, False])
def test_a_column_is_read_in_its_one_format(tmp_path: Path, form: str, padded: bool) -> None:
    if form == "%Y%m%d" and not padded:
        return
    dates = spelled(form, padded=padded, times=TIMES)
    plain = pandas.to_datetime(spelled(form, padded=padded), format=form).date
    for since in (datetime.date(2003, 4, 10), DAYS[20], DAYS[-1]):
        found = counted(tmp_path, dates, Rules(since=since))
        assert found.row_names == tuple(str(day) for day in plain if day >= since)
    assert f"are read as {form}" in " ".join(found.report)


def test_days_of_other_types_are_the_days_that_they_are(tmp_path: Path) -> None:
    whole = [int(day.strftime("%Y%m%d")) for day in DAYS]
    for dates in (DAYS, pandas.to_datetime(DAYS), whole, [float(day) for day in whole]):
        found = counted(tmp_path, list(dates), Rules(since=DAYS[20]), ".parquet")
        assert found.row_names == tuple(str(day) for day in DAYS[20:])


def test_a_format_may_be_asked_for(tmp_path: Path) -> None:
    dates = spelled("%y/%m/%d", times=[" 10:00"])
    for asked in ("%y/%m/%d", "YY/MM/DD", "yy/m/d hh:mm", "%y/%m/%d %H:%M"):
        found = counted(tmp_path, dates, Rules(since=DAYS[20]), date_format=asked)
        assert found.row_names == tuple(str(day) for day in DAYS[20:]), asked


US = spelled("%m/%d/%y", padded=False)
BAD = {
    "two readings": (US[:1], None, ("'4/10/03'", "2003-04-10 (%m/%d/%y)", "2003-10-04 (%d/%m/%y)")),
    "a year in front or behind": (["03-04-10", "10-12-11"], None, ("'03-04-10'", "may be")),
    "a part of it": ([*US[:-2], "soon", "n/d"], None, ("2 of 40 different", "%m/%d/%y", "'n/d', 'soon'")),
    "two formats": ([*US[:-1], "2024-01-05"], None, ("1 of 40 different", "'2024-01-05'")),
    "a day that is none": ([*US[:-1], "2/30/05"], None, ("'2/30/05'",)),
    "a time that is none": ([*US[:-1], "2/3/05 25:00"], None, ("'2/3/05 25:00'",)),
    "no dates": (["soon", "later"], None, ("read in no known way", "'later', 'soon'")),
    "numbers of a spreadsheet": ([45292, 45293], None, ("read in no known way", "'45292'")),
    "early": ([*spelled("%Y-%m-%d")[:-1], "0003-04-10"], None, ("before 1900", "'0003-04-10'")),
    "not as asked": (US, "D.M.YY", ("40 of 40 different", "%d.%m.%y")),
    "a year of four digits asked for": (US, "%m/%d/%Y", ("before 1900", "'1/", "%m/%d/%y")),
    "no format": (US, "american", ("'american'", "M/D/YY")),
}  # fmt: skip


@pytest.mark.parametrize(("dates", "asked", "words"), BAD.values(), ids=BAD)
def test_what_does_not_read_alike_is_an_error_with_examples(
    tmp_path: Path, dates: list[Any], asked: str | None, words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        counted(tmp_path, dates, Rules(distinct_days=True), date_format=asked)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "--" not in str(caught.value) and "date_format=" not in caught.value.at_command_line


def test_an_empty_date_leaves_its_event_out(tmp_path: Path) -> None:
    found = counted(tmp_path, ["", "NA", "null", *US[3:]], Rules(distinct_days=True))
    assert found.row_names == tuple(str(day) for day in DAYS[3:])
    assert "3 events have no date; they are left out." in found.report
    with pytest.raises(InputError, match="2 events have no date"):
        counted(tmp_path, ["", "NA"], Rules(distinct_days=True))


def test_dates_of_america(shared_cases: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    path = shared_cases / "events_us_dates.csv"
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "counts", str(path), "--distinct-days", "--out", "us.npz") == 0
    assert "are read as %m/%d/%y" in capsys.readouterr().out
    frame = pandas.read_csv(path)
    frame["day"] = pandas.to_datetime(frame["date"], format="%m/%d/%y %H:%M").dt.date
    wide = frame.drop_duplicates(["patient", "code", "day"]).pivot_table(
        index="patient", columns="code", values="day", aggfunc="count", fill_value=0
    )
    with np.load("us.npz") as held:
        assert held["data"].sum() == wide.to_numpy().sum() and tuple(held["shape"]) == wide.shape
    asked = ("--date-format", "D.M.YY", "--distinct-days", "--out", "other.npz")
    assert run(monkeypatch, "counts", str(path), *asked) == 2
    assert "do not read as %d.%m.%y" in capsys.readouterr().err
