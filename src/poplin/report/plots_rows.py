"""Pictures of the rows: where they lie, and which columns pull them there.

Start at `embedding`; `biplot` adds the columns, `correlation_circle` shows these alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from poplin.inference.summary import Fitted
from poplin.report import views
from poplin.report.drawing import BLUE, arrows, axes_of, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ARROWS = 14
Two = tuple[int, int]


def embedding(
    fit: Fitted, ax: Axes | None = None, *, colour: Sequence[Any] | None = None, axes: Two = (1, 2)
) -> Axes:
    """The rows as points on two principal axes (of a model with one axis: against the row's place in the table).

    `colour` (n,): numbers on a scale, anything else as groups with a legend; a Series brings its name. `axes`: which
    two, counted from 1.
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
    """The rows as points, and the `most` columns with the longest loadings as arrows, on a scale of their own.

    A row far along an arrow has more of that column than its covariates and offset say. Needs two axes.
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
    """Correlations of each column's latent residual with two axes: cor(Z_j - x'b_j, w_k) = C_jk / sqrt(Sigma_jj).

    Columns on the circle vary along these two axes alone, columns near the middle along others. The `most` longest are
    named arrows, the rest points.
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
