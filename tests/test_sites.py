"""Several sites with the same axes: charts, quadratics, what is pooled of them, and tests of whether a site fits in.

Start at `STRUCTURES`, over which laws are checked; the oracle is the joint likelihood by quadrature, climbed by scipy.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import gammaln

import poplin
from poplin._numerics import double_precision
from poplin.sites import fitting_in, pooling, structures
from poplin.sites.structures import Common
from poplin.sites.summaries import SiteSummary, chart
from tests.tolerances import close, within_errors

CODES, AXES, SITES = 7, 2, 3
STRUCTURES = ("equal", "proportional", "axes", "subspace")


def orthonormal(random: np.random.Generator, p: int, q: int) -> np.ndarray:
    """Random axes."""
    return np.linalg.qr(random.standard_normal((p, q)))[0]


def common(random: np.random.Generator, structure: structures.AbstractCommon, remainder: int = 0) -> Common:
    """A point of a structure, with variances well apart."""
    within = np.stack([np.diag(random.uniform(1, 2, AXES) * [4, 1]) for _ in range(SITES)])
    if not structure.rotates:
        turn = np.stack([orthonormal(random, AXES, AXES) for _ in range(SITES)])
        within = turn @ within @ np.swapaxes(turn, 1, 2)
    scale = structure.begin(within)
    own = random.normal(size=(SITES, CODES, remainder))
    return structures.point(orthonormal(random, CODES, AXES), scale, own, random.normal(size=(1, CODES)))


def quadratic(
    random: np.random.Generator,
    name: str,
    coef: np.ndarray,
    loadings: np.ndarray,
    codes: np.ndarray,
    rows: int,
) -> SiteSummary:
    """A site whose likelihood is a quadratic in its chart, with its maximum at these estimates."""
    d, (p, q) = coef.shape[0], loadings.shape
    size = d * p + p * q - q * (q - 1) // 2
    root = random.normal(size=(2 * size, size))
    information = rows * root.T @ root / len(root)
    return SiteSummary(
        name,
        "",
        tuple(f"code{j}" for j in codes),
        ("Intercept", "age")[:d],
        rows,
        coef,
        loadings @ orthonormal(random, q, q),
        random.uniform(0.5, 2, p),
        np.zeros(size),
        0.5 * (information + information.T),
        0.0,
        -100.0,
        0.0,
        1,
    )


# The chart.


def test_numbers_are_zero_at_the_point_and_the_same_for_every_rotation() -> None:
    random = np.random.default_rng(1)
    loadings, other = random.normal(size=(2, CODES, AXES))
    turn = orthonormal(random, AXES, AXES)
    with double_precision():
        about = chart(np.zeros((1, CODES)), loadings, random.uniform(0.5, 2, CODES))
        assert close(1 + about.of_loadings(jnp.asarray(loadings @ turn)), np.ones(CODES * AXES - 1))
        numbers = about.of_loadings(jnp.asarray(other))
        assert close(about.of_loadings(jnp.asarray(other @ turn)), numbers)
        back = about.loadings_at(np.asarray(numbers))
    assert close(back @ back.T, other @ other.T)


def test_tangents_are_those_of_the_coordinates() -> None:
    """So that a score and an information in `Coordinates` are a score and an information in the chart."""
    from poplin.inference.coordinates import coordinates
    from poplin.models.loadings import FreeLoadings
    from poplin.updates.structure import Model

    random = np.random.default_rng(2)
    loadings, coef = random.normal(size=(CODES, AXES)), random.normal(size=(2, CODES))
    with double_precision():
        here = coordinates(
            None, FreeLoadings(), Model(jnp.asarray(coef), jnp.asarray(loadings)), jnp.ones(CODES)
        )
        about = chart(*map(np.asarray, here.model), np.ones(CODES))
        here = replace(here, outward=about.outward)  # whatever basis the complement has
        pairs = np.stack([np.asarray(a) for a in here.pairs])
        assert np.array_equal(pairs[:, 2 * CODES :], np.stack([about.latent + 2, about.column]))
        numbers = np.eye(here.size())[2 * CODES :]
        _, sigma = (np.asarray(a) for a in here.tangents(jnp.asarray(numbers)))
        at_point = about.loadings_at(np.zeros(len(numbers)))
        assert close(at_point @ at_point.T, loadings @ loadings.T)
        step = 1e-6
        for k, line in enumerate(np.eye(len(numbers))):
            up, down = (about.loadings_at(sign * step * line) for sign in (1, -1))
            assert np.allclose((up @ up.T - down @ down.T) / (2 * step), sigma[k], atol=1e-6)


# Structures and their steps.


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize(("remainder", "free"), [(0, 0), (1, 0), (0, 2)])
def test_steps_lead_where_they_say_and_none_is_in_vain(name: str, remainder: int, free: int) -> None:
    """The step's first order is its difference; covariances move along as many directions as there are numbers."""
    random, shape = np.random.default_rng(3), structures.named(name, SITES)
    here = common(random, shape, remainder)
    for row in range(free):
        here = structures.with_free_row(here, 1, row)
    with double_precision():
        steps = structures.steps_from(shape, here)
        first, size = sum(steps.sizes()[:3]), sum(steps.sizes()) - here.coef.size
        whole = lambda step: jnp.insert(step, np.full(here.coef.size, first), 0.0)  # B stands

        def covariances(step: Any) -> Any:
            moved = steps.at(whole(step))
            loadings = [structures.loadings_of(shape, moved, k) for k in range(SITES)]
            return jnp.stack([a @ a.T for a in loadings])

        slopes = np.asarray(jax.jit(jax.jacfwd(covariances))(jnp.zeros(size))).reshape(-1, size)
        exact = steps.moved(np.asarray(whole(1e-5 * jnp.ones(size))))
        there = np.stack([np.asarray(structures.loadings_of(shape, exact, k)) for k in range(SITES)])
        told = np.asarray(covariances(jnp.zeros(size))).ravel() + slopes @ (1e-5 * np.ones(size))
    assert close(exact.basis.T @ exact.basis, np.eye(AXES))
    assert np.allclose((there @ np.swapaxes(there, 1, 2)).ravel(), told, atol=1e-7)
    assert np.linalg.matrix_rank(slopes, tol=1e-8) == structures.degrees(shape, here)


