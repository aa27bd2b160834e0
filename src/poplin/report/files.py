"""The files that a fit leaves behind: tables for any program, the model for poplin, the page for a person.

Start at `write_results`. Names in the files are the input's; every file is written whole or not at all.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data.held import is_on_disk
from poplin.data.readers import read_annotated
from poplin.inference import summary
from poplin.inference.summary import Fitted
from poplin.report import html, views
from poplin.store import written_whole

SQUARE_UP_TO = 2000  # columns; above, a square table of the covariance is more than anybody reads
TESTED = ("se", "lower", "upper", "z", "p", "p_adjusted", "method")
MOST_FACTORS = 100  # of a direct form above that, by size


def check_folder(out: Path) -> Path:
    """`out`, when results can be written there later; nothing is made yet.

    Raises `InputError` when it is a file, or lies where nothing may be written.
    """
    import os

    there = next((place for place in (out, *out.absolute().parents) if place.exists()), Path("/"))
    if not there.is_dir():
        raise InputError(f"--out {out}: {there} is a file; wanted is a folder (made if need be).")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: nothing may be written in {there}. Choose another folder.")
    return out


def write_results(fit: Fitted, out: Path, origin: html.Origin | None = None) -> list[Path]:
    """Write coef.csv, covariance.csv, embedding.csv, trace.csv, model.npz and report.html into `out`.

    The folder is made if need be. Files of the same names from an earlier fit are replaced one by one.
    Returns the paths, the page last.
    """
    out.mkdir(parents=True, exist_ok=True)
    tables = {"covariance.csv": _covariance(fit), "embedding.csv": _embedding(fit), "trace.csv": _trace(fit)}
    for name, lines in tables.items():
        _write_table(out / name, lines)
    fit.save(out / "model.npz")
    coef, page = complete(fit, out, origin)
    return [coef, *(out / name for name in (*tables, "model.npz")), page]


def complete(fit: Fitted, out: Path, origin: html.Origin | None = None) -> list[Path]:
    """Write what standard errors are in, coef.csv and report.html, anew; returns the two paths."""
    _write_table(out / "coef.csv", _coefficients(fit))
    with written_whole(out / "report.html") as handle:
        handle.write(html.page(fit, origin))
    return [out / "coef.csv", out / "report.html"]


def _write_table(path: Path, lines: Iterable[Sequence[Any]]) -> None:
    with written_whole(path) as handle:
        csv.writer(handle, lineterminator="\n").writerows(lines)


def write_h5ad(fit: Fitted, source: Path, target: Path) -> None:
    """Copy the AnnData in `source` (.h5ad, .zarr) to the file `target` with the rows' embedding in obsm["X_poplin"].

    A large .h5ad is copied as a file; a zarr store has to be read.
    """
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        if is_on_disk(fit.counts_.y) and source.suffix.lower() == ".h5ad":
            shutil.copyfile(source, unfinished)
            _put_embedding(unfinished, views.embedding(fit).scores)
        else:
            data = read_annotated(source)
            data.obsm["X_poplin"] = views.embedding(fit).scores
            data.write_h5ad(unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _put_embedding(file: Path, scores: np.ndarray) -> None:
    import h5py
    from anndata.io import write_elem

    with h5py.File(file, "r+") as root:
        write_elem(root.require_group("obsm"), "X_poplin", scores)


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
