"""Files of other programs: BIOM, Cell Ranger, Excel, R and QIIME give the same table; damaged, one clear error.

`FOREIGN` in `foreign.py` writes one table in each; `ASKED` are files that hold too much, or something else.
"""

from __future__ import annotations

import datetime
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as some
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from poplin._errors import DataWarning, InputError
from poplin.data import formats, framed
from poplin.data.counts import as_counts
from poplin.data.framed import turned
from poplin.data.readers import read_counts, read_table
from tests.bad_inputs import LEAVES, TAXA, good_counts, good_covariates
from tests.foreign import (
    FOREIGN,
    R,
    biom_hdf5,
    biom_json,
    columns_of,
    rda,
    rds,
    rows_of,
    tenx,
    tenx_folder,
    workbook,
)

COUNTS = good_counts()
MANY = len(LEAVES)


@pytest.mark.parametrize(("name", "write"), FOREIGN.values(), ids=FOREIGN)
def test_every_format_gives_the_same_counts(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name, COUNTS)
    counts = as_counts(tmp_path / name)
    assert np.array_equal(counts.y, COUNTS)
    assert counts.row_names == LEAVES and counts.column_names == TAXA


TURNED = (
    "biom, JSON",
    "biom, HDF5",
    "Cell Ranger 3",
    "Cell Ranger 2",
    "Cell Ranger's folder",
    "QIIME",
    "featureCounts",
)


@pytest.mark.parametrize("name", TURNED)
def test_what_says_how_it_lies_is_turned_once(tmp_path: Path, name: str) -> None:
    file, write = FOREIGN[name]
    write(tmp_path / file, COUNTS)
    found = read_counts(tmp_path / file)
    again = turned(found)
    assert again.row_names == LEAVES and "was turned" in found.notes[0]


