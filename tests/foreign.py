"""Files of other programs, written in a test: BIOM, Cell Ranger, Excel, R. `FOREIGN` writes one table in each.

What they hold is said by hand (HDF5, JSON, R's text format) or written by the program's own library (openpyxl), never
by what reads it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openpyxl
import pandas as pd
from scipy import sparse

Writer = Callable[[Path, pd.DataFrame], Any]


def biom_json(
    path: Path, frame: pd.DataFrame, *, dense: bool = False, about: Sequence[Any] | None = None
) -> None:
    """BIOM 1.0: taxa are rows; `about` is the metadata of the samples."""
    counts = frame.to_numpy().T
    held = {
        "id": None,
        "format": "Biological Observation Matrix 1.0.0",
        "type": "OTU table",
        "matrix_type": "dense" if dense else "sparse",
        "matrix_element_type": "int",
        "shape": counts.shape,
        "rows": [{"id": name, "metadata": {"taxonomy": ["k__A", "p__B"]}} for name in frame.columns],
        "columns": [
            {"id": name, "metadata": None if about is None else about[i]}
            for i, name in enumerate(frame.index)
        ],
        "data": counts.tolist()
        if dense
        else [[int(i), int(j), int(counts[i, j])] for i, j in np.argwhere(counts)],
    }
    path.write_text(json.dumps(held))


def biom_hdf5(path: Path, frame: pd.DataFrame, about: dict[str, Any] | None = None) -> None:
    """BIOM 2.1: the same table by taxa and by samples, and metadata of the samples."""
    counts = frame.to_numpy(float).T
    with h5py.File(path, "w") as root:
        root.attrs["shape"] = counts.shape
        for side, names, by_rows in (
            ("observation", frame.columns, sparse.csr_matrix(counts)),
            ("sample", frame.index, sparse.csr_matrix(counts.T)),
        ):
            root[f"{side}/ids"] = np.array(list(names), dtype=h5py.string_dtype())
            for part in ("data", "indices", "indptr"):
                root[f"{side}/matrix/{part}"] = getattr(by_rows, part)
        for name, cells in (about or {}).items():
            root[f"sample/metadata/{name}"] = cells
        root["observation/metadata/taxonomy"] = np.array([[b"k__A", b"p__B"]] * len(frame.columns))


def tenx(path: Path, frame: pd.DataFrame, types: Sequence[str] | None = None, group: str = "matrix") -> None:
    """Cell Ranger's .h5: version 3, or version 2 where the group is named by a genome."""
    counts = sparse.csc_matrix(frame.to_numpy(np.int32).T)
    text = h5py.string_dtype()
    with h5py.File(path, "a") as root:
        held = root.create_group(group)
        held["barcodes"] = np.array(list(frame.index), dtype=text)
        held["shape"] = np.array(counts.shape, np.int32)
        for part in ("data", "indices", "indptr"):
            held[part] = getattr(counts, part)
        ids, names = (
            np.array([f"ENSG{j}" for j in range(frame.shape[1])], text),
            np.array(list(frame.columns), text),
        )
        if group != "matrix":
            held["genes"], held["gene_names"] = ids, names
            return
        held["features/id"], held["features/name"] = ids, names
        held["features/feature_type"] = np.array(types or ["Gene Expression"] * len(names), text)


def tenx_folder(path: Path, frame: pd.DataFrame, types: Sequence[str] | None = None) -> None:
    """Cell Ranger's folder of three packed files."""
    from scipy.io import mmwrite

    path.mkdir()
    with gzip.open(path / "matrix.mtx.gz", "wb") as handle:
        mmwrite(handle, sparse.csr_matrix(frame.to_numpy().T))
    types = types or ["Gene Expression"] * frame.shape[1]
    lines = {
        "barcodes": frame.index,
        "features": [f"ENSG{j}\t{name}\t{types[j]}" for j, name in enumerate(frame.columns)],
    }
    for name, held in lines.items():
        with gzip.open(path / f"{name}.tsv.gz", "wt") as handle:
            handle.writelines(f"{line}\n" for line in held)


def workbook(path: Path, **sheets: Sequence[Sequence[Any]]) -> None:
    """A workbook of these sheets, by rows."""
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        held = book.create_sheet(name)
        for row in rows:
            held.append(list(row))
    book.save(path)


