"""Carries out a study: tables are drawn, methods fitted, records kept as they are finished.

Start at `run`. The work is shared out by replicate over processes of one thread each, all cells' first
replicates first, so that a study that is stopped early is balanced. A process keeps what it has compiled, so that
replicates of the same shape share it. What has a record is not done again.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from poplin._process import unheard, whole
from poplin.store import written_together
from poplin.studies import records
from poplin.studies.records import markdown, paired, summarise
from poplin.studies.study import NAMES, Cell, Column, Numbers, Study, Table, chosen_cells, find

RECORDS = "records.jsonl"


class Plan(NamedTuple):
    """Which study, in which setting, with which methods (all, if empty), how many replicates (None: as declared)."""

    study: str
    small: bool = False
    methods: tuple[str, ...] = ()
    replicates: int | None = None


class Unit(NamedTuple):
    """One table: the cell's place in the list, the replicate, and the methods that have no record yet."""

    plan: Plan
    cell: int
    replicate: int
    methods: tuple[str, ...]
    path: str


class Done(NamedTuple):
    """How far it is; has the fields of a fit's progress, so that the same screen shows it."""

    phase: str
    iteration: int
    max_iter: int
    objective: float
    seconds: float
    unit: str = "table"


Teller = Callable[[Done], None]


def run(plan: Plan, out: Path, *, jobs: int, tell: Teller | None = None) -> str:
    """Do what is missing in `out`/records.jsonl; '' when all is done, else why it is not.

    `jobs` processes; 0: in this process, one table after the other. Ctrl-C ends it, with the records so far kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / RECORDS
    records.mend(path)
    todo = units(plan, path)
    began = time.perf_counter()

    def told(count: int) -> None:
        if tell is not None:
            tell(Done(f"study {plan.study}", count, len(todo), float("nan"), time.perf_counter() - began))

    trouble = ""
    try:
        told(0)
        if jobs == 0:
            for count, unit in enumerate(todo, 1):
                carry_out(unit)
                told(count)
        elif todo:
            _in_processes(todo, jobs, told)
    except KeyboardInterrupt:
        trouble = "interrupted"
    except BrokenProcessPool:
        trouble = "a process was killed (too little memory, perhaps: try fewer --jobs)"
    if trouble:
        gc.collect()  # the pool, whose semaphores the system would miss where a process ends at once
    return trouble


def units(plan: Plan, path: Path) -> list[Unit]:
    """What is left to do: every cell's first replicate, then every cell's second, and so on."""
    cells = chosen_cells(find(plan.study), plan.small, plan.methods)
    finished = records.done(records.read(path))
    found = []
    for replicate in range(max(plan.replicates or cell.replicates for cell in cells)):
        for index, cell in enumerate(cells):
            wanted = (c for c in cell.columns if replicate < cell.tables(c, plan.replicates))
            names = [c.name for c in wanted if not c.missing()]
            left = tuple(name for name in names if (cell.label, replicate, name) not in finished)
            if left:
                found.append(Unit(plan, index, replicate, left, str(path)))
    return found


@cache
def _cells(plan: Plan) -> list[Cell]:
    return chosen_cells(find(plan.study), plan.small, plan.methods)


def carry_out(unit: Unit) -> None:
    """Draw the table of a unit, fit each of its methods, append a record after each."""
    cell = _cells(unit.plan)[unit.cell]
    table = cell.table(unit.replicate)
    for column in cell.columns:
        if column.name in unit.methods:
            head = {"cell": cell.label, "replicate": unit.replicate, "method": column.name}
            records.append(Path(unit.path), head | measured(unit, column, table))


_SEEN: set[tuple[str, str]] = set()  # (cell, method) that this process has compiled for


def measured(unit: Unit, column: Column, table: Table) -> Numbers:
    """Fit one table and measure it. A failure is a record too: its words stand under `status`.

    `seconds` and `cpu_seconds` (of the process) are of the fit alone; `first` says that it had to compile.
    """
    here = (_cells(unit.plan)[unit.cell].label, column.name)
    first = here not in _SEEN
    _SEEN.add(here)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        estimate = column.fit(table, unit.replicate)
        numbers: Numbers = {
            "seconds": round(time.perf_counter() - wall, 4),
            "cpu_seconds": round(time.process_time() - cpu, 4),
            "first": first,
            "converged": estimate.converged,
            **(estimate.numbers or {}),
        }
        for measure in find(unit.plan.study).measures:
            numbers |= measure(table, estimate)
    except (ArithmeticError, ValueError, RuntimeError) as error:
        return {"status": f"failed: {type(error).__name__}: {str(error)[:200]}"}
    return {"status": "done", **numbers}


def _in_processes(todo: list[Unit], jobs: int, told: Callable[[int], None]) -> None:
    with _pool(jobs) as pool:
        with unheard():
            waiting: list[Future[None]] = [pool.submit(carry_out, unit) for unit in todo]
        for count, future in enumerate(as_completed(waiting), 1):
            future.result()
            told(count)


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes (JAX must not be forked); on an error or Ctrl-C they are ended at once."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_alone, initargs=(os.getpid(),))
    others = set(multiprocessing.active_children())
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        pool.shutdown()  # its thread sees that they are gone; what it holds of the system is given back
        raise
    pool.shutdown()


def _alone(parent: int) -> None:
    """What a new process does first: one thread, leave Ctrl-C to the parent, and end when the parent is gone."""
    from threadpoolctl import threadpool_limits

    os.environ["PJRT_NPROC"] = "1"  # how many threads JAX starts on the CPU; read when it is first used
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# What a study leaves in its folder: table.csv, table.md, the figures, and page.md with command and machine.
#
# Start at `write`. Everything is computed from the records in the order of the study, so that a study that was
# interrupted and resumed leaves the same table as one that was not.


PACKAGES = ("poplin", "jax", "numpy", "scipy", "pyPLNmodels")


def write(plan: Plan, out: Path, *, command: str, trouble: str = "") -> list[Path]:
    """Write the tables, figures and the page of what the records hold; the paths, the page last.

    `trouble` says why the study is not complete ('': it is). Without a record nothing is written.
    """
    study = find(plan.study)
    cells = chosen_cells(study, plan.small, plan.methods)
    held = records.in_order(records.read(out / RECORDS), cells, plan.replicates)
    if not held:
        return []
    held = paired(held, study.reference)
    table = summarise(cells, held)
    factors = list(dict.fromkeys(name for cell in cells for name in cell.factors))
    done = [record for record in held if record["status"] == "done"]
    missing = "; ".join(filter(None, (trouble, _unfinished(plan, cells, len(done)))))
    with written_together(out) as draft:
        table.to_csv(draft / "table.csv", index=False, float_format="%.6g")
        shown = markdown(table, factors, study.shown)
        (draft / "table.md").write_text(shown, encoding="utf-8")
        pictures = []
        for figure in study.figures:
            figure.draw(table, done).savefig(draft / f"{figure.name}.png", format="png", dpi=130)
            pictures.append(f"![{figure.caption}]({figure.name}.png)\n\n{figure.caption}\n")
        head = _head(plan, study, command, missing, _absent(study, cells))
        text = [head, shown, study.remarks(table, done), *pictures]
        (draft / "page.md").write_text("\n".join(part for part in text if part), encoding="utf-8")
    names = "table.csv", "table.md", *(f"{figure.name}.png" for figure in study.figures)
    return [*(out / name for name in names), records.pack(out / RECORDS), out / "page.md"]


def _head(plan: Plan, study: Study, command: str, trouble: str, absent: list[str]) -> str:
    """Title, question, where and how it was run, what is not there, how to read the table."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    lines = [
        f"# {study.title}" + (" (small setting)" if plan.small else ""),
        f"\n{study.question}\n",
        f"- Command: `{command}`",
        f"- Machine: {_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}; {_versions()}",
        f"- Written: {now} UTC",
    ]
    if absent:
        lines.append(f"- Not among the columns: {'; '.join(absent)}.")
    if trouble:
        lines.append(f"- **Not complete: {trouble}.**")
    lines.append(
        "\nA value is a mean over replicates ± its Monte-Carlo error; `rms bias` has the noise of finite replicates "
        "taken out; seconds are CPU seconds of one thread, compiling left out, on a machine that may be shared. "
        "`table.csv` has every measure.\n"
    )
    return "\n".join(lines)