# what a table of covariates is to be, and how each program writes it
PLAIN = pd.DataFrame(
    {
        "tree": ["elm", "oak"] * (MANY // 2),
        "height": np.arange(MANY) + 0.5,
        "burned": [True, False] * (MANY // 2),
    },
    index=list(LEAVES),
)
COVARIATES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "biom, JSON": (
        "x.biom",
        lambda path: biom_json(path, COUNTS, about=PLAIN.astype({"height": str}).to_dict("records")),
    ),
    "biom, HDF5": (
        "x.biom",
        lambda path: biom_hdf5(path, COUNTS, {name: list(PLAIN[name]) for name in PLAIN.columns}),
    ),
    "xlsx": ("x.xlsx", lambda path: workbook(path, leaves=rows_of(PLAIN))),
    "rds": (
        "x.rds",
        lambda path: rds(
            path,
            R.frame(
                {
                    "tree": R.text(list(PLAIN["tree"])),
                    "height": R.real(list(PLAIN["height"])),
                    "burned": R.whole(list(PLAIN["burned"]), logical=True),
                },
                list(LEAVES),
            ),
        ),
    ),
}


@pytest.mark.parametrize(("name", "write"), COVARIATES.values(), ids=COVARIATES)
def test_covariates_are_the_same_in_every_format(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name)
    pd.testing.assert_frame_equal(read_table(tmp_path / name)[list(PLAIN)], PLAIN)


def test_covariates_of_a_biom_table_serve_the_formula(tmp_path: Path) -> None:
    biom_json(tmp_path / "y.biom", COUNTS, about=PLAIN[["tree"]].to_dict("records"))
    counts = as_counts(tmp_path / "y.biom", formula="~ tree")
    assert counts.x[:, 1].tolist() == [0.0, 1.0] * (MANY // 2)


def test_a_factor_of_r_keeps_its_levels_and_a_day_is_text(tmp_path: Path) -> None:
    site = R.whole([2, 1, None], ("levels", R.text(["x", "w"])), ("class", R.text(["factor"])), is_class=True)
    day = R.real([19723, None, 19725], ("class", R.text(["Date"])), is_class=True)
    second = R.real([0, 86400, 90061], ("class", R.text(["POSIXct", "POSIXt"])), is_class=True)
    rds(tmp_path / "x.rds", R.frame({"site": site, "day": day, "second": second}, ["a", "b", "c"]))
    found = read_table(tmp_path / "x.rds")
    assert list(found["site"].cat.categories) == ["x", "w"] and found["site"].tolist()[:2] == ["w", "x"]
    assert found["day"].tolist() == ["2024-01-01", None, "2024-01-03"]
    assert found["second"].tolist() == ["1970-01-01T00:00:00", "1970-01-02T00:00:00", "1970-01-02T01:01:01"]


def test_numbers_of_rows_are_names_where_rows_were_left_out(tmp_path: Path) -> None:
    columns = {"a": R.whole([1, 2, 3]), "b": R.whole([4, 4, 4])}
    lines = R.frame(columns, 3)
    rds(tmp_path / "all.rds", lines)
    assert read_counts(tmp_path / "all.rds", row_names="none").row_names is None
    held = tuple("\n".join(lines).replace("13\n2\nNA\n-3", "13\n3\n2\n5\n9").split("\n"))
    assert held != lines
    rds(tmp_path / "some.rds", held)
    assert read_counts(tmp_path / "some.rds").row_names == ("2", "5", "9")


def test_tables_written_by_r_itself_are_read(tmp_path: Path) -> None:
    """Those that the library rdata brings for its own tests, in each of R's encodings."""
    import rdata

    folder = Path(str(rdata.TESTDATA_PATH)) / "generated"
    files = sorted(folder.glob("test_named_matrix__*")) + sorted(folder.glob("test_dataframe_rownames__*"))
    if not files:
        pytest.skip("this version of rdata brings no files of R")
    for file in files:
        frame = read_table(file)
        if "matrix" in file.name:
            assert frame.to_numpy().tolist() == [[1, 2, 3], [4, 5, 6]] and list(frame.index) == [
                "dim0_0",
                "dim0_1",
            ]
        else:
            assert list(frame.index) == ["Madrid", "Frankfurt", "Herzberg am Harz"] and frame[
                "value"
            ].tolist() == [1, 2, 3]


def test_a_sheet_is_read_as_the_csv_it_would_be_saved_as(tmp_path: Path) -> None:
    rows = [
        ["id", "n", "when", "word", "gap", "nothing"],
        ["007", 3.0, datetime.datetime(2024, 3, 31), "NA", "#N/A", None],
        ["b", 0.1 + 0.2, datetime.datetime(2024, 3, 31, 12), "x", 7, None],
        [None] * 6,
        ["c", -2, datetime.date(2024, 4, 1), "y, z", 8, None],
        [None] * 6,
    ]
    workbook(tmp_path / "x.xlsx", one=rows, empty=[])
    found = read_table(tmp_path / "x.xlsx")
    (tmp_path / "x.csv").write_text(
        "id,n,when,word,gap,nothing\n007,3,2024-03-31,NA,,\nb,0.30000000000000004,2024-03-31 12:00:00,x,7,\n"
        'c,-2,2024-04-01,"y, z",8,\n'
    )
    pd.testing.assert_frame_equal(found, read_table(tmp_path / "x.csv"))
    assert list(found.index) == ["007", "b", "c"]


class Asked:
    """A file that holds too much, or something else, and the words of the message; `mended` is what it offers."""

    def __init__(self, name: str, write: Callable[[Path], Any], *words: str, mended: str = "") -> None:
        self.name, self.write, self.words, self.mended = name, write, words, mended


def two_books(path: Path) -> None:
    workbook(path, counts=rows_of(COUNTS), leaves=rows_of(good_covariates()))


def merged(path: Path) -> None:
    two = rows_of(COUNTS)
    workbook(path, counts=[["Table S1. Counts of leaves"], *two])


def formula(path: Path) -> None:
    rows = rows_of(COUNTS)
    rows[2][1] = "=1+1"
    workbook(path, counts=rows)


def bomb(path: Path) -> None:
    """A member that declares three GiB, in the archive's list of contents."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<a/>")
    held = path.read_bytes()
    place = held.index(b"PK\x01\x02") + 24
    path.write_bytes(held[:place] + struct.pack("<L", 3 << 30) + held[place + 4 :])


def far_row(path: Path) -> None:
    workbook(path, a=[["x"], [1]])
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    sheet = "xl/worksheets/sheet1.xml"
    members[sheet] = members[sheet].replace(b'r="2"', b'r="2000000"').replace(b'r="A2"', b'r="A2000000"')
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_a_sheet_has_no_more_rows_than_a_sheet_of_excel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may number its rows as it likes, and each in between would be looked at."""
    monkeypatch.setattr(framed, "_ROWS", 1000)
    far_row(tmp_path / "y.xlsx")
    with pytest.raises(InputError, match="y.xlsx is damaged: it numbers more than 1000 rows"):
        read_counts(tmp_path / "y.xlsx")


def two_genomes(path: Path) -> None:
    tenx(path, COUNTS, group="GRCh38")
    tenx(path, COUNTS, group="mm10")


def leads_out(path: Path) -> None:
    tenx(path, COUNTS)
    with h5py.File(path, "a") as root:
        del root["matrix/data"]
        root["matrix/data"] = h5py.ExternalLink("other.h5", "/data")


def only_declared(path: Path) -> None:
    with h5py.File(path, "w") as root:
        for part, length in (("data", 10**11), ("indices", 10**11), ("indptr", 7)):
            root.create_dataset(f"sample/matrix/{part}", (length,), "f8", chunks=(7,))
        root["sample/ids"] = [b"a"] * 6
        root["observation/ids"] = [b"x", b"y"]


def other_types(path: Path) -> None:
    tenx(path, COUNTS, ["Antibody Capture", *["CRISPR Guide Capture"] * (len(TAXA) - 1)])


def wrong_shape(path: Path) -> None:
    biom_json(path, COUNTS)
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"shape": [10**9, 10**9]}))


