"""The scales on which intervals are made: plain, logarithmic for variances, Fisher's for correlations.

Start at `Scale`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from poplin.inference import intervals
from poplin.inference.intervals import Interval


class Scale(NamedTuple):
    """The scale of an interval: from a standard error and a shift, and where replicates are looked at."""

    interval: Callable[..., Interval]
    there: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


PLAIN = Scale(intervals.plain, np.asarray, np.asarray)
POSITIVE = Scale(intervals.positive, np.log, np.exp)
FISHER = Scale(intervals.fisher, np.arctanh, np.tanh)


def correlations(covariance: np.ndarray) -> np.ndarray:
    """Sigma_jk / (s_j s_k)."""
    scale = np.sqrt(np.diag(covariance))
    return covariance / scale / scale[:, None]
