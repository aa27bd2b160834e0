"""Where the command speaks: what is told to the reader, and what must not be missed.

Start at `say`. Names come from files of strangers, so that nothing reaches the terminal that would steer it.
"""

from __future__ import annotations

import typer

from poplin._errors import printable


def say(words: str, *, end: bool = True) -> None:
    """Words for the reader, in one line or several."""
    typer.echo(_lines(words), nl=end)


def mention(words: str) -> None:
    """What is going on, past what may be read from the output by another program."""
    typer.echo(_lines(words), err=True)


def complain(words: str) -> None:
    """What must not be missed."""
    mention(f"poplin: {words}")


def _lines(words: str) -> str:
    return "\n".join(printable(line) for line in words.split("\n"))
