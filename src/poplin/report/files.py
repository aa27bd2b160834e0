"""The files that a fit leaves behind: tables for any program, the model for poplin, the page for a person.

Start at `write_results`. Names in the files are the input's; every file is written whole or not at all.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from poplin._errors import InputError
from poplin.data.events import EventCounts
from poplin.data.held import is_on_disk
from poplin.data.readers import read_annotated
from poplin.data.tables import listed
from poplin.inference import summary
from poplin.inference.summary import Fitted
from poplin.models.covariance import SQUARE_UP_TO
from poplin.report import html, views
from poplin.store import written_together, written_whole

# What a comparison of methods leaves behind: compare.csv, compare.md and one figure.
#
# Start at `write_comparison`.


if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

FORMATS = {
    "seconds": "{:.2f}",
    "iterations": "{:.0f}",
    "bound": "{:.2f}",
    "loglik": "{:.2f}",
    "loglik_se": "{:.2f}",
    "khat": "{:.2f}",
    "parameters": "{:.0f}",
    "heldout": "{:.2f}",
    "difference": "{:.2f}",
    "difference_se": "{:.2f}",
    "bic": "{:.2f}",
    "coef_difference": "{:.4f}",
    "covariance_difference": "{:.4f}",
}


def write_comparison(table: pandas.DataFrame, out: Path, notes: Sequence[str] = ()) -> list[Path]:
    """Write compare.csv, compare.md and compare.png into `out`, made if need be; returns the paths.

    `notes` are what is to be known of the table of counts, whatever it was fitted by.
    """
    out.mkdir(parents=True, exist_ok=True)
    with written_together(out) as draft:
        table.to_csv(draft / "compare.csv")
        (draft / "compare.md").write_text(markdown(table, notes), encoding="utf-8")
        figure(table).savefig(draft / "compare.png", format="png", dpi=130)
    return [out / name for name in ("compare.csv", "compare.md", "compare.png")]


def write_choice(found: Any, out: Path, notes: Sequence[str] = ()) -> list[Path]:
    """The same of what `poplin.select` found: how candidates stand, in compare.csv, compare.md and compare.png."""
    from matplotlib.figure import Figure

    from poplin.report import plots

    out.mkdir(parents=True, exist_ok=True)
    drawn = Figure(figsize=(7, 5), layout="constrained")
    plots.selection(found, drawn.subplots())
    with written_together(out) as draft:
        found.table.to_csv(draft / "compare.csv")
        (draft / "compare.md").write_text(choice_markdown(found, notes), encoding="utf-8")
        drawn.savefig(draft / "compare.png", format="png", dpi=130)
    return [out / name for name in ("compare.csv", "compare.md", "compare.png")]


def choice_markdown(found: Any, notes: Sequence[str] = ()) -> str:
    """How candidates stand, for people to read, with the sentence that says which was chosen and by what."""
    told = "; ".join(f"{name}: {direction}" for name, direction in found.table.attrs.items())
    return f"{markdown(found.table, notes)}\n{told}\n\n{found.words}\n"


def markdown(table: pandas.DataFrame, notes: Sequence[str] = ()) -> str:
    """The table for people to read, and what they have to know of the counts."""
    head = [str(table.index.name or "method"), *table.columns]
    lines = [_line(head), _line(["---"] * len(head))]
    for label, row in table.iterrows():
        lines.append(_line([str(label), *(_told(name, row[name]) for name in table.columns)]))
    told = ["", "To know", "", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join([*lines, *told]) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _told(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value.replace("|", "/").replace("\n", " ")
    if value is None or value != value:
        return ""
    return FORMATS[name].format(value) if name in FORMATS else ("yes" if value else "no")


def figure(table: pandas.DataFrame) -> Figure:
    """Bound and log-likelihood below the best, seconds, and the distance of Sigma to the reference, by method."""
    from matplotlib.figure import Figure

    done = table[table["loglik"].notna()]
    places = np.arange(len(done))[::-1]
    drawn = Figure(figsize=(11, 1.6 + 0.35 * len(done)), layout="constrained")
    likely, time, apart = drawn.subplots(1, 3, sharey=True)
    best = float(done["loglik"].max())
    likely.errorbar(
        done["loglik"] - best, places, xerr=2 * done["loglik_se"], fmt="o", label="log-likelihood"
    )
    likely.plot(done["bound"] - best, places, "|", markersize=12, label="bound")
    likely.set_xlabel("nats, from the best log-likelihood")
    likely.legend(frameon=False, fontsize="small")
    likely.set_yticks(places, [str(label) for label in done.index], parse_math=False)
    time.plot(done["seconds"], places, "o")
    time.set_xscale("log")
    time.set_xlabel("seconds")
    apart.plot(done["covariance_difference"], places, "o")
    apart.set_xlabel("relative difference of Sigma")
    return drawn


TESTED = ("se", "lower", "upper", "z", "p", "p_adjusted", "method")
FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
)  # what spreadsheets take for the beginning of one, or skip before it
PAGE = "report.html"
# tables that not every fit has, by the files that hold them
FURTHER = {
    "scales.csv": summary.scale_table,
    "specific.csv": summary.specific_table,
    "law.csv": lambda fit: law_table(fit),
}
MOST_FACTORS = 100  # of a direct form above that, by size


def law_table(fit: Fitted) -> pandas.DataFrame | None:
    """The law's own parameters, see `summary.law_records`; None where it has none."""
    import pandas

    lines = summary.law_records(fit)
    if not lines:
        return None
    held = {name for line in lines for name in line}
    columns = ["parameter", *(name for name in summary.LAW_COLUMNS if name in held)]
    return pandas.DataFrame(lines, columns=pandas.Index(columns)).set_index("parameter")


