"""Checkpoints on the command line: kills, Ctrl-C, full disks, and `--resume`.

Start at `killed`, which kills a process at some moment after its first checkpoint.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import poplin.cli
from poplin import job
from poplin.report import files

ROWS, COLUMNS = 60, 5


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    """A folder with counts.csv in it and nothing else."""
    random = np.random.default_rng(8)
    latent = random.normal(size=(ROWS, 1)) + 0.5 * random.normal(size=(ROWS, COLUMNS)) + 1
    drawn = random.poisson(np.exp(latent))
    np.savetxt(
        tmp_path / "counts.csv", drawn, fmt="%d", delimiter=",", header="elm,oak,ash,fir,yew", comments=""
    )
    return tmp_path


def command(*words: str) -> list[str]:
    """`poplin fit` on counts.csv in a process of its own."""
    return [sys.executable, "-m", "poplin", "fit", "counts.csv", "--seed", "3", "-q", *words]


def written(folder: Path) -> dict[str, Any]:
    """The tables that a fit wrote; of the trace all but the seconds."""
    with open(folder / "trace.csv", newline="") as handle:
        trace = [line[:3] for line in csv.reader(handle)]
    names = ("coef.csv", "covariance.csv", "embedding.csv")
    return {name: (folder / name).read_bytes() for name in names} | {"trace": trace}


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in folder.iterdir()}


def killed(words: list[str], folder: Path, moment: float) -> int:
    """Begin the command, and kill it so many seconds after it wrote its first checkpoint; its exit code."""
    path = folder / "parts" / "checkpoint.npz"
    before = path.stat().st_mtime_ns if path.exists() else None
    child = subprocess.Popen(words, cwd=folder, stderr=subprocess.DEVNULL)
    while child.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
        time.sleep(0.005)
    time.sleep(moment)
    child.kill()
    return child.wait()


LAW = ("--likelihood", "zero-inflated-poisson", "--zero-probability", "row", "--method", "variational")


@pytest.mark.parametrize("options", [(), ("--rank", "2"), LAW], ids=["full", "rank 2", "a law"])
def test_a_process_that_is_killed_goes_on_to_the_same_files(counts: Path, options: tuple[str, ...]) -> None:
    every = (*options, "--checkpoint-every", "1")
    subprocess.run(command(*every, "--out", "whole"), cwd=counts, check=True, timeout=300)
    random, kills = np.random.default_rng(len(options)), 0
    parts = command(*every, "--out", "parts", "--resume")
    while kills < 2 and killed(parts, counts, random.uniform(0, 0.4)) != 0:
        kills += 1
    assert kills > 0
    subprocess.run(parts, cwd=counts, check=True, timeout=300)
    assert written(counts / "parts") == written(counts / "whole")
    assert names(counts / "parts") == names(counts / "whole")
    assert "checkpoint.npz" not in names(counts / "parts")


Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, counts: Path) -> Run:
    """Run `poplin fit counts.csv ...` here, with Ctrl-C after so many looks if asked; gives the exit code."""
    monkeypatch.chdir(counts)

    def call(*words: str, ctrl_c: int | None = None) -> int:
        looks = iter(range(10**6))

        @contextlib.contextmanager
        def watch(*, quiet: bool) -> Iterator[Callable[[Any], None]]:
            def tell(_: Any) -> None:
                if next(looks) == ctrl_c:
                    raise KeyboardInterrupt

            yield tell

        monkeypatch.setattr(job, "watch", watch)
        monkeypatch.setattr(
            sys, "argv", ["poplin", "fit", "counts.csv", "--method", "variational", "-q", *words]
        )
        with pytest.raises(SystemExit) as ended:
            poplin.cli.main()
        return int(ended.value.code or 0)

    return call


def test_after_ctrl_c_the_command_goes_on_when_it_is_told_to(run: Run, capsys: Any) -> None:
    every = ("--checkpoint-every", "4", "--out", "parts")
    assert run("--out", "whole") == 0
    assert run(*every, ctrl_c=1) == 130
    assert "--resume" in capsys.readouterr().err
    assert names(Path("parts")) == {*names(Path("whole")), "checkpoint.npz"}
    assert run(*every) == 2
    assert "did not come to its end. Go on with it by --resume" in " ".join(capsys.readouterr().err.split())
    assert run(*every, "--resume") == 0
    assert written(Path("parts")) == written(Path("whole")) and names(Path("parts")) == names(Path("whole"))
    assert run("--resume", "--out", "parts") == 0  # nothing to go on from: from the beginning
    assert written(Path("parts")) == written(Path("whole"))


def test_every_method_goes_on(run: Run) -> None:
    how = ("--method", "exact", "--covariance", "diagonal")
    every = (*how, "--checkpoint-every", "2", "--out", "parts")
    assert run(*how, "--out", "whole") == 0
    assert run(*every, ctrl_c=3) == 130
    assert run(*every, "--resume") == 0
    assert written(Path("parts")) == written(Path("whole")) and names(Path("parts")) == names(Path("whole"))


def test_a_choice_of_the_rank_that_was_stopped_says_how_it_goes_on(run: Run, capsys: Any) -> None:
    """There is nothing yet to show, but the fits so far are kept."""
    assert run("--rank", "auto", "--checkpoint-every", "2", "--out", "parts", ctrl_c=0) == 130
    assert "nothing is written. The checkpoint stays" in " ".join(capsys.readouterr().err.split())
    assert names(Path("parts")) == {"checkpoint.npz"}


def test_the_checkpoint_of_another_fit_is_refused_and_stays(run: Run, counts: Path, capsys: Any) -> None:
    assert run("--checkpoint-every", "4", "--out", "parts", ctrl_c=1) == 130
    held = (counts / "parts" / "checkpoint.npz").read_bytes()
    capsys.readouterr()
    assert run("--resume", "--rank", "2", "--out", "parts") == 2
    assert "rank is None there and 2 here" in " ".join(capsys.readouterr().err.split())
    lines = (counts / "counts.csv").read_text().splitlines()
    (counts / "counts.csv").write_text("\n".join([*lines[:-1], "1,2,3,4,5"]))
    assert run("--resume", "--out", "parts") == 2
    assert "the counts differ" in " ".join(capsys.readouterr().err.split())
    assert (counts / "parts" / "checkpoint.npz").read_bytes() == held


def test_results_that_find_no_room_are_told_and_the_fit_is_kept(
    run: Run, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run("--out", "whole") == 0
    with monkeypatch.context() as patched:
        patched.setattr(files, "_embedding", full)
        assert run("--out", "whole") == 2
        assert (
            "No space left on device. None of this fit's files is there; what was" in capsys.readouterr().err
        )
        assert run("--checkpoint-every", "4", "--out", "parts") == 2
        assert "--resume goes on from it" in capsys.readouterr().err
    assert run("--resume", "--out", "parts", ctrl_c=0) == 0  # no step is left, so nobody is told of one
    assert written(Path("parts")) == written(Path("whole"))


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_that_finds_no_room_is_told_in_plain_words(
    run: Run, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from poplin.fitting import checkpoints

    def full(*_: Any) -> None:
        raise poplin.InputError("checkpoint.npz cannot be written: No space left on device.")

    monkeypatch.setattr(checkpoints, "write", full)
    assert run("--checkpoint-every", "4", "--out", "out") == 0
    said = capsys.readouterr().err
    assert said.startswith("poplin: A checkpoint could not be written") and said.count("\n") == 1
