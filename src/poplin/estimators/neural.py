"""What every model with an encoder can do: fit, embed rows, decode positions, and keep itself in a file.

Start at `AbstractNeural.fit`. A concrete model says by `_words` of which parts it is made and by `_trained` how it
is trained.
"""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from poplin._errors import ConvergenceWarning, DataWarning, InputError
from poplin._numerics import compiled, double_precision
from poplin._random import Purpose, derive
from poplin.data.blocks import Block
from poplin.data.checks import check_counts, check_weights
from poplin.data.counts import Values, as_new_values, as_positions, as_values, check_size
from poplin.data.formula import Design, apply, as_frame, design, design_from_json, design_to_json
from poplin.data.sides import aligned, doubtful_offset, log_offset, row_vector
from poplin.data.tables import CountTable, Names, as_named, is_instance, place
from poplin.estimators.building import Shape, Words, build, check_settings
from poplin.fitting.checkpoints import Keeper, by_the_clock
from poplin.fitting.training import Columns, Plan, Trained, describe
from poplin.inference.likelihood import SLICE, in_slices
from poplin.inference.summary import OF_A_RUN
from poplin.methods.gradient import (
    positions,
)
from poplin.store import write_npz

# From what a user gives to the rows that a neural model sees: values, conditions, offsets.
#
# Start at `training_rows` and `new_rows`. Conditions are columns of `data` (or of an AnnData's obs), coded as in a
# formula; `KINDS` says what each likelihood accepts.


COUNTS = ("poisson", "negative-binomial", "poisson-lognormal")
MOST_SINGLE = 1e18  # the square of more overflows in single precision
MOST_LEVELS = 1000  # of categories: each has weights of its own in every column
PIECE = 4_000_000  # numbers looked at together in double precision


class Rows(NamedTuple):
    """Rows as a model sees them: y (n, p), x (n, d), offset (n, 1 or p) and weights (n,), with their names."""

    y: np.ndarray
    x: np.ndarray
    offset: np.ndarray
    weights: np.ndarray
    names: Names


class Coded(NamedTuple):
    """What later rows must look like: column names and the design of the conditions (None without any)."""

    columns: Names
    design: Design | None


class Wanted(NamedTuple):
    """The settings that the door needs: likelihood, whether pixels are binarised, conditions, AnnData layer, batch."""

    likelihood: str
    binarise: bool
    condition: tuple[str, ...]
    layer: str | None
    batch: str | None = None

    def formula(self) -> str | None:
        """How conditions and batch are coded; the values of the batch are categories even where they are numbers."""
        terms = [f"`{name}`" for name in self.condition]
        terms += [] if self.batch is None else [f"C(`{self.batch}`)"]
        return "~ " + " + ".join(terms) if terms else None


def training_rows(wanted: Wanted, Y: Any, *, data: Any, offset: Any, weights: Any) -> tuple[Rows, Coded]:
    """The rows to fit and how they were coded. Raises `InputError` for what the likelihood cannot have made."""
    values = as_values(Y, layer=wanted.layer)
    made, x = None, np.zeros((len(values.y), 0))
    formula = wanted.formula()
    if formula is not None:
        made, x, _ = design(formula, _frame(values, data), values.row_names)
        x = x[:, 1:]  # the decoder has its own intercept
    table, notes = _named(values), []
    for words in doubtful_offset(offset, table):
        warnings.warn(words, DataWarning, stacklevel=4)
    weight = check_weights(
        row_vector(weights, "weights", table.row_names, len(values.y), notes), values.row_names
    )
    rows = _rows(wanted, values, x, offset)._replace(weights=weight)
    return rows, Coded(values.column_names, made)


def new_rows(wanted: Wanted, coded: Coded, Y: Any, *, data: Any, offset: Any) -> Rows:
    """Rows for a fitted model, coded as the rows of its fit."""
    values = as_new_values(coded.columns, Y, layer=wanted.layer)
    x = np.zeros((len(values.y), 0))
    if coded.design is not None:
        x = apply(coded.design, _frame(values, data), values.row_names)[0][:, 1:]
    return _rows(wanted, values, x, offset)


