"""The doors that are tried: of each a valid file, how poplin reads it, and how another library does.

Start at `FORMATS`: a new reader is a line there. A door gives a `Table`, or raises; `same` compares two.
"""

from __future__ import annotations

import csv
import gzip
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

N, P = 12, 5
GAPS = {"", "NA", "None", "null", "NaN", "nan", "<NA>", "N/A", "n/a", "NULL", "#N/A", "-nan", "-NaN", "#NA"}
MOST = 5_000_000  # entries of a table that are compared
FIT, CHECKPOINT = "model.npz", "checkpoint.npz"


class Table(NamedTuple):
    """Numbers (n, p) with the names of rows and columns, None where there are none; `values` None: too many."""

    values: np.ndarray | None
    shape: tuple[int, ...]
    rows: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None


class Format(NamedTuple):
    """A kind of file.

    `file` is its name, `write` makes a valid one, `read` is poplin's door, `reference` another library's. `edits` are
    the names of mutations beside those of bytes (`mutations.py`).
    """

    file: str
    write: Callable[[Path], None]
    read: Callable[[Path], Table]
    reference: Callable[[Path], Table]
    edits: tuple[str, ...] = ()


def same(one: Table, other: Table) -> bool:
    """Whether two readings agree: the shape, the numbers, and the names that both have."""
    if one.shape != other.shape:
        return False
    named = zip(one[2:], other[2:], strict=True)
    if any(ours is not None and theirs is not None and ours != theirs for ours, theirs in named):
        return False
    if one.values is None or other.values is None:
        return True
    return np.array_equal(one.values, other.values, equal_nan=True)


def counts() -> np.ndarray:
    """The counts in every valid file."""
    return np.random.default_rng(5).poisson(2.0, (N, P)) * (np.arange(N * P).reshape(N, P) % 3 > 0)


def frame() -> Any:
    """The same with names."""
    import pandas

    return pandas.DataFrame(counts(), [f"leaf{i}" for i in range(N)], [f"otu{j}" for j in range(P)])


def dense(values: Any) -> np.ndarray | None:
    """The numbers of whatever a reader gave, in double precision, unless they are too many."""
    if int(np.prod(values.shape, dtype=float)) > MOST:
        return None
    from poplin.data.held import dense_rows, is_held_sparse

    values = (
        dense_rows(values, slice(None))
        if is_held_sparse(values) and not hasattr(values, "toarray")
        else values
    )
    if hasattr(values, "toarray"):  # which scipy has not for each type
        values = values.astype(np.float64).toarray()
    return np.asarray(values, dtype=np.float64)


def named(names: Any) -> tuple[str, ...] | None:
    """Names as text; None where they only number."""
    from poplin.data.tables import index_names

    return index_names(names)


