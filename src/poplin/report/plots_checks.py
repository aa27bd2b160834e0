"""Pictures that say whether to trust a fit: counts seen and expected, residuals, its course, its likelihood.

Start at `rootogram` and `residuals` for the model, at `trace` and `khat` for the computation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from poplin._errors import InputError
from poplin.data.tables import listed
from poplin.inference.summary import LARGEST_KHAT, Fitted
from poplin.report import goodness, views
from poplin.report.drawing import BLUE, ORANGE, VERMILION, axes_of, short, within, without_overlap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BINS = 18  # of a rootogram, that have their name below
MOST_NAMED = 8  # rows whose k-hat is bad, the worst ones
GOOD_KHAT = 0.5  # Vehtari et al. (2024): below it all is well


def rootogram(fit: Fitted, ax: Axes | None = None, *, column: str | None = None) -> Axes:
    """Hanging rootogram: bars of the counts seen hang from what the fit expects, in square roots.

    A bar that ends above zero: fewer counts of that size than expected. The band is where 95 % of tables drawn from
    the fit end. Over all columns, or `column`.
    """
    if column is not None and column not in fit.counts_.column_names:
        raise InputError(f"column={column!r}: the fit has {listed(fit.counts_.column_names)}.")
    ax = axes_of(ax)
    seen = goodness.frequencies(fit, column)
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

    `against="normal"`: points on the line, within the 95 % band of a sample of that size (drawn pointwise, and for
    independent residuals; those of one row go together), say that the margins fit. `against="mean"`: no pattern.
    """
    if against not in ("normal", "mean"):
        raise InputError(f"against={against!r}: wanted is 'normal' or 'mean'.")
    ax = axes_of(ax)
    found = goodness.residuals(fit)
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
    """The objective after each iteration of one phase (the last one by default): a bound rises and ends flat.

    The first tenth rises by far more than the rest and is drawn only as far as it is in the frame of the rest.
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

    Asks the fit for its log-likelihood, where it has not been asked for before.
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

    Held-out log-likelihood (higher is better): nats below the best, with one standard error of the paired
    difference. AIC, BIC, ICL (lower is better): how far above the lowest. The chosen one is filled.
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
