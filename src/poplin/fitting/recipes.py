"""From words to objects: the settings of `PLN`, checked, become a `Recipe` for the numerical rooms.

Start at `checked` and `recipe`. This is the only place where a string chooses code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._errors import InputError
from poplin.data.counts import Counts, check_basis, check_covariance, check_rank
from poplin.data.held import column_sums
from poplin.inference.selection import free_parameters, law_parameters
from poplin.laws import POISSON, AbstractLaw, Bernoulli, NegativeBinomial, ZeroInflated
from poplin.methods.bounds import AbstractBound, DirectBound, FactorBound
from poplin.methods.options import Variational, chosen, to_plain
from poplin.models.loadings import AbstractLoadings, BorrowedBasis, FreeLoadings
from poplin.updates.direct import Direct
from poplin.updates.low_rank import Borrowed, LowRank
from poplin.updates.specific import GivenAxes, Specific, edges, free_axes
from poplin.updates.structure import (
    LEVEL_SD,
    LOADING_SD,
    SCALE_SD,
    AbstractShape,
    AbstractStructure,
    Diagonal,
    Fixed,
    Full,
    Spherical,
)


class Recipe(NamedTuple):
    """What is fitted: a shape of Sigma (direct form), or loadings of some rank (factor form).

    level (d, d), spread: precisions of the weak priors of a column of B, and of the scale of a free Sigma's columns.
    law: of the counts, its parameters of the right shapes.
    """

    shape: AbstractShape | None
    loadings: AbstractLoadings | None
    rank: int
    level: Array | None = None
    spread: float = 1 / LOADING_SD**2
    law: AbstractLaw = POISSON

    def bound(self) -> AbstractBound:
        """The diagonal bound of this model."""
        if self.loadings is None:
            assert self.shape is not None
            return DirectBound(self.shape, law=self.law)
        return FactorBound(self.loadings, self.law)

    def structure(self, *, weak: bool = False) -> AbstractStructure:
        """The M-step of this model; with the weak priors where draws are followed."""
        level = self.level if weak else None
        if self.loadings is None:
            assert self.shape is not None
            return Direct(self.shape, level, self.spread if weak else 0.0)
        if isinstance(self.loadings, BorrowedBasis):
            return Borrowed(self.loadings.basis, level)
        return LowRank(level=level)


POSTERIORS = ("diagonal", "full")
SPECIFIC = ("none", "column")  # whose variance is added to a rank's or a basis's: the first is the default
NO_OWN = (
    "method='{name}' does not know specific='column'. Use method='ml' or 'variational', or specific='none'."
)
SPREAD = 1 / SCALE_SD**2  # precision of a free Sigma's columns' scales


def one_of(value: Any, allowed: tuple[str, ...], name: str) -> str:
    """The value if it is one of the words allowed, else an `InputError` that lists them."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{name}={value!r}: wanted is one of {', '.join(map(repr, allowed))}.")
    return value


def count(value: Any, name: str, *, least: int) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name}={value!r}: wanted is a whole number, {least} or more.")
    return int(value)


def recipe(counts: Counts, *, covariance: Any, rank: Any, basis: Any, specific: str = SPECIFIC[0]) -> Recipe:
    """The model that these settings name; an `InputError` for combinations that have no meaning."""
    n, p = counts.y.shape
    if rank is not None and basis is not None:
        raise InputError(
            "Both rank and basis are given: a borrowed basis V has its own rank. Give one of them."
        )
    factor = "rank" if rank is not None else "basis" if basis is not None else None
    if factor and not (isinstance(covariance, str) and covariance == "full"):
        raise InputError(
            f"{factor} goes with covariance='full' only: it says what Sigma is. Leave covariance out."
        )
    level = jnp.asarray(level_precision(counts.x, counts.weights))
    own, rows = specific == "column", float(counts.weights.sum())
    least = edges(column_sums(counts.y, counts.weights) / rows, rows)
    if rank is not None:
        q = check_rank(rank, n, p)
        free = Specific(free_axes(q, least))
        return Recipe(free, None, p, level, SPREAD) if own else Recipe(None, FreeLoadings(), q, level)
    if basis is not None:
        axes = jnp.asarray(check_basis(basis, p, counts.column_names))
        given = Specific(GivenAxes(axes, jnp.asarray(least)))
        known = Recipe(None, BorrowedBasis(axes), axes.shape[1], level)
        return Recipe(given, None, p, level, SPREAD) if own else known
    known = check_covariance(covariance, p, counts.column_names)
    if isinstance(known, str):
        shapes = {"full": Full(jnp.asarray(0.0)), "diagonal": Diagonal(), "spherical": Spherical()}
        return Recipe(shapes[known], None, p, level, SPREAD)
    return Recipe(Fixed(jnp.asarray(known)), None, p, level)


