"""`python -m benchmarks.laws`: what the laws of the counts are worth, on drawn tables and on one with many zeros.

Parts: `right` (which law BIC names, and what zeros that are not there cost new rows), `coverage` (intervals of B, Sigma
and probabilities of zeros), `ratio` (the size of the likelihood-ratio test against Poisson), `bounds` (beside
PLNmodels'), `likelihoods` and `heldout` (microcosm's 30 commonest taxa, `~ 0 + site`, with its offset). One line
a fit in `laws.csv`, finished ones are kept; the page is `laws.md`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import poplin
from benchmarks import records, report
from benchmarks.heldout import paired
from benchmarks.measure import REPOSITORY, facts
from benchmarks.tables import folds
from poplin._numerics import hurried

# fmt: off
COLUMNS = (
    "part", "table", "model", "fold", "value", "error", "reference", "bound", "zero", "zero_most", "heldout",
    "coef_covered", "coef_intervals", "covariance_covered", "covariance_intervals", "zero_covered", "zero_intervals",
    "largest_covered", "largest_intervals", "p", "columns_below", "columns", "converged", "iterations", "seconds",
    "commit", "date", "cpu", "cores", "python",
)
# fmt: on
KEY = ("part", "table", "model", "fold")
LAWS = {
    "Poisson": "poisson",
    "ZIP": "zero-inflated-poisson",
    "NB": "negative-binomial",
    "ZINB": "zero-inflated-negative-binomial",
}
# bounds of PLNmodels 1.3.0-9010 on microcosm, by what the probability of zeros is of
BOUNDS: dict[str, tuple[dict[str, Any], float]] = {
    "none (Poisson)": ({}, -51716.2),
    "one for all": ({"zero_probability": "single"}, -48847.5),
    "one a row": ({"zero_probability": "row"}, -46875.9),
    "one a column": ({"zero_probability": "column"}, -48147.4),
    "a column and site": ({"zero_formula": "~ 0 + site"}, -47647.5),
}
BY_SITE = "a column and site"
HELDOUT: dict[str, dict[str, Any]] = {
    "zeros by site, bound": {"zeros": BY_SITE, "method": "variational"},
    "Poisson, bound": {"zeros": "none (Poisson)", "method": "variational"},
    "Poisson, ml": {"zeros": "none (Poisson)"},
    "zeros by site, ml": {"zeros": BY_SITE},
}
REFERENCE = "zeros by site, bound"
TAXA, FOLDS = 30, 5
CORRELATION, LEVEL, LEVELS_SD = 0.75, 2.0, 0.6
LEAST_ZEROS, MOST_ZEROS = 0.1, 0.9
SIZE = 1.0  # of negative binomials: variance m + m^2
CHOICE_COLUMNS, CHOICE_ROWS = 40, (60, 120, 240)
COVERAGE = {"n": 400, "p": 20}
RATIO = {"n": 250, "p": 8}
LEVEL_OF_TEST = 0.05
Line = dict[str, Any]


class Drawn(NamedTuple):
    """A table (n, p), as many new rows of the same law, and what they were drawn from."""

    counts: NDArray[np.int64]
    new: NDArray[np.int64]
    coef: NDArray[np.float64]
    covariance: NDArray[np.float64]
    zeros: NDArray[np.float64]


def main(arguments: list[str] | None = None) -> None:
    """Fit what is missing, then write the page."""
    chosen = parse(arguments)
    out = chosen.out / "laws.csv"
    lines = records.read(out)
    done = {tuple(str(line[name]) for name in KEY) for line in lines}
    for part in chosen.parts:
        for table, model, fold in PARTS[part](chosen):
            if (part, table, model, str(fold)) in done:
                continue
            print(part, table, model, fold, end=" ... ", flush=True)
            key = dict(zip(KEY, (part, table, model, fold), strict=True))
            lines.append(key | RUNS[part](table, model, fold, chosen) | facts())
            records.write(out, lines, COLUMNS)
            print({name: lines[-1].get(name) for name in ("value", "converged", "iterations", "seconds")})
    page = chosen.out / "laws.md"
    page.write_text(markdown(lines, chosen.out / "laws"))
    print(f"written: {out}, {page}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.laws", description=__doc__)
    split = lambda text: text.split(",") if text else []
    parser.add_argument("--parts", type=split, default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument(
        "--true", type=split, default=list(LAWS), help="laws that tables are drawn from in `right`"
    )
    parser.add_argument("--laws", type=split, default=list(LAWS), help="laws that are fitted in `right`")
    parser.add_argument("--rows", type=split, default=list(map(str, CHOICE_ROWS)), help="rows in `right`")
    parser.add_argument("--models", nargs="+", default=list(HELDOUT), help="models of `heldout`")
    parser.add_argument("--folds", type=int, default=FOLDS, help=f"how many of the {FOLDS} folds are fitted")
    parser.add_argument("--count", type=int, default=60, help="simulated tables of a kind")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "out")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared", help="the shared folder")
    return parser.parse_args(arguments)


# Tables.


def microcosm(shared: Path) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    """Counts of the commonest taxa, log offset (n, 1), and the site of each sample."""
    with np.load(shared / "data" / "microcosm.npz") as held:
        y, offset, site = held["counts"], np.log(held["offset"].astype(float)), held["cov_site"]
    commonest = np.argsort(-y.sum(axis=0), kind="stable")[:TAXA]
    names = [f"taxon{j + 1}" for j in range(TAXA)]
    frame = pd.DataFrame({"site": site.astype(str)})
    return pd.DataFrame(y[:, commonest], columns=names), offset[:, None], frame


def drawn(law: str, n: int, p: int, seed: int, *, correlation: float = CORRELATION) -> Drawn:
    """Log rates with levels N(2, 0.6^2) and Sigma autoregressive, variances 1; zeros from 0.1 to 0.9 over columns."""
    random = np.random.default_rng([list(LAWS).index(law), n, p, seed])
    covariance = correlation ** np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
    coef = random.normal(LEVEL, LEVELS_SD, p)
    zeros = random.permutation(np.linspace(LEAST_ZEROS, MOST_ZEROS, p)) * law.startswith("ZI")
    eta = coef + random.standard_normal((2 * n, p)) @ np.linalg.cholesky(covariance).T
    extra = random.gamma(SIZE, 1 / SIZE, eta.shape) if law.endswith("NB") else 1.0
    counts = random.poisson(extra * np.exp(eta)) * (random.random(eta.shape) >= zeros)
    return Drawn(counts[:n], counts[n:], coef, covariance, zeros)


def fitted(settings: dict[str, Any], counts: Any, **others: Any) -> tuple[poplin.PLN, Line]:
    """A fit, and how it went."""
    began = time.perf_counter()
    with warnings.catch_warnings(), hurried(tells_all=False):
        warnings.simplefilter("ignore")
        fit = poplin.PLN(**settings).fit(counts, standard_errors=False, **others)
    seconds = time.perf_counter() - began
    return fit, {"converged": fit.converged_, "iterations": fit.n_iter_, "seconds": round(seconds, 1)}


def scored(fit: poplin.PLN, counts: Any, **others: Any) -> tuple[NDArray[np.float64], float]:
    """Log-likelihoods of rows, and the Monte-Carlo error of their sum."""
    with warnings.catch_warnings(), hurried(tells_all=False):
        warnings.simplefilter("ignore")
        scores, errors = fit.score_samples(counts, return_se=True, **others)
    return scores, float(np.linalg.norm(errors))


# Which law BIC names.


def choices(chosen: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Table by table, every law of it."""
    for seed in range(chosen.count):
        for n in chosen.rows:
            yield from ((f"{true}, n = {n}", law, seed) for true in chosen.true for law in chosen.laws)


