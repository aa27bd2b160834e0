"""What leaves a site: a quadratic of its log-likelihood about one point, and not a row.

Start at `Chart`, the numbers in which the quadratic is written, then `summarised`. About a point (B, C) of a site,

l(B*, C*) = l + g't - t'I t / 2, t = the numbers of (B*, C*) in the site's chart,

with l its log-likelihood, g the score and I the expected information there. Sums over rows are all that it holds, and
of several sites they add up. At the site's own maximum g = 0; at a point that was found jointly it is not, and the
same quadratic, maximised over what the sites share, is a step of Fisher scoring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poplin._errors import InputError
from poplin._numerics import double_precision
from poplin.data.tables import listed
from poplin.fitting import recipes
from poplin.fitting.directions import Free, free_directions, request
from poplin.inference.coordinates import coordinates
from poplin.inference.information import Groups, information
from poplin.inference.intervals import positive_information
from poplin.methods.options import Exact, MaximumLikelihood
from poplin.models.loadings import FreeLoadings, Outward, outward
from poplin.sites.plan import MOST_NUMBERS, SitePlan, numbers, opened, write_json
from poplin.updates.structure import Model

ROUNDED = 1e-3  # of an information in units of its diagonal, an eigenvalue may be so far below 0
SIMULATED_ROWS = 50_000  # at least, of the information: the scores of rare codes have heavy tails
SCORE_DRAWS = 400_000, 64, 1000  # over all rows, of the score: draws a set of a row, from and to


class Chart(eqx.Module):
    """(B*, C*) as K numbers, all zero at the point (B, C), and the same for all rotations of C*'s columns.

    With R = (C, complement of C) (`Outward`, the complement taken in the metric of mean rates): B* = B + E R', and of
    R^-1 C* = (A; D) the rotation is taken out by L, A A' = L L', lower triangular: the numbers are E (d p), log
    diag L and the rest of L, and D A^-1 L, in the order of `Coordinates`, whose tangents at the point they share. They
    are smooth and one to one wherever C* has a part along each column of C.

    Args:
        coef: B (d, p), the point.
        loadings: C (p, q), the point.
        outward: R.
        latent: of each number of C, which column of C moves.
        column: along which column of R.
    """

    coef: Array
    loadings: Array
    outward: Outward
    latent: Array
    column: Array

    def loadings_at(self, numbers: np.ndarray) -> np.ndarray:
        """C* of numbers, rotated so that A = L: the inverse of `of_loadings`.

        Args:
            numbers: of C, (p q - q (q - 1) / 2,).

        Returns:
            C* (p, q).
        """
        p, q = self.loadings.shape
        whole = np.zeros((p, q))
        latent, column = (np.asarray(a) for a in (self.latent, self.column))
        whole[column, latent] = np.where(latent == column, np.exp(numbers), numbers)
        return np.asarray(self.outward.moves(jnp.asarray(whole.T))).T

    def of_loadings(self, loadings: Array) -> Array:
        """The numbers of C*, whatever the rotation of its columns.

        Args:
            loadings: C* (p, q).

        Returns:
            p q - q (q - 1) / 2 numbers.
        """
        q = loadings.shape[1]
        whole = self.outward.numbers(loadings.T).T
        inside, outside = whole[:q], whole[q:]
        lower = jnp.linalg.cholesky(inside @ inside.T)
        told = jnp.concatenate([lower, outside @ jnp.linalg.solve(inside, lower)])
        on_axis, picked = self.latent == self.column, told[self.column, self.latent]
        return jnp.where(on_axis, jnp.log(jnp.where(on_axis, picked, 1.0)), picked)


def chart(coef: np.ndarray, loadings: np.ndarray, root: np.ndarray) -> Chart:
    """That of a point; `root` (p,), the roots of mean rates, says in which metric the complement is taken."""
    q = loadings.shape[1]
    latent, column = np.indices((q, len(loadings))).reshape(2, -1)
    kept = latent <= column
    places = (jnp.asarray(a[kept]) for a in (latent, column))
    return Chart(jnp.asarray(coef), jnp.asarray(loadings), outward(loadings, root, np.eye(q)), *places)


@dataclass(frozen=True)
class SiteSummary:
    """A site's log-likelihood about a point: what `PLN.site_summary` returns and `CommonBasis` pools.

    Args:
        name: of the site.
        plan: fingerprint of the plan that it follows.
        codes: the columns that it tells of, p of them.
        covariates: names of the rows of B, d of them.
        rows: how many patients.
        coef: B (d, p), the point.
        loadings: C (p, q), the point.
        root: (p,) the metric of the chart, roots of mean rates.
        score: g (K,), K = d p + p q - q (q - 1) / 2, in the numbers of `Chart`.
        information: I (K, K), expected.
        score_noise: Monte-Carlo variance of the score, in units of the information's, the mean of all K numbers.
        loglik: log-likelihood at the point, nats, with all constants.
        loglik_se: its Monte-Carlo standard error.
        round: 1 at the site's own maximum, from 2 on at a joint point.

    Attributes:
        chart: the numbers that score and information are in.
    """

    name: str
    plan: str
    codes: tuple[str, ...]
    covariates: tuple[str, ...]
    rows: int
    coef: np.ndarray
    loadings: np.ndarray
    root: np.ndarray
    score: np.ndarray
    information: np.ndarray
    score_noise: float
    loglik: float
    loglik_se: float
    round: int

    def save(self, path: Any) -> None:
        """Write the summary as JSON, whole or not at all: numbers and names as the page of the site shows them.

        Args:
            path: the file.

        Raises:
            InputError: it cannot be written.
        """
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        told["information"] = self.information[np.triu_indices(len(self.score))]
        write_json(path, "summary", told)

    @classmethod
    def load(cls, path: Any) -> SiteSummary:
        """Read a summary.

        Args:
            path: a file that `save` wrote.

        Returns:
            The summary.

        Raises:
            InputError: the file is damaged, or its numbers do not go together.
        """
        with opened(path, "summary", "Ask the site for it again.") as found:
            return _from_json(found)

    @cached_property
    def chart(self) -> Chart:
        """In whose numbers score and information are."""
        with double_precision():
            return chart(self.coef, self.loadings, self.root)


def _from_json(found: dict[str, Any]) -> SiteSummary:
    """A summary whose numbers go together; ValueError, or another error of Python, else."""
    if not all(isinstance(found[name], list) for name in ("codes", "covariates")):
        raise ValueError("codes or covariates are no list of names")
    names = {name: tuple(map(str, found.pop(name))) for name in ("codes", "covariates")}
    d, p = len(names["covariates"]), len(names["codes"])
    arrays = {"coef": numbers(found.pop("coef"), (d, p)), "root": numbers(found.pop("root"), (p,))}
    arrays["loadings"] = numbers(found.pop("loadings"), (p, None))
    q = arrays["loadings"].shape[1]
    size = d * p + p * q - q * (q - 1) // 2
    if not 1 <= q <= p or size > MOST_NUMBERS:
        raise ValueError(f"there are {q} axes of {p} codes, and {size} free numbers, {MOST_NUMBERS} at most")
    arrays["score"] = numbers(found.pop("score"), (size,))
    upper = numbers(found.pop("information"), (size * (size + 1) // 2,))
    whole = np.zeros((size, size))
    whole[np.triu_indices(size)] = upper
    information = whole + np.triu(whole, 1).T
    if not _is_positive(information):
        raise ValueError("information is that of no estimates: along some direction it is below 0")
    rest: dict[str, Any] = {**names, **arrays, **found}
    made = SiteSummary(information=information, **rest)
    kinds = {"name": str, "plan": str, "rows": int, "round": int}
    kinds |= {name: float for name in ("score_noise", "loglik", "loglik_se")}
    for name, kind in kinds.items():
        value = getattr(made, name)
        if type(value) is not kind or (kind is not str and numbers(value, ()) != value):
            raise ValueError(f"{name} is {value!r}")
    if made.rows < 1 or made.round < 1 or (arrays["root"] <= 0).any():
        raise ValueError("rows, rounds or rates below 0")
    if min(made.score_noise, made.loglik_se) < 0 or min(map(len, map(set, names.values()))) < 1:
        raise ValueError("errors below 0, or no codes")
    if any(len(set(each)) < len(each) for each in names.values()):
        raise ValueError("two codes, or two covariates, of one name")
    return made


def _is_positive(information: np.ndarray) -> bool:
    """Whether it is a covariance, but for the digits that it is written with."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
    try:
        np.linalg.cholesky(information / scale / scale[:, None] + ROUNDED * np.eye(len(scale)))
    except np.linalg.LinAlgError:
        return False
    return bool((np.diag(information) >= 0).all())


