"""`CommonBasis`: several sites with the same axes, from rows in one place or from the files that sites sent.

Start at `CommonBasis.fit`. A site is always asked the same: its log-likelihood as a quadratic about a point
(`sites/summaries.py`); what comes of all quadratics together is found in `sites/pooling.py`. In one place the asking is
a loop over the sites' rows, between hospitals it is two exchanges of files.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from poplin._errors import ConvergenceWarning, InputError
from poplin._numerics import double_precision
from poplin.data.counts import Counts, as_counts, some_rows
from poplin.data.tables import listed
from poplin.estimators.building import AbstractEstimator
from poplin.estimators.intervals import table_of
from poplin.estimators.pln import PLN
from poplin.inference import intervals
from poplin.models.loadings import principal_axes
from poplin.sites import fitting_in, pooling, structures
from poplin.sites.plan import check_model, numbers, opened, write_json
from poplin.sites.pooling import Pooled, Reduced
from poplin.sites.structures import Common
from poplin.sites.summaries import SiteSummary, all_codes, free_rows, summarised, together

if TYPE_CHECKING:
    from pandas import DataFrame

LADDER = ("equal", "proportional", "axes", "subspace", "unrelated")
ENOUGH = 0.05  # nats that a further round would gain, below which there is none
MOST_ROUNDS = 8
SAVED = ("rank", "common", "remainder", "share", "free", "max_rounds", "random_state")
WITH_AXES = ("axes", "equal", "proportional")


def load_point(path: Any, site: str) -> SitePoint:
    """What a joint model that was saved says of a site.

    Args:
        path: a file that `CommonBasis.save` wrote.
        site: name of the site.

    Returns:
        Its point.

    Raises:
        InputError: the file is damaged, or has no such site.
    """
    with opened(path, "joint", "Ask for it again.") as found:
        points = {point["site"]: point for point in found["points"]}
        if site not in points:
            raise InputError(f"{path} has no site {site!r}; it has {listed(points)}.")
        told = points[site]
        codes, covariates = (tuple(map(str, told[name])) for name in ("codes", "covariates"))
        coef = numbers(told["coef"], (len(covariates), len(codes)))
        loadings = numbers(told["loadings"], (len(codes), None))
        axes = None if told["axes"] is None else numbers(told["axes"], (len(codes), None))
        return SitePoint(site, codes, covariates, coef, loadings, axes)


class Joint(NamedTuple):
    """A joint point with the quadratics that it was found from."""

    summaries: tuple[SiteSummary, ...]
    sites: tuple[Reduced, ...]
    pooled: Pooled

    def at_sites(self) -> float:
        """The sites' log-likelihoods at the points that they told of, nats."""
        return sum(site.loglik for site in self.summaries)


def joined(
    summaries: Sequence[SiteSummary], settings: CommonBasis, codes: Sequence[str], begin: Common | None
) -> Joint:
    """The joint point of some quadratics, from a point on, or from the sites' own covariances."""
    free = free_rows(settings.free, summaries, codes)
    with double_precision():
        sites = [pooling.reduced(site, codes, settings.share) for site in summaries]
        shape = structures.named(settings.common, len(sites))
        sizes = {"codes": len(codes), "rank": settings.rank, "remainder": settings.remainder}
        first = pooling.begin(shape, sites, **sizes) if begin is None else begin
        for site, code in free:
            if [site, code] not in np.asarray(first.free_at).tolist():
                first = structures.with_free_row(first, site, code)
        found = pooling.pooled(shape, sites, first)
        if begin is None and settings.common in WITH_AXES:
            found = pooling.pooled(shape, sites, structures.in_order(found.here, settings.common))
    return Joint(tuple(summaries), tuple(sites), found)