def test_simultaneous_axes_diagonalise_what_can_be() -> None:
    random = np.random.default_rng(4)
    axes = orthonormal(random, 5, 5)
    covariances = np.stack([axes * random.uniform(1, 9, 5) @ axes.T for _ in range(3)])
    found = structures.simultaneous_axes(covariances, np.ones(3))
    inside = found.T @ covariances @ found
    assert close(inside * (1 - np.eye(5)) + 1, np.ones((3, 5, 5)))


# Pooling.


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("lacking", [False, True])
def test_sites_that_agree_are_pooled_without_loss(name: str, lacking: bool) -> None:
    """Where all sites' maxima are of one joint model, that model is found from elsewhere, and nothing is lost."""
    random, shape = np.random.default_rng(5), structures.named(name, SITES)
    truth = common(random, shape)
    codes = [
        np.arange(CODES) if not lacking or k == 0 else np.delete(np.arange(CODES), k) for k in range(SITES)
    ]
    with double_precision():
        each = [np.asarray(structures.loadings_of(shape, truth, k))[codes[k]] for k in range(SITES)]
        told = [
            quadratic(random, f"site{k}", random.normal(size=(1, len(codes[k]))), each[k], codes[k], 400)
            for k in range(SITES)
        ]
        every = [f"code{j}" for j in range(CODES)]
        sites = [pooling.reduced(site, every, ()) for site in told]
        found = pooling.pooled(shape, sites, pooling.begin(shape, sites, codes=CODES, rank=AXES))
        assert found.converged
        assert abs(found.loglik + 100.0 * SITES) < 1e-4
        for k, site in enumerate(sites):
            loadings = found.loadings(site, k)
            assert np.allclose(loadings @ loadings.T, each[k] @ each[k].T, atol=1e-4)
            assert np.allclose(found.coef(site, k), told[k].coef, atol=1e-4)


