"""What a study leaves in its folder: table.csv, table.md, the figures, and page.md with command and machine.

Start at `write`. Everything is computed from the records in the order of the study, so that a study that was
interrupted and resumed leaves the same table as one that was not.
"""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from poplin.store import written_together
from poplin.studies import records
from poplin.studies.runner import RECORDS, Plan
from poplin.studies.study import Cell, Study, chosen_cells, find
from poplin.studies.summary import markdown, paired, summarise

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
