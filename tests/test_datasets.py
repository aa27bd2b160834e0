"""Public tables: what is downloaded is checked and kept, and every way in which that fails is one clear error.

`Site` is a web server on this machine that counts what it is asked for. Real addresses are never asked; where the real
files are at hand, their checksums are held against the recorded ones.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import poplin
from poplin import InputError
from poplin.data.counts import as_counts
from poplin.datasets.catalogue import TABLES, Dataset
from poplin.datasets.download import Remote, local

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "datasets.md").read_text()
COUNTS = pd.DataFrame({"b_OTU_1": [3, 0, 5], "f_OTU_2": [1, 2, 0]})
TOTALS = pd.DataFrame({"f_OTU_2": [10, 20, 30], "b_OTU_1": [100, 200, 300]})
TREES = pd.DataFrame({"tree": ["resistant", "intermediate", "resistant"], "orientation": ["SW", "NE", "SW"]})


class Site:
    """Files on a local web server; `asked` lists the paths that were asked for, in order."""

    def __init__(self) -> None:
        site = self
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                content = site.files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing is said."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def put(self, name: str, content: bytes, place: str | None = None) -> Remote:
        """Offer a file; gives it as the catalogue would have it."""
        self.files[f"/{name}"] = content
        address = f"http://127.0.0.1:{self.server.server_port}/{name}"
        return Remote(address, hashlib.sha256(content).hexdigest(), place or name)

    def close(self) -> None:
        """No network any more."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site that is there for one test, reached without a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Site()
    yield made
    if made.thread.is_alive():
        made.close()


def archive(**members: str) -> bytes:
    """An archive with members where the package has them; names as oaks__counts."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        for name, text in members.items():
            folder, name = name.split("__")
            file.writestr(f"pyPLNmodels/load_data/data/{folder}/{name}", text)
    return held.getvalue()


def offered(monkeypatch: pytest.MonkeyPatch, name: str, **files: Remote) -> None:
    """Let the catalogue's table come from these files."""
    monkeypatch.setitem(TABLES, name, TABLES[name]._replace(files=files))


