"""The report, the summary and the figures: what is in the data is shown and not run, whatever its size."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import poplin
from poplin.inference import summary
from poplin.report import figures, files, html, plots, views
from tests.instances import TABLES
from tests.standin import StandIn
from tests.tolerances import close

WICKED = ["<script>alert(1)</script>", 'a"b', "Ä & b", "{{ 7 * 7 }}", "$x^2$"]


def fitted(n: int = 30, p: int = 5, formula: str | None = None, **settings: Any) -> Any:
    """A stand-in fit of random counts with wicked names."""
    random = np.random.default_rng(n * p)
    names = [*WICKED, *(f"Y{j}" for j in range(p))][:p]
    rows = [f"row {i}</svg>" for i in range(n)]
    counts = pandas.DataFrame(random.poisson(5.0, (n, p)), index=rows, columns=names)
    data = pandas.DataFrame({"tree": np.resize(["elm", "<b>oak"], n)}, index=rows)
    return StandIn(formula=formula, **settings).fit(counts, data=None if formula is None else data)


INSTANCES = {
    "full": {},
    "formula": {"formula": "~ tree"},
    "rank one": {"rank": 1},
    "rank three": {"rank": 3, "shrinkage": 0},
    "two rows": {"n": 2, "p": 1},
    "one column": {"p": 1},
    "two columns": {"p": 2},
    "more columns than are labelled": {"p": 60},
    "diagonal": {"covariance": "diagonal"},
    "variational": {"method": "variational"},
    "fixed": {"covariance": np.eye(5)},
}
COLOURS = {
    "none": None,
    "labels": views.Colour("<kind>", np.resize(["a", "<b>"], 30)),
    "many labels": views.Colour("name", np.array([f"k{i}" for i in range(30)])),
    "numbers": views.Colour("size", np.linspace(-1, 1, 30)),
    "numbers with a gap": views.Colour("size", np.r_[np.nan, np.linspace(-1, 1, 29)]),
    "all alike": views.Colour("size", np.full(30, 2.5)),
}


class Reader(HTMLParser):
    """Checks that tags close in order, and keeps what is needed to see that nothing is loaded or run."""

    EMPTY = {"meta", "br", "line", "rect", "circle", "polyline", "image", "img", "link", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.scripts: list[Any] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and the addresses in it."""
        self.tags.add(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("href", "src", "srcset", "action")
        ]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Each tag closes the one opened last."""
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep the words; of scripts the data and the page's own."""
        if self.open[-1:] != ["script"]:
            self.text += data
        elif data.strip():
            self.scripts.append(json.loads(data) if data.strip().startswith("{") else data.strip())


def data_of(fit: Any) -> Any:
    """What the page's script works on, as JSON brings it."""
    return json.loads(json.dumps(html.for_script(fit, None, None)))


def read(page: str) -> Reader:
    """A page taken apart."""
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


@pytest.mark.parametrize("kind", INSTANCES)
def test_a_page_is_well_formed_loads_nothing_and_runs_nothing(kind: str) -> None:
    fit = fitted(**INSTANCES[kind])
    reader = read(html.page(fit, html.Origin("<img src=x onerror=alert(1)>", "poplin fit 'a&b.csv'")))
    assert "What to trust" in reader.text
    assert not reader.tags & {"img", "link", "iframe", "object", "embed"}
    assert reader.scripts == [data_of(fit), (Path(html.__file__).parent / "page.js").read_text().strip()]
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert "poplin fit 'a&b.csv'" in reader.text and "<img src=x onerror=alert(1)>" in reader.text
    assert fit.counts_.column_names[0] in reader.text
    assert not re.search(r"\bnan\b|\binf\b", reader.text)


@pytest.mark.parametrize("kind", COLOURS)
def test_points_take_any_colour(kind: str) -> None:
    fit = fitted()
    reader = read(html.page(fit, html.Origin(colour=COLOURS[kind])))
    assert reader.text.count("row 7</svg>") == 1
    chart = figures.scatter(fit, COLOURS[kind])
    assert len(chart.dots) == 30 and all(re.fullmatch(r"#[0-9a-f]{6}", dot.colour) for dot in chart.dots)


