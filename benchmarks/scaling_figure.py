"""The figure of `benchmarks.scaling`: seconds (above), peak memory (below) against each axis. Start at `draw_axes`."""

from __future__ import annotations

from pathlib import Path

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#666666")
NAMES = {"n": "rows n", "p": "columns p", "q": "rank q", "mean": "share of zeros"}
Curve = list[tuple[float, float, float]]  # size, seconds to the stop, peak MiB


def draw_axes(curves: dict[str, dict[str, Curve]], path: Path) -> None:
    """Write the figure from the curves of each axis and contender."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6), layout="constrained")
    panels = figure.subplots(2, len(NAMES), sharey="row")
    for column, axis in zip(panels.T, NAMES, strict=True):
        for colour, (name, curve) in zip(COLOURS, curves[axis].items(), strict=True):
            across, seconds, memory = zip(*curve, strict=True) if curve else ((), (), ())
            for panel, measured in zip(column, (seconds, memory), strict=True):
                panel.plot(across, measured, "o-", color=colour, label=name, ms=4)
        for panel in column:
            panel.set_yscale("log")
            panel.set_xscale("linear" if axis == "mean" else "log")
            panel.grid(alpha=0.3)
        column[1].set_xlabel(NAMES[axis])
    panels[0, 0].set_ylabel("seconds to the stop")
    panels[1, 0].set_ylabel("peak memory (MiB)")
    panels[0, 0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)
