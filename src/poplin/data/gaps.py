"""Words in a text file that are a gap to some programs and a name to others: NA, None, null.

Start at `with_words_as_names`. In a column of numbers they are gaps. In a column of text they name a level, unless the
column's other cells stand in quotes and they do not, as R writes what is missing.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable
from typing import Any

from poplin.data.spellings import GAP_WORDS

_QUOTED = "\ue000"  # marks a cell that stood in quotes; of Unicode's private use, so no text has it


def with_words_as_names(frame: Any, lines: Iterable[str], delimiter: str, *, counts: bool) -> Any:
    """`frame`, which was read from `lines` with such words as gaps, after the words that are names are put back.

    A column that holds nothing else is one of text if they stand in quotes, but not in a table of `counts`.
    """
    unsure = [
        j
        for j in range(frame.shape[1])
        if frame.iloc[:, j].isna().any() and _may_be_text(frame.iloc[:, j].dropna(), nothing=not counts)
    ]
    if not unsure:
        return frame
    cells = _cells(lines, delimiter, len(frame))
    for j in unsure:
        column = frame.iloc[:, j]
        gap = column.isna().to_numpy()
        spelled = [cell[j] for cell in cells]
        others = [cell for cell, none in zip(spelled, gap, strict=True) if not none]
        in_quotes = all(cell.startswith(_QUOTED) for cell in others)
        words = [cell.removeprefix(_QUOTED).strip() for cell in spelled]
        named = [
            word in GAP_WORDS and (not in_quotes or cell.startswith(_QUOTED))
            for word, cell in zip(words, spelled, strict=True)
        ]
        frame.isetitem(j, column.astype(object).mask(gap & named, words))
    return frame


def _may_be_text(there: Any, *, nothing: bool) -> bool:
    """Whether what is not missing is text; `nothing` says whether it may be if all is missing."""
    return all(isinstance(cell, str) for cell in there) and (nothing or len(there) > 0)


def _cells(lines: Iterable[str], delimiter: str, rows: int) -> deque[list[str]]:
    """The last records of the file, as many as there are rows; what was in quotes is marked."""
    opening = re.compile(rf'(^|{re.escape(delimiter)})"(?!")')
    marked = (opening.sub(rf'\1"{_QUOTED}', line) for line in lines)
    records = csv.reader(marked, delimiter=delimiter, skipinitialspace=delimiter == " ")
    return deque((record for record in records if record), maxlen=rows)