def outside(path: Path) -> None:
    biom_json(path, COUNTS)
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"data": [[99, 0, 1]]}))


def nothing_of_r(path: Path) -> None:
    rds(path, R.real([1, 2]))


def short_names(path: Path) -> None:
    names = R.items([R.text(list(LEAVES[:5])), R.NULL])
    cells = COUNTS.to_numpy().T.ravel().tolist()
    rds(path, R.whole(cells, ("dim", R.whole(COUNTS.shape)), ("dimnames", names)))


def seurat(path: Path) -> None:
    rds(path, R.s4(("class", R.text(["Seurat"]))))


def huge_sequence(path: Path) -> None:
    rds(
        path,
        (
            "238",
            "2",
            "1",
            "262153",
            "14",
            "compact_intseq",
            "2",
            "1",
            "262153",
            "4",
            "base",
            "2",
            "13",
            "1",
            "13",
            "254",
            "14",
            "3",
            "2000000000",
            "1",
            "1",
            "254",
        ),
    )


ASKED = [
    Asked("y.xlsx", two_books, "y.xlsx", "'counts'", "'leaves'", "y.xlsx:counts", mended="y.xlsx:counts"),
    Asked("y.xlsx:c", lambda path: two_books(path.with_name("y.xlsx")), "no sheet 'c'", "'leaves'"),
    Asked("y.xlsx", merged, "y.xlsx", "above column B", "merged"),
    Asked("y.xlsx", formula, "counts!B3", "=1+1", "save it again"),
    Asked("y.xlsx", lambda path: workbook(path, a=[]), "no cells"),
    Asked("y.xlsx", lambda path: path.write_bytes(b"PK no archive"), "y.xlsx", "save it as .xlsx"),
    Asked("y.xlsx", bomb, "y.xlsx", "3.0 GiB", ".csv"),
    Asked("y.xls", lambda path: path.write_bytes(b"\xd0\xcf"), "y.xls", "save it as .xlsx or .csv"),
    Asked("y.ods", lambda path: path.write_bytes(b"PK"), "y.ods", "save it as .xlsx or .csv"),
    Asked("y.qza", lambda path: path.write_bytes(b"PK"), "qiime tools export --input-path y.qza"),
    Asked(
        "y.csv:a",
        lambda path: COUNTS.to_csv(path.with_name("y.csv")),
        "y.csv holds one table",
        "':a'",
        mended="y.csv",
    ),
    Asked("y.h5", two_genomes, "'GRCh38'", "'mm10'", "y.h5:GRCh38", mended="y.h5:GRCh38"),
    Asked("y.h5", other_types, "'Antibody Capture'", "'y.h5:Antibody Capture'"),
    Asked("y.h5", leads_out, "y.h5", "link to somewhere else"),
    Asked("y.h5", lambda path: h5py.File(path, "w").close(), "y.h5", "'matrix'"),
    Asked("y.biom", only_declared, "y.biom", "again"),
    Asked("y.biom", wrong_shape, "y.biom", "1000000000"),
    Asked("y.biom", outside, "y.biom"),
    Asked("y.biom", lambda path: path.write_text("{}"), "y.biom", "no BIOM table", "'rows'"),
    Asked("y.biom", lambda path: path.write_text("[" * 100_000), "y.biom"),
    Asked(
        "y.rda",
        lambda path: rda(path, x=R.real([1.5]), y=R.matrix(COUNTS)),
        "'x', 'y'",
        "y.rda:x",
        mended="y.rda:y",
    ),
    Asked("y.rda:z", lambda path: rda(path.with_name("y.rda"), y=R.matrix(COUNTS)), "no object 'z'", "'y'"),
    Asked("y.rds", nothing_of_r, "y.rds is no data frame and no matrix", "write.csv"),
    Asked("y.rds", short_names, "y.rds is damaged: a matrix of", "5 names on a side"),
    Asked("y.rds", seurat, "y.rds", "but a Seurat", "write.csv"),
    Asked("y.rds", huge_sequence, "y.rds", "sequence of 2e+09"),
    Asked(
        "y.rds",
        lambda path: rds(path, R.frame({"a": R.whole([1, 2]), "b": R.whole([1])}, ["r", "s"])),
        "y.rds",
        "not alike",
    ),
    Asked(
        "y.rds",
        lambda path: rds(path, R.frame({"a": R.whole([1, 2])}, ["r", "s", "t"])),
        "2 rows and 3 names",
    ),
    Asked("y.rds", lambda path: path.write_bytes(b"no file of R"), "y.rds"),
    Asked(
        "outs",
        lambda path: (path.mkdir(), tenx_folder(path / "filtered", COUNTS)),
        "outs/filtered",
        mended="outs/filtered",
    ),
]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: f"{asked.name}: {asked.words[-1]}")
def test_a_file_that_cannot_be_read_asks(tmp_path: Path, asked: Asked) -> None:
    asked.write(tmp_path / asked.name)
    with pytest.raises(InputError) as caught:
        read_counts(tmp_path / asked.name)
    message = str(caught.value)
    assert all(word in message for word in asked.words), message
    assert message.endswith(".") and len(message) < 600 and "\n" not in message
    if asked.mended:
        np.testing.assert_array_equal(read_counts(tmp_path / asked.mended).values, COUNTS)


