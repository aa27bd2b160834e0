"""The command `poplin` as a process of its own; `python -m poplin` is the same. Start at `poplin.cli`."""

import os
import signal


def _leave(*_: object) -> None:
    os.write(2, b"poplin: stopped (Ctrl-C).\n")
    os._exit(130)


# Until `stopping` listens, which has to be loaded; not in processes of a study, nor where Ctrl-C is to be ignored.
if __name__ != "__mp_main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)

import atexit  # noqa: E402
import contextlib  # noqa: E402
import sys  # noqa: E402

from poplin import stopping  # noqa: E402


def run() -> None:
    """The command; its process ends when all is written: taking compiled programs apart would need half a second.

    Who told it to end need not wait for threads that still compile either, and sees no traceback.
    """
    code = 1

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
                stream.flush()
        os._exit(code)

    atexit.register(leave)  # the first to be registered, so the last to be called
    stopping.listen()
    try:
        from poplin.cli import main  # the first thing that takes time

        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if not stopping.asked():
            raise
    except BaseException:  # KeyboardInterrupt, and what libraries made of it
        if not stopping.asked():
            raise
    if stopping.asked():
        code = stopping.code()
        leave()


if __name__ == "__main__":
    run()
