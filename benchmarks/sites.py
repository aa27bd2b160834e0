"""`python -m benchmarks.sites`: what several sites gain from common axes, and whether odd ones are found.

Parts: `designs` (each alone, one round, refitted at home, two rounds, the joint maximum), `coverage` (of intervals
after two rounds, on more tables), `odd` (sites with axes of their own, exchanged codes), `lacking` (sites without some
codes), `remainder`, `rare` (rare codes). One line a table and way in `sites.csv`, finished ones are kept; the page is
`sites.md`. 30 codes, 6 axes, levels 0; four sites of 300, 700, 1500 and 3000 rows; in design 1 the largest site's
scales tie.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

import poplin
from benchmarks import records, report
from benchmarks.measure import REPOSITORY, facts
from poplin._numerics import hurried

# fmt: off
COLUMNS = (
    "part", "table", "way", "seed", "frobenius", "axes", "heldout", "heldout_error", "scales_covered", "scales",
    "by_site", "coef_covered", "coefs", "statistic", "df", "p", "found", "false", "kilobytes", "loglik", "gain",
    "seconds", "commit", "date", "cpu", "cores", "python",
)
# fmt: on
KEY = ("part", "table", "way", "seed")
CODES, RANK = 30, 6
ROWS = (300, 700, 1500, 3000)
NAMES = ("a", "b", "c", "d")
SCALES = (9.0, 6.5, 4.5, 3.2, 2.3, 1.6)
TIED = (7.1, 3.3, 3.2, 3.3, 5.4, 2.9)
FRESH = 1000
DEGREES, EXCHANGED = 5.0, 3
Line = dict[str, Any]


class Drawn(NamedTuple):
    """V (p, q), the sites' variances along it (K, q), counts by site, and new rows of the first."""

    basis: NDArray[np.float64]
    scales: NDArray[np.float64]
    counts: dict[str, NDArray[np.int64]]
    fresh: NDArray[np.int64]