def test_columns_of_one_name_in_r_stay_two(tmp_path: Path) -> None:
    rds(tmp_path / "y.rds", R.frame([("a", R.whole([1, 2])), ("a", R.whole([3, 4]))], ["r", "s"]))
    with pytest.raises(InputError, match="Duplicated column names: 'a'"):
        as_counts(tmp_path / "y.rds")


def test_taxa_of_phyloseq_are_turned(tmp_path: Path) -> None:
    names = R.items([R.text(list(TAXA)), R.text(list(LEAVES))])
    cells = COUNTS.to_numpy().ravel().tolist()  # taxa first, as R counts down columns of taxa by leaves
    slots = (
        ("dim", R.whole(COUNTS.T.shape)),
        ("dimnames", names),
        ("taxa_are_rows", R.whole([1], logical=True)),
    )
    rds(tmp_path / "y.rds", R.whole(cells, *slots, ("class", R.text(["otu_table"])), is_class=True))
    found = read_counts(tmp_path / "y.rds")
    assert np.array_equal(found.values, COUNTS) and found.row_names == LEAVES


@pytest.mark.parametrize(("name", "write"), [("y.h5", tenx), ("folder", tenx_folder)])
def test_features_of_one_type_are_counted(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name, COUNTS, ["Antibody Capture", *["Gene Expression"] * (len(TAXA) - 1)])
    genes, antibodies = read_counts(tmp_path / name), read_counts(tmp_path / f"{name}:Antibody Capture")
    assert genes.column_names == TAXA[1:] and antibodies.column_names == TAXA[:1]
    np.testing.assert_array_equal(genes.values, COUNTS.iloc[:, 1:])
    np.testing.assert_array_equal(antibodies.values, COUNTS.iloc[:, :1])
    assert any("Antibody Capture" in note for note in genes.notes)


