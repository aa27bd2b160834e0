"""Offsets computed from counts: closed forms for proportional rows, slow twins, and what is refused.

Each offset has a twin written from its definition, one entry at a time. `LAWS` hold for every one of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy import sparse, special, stats

import poplin
from poplin import InputError, job, offsets
from poplin.data.counts import Coding, as_counts, as_covariates, as_new_rows
from tests.tolerances import close

SIZES = np.array([1.0, 2.0, 3.0, 5.0, 6.0])
GEOMETRIC = float(np.exp(np.log(SIZES).mean()))
CLOSED = {
    "tss": 55 * SIZES,
    "css": SIZES / 3,
    "rle": SIZES / GEOMETRIC,
    "gmpr": SIZES / GEOMETRIC,
    "tmm": SIZES / GEOMETRIC,
    "wrench": SIZES / GEOMETRIC,
}


def tables() -> dict[str, np.ndarray]:
    """Counts of several kinds, without empty rows."""
    random = np.random.default_rng(5)
    depth = random.gamma(2.0, 4.0, (9, 1))
    full = random.poisson(5 + depth * random.gamma(1.0, 2.0, 12)) + 1
    sparse_ = random.poisson(depth * random.gamma(0.3, 0.6, 15))
    sparse_[:, 0] += random.integers(1, 4, 9)
    return {"all positive": full, "many zeros": sparse_, "even number of columns": full[:, :6]}


TABLES = tables()


@pytest.mark.parametrize("name", CLOSED)
def test_proportional_rows_have_their_closed_form(name: str) -> None:
    counts = np.outer(SIZES, np.arange(1, 11))
    assert close(np.exp(offsets.NAMED[name](counts)), CLOSED[name], scale=1e-3)


def slow_tss(y: np.ndarray) -> list[float]:
    """The row's total."""
    return [sum(row) for row in y.tolist()]


def slow_rle(y: np.ndarray) -> list[float]:
    """The median ratio to the geometric mean over rows, of columns without a zero."""
    common = [j for j in range(y.shape[1]) if min(y[:, j]) > 0]
    middle = {j: float(stats.gmean(y[:, j])) for j in common}
    return [statistics.median(row[j] / middle[j] for j in common) for row in y]


def slow_poscounts(y: np.ndarray) -> list[float]:
    """The same with zeros left out of products and medians, centred."""
    n, p = y.shape
    middle = [np.prod([float(v) ** (1 / n) for v in y[:, j] if v > 0]) for j in range(p)]
    sizes = [statistics.median(row[j] / middle[j] for j in range(p) if row[j] > 0) for row in y]
    return list(np.array(sizes) / stats.gmean(sizes))


def slow_quantile(values: list[float], share: float) -> float:
    """Linear interpolation between order statistics."""
    values = sorted(values)
    place = share * (len(values) - 1)
    low = int(np.floor(place + 1e-12))
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def slow_css(y: np.ndarray) -> list[float]:
    """Counts up to the quantile below which the rows' quantiles lie together; empty columns are no columns."""
    y = y[:, [max(column) > 0 for column in y.T.tolist()]]
    p = y.shape[1]
    q = [[slow_quantile([v for v in row if v > 0], k / (p - 1)) for k in range(p)] for row in y.tolist()]
    apart = []
    for k in range(p):
        middle = statistics.median(one[k] for one in q)
        apart.append(statistics.median(abs(one[k] - middle) for one in q))
    jumps = [k for k in range(p - 1) if apart[k + 1] > apart[k] and apart[k + 1] - apart[k] >= 0.1 * apart[k]]
    taken = max(jumps[0], int(np.ceil(p / 2)) - 1) if jumps else p - 1
    sums = [sum(v for v in row if v <= one[taken] + 1e-9) for row, one in zip(y.tolist(), q, strict=True)]
    return [value / statistics.median(sums) for value in sums]


def slow_gmpr(y: np.ndarray) -> list[float]:
    """The geometric mean over rows (itself included) of median ratios over shared columns."""
    sizes = []
    for one in y:
        ratios = []
        for other in y:
            shared = [a / b for a, b in zip(one, other, strict=True) if a > 0 and b > 0]
            if shared:
                ratios.append(statistics.median(shared))
        sizes.append(float(stats.gmean(ratios)))
    return sizes


