"""Where maximum likelihood stops: against the bound's estimates on a separated table, and over seeds.

Start at `line`. Three kinds of tasks: `separated` (the 30 commonest taxa of a table of 880 samples, 80 % zeros, by
site: the likelihood against that of the bound's estimates, from several seeds, on all rows and on held-out ones),
`seeds` (ten fits of a table with factors: how far the farthest number is from the mean of the seeds, in its own
standard errors) and `longer` (an ill-conditioned Sigma: the likelihood against that of a fit with a fifth of the
tolerance).
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.measure import REPOSITORY

TITLE = "Where a fit stops"
QUESTION = (
    "Is a fit that says it has converged at its maximum, also where columns are all but separated into zeros and "
    "thousands, where a level lacks a column, and where Sigma is ill-conditioned? Log-likelihoods in nats, by "
    "importance sampling."
)
SHARED = REPOSITORY.parent / "shared"
FACTORS = {"oaks": "tree", "trichoptera": "Group", "mollusk": "method", "absent level": "hab"}
SEEDS = 10


def tasks() -> list[dict[str, Any]]:
    """What is run; real tables need the shared folder."""
    separated = [
        {"kind": "separated", "rows": rows, "shrinkage": shrinkage, "seed": seed}
        for rows in ("all", "held out")
        for shrinkage in ("0", "auto")
        for seed in range(2 if rows == "all" else 1)
    ]
    seeds = [{"kind": "seeds", "table": table, "shrinkage": "auto"} for table in FACTORS]
    return [*separated, *seeds, *({"kind": "longer", "seed": seed} for seed in range(3))]


def line(task: dict[str, Any]) -> dict[str, Any]:
    """The figures of one task."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {"separated": separated, "seeds": over_seeds, "longer": longer}[task["kind"]](task)


def separated(task: dict[str, Any]) -> dict[str, Any]:
    """One fit by maximum likelihood and one by the bound, in one process: their likelihoods and seconds."""
    import poplin

    counts, x, offset = microcosm()
    new = np.arange(len(counts)) % 5 == 0
    fitted, judged = (~new, new) if task["rows"] == "held out" else (np.ones_like(new),) * 2
    shrinkage = "auto" if task["shrinkage"] == "auto" else float(task["shrinkage"])
    found = {}
    for name, settings in (
        ("bound", {"method": "variational"}),
        ("ml", {"shrinkage": shrinkage, "random_state": task["seed"]}),
    ):
        begun = time.perf_counter()
        fit = poplin.PLN(**settings).fit(counts[fitted], X=x[fitted], offset=offset[fitted])
        found[f"{name}_s"] = time.perf_counter() - begun
        rows = fit.score_samples(counts[judged], X=x[judged], offset=offset[judged])
        found |= {f"{name}_loglik": float(np.sum(rows)), f"{name}_converged": bool(fit.converged_)}
        found[f"{name}_iterations"] = fit.n_iter_
        found[f"{name}_rows"] = rows
    difference = found.pop("ml_rows") - found.pop("bound_rows")
    return found | {"gain": difference.sum(), "gain_se": difference.std(ddof=1) * np.sqrt(len(difference))}


def microcosm() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of the 30 commonest taxa, sites as indicators, log offsets."""
    file = np.load(SHARED / "data" / "microcosm.npz")
    counts = file["counts"].astype(float)
    counts = counts[:, np.argsort(-counts.sum(axis=0), kind="stable")[:30]]
    levels, site = np.unique(file["cov_site"].astype(str), return_inverse=True)
    offset = np.broadcast_to(np.log(file["offset"].astype(float))[:, None], counts.shape)
    return counts, np.eye(len(levels))[site], offset


def over_seeds(task: dict[str, Any]) -> dict[str, Any]:
    """Ten seeds of the default: distance of each number from the mean of the seeds, in own standard errors."""
    import poplin

    counts, data, formula = with_factor(task["table"])
    fits = [poplin.PLN(formula=formula, random_state=seed).fit(counts, data=data) for seed in range(SEEDS)]
    errors = fits[0].standard_errors()
    found: dict[str, Any] = {"converged": sum(fit.converged_ for fit in fits)}
    for name in ("coef", "covariance"):
        values = np.stack([getattr(fit, f"{name}_") for fit in fits])
        own = np.asarray(getattr(errors, name), dtype=float)
        apart = np.abs(values - values.mean(axis=0)) / own
        told = apart[np.isfinite(apart)]
        found |= {
            f"{name}_rms": float(np.sqrt(np.mean(told**2))) if told.size else np.nan,
            f"{name}_farthest": float(told.max()) if told.size else np.nan,
            f"{name}_share_within": float(np.mean(told < 0.3)) if told.size else np.nan,
            f"{name}_untold": int(np.isnan(own).sum()),
        }
    if task["table"] == "absent level":
        found["effect"] = " ".join(f"{fit.coef_[3, 1]:.2f}" for fit in fits)
    return found


def with_factor(name: str) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Counts, covariates and a formula with a factor."""
    factor = FACTORS[name]
    if name == "absent level":
        counts, data = (
            pd.read_csv(SHARED / "cases" / f"absent_level_{part}.csv", index_col=0)
            for part in ("counts", "env")
        )
        return counts, data, "~ hab"
    file = np.load(SHARED / "data" / f"{name}.npz")
    counts = pd.DataFrame(file["counts"], columns=file["var_names"].astype(str))
    data = pd.DataFrame({factor: file[f"cov_{factor}"].astype(str)})
    return counts, data, f"~ C({factor})"


