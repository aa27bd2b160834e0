"""The double-precision door and the small dense algebra that needs it.

Start at `double_precision`: every fit runs inside it, so that importing poplin changes no JAX flag of the
user's process. Shared matrices (p x p) are factored here, in double; rows may be in single precision.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve

from poplin._rules import usual_rules


@contextmanager
def double_precision() -> Iterator[None]:
    """Double precision inside, products of matrices that are not rounded first, one thread for small factorisations.

    An accelerator rounds single-precision factors of a product to ten bits unless told otherwise: the chains of `ml`
    would then be accepted or refused by other rates than theirs. On a processor nothing changes.

    JAX calls the BLAS that SciPy ships for Cholesky and triangular solves. With several threads those spin
    against JAX's own: a 50 x 50 inverse took 17 ms instead of 0.1 ms beside one other busy process.
    """
    import scipy.linalg  # noqa: F401  (loaded first, so that the limit below finds its BLAS)
    from threadpoolctl import threadpool_limits

    with usual_rules(), threadpool_limits(1, user_api="blas"):
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            yield


def inverse_and_logdet(matrix: Array) -> tuple[Array, Array]:
    """Inverse and log-determinant of a symmetric positive definite matrix, by Cholesky, in O(p^3)."""
    lower = jnp.linalg.cholesky(matrix)
    inverse = cho_solve((lower, True), jnp.eye(matrix.shape[-1], dtype=matrix.dtype))
    return inverse, 2 * jnp.sum(jnp.log(jnp.diagonal(lower)))


def solve_gram(gram: Array, right: Array) -> Array:
    """Solve gram @ out = right for a d x d cross-product matrix, scaled to unit diagonal first."""
    scale = 1 / jnp.sqrt(jnp.diagonal(gram))
    inverse, _ = inverse_and_logdet(gram * scale[:, None] * scale[None, :])
    return scale[:, None] * (inverse @ (scale[:, None] * right))