def conditions(coded: Coded, data: Any, n: int) -> np.ndarray:
    """The covariates x (n, d) of rows that are only asked for, from a table of their conditions."""
    if coded.design is None:
        return np.zeros((n, 0), dtype=np.float32)
    frame = as_frame(data, None)
    if len(frame) != n:
        raise InputError(f"data has {len(frame)} rows and {n} rows are asked for. Give one row for each.")
    return apply(coded.design, frame, tuple(str(i) for i in frame.index))[0][:, 1:].astype(np.float32)


def _named(values: Values) -> CountTable:
    names = values.row_names if values.named_rows else None
    return CountTable(values.y, names, values.column_names, values.covariates)


def _frame(values: Values, data: Any) -> Any:
    frame = as_frame(data, values.covariates)
    names = values.row_names if values.named_rows else None
    return aligned(frame, "data", names, len(values.y), [], values.column_names)


def _rows(wanted: Wanted, values: Values, x: np.ndarray, offset: Any) -> Rows:
    _check_values(wanted, values)
    if offset is not None and wanted.likelihood not in COUNTS:
        raise InputError(
            f"An offset goes with counts; the likelihood '{wanted.likelihood}' has none. Leave it out."
        )
    o = log_offset(offset, _named(values), [])
    o = np.broadcast_to(o, (len(values.y), o.shape[1] if o.ndim == 2 else 1))
    return Rows(values.y, x, o, np.ones(len(values.y)), values.row_names)


def _check_values(wanted: Wanted, values: Values) -> None:
    y = values.y
    check_size(values, MOST_SINGLE)
    if wanted.likelihood in COUNTS:
        check_counts(y, values.row_names, values.column_names)
    elif wanted.likelihood == "categorical":
        mend = f"Code categories as whole numbers 0, 1, 2, ..., at most {MOST_LEVELS} of them."
        _refuse(values, (y < 0) | (y != np.rint(y)) | (y >= MOST_LEVELS), "a category", mend)
    elif wanted.likelihood == "bernoulli" and wanted.binarise:
        _refuse(
            values,
            (y < 0) | (y > 1),
            "a probability",
            "binarise=True draws 0 or 1 with it: scale Y to [0, 1].",
        )
    elif wanted.likelihood == "bernoulli":
        mend = "Give zeros and ones, or set binarise=True to draw them anew with the probabilities in Y."
        _refuse(values, (y != 0) & (y != 1), "zero or one", mend)


def _refuse(values: Values, bad: np.ndarray, wanted: str, mend: str) -> None:
    if bad.any():
        i, j = np.argwhere(bad)[0]
        where = place((i, j), values.row_names, values.column_names)
        raise InputError(f"Y holds {values.y[i, j]:g}{where}, which is not {wanted}. {mend}")


@compiled()
def _carrier(likelihood: Any, y: Any) -> Any:
    return likelihood.carrier(y)


