"""A fit on disk and back: arrays and plain settings in one file, no pickle.

Start at `save` and `load`. The training rows' names, covariates and notes are kept, and their counts, so
that what is computed when asked for (`loglik_`, `latent_mean_`) can still be asked of a loaded fit.
"""

from pathlib import Path
from typing import Any

import numpy as np

from poplin.data.backed import Source
from poplin.data.counts import Counts
from poplin.data.formula import design_from_json, design_to_json
from poplin.data.held import is_held_sparse, is_on_disk, smallest
from poplin.data.large_files import reopened
from poplin.estimators import encoding, esteps
from poplin.estimators.driver import Result
from poplin.estimators.soundness import check_fit, sound
from poplin.inference.summary import OF_A_RUN
from poplin.store import read_npz, write_npz

WORDS = ("direct", "posterior", "shrinkage", "weight", "objective", "converged", "interrupted")


def save(fit: Any, path: Any) -> None:
    """Write a fitted model to `path` (.npz)."""
    result, counts = fit.result_, fit.counts_
    arrays = {"coef": result.coef, "loadings": result.loadings}
    arrays |= {"counts_x": counts.x, "counts_weights": counts.weights} | _counts_as_arrays(counts.y)
    arrays["counts_offset"] = smallest(counts.offset)
    groups = counts.groups or {}
    arrays |= {f"counts_group{k}": codes for k, codes in enumerate(groups.values())}
    if result.rows is not None:
        arrays |= {"rows_mean": result.rows[0], "rows_variance": result.rows[1]}
    arrays |= {f"trace_{name}": column for name, column in result.trace.items()}
    arrays |= {f"extra_{name}": np.asarray(value) for name, value in (result.extras or {}).items()}
    if result.encoder is not None:
        arrays |= encoding.as_arrays(result.encoder)
    settings = {k: v for k, v in fit.get_params().items() if k not in OF_A_RUN}
    settings["method"] = esteps.to_plain(settings["method"])
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


def _rebuilt(face: type, arrays: dict[str, np.ndarray], meta: dict[str, Any], y: Any) -> Any:
    settings = dict(meta["settings"])
    settings["method"] = esteps.from_plain(settings["method"])
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
        **names,
    )
    rows = (arrays["rows_mean"], arrays["rows_variance"]) if "rows_mean" in arrays else None
    trace = {k.removeprefix("trace_"): v for k, v in arrays.items() if k.startswith("trace_")}
    result = Result(
        coef=arrays["coef"],
        loadings=arrays["loadings"],
        rows=rows,
        trace=trace,
        messages=tuple(meta["messages"]),
        extras={k.removeprefix("extra_"): v[()] for k, v in arrays.items() if k.startswith("extra_")},
        **({"weight": meta["shrinkage"]} | {word: meta[word] for word in WORDS if word in meta}),
    )
    if "encoder_0" in arrays:
        embedder = encoding.from_arrays(esteps.chosen(settings["method"]), result, arrays)
        result = result._replace(encoder=embedder)
    fit = face(**settings)
    fit._take(result, counts)
    fit.seconds_ = meta["seconds"]
    return fit
