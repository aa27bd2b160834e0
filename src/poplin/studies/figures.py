"""Figures of the studies with matplotlib: each maker returns a function (table, records) -> matplotlib figure.

Start at `curves` (a measure against a factor, a line a method) or `boxes` (cosine similarities); `scale_plot`
holds Lambda-hat against Lambda. Colours and marks of a method are the same in every figure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas

from poplin.studies.study import Numbers

Draw = Callable[[pandas.DataFrame, list[Numbers]], Any]
MARKS = "osD^vP*X<>"


class Axis(NamedTuple):
    """A column of the summary as an axis: its name, its words, is it logarithmic, which column is taken off it."""

    name: str
    words: str
    log: bool = False
    less: str = ""


def curves(
    x: Axis,
    y: Axis,
    *,
    panels: str | None = None,
    where: dict[str, Any] | None = None,
    lines: tuple[str, ...] = ("method",),
    truth: float | None = None,
) -> Draw:
    """Draw y against x with its Monte-Carlo error (two of them), a line a method, a panel each value of `panels`.

    `lines` are factors to draw a line each of instead.
    `where` keeps the lines with these factors (a value, or several); if none has them, all are drawn.
    """

    def draw(table: pandas.DataFrame, _: list[Numbers]) -> Any:
        chosen = _where(_only(table, y.name), where or {})
        groups = list(chosen.groupby(panels, sort=False)) if panels and len(chosen) else [("", chosen)]
        figure, axes = _frames(len(groups))
        styles = _styles(_names(table, lines))
        for ax, (value, part) in zip(axes, groups, strict=False):
            for name, line in part.groupby(np.array(_names(part, lines)), sort=False):
                _line(ax, line, x, y, styles[str(name)])
            if truth is not None:
                ax.axhline(truth, color="0.6", lw=0.8, zorder=0)
            _dress(ax, x, y, f"{panels} = {value}" if panels else "")
            _ticks(ax, sorted(set(part[x.name])))
        _legend(figure, axes)
        return figure

    return draw


def _where(table: pandas.DataFrame, factors: dict[str, Any]) -> pandas.DataFrame:
    chosen = table
    for name, value in factors.items():
        chosen = chosen.loc[chosen[name].isin(list(value) if isinstance(value, tuple) else [value])]
    return chosen if len(chosen) else table


def _only(table: pandas.DataFrame, measure: str) -> pandas.DataFrame:
    """The lines that have this measure."""
    return table.loc[table[measure].notna()] if measure in table else table.iloc[:0]


def _line(ax: Any, line: pandas.DataFrame, x: Axis, y: Axis, style: dict[str, Any]) -> None:
    line = line.sort_values(x.name)
    across, up = line[x.name].to_numpy(float), line[y.name].to_numpy(float)
    up = up - line[y.less].to_numpy(float) if y.less else up
    errors = f"{y.name}_mc"
    spread = np.nan_to_num(line[errors].to_numpy(float)) if errors in line else np.zeros(len(up))
    if y.log:
        up = np.abs(up)  # the size of a bias
        up, spread = np.where(up > 0, up, np.nan), np.minimum(2 * spread, 0.9 * up) / 2
    ax.errorbar(across, up, yerr=2 * spread, lw=1.2, ms=4.5, capsize=2, **style)


def boxes() -> Draw:
    """Cosine similarities of fitted and true rows: boxes from quartiles, whiskers from 5 % to 95 % of the rows."""

    def draw(table: pandas.DataFrame, _: list[Numbers]) -> Any:
        part = _only(table, "cosine")
        part = part.loc[part["method"] != "true Z"]
        stats = [
            {
                "label": row["method"],
                "whislo": row["cosine_05"],
                "q1": row["cosine_25"],
                "med": row["cosine_50"],
                "q3": row["cosine_75"],
                "whishi": row["cosine_95"],
            }
            for _, row in part.iterrows()
        ]
        figure, (ax,) = _frames(1, height=0.32 * max(len(stats), 4) + 1)
        if stats:
            ax.bxp(stats, showfliers=False, orientation="horizontal")
        ax.invert_yaxis()
        ax.set_xlabel("cosine similarity of a row's fitted and true Z")
        return figure

    return draw


def scale_plot(table: pandas.DataFrame, records: list[Numbers]) -> Any:
    """Lambda-hat (mean over replicates) against the true Lambda: a panel a method, marks by how many axes were lent."""
    held: dict[str, dict[str, list[Numbers]]] = {}
    for record in records:
        if record.get("scales"):
            kind, _, lent = record["method"].partition(" V ")
            held.setdefault(kind, {}).setdefault(lent, []).append(record)
    figure, axes = _frames(len(held))
    for ax, (kind, groups) in zip(axes, held.items(), strict=False):
        ends = []
        for mark, (lent, group) in zip(MARKS, groups.items(), strict=False):
            true = np.array(group[0]["true_scales"])
            found = np.mean([record["scales"] for record in group], axis=0)
            ax.plot(true[true > 0], found[true > 0], mark, ms=4, label=lent, mfc="none")
            ends += [true[true > 0].min(), true.max()]
        ax.plot([min(ends), max(ends)], [min(ends), max(ends)], color="0.6", lw=0.8, zorder=0)
        ax.set(xscale="log", yscale="log", title=kind, xlabel="true Lambda", ylabel="fitted Lambda")
        _few_ticks(ax)
    _legend(figure, axes)
    return figure


def _few_ticks(ax: Any) -> None:
    """Of a logarithmic axis 1, 2 and 5 times a power of ten, in plain numbers."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_locator(NullLocator())


def _frames(count: int, *, width: float = 4.2, height: float = 3.2, across: int = 3) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = max(1, min(count, 2 if count == 4 else across))
    rows = max(1, -(-count // columns))
    size = (max(width * columns, 5.5), height * rows + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = [figure.add_subplot(rows, columns, k + 1) for k in range(max(count, 1))]
    return figure, axes


def _names(table: pandas.DataFrame, factors: tuple[str, ...]) -> list[str]:
    """What each line of the summary is called in a legend."""
    if factors == ("method",):
        return [str(name) for name in table["method"]]
    return [", ".join(f"{name}={row[name]}" for name in factors) for row in table.to_dict("records")]


def _styles(names: list[str]) -> dict[str, dict[str, Any]]:
    return {
        name: {"label": name, "color": f"C{k % 10}", "marker": MARKS[k % len(MARKS)]}
        for k, name in enumerate(dict.fromkeys(names))
    }


def _dress(ax: Any, x: Axis, y: Axis, title: str) -> None:
    ax.set(xlabel=x.words, ylabel=y.words)
    ax.set_title(title, fontsize="medium")
    if x.log:
        ax.set_xscale("log")
    if y.log:
        ax.set_yscale("log")


def _ticks(ax: Any, values: list[Any]) -> None:
    """The values of a factor themselves, if they are few: a logarithmic axis would label what is between."""
    if len(values) <= 8:
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.minorticks_off()


def _legend(figure: Any, axes: list[Any]) -> None:
    held: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            held.setdefault(label, handle)
    if held:
        columns = 4 if figure.get_figwidth() > 8 else 2
        figure.legend(
            held.values(),
            held.keys(),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize="small",
        )
