"""From settings in words to the parts of a neural model with their first values.

Start at `build`. Nothing here is compiled: first values are drawn by NumPy, so that a seed gives the same model on
every machine, and sizes follow from the data and the settings alone, so that a saved model can be rebuilt.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError
from poplin._random import Purpose, derive
from poplin.fitting.training import Columns
from poplin.methods.gradient import Amortised
from poplin.models.likelihoods import (
    AbstractLikelihood,
    Bernoulli,
    Categorical,
    Gaussian,
    NegativeBinomial,
    Poisson,
    RowGaussian,
)
from poplin.models.networks import (
    AbstractPrior,
    BorrowedDecoder,
    LinearDecoder,
    Mixture,
    NetworkDecoder,
    StandardNormal,
    random_network,
)
from poplin.rows.encoders import DiagonalEncoder, Features, FullEncoder, PointEncoder, Rates

# Settings as scikit-learn knows them, without importing it: get_params, set_params, repr.
#
# Start at `AbstractEstimator`: the constructor stores its arguments under their names and does nothing else, so
# `sklearn.base.clone` and grid searches work on whatever derives from it.


def not_fitted(what: str, attribute: str) -> Exception:
    """scikit-learn's error for what is wanted of a model before `fit`; it is a ValueError and an AttributeError."""
    from sklearn.exceptions import NotFittedError

    return NotFittedError(f"{what} has not been fitted, so it has no {attribute}. Call fit first.")


class AbstractEstimator:
    """A class whose settings are the arguments of its constructor."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name.

        Args:
            deep: there for scikit-learn; changes nothing.

        Returns:
            The arguments of the constructor, as they were given or set.
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **settings: Any) -> Self:
        """Change settings by name; a fit that is there stays as it is.

        Args:
            settings: arguments of the constructor by name.

        Returns:
            The estimator itself.

        Raises:
            ValueError: an unknown name; the message lists the known ones.
        """
        known = self.get_params()
        for name, value in settings.items():
            if name not in known:
                raise ValueError(f"{type(self).__name__} has no setting {name!r}; it has {', '.join(known)}.")
            setattr(self, name, value)
        return self

    if not TYPE_CHECKING:  # else any name would pass for an attribute

        def __getattr__(self, name: str) -> Any:
            # called for what is not there: an attribute of a fit, with an underscore at its end, where there was none
            if name.startswith("_") or not name.endswith("_") or "n_features_in_" in vars(self):
                return object.__getattribute__(self, name)  # raises again what brought us here
            raise not_fitted(f"This {type(self).__name__}", name)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's pipelines and searches ask of an estimator: it needs a fit, and no target."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(sparse=True),
        )

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        changed = [
            f"{name}={_told(value)}"
            for name, value in self.get_params().items()
            if value is not parameters[name].default and not _same(value, parameters[name].default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


def _told(value: Any) -> str:
    """The value as it is written; a table by its shape."""
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"<{type(value).__name__} {' x '.join(map(str, shape))}>"


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and isinstance(value, (str, int, float, bool)) and value == default


# Settings that models with an encoder share, each said once.
#
# Start at `NetworkSettings`; `check_settings` is asked before a fit. A model is a dataclass over these: its own
# settings come first, what it inherits is given by name, and a default that differs is said again in the model.
# scikit-learn reads them all off the signature that the dataclass makes. What each means is told by `VAE`.


def _whole(first: int) -> tuple[Callable[[Any], bool], str]:
    """Whole numbers from `first` on, and how they are called."""
    return (
        lambda x: isinstance(x, int | np.integer) and not isinstance(x, bool) and bool(x >= first),
        f"a whole number from {first}",
    )


def _number(test: Callable[[Any], bool], words: str) -> tuple[Callable[[Any], bool], str]:
    """Finite numbers that pass the test, and how they are called."""
    return (
        lambda x: (
            isinstance(x, int | float | np.integer | np.floating)
            and not isinstance(x, bool)
            and bool(abs(x) < float("inf"))
            and test(x)
        ),
        words,
    )


def _layers(hidden: Any) -> bool:
    one = _whole(1)[0]
    return one(hidden) or (isinstance(hidden, list | tuple) and all(map(one, hidden)))


SHARE = _number(lambda x: 0 <= x < 1, "a share from 0 to below 1")
WEIGHT = _number(lambda x: x >= 0, "a number from 0")
# What each setting may be, and how that is said. Those that name a part of the model are told where it is built.
ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("n_components", "n_clusters", "max_epochs", "pretrain_epochs", "batch_size"), _whole(1)),
    **dict.fromkeys(("draws", "importance", "update_interval", "max_iter"), _whole(1)),
    **dict.fromkeys(("kl_warmup", "random_state"), _whole(0)),
    **dict.fromkeys(("beta", "pretrain_beta", "gamma", "tol"), WEIGHT),
    "learning_rate": _number(lambda x: x > 0, "a number above 0"),
    "validation_fraction": SHARE,
    "hidden": (
        _layers,
        "the units of each hidden layer, whole numbers from 1, such as (64, 32), or () for none",
    ),
    "patience": (
        lambda x: x is None or _whole(1)[0](x),
        "a whole number from 1, or None to train to the end",
    ),
    "callback": (lambda x: x is None or callable(x), "a function, or None"),
    "binarise": (lambda x: isinstance(x, bool), "True or False"),
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises `InputError` for a setting that is of another kind than it may be, whatever estimator it is of."""
    for name, value in settings.items():
        allowed, words = ALLOWED.get(name, (lambda _: True, ""))
        if not allowed(value):
            raise InputError(f"{name}={value!r}; wanted is {words}.")


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkSettings:
    """The rows, the networks, how a step is taken, and how a fit that was stopped goes on."""

    likelihood: str = "gaussian"
    scale: Any = "column"
    hidden: Any = (128,)
    activation: str = "relu"
    condition: Any = ()
    batch: str | None = None
    layer: str | None = None
    batch_size: int = 128
    learning_rate: float = 1e-3
    callback: Any = None
    random_state: int = 0
    checkpoint: Any = None


