"""The pictures: each draws what the fit says, at five columns and at five hundred, in colours told apart by all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pandas
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import integrate, stats

import poplin
from poplin import InputError
from poplin.inference import margins
from poplin.report import figures, plots, views
from tests.told import Told, drawn
from tests.tolerances import close, within_errors

PICTURES: dict[str, Callable[..., Any]] = {
    "embedding": plots.embedding,
    "embedding by group": lambda fit, ax: plots.embedding(
        fit, ax, colour=np.resize(list("abc"), len(fit.counts_.y))
    ),
    "embedding by many groups": lambda fit, ax: plots.embedding(
        fit, ax, colour=[f"k{i % 40}" for i in range(len(fit.counts_.y))]
    ),
    "embedding by number": lambda fit, ax: plots.embedding(
        fit, ax, colour=pandas.Series(fit.counts_.x[:, 1], name="$age")
    ),
    "biplot": plots.biplot,
    "circle": plots.correlation_circle,
    "correlations": plots.heat_map,
    "covariances": lambda fit, ax: plots.heat_map(fit, ax, which="covariance"),
    "eigenvalues": plots.eigenvalues,
    "coefficients": plots.coefficients,
    "rootogram": plots.rootogram,
    "rootogram of a column": lambda fit, ax: plots.rootogram(fit, ax, column="taxon 1"),
    "residuals": plots.residuals,
    "residuals against the mean": lambda fit, ax: plots.residuals(fit, ax, against="mean"),
    "trace": plots.trace,
    "khat": plots.khat,
}
FITS = {"five columns": drawn(60, 5), "five hundred": drawn(80, 500)}


def lines_apart(axis: Any) -> bool:
    """Whether labels that stand at an angle are a line's height from each other, measured across the line."""
    labels = [label for label in axis.get_ticklabels() if label.get_text()]
    angle = np.deg2rad(labels[0].get_rotation())
    places = np.sort([label.get_transform().transform(label.get_position())[0] for label in labels])
    height = labels[0].get_fontsize() * axis.get_figure().dpi / 72
    return len(labels) < 2 or bool(np.diff(places).min() * np.sin(angle) >= height)


@pytest.mark.parametrize("size", FITS)
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_readable(name: str, size: str) -> None:
    ax = Figure(figsize=(6.4, 4.8 if name != "coefficients" else 9), layout="constrained").subplots()
    assert PICTURES[name](FITS[size], ax) is ax and ax.has_data()
    figure = ax.get_figure()
    figure.draw_without_rendering()
    for axis in (ax.xaxis, ax.yaxis):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
        slanted = axis is ax.xaxis and any(label.get_rotation() % 180 for label in axis.get_ticklabels())
        for a, b in zip(boxes, boxes[1:], strict=False):
            if not slanted:
                assert not a.padded(-1).overlaps(b.padded(-1)), f"labels of {name} lie on each other"
        if slanted:
            assert lines_apart(axis), f"slanted labels of {name} lie on each other"
    named = [text for text in ax.texts if text.get_text().strip() and name in ("biplot", "circle", "khat")]
    texts = [text.get_window_extent() for text in named]
    assert not any(a.overlaps(b) for a, b in combinations(texts, 2))
    assert bool(texts) == (name in ("biplot", "circle", "khat"))
    frame = ax.get_window_extent()
    assert all(frame.x0 <= text.x0 and text.x1 <= frame.x1 for text in texts), f"names of {name} are cut off"


def test_pictures_make_axes_of_their_own() -> None:
    import matplotlib.pyplot as plt

    ax = poplin.plots.correlation_circle(FITS["five columns"])
    assert ax.get_aspect() == 1
    plt.close(ax.get_figure())


# Machado, Oliveira & Fernandes (2009), severity 1: what is left of linear RGB.
EYES = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def lab(colour: str, eye: str) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as an eye sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(EYES[eye]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 0.008856))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("palette", [plots.GROUPS, figures.GROUPS], ids=["plots", "page"])
def test_groups_are_told_apart_by_every_eye(palette: tuple[str, ...], eye: str) -> None:
    apart = {pair: np.linalg.norm(lab(pair[0], eye) - lab(pair[1], eye)) for pair in combinations(palette, 2)}
    closest = min(apart, key=lambda pair: apart[pair])
    assert apart[closest] > 10, f"{closest} are {apart[closest]:.1f} apart"


def test_a_rootogram_of_many_sizes_names_its_bins_apart() -> None:
    fit = drawn(80, 20)
    fit.counts_.y[0, 0] = 10**7
    ax = Figure(figsize=(4, 3), layout="constrained").subplots()
    plots.rootogram(fit, ax)
    ax.get_figure().draw_without_rendering()
    assert len(ax.get_xticklabels()) <= 18 < len(ax.patches) and lines_apart(ax.xaxis)


def test_the_circle_has_correlations_of_columns_with_axes() -> None:
    fit = FITS["five columns"]
    random = np.random.default_rng(0).standard_normal((200_000, 2))
    z = random @ fit.loadings_.T
    expected = np.corrcoef(z.T, random.T)[:5, 5:]
    assert within_errors(views.axis_correlations(fit), expected, 1 / np.sqrt(200_000))
    assert close(np.sum(views.axis_correlations(fit) ** 2, axis=1), np.ones(5))


def test_the_heat_map_puts_blocks_together() -> None:
    fit = drawn(30, 8)
    block = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    fit.covariance_ = np.eye(8) + 0.8 * (block[:, None] == block)
    seen = views.heat_map(fit)
    order = [block[fit.counts_.column_names.index(name)] for name in seen.names]
    assert order == sorted(order) or order == sorted(order, reverse=True)
    assert close(np.diag(seen.covariance), np.full(8, 1.8)) and seen.correlation.shape == (8, 8)


