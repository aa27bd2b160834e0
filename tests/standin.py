"""A fitted model without a fit: crude moments under the attributes of `poplin.PLN`, for tests of the face.

Start at `StandIn`, which takes what the estimator takes and answers at once. How it ends (converged, out of
iterations, interrupted) is chosen by `ending`.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from poplin import store
from poplin.data.counts import as_counts
from poplin.fit import Progress
from poplin.models.covariance import Covariance


class StandIn:
    """The face of `poplin.PLN` over residuals of log(y + 1/2)."""

    ending = "converged"

    def __init__(
        self,
        rank: Any = None,
        covariance: Any = "full",
        basis: Any = None,
        specific: str = "none",
        method: Any = "ml",
        posterior: str = "diagonal",
        shrinkage: Any = "auto",
        formula: str | None = None,
        likelihood: str = "poisson",
        zero_probability: str = "column",
        zero_formula: str | None = None,
        n_init: int = 1,
        max_iter: int | None = None,
        tol: float | None = None,
        callback: Any = None,
        random_state: int = 0,
        checkpoint: Any = None,
        checkpoint_every: int | None = None,
    ) -> None:
        self.params = {name: value for name, value in locals().items() if name not in ("self", "__class__")}

    def get_params(self) -> dict[str, Any]:
        """The settings."""
        return dict(self.params)

    def fit(
        self, Y: Any, y: None = None, *, X=None, offset=None, weights=None, data=None, standard_errors=True
    ) -> StandIn:
        """Moments instead of a fit; tells its progress all the same."""
        start = time.perf_counter()
        counts = as_counts(Y, X=X, offset=offset, weights=weights, data=data, formula=self.params["formula"])
        told = self._tell(start)
        z = np.log(np.nan_to_num(counts.y) + 0.5) - counts.offset
        self.coef_ = np.linalg.lstsq(counts.x, z, rcond=None)[0]
        residual = z - counts.x @ self.coef_
        n, p = z.shape
        left, values, right = np.linalg.svd(residual, full_matrices=False)
        rank = self.params["rank"]
        q = p if rank is None else int(rank)
        self.eigenvalues_ = np.r_[values**2 / n, np.zeros(p)][:q]
        self.components_ = np.linalg.qr(np.c_[right.T, np.eye(p)])[0][:, :q]
        self.loadings_ = None if rank is None else self.components_ * np.sqrt(self.eigenvalues_)
        self.specific_variance_ = self.specific_at_edge_ = None
        self.covariance_ = residual.T @ residual / n
        self.latent_mean_ = residual if rank is None else left[:, :q] * np.sqrt(n)
        self.latent_variance_ = np.full_like(self.latent_mean_, 0.1)
        self.elbo_, self.shrinkage_ = -1234.5, 0.25 if rank is None else 0.0
        self.trace_ = {
            "phase": np.array([step.phase for step in told]),
            "iteration": np.array([step.iteration for step in told]),
            "objective": np.array([step.objective for step in told]),
            "seconds": np.array([step.seconds for step in told]),
        }
        self.counts_, self.n_iter_, self.seconds_ = counts, len(told), time.perf_counter() - start
        self.converged_, self.interrupted_ = self.ending == "converged", self.ending == "interrupted"
        self.messages_ = ("Two chains moved slowly: rows 'a' and 'b'.",)
        return self

    @property
    def sigma_(self) -> Covariance:
        """The same by a root."""
        values, axes = np.linalg.eigh(self.covariance_)
        return Covariance(axes * np.sqrt(np.maximum(values, 0)))

    def _tell(self, start: float) -> list[Progress]:
        told = []
        for phase, total in (("variational start", 12), ("ml", 30)):
            for k in range(1, total + 1):
                objective = -2000.0 - 1000.0 * 0.7**k
                told.append(Progress(phase, k, 2 * total, objective, time.perf_counter() - start))
                if self.params["callback"] is not None:
                    self.params["callback"](told[-1])
        return told

    def save(self, path: Any) -> None:
        """The estimates, as a fit saves them."""
        meta = {"model": "StandIn", "params": json.loads(json.dumps(self.params, default=str))}
        store.write_npz(path, {"coef": self.coef_, "covariance": self.covariance_}, meta)