def leaves(site: Site, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """A small table of leaves under the name of the real one."""
    parts = {"counts.csv": COUNTS, "offsets.csv": TOTALS, "covariates.csv": TREES}
    held = archive(**{f"oaks__{name}": frame.to_csv(index=False) for name, frame in parts.items()})
    remote = site.put("leaves.whl", held)
    offered(monkeypatch, "oaks", archive=remote)
    return remote


@pytest.mark.parametrize("name", TABLES)
def test_an_entry_says_whose_the_table_is_and_what_it_must_contain(name: str) -> None:
    entry: Dataset = TABLES[name]
    told = poplin.datasets.describe(name)
    assert entry.source in told and entry.licence in told and f"`{name}`" in PAGE and entry.licence in PAGE
    for remote in entry.files.values():
        assert remote.address.startswith("http") and remote.address.endswith(Path(remote.place).name)
        assert len(remote.sha256) == 64 and int(remote.sha256, 16) and remote.sha256 in told
    places = {remote.place: remote for other in TABLES.values() for remote in other.files.values()}
    assert all(places[remote.place] == remote for remote in entry.files.values()), "two files in one place"


@pytest.mark.parametrize("name", [name for name in TABLES if "images" in TABLES[name].files])
def test_recorded_checksums_are_those_of_the_files(name: str, shared_data: Path) -> None:
    """With the real files in its folder, `fetch` needs no network; the rows are those that the catalogue says."""
    table = poplin.datasets.fetch(name, folder=shared_data)
    assert table.values.shape == TABLES[name].shape and len(table.covariates) == len(table.values)
    assert table.values.max() == 255 and set(table.covariates["label"]) == set(range(10))


def test_what_is_downloaded_is_kept_and_read(site: Site, tmp_path: Path, monkeypatch: Any) -> None:
    leaves(site, monkeypatch)
    monkeypatch.setenv("POPLIN_DATASETS", str(tmp_path))
    table = poplin.datasets.fetch("oaks")
    counts = as_counts(table, formula="~ tree")
    assert np.array_equal(counts.y, COUNTS) and counts.column_names == tuple(COUNTS.columns)
    assert np.array_equal(counts.offset, np.log(TOTALS[COUNTS.columns]))
    assert counts.covariate_names == ("Intercept", "tree[T.resistant]")
    assert site.asked == ["/leaves.whl"] and [path.name for path in tmp_path.iterdir()] == ["leaves.whl"]
    site.close()
    assert np.array_equal(poplin.datasets.fetch("oaks").values, COUNTS)
    assert site.asked == ["/leaves.whl"]


def test_another_content_is_refused_and_not_kept(site: Site, tmp_path: Path, monkeypatch: Any) -> None:
    remote = leaves(site, monkeypatch)
    site.files["/leaves.whl"] += b"more"
    with pytest.raises(InputError) as caught:
        poplin.datasets.fetch("oaks", folder=tmp_path)
    words = ("is not the file that is recorded", remote.address, remote.sha256, "Try again", str(tmp_path))
    assert all(word in str(caught.value) for word in words), caught.value
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_downloaded_again(site: Site, tmp_path: Path, monkeypatch: Any) -> None:
    remote = leaves(site, monkeypatch)
    (tmp_path / remote.place).write_bytes(b"half of it")
    assert np.array_equal(poplin.datasets.fetch("oaks", folder=tmp_path).values, COUNTS)
    assert site.asked == ["/leaves.whl"]


def test_without_a_network_it_is_said_where_the_file_would_go(site: Site, tmp_path: Path) -> None:
    remote = site.put("a.csv", b"1", "folder/a.csv")
    site.close()
    with pytest.raises(InputError) as caught:
        local(remote, tmp_path)
    words = ("could not be downloaded from", remote.address, "connection", str(tmp_path / "folder" / "a.csv"))
    assert all(word in str(caught.value) for word in words), caught.value
    (tmp_path / "folder").mkdir(exist_ok=True)
    (tmp_path / "folder" / "a.csv").write_bytes(b"1")  # brought by other means
    assert local(remote, tmp_path).read_bytes() == b"1"


def test_a_file_that_is_gone_is_said(site: Site, tmp_path: Path) -> None:
    remote = site.put("a.csv", b"1")
    site.files.clear()
    with pytest.raises(InputError, match="could not be downloaded.*404"):
        local(remote, tmp_path)


def test_a_folder_that_cannot_be_is_said(site: Site, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match="cannot be kept in .*taken.*POPLIN_DATASETS"):
        local(site.put("a.csv", b"1"), tmp_path / "taken")


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(InputError, match="There is no table 'oak'; there are 'oaks'.*Did you mean 'oaks'"):
        poplin.datasets.fetch("oak")


def test_counts_without_coverage_are_missing(site: Site, tmp_path: Path, monkeypatch: Any) -> None:
    text = "id,chrom,wstart,wstop,nco_A,nco_B,coverage_A,coverage_B\n1,1,0,9,4,0,2.5,0\n2,1,9,18,1,7,1,10\n"
    offered(
        monkeypatch,
        "crossover",
        archive=site.put("c.whl", archive(**{"crossover__crossover_wide.csv": text})),
    )
    table = poplin.datasets.fetch("crossover", folder=tmp_path)
    assert np.array_equal(table.values, [[4, np.nan], [1, 7]], equal_nan=True)
    assert np.allclose(table.offset, np.log([[2.5, 1], [1, 10]])) and table.column_names == ("A", "B")
    assert table.row_names == ("chromosome1:0", "chromosome1:9") and table.notes[0].startswith("1 counts")


def test_samples_are_matched_by_name(site: Site, tmp_path: Path, monkeypatch: Any) -> None:
    texts = {"counts.tsv": "Sample\tv1\nb\t4\na\t5\n", "metadata.tsv": "Sample\tsite\na\tM\nb\tN\n"}
    held = archive(**{f"microcosm__{name}": text for name, text in texts.items()})
    offered(monkeypatch, "microcosm", archive=site.put("m.whl", held))
    table = poplin.datasets.fetch("microcosm", folder=tmp_path)
    assert table.row_names == ("b", "a") and list(table.covariates["site"]) == ["N", "M"]


def idx(kind: int, values: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes, packed."""
    return gzip.compress(np.array([kind, *values.shape], ">i4").tobytes() + values.astype(np.uint8).tobytes())


IDX = {
    "images without labels": (2051, 2, "has 3 images, and there are 2 labels"),
    "labels in the place of images": (2049, 3, "begins with 2049"),
}


@pytest.mark.parametrize("kind", IDX)
def test_images_are_rows_of_ink(kind: str, site: Site, tmp_path: Path, monkeypatch: Any) -> None:
    ink = np.arange(12).reshape(3, 2, 2)
    images, labels = site.put("i.gz", idx(2051, ink)), site.put("l.gz", idx(2049, np.array([7, 7, 1])))
    offered(monkeypatch, "digits", images=images, labels=labels)
    table = poplin.datasets.fetch("digits", folder=tmp_path)
    assert np.array_equal(table.values, ink.reshape(3, 4)) and list(table.covariates["label"]) == [7, 7, 1]
    assert table.column_names == ("1,1", "1,2", "2,1", "2,2")
    first, many, words = IDX[kind]
    wrong = {
        "images": site.put("j.gz", idx(first, ink)),
        "labels": site.put("m.gz", idx(2049, np.ones(many))),
    }
    offered(monkeypatch, "digits", **wrong)
    with pytest.raises(InputError, match=words):
        poplin.datasets.fetch("digits", folder=tmp_path)