def test_shared_coefficients_are_the_mean_weighted_by_information() -> None:
    """With covariances that agree and an information without cross terms, b = (sum I_k)^-1 sum I_k b_k."""
    random, shape = np.random.default_rng(6), structures.CommonAxes()
    truth = common(random, shape)
    with double_precision():
        each = [np.asarray(structures.loadings_of(shape, truth, k)) for k in range(SITES)]
        told = []
        for k in range(SITES):
            site = quadratic(
                random, f"site{k}", random.normal(size=(2, CODES)), each[k], np.arange(CODES), 100 * (k + 1)
            )
            information = site.information.copy()
            information[: 2 * CODES, 2 * CODES :] = information[2 * CODES :, : 2 * CODES] = 0
            information[:CODES, CODES : 2 * CODES] = information[CODES : 2 * CODES, :CODES] = 0
            told.append(SiteSummary(**{**vars(site), "information": information}))
        sites = [pooling.reduced(site, told[0].codes, ("age",)) for site in told]
        found = pooling.pooled(shape, sites, pooling.begin(shape, sites, codes=CODES, rank=AXES))
        total, weighted = np.zeros((CODES, CODES)), np.zeros(CODES)
        for site in told:
            numbers = np.asarray(site.chart.outward.numbers(jnp.eye(CODES)))
            own = numbers @ site.information[CODES : 2 * CODES, CODES : 2 * CODES] @ numbers.T
            total, weighted = total + own, weighted + own @ site.coef[1]
    for k, site in enumerate(sites):
        assert np.allclose(found.coef(site, k)[1], np.linalg.solve(total, weighted), atol=1e-4)
        assert np.allclose(found.coef(site, k)[0], told[k].coef[0], atol=1e-4)


def test_statistics_are_chi_squared_where_quadratics_are_exact() -> None:
    """Sites drawn about a joint model with the spread of their information: leave-one-out, codes, the ladder."""
    shape, rejected, gains = structures.CommonAxes(), [], []
    for seed in range(40):
        random = np.random.default_rng([7, seed])
        truth = common(random, shape)
        with double_precision():
            told = []
            for k in range(SITES):
                loadings = np.asarray(structures.loadings_of(shape, truth, k))
                site = quadratic(
                    random, f"site{k}", np.zeros((1, CODES)), loadings, np.arange(CODES), 100_000
                )
                noise = np.linalg.cholesky(np.linalg.inv(site.information)) @ random.normal(
                    size=len(site.score)
                )
                told.append(SiteSummary(**{**vars(site), "score": site.information @ noise}))
            sites = [pooling.reduced(site, told[0].codes, ()) for site in told]
            found = pooling.pooled(shape, sites, pooling.begin(shape, sites, codes=CODES, rank=AXES))
            at = fitting_in.known_at(found, sites)
            test = fitting_in.site_test(at, 1)
            gains.append(fitting_in.code_gains(at, 1)[0])
        assert test.df == CODES * AXES - 1 - AXES
        rejected.append(test.statistic)
    for statistics, df in ((rejected, test.df), (gains, AXES)):
        error = np.sqrt(2 * df / len(statistics))
        assert within_errors(np.mean(statistics), df, error), (np.mean(statistics), df)


