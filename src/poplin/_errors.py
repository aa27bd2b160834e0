"""The things poplin says when something is not as it should be. Nothing heavy is imported: every command begins here.

Start at `InputError`: every check at the door raises it, the command line turns it into exit code 2. `said` is what
another library said, in one line; `is_slip` tells that from a fault of poplin's own. A numerical failure is not an
exception but data (`converged_`), told once by `ConvergenceWarning`. What is said may quote names from files of
strangers: `printable` keeps them from steering the terminal.
"""

import os
import zlib
from importlib import import_module
from types import TracebackType
from typing import Any

_HOME = os.path.dirname(__file__)
# What a slip in a program raises. Damaged bytes raise it too, but in the lines of the library that reads them.
_SLIPS = (LookupError, AttributeError, TypeError, NameError, AssertionError)
MOST_SAID = 300  # letters of another library's message that are passed on
# Control characters, lines and paragraphs, marks that turn the direction of writing, halves of characters.
_STEERING = frozenset(
    chr(code)
    for codes in (
        range(0x20),
        range(0x7F, 0xA0),
        range(0x2028, 0x202F),
        range(0x2066, 0x206A),
        range(0xD800, 0xE000),
    )
    for code in (*codes, 0x061C, 0x200E, 0x200F)
)


def printable(words: str) -> str:
    r"""The words with what would steer a terminal, or begin a new line, as Python would write it in quotes.

    >>> print(printable("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    if _STEERING.isdisjoint(words):
        return words
    return "".join(ascii(letter)[1:-1] if letter in _STEERING else letter for letter in words)


class InputError(ValueError):
    """A bad input: the message says what was found, where, what is wanted and how to mend it.

    Args:
        words: the message, where the mend is one of Python.
        at_command_line: the message at the command line instead, where the mend differs there; None: the same.
    """

    def __init__(self, words: str, *, at_command_line: str | None = None) -> None:
        super().__init__(printable(words))
        self.at_command_line = printable(words if at_command_line is None else at_command_line)


class ConvergenceWarning(UserWarning):
    """A fit stopped before its stopping rule held; the message says what to do."""


class DataWarning(UserWarning):
    """Something in the data that is kept, but that the user should know (by row or column name).

    Args:
        words: the message.
    """

    def __init__(self, words: str) -> None:
        super().__init__(printable(str(words)))


class LikelihoodWarning(DataWarning):
    """Log-likelihoods of some rows are less exact than their standard errors say; the message names the rows."""


def library(name: str, *, extra: str, what: str) -> Any:
    """A library that not everybody needs, and that comes with an extra of poplin.

    Raises `InputError` where it is not installed: `what` needs it, and how it is installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"{what} needs the library {name.partition('.')[0]}, which is not installed here: pip install "
            f"'poplin[{extra}]'."
        ) from error


def said(error: BaseException) -> str:
    """What went wrong in another library, in one line that can be printed, without a full stop."""
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    text = "".join(letter if letter.isprintable() else " " for letter in text)[:MOST_SAID]
    if isinstance(error, MemoryError):
        return f"it does not fit into memory ({text})" if text else "it does not fit into memory"
    if isinstance(error, KeyError):
        return f"{text} is not in it"
    tells = isinstance(error, OSError | ValueError | RuntimeError | zlib.error) and text
    return text if tells else f"{type(error).__name__}: {text}".rstrip(": ")


def is_slip(error: BaseException) -> bool:
    """Whether an exception is a fault of poplin's own: a slip, raised in a line of poplin and for no other's sake."""
    last = _last(error)
    own = last is not None and last.tb_frame.f_code.co_filename.startswith(_HOME + os.sep)
    return own and isinstance(error, _SLIPS) and error.__cause__ is None


def fault(error: BaseException) -> str:
    """What is said at the command line of an exception that nobody foresaw, with the place in poplin for a report."""
    if isinstance(error, MemoryError):
        return (
            f"{said(error)}. Leave out rare columns or some of the rows, or take a machine with more memory."
        )
    last, place = error.__traceback__, ""
    while last is not None:
        file = last.tb_frame.f_code.co_filename
        if file.startswith(_HOME + os.sep):
            place = f" ({os.path.relpath(file, _HOME)}, line {last.tb_lineno})"
        last = last.tb_next
    told = (str(error).strip().splitlines() or [""])[0][:MOST_SAID]
    return (
        f"a fault of poplin itself, which no input should meet: {type(error).__name__}: {told}{place}. Please report "
        "it with this line and the command; with POPLIN_TRACEBACK=1 before the command, all of it is shown."
    )


def _last(error: BaseException) -> TracebackType | None:
    """Where an exception was raised."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last