def main(arguments: list[str] | None = None) -> None:
    """Fit what is missing, then write the page."""
    chosen = parse(arguments)
    out = chosen.out / "sites.csv"
    lines = records.read(out)
    done = {(line["part"], line["table"], str(line["seed"])) for line in lines}
    for seed in range(chosen.first, chosen.count):
        for part in chosen.parts:
            for table in PARTS[part][0]:
                if (part, table, str(seed)) in done:
                    continue
                with warnings.catch_warnings(), hurried(tells_all=False):
                    warnings.simplefilter("ignore")
                    for told in PARTS[part][1](table, seed):
                        lines.append({"part": part, "table": table, "seed": seed} | told | facts())
                        print({name: lines[-1].get(name) for name in COLUMNS[:21]}, flush=True)
                records.write(out, lines, COLUMNS)
    page = chosen.out / "sites.md"
    page.write_text(markdown(lines))
    print(f"written: {out}, {page}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sites", description=__doc__)
    split = lambda text: text.split(",") if text else []
    parser.add_argument("--parts", type=split, default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--first", type=int, default=0, help="seed of the first table")
    parser.add_argument("--count", type=int, default=20, help="tables of a kind")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    return parser.parse_args(arguments)


# Tables.


def drawn(table: str, seed: int, *, level: float = 0.0, rows: tuple[int, ...] = ROWS) -> Drawn:
    """A design: V uniform, scales times factors from 1/3 to 3, in design 1 those of the largest site nearly tied."""
    random = np.random.default_rng([seed, sum(map(ord, table))])
    basis = np.linalg.qr(random.standard_normal((CODES, RANK)))[0]
    scales = np.array(SCALES) * np.exp(random.uniform(-np.log(3), np.log(3), (len(rows), RANK)))
    if table == "design 1":
        scales[-1] = TIED
    counts = {
        name: counted(random, basis, scale, n, level)
        for name, scale, n in zip(NAMES, scales, rows, strict=False)
    }
    return Drawn(basis, scales, counts, counted(random, basis, scales[0], FRESH, level))


def counted(
    random: np.random.Generator, basis: NDArray[Any], scale: NDArray[Any], n: int, level: float = 0.0
) -> NDArray[np.int64]:
    """Counts of n rows."""
    latent = random.standard_normal((n, len(scale))) * np.sqrt(scale)
    return random.poisson(np.exp(np.minimum(level + latent @ basis.T, 25.0)))


def errors(covariances: list[NDArray[Any]], data: Drawn) -> str:
    """Relative Frobenius errors of the sites' Sigma_k."""
    truths = [data.basis * scale @ data.basis.T for scale in data.scales]
    found = (np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(covariances, truths, strict=True))
    return " ".join(f"{error:.4f}" for error in found)


def angle(basis: NDArray[Any], data: Drawn) -> float:
    """Mean angle between axes and the truth's, paired as well as can be, degrees."""
    near = np.abs(data.basis.T @ basis)
    pairs = linear_sum_assignment(-near)
    return float(np.rad2deg(np.arccos(np.clip(near[pairs], -1, 1))).mean())


def heldout(fit: poplin.PLN, data: Drawn) -> NDArray[np.float64]:
    """Of the first site's new rows, nats."""
    return np.asarray(fit.score_samples(data.fresh))


# One table: all ways.


def alone(counts: NDArray[Any], seed: int, rank: int = RANK) -> poplin.PLN:
    """A site by itself, as `poplin site` fits it."""
    return poplin.PLN(rank=rank, random_state=seed, tol=0.1).fit(counts, standard_errors=False)


def plan_of(common: str = "axes", remainder: int = 0) -> poplin.SitePlan:
    """The sites' plan; no code is too rare here."""
    codes, nobody = tuple(f"Y{j + 1}" for j in range(CODES)), {"patients_a_number": 0, "most_share": 1.0}
    return poplin.SitePlan(codes, RANK, min_patients=1, common=common, remainder=remainder, **nobody)


def designs(table: str, seed: int) -> Iterator[Line]:
    """Alone, V of the largest site, one round, refitted, two rounds, three, and on to the joint maximum."""
    data, plan, began = drawn(table, seed), plan_of(), time.perf_counter()
    fits = {name: alone(counts, seed) for name, counts in data.counts.items()}
    scores: dict[str, NDArray[np.float64]] = {"alone": heldout(fits["a"], data)}
    told: dict[str, Line] = {"alone": {"frobenius": errors([fit.covariance_ for fit in fits.values()], data)}}
    largest = fits["d"].components_
    lent = {name: poplin.PLN(basis=largest).fit(counts) for name, counts in data.counts.items()}
    scores["V of the largest"] = heldout(lent["a"], data)
    covariances = [fit.covariance_ for fit in lent.values()]
    told["V of the largest"] = {"frobenius": errors(covariances, data), "axes": angle(largest, data)}
    joint = poplin.CommonBasis(RANK, random_state=seed)
    summaries = [fit.site_summary(plan, name=name) for name, fit in fits.items()]
    told["alone"]["kilobytes"] = kilobytes(summaries[0])
    joint.fit(summaries)
    told["one round"] = of_joint(joint, data)
    for way in ("two rounds", "three rounds", "joint maximum"):
        basis, refitted = joint.basis_, next_round(joint, fits, plan)
        if way == "two rounds":
            covariances = [fit.covariance_ for fit in refitted.values()]
            told["one round, refitted"] = {"frobenius": errors(covariances, data), "axes": angle(basis, data)}
            scores["one round, refitted"] = heldout(refitted["a"], data)
        told[way] = of_joint(joint, data)
        scores[way] = heldout(joint.point("a").refitted(fits["a"]), data)
    for way, line in told.items():
        if way in scores:
            gap = scores[way] - scores["joint maximum"]
            line |= {"heldout": gap.mean(), "heldout_error": gap.std(ddof=1) / np.sqrt(len(gap))}
        yield {"way": way, "seconds": round(time.perf_counter() - began, 1)} | line
    yield from of_sites(joint)


def next_round(
    joint: poplin.CommonBasis, fits: dict[str, poplin.PLN], plan: poplin.SitePlan
) -> dict[str, poplin.PLN]:
    """One round more: every site refitted under the joint axes, as is returned, and asked again."""
    refitted = {name: joint.point(name).refitted(fit) for name, fit in fits.items()}
    k = joint.rounds_ + 1
    joint.update([fit.site_summary(plan, name=name, round=k) for name, fit in refitted.items()])
    return refitted


def of_sites(joint: poplin.CommonBasis, before: str = "") -> Iterator[Line]:
    """The test of every site, a line each."""
    for name, row in joint.test_sites().iterrows():
        yield {"way": f"{before}fits in: {name}"} | {x: row[x] for x in ("statistic", "df", "p")}


def coverage(table: str, seed: int) -> Iterator[Line]:
    """Two rounds: errors, intervals that hold the truth, tests of sites that all fit in."""
    data, plan = drawn(table, 5000 + seed), plan_of()
    fits = {name: alone(counts, seed) for name, counts in data.counts.items()}
    joint = poplin.CommonBasis(RANK).fit([fit.site_summary(plan, name=name) for name, fit in fits.items()])
    yield {"way": "one round"} | of_joint(joint, data)
    next_round(joint, fits, plan)
    yield {"way": "two rounds"} | of_joint(joint, data)
    yield from of_sites(joint)


def of_joint(joint: poplin.CommonBasis, data: Drawn) -> Line:
    """Errors of a joint point, and how many of its intervals hold the truth."""
    near = np.abs(data.basis.T @ joint.basis_)
    _, order = linear_sum_assignment(-near)
    scales, coef = joint.confint("scales"), joint.confint("coef")
    truth = np.empty_like(data.scales)
    truth[:, order] = data.scales
    ends = (scales["lower"].to_numpy() <= truth.ravel()) & (truth.ravel() <= scales["upper"].to_numpy())
    by_site = " ".join(map(str, ends.reshape(truth.shape).sum(axis=1)))
    return {
        "frobenius": errors(list(joint.covariance_.values()), data),
        **{"axes": angle(joint.basis_, data), "loglik": joint.loglik_, "gain": joint.gain_},
        **{"scales_covered": int(ends.sum()), "scales": ends.size, "by_site": by_site},
        "coef_covered": int(((coef["lower"] <= 0) & (0 <= coef["upper"])).sum()),
        "coefs": len(coef),
    }


def kilobytes(summary: poplin.SiteSummary) -> float:
    """Size of the file that leaves."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        summary.save(Path(folder) / "site.json")
        return round((Path(folder) / "site.json").stat().st_size / 1000, 1)


def odd(table: str, seed: int) -> Iterator[Line]:
    """Site b, of 700 rows, with all axes turned by 5 degrees, or three codes exchanged; in round 1 and 2.

    The codes that round 1 names go their own way at b in another round 2.
    """
    data, plan = drawn("design 2", 1000 + seed), plan_of()
    random = np.random.default_rng([seed, 7])
    if table == "turned":
        others = random.standard_normal((CODES, RANK))
        away = np.linalg.qr(others - data.basis @ (data.basis.T @ others))[0]
        basis = np.cos(np.deg2rad(DEGREES)) * data.basis + np.sin(np.deg2rad(DEGREES)) * away
        moved = np.zeros(0, int)
    else:
        moved, basis = random.choice(CODES, EXCHANGED, replace=False), data.basis.copy()
        basis[moved] = basis[np.roll(moved, 1)]
    counts = data.counts | {"b": counted(random, basis, data.scales[1], ROWS[1])}
    fits = {name: alone(y, seed) for name, y in counts.items()}
    summaries = [fit.site_summary(plan, name=name) for name, fit in fits.items()]
    joint = poplin.CommonBasis(RANK).fit(summaries)
    yield {"way": "round 1", "axes": angle(joint.basis_, data)} | of_odd(joint, moved)
    codes = joint.test_codes("b")
    chosen = [str(code) for code in codes.index[codes["step"] > 0]]
    ways = {"round 2": joint}
    if table == "exchanged" and chosen:
        ways["round 2, those of round 1 free"] = poplin.CommonBasis(RANK, free={"b": chosen}).fit(summaries)
    for way, found in ways.items():
        next_round(found, fits, plan)
        yield {"way": way, "axes": angle(found.basis_, data)} | of_odd(found, moved)


def of_odd(joint: poplin.CommonBasis, moved: NDArray[np.int64]) -> Line:
    """The test of site b, and the codes that are found there."""
    test, codes = joint.test_sites().loc["b"], joint.test_codes("b")
    chosen = {str(code) for code in codes.index[codes["step"] > 0]}
    truth = {f"Y{j + 1}" for j in moved}
    return {
        **{name: test[name] for name in ("statistic", "df", "p")},
        **{"found": len(chosen & truth), "false": len(chosen - truth)},
    }


def lacking(table: str, seed: int) -> Iterator[Line]:
    """Sites b and d lack 8 and 4 codes: the axes from all sites, and from the complete ones alone."""
    data, random = drawn("design 2", 2000 + seed), np.random.default_rng([seed, 8])
    plan = plan_of()
    codes = np.array(plan.codes)
    gone = {"b": random.choice(CODES, 8, replace=False), "d": random.choice(CODES, 4, replace=False)}
    told = []
    for name, counts in data.counts.items():
        kept = np.setdiff1d(np.arange(CODES), gone.get(name, []))
        told.append(alone(framed(counts[:, kept], codes[kept]), seed).site_summary(plan, name=name))
    for way, chosen in (("all", told), ("complete alone", [site for site in told if site.name not in gone])):
        yield {"way": way, "axes": angle(poplin.CommonBasis(RANK).fit(chosen).basis_, data)}


def framed(counts: NDArray[Any], names: NDArray[Any]) -> Any:
    """Counts with the names of their columns."""
    import pandas

    return pandas.DataFrame(counts, columns=names)


def remainder(table: str, seed: int) -> Iterator[Line]:
    """Every site has two axes of its own beside the common ones: modelled, and ignored."""
    data, random = drawn("design 2", 3000 + seed), np.random.default_rng([seed, 9])
    told: dict[int, list[poplin.SiteSummary]] = {0: [], 2: []}
    for name, scale, n in zip(NAMES, data.scales, ROWS, strict=True):
        others = random.standard_normal((CODES, 2))
        own = np.linalg.qr(others - data.basis @ (data.basis.T @ others))[0]
        latent = random.standard_normal((n, RANK)) * np.sqrt(scale) @ data.basis.T
        latent = latent + random.standard_normal((n, 2)) * np.sqrt(random.uniform(2, 6, 2)) @ own.T
        counts = random.poisson(np.exp(np.minimum(latent, 25.0)))
        for r in told:
            told[r].append(alone(counts, seed, RANK + r).site_summary(plan_of(remainder=r), name=name))
    for r, way in ((2, "modelled"), (0, "ignored")):
        yield {"way": way, "axes": angle(poplin.CommonBasis(RANK, remainder=r).fit(told[r]).basis_, data)}


def rare(table: str, seed: int) -> Iterator[Line]:
    """Mean counts of e^-2 at sites of 600 to 3000 rows: estimates and tests, in round 1 and 2."""
    data, plan = drawn("rare", 4000 + seed, level=-2.0, rows=(600, 1000, 1500, 3000)), plan_of()
    fits = {name: alone(counts, seed) for name, counts in data.counts.items()}
    yield {"way": "alone", "frobenius": errors([fit.covariance_ for fit in fits.values()], data)}
    joint = poplin.CommonBasis(RANK).fit([fit.site_summary(plan, name=name) for name, fit in fits.items()])
    for k in (1, 2, 3):
        told = {
            "frobenius": errors(list(joint.covariance_.values()), data),
            "loglik": joint.joint_.at_sites(),
        }
        yield {"way": f"round {k}", "axes": angle(joint.basis_, data), "gain": joint.gain_} | told
        yield from of_sites(joint, f"round {k} ")
        next_round(joint, fits, plan)


PARTS: dict[str, tuple[tuple[str, ...], Any]] = {
    "designs": (("design 1", "design 2"), designs),
    "coverage": (("design 1", "design 2"), coverage),
    "odd": (("turned", "exchanged"), odd),
    "lacking": (("lacking",), lacking),
    "remainder": (("remainder",), remainder),
    "rare": (("rare",), rare),
}


# The page.


def markdown(lines: list[Line]) -> str:
    """The page."""
    where = lines[-1] if lines else {}
    facts_ = "; ".join(f"{name} {where.get(name)}" for name in ("date", "cpu", "cores", "python"))
    commits = ", ".join(sorted({str(line["commit"]) for line in lines}))
    parts = [
        "# Several sites, one set of axes",
        "Made by `python -m benchmarks.sites`: four sites of 300, 700, 1500 and 3000 rows, 30 codes, 6 axes.",
        f"{facts_}; commits {commits}",
    ]
    for part in ("designs", "coverage"):
        for table in PARTS[part][0]:
            title = f"{table.capitalize()}{', intervals' if part == 'coverage' else ''}"
            parts += of_design(
                title, [line for line in lines if (line["part"], line["table"]) == (part, table)]
            )
    parts += of_tests(lines)
    return "\n\n".join(parts) + "\n"


def of_design(title: str, lines: list[Line]) -> list[str]:
    """A line a way: errors by site, axes, held out, coverage."""
    if not lines:
        return []
    rows = []
    for way in dict.fromkeys(str(line["way"]) for line in lines if "fits in" not in str(line["way"])):
        those = [line for line in lines if line["way"] == way]
        frobenius = np.array([[float(a) for a in str(line["frobenius"]).split()] for line in those])
        held = [line["heldout"] for line in those if line.get("heldout") is not None]
        axes = [line["axes"] for line in those if line["axes"] is not None]
        rows.append(
            (
                way,
                " / ".join(f"{a:.4f}" for a in frobenius.mean(axis=0)),
                spread(axes, 1),
                spread(held, 4),
                share(those, "scales_covered", "scales"),
                by_site(those),
                share(those, "coef_covered", "coefs"),
            )
        )
    count = len({line["seed"] for line in lines})
    header = ("way", "Sigma_k, relative Frobenius", "axes, degrees", "held out at n = 300, nats a row less the joint",
              "scales covered, %", "by site", "B covered, %")  # fmt: skip
    return [f"## {title}, {count} tables", report.table(header, rows)]


def spread(values: list[float], digits: int) -> str:
    """Mean and its standard error."""
    if not values:
        return ""
    error = f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{error}"


def share(lines: list[Line], hits: str, every: str) -> str:
    """Share of intervals that hold the truth, over tables."""
    shares = [100 * line[hits] / line[every] for line in lines if line[hits] is not None]
    return spread(shares, 1)


def by_site(lines: list[Line]) -> str:
    """Share of the intervals of scales that hold the truth, site by site, over the tables that say so."""
    told = [[int(a) for a in str(line["by_site"]).split()] for line in lines if line.get("by_site")]
    return " / ".join(f"{a:.1f}" for a in 100 * np.mean(told, axis=0) / RANK) if told else ""


def of_tests(lines: list[Line]) -> list[str]:
    """Sizes, powers, exchanged codes, lacking codes, remainders, rare codes."""
    told = []
    for part, at in (("designs", "at the joint maximum"), ("coverage", "after two rounds")):
        size = [line["p"] for line in lines if line["part"] == part and "fits in" in str(line["way"])]
        if size:
            told.append(f"Sites that fit in, {at}: {below(size)} tests below 0.05.")
    freed = "round 2, those of round 1 free"
    for way in ("round 1", "round 2", freed):
        turned = [line["p"] for line in lines if line["table"] == "turned" and line["way"] == way]
        if turned:
            told.append(f"A site with axes {DEGREES:g} degrees away, {way}: {below(turned)} found.")
        those = [line for line in lines if line["table"] == "exchanged" and line["way"] == way]
        if those:
            every = sum(line["found"] == EXCHANGED for line in those)
            false = spread([line["false"] for line in those], 2)
            found = "" if way == freed else f"all found in {every} of {len(those)} tables, "
            axes = [line["axes"] for line in those if line["axes"] is not None]
            off = f"; axes {spread(axes, 1)} degrees off" if axes else ""
            told.append(f"Three exchanged codes, {way}: {found}{false} false a table{off}.")
    for part in ("lacking", "remainder"):
        for way in dict.fromkeys(str(line["way"]) for line in lines if line["part"] == part):
            axes = [line["axes"] for line in lines if line["part"] == part and line["way"] == way]
            told.append(
                f"{part.capitalize()}, {way}: axes {spread(axes, 1)} degrees off, {len(axes)} tables."
            )
    for way in dict.fromkeys(str(line["way"]) for line in lines if line["part"] == "rare"):
        those = [line for line in lines if line["part"] == "rare" and line["way"] == way]
        if "fits in" in way:
            statistic = spread([line["statistic"] for line in those], 0)
            known = [line["p"] for line in those if line["p"] is not None and line["p"] == line["p"]]
            found = f"{below(known)} below 0.05" if known else "p withheld"
            told.append(
                f"Rare codes, {way}: statistic {statistic} on {spread([line['df'] for line in those], 0)}, {found}."
            )
        else:
            first = spread([float(str(line["frobenius"]).split()[0]) for line in those], 3)
            told.append(f"Rare codes, {way}: Sigma of the site of 600 rows {first} off, {len(those)} tables.")
    return ["## Who fits in", *(f"- {line}" for line in told)] if told else []


def below(values: list[float]) -> str:
    """How many p-values are below 0.05. A share's own error is nothing where it is 0 or 1, so counts are told."""
    return f"{sum(value < 0.05 for value in values)} of {len(values)}"


if __name__ == "__main__":
    main()
