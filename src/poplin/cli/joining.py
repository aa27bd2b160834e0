"""`poplin fit --distributed`: this process is one of several that make a fit together.

Start at `carry_out`. Every process runs the same command and reads the same files; the first one writes. Who takes part
is found by JAX under SLURM, Open MPI and the like, else said by three variables of the environment. A process that
is lost takes the others with it, and each says so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from poplin import job as jobs
from poplin._errors import InputError
from poplin.job import Job

ADDRESS, MANY, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
HEARTBEAT = 20  # seconds without a sign of life after which a process is taken for lost
PATIENCE = 24 * 3600  # seconds that the others wait while the first process writes
LOST = 1  # exit code
AGAIN = (
    "Start all processes again; with --checkpoint-every N, the same command with --resume goes on from the last "
    "checkpoint, with as many processes as there are."
)
# Speaks for a process that can no longer: it reads until the process says farewell, or is gone.
WITNESS = "import sys; sys.stdin.read() or (sys.stderr.write(sys.argv[1] + '\\n'), sys.stderr.flush())"


def carry_out(job: Job, say: Callable[[str], None], complain: Callable[[str], None]) -> int:
    """`poplin.job.carry_out` in this process and, together with it, in all others; returns the exit code."""
    if job.settings.get("rank") == "auto":
        raise InputError("--rank auto is many fits, and --distributed is for one. Choose the rank first.")
    join()
    import jax

    number, many = jax.process_index(), jax.process_count()
    me = f"process {number} of {many}"
    witness = _witness(f"poplin: {me} is gone, or has lost another process: the fit ends unfinished. {AGAIN}")
    if number > 0:
        job = job._replace(quiet=True, writes=False)
    try:
        code = jobs.carry_out(job, say, complain if number == 0 else lambda _: None)
    except InputError as error:
        complain(f"{me}: {error.at_command_line}")
        _leave(witness, 2, first=number == 0)
    except jax.errors.JaxRuntimeError as error:
        complain(f"{me} has lost another process: the fit ends unfinished. {AGAIN} ({_first_line(error)})")
        _leave(witness, LOST, first=False)
    jax.distributed.shutdown()  # waits for the others
    witness.communicate(b"farewell")
    return code


def join() -> None:
    """Find the other processes. Raises `InputError` where nothing says who they are, or they do not come."""
    import jax

    told = {name: os.environ.get(name) for name in (ADDRESS, MANY, NUMBER)}
    numbers = {name: told[name] for name in (MANY, NUMBER) if told[name] is not None}
    if not all(value is not None and value.isdigit() for value in numbers.values()):
        raise InputError(f"{numbers}: wanted are whole numbers.")
    many, number = (None if told[name] is None else int(told[name] or 0) for name in (MANY, NUMBER))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            told[ADDRESS],
            many,
            number,
            cluster_detection_method="deactivate" if None not in told.values() else None,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=PATIENCE,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed: the other processes were not found ({_first_line(error)}). Start the command by srun or "
            f"mpirun, or give every process {ADDRESS}=HOST:PORT (a free port where process 0 runs), {MANY}, and "
            f"{NUMBER}, its own number (0, 1, ...)."
        ) from error
    # In the middle of a step nothing can be kept: Ctrl-C ends this process, and with it the others.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _witness(words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", WITNESS, words], stdin=subprocess.PIPE)


def _leave(witness: subprocess.Popen[bytes], code: int, *, first: bool) -> NoReturn:
    """End without waiting for the others, which may wait for this process; they learn that it is gone.

    The first process leaves last: what is wrong everywhere is then told everywhere.
    """
    witness.communicate(b"farewell")
    time.sleep(2.0 if first else 0.0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
