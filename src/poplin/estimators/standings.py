"""How candidates stand: the table, the sentence, and the rank that `PLN(rank="auto")` takes.

Start at `table`. The contest itself is in `contest.py`, its public face in `selecting.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.counts import Counts
from poplin.estimators import doubts
from poplin.estimators.contest import CRITERIA, DIRECTION, HELD_OUT, Candidate, Contest
from poplin.estimators.recipes import count, one_of, recipe
from poplin.inference import selection

if TYPE_CHECKING:
    import pandas

FOLDS = 5
NAMES = {
    HELD_OUT: "the log-likelihood of held-out rows",
    "aic": "AIC",
    "bic": "BIC",
    "icl": "ICL",
}
RULE = "the simplest candidate within one standard error of the best"


class Chosen(NamedTuple):
    """The rank, how the candidates stand, and a sentence that says why."""

    rank: int
    table: pandas.DataFrame
    words: str


def criteria_of(criterion: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the criteria, the one that chooses first; an `InputError` for other names."""
    names = (criterion,) if isinstance(criterion, str) else tuple(criterion)
    if not names:
        raise InputError(f"criterion is empty: wanted is one or more of {', '.join(CRITERIA)}.")
    return tuple(one_of(name, CRITERIA, "criterion") for name in names)


def labels_of(counts: Counts, folds: Any, *, seed: int) -> np.ndarray:
    """The fold of each row, (n,), -1 for rows of weight zero: so many equal folds at random, or as given.

    `folds` (n,) are labels of any kind; rows that belong together (of one patient, one site) should share one.
    """
    used = counts.weights > 0
    if np.ndim(folds) == 0:
        number = count(folds, "folds", least=2)
        if number > used.sum():
            raise InputError(f"folds={number}, but only {int(used.sum())} rows are in use. Use fewer folds.")
        return selection.fold_labels(used, number, seed=seed)
    given = np.asarray(folds)
    if given.shape != used.shape:
        raise InputError(
            f"folds has shape {given.shape}; wanted is a label for each of the {len(used)} rows."
        )
    labels = np.full(len(used), -1)
    labels[used] = np.unique(given[used], return_inverse=True)[1]
    if labels.max() < 1:
        raise InputError("folds: all rows in use have one label; wanted are two folds or more.")
    return labels


def with_rank(counts: Counts, settings: dict[str, Any]) -> tuple[dict[str, Any], Chosen | None]:
    """Settings in which rank="auto" has become a number, and how it was chosen (None where it was given)."""
    if not isinstance(settings["rank"], str) or settings["rank"] != "auto":
        return settings, None
    recipe(
        counts, rank=1, **{name: settings[name] for name in ("covariance", "basis")}
    )  # do they go together?
    chosen = choose_rank(counts, settings)
    return settings | {"rank": chosen.rank}, chosen


def choose_rank(counts: Counts, settings: dict[str, Any]) -> Chosen:
    """The rank by held-out log-likelihood, five folds (fewer rows: a fold each)."""
    folds = min(FOLDS, int((counts.weights > 0).sum()))
    seed = count(settings["random_state"], "random_state", least=0)
    labels = labels_of(counts, folds, seed=seed)
    contest = Contest(counts, settings | {"rank": None}, (HELD_OUT,), labels)
    contest.search()
    warn_of_doubt(contest, stacklevel=5)
    return Chosen(contest.winner().settings["rank"], table(contest), words(contest))


def table(contest: Contest) -> pandas.DataFrame:
    """One line a candidate, in the order of their free parameters.

    Columns: parameters, each criterion asked for, beside held-out log-likelihood the paired difference to the
    best and its standard error, and how the fits went.
    """
    import pandas

    every = sorted(contest.found.values(), key=lambda candidate: candidate.parameters)
    winner = contest.winner()
    lines = [_line(contest, candidate) | {"chosen": candidate is winner} for candidate in every]
    made = pandas.DataFrame(lines, index=pandas.Index([c.label for c in every], name="candidate"))
    made.attrs |= {name: DIRECTION[name] for name in contest.criteria}
    return made


def _line(contest: Contest, candidate: Candidate) -> dict[str, Any]:
    line: dict[str, Any] = {"parameters": candidate.parameters}
    for name in contest.criteria:
        line[name] = contest.told(candidate, name)
        if name == HELD_OUT:
            best = max(contest.found.values(), key=lambda one: contest.value(one, HELD_OUT))
            assert candidate.scores is not None and best.scores is not None
            gap = selection.difference(candidate.scores, best.scores, contest.counts.weights)
            line |= {"difference": gap.value, "difference_se": gap.standard_error}
    if candidate.loglik is not None:
        line |= {"loglik": candidate.loglik, "loglik_se": candidate.loglik_se}
    return line | {"converged": candidate.converged, "seconds": candidate.seconds}


def words(contest: Contest) -> str:
    """Which candidate was chosen, among which, by what, and which direction is better."""
    name = contest.criteria[0]
    others = sorted(contest.found.values(), key=lambda candidate: candidate.parameters)
    among = ", ".join(candidate.label for candidate in others)
    how = f"{NAMES[name]} ({DIRECTION[name]}"
    how += f"; {contest.folds} folds; taken is {RULE})" if name == HELD_OUT else ")"
    told = f"Chosen: {contest.winner().label}, among {among}, by {how}."
    unsure = [candidate.label for candidate in others if not candidate.converged]
    return told + (f" Not every fit converged: {', '.join(unsure)}." if unsure else "")


def warn_of_doubt(contest: Contest, *, stacklevel: int) -> None:
    """A `LikelihoodWarning` where the likelihoods of some rows under a candidate are less exact than they say."""
    unsure = np.any([candidate.unsure for candidate in contest.found.values()], axis=0)
    doubts.warn_of(unsure, contest.counts.row_names, of=" under some candidate", stacklevel=stacklevel)
