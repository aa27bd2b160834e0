"""A saved fit of any model and back: `load` looks which model a file holds.

Start at `load`. Each estimator writes its own file (`store.write_npz`); one without the word `model` is a `PLN`.
"""

from importlib import import_module
from typing import Any

from poplin._errors import InputError
from poplin.estimators.keeping import check_model, sound
from poplin.fitting.checkpoints import TRAINING
from poplin.store import read_npz

READERS = {name: "poplin.estimators.vae" for name in ("Autoencoder", "IDEC", "MixtureVAE", "VAE")}
READERS["PPCA"] = "poplin.estimators.ppca"


def load(path: Any) -> Any:
    """A fitted model from a file that its `save` wrote; new rows can be embedded and scored at once.

    Costs no fit.

    Args:
        path: the .npz file, of any of poplin's models.

    Returns:
        The fitted model, of the class that was saved.

    Raises:
        InputError: a file that is foreign, damaged, of a newer format, or the checkpoint of a fit that was stopped.
    """
    arrays, meta = read_npz(path)
    name = str(meta.get("model", "PLN"))
    if "checkpoint" in meta or name == TRAINING:
        raise InputError(
            f"{path} is the checkpoint of a fit that was stopped, no fit. Go on with it: give the same data and "
            "settings, and this file as checkpoint.",
            at_command_line=f"{path} is the checkpoint of a fit that was stopped, no fit. Give the same command again, "
            "with --resume.",
        )
    if name == "PLN":
        from poplin.estimators import pln

        return pln.load(path)
    if name not in READERS:
        raise InputError(f"{path} holds a model that this poplin does not know, '{name}'. Update poplin.")
    with sound(path):
        check_model(arrays)
        return getattr(import_module(READERS[name]), f"rebuilt_{name.lower()}")(arrays, meta)