def by_poplin(path: Path) -> Table:
    """What `poplin fit` does with a file of counts before it fits."""
    from poplin._errors import InputError
    from poplin.data.counts import as_counts
    from poplin.data.readers import read_counts

    table = read_counts(path)
    found = Table(dense(table.values), table.values.shape, table.row_names, table.column_names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            as_counts(table)
        except InputError:  # of what stands in the table, which is read all the same
            pass
    return found


def from_disk(path: Path) -> Table:
    """The same where each table is too large for memory."""
    from poplin.data import held

    before, held.MOST_DENSE = held.MOST_DENSE, 1
    try:
        return by_poplin(path)
    finally:
        held.MOST_DENSE = before


def by_pandas(path: Path, delimiter: str = ",") -> Table:
    """A text table as pandas reads it, by the rule that a first column headed by nothing names the rows."""
    import pandas

    options: Any = {
        "sep": delimiter,
        "index_col": 0,
        "encoding": "utf-8-sig",
        "dtype": object,
        "keep_default_na": False,
    }
    found = pandas.read_csv(path, **options)
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as text:
        head = next(record for record in csv.reader(text, delimiter=delimiter) if record)
    numbers = found.map(lambda cell: np.nan if str(cell) in GAPS else float(cell))
    rows, columns = [str(name) for name in found.index], [name.strip() for name in head[-found.shape[1] :]]
    return Table(numbers.to_numpy(dtype=float), found.shape, named(rows), named(columns))


def by_parquet(path: Path) -> Table:
    """A Parquet file as pandas reads it, which may name columns otherwise, by metadata of its own."""
    import pandas

    try:
        found = pandas.read_parquet(path)
    except (KeyError, TypeError):  # of that metadata, of which only the column of row names is needed
        from pyarrow import parquet

        found = parquet.read_table(path).to_pandas(ignore_metadata=True).set_index("__index_level_0__")
    return Table(found.to_numpy(dtype=float), found.shape, named(found.index))


def by_numpy(path: Path) -> Table:
    """An archive of arrays as numpy, or of a sparse table as scipy, reads it."""
    from scipy import sparse

    with np.load(path, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files}
    name = next((name for name in ("counts", "Y") if name in arrays), None)
    values = sparse.load_npz(path) if name is None else arrays[name]
    names = [named(arrays[name]) if name in arrays else None for name in ("obs_names", "var_names")]
    return Table(dense(values), values.shape, *names)


def by_scipy(path: Path) -> Table:
    """Matrix Market as scipy reads it."""
    from scipy.io import mmread

    values: Any = mmread(path)
    return Table(dense(values), values.shape)


def by_anndata(path: Path) -> Table:
    """X and names as anndata reads them."""
    import anndata

    held = anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)
    assert held.X is not None
    return Table(dense(held.X), held.X.shape, named(held.obs_names), named(held.var_names))


def by_elements(path: Path) -> Table:
    """X and names as anndata reads these elements alone."""
    import h5py
    import zarr
    from anndata.io import read_elem

    root: Any = zarr.open_group(path, mode="r") if path.suffix == ".zarr" else h5py.File(path, "r")
    x, obs, var = (read_elem(root[name]) for name in ("X", "obs", "var"))
    return Table(dense(x), x.shape, named(obs.index), named(var.index))


def by_json(path: Path) -> Table:
    """BIOM 1 by the fields of its JSON, taxa in rows."""
    told = json.loads(path.read_bytes())
    values = np.zeros((len(told["rows"]), len(told["columns"])))
    assert tuple(told["shape"]) == values.shape
    if told["matrix_type"] == "sparse":
        for i, j, count in told["data"]:
            values[i, j] += count
    else:
        values[:] = told["data"]
    taxa, samples = (named([str(entry["id"]) for entry in told[side]]) for side in ("rows", "columns"))
    return Table(values.T, values.T.shape, samples, taxa)


def by_h5py(path: Path) -> Table:
    """BIOM 2 by h5py and scipy: samples are the rows of its second matrix."""
    import h5py
    from scipy import sparse

    with h5py.File(path, "r") as root:
        names = [
            [
                name.decode() if isinstance(name, bytes) else str(name)
                for name in root[f"{side}/ids"][...].tolist()
            ]
            for side in ("sample", "observation")
        ]
        entries = tuple(root[f"sample/matrix/{part}"][...] for part in ("data", "indices", "indptr"))
    values = sparse.csr_array(entries, shape=(len(names[0]), len(names[1])))
    values.check_format(full_check=True)
    return Table(dense(values), values.shape, named(names[0]), named(names[1]))


def load_fit(path: Path) -> Table:
    """A fit, and what it predicts."""
    import poplin

    fit = poplin.load(path)
    x = np.ones((2, fit.coef_.shape[0]))  # an intercept, which a damaged file may call otherwise
    assert np.isfinite(fit.predict(x)).all(), "a fit was loaded that predicts no number"
    return Table(np.asarray(fit.coef_), fit.coef_.shape, None, fit.counts_.column_names)


