"""The variational autoencoder as users meet it: every likelihood, odd tables, seeds, stopping, files, conditions.

Start at `CASES`, the table of likelihoods with rows that suit them; a law runs over all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.base import clone

import poplin
from tests.oracles_neural import quickly as quickly
from tests.tolerances import within_errors

N, P, Q = 90, 6, 2
# a few draws of small networks: rows in doubt are named, which is no failure
pytestmark = pytest.mark.filterwarnings("ignore::poplin.LikelihoodWarning")

SHORT = {"hidden": (8,), "batch_size": 32, "max_epochs": 4, "kl_warmup": 2, "patience": None}


def latent() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(N, Q)), 0.7 * random.normal(size=(Q, P))


def rows(likelihood: str) -> np.ndarray:
    """A table that suits a likelihood, with one row and one column of zeros."""
    random = np.random.default_rng(1)
    w, loadings = latent()
    eta = w @ loadings
    if likelihood == "gaussian":
        y = eta + 0.3 * random.normal(size=(N, P))
    elif likelihood == "bernoulli":
        y = (random.uniform(size=(N, P)) < expit(2 * eta)).astype(float)
    elif likelihood == "categorical":
        y = np.clip(np.rint(eta) + 1, 0, 2)
    else:
        y = random.poisson(np.exp(1 + eta)).astype(float)
    y[3], y[:, 2] = 0, 0
    return y


CASES = {
    "gaussian": {},
    "gaussian-row": {"likelihood": "gaussian", "scale": "row"},
    "gaussian-linear": {"likelihood": "gaussian", "hidden": ()},
    "full": {"likelihood": "gaussian", "posterior": "full"},
    "bernoulli": {"likelihood": "bernoulli"},
    "categorical": {"likelihood": "categorical"},
    "poisson": {"likelihood": "poisson"},
    "negative-binomial": {"likelihood": "negative-binomial"},
    "poisson-lognormal": {"likelihood": "poisson-lognormal"},
    "mixture": {"likelihood": "poisson", "prior": 3},
    "importance": {"likelihood": "bernoulli", "importance": 5},
}


def make(name: str, **others: Any) -> poplin.VAE:
    return poplin.VAE(**{"n_components": Q} | SHORT | CASES[name] | others)


def table_of(name: str) -> np.ndarray:
    return rows(CASES[name].get("likelihood", "gaussian"))


@pytest.mark.parametrize("name", CASES)
def test_whatever_is_asked_is_finite_and_has_its_shape(name: str) -> None:
    y = table_of(name)
    fit = make(name).fit(y)
    mean, variance = fit.transform(y, return_variance=True)
    assert mean.shape == variance.shape == (N, Q) and np.all(variance > 0)
    values = [fit.score_samples(y, draws=60), fit.bound_samples(y)]
    assert all(value.shape == (N,) for value in values)
    tables = [fit.reconstruct(y), fit.sample(N), fit.inverse_transform(mean)]
    assert all(table.shape == (N, P) for table in tables)
    assert all(np.all(np.isfinite(array)) for array in (mean, *values, *tables))
    assert np.allclose(fit.reconstruct(y), fit.inverse_transform(mean), rtol=1e-5, atol=1e-6)
    assert fit.stopped_ == "max_epochs" and fit.n_iter_ == len(fit.history_) == 4
    assert np.all(np.isfinite(fit.history_))
    assert fit.history_["kl_weight"].iloc[-1] == 1


@pytest.mark.parametrize("name", ["full", "poisson-lognormal", "mixture"])
def test_a_seed_gives_the_same_numbers_and_a_file_keeps_them(name: str, tmp_path: Any) -> None:
    y = table_of(name)
    fit = make(name).fit(y)
    again = clone(fit).fit(y)
    other = make(name, random_state=1).fit(y)
    assert np.array_equal(fit.transform(y), again.transform(y))
    assert np.array_equal(fit.score_samples(y, draws=10), again.score_samples(y, draws=10))
    assert not np.allclose(fit.transform(y), other.transform(y))
    fit.save(tmp_path / "fit.npz")
    back = poplin.load(tmp_path / "fit.npz")
    assert np.array_equal(back.score_samples(y, draws=10), fit.score_samples(y, draws=10))
    pd.testing.assert_frame_equal(back.history_, fit.history_)
    assert back.get_params() == fit.get_params()


@pytest.mark.parametrize("rows_in_all", [33])
def test_batches_differ_by_one_row_at_most(rows_in_all: int) -> None:
    y = table_of("poisson")[:rows_in_all]
    fit = make("poisson", validation_fraction=0.0).fit(y)
    assert np.all(np.isfinite(fit.history_))


def test_one_row_a_batch_and_batches_larger_than_the_table() -> None:
    y = table_of("negative-binomial")[:7]
    for size in (1, 1000):
        fit = make("negative-binomial", batch_size=size, validation_fraction=0.0).fit(y)
        assert np.all(np.isfinite(fit.score_samples(y, draws=5)))


@pytest.mark.parametrize("name", ["negative-binomial", "gaussian"])
def test_huge_values_do_not_end_in_nan(name: str) -> None:
    y = table_of(name) * 1e6
    fit = make(name, learning_rate=0.05).fit(np.rint(y))
    assert np.all(np.isfinite(fit.history_)) and np.all(np.isfinite(fit.transform(np.rint(y))))


def test_training_raises_the_bound_and_stops_when_left_out_rows_gain_no_more() -> None:
    y = table_of("poisson")
    fit = make("poisson", max_epochs=2000, patience=15, learning_rate=0.02).fit(y)
    assert fit.converged_ and fit.stopped_ == "patience" and fit.n_iter_ < 2000
    held = fit.history_["held_out_objective"]
    assert fit.history_["bound"].iloc[-1] > fit.history_["bound"].iloc[2] + 0.1
    # the model that is kept is the best one; its bound is taken with other draws than the history's
    best = int(held.iloc[2:].idxmax())
    assert best <= fit.n_iter_ - 15
    assert np.mean(fit.bound_samples(y[fit.held_out_])) == pytest.approx(held[best], abs=1.0)


def test_a_kl_weight_that_never_gets_to_one_is_told() -> None:
    with pytest.warns(poplin.ConvergenceWarning, match=r"reached 0\.40 only"):
        fit = make("poisson", kl_warmup=10).fit(table_of("poisson"))
    assert fit.history_["kl_weight"].iloc[-1] == pytest.approx(0.4)


def test_a_fit_that_is_cut_short_is_told() -> None:
    with pytest.warns(poplin.ConvergenceWarning, match="max_epochs=4"):
        assert not make("poisson", patience=50).fit(table_of("poisson")).converged_


def test_signs_and_sums_of_the_history() -> None:
    history = make("poisson").fit(table_of("poisson")).history_
    assert np.allclose(history["bound"], history["reconstruction"] - history["divergence"])
    weighted = history["reconstruction"] - history["kl_weight"] * history["divergence"]
    assert np.allclose(history["objective"].iloc[2:], weighted.iloc[2:], rtol=1e-5)  # the weight is 1 by then
    assert (history["divergence"] > 0).all() and (history["bound"] < 0).all()


def test_the_bound_is_below_the_likelihood_and_more_draws_say_the_same() -> None:
    y = table_of("bernoulli")
    fit = make("bernoulli", max_epochs=40, learning_rate=0.01).fit(y)
    few, many = fit.loglik_rows(y, draws=200), fit.loglik_rows(y, draws=2000, khat=True)
    assert np.mean(fit.bound_samples(y)) < np.mean(many.value)
    error = np.hypot(np.linalg.norm(few.standard_error), np.linalg.norm(many.standard_error)) / N
    assert within_errors(np.mean(few.value), np.mean(many.value), error)
    assert many.khat is not None and np.median(many.khat) < 0.7


def test_importance_sampling_is_the_integral() -> None:
    """One latent dimension: the log-likelihood by the trapezoid rule."""
    y = table_of("poisson")
    fit = make("poisson", max_epochs=150, learning_rate=0.02, n_components=1).fit(y)
    grid = np.linspace(-9, 9, 4001)
    rate = fit.inverse_transform(grid[:, None]).astype(float)
    from scipy.special import gammaln, logsumexp, softmax

    log_prior = -0.5 * (grid**2 + np.log(2 * np.pi)) + np.log(grid[1] - grid[0])
    joint = y @ np.log(rate).T - rate.sum(axis=1) - gammaln(y + 1).sum(axis=1)[:, None] + log_prior
    found = fit.loglik_rows(y, draws=4000, khat=True)
    told = found.khat < 0.5  # elsewhere weights have no variance, and the error that is stated is too small
    # and no diagnostic sees a mode that no draw comes near
    mean, variance = fit.transform(y, return_variance=True)
    near = np.abs(grid - mean) < 8 * np.sqrt(variance)
    told &= np.sum(np.where(near, softmax(joint, axis=1), 0), axis=1) > 0.999
    assert told.mean() > 0.5
    assert within_errors(found.value[told], logsumexp(joint, axis=1)[told], found.standard_error[told] + 1e-5)


def test_a_condition_moves_what_is_decoded() -> None:
    random = np.random.default_rng(5)
    batch = np.repeat(["a", "b"], 60)
    y = random.poisson(np.where(batch == "a", 2.0, 20.0)[:, None] * np.ones(4)).astype(float)
    data = pd.DataFrame({"the batch": batch})
    settings = SHORT | {"max_epochs": 150, "learning_rate": 0.02}
    fit = poplin.VAE(1, likelihood="poisson", condition=["the batch"], **settings).fit(y, data=data)
    other = pd.DataFrame({"the batch": np.repeat(["b", "a"], 60)})
    swapped = fit.reconstruct(y, data=data, under=other)
    assert swapped[:60].mean() > 10 > 5 > swapped[60:].mean()
    assert np.isfinite(fit.score(y, data=data, draws=20))
    assert fit.sample(3, data=data.iloc[:3]).shape == (3, 4)
    with pytest.raises(poplin.InputError, match="'c'"):
        fit.transform(y[:1], data=pd.DataFrame({"the batch": ["c"]}))


def test_an_offset_scales_rates() -> None:
    y = table_of("poisson")
    fit = make("poisson").fit(y, offset=np.full(N, 0.0))
    mean = fit.transform(y)
    assert np.allclose(fit.inverse_transform(mean, offset=1.0), np.e * fit.inverse_transform(mean), rtol=1e-5)


def test_rows_of_weight_zero_do_not_matter() -> None:
    y = table_of("poisson")
    weights = np.where(np.arange(N) < 60, 1.0, 0.0)
    changed = y.copy()
    changed[60:] += 5
    one, other = make("poisson").fit(y, weights=weights), make("poisson").fit(changed, weights=weights)
    assert np.array_equal(one.transform(y), other.transform(y))


def test_a_layer_of_annotated_data_and_columns_by_name() -> None:
    import anndata

    y = table_of("poisson")
    held = anndata.AnnData(np.log1p(y), obs=pd.DataFrame(index=[f"cell{i}" for i in range(N)]))
    held.var_names = [f"gene{j}" for j in range(P)]
    held.layers["counts"] = y
    fit = make("poisson", layer="counts").fit(held)
    assert np.allclose(fit.transform(held[:, ::-1]), fit.transform(held), atol=1e-6)
    with pytest.raises(poplin.InputError, match="no layer 'raw'"):
        make("poisson", layer="raw").fit(held)


@pytest.mark.parametrize(
    ("name", "settings", "change", "message"),
    [
        ("poisson", {}, 0.5, "fractional"),
        ("bernoulli", {}, 0.5, "binarise=True"),
        ("bernoulli", {"binarise": True}, 2.0, "scale Y to"),
        ("categorical", {}, -1.0, "whole numbers 0, 1, 2"),
        ("gaussian", {}, np.nan, "row 'row1', column 'Y1'"),
        ("gaussian", {"likelihood": "gamma"}, None, "likelihood='gamma'"),
        ("gaussian", {"posterior": "point"}, None, "posterior='point'"),
        ("gaussian", {"scale": -1.0}, None, "scale=-1.0"),
        ("gaussian", {"prior": "vamp"}, None, "prior='vamp'"),
        ("gaussian", {"activation": "sine"}, None, "activation='sine'"),
        ("gaussian", {"n_components": 0}, None, "n_components=0"),
        ("gaussian", {"patience": 5, "validation_fraction": 0.0}, None, "patience=None"),
        ("gaussian", {"schedule": "linear"}, None, "'cosine'"),
    ],
)
def test_what_cannot_be_fitted_is_told(name: str, settings: Any, change: Any, message: str) -> None:
    y = table_of(name)
    if change is not None:
        y[0, 0] = change
    with pytest.raises(poplin.InputError, match=message):
        make(name, **settings).fit(y)


def test_too_few_draws_for_the_diagnostic_are_told() -> None:
    fit = make("gaussian").fit(table_of("gaussian"))
    with pytest.raises(poplin.InputError, match="25 draws"):
        fit.loglik_rows(table_of("gaussian"), draws=20, khat=True)


def test_offsets_and_borrowed_axes_go_with_counts() -> None:
    with pytest.raises(poplin.InputError, match="offset goes with counts"):
        make("gaussian").fit(table_of("gaussian"), offset=np.ones(N))
    with pytest.raises(poplin.InputError, match="basis goes with"):
        make("poisson", basis=np.eye(P)[:, :Q]).fit(table_of("poisson"))
