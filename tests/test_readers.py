"""Files: the same table in every format gives the same counts, and a bad file is one clear error.

`FORMATS` write a table with names to a folder. The bad files are the rows of `bad_files.py`.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse
from scipy.io import mmwrite

from poplin._errors import InputError
from poplin.data.counts import as_counts, check_basis
from poplin.data.readers import read_basis, read_counts, read_table
from tests.annotated import stored
from tests.bad_files import BAD_FILES, BadFile, door
from tests.bad_inputs import LEAVES, TAXA, counts_with, good_counts, good_covariates


def as_r(frame: pd.DataFrame) -> str:
    """What write.table(frame) gives: quoted names, spaces, a header that is one field short."""
    rows = [f'"{name}" ' + " ".join(str(count) for count in row) for name, *row in frame.itertuples()]
    return "\n".join([" ".join(f'"{name}"' for name in frame.columns), *rows, ""])


def packed(path: Path, frame: pd.DataFrame, **options: Any) -> None:
    """Write a text table through gzip."""
    with gzip.open(path, "wt") as handle:
        frame.to_csv(handle, **options)


def tenx(path: Path, frame: pd.DataFrame) -> None:
    """Write features by barcodes, with the names beside, as single-cell pipelines do."""
    mmwrite(path, sparse.csr_matrix(frame.to_numpy().T))
    prefix = path.name.removesuffix("matrix.mtx") if path.name.endswith("matrix.mtx") else ""
    (path.parent / f"{prefix}barcodes.tsv").write_text("".join(f"{name}\n" for name in frame.index))
    with gzip.open(path.parent / f"{prefix}features.tsv.gz", "wt") as handle:
        handle.writelines(f"ENSG{j}\t{name}\tGene\n" for j, name in enumerate(frame.columns))


def dense_npz(path: Path, frame: pd.DataFrame) -> None:
    """Write a dense .npz with names."""
    np.savez(path, counts=frame.to_numpy(), obs_names=list(frame.index), var_names=list(frame.columns))


def sparse_npz(path: Path, frame: pd.DataFrame) -> None:
    """Write the layout of scipy.sparse.save_npz, with names."""
    held = sparse.csr_matrix(frame.to_numpy())
    arrays = {"data": held.data, "indices": held.indices, "indptr": held.indptr, "shape": held.shape}
    np.savez(path, format=b"csr", obs_names=list(frame.index), var_names=list(frame.columns), **arrays)


def named(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The empty obs and var that carry a table's names."""
    return pd.DataFrame(index=frame.index), pd.DataFrame(index=frame.columns)


FORMATS = {
    "comma": ("y.csv", lambda path, frame: frame.to_csv(path)),
    "semicolon": ("y.csv", lambda path, frame: frame.to_csv(path, sep=";", index_label="leaf")),
    "tab in csv": ("y.csv", lambda path, frame: frame.to_csv(path, sep="\t")),
    "tab": ("y.tsv", lambda path, frame: frame.to_csv(path, sep="\t", index_label="Leaf_ID")),
    "text": ("y.txt", lambda path, frame: frame.to_csv(path, sep=";", index_label="id")),
    "upper case": ("y.CSV", lambda path, frame: frame.to_csv(path)),
    "byte order mark": ("y.csv", lambda path, frame: frame.to_csv(path, encoding="utf-8-sig")),
    "other line ends": ("y.csv", lambda path, frame: frame.to_csv(path, lineterminator="\r\n")),
    "blank lines": ("y.csv", lambda path, frame: path.write_text(f"\n{frame.to_csv()}\n\n")),
    "quoted": ("y.csv", lambda path, frame: frame.to_csv(path, quoting=1)),
    "as R writes it": ("y.tsv", lambda path, frame: path.write_text(frame.to_csv(sep="\t")[1:])),
    "as R writes it by default": ("y.txt", lambda path, frame: path.write_text(as_r(frame))),
    "packed comma": ("y.csv.gz", packed),
    "packed tab": ("y.tsv.gz", lambda path, frame: packed(path, frame, sep="\t")),
    "parquet with index": ("y.parquet", lambda path, frame: frame.to_parquet(path)),
    "parquet with column": (
        "y.parquet",
        lambda path, frame: frame.rename_axis("leaf").reset_index().to_parquet(path),
    ),
    "npz": ("y.npz", dense_npz),
    "npz sparse": ("y.npz", sparse_npz),
    "10x": ("matrix.mtx", tenx),
    "10x with a prefix": ("GSM1_matrix.mtx", tenx),
    "mtx with names beside": ("y.mtx", tenx),
    "anndata": ("y.h5ad", lambda path, frame: anndata.AnnData(frame.astype(float)).write_h5ad(path)),
    "zarr": ("y.zarr", lambda path, frame: stored(path, anndata.AnnData(frame.astype(float)))),
    "zarr, second version": (
        "y.zarr",
        lambda path, frame: stored(path, anndata.AnnData(frame.astype(float)), version=2),
    ),
    "zarr, sparse": (
        "y.zarr",
        lambda path, frame: stored(path, anndata.AnnData(sparse.csr_array(frame), *named(frame))),
    ),
}


