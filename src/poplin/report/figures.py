"""The figures of the page as geometry: where each point, line and label goes; the template draws them as SVG.

Start at `scatter`, `heat_map` or `traces`. Drawing inline costs milliseconds where matplotlib costs a second,
lets the page follow the reader's light or dark theme, and gives every point its name under the pointer.
"""

from __future__ import annotations

import base64
import io
import math
from typing import NamedTuple

import numpy as np

from poplin.inference.summary import Fitted
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
