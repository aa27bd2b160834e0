"""`select`: which rank, which shape of Sigma? Candidates side by side, by likelihood.

Start at `select`; `Selection` is what it returns.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from poplin._errors import DataWarning, InputError
from poplin.data.counts import as_counts, check_rank
from poplin.estimators import standings
from poplin.estimators.contest import DIRECTION, Contest
from poplin.estimators.pln import PLN
from poplin.estimators.recipes import count

if TYPE_CHECKING:
    import pandas


class Selection(NamedTuple):
    """Candidates and the choice.

    `table`: a line a candidate; `fit`: the chosen one, fitted to all rows; `settings`: what it takes beside the
    common ones; `criterion` chose, `direction` says which way is better, `words` say all of it in a sentence.
    """

    table: pandas.DataFrame
    fit: PLN
    settings: dict[str, Any]
    criterion: str
    direction: str
    words: str

    def summary(self) -> str:
        """The table and the choice as plain text."""
        shown = self.table.drop(columns="chosen").to_string(float_format=lambda value: f"{value:.2f}")
        told = [f"{name}: {direction}" for name, direction in self.table.attrs.items()]
        return "\n".join([shown, "", "; ".join(told), self.words])


def select(
    Y: Any,
    *,
    ranks: Any = "auto",
    covariances: Sequence[Any] = (),
    basis: Any = None,
    criterion: str | Sequence[str] = "heldout",
    folds: Any = standings.FOLDS,
    X: Any = None,
    offset: Any = None,
    weights: Any = None,
    data: Any = None,
    **settings: Any,
) -> Selection:
    """Fit candidates, compare them by likelihood, and fit the chosen one to all rows.

    Candidates: `ranks` ("auto" looks for the best with few fits, a sequence takes these, () none) of free loadings,
    or of the leading columns of `basis` V (p, q); and direct forms with a Sigma of each of `covariances` ("full",
    "diagonal", "spherical", or Sigma). `criterion`, the first of several chooses:
        "heldout" (higher is better): sum over rows of w_i log p(y_i), each row scored by a fit to the other folds,
            importance-sampled, the same folds and draws for all. The simplest candidate within one standard error
            of the best is chosen, by the paired differences of rows. `folds`: a number, or a label for each row.
        "aic", "bic", "icl" (lower is better): -2 log p(Y) plus 2 K, K log n, K log n + 2 H, with K free parameters,
            n the sum of weights, H the entropy of the rows' positions.
    `settings` are those of `PLN` (method, shrinkage, formula, callback, random_state, ...); `tol` is 0.1 unless given,
    so that chance in the fits does not decide. Y, X, offset, weights, data: as in `PLN.fit`.

    Returns a `Selection`. Raises `InputError` for what cannot be fitted or divided, KeyboardInterrupt if it was
    interrupted. Cost: for ranks, each fold (each table) one generous fit from scratch, then a short one a rank;
    a search needs 3 ranks if its guess is right. Memory: 4 n p numbers a fold.

    >>> import numpy as np, poplin
    >>> random = np.random.default_rng(0)
    >>> counts = random.poisson(np.exp(1 + random.normal(size=(100, 1)) * np.ones(4)))
    >>> found = poplin.select(counts, ranks=[1, 2], criterion="bic")
    >>> found.table.index[found.table.chosen].tolist(), found.fit.loadings_.shape
    (['rank 1'], (4, 1))
    """
    face = PLN(**_common(settings))
    criteria = standings.criteria_of(criterion)
    counts = as_counts(Y, X=X, offset=offset, weights=weights, data=data, formula=face.formula)
    seed = count(face.random_state, "random_state", least=0)
    labels = standings.labels_of(counts, folds, seed=seed)
    contest = Contest(counts, face.get_params() | {"basis": basis}, criteria, labels)
    _enter(contest, ranks, covariances)
    winner = contest.winner()
    standings.warn_of_doubt(contest, stacklevel=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # said above
        fit = PLN(**settings, **winner.settings).fit(Y, X=X, offset=offset, weights=weights, data=data)
    told = standings.words(contest)
    return Selection(
        standings.table(contest), fit, winner.settings, criteria[0], DIRECTION[criteria[0]], told
    )


def _common(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that all candidates share; those that tell them apart have arguments of their own."""
    for name, own in (("rank", "ranks"), ("covariance", "covariances")):
        if name in settings:
            raise InputError(f"{name} is what select chooses: give {own}, a sequence of candidates.")
    return settings


def _enter(contest: Contest, ranks: Any, covariances: Sequence[Any]) -> None:
    """Fit and score every candidate."""
    if isinstance(covariances, str) or isinstance(ranks, int | np.integer):
        raise InputError(
            "ranks and covariances are sequences, for example ranks=[2, 5], covariances=['full']."
        )
    if isinstance(ranks, str):
        if ranks != "auto":
            raise InputError(f"ranks={ranks!r}: wanted is 'auto' or a sequence of whole numbers.")
        contest.search()
    else:
        wanted = [check_rank(rank, contest.limit, contest.limit) for rank in (() if ranks is None else ranks)]
        for rank in sorted(wanted, reverse=True):
            contest.of_rank(rank)
    for covariance in covariances:
        contest.of_shape(covariance)
    if not contest.found:
        raise InputError("Nothing to choose from: give ranks or covariances.")
