"""Files from the network, kept in a folder and trusted only when their checksum is the recorded one.

Start at `local`. A file that is there with the right checksum is not downloaded again, so a file brought by other means
serves as well; one with another checksum is replaced.
"""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError, library
from poplin.data.tables import CountTable, index_names

FOLDER = "POPLIN_DATASETS"  # the variable of the environment that says where files are kept
TIMEOUT = 30.0  # seconds without an answer


class Remote(NamedTuple):
    """A file on the network: its address, the SHA-256 of its content, where it lies in the folder."""

    address: str
    sha256: str
    place: str


def folder_of_files() -> Path:
    """Where files are kept: $POPLIN_DATASETS, else `poplin/datasets` in the user's folder for caches."""
    pooch = library("pooch", extra="datasets", what="A public table")
    return Path(os.environ.get(FOLDER) or Path(pooch.os_cache("poplin")) / "datasets")


def local(remote: Remote, folder: Path | None = None) -> Path:
    """The file on this machine, downloaded if it is not there yet.

    Raises `InputError` when there is no network, when the file is gone, when what comes is not the file that was
    recorded (nothing of it is kept), or when the folder cannot be written.
    """
    pooch = library("pooch", extra="datasets", what="A public table")
    place = (folder or folder_of_files()) / remote.place
    ask: Any = pooch.HTTPDownloader(timeout=TIMEOUT)
    try:
        pooch.retrieve(
            remote.address, f"sha256:{remote.sha256}", fname=place.name, path=place.parent, downloader=ask
        )
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{place.name} cannot be kept in {place.parent}: {_line(error)}. Name another folder, here or in the "
            f"environment as {FOLDER}."
        ) from error
    except OSError as error:  # what `requests` raises is one of these
        raise InputError(
            f"{place.name} could not be downloaded from {remote.address}: {_line(error)}. Check the connection and try "
            f"again, or bring the file by other means to {place}."
        ) from error
    except ValueError as error:
        raise InputError(
            f"What came from {remote.address} is not the file that is recorded: its SHA-256 is not {remote.sha256}. "
            "Nothing of it was kept. Try again; if it differs again it was changed at its source, and a trusted copy "
            f"has to be brought to {place}."
        ) from error
    return place


def _line(error: BaseException) -> str:
    """The cause in one short line."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return text if len(text) <= 160 else f"{text[:159]}…"


# Downloaded files to tables of counts: members of an archive, images in the IDX format.
#
# Start at the function that `catalogue` names for a table: each takes the files by name and returns a `CountTable`,
# whose offset is on the log scale.


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
