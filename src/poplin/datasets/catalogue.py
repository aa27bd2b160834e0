"""Which public tables there are: where each comes from, under which licence, what its content must be, how it is read.

Start at `fetch`; a new table is a new entry of `TABLES`. An entry is only made of a file whose content was looked at:
the checksum is that of the file, not of a page that mentions it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.tables import CountTable, listed
from poplin.datasets import download
from poplin.datasets.download import Remote, local

__all__ = ["describe", "fetch", "names"]


class Dataset(NamedTuple):
    """A public table: what it is, its shape, its files by name, how they are read, whose it is, on which terms."""

    title: str
    shape: tuple[int, int]
    files: Mapping[str, Remote]
    read: Callable[[Mapping[str, Path]], CountTable]
    source: str
    licence: str


_WHEEL = Remote(
    "https://files.pythonhosted.org/packages/40/81/789f98c5736403170d5c3efd8008f831007518bbe0dcfca4b90841c3f5cc/"
    "pyplnmodels-1.0.10-py3-none-any.whl",
    "613f577e1308f3ac3c39d175553e2457a92e1aa57d5ca58c8539685ccf0c9799",
    "pyplnmodels-1.0.10-py3-none-any.whl",
)
_IN_WHEEL = "as distributed in pyPLNmodels 1.0.10 on PyPI"
_DIGITS = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_GARMENTS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


def _pair(base: str, folder: str, part: str, images: str, labels: str) -> dict[str, Remote]:
    """Images and labels of one part of a set, by their checksums."""
    names = {"images": f"{part}-images-idx3-ubyte.gz", "labels": f"{part}-labels-idx1-ubyte.gz"}
    sums = {"images": images, "labels": labels}
    return {kind: Remote(base + name, sums[kind], f"{folder}/{name}") for kind, name in names.items()}


_MNIST = "LeCun, Cortes, Burges (1998), handwritten digits; the four original files"
_FASHION = "Xiao, Rasul, Vollgraf (2017), photographs of garments of ten classes"
TABLES: dict[str, Dataset] = {
    "oaks": Dataset(
        "bacteria and fungi on oak leaves, reads by taxon, with the tree's susceptibility to mildew",
        (116, 114),
        {"archive": _WHEEL},
        download.oaks,
        f"Jakuschkin et al. (2016), Microbial Ecology 72, 870-880, {_IN_WHEEL}",
        "MIT (of the package)",
    ),
    "microcosm": Dataset(
        "bacteria at four body sites of cows, reads by sequence variant, by site, time and lineage",
        (921, 1209),
        {"archive": _WHEEL},
        download.microcosm,
        f"Mariadassou et al. (2023), Animal Microbiome 5, doi 10.1186/s42523-023-00252-w, {_IN_WHEEL}",
        "MIT (of the package)",
    ),
    "crossover": Dataset(
        "crossovers in windows of the sheep genome, by breed and sex, with coverage",
        (2459, 4),
        {"archive": _WHEEL},
        download.crossover,
        f"Petit et al. (2017), Genetics 207, 767-784, {_IN_WHEEL}",
        "MIT (of the package)",
    ),
    "digits": Dataset(
        "handwritten digits, ink by pixel, for training",
        (60000, 784),
        _pair(
            _DIGITS,
            "mnist",
            "train",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        download.images,
        _MNIST,
        "none stated by the authors",
    ),
    "digits-test": Dataset(
        "handwritten digits, ink by pixel, for testing",
        (10000, 784),
        _pair(
            _DIGITS,
            "mnist",
            "t10k",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        download.images,
        _MNIST,
        "none stated by the authors",
    ),
    "garments": Dataset(
        "photographs of garments, brightness by pixel, for training",
        (60000, 784),
        _pair(
            _GARMENTS,
            "fashion-mnist",
            "train",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        download.images,
        _FASHION,
        "MIT",
    ),
    "garments-test": Dataset(
        "photographs of garments, brightness by pixel, for testing",
        (10000, 784),
        _pair(
            _GARMENTS,
            "fashion-mnist",
            "t10k",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        download.images,
        _FASHION,
        "MIT",
    ),
}


def names() -> tuple[str, ...]:
    """The names of the tables, for `fetch`.

    Returns:
        Names, in the order of the catalogue.

    >>> names()[:3]
    ('oaks', 'microcosm', 'crossover')
    """
    return tuple(TABLES)


def describe(name: str) -> str:
    """What a table is, where it comes from, under which licence, with the addresses and checksums of its files.

    Nothing is downloaded.

    Args:
        name: one of `names()`.

    Returns:
        Lines of text.

    Raises:
        InputError: a name that is not in `names()`.

    >>> print(describe("oaks").splitlines()[0])
    oaks: bacteria and fungi on oak leaves, reads by taxon, with the tree's susceptibility to mildew
    """
    found = _named(name)
    lines = [f"{name}: {found.title}", f"{found.shape[0]} rows by {found.shape[1]} columns"]
    lines += [f"Source: {found.source}", f"Licence: {found.licence}"]
    lines += [f"{remote.address} (SHA-256 {remote.sha256})" for remote in found.files.values()]
    return "\n".join(lines)


def fetch(name: str, *, folder: str | os.PathLike[str] | None = None) -> CountTable:
    """A public table by its name, ready for `fit`: counts with names, covariates and, where there is one, an offset.

    Its files are downloaded once, checked against the recorded SHA-256 and kept. Covariates travel with the counts, so
    that a formula finds them: `poplin.PLN(formula="~ tree").fit(poplin.datasets.fetch("oaks"))`.

    Args:
        name: one of `names()`.
        folder: where files are kept; None: that in the environment as POPLIN_DATASETS, else the user's folder for
            caches.

    Returns:
        A `CountTable`: values (n, p), row_names, column_names, covariates (a DataFrame), offset on the log scale.

    Raises:
        InputError: a name that is not in `names()`, no network, or a file that is not the recorded one.
    """
    found = _named(name)
    where = None if folder is None else Path(folder)
    return found.read({key: local(remote, where) for key, remote in found.files.items()})


def _named(name: str) -> Dataset:
    if name not in TABLES:
        near = difflib.get_close_matches(str(name), TABLES, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise InputError(f"There is no table {name!r}; there are {listed(TABLES, 12)}.{hint}")
    return TABLES[name]


# The table of the demonstration: scikit-learn's handwritten digits, which come with it and are real counts.
#
# Start at `digits`. Each of 1797 images is a row of 64 pixels; a pixel counts the inked points, 0 to 16, in its
# 4 x 4 block of the scan.


SEEN = 50  # images that must ink a pixel; fewer say next to nothing of its variance


def digits() -> tuple[CountTable, np.ndarray]:
    """The counts without the pixels that few images ink, and the digit that each image shows (for colour)."""
    from sklearn.datasets import load_digits

    counts, shown = (np.asarray(part) for part in load_digits(return_X_y=True))
    names = np.array([f"pixel_{j // 8 + 1}_{j % 8 + 1}" for j in range(counts.shape[1])])
    inked = (counts > 0).sum(axis=0) >= SEEN
    rows = tuple(f"image{i + 1}" for i in range(len(counts)))
    note = f"Left out, as fewer than {SEEN} images have ink there: {listed(names[~inked])}."
    return CountTable(counts[:, inked], rows, tuple(names[inked].tolist()), None, (note,)), shown
