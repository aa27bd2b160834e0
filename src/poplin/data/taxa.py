"""Tables that say themselves that their samples are columns, as QIIME, biom and featureCounts write them.

Start at `described`, which `readers.py` asks of every table of counts with a header. Only what a program has signed so
is turned; where a heading merely sounds like it, `orientation.doubtful_rows` tells. Columns that describe the rows
(taxonomy, the place of a gene) are no samples: they are left out, and named.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from poplin.data.tables import Names, listed

_SIGNED = re.compile(r"#\s*otu[ _]?id", re.IGNORECASE)
_TAXONOMY = re.compile(r"taxonomy|consensus[ ._-]?lineage", re.IGNORECASE)  # says it too, if it is text
# or three of these
_RANKS = re.compile(r"(super)?(kingdom|phylum|class|order|family|genus|species)|domain", re.IGNORECASE)
_PLACE = ("chr", "start", "end", "strand", "length")  # as featureCounts has it of a gene, all five
FEWEST_RANKS = 3
_DESCRIBES = re.compile(
    r"(consensus[ ._-]?)?(taxonomy|lineage)|taxon|kingdom|domain|phylum|class|order|family|genus|species|confidence|"
    r"gene[ ._-]?(name|symbol)|description",
    re.IGNORECASE,
)


class Described(NamedTuple):
    """What a table says of its rows: `turn`, that they are no samples; `kept`, the columns that describe none."""

    kept: list[int]
    turn: bool
    notes: Names


def described(frame: Any, name: str) -> Described:
    """What a table of counts says of its rows, names of rows still in its first column; `name` is its file's."""
    headings = [str(heading).strip() for heading in frame.columns]
    places = [j for j in range(1, len(headings)) if headings[j].lower() in _PLACE]
    texts = [j for j in range(1, len(headings)) if _is_text(frame.iloc[:, j])]
    lineages = [j for j in texts if _TAXONOMY.fullmatch(headings[j])]
    ranks = [j for j in texts if _RANKS.fullmatch(headings[j])]
    signs = [0] if headings and _SIGNED.fullmatch(headings[0]) else lineages
    signs = signs or (ranks if len(ranks) >= FEWEST_RANKS else [])
    signs = signs or (places if len(places) == len(_PLACE) else [])
    if not signs:
        return Described(list(range(len(headings))), False, ())
    left = [j for j in range(1, len(headings)) if _DESCRIBES.fullmatch(headings[j])]
    left += places if len(places) == len(_PLACE) else []
    told = [f"{name} has its samples in columns, as '{headings[signs[0]]}' says; it was turned round."]
    if left:
        told.append(
            f"{listed(headings[j] for j in left)} in {name} describes what was counted; it is left out of the counts."
        )
    return Described([j for j in range(len(headings)) if j not in left], True, tuple(told))


def _is_text(column: Any) -> bool:
    return any(isinstance(cell, str) for cell in column)
