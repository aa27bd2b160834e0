"""What is fitted: named arrays (Y, X, O, for simulated ones the true B and Sigma), and what is known of them.

`load(name, shared)` reads `<shared>/reference/designs/<name>.npz` where that folder exists and draws the same
law from a seed where it does not (simulated designs only: real tables are not ours to ship). `known(shared)`
gives the recorded best bounds and the peers' seconds, or nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Law(NamedTuple):
    """A simulated design: Z ~ N(0, Sigma), Sigma the first `rank` eigenpairs of the AR(1) matrix."""

    rows: int
    columns: int
    correlation: float
    rank: int


LAWS = {
    "scenario1": Law(5000, 50, 0.8, 50),
    "scenario2": Law(5000, 50, 0.8, 12),
    "lowrank_10k": Law(10000, 100, 0.5, 10),
    "lowrank_50k": Law(50000, 200, 0.5, 20),
}
# Ranks of the factor form to fit, by design.
RANKS: dict[str, tuple[int, ...]] = {
    "trichoptera": (5, 10),
    "barents": (5, 10),
    "mollusk": (5, 10),
    "oaks": (5, 10),
    "scenario1": (12,),
    "scenario2": (12,),
    "lowrank_10k": (10,),
    "scRNA": (5, 10),
    "lowrank_50k": (20,),
}
SEVERAL_OPTIMA = ("trichoptera", "barents", "mollusk", "oaks")  # small: which optimum depends on the start
LONG = ("scRNA", "lowrank_50k")  # minutes a fit: only when asked for


class Design(NamedTuple):
    """One count table and what is known of its truth.

    counts n x p, covariates n x d, offsets n x p or None (log scale), coef d x p and covariance p x p (truth)
    or None, latent n x p (the drawn Z) or None.
    """

    name: str
    counts: NDArray[np.int64]
    covariates: Array
    offsets: Array | None
    coef: Array | None
    covariance: Array | None
    latent: Array | None
    source: str


def load(name: str, shared: Path) -> Design:
    """The design of that name, from the shared folder or else drawn (KeyError for a real table)."""
    path = shared / "reference" / "designs" / f"{name}.npz"
    if not path.is_file():
        return simulate(name)
    with np.load(path) as arrays:
        held = {key: arrays[key] for key in arrays.files}
    return Design(
        name=name,
        counts=held["Y"].astype(np.int64),
        covariates=held["X"],
        offsets=held["O"] if held["O"].size else None,
        coef=held.get("B"),
        covariance=held.get("Sigma"),
        latent=held["Z"] if "Z" in held and held["Z"].size else None,
        source="shared",
    )


def simulate(name: str, seed: int = 0) -> Design:
    """Draw the named law; the drawn Z is kept for the oracle."""
    law = LAWS[name]
    generator = np.random.default_rng(seed)
    lags = np.abs(np.subtract.outer(np.arange(law.columns), np.arange(law.columns)))
    values, vectors = np.linalg.eigh(law.correlation**lags)
    factor = vectors[:, -law.rank :] * np.sqrt(values[-law.rank :])
    latent = generator.standard_normal((law.rows, law.rank)) @ factor.T
    return Design(
        name=name,
        counts=generator.poisson(np.exp(latent)),
        covariates=np.ones((law.rows, 1)),
        offsets=None,
        coef=np.zeros((1, law.columns)),
        covariance=factor @ factor.T,
        latent=latent,
        source=f"generated, seed {seed}",
    )


def available(shared: Path) -> list[str]:
    """Names that `load` can give, short ones first."""
    folder = shared / "reference" / "designs"
    return [name for name in RANKS if name in LAWS or (folder / f"{name}.npz").is_file()]


def model_label(rank: int | None) -> str:
    """The model's name in the recorded baselines: the direct form with a free Sigma, or the factor form."""
    return "PLN full" if rank is None else f"PCA q={rank}"


def known(shared: Path) -> dict[str, Any]:
    """Recorded baselines: `best` and `best_peer` by "design | model", oracle errors; {} where none are."""
    path = shared / "reference" / "baselines.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def truth_errors(design: Design, coef: Array, covariance: Array) -> dict[str, float]:
    """Errors against the truth, with the drawn Z's own (oracle) where it is kept; {} for real data.

    lag1 is the mean of Sigma_{j,j+1}; frobenius is |Sigma_hat - Sigma| / |Sigma|.
    """
    if design.covariance is None or design.coef is None:
        return {}
    norm = np.linalg.norm(design.covariance)
    errors = {
        "coef_error": float((coef - design.coef).mean()),
        "coef_error_abs": float(np.abs(coef - design.coef).mean()),
        "lag1": float(np.diag(covariance, 1).mean()),
        "lag1_truth": float(np.diag(design.covariance, 1).mean()),
        "frobenius": float(np.linalg.norm(covariance - design.covariance) / norm),
    }
    if design.latent is not None:
        centred = design.latent - design.latent.mean(0)
        oracle = centred.T @ centred / len(centred)
        errors["frobenius_oracle"] = float(np.linalg.norm(oracle - design.covariance) / norm)
    return errors
