"""Files and formulas of a kilobyte that ask for the whole memory, or for hours: refused before they get it.

What is declared is compared with what is stored (`data/damage.py`), with limits lowered so that tests stay small.
"""

from __future__ import annotations

import gzip
import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from poplin._errors import InputError
from poplin.data import damage
from poplin.data.counts import as_counts
from poplin.data.formula import design, design_from_json, design_to_json
from poplin.data.readers import read_basis, read_counts, read_table
from tests.annotated import stored
from tests.bad_inputs import good_counts, good_covariates
from tests.ondisk import large_is_small

TABLE = pd.DataFrame({"a": np.arange(6.0), "b": np.arange(6.0) ** 2, "g": list("uvuvuv")})
ROWS = tuple(f"row{i}" for i in range(6))


def header(shape: tuple[int, ...], kind: str = "<f8") -> bytes:
    """The head of an array that says so."""
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": kind, "fortran_order": False, "shape": shape})
    return held.getvalue()


@pytest.mark.parametrize("shape", [(10**12, 1000), (2**62, 4), (3, 10**9), (13,), (-1, 2)])
def test_an_array_that_declares_more_than_it_has_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "V.npy").write_bytes(header(shape) + bytes(96))
    with pytest.raises(InputError, match="V.npy is damaged: it is declared with the shape"):
        read_basis(tmp_path / "V.npy")
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("counts.npy", header(shape) + bytes(96))
    with pytest.raises(InputError, match="'counts' in y.npz is damaged: it is declared"):
        read_counts(tmp_path / "y.npz")


def test_an_archive_that_holds_something_else_or_is_locked_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "y.npz"
    np.savez(path, counts=good_counts().to_numpy())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("obs_names", "a\nb\n")
    with pytest.raises(InputError, match="y.npz cannot be read"):
        read_counts(path)
    np.savez(path, counts=good_counts().to_numpy())
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag of encryption, in both heads
        content[content.index(mark) + place] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="y.npz is encrypted. Unpack it"):
        read_counts(path)


