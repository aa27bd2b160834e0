"""What every model with an encoder can do: fit, embed rows, decode positions, and keep itself in a file.

Start at `AbstractNeural.fit`. A concrete model says by `_words` of which parts it is made and by `_trained` how it
is trained.
"""

import time
import warnings
from abc import abstractmethod
from typing import Any, Self

import jax
import numpy as np
import pandas as pd

from poplin._compile import compiled
from poplin._errors import ConvergenceWarning, InputError
from poplin.data.blocks import Block
from poplin.data.formula import design_from_json, design_to_json
from poplin.data.tables import is_instance
from poplin.estimators import doors, training
from poplin.estimators.building import Columns, Shape, Words, build, describe
from poplin.inference.importance import SLICE, in_slices
from poplin.methods.objectives import positions
from poplin.store import write_npz

UNSAVED = ("callback", "checkpoint")  # settings of a run, not of the fit
AFTER = ("stopped_", "converged_", "n_iter_", "seconds_")  # what a file keeps of how it ended


class AbstractNeural:
    """The face of a model with an encoder; settings are those of the concrete class."""

    column_names_: tuple[str, ...]
    n_features_in_: int
    history_: pd.DataFrame
    converged_: bool
    stopped_: str
    n_iter_: int
    seconds_: float
    messages_: tuple[str, ...]
    held_out_: np.ndarray
    model_: Any

    @abstractmethod
    def _words(self) -> Words:
        """The parts that the model is made of, by name."""

    @abstractmethod
    def _trained(self, block: Block) -> training.Trained:
        """The trained model, from `model_` with its first values and the rows it is to see."""

    @abstractmethod
    def _kept(self) -> dict[str, np.ndarray]:
        """Arrays among its attributes that a file keeps beside the model."""

    def fit(
        self, Y: Any, y: Any = None, *, data: Any = None, offset: Any = None, weights: Any = None
    ) -> Self:
        """Fit to Y (n, p): array, DataFrame, scipy.sparse, AnnData or a path; `y` is ignored.

        `data` holds the conditions and the batch (an AnnData's obs serves as well); offset on the log scale, for
        counts; weights (n,), 0 leaves a row out. Ctrl-C keeps what there is. Warns `ConvergenceWarning`
        when the stopping rule did not hold or the KL term never got its whole weight.
        """
        began = time.perf_counter()
        rows, self.coded_ = doors.training_rows(self._wanted(), Y, data=data, offset=offset, weights=weights)
        counts = self._wanted().likelihood in doors.COUNTS
        used = rows.weights > 0
        columns = describe(rows.y[used], rows.offset[used], counts=counts)
        self._begin(rows, columns)
        block = doors.as_rows_block(self.model_.likelihood, rows)
        self._after(self._trained(block))
        self.seconds_ = time.perf_counter() - began
        for message in self.messages_:
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        return self

    def _begin(self, rows: doors.Rows, columns: Columns) -> None:
        """The model with its first values."""
        levels = int(rows.y.max()) + 1 if self._wanted().likelihood == "categorical" else 0
        self.shape_ = Shape(rows.y.shape[1], rows.x.shape[1], self._rank(), levels)
        self.columns_ = columns
        self.column_names_, self.n_features_in_ = self.coded_.columns, rows.y.shape[1]
        self.model_ = build(self._words(), self.shape_, columns, np.random.default_rng(self._plan().seed))

    def _after(self, trained: training.Trained) -> None:
        self.model_, self.history_ = trained.model, trained.history
        self.stopped_, self.converged_ = trained.stopped, trained.stopped in ("patience", "tol")
        self.n_iter_, self.messages_, self.held_out_ = len(trained.history), trained.messages, trained.held

    def _rank(self) -> int:
        q = self._setting("n_components")
        if not isinstance(q, int | np.integer) or isinstance(q, bool) or q < 1:
            raise InputError(f"n_components={q!r}; give a whole number from 1.")
        return int(q)

    def _setting(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)

    def _wanted(self) -> doors.Wanted:
        condition = self._setting("condition") or ()
        condition = (condition,) if isinstance(condition, str) else tuple(condition)
        get = self._setting
        return doors.Wanted(
            get("likelihood"), bool(get("binarise", False)), condition, get("layer"), get("batch")
        )

    def _plan(self) -> training.Plan:
        get = self._setting
        names = ("max_epochs", "batch_size", "learning_rate", "schedule", "kl_warmup", "validation_fraction")
        chosen = {name: get(name) for name in names}
        chosen["kl_warmup"] = 0 if chosen["kl_warmup"] is None else chosen["kl_warmup"]
        how = {"patience": get("patience"), "seed": get("random_state"), "callback": get("callback")}
        return training.Plan(**chosen, **how, checkpoint=get("checkpoint"))

    def _new_rows(self, Y: Any, data: Any, offset: Any) -> doors.Rows:
        return doors.new_rows(self._wanted(), self.coded_, Y, data=data, offset=offset)

    def _block(self, Y: Any, data: Any, offset: Any, dtype: Any = np.float32) -> Block:
        return doors.as_rows_block(self.model_.likelihood, self._new_rows(Y, data, offset), dtype)

    def transform(
        self, Y: Any, *, data: Any = None, offset: Any = None, return_variance: bool = False
    ) -> Any:
        """Means of the rows' latent positions (n, q), as the encoder gives them, and their variances if asked."""
        block = self._block(Y, data, offset)
        mean, variance = in_slices(lambda part, _: positions(self.model_, part), block, SLICE)
        return (mean, variance) if return_variance else mean

    def embed(self, data: Any, *, key: str = "X_poplin", offset: Any = None) -> None:
        """Write the latent means of an AnnData's rows into its obsm[`key`], (n, q), where maps start from.

        Conditions and batch are read from its obs. Raises `InputError` for anything but an AnnData object.
        """
        if not is_instance(data, "anndata", "AnnData"):
            kind = type(data).__name__
            raise InputError(f"embed writes into an AnnData object, and was given a {kind}. Use transform.")
        data.obsm[key] = self.transform(data, offset=offset)

    def fit_transform(self, Y: Any, y: Any = None, **others: Any) -> np.ndarray:
        """Fit, then the latent positions of the training rows."""
        self.fit(Y, y, **others)
        return self.transform(Y, data=others.get("data"), offset=others.get("offset"))

    def inverse_transform(self, W: Any, *, data: Any = None, offset: Any = 0.0) -> np.ndarray:
        """E[y | w] at latent positions W (n, q) under the conditions in `data`, (n, p); offset: one number, or (n,)."""
        latent = np.asarray(W, dtype=np.float32)
        if latent.ndim != 2 or latent.shape[1] != self.shape_.rank:
            raise InputError(f"W has the shape {latent.shape}; wanted is (n, {self.shape_.rank}).")
        x = doors.conditions(self.coded_, data, len(latent))
        o = np.broadcast_to(np.reshape(offset, (-1, 1)), (len(latent), 1)).astype(np.float32)
        return np.asarray(_decoded(self.model_, latent, x, o))

    def reconstruct(self, Y: Any, *, data: Any = None, offset: Any = None, under: Any = None) -> np.ndarray:
        """E[y | w] at each row's own latent mean, (n, p); `under` is a table of other conditions to decode it with."""
        block = self._block(Y, data, offset)
        latent = in_slices(lambda part, _: positions(self.model_, part)[0], block, SLICE)
        x = block.x if under is None else doors.conditions(self.coded_, under, len(latent))
        return np.asarray(_decoded(self.model_, latent, x, block.offset))

    def save(self, path: Any) -> None:
        """Write the fit, and what new rows need, to one .npz file (no pickle), whole or not at all."""
        leaves = jax.tree.leaves(self.model_)
        arrays = {f"model_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        arrays |= {f"columns_{name}": column for name, column in self.columns_._asdict().items()}
        arrays |= {f"history_{name}": self.history_[name].to_numpy() for name in self.history_.columns}
        arrays |= {f"attribute_{name}": array for name, array in self._kept().items()}
        arrays["held_out"] = self.held_out_
        settings = {k: v for k, v in self.get_params().items() if k not in UNSAVED}  # type: ignore[attr-defined]
        if settings.get("basis") is not None:
            arrays["setting_basis"], settings["basis"] = np.asarray(settings["basis"], dtype=float), None
        made = self.coded_.design
        after = {name: getattr(self, name) for name in AFTER}
        meta = {
            "model": type(self).__name__,
            "settings": settings,
            "shape": list(self.shape_),
            "after": after,
        }
        meta |= {"columns": list(self.column_names_), "messages": list(self.messages_)}
        write_npz(path, arrays, meta | {"design": None if made is None else design_to_json(made)})


def rebuild(face: Any, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Any:
    """A fitted model of class `face` from what `AbstractNeural.save` wrote; JSON has lists where there were tuples."""
    settings = meta["settings"].items()
    fit = face(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings})
    if "setting_basis" in arrays:
        fit.basis = arrays["setting_basis"]
    made = None if meta["design"] is None else design_from_json(meta["design"])
    fit.coded_ = doors.Coded(tuple(meta["columns"]), made)
    fit.column_names_, fit.n_features_in_ = fit.coded_.columns, len(meta["columns"])
    fit.shape_ = Shape(*meta["shape"])
    fit.columns_ = Columns(**{name: arrays[f"columns_{name}"] for name in Columns._fields})
    empty = build(fit._words(), fit.shape_, fit.columns_, np.random.default_rng(0))
    leaves, tree = jax.tree.flatten(empty)
    held = [arrays[f"model_{i}"] for i in range(len(leaves))]
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in held]:
        raise InputError("The file's arrays do not have the sizes that its settings say. Fit again.")
    fit.model_ = jax.tree.unflatten(tree, held)
    names = [name for name in arrays if name.startswith("history_")]
    fit.history_ = pd.DataFrame({name.removeprefix("history_"): arrays[name] for name in names})
    fit.held_out_, fit.messages_ = arrays["held_out"], tuple(meta["messages"])
    beside = {k.removeprefix("attribute_"): v for k, v in arrays.items() if k.startswith("attribute_")}
    vars(fit).update({name: meta["after"][name] for name in AFTER} | beside)
    return fit


@compiled()
def _decoded(model: Any, latent: Any, x: Any, offset: Any) -> Any:
    return model.likelihood.mean(model.decoder(latent, x), offset)