def rows_of(frame: pd.DataFrame, corner: str = "leaf") -> list[list[Any]]:
    """A frame as the rows of a sheet."""
    return [[corner, *frame.columns], *([name, *row] for name, *row in frame.itertuples())]


class R:
    """R's text serialisation (version 2, as `saveRDS(x, ascii = TRUE)` writes it), put together by hand."""

    NULL = ("254",)

    @staticmethod
    def text(cells: Sequence[str | None], *attributes: Any) -> tuple[str, ...]:
        """A vector of text; None is NA."""
        lines: list[str] = []
        for cell in cells:
            held = b"" if cell is None else cell.encode()
            mark = "262153" if held.isascii() else "32777"  # of text in ASCII, in UTF-8
            spelled = "".join(chr(byte) if 32 < byte < 127 else f"\\{byte:03o}" for byte in held)
            lines += ["9", "-1"] if cell is None else [mark, str(len(held)), spelled]
        return (str(16 + 512 * bool(attributes)), str(len(cells)), *lines, *R.chain(*attributes))

    @staticmethod
    def whole(
        cells: Sequence[Any], *attributes: Any, is_class: bool = False, logical: bool = False
    ) -> tuple[str, ...]:
        """A vector of whole numbers or truth values; None is NA."""
        kind = (10 if logical else 13) + 512 * bool(attributes) + 256 * is_class
        return (
            str(kind),
            str(len(cells)),
            *("NA" if cell is None else str(int(cell)) for cell in cells),
            *R.chain(*attributes),
        )

    @staticmethod
    def real(cells: Sequence[Any], *attributes: Any, is_class: bool = False) -> tuple[str, ...]:
        """A vector of real numbers."""
        kind = 14 + 512 * bool(attributes) + 256 * is_class
        return (
            str(kind),
            str(len(cells)),
            *("NA" if cell is None else repr(float(cell)) for cell in cells),
            *R.chain(*attributes),
        )

    @staticmethod
    def items(cells: Sequence[tuple[str, ...]], *attributes: Any, is_class: bool = False) -> tuple[str, ...]:
        """A list."""
        kind = 19 + 512 * bool(attributes) + 256 * is_class
        return (str(kind), str(len(cells)), *(line for cell in cells for line in cell), *R.chain(*attributes))

    @staticmethod
    def s4(*attributes: Any) -> tuple[str, ...]:
        """An object of S4 with these slots."""
        return (str(25 + 512 + 256 + 65536), *R.chain(*attributes))

    @staticmethod
    def chain(*named: tuple[str, tuple[str, ...]]) -> tuple[str, ...]:
        """A linked list of names and values, as attributes are, and the objects in an .rda; nothing for none."""
        lines: list[str] = []
        for name, value in named:
            lines += ["1026", "1", "262153", str(len(name)), name, *value]
        return (*lines, "254") if named else ()

    @staticmethod
    def matrix(frame: pd.DataFrame) -> tuple[str, ...]:
        """A matrix of whole numbers with both its dimnames."""
        names = R.items([R.text(list(frame.index)), R.text(list(frame.columns))])
        dims = R.whole(frame.shape)
        return R.whole(frame.to_numpy().T.ravel().tolist(), ("dim", dims), ("dimnames", names))

    @staticmethod
    def frame(
        columns: dict[str, tuple[str, ...]] | Sequence[tuple[str, tuple[str, ...]]], rows: Sequence[str] | int
    ) -> tuple[str, ...]:
        """A data frame; `rows` are names, or how many rows have none."""
        pairs = list(columns.items()) if isinstance(columns, dict) else list(columns)
        labels = R.whole([None, -rows]) if isinstance(rows, int) else R.text(rows)
        tags = (
            ("names", R.text([name for name, _ in pairs])),
            ("class", R.text(["data.frame"])),
            ("row.names", labels),
        )
        return R.items([held for _, held in pairs], *tags, is_class=True)

    @staticmethod
    def sparse(frame: pd.DataFrame) -> tuple[str, ...]:
        """A dgCMatrix."""
        held = sparse.csc_matrix(frame.to_numpy(float))
        return R.s4(
            ("i", R.whole(held.indices.tolist())),
            ("p", R.whole(held.indptr.tolist())),
            ("Dim", R.whole(held.shape)),
            ("Dimnames", R.items([R.text(list(frame.index)), R.text(list(frame.columns))])),
            ("x", R.real(held.data.tolist())),
            ("factors", R.items([])),
            ("class", R.text(["dgCMatrix"], ("package", R.text(["Matrix"])))),
        )