def rounded(numbers: Any, digits: int) -> np.ndarray:
    """To so many significant digits, as they are written."""
    numbers = np.asarray(numbers, float)
    flat = [float(f"{a:.{digits - 1}e}") for a in numbers.ravel()]
    return np.array(flat).reshape(numbers.shape)


POINT_DIGITS, DIGITS = 7, 5  # of the point; of score and information


OTHER_LAW = (
    "likelihood is {law!r}: sites are pooled under Poisson's law alone. Fit with likelihood='poisson', "
    "and let codes vary by themselves on more axes (remainder)."
)
OTHER_METHOD = (
    "The fit is by method={method!r}. A summary takes the estimates for those of largest likelihood, where the slope "
    "is 0: fit with method='ml', or 'exact'."
)
NOT_CONVERGED = (
    "The fit did not converge in {iterations} iterations. A summary takes the estimates for those of largest "
    "likelihood: fit with a larger max_iter, or another random_state."
)
TOO_MANY = (
    "{size} free numbers of a site, and the information of at most {most} is formed whole. Pool fewer codes (the "
    "commonest), or fewer axes."
)


def check_covariates(x: np.ndarray, names: Sequence[str], plan: SitePlan) -> None:
    """Raises `InputError` for a covariate that sets few patients apart: its coefficients would tell of these."""
    for column, name in zip(x.T, names, strict=True):
        apart = len(column) - np.unique(column, return_counts=True)[1].max()
        if 0 < apart < plan.min_patients:
            raise InputError(
                f"Only {apart} patients differ from all others in the covariate '{name}', fewer than the plan's "
                f"{plan.min_patients}: its coefficients would tell of them. Put them to another level, or leave them "
                "out."
            )


