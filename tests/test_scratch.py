"""What processes have on the disk while they work: gone when they are, at the latest at the next start.

Start at `test_what_killed_processes_left_goes_at_the_next_start`.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poplin import _process, store
from tests.commandline import Run, leaves, write_leaves
from tests.test_cli import FILES

ROOT = Path(__file__).resolve().parents[1]
HELD = """
import os, sys
from pathlib import Path
from poplin import _process
with _process.claimed(Path("out")), _process.scratch(Path("out")) as mine:
    (mine / "events.duckdb").write_text("patients")
    print("here", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Any:
    """Another process, which has claimed the folder out and keeps something unfinished in it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen([sys.executable, "-c", HELD], cwd=tmp_path, env=environment, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout is not None and child.stdout.readline() == "here\n"
        yield child
        child.kill()


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a process of its own."""
    monkeypatch.setattr(_process, "_swept", set())


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in folder.iterdir()}


def test_what_killed_processes_left_goes_at_the_next_start(other: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = names(out)
    assert len(before) == 2 and all(name.startswith(".poplin-") for name in before)
    with _process.scratch(out):  # its process lives
        assert before < names(out)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert names(out) == before
    with _process.claimed(out):
        assert names(out) == {_process.CLAIM}
    assert names(out) == set()  # it was there before


def test_two_fits_into_one_folder_are_one_too_many(other: Any, tmp_path: Path, run: Run, capsys: Any) -> None:
    write_leaves(tmp_path)
    before = names(tmp_path / "out")
    assert run("fit", "counts.csv", "--out", "out") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"--out out: another poplin is at work there (process {other.pid} on " in told
    assert "choose another folder" in told and names(tmp_path / "out") == before
    other.communicate("")
    assert not (tmp_path / "out").exists()
    assert run("fit", "counts.csv", "--out", "out", "-q") == 0
    assert names(tmp_path / "out") == FILES


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EBADF])
def test_where_a_file_system_knows_no_locks_fits_go_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def none(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_process.fcntl, "flock", none)
    write_leaves(tmp_path)
    assert run("fit", "counts.csv", "--out", "out", "-q") == 0
    assert names(tmp_path / "out") == FILES


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_files_that_belong_together_are_there_or_not(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(type(error)), store.written_together(tmp_path) as draft:
        (draft / "a").write_text("after")
        raise error
    assert (tmp_path / "a").read_text() == "before" and names(tmp_path) == {"a"}
    with store.written_together(tmp_path) as draft:
        for name in "ab":
            (draft / name).write_text("after")
    assert (tmp_path / "a").read_text() == "after" and names(tmp_path) == {"a", "b"}


def test_a_sweep_takes_all_that_is_unfinished(tmp_path: Path) -> None:
    with _process.scratch(tmp_path) as one, _process.scratch(one) as other:
        (other / "half").write_text("half")
        _process.sweep()
        assert names(tmp_path) == set()


def test_the_page_of_a_full_disk_says_what_is_there(
    run: Run, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from poplin.report import html

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_leaves(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(html, "page", full)
        assert run("fit", "counts.csv", "--out", "out") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "out: No space left on device. None of this fit's files is there; the folder is empty." in said
    assert "give the same command again" in said and not (tmp_path / "out").exists()
    assert run("fit", "counts.csv", "--out", "out", "-q") == 0
    held = {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
    with monkeypatch.context() as patched:
        patched.setattr(html, "page", full)
        assert run("fit", "counts.csv", "--out", "out") == 2
    assert "what was there before stays as it was (coef.csv, covariance.csv," in " ".join(
        capsys.readouterr().err.split()
    )
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == held


def test_a_report_that_fails_loses_no_fit(
    run: Run, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from poplin.report import html

    def fails(*_: Any) -> None:
        raise ZeroDivisionError("division by zero")

    write_leaves(tmp_path)
    assert run("fit", "counts.csv", "--out", "out", "-q") == 0
    monkeypatch.setattr(html, "page", fails)
    assert run("fit", "counts.csv", "--out", "out") == 0
    said = capsys.readouterr()
    assert "The report could not be made (ZeroDivisionError: division by zero). All else" in said.err
    assert "The report:" not in said.out and names(tmp_path / "out") == FILES - {"report.html"}


def dangling(folder: Path) -> str:
    """A link to a folder that is not there."""
    (folder / "out").symlink_to(folder / "disk" / "unplugged")
    return "out"


def below(folder: Path) -> str:
    """A folder below such a link."""
    return dangling(folder) + "/fit"


def circle(folder: Path) -> str:
    """Two links that lead to each other."""
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    return "a"


BAD = {
    "a dangling link": (dangling, "out is a link to"),
    "below a dangling link": (below, "out is a link to"),
    "links in a circle": (circle, "a is a link to b"),
    "a name of 256 letters": (lambda folder: "x" * 256, "File name too long"),
    "a name of 200 letters of two bytes": (lambda folder: "new/" + "é" * 200, "File name too long"),
    "a path of 5000 letters": (lambda folder: "/".join(["x" * 99] * 50), "File name too long"),
    "a file": (lambda folder: "leaves.csv", "leaves.csv is a file"),
    "a device": (lambda folder: "/dev/null", "/dev/null is a file"),
    "where nobody can write": (lambda folder: "/proc/fit", "--out /proc/fit"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_place_that_is_none_is_told_before_the_fit(
    run: Run, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from tests.standin import StandIn

    monkeypatch.setattr(StandIn, "fit", None)
    write_leaves(tmp_path)
    make, said = BAD[kind]
    assert run("fit", "counts.csv", "--out", make(tmp_path)) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and "Traceback" not in told


FILE_DOORS = {
    "counts": ("counts", "counts.csv", "--out"),
    "simulate": ("simulate", "--out"),
}


@pytest.mark.parametrize("command", FILE_DOORS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none/a.npz", "there is no folder none"),
        (f"{'x' * 252}.npz", "File name too long"),
        ("d.npz", "is a folder"),
    ],
)
def test_a_file_that_cannot_be_is_told(
    run: Run, tmp_path: Path, capsys: Any, command: str, name: str, said: str
) -> None:
    leaves()[0].to_csv(tmp_path / "counts.csv")
    (tmp_path / "d.npz").mkdir()
    assert run(*FILE_DOORS[command], name) == 2
    assert said in capsys.readouterr().err
