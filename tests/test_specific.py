"""Sigma = C C' + diag(psi) and V Lambda V' + diag(psi): factor analysis, its limits, and fits of counts by it.

Start at `test_the_likeliest_parts_are_those_of_other_software`. Laws of fits are checked over `tests/instances.py`,
which has both models; here is what they alone have.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from scipy.optimize import minimize
from sklearn.decomposition import FactorAnalysis
from typer.testing import CliRunner

import poplin
from poplin._numerics import double_precision
from poplin.cli.commands import app
from poplin.estimators.placed_rows import new_block
from poplin.inference.coordinates import coordinates
from poplin.inference.selection import Nesting, nesting
from poplin.models.loadings import BorrowedBasis, FreeLoadings
from poplin.rows.gaussian import fit_rows
from poplin.updates import specific
from poplin.updates.specific import EDGE, GivenAxes, Parts, Specific, free_axes
from poplin.updates.structure import Diagonal, Full, Model
from tests import oracles
from tests.instances import BASIS, LOADINGS, TABLES, fit, fitted, simulated
from tests.programs import at_once


class Case(NamedTuple):
    """A second moment S (p, p) and how many axes are asked of it."""

    moment: np.ndarray
    rank: int
    basis: np.ndarray

    def axes(self, kind: str) -> specific.AbstractAxes:
        """Any axes, or those of the basis."""
        p = len(self.moment)
        least = np.full(p, EDGE)
        return (
            free_axes(self.rank, least)
            if kind == "free"
            else GivenAxes(jnp.asarray(self.basis), jnp.asarray(least))
        )


def case(seed: int, p: int, q: int, n: int, bare: int = 0) -> Case:
    """Rows of a Sigma in two parts, `bare` of whose columns have no variance of their own."""
    random = np.random.default_rng(seed)
    loadings = 0.8 * random.normal(size=(p, q))
    own = np.where(np.arange(p) < bare, 0.0, random.uniform(0.1, 0.8, p))
    z = random.normal(size=(n, q)) @ loadings.T + np.sqrt(own) * random.normal(size=(n, p))
    return Case(z.T @ z / n, q, np.linalg.qr(loadings)[0])


CASES = {"small": case(1, 5, 1, 40), "few rows": case(2, 12, 3, 14), "edge": case(3, 10, 2, 60, bare=2)}
KINDS = ("free", "given")


@cache
def parts_of(name: str, kind: str) -> Parts:
    with double_precision():
        axes, moment = CASES[name].axes(kind), jnp.asarray(CASES[name].moment)
        return jax.tree.map(np.asarray, at_once(lambda s: Specific(axes).parts(s), moment))


def sigma_of(parts: Parts) -> np.ndarray:
    """C C' + diag(psi)."""
    return parts.loadings @ parts.loadings.T + np.diag(parts.specific)


