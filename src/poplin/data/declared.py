"""What a file declares, against the bytes it has: refused before memory is asked for.

Start at `check_declared`, which every reader asks: of shapes that stand in a header, and of what is unpacked. A file of
a kilobyte may declare a billion rows, or be packed zeros without end; both would fill the memory and tell nothing.
"""

from __future__ import annotations

from poplin._errors import InputError

LARGE = 1 << 28  # bytes in memory, below which nothing is refused
MOST = 500  # times the stored bytes; real tables of counts, nearly all 0, are packed by up to some hundred
NAME = 100  # bytes in memory of the name of a row
CELLS = 4  # bytes in memory of a byte of text, at least


def check_declared(name: str, what: str, wanted: int, stored: int, each: int = 1) -> None:
    """Raises `InputError` where `what` of the file `name` is far more than its `stored` bytes can tell.

    `wanted` is how many bytes it has when it is unpacked, each of which takes `each` bytes of memory.
    """
    if wanted * each > LARGE and wanted > MOST * stored:
        raise InputError(
            f"{name} declares too much: {what} would be {wanted / 1e6:.0f} MB or more, and {stored} bytes are stored. "
            "The file is damaged, or made to fill the memory. Write it again from where it came; counts that are "
            "nearly all 0 as a sparse table."
        )
