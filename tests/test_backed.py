"""Tables that stay on disk are those that are in memory: rows, sums, errors, fits; and are never read whole.

Start at `STORES`, the files that tables stay in, and `small`, under which tables of this size do.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import poplin
from poplin.data import backed, held, packed, streams
from poplin.data.ahead import Ahead
from poplin.data.coding import Coding
from poplin.data.counts import as_counts, as_new_rows, some_rows
from poplin.data.streams import dealt
from poplin.estimators import checkpoints, streamed
from poplin.job import Inputs, prepare
from poplin.report import files
from poplin.report.goodness import residuals
from tests.annotated import stored
from tests.instances import LOADINGS, simulated

Y = simulated(3, LOADINGS, n=1200, level=0.5).y
N, P = Y.shape
PIECE = 1000  # entries that are dense together
CELLS, GENES = [f"cell{i}" for i in range(N)], [f"gene{j}" for j in range(P)]


class Store(NamedTuple):
    """A kind of file, whether its tables come sparse, and whether it is handed over opened by AnnData."""

    file: str
    sparse: bool
    opened: bool = False


STORES = {
    "h5ad": Store("y.h5ad", True),
    "h5ad, dense": Store("y.h5ad", False),
    "h5ad, opened": Store("y.h5ad", True, opened=True),
    "h5ad, dense, opened": Store("y.h5ad", False, opened=True),
    "zarr": Store("y.zarr", True),
    "zarr, dense": Store("y.zarr", False),
    "parquet": Store("y.parquet", False),
}
QUICK = ("h5ad", "h5ad, dense", "zarr", "parquet")  # one of each way in which rows are read


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table is large; blocks have 80 rows, runs five; the start is a sample of 600 rows."""
    for room, name, value in (
        (held, "MOST_DENSE", 0),
        (held, "PIECE", PIECE),
        (backed, "LONGEST", PIECE),
        (streams, "ENTRIES", 320),
        (streamed, "LARGE", 0),
        (streamed, "SAMPLE_ENTRIES", 2400),
        (streamed, "SAMPLE_ROWS", 1),
        (streamed, "LEAST_ROWS", 400),
    ):
        monkeypatch.setattr(room, name, value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were asked of a file together, each time."""
    rows: list[int] = []
    for kind in (backed.SparseRows, backed.DenseRows):

        def counting(self: Any, stretches: Any, read: Any = kind.read) -> Any:
            rows.append(sum(last - first for first, last in stretches))
            return read(self, stretches)

        monkeypatch.setattr(kind, "read", counting)
    return rows


def kept(folder: Path, name: str, y: np.ndarray = Y) -> tuple[Any, Any]:
    """The table as it is handed over on disk, and as it is in memory."""
    store, frame = STORES[name], pd.DataFrame(y, CELLS, GENES)
    path = folder / store.file
    if store.file.endswith(".parquet"):
        frame.to_parquet(path, row_group_size=500)
        return path, frame
    values = sparse.csr_matrix(y) if store.sparse else y
    cells = anndata.AnnData(values, pd.DataFrame({"depth": np.log1p(Y[:, 0])}, CELLS), frame.iloc[:0].T)
    stored(path, cells)
    return (anndata.read_h5ad(path, backed="r") if store.opened else path), cells


def with_entries(*entries: tuple[int, int, float]) -> np.ndarray:
    """The table with other entries."""
    y = Y.copy()
    for i, j, value in entries:
        y[i, j] = value
    return y


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


def test_text_in_a_parquet_file_is_told_of_by_name(tmp_path: Path, small: None) -> None:
    frame = pd.DataFrame(Y, CELLS, GENES).assign(gene2=lambda table: table["gene2"].astype(str))
    frame.loc["cell900", "gene2"] = "many"
    frame.to_parquet(tmp_path / "y.parquet")
    with pytest.raises(
        poplin.InputError, match="'many' at row 'cell900', column 'gene2', which is no number"
    ):
        as_counts(tmp_path / "y.parquet")


@pytest.mark.parametrize("row_names", [None, "leaf", "none", "other"])
@pytest.mark.parametrize("index", [True, False], ids=["index", "column"])
def test_a_column_of_row_names_is_no_count(
    index: bool, row_names: str | None, tmp_path: Path, small: None
) -> None:
    """As a small file is read: the same names, or the same words."""
    frame = pd.DataFrame(Y, CELLS, GENES).rename_axis("leaf")
    kept_so = frame if index else frame.reset_index(drop=row_names == "none")
    kept_so.to_parquet(tmp_path / "y.parquet")
    told: list[Any] = []
    for most in (0, N * P + N):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(held, "MOST_DENSE", most)
            try:
                table = poplin.data.readers.read_counts(tmp_path / "y.parquet", row_names=row_names)
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
    table = poplin.data.readers.read_counts(tmp_path / "y.h5ad", layer="counts")
    assert held.is_on_disk(table.values) and np.array_equal(held.dense_rows(table.values, slice(None)), Y)
    with pytest.raises(poplin.InputError, match="no layer 'raw'; it has 'counts'"):
        poplin.data.readers.read_counts(tmp_path / "y.h5ad", layer="raw")
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


FIT: dict[str, Any] = {"rank": 2, "max_iter": 12}


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
@pytest.mark.parametrize("name", QUICK)
def test_a_fit_is_that_of_the_table_in_memory(
    name: str, tmp_path: Path, small: None, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows in memory are dealt in runs, too, blocks hold the same ones, and the numbers are the same bits."""
    monkeypatch.setattr(streams, "is_on_disk", lambda y: True)
    fit = poplin.PLN(**FIT).fit(kept(tmp_path, name)[0])
    other = _in_memory()
    assert np.array_equal(fit.coef_, other.coef_) and np.array_equal(fit.covariance_, other.covariance_)
    assert max(asked) <= PIECE // P
    if name != "h5ad":
        return
    assert np.array_equal(fit.latent_mean_, other.latent_mean_) and fit.elbo_ == other.elbo_
    fit.seconds_ = other.seconds_
    assert fit.summary() == other.summary()
    assert np.array_equal(residuals(fit).value, residuals(other).value)
    assert np.array_equal(fit.standard_errors().coef, other.standard_errors().coef)
    assert np.array_equal(fit.transform(tmp_path / "y.h5ad"), other.transform(tmp_path / "y.h5ad"))
    assert max(asked) <= PIECE // P


@cache
def _in_memory() -> Any:
    names = pd.DataFrame(Y, CELLS, GENES).iloc[:, :0], pd.DataFrame(index=GENES)
    return poplin.PLN(**FIT).fit(anndata.AnnData(sparse.csr_matrix(Y), *names))


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
def test_a_fit_by_runs_ends_where_that_of_all_rows_does(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Both to half a tenth of complete-data standard errors, as in `test_streams.py`."""
    settings: dict[str, Any] = {"covariance": "diagonal", "tol": 0.05, "max_iter": 1500}
    whole = poplin.PLN(**settings).fit(Y)
    errors = whole.standard_errors()
    request.getfixturevalue("small")
    fit = poplin.PLN(**settings).fit(kept(tmp_path, "h5ad")[0])
    free = errors.covariance > 0
    apart = [
        ((fit.coef_ - whole.coef_) / errors.coef).ravel(),
        ((fit.covariance_ - whole.covariance_)[free] / errors.covariance[free]).ravel(),
    ]
    assert max(np.sqrt(np.mean(gap**2)) for gap in apart) < 0.2


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
def test_a_kept_fit_finds_its_counts_again(tmp_path: Path, small: None) -> None:
    """In the file where they were, or beside the fit; where they are gone, that is said when they are asked for."""
    (tmp_path / "there").mkdir()
    given, _ = kept(tmp_path / "there", "h5ad, opened")
    fit = poplin.tl.pln(given, rank=2, max_iter=5)
    assert given.obsm["X_poplin"].shape == (N, 2)
    given.file.close()  # the fit opens it again
    latent = fit.latent_mean_
    assert np.array_equal(given.obsm["X_poplin"], latent)
    fit.save(tmp_path / "fit.npz")
    assert np.array_equal(poplin.load(tmp_path / "fit.npz").latent_mean_, latent)
    files.write_h5ad(fit, tmp_path / "there" / "y.h5ad", tmp_path / "fitted.h5ad")
    written = anndata.read_h5ad(tmp_path / "fitted.h5ad")
    assert np.array_equal(written.X.toarray(), Y) and written.obsm["X_poplin"].shape == (N, 2)

    (tmp_path / "there" / "y.h5ad").rename(tmp_path / "y.h5ad")
    again = poplin.load(tmp_path / "fit.npz")
    assert np.array_equal(again.latent_mean_, latent)
    (tmp_path / "y.h5ad").unlink()
    gone = poplin.load(tmp_path / "fit.npz")
    assert np.array_equal(gone.coef_, fit.coef_)
    with pytest.raises(poplin.InputError, match="stay on disk, in .*y.h5ad"):
        gone.latent_mean_  # noqa: B018


@pytest.mark.parametrize("name", QUICK)
def test_a_checkpoint_knows_the_table_again(name: str, tmp_path: Path, small: None) -> None:
    settings = poplin.PLN().get_params()
    facts = []
    for folder, y in (("one", Y), ("two", Y), ("three", with_entries((5, 1, 77.0)))):
        (tmp_path / folder).mkdir()
        facts.append(checkpoints.facts(as_counts(kept(tmp_path / folder, name, y)[0]), settings))
    assert facts[0] == facts[1] != facts[2]


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
def test_a_fit_is_interrupted_and_broken_off_cleanly(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, _ = kept(tmp_path, "h5ad")

    def stop(told: Any) -> None:
        if told.phase == "sketch" and told.iteration == 3:
            raise KeyboardInterrupt

    assert poplin.PLN(**FIT, callback=stop).fit(given).interrupted_

    def cut(told: Any) -> None:
        if told.phase == "sketch":
            monkeypatch.setattr(backed.SparseRows, "read", _broken)

    with pytest.raises(poplin.InputError, match="cannot be read: .*y.h5ad. The disk is gone"):
        poplin.PLN(**FIT, callback=cut).fit(given)


def _broken(*_: Any) -> Any:
    raise OSError("The disk is gone.")


def test_the_command_takes_covariates_that_travel_with_a_large_table(tmp_path: Path, small: None) -> None:
    given, _ = kept(tmp_path, "h5ad")
    job = prepare(Inputs(given, formula="~ depth", colour="depth"), {}, tmp_path / "out")
    assert held.is_on_disk(job.table.values) and list(job.data.columns) == ["depth"]


def test_scratch_files_are_read_where_they_were_written() -> None:
    scratch = packed.Scratch(np.int32)
    for numbers in ([1, 2], [], [3, 4, 5]):
        scratch.append(np.array(numbers))
    assert scratch[1:4].tolist() == [2, 3, 4] and scratch[5:5].tolist() == [] and scratch[0:1].tolist() == [1]