def test_another_third_column_is_no_type(tmp_path: Path) -> None:
    tenx_folder(tmp_path / "folder", COUNTS, [f"chr{j}" for j in range(len(TAXA))])
    assert read_counts(tmp_path / "folder").column_names == TAXA


def test_without_rdata_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rds(tmp_path / "y.rds", R.matrix(COUNTS))
    monkeypatch.setitem(__import__("sys").modules, "rdata", None)
    with pytest.raises(
        InputError, match=r"y.rds, a file of R, needs the library rdata.*pip install 'poplin\[formats\]'"
    ):
        read_counts(tmp_path / "y.rds")


def test_an_r_file_is_unpacked_no_further_than_anybodys_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_LARGEST_R", 100)
    rds(tmp_path / "y.rds", R.matrix(COUNTS))
    with pytest.raises(InputError, match="unpacks to more than"):
        read_counts(tmp_path / "y.rds")


def test_rows_may_be_named_by_a_column_behind_what_describes_them(tmp_path: Path) -> None:
    frame = COUNTS.T.assign(taxonomy="k__A; p__B", number=[f"00{j}" for j in range(len(TAXA))])
    frame.to_csv(tmp_path / "y.tsv", sep="\t", index_label="#OTU ID")
    with pytest.raises(InputError, match="'#OTU ID'"):  # which is then a sample, of text
        read_counts(tmp_path / "y.tsv", row_names="number")
    frame.to_csv(tmp_path / "y.tsv", sep="\t", index=False)
    assert read_counts(tmp_path / "y.tsv", row_names="number").column_names == tuple(
        f"00{j}" for j in range(len(TAXA))
    )


def test_rows_headed_as_taxa_are_told(tmp_path: Path) -> None:
    COUNTS.to_csv(tmp_path / "y.csv", index_label="OTU_ID")
    with pytest.warns(DataWarning, match="named by 'OTU_ID'.*--transpose"):
        as_counts(tmp_path / "y.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_counts(turned(read_counts(tmp_path / "y.csv")))


HEADS = {
    "comment": ("# made by LIMS\n#OTU ID\ta\tb\n", ["x", "1", "2"], ("a", "b")),
    "directive": ("id\tdepth\tn\n#q2:types\tnumeric\tnumeric\n", ["x", "1", "2"], ("depth", "n")),
    "a comment of as many fields": ("# of 2021\tby us\tall\nid\ta\tb\n", ["x", "1", "2"], ("a", "b")),
    "empty fields": ("# of 2021\t\t\nid\ta\tb\n", ["x", "1", "2"], ("a", "b")),
}


@pytest.mark.parametrize(("head", "row", "names"), HEADS.values(), ids=HEADS)
def test_comments_are_no_header(tmp_path: Path, head: str, row: list[str], names: tuple[str, ...]) -> None:
    (tmp_path / "x.tsv").write_text(head + "\t".join(row) + "\n")
    found = read_table(tmp_path / "x.tsv")
    assert (
        tuple(found.columns) == names and list(found.index) == ["x"] and found.to_numpy().tolist() == [[1, 2]]
    )


def test_a_line_is_numbered_as_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "y.csv").write_text("# one\n\n# two\nid,a,b\nx,1,2\ny,1\n")
    with pytest.raises(InputError, match="line 6 has 2 fields"):
        read_counts(tmp_path / "y.csv")


