"""Candidates side by side: each is fitted to the same parts of the rows and scored on the same rows.

Start at `Contest`. `of_rank` and `of_shape` make a candidate (once), `search` looks for the best rank, `winner` applies
the rule: for held-out likelihood the simplest candidate within one standard error of the best, for a deviance the
lowest. By likelihood throughout, never by the bound, whose gap to the likelihood grows with the rank.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from poplin import starts
from poplin._precision import double_precision
from poplin._rules import key_of
from poplin.data.blocks import NO_EXPOSURE
from poplin.data.counts import Counts, check_basis
from poplin.data.held import check_dense
from poplin.estimators import driver, recipes
from poplin.estimators.path import Fit, Part, RankPath, direct_fit, parts, scores_of, whole
from poplin.estimators.phases import Recipe, Settings
from poplin.inference import selection

HELD_OUT, DEVIANCES = "heldout", ("aic", "bic", "icl")
CRITERIA = (HELD_OUT, *DEVIANCES)
DIRECTION = {HELD_OUT: "higher is better"} | dict.fromkeys(DEVIANCES, "lower is better")
GENEROUS = 1.25  # times the first guess: the rank from whose axes the others begin
NARROW = 20  # highest possible rank up to which it is the generous one: one set of programs serves all ranks
ITERATIONS = 1_000  # of fits that are compared (ml), at most: the last of them hardly move a held-out row
TOLERANCE = 0.1  # of fits that are compared (ml): chance in a fit must not decide between neighbours


class Candidate(NamedTuple):
    """A model with what was found of it; what was not asked for is None.

    `scores` (n,): held-out log p(y_i), zero for rows not in use; `loglik`, `loglik_se`, `entropy`: of all rows;
    `unsure` (n,): rows whose likelihood, held out or not, is less exact than it says.
    """

    label: str
    settings: dict[str, Any]
    parameters: int
    scores: np.ndarray | None
    loglik: float | None
    loglik_se: float | None
    entropy: float | None
    unsure: np.ndarray
    converged: bool
    seconds: float


class Contest:
    """Candidates over one table: the parts, the draws and the settings that they share."""

    def __init__(
        self, counts: Counts, settings: dict[str, Any], criteria: tuple[str, ...], labels: np.ndarray
    ) -> None:
        check_dense(counts.y, "The choice among models")
        self.counts, self.criteria, self.labels = counts, criteria, labels
        self.basis = None
        if settings["basis"] is not None:
            self.basis = check_basis(settings["basis"], counts.y.shape[1], counts.column_names)
        self.settings = settings | {"rank": None, "basis": None, "covariance": "full"}
        self.began = time.perf_counter()
        self.found: dict[Any, Candidate] = {}
        self.top = 0  # the highest rank fitted from scratch
        self.parts = parts(counts, labels) if HELD_OUT in criteria else []
        if set(criteria) & set(DEVIANCES):
            self.parts.append(whole(counts))
        key = key_of(settings["random_state"])
        with double_precision():
            keys = [jax.random.fold_in(key, k) for k in range(len(self.parts))]
            self.paths = [RankPath(self._form, *each) for each in zip(self.parts, keys, strict=True)]
            self.score = scores_of(counts, key)

    def of_rank(self, rank: int) -> Candidate:
        """The candidate of a rank (with a basis: of its so many leading columns)."""
        if rank in self.found:
            return self.found[rank]
        with double_precision():
            recipe = self._form(rank)
        if rank > self.top:
            self.top = min(self.limit, max(rank, math.ceil(GENEROUS * self.top)))
        given = {"rank": rank} if self.basis is None else {"basis": self.basis[:, :rank]}

        def fit(k: int, main: Settings) -> Fit:
            if self.settings["method"] != "ml":
                return self._alone(k, given, main)
            self._begin(k)
            return self.paths[k].fit(rank, main)

        label = f"rank {rank}" if self.basis is None else f"basis, {rank} columns"
        self.found[rank] = self._candidate(label, given, recipe, fit, width=lambda: max(self.top, rank))
        return self.found[rank]

    def of_shape(self, covariance: Any) -> Candidate:
        """The candidate of the direct form with a Sigma of this shape (a word, or Sigma itself)."""
        key = covariance if isinstance(covariance, str) else ("fixed", id(covariance))
        if key not in self.found:
            fixed = sum(one.label.startswith("fixed") for one in self.found.values())
            label = covariance if isinstance(covariance, str) else f"fixed {fixed + 1}" if fixed else "fixed"
            given = {"covariance": covariance}
            with double_precision():
                recipe = recipes.recipe(self.counts, **(self._model_settings() | given))
            fit = lambda k, main: self._alone(k, given, main)
            self.found[key] = self._candidate(label, given, recipe, fit, width=lambda: recipe.rank)
        return self.found[key]

    def search(self) -> None:
        """Look for the best rank with few fits: from a guess uphill, then down to where the winner ends.

        Raises KeyboardInterrupt if it was interrupted.
        """
        generous = math.ceil(GENEROUS * self._guess()) + 1
        self.top = self.limit if self.limit <= NARROW else min(self.limit, generous)
        selection.peak(lambda rank: self.value(self.of_rank(rank)), self._first(), low=1, high=self.limit)
        while (lower := self._rank_of(self.winner()) - 1) > 0 and lower not in self.found:
            self.of_rank(lower)

    def winner(self) -> Candidate:
        """The candidate that the first criterion chooses."""
        every = list(self.found.values())
        if self.criteria[0] != HELD_OUT:
            return max(every, key=self.value)
        sizes = [candidate.parameters for candidate in every]
        return every[selection.simplest([self._scores(c) for c in every], sizes, self.counts.weights)]

    def value(self, candidate: Candidate, criterion: str | None = None) -> float:
        """What a criterion (the first, if none is named) says of a candidate, turned so that higher is better."""
        criterion = criterion or self.criteria[0]
        told = self.told(candidate, criterion)
        return told if criterion == HELD_OUT else -told

    def told(self, candidate: Candidate, criterion: str) -> float:
        """The criterion as it is reported: held-out nats, or a deviance."""
        if criterion == HELD_OUT:
            return float(self.counts.weights @ self._scores(candidate))
        assert candidate.loglik is not None
        rows = float(self.counts.weights.sum())
        if criterion == "aic":
            return selection.aic(candidate.loglik, candidate.parameters)
        if criterion == "bic":
            return selection.bic(candidate.loglik, candidate.parameters, rows=rows)
        assert candidate.entropy is not None
        return selection.icl(candidate.loglik, candidate.parameters, rows=rows, entropy=candidate.entropy)

    @property
    def folds(self) -> int:
        """How many folds the rows are divided into."""
        return int(self.labels.max()) + 1

    @property
    def limit(self) -> int:
        """The highest rank that every part allows."""
        if self.basis is not None:
            return self.basis.shape[1]
        fewest = min(int((part.counts.weights > 0).sum()) for part in self.parts)
        return min(fewest, self.counts.y.shape[1])

    def _scores(self, candidate: Candidate) -> np.ndarray:
        assert candidate.scores is not None
        return candidate.scores

    def _model_settings(self) -> dict[str, Any]:
        return {name: self.settings[name] for name in ("covariance", "rank", "basis")}

    def _form(self, rank: int) -> Recipe:
        given = {"rank": rank} if self.basis is None else {"basis": self.basis[:, :rank]}
        return recipes.recipe(self.counts, **(self._model_settings() | given))

    def _alone(self, k: int, given: dict[str, Any], main: Settings) -> Fit:
        told = self.settings | given | {"callback": main.callback, "tol": main.tol}
        return direct_fit(self.parts[k].counts, told, main.began)

    def _candidate(self, label: str, given, recipe: Recipe, fit, *, width) -> Candidate:
        """Fit every part and score its rows."""
        began = time.perf_counter()
        d, p = self.counts.x.shape[1], self.counts.y.shape[1]
        free = selection.free_parameters(recipe.loadings or recipe.shape, d=d, p=p, q=recipe.rank)
        sure = np.zeros(len(self.counts.weights), bool)
        made = Candidate(label, given, free, None, None, None, None, sure, True, 0.0)
        for k, part in enumerate(self.parts):
            with double_precision():
                one = fit(k, self._main(f"{label}, {part.name}"))
                made = self._scored(made, part, one, width())
        return made._replace(seconds=time.perf_counter() - began)

    def _scored(self, made: Candidate, part: Part, one: Fit, width: int) -> Candidate:
        """The candidate with what this part says of it."""
        made = made._replace(converged=made.converged and one.converged)
        size = max(len(other.scored) for other in self.parts if other.held_out == part.held_out)
        values, errors, _, _, unsure = self.score.loglik(one, part.scored, width=width, size=size)
        made = made._replace(unsure=made.unsure | _spread(unsure, part.scored, len(made.unsure)))
        if part.held_out:
            scores = np.zeros(len(self.counts.weights)) if made.scores is None else made.scores
            scores[part.scored] = values
            return made._replace(scores=scores)
        weights = self.counts.weights
        used = weights[part.scored]
        entropy = float(weights @ self.score.entropy(one)) if "icl" in self.criteria else None
        error = float(np.linalg.norm(used * errors))
        return made._replace(loglik=float(used @ values), loglik_se=error, entropy=entropy)

    def _main(self, words: str) -> Settings:
        """Iterations, tolerance and progress of a fit that is one of many."""
        main = driver.main_settings(self.settings, self.began)
        if self.settings["tol"] is None and self.settings["method"] == "ml":
            main = main._replace(tol=TOLERANCE)
        if self.settings["max_iter"] is None and self.settings["method"] == "ml":
            main = main._replace(max_iter=min(main.max_iter, ITERATIONS))
        callback = self.settings["callback"]
        if callback is None:
            return main
        return main._replace(callback=lambda told: callback(told._replace(phase=f"{words}: {told.phase}")))

    def _guess(self) -> int:
        """A rank near the right one, from residuals of log(y + 1/2): where a search begins."""
        with double_precision():
            block = recipes.training_block(self.counts)
            residual = starts.log_residuals(block).residual
            weights = block.weights / jnp.sum(block.weights)
            noise = jnp.where(block.offset > NO_EXPOSURE / 2, jnp.minimum(1 / (block.y + 0.5), 1.0), 0.0)
            covariance = residual.T @ (weights[:, None] * residual)
            rows = float((self.counts.weights > 0).sum())
            return selection.dimensions(np.asarray(covariance), np.asarray(weights @ noise), rows=rows)

    def _first(self) -> int:
        """The rank at which the generous fit's eigenvalues drop most."""
        if self.settings["method"] != "ml":
            return self._guess()
        with double_precision():
            sizes = self._begin(0)
        # of a basis the columns keep their order: what counts is what comes after
        return selection.widest_gap(np.maximum.accumulate(sizes[::-1])[::-1])

    def _begin(self, k: int) -> np.ndarray:
        """The generous fit of a part, from which its other ranks begin; the sizes of its axes."""
        main = self._main(f"rank {self.top}, where lower ones begin, {self.parts[k].name}")
        return self.paths[k].begin(self.top, main._replace(tol=driver.TOLERANCE["ml"]))

    def _rank_of(self, candidate: Candidate) -> int:
        return next(rank for rank, one in self.found.items() if one is candidate)


def _spread(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Truths of some rows among all."""
    every = np.zeros(n, bool)
    every[rows] = values
    return every
