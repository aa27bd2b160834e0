"""The things poplin says when something is not as it should be.

Start at `InputError`: every check at the door raises it, the command line turns it into exit code 2.
A numerical failure is not an exception but data (`converged_`), told once by `ConvergenceWarning`.
"""


class InputError(ValueError):
    """A bad input: the message says what was found, where, what is wanted and how to mend it.

    What mends it differs between doors: `at_command_line` is what is said there, where the message speaks of Python.
    """

    def __init__(self, words: str, *, at_command_line: str | None = None) -> None:
        super().__init__(words)
        self.at_command_line = words if at_command_line is None else at_command_line


class ConvergenceWarning(UserWarning):
    """A fit stopped before its stopping rule held; the message says what to do."""


class DataWarning(UserWarning):
    """Something in the data that is kept, but that the user should know (by row or column name)."""


class LikelihoodWarning(DataWarning):
    """Log-likelihoods of some rows are less exact than their standard errors say; the message names the rows."""
