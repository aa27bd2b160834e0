"""`python docs/oaks.py docs/figures/oaks.png`: the picture of the first page and of README.md.

A real table: bacteria and fungi on 116 oak leaves (Jakuschkin et al. 2016), which `poplin.datasets` fetches once. Start
at `drawn`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

import poplin


def main() -> None:
    """Fit the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the file of the picture")
    out = parser.parse_args().out
    fit = poplin.PLN(formula="~ tree", random_state=0).fit(
        poplin.datasets.fetch("oaks")
    )
    drawn(fit).savefig(out, dpi=110, metadata={"Software": None})


def drawn(fit: poplin.PLN) -> Figure:
    """What trees do to each taxon, and which taxa go together beyond that."""
    figure = Figure(figsize=(10.5, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    susceptible = next(
        name for name in fit.counts_.covariate_names if "susceptible" in name
    )
    poplin.plots.coefficients(fit, left, covariate=susceptible, most=20)
    left.set_xlabel(
        "effect of a tree susceptible to mildew\n(log scale, 95 % interval; the 20 surest of 114 taxa)"
    )
    left.set_title("Which taxa differ between trees", fontsize="medium")
    poplin.plots.heat_map(fit, right)
    right.set_xlabel("114 taxa")
    right.set_title("Which go together beyond that", fontsize="medium")
    return figure


if __name__ == "__main__":
    main()
