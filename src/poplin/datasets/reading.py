"""Downloaded files to tables of counts: members of an archive, images in the IDX format.

Start at the function that `catalogue` names for a table: each takes the files by name and returns a `CountTable`, whose
offset is on the log scale.
"""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data.tables import CountTable, index_names

Files = Mapping[str, Path]
IMAGES, LABELS = 2051, 2049  # what the first four bytes of an IDX file of unsigned bytes say
_MEMBERS = "pyPLNmodels/load_data/data/"


def oaks(files: Files) -> CountTable:
    """Leaves by taxa; the offset is the log of the reads of bacteria for bacteria, of fungi for fungi."""
    counts, totals, leaves = (
        _member(files["archive"], f"oaks/{name}.csv") for name in ("counts", "offsets", "covariates")
    )
    return CountTable(
        counts.to_numpy(),
        column_names=index_names(counts.columns),
        covariates=leaves,
        offset=np.log(totals[list(counts.columns)].to_numpy(dtype=float)),
    )


def microcosm(files: Files) -> CountTable:
    """Samples by sequence variants, with site, time, lineage and animal."""
    counts, samples = (
        _member(files["archive"], f"microcosm/{name}.tsv", sep="\t", index_col="Sample")
        for name in ("counts", "metadata")
    )
    return CountTable(
        counts.to_numpy(),
        index_names(counts.index),
        index_names(counts.columns),
        samples.loc[counts.index],
    )


def crossover(files: Files) -> CountTable:
    """Windows of the genome by breed and sex; the offset is the log coverage, without which a count is missing."""
    frame = _member(files["archive"], "crossover/crossover_wide.csv", index_col=0)
    columns = [name.removeprefix("nco_") for name in frame.columns if name.startswith("nco_")]
    counts = frame[[f"nco_{name}" for name in columns]].to_numpy(dtype=float)
    coverage = frame[[f"coverage_{name}" for name in columns]].to_numpy(dtype=float)
    covered = coverage > 0
    note = f"{int((~covered).sum())} counts have no coverage; they are missing."
    return CountTable(
        np.where(covered, counts, np.nan),
        tuple(f"chromosome{row.chrom}:{row.wstart}" for row in frame.itertuples()),
        tuple(columns),
        frame[["chrom", "wstart", "wstop"]].set_axis(["chromosome", "start", "stop"], axis=1),
        (note,),
        np.log(np.where(covered, coverage, 1.0)),
    )


def images(files: Files) -> CountTable:
    """Images by pixels, row after row: the ink of each pixel, 0 to 255, with the label of each image."""
    import pandas

    ink, labels = _idx(files["images"], IMAGES), _idx(files["labels"], LABELS)
    if len(ink) != len(labels):
        raise InputError(f"{files['images'].name} has {len(ink)} images, and there are {len(labels)} labels.")
    _, height, width = ink.shape
    names = tuple(f"{row + 1},{column + 1}" for row in range(height) for column in range(width))
    frame = pandas.DataFrame({"label": pandas.Series(labels).astype("category")})
    return CountTable(ink.reshape(len(ink), -1), None, names, frame)


def _member(archive: Path, name: str, **options: Any) -> Any:
    """A text table in an archive as a DataFrame."""
    import pandas

    with zipfile.ZipFile(archive) as held, held.open(_MEMBERS + name) as handle:
        return pandas.read_csv(handle, **options)


def _idx(path: Path, kind: int) -> np.ndarray:
    """The unsigned bytes of an IDX file: four bytes that say what it is, its sizes, its values."""
    with gzip.open(path, "rb") as handle:
        held = handle.read()
    dimensions = kind & 255
    head = np.frombuffer(held, ">i4", 1 + dimensions)
    if head[0] != kind:
        raise InputError(f"{path.name} begins with {head[0]}, and IDX files of this kind with {kind}.")
    return np.frombuffer(held, np.uint8, offset=head.nbytes).reshape(head[1:])
