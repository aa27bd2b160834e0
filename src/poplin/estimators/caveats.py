"""What has to be known to read standard errors: the sentences, and which of them hold for a fit.

Start at `notes`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_NUMBERS = 6_000  # free numbers whose whole information matrix is formed
MOST_AT_ONCE = 2_000  # free numbers up to which the standard errors of B alone are taken from it
PULLED = 0.005  # share of their size by which correlations are pulled, below which nobody needs to know
SHRUNK = (
    "Correlations are shrunk (by {pull:.2g} of their size): intervals of correlations and covariances lie about where "
    "an unshrunk fit would be, not about the estimates beside them. Eigenvalues' intervals lie about the shrunk ones."
)
SHRUNK_CENTRE = (
    "Correlations are shrunk (by {pull:.2g} of their size), and intervals are centred on the shrunk estimates, with "
    "the width of the unshrunk likelihood. Fit with shrinkage=0 for intervals that cover what they say."
)
EDGE = (
    "{count} of {all} variances are within one standard error of 0: their intervals are not to be relied on."
)
STOPPED = "Standard errors were interrupted before they were ready."
LOST = "{count} of {all} standard errors are missing (NaN): the data do not determine them."
BOUND = (
    "These are standard errors about the value that the bound's maximiser tends to. That value is biased, which they "
    "do not show and intervals do not cover. Fit with method='ml' for intervals about the truth."
)
BREAD = (
    "The observed information could not be told from its Monte-Carlo noise: the sandwich has the expected information "
    "at its outside."
)
OBSERVED_LOST = (
    "The observed information of this table has no inverse that could be told from its Monte-Carlo noise (a Sigma that "
    "is nearly singular, or a column that is hardly seen): these standard errors are from the expected information."
)
TOO_MANY = (
    "Standard errors of {size} free numbers: at most {most} are possible for this model and method. Fit with "
    "method='ml' and a full or diagonal Sigma or a rank, or fewer columns."
)
EXPECTED_ONLY = (
    "{size} free numbers are more than the {most} whose whole information is formed. Standard errors are then found a "
    "few columns at a time, from the expected information: robust, cluster and information={information!r} are not "
    "possible. Leave them out, fit fewer columns or, for single rows, use n_boot."
)
CLUSTERED = (
    "Standard errors are those of clusters by '{name}' ({count} groups): rows of a group may depend on each other. "
    "Intervals and p-values are of Student's t."
)
ONE_GROUP = (
    "{count} of {all} coefficients hang on one group of rows alone: how they vary between groups cannot be seen, and "
    "their "
    "standard errors are missing (NaN)."
)
ONE_CLUSTER = (
    "cluster= is a sandwich of its own: leave n_boot and information out (robust=True adds nothing to it)."
)
NO_QUADRATIC = (
    "{count} of {all} coefficients have no standard error by clusters (NaN): counts say too little of them, as of a "
    "column that is absent from a level. Their p-values are those of score tests by clusters (method 'score')."
)
NO_CLUSTERS_OF_PAIRS = (
    "cluster= is not there for method='composite'. Fit with method='ml' (or 'variational')."
)
SAMPLED_ROWS = (
    "cluster= needs all counts dense, and this table is too large for that. Fit a part of its rows or columns, or "
    "add up "
    "each group's rows to one."
)
ENTRIES = (
    "which={which!r} of all {count} entries: a fit of {size} free numbers has too many ({most} is the most). Say which "
    'are wanted: entries=[("name", "other name"), ...], names or positions of columns.'
)
NOT_ASKED = "Standard errors were not asked for: `confint()` finds them."
FEWER_DRAWS = (
    "Some standard errors need more draws than there was time for (--se-time, fit.standard_errors())."
)
PARTS_IN_TIME = (
    "Standard errors from the whole information would take more than {seconds:.0f} s: these are those of sub-tables of "
    "{columns} columns (expected information by column blocks). --se-time SECONDS, fit.standard_errors(): the whole."
)
VIEWS_IN_TIME = (
    "Standard errors from the whole information would take more than {seconds:.0f} s: these are found {columns} "
    "columns at a time, while all others can only shift, scale and turn the latent position together (expected "
    "information by column blocks). --se-time SECONDS, fit.standard_errors(): the whole."
)
UNFINISHED = "Some columns' standard errors were not ready in time: --se-time SECONDS allows more."
OVER_TIME = (
    "Standard errors would take more than {seconds:.0f} s, and this model has no cheaper ones. --se-time SECONDS or "
    "fit.standard_errors() take longer."
)
NO_AXES = (
    "which='eigenvalues' (or 'scales') needs the whole covariance of Sigma's estimate, which is formed up to {most} "
    "free numbers; here are {size}. Use n_boot, fit a rank, or fewer columns."
)
NO_BASIS = (
    "which='scales' is of fits with a borrowed basis (PLN(basis=V)); this one has none. Use 'eigenvalues'."
)
SUB_TABLES = (
    "{size} free numbers: standard errors are those of sub-tables of {columns} columns, the most telling ones for each "
    "entry, and a little too large rather than too small. Covariances: confint('covariance', entries=[...])."
)
FILLED = (
    "Some directions of the whole fit are lost in Monte-Carlo noise. The standard errors that these touch are those of "
    "sub-tables of {columns} columns, a little too large rather than too small."
)
VIEWS = (
    "{size} free numbers: standard errors are found {columns} columns at a time, while all others can only shift, "
    "scale and turn the latent position together. Covariances: confint('covariance', entries=[...])."
)


def notes(
    fit: Any, said: set[str], errors: np.ndarray, *, bound: bool, large: bool = False
) -> tuple[str, ...]:
    """What has to be known to read these standard errors."""
    told = sorted(said | ({BOUND} if bound else set()))
    if fit.shrinkage_ >= PULLED:
        told.append((SHRUNK_CENTRE if bound or large else SHRUNK).format(pull=fit.shrinkage_))
    lost = int(np.isnan(errors).sum())
    if lost:
        told.append(LOST.format(count=lost, all=errors.size))
    return tuple(told)