def slow_tmm(y: np.ndarray) -> list[float]:
    """The trimmed mean of M values with weights, by ranks of scipy; columns without a count are no columns."""
    y = y[:, [max(column) > 0 for column in y.T.tolist()]]
    total = y.sum(axis=1)
    upper = [slow_quantile(list(row / n), 0.75) for row, n in zip(y, total, strict=True)]
    r = int(np.argmin(np.abs(np.array(upper) - np.mean(upper))))
    if np.median(upper) < 1e-20:
        r = int(np.argmax(np.sqrt(y).sum(axis=1)))
    sizes = []
    for i, row in enumerate(y):
        kept = [j for j in range(y.shape[1]) if row[j] > 0 and y[r, j] > 0]
        a, b = row[kept] / total[i], y[r, kept] / total[r]
        m, size = np.log2(a / b), 0.5 * np.log2(a * b)
        w = 1 / (
            (total[i] - row[kept]) / total[i] / row[kept] + (total[r] - y[r, kept]) / total[r] / y[r, kept]
        )
        n = len(kept)
        inside = np.ones(n, bool)
        for values, share in ((m, 0.3), (size, 0.05)):
            low = np.floor(n * share) + 1
            ranks = stats.rankdata(values)
            inside &= (ranks >= low) & (ranks <= n + 1 - low)
        f = 0.0 if np.abs(m).max() < 1e-6 else np.sum(w[inside] * m[inside]) / np.sum(w[inside])
        sizes.append(total[i] * 2**f)
    return list(np.array(sizes) / stats.gmean(sizes))


TWINS: dict[str, Callable[[np.ndarray], list[float]]] = {
    **{"tss": slow_tss, "rle": slow_rle, "css": slow_css},
    **{"gmpr": slow_gmpr, "tmm": slow_tmm},
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", TWINS)
def test_an_offset_is_its_definition(name: str, table: str) -> None:
    y = TABLES[table]
    if name == "rle" and not (y > 0).all(axis=0).any():
        pytest.skip("no column is positive in every row")
    assert close(np.exp(offsets.NAMED[name](y)), TWINS[name](y), scale=1e-3)


@pytest.mark.parametrize("table", TABLES)
def test_rle_over_positive_counts(table: str) -> None:
    y = TABLES[table]
    assert close(np.exp(offsets.rle(y, positive=True)), slow_poscounts(y), scale=1e-3)


def test_wrench_takes_its_steps() -> None:
    """Steps 3 and 4 of the module, one entry at a time; steps 1 and 2 have tests of their own."""
    y = TABLES["many zeros"]
    y = y[:, (y > 0).any(axis=0)]
    group = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    n, p = y.shape
    total = y.sum(axis=1)
    share = y / total[:, None]
    mean = share.mean(axis=0)
    pi = offsets.chance_of_zero(y == 0, np.log(total))
    v = offsets.log_variances(y, group)
    sizes = []
    for i in range(n):
        pooled = y[group == group[i]].sum(axis=0)
        ratios = pooled / pooled.sum() / mean
        t, w = ratios.mean(), np.var(np.log(ratios[ratios > 0]), ddof=1)
        seen = [j for j in range(p) if y[i, j] > 0]
        e = {j: np.log(share[i, j] / mean[j] / t) for j in seen}
        a = sum(e[j] / (v[j] + w) for j in seen) / sum(1 / (v[j] + w) for j in seen)
        pulled = {j: t * np.exp(a + w / (v[j] + w) * (e[j] - a)) for j in seen}
        weight = [1 / ((1 - pi[i, j]) * (pi[i, j] + np.exp(v[j] + w) - 1)) for j in range(p)]
        mean_ratio = sum(weight[j] * pulled[j] / np.exp(v[j] / 2) for j in seen) / sum(weight)
        sizes.append(total[i] * mean_ratio)
    expected = np.log(sizes) - np.mean(np.log(sizes))
    assert close(offsets.wrench(y, ["a"] * 4 + ["b"] * 5), expected)
    assert not close(offsets.wrench(y), expected)


def test_the_chance_of_a_zero_solves_its_score_equation() -> None:
    y = TABLES["many zeros"]
    x = np.log(y.sum(axis=1))
    chance = offsets.chance_of_zero(y == 0, x)
    some = ((y == 0).any(axis=0)) & ((y > 0).any(axis=0))
    assert np.abs(x @ ((y == 0) - chance))[some].max() < 1e-8
    assert not chance[:, ~(y == 0).any(axis=0)].any()
    assert close(special.logit(chance[:, some])[0] / x[0], special.logit(chance[:, some])[3] / x[3])


def test_squeezed_variances_lie_between_their_own_and_the_prior() -> None:
    random = np.random.default_rng(0)
    freedom = np.full(4000, 6.0)
    true = 0.5 * 8 / random.chisquare(8, 4000)  # prior: 8 degrees of freedom around 0.5
    sample = true * random.chisquare(6, 4000) / 6
    found = offsets.squeezed(sample, freedom)
    assert np.all((found - sample) * (np.median(found) - sample) >= -1e-2)
    slope = np.polyfit(sample, found, 1)
    assert abs(slope[0] - 6 / 14) < 0.05 and abs(slope[1] / (1 - slope[0]) - 0.5) < 0.05
    none = offsets.squeezed(np.append(sample, 0.0), np.append(freedom, 0.0))[-1]
    assert abs(none - slope[1] / (1 - slope[0])) < 0.02


@pytest.mark.parametrize("value", [1e-4, 0.3, 1.0, 40.0, 1e6])
def test_the_inverse_of_trigamma(value: float) -> None:
    assert close(special.polygamma(1, offsets.inverse_trigamma(value)), value)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", CLOSED)
def test_the_order_of_rows_and_columns_does_not_matter(name: str, table: str) -> None:
    y = TABLES[table]
    if name == "rle" and not (y > 0).all(axis=0).any():
        pytest.skip("no column is positive in every row")
    rows, columns = np.random.default_rng(1).permutation(9), np.arange(y.shape[1])[::-1]
    found = offsets.NAMED[name](y)
    assert found.shape == (9,) and np.isfinite(found).all()
    assert close(offsets.NAMED[name](y[rows][:, columns]), found[rows])


@pytest.mark.parametrize("name", CLOSED)
def test_a_column_without_a_count_changes_nothing(name: str) -> None:
    y = TABLES["all positive"]
    assert close(offsets.NAMED[name](np.c_[y, np.zeros(9)]), offsets.NAMED[name](y))


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "lists": lambda y: y.tolist(),
    "frame": lambda y: pandas.DataFrame(y, [f"r{i}" for i in range(len(y))]),
    "sparse": sparse.csr_array,
}


