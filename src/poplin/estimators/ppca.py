"""`PPCA`, probabilistic principal components as users meet them.

Start at `PPCA.fit`. The numbers come from `methods/ppca.py`; the EM runs on the loop that every method shares.
"""

import time
import warnings
from typing import Any, Self

import jax.numpy as jnp
import numpy as np

from poplin import fit as loop
from poplin._errors import ConvergenceWarning, InputError
from poplin._numerics import double_precision
from poplin._random import Purpose, derive
from poplin.data.checks import MOST_COVARIATE, check_weights
from poplin.data.counts import as_new_values, as_positions, as_values, check_size
from poplin.data.sides import row_vector
from poplin.estimators.building import AbstractEstimator, check_settings
from poplin.estimators.keeping import check_model
from poplin.fitting.checkpoints import Settings, by_the_clock, run_resumed
from poplin.inference.summary import OF_A_RUN
from poplin.methods.ppca import ExactEM, Gaussian, Measurements, closed_form, loglik, principal
from poplin.store import read_npz, write_npz

AFTER = ("converged_", "n_iter_", "seconds_", "loglik_")  # what a file keeps of how it ended
SMALLEST = 1e-13  # noise variance, relative to the largest eigenvalue, below which there is none


class PPCA(AbstractEstimator):
    """Probabilistic principal components of a table of measurements.

    x | w ~ N(mu + C w, s2 I), w ~ N(0, I_q): mu `mean_`, C `loadings_`, s2 `noise_variance_`. Signs: each axis's entry
    of largest size is positive. Cost: O(n p^2 + p^3) ("closed"), 2 n p q a step ("em"). Warns `ConvergenceWarning` when
    EM did not settle. Source: Tipping & Bishop (1999), J. R. Stat. Soc. B 61.

    Args:
        n_components: q, from 1 to p - 1.
        method: "closed" (from the eigenvalues of the covariance) or "em" (exact EM, where p is large and q small).
        max_iter: steps of EM at most.
        tol: EM stops when a step changes C and s2 by less than this, relatively.
        callback: called between compiled chunks of EM with `poplin.fit.Progress`.
        random_state: seed of EM's start.
        checkpoint: a file (.npz) of where EM stands, written about once a minute and after Ctrl-C: the same fit goes on
            from it, to the numbers of one that was never stopped; a file of another fit is refused.

    Attributes:
        mean_: mu (p,), in the units of Y.
        loadings_: C in principal axes (p, q).
        components_: orthonormal axes (p, q).
        eigenvalues_: leading eigenvalues of the fitted covariance (q,), divisor n, descending.
        noise_variance_: s2.
        covariance_: C C' + s2 I (p, p).
        loglik_: log-likelihood, nats, weighted sum over rows, higher is better.
        trace_: EM's steps: arrays phase, iteration, objective (nats), seconds; empty for "closed".
        converged_: whether EM settled; True for "closed".
        n_iter_: steps of EM.
        seconds_: that the fit took.
        column_names_: names of the columns.
        n_features_in_: p.

    >>> import numpy as np, poplin
    >>> random = np.random.default_rng(0)
    >>> table = random.normal(size=(50, 2)) @ random.normal(size=(2, 5)) + 0.1 * random.normal(size=(50, 5))
    >>> fit = poplin.PPCA(n_components=2).fit(table)
    >>> fit.loadings_.shape, fit.transform(table).shape, fit.converged_
    ((5, 2), (50, 2), True)
    """

    mean_: np.ndarray
    loadings_: np.ndarray
    components_: np.ndarray
    eigenvalues_: np.ndarray
    noise_variance_: float
    loglik_: float
    trace_: dict[str, np.ndarray]
    converged_: bool
    n_iter_: int
    seconds_: float
    column_names_: tuple[str, ...]
    n_features_in_: int

    def __init__(
        self,
        n_components: int = 2,
        method: str = "closed",
        max_iter: int = 2000,
        tol: float = 1e-10,
        callback: Any = None,
        random_state: int = 0,
        checkpoint: Any = None,
    ) -> None:
        self.n_components = n_components
        self.method = method
        self.max_iter = max_iter
        self.tol = tol
        self.callback = callback
        self.random_state = random_state
        self.checkpoint = checkpoint

    def fit(self, Y: Any, y: Any = None, *, weights: Any = None) -> Self:
        """Fit the model to a table of measurements.

        Args:
            Y: finite numbers (n, p): array, DataFrame, scipy.sparse, AnnData or a path.
            y: ignored; scikit-learn passes it second.
            weights: (n,), how often a row counts; 0 leaves it out. None: 1.

        Returns:
            The estimator itself, with its fitted attributes.

        Raises:
            InputError: entries that are no finite numbers, a q that leaves no dimension to the noise, or fewer
                directions in Y than q + 1.
        """
        began = time.perf_counter()
        check_settings({name: v for name, v in self.get_params().items() if name != "n_components"})
        values = as_values(Y)
        check_size(values, MOST_COVARIATE)
        q = _checked_rank(self.n_components, *values.y.shape)
        if self.method not in ("closed", "em"):
            raise InputError(f"method={self.method!r} is not known to PPCA; it is 'closed' or 'em'.")
        rows = values.row_names if values.named_rows else None
        weight = check_weights(row_vector(weights, "weights", rows, len(values.y), []), values.row_names)
        self.column_names_, self.n_features_in_ = values.column_names, values.y.shape[1]
        self.trace_, self.converged_, self.n_iter_ = {}, True, 0
        data = {"values": values.y, "weights of the rows": weight}
        keeper = by_the_clock(self.get_params() | {"model": "PPCA"}, data)
        began -= 0.0 if keeper is None else keeper.spent
        with double_precision():
            mean, eigenvalues, axes = principal(values.y, weight)
            _check_noise(eigenvalues, q)
            block = Measurements(jnp.asarray(values.y), jnp.asarray(weight))
            if self.method == "closed":
                model = closed_form(mean, eigenvalues, axes, q)
            else:
                settings = Settings(self.max_iter, self.tol, began, self.callback, keeper)
                model = self._em(mean, eigenvalues, block, q, settings)
            self._take(model)
            self.loglik_ = float(weight @ np.asarray(loglik(self._model, block.y)[0]))
        self.seconds_ = time.perf_counter() - began
        if not self.converged_:
            warnings.warn(
                f"EM stopped after {self.n_iter_} steps before C and s2 settled; raise max_iter or use "
                "method='closed'.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _em(self, mean, eigenvalues, block: Measurements, q: int, settings: Settings) -> Gaussian:
        """EM from random loadings of the size of the data."""
        scale = np.sqrt(eigenvalues.mean())
        start = scale * derive(self.random_state, Purpose.MAIN).generator().standard_normal((len(mean), q))
        first = Gaussian(jnp.asarray(mean), jnp.asarray(start), jnp.asarray(scale**2))
        method: Any = ExactEM(jnp.asarray(settings.tol))
        outcome = run_resumed(method, first, block, settings, phase="em")  # type: ignore[arg-type]
        self.trace_ = loop.joined([outcome.trace])
        self.converged_, self.n_iter_ = outcome.converged, len(outcome.trace.objective)
        return outcome.state.model

    def _take(self, model: Gaussian) -> None:
        """Set the attributes from parameters in any rotation: principal axes, signs fixed."""
        loadings = np.asarray(model.loadings)
        axes, singular, _ = np.linalg.svd(loadings, full_matrices=False)
        largest = axes[np.argmax(np.abs(axes), axis=0), np.arange(axes.shape[1])]
        self.components_ = axes * np.where(largest < 0, -1.0, 1.0)
        self.noise_variance_ = float(model.noise)
        self.mean_, self.loadings_ = np.asarray(model.mean), self.components_ * singular
        self.eigenvalues_ = singular**2 + self.noise_variance_

    @property
    def _model(self) -> Gaussian:
        arrays = (self.mean_, self.loadings_, np.asarray(self.noise_variance_))
        return Gaussian(*(jnp.asarray(a) for a in arrays))

    @property
    def covariance_(self) -> np.ndarray:
        """The fitted covariance of a row, C C' + s2 I, (p, p)."""
        return self.loadings_ @ self.loadings_.T + self.noise_variance_ * np.eye(len(self.mean_))

    def _rows(self, Y: Any) -> tuple[np.ndarray, np.ndarray]:
        values = as_new_values(self.column_names_, Y)
        with double_precision():
            value, mean = loglik(self._model, jnp.asarray(values.y))
            return np.asarray(value), np.asarray(mean)

    def transform(self, Y: Any) -> np.ndarray:
        """Posterior means E[w | x] in principal axes.

        Args:
            Y: rows (n, p), with the columns of the fit.

        Returns:
            Positions (n, q).

        Raises:
            InputError: columns are not those of the fit.
        """
        return self._rows(Y)[1]

    def fit_transform(self, Y: Any, y: Any = None, *, weights: Any = None) -> np.ndarray:
        """Fit, then the posterior means of the training rows.

        Args:
            Y: numbers (n, p), as in `fit`.
            y: ignored.
            weights: (n,), as in `fit`.

        Returns:
            Positions (n, q).
        """
        return self.fit(Y, y, weights=weights).transform(Y)

    def inverse_transform(self, W: Any) -> np.ndarray:
        """The mean mu + C w of a row at each latent position.

        Args:
            W: positions (n, q).

        Returns:
            Means (n, p), in the units of Y.
        """
        return self.mean_ + as_positions(W, self.loadings_.shape[1]) @ self.loadings_.T

    def score_samples(self, Y: Any) -> np.ndarray:
        """Exact log-likelihood of each row.

        Args:
            Y: rows (n, p), with the columns of the fit.

        Returns:
            Log-likelihoods (n,), nats, higher is better.

        Raises:
            InputError: columns are not those of the fit.
        """
        return self._rows(Y)[0]

    def score(self, Y: Any, y: Any = None) -> float:
        """Mean of `score_samples`.

        Args:
            Y: rows (n, p), with the columns of the fit.
            y: ignored.

        Returns:
            Nats a row, higher is better.
        """
        return float(np.mean(self.score_samples(Y)))

    def sample(self, n: int, *, random_state: int = 0) -> np.ndarray:
        """Draw rows from the fitted model.

        Args:
            n: number of rows.
            random_state: the seed of the draws.

        Returns:
            Rows (n, p), in the units of Y.
        """
        random = derive(random_state, Purpose.MAIN).generator()
        latent = random.standard_normal((n, self.loadings_.shape[1]))
        noise = random.standard_normal((n, len(self.mean_)))
        return self.inverse_transform(latent) + np.sqrt(self.noise_variance_) * noise

    def save(self, path: Any) -> None:
        """Write the fit to one .npz file (no pickle), whole or not at all.

        Args:
            path: the file; `poplin.load` reads it.

        Raises:
            InputError: the file cannot be written.
        """
        arrays = {"mean": self.mean_, "loadings": self.loadings_, "noise": np.asarray(self.noise_variance_)}
        arrays |= {f"trace_{name}": column for name, column in self.trace_.items()}
        settings = {k: v for k, v in self.get_params().items() if k not in OF_A_RUN}
        meta = {"model": "PPCA", "settings": settings, "columns": list(self.column_names_)}
        write_npz(path, arrays, meta | {"after": {name: getattr(self, name) for name in AFTER}})


def rebuilt_ppca(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> PPCA:
    """A fitted `PPCA` from what `PPCA.save` wrote."""
    check_model(arrays)
    sizes = arrays["mean"].shape, arrays["loadings"].shape[:-1], (len(meta["columns"]),)
    if arrays["noise"] <= 0 or len(set(sizes)) > 1:
        raise InputError("The file's noise or sizes are none that a fit leaves. Fit again.")
    fit = PPCA(**meta["settings"])
    fit._take(Gaussian(arrays["mean"], arrays["loadings"], arrays["noise"]))  # type: ignore[arg-type]
    fit.column_names_, fit.n_features_in_ = tuple(meta["columns"]), len(arrays["mean"])
    fit.trace_ = {k.removeprefix("trace_"): v for k, v in arrays.items() if k.startswith("trace_")}
    vars(fit).update({name: meta["after"][name] for name in AFTER})
    return fit


def load(path: Any) -> PPCA:
    """A fitted `PPCA` from a file that `PPCA.save` wrote."""
    return rebuilt_ppca(*read_npz(path))


def _checked_rank(q: Any, n: int, p: int) -> int:
    if p == 1:
        raise InputError("Y has one column; principal components need at least two. Add columns.")
    if not isinstance(q, int | np.integer) or isinstance(q, bool) or not 1 <= q < p:
        raise InputError(
            f"n_components={q!r}, and Y is {n} x {p}. Give a whole number from 1 to {p - 1}: one dimension at "
            "least must be left to the noise."
        )
    return int(q)


def _check_noise(eigenvalues: np.ndarray, q: int) -> None:
    if np.mean(eigenvalues[q:]) <= SMALLEST * max(eigenvalues[0], np.finfo(float).tiny):
        rank = int(np.sum(eigenvalues > SMALLEST * eigenvalues[0]))
        if rank == 0:
            raise InputError(
                "Y does not vary: all rows (of a weight above 0) are the same, or differ by less than 1e-150. Give "
                "rows that differ, or multiply Y by a constant, as other units do."
            )
        mend = f"Use at most {rank - 1} components, or add" if rank > 1 else "Add"
        raise InputError(
            f"Y varies in {rank} direction{'s' * (rank > 1)} only and n_components={q} takes them all: the noise "
            f"variance would be 0 and the likelihood infinite. {mend} rows that differ."
        )
