"""A saved fit of any model and back: `load` looks which model a file holds.

Start at `load`. Each estimator writes its own file (`store.write_npz`); one without the word `model` is a `PLN`.
"""

from importlib import import_module
from typing import Any

from poplin._errors import InputError
from poplin.estimators.soundness import check_model, sound
from poplin.store import read_npz

READERS = {
    name: f"poplin.estimators.{name.lower()}" for name in ("Autoencoder", "IDEC", "MixtureVAE", "PPCA", "VAE")
}


def load(path: Any) -> Any:
    """A fitted model from a file that its `save` wrote; new rows can be embedded and scored at once.

    Raises `InputError` for a file that is foreign, damaged or of a newer format. Costs no fit.
    """
    arrays, meta = read_npz(path)
    name = meta.get("model", "PLN")
    if name == "PLN":
        from poplin.estimators import pln

        return pln.load(path)
    if name not in READERS:
        raise InputError(f"{path} holds a model that this poplin does not know, '{name}'. Update poplin.")
    with sound(path):
        check_model(arrays)
    try:
        return import_module(READERS[name]).rebuilt(arrays, meta)
    except KeyError as missing:
        raise InputError(f"{path}: not a fit that poplin saved; {missing} is not in it.") from None
