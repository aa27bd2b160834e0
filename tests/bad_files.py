"""Bad files, each of which has to be one clear error: `BAD_FILES`, for readers and the command line.

Write one with `BadFile.write`; `door` does with it what `poplin fit` does before any fitting. Its `options`
are those of `poplin fit`, so a test of the command line can pass them on.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from poplin.data.counts import as_counts, check_basis, check_rank
from poplin.data.readers import read_basis, read_counts, read_table
from tests.bad_inputs import counts_with, covariates_with, good_counts, good_covariates

COUNTS = good_counts().to_csv(index_label="leaf_id")
LEAVES = good_covariates().to_csv(index_label="leaf_id")
TREE = {"covariates": "leaves.csv", "formula": "~ tree"}


class BadFile(NamedTuple):
    """Files of a folder and what is asked of them; `counts` is the file that holds the counts.

    `options` are those of `poplin fit`, without dashes: covariates, formula, basis, rank, row-names.
    """

    name: str
    files: Mapping[str, str | bytes]
    words: tuple[str, ...]
    options: Mapping[str, str] = {}
    counts: str = "counts.csv"

    def write(self, folder: Path) -> None:
        """Put the files into `folder`."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def door(bad: BadFile, folder: Path) -> None:
    """What `poplin fit` does with such files before any fitting."""
    row_names = bad.options.get("row-names")
    table = read_counts(folder / bad.counts, row_names=row_names)
    covariates = bad.options.get("covariates")
    data = None if covariates is None else read_table(folder / covariates, row_names=row_names)
    counts = as_counts(table, data=data, formula=bad.options.get("formula"))
    if "basis" in bad.options:
        check_basis(read_basis(folder / bad.options["basis"]), counts.y.shape[1], counts.column_names)
    if "rank" in bad.options:
        check_rank(int(bad.options["rank"]), *counts.y.shape)


def npz(**arrays: np.ndarray) -> bytes:
    """The bytes of an .npz file."""
    held = io.BytesIO()
    np.savez(held, **arrays)  # type: ignore[arg-type]
    return held.getvalue()


def _with(formula: str, leaves: str = LEAVES) -> dict:
    """Good counts, a table of covariates and a formula."""
    files = {"counts.csv": COUNTS, "leaves.csv": leaves}
    return {"files": files, "options": {"covariates": "leaves.csv", "formula": formula}}


def _one(name: str, content: str | bytes) -> dict:
    """A file of counts alone."""
    return {"files": {name: content}, "counts": name}


