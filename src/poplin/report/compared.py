"""What a comparison of methods leaves behind: compare.csv, compare.md and one figure.

Start at `write`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from poplin.store import written_together

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

FORMATS = {
    "seconds": "{:.2f}",
    "iterations": "{:.0f}",
    "bound": "{:.2f}",
    "loglik": "{:.2f}",
    "loglik_se": "{:.2f}",
    "khat": "{:.2f}",
    "coef_difference": "{:.4f}",
    "covariance_difference": "{:.4f}",
}


def write(table: pandas.DataFrame, out: Path) -> list[Path]:
    """Write compare.csv, compare.md and compare.png into `out`, made if need be; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    with written_together(out) as draft:
        table.to_csv(draft / "compare.csv")
        (draft / "compare.md").write_text(markdown(table), encoding="utf-8")
        figure(table).savefig(draft / "compare.png", format="png", dpi=130)
    return [out / name for name in ("compare.csv", "compare.md", "compare.png")]


def markdown(table: pandas.DataFrame) -> str:
    """The table for people to read."""
    head = ["method", *table.columns]
    lines = [_line(head), _line(["---"] * len(head))]
    for label, row in table.iterrows():
        lines.append(_line([str(label), *(_told(name, row[name]) for name in table.columns)]))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _told(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value.replace("|", "/").replace("\n", " ")
    if value is None or value != value:
        return ""
    return FORMATS[name].format(value) if name in FORMATS else ("yes" if value else "no")


def figure(table: pandas.DataFrame) -> Figure:
    """Bound and log-likelihood below the best, seconds, and the distance of Sigma to the reference, by method."""
    from matplotlib.figure import Figure

    done = table[table["loglik"].notna()]
    places = np.arange(len(done))[::-1]
    drawn = Figure(figsize=(11, 1.6 + 0.35 * len(done)), layout="constrained")
    likely, time, apart = drawn.subplots(1, 3, sharey=True)
    best = float(done["loglik"].max())
    likely.errorbar(
        done["loglik"] - best, places, xerr=2 * done["loglik_se"], fmt="o", label="log-likelihood"
    )
    likely.plot(done["bound"] - best, places, "|", markersize=12, label="bound")
    likely.set_xlabel("nats, from the best log-likelihood")
    likely.legend(frameon=False, fontsize="small")
    likely.set_yticks(places, [str(label) for label in done.index], parse_math=False)
    time.plot(done["seconds"], places, "o")
    time.set_xscale("log")
    time.set_xlabel("seconds")
    apart.plot(done["covariance_difference"], places, "o")
    apart.set_xlabel("relative difference of Sigma")
    return drawn