def fit_by_numpy(path: Path) -> Table:
    """The coefficients in a file of a fit."""
    with np.load(path, allow_pickle=False) as held:
        names = json.loads(held["poplin"].tobytes())["meta"]["column_names"]
        return Table(held["coef"], held["coef"].shape, None, tuple(names))


def load_checkpoint(path: Path) -> Table:
    """The arrays of the first run in a checkpoint."""
    from poplin.fitting import checkpoints

    facts = json.loads(path.with_name("facts.json").read_text())
    run = checkpoints.read(checkpoints.Place(path, facts))[0]
    return Table(np.asarray(run.objective), run.objective.shape)


def checkpoint_by_numpy(path: Path) -> Table:
    """The same by numpy."""
    with np.load(path, allow_pickle=False) as held:
        return Table(held["run0_objective"], held["run0_objective"].shape)


def write_text(path: Path, delimiter: str = ",") -> None:
    """A text table, packed where its name ends in .gz."""
    text = frame().to_csv(sep=delimiter).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def write_npz(path: Path, *, packed: bool) -> None:
    """Counts with names, a covariate and an offset."""
    table = frame()
    parts = {
        "counts": table.to_numpy(),
        "obs_names": np.array(table.index, str),
        "var_names": np.array(table.columns, str),
    }
    (np.savez_compressed if packed else np.savez)(path, cov_tree=np.array(["oak", "elm"] * (N // 2)), **parts)


def write_sparse(path: Path) -> None:
    """The layout of scipy."""
    from scipy import sparse

    sparse.save_npz(path, sparse.csr_array(counts()))


def write_market(path: Path) -> None:
    """Matrix Market by coordinates."""
    from scipy import sparse
    from scipy.io import mmwrite

    plain = path.with_name("plain.mtx")
    mmwrite(plain, sparse.coo_array(counts()))
    text = plain.read_bytes()
    plain.unlink()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def write_annotated(path: Path, *, is_sparse: bool, version: int = 3) -> None:
    """An AnnData with a covariate and a layer."""
    import anndata
    import pandas
    import zarr
    from scipy import sparse

    table = frame()
    x = (
        sparse.csr_matrix(table.to_numpy().astype(np.float32))
        if is_sparse
        else table.to_numpy().astype(np.float32)
    )
    obs = pandas.DataFrame({"tree": pandas.Categorical(["oak", "elm"] * (N // 2))}, index=table.index)
    held = anndata.AnnData(x, obs, table.iloc[:0].T, layers={"raw": x.copy()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".zarr":
            with zarr.config.set({"default_zarr_format": version}):
                held.write_zarr(path)
        else:
            held.write_h5ad(path)


def write_json(path: Path) -> None:
    """BIOM 1: taxa in rows, counts by their place, a covariate."""
    table = frame().T
    entries = [
        [int(i), int(j), int(table.iat[i, j])] for i, j in zip(*np.nonzero(table.to_numpy()), strict=True)
    ]
    told = {
        "id": None,
        "format": "Biological Observation Matrix 1.0.0",
        "type": "OTU table",
        "matrix_type": "sparse",
        "matrix_element_type": "int",
        "shape": list(table.shape),
        "rows": [{"id": name, "metadata": None} for name in table.index],
        "columns": [{"id": name, "metadata": {"depth": str(i)}} for i, name in enumerate(table.columns)],
        "data": entries,
    }
    path.write_text(json.dumps(told))


def write_h5py(path: Path) -> None:
    """BIOM 2: both matrices, ids, a covariate."""
    import h5py
    from scipy import sparse

    table = frame()
    with h5py.File(path, "w") as root:
        root.attrs.update(
            {"format-version": (2, 1), "shape": table.shape[::-1], "nnz": int((counts() > 0).sum())}
        )
        for side, names, values in (
            ("sample", table.index, sparse.csr_array(counts().astype(float))),
            ("observation", table.columns, sparse.csr_array(counts().T.astype(float))),
        ):
            root[f"{side}/ids"] = np.array(list(names), dtype=object)
            for part in ("data", "indices", "indptr"):
                root[f"{side}/matrix/{part}"] = getattr(values, part)
        root["sample/metadata/tree"] = np.array(["oak", "elm"] * (N // 2), dtype=object)


def write_fit(path: Path) -> None:
    """A fit by the bound; its checkpoint lies beside it, with the facts that it belongs to."""
    import poplin
    from poplin.fitting import checkpoints, driver

    kept = {}

    def keep(at: Any, runs: Any) -> None:
        write(at, runs)
        kept["bytes"], kept["facts"] = at.path.read_bytes(), at.facts

    write, checkpoints.write = checkpoints.write, keep
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings: Any = {"method": "variational", "max_iter": 20, "checkpoint_every": 5}
            fit = poplin.PLN(checkpoint=path.with_name(CHECKPOINT), **settings).fit(frame())
    finally:
        checkpoints.write = write
    fit.save(path)
    path.with_name(CHECKPOINT).write_bytes(kept["bytes"])
    path.with_name("facts.json").write_text(json.dumps(kept["facts"]))
    assert driver


FORMATS = {
    "csv": Format("c.csv", write_text, by_poplin, by_pandas, ("cells",)),
    "csv.gz": Format("c.csv.gz", write_text, by_poplin, by_pandas, ("cells",)),
    "tsv": Format(
        "c.tsv",
        lambda path: write_text(path, "\t"),
        by_poplin,
        lambda path: by_pandas(path, "\t"),
        ("cells",),
    ),
    "npz": Format("c.npz", lambda path: write_npz(path, packed=False), by_poplin, by_numpy, ("arrays",)),
    "npz, packed": Format(
        "c.npz", lambda path: write_npz(path, packed=True), by_poplin, by_numpy, ("arrays",)
    ),
    "npz, sparse": Format("c.npz", write_sparse, by_poplin, by_numpy, ("arrays",)),
    "mtx": Format("c.mtx", write_market, by_poplin, by_scipy, ("cells",)),
    "mtx.gz": Format("c.mtx.gz", write_market, by_poplin, by_scipy, ("cells",)),
    "h5ad": Format(
        "c.h5ad", lambda path: write_annotated(path, is_sparse=True), by_poplin, by_anndata, ("elements",)
    ),
    "h5ad, dense": Format(
        "c.h5ad", lambda path: write_annotated(path, is_sparse=False), by_poplin, by_anndata, ("elements",)
    ),
    "h5ad, on disk": Format(
        "c.h5ad", lambda path: write_annotated(path, is_sparse=True), from_disk, by_elements, ("elements",)
    ),
    "zarr": Format(
        "c.zarr", lambda path: write_annotated(path, is_sparse=True), by_poplin, by_anndata, ("metadata",)
    ),
    "zarr, dense": Format(
        "c.zarr", lambda path: write_annotated(path, is_sparse=False), by_poplin, by_anndata, ("metadata",)
    ),
    "zarr 2, on disk": Format(
        "c.zarr",
        lambda path: write_annotated(path, is_sparse=True, version=2),
        from_disk,
        by_elements,
        ("metadata",),
    ),
    "parquet": Format(
        "c.parquet", lambda path: frame().to_parquet(path), by_poplin, by_parquet, ("columns",)
    ),
    "parquet, on disk": Format(
        "c.parquet", lambda path: frame().to_parquet(path), from_disk, by_parquet, ("columns",)
    ),
    "biom": Format("c.biom", write_h5py, by_poplin, by_h5py, ("elements",)),
    "biom, JSON": Format("c.biom", write_json, by_poplin, by_json, ("leaves",)),
    "model": Format(FIT, write_fit, load_fit, fit_by_numpy, ("arrays", "settings")),
    "checkpoint": Format(
        CHECKPOINT,
        lambda path: write_fit(path.with_name(FIT)),
        load_checkpoint,
        checkpoint_by_numpy,
        ("arrays", "settings"),
    ),
}