def right(table: str, model: str, seed: int, _chosen: Any) -> Line:
    """BIC of a law by the bound's fit and its importance-sampled likelihood; zeros, and new rows, of Poisson tables."""
    true, n = table.split(", n = ")
    data = drawn(true, int(n), CHOICE_COLUMNS, seed)
    fit, told = fitted({"likelihood": LAWS[model], "method": "variational"}, data.counts)
    with warnings.catch_warnings(), hurried(tells_all=False):
        warnings.simplefilter("ignore")
        told |= {"value": fit.bic_, "error": 2 * fit.loglik_se_}
    if true == "Poisson" and model in ("Poisson", "ZIP"):
        told["heldout"] = float(scored(fit, data.new)[0].sum())
        told |= {"zero": fit.zero_probability_.mean(), "zero_most": fit.zero_probability_.max()}
    return told


# Intervals.


def coverages(chosen: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Tables of zero-inflated Poisson counts."""
    yield from (("ZIP", "ZIP", seed) for seed in range(chosen.count))


def coverage(table: str, model: str, seed: int, _chosen: Any) -> Line:
    """How many intervals of 95 % hold what they are of; `largest`: probabilities of the fifth with the most zeros."""
    data = drawn(table, seed=seed, **COVERAGE)
    fit, told = fitted({"likelihood": LAWS[model], "shrinkage": 0}, data.counts)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = {which: fit.confint(which) for which in ("coef", "covariance", "zero")}
    told["seconds"] += round(time.perf_counter() - began, 1)
    logit = np.log(data.zeros / (1 - data.zeros))
    upper = np.triu_indices(len(data.covariance))
    truths = {"coef": data.coef, "covariance": data.covariance[upper], "zero": logit}
    for which, truth in truths.items():
        inside = within(ends[which], truth)
        told |= {f"{which}_covered": int(inside.sum()), f"{which}_intervals": len(truth)}
    most = data.zeros >= np.quantile(data.zeros, 0.8)
    inside = within(ends["zero"], logit)[most]
    return told | {"largest_covered": int(inside.sum()), "largest_intervals": int(most.sum())}


def within(ends: pd.DataFrame, truth: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which intervals hold the truth; what has no interval does not."""
    return (ends.lower.to_numpy() <= truth) & (truth <= ends.upper.to_numpy())


# The likelihood-ratio test.


def ratios(chosen: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Tables of Poisson counts, each law with a parameter at 0."""
    yield from (("Poisson", law, seed) for seed in range(chosen.count) for law in ("ZIP", "NB"))


def ratio(table: str, model: str, seed: int, _chosen: Any) -> Line:
    """The p value of a law against Poisson, of all columns and of each."""
    data = drawn(table, seed=seed, correlation=0.0, **RATIO)
    settings = {"covariance": "diagonal", "shrinkage": 0}
    small, told = fitted(settings, data.counts)
    large, more = fitted(settings | {"likelihood": LAWS[model]}, data.counts)
    with warnings.catch_warnings(), hurried(tells_all=False):
        warnings.simplefilter("ignore")
        test = poplin.likelihood_ratio(small, large)
    each = test.columns["p"].to_numpy()
    told = {name: told[name] + more[name] for name in ("iterations", "seconds")} | {
        "converged": told["converged"] and more["converged"]
    }
    below = int((each < LEVEL_OF_TEST).sum())
    return told | {
        "value": test.statistic,
        "error": test.se,
        "p": test.p,
        "columns_below": below,
        "columns": len(each),
    }


# microcosm.


def of_zeros(name: str) -> dict[str, Any]:
    """The settings of a choice of zeros."""
    of_law = {} if name == "none (Poisson)" else {"likelihood": LAWS["ZIP"], **BOUNDS[name][0]}
    return {"formula": "~ 0 + site"} | of_law


def bounds(chosen: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Every choice of zeros."""
    yield from (("microcosm", name, 0) for name in BOUNDS)


def bound(_table: str, model: str, _fold: int, chosen: argparse.Namespace) -> Line:
    """The bound of all rows, diagonal Gaussians, beside PLNmodels'."""
    counts, offset, data = microcosm(chosen.shared)
    fit, told = fitted(of_zeros(model) | {"method": "variational"}, counts, offset=offset, data=data)
    return told | {"value": fit.elbo_, "reference": BOUNDS[model][1]}


def likelihoods(chosen: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Zeros by column and site."""
    yield "microcosm", BY_SITE, 0


def likelihood(_table: str, model: str, fold: int, chosen: argparse.Namespace) -> Line:
    """The log-likelihood of all rows by maximum likelihood."""
    counts, offset, data = microcosm(chosen.shared)
    fit, told = fitted(of_zeros(model) | {"random_state": fold}, counts, offset=offset, data=data)
    return told | {"value": fit.loglik_, "error": fit.loglik_se_}


def left_out(chosen: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Fold by fold, every model that was asked for."""
    yield from (("microcosm", model, fold) for fold in range(chosen.folds) for model in chosen.models)


def heldout(_table: str, model: str, fold: int, chosen: argparse.Namespace) -> Line:
    """The log-likelihood of a fold's rows by a fit to the others, which all folds' programs serve (weights of 0)."""
    counts, offset, data = microcosm(chosen.shared)
    out = folds(len(counts), FOLDS) == fold
    how = dict(HELDOUT[model])
    settings = of_zeros(how.pop("zeros")) | how
    fit, told = fitted(settings, counts, offset=offset, data=data, weights=1.0 * ~out)
    scores, error = scored(fit, counts[out], offset=offset[out], data=data[out])
    keep = chosen.out / "laws" / f"{model}-{fold}.npy"
    keep.parent.mkdir(parents=True, exist_ok=True)
    np.save(keep, scores)
    return told | {"value": float(scores.sum()), "error": error}


PARTS = {
    "bounds": bounds,
    "likelihoods": likelihoods,
    "heldout": left_out,
    "right": choices,
    "coverage": coverages,
    "ratio": ratios,
}
RUNS = {
    "bounds": bound,
    "likelihoods": likelihood,
    "heldout": heldout,
    "right": right,
    "coverage": coverage,
    "ratio": ratio,
}


# The page.


def markdown(lines: list[Line], scores: Path) -> str:
    """The page."""
    where = lines[-1] if lines else {}
    made = "; ".join(f"{name} {where.get(name)}" for name in ("date", "cpu", "cores", "python"))
    commits = ", ".join(sorted({str(line["commit"]) for line in lines}))
    parts = [
        "# Laws of the counts",
        "Made by `python -m benchmarks.laws`; nats, higher is better, but for BIC. Beside other work: "
        "seconds are no more than a size.",
        f"{made}; commits {commits}",
    ]
    told = {part: [line for line in lines if line["part"] == part] for part in PARTS}
    parts += [*of_choice(told["right"]), *of_nothing(told["right"]), *of_coverage(told["coverage"])]
    parts += [*of_ratio(told["ratio"]), *of_bounds(told["bounds"]), *of_likelihood(told["likelihoods"])]
    return "\n\n".join([*parts, *of_heldout(told["heldout"], scores)]) + "\n"


def share(hits: int, all_: int) -> str:
    """A share in per cent with its binomial error."""
    found = hits / all_
    return f"{100 * found:.1f} ± {100 * np.sqrt(found * (1 - found) / all_):.1f}"


def of_choice(lines: list[Line]) -> Iterator[str]:
    """How often the lowest BIC is that of the law that tables were drawn from."""
    if not lines:
        return
    yield "## Which law BIC names (`--parts right`)"
    yield (
        f"{CHOICE_COLUMNS} columns, Sigma autoregressive ({CORRELATION}), variances 1, levels N({LEVEL:g}, "
        f"{LEVELS_SD}^2), zeros of columns {LEAST_ZEROS} to {MOST_ZEROS}, size {SIZE:g} of negative binomials. "
        "Fits by the bound, likelihoods by importance sampling. The gap is that of BIC between the best wrong law and "
        "the true one: mean, and least."
    )
    rows = []
    for table in dict.fromkeys(line["table"] for line in lines):
        true = table.split(",")[0]
        by_seed: dict[int, dict[str, float]] = {}
        for line in lines:
            if line["table"] == table:
                by_seed.setdefault(line["fold"], {})[line["model"]] = line["value"]
        for laws in dict.fromkeys(tuple(sorted(found)) for found in by_seed.values()):
            if true not in laws or len(laws) == 1:
                continue
            some = [found for found in by_seed.values() if tuple(sorted(found)) == laws]
            gaps = [min(v for law, v in found.items() if law != true) - found[true] for found in some]
            named = sum(gap > 0 for gap in gaps)
            against = ", ".join(law for law in LAWS if law in laws and law != true)
            of_tables = (str(len(some)), f"{named}", f"{np.mean(gaps):.0f}", f"{min(gaps):.0f}")
            rows.append((table, against, *of_tables))
    yield report.table(("drawn from", "against", "tables", "named right", "gap", "least gap"), rows)


def of_nothing(lines: list[Line]) -> Iterator[str]:
    """What probabilities of zeros that are not there come to."""
    rows = []
    for table in dict.fromkeys(line["table"] for line in lines if line.get("heldout") is not None):
        found = {(line["model"], line["fold"]): line for line in lines if line["table"] == table}
        both = [k for model, k in found if model == "ZIP" and ("Poisson", k) in found]
        if len(both) < 2:
            continue
        gaps = np.array([found["Poisson", k]["heldout"] - found["ZIP", k]["heldout"] for k in both])
        zero = np.mean([found["ZIP", k]["zero"] for k in both])
        most = np.max([found["ZIP", k]["zero_most"] for k in both])
        lost = f"{gaps.mean():.2f} ± {gaps.std(ddof=1) / np.sqrt(len(gaps)):.2f}"
        rows.append((table, str(len(both)), f"{zero:.4f}", f"{most:.3f}", lost))
    if rows:
        yield "## Zeros that are not there (`--parts right`)"
        yield "Poisson tables under both laws, scored by as many new rows."
        header = ("drawn from", "tables", "mean probability", "largest", "nats lost a table")
        yield report.table(header, rows)


def of_coverage(lines: list[Line]) -> Iterator[str]:
    """How often intervals hold the truth."""
    if len(lines) < 2:
        return
    yield "## Intervals (`--parts coverage`)"
    yield (
        "n = {n}, p = {p}".format(**COVERAGE)
        + f", {len(lines)} tables as above, maximum likelihood without shrinkage, "
        f"{sum(bool(line['converged']) for line in lines)} fits converged. Intervals of 95 %; errors from the tables' "
        "own spread."
    )
    names = {
        "coef": "B",
        "covariance": "Sigma",
        "zero": "logits of zeros",
        "largest": f"of those the fifth of the columns with the most (up to {MOST_ZEROS})",
    }
    rows = []
    for which, words in names.items():
        each = np.array([line[f"{which}_covered"] / line[f"{which}_intervals"] for line in lines])
        error = each.std(ddof=1) / np.sqrt(len(each))
        rows.append((words, str(sum(line[f"{which}_intervals"] for line in lines)),
                     f"{100 * each.mean():.1f} ± {100 * error:.1f}"))  # fmt: skip
    yield report.table(("intervals of", "intervals", "hold the truth, %"), rows)


def of_ratio(lines: list[Line]) -> Iterator[str]:
    """How often a test at 5 % finds what is not there."""
    if not lines:
        return
    yield "## The likelihood-ratio test against Poisson (`--parts ratio`)"
    yield "Poisson tables, n = {n}, p = {p}, diagonal Sigma; tests at 5 %: shares below it, in per cent.".format(
        **RATIO
    )
    rows = []
    for law in dict.fromkeys(line["model"] for line in lines):
        some = [line for line in lines if line["model"] == law]
        tables = share(sum(line["p"] < LEVEL_OF_TEST for line in some), len(some))
        columns = share(sum(line["columns_below"] for line in some), sum(line["columns"] for line in some))
        converged = str(sum(bool(line["converged"]) for line in some))
        rows.append((law, str(len(some)), converged, tables, columns))
    yield report.table(("law", "tables", "fits converged", "all columns together", "each column"), rows)


def of_bounds(lines: list[Line]) -> Iterator[str]:
    """Bounds beside PLNmodels'."""
    if not lines:
        return
    yield "## Bounds (`--parts bounds`)"
    yield (
        "microcosm's 30 commonest taxa (880 samples, 80 % zeros), `~ 0 + site`, offset as given; zero-inflated "
        "Poisson by what the probability of zeros is of. Diagonal Gaussians, each fit from three places where zeros "
        "may be no counts (as if all were, as if none was, and where the fit with one probability ends). "
        "PLNmodels 1.3.0-9010 ended at the bounds beside."
    )
    rows = [
        (line["model"], f"{line['value']:.1f}", f"{line['reference']:.1f}", str(line["iterations"]),
         f"{line['seconds']:.0f}")
        for line in lines
    ]  # fmt: skip
    yield report.table(
        ("probability of zeros", "bound", "PLNmodels", "iterations of the best", "seconds"), rows
    )
    yield (
        "With one a column this is 28 nats short of PLNmodels: the bound has many optima, hundreds of nats "
        "apart, since a Gaussian of Z and a probability that its zero is a count are taken for independent. Tried "
        "and left: chains' means as a start (-48485, -48537), halfway between the first two starts (-48715), another "
        "choice for each cell by itself (no gain)."
    )


def of_likelihood(lines: list[Line]) -> Iterator[str]:
    """Maximum likelihood of all rows."""
    for line in lines:
        yield "## Likelihood (`--parts likelihoods`)"
        ended = "converged" if line["converged"] else "had not converged"
        yield (
            "Maximum likelihood with a probability by column and site, log-likelihood by importance sampling: "
            f"**{line['value']:.1f} ± {line['error']:.1f}** for all rows. The fit {ended} after {line['iterations']} "
            f"iterations ({line['seconds'] / 60:.0f} minutes): many of the 120 logits are of columns and sites in "
            "which a probability of zeros has no maximum but 0 or 1, and go on toward it. Of rows 0, 5, ... left out "
            "(176), by a fit to the others (commit 13acabb): -9576.7, converged after 1780 iterations."
        )


def of_heldout(lines: list[Line], scores: Path) -> Iterator[str]:
    """Rows left out: each model's, and the paired difference to the reference over the folds that both have."""
    if not lines:
        return
    yield "## Rows left out (`--parts heldout`)"
    found = {(line["model"], line["fold"]): line for line in lines}
    load = lambda model, some: np.concatenate([np.load(scores / f"{model}-{k}.npy") for k in some])
    rows = []
    for model in HELDOUT:
        have = [k for k in range(FOLDS) if (model, k) in found]
        both = [k for k in have if (REFERENCE, k) in found and model != REFERENCE]
        total, most = (
            sum(found[model, k]["value"] for k in have),
            sum(bool(found[model, k]["converged"]) for k in have),
        )
        gap = "{:+.0f} ± {:.0f}".format(*paired(load(REFERENCE, both), load(model, both))) if both else ""
        seconds = np.mean([found[model, k]["seconds"] for k in have]) if have else 0.0
        if have:
            per_fold = ", ".join(map(str, have))
            rows.append((model, per_fold, f"{total:.0f}", str(most), f"{seconds:.0f}", gap))
    header = (
        "model",
        "folds",
        "log-likelihood",
        "converged",
        "seconds a fit",
        f"{REFERENCE} minus it, same folds",
    )
    yield report.table(header, rows)


if __name__ == "__main__":
    main()
