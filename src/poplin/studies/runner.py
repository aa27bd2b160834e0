"""Carries out a study: tables are drawn, methods fitted, records kept as they are finished.

Start at `run`. The work is shared out by replicate over processes of one thread each, all cells' first
replicates first, so that a study that is stopped early is balanced. A process keeps what it has compiled, so that
replicates of the same shape share it. What has a record is not done again.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import NamedTuple

from poplin._interrupts import unheard
from poplin.studies import records
from poplin.studies.study import Cell, Column, Numbers, Table, chosen_cells, find

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