def as_rows_block(likelihood: Any, rows: Rows, dtype: Any = np.float32) -> Block:
    """Rows as a `Block` of NumPy arrays of this type; the part of the log density that y alone decides is in it."""
    pieces = np.array_split(rows.y, -(-rows.y.size // PIECE))
    with double_precision():
        parts = [_carrier(likelihood, jnp.asarray(piece, dtype=jnp.float64)) for piece in pieces]
    constant = -np.concatenate([np.asarray(part) for part in parts])
    arrays = (rows.y, rows.x, rows.offset, rows.weights, constant)
    return Block(*(np.asarray(a, dtype=dtype) for a in arrays), index=np.arange(len(rows.y)))  # type: ignore[arg-type]


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
    coded_: Coded
    shape_: Shape

    @abstractmethod
    def _words(self) -> Words:
        """The parts that the model is made of, by name."""

    @abstractmethod
    def _trained(self, block: Block, plan: Plan) -> Trained:
        """The trained model, from `model_` with its first values and the rows it is to see."""

    @abstractmethod
    def _kept(self) -> dict[str, np.ndarray]:
        """Arrays among its attributes that a file keeps beside the model."""

    def fit(
        self, Y: Any, y: Any = None, *, data: Any = None, offset: Any = None, weights: Any = None
    ) -> Self:
        """Fit the model to a table: train its networks on minibatches.

        Warns `ConvergenceWarning` when the stopping rule did not hold or the KL term never got its whole weight. Ctrl-C
        keeps what there is.

        Args:
            Y: rows (n, p): array, DataFrame, scipy.sparse, AnnData or a path; what the likelihood can have made, none
                missing.
            y: ignored; scikit-learn passes it second.
            data: conditions and batch (DataFrame, n rows) where `condition` or `batch` name some; an AnnData's obs
                serves too.
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p), or the name of one that is computed
                ("tss", ...); None: 0.
            weights: (n,); 0 leaves a row out. None: 1.

        Returns:
            The estimator itself, with its fitted attributes.

        Raises:
            InputError: what cannot be fitted, by row and column name, with how to mend it.
        """
        began = time.perf_counter()
        check_settings(self.get_params())  # type: ignore[attr-defined]
        rows, self.coded_ = training_rows(self._wanted(), Y, data=data, offset=offset, weights=weights)
        counts = self._wanted().likelihood in COUNTS
        used = rows.weights > 0
        columns = describe(rows.y[used], rows.offset[used], counts=counts)
        self._begin(rows, columns)
        block = as_rows_block(self.model_.likelihood, rows)
        keeper = self._keeper(block)
        began -= 0.0 if keeper is None else keeper.spent
        self._after(self._trained(block, self._plan()._replace(keeper=keeper, began=began)))
        self.seconds_ = time.perf_counter() - began
        for message in self.messages_:
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        return self

    def _keeper(self, block: Block) -> Keeper | None:
        """The checkpoint that the settings ask for, of a fit to these rows."""
        data = {"values": block.y, "conditions": block.x, "offsets": block.offset}
        # what tells of the rows in a file that has the state of a training alone
        seen = {"rows": len(block.index), "sum of Y": float(np.sum(block.y))}
        settings = self.get_params() | {"model": type(self).__name__}  # type: ignore[attr-defined]
        return by_the_clock(settings | seen, data | {"weights of the rows": block.weights})

    def _begin(self, rows: Rows, columns: Columns) -> None:
        """The model with its first values."""
        levels = int(rows.y.max()) + 1 if self._wanted().likelihood == "categorical" else 0
        self.shape_ = Shape(rows.y.shape[1], rows.x.shape[1], int(self._setting("n_components")), levels)
        self.columns_ = columns
        self.column_names_, self.n_features_in_ = self.coded_.columns, rows.y.shape[1]
        self.model_ = build(
            self._words(), self.shape_, columns, derive(self._plan().seed, Purpose.MAIN).generator()
        )

    def _after(self, trained: Trained) -> None:
        self.model_, self.history_ = trained.model, trained.history
        self.stopped_, self.converged_ = trained.stopped, trained.stopped in ("patience", "tol")
        self.n_iter_, self.messages_, self.held_out_ = len(trained.history), trained.messages, trained.held

    def _setting(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)

    def _wanted(self) -> Wanted:
        condition = self._setting("condition") or ()
        condition = (condition,) if isinstance(condition, str) else tuple(condition)
        get = self._setting
        return Wanted(get("likelihood"), bool(get("binarise", False)), condition, get("layer"), get("batch"))

    def _plan(self) -> Plan:
        get = self._setting
        names = ("max_epochs", "batch_size", "learning_rate", "schedule", "kl_warmup", "validation_fraction")
        chosen = {name: get(name) for name in names}
        chosen["kl_warmup"] = 0 if chosen["kl_warmup"] is None else chosen["kl_warmup"]
        how = {"patience": get("patience"), "seed": get("random_state"), "callback": get("callback")}
        return Plan(**chosen, **how)

    def _new_rows(self, Y: Any, data: Any, offset: Any) -> Rows:
        return new_rows(self._wanted(), self.coded_, Y, data=data, offset=offset)

    def _block(self, Y: Any, data: Any, offset: Any, dtype: Any = np.float32) -> Block:
        return as_rows_block(self.model_.likelihood, self._new_rows(Y, data, offset), dtype)

    def transform(
        self, Y: Any, *, data: Any = None, offset: Any = None, return_variance: bool = False
    ) -> Any:
        """Means of the rows' latent positions, as the encoder gives them.

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`; an AnnData's obs
                serves too.
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p); None: 0.
            return_variance: also return the variances.

        Returns:
            Means (n, q); with `return_variance` the pair (means, variances).

        Raises:
            InputError: columns, conditions or values are not such as the model was fitted to.
        """
        block = self._block(Y, data, offset)
        mean, variance = in_slices(lambda part, _: positions(self.model_, part), block, SLICE)
        return (mean, variance) if return_variance else mean

    def embed(self, data: Any, *, key: str = "X_poplin", offset: Any = None) -> None:
        """Write the latent means of an AnnData's rows into its obsm, where maps start from.

        Args:
            data: an AnnData; conditions and batch are read from its obs.
            key: name in obsm of the positions (n, q).
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p); None: 0.

        Raises:
            InputError: anything but an AnnData object, or rows that are not such as the model was fitted to.
        """
        if not is_instance(data, "anndata", "AnnData"):
            kind = type(data).__name__
            raise InputError(f"embed writes into an AnnData object, and was given a {kind}. Use transform.")
        data.obsm[key] = self.transform(data, offset=offset)

    def fit_transform(self, Y: Any, y: Any = None, **others: Any) -> np.ndarray:
        """Fit, then the latent positions of the training rows.

        Args:
            Y: rows (n, p), as in `fit`.
            y: ignored.
            others: arguments of `fit` by name: data, offset, weights.

        Returns:
            Means (n, q).
        """
        self.fit(Y, y, **others)
        return self.transform(Y, data=others.get("data"), offset=others.get("offset"))

    def inverse_transform(self, W: Any, *, data: Any = None, offset: Any = 0.0) -> np.ndarray:
        """E[y | w] at latent positions: what the decoder makes of them.

        Args:
            W: positions (n, q).
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`.
            offset: on the log scale, for counts: one number, or (n,).

        Returns:
            Means (n, p); for a categorical likelihood the most probable category.

        Raises:
            InputError: W or data has another shape.
        """
        latent = as_positions(W, self.shape_.rank).astype(np.float32)
        x = conditions(self.coded_, data, len(latent))
        given = as_named(offset, "offset").values
        if given.shape not in ((), (1,), (len(latent),), (len(latent), 1)):
            raise InputError(
                f"offset has the shape {given.shape}; wanted is one number, or ({len(latent)},), one for each position."
            )
        o = np.broadcast_to(np.reshape(given, (-1, 1)), (len(latent), 1)).astype(np.float32)
        return np.asarray(_decoded(self.model_, latent, x, o))

    def reconstruct(self, Y: Any, *, data: Any = None, offset: Any = None, under: Any = None) -> np.ndarray:
        """E[y | w] at each row's own latent mean.

        Args:
            Y: rows (n, p) with the columns of the fit, matched by name where both have names.
            data: conditions and batch (DataFrame, n rows) of a model with `condition` or `batch`; an AnnData's obs
                serves too.
            offset: on the log scale, for counts: a number, (n,), (n, 1) or (n, p); None: 0.
            under: other conditions to decode the rows with (DataFrame, n rows); None: their own.

        Returns:
            Means (n, p).

        Raises:
            InputError: columns, conditions or values are not such as the model was fitted to.
        """
        block = self._block(Y, data, offset)
        latent = in_slices(lambda part, _: positions(self.model_, part)[0], block, SLICE)
        x = block.x if under is None else conditions(self.coded_, under, len(latent))
        return np.asarray(_decoded(self.model_, latent, x, block.offset))

    def save(self, path: Any) -> None:
        """Write the fit, and what new rows need, to one .npz file (no pickle), whole or not at all.

        Args:
            path: the file; `poplin.load` reads it. The training rows are not kept in it.

        Raises:
            InputError: the file cannot be written.
        """
        leaves = jax.tree.leaves(self.model_)
        arrays = {f"model_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        arrays |= {f"columns_{name}": column for name, column in self.columns_._asdict().items()}
        arrays |= {f"history_{name}": self.history_[name].to_numpy() for name in self.history_.columns}
        arrays |= {f"attribute_{name}": array for name, array in self._kept().items()}
        arrays["held_out"] = self.held_out_
        settings = {k: v for k, v in self.get_params().items() if k not in OF_A_RUN}  # type: ignore[attr-defined]
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
    fit.coded_ = Coded(tuple(meta["columns"]), made)
    fit.column_names_, fit.n_features_in_ = fit.coded_.columns, len(meta["columns"])
    fit.shape_ = Shape(*meta["shape"])
    fit.columns_ = Columns(**{name: arrays[f"columns_{name}"] for name in Columns._fields})
    empty = build(fit._words(), fit.shape_, fit.columns_, derive(0, Purpose.MAIN).generator())
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