def longer(task: dict[str, Any]) -> dict[str, Any]:
    """1000 rows of 20 columns whose Sigma has eigenvalues from 6 to 0.05: the default tolerance and a fifth of it."""
    import poplin

    random = np.random.default_rng(task["seed"])
    axes = np.linalg.qr(random.normal(size=(20, 20)))[0]
    root = axes * np.sqrt(np.geomspace(6, 0.05, 20))
    counts = random.poisson(np.exp(0.5 + random.normal(size=(1000, 20)) @ root.T))
    fits = [poplin.PLN(shrinkage=0, tol=tol).fit(counts) for tol in (0.2, 0.04)]
    rows = [fit.score_samples(counts) for fit in fits]
    return {
        "gain": float(np.sum(rows[1] - rows[0])),
        "smallest": " ".join(f"{np.linalg.eigvalsh(fit.covariance_)[0]:.4f}" for fit in fits),
        "iterations": " ".join(str(fit.n_iter_) for fit in fits),
        "converged": sum(fit.converged_ for fit in fits),
    }


def words(lines: pd.DataFrame) -> str:
    """Three tables."""
    parts = []
    some = lines[lines["kind"] == "separated"]
    if len(some):
        parts.append(
            "Maximum likelihood less the bound's estimates, `~ 0 + site` (gain: over rows, with the standard error of "
            "rows' differences):\n\n| rows judged | shrinkage | seed | gain | bound | ml | iterations | converged | "
            "seconds, bound and ml |\n|---|---|---|---|---|---|---|---|---|"
        )
        parts += [
            f"| {r['rows']} | {r['shrinkage']} | {r['seed']:.0f} | {r['gain']:+.0f} ± {r['gain_se']:.0f} | "
            f"{r['bound_loglik']:.0f} | {r['ml_loglik']:.0f} | {r['ml_iterations']:.0f} | {r['ml_converged']} | "
            f"{r['bound_s']:.0f}, {r['ml_s']:.0f} |"
            for _, r in some.iterrows()
        ]
    some = lines[lines["kind"] == "seeds"]
    if len(some):
        parts.append(
            "\nTen seeds, distance from their mean in own standard errors (root mean square, farthest, share within "
            "0.3; numbers without a standard error left out):\n\n"
            "| table | B | Sigma | converged | effect of the absent level |\n|---|---|---|---|---|"
        )
        for _, r in some.iterrows():
            told = [_spread(r, name) for name in ("coef", "covariance")]
            effect = r.get("effect", "")
            parts.append(
                f"| {r['table']} | {told[0]} | {told[1]} | {r['converged']:.0f} of {SEEDS} | "
                f"{effect if isinstance(effect, str) else ''} |"
            )
    some = lines[lines["kind"] == "longer"]
    if len(some):
        parts.append(
            "\nAn ill-conditioned Sigma (eigenvalues 6 to 0.05), a fifth of the tolerance less the default's:\n\n"
            "| seed | nats | smallest eigenvalue | iterations |\n|---|---|---|---|"
        )
        parts += [
            f"| {r['seed']:.0f} | {r['gain']:+.1f} | {r['smallest']} | {r['iterations']} |"
            for _, r in some.iterrows()
        ]
    return "\n".join(parts) + "\n"


def _spread(r: pd.Series, name: str) -> str:
    rms, farthest, within, untold = (r[f"{name}_{k}"] for k in ("rms", "farthest", "share_within", "untold"))
    return f"{rms:.3f}, {farthest:.2f}, {within:.3f} ({untold:.0f} without)"