def check_folder(out: Path, option: str = "--out") -> Path:
    """`out`, when results can be written there later; nothing is made yet.

    Raises `InputError` when it is a file, or lies where nothing may be written or no folder of that name can be.
    """
    there = next((place for place in (out, *out.absolute().parents) if os.path.lexists(place)), Path("/"))
    if there.is_symlink() and not there.exists():
        raise InputError(
            f"{option} {out}: {there} is a link to {os.readlink(there)}, which is not there. Make that folder, or "
            "remove the link."
        )
    if not there.is_dir():
        raise InputError(f"{option} {out}: {there} is a file; wanted is a folder (made if need be).")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{option} {out}: nothing may be written in {there}. Choose another folder.")
    for part in out.absolute().parts[len(there.absolute().parts) :]:
        _check_name(there / part, f"{option} {out}")
    return out


def check_file(path: Path, option: str = "--out") -> Path:
    """`path`, when a file can be written there later. Raises `InputError` where its folder is missing, or it is one."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}. Make it first.")
    check_folder(folder, option)
    _check_name(path, f"{option} {path}")
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder; wanted is the name of a file.")
    return path


def _check_name(path: Path, said: str) -> None:
    """An `InputError` where the file system can have no such name (most take 255 bytes)."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{said}: {error.strerror or error}. Choose another name.") from None


def write_results(
    fit: Fitted, out: Path, origin: html.Origin | None = None, *, page: bool = True
) -> list[Path]:
    """Write coef.csv, covariance.csv, embedding.csv, trace.csv, model.npz and (`page`) report.html into `out`.

    Of a borrowed basis with standard errors, scales.csv too; of variances of the columns' own, specific.csv; of a law
    of the counts with parameters of its own, law.csv.

    The folder is made if need be. The files appear together when all are on the disk, and replace those of an earlier
    fit. Returns the paths, the page last.
    """
    out.mkdir(parents=True, exist_ok=True)
    tables = {"covariance.csv": _covariance(fit), "embedding.csv": _embedding(fit), "trace.csv": _trace(fit)}
    with written_together(out) as draft:
        for name, lines in tables.items():
            _write_table(draft / name, lines)
        fit.save(draft / "model.npz")
        coef, *others = _completed(fit, draft, origin, page=page)
    return [out / name for name in (coef, *tables, "model.npz", *others)]


def complete(fit: Fitted, out: Path, origin: html.Origin | None = None, *, page: bool = True) -> list[Path]:
    """Write what standard errors are in (coef.csv, `FURTHER` and report.html) anew; returns the paths."""
    with written_together(out) as draft:
        written = _completed(fit, draft, origin, page=page)
    return [out / name for name in written]