@pytest.mark.parametrize(("name", "write"), FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_counts(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name, good_counts())
    counts = as_counts(tmp_path / name)
    assert np.array_equal(counts.y, good_counts())
    assert counts.row_names == LEAVES and counts.column_names == TAXA


ANNOTATED = ("y.h5ad", "y.zarr")
BARE = {
    "comma": ("y.csv", lambda path, frame: frame.to_csv(path, index=False)),
    "parquet": ("y.parquet", lambda path, frame: frame.to_parquet(path, index=False)),
    "npz": ("y.npz", lambda path, frame: np.savez(path, Y=frame.to_numpy())),
    "npz sparse": ("y.npz", lambda path, frame: sparse.save_npz(path, sparse.coo_array(frame.to_numpy()))),
    "mtx": ("y.mtx", lambda path, frame: mmwrite(path, sparse.coo_array(frame.to_numpy()))),
    "packed mtx": ("y.mtx.gz", lambda path, frame: mmwrite_packed(path, frame)),
}


def mmwrite_packed(path: Path, frame: pd.DataFrame) -> None:
    """Write Matrix Market through gzip."""
    with gzip.open(path, "wb") as handle:
        mmwrite(handle, sparse.coo_array(frame.to_numpy()))


@pytest.mark.parametrize(("name", "write"), BARE.values(), ids=BARE)
def test_files_without_row_names(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name, good_counts())
    counts = as_counts(tmp_path / name)
    assert np.array_equal(counts.y, good_counts()) and counts.row_names[:2] == ("row1", "row2")


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda bad: bad.name)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, bad: BadFile) -> None:
    bad.write(tmp_path)
    with pytest.raises(InputError) as caught:
        door(bad, tmp_path)
    message = str(caught.value)
    assert all(word in message for word in bad.words), message
    assert message.endswith(".") and len(message) < 500 and "\n" not in message


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        read_counts(tmp_path)


# header, first column; row_names given; the names that counts and that covariates get from it
NAME_RULE = {
    "headed by nothing": ("", [3, 1, 2], None, ("3", "1", "2"), ("3", "1", "2")),
    "id": ("ID", [3, 1, 2], None, ("3", "1", "2"), ("3", "1", "2")),
    "ends in _id": ("Sample_id", [3, 1, 2], None, ("3", "1", "2"), ("3", "1", "2")),
    "text": ("site", ["x", "y", "z"], None, ("x", "y", "z"), ("x", "y", "z")),
    "repeated text": ("tree", ["oak", "oak", "elm"], None, ("oak", "oak", "elm"), None),
    "repeated integers": ("depth", [3, 3, 2], None, None, None),
    "named by the user": ("site", [3, 1, 2], "site", ("3", "1", "2"), ("3", "1", "2")),
    "another column": ("site", [3, 1, 2], "birch", ("7", "8", "9"), ("7", "8", "9")),
    "none": ("site", [3, 1, 2], "none", None, None),
}