def _absent(study: Study, cells: list[Cell]) -> list[str]:
    skipped = {column.name: column.missing() for cell in cells for column in cell.columns}
    found = [f"{name} ({why})" for name, why in skipped.items() if why]
    return found + [f"{name} (not in poplin yet)" for name in study.absent]


def _unfinished(plan: Plan, cells: list[Cell], done: int) -> str:
    here = [(cell, column) for cell in cells for column in cell.columns if not column.missing()]
    asked = sum(cell.tables(column, plan.replicates) for cell, column in here)
    declared = sum(cell.tables(column) for cell, column in here)
    if done < asked:
        return f"{done} of {asked} fits are done"
    if plan.methods:
        words = f"only {', '.join(plan.methods)}, as --methods asked"
        return f"{words}; {done} fits of {plan.replicates or 'all'} replicates"
    if done < declared:
        return f"{done} of the {declared} fits that the study declares, as --replicates asked"
    return ""


def _versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


# The command `poplin study`: check the plan, run it, write what came of it, say how it ended.
#
# Start at `carry_out_plan`. Nothing here prints; the command line does.


__all__ = ["Ended", "Plan", "carry_out", "listing"]


class Ended(NamedTuple):
    """Exit code (0 done, 3 not all done, 130 interrupted), what was written, and what went wrong ('': nothing)."""

    code: int
    written: list[str]
    trouble: str


def listing() -> str:
    """The studies, one a line, with their titles."""
    width = max(map(len, NAMES))
    return "\n".join(f"{name:{width}}  {find(name).title}" for name in NAMES)


def carry_out_plan(plan: Plan, out: Path, *, jobs: int | None, tell: Teller | None, command: str) -> Ended:
    """Run what is missing and write tables, figures and page into `out`; `InputError` for a meaningless plan."""
    chosen_cells(find(plan.study), plan.small, plan.methods)
    trouble = run(plan, out, jobs=jobs or os.cpu_count() or 1, tell=tell)
    with whole():
        paths = write(plan, out, command=command, trouble=trouble)
    if trouble:
        kept = f"The study is not complete ({trouble}); the same command goes on from here."
        return Ended(130 if trouble == "interrupted" else 3, [f"Written so far: {p}" for p in paths], kept)
    return Ended(0, [f"Written: {path}" for path in paths], "")
