"""Text that was meant as something else: numbers with a stray word among them, dates, names of rows.

Start at `check_names_groups`, which a column of text passes before it becomes a factor. What is let through but looks
odd (levels that differ by a space, NA as a level) is told by `remarks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poplin._errors import InputError
from poplin.data.tables import Names, listed, more
from poplin.data.terms import written

# Words that are a gap to some programs and a name to others: in a column of text, they are names (see `gaps.py`).
GAP_WORDS = ("NA", "N/A", "n/a", "None", "NULL", "null")
_SHOWN = 3  # cells told by name
_NUMBER = r"[-+−]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
# A number to a reader, and not to a program; a unit only after a fraction, as 10% may well name a group.
_NEARLY = re.compile(
    rf"[<>≤≥~≈]=?\s*{_NUMBER}|[-+−]?\d+,\d+|[-+−]?\d{{1,3}}([.,' \u00a0\u202f]\d{{3}})+([.,]\d+)?|−{_NUMBER}|"
    r"[-+−]?\d*[.,]\d+\s*[%°µa-zA-Z/]{1,6}"
)
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    rf"(\d{{4}}([-/.])\d{{1,2}}\2\d{{1,2}}|\d{{1,2}}([-/.])\d{{1,2}}\3(\d{{4}}|\d{{2}})|"
    rf"\d{{1,2}}\.?[- ]?{_MONTH}[- ,]*\d{{2,4}}|{_MONTH}[- ]\d{{1,2}},? \d{{4}})([T ]+\d{{1,2}}:\d{{2}}.*)?",
    re.IGNORECASE,
)


def is_number(text: str) -> bool:
    """Whether a program reads this text as a finite number."""
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def check_names_groups(column: Any, name: str, rows: Names, *, plain: bool) -> None:
    """Raise `InputError` unless the cells of a column of text name groups of rows.

    `plain`: the formula uses the column itself, not only C(column), which says that its cells are names whatever they
    look like. Where at least half of its different cells read as numbers, or as dates, the others are typing errors.
    """
    texts = [str(cell).strip() for cell in column]
    different = dict.fromkeys(texts)
    if plain and not _is_declared(column, different):
        _check_no_numbers(texts, different, name, rows)
    if len(different) == len(texts) > 1:
        raise InputError(
            f"The covariate '{name}' is text that differs in each of the {len(texts)} rows ({listed(texts, _SHOWN)}): "
            "as a factor it would have as many levels as there are rows, which tells nothing. Leave it out, or give a "
            "column that names groups of rows."
        )


def _is_declared(column: Any, different: dict[str, None]) -> bool:
    """Whether somebody said that these are groups. AnnData makes categories of any text: of that, whole numbers are."""
    if column.dtype.name != "category":
        return False
    text = any(isinstance(level, str) for level in column.cat.categories)
    return not text or all(re.fullmatch(r"\d+", level) for level in different)


def _check_no_numbers(texts: list[str], different: dict[str, None], name: str, rows: Names) -> None:
    factor = f"If its cells are names of groups all the same, write C({written(name)})."
    half = len(different) / 2
    numbers = [text for text in different if is_number(text)]
    if len(numbers) == len(different):
        said = f"The covariate '{name}' holds numbers as text, {_cells(texts, rows, is_number)}."
        raise InputError(
            f"{said} Turn them into numbers, as pandas.to_numeric does. {factor}",
            at_command_line=f"{said} Write them as numbers where the file was made. {factor}",
        )
    if sum(is_number(text) or bool(_NEARLY.fullmatch(text)) for text in different) >= half:
        odd = _cells(texts, rows, lambda text: not is_number(text))
        comma = any(re.fullmatch(r"[-+−]?\d+,\d+", text) for text in different)
        spelled = " (with a decimal point, not a comma)" if comma else ""
        raise InputError(
            f"The covariate '{name}' reads as text, not as numbers, because of {odd}. Write a number there{spelled}, "
            f"or leave these rows or the covariate out. {factor}"
        )
    if sum(bool(_DATE.fullmatch(text)) for text in different) >= half:
        raise InputError(
            f"The covariate '{name}' holds dates, {_cells(texts, rows, _DATE.fullmatch)}. Turn them into a "
            f"number in the table, for example days since the first, or into the season or the year. {factor}"
        )


def _cells(texts: Sequence[str], rows: Names, chosen: Callable[[str], Any]) -> str:
    """The first few values that are chosen, by row, and how many more there are."""
    places: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        if chosen(text):
            places.setdefault(text, []).append(i)
    told = [f"'{text}' at row '{rows[held[0]]}'{more(len(held))}" for text, held in places.items()]
    return ", ".join(told[:_SHOWN]) + (
        f" and {len(told) - _SHOWN} other values" if len(told) > _SHOWN else ""
    )


def remarks(levels: Mapping[str, Sequence[Any] | None]) -> Names:
    """What is odd about the levels of each column, one sentence each: words for gaps, levels that look alike."""
    told = []
    for name, found in levels.items():
        texts = [level for level in found or () if isinstance(level, str)]
        gaps = [text for text in texts if text in GAP_WORDS]
        if gaps:
            told.append(
                f"In the covariate '{name}', {listed(gaps)} is taken as the name of a level. Where it stands for a "
                "gap, leave the cell empty."
            )
        alike: dict[str, list[str]] = {}
        for text in texts:
            alike.setdefault(" ".join(text.split()).casefold(), []).append(text)
        for same in alike.values():
            if len(same) > 1:
                told.append(
                    f"The covariate '{name}' has levels that differ only by spaces or capitals, {listed(same)}: if "
                    "they are one, spell them alike."
                )
    return tuple(told)
