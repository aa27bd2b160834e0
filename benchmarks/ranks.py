"""`python -m benchmarks.ranks`: which rank do held-out likelihood and the deviances choose on a design of known rank?

Scenario 2 (Sigma = AR(1) cut to its first 12 eigenpairs), with V free and with the leading eigenvectors of the whole
AR(1) matrix given. Writes the tables, the choices and the seconds to `ranks.md`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import designs
from benchmarks.measure import REPOSITORY, facts

CRITERIA = ("heldout", "bic", "icl", "aic")


def main(arguments: list[str] | None = None) -> None:
    """Parse, select both ways, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=__doc__)
    parser.add_argument("--design", default="scenario2", help="a simulated design (default: scenario2)")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared", help="the shared folder")
    parser.add_argument(
        "--out", type=Path, default=REPOSITORY / "benchmarks" / "out", help="folder for ranks.md"
    )
    chosen = parser.parse_args(arguments)
    design = designs.load(chosen.design, chosen.shared)
    parts = [
        f"# Choice of rank: {chosen.design} (true rank {designs.LAWS[chosen.design].rank})",
        describe(facts()),
    ]
    for name, basis in (("V free", None), ("V given", eigenvectors(design.name))):
        parts += [f"## {name}", selected(design, basis)]
        print("\n\n".join(parts[-2:]), flush=True)
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / "ranks.md").write_text("\n\n".join(parts) + "\n")


def selected(design: designs.Design, basis: Any) -> str:
    """The table, the sentence and the wall time of a choice."""
    import poplin

    begun = time.perf_counter()
    found = poplin.select(
        design.counts, X=design.covariates, offset=design.offsets, basis=basis, criterion=CRITERIA
    )
    seconds = time.perf_counter() - begun
    lowest = {name: found.table[name].idxmin() for name in CRITERIA[1:]}
    others = ", ".join(f"{name.upper()} {label}" for name, label in lowest.items())
    return (
        f"```\n{found.summary()}\n```\n\nLowest: {others}. {seconds:.0f} s with compiling and the last fit."
    )


def eigenvectors(name: str) -> np.ndarray:
    """All eigenvectors of the AR(1) matrix, the leading ones first, (p, p)."""
    law = designs.LAWS[name]
    lags = np.abs(np.subtract.outer(np.arange(law.columns), np.arange(law.columns)))
    return np.ascontiguousarray(np.linalg.eigh(law.correlation**lags)[1][:, ::-1])


def describe(where: dict[str, Any]) -> str:
    """The machine and the commit, a line."""
    return "; ".join(f"{name} {value}" for name, value in where.items())


if __name__ == "__main__":
    main()