@pytest.mark.parametrize(("name", "write"), [("y.biom", biom_hdf5), ("y.h5", tenx)])
def test_a_heap_without_an_end_is_refused(tmp_path: Path, name: str, write: Any) -> None:
    """HDF5 would go round in it for ever."""
    write(tmp_path / name, COUNTS)
    held = bytearray((tmp_path / name).read_bytes())
    start = held.index(b"GCOL")
    place, last = start + 16, start + struct.unpack_from("<Q", held, start + 8)[0]
    while struct.unpack_from("<H", held, place)[0]:  # to the free space behind the texts
        place += 16 + -(-struct.unpack_from("<Q", held, place + 8)[0] // 8) * 8
    assert place < last
    held[place + 8 : place + 16] = bytes(8)
    (tmp_path / name).write_bytes(held)
    with pytest.raises(InputError, match=f"{name} is damaged: a part of it that holds text has no end"):
        read_counts(tmp_path / name)


BYTES = {
    name: FOREIGN[name]
    for name in ("biom, JSON", "biom, HDF5", "Cell Ranger 3", "xlsx", "rds, matrix", "rds, sparse")
}
KEPT: dict[str, bytes] = {}


@pytest.mark.parametrize("name", BYTES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=some.lists(some.tuples(some.floats(0, 1), some.integers(0, 255)), max_size=4),
    end=some.floats(0.2, 1.5),
)
def test_damaged_bytes_are_refused_or_read(tmp_path: Path, name: str, places: Any, end: float) -> None:
    file, write = BYTES[name]
    path = tmp_path / file
    if name not in KEPT:
        write(path, COUNTS)
        KEPT[name] = path.read_bytes()
    held = bytearray(KEPT[name])
    for where, byte in places:
        held[int(where * (len(held) - 1))] = byte
    path.unlink(missing_ok=True)
    path.write_bytes(held[: int(end * len(held))])
    try:
        found = read_counts(path)
    except InputError as error:
        assert file in str(error)
        return
    assert found.values.ndim == 2


@pytest.mark.parametrize("kind", ["biom, JSON", "rds, matrix"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=some.data())
def test_text_that_is_changed_is_refused_or_read(tmp_path: Path, kind: str, data: Any) -> None:
    """The same within what is packed: words of JSON and of R's text exchanged."""
    if kind == "biom, JSON":
        biom_json(tmp_path / "y.biom", COUNTS)
        words = (tmp_path / "y.biom").read_text().replace(",", " , ").replace(":", " : ").split(" ")
    else:
        words = list(R.frame(columns_of(COUNTS), list(COUNTS.index)))
    for _ in range(data.draw(some.integers(1, 3))):
        place = data.draw(some.integers(0, len(words) - 1))
        words[place] = data.draw(
            some.sampled_from([*words[:40], "null", "-1", "99999", "1e400", "13", "254", "2"])
        )
    path = tmp_path / ("y.biom" if kind == "biom, JSON" else "y.rds")
    if kind == "biom, JSON":
        path.write_text(" ".join(words))
    else:
        rds(path, tuple(words))
    try:
        found = read_counts(path)
    except InputError as error:
        assert "y." in str(error) or "Y " in str(error) or "row" in str(error)
        return
    assert found.values.ndim == 2