def deviance(covariance: np.ndarray, moment: np.ndarray) -> float:
    """1/2 [log det Sigma + tr(Sigma^-1 S)], from its definition."""
    return 0.5 * float(np.linalg.slogdet(covariance)[1] + np.trace(np.linalg.solve(covariance, moment)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_the_likeliest_parts_are_those_of_other_software(name: str, kind: str) -> None:
    """L-BFGS-B over C (or lambda) and psi together, from several starts, with psi as small as it may be."""
    (moment, q, basis), random = CASES[name], np.random.default_rng(0)
    p = len(moment)

    def sigma(numbers: np.ndarray) -> np.ndarray:
        own = np.diag(numbers[:p])
        if kind == "given":
            return (basis * np.exp(numbers[p:])) @ basis.T + own
        loadings = numbers[p:].reshape(p, q)
        return loadings @ loadings.T + own

    def target(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        covariance = sigma(numbers)
        inverse = np.linalg.inv(covariance)
        slope = 0.5 * (inverse - inverse @ moment @ inverse)
        if kind == "given":
            others = np.exp(numbers[p:]) * np.einsum("jk,jl,lk->k", basis, slope, basis)
        else:
            others = (2 * slope @ numbers[p:].reshape(p, q)).ravel()
        return deviance(covariance, moment), np.concatenate([np.diag(slope), others])

    bounds = [(EDGE, None)] * p + [(None, None)] * (q if kind == "given" else p * q)
    starts = [
        np.concatenate([0.5 * np.diag(moment), 0.5 * random.normal(size=len(bounds) - p)]) for _ in range(6)
    ]
    how: Any = {"maxiter": 20_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-9}
    best = min(
        minimize(target, x, jac=True, method="L-BFGS-B", bounds=bounds, options=how).fun for x in starts
    )
    found = deviance(sigma_of(parts_of(name, kind)), moment)
    assert found == pytest.approx(best, abs=1e-7)


def test_the_likeliest_parts_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(5)
    rows = random.normal(size=(60, 2)) @ random.normal(size=(2, 8)) + 0.6 * random.normal(size=(60, 8))
    rows -= rows.mean(axis=0)
    theirs = FactorAnalysis(2, tol=1e-12, max_iter=100_000, svd_method="lapack").fit(rows).get_covariance()
    with double_precision():
        ours = Specific(free_axes(2, np.full(8, EDGE))).nearest(jnp.asarray(rows.T @ rows / len(rows)))
    assert np.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_slopes_are_those_of_the_value(kind: str) -> None:
    """Gradient and Hessian at some numbers, by differentiating the value; and the value is the deviance."""
    one = CASES["edge"]
    with double_precision():
        axes, moment = one.axes(kind), jnp.asarray(one.moment)
        numbers = axes.begin(moment)[0] + 0.3 * jnp.asarray(
            np.random.default_rng(1).normal(size=10 + 2 * (kind == "given"))
        )
        value = lambda x: axes.slopes(x, moment).value
        at = at_once(axes.slopes, numbers, moment)
        assert np.allclose(at.gradient, at_once(jax.grad(value), numbers), atol=1e-10)
        assert np.allclose(at.hessian, at_once(jax.hessian(value), numbers), atol=1e-8)
        sigma = np.asarray(axes.parts(numbers, moment).covariance())
    assert float(at.value) == pytest.approx(deviance(sigma, one.moment))
    assert np.linalg.eigvalsh(np.asarray(at.convex)).min() > -1e-12


@pytest.mark.parametrize("name", ["small", "few rows"])  # the others' moment is beyond the edge
def test_limits(name: str) -> None:
    """Without axes Sigma is diagonal; with all of them any; what is of the form stays as it is."""
    with double_precision():
        moment = jnp.asarray(CASES[name].moment)
        p = len(moment)
        assert np.allclose(
            Specific(free_axes(0, np.full(p, EDGE))).nearest(moment), Diagonal().nearest(moment)
        )
        all_of_it = Specific(free_axes(p, np.full(p, EDGE))).nearest(moment)
        assert deviance(np.asarray(all_of_it), np.asarray(moment)) == pytest.approx(
            deviance(np.asarray(moment), np.asarray(moment)), abs=1e-3
        )
        for kind in KINDS:
            shape, own = Specific(CASES[name].axes(kind)), jnp.asarray(sigma_of(parts_of(name, kind)))
            assert np.allclose(shape.nearest(own), own, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_directions_are_those_in_which_sigma_moves(name: str, kind: str) -> None:
    """What parts that move do to Sigma stays in a projection, which is one; their own numbers are read off it."""
    parts, random = parts_of(name, kind), np.random.default_rng(7)
    p = len(parts.specific)
    with double_precision():
        shape, sigma = Specific(CASES[name].axes(kind)), jnp.asarray(sigma_of(parts))
        root = jnp.linalg.cholesky(sigma)
        seen = shape.seen(root)
        free = np.asarray(seen.directions.free)
        own = random.normal(size=len(free)) * free
        turned = np.asarray(seen.directions.turning) @ random.normal(
            size=(seen.directions.turning.shape[1], p)
        )
        moved = (
            turned + turned.T + (np.asarray(seen.directions.own) * own) @ np.asarray(seen.directions.own).T
        )
        change = np.asarray(seen.inward @ moved @ seen.inward.T)
        assert np.allclose(seen.along(jnp.asarray(change)), change, atol=1e-6 * np.abs(change).max())
        assert np.allclose(
            np.asarray(seen.numbers(jnp.asarray(change)))[free], own[free], rtol=1e-4, atol=1e-5
        )
        some = random.normal(size=(p, p))
        some = jnp.asarray(some + some.T)
        once = shape.along(root, some)
        assert np.allclose(shape.along(root, once), once, atol=1e-6)
        assert abs(np.sum(np.asarray(once) * np.asarray(some - once))) < 1e-6 * np.sum(np.asarray(some) ** 2)
        pairs = np.indices((p, p)).reshape(2, -1)
        basis = seen.matrices(*pairs)
    at_edges = int(parts.edge.sum())
    assert np.allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-6)
    assert basis.shape[1] == shape.axes.count(p) - at_edges
    inside = (basis @ (basis.T @ change.ravel())).reshape(p, p)
    assert np.allclose(inside, change, atol=1e-6 * np.abs(change).max())


def test_coordinates_tell_what_a_full_sigma_tells_where_all_of_it_is_free() -> None:
    """At a rank at which Sigma is any, the free numbers move Sigma everywhere it can go."""
    sigma = LOADINGS @ LOADINGS.T
    with double_precision():
        model = specific_model(sigma)
        full = coordinates(Full(jnp.asarray(0.0)), None, model, jnp.ones(4))
        ours = coordinates(Specific(free_axes(3, np.full(4, EDGE))), None, model, jnp.ones(4))
        assert ours.size() == full.size()
        moved = [
            np.asarray(here.tangents(jnp.eye(here.size()))[1]).reshape(here.size(), -1)
            for here in (full, ours)
        ]
    assert (
        np.linalg.matrix_rank(np.concatenate(moved), tol=1e-8)
        == np.linalg.matrix_rank(moved[1], tol=1e-8)
        == 10
    )


def specific_model(sigma: np.ndarray) -> Model:
    """A model with this Sigma and no effects."""
    return Model(jnp.zeros((1, len(sigma))), jnp.asarray(np.linalg.cholesky(sigma)))


# Fits of counts.

WIDE = np.random.default_rng(11)
SHARED = 0.9 * WIDE.normal(size=(6, 1))
OWN = WIDE.uniform(0.2, 0.6, 6)
SIX = simulated(12, np.linalg.cholesky(SHARED @ SHARED.T + np.diag(OWN)), n=300, level=1.0)
BARE = simulated(13, np.random.default_rng(14).normal(size=(6, 2)), n=300, level=1.5)


@cache
def six(method: str = "ml") -> Any:
    return fit(SIX, rank=1, specific="column", method=method)


def test_what_the_counts_were_drawn_from_is_covered() -> None:
    one = six()
    assert one.converged_
    own = one.confint("specific", level=0.9999)
    assert own.index.name == "column" and (own.estimate == one.specific_variance_).all()
    assert ((own.lower <= OWN) & (own.upper >= OWN)).all()
    eigenvalue = one.confint("eigenvalues", level=0.9999).iloc[0]
    assert eigenvalue.lower <= np.sum(SHARED**2) <= eigenvalue.upper
    assert eigenvalue.upper / eigenvalue.lower < 10
    assert np.allclose(one.loadings_ @ one.loadings_.T + np.diag(one.specific_variance_), one.covariance_)
    assert np.allclose(one.standard_errors().specific, own.se, equal_nan=True)
    assert "diag(psi)" in one.summary() and "variances of the columns' own" in one.summary()


def test_three_columns_and_one_axis_are_any_sigma() -> None:
    """Likelihoods by quadrature: of the fit, and of a full Sigma by numerical integration, which is its maximum."""
    sigma = np.array([[0.8, 0.4, 0.3], [0.4, 0.7, 0.35], [0.3, 0.35, 0.6]])
    table = simulated(21, np.linalg.cholesky(sigma), n=120, level=1.0)
    ours, best = fit(table, rank=1, specific="column", tol=0.05), fit(table, method="exact", shrinkage=0)
    values = [
        sum(
            oracles.row_loglik_by_quadrature(y, x @ one.coef_, np.linalg.cholesky(one.covariance_), nodes=14)
            for y, x in zip(table.y, table.x, strict=True)
        )
        for one in (ours, best)
    ]
    assert ours.specific_variance_.min() > 0.05  # so that the maximum is not beyond the edge
    assert values[0] == pytest.approx(values[1], abs=0.1)


def test_where_columns_have_nothing_of_their_own_it_is_the_rank_alone() -> None:
    both, alone = fit(BARE, rank=2, specific="column"), fit(BARE, rank=2)
    error = np.hypot(both.loglik_se_, alone.loglik_se_)
    assert alone.loglik_ - 3 * error - 0.5 < both.loglik_ < alone.loglik_ + 3 * error + 6
    told = both.confint("specific")
    near = told.method == "edge"
    assert near.any() and told.lower[near].isin([0.0]).sum() + told.lower[near].isna().sum() == near.sum()
    assert (told.upper[near].dropna() < 0.5).all()


def test_positions_are_those_of_axes_and_columns_written_out() -> None:
    """E[w | y] and its variance by Gaussians of (w, e), Z = XB + C w + psi^(1/2) e: q + p dimensions."""
    one = six("variational")
    full = fit(SIX, rank=1, specific="column", method="variational", posterior="full")
    for result in (full, six()):
        with double_precision():
            written_out = np.hstack([result.loadings_, np.diag(np.sqrt(result.specific_variance_))])
            rows = fit_rows(
                new_block(result.result_, result.counts_), jnp.asarray(result.coef_), jnp.asarray(written_out)
            )
        mean, variance = result.transform(SIX.y, X=SIX.x, return_variance=True)
        assert np.allclose(mean, rows.mean[:, :1], atol=1e-5)
        assert np.allclose(variance, rows.covariance[:, :1, 0], atol=1e-5)
        assert np.allclose(mean, result.latent_mean_, atol=1e-6)
    assert np.corrcoef(one.latent_mean_[:, 0], full.latent_mean_[:, 0])[0, 1] > 0.99
    inward = np.linalg.solve(one.covariance_, one.loadings_)
    given = 1 - np.sum(
        one.loadings_ * inward, axis=0
    )  # of w where Z is known; a diagonal Gaussian of Z beside it
    assert np.allclose(one.latent_variance_, given + one.variational_["variance"] @ inward**2, atol=1e-6)


def test_kept_and_read_back(tmp_path: Path) -> None:
    one = six()
    one.save(tmp_path / "fit.npz")
    again = poplin.load(tmp_path / "fit.npz")
    for name in ("specific_variance_", "loadings_", "latent_mean_", "eigenvalues_"):
        assert np.array_equal(getattr(again, name), getattr(one, name))
    assert again.get_params()["specific"] == "column"


@pytest.mark.parametrize("model", ["rank and specific", "basis and specific"])
def test_a_bootstrap_tells_of_both_parts(model: str) -> None:
    one = fitted(model, "variational")
    for which in ("specific", *(["scales"] if "basis" in model else [])):
        told = one.confint(which, n_boot=3)
        assert (told.lower > 0).all() and (told.method == "bootstrap").all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 1, "specific": "each"}, "'none', 'column'"),
        ({"rank": 1, "specific": "column", "method": "exact"}, "does not know specific='column'"),
        ({"basis": BASIS, "specific": "column", "method": "amortised"}, "does not know specific='column'"),
        ({"rank": 1, "specific": "column", "covariance": "diagonal"}, "goes with covariance='full' only"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(poplin.InputError, match=words):
        fit(TABLES["plain"], **settings)


def test_intervals_of_what_is_not_there_are_refused() -> None:
    with pytest.raises(poplin.InputError, match="specific='column'"):
        fitted("rank", "variational").confint("specific")


@pytest.mark.parametrize("model", ["rank and specific", "basis and specific"])
@pytest.mark.parametrize("method", ["moments", "composite"])
def test_closed_forms_end_in_the_shape(model: str, method: str) -> None:
    settings = {"rank": 1} if "rank" in model else {"basis": BASIS}
    one = fit(TABLES["plain"], method=method, specific="column", **settings)
    assert np.allclose(
        one.loadings_ @ one.loadings_.T + np.diag(one.specific_variance_), one.covariance_, atol=1e-6
    )


def test_a_rank_is_chosen() -> None:
    """By bounds, which are quick; a rank at which Sigma would be any is not asked of."""
    plane = 0.9 * np.random.default_rng(31).normal(size=(6, 2))
    table = simulated(32, np.linalg.cholesky(plane @ plane.T + 0.3 * np.eye(6)), n=250, level=1.5)
    one = fit(table, rank="auto", specific="column", method="variational")
    assert one.loadings_.shape == (6, 2) and one.specific_variance_.shape == (6,)
    assert len(one.selection_) == 2  # ranks 1 and 2: of six columns, three axes and more leave nothing to say


def test_at_the_command_line(tmp_path: Path) -> None:
    names = [f"c{j}" for j in range(4)]
    pandas.DataFrame(TABLES["plain"].y.astype(int), columns=names).to_csv(tmp_path / "counts.csv")
    arguments = ["fit", str(tmp_path / "counts.csv"), "--rank", "1", "--specific", "column", "--quiet"]
    ended = CliRunner().invoke(app, [*arguments, "--method", "variational", "--out", str(tmp_path / "out")])
    assert ended.exit_code == 0, ended.output
    with open(tmp_path / "out" / "specific.csv", newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert [line["column"] for line in lines] == names and all(float(line["estimate"]) > 0 for line in lines)


def test_an_anndata_is_told() -> None:
    anndata = pytest.importorskip("anndata")
    cells = anndata.AnnData(TABLES["plain"].y.astype("float32"))
    one = poplin.tl.pln(cells, rank=1, specific="column", method="variational")
    assert np.array_equal(np.ravel(cells.varm["poplin_specific"]), one.specific_variance_)
    assert cells.obsm["X_poplin"].shape == (len(cells), 1)


def test_what_lies_within_what() -> None:
    """Regular where nothing is at an edge; fewer axes, no axes, or nothing of the columns' own are one."""
    least = np.full(4, EDGE)
    other = np.linalg.qr(np.random.default_rng(8).normal(size=(4, 2)))[0]
    one, two = (Specific(free_axes(q, least)) for q in (1, 2))
    given, elsewhere = (Specific(GivenAxes(jnp.asarray(v), jnp.asarray(least))) for v in (BASIS, other))
    full, borrowed = Full(jnp.asarray(0.0)), BorrowedBasis(jnp.asarray(BASIS))
    regular = [(one, full), (given, full), (two, two), (given, given), (given, two)]
    edges = [(one, two), (Diagonal(), one), (FreeLoadings(), two), (borrowed, given), (Diagonal(), given)]
    none = [(two, one), (full, two), (elsewhere, given), (two, given), (given, one), (one, Diagonal())]
    for cases, expected in ((regular, Nesting.REGULAR), (edges, Nesting.BOUNDARY), (none, Nesting.NONE)):
        for small, large in cases:
            found = nesting(small, large, ranks=(2, 4))
            assert found == expected, (type(small), type(large))
