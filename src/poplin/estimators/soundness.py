"""What is asked of the numbers in a file before a fit is made of them: finite, of sizes that go together, no giants.

Start at `check_fit` (a `PLN`) and `check_model` (the models with networks). A file whose bytes are whole may still have
been edited; estimates that are no numbers would be told of nowhere but in predictions.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from poplin._errors import InputError, said
from poplin.data.checks import MOST_COVARIATE, check_basis, check_counts, check_covariance, check_weights
from poplin.data.held import is_held_sparse, is_on_disk
from poplin.data.tables import sparse_numbers

MOST = 1e20  # of a weight in a network
MOST_LOG_RATE = 700.0  # above it, the rate of a Poisson law is no float64
MOST_DEVIATION = 1e4  # on the log scale
NETWORKS = ("model_", "encoder_", "attribute_")
ROWS = 1000  # whose rates are looked at
FREE = ("trace_", "extra_", "history_", "held_out", "counts_y")  # where NaN is an answer, or a missing count


@contextlib.contextmanager
def sound(path: Any) -> Iterator[None]:
    """What is refused inside, or cannot be made of what the file holds, is told of as of the file at `path`.

    Whatever is raised is of the file: numbers and words in it may be of any kind, and of another version of poplin.
    """
    try:
        yield
    except Exception as error:
        why = str(error).rstrip(".") if isinstance(error, InputError) else said(error)
        raise InputError(
            f"{path} is damaged or was changed: {why}. Restore it from a copy, or fit again."
        ) from error


def check_fit(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], y: Any) -> None:
    """Raises `InputError` where the arrays of a `PLN` are not what a fit can have left; `y` are its counts.

    Looks at the rates of the first rows; O(n p) for counts that are in the file.
    """
    _check_sizes(arrays, meta, y.shape)
    check_model(arrays)
    if not is_on_disk(y):
        entries = sparse_numbers(y, "Y") if is_held_sparse(y) else y
        check_counts(entries, meta["row_names"], meta["column_names"])
    used = check_weights(arrays["counts_weights"], meta["row_names"]) > 0
    with np.errstate(over="ignore", invalid="ignore"):  # of what is refused
        rates = arrays["counts_x"][used][:ROWS] @ arrays["coef"]
    most = {"loadings": MOST_DEVIATION, "counts_offset": MOST_LOG_RATE}
    most |= {"rows_mean": MOST_DEVIATION, "rows_variance": MOST_DEVIATION**2}
    _check_most("coef", rates, MOST_LOG_RATE, shown=arrays["coef"])
    for name in most.keys() & arrays.keys():
        _check_most(name, arrays[name], most[name], shown=arrays[name])
    if (arrays.get("rows_variance", np.ones(1)) < 0).any():
        raise InputError("'rows_variance' holds a negative variance.")
    if "setting_covariance" in arrays:
        check_covariance(arrays["setting_covariance"], y.shape[1])
    if "setting_basis" in arrays:
        check_basis(arrays["setting_basis"], y.shape[1])
    for name in ("weight", "shrinkage", "seconds"):
        if not 0 <= float(meta.get(name, 0)) < MOST:
            raise InputError(f"'{name}' is {meta[name]!r}; a number from 0 is wanted.")


def _check_sizes(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Raises `InputError` for arrays and lists of names that do not belong to counts of this size."""
    (n, p), d = size, len(meta["covariate_names"])
    loadings = arrays["loadings"].shape
    wanted = {"counts_x": (n, d), "coef": (d, p), "counts_weights": (n,), "loadings": (p, *loadings[1:2])}
    wanted |= {"row_names": (n,), "column_names": (p,)}
    wanted |= {name: (n,) for name in arrays if name.startswith("counts_group")}
    latent = p if meta["direct"] else loadings[-1]
    wanted |= {name: (n, latent) for name in ("rows_mean", "rows_variance") if name in arrays}
    for name, shape in wanted.items():
        found = arrays[name].shape if name in arrays else (len(meta[name]),)
        if found != shape:
            raise InputError(f"'{name}' has the shape {found}, where {shape} belongs to counts of {n} x {p}.")
    offset = arrays["counts_offset"].shape
    if np.broadcast_shapes(offset, (n, p)) != (n, p):
        raise InputError(f"'counts_offset' has the shape {offset}, and the counts are {n} x {p}.")


def _check_most(name: str, numbers: np.ndarray, most: float, *, shown: np.ndarray) -> None:
    if not (numbers < most).all():
        raise InputError(
            f"'{name}' holds {np.abs(shown).max():.3g}, with which expected counts are no numbers."
        )


def check_model(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises `InputError` for an array that holds anything but finite numbers, or giants; see `FREE` for exceptions."""
    for name, array in arrays.items():
        if array.dtype.kind == "U" and name.startswith(FREE):  # the name of a phase
            continue
        if array.dtype.kind not in "biuf":
            raise InputError(f"'{name}' holds values of type {array.dtype}; a fit leaves numbers.")
        most = MOST if name.startswith(NETWORKS) else MOST_COVARIATE
        with np.errstate(invalid="ignore"):
            size = np.abs(array)
            bad = (size >= most) & np.isfinite(size) if name.startswith(FREE) else ~(size < most)
        if bad.any():
            raise InputError(f"'{name}' holds {array[bad].flat[0]:.3g}, which no fit leaves there.")
