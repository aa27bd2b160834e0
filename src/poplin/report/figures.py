"""The figures of the page as geometry: where each point, line and label goes; the template draws them as SVG.

Start at `scatter`, `heat_map` or `traces`. Drawing inline costs milliseconds where matplotlib costs a second,
lets the page follow the reader's light or dark theme, and gives every point its name under the pointer.
"""

from __future__ import annotations

import base64
import io
import math
from typing import Any, NamedTuple

import numpy as np

from poplin.inference import summary
from poplin.inference.departures import GRID, Curve
from poplin.inference.summary import LARGEST_KHAT, Fitted, known_khat
from poplin.report import views

WIDTH, HEIGHT, LEFT, BOTTOM, PAD = 640.0, 420.0, 76.0, 44.0, 10.0
MOST_POINTS, MOST_LABELS, LONGEST_LABEL = 2000, 40, 18
# Okabe & Ito (2008) and, from the seventh on, Tol's muted colours: told apart by everybody, on light and dark.
GROUPS = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"),
    *("#56b4e9", "#999933", "#882255", "#bbbbbb", "#332288"),
)
LOW, HIGH = (0, 114, 178), (213, 94, 0)  # the ends of correlations: blue below, orange above
DARK, BRIGHT = (0, 66, 157), (253, 192, 60)  # of numbers: dark blue to yellow, also without colour vision


class Tick(NamedTuple):
    """A place on an axis and what is written there."""

    at: float
    text: str


class Dot(NamedTuple):
    """A point with its colour and the name that is shown under the pointer."""

    x: float
    y: float
    colour: str
    name: str


class Shape(NamedTuple):
    """An element of SVG: its tag, its class in the page's style, its places."""

    tag: str
    kind: str
    at: dict[str, str]


class Chart(NamedTuple):
    """Everything inside one frame: ticks, labels, dots, one line, further shapes; `left` is where the frame begins."""

    title: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    dots: list[Dot]
    line: str
    legend: list[tuple[str, str]]
    note: str
    shapes: tuple[Shape, ...] = ()
    left: float = LEFT


class Grid(NamedTuple):
    """A heat map: the picture as a data address, and labels beside it where they fit."""

    picture: str
    labels: list[Tick]
    note: str


def scatter(fit: Fitted, colour: views.Colour | None) -> Chart:
    """The rows on the first two principal axes; at most 2000 of them, evenly spaced through the table."""
    seen = views.embedding(fit)
    n, k = seen.scores.shape
    shown = drawn_rows(n)
    across = seen.scores[:, 0] if k > 1 else np.arange(n, dtype=float)
    up = seen.scores[:, 1] if k > 1 else seen.scores[:, 0]
    x_ticks, x_at = scale(across[shown], LEFT, WIDTH - PAD)
    y_ticks, y_at = scale(up[shown], HEIGHT - BOTTOM, PAD)
    colours, legend = _colours(colour, n)
    dots = [
        Dot(x, y, colours[i], _dot_name(seen.names[i], colour, i))
        for i, x, y in zip(shown, x_at(across[shown]), y_at(up[shown]), strict=True)
    ]
    note = f"{len(shown)} of {n} rows are drawn." if len(shown) < n else ""
    x_label = f"axis 1 ({seen.share[0]:.0%} of the residual variance)" if k > 1 else "row"
    y_label = f"axis {min(k, 2)} ({seen.share[min(k, 2) - 1]:.0%})"
    return Chart("", x_label, y_label, x_ticks, y_ticks, dots, "", legend, note)


def drawn_rows(n: int) -> np.ndarray:
    """Which rows of n are drawn: all, or 2000 evenly spaced through the table."""
    return np.unique(np.linspace(0, n - 1, min(n, MOST_POINTS)).round().astype(int))


def traces(fit: Fitted) -> list[Chart]:
    """The objective after each iteration, one chart a phase, as phases have different objectives.

    The first steps rise by far more than the rest; the frame begins where the last nine tenths are.
    """
    charts = []
    for curve in views.trace(fit):
        late = curve.objective[len(curve.objective) // 10 :]
        x_ticks, x_at = scale(curve.iteration, LEFT, WIDTH - PAD)
        y_ticks, y_at = scale(late, HEIGHT - BOTTOM, PAD)
        below = 2 * HEIGHT  # what lies under the frame is cut off, not drawn far outside
        pairs = zip(x_at(curve.iteration), np.minimum(y_at(curve.objective), below), strict=True)
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)
        charts.append(
            Chart(f"{curve.phase}: {curve.measure}", "iteration", "", x_ticks, y_ticks, [], line, [], "")
        )
    return charts


