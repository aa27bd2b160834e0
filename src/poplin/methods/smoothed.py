"""Two networks that say from a row what its variational mean and standard deviations were: the notes' smoothing.

Start at `Smoother`; `Nearness` is what they are trained for.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from poplin.methods.objectives import AbstractObjective, Terms
from poplin.models.networks import Network
from poplin.rows.encoders import Excess, Features


class Lesson(NamedTuple):
    """Rows as an encoder sees them, and the mean and standard deviations (n, k) that it is to give."""

    y: Array
    x: Array
    offset: Array
    weights: Array
    index: Array
    mean: Array
    sd: Array


class Smoother(eqx.Module):
    """Mean g(row) with a linear output, standard deviations h(row) with softplus, each by its own network."""

    features: Features | Excess
    for_mean: Network
    for_sd: Network

    def __call__(self, rows: Any) -> tuple[Array, Array]:
        """Means and standard deviations (n, k)."""
        seen = self.features(rows.y, rows.x, rows.offset)
        return self.for_mean(seen), jax.nn.softplus(self.for_sd(seen))


class Nearness(AbstractObjective):
    """Minus half the squared errors of both networks, summed over the k numbers of a row."""

    def terms(self, model, key, block: Any, temper):
        mean, sd = model(block)
        value = -0.5 * jnp.sum((mean - block.mean) ** 2 + (sd - block.sd) ** 2, axis=-1)
        return Terms(value, value, jnp.zeros_like(value))