def test_an_exchanged_code_is_found_and_no_other(tmp_path: Any) -> None:
    random, shape = np.random.default_rng(8), structures.CommonAxes()
    truth = common(random, shape)
    with double_precision():
        each = [np.asarray(structures.loadings_of(shape, truth, k)).copy() for k in range(SITES)]
        each[2][[1, 4]] = each[2][[4, 1]]
        told = [
            quadratic(random, f"site{k}", np.zeros((1, CODES)), each[k], np.arange(CODES), 2000)
            for k in range(SITES)
        ]
        found = poplin.CommonBasis(AXES).fit(told)
    table = found.test_codes("site2")
    assert set(table.index[table["step"] > 0]) == {"code1", "code4"}
    # asked by itself another site is blamed; over all sites the codes are found where they were exchanged
    assert (found.test_codes("site0")["step"] > 0).any()
    everywhere = found.test_codes()
    assert set(everywhere.index[everywhere["step"] > 0]) == {("site2", "code1"), ("site2", "code4")}
    assert (found.test_sites()["p"] < 0.05).all()  # each disagrees with two of which one is the odd one
    assert found.test_sites()["loss"].idxmax() == "site2"
    # set free they pull nothing: the axes are the others', and nobody is odd any more; in later rounds too
    freed = poplin.CommonBasis(AXES, free={"site2": ["code4", "code1"]}).fit(told)
    freed.save(tmp_path / "joint.json")
    later = poplin.CommonBasis.load(tmp_path / "joint.json", told)
    later.update([replace(one, round=2) for one in told])
    assert freed.point("site2").axes is None and freed.point("site1").axes is not None
    for fit in (freed, later):
        assert abs(fit.loglik_ + 100.0 * SITES) < 1e-3
        for k, name in enumerate(fit.sites_):
            assert np.allclose(fit.covariance_[name], each[k] @ each[k].T, atol=1e-3)
            tests = fit.test_codes(name)
            assert (tests["step"] == 0).all()
            assert set(tests.index[tests["p"].isna()]) == ({"code1", "code4"} if name == "site2" else set())
        tests = fit.test_sites()
        assert (tests["p"] > 0.9).all() and (tests["angle"] < 0.1).all()


def test_no_more_codes_are_found_than_can_be_free() -> None:
    random, shape = np.random.default_rng(11), structures.CommonAxes()
    truth = common(random, shape)
    with double_precision():
        each = [np.asarray(structures.loadings_of(shape, truth, k)).copy() for k in range(SITES)]
        each[1] = random.normal(size=each[1].shape)  # a site that has nothing in common with the others
        told = [
            quadratic(random, f"site{k}", np.zeros((1, CODES)), each[k], np.arange(CODES), 2000)
            for k in range(SITES)
        ]
        free: dict[str, list[str]] = {}
        for _ in range(2):  # what the first pool names is set free, and asked once more
            found = poplin.CommonBasis(AXES, free=free).fit(told).test_codes()
            for site, code in found.index[found["step"] > 0]:
                free.setdefault(site, []).append(code)
    assert len(free["site1"]) == CODES - AXES - 1
    assert found["statistic"].loc["site1"].isna().all()


# Rows: the joint maximum by quadrature and scipy.

LEVEL, LIKELY = 1.0, 60


@cache
def two_sites() -> tuple[np.ndarray, np.ndarray]:
    """Counts of three codes at two sites with one axis, and the site of each row."""
    random = np.random.default_rng(9)
    axis = np.array([0.8, 0.5, 0.33])
    axis /= np.linalg.norm(axis)
    scale = np.repeat([1.2, 0.7], [150, 250])
    latent = scale[:, None] * random.standard_normal((400, 1)) * axis
    return random.poisson(np.exp(LEVEL + latent)), np.repeat(["a", "b"], [150, 250])


def by_scipy() -> tuple[np.ndarray, float]:
    """Direction (2 numbers), two log scales, six levels by 60 nodes of Gauss and Hermite; the log-likelihood."""
    y, site = two_sites()
    nodes, weights = np.polynomial.hermite_e.hermegauss(LIKELY)
    log_weights = np.log(weights / weights.sum())
    rows = [y[site == name] for name in ("a", "b")]

    def minus(numbers: np.ndarray) -> float:
        axis = np.array([1.0, *numbers[:2]])
        axis /= np.linalg.norm(axis)
        total = 0.0
        for counts, log_scale, level in zip(rows, numbers[2:4], numbers[4:].reshape(2, 3), strict=True):
            eta = level + np.exp(log_scale) * nodes[:, None] * axis
            logs = counts @ eta.T - np.exp(eta).sum(axis=1) - gammaln(counts + 1).sum(axis=1)[:, None]
            total += np.logaddexp.reduce(logs + log_weights, axis=1).sum()
        return -total

    found = minimize(
        minus, np.r_[0.6, 0.4, 0, -0.4, LEVEL * np.ones(6)], method="BFGS", options={"gtol": 1e-4}
    )
    return found.x, -found.fun