@dataclass(kw_only=True, eq=False, repr=False)
class EpochSettings:
    """How long it is trained."""

    binarise: bool = False
    max_epochs: int = 400
    schedule: str = "constant"
    validation_fraction: float = 0.1
    patience: int | None = 20


@dataclass(kw_only=True, eq=False, repr=False)
class BoundSettings:
    """The rows' Gaussians and the bound."""

    posterior: str = "diagonal"
    draws: int = 1
    kl_warmup: int = 10


ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
}


class Shape(NamedTuple):
    """What sizes follow from: columns p, covariates d, latent dimensions q, categories (0: none)."""

    columns: int
    covariates: int
    rank: int
    levels: int


class Words(NamedTuple):
    """The settings that name the parts of a model."""

    posterior: str  # "diagonal", "full" or "point"
    likelihood: str
    scale: Any
    prior: Any
    hidden: tuple[int, ...]
    activation: str
    basis: Any


def widths(hidden: Any) -> tuple[int, ...]:
    """The widths of the hidden layers: a number alone is one layer."""
    return (hidden,) if isinstance(hidden, int) else tuple(hidden)


def build(words: Words, shape: Shape, columns: Columns, random: np.random.Generator) -> Amortised:
    """The model with its first values, in single precision."""
    likelihood = _likelihood(words, shape, columns)
    activation = _of(ACTIVATIONS, words.activation, "activation")
    model = Amortised(
        _encoder(words, shape, columns, activation, random),
        _decoder(words, shape, columns, likelihood, activation, random),
        likelihood,
        _prior(words.prior, shape.rank, random),
    )
    return jax.tree.map(lambda a: np.asarray(a, dtype=np.float32), model)


def _of(known: dict[str, Any], name: Any, what: str) -> Any:
    if name not in known:
        raise InputError(f"{what}={name!r} is not known; it is one of {', '.join(map(repr, known))}.")
    return known[name]