@pytest.mark.parametrize(
    ("header", "first", "asked", "counts", "covariates"), NAME_RULE.values(), ids=NAME_RULE
)
def test_the_rule_for_row_names(
    tmp_path: Path, header: str, first: list, asked: str | None, counts: Any, covariates: Any
) -> None:
    path = tmp_path / "y.csv"
    pd.DataFrame({header: first, "alder": [1, 1, 0], "birch": [7, 8, 9]}).to_csv(path, index=False)
    table, frame = read_counts(path, row_names=asked), read_table(path, row_names=asked)
    assert table.row_names == counts
    assert tuple(frame.index) == (covariates or (0, 1, 2))
    assert len(table.column_names or ()) == (2 if counts else 3)


def test_numbers_are_read_to_the_last_digit(tmp_path: Path) -> None:
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(7, 4)))[0]
    for name, write in {
        "V.csv": lambda path: np.savetxt(path, basis, delimiter=",", fmt="%.17g"),
        "named.csv": lambda path: pd.DataFrame(basis, index=[f"c{j}" for j in range(7)]).to_csv(path),
        "V.npy": lambda path: np.save(path, basis),
        "V.npz": lambda path: np.savez(path, V=basis, var_names=[f"c{j}" for j in range(7)]),
        "V.parquet": lambda path: pd.DataFrame(basis).rename(columns=str).to_parquet(path),
    }.items():
        write(tmp_path / name)
        assert np.array_equal(check_basis(read_basis(tmp_path / name), 7), basis), name
        assert np.array_equal(check_basis(tmp_path / name, 7), basis), name
    assert list(read_basis(tmp_path / "named.csv").index) == list(read_basis(tmp_path / "V.npz").index)


@pytest.mark.parametrize("count", [2**53, 2**53 + 1, 2**63, 2**64 + 1])
def test_counts_that_would_be_rounded_are_refused(tmp_path: Path, count: int) -> None:
    """As text, and as whole numbers of 64 bits where they fit."""
    (tmp_path / "y.csv").write_text(f"id,a,b\nx,{count},1\ny,2,3\n")
    given: list[Any] = [tmp_path / "y.csv", [[count, 1], [2, 3]]]
    if count < 2**63:
        frame = pd.DataFrame({"a": [count, 2], "b": [1, 3]}, index=["x", "y"])
        frame.to_parquet(tmp_path / "y.parquet")
        given += [tmp_path / "y.parquet", frame, sparse.csr_array(frame.to_numpy())]
    for table in given:
        with pytest.raises(InputError, match=r"2\^53"):
            as_counts(table)
    most = pd.DataFrame({"a": [2**53 - 1, 2], "b": [1, 3]})
    assert as_counts(most).y[0, 0] == 2**53 - 1


def test_decimal_commas_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id;height;reads\na;1,5;10\nb;-,25;20\n")
    assert read_table(path)["height"].tolist() == [1.5, -0.25]


def test_text_that_looks_like_a_number_stays_out_of_the_way(tmp_path: Path) -> None:
    """A column of names with leading zeros keeps them when it is asked to name the rows."""
    path = tmp_path / "x.csv"
    path.write_text("leaf_id,tree\n001,oak\n010,elm\n")
    assert list(read_table(path).index) == ["001", "010"]


def test_covariates_of_npz_and_annotated_files_serve_the_formula(tmp_path: Path) -> None:
    covariates = good_covariates()
    expected = as_counts(good_counts(), data=covariates, formula="~ tree + offset(log(reads))")
    arrays = {
        f"cov_{name}": covariates[name].to_numpy(dtype=str if name == "tree" else None) for name in covariates
    }
    np.savez(tmp_path / "y.npz", counts=good_counts().to_numpy(), obs_names=LEAVES, **arrays)
    for name in ANNOTATED:
        stored(tmp_path / name, anndata.AnnData(good_counts().astype(float), obs=covariates))
    for name in ("y.npz", *ANNOTATED):
        found = as_counts(tmp_path / name, formula="~ tree + offset(log(reads))")
        assert np.array_equal(found.x, expected.x) and np.array_equal(found.offset, expected.offset)
        assert as_counts(good_counts(), data=tmp_path / name, formula="~ tree").covariate_names == (
            "Intercept",
            "tree[T.oak]",
        )


