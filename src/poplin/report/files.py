"""The files that a fit leaves behind: tables for any program, the model for poplin, the page for a person.

Start at `write_results`. Names in the files are the input's; every file is written whole or not at all.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data.held import is_on_disk
from poplin.data.readers import read_annotated
from poplin.data.tables import listed
from poplin.inference import summary
from poplin.inference.summary import Fitted
from poplin.report import html, views
from poplin.store import written_together

SQUARE_UP_TO = 2000  # columns; above, a square table of the covariance is more than anybody reads
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
MOST_FACTORS = 100  # of a direct form above that, by size


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

    The folder is made if need be. The files appear together when all are on the disk, and replace those of an earlier
    fit. Returns the paths, the page last.
    """
    out.mkdir(parents=True, exist_ok=True)
    tables = {"covariance.csv": _covariance(fit), "embedding.csv": _embedding(fit), "trace.csv": _trace(fit)}
    with written_together(out) as draft:
        for name, lines in tables.items():
            _write_table(draft / name, lines)
        fit.save(draft / "model.npz")
        coef, *pages = _completed(fit, draft, origin, page=page)
    return [out / name for name in (coef, *tables, "model.npz", *pages)]


def complete(fit: Fitted, out: Path, origin: html.Origin | None = None, *, page: bool = True) -> list[Path]:
    """Write what standard errors are in, coef.csv and report.html, anew; returns the paths."""
    with written_together(out) as draft:
        written = _completed(fit, draft, origin, page=page)
    return [out / name for name in written]


def _completed(fit: Fitted, draft: Path, origin: html.Origin | None, *, page: bool) -> list[str]:
    """The two files, by their names; without a page, that of an earlier fit would be of another one than the tables."""
    _write_table(draft / "coef.csv", _coefficients(fit))
    if not page:
        (draft.parent / PAGE).unlink(missing_ok=True)
        return ["coef.csv"]
    (draft / PAGE).write_text(html.page(fit, origin), encoding="utf-8", newline="")
    return ["coef.csv", PAGE]


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
    from poplin.inference.wald import adjusted  # it brings SciPy, and the command line shows its help without

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


def _trace(fit: Fitted) -> Iterable[Sequence[Any]]:
    yield tuple(fit.trace_)
    yield from zip(*(np.asarray(column).tolist() for column in fit.trace_.values()), strict=True)


def _numbered(word: str, count: int) -> list[str]:
    return [f"{word}{k + 1}" for k in range(count)]
