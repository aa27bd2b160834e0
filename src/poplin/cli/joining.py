"""`poplin fit --distributed`: this process is one of several that make a fit together.

Start at `carry_out`. Every process runs the same command and reads the same files; the first one writes. Who takes part
is found by JAX under SLURM, Open MPI and the like, else said by three variables of the environment. A process that
is lost takes the others with it, and each says so.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn

from poplin import _process, stopping
from poplin import job as jobs
from poplin._errors import InputError
from poplin.job import Job

ADDRESS, MANY, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# Seconds without a sign of life after which a process is taken for lost: a busy machine may stand still for 20.
HEARTBEAT = 60
PATIENCE = 60.0  # seconds that processes wait for each other at the beginning
LATER = 60  # seconds by which JAX itself would wait longer
LONG = 24 * 3600  # seconds that the others wait while the first process writes
TELL_AFTER, EVERY = (
    3.0,
    0.2,
)  # seconds until it is told that others are waited for; between two tries to reach them
BIND = "JAX_COORDINATOR_BIND_ADDRESS"
LOST = 1  # exit code
AGAIN = (
    "Start all processes again; with --checkpoint-every N, the same command with --resume goes on from the last "
    "checkpoint, with as many processes as there are."
)
NOT_FOUND = (
    "--distributed: the other processes were not found ({why}). Start the command by srun or mpirun, or give every "
    f"process {ADDRESS}=HOST:PORT (a free port where process 0 runs), {MANY}, and its own number, {NUMBER} (0, 1 ...), "
    "all within --join-time seconds."
)
STRANGERS = (
    "--distributed: process 0 would listen at {address}, which other machines can reach, and whoever reaches it can "
    "take part: nobody is asked for a password, nothing is encrypted. If only machines and people that you trust are "
    "on that network, say so by --i-know-this-network; see docs/clusters.md for what a stranger could do."
)
# Speaks for a process that can no longer: it reads until the process says farewell, or is gone.
WITNESS = "import sys; sys.stdin.read() or (sys.stderr.write(sys.argv[1] + '\\n'), sys.stderr.flush())"


class How(NamedTuple):
    """How a process joins the others: for how many seconds it waits, and whether strangers on the network matter."""

    patience: float = PATIENCE
    trusted: bool = False


class Part(NamedTuple):
    """What this process is told of the fit: where process 0 listens, how many there are, which one this is."""

    address: str
    many: int
    number: int
    devices: Sequence[int] | None = None


def carry_out(
    job: Job, say: Callable[[str], None], complain: Callable[[str], None], how: How | None = None
) -> int:
    """`poplin.job.carry_out` in this process and, together with it, in all others; returns the exit code."""
    if job.settings.get("rank") == "auto":
        raise InputError("--rank auto is many fits, and --distributed is for one. Choose the rank first.")
    join(how or How(), (lambda _: None) if job.quiet else complain, complain)
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


def join(
    how: How | None = None,
    tell: Callable[[str], None] = lambda _: None,
    complain: Callable[[str], None] = lambda _: None,
) -> None:
    """Find the other processes. Raises `InputError` where nothing says who they are, or who listens is not there.

    Where others do not come the process ends, with exit code 2, after it has complained.
    """
    import jax

    how = how or How()
    if not 0 < how.patience < float("inf"):
        raise InputError(f"--join-time is {how.patience:g}; wanted is a number of seconds above 0.")
    part = taking_part(how.patience)
    host, port = host_and_port(part.address)
    listens = os.environ.get(BIND) or part.address
    if not how.trusted and not (is_loopback(host) and is_loopback(host_and_port(listens, BIND)[0])):
        raise InputError(STRANGERS.format(address=listens))
    stopping.at_once()  # in the middle of a step that all take together nothing can be kept
    with _patience(part, how.patience, tell, complain):
        try:
            _reach(part, host, port, listens, how.patience)
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            # it would not let SIGTERM end the process
            jax.config.update("jax_enable_preemption_service", False)
            jax.distributed.initialize(
                *part,
                cluster_detection_method="deactivate",
                initialization_timeout=round(how.patience) + LATER,
                heartbeat_timeout_seconds=HEARTBEAT,
                shutdown_timeout_seconds=LONG,
                coordinator_bind_address=listens,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(NOT_FOUND.format(why=_first_line(error))) from error


@contextlib.contextmanager
def _patience(
    part: Part, seconds: float, tell: Callable[[str], None], complain: Callable[[str], None]
) -> Iterator[None]:
    """Inside, it is told after a while that this process waits; when the time is over, that nobody came, and it ends.

    Where processes do not come, JAX itself ends the process, with a list of addresses in its code for a message.
    """
    others = f"the other {part.many - 1}" if part.number == 0 else "process 0 and the others"
    me = f"process {part.number} of {part.many}"

    def give_up() -> None:
        complain(NOT_FOUND.format(why=f"{me} waited for {others} at {part.address} for {seconds:g} s"))
        _process.sweep()
        os._exit(2)

    words = f"{me} waits for {others} at {part.address}, {seconds:g} s at most (--join-time)."
    waiting = [threading.Timer(TELL_AFTER, tell, (words,)), threading.Timer(seconds + 1, give_up)]
    for timer in waiting:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in waiting:
            timer.cancel()


def taking_part(patience: float) -> Part:
    """What the environment says, by three variables, else as a scheduler says it to JAX."""
    told = {name: os.environ.get(name) or None for name in (ADDRESS, MANY, NUMBER)}
    numbers = {name: told[name] for name in (MANY, NUMBER) if told[name] is not None}
    if not all(value is not None and value.isdecimal() for value in numbers.values()):
        raise InputError(f"{numbers}: wanted are whole numbers.")
    address, many, number = (
        told[ADDRESS],
        *(None if told[k] is None else int(told[k] or 0) for k in (MANY, NUMBER)),
    )
    devices = None
    if None in told.values():
        # JAX has no public way to ask; `initialize` would do so itself, and listen on every address of the machine.
        from jax._src.clusters import ClusterEnv

        ask = ClusterEnv.auto_detect_unset_distributed_params
        address, many, number, devices = ask(address, many, number, None, None, round(patience))
    if address is None or many is None or number is None:
        missing = ", ".join(
            name
            for name, value in zip((ADDRESS, MANY, NUMBER), (address, many, number), strict=True)
            if value is None
        )
        raise InputError(NOT_FOUND.format(why=f"nothing says {missing}"))
    if not number < many:
        raise InputError(
            f"{NUMBER} is {number}, and there are {many} processes ({MANY}): wanted is a number from 0 to {many - 1}."
        )
    return Part(address, many, number, devices)


def host_and_port(address: str, name: str = ADDRESS) -> tuple[str, int]:
    """The two parts of HOST:PORT; an address of IPv6 is in brackets. Raises `InputError` for what is none."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:/\s]+):(\d{1,5})", address)
    if found is None or not 0 < int(found[2]) < 65536:
        raise InputError(
            f"{name} is '{address}'; wanted is HOST:PORT, for example 10.0.0.1:12345 (a free port of the machine on "
            "which process 0 runs, from 1 to 65535; an address of IPv6 in brackets)."
        )
    return found[1].strip("[]"), int(found[2])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host of that name; one that cannot be looked up is taken for another."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(at[4][0]).partition("%")[0]).is_loopback for at in found)


def _reach(part: Part, host: str, port: int, listens: str, patience: float) -> None:
    """Process 0: the port is there to be had. Others: somebody listens at it, before the time is over.

    JAX would wait as long, and then end the process without a word of its own. Raises OSError.
    """
    if part.number == 0:
        where, at = host_and_port(listens, BIND)
        try:
            with socket.create_server((where, at), family=_family(where)):
                return
        except OSError as error:
            raise OSError(f"process 0 cannot listen at {listens}: {error.strerror or error}") from None
    until = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(0.1, min(5.0, until - time.monotonic()))):
                return
        except OSError as error:
            if time.monotonic() + EVERY > until:
                raise OSError(
                    f"nobody listens at {part.address} after {patience:g} s: {error.strerror or error}"
                ) from None
        time.sleep(EVERY)


def _family(host: str) -> int:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]


def _witness(words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", "-c", WITNESS, words],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )


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