def check_site(fit: Any, plan: SitePlan) -> None:
    """Raises `InputError` for a fit beside the plan, with codes that it withholds, or not at the largest likelihood."""
    counts, rank, method = fit.counts_, plan.rank + plan.remainder, recipes.checked(fit.get_params()).method
    if not isinstance(method, MaximumLikelihood | Exact):
        raise InputError(OTHER_METHOD.format(method=type(method).__name__.lower()))
    names = counts.column_names
    foreign = [code for code in names if code not in set(plan.codes)]
    if foreign:
        raise InputError(f"The plan does not have the codes {listed(foreign)}. Fit the plan's codes alone.")
    if fit.result_.rank() != rank:
        raise InputError(
            f"The fit's rank is {fit.result_.rank()}; the plan asks for {rank}: PLN(rank={rank})."
        )
    check_covariates(counts.x, counts.covariate_names, plan)
    withheld = plan.withheld(counts.y, names, covariates=len(counts.covariate_names))
    if withheld:
        name = next(iter(withheld))
        raise InputError(
            f"The plan lets no file tell of {listed(withheld)} (of {name!r}: {withheld[name]}). Leave these columns "
            "out of the fit: plan.withheld(counts, names) lists them."
        )
    if not fit.converged_:
        raise InputError(NOT_CONVERGED.format(iterations=fit.n_iter_))


