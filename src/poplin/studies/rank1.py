"""One latent dimension: does the bound's bias vanish as p grows, and at which rate (the notes' Figure 2)?

Start at `STUDY`. Two models: a factor of rank one, and the repeated-measures model of the theory (`repeated.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from poplin.studies import columns as use
from poplin.studies import records as measures
from poplin.studies import repeated, study
from poplin.studies.figures import Axis, curves
from poplin.studies.records import PARTS, mean_with_error, side_by_side
from poplin.studies.study import Cell, Figure, Numbers, Study

BETA, VARIANCE = (0.0, 0.5), 0.5
PAIRS = {"factor": ("rank 1", "ml"), "repeated": ("one effect: bound", "one effect: ml")}


def cells(small: bool) -> list[Cell]:
    """Rank one: p from 5 to 160 at n = 250, 1000, 4000; repeated measures: p from 2 to 64 at three n."""
    if small:
        return [_factor(200, 6, 2), *(_repeated(200, p, 4) for p in (2, 8))]
    found = [_factor(n, p, 20) for n in (250, 1000, 4000) for p in (5, 10, 20, 40, 80, 160)]
    return found + [_repeated(n, p, 200) for n in (250, 1000, 4000) for p in (2, 4, 8, 16, 32, 64)]


def _factor(n: int, p: int, replicates: int) -> Cell:
    methods = (
        use.pln("full", {"method": "variational"}),
        use.low_rank("rank 1", 1, method="variational"),
        use.low_rank("ml", 1),
        use.MOMENTS,
    )
    drawn = study.drawn_from(study.one_factor(n, p))
    return Cell({"model": "factor", "n": n, "p": p}, drawn, methods, replicates)


def _repeated(n: int, p: int, replicates: int) -> Cell:
    methods = (
        repeated.column("one effect: bound", exact=False),
        repeated.column("one effect: ml", exact=True),
    )
    drawn = lambda random: repeated.draw(random, n=n, p=p, beta=BETA, variance=VARIANCE)
    return Cell({"model": "repeated", "n": n, "p": p}, drawn, methods, replicates)


def remarks(table: Any, records: list[Numbers]) -> str:
    """Slopes with their errors (bias against p at the largest n, standard deviation against n), and what is paired."""
    lines = ["Log-log slopes (± one standard error; the rate that is proved is n^-1/2 + p^-1):\n"]
    for (model, method), part in table.groupby(["model", "method"], sort=False):
        top = part[part["n"] == part["n"].max()]
        wide = part[part["p"] == part["p"].max()]
        if min(len(top), len(wide)) < 3:
            continue
        for name in PARTS:
            told = [
                f"rms bias of {name} against p at n={part['n'].max()}: {_slope_of(top, 'p', f'rms_bias_{name}')}"
            ]
            told.append(
                f"sd of {name} against n at p={part['p'].max()}: {_slope_of(wide, 'n', f'sd_{name}')}"
            )
            lines.append(f"- {model}, {method}: {'; '.join(told)}.")
    slopes = "\n".join(lines) + "\n" if len(lines) > 1 else ""
    return slopes + _beside_likelihood(table, records)


def _beside_likelihood(table: Any, records: list[Numbers]) -> str:
    """The bound's mean bias of Sigma less that of maximum likelihood on the same tables: most noise is in both."""
    tables = side_by_side(records, lambda record: float(np.mean(record["sigma_errors"])))
    lines = [
        "\nThe bound's mean of Sigma less that of maximum likelihood, paired by table, with its slope in p:\n"
    ]
    for model, pair in PAIRS.items():
        bound, exact = pair
        for n, part in table[(table["model"] == model) & (table["method"] == bound)].groupby("n"):
            cells = [f"model={model} n={n} p={p}" for p in part["p"]]
            gaps = [
                mean_with_error(
                    [found[bound] - found[exact] for found in tables[cell] if {*pair} <= set(found)]
                )
                for cell in cells
            ]
            told = ", ".join(f"{gap:+.5f} ± {error:.5f}" for gap, error in gaps)
            slope = _slope(part["p"].to_numpy(float), *np.abs(np.array(gaps)).T)
            lines.append(f"- {model}, n={n}, p={', '.join(map(str, part['p']))}: {told}; slope {slope}.")
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""


def _slope_of(part: Any, x: str, y: str) -> str:
    """The slope of a column of the table; five percent stand for an error that is not known."""
    up, errors = np.abs(part[y].to_numpy(float)), part.get(f"{y}_mc")
    return _slope(part[x].to_numpy(float), up, 0.05 * up if errors is None else errors.to_numpy(float))


def _slope(across: np.ndarray, up: np.ndarray, noise: np.ndarray) -> str:
    """Weighted least squares on logarithms; points whose size is below two of their errors say nothing."""
    clear = (up > 2 * noise) & (noise > 0)
    if clear.sum() < 3:
        return f"not told ({clear.sum()} of {len(up)} points are clear of their noise)"
    design = np.column_stack([np.ones(clear.sum()), np.log(across[clear])])
    weight = (up[clear] / noise[clear]) ** 2
    spread = np.linalg.inv(design.T @ (weight[:, None] * design))
    slope = (spread @ design.T @ (weight * np.log(up[clear])))[1]
    return f"{slope:.2f} ± {np.sqrt(spread[1, 1]):.2f} ({clear.sum()} points)"


WIDTH = Axis("p", "columns p", log=True)

STUDY = Study(
    name="rank1",
    title="Rank one: the bound's bias as p grows",
    question=(
        "With one latent dimension a row has two variational parameters, informed by p counts. Does its bias "
        "vanish as p grows, at the proved rate n^-1/2 + p^-1, and what do 2p parameters a row (`full`) do instead?"
    ),
    cells=cells,
    measures=(measures.errors,),
    shown=(
        *("bias_coef", "rms_bias_coef", "sd_coef", "bias_sigma", "rms_bias_sigma", "sd_sigma", "rmse_sigma"),
        *("bias_in_sd_coef", "bias_in_sd_sigma", "cpu_s"),
    ),
    figures=(
        Figure(
            "coef",
            "Size of the mean bias of B against p, rank-one factor (the notes' Figure 2).",
            curves(WIDTH, Axis("bias_coef", "|bias of B|", log=True), panels="n", where={"model": "factor"}),
        ),
        Figure(
            "sigma",
            "Size of the mean bias of Sigma against p, rank-one factor.",
            curves(
                WIDTH, Axis("bias_sigma", "|bias of Sigma|", log=True), panels="n", where={"model": "factor"}
            ),
        ),
        Figure(
            "repeated",
            "Size of the bias of sigma^2 against p, repeated measures.",
            curves(
                WIDTH,
                Axis("bias_sigma", "|bias of sigma^2|", log=True),
                panels="n",
                where={"model": "repeated"},
            ),
        ),
    ),
    remarks=remarks,
)
