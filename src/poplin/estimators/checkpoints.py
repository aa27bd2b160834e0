"""The file that keeps where a fit stands: what is in it, whose it is, and what is refused.

Start at `read` and `write`. A fit is a fixed sequence of runs of the loop; the file has what remains of the runs
that are over, and where the present one stands, as arrays (no pickle). Facts (versions, settings, digests of the data)
say which fit it belongs to, a digest that all of it is as it was written. `resuming.py` uses it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from poplin._errors import InputError
from poplin.data.counts import Counts
from poplin.data.held import arrays_of
from poplin.store import read_npz, write_npz

FORMAT = 1
DATA = {
    "y": "the counts",
    "x": "the covariates",
    "offset": "the offsets",
    "weights": "the weights of the rows",
}
SETTINGS = (
    *("rank", "covariance", "basis", "method", "posterior", "shrinkage"),
    *("n_init", "max_iter", "tol", "random_state"),
)


class Place(NamedTuple):
    """The file, and what is true of the fit that it belongs to."""

    path: Path
    facts: dict[str, Any]


class Kept(NamedTuple):
    """A run of the loop in the file: what remains of it, if it is over, or where it stands.

    `leaves`: the arrays of its state and rows in the order of the tree; `objective` and `seconds` of its steps.
    """

    phase: str
    over: bool
    converged: bool
    leaves: tuple[np.ndarray, ...]
    objective: np.ndarray
    seconds: np.ndarray


def place(path: Any, counts: Counts, settings: Mapping[str, Any]) -> Place:
    """The file for this fit. Raises `InputError` where no file can be; nothing is made yet."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"checkpoint={path!r}: wanted is the name of a file, for example 'fit-checkpoint.npz'."
        )
    where = Path(path)
    if where.is_dir():
        raise InputError(
            f"checkpoint: {where} is a folder; wanted is a file in it, for example {where / 'fit.npz'}."
        )
    there = next(parent for parent in where.absolute().parents if parent.exists())
    if not there.is_dir():
        raise InputError(f"checkpoint={path!r}: {there} is a file; wanted is a folder (made if need be).")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"checkpoint={path!r}: nothing may be written in {there}. Choose another folder.")
    return Place(where, facts(counts, settings))


def facts(counts: Counts, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What says which fit it is: versions, digests of the data, settings."""
    told = {"poplin": version("poplin"), "jax": version("jax"), "device": jax.default_backend()}
    told |= {words: _told(getattr(counts, name)) for name, words in DATA.items()}
    return told | {name: _told(settings[name]) for name in SETTINGS}


def write(at: Place, runs: Sequence[Kept]) -> None:
    """Write the runs, whole or not at all: what was there before stays until all is on the disk.

    Raises `InputError` where it cannot be written, for example as the disk is full.
    """
    arrays, told = {}, []
    for i, run in enumerate(runs):
        arrays |= {f"run{i}_{j}": leaf for j, leaf in enumerate(run.leaves)}
        arrays |= {f"run{i}_objective": run.objective, f"run{i}_seconds": run.seconds}
        told.append(
            {"phase": run.phase, "over": run.over, "converged": run.converged, "leaves": len(run.leaves)}
        )
    meta: dict[str, Any] = {"checkpoint": FORMAT, "facts": at.facts, "runs": told}
    meta["sha256"] = digest(arrays, meta)
    try:
        at.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{at.path} cannot be written: {error.strerror or error}.") from error
    write_npz(at.path, arrays, meta)


def read(at: Place) -> list[Kept]:
    """The runs in the file; none where there is no file. Raises `InputError` for one that is not of this fit."""
    if not at.path.exists():
        return []
    try:
        arrays, meta = read_npz(at.path)
    except InputError as error:
        raise InputError(f"The checkpoint cannot be used. {error} {_anew(at.path)}") from error
    if "checkpoint" not in meta:
        raise InputError(f"{at.path} is a file of poplin, but no checkpoint of a fit. {_anew(at.path)}")
    if meta["checkpoint"] != FORMAT:
        raise InputError(
            f"The checkpoint {at.path} is in format {meta['checkpoint']}; this poplin knows format {FORMAT}. "
            f"Go on with the poplin that wrote it. {_anew(at.path)}"
        )
    if meta.pop("sha256", None) != digest(arrays, meta):
        raise InputError(
            f"The checkpoint {at.path} is damaged: its contents are not those that were written. {_anew(at.path)}"
        )
    _check_facts(at, meta["facts"])
    return [_run(i, told, arrays) for i, told in enumerate(meta["runs"])]


def _run(i: int, told: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Kept:
    leaves = tuple(arrays[f"run{i}_{j}"] for j in range(told["leaves"]))
    of_steps = arrays[f"run{i}_objective"], arrays[f"run{i}_seconds"]
    return Kept(told["phase"], told["over"], told["converged"], leaves, *of_steps)


def _check_facts(at: Place, there: Mapping[str, Any]) -> None:
    """An `InputError` that says in what the file's fit is another one."""
    other = [name for name in at.facts if name not in there or there[name] != at.facts[name]]
    if not other:
        return
    words = [
        f"{name} differ"
        if name in DATA.values()
        else f"{name} is {_shown(there.get(name))} there and {_shown(at.facts[name])} here"
        for name in other
    ]
    raise InputError(
        f"The checkpoint {at.path} belongs to another fit: {'; '.join(words)}. To go on with that fit, give its data, "
        f"settings and versions. {_anew(at.path)}"
    )


def _shown(fact: Any) -> str:
    return "an array" if isinstance(fact, str) and fact.startswith("sha256:") else repr(fact)


def _anew(path: Path) -> str:
    return f"To begin anew, remove {path} or name another file."


def _told(value: Any) -> Any:
    """A setting as JSON can hold it; of an array, or a sparse table, a digest."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return "sha256:" + _hashed((name, np.asarray(part)) for name, part in arrays_of(value)).hexdigest()


def digest(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> str:
    """What says that the contents of a checkpoint are those that were written."""
    found = _hashed(arrays.items())
    found.update(json.dumps(meta, sort_keys=True).encode())
    return found.hexdigest()


def _hashed(arrays: Iterable[tuple[str, np.ndarray]]) -> Any:
    found = hashlib.sha256()
    for name, array in arrays:
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        if array.size:
            found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found