def summarised(fit: Any, name: str, plan: str, *, round: int) -> SiteSummary:
    """The quadratic of a fitted `PLN` about its estimates; from round 2 on its axes are joint ones, and g is told.

    Cost: information from 50 000 simulated rows, or ten for each number if these are more; for a joint point draws of
    the rows' latents.
    """
    settings = recipes.checked(fit.get_params())
    if jax.tree.leaves(fit.result_.law) or not fit.result_.law.exponential():
        raise InputError(OTHER_LAW.format(law=settings.likelihood))
    (d, p), q = fit.coef_.shape, fit.result_.loadings.shape[1]
    if d * p + p * q - q * (q - 1) // 2 > MOST_NUMBERS:
        raise InputError(TOO_MANY.format(size=d * p + p * q - q * (q - 1) // 2, most=MOST_NUMBERS))
    with double_precision():
        free = free_directions(fit)
        model = Model(free.here.model.coef, jnp.asarray(fit.result_.loadings))
        here = coordinates(None, FreeLoadings(), model, jnp.asarray(free.mean_rate))
        point = [rounded(a, POINT_DIGITS) for a in (here.model.coef, here.model.loadings)]
        root = rounded(np.sqrt(free.mean_rate + 1e-8 * np.mean(free.mean_rate)), POINT_DIGITS)
        about = chart(point[0], point[1], root)
        here = replace(here, model=Model(about.coef, about.loadings), outward=about.outward)
        free = free._replace(here=here, shape=None, basis=None, rows=None)
        asked = request("expected", free, settings, simulated=SIMULATED_ROWS)
        told = positive_information(information(free.block, here, asked))
        score, noise = _score(free, settings, told) if round > 1 else (np.zeros(here.size()), 0.0)
    return SiteSummary(
        name=name,
        plan=plan,
        codes=tuple(fit.counts_.column_names),
        covariates=tuple(fit.counts_.covariate_names),
        rows=len(fit.counts_.row_names),
        coef=point[0],
        loadings=point[1],
        root=root,
        score=rounded(score, DIGITS),
        information=rounded(told, DIGITS),
        score_noise=noise,
        loglik=float(fit.loglik_),
        loglik_se=float(fit.loglik_se_),
        round=round,
    )


def _score(free: Free, settings: Any, told: np.ndarray) -> tuple[np.ndarray, float]:
    """Of the data, by Fisher's identity, and its noise in units of the information `told`: from two sets of draws."""
    rows = len(free.block.index)
    total, least, most = SCORE_DRAWS
    together = Groups(np.zeros(rows, int), 1, np.asarray(free.block.weights))
    asked = request("outer", free, settings)._replace(
        draws=int(np.clip(total // (2 * rows), least, most)), groups=together
    )
    one, other = np.asarray(information(free.block, free.here, asked).by_group)[:, 0]
    gap = 0.5 * (one - other)
    return 0.5 * (one + other), float(gap @ np.linalg.solve(told, gap)) / len(gap)


def together(summaries: Any, share: Sequence[str]) -> tuple[SiteSummary, ...]:
    """Summaries that go together, by name."""
    summaries = tuple(summaries) if isinstance(summaries, Iterable) else ()
    if not all(isinstance(site, SiteSummary) for site in summaries) or len(summaries) < 2:
        raise InputError(
            "fit takes counts with groups= (the site of each row), or two SiteSummary or more: fit.site_summary(plan, "
            "name='mgh')."
        )
    names = [site.name for site in summaries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"Two summaries are of the site {listed(twice)}. Give one of each site.")
    plans = {site.plan: site.name for site in summaries}
    if len(plans) > 1:
        raise InputError(
            f"The summaries of {listed(plans.values())} follow different plans. All sites need the same plan.json."
        )
    ranks = {site.loadings.shape[1]: site.name for site in summaries}
    if len(ranks) > 1:
        raise InputError(f"The summaries have ranks {sorted(ranks)}: fit every site with the plan's.")
    for name in share:
        lacking = [site.name for site in summaries if name not in site.covariates]
        if lacking:
            raise InputError(f"share names {name!r}, which {listed(lacking)} has not among its covariates.")
    return tuple(sorted(summaries, key=lambda site: site.name))


def all_codes(summaries: Sequence[SiteSummary]) -> tuple[str, ...]:
    """Codes of any site, in the order of those that have most."""
    found: dict[str, None] = {}
    for site in sorted(summaries, key=lambda site: -len(site.codes)):
        found |= dict.fromkeys(site.codes)
    return tuple(found)


def free_rows(
    free: Mapping[str, Sequence[str]] | None, summaries: Sequence[SiteSummary], codes: Sequence[str]
) -> list[tuple[int, int]]:
    """The rows of single C_k that are free, as numbers of site and code; InputError for a code that cannot be."""
    names, found = [site.name for site in summaries], []
    for name, chosen in (free or {}).items():
        if name not in names:
            raise InputError(f"free names the site {name!r}; there are {listed(names)}.")
        site = summaries[names.index(name)]
        lacking = [code for code in chosen if code not in site.codes]
        if lacking or isinstance(chosen, str):
            raise InputError(
                f"free names {listed(lacking or [chosen])} at {name!r}, which has no such code. Name codes of the "
                f"site, as in free={{{name!r}: [{site.codes[0]!r}]}}."
            )
        left, least = len(site.codes) - len(set(chosen)), site.loadings.shape[1] + 1
        if left < least:
            raise InputError(
                f"free names {len(set(chosen))} of the {len(site.codes)} codes of {name!r}; {least} have to be left, "
                "one more than axes. A site of which so many are odd does not belong here: pool the others."
            )
        found += [(names.index(name), codes.index(code)) for code in dict.fromkeys(chosen)]
    return found
