"""Figures with matplotlib: each takes a fit and, if wanted, axes to draw on, and returns the axes.

Start at `embedding`, `heat_map` or `trace`. Nothing is shown or saved; that is the caller's choice:
`poplin.report.plots.embedding(fit).figure.savefig("rows.png")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from poplin.inference.summary import Fitted
from poplin.report import views

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED = 40  # above as many columns their names would overlap


def embedding(fit: Fitted, ax: Axes | None = None, *, colour: Sequence[Any] | None = None) -> Axes:
    """The rows as points on the first two principal axes (one axis: against the row's place in the table).

    `colour` (n,): numbers are drawn on a scale, anything else as groups with a legend.
    """
    ax = _axes(ax)
    seen = views.embedding(fit)
    two = seen.scores.shape[1] > 1
    first, second = (
        (seen.scores[:, 0], seen.scores[:, 1]) if two else (np.arange(len(seen.scores)), seen.scores[:, 0])
    )
    values = None if colour is None else np.asarray(colour)
    if values is None or values.dtype.kind in "biuf":
        points = ax.scatter(first, second, s=12, c=values)
        if values is not None:
            ax.get_figure(root=True).colorbar(points, ax=ax)  # type: ignore[union-attr]
    else:
        for name in dict.fromkeys(values.astype(str)):
            chosen = values.astype(str) == name
            ax.scatter(first[chosen], second[chosen], s=12, label=name)
        ax.legend(frameon=False)
    ax.set_xlabel(f"axis 1 ({seen.share[0]:.0%} of the residual variance)" if two else "row")
    ax.set_ylabel(f"axis {2 if two else 1} ({seen.share[1 if two else 0]:.0%})")
    return ax


def heat_map(fit: Fitted, ax: Axes | None = None, *, most: int = 300) -> Axes:
    """Residual correlations between columns, similar ones side by side; at most the `most` counted."""
    ax = _axes(ax)
    seen = views.heat_map(fit, most=most)
    picture = ax.imshow(seen.correlation, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    ax.get_figure(root=True).colorbar(picture, ax=ax, label="residual correlation")  # type: ignore[union-attr]
    ticks = range(len(seen.names)) if len(seen.names) <= LABELLED else []
    ax.set_xticks(ticks, [seen.names[j] for j in ticks], rotation=90, fontsize="small", parse_math=False)
    ax.set_yticks(ticks, [seen.names[j] for j in ticks], fontsize="small", parse_math=False)
    return ax


def trace(fit: Fitted, ax: Axes | None = None) -> Axes:
    """The objective of the last phase after each iteration; `views.trace` has the others."""
    ax = _axes(ax)
    for curve in views.trace(fit)[-1:]:
        ax.plot(curve.iteration, curve.objective)
        ax.set_ylabel(f"{curve.phase}: {curve.measure}")
    ax.set_xlabel("iteration")
    return ax


def selection(found: Any, ax: Axes | None = None) -> Axes:
    """Candidates of `poplin.select` against their free parameters, by the criterion that chose.

    Held-out log-likelihood (higher is better): nats below the best, with one standard error of the paired
    difference. AIC, BIC, ICL (lower is better): how far above the lowest. The chosen one is filled.
    """
    ax = _axes(ax)
    table, name = found.table.sort_values("parameters"), found.criterion
    held = name == "heldout"
    height = table["difference"] if held else table[name] - table[name].min()
    error = table["difference_se"] if held else None
    ax.errorbar(table["parameters"], height, yerr=error, marker="o", markerfacecolor="white", capsize=3)
    chosen = table["chosen"].to_numpy(dtype=bool)
    ax.plot(table["parameters"][chosen], height[chosen], "o", color=ax.lines[0].get_color(), zorder=3)
    for label, x, y in zip(table.index, table["parameters"], height, strict=True):
        ax.annotate(label, (x, y), (4, 6), textcoords="offset points", fontsize="small", parse_math=False)
    ax.set_xlabel("free parameters")
    words = "held-out log-likelihood, nats from the best" if held else f"{name.upper()} above the lowest"
    ax.set_ylabel(f"{words} ({found.direction})")
    return ax


def _axes(ax: Axes | None) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]
