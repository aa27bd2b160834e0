"""More figures of the page: effects with intervals, eigenvalues, counts seen and expected, residuals.

Start at `pictures`, which gives those that a fit can have; the geometry is as in `figures.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from poplin.inference import summary
from poplin.inference.departures import GRID, Curve
from poplin.inference.summary import LARGEST_KHAT, Fitted, known_khat
from poplin.report import goodness, views
from poplin.report.figures import BOTTOM, HEIGHT, LEFT, PAD, WIDTH, Chart, Shape, Tick, scale

MOST_EFFECTS, MOST_AXES, MOST_DRAWS, MOST_RESIDUALS = 18, 30, 1_000_000, 4000
LETTER = 9.6  # the width of a digit below a figure, at most
FLOOR, RIGHT, WIDE_LEFT = HEIGHT - BOTTOM, WIDTH - PAD, 190.0


class Picture(NamedTuple):
    """A chart and what to see in it."""

    chart: Chart
    caption: str


def pictures(
    fit: Fitted, found: goodness.Frequencies, left: goodness.Residuals, curve: Curve
) -> list[Picture]:
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
    shapes = [_line("zero", at(0.0), PAD, at(0.0), FLOOR)]
    shapes += [
        _line("range", at(a), c, at(b), c) for a, b, c in zip(low, high, y, strict=True) if np.isfinite(a + b)
    ]
    shapes += [_dot("mark", at(a), c) for a, c in zip(middle, y, strict=True)]
    labels = [_named(c, fit.counts_.column_names[j]) for c, j in zip(y, chosen, strict=True)]
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
    total = float(np.trace(fit.covariance_))
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


def rootogram(found: goodness.Frequencies) -> Picture:
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
    shapes.append(_line("zero", LEFT, at(0.0), RIGHT, at(0.0)))
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


def quantiles(found: goodness.Residuals, curve: Curve) -> Picture:
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
        _line("zero", *(float(v) for pair in zip(x_at(ends), y_at(ends), strict=True) for v in pair))
    )
    shapes += [_dot("mark", a, b) for a, b in zip(x_at(wanted), y_at(np.clip(value, -6, 6)), strict=True)]
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
    shapes += [_line("zero", middle[0] - size, middle[1], middle[0] + size, middle[1])]
    shapes += [_line("zero", middle[0], middle[1] - size, middle[0], middle[1] + size)]
    order = np.argsort(-np.hypot(*tips.T), kind="stable")
    shapes += [_line("range", *middle, *place[j]) for j in order[:12]]
    shapes += [_dot("mark", *place[j], name=fit.counts_.column_names[j]) for j in order[:300]]
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
    shapes = [_line("zero", LEFT, y_at(LARGEST_KHAT), RIGHT, y_at(LARGEST_KHAT))]
    names = fit.counts_.row_names
    shapes += [_dot("mark", x_at(j), y_at(values[j]), name=f"{names[j]}: {values[j]:.2f}") for j in shown]
    chart = Chart("k-hat", "row", "Pareto k-hat", x_ticks, y_ticks, [], "", [], "", tuple(shapes))
    some = "" if len(shown) == len(values) else f" The {len(shown)} largest of {len(values)} rows."
    return Picture(
        chart,
        f"How heavy the tails of the importance weights are, by row: above the line ({LARGEST_KHAT}) a row's "
        f"log-likelihood is not to be trusted; point at one for its name.{some}",
    )


def _line(kind: str, x1: Any, y1: Any, x2: Any, y2: Any) -> Shape:
    return Shape("line", kind, _places(x1=x1, y1=y1, x2=x2, y2=y2))


def _dot(kind: str, x: Any, y: Any, name: str = "") -> Shape:
    return Shape("circle", kind, _places(cx=x, cy=y, r=3) | ({"data-name": name} if name else {}))


def _places(**numbers: Any) -> dict[str, str]:
    return {name: f"{float(value):.1f}" for name, value in numbers.items()}


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _named(at: float, name: str) -> Tick:
    return Tick(float(at), name if len(name) <= 24 else name[:23] + "…")