def test_points_lie_inside_the_frame_and_keep_their_order() -> None:
    fit = fitted(n=3000)
    chart = figures.scatter(fit, None)
    assert len(chart.dots) == figures.MOST_POINTS and "2000 of 3000 rows" in chart.note
    places = np.array([dot[:2] for dot in chart.dots])
    assert (places >= [figures.LEFT, figures.PAD]).all()
    assert (places <= [figures.WIDTH - figures.PAD, figures.HEIGHT - figures.BOTTOM]).all()
    drawn = [fit.counts_.row_names.index(dot.name) for dot in chart.dots]
    scores = views.embedding(fit).scores[drawn]
    assert np.corrcoef(places[:, 0], scores[:, 0])[0, 1] > 0.999999
    assert np.corrcoef(places[:, 1], scores[:, 1])[0, 1] < -0.999999  # up is a smaller y in SVG


@pytest.mark.parametrize("ending", ["converged", "budget", "interrupted"])
def test_page_and_summary_say_how_it_ended(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(StandIn, "ending", ending)
    fit = fitted()
    said = {"converged": "Converged: ", "budget": "Not converged: ", "interrupted": "Interrupted: "}[ending]
    words = read(html.page(fit)).text
    assert said in words and ("Read nothing below as final" in words) == (ending != "converged")
    assert said.lower() in summary.summary(fit)
    assert ("DID NOT CONVERGE" in words) == (ending != "converged")


def test_summary_tells_what_a_statistician_asks_for() -> None:
    fit = fitted(formula="~ tree", shrinkage=0.3)
    text = summary.summary(fit, shown=2)
    for said in (
        "StandIn(shrinkage=0.3, formula='~ tree')",
        "30 rows, 5 columns",
        "full, 5 x 5 (15 free)",
        "-1234.50 nats",
        "tree[T.elm]",
        "the 2 largest of 10",
        "and 3 more",
        "Two chains moved slowly",
    ):
        assert said in " ".join(text.split()), said
    assert "log-likelihood" not in text
    fit.loglik_, fit.loglik_se_ = -1200.0, 0.25
    assert "log-likelihood -1200.00 nats (Monte-Carlo error 0.25)" in " ".join(summary.summary(fit).split())


def test_without_covariates_the_commonest_columns_come_first() -> None:
    fit = fitted(p=8)
    told = [value for *_, value in summary.largest_effects(fit, 8)]
    np.testing.assert_array_equal(told, np.sort(fit.coef_[0])[::-1])


def test_largest_effects_leave_the_intercept_out() -> None:
    fit = fitted(formula="~ tree")
    effects = list(summary.largest_effects(fit, 3))
    sizes = np.sort(np.abs(fit.coef_[1]))[::-1][:3]
    assert [name for name, _, _ in effects] == ["tree[T.elm]"] * 3
    np.testing.assert_array_equal(np.abs([value for _, _, value in effects]), sizes)


@pytest.mark.parametrize("rank", [None, 2])
def test_the_embedding_is_the_latent_mean_in_principal_axes(rank: int | None) -> None:
    fit = fitted(p=14, rank=rank)
    seen = views.embedding(fit)
    if rank is None:
        assert seen.scores.shape == (30, views.AXES_OF_A_DIRECT_FORM)
        spread = np.cov(seen.scores.T, bias=True)  # the stand-in's residuals have Sigma as their covariance
        assert close(spread, np.diag(fit.eigenvalues_[:10]), scale=10)
    else:
        np.testing.assert_array_equal(seen.scores, fit.latent_mean_)
    assert 0 < seen.share.sum() <= 1 + 1e-9


def test_the_names_of_bins_do_not_run_into_each_other() -> None:
    ticks = [
        figures.Tick(40.0 * k, name) for k, name in enumerate(["0", "1", "10-14", "15-21", "22-32", "33+"])
    ]
    assert [tick.text for tick in figures.apart(ticks)] == ["0", "1", "10-14", "22-32"]


def test_the_heat_map_holds_the_correlations_of_the_columns_it_names() -> None:
    fit = fitted(p=8)
    seen = views.heat_map(fit, most=6)
    counted = np.argsort(-fit.counts_.y.sum(axis=0))[:6]
    assert set(seen.names) == {fit.counts_.column_names[j] for j in counted} and seen.of == 8
    place = [fit.counts_.column_names.index(name) for name in seen.names]
    deviation = np.sqrt(np.diag(fit.covariance_))
    expected = (fit.covariance_ / np.outer(deviation, deviation))[np.ix_(place, place)]
    assert close(seen.correlation, expected)


def test_the_strongest_pairs_are_the_strongest() -> None:
    fit = fitted(p=8)
    pairs = views.strongest_pairs(fit, shown=3)
    off = np.abs(views.correlations(fit.covariance_)[np.triu_indices(8, 1)])
    assert close(np.abs([value for *_, value in pairs]), np.sort(off)[::-1][:3])
    fit.covariance_ = np.diag([1.0, 2.0, 0.0, *np.ones(5)])
    assert views.strongest_pairs(fit) == []
    assert "its covariance is diagonal" in read(html.page(fit)).text


def test_a_trace_that_is_short_or_broken_is_drawn_all_the_same() -> None:
    fit = fitted()
    fit.trace_ = {"phase": np.array(["ml"]), "iteration": [1], "objective": [np.nan], "seconds": [0.0]}
    assert figures.traces(fit) == []
    fit.trace_["objective"] = [-5.0]
    assert len(figures.traces(fit)) == 1
    read(html.page(fit))


@pytest.mark.parametrize("kind", ["full", "rank one", "two columns", "more columns than are labelled"])
@pytest.mark.parametrize(
    "plot", [plots.embedding, plots.heat_map, plots.trace], ids=lambda plot: plot.__name__
)
def test_plots_draw_on_the_axes_they_are_given(kind: str, plot: Any) -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert plot(fitted(**INSTANCES[kind]), ax) is ax
    assert ax.has_data()
    ax.get_figure().canvas.draw()


@pytest.mark.parametrize("colour", [np.resize(["a", "b"], 30), np.arange(30.0)], ids=["labels", "numbers"])
def test_plots_colour_the_rows_on_axes_of_their_own(colour: np.ndarray) -> None:
    import matplotlib.pyplot as plt

    ax = plots.embedding(fitted(), colour=colour)
    assert (ax.get_legend() is None) == (colour.dtype.kind == "f")
    plt.close(ax.figure)


def test_scales_of_a_basis_are_written_with_their_intervals(tmp_path: Path) -> None:
    """In the order of V, and not of their sizes; those of an earlier fit go."""
    basis = np.eye(4)[:, [1, 0]]
    fit = poplin.PLN(basis=basis, method="variational").fit(TABLES["plain"].y)
    names = [path.name for path in files.write_results(fit, tmp_path, page=False)]
    held = pandas.read_csv(tmp_path / "scales.csv", index_col=0)
    told = fit.confint("scales")
    assert "scales.csv" in names and np.allclose(held["estimate"], np.diag(basis.T @ fit.covariance_ @ basis))
    assert np.allclose(held[["lower", "upper"]], told[["lower", "upper"]])
    assert (
        f"axis2  {told['estimate'].iloc[1]:.3g} (95 % interval {told['lower'].iloc[1]:.3g} to"
        in fit.summary()
    )
    plain = poplin.PLN(basis=basis, method="variational").fit(TABLES["plain"].y, standard_errors=False)
    assert "scales.csv" not in [path.name for path in files.write_results(plain, tmp_path, page=False)]
    assert not (tmp_path / "scales.csv").exists() and "Scales of" not in plain.summary()
