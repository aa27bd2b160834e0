"""What is told of fits under other laws of the counts: where counts lie in their law, files, pages, verdicts, doors.

Start at `REFUSED` for bad words, at `SIZES` for what is free, at `NESTED` for laws within laws.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import gammaln

import poplin
from poplin._numerics import double_precision
from poplin.data.counts import Zeros, as_counts
from poplin.estimators import compare
from poplin.fitting import recipes
from poplin.inference import departures, margins, summary
from poplin.inference.selection import Nesting, law_nesting
from poplin.laws import POISSON, Bernoulli, NegativeBinomial, ZeroInflated
from poplin.report import files, html, verdicts
from tests.test_laws import LAWS as EVERY
from tests.told import drawn

COUNTS = np.array([0.0, 1.0, 2.0, 9.0, 60.0])
CENTERS = np.array([-1.0, 1.5, 4.0])


def by_brute_force(law, y: float, center: float, sd: float) -> np.ndarray:
    """P(Y = 0..y) by sums over 2001 values of the log rate (y + 1, 3)."""
    z = np.linspace(-9, 9, 2001)
    weight = np.exp(-(z**2) / 2) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    values = np.arange(y + 1)[:, None, None]
    eta = (center + sd * z)[None, :, None] + np.zeros(3)
    with double_precision():
        probability = np.exp(law.log_prob(eta + 0 * values, values + 0 * eta) - gammaln(values + 1))
    return np.einsum("ykj,k->yj", np.asarray(probability), weight)


@pytest.mark.parametrize("name", EVERY)
def test_where_counts_lie_under_any_law(name: str) -> None:
    law, values = EVERY[name]
    cases = [(y, c, sd) for y in COUNTS[COUNTS <= values[-1]] for c in CENTERS for sd in (0.05, 0.7, 2.0)]
    y, center, sd = (np.repeat(a, 3) for a in zip(*cases, strict=True))
    told = margins.placed(y, center, sd**2, law.over(lambda a: np.tile(a, len(cases))))
    for k, case in enumerate(cases):
        truth, here = by_brute_force(law, *case), slice(3 * k, 3 * k + 3)
        np.testing.assert_allclose(told.upto[here], truth.sum(axis=0), atol=2e-3)
        np.testing.assert_allclose((told.upto - told.below)[here], truth[-1], rtol=3e-2, atol=2e-5)


def test_the_closed_forms_of_poisson_are_those_of_the_sums() -> None:
    y, center, variance = (a.ravel() for a in np.meshgrid([0.0, 2.0, 9.0], [-1.0, 3.0], [0.04, 1.0, 3.0]))
    closed = margins.placed(y, center, variance)
    summed = margins.placed(y, center, variance, POISSON)
    for one, other in zip(closed[:4], summed[:4], strict=True):
        np.testing.assert_allclose(other, one, rtol=3e-2, atol=3e-3)


COMMAND = (
    "poplin fit 'my counts.csv' --likelihood=negative-binomial --out there --method variational --resume"
)


def test_the_law_to_try_is_named_with_its_command() -> None:
    changed = verdicts._with_options(COMMAND, "zero-inflated-negative-binomial", None)
    assert changed == (
        "poplin fit 'my counts.csv' --method variational --likelihood zero-inflated-negative-binomial --out DIR"
    )
    assert verdicts._with_options(COMMAND, "x", "ml").endswith("--likelihood x --method ml --out DIR")


def test_zeros_beyond_the_law_are_seen_where_variances_have_taken_them_up() -> None:
    """A Poisson-lognormal with the moments that zero-inflated counts have on the log scale, and counts of its own."""
    plain = departures.looked(drawn(400, 12, q=6, rank=6))
    inflated = drawn(400, 12, q=6, rank=6)
    random = np.random.default_rng(0)
    inflated.counts_.y[random.uniform(size=inflated.counts_.y.shape) < 0.15] = 0
    inflated.coef_[0] -= 0.3
    inflated.eigenvalues_ = 1.4 * inflated.eigenvalues_
    inflated.covariance_ = 1.4 * inflated.covariance_
    assert departures.extra_zeros(plain).p > 0.01
    found = departures.extra_zeros(departures.looked(inflated))
    assert found.p < 1e-4 and found.share > 0.01 and len(found.columns)


def test_the_size_of_the_test_of_zeros() -> None:
    """Of tables of the model 5 % are below 0.05, within four standard errors."""
    p = [
        departures.extra_zeros(departures.looked(drawn(120, 6, q=3, rank=3, seed=seed))).p
        for seed in range(60)
    ]
    below = np.mean(np.array(p) < 0.05)
    assert abs(below - 0.05) < 4 * np.sqrt(0.05 * 0.95 / len(p))


def counted(fit_settings: dict, n: int, p: int, zeros: np.ndarray | None = None) -> int:
    """Free parameters of a table of this size with an intercept."""
    y = np.zeros((n, p))
    y[0] = 1
    counts = as_counts(y)
    if zeros is not None:
        counts = counts._replace(zeros=Zeros(zeros, tuple("ab"), None))
    settings = recipes.checked(poplin.PLN(**fit_settings).get_params())
    with double_precision():
        return recipes.parameters(settings.recipe(counts), counts)


SIZES = [
    ({}, 6 + 21),
    ({"covariance": "diagonal"}, 6 + 6),
    ({"covariance": "spherical"}, 6 + 1),
    ({"covariance": np.eye(6)}, 6),
    ({"rank": 2}, 6 + 12 - 1),
    ({"rank": 2, "specific": "column"}, 6 + 12 - 1 + 6),
    ({"basis": np.eye(6)[:, :3]}, 6 + 3),
    ({"likelihood": "negative-binomial"}, 6 + 21 + 6),
    ({"likelihood": "zero-inflated-poisson"}, 6 + 21 + 6),
    ({"likelihood": "zero-inflated-poisson", "zero_probability": "single"}, 6 + 21 + 1),
    ({"likelihood": "zero-inflated-negative-binomial"}, 6 + 21 + 12),
    ({"likelihood": "bernoulli"}, 6 + 21),
]


@pytest.mark.filterwarnings("ignore::poplin.DataWarning")
@pytest.mark.parametrize("settings,wanted", SIZES)
def test_free_parameters(settings: dict, wanted: int) -> None:
    assert counted(settings, 20, 6) == wanted


@pytest.mark.filterwarnings("ignore::poplin.DataWarning")
def test_free_parameters_of_a_formula_of_zeros_are_those_that_tell_something_new() -> None:
    settings = {"likelihood": "zero-inflated-poisson"}
    twice = np.ones((20, 2))
    assert counted(settings, 20, 6, twice) == 6 + 21 + 6
    twice[:10, 1] = 0
    assert counted(settings, 20, 6, twice) == 6 + 21 + 12


TABLE = pd.DataFrame({"a": [0, 3, 1, 2, 0, 5], "b": [4, 0, 0, 1, 2, 1]})
SIDES = pd.DataFrame({"site": list("xyxyxy")})
REFUSED = [
    ({"likelihood": "zip"}, "wanted is one of", None),
    ({"zero_formula": "~ site"}, "likelihood='poisson' has none", "--likelihood poisson has none"),
    ({"zero_probability": "row"}, "zero_probability='row' is of zeros", "--zero-probability row is of zeros"),
    (
        {"likelihood": "zero-inflated-poisson", "zero_formula": "~ site", "zero_probability": "row"},
        "Leave one of them out",
        "--zero-formula '~ site' and --zero-probability row",
    ),
    (
        {"likelihood": "zero-inflated-poisson", "zero_formula": "~ siet"},
        "zero_formula='~ siet': The formula uses 'siet'",
        "--zero-formula '~ siet'",
    ),
    ({"likelihood": "bernoulli"}, "Y holds 4 at row 'row1', column 'b'", "COUNTS holds 4"),
    ({"likelihood": "negative-binomial", "method": "moments"}, "method='moments' fits", "--method moments"),
]


@pytest.mark.parametrize("settings,said,typed", REFUSED)
def test_laws_that_cannot_be_are_one_line(settings: dict, said: str, typed: str | None) -> None:
    data = SIDES if "zero_formula" in settings else None
    with pytest.raises(poplin.InputError) as found:
        poplin.PLN(**settings).fit(TABLE, data=data)
    assert said in str(found.value) and "\n" not in str(found.value)
    assert typed is None or typed in found.value.at_command_line


def test_zeros_need_the_table_of_their_formula() -> None:
    with pytest.raises(poplin.InputError, match="pass it as `data`"):
        poplin.PLN(likelihood="zero-inflated-poisson", zero_formula="~ site").fit(TABLE)


POISSON_LAW, NB = POISSON, NegativeBinomial(np.zeros((1, 3)))
ZIP, ZINB = ZeroInflated(POISSON, np.zeros((1, 3))), ZeroInflated(NB, np.zeros((1, 3)))
ONE = ZeroInflated(POISSON, np.zeros((1, 1)))
NESTED = [
    (POISSON_LAW, POISSON_LAW, Nesting.REGULAR, 0),
    (POISSON_LAW, ZIP, Nesting.BOUNDARY, 3),
    (POISSON_LAW, ONE, Nesting.BOUNDARY, 1),
    (POISSON_LAW, NB, Nesting.BOUNDARY, 3),
    (NB, ZINB, Nesting.BOUNDARY, 3),
    (ZIP, ZINB, Nesting.BOUNDARY, 3),
    (POISSON_LAW, ZINB, Nesting.BOUNDARY, 0),
    (ONE, ZIP, Nesting.REGULAR, 0),
    (ZIP, ONE, Nesting.NONE, 0),
    (NB, ZIP, Nesting.NONE, 0),
    (Bernoulli(), NB, Nesting.NONE, 0),
]


@pytest.mark.parametrize("small,large,lies,boundary", NESTED)
def test_laws_within_laws(small, large, lies, boundary) -> None:
    assert law_nesting(small, large, None, None) == (lies, boundary)


def test_the_mixture_at_the_boundary() -> None:
    """Draws of sums of m squares of the positive part of normals, and what is regular beside them."""
    random = np.random.default_rng(4)
    for inside, boundary in ((0, 1), (0, 3), (2, 2)):
        normal = random.normal(size=(40_000, inside + boundary))
        normal[:, inside:] = np.maximum(normal[:, inside:], 0)
        drawn_ones = np.sum(normal**2, axis=1)
        for value in (0.5, 2.706, 6.0):
            tail, _ = compare._chi_squared(value, inside + boundary, boundary)
            assert abs(tail - np.mean(drawn_ones > value)) < 4 * np.sqrt(tail / 40_000) + 1e-9
    assert compare._chi_squared(0.0, 1, 1)[0] == 1.0


def test_files_tell_the_law(tmp_path) -> None:
    fit = drawn(40, 3)
    fit.zero_coef_ = np.array([[-1.0, 0.0, 2.0]])
    fit.zero_probability_ = 1 / (1 + np.exp(-fit.zero_coef_[0]))
    fit.dispersion_ = np.array([0.1, 0.2, 0.3])
    fit.params |= {"likelihood": "zero-inflated-negative-binomial"}
    fit.confint = lambda which: pd.DataFrame(
        {"estimate": [0.1] * 3, "se": [0.5] * 3, "lower": [-2.0] * 3, "upper": [2.0] * 3}
    )
    table = files.law_table(fit)
    assert table.loc["zero", "column"].tolist() == list(fit.counts_.column_names)
    np.testing.assert_allclose(table.loc["zero", "probability"], fit.zero_probability_)
    assert table.loc["dispersion", "estimate"].tolist() == [0.1, 0.2, 0.3] and (table["se"] == 0.5).all()
    page = html.page(fit)
    assert "Zero-inflated" in summary.summary(fit) and "The law of the counts" in page
    assert "0 with probability pi_ij" in page and "0.881" in page  # 1 / (1 + e^-2)
    fit.zero_coef_ = None
    fit.dispersion_ = None
    assert files.law_table(fit) is None


@pytest.mark.filterwarnings("ignore::poplin.ConvergenceWarning")
def test_one_fit_through_files_criteria_and_checkpoints(tmp_path) -> None:
    random = np.random.default_rng(2)
    y = random.poisson(np.exp(random.normal(1, 0.7, (60, 2)))) * (random.random((60, 2)) > 0.3)
    data = pd.DataFrame({"site": np.resize(["x", "y"], 60)})
    given = {"likelihood": "zero-inflated-poisson", "zero_formula": "~ site", "method": "variational"}
    kept = tmp_path / "kept.npz"
    fit = poplin.PLN(**given, max_iter=5, checkpoint=kept, checkpoint_every=1).fit(y, data=data)
    assert fit.n_parameters_ == 2 + 3 + 4
    assert fit.aic_ == pytest.approx(-2 * fit.loglik_ + 18)
    assert fit.bic_ == pytest.approx(-2 * fit.loglik_ + 9 * np.log(60))
    fit.save(tmp_path / "fit.npz")
    again = poplin.load(tmp_path / "fit.npz")
    np.testing.assert_array_equal(again.zero_probability_, fit.zero_probability_)
    assert again.bic_ == fit.bic_ and again.sample(3, data=data[:3]).shape == (3, 2)
    seen = (one.transform(y[:4], data=data[:4]) for one in (again, fit))
    np.testing.assert_array_equal(*seen)
    for other in ({"zero_formula": None}, {"likelihood": "poisson", "zero_formula": None}):
        with pytest.raises(poplin.InputError, match="another fit|differ|other"):
            poplin.PLN(**(given | other), checkpoint=kept).fit(y)
