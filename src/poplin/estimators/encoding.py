"""The parts of an amortised fit in their first state: encoder, latent and the free parameters of (B, C).

Start at `first_encoder`; `as_arrays` and `from_arrays` keep a fitted one. First values are drawn by NumPy; sizes follow
from the options and the data alone, so that a saved encoder can be rebuilt.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poplin._errors import InputError
from poplin.data.blocks import NO_EXPOSURE, Block
from poplin.estimators.building import describe
from poplin.estimators.phases import Recipe
from poplin.methods.amortised import AbstractLatent, DirectLatent, Embedder, FactorLatent
from poplin.methods.options import Amortised
from poplin.models.loadings import AbstractLoadings
from poplin.models.networks import random_network
from poplin.models.roots import DiagonalRoot, FreeRoot, KnownRoot, SphericalRoot
from poplin.rows.encoders import AbstractEncoder, DiagonalEncoder, Excess, FullEncoder, Skip
from poplin.updates.covariance import Diagonal, Fixed, Spherical
from poplin.updates.structure import Model

FIRST_SCALE = 0.3  # of the last layer's first weights: rows begin near the same Gaussian


class Sizes(NamedTuple):
    """Columns p, covariates d, latent dimensions k of C (p, k), and whether the model is in the direct form."""

    columns: int
    covariates: int
    rank: int
    direct: bool


def root_of(recipe: Recipe) -> AbstractLoadings:
    """The free parameters of (B, C) for a shape of Sigma or loadings."""
    if recipe.loadings is not None:
        return recipe.loadings
    if isinstance(recipe.shape, Diagonal):
        return DiagonalRoot()
    if isinstance(recipe.shape, Spherical):
        return SphericalRoot()
    if isinstance(recipe.shape, Fixed):
        return KnownRoot(jnp.linalg.cholesky(recipe.shape.covariance))
    return FreeRoot()


def latent_of(origin: Any) -> AbstractLatent:
    """Of Z - XB_0 where there is a B_0, else of w."""
    return FactorLatent() if origin is None else DirectLatent(origin)


def features_of(block: Block, model: Model, *, directions: np.ndarray) -> Excess:
    """What a network sees of rows: scaled by those of positive weight, and beside what the model expects of them."""
    y, offset = (np.asarray(a) for a in (block.y, block.offset))
    used = np.asarray(block.weights) > 0
    seen = offset[used] > NO_EXPOSURE / 2
    columns = describe(y[used], np.where(seen, offset[used], 0.0), counts=True)
    level = 0.5 * np.sum(np.asarray(model.loadings) ** 2, axis=1)
    parts = columns.seen_mean, columns.seen_unit, level, np.asarray(model.coef), directions
    return Excess(*(np.asarray(a, dtype=np.float32) for a in parts))  # type: ignore[arg-type]


def first_encoder(
    options: Amortised, sizes: Sizes, model: Model, block: Block, random: np.random.Generator
) -> AbstractEncoder:
    """An encoder that begins near a Newton step of each row from the mean, by the model it is given."""
    loadings = np.asarray(model.loadings)
    features = features_of(block, model, directions=loadings)
    return _encoder(options, sizes, features, random, outward=loadings if sizes.direct else None)


def _encoder(
    options: Amortised, sizes: Sizes, features: Excess, random: np.random.Generator, *, outward: Any
) -> AbstractEncoder:
    p, d, k, _ = sizes
    full = options.posterior == "full"
    inputs, outputs = p + 2 * k + d + 1, 2 * k + (k * k if full else 0)
    network = random_network(random, (inputs, *options.hidden, outputs), jax.nn.relu, final_scale=FIRST_SCALE)
    around = np.zeros((inputs, outputs))
    excess, weight = slice(p, p + k), slice(p + k, p + 2 * k)
    around[excess, :k] = np.eye(k) if outward is None else outward.T
    if outward is None:
        around[weight, k : 2 * k] = -0.5 * np.eye(k)
    skip = Skip(network, around.astype(np.float32))  # type: ignore[arg-type]
    return FullEncoder(features, skip, k) if full else DiagonalEncoder(features, skip)


def as_arrays(embedder: Embedder) -> dict[str, np.ndarray]:
    """An embedder's arrays by name, for a file."""
    named = {f"encoder_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(embedder.encoder))}
    return named if embedder.origin is None else named | {"encoder_origin": np.asarray(embedder.origin)}


def from_arrays(options: Amortised, result: Any, arrays: dict[str, np.ndarray]) -> Embedder:
    """The embedder that `as_arrays` took apart, of a fit with this B, C and form."""
    (d, p), k = result.coef.shape, result.loadings.shape[1]
    nothing = Excess(np.zeros(p), np.ones(p), np.zeros(p), np.zeros((d, p)), np.zeros((p, k)))  # type: ignore[arg-type]
    sizes = Sizes(p, d, k, result.direct)
    empty = _encoder(options, sizes, nothing, np.random.default_rng(0), outward=None)
    wanted = jax.tree.leaves(empty)
    leaves = [arrays[f"encoder_{i}"] for i in range(len(wanted))]
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in wanted]:
        raise InputError(
            "The encoder's arrays do not have the sizes that the method's options say. Fit again."
        )
    encoder = jax.tree.unflatten(jax.tree.structure(empty), leaves)
    return Embedder(encoder, arrays.get("encoder_origin"), int(options.refine))
