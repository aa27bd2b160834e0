"""The figure of `benchmarks.scaling`: seconds (above), peak memory (below) against each axis. Start at `draw_axes`."""

from __future__ import annotations

from pathlib import Path

from benchmarks import scaling
from benchmarks.records import Line

COLOURS = dict(zip(scaling.RIVALS, ("#0072B2", "#D55E00", "#009E73", "#666666"), strict=True))
SHOWN = ("n", "p", "q", "mean")
NAMES = {"n": "rows n", "p": "columns p", "q": "rank q", "mean": "share of zeros"}


def draw_axes(lines: list[Line], path: Path) -> None:
    """Write the figure; runs that were stopped or did not converge are not drawn."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6), layout="constrained")
    panels = figure.subplots(2, len(SHOWN), sharey="row")
    for column, axis in zip(panels.T, SHOWN, strict=True):
        for name in scaling.RIVALS:
            found = [line for _, line in scaling.along(axis, name, lines) if line["status"] == "done"]
            field = {"mean": "zeros"}.get(axis, scaling.FIELDS[axis])
            across = [line[field] for line in found]
            for panel, measure in zip(column, ("wall_s", "peak_mib"), strict=True):
                panel.plot(
                    across, [line[measure] for line in found], "o-", color=COLOURS[name], label=name, ms=4
                )
        for panel in column:
            panel.set_yscale("log")
            panel.set_xscale("linear" if axis == "mean" else "log")
            panel.grid(alpha=0.3)
        column[1].set_xlabel(NAMES[axis])
    panels[0, 0].set_ylabel("seconds to the stop")
    panels[1, 0].set_ylabel("peak memory (MiB)")
    panels[0, 0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)