def test_numbers_of_another_machine_are_numbers(tmp_path: Path) -> None:
    table, trees = good_counts(), good_covariates()["reads"].to_numpy()
    np.savez(tmp_path / "y.npz", counts=table.to_numpy().astype(">i4"), cov_reads=trees.astype(">i8"))
    found = read_counts(tmp_path / "y.npz")
    assert np.array_equal(found.values, table)
    assert np.array_equal(as_counts(found, formula="~ reads").x[:, 1], trees)


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some kilobytes are large."""
    monkeypatch.setattr(damage, "LARGE", 1 << 17)
    monkeypatch.setattr(damage, "LARGE", 1 << 17)


def packed_text(path: Path) -> None:
    """A million bytes of the same lines."""
    path.write_bytes(gzip.compress(b"id,a\n" + b"x,0\n" * 250_000))


def packed_market(path: Path) -> None:
    """The same of comments in Matrix Market."""
    path.write_bytes(
        gzip.compress(b"%%MatrixMarket matrix array integer general\n" + b"%\n" * 500_000 + b"1 1\n1\n")
    )


def packed_array(path: Path) -> None:
    """An array of zeros, in a packed archive."""
    np.savez_compressed(path, counts=np.zeros((1000, 200)))


def packed_rows(path: Path) -> None:
    """Rows that are all the same."""
    pd.DataFrame({"a": np.zeros(400_000, int)}).to_parquet(path)


def packed_words(path: Path) -> None:
    """Long names that are all the same, of few rows."""
    pd.DataFrame({"a": [10_000 * "x"] * 1000, "b": 1}).to_parquet(path)


BOMBS: dict[str, Callable[[Path], None]] = {
    "y.csv.gz": packed_text,
    "y.mtx.gz": packed_market,
    "y.npz": packed_array,
    "y.parquet": packed_rows,
    "words.parquet": packed_words,
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_unpacked_without_end_is_refused(name: str, tmp_path: Path, low: None) -> None:
    BOMBS[name](tmp_path / name)
    with pytest.raises(InputError, match=f"{name} declares too much: .* MB or more"):
        read_counts(tmp_path / name)


def test_a_table_of_few_counts_is_none_of_these(tmp_path: Path) -> None:
    y = np.zeros((2000, 500), int)
    y[::7, ::50] = 3
    for name, write in (
        ("y.npz", lambda path: np.savez_compressed(path, counts=y)),
        ("y.csv.gz", lambda path: pd.DataFrame(y).add_prefix("c").to_csv(path)),
        ("y.parquet", lambda path: pd.DataFrame(y).add_prefix("c").to_parquet(path)),
    ):
        write(tmp_path / name)
        assert np.array_equal(read_counts(tmp_path / name).values, y)


def cells() -> anndata.AnnData:
    """The good counts with covariates."""
    x = sparse.csr_matrix(good_counts().to_numpy().astype(np.float32))
    return anndata.AnnData(x, good_covariates(), good_counts().iloc[:0].T)


def declare(path: Path, name: str) -> None:
    """An array in a store that is a billion long, of which nearly nothing is there."""
    if path.suffix == ".h5ad":
        with h5py.File(path, "r+") as root:
            about, kind = dict(root[name].attrs), root[name].dtype
            del root[name]
            root.create_dataset(name, shape=(10**9,), dtype=kind, chunks=(1000,)).attrs.update(about)
        return
    for file, place in ((path / name, ()), (path, ("consolidated_metadata", "metadata", name))):
        told = json.loads((file / "zarr.json").read_text())
        node = told
        for key in place:
            node = node[key]
        node["shape"] = [10**9]
        (file / "zarr.json").write_text(json.dumps(told))


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("name", ["y.h5ad", "y.zarr"])
@pytest.mark.parametrize("part", ["obs/height", "var/_index", "X/indptr", "uns/more"])
def test_elements_that_are_only_declared_are_refused(
    tmp_path: Path, name: str, part: str, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = cells()
    table.uns["more"] = np.arange(3.0)
    stored(tmp_path / name, table, **({} if name == "y.h5ad" else {"version": 3}))
    declare(tmp_path / name, part)
    if on_disk:
        large_is_small(monkeypatch)
        if part == "uns/more":  # which is not read then
            assert np.array_equal(as_counts(tmp_path / name).y[np.arange(6)].toarray(), good_counts())
            return
    with pytest.raises(
        InputError, match="declares too much|damaged: of its .* missing|damaged: of its indptr"
    ):
        as_counts(tmp_path / name)


def test_a_chunk_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    """Of such a chunk, what was in memory before is read."""
    stored(tmp_path / "y.zarr", anndata.AnnData(good_counts().to_numpy() * 1.0), version=2)
    chunk = next(file for file in (tmp_path / "y.zarr" / "X").iterdir() if file.name[0] != ".")
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(InputError, match="of its 'X', the chunk 0.0 is cut off"):
        read_counts(tmp_path / "y.zarr")


def test_names_of_other_rows_are_refused_where_counts_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path / "y.h5ad", cells())
    with h5py.File(tmp_path / "y.h5ad", "r+") as root:
        names = root["var/_index"][...]
        about = dict(root["var/_index"].attrs)
        del root["var/_index"]
        root["var/_index"] = np.concatenate([names, [b"one", b"more"]])
        root["var/_index"].attrs.update(about)
    large_is_small(monkeypatch)
    with pytest.raises(InputError, match="Y has 3 columns, and 5 names of columns"):
        read_counts(tmp_path / "y.h5ad")


def test_other_tables_of_its_kind_are_named(tmp_path: Path) -> None:
    stored(tmp_path / "y.h5ad", cells())
    with h5py.File(tmp_path / "y.h5ad", "r+") as root:
        root.attrs["encoding-type"] = "MuData"
    for door in (read_counts, read_table):
        with pytest.raises(InputError, match="y.h5ad holds 'MuData'; wanted is an AnnData"):
            door(tmp_path / "y.h5ad")
    table = cells()
    table.layers["raw"], table.X = table.X, None
    stored(tmp_path / "y.h5ad", table)
    with pytest.raises(InputError, match="y.h5ad has no X; its layers are 'raw'"):
        read_counts(tmp_path / "y.h5ad")


ENDLESS = {
    "~ I(9**9**9)": "whole number of more than 63 bits",
    "~ {9**9**9**9}": "whole number of more than 63 bits",
    "~ a + I(a * (-7)**(3**40))": "whole number of more than 63 bits",
    "~ I(a + (~9)**9999)": "whole number of more than 63 bits",
    "~ a + offset(I(2**99 * a))": "whole number of more than 63 bits",
    "~ I(1 << 10**9)": "no arithmetic of a formula",
    "~ I(a * ('x' * 10**9 == 'x'))": "no number to compute with",
    "~ I([1] * 10**9)": "no number to compute with",
    "~ np.power(10**18, 10**18, dtype='O')": "'dtype' .* is not known",
    "~ poly(a, 10**8)": "asks for 1e.08 columns",
    "~ bs(a, df=1000000000)": "asks for 1e.09 columns",
    "~ bs(a, df=1e9)": "asks for 1e.09 columns",
    "~ (a + b)**1000000": "more than 10000 terms",
    "~ (a + b)^50": "more than 10000 terms",
    "~ a**1000000": "more than 10000 terms",
    "~ ((a + b + g)**5)**5": "more than 10000 terms",
    "~ " + "*".join(f"I(a + {i})" for i in range(30)): "more than 10000 terms",
    "~ I(" + "-" * 20_000 + "a)": "cannot be read",
    "~ " + " + ".join(f"I(a + {i})" for i in range(9000)): "characters",
}


@pytest.mark.parametrize("formula", ENDLESS, ids=lambda formula: formula[:30])
def test_a_formula_without_end_is_refused_at_once(formula: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=ENDLESS[formula]) as caught:
        design(formula, TABLE, ROWS)
    assert time.monotonic() - began < 5
    assert len(str(caught.value)) < 1000


FINE = {
    "~ (a + b)**2": ["Intercept", "a", "b", "a:b"],
    "~ I(a**2 * 10**-3)": ["Intercept", "I(a ** 2 * 10 ** (-3))"],
    "~ a + I(b / 10**6) + I((a - 2)**3)": ["Intercept", "a", "I(b / 10 ** 6)", "I((a - 2) ** 3)"],
    "~ poly(a, 2)": ["Intercept", "poly(a, 2)[1]", "poly(a, 2)[2]"],
    "~ np.log1p(a) + I(a > 50000 - 49998)": None,
    "~ C(g, levels=['v', 'u']) * a": None,
    "~ " + " + ".join(f"I(a**{i})" for i in range(1, 4)): None,
}


@pytest.mark.parametrize("formula", FINE)
def test_other_formulas_are_what_they_were(formula: str) -> None:
    made, x, _ = design(formula, TABLE, ROWS)
    assert x.shape[1] == len(made.covariate_names) > 1
    if FINE[formula] is not None:
        assert list(made.covariate_names) == FINE[formula]


def test_a_saved_design_is_read_by_the_same_rules() -> None:
    text = design_to_json(design("~ I(a**2)", TABLE, ROWS)[0])
    assert design_from_json(text).formula == "~ I(a**2)"
    for expression, words in (("9**9**9", "63 bits"), ("__import__('os')", "not known"), ("c + 1", "'c'")):
        with pytest.raises(InputError, match=words):
            design_from_json(text.replace("I(a ** 2)", expression))
    held = json.loads(text)
    for key in held.keys() - {"version", "formula", "covariate_names", "transforms", "levels"}:
        with pytest.raises(InputError, match="saved design"):
            design_from_json(json.dumps(held | {key: 3}))
