"""What is asked of the numbers in a file before a fit is made of them: finite, of sizes that go together, no giants.

Start at `check_fit` (a `PLN`) and `check_model` (the models with networks). A file whose bytes are whole may still have
been edited; estimates that are no numbers would be told of nowhere but in predictions.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from poplin._errors import InputError
from poplin.data.checks import check_basis, check_counts, check_covariance, check_weights
from poplin.data.held import is_held_sparse, is_on_disk
from poplin.data.tables import sparse_numbers

MOST = 1e20  # of a weight in a network
MOST_LOG_RATE = 700.0  # above it, the rate of a Poisson law is no float64
MOST_DEVIATION = 1e4  # on the log scale
ROWS = 1000  # whose rates are looked at
FREE = ("trace_", "extra_", "history_", "held_out", "counts_y")  # where NaN is an answer, or a missing count


@contextlib.contextmanager
def sound(path: Any) -> Iterator[None]:
    """What is refused inside is told of as of the file at `path`."""
    try:
        yield
    except (InputError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or was changed: {str(error).rstrip('.')}. Restore it from a copy, or fit again."
        ) from error


def check_fit(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], y: Any) -> None:
    """Raises `InputError` where the arrays of a `PLN` are not what a fit can have left; `y` are its counts.

    Looks at the rates of the first rows; O(n p) for counts that are in the file.
    """
    (n, p), d = y.shape, len(meta["covariate_names"])
    sizes = {
        "counts_x": (n, d),
        "coef": (d, p),
        "counts_weights": (n,),
        "loadings": (p, *arrays["loadings"].shape[1:]),
    }
    sizes |= {"row_names": (n,), "column_names": (p,)}
    for name, size in sizes.items():
        found = arrays[name].shape if name in arrays else (len(meta[name]),)
        if found != size:
            raise InputError(f"'{name}' has the shape {found}, where {size} belongs to counts of {n} x {p}.")
    if np.broadcast_shapes(arrays["counts_offset"].shape, (n, p)) != (n, p):
        raise InputError(
            f"'counts_offset' has the shape {arrays['counts_offset'].shape}, and the counts are {n} x {p}."
        )
    check_model(arrays)
    if not is_on_disk(y):
        entries = sparse_numbers(y, "Y") if is_held_sparse(y) else y
        check_counts(entries, meta["row_names"], meta["column_names"])
    used = check_weights(arrays["counts_weights"], meta["row_names"]) > 0
    with np.errstate(over="ignore", invalid="ignore"):  # of what is refused
        rates = arrays["counts_x"][used][:ROWS] @ arrays["coef"]
    for name, numbers, most in (
        ("coef", rates, MOST_LOG_RATE),
        ("loadings", arrays["loadings"], MOST_DEVIATION),
    ):
        if not (numbers < most).all():
            raise InputError(
                f"'{name}' holds {np.abs(arrays[name]).max():.3g}, with which expected counts are no numbers."
            )
    if "setting_covariance" in arrays:
        check_covariance(arrays["setting_covariance"], p)
    if "setting_basis" in arrays:
        check_basis(arrays["setting_basis"], p)


def check_model(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises `InputError` for an array with entries that are not finite, or with giants among a network's weights."""
    for name, array in arrays.items():
        most = MOST if name.startswith(("model_", "encoder_", "attribute_")) else np.inf
        if array.dtype.kind == "f" and not name.startswith(FREE) and not (np.abs(array) < most).all():
            bad = array[~(np.abs(array) < most)].flat[0]
            raise InputError(f"'{name}' holds {bad:.3g}, which no fit leaves there.")
