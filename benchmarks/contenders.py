"""The packages that are compared, each as one function `(task, design) -> Outcome` that constructs and fits.

Imports happen in `prepare_*`, outside the clock; the function given back is what is timed. Nothing here may
import what the other package's interpreter lacks: NumPy and SciPy only, beside the package itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.bound import direct_bound, factor_bound, stirling_excess
from benchmarks.designs import Design

Array = NDArray[np.float64]


class Task(NamedTuple):
    """One run: what to fit, by whom, with which options beside the defaults."""

    design: str
    rank: int | None
    contender: str
    threads: int
    limit: float
    options: dict[str, Any]
    loglik: bool = False


class Outcome(NamedTuple):
    """What a contender hands back, in NumPy: parameters, and the trace (seconds, bound in nats).

    `bound` recomputes the diagonal-Gaussian bound from returned parameters (None where there is none to
    recompute); `reported` is the package's own value, None where it has none.
    """

    coef: Array
    covariance: Array
    bound: Callable[[], float | None]
    reported: Callable[[], float | None]
    trace: tuple[Array, Array]
    iterations: int
    converged: bool | None
    notes: str
    fit: Any


Fitter = Callable[[], Outcome]


def prepare_peer(task: Task, design: Design) -> Fitter:
    """pyPLNmodels: Pln or PlnPCA on the same arrays, the options given to its `fit` (default: 400 steps)."""
    import torch  # pyright: ignore[reportMissingImports]
    from pyPLNmodels import Pln, PlnPCA  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(task.threads)
    data: dict[str, Any] = {"exog": design.covariates, "offsets": design.offsets, "add_const": False}

    def fit() -> Outcome:
        torch.manual_seed(0)
        model = (
            Pln(design.counts, **data) if task.rank is None else PlnPCA(design.counts, rank=task.rank, **data)
        )
        model.fit(**task.options)
        return _peer_outcome(model, task, design)

    return fit


def _peer_outcome(model: Any, task: Task, design: Design) -> Outcome:
    monitor, clock = model._elbo_criterion_monitor, model._time_recorder.running_times
    # Its k-th bound belongs to the parameters before step k: the clock after step k - 1.
    values = np.array([float(value) for value in monitor.elbo_list]) - stirling_excess(design.counts)
    return Outcome(
        coef=np.asarray(model.coef, dtype=float),
        covariance=np.asarray(model.covariance, dtype=float),
        bound=lambda: _recompute(
            design,
            np.asarray(model.latent_mean, dtype=float),
            np.asarray(model.latent_variance, dtype=float),
            np.asarray(model.coef, dtype=float),
            covariance=np.asarray(model.covariance, dtype=float) if task.rank is None else None,
            loadings=np.asarray(model.components, dtype=float) if task.rank is not None else None,
        ),
        reported=lambda: float(model.elbo),
        trace=(np.asarray(clock[:-1]), values[1:]),
        iterations=monitor.iteration_number,
        converged=monitor.iteration_number < task.options.get("maxiter", 400),
        notes=f"criterion {monitor.criterion:.1e}, its own bound uses Stirling's formula",
        fit=model,
    )


def prepare_poplin(task: Task, design: Design) -> Fitter:
    """poplin.PLN with `method` taken from the contender's name: poplin-METHOD, or poplin-METHOD-starts."""
    import poplin  # pyright: ignore[reportMissingImports]

    method = task.contender.removeprefix("poplin-").removesuffix("-starts")

    def fit() -> Outcome:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model = poplin.PLN(method=method, rank=task.rank, **task.options)
            model.fit(design.counts, X=design.covariates, offset=design.offsets)
        return _poplin_outcome(
            model, method, design, "; ".join(sorted({str(each.message)[:160] for each in told}))
        )

    return fit


def _poplin_outcome(model: Any, method: str, design: Design, notes: str) -> Outcome:
    seconds, values = np.zeros(0), np.zeros(0)
    if method == "variational" and model.trace_ is not None:
        seconds = np.asarray(model.trace_["seconds"], dtype=float)
        values = np.asarray(model.trace_["objective"], dtype=float)
    shrinkage = float(getattr(model, "shrinkage_weight_", 0.0) or 0.0)
    return Outcome(
        coef=np.asarray(model.coef_),
        covariance=np.asarray(model.covariance_),
        bound=lambda: _poplin_bound(model, design) if method == "variational" else None,
        reported=lambda: float(model.elbo_),
        trace=(seconds, values),
        iterations=int(model.n_iter_),
        converged=bool(model.converged_),
        notes="; ".join(filter(None, [f"shrinkage {shrinkage:.3g}" if shrinkage else "", notes])),
        fit=model,
    )


def _poplin_bound(model: Any, design: Design) -> float:
    """From `variational_`, the parameters in the frame of the bound; without it, the fit's own value."""
    held = getattr(model, "variational_", None)
    if held is None:
        return float(model.elbo_)
    return _recompute(
        design,
        held["mean"],
        held["variance"],
        held["coef"],
        covariance=held.get("covariance") if held.get("loadings") is None else None,
        loadings=held.get("loadings"),
    )


def _recompute(
    design: Design,
    mean: Array,
    variance: Array,
    coef: Array,
    *,
    covariance: Array | None,
    loadings: Array | None,
) -> float:
    offsets = 0.0 if design.offsets is None else design.offsets
    shared: dict[str, Any] = {"offsets": offsets, "mean": mean, "variance": variance, "coef": coef}
    if loadings is not None:
        return factor_bound(design.counts, design.covariates, loadings=loadings, **shared)
    assert covariance is not None
    return direct_bound(design.counts, design.covariates, covariance=covariance, **shared)


class Contender(NamedTuple):
    """How a contender is prepared, its options beside the defaults, the packages whose versions are noted."""

    prepare: Callable[[Task, Design], Fitter]
    options: dict[str, Any]
    packages: tuple[str, ...]


CONTENDERS = {
    "poplin-variational": Contender(prepare_poplin, {}, ("poplin", "jax", "numpy")),
    # ten starts, where the bound of a low rank has several optima: small tables
    "poplin-variational-starts": Contender(prepare_poplin, {"n_init": 10}, ("poplin", "jax", "numpy")),
    "poplin-ml": Contender(prepare_poplin, {}, ("poplin", "jax", "numpy")),
    "poplin-amortised": Contender(prepare_poplin, {}, ("poplin", "jax", "numpy")),
    "pyPLNmodels": Contender(prepare_peer, {}, ("pyPLNmodels", "torch", "numpy")),
    "pyPLNmodels-long": Contender(
        prepare_peer, {"maxiter": 4000, "tol": 1e-30}, ("pyPLNmodels", "torch", "numpy")
    ),
}


def package_versions(contender: str) -> str:
    """'jax 0.10.1 numpy 2.4.6', of the packages that are installed."""
    found = []
    for package in CONTENDERS[contender].packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
