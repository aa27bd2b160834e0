"""Fully connected networks as plain arrays: what encoders and decoders are made of.

Start at `Network`; `random_network` gives one its first weights. Inputs are rows, (..., k): the layers are matrix
products, so a batch is one product and not a `vmap` of many.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import numpy as np
from jax import Array


class Network(eqx.Module):
    """x -> a(x W_1 + b_1) -> ... -> h W_l + b_l; without hidden layers it is affine."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(self, rows: Array) -> Array:
        """What the last layer gives for rows (..., k)."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            rows = self.activation(rows @ weight + bias)
        return rows @ self.weights[-1] + self.biases[-1]


def random_network(
    random: np.random.Generator,
    sizes: Sequence[int],
    activation: Callable[[Array], Array],
    *,
    final_scale: float = 1.0,
) -> Network:
    """A network of layers sizes[0] -> sizes[1] -> ..., weights N(0, 1 / inputs), biases zero, single precision.

    `final_scale` multiplies the last layer's weights: a small one lets every row start from the same output.
    """
    weights = [
        random.standard_normal((a, b)) / np.sqrt(max(a, 1)) for a, b in zip(sizes, sizes[1:], strict=False)
    ]
    weights[-1] = weights[-1] * final_scale
    single = tuple(np.asarray(weight, dtype=np.float32) for weight in weights)
    return Network(single, tuple(np.zeros(b, dtype=np.float32) for b in sizes[1:]), activation)  # type: ignore[arg-type]