_TABLE: dict[str, tuple[dict, tuple[str, ...]]] = {
    "no such file": ({"files": {}}, ("no file", "counts.csv")),
    "unknown suffix": (_one("counts.docx", "x"), ("counts.docx", "no known kind", "'.csv'")),
    "no suffix": (_one("counts", COUNTS), ("no known kind",)),
    "empty file": (_one("counts.csv", ""), ("counts.csv is empty",)),
    "blank file": (_one("counts.csv", "\n\n"), ("counts.csv is empty", "header")),
    "only a header": (_one("counts.csv", "id,alder,birch\n"), ("empty", "0 rows")),
    "prose with commas": (
        _one("counts.csv", "Dear all,\nthis is, as you see, no table\nyours\n"),
        ("counts.csv is no table", "line 3"),
    ),
    "prose": (_one("counts.txt", "Dear all\nthis is no table\n"), ("no column of numbers",)),
    "cut off": (_one("counts.csv", COUNTS[:-4]), ("no table", "line 7 has 3 fields where 4")),
    "a field too many": (_one("counts.csv", COUNTS + "leaf7,1,2,3,4\n"), ("line 8 has 5 fields where 4",)),
    "binary": (_one("counts.csv", b"\x00\x01\x02" * 99), ("binary",)),
    "other encoding": (_one("counts.csv", "id,a\nch\xeane,1\n".encode("latin-1")), ("UTF-8",)),
    "not packed": (_one("counts.csv.gz", COUNTS), (".gz", "cannot be unpacked")),
    "packed and cut off": (
        _one("counts.csv.gz", gzip.compress(COUNTS.encode() * 99)[:-20]),
        ("counts.csv.gz",),
    ),
    "no header": (_one("counts.csv", "3,0\n5,1\n"), ("only numbers", "no header")),
    "names or counts": (
        _one("counts.csv", "site,a\n4,1\n7,0\n"),
        ("'site'", "--row-names site", "--row-names none"),
    ),
    "no such row names": (
        {**_one("counts.csv", COUNTS), "options": {"row-names": "leaf"}},
        ("no column 'leaf'", "'leaf_id'"),
    ),
    "row name missing": (_one("counts.csv", COUNTS.replace("leaf3", "")), ("no row name", "data row 3")),
    "no npz": (_one("counts.npz", "PK"), ("no .npz file",)),
    "npz of something else": (_one("counts.npz", npz(weights=np.ones(3))), ("'weights'", "`counts`")),
    "npz of objects": (
        _one("counts.npz", npz(counts=np.array([[1, None]]))),
        ("counts.npz", "Object arrays"),
    ),
    "npz with short names": (
        _one("counts.npz", npz(counts=np.ones((3, 2)), obs_names=np.array(["a"]))),
        ("'obs_names'", "(1,)", "(3,)"),
    ),
    "npz with names of no text": (
        _one(
            "counts.npz", npz(counts=np.ones((3, 1)), var_names=np.array([0x20202020], np.uint32).view("U1"))
        ),
        ("'var_names'", "characters that there are not"),
    ),
    "npz with a short covariate": (
        _one("counts.npz", npz(counts=np.ones((3, 2)), cov_tree=np.array(["a"]))),
        ("'tree'", "3 values"),
    ),
    "npz of one dimension": (_one("counts.npz", npz(counts=np.ones(3))), ("(3,)", "rows by columns")),
    "no parquet": (_one("counts.parquet", "PAR0"), ("counts.parquet", "cannot be read")),
    "no h5ad": (_one("counts.h5ad", "HDF"), ("counts.h5ad", "cannot be read")),
    "no zarr": (
        {"files": {"counts.zarr/zarr.json": "{"}, "counts": "counts.zarr"},
        ("counts.zarr", "cannot be read"),
    ),
    "a folder named zarr": (
        {"files": {"counts.zarr/notes.txt": "later"}, "counts": "counts.zarr"},
        ("counts.zarr", "cannot be read"),
    ),
    "zarr in one file": (_one("counts.zarr", "PK"), ("counts.zarr is a file", "write_zarr")),
    "no mtx": (_one("counts.mtx", "1 2 3"), ("counts.mtx", "cannot be read")),
    "negative": (
        _one("counts.csv", counts_with("leaf2", "cedar", -3).to_csv(index_label="id")),
        ("negative", "'leaf2'", "'cedar'"),
    ),
    "fractional": (
        _one("counts.csv", counts_with("leaf2", "cedar", 0.25).to_csv(index_label="id")),
        ("fractional", "0.25", "'leaf2'", "'cedar'"),
    ),
    "infinite": (
        _one("counts.csv", counts_with("leaf2", "cedar", float("inf")).to_csv(index_label="id")),
        ("infinite", "'leaf2'", "'cedar'"),
    ),
    "text among counts": (
        _one("counts.csv", counts_with("leaf2", "cedar", "many").to_csv(index_label="id")),
        ("'many'", "'leaf2'", "'cedar'"),
    ),
    "one row": (_one("counts.csv", "id,a,b\nq,1,2\n"), ("one row",)),
    "duplicated rows": (_one("counts.csv", COUNTS.replace("leaf2", "leaf1")), ("Duplicated row", "'leaf1'")),
    "duplicated columns": (
        _one("counts.csv", COUNTS.replace("birch", "alder")),
        ("Duplicated column", "'alder'"),
    ),
    "covariates without formula": (
        {"files": {"counts.csv": COUNTS, "leaves.csv": LEAVES}, "options": {"covariates": "leaves.csv"}},
        ("without a formula",),
    ),
    "formula without covariates": (
        {"files": {"counts.csv": COUNTS}, "options": {"formula": "~ tree"}},
        ("formula needs the table",),
    ),
    "covariates missing": (
        {"files": {"counts.csv": COUNTS}, "options": dict(TREE)},
        ("no file", "leaves.csv"),
    ),
    "covariate rows missing": (_with("~ tree", LEAVES.replace("leaf5", "leaf9")), ("lacks 1", "'leaf5'")),
    "covariate rows duplicated": (
        _with("~ tree", LEAVES.replace("leaf5", "leaf4")),
        ("Duplicated row", "'leaf4'"),
    ),
    "covariate nan": (
        _with("~ height", covariates_with("leaf2", "height", np.nan).to_csv(index_label="leaf_id")),
        ("'height'", "NaN", "'leaf2'"),
    ),
    "covariate constant": (_with("~ I(height - height)"), ("'I(height - height)'", "0 in every row")),
    "covariates collinear": (_with("~ height + I(2 * height + 1)"), ("collinear", "'height'")),
    "factor of one level": (
        _with("~ tree", LEAVES.replace("elm", "oak")),
        ("'tree'", "single level", "'oak'"),
    ),
    "factor as rows": (_with("~ C(reads)"), ("6 covariates", "6 rows")),
    "unknown covariate": (_with("~ tre + height"), ("'tre'", "Did you mean 'tree'?")),
    "response": (_with("alder ~ tree"), ("left side", "only the covariates")),
    "unreadable formula": (_with("~ tree +"), ("cannot be read", "~ tree +")),
    "offset -inf": (
        _with(
            "~ tree + offset(log(reads))", covariates_with("leaf2", "reads", 0).to_csv(index_label="leaf_id")
        ),
        ("'offset(log(reads))'", "-inf", "'leaf2'"),
    ),
    "offset on the scale of counts": (
        _with("~ tree + offset(reads * 1000)"),
        ("'offset(reads * 1000)'", "'leaf1'", "log scale", "offset(log(reads))"),
    ),
    "basis skewed": (
        {
            "files": {"counts.csv": COUNTS, "V.csv": "0.5,0.5\n0.5,0.5\n0.5,0.5\n"},
            "options": {"basis": "V.csv"},
        },
        ("not orthonormal", "numpy.linalg.qr"),
    ),
    "basis turned": (
        {
            "files": {"counts.csv": COUNTS, "V.csv": "0.6,0.8,0\n0.8,-0.6,0\n"},
            "options": {"basis": "V.csv"},
        },
        ("looks transposed",),
    ),
    "basis of more columns": (
        {
            "files": {"counts.csv": COUNTS, "V.csv": ",u\nalder,1\nbirch,0\ncedar,0\nelder,0\n"},
            "options": {"basis": "V.csv"},
        },
        ("'elder'. Leave them out",),
    ),
    "basis of other columns": (
        {
            "files": {"counts.csv": COUNTS, "V.csv": ",u\nalder,1\nbirch,0\nelder,0\n"},
            "options": {"basis": "V.csv"},
        },
        ("basis", "'cedar'"),
    ),
    "rank too large": (
        {"files": {"counts.csv": COUNTS}, "options": {"rank": "4"}},
        ("rank is 4", "min(6, 3)"),
    ),
}

BAD_FILES = [BadFile(name, words=words, **given) for name, (given, words) in _TABLE.items()]
