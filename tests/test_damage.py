"""Damaged and crafted tables: refused before their numbers are used, wherever they lie; what may be lost is told.

Sparse tables have entries outside; stores of AnnData lead out of themselves, or have lost chunks; text is no text.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas
import pytest
import zarr
from scipy import sparse

from poplin._errors import DataWarning, InputError
from poplin.data import held
from poplin.data.counts import as_counts
from poplin.data.events import Columns, count_events
from poplin.data.readers import read_annotated, read_basis, read_counts, read_table
from tests.annotated import stored
from tests.bad_inputs import TAXA, good_counts, good_covariates
from tests.ondisk import large_is_small

N, P = good_counts().shape

# what is changed in the indices and pointers of a table by rows (or of its transpose, by columns)
OUTSIDE: dict[str, Callable[[Any], None]] = {
    "an index too large": lambda table: table.indices.__setitem__(3, P + 1),
    "an index far too large": lambda table: table.indices.__setitem__(3, 2**31 - 1),
    "an index below 0": lambda table: table.indices.__setitem__(3, -1),
    "pointers that go back": lambda table: table.indptr.__setitem__(2, table.indptr[1] - 1),
    "pointers that go back to 0 in the end": lambda table: table.indptr.__setitem__(-1, 0),
    "a pointer below 0": lambda table: table.indptr.__setitem__(2, -5),
    "pointers beyond the entries": lambda table: table.indptr.__setitem__(slice(1, None), 99),
}


def damaged(how: str, kind: Any = sparse.csr_array) -> Any:
    """The good counts, sparse, with entries outside."""
    values = good_counts().to_numpy()
    table = kind(values.T.copy() if "csc" in kind.__name__ else values)
    OUTSIDE[how](table)
    return table


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix, sparse.csc_array])
@pytest.mark.parametrize("how", OUTSIDE)
def test_entries_outside_are_refused_in_memory(
    how: str, kind: Any, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(held, "MOST_DENSE", 0)
    with pytest.raises(InputError, match="Y is a sparse table whose parts do not fit together"):
        as_counts(damaged(how, kind))


def test_entries_outside_are_refused_in_coordinates() -> None:
    table = sparse.coo_array(good_counts().to_numpy())
    table.coords[0][2] = N
    with pytest.raises(InputError, match="parts do not fit together"):
        as_counts(table)


def test_what_is_checked_stays_as_it_is() -> None:
    table = sparse.csr_matrix(good_counts().to_numpy())
    for part in ("data", "indices"):  # more than the pointers say, as scipy allows
        setattr(table, part, np.append(getattr(table, part), [1, 1]).astype(getattr(table, part).dtype))
    as_counts(table)
    assert len(table.data) == table.indptr[-1] + 2


@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_complex_numbers_are_refused(kind: Any, tmp_path: Path) -> None:
    table = sparse.csr_array(good_counts().to_numpy().astype(kind))
    sparse.save_npz(tmp_path / "y.npz", table)
    for given in (table, tmp_path / "y.npz", sparse.coo_array(table)):
        with pytest.raises(InputError, match="Y holds values of type complex.*; numbers are wanted"):
            as_counts(given)


@pytest.mark.parametrize("how", OUTSIDE)
@pytest.mark.parametrize("name", ["y.npz", "y.h5ad", "y.zarr"])
def test_entries_outside_are_refused_in_files(tmp_path: Path, name: str, how: str) -> None:
    table = damaged(how)
    if name == "y.npz":
        parts = {"data": table.data, "indices": table.indices, "indptr": table.indptr, "shape": table.shape}
        np.savez(tmp_path / name, format=b"csr", **parts)
    else:
        spoilt(tmp_path / name, table)
    with pytest.raises(InputError):
        as_counts(tmp_path / name)


@pytest.mark.parametrize("how", OUTSIDE)
@pytest.mark.parametrize("name", ["y.h5ad", "y.zarr"])
def test_entries_outside_are_refused_where_they_stay(
    tmp_path: Path, name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt(tmp_path / name, damaged(how))
    large_is_small(monkeypatch)
    with pytest.raises(InputError, match="damaged|cannot be read: .* ind"):
        as_counts(tmp_path / name)


@pytest.mark.parametrize("part", ["data", "indices"])
@pytest.mark.parametrize("large", [False, True])
def test_entries_without_places_are_refused(
    tmp_path: Path, large: bool, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "y.h5ad"
    stored(path, anndata.AnnData(sparse.csr_matrix(good_counts().to_numpy().astype(np.float32))))
    with h5py.File(path, "r+") as root:
        more = np.tile(root[f"X/{part}"][...], 2)  # type: ignore[index]
        del root[f"X/{part}"]
        root[f"X/{part}"] = more
    if large:
        large_is_small(monkeypatch)
    with pytest.raises(InputError, match="y.h5ad is damaged: it has .* entries and .* places"):
        as_counts(path)


def test_a_type_in_the_place_of_counts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "y.h5ad"
    stored(path, anndata.AnnData(good_counts().to_numpy().astype(np.float32)))
    with h5py.File(path, "r+") as root:
        del root["X"]
        root["X"] = np.dtype("f4")
    with pytest.raises(InputError, match="y.h5ad"):
        as_counts(path)


def spoilt(path: Path, table: Any) -> None:
    """An AnnData on disk whose indices and pointers are written over."""
    stored(path, anndata.AnnData(sparse.csr_matrix(good_counts().to_numpy().astype(np.float32))))
    root: Any = zarr.open_group(path) if path.suffix == ".zarr" else h5py.File(path, "r+")
    root["X/indices"][...], root["X/indptr"][...] = table.indices, table.indptr
    if path.suffix == ".h5ad":
        root.close()


BAD_TEXT = {
    "a byte that is none": ("%%MatrixMarket matrix coordinate integer general\n3 2 1\n1 1 4\0\n", "no text"),
    "a tail of zeros": ("%%MatrixMarket matrix coordinate integer general\n3 2 2\n1 1 4\n" + 40 * "\0", "no text"),
    "more entries than bytes": (
        "%%MatrixMarket matrix coordinate integer general\n3 2 1000000000\n1 1 4\n",
        "1000000000 entries",
    ),
    "a giant": ("%%MatrixMarket matrix array integer general\n1000000 1000000\n1\n", "1000000000000 entries"),
    "many empty rows": (
        "%%MatrixMarket matrix coordinate integer general\n1000000000 1000000000 1\n1 1 4\n",
        "1000000000 x 1000000000 and holds 1 entries",
    ),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("how", BAD_TEXT)
def test_matrix_market_that_would_end_the_process(tmp_path: Path, how: str, packed: bool) -> None:
    text, words = BAD_TEXT[how]
    path = tmp_path / ("y.mtx.gz" if packed else "y.mtx")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    with pytest.raises(InputError, match=words):
        as_counts(path)


def cells(values: Any = None) -> anndata.AnnData:
    """The good counts with their covariates."""
    values = good_counts().to_numpy() if values is None else values
    return anndata.AnnData(values, good_covariates(), good_counts().iloc[:0].T, layers={"raw": values})


def external_storage(root: Any, other: Path) -> None:
    """X becomes the bytes of another file."""
    del root["X"]
    root.create_dataset("X", shape=(N, P), dtype="u1", external=[(str(other), 0, N * P)])


def external_link(root: Any, other: Path) -> None:
    """X becomes that of another file."""
    del root["X"]
    root["X"] = h5py.ExternalLink(str(other), "X")


def soft_link(root: Any, other: Path) -> None:
    """X becomes a layer."""
    del root["X"]
    root["X"] = h5py.SoftLink("/layers/raw")


def circle(root: Any, other: Path) -> None:
    """A group holds itself."""
    root["uns/again"] = root["uns"]


def soft_circle(root: Any, other: Path) -> None:
    """A group holds a link to itself."""
    root["uns/again"] = h5py.SoftLink("/uns")


def virtual(root: Any, other: Path) -> None:
    """X is put together from another file."""
    laid = h5py.VirtualLayout((N, P), "i8")
    laid[...] = h5py.VirtualSource(str(other), "X", (N, P))
    del root["X"]
    root.create_virtual_dataset("X", laid)


def deep_link(root: Any, other: Path) -> None:
    """A covariate is read from another file."""
    root["obs/more"] = h5py.ExternalLink(str(other), "obs/height")


WAYS_OUT = (external_storage, external_link, soft_link, circle, soft_circle, virtual, deep_link)


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_file_that_leads_out_of_itself_is_refused(
    tmp_path: Path, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "y.h5ad", tmp_path / "other.h5ad"
    for file in (path, other):
        stored(file, cells())
    with h5py.File(path, "r+") as root:
        way(root, other)
    for read in (read_counts, read_annotated, read_table, as_counts):
        with pytest.raises(InputError, match="y.h5ad holds, at '/.*', "):
            read(path)
    monkeypatch.setattr(held, "MOST_DENSE", 0)
    with pytest.raises(InputError, match="y.h5ad holds, at '/.*', "):
        read_counts(path)


def chunks(path: Path, part: str) -> list[Path]:
    """The chunks of an array of a zarr store."""
    about = (".zarray", ".zattrs", "zarr.json")
    return sorted(file for file in (path / part).rglob("*") if file.is_file() and file.name not in about)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_a_lost_chunk_of_a_sparse_store_is_refused(tmp_path: Path, part: str, version: int) -> None:
    stored(tmp_path / "y.zarr", cells(sparse.csr_matrix(good_counts().to_numpy())), version=version)
    chunks(tmp_path / "y.zarr", f"X/{part}")[0].unlink()
    with pytest.raises(InputError, match=f"X of y.zarr is damaged: of its {part}, parts are missing"):
        as_counts(tmp_path / "y.zarr")
    assert np.array_equal(read_counts(tmp_path / "y.zarr", layer="raw").values, good_counts())


def test_chunks_that_a_dense_store_lacks_are_told(tmp_path: Path) -> None:
    path = tmp_path / "y.zarr"
    stored(path, cells(), chunks=(2, P))
    chunks(path, "X")[0].unlink()
    found = as_counts(path)
    assert np.array_equal(found.y[2:], good_counts()[2:]) and found.column_names == TAXA
    assert [note for note in found.notes if "1 of the 3 chunks of X of y.zarr" in note]
    for chunk in chunks(path, "X"):
        chunk.unlink()
    with pytest.raises(InputError, match="X of y.zarr is 6 x 3 as it is declared, and of its 3 chunks 0 are"):
        read_counts(path)


def facts(**more: Any) -> anndata.AnnData:
    """Counts with what is known of their rows."""
    table = cells()
    table.obs = pandas.DataFrame(
        {"tree": pandas.Categorical(["oak", "elm"] * (N // 2)), "depth": np.arange(N) + 1.0} | more,
        table.obs_names,
    )
    return table


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("part", ["obs/_index", "var/_index", "obs/tree/categories", "obs/tree/codes"])
def test_lost_chunks_of_names_and_levels_are_refused(tmp_path: Path, part: str, version: int) -> None:
    path = tmp_path / "y.zarr"
    stored(path, facts(), version=version)
    chunks(path, part)[0].unlink()
    side, _, where = part.partition("/")
    for read in (read_counts, read_annotated, *((read_table,) if side == "obs" else ())):
        with pytest.raises(
            InputError, match=f"{side} of y.zarr is damaged: of its '{where}', 1 of 1 chunks are"
        ):
            read(path)


@pytest.mark.parametrize("large", [False, True])
def test_lost_chunks_of_numbers_of_obs_are_told(
    tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "y.zarr"
    stored(path, facts(none=np.zeros(N), one=pandas.Categorical(["elm"] * N)))
    if large:
        monkeypatch.setattr(held, "MOST_DENSE", 0)
    said = "obs of y.zarr are not in the store and were read as 0"
    before = [note for note in as_counts(path).notes if said in note]
    chunks(path, "obs/depth")[0].unlink()
    after = [note for note in as_counts(path).notes if said in note]
    assert len(after) == 1 and "'depth' (1 of 1)" in after[0]
    assert all("'none' (1 of 1)" in note and "'one/codes' (1 of 1)" in note for note in after + before)
    assert not any("depth" in note for note in before)
    with pytest.warns(DataWarning, match=said):
        assert (read_table(path)["depth"] == 0).all()


def test_a_large_table_that_is_only_declared_is_refused(tmp_path: Path) -> None:
    stored(tmp_path / "y.h5ad", cells())
    with h5py.File(tmp_path / "y.h5ad", "r+") as root:
        del root["X"]
        root.create_dataset("X", shape=(10**7, 10**6), dtype="i1", chunks=(10**4, 10**2))[0, 0] = 1
    with pytest.raises(InputError, match="10000000 x 1000000 as it is declared, .* 1 are there"):
        read_counts(tmp_path / "y.h5ad")


@pytest.mark.parametrize("shape", [(), (2, 3, 1)])
def test_a_basis_of_other_dimensions_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "V.npy", np.ones(shape))
    with pytest.raises(InputError, match=f"V.npy has {len(shape)} dimensions"):
        read_basis(tmp_path / "V.npy")


def test_a_basis_with_short_names_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "V.npz", V=np.eye(3), var_names=["a", "b"])
    with pytest.raises(InputError, match="'var_names' in V.npz has the shape"):
        read_basis(tmp_path / "V.npz")


@pytest.mark.parametrize("name", ["y.csv.gz", "y.mtx.gz", "y.npz", "y.parquet", "y.h5ad"])
def test_damaged_bytes_are_one_clear_error_or_do_not_matter(tmp_path: Path, name: str) -> None:
    """A stretch of noise at twenty places, whatever the library that meets it raises."""
    path = tmp_path / name
    frame = good_counts()
    if name == "y.csv.gz":
        frame.to_csv(path)
    elif name == "y.mtx.gz":
        path.write_bytes(
            gzip.compress(b"%%MatrixMarket matrix array integer general\n2 3\n1\n2\n3\n4\n5\n6\n")
        )
    elif name == "y.npz":
        np.savez_compressed(path, counts=frame.to_numpy(), obs_names=list(frame.index))
    elif name == "y.parquet":
        frame.to_parquet(path)
    else:
        stored(path, cells())
    whole, noise = path.read_bytes(), np.random.default_rng(0)
    for place in np.linspace(0, len(whole) - 8, 20).astype(int):
        path.write_bytes(whole[:place] + noise.bytes(8) + whole[place + 8 :])
        try:
            read_counts(path)
        except InputError as error:
            assert name in str(error) or "Y " in str(error)
            assert "\n" not in str(error)


@pytest.mark.parametrize("memory", ["abc", "", "1KB", "1e9"])
def test_memory_that_is_none_is_one_clear_error(tmp_path: Path, memory: str) -> None:
    (tmp_path / "e.csv").write_text("patient,code\na,x\n")
    with pytest.raises(InputError, match="memory are too few|^memory is .* wanted is a size"):
        count_events(tmp_path / "e.csv", Columns("patient", "code"), memory=memory)


def test_damaged_events_are_one_clear_error(tmp_path: Path) -> None:
    whole = gzip.compress(b"patient,code\n" + b"".join(b"p%d,c%d\n" % (i, i * i % 97) for i in range(99)))
    (tmp_path / "e.csv.gz").write_bytes(whole[:40] + b"\xff" * 20 + whole[60:])
    (tmp_path / "twins.csv").write_text("patient,code,Patient\na,x,b\n")
    for name, said in (
        ("e.csv.gz", "e.csv.gz (is damaged|cannot be read)"),
        ("twins.csv", "'Patient', 'patient'"),
    ):
        with pytest.raises(InputError, match=said):
            count_events(tmp_path / name, Columns("patient", "code"))


def test_a_report_of_another_kind_is_a_note(tmp_path: Path) -> None:
    table = cells()
    table.uns["poplin_counts"] = {"report": 3}
    assert as_counts(table).notes[0] == "3"
    table.uns["poplin_counts"] = "none"
    assert as_counts(table).y.shape == (N, P)


LINKS: dict[str, Callable[[Path, Path], Any]] = {
    "a file": lambda store, beside: (store / "X" / "extra").symlink_to(beside / "secret"),
    "a folder": lambda store, beside: (store / "layers" / "more").symlink_to(beside),
    "a way up": lambda store, beside: (store / "layers" / "up").symlink_to(Path("..") / ".."),
}


@pytest.mark.parametrize("how", LINKS)
def test_a_zarr_store_with_links_to_elsewhere_is_refused(tmp_path: Path, how: str) -> None:
    store, beside = tmp_path / "y.zarr", tmp_path / "beside"
    stored(store, anndata.AnnData(good_counts().astype(float)))
    beside.mkdir()
    (beside / "secret").write_text("x")
    (store / "obs" / "again").symlink_to(store / "var")  # inside, it leads nowhere
    assert np.array_equal(read_counts(store).values, good_counts())
    LINKS[how](store, beside)
    for read in (read_counts, read_table, read_annotated):
        with pytest.raises(InputError, match="y.zarr holds, at '.*', a link to somewhere else"):
            read(store)


@pytest.mark.parametrize("cell", ["0x1F", " 0X2", "-0x3"])
def test_numbers_to_the_base_16_are_text(tmp_path: Path, cell: str) -> None:
    """As to pandas and to Python's float; Arrow reads them."""
    (tmp_path / "y.csv").write_text(f"id,a,b\nq,1,2\nr,{cell},3\ns,2,4\n")
    with pytest.raises(InputError, match=f"'{cell}' at row 'r', column 'a', which is no number"):
        read_counts(tmp_path / "y.csv")
    (tmp_path / "y.csv").write_text("id,0xa,b\n0xq,1,2\nr,1,3\n")
    assert read_counts(tmp_path / "y.csv").values.tolist() == [[1, 2], [1, 3]]
