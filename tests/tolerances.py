"""How close is close: one tolerance a kind of number, for every test.

Deterministic results are compared by `close` (the tolerance follows the coarser of the two types),
Monte-Carlo results by `within_errors` (in standard errors of the estimate).
"""

from __future__ import annotations

from typing import Any

import numpy as np

RELATIVE = {"float32": 5e-4, "float64": 5e-7}
STANDARD_ERRORS = 4.0  # one false alarm in 16 000 comparisons of a normal estimate


def close(actual: Any, expected: Any, scale: float = 1.0) -> bool:
    """Whether both are equal up to `scale` times the tolerance of their types, relative to the largest."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        return False
    tolerance = scale * max(_tolerance(actual), _tolerance(expected))
    size = float(np.max(np.abs(expected), initial=0.0))
    return bool(np.allclose(actual, expected, rtol=tolerance, atol=tolerance * size))


def within_errors(actual: Any, expected: Any, standard_error: Any) -> bool:
    """Whether a Monte-Carlo estimate is within four standard errors of what is expected, entry by entry."""
    gap = np.abs(np.asarray(actual) - np.asarray(expected))
    return bool(np.all(gap <= STANDARD_ERRORS * np.asarray(standard_error)))


def _tolerance(array: np.ndarray) -> float:
    return RELATIVE.get(str(array.dtype), RELATIVE["float64"])
