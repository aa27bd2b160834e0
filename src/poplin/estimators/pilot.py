"""A short fit that asks the data how much a free Sigma should be shrunk.

Start at `piloted`.
"""

import numpy as np

from poplin.data.placing import on_host
from poplin.estimators import phases
from poplin.estimators.phases import Fitted, Recipe, Settings

PILOT_ROWS = 2.0  # pseudo-rows behind Sigma while the data are asked how many there should be
PILOT_STEPS = 64


def piloted(
    recipe: Recipe, where: phases.Chained, settings: Settings, *, whole: float
) -> tuple[Fitted, phases.Chained, float]:
    """A short fit with a little shrinkage, and the pseudo-rows that it asks for in a table of so many rows."""
    settings = settings._replace(max_iter=PILOT_STEPS)
    pilot, where = phases.ml_phase(phases.with_shrinkage(recipe, PILOT_ROWS), where, settings, phase="pilot")
    root = np.asarray(pilot.model.loadings)
    rows = float(np.sum(on_host(where.block.weights), dtype=float))
    return pilot, where, pseudo_rows(root @ root.T, rows, pilot=PILOT_ROWS, whole=whole)


def pseudo_rows(covariance: np.ndarray, rows: float, *, pilot: float, whole: float | None = None) -> float:
    """kappa: the pseudo-rows of independent columns that the data ask for, from a pilot fit with some.

    A prior of kappa rows with covariance diag(S) gives small correlations the variance 1 / kappa, so the
    evidence asks for 1 / tau^2, tau^2 the mean squared correlation of S less the 1 / N of noise. Half of
    that is taken: correlations have heavier tails than a normal (held out on four tables, half was never
    worse than the bound by two standard errors). The factor p / (p + N / 10) then lets the pull vanish
    faster than standard errors as N grows. `whole`: the rows N of the fit, where the pilot had fewer.
    """
    deviation = np.sqrt(np.diag(covariance))
    shrunk = (covariance / deviation / deviation[:, None])[np.triu_indices_from(covariance, 1)]
    if shrunk.size == 0:
        return 0.0
    signal = float(np.mean((shrunk * (1 + pilot / rows)) ** 2)) - 1 / rows
    p = len(covariance)
    return float(min(0.5 / max(signal, 1e-12), rows) * p / (p + (rows if whole is None else whole) / 10))