def heat_map(fit: Fitted) -> Grid:
    """Residual correlations: orange above zero, blue below, clear at zero (any theme shows through)."""
    from PIL import Image

    seen = views.heat_map(fit)
    size = len(seen.names)
    pixels = np.empty((size, size, 4), dtype=np.uint8)
    pixels[..., :3] = np.where(seen.correlation[..., None] > 0, HIGH, LOW)
    pixels[..., 3] = np.rint(255 * np.abs(seen.correlation))
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
    fits = size <= MOST_LABELS
    labels = [Tick((j + 0.5) / size, _short(name)) for j, name in enumerate(seen.names)] if fits else []
    note = f"The {size} columns with the most counts, of {seen.of}." if size < seen.of else f"{size} columns."
    return Grid(address, labels, note)


def scale(values: np.ndarray, start: float, end: float):
    """Round ticks for `values`, and the function from a value to its place from `start` to `end`."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.5 * max(abs(high), 1.0)
    low, high = low - margin, high + margin
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 6)
    place = lambda value: start + (end - start) * (np.asarray(value) - low) / (high - low)
    marks = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [Tick(float(place(mark)), f"{mark:.{decimals}f}") for mark in marks], place


def _colours(colour: views.Colour | None, n: int) -> tuple[list[str], list[tuple[str, str]]]:
    """One colour a row, and the legend: groups for labels and for few whole numbers, else a scale."""
    if colour is None:
        return [GROUPS[0]] * n, []
    values = np.asarray(colour.values)
    names = values.astype(str)
    order = (lambda name: (len(name), name)) if values.dtype.kind in "biu" else None
    groups = sorted(set(names), key=order)
    if len(groups) <= len(GROUPS):
        of = dict(zip(groups, GROUPS, strict=False))
        return [of[name] for name in names], list(of.items())
    if values.dtype.kind not in "biuf":
        return [GROUPS[0]] * n, []
    numbers = values.astype(float)
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    legend = [(f"{value:.3g}", _between((value - low) / (high - low))) for value in np.linspace(low, high, 5)]
    return [_between((number - low) / (high - low)) for number in numbers], legend


def _between(share: float) -> str:
    if not math.isfinite(share):
        return "#808080"
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(DARK, BRIGHT, strict=True))


def _dot_name(name: str, colour: views.Colour | None, i: int) -> str:
    return name if colour is None else f"{name} ({colour.name}: {colour.values[i]})"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


# More figures of the page: effects with intervals, eigenvalues, counts seen and expected, residuals.
#
# Start at `pictures`, which gives those that a fit can have; the geometry is as in `figures.py`.


MOST_EFFECTS, MOST_AXES, MOST_DRAWS, MOST_RESIDUALS = 18, 30, 1_000_000, 4000
LETTER = 9.6  # the width of a digit below a figure, at most
FLOOR, RIGHT, WIDE_LEFT = HEIGHT - BOTTOM, WIDTH - PAD, 190.0


class Picture(NamedTuple):
    """A chart and what to see in it."""

    chart: Chart
    caption: str


def pictures(fit: Fitted, found: views.Frequencies, left: views.Residuals, curve: Curve) -> list[Picture]:
    """The further figures of a fit, with captions."""
    every = [
        forest(fit),
        eigenvalues(fit),
        rootogram(found),
        quantiles(left, curve),
        correlation_circle(fit),
        khat(fit),
    ]
    return [one for one in every if one is not None]


def forest(fit: Fitted) -> Picture | None:
    """The surest effects of the first covariate that is no intercept, with their intervals."""
    names = fit.counts_.covariate_names
    k = next((k for k, name in enumerate(names) if name != "Intercept"), None)
    told = summary.coef_interval(fit)
    if k is None or told is None or not np.isfinite(told.p[k]).any():
        return None
    size = np.nan_to_num(np.abs(told.z[k]))
    chosen = np.argsort(-size, kind="stable")[:MOST_EFFECTS]
    chosen = chosen[np.argsort(fit.coef_[k][chosen], kind="stable")]
    middle = fit.coef_[k][chosen]
    low, high = views.drawn_ends(told.lower[k][chosen], told.upper[k][chosen], middle)
    ends = np.concatenate([low, high, middle, [0.0]])
    ticks, at = scale(ends[np.isfinite(ends)], WIDE_LEFT, RIGHT)
    step = (FLOOR - PAD) / len(chosen)
    y = FLOOR - step * (np.arange(len(chosen)) + 0.5)
    shapes = [line_shape("zero", at(0.0), PAD, at(0.0), FLOOR)]
    shapes += [
        line_shape("range", at(a), c, at(b), c)
        for a, b, c in zip(low, high, y, strict=True)
        if np.isfinite(a + b)
    ]
    shapes += [dot_shape("mark", at(a), c) for a, c in zip(middle, y, strict=True)]
    labels = [label_at(c, fit.counts_.column_names[j]) for c, j in zip(y, chosen, strict=True)]
    chart = Chart(
        "effects",
        f"{names[k]}: effect on the log scale",
        "",
        ticks,
        labels,
        [],
        "",
        [],
        "",
        tuple(shapes),
        WIDE_LEFT,
    )
    return Picture(
        chart,
        f"Effects of {names[k]} with 95 % intervals, the {len(chosen)} of {fit.coef_.shape[1]} columns whose effect is "
        "largest against its error. An interval that leaves out zero is no proof when many are looked at: see the "
        "adjusted p-values.",
    )


def eigenvalues(fit: Fitted) -> Picture | None:
    """The share of the residual variance on each axis."""
    total = fit.sigma_.trace()
    if total <= 0 or len(fit.eigenvalues_) < 2:
        return None
    share = fit.eigenvalues_[:MOST_AXES] / total
    ticks, at = scale(np.array([0.0, 100 * share.max()]), FLOOR, PAD)
    step = (RIGHT - LEFT) / len(share)
    x = LEFT + step * np.arange(len(share))
    tops = at(100 * share)
    shapes = [
        Shape("rect", "bar", _places(x=a + 0.1 * step, y=b, width=0.8 * step, height=max(at(0.0) - b, 0.0)))
        for a, b in zip(x, tops, strict=True)
    ]
    every = max(1, len(share) // 15)
    x_ticks = [Tick(float(x[k] + step / 2), str(k + 1)) for k in range(0, len(share), every)]
    chart = Chart(
        "eigenvalues", "axis", "% of the residual variance", x_ticks, ticks, [], "", [], "", tuple(shapes)
    )
    half = int(np.searchsorted(np.cumsum(fit.eigenvalues_) / total, 0.8)) + 1
    return Picture(chart, f"How the residual variance is spread over axes: {half} of them hold 80 % of it.")


def rootogram(found: views.Frequencies) -> Picture:
    """Counts seen, hanging from what tables drawn from the fit have."""
    top, bars = np.sqrt(found.expected), np.sqrt(found.seen)
    low, high = top - np.sqrt(found.upper), top - np.sqrt(found.lower)
    ticks, at = scale(np.concatenate([top, top - bars, low, high, [0.0]]), FLOOR, PAD)
    step = (RIGHT - LEFT) / len(top)
    x = LEFT + step * np.arange(len(top))
    shapes = [
        Shape("rect", "bar", _places(x=a + 0.1 * step, y=at(b), width=0.8 * step, height=at(b - c) - at(b)))
        for a, b, c in zip(x, top, bars, strict=True)
    ]
    shapes += [
        Shape("rect", "band", _places(x=a, y=at(c), width=step, height=max(at(b) - at(c), 1.0)))
        for a, b, c in zip(x, low, high, strict=True)
    ]
    shapes.append(line_shape("zero", LEFT, at(0.0), RIGHT, at(0.0)))
    shapes.append(Shape("polyline", "curve", {"points": _path(x + step / 2, at(top))}))
    x_ticks = apart([Tick(float(x[k] + step / 2), name) for k, name in enumerate(found.bins)])
    chart = Chart("counts", "count", "root of frequency", x_ticks, ticks, [], "", [], "", tuple(shapes))
    some = "" if found.rows == found.of else f" ({found.rows} of {found.of} rows.)"
    return Picture(
        chart,
        "Counts of each size: bars (what is seen) hang from the line (what the fit expects), in square roots. Bars "
        f"should end inside the band at zero, where 95 % of tables drawn from the fit end.{some}",
    )


def apart(ticks: list[Tick]) -> list[Tick]:
    """The ticks whose texts, written around their places, do not run into that of the one before."""
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or tick.at - kept[-1].at > LETTER * (len(tick.text) + len(kept[-1].text) + 2) / 2:
            kept.append(tick)
    return kept


def quantiles(found: views.Residuals, curve: Curve) -> Picture:
    """Residuals against the normal quantiles that they should have, and the band that the test of all of them has."""
    from scipy.special import ndtri

    m = len(found.value)
    shown = np.unique(np.linspace(0, m - 1, min(m, 300)).round().astype(int))
    wanted, value = ndtri((shown + 0.5) / m), np.sort(found.value)[shown]
    both = np.concatenate([wanted, np.clip(value, -6, 6)])
    x_ticks, x_at = scale(both, LEFT, RIGHT)
    y_ticks, y_at = scale(both, FLOOR, PAD)
    ends = np.array([both.min(), both.max()])
    low, high = (ndtri(np.clip(end, 1e-9, 1 - 1e-9)) for end in (curve.lower, curve.upper))
    around = np.clip(np.r_[low, high[::-1]], ends[0], ends[1])
    edge = _path(x_at(around), y_at(np.clip(np.r_[GRID, GRID[::-1]], *ends)))
    shapes = [Shape("polygon", "band", {"points": edge})]
    shapes.append(
        line_shape("zero", *(float(v) for pair in zip(x_at(ends), y_at(ends), strict=True) for v in pair))
    )
    shapes += [
        dot_shape("mark", a, b) for a, b in zip(x_at(wanted), y_at(np.clip(value, -6, 6)), strict=True)
    ]
    there = (curve.share > 0) & (curve.share < 1)
    tested = np.clip(ndtri(curve.share[there]), *ends)
    shapes.append(
        Shape("polyline", "curve", {"points": _path(x_at(tested), y_at(np.clip(GRID[there], *ends)))})
    )
    chart = Chart("residuals", "normal quantile", "residual", x_ticks, y_ticks, [], "", [], "", tuple(shapes))
    some = "" if m == found.of else f" {m} of {found.of} counts, taken at random."
    return Picture(
        chart,
        "Randomised quantile residuals: on the line, counts vary as the model says. The curve, of as many counts as "
        "are "
        f"tested, should stay inside the band, as it does for 95 % of tables drawn from the fit.{some}",
    )


def correlation_circle(fit: Fitted) -> Picture | None:
    """Columns by their correlations with the first two axes."""
    if fit.components_.shape[1] < 2 or np.count_nonzero(fit.eigenvalues_[:2] > 0) < 2:
        return None
    tips = views.axis_correlations(fit)[:, :2]
    x_ticks, _ = scale(np.array([-1.0, 1.0]), LEFT, LEFT + FLOOR - PAD)
    size = (FLOOR - PAD) / 2.3
    middle = (LEFT + RIGHT) / 2, (PAD + FLOOR) / 2
    place = np.column_stack([middle[0] + size * tips[:, 0], middle[1] - size * tips[:, 1]])
    shapes = [
        Shape("circle", "ring", _places(cx=middle[0], cy=middle[1], r=size * part)) for part in (1.0, 0.5)
    ]
    shapes += [line_shape("zero", middle[0] - size, middle[1], middle[0] + size, middle[1])]
    shapes += [line_shape("zero", middle[0], middle[1] - size, middle[0], middle[1] + size)]
    order = np.argsort(-np.hypot(*tips.T), kind="stable")
    shapes += [line_shape("range", *middle, *place[j]) for j in order[:12]]
    shapes += [dot_shape("mark", *place[j], name=fit.counts_.column_names[j]) for j in order[:300]]
    seen = views.embedding(fit)
    across, up = (f"axis {k + 1} ({seen.share[k]:.0%} of the residual variance)" for k in (0, 1))
    chart = Chart("correlation circle", across, up, [], [], [], "", [], "", tuple(shapes))
    return Picture(
        chart,
        "Correlations of columns with the first two axes (outer ring: 1). Columns in one direction go together along "
        "these axes; point at one for its name.",
    )


def khat(fit: Fitted) -> Picture | None:
    """Pareto k-hat of each row (the largest 300), where it is known."""
    values = known_khat(fit)
    if values is None:
        return None
    shown = np.sort(np.argsort(-values, kind="stable")[:300])
    x_ticks, x_at = scale(shown.astype(float), LEFT, RIGHT)
    y_ticks, y_at = scale(np.concatenate([values[shown], [0.0, LARGEST_KHAT]]), FLOOR, PAD)
    shapes = [line_shape("zero", LEFT, y_at(LARGEST_KHAT), RIGHT, y_at(LARGEST_KHAT))]
    names = fit.counts_.row_names
    shapes += [
        dot_shape("mark", x_at(j), y_at(values[j]), name=f"{names[j]}: {values[j]:.2f}") for j in shown
    ]
    chart = Chart("k-hat", "row", "Pareto k-hat", x_ticks, y_ticks, [], "", [], "", tuple(shapes))
    some = "" if len(shown) == len(values) else f" The {len(shown)} largest of {len(values)} rows."
    return Picture(
        chart,
        f"How heavy the tails of the importance weights are, by row: above the line ({LARGEST_KHAT}) a row's "
        f"log-likelihood is not to be trusted; point at one for its name.{some}",
    )


def line_shape(kind: str, x1: Any, y1: Any, x2: Any, y2: Any) -> Shape:
    """A straight line."""
    return Shape("line", kind, _places(x1=x1, y1=y1, x2=x2, y2=y2))


def dot_shape(kind: str, x: Any, y: Any, name: str = "") -> Shape:
    """A point, with a name under the pointer where it has one."""
    return Shape("circle", kind, _places(cx=x, cy=y, r=3) | ({"data-name": name} if name else {}))


def _places(**numbers: Any) -> dict[str, str]:
    return {name: f"{float(value):.1f}" for name, value in numbers.items()}


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def label_at(at: float, name: str) -> Tick:
    """A name beside a line of a chart, cut where it is long."""
    return Tick(float(at), name if len(name) <= 24 else name[:23] + "…")