class SitePoint(NamedTuple):
    """What the joint model says of a site.

    Attributes:
        site: its name.
        codes: that it has, p of them.
        covariates: d of them.
        coef: B (d, p).
        loadings: C (p, q + r).
        axes: (p, q) orthonormal, of Sigma_k, where the site's own scales along them are as free as the joint model's;
            None with a remainder, or where the site lacks codes or has some that are free.
    """

    site: str
    codes: tuple[str, ...]
    covariates: tuple[str, ...]
    coef: np.ndarray
    loadings: np.ndarray
    axes: np.ndarray | None

    def refitted(self, fit: PLN) -> PLN:
        """A fit of the site's rows given the common axes: where the site is asked for the next round.

        Args:
            fit: a fit of the same rows, under any axes.

        Returns:
            A `PLN` whose scales and B are fitted again under `axes`; without these, one that stands at the joint
            point.

        Raises:
            InputError: the fit has other codes or covariates.
        """
        for what, own, wanted in (
            ("codes", fit.counts_.column_names, self.codes),
            ("covariates", fit.counts_.covariate_names, self.covariates),
        ):
            if tuple(own) != tuple(wanted):
                raise InputError(
                    f"The fit has the {what} {listed(own)}; in the joint model {self.site!r} has {listed(wanted)}. Use "
                    "the table and the formula of the first round."
                )
        if self.axes is not None:
            settings = {name: getattr(fit, name) for name in ("callback", "random_state", "max_iter")}
            return PLN(basis=self.axes, **settings)._fit_counts(fit.counts_)
        moved = copy.copy(fit)
        at = {"coef": self.coef, "loadings": self.loadings, "rows": None, "objective": None, "parts": None}
        moved._take(fit.result_._replace(**at), fit.counts_)
        return moved


