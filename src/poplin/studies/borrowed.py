"""Borrowing the axes V of another site: what a wrong orientation costs, and when to stop borrowing.

Start at `STUDY`. V is rotated by a known angle, or estimated at site A from n_A rows; site B has the same axes and
other scales, and few rows. The likelihood ratio against a free C of the same rank tests the common orientation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import chi2

from poplin.studies import columns as use
from poplin.studies import records as measures
from poplin.studies import study
from poplin.studies.figures import Axis, curves
from poplin.studies.records import mean_with_error, side_by_side
from poplin.studies.study import Cell, Column, Estimate, Figure, Numbers, Study, Table

ANGLES = (0, 5, 10, 15, 20, 30, 45)
BEST = "true V"


def cells(small: bool) -> list[Cell]:
    """p=20, q=5, n_B = 100 and 1000: an angle each, and n_A = 100 to 3000 rows at site A."""
    if small:
        return [_angle(100, 6, 2, 20, 2), _site(100, 6, 2, 200, 2)]
    sizes = (100, 1000)
    found = [_angle(n, 20, 5, angle, 20) for n in sizes for angle in ANGLES]
    return found + [_site(n, 20, 5, n_a, 20) for n in sizes for n_a in (100, 300, 1000, 3000)]


def _laws(n: int, p: int, q: int, n_a: int) -> tuple[study.Law, study.Law]:
    """Site B and site A: the same axes; A's scales are those of AR1(0.8), B's are half way to their mean."""
    there = study.law(n_a, study.autoregressive(p, 0.8), rank=q)
    here = there._replace(rows=n, scales=0.5 * (there.scales + there.scales.mean()))
    return here, there


def turned(basis: np.ndarray, degrees: float) -> np.ndarray:
    """V cos(angle) + U sin(angle), U (p, q) orthonormal and orthogonal to V: every axis turned by the same angle."""
    p, q = basis.shape
    others = np.random.default_rng([p, q]).standard_normal((p, q))
    away = np.linalg.qr(others - basis @ (basis.T @ others))[0]
    angle = np.deg2rad(degrees)
    return np.cos(angle) * basis + np.sin(angle) * away


def _angle(n: int, p: int, q: int, degrees: float, replicates: int) -> Cell:
    here, _ = _laws(n, p, q, 0)

    def draw(random: np.random.Generator) -> Table:
        return study.table(here, random, fresh=1000)._replace(lent=turned(here.basis, degrees))

    factors = {"V": "turned", "n": n, "p": p, "q": q, "angle": degrees, "n_A": 0}
    return Cell(factors, draw, methods(q), replicates)


def _site(n: int, p: int, q: int, n_a: int, replicates: int) -> Cell:
    here, there = _laws(n, p, q, n_a)

    def draw(random: np.random.Generator) -> Table:
        return study.table(here, random, fresh=1000)._replace(elsewhere=study.table(there, random).counts)

    factors = {"V": "estimated", "n": n, "p": p, "q": q, "angle": 0, "n_A": n_a}
    return Cell(factors, draw, methods(q), replicates)


def methods(q: int) -> tuple[Column, ...]:
    """Borrow V; do not (rank q, or a free Sigma); the truth's axes as the best that borrowing can be."""
    return (
        Column("borrowed", lambda table, seed: _borrow(table, seed, q)),
        use.low_rank("free, same rank", q),
        use.pln("free", {}),
        use.borrowed(q)._replace(name=BEST),
    )


def _borrow(table: Table, seed: int, q: int) -> Estimate:
    """Fit under the lent V (learnt at site A if need be), and test it against a free C of the same rank.

    Twice the difference of the log-likelihoods has p q - q (q + 1) / 2 degrees of freedom if V is right and known.
    For a V that was estimated the test is too sharp, as V's own error is not in it.
    """
    basis = table.lent
    if basis is None:
        assert table.elsewhere is not None
        away = table._replace(counts=table.elsewhere, x=np.ones((len(table.elsewhere), 1)))
        basis = use.low_rank("A", q).fit(away, seed).fit.components_
    here = use.pln("B", {"basis": basis}).fit(table, seed)
    free = use.low_rank("free", q).fit(table, seed)
    ratio = 2 * (free.fit.loglik_ - here.fit.loglik_)
    p = len(basis)
    share = float(chi2.sf(ratio, p * q - q * (q + 1) // 2))
    apart = np.linalg.svd(table.basis.T @ basis, compute_uv=False)
    numbers = {
        "ratio": float(ratio),
        "rejected": float(share < 0.05),
        "widest_angle": float(np.rad2deg(np.arccos(np.clip(apart.min(), -1, 1)))),
    }
    return here._replace(numbers=(here.numbers or {}) | numbers)


def remarks(table: Any, records: list[Numbers]) -> str:
    """In how many tables borrowing did worse than the free fits on fresh rows, cell by cell."""
    lines = ["Held-out likelihood, borrowed less the better of the two free fits (nats a row; paired):\n"]
    for cell, tables in side_by_side(records, lambda record: record["heldout"]).items():
        pairs = [
            found["borrowed"] - max(found["free, same rank"], found["free"])
            for found in tables
            if {"borrowed", "free, same rank", "free"} <= set(found)
        ]
        if len(pairs) > 1:
            lines.append("- {}: {:+.4f} ± {:.4f}".format(cell, *mean_with_error(pairs)))
    return "\n".join(lines) + "\n"


ANGLE, AWAY = Axis("angle", "angle of V (degrees)"), Axis("n_A", "rows at site A", log=True)
FRESH = Axis("heldout_gap", "held-out gap to true V (nats a row)")

STUDY = Study(
    name="borrowed",
    title="A borrowed basis: from which angle on it hurts",
    question=(
        "V (p=20, q=5) is lent to site B, turned by a known angle or estimated at site A. How does the likelihood of "
        "1000 fresh rows fall with the angle, when is a free fit better, and does the likelihood-ratio test see it?"
    ),
    cells=cells,
    measures=(measures.errors, measures.heldout),
    shown=("heldout", "heldout_gap", "frobenius", "rmse_coef", "widest_angle", "rejected", "cpu_s"),
    figures=(
        Figure(
            "angle",
            "Held-out likelihood against the angle by which V is wrong (higher is better).",
            curves(ANGLE, FRESH, panels="n", where={"V": "turned"}),
        ),
        Figure(
            "rows",
            "Held-out likelihood against the rows that V was estimated from.",
            curves(AWAY, FRESH, panels="n", where={"V": "estimated"}),
        ),
        Figure(
            "test",
            "Share of tables in which the test of a common orientation rejects at 5 %.",
            curves(ANGLE, Axis("rejected", "share rejected"), panels="n", where={"V": "turned"}, truth=0.05),
        ),
    ),
    remarks=remarks,
    reference=BEST,
)