# The law of the counts that each word names, with parameters of which only the shape matters; log sizes begin as here.
LOG_SIZE = 1.0
LAWS: dict[str, Callable[[int, tuple[int, int]], AbstractLaw]] = {
    "poisson": lambda p, zeros: POISSON,
    "zero-inflated-poisson": lambda p, zeros: ZeroInflated(POISSON, jnp.zeros(zeros)),
    "negative-binomial": lambda p, zeros: NegativeBinomial(jnp.full((1, p), LOG_SIZE)),
    "zero-inflated-negative-binomial": lambda p, zeros: ZeroInflated(
        NegativeBinomial(jnp.full((1, p), LOG_SIZE)), jnp.zeros(zeros)
    ),
    "bernoulli": lambda p, zeros: Bernoulli(),
}


def largest_count(likelihood: str) -> float:
    """The largest count that the law of this name has, infinity where there is none."""
    return LAWS[likelihood](1, (1, 1)).largest()


ZEROS = ("column", "single", "row")  # what a zero probability is of, where no formula says


def law_of(likelihood: str, zero_probability: str, counts: Counts) -> AbstractLaw:
    """The law of these words for a table; a probability of zeros is of the column unless single, or of the row."""
    p = counts.y.shape[1]
    features = 1 if counts.zeros is None else counts.zeros.x.shape[1]
    return LAWS[likelihood](p, (features, p if zero_probability == "column" else 1))


ZERO_INFLATED = tuple(name for name in LAWS if name.startswith("zero-inflated"))


def _law_words(given: Mapping[str, Any]) -> dict[str, Any]:
    """The words of the law of the counts; an `InputError` for those that do not go together."""
    likelihood = one_of(given["likelihood"], tuple(LAWS), "likelihood")
    share = one_of(given["zero_probability"], ZEROS, "zero_probability")
    formula = given["zero_formula"]
    if formula is not None and not isinstance(formula, str):
        raise InputError(f"zero_formula={formula!r}: wanted is a formula such as '~ site', or None.")
    for name, option, asked in (
        ("zero_formula", f"--zero-formula '{formula}'", formula is not None),
        ("zero_probability", f"--zero-probability {share}", share != ZEROS[0]),
    ):
        if asked and likelihood not in ZERO_INFLATED:
            raise InputError(
                f"{name}={given[name]!r} is of zeros beyond the counts' own, of which likelihood={likelihood!r} has "
                f"none. Leave it out, or use one of {', '.join(map(repr, ZERO_INFLATED))}.",
                at_command_line=f"{option} is of zeros beyond the counts' own, of which --likelihood {likelihood} has "
                f"none. Leave it out, or use one of {', '.join(ZERO_INFLATED)}.",
            )
    if formula is not None and share == "row":
        raise InputError(
            f"zero_formula={formula!r} and zero_probability='row' are given: a probability of each row's own leaves a "
            "formula nothing to say. Leave one of them out.",
            at_command_line=f"--zero-formula '{formula}' and --zero-probability row are given: a probability of each "
            "row's own leaves a formula nothing to say. Leave one of them out.",
        )
    return {"likelihood": likelihood, "zero_probability": share, "zero_formula": formula}


def parameters(recipe: Recipe, counts: Counts) -> int:
    """Free parameters of a model of these counts: B (of covariates that tell something new), Sigma, the law's own."""
    d, p = int(np.linalg.matrix_rank(counts.x)), counts.y.shape[1]
    free = free_parameters(recipe.loadings or recipe.shape, d=d, p=p, q=recipe.rank)
    return free + law_parameters(recipe.law, counts.zero_features)