def test_rows_in_one_place_end_at_the_joint_maximum() -> None:
    y, site = two_sites()
    numbers, loglik = by_scipy()
    fit = poplin.CommonBasis(1).fit(y, groups=site)
    axis = fit.basis_[:, 0] / fit.basis_[0, 0]
    scales = fit.confint("scales")
    coef = fit.confint("coef")
    basis = fit.confint("basis")
    assert fit.converged_
    sure = 0.15  # of a standard error: what Monte-Carlo noise of the score leaves
    gap = np.abs(np.log(scales["estimate"]) / 2 - numbers[2:4])
    assert np.all(gap < sure * scales["se"] / scales["estimate"] / 2), gap
    assert np.all(np.abs(coef["estimate"] - numbers[4:]) < sure * coef["se"])
    assert np.all(np.abs(axis[1:] - numbers[:2]) < sure * basis["se"][1:] / fit.basis_[0, 0])
    assert abs(fit.loglik_ - loglik) < 0.1
    assert set(fit.at("a").transform(y[:3]).shape) == {3, 1}


def test_files_say_what_rows_in_one_place_say() -> None:
    """Two exchanges: the same as three rounds in one place, within half a nat."""
    y, site = two_sites()
    plan = poplin.SitePlan(("code1", "code2", "code3"), 1)
    fits = {name: poplin.PLN(rank=1).fit(y[site == name]) for name in ("a", "b")}
    named = {name: fit.counts_._replace(column_names=plan.codes) for name, fit in fits.items()}
    for name, fit in fits.items():
        fit.counts_ = named[name]
    joint = poplin.CommonBasis(1).fit([fit.site_summary(plan, name=name) for name, fit in fits.items()])
    for _ in range(2):
        moved = {name: joint.point(name).refitted(fit) for name, fit in fits.items()}
        joint.update(
            [fit.site_summary(plan, name=name, round=joint.rounds_ + 1) for name, fit in moved.items()]
        )
    _, loglik = by_scipy()
    assert abs(joint.joint_.at_sites() - loglik) < 0.5
    assert joint.rounds_ == 3


def test_a_step_after_which_the_likelihood_has_fallen_is_halved() -> None:
    """Half way back to where the step began, and the sites' quadratics there are kept."""
    random = np.random.default_rng(12)

    def told(turn: int, loglik: float) -> list[SiteSummary]:
        made = []
        for k in range(SITES):
            loadings = random.normal(size=(CODES, AXES))
            site = quadratic(random, f"site{k}", np.zeros((1, CODES)), loadings, np.arange(CODES), 400)
            made.append(replace(site, round=turn, loglik=loglik))
        return made

    fit = poplin.CommonBasis(AXES, free={"site1": ["code3"]}).fit(told(1, -100.0))
    began = fit.basis_
    fit.update(told(2, -100.0))
    kept, reached = fit.joint_.summaries, fit.basis_
    fit.update(told(3, -110.0))
    half = began + reached
    left, _, right = np.linalg.svd(half, full_matrices=False)
    assert close(fit.basis_, left @ right) and fit.joint_.summaries is kept and not fit.converged_
    fit.update(told(4, -99.0))
    assert fit.joint_.summaries is not kept and fit.rounds_ == 4


