"""Fully connected networks as plain arrays: what encoders and decoders are made of.

Start at `Network`; `random_network` gives one its first weights. Inputs are rows, (..., k): the layers are matrix
products, so a batch is one product and not a `vmap` of many.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
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
            rows = self.activation(affine(rows, weight, bias))
        return affine(rows, self.weights[-1], self.biases[-1])


@jax.custom_vjp
def affine(rows: Array, weight: Array, bias: Array) -> Array:
    """Rows (..., k) W + b. Its gradient is three products of arrays as they lie; JAX's own transposes one before."""
    return rows @ weight + bias


def _affine(rows: Array, weight: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return affine(rows, weight, bias), (rows, weight)


def _affine_slopes(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array, Array]:
    rows, weight = kept
    inner, outer = rows.reshape(-1, rows.shape[-1]), slope.reshape(-1, slope.shape[-1])
    return slope @ weight.T, inner.T @ outer, jnp.ones(len(outer), outer.dtype) @ outer


affine.defvjp(_affine, _affine_slopes)


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