def test_effects_are_where_they_belong() -> None:
    fit = drawn(40, 12)
    ax = plots.coefficients(fit, Figure().subplots(), most=5)
    told = fit.coef_interval()
    surest = np.argsort(-np.abs(told.z[1]))[:5]
    shown = np.sort(np.concatenate([line.get_xdata() for line in ax.lines[:2]]))
    assert close(shown, np.sort(fit.coef_[1][surest]))
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [f"taxon {j}" for j in surest[np.argsort(fit.coef_[1][surest])]]
    assert "5 of 12 columns" in ax.get_xlabel() and "age" in ax.get_xlabel()


CDF = [
    (y, center, variance)
    for y in (0.0, 1.0, 7.0, 300.0, 20000.0)
    for center in (-4.0, 0.0, 3.0, 9.0)
    for variance in (0.0, 1e-4, 0.03, 0.5, 4.0, 30.0)
]


def slow_cdf(y: float, center: float, variance: float) -> float:
    """P(Y <= y) by adaptive quadrature over z, split where the Poisson's step is."""
    if variance == 0:
        return float(stats.poisson.cdf(y, np.exp(center)))
    deviation = np.sqrt(variance)
    f = lambda z: stats.poisson.cdf(y, np.exp(center + deviation * z)) * stats.norm.pdf(z)
    step = (np.log(y + 1) - center) / deviation
    width = 8 / deviation / np.sqrt(y + 1)
    ends = sorted({-10.0, *np.clip([step - 3 * width, step - width, step, step + width], -10, 10), 10.0})
    return sum(
        integrate.quad(f, a, b, epsabs=1e-11, limit=200)[0] for a, b in zip(ends, ends[1:], strict=False)
    )


@pytest.mark.parametrize("case", CDF[::3], ids=str)
def test_the_marginal_distribution_function(case: tuple[float, float, float]) -> None:
    found = margins.marginal_cdf(*(np.array([part]) for part in case))
    assert abs(found[0] - slow_cdf(*case)) < 1e-7
    assert margins.marginal_cdf(np.array([-1.0]), np.array([0.0]), np.array([1.0]))[0] == 0


def test_residuals_of_the_true_model_are_normal() -> None:
    found = views.residuals(
        drawn(400, 30, q=30, seed=3)
    )  # thirty axes, so that counts are all but independent
    m = len(found.value)
    assert m == 12_000 == found.of
    assert within_errors(found.value.mean(), 0, 5 / np.sqrt(m)) and abs(found.value.std() - 1) < 0.05
    off = drawn(400, 30, q=30, seed=3)
    off.covariance_ = off.covariance_ / 4
    assert views.residuals(off).value.std() > 1.15


def test_counts_of_the_true_model_are_expected() -> None:
    fit = drawn(300, 20, seed=4)
    found = views.frequencies(fit)
    assert found.seen.sum() == 6000 and close(found.expected.sum(), 6000)
    assert np.mean((found.seen >= found.lower) & (found.seen <= found.upper)) > 0.8
    fit.covariance_, fit.eigenvalues_ = np.zeros((20, 20)), np.zeros(2)
    without = views.frequencies(fit)
    assert without.seen[0] > without.upper[0]  # without residual variance there would be fewer zeros
    fit.counts_.y[0, 0] = np.nan
    assert views.frequencies(fit).seen.sum() == 5999


@pytest.mark.parametrize("largest", [0, 1, 9, 10, 11, 57, 10**6])
def test_every_count_has_one_bin(largest: int) -> None:
    edges = views.bin_edges(largest)
    names = views.bin_names(edges)
    assert edges[0] == 0 and (np.diff(edges) > 0).all() and len(names) == len(edges) - 1
    assert edges[-2] <= largest < edges[-1]
    assert list(edges[: min(largest, 9) + 1]) == list(range(min(largest, 9) + 1))


BAD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an axis that is not there": (lambda fit: plots.biplot(fit, axes=(1, 3)), "two of the 2 axes"),
    "a covariate that is not there": (
        lambda fit: plots.coefficients(fit, covariate="tree"),
        "'Intercept', 'age'",
    ),
    "a column that is not there": (lambda fit: plots.rootogram(fit, column="oak"), "'taxon 0'"),
    "another matrix": (lambda fit: plots.heat_map(fit, which="precision"), "'correlation' or 'covariance'"),
    "another residual": (lambda fit: plots.residuals(fit, against="time"), "'normal' or 'mean'"),
    "a phase that is not there": (lambda fit: plots.trace(fit, phase="end"), "'variational start'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_drawn_is_said(kind: str) -> None:
    with pytest.raises(InputError, match=BAD[kind][1]):
        BAD[kind][0](FITS["five columns"])


def test_one_axis_is_drawn_against_the_rows() -> None:
    fit = drawn(30, 4, q=1)
    assert plots.embedding(fit, Figure().subplots()).get_xlabel() == "row"
    with pytest.raises(InputError, match="axes"):
        plots.biplot(fit)


def test_a_fit_without_intervals_is_drawn_without() -> None:
    fit: Any = drawn(30, 4)
    fit.__class__ = type("Plain", (Told,), {"coef_interval": lambda self: None, "confint": None})
    ax = plots.coefficients(fit, Figure().subplots())
    assert not ax.collections and len(ax.lines[0].get_xdata()) == 4