def test_a_summary_on_disk_is_the_summary(tmp_path: Any) -> None:
    random = np.random.default_rng(10)
    site = quadratic(
        random, "mgh", np.zeros((1, CODES)), random.normal(size=(CODES, AXES)), np.arange(CODES), 50
    )
    site.save(tmp_path / "mgh.json")
    back = SiteSummary.load(tmp_path / "mgh.json")
    for name, value in vars(site).items():
        assert np.array_equal(getattr(back, name), value), name
    told = (tmp_path / "mgh.json").read_text()
    (tmp_path / "mgh.json").write_text(told[: len(told) // 2])
    with pytest.raises(poplin.InputError, match=r"mgh\.json is not whole"):
        SiteSummary.load(tmp_path / "mgh.json")


DAMAGED: dict[str, Any] = {  # what a careless or malicious site may write, by field
    "name": [3, None],
    "plan": [3],
    "codes": [[], ["a"] * CODES, ["a"], "abcdefg", 7],
    "covariates": [[], ["Intercept", "Intercept"], None],
    "rows": [0, -5, 2.5, "many", True, 10**400],
    "coef": [
        [],
        [[10**400] * CODES],
        [[float("nan")] * CODES],
        [[float("inf")] * CODES],
        [[1e60] * CODES],
        "x",
    ],
    "loadings": [[[]], [[None] * AXES] * CODES, 3],
    "root": [[0.0] * CODES, [-1.0] * CODES],
    "score": [[], [1e60], {"a": 1}],
    "information": [[], [1.0], "diag"],
    "score_noise": [float("nan"), -1.0, None],
    "loglik": [float("nan"), float("-inf"), "low", None],
    "loglik_se": [float("inf"), -1.0],
    "round": [0, 1.5, "1"],
}


@pytest.mark.parametrize("field", DAMAGED)
def test_a_file_with_a_field_that_cannot_be_is_refused(field: str, tmp_path: Path) -> None:
    random = np.random.default_rng(10)
    loadings = random.normal(size=(CODES, AXES))
    quadratic(random, "mgh", np.zeros((1, CODES)), loadings, np.arange(CODES), 50).save(tmp_path / "mgh.json")
    told = json.loads((tmp_path / "mgh.json").read_text())
    assert set(DAMAGED) == set(told) - {"format", "version", "kind"}
    changes = [*DAMAGED[field], "gone"]
    for value in changes:
        changed = {name: a for name, a in told.items() if name != field or value != "gone"}
        if value != "gone":
            changed[field] = value
        (tmp_path / "changed.json").write_text(json.dumps(changed))
        with pytest.raises(poplin.InputError, match=r"changed\.json"):
            SiteSummary.load(tmp_path / "changed.json")


PLANS: dict[str, Any] = {  # by field of a plan
    "codes": [None, 3, "abc", [], ["a", "a", "b"], [1, 2, 3], True],
    "rank": [0, 3, 1.5, "1", None, True],
    "formula": [3, []],
    "offset": [3, {}],
    "min_patients": [0, 2.5, "11", None],
    "common": ["other", None, 3],
    "remainder": [-1, 2, None],
    "share": [None, 3, "age", [1]],
    "patients_a_number": [-1, 0.5, None],
    "most_share": [0, -1, 1.5, float("nan"), "half", None],
}


@pytest.mark.parametrize("field", PLANS)
def test_a_plan_with_a_field_that_cannot_be_is_refused(field: str, tmp_path: Path) -> None:
    poplin.SitePlan(("a", "b", "c"), 1).save(tmp_path / "plan.json")
    told = json.loads((tmp_path / "plan.json").read_text())
    assert set(PLANS) == set(told) - {"format", "version", "kind"}
    for value in [*PLANS[field], "gone"]:
        changed = {name: a for name, a in told.items() if name != field}
        (tmp_path / "changed.json").write_text(
            json.dumps(changed if value == "gone" else {**told, field: value})
        )
        with pytest.raises(poplin.InputError):
            poplin.SitePlan.load(tmp_path / "changed.json")


def test_an_information_below_zero_is_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(10)
    loadings = random.normal(size=(CODES, AXES))
    site = quadratic(random, "mgh", np.zeros((1, CODES)), loadings, np.arange(CODES), 50)
    values, vectors = np.linalg.eigh(site.information)
    values[0] = -0.01 * values[-1]
    replace(site, information=(vectors * values) @ vectors.T).save(tmp_path / "mgh.json")
    with pytest.raises(poplin.InputError, match=r"mgh\.json is damaged or was changed: .* below 0"):
        SiteSummary.load(tmp_path / "mgh.json")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"name": "site1"}, "Two summaries"),
        ({"plan": "other"}, "different plans"),
        ({"covariates": ("age",)}, "share names 'Intercept'"),
    ],
)
def test_summaries_that_do_not_go_together_are_refused(change: dict[str, Any], words: str) -> None:
    random = np.random.default_rng(11)
    told = [
        quadratic(
            random, f"site{k}", np.zeros((1, CODES)), random.normal(size=(CODES, AXES)), np.arange(CODES), 50
        )
        for k in range(2)
    ]
    told[0] = SiteSummary(**{**vars(told[0]), **change})
    with pytest.raises(poplin.InputError, match=words):
        poplin.CommonBasis(AXES, share=("Intercept",)).fit(told)


