"""What the numbers have to reach, and whether they do: one `Verdict` a claim, from finished lines alone.

Bounds count as reached within 1e-6 of the recorded value, relative (recorded values hold two decimals: not
within less than half a unit of the last); the same tolerance holds for the time at which a trace reaches the
best peer's value. That peer's seconds are those of the same run where it is pyPLNmodels, else the CPU seconds
that were recorded for it on another day (marked "recorded").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.records import Line

TOLERANCE = 1e-6
ROUNDING = 0.005
# How many times faster than the best peer, by (design, form).
SPEED = {
    ("scenario1", "full"): 20.0,
    ("lowrank_10k", "full"): 3.0,
    ("scRNA", "full"): 3.0,
    ("lowrank_10k", "low rank"): 20.0,
    ("scRNA", "low rank"): 20.0,
}
SPEED_LOW_RANK = 10.0  # elsewhere, when the peer needs more than a second
PEERS = {
    "pyPLNmodels": "pyPLNmodels",
    "pyPLNmodels (maxiter=4000,tol=1e-30)": "pyPLNmodels-long",
}


class Verdict(NamedTuple):
    """A claim about one line: what was measured, what is wanted, whether it is met (None: not measured)."""

    design: str
    model: str
    claim: str
    measured: str
    wanted: str
    met: bool | None


def slack(value: float) -> float:
    """How far below a recorded bound still counts as reaching it, in nats."""
    return max(TOLERANCE * abs(value), ROUNDING)


def verdicts(lines: list[Line]) -> list[Verdict]:
    """Every claim that these lines can decide."""
    done = [line for line in lines if line["status"] == "done"]
    return [*bounds(done), *speeds(done), *truths(done)]


def bounds(lines: list[Line]) -> Iterator[Verdict]:
    """The variational bound, of the best start that was tried, is at or above the best known value."""
    for line in _by("poplin-variational", lines):
        starts = [other for other in _by("poplin-variational-starts", lines) if _name(other) == _name(line)]
        best = max([line, *starts], key=lambda tried: tried["bound"])
        if best["gap"] is not None:
            met = best["bound"] >= best["best"] - slack(best["best"])
            told = "" if best is line else f" ({best['options']})"
            claim = f"bound against the best known, relative{told}"
            yield Verdict(*_name(line), claim, f"{best['gap']:+.1e}", ">= -1e-6", met)


def speeds(lines: list[Line]) -> Iterator[Verdict]:
    """The best peer's bound is reached in a fraction of that peer's time."""
    for line in _by("poplin-variational", lines):
        peer, source = peer_seconds(line, lines)
        wanted = _wanted_speed(line, peer)
        if wanted is None or peer is None:
            continue
        claim = f"times faster to the best peer's bound ({source})"
        reached = line["seconds_to_peer"]
        if reached is None:
            yield Verdict(*_name(line), claim, "bound not reached", f">= {wanted:g}", False)
        else:
            ratio = peer / max(reached, 1e-9)
            yield Verdict(*_name(line), claim, f"{ratio:.1f}", f">= {wanted:g}", ratio >= wanted)


def peer_seconds(line: Line, lines: list[Line]) -> tuple[float | None, str]:
    """Seconds of the peer that holds the best peer's value, and where they come from."""
    by = line["best_peer_by"]
    if by is None:
        return None, ""
    for other in _by(PEERS.get(by, ""), lines):
        same = all(other[name] == line[name] for name in ("design", "model", "threads", "cpu", "cores"))
        if same and other["status"] == "done":
            return other["wall_s"], f"{by}, wall, same run"
    return line["best_peer_cpu_s"], f"{by}, CPU, recorded"


def _wanted_speed(line: Line, peer: float | None) -> float | None:
    form = "full" if line["model"] == "PLN full" else "low rank"
    if form == "low rank" and peer is not None and peer > 1.0:
        return SPEED.get((line["design"], form), SPEED_LOW_RANK)
    return SPEED.get((line["design"], form))


def truths(lines: list[Line]) -> Iterator[Verdict]:
    """Maximum likelihood is near the truth, and on scenario1 no slower than the peer's variational fit."""
    for line in _by("poplin-ml", lines):
        name = _name(line)
        if name == ("scenario1", "PLN full"):
            yield _within(name, "mean lag-1 covariance", line["lag1"], 0.78, 0.82)
            yield _within(name, "relative Frobenius error of Sigma", line["frobenius"], 0.0, 0.11)
            for peer in _by("pyPLNmodels", lines):
                if _name(peer) == name and peer["threads"] == line["threads"]:
                    yield _within(
                        name, "seconds (the peer's variational fit)", line["wall_s"], 0.0, peer["wall_s"]
                    )
        elif name == ("scenario2", "PCA q=12"):
            yield _within(name, "relative Frobenius error of CC'", line["frobenius"], 0.0, 0.075)
        elif name == ("lowrank_10k", "PCA q=10"):
            yield _within(name, "relative Frobenius error of CC'", line["frobenius"], 0.0, 0.104)
            yield _within(name, "mean of B (truth 0)", line["coef_error"], -0.002, 0.002)


def _within(name: tuple[str, str], claim: str, value: float | None, low: float, high: float) -> Verdict:
    if value is None:
        return Verdict(*name, f"ml: {claim}", "not measured", f"{low:.4g} to {high:.4g}", None)
    return Verdict(*name, f"ml: {claim}", f"{value:.4g}", f"{low:.4g} to {high:.4g}", low <= value <= high)


def _by(contender: str, lines: list[Line]) -> list[Line]:
    return [line for line in lines if line["contender"] == contender]


def _name(line: Line) -> tuple[str, str]:
    return line["design"], line["model"]
