"""Tables that stay on disk are those that are in memory: rows, sums, names, errors; and are never read whole.

Fits of them are in `test_backed_fits.py`. Start at `HELPERS`, what is asked of tables in `ondisk.py`.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import poplin
from poplin.data import held, large_files
from poplin.data.counts import Coding, as_counts, as_new_rows, some_rows
from poplin.data.readers import read_counts
from poplin.data.streams import Ahead, dealt
from tests.annotated import stored
from tests.ondisk import (
    CELLS,
    GENES,
    PIECE,
    QUICK,
    STORES,
    N,
    P,
    Y,
    kept,
    with_entries,
)

SOME = np.random.default_rng(1).integers(0, N, 300)  # rows, in no order, some of them again
WEIGHTS = np.arange(N) % 3 * 1.0
HELPERS: dict[str, Callable[[Any], Any]] = {
    "rows": lambda y: held.dense_rows(y, SOME),
    "a slice": lambda y: held.dense_rows(y, slice(700, 715)),
    "no row": lambda y: held.dense_rows(y, np.arange(0)),
    "all": lambda y: held.dense_rows(y, slice(None)),
    "a column": lambda y: held.dense_column(y, 2),
    "columns in another order": lambda y: held.dense_rows(held.in_columns(y, np.array([2, 0, 3])), SOME),
    "in another order twice": lambda y: held.dense_rows(
        held.in_columns(held.in_columns(y, np.array([2, 0, 3])), np.array([1, 2, 0])), SOME
    ),
    "entries": lambda y: held.entries(y, SOME, SOME % P),
    "column sums": lambda y: held.column_sums(y, np.ones(N)),
    "weighted column sums": lambda y: held.column_sums(y, WEIGHTS),
    "row sums": held.row_sums,
    "missing": held.missing,
    "seen": lambda y: held.seen(y, np.array([1, 3])),
    "observed": lambda y: held.observed(y, WEIGHTS > 0) if held.missing(y).any() else 0,
    "the largest": held.largest,
    "zeros": held.zeros,
}


@pytest.mark.parametrize("name", STORES)
def test_what_is_asked_of_a_table_on_disk_is_that_of_one_in_memory(
    name: str, tmp_path: Path, small: None, asked: list[int]
) -> None:
    holes = [] if STORES[name].sparse else [(i, 1, np.nan) for i in range(0, 900, 7)]
    y = with_entries(*holes)
    counts = as_counts(kept(tmp_path, name, y)[0])
    assert sum(asked) == N  # the door goes through the file once
    assert held.is_on_disk(counts.y) and counts.y.shape == (N, P)
    sent = pickle.loads(pickle.dumps(counts.y))  # to another process, which opens the file anew
    assert np.array_equal(held.dense_rows(sent, SOME), y[SOME], equal_nan=True)
    asked.clear()
    assert counts.row_names == tuple(CELLS) and counts.column_names == tuple(GENES)
    for what, ask in HELPERS.items():
        np.testing.assert_allclose(ask(counts.y), ask(y), rtol=1e-14, err_msg=what)
    assert max(asked) <= PIECE // 3  # of three columns


BAD = {
    "negative": [(700, 2, -1.0), (700, 3, -2.0), (40, 0, 0.0)],
    "fractional": [(1199, 0, 0.5)],
    "infinite": [(3, 1, np.inf), (3, 0, -4.0), (900, 2, -np.inf)],
    "above 2^53": [(10, 1, 2.0**60)],
    "missing": [(9, 0, np.nan), (8, 0, -1.0)],
    "a column of nothing": [(i, 3, np.nan) for i in range(N)],
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", QUICK)
def test_a_bad_entry_on_disk_is_told_of_as_in_memory(
    name: str, bad: str, tmp_path: Path, small: None
) -> None:
    on_disk, in_memory = kept(tmp_path, name, with_entries(*BAD[bad]))
    with pytest.raises(poplin.InputError) as wanted:
        as_counts(in_memory)
    with pytest.raises(poplin.InputError) as told:
        as_counts(on_disk)
    assert str(told.value) == str(wanted.value)


@pytest.mark.parametrize("name", ["gene2", ""])
def test_text_in_a_parquet_file_is_told_of_by_name(name: str, tmp_path: Path, small: None) -> None:
    frame = pd.DataFrame(Y, CELLS, GENES).assign(gene2=lambda table: table["gene2"].astype(str))
    frame.loc["cell900", "gene2"] = "many"
    frame.rename(columns={"gene2": name}).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(
        poplin.InputError, match=f"^Y holds 'many' at row 'cell900', column '{name}', which is no"
    ):
        as_counts(tmp_path / "y.parquet")


@pytest.mark.parametrize("row_names", [None, "leaf", "none", "other"])
@pytest.mark.parametrize("heading", ["leaf", ""])
@pytest.mark.parametrize("index", [True, False], ids=["index", "column"])
def test_a_column_of_row_names_is_no_count(
    index: bool, heading: str, row_names: str | None, tmp_path: Path, small: None
) -> None:
    """As a small file is read: the same names, or the same words."""
    frame = pd.DataFrame(Y, CELLS, GENES).rename_axis(heading)
    kept_so = frame if index else frame.reset_index(drop=row_names == "none")
    kept_so.to_parquet(tmp_path / "y.parquet")
    told: list[Any] = []
    for most in (0, N * P + N):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(held, "MOST_DENSE", most)
            try:
                table = read_counts(tmp_path / "y.parquet", row_names=row_names)
            except poplin.InputError as error:
                told.append(str(error))
            else:
                assert np.array_equal(held.dense_rows(table.values, slice(None)), Y)
                told.append((table.row_names, table.column_names))
    assert told[0] == told[1]


def test_columns_on_disk_are_refused_or_read(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path / "y.h5ad", anndata.AnnData(sparse.csc_matrix(Y)))
    for given in (tmp_path / "y.h5ad", anndata.read_h5ad(tmp_path / "y.h5ad", backed="r")):
        with pytest.raises(poplin.InputError, match=r"X of y.h5ad .* by columns \(CSC\).*tocsr\(\)"):
            as_counts(given)
    monkeypatch.setattr(held, "MOST_DENSE", np.count_nonzero(Y))  # its entries are few enough
    counts = as_counts(tmp_path / "y.h5ad")
    assert not held.is_on_disk(counts.y) and np.array_equal(counts.y.toarray(), Y)


def test_small_tables_are_read(tmp_path: Path) -> None:
    for name in STORES:
        (tmp_path / name).mkdir()
        assert np.array_equal(as_counts(kept(tmp_path / name, name)[0]).y, Y)


def test_a_layer_stays_where_it_is(tmp_path: Path, small: None) -> None:
    cells = anndata.AnnData(np.log1p(Y), layers={"counts": sparse.csr_matrix(Y)})
    stored(tmp_path / "y.h5ad", cells)
    table = read_counts(tmp_path / "y.h5ad", layer="counts")
    assert held.is_on_disk(table.values) and np.array_equal(held.dense_rows(table.values, slice(None)), Y)
    with pytest.raises(poplin.InputError, match="no layer 'raw'; it has 'counts'"):
        read_counts(tmp_path / "y.h5ad", layer="raw")
    with pytest.raises(poplin.InputError, match="fractional count"):
        as_counts(tmp_path / "y.h5ad")


def test_later_rows_may_come_with_columns_in_another_order(tmp_path: Path, small: None) -> None:
    counts = as_new_rows(Coding(tuple(GENES[::-1]), ("Intercept",)), kept(tmp_path, "h5ad")[0])
    assert held.is_on_disk(counts.y) and np.array_equal(some_rows(counts, SOME).y, Y[SOME][:, ::-1])
    with pytest.raises(poplin.InputError, match="lacks columns .* stays on disk"):
        as_new_rows(Coding((*GENES, "gene9"), ("Intercept",)), tmp_path / "y.h5ad", partial=True)


def test_runs_of_neighbours_are_dealt_each_once() -> None:
    random = np.random.default_rng(0)
    order = dealt(random, 203, 5)
    assert np.array_equal(np.sort(order), np.arange(203))
    cuts = np.flatnonzero(np.diff(order) != 1)
    assert 35 <= len(cuts) <= 40 and not np.array_equal(order, np.arange(203))
    one, other = (np.random.default_rng(1) for _ in range(2))
    assert np.array_equal(dealt(one, 203, 1), other.permutation(203))


def test_what_is_read_ahead_is_what_was_asked_for() -> None:
    threads, here = [], threading.get_ident()

    def read(number: int) -> int:
        threads.append(threading.get_ident())
        return 10 // number

    ahead = Ahead(read)
    assert ahead.take(1) == 10 and threads == [here]
    ahead.begin(2)
    assert ahead.take(2) == 5 and threads[1] != here
    ahead.begin(5)
    assert ahead.take(10) == 1 and ahead.take(5) == 2  # another was asked for
    ahead.begin(0)
    with pytest.raises(ZeroDivisionError):
        ahead.take(0)
    assert ahead.take(1) == 10


def test_scratch_files_are_read_where_they_were_written() -> None:
    scratch = large_files.Scratch(np.int32)
    for numbers in ([1, 2], [], [3, 4, 5]):
        scratch.append(np.array(numbers))
    assert scratch[1:4].tolist() == [2, 3, 4] and scratch[5:5].tolist() == [] and scratch[0:1].tolist() == [1]
