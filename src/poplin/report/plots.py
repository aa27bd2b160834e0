"""Pictures with matplotlib, as `poplin.plots`: each takes a fit and, if wanted, axes to draw on, and returns the axes.

Nothing is shown or saved; that is the caller's choice: `poplin.plots.embedding(fit).figure.savefig("rows.png")`. Rows:
`embedding`, `biplot`, `correlation_circle`. Columns: `heat_map`, `eigenvalues`, `coefficients`. To trust it or not:
`rootogram`, `residuals`, `trace`, `khat`, and `selection` for what `poplin.select` compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from poplin._errors import InputError
from poplin.data.tables import listed
from poplin.inference import summary
from poplin.inference.summary import LARGEST_KHAT, Fitted
from poplin.report import views

__all__ = [
    "biplot",
    "coefficients",
    "correlation_circle",
    "eigenvalues",
    "embedding",
    "heat_map",
    "khat",
    "residuals",
    "rootogram",
    "selection",
    "trace",
]

# What the pictures share: axes to draw on, colours that everybody can tell apart, labels that do not overlap.
#
# Start at `axes_of`. Groups have the colours of Okabe and Ito (2008) and others that stay apart from them, and, from
# the eighth on, other marks; numbers go from dark blue to yellow (cividis), what has a sign from blue to orange.


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00"),
    *("#cc79a7", "#56b4e9", "#222222"),
)
GROUPS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
MARKS = "os^Dv*PX"
SIGNED, NUMBERS = "PuOr_r", "cividis"  # maps of matplotlib
MOST_GROUPS = 14  # in a legend; more are drawn as one


def axes_of(ax: Axes | None, size: tuple[float, float] = (6.4, 4.8)) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained", figsize=size)[1]


def colour_bar(ax: Axes, drawn: Any, label: str) -> None:
    """A scale beside the axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.colorbar(drawn, ax=ax).set_label(label, parse_math=False)


def points(ax: Axes, x: np.ndarray, y: np.ndarray, colour: Sequence[Any] | None) -> None:
    """Points, coloured by numbers on a scale or by groups with a legend (at most `MOST_GROUPS`, the rest in grey)."""
    name = getattr(colour, "name", None) or ""
    size = float(np.clip(2500 / max(len(x), 1), 3, 26))
    look = {"s": size, "linewidths": 0, "alpha": 0.85, "rasterized": len(x) > 5000}
    if colour is None:
        ax.scatter(x, y, c=BLUE, **look)
        return
    values = np.asarray(colour)
    if values.dtype.kind in "f" or (values.dtype.kind in "iu" and len(np.unique(values)) > MOST_GROUPS):
        colour_bar(ax, ax.scatter(x, y, c=values, cmap=NUMBERS, **look), str(name))
        ax.scatter(*(part[np.isnan(values.astype(float))] for part in (x, y)), c="#999999", **look)
        return
    labels = values.astype(str)
    names, many = np.unique(labels, return_counts=True)
    shown = sorted(
        names[np.argsort(-many, kind="stable")[: MOST_GROUPS if len(many) > MOST_GROUPS else None]]
    )
    rest = ~np.isin(labels, shown)
    if rest.any():
        ax.scatter(x[rest], y[rest], c="#bbbbbb", label=f"{len(names) - len(shown)} others", **look)
    for k, one in enumerate(shown):
        mark = MARKS[k // len(GROUPS) % len(MARKS)]
        at = labels == one
        ax.scatter(x[at], y[at], c=GROUPS[k % len(GROUPS)], marker=mark, label=one, **look)
    outside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if len(shown) > 5 else {}
    legend = ax.legend(frameon=False, fontsize="small", title=str(name) or None, **outside)
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)
    for handle in legend.legend_handles:
        handle.set_sizes([28])  # type: ignore[union-attr]


def arrows(ax: Axes, tips: np.ndarray, names: Sequence[str], labelled: int) -> None:
    """Arrows from zero to the longest of `tips` (m, 2), with names; a name that would hide another is left out."""
    order = np.argsort(-np.hypot(*tips.T), kind="stable")
    for tip in tips[order[:labelled]].tolist():
        ax.annotate(
            "", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": VERMILION, "lw": 1, "shrinkB": 0}
        )
    texts = []
    for j in order[:labelled]:
        x, y = tips[j]
        left, low = ("left" if x >= 0 else "right"), ("bottom" if y >= 0 else "top")
        texts.append(
            ax.text(x, y, f" {short(names[int(j)])} ", ha=left, va=low, fontsize="small", parse_math=False)
        )
    within(ax, texts)
    without_overlap(ax, texts)


