"""Long training in stretches of an epoch: its state is written to a file now and then, and read from there.

Start at `in_stretches`. Without a place it is one run of the loop. A run that goes on from a file takes the same
steps as one that was never stopped: keys, order of rows and optimiser are part of the state.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from poplin import fit as loop
from poplin._errors import InputError
from poplin.estimators.checkpoints import digest
from poplin.methods.gradient import Gradient, Split, Start
from poplin.store import read_npz, write_npz

SECONDS = 60.0  # between two writings


class Length(NamedTuple):
    """Steps of an epoch, and epochs at most."""

    batches: int
    epochs: int


class Place(NamedTuple):
    """The file, and what a state in it must have been trained with."""

    path: Any
    facts: dict[str, Any]


def in_stretches(
    method: Gradient,
    first: Start,
    split: Split,
    length: Length,
    *,
    began: float,
    callback: Callable[[loop.Progress], None] | None,
    place: Place | None,
) -> loop.Outcome:
    """Run to the stopping rule, to the last epoch, or Ctrl-C; the trace is that of the last stretch."""
    steps = length.batches * length.epochs
    how = {"phase": "train", "began": began}
    if place is None:
        return loop.run(method, first, split, max_iter=steps, callback=callback, **how)  # type: ignore[arg-type]
    state = restored(place, jax.eval_shape(lambda a, b: method.start(a, b)[0], first, split))
    written = time.monotonic()
    while True:
        done = 0 if state is None else int(state.iteration)
        most = min(length.batches - done % length.batches, steps - done)
        told = _counted_on(callback, done, steps)
        start: Any = first if state is None else state
        outcome = loop.run(method, start, split, max_iter=most, callback=told, **how)  # type: ignore[arg-type]
        state = outcome.state
        over = outcome.interrupted or outcome.converged or int(state.iteration) >= steps
        over = over or not np.isfinite(state.objective)
        if over or time.monotonic() - written > SECONDS:
            keep(place, state)
            written = time.monotonic()
        if over:
            return outcome


def keep(place: Place, state: Any) -> None:
    """Write the state, whole or not at all."""
    arrays = {f"state_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(jax.device_get(state)))}
    meta = {"model": "training", "facts": place.facts}
    write_npz(place.path, arrays, meta | {"sha256": digest(arrays, meta)})


def restored(place: Place, like: Any) -> Any:
    """The state in the file, None where there is no file. Raises `InputError` for the state of another fit."""
    if not Path(place.path).exists():
        return None
    arrays, meta = read_npz(place.path)
    if meta.get("model") != "training":
        raise InputError(
            f"{place.path} is a file of poplin, but no checkpoint of such a fit. Name another file, or remove it."
        )
    if meta.pop("sha256", None) != digest(arrays, meta):
        raise InputError(
            f"The checkpoint {place.path} is damaged: its contents are not those that were written. Name another file, "
            "or remove it, to begin anew."
        )
    leaves, tree = jax.tree.flatten(like)
    held = [arrays.get(f"state_{i}") for i in range(len(leaves))]
    there = meta["facts"]
    other = [name for name in place.facts if there.get(name) != place.facts[name]]
    fits = [a is not None and a.shape == b.shape for a, b in zip(held, leaves, strict=True)]
    if other or not all(fits):
        why = ", ".join(other) if other else "the sizes of the networks"
        raise InputError(
            f"The checkpoint {place.path} is of another fit: it differs in {why}. Name another file, or remove it."
        )
    return jax.tree.unflatten(tree, held)


def beside(path: Any, name: str) -> Any:
    """The file of another phase of the same fit: a.npz becomes a-name.npz; None stays."""
    return None if path is None else Path(path).with_stem(f"{Path(path).stem}-{name}")


def _counted_on(
    callback: Callable[[loop.Progress], None] | None, done: int, steps: int
) -> Callable[[loop.Progress], None] | None:
    """The callback, told of steps since the very first."""
    if callback is None:
        return None
    return lambda told: callback(told._replace(iteration=told.iteration + done, max_iter=steps))