def rds(path: Path, thing: tuple[str, ...]) -> None:
    """saveRDS(thing, path)."""
    path.write_bytes(gzip.compress("\n".join(["A", "2", "262657", "131840", *thing, ""]).encode()))


def rda(path: Path, **things: tuple[str, ...]) -> None:
    """save(...)."""
    lines = ["RDA2", "A", "2", "262657", "131840", *R.chain(*things.items()), ""]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def columns_of(frame: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The columns of a table of counts, for a data frame."""
    return {name: R.whole(frame[name].tolist()) for name in frame.columns}


FOREIGN: dict[str, tuple[str, Writer]] = {
    "biom, JSON": ("y.biom", biom_json),
    "biom, JSON, dense": ("y.biom", lambda path, frame: biom_json(path, frame, dense=True)),
    "biom, HDF5": ("y.biom", biom_hdf5),
    "Cell Ranger 3": ("y.h5", tenx),
    "Cell Ranger 2": ("y.h5", lambda path, frame: tenx(path, frame, group="GRCh38")),
    "Cell Ranger's folder": ("filtered_feature_bc_matrix", tenx_folder),
    "xlsx": ("y.xlsx", lambda path, frame: workbook(path, counts=rows_of(frame))),
    "xlsx, a sheet of two": (
        "y.xlsx:b c",
        lambda path, frame: workbook(path.with_name("y.xlsx"), **{"a": [["x"], [1]], "b c": rows_of(frame)}),
    ),
    "rds, matrix": ("y.rds", lambda path, frame: rds(path, R.matrix(frame))),
    "rds, data frame": (
        "y.rds",
        lambda path, frame: rds(path, R.frame(columns_of(frame), list(frame.index))),
    ),
    "rds, names in a column": (
        "y.rds",
        lambda path, frame: rds(
            path, R.frame({"leaf": R.text(list(frame.index)), **columns_of(frame)}, len(frame))
        ),
    ),
    "rds, sparse": ("y.rds", lambda path, frame: rds(path, R.sparse(frame))),
    "rda": ("y.RData", lambda path, frame: rda(path, y=R.matrix(frame))),
    "rda, one of two": (
        "y.rda:y",
        lambda path, frame: rda(path.with_name("y.rda"), x=R.real([1.5]), y=R.matrix(frame)),
    ),
    "tab": ("y.tab", lambda path, frame: frame.to_csv(path, sep="\t")),
    "QIIME": (
        "y.tsv",
        lambda path, frame: path.write_text(
            "# Constructed from biom file\n"
            + frame.T.assign(taxonomy="k__A; p__B").to_csv(sep="\t", index_label="#OTU ID")
        ),
    ),
    "taxa with their ranks": (
        "y.csv",
        lambda path, frame: frame.T.assign(Phylum="p", Class="c", Order="o", Genus="g").to_csv(path),
    ),
    "featureCounts": (
        "y.txt",
        lambda path, frame: path.write_text(
            '# Program:featureCounts v2.0; Command:"featureCounts" "-a" "x y"\n'
            + frame.T.assign(Length=7)
            .pipe(lambda t: t[["Length", *frame.index]])
            .pipe(
                lambda t: pd.concat(
                    [
                        pd.DataFrame({"Chr": "1;1", "Start": "4;9", "End": "5;10", "Strand": "+;+"}, t.index),
                        t,
                    ],
                    axis=1,
                )
            )
            .to_csv(sep="\t", index_label="Geneid")
        ),
    ),
    "a comment": (
        "y.csv",
        lambda path, frame: path.write_text("# exported, by LIMS, 2024\n\n" + frame.to_csv()),
    ),
    "a marked header": ("y.csv", lambda path, frame: frame.to_csv(path, index_label="#Sample")),
}