@pytest.mark.parametrize("name", ANNOTATED)
def test_a_layer_is_taken_where_it_is_asked_for(tmp_path: Path, name: str) -> None:
    held = anndata.AnnData(np.log1p(good_counts()), layers={"raw": good_counts().to_numpy()})
    stored(tmp_path / name, held)
    assert np.array_equal(as_counts(read_counts(tmp_path / name, layer="raw")).y, good_counts())
    with pytest.raises(InputError, match="fractional count"):
        as_counts(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} has no layer 'counts'; it has 'raw'"):
        read_counts(tmp_path / name, layer="counts")
    good_counts().to_csv(tmp_path / "y.csv")
    with pytest.raises(InputError, match="y.csv is no AnnData"):
        read_counts(tmp_path / "y.csv", layer="raw")


@pytest.mark.parametrize("name", ANNOTATED)
def test_what_is_wrong_in_an_annotated_file_is_said_as_of_any_other(tmp_path: Path, name: str) -> None:
    wrong = {
        "a.": (counts_with("leaf2", "cedar", -3.0), "negative count, -3, at row 'leaf2', column 'cedar'"),
        "b.": (counts_with("leaf2", "cedar", 0.25), "fractional count, 0.25, at row 'leaf2'"),
    }
    for place, (frame, words) in wrong.items():
        stored(tmp_path / (place + name), anndata.AnnData(frame.astype(float)))
        with pytest.raises(InputError, match=words):
            as_counts(tmp_path / (place + name))
    stored(tmp_path / name, anndata.AnnData(obs=good_covariates()))
    with pytest.raises(InputError, match="has no X"):
        read_counts(tmp_path / name)


def test_a_zarr_store_of_something_else_is_no_annotated_table(tmp_path: Path) -> None:
    zarr.save(str(tmp_path / "y.zarr"), np.arange(6))
    with pytest.raises(InputError, match="y.zarr"):
        read_counts(tmp_path / "y.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(InputError, match="empty.zarr is empty"):
        read_counts(tmp_path / "empty.zarr")


def test_an_offset_in_npz_is_used_when_its_scale_is_sure(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "y.npz", counts=good_counts().to_numpy(), log_offset=np.arange(6.0), offset=np.ones(6)
    )
    counts = as_counts(tmp_path / "y.npz", offset=1.0)
    assert np.array_equal(counts.offset[:, 0], np.arange(6.0) + 1)
    assert [note for note in counts.notes if "'offset', which was not used" in note]


def test_covariates_in_a_file_are_matched_by_name(tmp_path: Path) -> None:
    good_covariates().iloc[::-1].to_csv(tmp_path / "x.csv", index_label="leaf")
    counts = as_counts(good_counts(), data=tmp_path / "x.csv", formula="~ height")
    assert np.array_equal(counts.x[:, 1], good_covariates()["height"])
    given = as_counts(good_counts(), X=good_covariates()[["height"]])
    good_covariates()[["height"]].to_csv(tmp_path / "X.csv")
    assert np.array_equal(as_counts(good_counts(), X=tmp_path / "X.csv").x, given.x)


def test_names_beside_a_matrix_that_do_not_fit_are_noted(tmp_path: Path) -> None:
    tenx(tmp_path / "matrix.mtx", good_counts())
    (tmp_path / "barcodes.tsv").write_text("one\ntwo\n")
    table = read_counts(tmp_path / "matrix.mtx")
    assert table.row_names is None and any("2 barcodes" in note for note in table.notes)
