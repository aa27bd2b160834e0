"""The command `poplin` as a process of its own; `python -m poplin` is the same. Start at `poplin.cli`."""

import atexit
import os
import sys

from poplin.cli import main


def run() -> None:
    """The command; its process ends when all is written: taking compiled programs apart would need half a second."""
    code = 1

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)  # the first to be registered, so the last to be called
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise


if __name__ == "__main__":
    run()