def _encoder(
    words: Words, shape: Shape, columns: Columns, activation: Any, random: np.random.Generator
) -> Any:
    p, q = shape.columns, shape.rank
    logged = words.likelihood in ("poisson", "negative-binomial", "poisson-lognormal")
    unit = np.ones(p) if words.likelihood in ("bernoulli", "categorical") else columns.seen_unit
    if logged or (words.likelihood == "gaussian" and words.scale not in ("column", "row")):
        # columns of one kind share a unit: one that hardly ever varies would be all noise in its own
        unit = np.full(p, np.sqrt(np.mean(np.square(columns.seen_unit))))
    features: Any = Features(columns.seen_mean, unit)  # type: ignore[arg-type]
    if logged:
        features = Rates(columns.seen_mean, unit, columns.typical)  # type: ignore[arg-type]
    outputs = {"diagonal": 2 * q, "full": 2 * q + q * q, "point": q}
    sizes = (p + shape.covariates + 1, *words.hidden, _of(outputs, words.posterior, "posterior"))
    network = random_network(
        random, sizes, activation, final_scale=1.0 if words.posterior == "point" else 0.3
    )
    if words.posterior == "full":
        return FullEncoder(features, network, q)
    return (PointEncoder if words.posterior == "point" else DiagonalEncoder)(features, network)


def _decoder(words, shape: Shape, columns: Columns, likelihood: Any, activation, random) -> Any:
    width = likelihood.width(shape.columns)
    intercept = np.zeros(width)
    if words.likelihood == "bernoulli":
        share = np.clip(columns.mean, 0.01, 0.99)
        intercept = np.log(share / (1 - share))
    elif words.likelihood in ("poisson", "negative-binomial", "poisson-lognormal"):
        intercept = columns.log_rate
    if words.basis is not None:
        basis = np.asarray(words.basis, dtype=float)
        scale = np.full(shape.rank, np.log(0.5 * np.sqrt(shape.columns)))
        return BorrowedDecoder(intercept, np.zeros((shape.covariates, width)), scale, basis)  # type: ignore[arg-type]
    if not words.hidden or words.likelihood == "poisson-lognormal":
        loadings = 0.3 * random.standard_normal((width, shape.rank))
        return LinearDecoder(intercept, np.zeros((shape.covariates, width)), loadings)  # type: ignore[arg-type]
    sizes = (shape.rank + shape.covariates, *reversed(words.hidden), width)
    network = random_network(random, sizes, activation, final_scale=0.3)
    return NetworkDecoder(network, intercept)  # type: ignore[arg-type]


def _likelihood(words: Words, shape: Shape, columns: Columns) -> AbstractLikelihood:
    p = shape.columns
    if words.likelihood == "gaussian":
        return _gaussian(words.scale, p, columns)
    if words.likelihood == "negative-binomial":
        return NegativeBinomial(columns.log_size)  # type: ignore[arg-type]
    known = {
        "bernoulli": Bernoulli(),
        "categorical": Categorical(max(shape.levels, 2)),
        "poisson": Poisson(),
        "poisson-lognormal": Poisson(),
    }
    names = dict.fromkeys(("gaussian", "negative-binomial")) | known
    return _of(names, words.likelihood, "likelihood")


def _gaussian(scale: Any, p: int, columns: Columns) -> AbstractLikelihood:
    if scale == "row":
        return RowGaussian(columns.mean, columns.unit)  # type: ignore[arg-type]
    if scale == "column":
        return Gaussian(np.zeros(p), columns.mean, columns.unit, True)  # type: ignore[arg-type]
    fixed = 1.0 if scale == "fixed" else scale
    if isinstance(fixed, str) or not np.all(np.isfinite(fixed)) or np.any(np.asarray(fixed) <= 0):
        raise InputError(
            f"scale={scale!r} is not known; it is 'column', 'row', 'fixed' (a standard deviation of 1), or a "
            "standard deviation above 0."
        )
    return Gaussian(np.zeros(p), columns.mean, np.full(p, fixed), False)  # type: ignore[arg-type]


def _prior(prior: Any, q: int, random: np.random.Generator) -> AbstractPrior:
    if prior == "normal":
        return StandardNormal()
    if isinstance(prior, int | np.integer) and prior >= 1:
        means = random.standard_normal((prior, q))
        return Mixture(np.zeros(prior), means, np.zeros((prior, q)))  # type: ignore[arg-type]
    raise InputError(f"prior={prior!r} is not known; it is 'normal' or a number of components.")


