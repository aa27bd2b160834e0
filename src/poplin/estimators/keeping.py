"""A fit on disk and back: arrays and plain settings in one file, no pickle.

Start at `save` and `load`. The training rows' names, covariates and notes are kept, and their counts, so
that what is computed when asked for (`loglik_`, `latent_mean_`) can still be asked of a loaded fit.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from poplin._errors import InputError, said
from poplin.data.checks import MOST_COVARIATE, check_basis, check_counts, check_covariance, check_weights
from poplin.data.counts import Counts, Zeros
from poplin.data.formula import design_from_json, design_to_json
from poplin.data.held import Source, is_held_sparse, is_on_disk, smallest
from poplin.data.large_files import reopened
from poplin.data.tables import sparse_numbers
from poplin.fitting import amortised
from poplin.fitting.driver import Result
from poplin.fitting.recipes import law_of
from poplin.inference.summary import OF_A_RUN
from poplin.laws import AbstractLaw, with_parameters
from poplin.methods.options import chosen, from_plain, to_plain
from poplin.store import read_npz, write_npz
from poplin.updates.specific import Parts

# What is asked of the numbers in a file before a fit is made of them: finite, of sizes that go together, no giants.
#
# Start at `check_fit` (a `PLN`) and `check_model` (the models with networks). A file whose bytes are whole may still
# have been edited; estimates that are no numbers would be told of nowhere but in predictions.


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
    most |= {"part_loadings": MOST_DEVIATION, "part_specific": MOST_DEVIATION**2}
    most |= {"rows_mean": MOST_DEVIATION, "rows_variance": MOST_DEVIATION**2}
    _check_most("coef", rates, MOST_LOG_RATE, shown=arrays["coef"])
    for name in most.keys() & arrays.keys():
        _check_most(name, arrays[name], most[name], shown=arrays[name])
    for name in ("rows_variance", "part_specific"):
        if (arrays.get(name, np.ones(1)) < 0).any():
            raise InputError(f"'{name}' holds a negative variance.")
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
    if "part_specific" in arrays:
        wanted |= {"part_specific": (p,), "part_loadings": (p, *arrays["part_loadings"].shape[1:2])}
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


WORDS = ("direct", "posterior", "shrinkage", "weight", "objective", "converged", "interrupted")


def save(fit: Any, path: Any) -> None:
    """Write a fitted model to `path` (.npz)."""
    result, counts = fit.result_, fit.counts_
    arrays = {"coef": result.coef, "loadings": result.loadings}
    arrays |= {"counts_x": counts.x, "counts_weights": counts.weights} | _counts_as_arrays(counts.y)
    arrays["counts_offset"] = smallest(counts.offset)
    groups = counts.groups or {}
    arrays |= {f"counts_group{k}": codes for k, codes in enumerate(groups.values())}
    if result.parts is not None:
        arrays |= {f"part_{name}": np.asarray(part) for name, part in result.parts._asdict().items()}
    arrays |= {f"law_{k}": numbers for k, numbers in enumerate(jax.tree.leaves(result.law))}
    arrays |= {} if counts.zeros is None else {"counts_zeros": counts.zeros.x}
    if result.rows is not None:
        arrays |= {"rows_mean": result.rows[0], "rows_variance": result.rows[1]}
    arrays |= {f"trace_{name}": column for name, column in result.trace.items()}
    arrays |= {f"extra_{name}": np.asarray(value) for name, value in (result.extras or {}).items()}
    if result.encoder is not None:
        arrays |= amortised.as_arrays(result.encoder)
    settings = {k: v for k, v in fit.get_params().items() if k not in OF_A_RUN}
    settings["method"] = to_plain(settings["method"])
    for name in ("covariance", "basis"):
        if settings[name] is not None and not isinstance(settings[name], str):
            arrays[f"setting_{name}"] = np.asarray(settings[name], dtype=float)
            settings[name] = None
    meta = {word: getattr(result, word) for word in WORDS}
    meta |= {"messages": list(result.messages), "settings": settings, "seconds": fit.seconds_}
    meta |= {
        name: list(getattr(counts, name))
        for name in ("row_names", "column_names", "covariate_names", "notes")
    }
    meta["groups"] = list(groups)
    meta["counts_source"] = _source_of(counts.y)
    meta["design"] = None if counts.design is None else design_to_json(counts.design)
    if counts.zeros is not None:
        made = counts.zeros.design
        meta["zeros"] = {
            "names": list(counts.zeros.names),
            "design": None if made is None else design_to_json(made),
        }
    write_npz(path, arrays, meta)


def _counts_as_arrays(y: Any) -> dict[str, np.ndarray]:
    """The counts, dense or by the entries of each row; those on disk stay there (`_source_of`)."""
    if is_on_disk(y):
        return {}
    if not is_held_sparse(y):
        return {"counts_y": y}
    parts = {"data": y.data, "indices": y.indices, "indptr": y.indptr, "shape": np.array(y.shape)}
    return {f"counts_y_{name}": array for name, array in parts.items()}


def _source_of(y: Any) -> dict[str, Any] | None:
    """Where counts are that stay on disk."""
    return {"shape": list(y.shape), "sparse": y.sparse, **y.source._asdict()} if is_on_disk(y) else None


def _counts_from(arrays: dict[str, np.ndarray], source: dict[str, Any] | None, path: Any) -> Any:
    if source is not None:
        there = Path(source["path"])
        there = there if there.exists() else Path(path).absolute().parent / there.name  # moved together
        return reopened(Source(str(there), source["key"]), tuple(source["shape"]), sparse=source["sparse"])
    if "counts_y_data" not in arrays:
        return arrays["counts_y"]
    from scipy.sparse import csr_array

    data, indices, indptr, shape = (
        arrays[f"counts_y_{name}"] for name in ("data", "indices", "indptr", "shape")
    )
    return csr_array((data, indices, indptr), shape=tuple(shape))


def load(face: type, path: Any) -> Any:
    """A fitted model of class `face` from a file that `save` wrote."""
    arrays, meta = read_npz(path)
    with sound(path):
        y = _counts_from(arrays, meta.get("counts_source"), path)
        check_fit(arrays, meta, y)
        return _rebuilt(face, arrays, meta, y)


def _zeros_from(arrays: dict[str, np.ndarray], told: dict[str, Any] | None) -> Zeros | None:
    if told is None:
        return None
    design = None if told["design"] is None else design_from_json(told["design"])
    return Zeros(arrays["counts_zeros"], tuple(told["names"]), design)


def _law_from(arrays: dict[str, np.ndarray], settings: dict[str, Any], counts: Counts) -> AbstractLaw:
    """The law of the settings with the parameters of the file; Poisson in files from before there were others."""
    words = settings.get("likelihood", "poisson"), settings.get("zero_probability", "column")
    law = law_of(*words, counts)
    wanted = [leaf.shape for leaf in jax.tree.leaves(law)]
    found = [arrays[f"law_{k}"] for k in range(len(wanted))]
    if [numbers.shape for numbers in found] != wanted:
        raise InputError(
            f"'law' has the shapes {[a.shape for a in found]}, where {wanted} belong to {words[0]!r}."
        )
    return with_parameters(law, tuple(found))


def _rebuilt(face: type, arrays: dict[str, np.ndarray], meta: dict[str, Any], y: Any) -> Any:
    settings = dict(meta["settings"])
    settings["method"] = from_plain(settings["method"])
    for name in ("covariance", "basis"):
        settings[name] = arrays.get(f"setting_{name}", settings[name])
    names = {k: tuple(meta[k]) for k in ("row_names", "column_names", "covariate_names", "notes")}
    counts = Counts(
        y=y,
        x=arrays["counts_x"],
        offset=np.broadcast_to(arrays["counts_offset"], y.shape),
        weights=arrays["counts_weights"],
        design=None if meta["design"] is None else design_from_json(meta["design"]),
        groups={name: arrays[f"counts_group{k}"] for k, name in enumerate(meta.get("groups", ()))},
        zeros=_zeros_from(arrays, meta.get("zeros")),
        row_names=names["row_names"],
        column_names=names["column_names"],
        covariate_names=names["covariate_names"],
        notes=names["notes"],
    )
    rows = (arrays["rows_mean"], arrays["rows_variance"]) if "rows_mean" in arrays else None
    parts = Parts(*(arrays[f"part_{name}"] for name in Parts._fields)) if "part_specific" in arrays else None
    trace = {k.removeprefix("trace_"): v for k, v in arrays.items() if k.startswith("trace_")}
    result = Result(
        coef=arrays["coef"],
        loadings=arrays["loadings"],
        rows=rows,
        parts=parts,
        trace=trace,
        messages=tuple(meta["messages"]),
        extras={k.removeprefix("extra_"): v[()] for k, v in arrays.items() if k.startswith("extra_")},
        law=_law_from(arrays, settings, counts),
        **({"weight": meta["shrinkage"]} | {word: meta[word] for word in WORDS if word in meta}),
    )
    if "encoder_0" in arrays:
        embedder = amortised.from_arrays(chosen(settings["method"]), result, arrays)
        result = result._replace(encoder=embedder)
    fit = face(**settings)
    fit._take(result, counts)
    fit.seconds_ = meta["seconds"]
    return fit