class CommonBasis(AbstractEstimator):
    """Poisson-lognormal models of several sites whose covariances have axes in common.

    Site k: Z_i = B_k'x_i + C_k w_i, Sigma_k = C_k C_k' = V Lambda_k V' + U_k U_k': V `basis_` is common, Lambda_k
    `scales_` and B_k `coef_` are the site's, U_k (p, r) if `remainder` is r. By maximum likelihood: every site tells
    its log-likelihood as a quadratic about a point, score and expected information, and the joint maximum of these is
    where the next round begins (Fisher scoring over the sites). Cost of a round: a fit of each site under V, the
    scores of 50 000 simulated rows (or ten for each of its d p + p (q + r) numbers K), and K^3. Source: Flury (1984),
    J. Am. Stat. Assoc. 79, on common principal components.

    Args:
        rank: q, how many axes are common.
        common: "axes" (each site has its own scales), "subspace" (its own axes within V's span), "proportional" (one
            set of scales, times a number of the site) or "equal" (one Sigma).
        remainder: r, axes that each site has for itself beside these; 0: none.
        share: covariates whose coefficients are the same at all sites, by name; none: B_k is the site's own.
        free: by site, codes that mean something else there (`test_codes`): their rows of C_k are the site's own, and
            pull V no more.
        max_rounds: rounds at most when rows are in one place; one begins while it would gain 0.05 nats.
        callback: told of the sites' fits, as of `PLN`.
        random_state: the seed.

    Attributes:
        basis_: V (p, q), orthonormal columns, those of the largest mean scale first.
        scales_: Lambda_k (K, q), variances along the axes; with a common subspace, the eigenvalues within it.
        coef_: B_k by site, a DataFrame (d, p_k) each.
        covariance_: Sigma_k by site, (p, p) of all codes, those too that the site lacks.
        sites_: names, K of them.
        codes_: names of V's lines, p of them.
        loglik_: log-likelihood of all sites at the joint point, as their quadratics have it, nats.
        gain_: nats that the last round gained, and more than a further one would.
        noise_: of these, what the scores' Monte-Carlo noise is worth.
        rounds_: how many there were.
        joint_: the summaries of the last round, and the point with the slopes that were found from them.
        n_features_in_: p.
        converged_: whether the last round gained at most 0.05 nats beyond twice that noise.
    """

    basis_: np.ndarray
    scales_: np.ndarray
    coef_: dict[str, DataFrame]
    sites_: tuple[str, ...]
    codes_: tuple[str, ...]
    loglik_: float
    gain_: float
    noise_: float
    rounds_: int
    converged_: bool
    joint_: Joint
    n_features_in_: int

    def __init__(
        self,
        rank: int = 1,
        *,
        common: str = "axes",
        remainder: int = 0,
        share: Sequence[str] = (),
        free: Mapping[str, Sequence[str]] | None = None,
        max_rounds: int = MOST_ROUNDS,
        callback: Any = None,
        random_state: int = 0,
    ) -> None:
        self.rank = rank
        self.common = common
        self.remainder = remainder
        self.share = share
        self.free = free
        self.max_rounds = max_rounds
        self.callback = callback
        self.random_state = random_state

    def fit(
        self,
        Y: Any,
        y: Any = None,
        *,
        groups: Any = None,
        X: Any = None,
        offset: Any = None,
        weights: Any = None,
        data: Any = None,
        formula: str | None = None,
    ) -> Self:
        """Fit the sites together, from their rows or from their summaries.

        Args:
            Y: counts (n, p) of all sites, as in `PLN.fit`; or a list of `SiteSummary`, with nothing else given.
            y: ignored.
            groups: the site of each row, (n,).
            X: covariates (n, d), used as given; None: an intercept, or those of `formula`.
            offset: on the log scale, as in `PLN.fit`.
            weights: of the rows (n,).
            data: the formula's covariates.
            formula: such as "~ age".

        Returns:
            The estimator itself.

        Raises:
            InputError: fewer than two sites, a site with too few rows, summaries of different plans.
        """
        if groups is None:
            summaries = together(Y, self.share)
            return self._begun(summaries, all_codes(summaries))
        counts = as_counts(Y, X=X, offset=offset, weights=weights, data=data, formula=formula)
        check_model(len(counts.column_names), self.rank, self.common, self.remainder)
        tables = _by_site(counts, groups)
        fits = {
            name: self._site(rank=self.rank + self.remainder)._fit_counts(table)
            for name, table in tables.items()
        }
        told = [summarised(fit, name, "", round=1) for name, fit in fits.items()]
        self._begun(together(told, self.share), counts.column_names)
        while self.rounds_ < self.max_rounds:
            fits = {name: self.point(name).refitted(fit) for name, fit in fits.items()}
            self.update([summarised(fit, name, "", round=self.rounds_ + 1) for name, fit in fits.items()])
            if self.converged_:
                break
        self._fits = {name: self.point(name).refitted(fit) for name, fit in fits.items()}
        if not self.converged_:
            warnings.warn(
                f"The sites' joint likelihood would gain {self.gain_:.2g} nats by another round. Raise max_rounds.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _site(self, **settings: Any) -> PLN:
        seed = self.random_state
        return PLN(shrinkage=0, callback=self.callback, random_state=seed, **settings)

    def _begun(self, summaries: Sequence[SiteSummary], codes: Sequence[str]) -> Self:
        check_model(len(codes), self.rank, self.common, self.remainder)
        self._take(joined(summaries, self, codes, None), codes, rounds=1)
        return self

    def update(self, summaries: Iterable[SiteSummary]) -> Self:
        """One step on, from what the sites told at (or under the axes of) the present joint point.

        Where the sites' log-likelihood has fallen since the round before, the step that led there was too long: it is
        halved, and the sites are asked again.

        Args:
            summaries: of the same sites, of a round from 2 on.

        Returns:
            The estimator itself.

        Raises:
            InputError: summaries of other sites, or of the first round.
        """
        before = self.joint_
        summaries = together(summaries, self.share)
        if tuple(site.name for site in summaries) != self.sites_:
            raise InputError(
                f"These are of the sites {listed(site.name for site in summaries)}; wanted are "
                f"{listed(self.sites_)}, one file each. Ask those that are missing, or begin anew without them."
            )
        others = {site.name: site.round for site in summaries if site.round != self.rounds_ + 1}
        if others:
            raise InputError(
                f"The summaries of {listed(others)} are of round {listed(set(others.values()))}; wanted is round "
                f"{self.rounds_ + 1}: site_summary(plan, name=..., round={self.rounds_ + 1}) of fits under the present "
                "axes."
            )
        found = joined(summaries, self, self.codes_, before.pooled.here)
        later = before.summaries[0].round > 1
        noise = np.linalg.norm([site.loglik_se for site in (*summaries, *before.summaries)])
        if later and found.at_sites() < before.at_sites() - 3 * noise:
            half = structures.between(self._from, before.pooled.here)
            with double_precision():
                pooled = pooling.at_point(before.pooled.structure, before.sites, half)
            self._take(before._replace(pooled=pooled), self.codes_, rounds=self.rounds_ + 1)
            return self
        self._from = before.pooled.here
        self._take(found, self.codes_, rounds=self.rounds_ + 1)
        return self

    def _take(self, joint: Joint, codes: Sequence[str], *, rounds: int) -> None:
        self.joint_, found, here = joint, joint.pooled, joint.pooled.here
        self._from = getattr(self, "_from", here)
        self.sites_ = tuple(site.name for site in joint.summaries)
        self.codes_ = tuple(codes)
        self.n_features_in_ = len(self.codes_)
        self.basis_ = np.asarray(here.basis)
        within = np.stack(
            [np.asarray(found.structure.mixing(here.scale, k)) for k in range(len(self.sites_))]
        )
        self.scales_ = np.stack(
            [
                np.sort(np.linalg.eigvalsh(a @ a.T))[::-1] if self.common == "subspace" else np.diag(a) ** 2
                for a in within
            ]
        )
        self.coef_ = {
            name: _frame(found.coef(site, k), summary.covariates, summary.codes)
            for k, (name, site, summary) in enumerate(
                zip(self.sites_, joint.sites, joint.summaries, strict=True)
            )
        }
        self.loglik_ = found.loglik
        later = joint.summaries[0].round > 1
        self.gain_ = found.loglik - joint.at_sites() if later else np.nan
        self.rounds_ = rounds
        self.noise_ = _noise(joint)
        self.converged_ = bool(found.converged and later and self.gain_ <= ENOUGH + 2 * self.noise_)

    @property
    def covariance_(self) -> dict[str, np.ndarray]:
        """Sigma_k by site, of all codes."""
        found = {}
        for k, name in enumerate(self.sites_):
            loadings = fitting_in.common_at(self.joint_.pooled, k)
            found[name] = loadings @ loadings.T
        return found

    def loadings_of(self, site: str) -> np.ndarray:
        """C_k of the codes that the site has.

        Args:
            site: its name.

        Returns:
            C_k (p_k, q + r).

        Raises:
            InputError: there is no such site.
        """
        k = self._number(site)
        return self.joint_.pooled.loadings(self.joint_.sites[k], k)

    def _number(self, site: str) -> int:
        if site not in self.sites_:
            raise InputError(f"There is no site {site!r}; there are {listed(self.sites_)}.")
        return self.sites_.index(site)

    def point(self, site: str) -> SitePoint:
        """What the joint model says of a site: all that the site needs for the next round, and for its own embedding.

        Args:
            site: its name.

        Returns:
            Its codes and covariates, B_k and C_k, and axes under which its own scales can be fitted again.

        Raises:
            InputError: there is no such site.
        """
        k = self._number(site)
        summary, loadings = self.joint_.summaries[k], self.loadings_of(site)
        axes = None
        if not self.remainder and len(loadings) == len(self.codes_) and not (self.free or {}).get(site):
            where = self.joint_.sites[k].where
            axes = principal_axes(loadings)[0] if self.common == "subspace" else self.basis_[where]
        return SitePoint(site, summary.codes, summary.covariates, self.coef_[site].to_numpy(), loadings, axes)

    def at(self, site: str) -> PLN:
        """The model of a site as an ordinary fit: transform, predict, save.

        Args:
            site: its name.

        Returns:
            A fitted `PLN` of the site's rows.

        Raises:
            InputError: there is no such site, or its rows are elsewhere: there, `poplin embed --joint` does it.
        """
        self._number(site)
        if not hasattr(self, "_fits"):
            raise InputError(
                f"The rows of {site!r} are not here, only its summary. At the site: "
                "`poplin site --refine joint.json --keep DIR`, then `poplin embed --joint`."
            )
        return self._fits[site]

    def save(self, path: Any) -> None:
        """Write the joint point as JSON, whole or not at all: what sites need, and none of their summaries.

        Args:
            path: the file.

        Raises:
            InputError: it cannot be written.
        """
        settings = {name: getattr(self, name) for name in SAVED}
        before = {"here": self.joint_.pooled.here, "from": self._from}
        points = [self.point(name)._asdict() for name in self.sites_]
        told = {"loglik": self.loglik_, "gain": None if np.isnan(self.gain_) else self.gain_}
        told |= {"rounds": self.rounds_, "converged": self.converged_, "plan": self.joint_.summaries[0].plan}
        write_json(
            path, "joint", {"settings": settings, "codes": self.codes_, "points": points, **before, **told}
        )

    @classmethod
    def load(cls, path: Any, summaries: Iterable[SiteSummary]) -> Self:
        """Go on from a joint point that was saved, with the summaries that it was found from.

        Args:
            path: a file that `save` wrote.
            summaries: of the round before.

        Returns:
            The estimator, fitted.

        Raises:
            InputError: the file is damaged, or the summaries are of others.
        """
        with opened(path, "joint", "Pool again.") as found:
            made = cls(**found["settings"])
            rounds, codes = int(found["rounds"]), tuple(map(str, found["codes"]))
            here, before = (_point(found[name], len(codes)) for name in ("here", "from"))
            given = together(summaries, made.share)
            if [site.name for site in given] != [point["site"] for point in found["points"]]:
                raise InputError(
                    f"{path} is of other sites than these {listed(site.name for site in given)}."
                )
        with double_precision():
            sites = tuple(pooling.reduced(site, codes, made.share) for site in given)
            pooled = pooling.at_point(structures.named(made.common, len(sites)), sites, here)
        made._from = before
        made._take(Joint(given, sites, pooled), codes, rounds=rounds)
        return made

    def confint(self, which: str = "scales", level: float = 0.95) -> DataFrame:
        """Intervals of what the joint fit tells.

        Args:
            which: "scales" (Lambda_k, on the log scale), "coef" (B_k) or "basis" (entries of V).
            level: share of intervals that hold the truth.

        Returns:
            DataFrame with columns estimate, se, z, p, lower, upper, under (site, axis), (site, covariate, code) or
            (code, axis).

        Raises:
            InputError: another word.
        """
        if which == "scales" and self.common == "axes":
            return self._scale_interval(level)
        if which == "coef":
            return self._coef_interval(level)
        if which == "basis" and self.common in WITH_AXES:
            return self._basis_interval(level)
        raise InputError(
            f"which is {which!r}; wanted is 'coef', and where axes are common 'scales' or 'basis' (here: "
            f"common={self.common!r})."
        )

    def _scale_interval(self, level: float) -> DataFrame:
        found, (count, q) = self.joint_.pooled, self.scales_.shape
        steps = structures.steps_from(found.structure, found.here)
        first = steps.sizes()[0]
        root = found.root(self.joint_.sites)[first : first + count * q]
        se = 2 * self.scales_ * np.linalg.norm(root, axis=1).reshape(count, q)
        told = intervals.positive(self.scales_, se, level)
        axes = [f"axis {j + 1}" for j in range(q)]
        index = [np.repeat(self.sites_, q), np.tile(axes, count)]
        return table_of(told, index, ("site", "axis"))

    def _coef_interval(self, level: float) -> DataFrame:
        import pandas

        joint, root = self.joint_, self.joint_.pooled.root(self.joint_.sites)
        parts = []
        for k, site in enumerate(joint.sites):
            coef = joint.pooled.coef(site, k)
            se = np.sqrt(np.diag(site.coef_covariance(joint.pooled.slopes[k] @ root))).reshape(coef.shape)
            frame = table_of(
                intervals.plain(coef, se, level), _pairs(joint.summaries[k]), ("covariate", "code")
            )
            parts.append(frame)
        return pandas.concat(parts, keys=self.sites_, names=["site"])

    def _basis_interval(self, level: float) -> DataFrame:
        found = self.joint_.pooled
        steps = structures.steps_from(found.structure, found.here)
        root = found.root(self.joint_.sites)[: steps.sizes()[0]]
        with double_precision():
            moved = np.stack([np.asarray(steps.basis_moved(a)) - found.here.basis for a in root.T])
        se = np.linalg.norm(moved, axis=0)
        q = self.basis_.shape[1]
        index = [np.repeat(self.codes_, q), np.tile([f"axis {j + 1}" for j in range(q)], len(self.codes_))]
        return table_of(intervals.plain(self.basis_, se, level), index, ("code", "axis"))

    def angle_errors(self) -> np.ndarray:
        """How far each axis of V may be off.

        Returns:
            Root mean square angles (q,), degrees.
        """
        told = self.confint("basis")["se"].to_numpy().reshape(self.basis_.shape)
        return np.rad2deg(np.linalg.norm(told, axis=0))

    def test_sites(self) -> DataFrame:
        """Test whether each site has the axes of all others.

        Twice what the site's covariance would gain by going its own way, by the score at the joint point: chi-squared
        in large samples. It is tested in the directions, angles and log scales, that the site alone tells to 0.2:
        farther the likelihood of rare codes is no quadratic. Beside the p-value stand the loss in nats a row and the
        widest angle: with many rows any site differs by a little.

        In the first round, p is withheld (NaN) where any site has codes that its counts hardly tell: where the best
        known coefficient of a code has a standard error above a fifth of the standard deviation of its Z. About the
        site's own maximum the likelihood of such a code is no quadratic, and the joint point is pulled away from all
        sites; from the second round on, tests are by the score at the joint point.

        Returns:
            DataFrame under the site: statistic, df, p, p_adjusted (Holm), loss, angle (degrees), hardly_told (how many
            codes are).
        """
        import pandas

        with double_precision():
            at = fitting_in.known_at(self.joint_.pooled, self.joint_.sites)
            found = [fitting_in.site_test(at, k) for k in range(len(at.sites))]
            told = [fitting_in.told_codes(site) for site in self.joint_.summaries]
        table = pandas.DataFrame(found, index=pandas.Index(self.sites_, name="site"))
        hardly = [int(np.sum(~site)) for site in told]
        table["hardly_told"] = hardly
        if self.rounds_ == 1 and any(hardly):
            table["p"] = np.nan
        table.insert(3, "p_adjusted", intervals.holm(table["p"].to_numpy()))
        return table

    def test_codes(self, site: str | None = None, level: float = 0.05) -> DataFrame:
        """Find the codes that mean something else at a site, or at any.

        One after the other the code that fits worst is set free there, by Holm's steps over all that are looked at: one
        exchanged code makes others look odd, at its own site and elsewhere. So a site that is looked at by itself may
        be blamed for another's codes. In the first round codes that any site's counts hardly tell are left out
        (`test_sites`). Codes that are told are best asked for there: by the second round an odd site has pulled the
        joint point toward it, and other codes look odd too. Cost: a score test of every code a step.

        Args:
            site: its name; None: all sites together.
            level: of Holm's steps.

        Returns:
            DataFrame under the code, or site and code: step (1 for the first that was set free, 0 for those that fit
            in), statistic (what its being free gains, twice), p, p_adjusted; NaN where it was left out, is free
            already, or as many of its site's codes are free as can be.

        Raises:
            InputError: there is no such site.
        """
        import pandas
        from scipy.special import chdtrc

        numbers = range(len(self.sites_)) if site is None else [self._number(site)]
        summaries = self.joint_.summaries
        q = summaries[0].loadings.shape[1]
        with double_precision():
            hardly = {
                code
                for one in summaries
                for code, told in zip(one.codes, fitting_in.told_codes(one), strict=True)
                if not told and self.rounds_ == 1
            }
            gone = [hardly.union((self.free or {}).get(name, ())) for name in self.sites_]
            among = {k: np.array([code not in gone[k] for code in summaries[k].codes]) for k in numbers}
            chosen, gains = fitting_in.selected_codes(self.joint_.pooled, self.joint_.sites, among, level)
        places = [(self.sites_[k], code) for k in among for code in summaries[k].codes]
        index = pandas.MultiIndex.from_tuples(places, names=["site", "code"])
        told = {"step": 0.0, "statistic": np.concatenate(list(gains.values()))}
        table = pandas.DataFrame(told, index=index)
        table["p"] = chdtrc(q, table["statistic"])
        table["p_adjusted"] = np.minimum(table["p"] * table["p"].notna().sum(), 1.0)
        for step, test in enumerate(chosen, 1):
            place = self.sites_[test.site], summaries[test.site].codes[test.place]
            table.loc[place, :] = step, test.statistic, test.p, test.p_adjusted
        table = table.astype({"step": int}).sort_values(["step", "p"], key=_chosen_first, kind="stable")
        return table if site is None else table.loc[site]

    def likelihood_ratio(self) -> DataFrame:
        """Test how much the sites have in common: every rung of the ladder against the next wider one.

        Returns:
            DataFrame under the model (equal, proportional, axes, subspace, unrelated): loglik (nats), parameters (of
            covariances), and against the next: statistic, df, p.

        Raises:
            InputError: the model has a remainder.
        """
        import pandas
        from scipy.special import chdtrc

        if self.remainder:
            raise InputError("likelihood_ratio is of models without a remainder.")
        found: list[tuple[float, int]] = []
        for name in LADDER[:-1]:
            settings = copy.copy(self).set_params(common=name)
            joint = joined(self.joint_.summaries, settings, self.codes_, None)
            found.append((joint.pooled.loglik, structures.degrees(joint.pooled.structure, joint.pooled.here)))
        value, numbers = fitting_in.unrelated(self.joint_.sites)
        found.append((value, numbers - sum(len(site.shared) * len(site.where) for site in self.joint_.sites)))
        loglik, parameters = (np.array(a, float) for a in zip(*found, strict=True))
        statistic, df = 2 * np.diff(loglik), np.diff(parameters)
        p = chdtrc(df, np.maximum(statistic, 0.0))
        table = {"loglik": loglik, "parameters": parameters.astype(int)}
        against = {"statistic": statistic, "df": df, "p": p}
        table |= {name: np.append(a, np.nan) for name, a in against.items()}
        return pandas.DataFrame(table, index=pandas.Index(LADDER, name="common"))


def _point(told: Sequence[Any], codes: int) -> Common:
    """A point as it was saved; of what is empty a file does not keep the shape."""
    basis, own = numbers(told[0], (codes, None)), numbers(told[2], (None, codes, None))
    scale, coef, free, free_at = (np.array(told[k], float) for k in (1, 3, 4, 5))
    free = free.reshape(-1, basis.shape[1] + own.shape[2])
    return Common(basis, scale, own, coef.reshape(-1, codes), free, free_at.reshape(-1, 2).astype(int))


def _chosen_first(values: Any) -> Any:
    return values.mask(values == 0, len(values) + 1) if values.name == "step" else values


def _noise(joint: Joint) -> float:
    """Nats that a step gains by noise alone: half its variance, in units of the information, a number."""
    numbers = sum(structures.steps_from(joint.pooled.structure, joint.pooled.here).sizes())
    numbers += sum(len(site.own_score) for site in joint.sites)
    return 0.5 * numbers * float(np.mean([site.score_noise for site in joint.summaries]))


def _by_site(counts: Counts, groups: Any) -> Mapping[str, Counts]:
    """The rows of each site."""
    groups = np.asarray(groups)
    if groups.shape != (len(counts.row_names),):
        raise InputError(
            f"groups has the shape {groups.shape}; wanted is one site for each of the {len(counts.row_names)} rows."
        )
    names = np.array([str(name) for name in groups])
    found = {name: some_rows(counts, np.flatnonzero(names == name)) for name in sorted(set(names.tolist()))}
    if len(found) < 2:
        raise InputError(f"groups names one site, {listed(found)}; wanted are two or more. For one, use PLN.")
    return found


def _frame(values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> DataFrame:
    import pandas

    index = pandas.Index(list(rows), name="covariate")
    return pandas.DataFrame(values, index=index, columns=pandas.Index(columns))


def _pairs(summary: SiteSummary) -> list[np.ndarray]:
    d, p = summary.coef.shape
    return [np.repeat(summary.covariates, p), np.tile(summary.codes, d)]
