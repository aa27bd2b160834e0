"""Pictures of the columns: what goes together, in how many dimensions, and what the covariates do.

Start at `heat_map`, `eigenvalues` or `coefficients`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from poplin._errors import InputError
from poplin.data.tables import listed
from poplin.inference import summary
from poplin.inference.summary import Fitted
from poplin.report import views
from poplin.report.drawing import BLUE, SIGNED, axes_of, colour_bar, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED = 40  # columns; above as many their names would overlap
MOST_AXES, MOST_EFFECTS = 30, 40


def heat_map(fit: Fitted, ax: Axes | None = None, *, which: str = "correlation", most: int = 300) -> Axes:
    """Residual correlations (or `which="covariance"`) between columns, clustered; at most the `most` counted.

    Orange above zero, purple below. The order is that of an average-linkage tree of 1 - correlation.
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

    The numbers above are the share of the residual variance that the axes up to that one hold.
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
    share = np.cumsum(fit.eigenvalues_) / (float(np.trace(fit.covariance_)) or 1.0)
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

    `covariate`: its name in `counts_.covariate_names` (by default the first that is no intercept). Of more than `most`
    columns those whose effect is largest against its error. Filled: an adjusted p-value (Benjamini and Hochberg over
    all columns) below 0.05.
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
        from poplin.inference.wald import adjusted

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
