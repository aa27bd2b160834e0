"""The bound over blocks of rows is that of the whole table, for every shape of Sigma and both kinds of Gaussians.

Start at `test_the_fit_is_that_of_the_whole_table`. How tables are cut into blocks is in `blockwise.py`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import poplin
from poplin.fitting import streamed
from tests.blockwise import TABLE, TABLES
from tests.instances import autoregressive, orthonormal
from tests.tolerances import close

# relative, at a tolerance where only rounding is left, in which EM with full Gaussians loses its last gains
NEAR = {"diagonal": 1e-6, "full": 3e-5}
NEAR_BOUND = 1e-10
FITS: dict[str, dict[str, Any]] = {
    "full": {},
    "shrunk": {"shrinkage": 0.2},
    "diagonal": {"covariance": "diagonal"},
    "spherical": {"covariance": "spherical"},
    "fixed": {"covariance": 0.6 * autoregressive(4, 0.5)},
    "rank": {"rank": 2},
    "basis": {"basis": orthonormal(4, 2)},
}
# model, kind of Gaussians, table
INSTANCES = [
    *((model, "diagonal", "sparse") for model in FITS),
    *((model, "full", "sparse") for model in ("full", "rank", "basis")),
    ("full", "full", "weights and offsets"),
    ("full", "diagonal", "missing"),
    *(("rank", "diagonal", table) for table in ("weights and offsets", "a column without a count")),
]


def fit_of(model: str, posterior: str, table: str, **settings: Any) -> Any:
    y, sides = TABLES[table]
    given = {"method": "variational", "posterior": posterior, "tol": 1e-16} | FITS[model] | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poplin.DataWarning)
        return poplin.PLN(**given).fit(y, X=TABLE.x, **sides)


def apart(found: Any, wanted: Any) -> float:
    return float(np.max(np.abs(np.asarray(found) - wanted)) / np.max(np.abs(wanted)))


@pytest.mark.parametrize(("model", "posterior", "table"), INSTANCES)
def test_the_fit_is_that_of_the_whole_table(
    model: str, posterior: str, table: str, request: pytest.FixtureRequest
) -> None:
    whole = fit_of(model, posterior, table)
    wanted = whole.elbo_, whole.latent_mean_, whole.latent_variance_
    request.getfixturevalue("in_blocks")
    parts = fit_of(model, posterior, table)
    assert "sample" in set(parts.trace_["phase"]) and "blocks of rows" in " ".join(parts.messages_)
    assert parts.converged_ and whole.converged_
    near = NEAR[posterior]
    assert apart(parts.coef_, whole.coef_) < near and apart(parts.covariance_, whole.covariance_) < near
    assert apart(parts.elbo_, wanted[0]) < NEAR_BOUND
    for found, of_whole in zip((parts.latent_mean_, parts.latent_variance_), wanted[1:], strict=True):
        assert apart(found, of_whole) < near


@pytest.mark.usefixtures("in_blocks")
def test_a_tolerance_below_rounding_is_met_whatever_the_order_of_rows() -> None:
    """Seeds order the rows; which step is refused where sums are exact to no more is chance: no fit fails for it."""
    fits = [fit_of("spherical", "diagonal", "sparse", random_state=seed) for seed in range(6)]
    assert all(fit.converged_ for fit in fits)
    assert max(apart(fit.coef_, fits[0].coef_) for fit in fits) < NEAR["diagonal"]


@pytest.mark.parametrize("posterior", NEAR)
@pytest.mark.usefixtures("in_blocks")
def test_sparse_and_dense_are_one_table_and_all_can_be_asked(posterior: str, tmp_path: Any) -> None:
    dense, fit = (fit_of("rank", posterior, table, tol=1e-8) for table in ("dense", "sparse"))
    assert np.array_equal(fit.coef_, dense.coef_) and np.array_equal(fit.covariance_, dense.covariance_)
    for name in ("phase", "objective"):
        assert np.array_equal(fit.trace_[name], dense.trace_[name])
    given = TABLES["sparse"][0].tocsr()
    assert close(fit.elbo_, dense.elbo_) and close(fit.latent_mean_, dense.latent_mean_, 100)
    # rows of new tables are found to 1e-10 of the bound
    assert np.abs(fit.transform(given, X=TABLE.x) - fit.latent_mean_).max() < 1e-3
    assert close(
        fit.score_samples(TABLE.y[:30], X=TABLE.x[:30]), fit.score_samples(given[:30], X=TABLE.x[:30])
    )
    assert "1200 rows, 4 columns" in fit.summary()
    fit.save(tmp_path / "fit.npz")
    again = poplin.load(tmp_path / "fit.npz")
    assert np.array_equal(again.latent_mean_, fit.latent_mean_) and again.elbo_ == fit.elbo_


@pytest.mark.parametrize(("posterior", "most"), [("diagonal", 0.2), ("full", 0.2), ("diagonal", 1e-4)])
def test_standard_errors_are_those_of_a_sample_that_weighs_as_much_as_all(
    posterior: str, most: float, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of half of the rows they are near those of all; where the sample is all rows, the same."""
    wanted = fit_of("basis", posterior, "dense", tol=1e-12).standard_errors()
    request.getfixturevalue("in_blocks")
    if most < 0.1:
        monkeypatch.setattr(streamed, "SAMPLE_ENTRIES", 4800)
    found = fit_of("basis", posterior, "sparse", tol=1e-12).standard_errors()
    for one, other in ((found.coef, wanted.coef), (found.scales, wanted.scales)):
        assert np.max(np.abs(one / other - 1)) < most


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
@pytest.mark.parametrize(
    ("posterior", "phase", "iteration"),
    [("diagonal", "variational", 9), ("full", "full", 2), ("diagonal", "sample", 1)],
)
@pytest.mark.usefixtures("in_blocks")
def test_a_stopped_fit_goes_on_to_the_same_numbers(
    posterior: str, phase: str, iteration: int, tmp_path: Any
) -> None:
    """Kept every 2 iterations; the sample's fit is told of under the name of its method."""
    seen: list[str] = []

    def stop(told: Any) -> None:
        seen.append(told.phase)
        if (told.iteration >= iteration and told.phase == phase) or phase == "sample":
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"tol": 1e-8, "max_iter": 30}
    kept = settings | {"checkpoint": tmp_path / "fit.npz", "checkpoint_every": 2}
    whole = fit_of("basis", posterior, "sparse", **settings)
    stopped = fit_of("basis", posterior, "sparse", callback=stop, **kept)
    assert stopped.interrupted_ and np.isfinite(stopped.latent_mean_).all()
    fit = fit_of("basis", posterior, "sparse", **kept)
    assert np.array_equal(fit.coef_, whole.coef_) and fit.elbo_ == whole.elbo_
    for name in ("phase", "objective"):
        assert np.array_equal(fit.trace_[name], whole.trace_[name])
