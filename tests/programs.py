"""Many operations as one program: a test that calls a numerical function by itself compiles it once, not by its lines.

Start at `at_once`. An operation outside of a program is a program of its own, which takes a hundredth of a second to
compile for each shape: a step of a fit has hundreds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def at_once(function: Callable[..., Any], *args: Any) -> Any:
    """The value of a function of arrays, as one program that is traced anew."""
    return jax.jit(lambda *given: function(*given))(*args)