def test_estimates_that_are_not_of_largest_likelihood_are_refused() -> None:
    counts = two_sites()[0][:150]
    plan = poplin.SitePlan(("Y1", "Y2", "Y3"), 1, min_patients=1)
    fit = poplin.PLN(rank=1, method="variational").fit(counts, standard_errors=False)
    with pytest.raises(poplin.InputError, match="by method='variational'.*method='ml', or 'exact'"):
        fit.site_summary(plan, name="a")


WITHHELD = {  # counts of 40 patients, what the plan says of few, why the code is withheld
    "few patients": (np.arange(40) < 10, {"patients_a_number": 0}, "fewer than 11 patients have it"),
    "few for each number": (
        np.arange(40) < 11,
        {},
        "fewer than 12 patients have it, 3 for each of its 4 numbers",
    ),
    "one patient": (
        np.where(np.arange(40) == 7, 40, 1),
        {},
        "one patient has more than 50 % of its counts",
    ),
}


@pytest.mark.parametrize("held", [np.asarray, csr_array])
@pytest.mark.parametrize("kind", WITHHELD)
def test_a_code_behind_which_few_patients_are_is_withheld(kind: str, held: Any) -> None:
    few, rule, why = WITHHELD[kind]
    counts = np.column_stack([np.full(40, 2), few, np.arange(40) < 12]).astype(int)
    plan = poplin.SitePlan(("a", "b", "c", "d"), 1, remainder=1, **rule)
    assert plan.withheld(held(counts), ["a", "b", "c"], covariates=2) == {"b": why}
    assert plan.withheld(held(counts), ["a", "elsewhere", "c"], covariates=2) == {}


def test_a_site_sends_neither_such_codes_nor_a_fit_that_did_not_converge() -> None:
    counts = two_sites()[0][:150]
    plan = poplin.SitePlan(("Y1", "Y2", "Y3"), 1, min_patients=151)
    fit = poplin.PLN(rank=1).fit(counts, standard_errors=False)
    with pytest.raises(
        poplin.InputError, match=r"no file tell of 'Y1', .*\(of 'Y1': fewer than 151 patients"
    ):
        fit.site_summary(plan, name="a")
    begun = poplin.PLN(rank=1, max_iter=20)
    with pytest.warns(poplin.ConvergenceWarning):
        begun.fit(counts, standard_errors=False)
    with pytest.raises(poplin.InputError, match=r"did not converge in \d+ iterations.*max_iter"):
        begun.site_summary(replace(plan, min_patients=1), name="a")


@pytest.mark.parametrize(
    "free, words",
    [
        ({"mgh": ["code1"]}, "free names the site 'mgh'; there are 'site0', 'site1'"),
        ({"site1": ["code9"]}, "free names 'code9' at 'site1', which has no such code"),
        ({"site1": "code1"}, "free names"),
        ({"site1": [f"code{j}" for j in range(5)]}, "5 of the 7 codes of 'site1'; 3 have to be left"),
    ],
)
def test_codes_that_cannot_be_free_are_refused(free: dict[str, Any], words: str) -> None:
    random = np.random.default_rng(13)
    told = [
        quadratic(
            random, f"site{k}", np.zeros((1, CODES)), random.normal(size=(CODES, AXES)), np.arange(CODES), 50
        )
        for k in range(2)
    ]
    with pytest.raises(poplin.InputError, match=words):
        poplin.CommonBasis(AXES, free=free).fit(told)
