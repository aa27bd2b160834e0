"""What poplin takes for granted of JAX, whatever the user's process has set: NaN is a value, keys are Threefry's.

Start at `usual_rules`, inside which every program runs, and `key_of`. Loops begin with NaN where nothing has been
computed, chains count words of Threefry by a row's number: under `jax_debug_nans` or another generator they would end
in an error. Where nothing unusual is set, nothing is changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

THREEFRY = "threefry2x32"
RULES: tuple[tuple[Any, Any], ...] = (
    (jax.debug_nans, False),
    (jax.debug_infs, False),
    (jax.default_prng_impl, THREEFRY),
    (jax.numpy_rank_promotion, "allow"),
    (jax.numpy_dtype_promotion, "standard"),
)


@contextlib.contextmanager
def usual_rules() -> Iterator[None]:
    """Inside, this thread computes by the rules that poplin is written for."""
    with contextlib.ExitStack() as changed:
        for rule, usual in RULES:
            if rule.value != usual:
                changed.enter_context(rule(usual))
        yield


def key_of(seed: int) -> jax.Array:
    """The random key of a seed."""
    return jax.random.key(seed, impl=THREEFRY)