# Where clusters begin: a label for every row from its latent position, without any label from elsewhere.
#
# Start at `STARTS`. k-means looks for round groups of one size; a graph of neighbours follows groups of any shape,
# and cuts where few rows are near each other. `fitted_mixture` is the start of a normal mixture.


SMALLEST_VARIANCE = 1e-3  # of a component when the mixture starts
NEIGHBOURS = 10  # of each row, in the graph
TRIALS = 20  # starts of k-means, of which the best is kept


def by_means(latent: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Labels (n,) of the best of 20 starts of k-means on positions (n, q)."""
    from sklearn.cluster import KMeans

    found: Any = KMeans(clusters, n_init=TRIALS, random_state=seed)  # type: ignore[arg-type]
    return found.fit_predict(latent)


def by_neighbours(latent: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Labels (n,) by spectral clustering of the graph in which each row is tied to its ten nearest.

    A ties i and j with 1 where each is near the other, 1/2 where one is; leading eigenvectors of D^(-1/2) A D^(-1/2),
    rows scaled to length one, are grouped by k-means: as many as clusters, and up to half as many more, since a group
    that the first ones leave together shows in the next. Kept is the grouping of the smallest normalised cut. Cost: a
    search for neighbours (n log n while q is small) and products of a sparse matrix of 20 n entries. Sources: Ng,
    Jordan & Weiss (2001), NIPS; Shi & Malik (2000), IEEE PAMI 22.
    """
    import scipy.sparse
    from scipy.sparse.linalg import eigsh
    from sklearn.neighbors import kneighbors_graph

    n = len(latent)
    near: Any = kneighbors_graph(latent, min(NEIGHBOURS, n - 1), include_self=False)
    ties = (near + near.T) / 2
    root = np.sqrt(np.asarray(ties.sum(axis=1)).ravel())
    scaled = scipy.sparse.diags_array(1 / root)
    first = root + 0.1 * root.mean() * derive(seed, Purpose.MAIN).generator().standard_normal(n)
    numbers = sorted({min(clusters + more, n - 1) for more in (0, clusters // 4, clusters // 2)})
    # to machine precision: a looser one misses that a graph in pieces has the largest eigenvalue several times
    how: Any = {"which": "LA", "v0": first, "tol": 0, "ncv": min(6 * clusters, n)}
    _, vectors = eigsh(scaled @ ties @ scaled, numbers[-1], **how)
    found = [by_means(_of_length_one(vectors[:, -many:]), clusters, seed) for many in numbers]
    return min(found, key=lambda labels: normalised_cut(ties, labels))


def normalised_cut(ties: Any, labels: np.ndarray) -> float:
    """Sum over groups of the share of their ties (sparse, n x n) that leads out of them."""
    member = np.eye(labels.max() + 1)[labels]
    inside, whole = np.sum(member * (ties @ member), axis=0), np.asarray(ties.sum(axis=1)).ravel() @ member
    return float(np.sum(1 - inside[whole > 0] / whole[whole > 0]))


def _of_length_one(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


class Grouping(NamedTuple):
    """How rows are grouped, and for how many epochs those groups are what clustering aims at."""

    labels: Callable[[np.ndarray, int, int], np.ndarray]
    held: int


STARTS = {"k-means": Grouping(by_means, 0), "neighbours": Grouping(by_neighbours, 1)}


def centres(latent: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """The mean position of each group, (k, q); that of all rows for a group without any."""
    members = [latent[labels == k] for k in range(clusters)]
    means = [(one if len(one) else latent).mean(axis=0) for one in members]
    return np.stack(means).astype(np.float32)


def fitted_mixture(latent: np.ndarray, components: int, seed: int) -> Mixture:
    """The normal mixture of diagonal covariances that fits latent positions (n, q) best, of 5 starts."""
    from sklearn.mixture import GaussianMixture

    floor = SMALLEST_VARIANCE * float(np.mean(np.var(latent, axis=0)))
    found = GaussianMixture(components, covariance_type="diag", n_init=5, reg_covar=floor, random_state=seed)
    found.fit(latent.astype(float))
    held: Any = found  # scikit-learn's types say that they may be None
    arrays = (np.log(held.weights_), held.means_, 0.5 * np.log(held.covariances_))
    return jax.tree.map(lambda a: np.asarray(a, dtype=np.float32), Mixture(*arrays))