def level_precision(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Precision (d, d) of the weak prior of each column of B: between rows, XB varies with `LEVEL_SD`, N(0, sd^2).

    B_j ~ N(0, sd^2 V^-1), V the covariance matrix of the covariates: no regard to their units, none to a common level.
    """
    centred = x - np.average(x, axis=0, weights=weights)
    return centred.T @ (weights[:, None] * centred) / weights.sum() / LEVEL_SD**2


def unshrunk(recipe: Recipe) -> Recipe:
    """The recipe for shrinkage=0: XB and Z about it vary by N(0, 10^2), which only keeps them finite."""
    assert recipe.level is not None
    return recipe._replace(level=recipe.level * (LEVEL_SD / LOADING_SD) ** 2, spread=1 / LOADING_SD**2)


def shrinkage_weight(value: Any) -> float | None:
    """None for "auto", else the weight in [0, 1)."""
    if isinstance(value, str) and value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
        raise InputError(f"shrinkage={value!r}: wanted is 'auto', 0, or a weight below 1.")
    return float(value)


@dataclass(frozen=True)
class FitSettings:
    """The parameters of `PLN`, checked, and what they stand for.

    method: its options; posterior: the Gaussians of the bound; shrinkage: a weight, None where the data choose it; rank
    None, a number or "auto". Recipe and table have their own checks (`recipe`).
    """

    rank: Any
    covariance: Any
    basis: Any
    specific: str
    likelihood: str
    zero_probability: str
    zero_formula: str | None
    method: Any
    posterior: str
    shrinkage: float | None
    n_init: int
    max_iter: int | None
    tol: float | None
    callback: Callable[..., None] | None
    random_state: int
    checkpoint: Any
    checkpoint_every: int | None

    def recipe(self, counts: Counts) -> Recipe:
        """The model of these settings, with the weak priors that they ask for."""
        words = {name: getattr(self, name) for name in ("covariance", "rank", "basis", "specific")}
        made = recipe(counts, **words)
        made = made._replace(law=law_of(self.likelihood, self.zero_probability, counts))
        return unshrunk(made) if self.shrinkage == 0 else made

    def plain(self) -> dict[str, Any]:
        """What identifies a fit, in words, numbers and arrays."""
        shrinkage = "auto" if self.shrinkage is None else self.shrinkage
        return vars(self) | {"method": to_plain(self.method), "shrinkage": shrinkage}


def of_fit(fit: Any) -> FitSettings:
    """The settings of a fit, with the rank that was chosen for it."""
    settings = replace(checked(fit.get_params()), callback=None)
    return settings if settings.rank is None else replace(settings, rank=fit.components_.shape[1])


def checked(given: Mapping[str, Any]) -> FitSettings:
    """The parameters of `PLN` as settings; an `InputError` for one that cannot be."""
    method = chosen(given["method"])
    posterior = one_of(given["posterior"], POSTERIORS, "posterior")
    if isinstance(method, Variational) and method.posterior is not None:
        posterior = one_of(method.posterior, POSTERIORS, "posterior")
    limit, tol, every = given["max_iter"], given["tol"], given["checkpoint_every"]
    if tol is not None and not (isinstance(tol, int | float | np.number) and tol > 0):
        raise InputError(f"tol={tol!r}: wanted is a positive number.")
    kept = ("rank", "covariance", "basis", "callback", "checkpoint")
    return FitSettings(
        **{name: given[name] for name in kept},
        **_law_words(given),
        specific=one_of(given["specific"], SPECIFIC, "specific"),
        method=method,
        posterior=posterior,
        shrinkage=shrinkage_weight(given["shrinkage"]),
        n_init=count(given["n_init"], "n_init", least=1),
        max_iter=None if limit is None else count(limit, "max_iter", least=1),
        tol=None if tol is None else float(tol),
        random_state=count(given["random_state"], "random_state", least=0),
        checkpoint_every=None if every is None else count(every, "checkpoint_every", least=1),
    )