@pytest.mark.parametrize("form", FORMS)
def test_any_table_will_do(form: str) -> None:
    y = TABLES["all positive"]
    assert close(offsets.gmpr(FORMS[form](y)), offsets.gmpr(y))


@pytest.mark.parametrize("name", [*CLOSED, "TSS", "Wrench", "none"])
def test_a_fit_takes_the_name(name: str) -> None:
    y = TABLES["all positive"]
    expected = np.zeros(9) if name == "none" else offsets.NAMED[name.lower()](y)
    np.testing.assert_array_equal(as_counts(y, offset=name).offset, np.repeat(expected[:, None], 12, 1))


def test_new_rows_take_the_name_of_an_offset_that_does_not_compare_rows() -> None:
    y = TABLES["all positive"]
    coding = Coding(as_counts(y).column_names, ("Intercept",))
    assert close(as_new_rows(coding, y[:1], offset="tss").offset[0, 0], np.log(y[0].sum()))
    with pytest.raises(InputError, match="later rows.*poplin.offsets.gmpr"):
        as_new_rows(coding, y[:1], offset="gmpr")
    with pytest.raises(InputError, match="computed from counts"):
        as_covariates(coding, 2, offset="tss")


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "an empty row": (lambda: offsets.tss(pandas.DataFrame([[0, 0], [1, 2]], ["a", "b"])), "count is 0: 'a'"),
    "a missing count": (lambda: offsets.rle([[1, np.nan], [1, 2]]), "missing counts: 'row1'"),
    "no common column": (lambda: offsets.rle([[1, 0], [0, 2]]), "gmpr"),
    "rows that share nothing": (lambda: offsets.gmpr([[1, 0, 0], [0, 2, 1], [0, 1, 1]]), "'row1'"),
    "a negative count": (lambda: offsets.css([[1, -2]]), "negative"),
    "groups of a wrong length": (lambda: offsets.wrench([[1, 2], [3, 4]], ["a"]), "one label"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_has_no_offset_is_refused_by_name(kind: str) -> None:
    with pytest.raises(InputError, match=BAD[kind][1]):
        BAD[kind][0]()


def test_the_bound_of_trichoptera_with_the_total_as_offset(shared_data: Path) -> None:
    """The reference value of a peer for full covariance, ~ 1 + offset(log total), is a bound we reach or pass."""
    counts = np.load(shared_data / "trichoptera.npz")["counts"]
    fit = poplin.PLN(method="variational").fit(counts, offset="TSS")
    assert fit.converged_ and -1052.1 < fit.elbo_ < -1045


def test_the_command_line_takes_a_column_before_a_name(tmp_path: Path) -> None:
    frame = pandas.DataFrame(TABLES["all positive"], [f"r{i}" for i in range(9)])
    frame.to_csv(tmp_path / "counts.csv")
    pandas.DataFrame({"tss": np.arange(9.0)}, frame.index).to_csv(tmp_path / "side.csv")
    given = job.Inputs(tmp_path / "counts.csv", offset="gmpr")
    assert job.prepare(given, {}, tmp_path).offset == "gmpr"
    column = job.prepare(given._replace(covariates=tmp_path / "side.csv", offset="tss"), {}, tmp_path).offset
    assert column.tolist() == list(range(9))
