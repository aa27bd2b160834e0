"""The methods that stand as columns of a study: each a name and a function from a table to an `Estimate`.

Start at `pln`, which makes a column of `poplin.PLN` with any settings. `TRUE_LATENT` and `PEER` are the others.
Nothing heavy is loaded before a fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from poplin.studies.study import Column, Estimate, Table

Settings = Mapping[str, Any] | Callable[[Table], Mapping[str, Any]]


def pln(name: str, settings: Settings) -> Column:
    """`poplin.PLN` with these settings, or with what a function makes of the table (to lend it the true V)."""

    def fit(table: Table, seed: int) -> Estimate:
        import poplin

        chosen = settings(table) if callable(settings) else settings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", poplin.ConvergenceWarning)  # kept as a number
            warnings.simplefilter("ignore", poplin.DataWarning)
            fitted = poplin.PLN(**{"random_state": seed, **chosen}).fit(table.counts, X=table.x)
        return estimate(fitted, table, chosen.get("basis"))

    return Column(name, fit)


def estimate(fitted: Any, table: Table, basis: np.ndarray | None = None) -> Estimate:
    """What a fitted `PLN` says; with a borrowed V, Lambda-hat in the order of V's columns."""

    def latent() -> np.ndarray:
        centred = fitted.latent_mean_
        if fitted.loadings_ is not None:
            centred = centred @ fitted.loadings_.T
        return table.x @ fitted.coef_ + centred

    scales = None if basis is None else np.einsum("pq,pr,rq->q", basis, fitted.covariance_, basis)
    sigma = fitted.covariance_
    numbers = {"iterations": int(fitted.n_iter_), "shrinkage": float(fitted.shrinkage_weight_)}
    return Estimate(fitted.coef_, sigma, latent, scales, bool(fitted.converged_), fitted, numbers)


ML = pln("ml", {})
UNSHRUNK = pln("ml unshrunk", {"shrinkage": 0})
DIAGONAL = pln("variational diagonal", {"method": "variational"})
# Its last decimals take thousands of EM steps. Lag 1 of Sigma, n=1000, p=20, one table: 0.7532 after 100 steps,
# 0.7557 after 400, 0.7565 after 1600, where the diagonal family has 0.53: what is cut off is small beside its bias.
STEPS = 100
FULL = pln("variational full", {"method": "variational", "posterior": "full", "max_iter": STEPS})


def borrowed(q: int, **settings: Any) -> Column:
    """Lambda and B fitted under the first q true axes V; w-diagonal when `method="variational"`."""
    method = settings.get("method", "ml")
    return pln(f"{method} V q={q}", lambda table: {"basis": table.basis[:, :q], **settings})


def _true_latent(table: Table, _: int) -> Estimate:
    coef = np.linalg.lstsq(table.x, table.latent, rcond=None)[0]
    residual = table.latent - table.x @ coef
    return Estimate(coef, residual.T @ residual / len(residual), lambda: table.latent)


def _no_peer() -> str:
    return "" if find_spec("pyPLNmodels") else "pyPLNmodels is not installed"


def _peer(table: Table, seed: int) -> Estimate:
    torch, package = import_module("torch"), import_module("pyPLNmodels")  # nothing that poplin asks for
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = package.Pln(table.counts, exog=table.x, add_const=False)
    model.fit(verbose=False)
    coef, sigma = (np.asarray(a, dtype=float) for a in (model.coef, model.covariance))
    return Estimate(coef, sigma, lambda: np.asarray(model.latent_mean, dtype=float))


def with_intervals(column: Column) -> Column:
    """The same method, asked for its intervals as well."""
    return column._replace(fit=lambda table, seed: column.fit(table, seed)._replace(intervals=True))


def low_rank(name: str, q: int, **settings: Any) -> Column:
    """A free C (p, q)."""
    return pln(name, {"rank": q, **settings})


MOMENTS = pln("moments", {"method": "moments"})
COMPOSITE = pln("composite", {"method": "composite"})
TRUE_LATENT = Column("true Z", _true_latent)
PEER = Column("pyPLNmodels", _peer, _no_peer)