def within(ax: Axes, texts: list[Text]) -> None:
    """Turn each text that would leave the axes at a side so that it ends, or begins, at its point."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    frame = ax.get_window_extent()
    for text in texts:
        box = text.get_window_extent()
        if box.x1 > frame.x1:
            text.set_horizontalalignment("right")
        elif box.x0 < frame.x0:
            text.set_horizontalalignment("left")


def without_overlap(ax: Axes, texts: list[Text]) -> None:
    """Take away each text that would lie on an earlier one."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    taken: list[Any] = []
    for text in texts:
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)


def short(name: str, longest: int = 22) -> str:
    """A name that fits beside a picture."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


# Pictures that say whether to trust a fit: counts seen and expected, residuals, its course, its likelihood.
#
# Start at `rootogram` and `residuals` for the model, at `trace` and `khat` for the computation.


if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BINS = 18  # of a rootogram, that have their name below
MOST_NAMED = 8  # rows whose k-hat is bad, the worst ones
GOOD_KHAT = 0.5  # Vehtari et al. (2024): below it all is well


def rootogram(fit: Fitted, ax: Axes | None = None, *, column: str | None = None) -> Axes:
    """Hanging rootogram: bars of the counts seen hang from what the fit expects, in square roots.

    A bar that ends above zero: fewer counts of that size than expected. The band is where 95 % of tables drawn from the
    fit end. Cost: 19 to 99 tables drawn, of some rows where the table is large. Source: Kleiber & Zeileis (2016), Am.
    Stat. 70.

    Args:
        fit: a fitted `PLN`.
        ax: axes to draw on; None: those of a new figure.
        column: one column by name; None: all.

    Returns:
        The axes.

    Raises:
        InputError: no such column.
    """
    if column is not None and column not in fit.counts_.column_names:
        raise InputError(f"column={column!r}: the fit has {listed(fit.counts_.column_names)}.")
    ax = axes_of(ax)
    seen = views.frequencies(fit, column)
    place = np.arange(len(seen.bins))
    top, bars = np.sqrt(seen.expected), np.sqrt(seen.seen)
    ax.bar(place, bars, bottom=top - bars, width=0.8, color=BLUE, alpha=0.55, label="seen, hanging")
    ax.plot(place, top, "o-", color=VERMILION, markersize=4, lw=1, label="expected")
    lower, upper = top - np.sqrt(seen.upper), top - np.sqrt(seen.lower)
    ax.fill_between(place, lower, upper, step="mid", color=ORANGE, alpha=0.5, label="95 % of drawn tables")
    ax.axhline(0, color="#555555", lw=0.8)
    shown = place[:: -(-len(place) // MOST_BINS)]
    # Slanted, and ended at their mark: names of bins such as 1234-1850 are wider than a bar.
    slant = {"rotation": 60, "rotation_mode": "anchor", "ha": "right", "va": "center"}
    ax.set_xticks(shown, [seen.bins[k] for k in shown], fontsize="small", **slant)
    what = "count" if column is None else f"count of {column}"
    some = "" if seen.rows == seen.of else f" ({seen.rows} of {seen.of} rows)"
    ax.set_xlabel(what + some, parse_math=False)
    ax.set_ylabel("square root of frequency")
    ax.legend(frameon=False, fontsize="small")
    return ax


def residuals(fit: Fitted, ax: Axes | None = None, *, against: str = "normal") -> Axes:
    """Randomised quantile residuals, against the normal quantiles they should have or against the expected count.

    Source: Dunn & Smyth (1996), J. Comput. Graph. Stat. 5.

    Args:
        fit: a fitted `PLN`.
        ax: axes to draw on; None: those of a new figure.
        against: "normal": points on the line, within the 95 % band of a sample of that size (drawn pointwise, and for
            independent residuals; those of one row go together), say that the margins fit. "mean": no pattern should be
            seen.

    Returns:
        The axes.

    Raises:
        InputError: `against` is neither.
    """
    if against not in ("normal", "mean"):
        raise InputError(f"against={against!r}: wanted is 'normal' or 'mean'.")
    ax = axes_of(ax)
    found = views.residuals(fit)
    m = len(found.value)
    look = {"markersize": 2.5 if m > 1000 else 4, "color": BLUE, "alpha": 0.5, "rasterized": m > 5000}
    some = "" if m == found.of else f" ({m} of {found.of} counts)"
    if against == "mean":
        ax.plot(found.mean, found.value, ".", **look)
        ax.set_xscale("log")
        ax.axhspan(-1.96, 1.96, color=ORANGE, alpha=0.2, lw=0)
        ax.axhline(0, color="#555555", lw=0.8)
        ax.set_xlabel(f"expected count{some}")
        ax.set_ylabel("residual")
        return ax
    from scipy.special import betaincinv, ndtri

    rank = np.arange(1, m + 1)
    wanted = ndtri((rank - 0.5) / m)
    low, high = (ndtri(betaincinv(rank, m + 1 - rank, share)) for share in (0.025, 0.975))
    ax.fill_between(wanted, low, high, color=ORANGE, alpha=0.35, lw=0)
    ax.plot(wanted, wanted, color="#555555", lw=0.8)
    ax.plot(wanted, np.sort(found.value), ".", **look)
    ax.set_xlabel(f"normal quantile{some}")
    ax.set_ylabel("residual")
    return ax


def trace(fit: Fitted, ax: Axes | None = None, *, phase: str | None = None) -> Axes:
    """The objective after each iteration of one phase: a bound rises and ends flat.

    The first tenth rises by far more than the rest and is drawn only as far as it is in the frame of the rest.

    Args:
        fit: a fitted `PLN`.
        ax: axes to draw on; None: those of a new figure.
        phase: a name in `trace_["phase"]`; None: the last one.

    Returns:
        The axes.

    Raises:
        InputError: no such phase.
    """
    ax = axes_of(ax)
    curves = views.trace(fit)
    names = [curve.phase for curve in curves]
    if phase is not None and phase not in names:
        raise InputError(f"phase={phase!r}: this fit has {listed(names)}.")
    for curve in curves[-1:] if phase is None else [curves[names.index(phase)]]:
        ax.plot(curve.iteration, curve.objective, color=BLUE, marker="." if len(curve.iteration) < 3 else "")
        late = curve.objective[len(curve.objective) // 10 :]
        margin = 0.05 * float(np.ptp(late)) or 1e-3 * max(abs(float(late[0])), 1.0)
        ax.set_ylim(late.min() - margin, late.max() + margin)
        ax.set_ylabel(f"{curve.phase}: {curve.measure}")
    ax.set_xlabel("iteration")
    return ax


def khat(fit: Fitted, ax: Axes | None = None) -> Axes:
    """Pareto k-hat of each row's importance weights: above 0.7 its log-likelihood is not to be trusted.

    Computes the fit's log-likelihood where that has not been done. Source: Vehtari et al. (2024), JMLR 25.

    Args:
        fit: a fitted `PLN`.
        ax: axes to draw on; None: those of a new figure.

    Returns:
        The axes.
    """
    ax = axes_of(ax)
    values = np.asarray(fit.khat_)  # type: ignore[attr-defined]
    bad = values > LARGEST_KHAT
    place = np.arange(len(values))
    ax.plot(place[~bad], values[~bad], "o", color=BLUE, markersize=3, alpha=0.7)
    ax.plot(place[bad], values[bad], "X", color=VERMILION, markersize=6)
    ax.axhline(GOOD_KHAT, color="#999999", lw=0.8, ls=":")
    ax.axhline(LARGEST_KHAT, color=VERMILION, lw=1, ls="--")
    ax.set_ylim(min(-0.1, np.nanmin(values) - 0.05), max(1.0, np.nanmax(values) + 0.05))
    worst = np.flatnonzero(bad)[np.argsort(-values[bad], kind="stable")][:MOST_NAMED]
    look = {"fontsize": "x-small", "va": "bottom", "parse_math": False}
    names = [
        ax.text(float(j), float(values[j]), f" {short(fit.counts_.row_names[j])} ", **look) for j in worst
    ]
    within(ax, names)
    without_overlap(ax, names)
    ax.set_xlabel("row")
    ax.set_ylabel("Pareto k-hat")
    ax.set_title(f"{bad.sum()} of {len(values)} rows above {LARGEST_KHAT}", fontsize="medium", loc="left")
    return ax


def selection(found: Any, ax: Axes | None = None) -> Axes:
    """Candidates of `poplin.select` against their free parameters, by the criterion that chose.

    Held-out log-likelihood (higher is better): nats below the best, with one standard error of the paired difference.
    AIC, BIC, ICL (lower is better): how far above the lowest. The chosen one is filled.

    Args:
        found: what `poplin.select` returned.
        ax: axes to draw on; None: those of a new figure.

    Returns:
        The axes.
    """
    ax = axes_of(ax)
    table, name = found.table.sort_values("parameters"), found.criterion
    held = name == "heldout"
    height = table["difference"] if held else table[name] - table[name].min()
    error = table["difference_se"] if held else None
    look = {"marker": "o", "markerfacecolor": "white", "capsize": 3, "color": BLUE}
    ax.errorbar(table["parameters"], height, yerr=error, **look)
    chosen = table["chosen"].to_numpy(dtype=bool)
    ax.plot(table["parameters"][chosen], height[chosen], "o", color=BLUE, zorder=3)
    for label, x, y in zip(table.index, table["parameters"], height, strict=True):
        ax.annotate(label, (x, y), (4, 6), textcoords="offset points", fontsize="small", parse_math=False)
    ax.set_xlabel("free parameters")
    words = "held-out log-likelihood, nats from the best" if held else f"{name.upper()} above the lowest"
    ax.set_ylabel(f"{words} ({found.direction})")
    return ax


# Pictures of the columns: what goes together, in how many dimensions, and what the covariates do.
#
# Start at `heat_map`, `eigenvalues` or `coefficients`.


if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED = 40  # columns; above as many their names would overlap
MOST_AXES, MOST_EFFECTS = 30, 40


def heat_map(fit: Fitted, ax: Axes | None = None, *, which: str = "correlation", most: int = 300) -> Axes:
    """Residual correlations or covariances between columns, clustered.

    Orange above zero, purple below. The order is that of an average-linkage tree of 1 - correlation.

    Args:
        fit: a fitted `PLN`.
        ax: axes to draw on; None: those of a new figure.
        which: "correlation" or "covariance" (log scale).
        most: columns at most, those with the most counts.

    Returns:
        The axes.

    Raises:
        InputError: `which` is neither.
    """
    if which not in ("correlation", "covariance"):
        raise InputError(f"which={which!r}: wanted is 'correlation' or 'covariance'.")
    ax = axes_of(ax, (6.2, 5.2))
    seen = views.heat_map(fit, most=most)
    values = seen.correlation if which == "correlation" else seen.covariance
    # One large variance would leave the rest white: the scale ends at the 99 % point, what is above has its colour.
    top = 1.0 if which == "correlation" else float(np.quantile(np.abs(values), 0.99)) or 1.0
    picture = ax.imshow(values, cmap=SIGNED, vmin=-top, vmax=top, interpolation="nearest")
    colour_bar(ax, picture, f"residual {which}")
    ticks = range(len(seen.names)) if len(seen.names) <= LABELLED else []
    names = [short(seen.names[j], 18) for j in ticks]
    size = "small" if len(names) <= 20 else 6
    ax.set_xticks(ticks, names, rotation=90, fontsize=size, parse_math=False)
    ax.set_yticks(ticks, names, fontsize=size, parse_math=False)
    if not ticks:
        ax.set_xlabel(f"{len(seen.names)} columns" + (f" of {seen.of}" if seen.of > len(seen.names) else ""))
    return ax


def eigenvalues(fit: Fitted, ax: Axes | None = None, *, most: int = MOST_AXES) -> Axes:
    """Eigenvalues of the residual covariance, each with its 95 % interval where there is one, and their shares.

    The numbers above are the share of the residual variance that the axes up to that one hold. Computes the intervals
    (`confint("eigenvalues")`), which may take as long as the fit.

    Args:
        fit: a fitted `PLN`.
        ax: axes to draw on; None: those of a new figure.
        most: axes at most.

    Returns:
        The axes.
    """
    ax = axes_of(ax)
    values = fit.eigenvalues_[:most]
    place = np.arange(1, len(values) + 1)
    told = _eigenvalue_intervals(fit)
    if told is not None:
        low, high = told[0][:most], told[1][:most]
        known = np.isfinite(low) & np.isfinite(high)
        ax.vlines(place[known], low[known], high[known], color=BLUE, lw=2, alpha=0.5)
    ax.plot(place, values, "o", color=BLUE, markersize=5)
    ax.set_yscale("log")
    positive = values[values > 0]
    if len(positive):
        ax.set_ylim(bottom=max(positive.min() / 3, positive.max() * 1e-6))
    share = np.cumsum(fit.eigenvalues_) / (fit.sigma_.trace() or 1.0)
    step = max(1, -(-len(values) // 10))
    for k in range(0, len(values), step):
        look = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
        ax.annotate(f"{share[k]:.0%}", (k + 1, 1), (0, 2), fontsize="x-small", **look)
    ax.xaxis.get_major_locator().set_params(integer=True)  # pyright: ignore[reportCallIssue]
    some = f" (the first {most} of {len(fit.eigenvalues_)})" if len(values) < len(fit.eigenvalues_) else ""
    ax.set_xlabel(f"axis{some}")
    some_known = told is not None and bool(np.isfinite(told[0]).any())
    ax.set_ylabel("eigenvalue of Sigma" + (", 95 % interval" if some_known else ""))
    return ax


def _eigenvalue_intervals(fit: Any) -> tuple[np.ndarray, np.ndarray] | None:
    if not callable(getattr(fit, "confint", None)):
        return None
    try:
        table = fit.confint("eigenvalues")
    except InputError:  # too many numbers, or nothing estimated
        return None
    return table["lower"].to_numpy(), table["upper"].to_numpy()


def coefficients(
    fit: Fitted, ax: Axes | None = None, *, covariate: str | None = None, most: int = MOST_EFFECTS
) -> Axes:
    """The effects of one covariate on the columns with 95 % intervals, the surest at the top.

    Filled: an adjusted p-value (Benjamini and Hochberg over all columns) below 0.05.

    Args:
        fit: a fitted `PLN`.
        ax: axes to draw on; None: those of a new figure.
        covariate: its name in `counts_.covariate_names`; None: the first that is no intercept.
        most: columns at most, those whose effect is largest against its error.

    Returns:
        The axes.

    Raises:
        InputError: no such covariate.
    """
    k = _covariate(fit, covariate)
    told = summary.coef_interval(fit)
    estimate = fit.coef_[k]
    size = np.abs(estimate) if told is None else np.nan_to_num(np.abs(told.z[k]))
    chosen = np.argsort(-size, kind="stable")[:most]
    chosen = chosen[np.argsort(estimate[chosen], kind="stable")]
    ax = axes_of(ax, (6.4, 1.4 + 0.2 * len(chosen)))
    place = np.arange(len(chosen))
    sure = np.ones(len(chosen), bool)
    if told is not None:
        from poplin.inference.intervals import adjusted

        sure = adjusted(told.p[k])[chosen] < 0.05
        low, high = views.drawn_ends(told.lower[k][chosen], told.upper[k][chosen], estimate[chosen])
        ax.hlines(place, low, high, color=BLUE, lw=1.5, alpha=0.6)
    ax.plot(estimate[chosen][sure], place[sure], "o", color=BLUE, markersize=5)
    ax.plot(estimate[chosen][~sure], place[~sure], "o", color=BLUE, markerfacecolor="white", markersize=5)
    ax.axvline(0, color="#999999", lw=0.8, zorder=0)
    ax.set_yticks(
        place, [short(fit.counts_.column_names[j]) for j in chosen], fontsize="small", parse_math=False
    )
    ax.set_ylim(-0.7, len(chosen) - 0.3)
    name = fit.counts_.covariate_names[k]
    more = f" ({len(chosen)} of {len(estimate)} columns)" if len(chosen) < len(estimate) else ""
    ax.set_xlabel(f"{name}: effect on the log scale{more}", parse_math=False)
    return ax


def _covariate(fit: Fitted, name: str | None) -> int:
    names = fit.counts_.covariate_names
    if name is None:
        return next((k for k, one in enumerate(names) if one != "Intercept"), 0)
    if name not in names:
        raise InputError(f"covariate={name!r}: this fit has {listed(names, 12)}.")
    return names.index(name)


# Pictures of the rows: where they lie, and which columns pull them there.
#
# Start at `embedding`; `biplot` adds the columns, `correlation_circle` shows these alone.


if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ARROWS = 14
Two = tuple[int, int]


def embedding(
    fit: Fitted, ax: Axes | None = None, *, colour: Sequence[Any] | None = None, axes: Two = (1, 2)
) -> Axes:
    """The rows as points on two principal axes.

    Of a model with one axis: against the row's place in the table.

    Args:
        fit: a fitted `PLN`.
        ax: axes to draw on; None: those of a new figure.
        colour: (n,), numbers on a scale, anything else as groups with a legend; a Series brings its name. None: one
            colour.
        axes: which two principal axes, counted from 1.

    Returns:
        The axes.

    Raises:
        InputError: the fit has no such axes.
    """
    ax = axes_of(ax)
    seen = views.embedding(fit)
    if seen.scores.shape[1] == 1:
        points(ax, np.arange(len(seen.scores)), seen.scores[:, 0], colour)
        ax.set_xlabel("row")
        ax.set_ylabel(_share(seen, 0))
        return ax
    a, b = _two(axes, seen.scores.shape[1])
    points(ax, seen.scores[:, a], seen.scores[:, b], colour)
    ax.set_xlabel(_share(seen, a))
    ax.set_ylabel(_share(seen, b))
    _cross(ax)
    return ax


def biplot(
    fit: Fitted,
    ax: Axes | None = None,
    *,
    colour: Sequence[Any] | None = None,
    axes: Two = (1, 2),
    most: int = MOST_ARROWS,
) -> Axes:
    """The rows as points, and the columns with the longest loadings as arrows, on a scale of their own.

    A row far along an arrow has more of that column than its covariates and offset say. Needs two axes.

    Args:
        fit: a fitted `PLN`.
        ax: axes to draw on; None: those of a new figure.
        colour: (n,), as in `embedding`.
        axes: which two principal axes, counted from 1.
        most: arrows at most.

    Returns:
        The axes.

    Raises:
        InputError: the fit has no such axes.
    """
    seen = views.embedding(fit)
    a, b = _two(axes, seen.scores.shape[1])
    ax = embedding(fit, ax, colour=colour, axes=axes)
    loads = views.loadings(fit)[:, [a, b]]
    reach = np.abs(seen.scores[:, [a, b]]).max() / max(np.abs(loads).max(), np.finfo(float).tiny)
    tips = 0.9 * reach * loads
    limit = 1.15 * max(np.abs(seen.scores[:, [a, b]]).max(), np.abs(tips).max())
    ax.set_xlim(-limit, limit)
    ax.set_ylim(-limit, limit)
    arrows(ax, tips, fit.counts_.column_names, most)
    return ax


def correlation_circle(
    fit: Fitted, ax: Axes | None = None, *, axes: Two = (1, 2), most: int = MOST_ARROWS
) -> Axes:
    """Correlations of each column's latent residual with two axes.

    cor(Z_j - x'b_j, w_k) = C_jk / sqrt(Sigma_jj). Columns on the circle vary along these two axes alone, columns near
    the middle along others.

    Args:
        fit: a fitted `PLN`.
        ax: axes to draw on; None: those of a new figure.
        axes: which two principal axes, counted from 1.
        most: the longest, which are named arrows; the rest are points.

    Returns:
        The axes.

    Raises:
        InputError: the fit has no such axes.
    """
    ax = axes_of(ax, (5.6, 5.6))
    a, b = _two(axes, fit.components_.shape[1])
    tips = views.axis_correlations(fit)[:, [a, b]]
    turn = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(turn), np.sin(turn), color="#999999", lw=1)
    ax.plot(0.5 * np.cos(turn), 0.5 * np.sin(turn), color="#cccccc", lw=0.7)
    _cross(ax)
    ax.set_aspect("equal")
    ax.set_xlim(-1.25, 1.25)
    ax.set_ylim(-1.25, 1.25)
    rest = np.argsort(-np.hypot(*tips.T), kind="stable")[most:]
    ax.plot(*tips[rest].T, ".", color=BLUE, markersize=3, alpha=0.6)
    seen = views.embedding(fit)
    ax.set_xlabel("correlation with " + _share(seen, a))
    ax.set_ylabel("correlation with " + _share(seen, b))
    arrows(ax, tips, fit.counts_.column_names, most)
    return ax


def _two(axes: Two, k: int) -> Two:
    """The two axes, from 0, when there are such."""
    from poplin._errors import InputError

    if len(axes) != 2 or not all(isinstance(one, int) and 1 <= one <= k for one in axes):
        raise InputError(
            f"axes={axes!r}: wanted are two of the {k} axes of this fit, counted from 1, such as (1, 2)."
        )
    return axes[0] - 1, axes[1] - 1


def _share(seen: views.Embedding, k: int) -> str:
    return f"axis {k + 1} ({seen.share[k]:.0%} of the residual variance)"


def _cross(ax: Axes) -> None:
    ax.axhline(0, color="#cccccc", lw=0.7, zorder=0)
    ax.axvline(0, color="#cccccc", lw=0.7, zorder=0)
