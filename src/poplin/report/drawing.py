"""What the pictures share: axes to draw on, colours that everybody can tell apart, labels that do not overlap.

Start at `axes_of`. Groups have the colours of Okabe and Ito (2008) and others that stay apart from them, and, from the
eighth on, other marks; numbers go from dark blue to yellow (cividis), what has a sign from blue to orange.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
