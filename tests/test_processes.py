"""Several processes that make one fit: the numbers of one, and what happens when one of them is lost.

Start at `devices.started`, which begins them on this machine; they talk over its loopback. Every wait has an end.
"""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import poplin
from poplin._process import CLAIM, KEPT, NEW
from tests import devices

ROWS, COLUMNS = 61, 5
BY_TWO, BY_FOUR = ("bound, rank, two starts", "ml"), ("bound", "ml, begun")
STOPPED = "bound, full Gaussians"
SOON = 120.0  # seconds: a minute without a sign of life, and as much again


def shared(folder: Path, *names: str, processes: int) -> Any:
    """The estimates of these fits by so many processes, and beside them, meanwhile, those of one."""
    begun = devices.started(devices.program(*names), folder, processes=processes)
    for name in names:
        devices.alone(name)
    assert devices.ended(begun) == [0] * processes, devices.heard(folder, 0)
    together = np.load(folder / "out.npz")
    assert int(together["processes"]) == processes
    return together


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes made fits, and went on with one that one process had begun."""
    folder = tmp_path_factory.mktemp("two")
    devices.stopped(STOPPED, folder / f"{STOPPED}.npz")
    shared(folder, *BY_TWO, STOPPED, processes=2)
    return folder


@pytest.mark.parametrize("name", [*BY_TWO, STOPPED])
def test_two_processes_give_the_numbers_of_one(name: str, two: Path) -> None:
    devices.check(name, devices.alone(name), np.load(two / "out.npz"))


def test_four_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    together = shared(tmp_path, *BY_FOUR, processes=4)
    for name in BY_FOUR:
        devices.check(name, devices.alone(name), together)


def test_a_fit_goes_on_with_another_number_of_processes(two: Path) -> None:
    whole = devices.alone(STOPPED)
    devices.check(STOPPED, whole, np.load(two / "gone_on.npz"))
    shutil.copy(two / f"{STOPPED}, again.npz", two / f"{STOPPED}.npz")
    devices.check(STOPPED, whole, devices.estimates(STOPPED, **devices.going_on(two, STOPPED)))


def command(*words: str) -> list[str]:
    """`poplin fit` on counts.csv."""
    return ["-m", "poplin", "fit", "counts.csv", "-q", "--out", "out", *words]


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    """A folder with counts.csv in it."""
    random = np.random.default_rng(8)
    latent = random.normal(size=(ROWS, 1)) + 0.5 * random.normal(size=(ROWS, COLUMNS)) + 1
    drawn = random.poisson(np.exp(latent))
    np.savetxt(tmp_path / "counts.csv", drawn, "%d", ",", header="elm,oak,ash,fir,yew", comments="")
    return tmp_path


def lost(counts: Path, victim: int, *words: str, by: int = signal.SIGKILL) -> list[int]:
    """Kill one of two processes when the first checkpoint is there; the exit codes, within two minutes of that."""
    begun = devices.started(command("--distributed", "--checkpoint-every", "1", *words), counts, processes=2)
    limit = time.monotonic() + devices.PATIENCE
    while not (counts / "out" / "checkpoint.npz").exists() and time.monotonic() < limit:
        time.sleep(0.01)
    begun[victim].send_signal(by)
    codes = devices.ended([begun[1 - victim]], within=SOON)
    begun[victim].kill()
    return [*codes, begun[victim].wait()] if victim else [begun[victim].wait(), *codes]


def estimated(folder: Path) -> Any:
    """The fit that a command left."""
    return poplin.load(folder / "out" / "model.npz")


@pytest.mark.parametrize(("victim", "processes"), [(1, 1), (0, 3)])
def test_who_loses_a_process_ends_and_says_so_and_others_go_on(
    counts: Path, victim: int, processes: int
) -> None:
    rank = ("--method", "variational", "--rank", "2")
    codes = lost(counts, victim, *rank)
    assert codes[victim] == -9
    assert codes[1 - victim] not in (0, -9), "the other one went on, or hung for two minutes"
    assert "lost another process: the fit ends unfinished" in devices.heard(counts, 1 - victim)
    assert "--resume" in devices.heard(counts, 1 - victim)
    # who is killed while it writes leaves what it wrote; whoever comes next takes that away
    left = {path.name for path in (counts / "out").iterdir()}
    assert {name for name in left - {CLAIM} if not name.startswith(KEPT)} == {"checkpoint.npz"}
    together = ("--distributed",) if processes > 1 else ()
    again = devices.started(command(*rank, "--resume", *together), counts, processes=processes)
    assert devices.ended(again) == [0] * processes, devices.heard(counts, 0)
    left = {path.name for path in (counts / "out").iterdir()}
    assert "checkpoint.npz" not in left and not any(name.startswith((NEW, KEPT)) for name in left)
    resumed, whole = estimated(counts), poplin.PLN(method="variational", rank=2).fit(counts / "counts.csv")
    # the command's own rule stops three steps in a row from each of which less than 1e-10 of the bound is expected
    assert abs(resumed.elbo_ - whole.elbo_) <= 1e-9 * abs(whole.elbo_)


def test_a_process_that_stands_still_is_taken_for_lost(counts: Path) -> None:
    codes = lost(counts, 1, by=signal.SIGSTOP)
    assert codes[0] not in (0, -9), "the other one went on, or hung for two minutes"
    assert "process 0 of 2 is gone, or has lost another process" in devices.heard(counts, 0)


def test_slurm_says_who_takes_part(counts: Path) -> None:
    words = command("--method", "variational", "--distributed")
    begun = devices.started(words, counts, processes=2, tell=devices.by_slurm)
    assert devices.ended(begun) == [0, 0], devices.heard(counts, 0)
    assert estimated(counts).converged_


REFUSED = {
    "runs in one process": ("--distributed", "--method", "moments"),
    "is many fits": ("--distributed", "--rank", "auto"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_processes_cannot_share_is_refused_by_each(counts: Path, words: str) -> None:
    codes = devices.ended(devices.started(command(*REFUSED[words]), counts, processes=2))
    assert codes[0] == 2 and 0 not in codes
    assert words in devices.heard(counts, 0)
    assert not (counts / "out").exists()


def test_processes_with_other_tables_are_refused(counts: Path) -> None:
    lines = (counts / "counts.csv").read_text().splitlines()
    code = (
        "import os, sys; sys.argv = ['poplin', 'fit', f'{os.environ[\"JAX_PROCESS_ID\"]}.csv', '--out', 'out', "
        "'--distributed', '-q']; from poplin.__main__ import run; run()"
    )
    for number in range(2):
        (counts / f"{number}.csv").write_text("\n".join(lines[: len(lines) - number]))
    codes = devices.ended(devices.started(["-c", code], counts, processes=2))
    assert codes[0] == 2 and 0 not in codes
    assert "differ between processes: process 1 has others than process 0" in devices.heard(counts, 0)


def listened(port: int) -> set[str]:
    """The addresses of this machine at which somebody listens at a port, as the kernel writes them."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, _, at = line.split()[1].partition(":")
            if int(at, 16) == port and line.split()[3] == "0A":
                found.add(address)
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp6").exists(), reason="no such table here")
def test_process_0_listens_on_this_machine_only_and_gives_up_in_time(
    counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = devices.free_port()
    for name, value in devices.by_name(0, 2, port).items():
        monkeypatch.setenv(name, value)
    (child,), seen = devices.started(command("--distributed", "--join-time", "3"), counts), set()
    while child.poll() is None:
        seen |= listened(port)
        time.sleep(0.1)
    assert seen and seen <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1
    assert child.wait() == 2
    assert "waited for the other 1 at 127.0.0.1" in devices.heard(counts, 0)
    assert not (counts / "out").exists()


def test_a_process_that_nobody_told_of_others_says_what_is_missing(counts: Path) -> None:
    assert devices.ended(devices.started(command("--distributed"), counts)) == [2]
    for word in ("the other processes were not found", "srun", "JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID"):
        assert word in devices.heard(counts, 0)