def _completed(fit: Fitted, draft: Path, origin: html.Origin | None, *, page: bool) -> list[str]:
    """The files, by their names; without a page, that of an earlier fit would be of another one than the tables.

    scales.csv has the scales of a borrowed basis, in its order, and specific.csv the variances of the columns' own,
    with their intervals, law.csv the zero probabilities and dispersions; an earlier fit's go likewise.
    """
    written = write_estimates(fit, draft)
    if not page:
        (draft.parent / PAGE).unlink(missing_ok=True)
        return written
    (draft / PAGE).write_text(html.page(fit, origin), encoding="utf-8", newline="")
    return [*written, PAGE]


def write_estimates(fit: Fitted, draft: Path) -> list[str]:
    """Write coef.csv and those of `FURTHER` that the fit has into `draft`; returns their names."""
    _write_table(draft / "coef.csv", _coefficients(fit))
    written = ["coef.csv"]
    for name, table in FURTHER.items():
        found = table(fit)
        if found is None:
            (draft.parent / name).unlink(missing_ok=True)
        else:
            found.to_csv(draft / name)
            written.append(name)
    return written


def _write_table(path: Path, lines: Iterable[Sequence[Any]]) -> None:
    """Names first in each line, and all over the first: they may hold a carriage return, which csv forgets to quote."""
    with open(path, "w", encoding="utf-8", newline="") as handle:
        plain = csv.writer(handle, lineterminator="\n")
        quoted = csv.writer(handle, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        for number, line in enumerate(lines):
            names = line[:2] if number else line
            (quoted if any("\r" in str(name) for name in names) else plain).writerow(line)


def write_h5ad(fit: Fitted, source: Path, target: Path) -> None:
    """Copy the AnnData in `source` (.h5ad, .zarr) to the file `target` with the rows' embedding in obsm["X_poplin"].

    A large .h5ad is copied as a file; a zarr store has to be read.
    """
    with written_together(target.absolute().parent) as draft:
        if is_on_disk(fit.counts_.y) and source.suffix.lower() == ".h5ad":
            shutil.copyfile(source, draft / target.name)
            _put_embedding(draft / target.name, views.embedding(fit).scores)
        else:
            data = read_annotated(source)
            data.obsm["X_poplin"] = views.embedding(fit).scores
            data.write_h5ad(draft / target.name)


def _put_embedding(file: Path, scores: np.ndarray) -> None:
    import h5py
    from anndata.io import write_elem

    with h5py.File(file, "r+") as root:
        write_elem(root.require_group("obsm"), "X_poplin", scores)


def spreadsheet_words(fit: Fitted) -> str | None:
    """What to say of names that a spreadsheet would take for formulas and carry out; None where there are none.

    They are written as they are: names are what other programs join the files by, and an apostrophe in front would be
    part of the name to all of them.
    """
    counts = fit.counts_
    every = (*counts.column_names, *counts.covariate_names, *counts.row_names)
    found = [name for name in every if name.startswith(FORMULA) and not _is_number(name)]
    if not found:
        return None
    return (
        f"Names begin with =, +, - or @ ({listed(found, 3)}), which a spreadsheet takes for formulas. They are in the "
        ".csv files as they are. Do not open these by a double click: import them, with the columns of names as text."
    )


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _coefficients(fit: Fitted) -> Iterable[Sequence[Any]]:
    """One line a coefficient, on the log scale, with its 95 % interval and test where there are any, and their method.

    p_adjusted is Benjamini and Hochberg's, over the columns of a covariate; `information` says from what the standard
    error is. A value that is not there is empty.
    """
    from poplin.inference.intervals import (
        adjusted,  # it brings SciPy, and the command line shows its help without
    )

    counts = fit.counts_
    told, kinds = summary.coef_interval(fit), getattr(fit, "coef_information", lambda: None)()
    named = ("information",) if kinds is not None else ()
    yield "covariate", "column", "estimate", *(() if told is None else TESTED), *named
    for k, covariate in enumerate(counts.covariate_names):
        values = [fit.coef_[k].tolist()]
        if told is not None:
            values += [getattr(told, name)[k].tolist() for name in TESTED[:-2]]
            values += [
                adjusted(told.p[k]).tolist(),
                np.broadcast_to(told.method, fit.coef_.shape)[k].tolist(),
            ]
        values += [] if kinds is None else [kinds[k].tolist()]
        for column, *line in zip(counts.column_names, *values, strict=True):
            yield covariate, column, *("" if value != value else value for value in line)


def _covariance(fit: Fitted) -> Iterable[Sequence[Any]]:
    """Sigma as a square with names on both sides; above 2000 columns the factors F, Sigma = F F'."""
    names = fit.counts_.column_names
    if len(names) <= SQUARE_UP_TO:
        yield "column", *names
        values = fit.covariance_
    else:
        values = (fit.components_ * np.sqrt(fit.eigenvalues_))[:, :MOST_FACTORS]
        yield "column", *_numbered("factor", values.shape[1])
    yield from ((name, *row) for name, row in zip(names, values.tolist(), strict=True))


def _embedding(fit: Fitted) -> Iterable[Sequence[Any]]:
    seen = views.embedding(fit)
    yield "row", *_numbered("axis", seen.scores.shape[1])
    yield from ((name, *row) for name, row in zip(seen.names, seen.scores.tolist(), strict=True))


def write_embedding(fit: Fitted, mean: np.ndarray, names: Sequence[str], target: Path) -> None:
    """Write positions of rows that a fit has not seen (`mean`: what `transform` gives), as in embedding.csv."""
    scores = views.on_axes(fit, mean)
    lines = [("row", *_numbered("axis", scores.shape[1]))]
    lines += [(name, *row) for name, row in zip(names, scores.tolist(), strict=True)]
    with written_together(target.absolute().parent) as draft:
        _write_table(draft / target.name, lines)


def _trace(fit: Fitted) -> Iterable[Sequence[Any]]:
    yield tuple(fit.trace_)
    yield from zip(*(np.asarray(column).tolist() for column in fit.trace_.values()), strict=True)


def _numbered(word: str, count: int) -> list[str]:
    return [f"{word}{k + 1}" for k in range(count)]


# What `poplin counts` leaves behind: a sparse table with its totals, ready for `poplin fit`.
#
# Start at `write_counted`.


KINDS = (".h5ad", ".npz")


def check_target(out: Path) -> Path:
    """`out`, when a table can be written there. Raises `InputError` for another ending or a place that is not there."""
    if out.suffix not in KINDS:
        raise InputError(f"--out {out}: wanted is a name that ends in .h5ad or .npz.")
    return check_file(out)


def write_counted(found: EventCounts, out: Path, command: str = "") -> None:
    """Write counts, names, totals and the report of what was dropped, whole or not at all.

    .h5ad: obs has total, log_total (an offset), counted (what is left in the row); var has rows (in which the column is
    seen) and concept_id, where columns have the names of OMOP's concepts; uns["poplin_counts"] the report and the
    command. .npz: the layout of scipy.sparse.save_npz with obs_names, var_names, var_concept_id, cov_total,
    cov_log_total, cov_counted and what is known of persons.
    """
    with np.errstate(
        divide="ignore"
    ):  # a row whose counts are all 0 has none, and a fit that is given it says so
        facts = {"total": found.totals, "log_total": np.log(found.totals)}
    facts |= {"counted": np.asarray(found.counts.sum(axis=1)).ravel(), **found.people}
    if out.suffix == ".npz":
        _write_npz(found, facts, out)
        return
    import anndata
    import pandas

    obs = pandas.DataFrame(facts, index=pandas.Index(found.row_names, dtype=object))
    seen = {"rows": found.rows_seen} | ({"concept_id": list(found.concepts)} if found.concepts else {})
    var = pandas.DataFrame(seen, index=pandas.Index(found.column_names, dtype=object))
    held = anndata.AnnData(
        found.counts, obs, var, {"poplin_counts": {"report": list(found.report), "command": command}}
    )
    with written_together(out.absolute().parent) as draft:
        held.write_h5ad(draft / out.name, compression="gzip")


def _write_npz(found: EventCounts, facts: dict[str, np.ndarray], out: Path) -> None:
    counts = found.counts
    names = {"obs_names": np.array(found.row_names), "var_names": np.array(found.column_names)}
    parts = {"format": np.array("csr"), "shape": np.array(counts.shape), "data": counts.data}
    parts |= {"indices": counts.indices, "indptr": counts.indptr}
    if found.concepts:
        names["var_concept_id"] = np.array(found.concepts)
    told = {f"cov_{name}": np.asarray(column.tolist()) for name, column in facts.items()}
    with written_whole(out, "wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, **parts, **names, **told)
