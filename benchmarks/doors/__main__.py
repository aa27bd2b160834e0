"""`python -m benchmarks.doors`: ten thousand damaged files, each read in a process with limits; lines and one page.

A file is a valid one (`formats.py`) that was changed in one way (`mutations.py`), by a seed. It has to be refused in
one clear line, or be the table that another library reads. Lines that are done are kept in `out/doors/lines.jsonl`, so
that a stopped run goes on; `--inputs 500` runs so many, `--formats csv,npz` some kinds, `--page` only writes the page.
"""

from __future__ import annotations

import argparse
import json
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.doors.formats import FORMATS
from benchmarks.doors.worker import READY
from benchmarks.measure import REPOSITORY, facts

TURNS = 250  # files that a process tries
INPUTS, SECONDS, STARTING, MIB = 10_000, 20.0, 120.0, 2048.0
GOOD = ("refused", "same")
TITLES = {
    "refused": "refused in a line",
    "same": "read as the reference reads it",
    "traceback": "tracebacks",
    "signal": "signals",
    "slow": f"over {SECONDS:.0f} s",
    "memory": "over 2 GB",
    "different": "other than the reference",
    "alone": "read, and not by the reference",
    "unclear": "unclear lines",
}


def main(arguments: list[str] | None = None) -> None:
    """Run what has no line yet, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doors", description=__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--formats", default=",".join(name.replace(", ", "/") for name in FORMATS))
    parser.add_argument("--page", action="store_true", help="write the page from the lines that are there")
    parser.add_argument("--lines", type=Path, default=REPOSITORY / "benchmarks" / "out" / "doors")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "benchmarks" / "doors.md")
    chosen = parser.parse_args(arguments)
    chosen.lines.mkdir(parents=True, exist_ok=True)
    names = [name.replace("/", ", ") for name in chosen.formats.split(",")]
    if not chosen.page:
        run(names, chosen.inputs, chosen.lines)
    chosen.out.write_text(page(lines(chosen.lines)))


def lines(folder: Path) -> list[dict[str, Any]]:
    """The lines that are there."""
    path = folder / "lines.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def run(names: list[str], inputs: int, folder: Path) -> None:
    """Try the files that have no line, by kinds in turn."""
    valid = folder / "valid"
    for name in names:
        if not (valid / name).is_dir():
            unfinished = valid / f"{name}.part"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            FORMATS[name].write(unfinished / FORMATS[name].file)
            unfinished.rename(valid / name)
    done = {(line["format"], line["seed"]) for line in lines(folder)}
    each = -(-inputs // len(names))
    tasks = [
        {"format": name, "seed": seed} for name in names for seed in range(each) if (name, seed) not in done
    ]
    where = facts()
    with (folder / "lines.jsonl").open("a") as file:
        for count, line in enumerate(answers(tasks, valid), 1):
            file.write(json.dumps(line | where) + "\n")
            if line["outcome"] not in GOOD:
                print(
                    json.dumps({key: line[key] for key in ("format", "seed", "how", "outcome", "said")}),
                    flush=True,
                )
            if count % 500 == 0:
                file.flush()
                print(f"{count} of {len(tasks)}", flush=True)


def answers(tasks: list[dict[str, Any]], valid: Path) -> Iterator[dict[str, Any]]:
    """What comes of each task, in a process that is replaced when it dies or takes too long."""
    process, ready = None, ""
    for task in tasks:
        old = process is None or process.poll() is not None or task["seed"] % TURNS == 0
        if old or ready != task["format"]:
            process, ready = _worker(valid, process), task["format"]
            if _told(process, {"format": ready}, STARTING) != READY:
                raise RuntimeError(
                    f"no valid file of the kind '{ready}' is read: see {valid.parent / 'worker.log'}"
                )
        assert process is not None
        began = time.monotonic()
        answer = _told(process, task, SECONDS)
        if answer:
            yield json.loads(answer)
            continue
        seconds = time.monotonic() - began
        process.kill()
        code = process.wait()
        found = {"how": "", "seconds": seconds, "peak_mib": 0.0, "said": f"exit code {code}"}
        yield task | found | {"outcome": "slow" if seconds >= SECONDS else "signal"}
    if process is not None:
        process.kill()
        process.wait()


def _told(process: subprocess.Popen[str], task: dict[str, Any], seconds: float) -> str:
    """The line that answers a task; nothing where none comes in time."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(task) + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip() if select.select([process.stdout], [], [], seconds)[0] else ""


def _worker(valid: Path, before: subprocess.Popen[str] | None) -> subprocess.Popen[str]:
    """A fresh process in the place of the one before."""
    if before is not None:
        before.kill()
        before.wait()
    command = [sys.executable, "-m", "benchmarks.doors.worker", str(valid)]
    log = (valid.parent / "worker.log").open("a")
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, bufsize=1, **pipes)


def outcome_of(line: dict[str, Any]) -> str:
    """The outcome, where time and memory count as well."""
    if line["outcome"] == "signal" or line["seconds"] <= SECONDS and line["peak_mib"] <= MIB:
        return line["outcome"]
    return "slow" if line["seconds"] > SECONDS else "memory"


def page(found: list[dict[str, Any]]) -> str:
    """The page: how many of each kind ended how, and what did not end well."""
    told = Counter((line["format"], outcome_of(line)) for line in found)
    head = list(TITLES)
    rows = [f"| kind | files | {' | '.join(TITLES[name] for name in head)} |", f"|{'---|' * (len(head) + 2)}"]
    for name in [name for name in FORMATS if any(line["format"] == name for line in found)]:
        many = [told[name, outcome] for outcome in head]
        rows.append(f"| {name} | {sum(many)} | {' | '.join(map(str, many))} |")
    sums = [sum(told[name, outcome] for name in FORMATS) for outcome in head]
    rows.append(f"| all | {sum(sums)} | {' | '.join(map(str, sums))} |")
    bad = [line for line in found if outcome_of(line) not in GOOD]
    listed = [
        f"- {line['format']}, seed {line['seed']} ({line['how']}): {outcome_of(line)}" for line in bad[:50]
    ]
    commits = ", ".join(sorted({str(line["commit"]) for line in found})) or "no commit"
    slowest = max((line["seconds"] for line in found), default=0.0)
    largest = max((line["peak_mib"] for line in found), default=0.0)
    return "\n".join([
        "# Damaged files at every door\n",
        "Written by `python -m benchmarks.doors`. A valid file is changed in one way: bits, stretches of noise or "
        "zeros, a cut, cells, arrays of other types and shapes, elements and attributes, metadata, settings. It has to "
        "be refused in one line that names it, or be read as pandas, NumPy, SciPy or anndata reads it.\n",
        *rows,
        f"\nThe slowest took {slowest:.1f} s, the largest process had {largest:.0f} MiB. {len(found)} lines, at "
        f"{commits}.\n",
        *([*listed, ""] if listed else []),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
