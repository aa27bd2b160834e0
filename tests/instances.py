"""The table of instances: small seeded tables and the models that are fitted to them.

Start at `TABLES` (plain, weighted, missing, empty column) and `MODELS` (every shape of Sigma, rank, basis): a law is
checked over both. All tables have one shape, so that a compiled fit serves them all; `fitted` keeps every fit.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, NamedTuple

import numpy as np

import poplin
from poplin._numerics import double_precision
from poplin.data.blocks import Block, as_block
from poplin.data.counts import as_counts
from poplin.fitting.phases import with_shrinkage
from poplin.fitting.recipes import Recipe, recipe

ROWS, COLUMNS, RANK = 40, 4, 2
KAPPA_WEIGHT = 0.2  # shrinkage of the shrunk model


class Table(NamedTuple):
    """Counts y (n, p) with x (n, d), offset (n, p), weights (n,), and the Z (n, p), B, C they were drawn from."""

    y: np.ndarray
    x: np.ndarray
    offset: np.ndarray
    weights: np.ndarray
    latent: np.ndarray
    coef: np.ndarray
    loadings: np.ndarray

    def arguments(self) -> dict[str, Any]:
        """What `PLN.fit` takes."""
        return {"Y": self.y, "X": self.x, "offset": self.offset, "weights": self.weights}

    def rows(self, index: Any) -> Table:
        """The table of these rows."""
        return self._replace(**{name: getattr(self, name)[index] for name in ("y", "x", "offset", "weights")})

    def columns(self, index: Any) -> Table:
        """The table of these columns."""
        return self._replace(
            y=self.y[:, index],
            offset=self.offset[:, index],
            latent=self.latent[:, index],
            coef=self.coef[:, index],
            loadings=self.loadings[index],
        )


def simulated(
    seed: int, loadings: np.ndarray, *, n: int = ROWS, level: float = 2.0, offsets: float = 0.0
) -> Table:
    """Counts drawn from the model with an intercept, one covariate and these loadings (p, q)."""
    random = np.random.default_rng(seed)
    p, q = loadings.shape
    x = np.column_stack([np.ones(n), random.normal(size=n)])
    coef = np.vstack([np.full(p, level), 0.4 * random.normal(size=p)])
    offset = offsets * random.normal(size=(n, p))
    latent = x @ coef + random.normal(size=(n, q)) @ loadings.T
    y = random.poisson(np.exp(offset + latent)).astype(float)
    return Table(y, x, offset, np.ones(n), latent, coef, loadings)


def autoregressive(p: int, correlation: float) -> np.ndarray:
    """Sigma_jk = correlation^|j - k|."""
    return correlation ** np.abs(np.subtract.outer(np.arange(p), np.arange(p)))


def orthonormal(p: int, q: int) -> np.ndarray:
    """Some V (p, q) with orthonormal columns."""
    return np.linalg.qr(np.random.default_rng(7).normal(size=(p, q)))[0]


LOADINGS = np.linalg.cholesky(0.6 * autoregressive(COLUMNS, 0.6))
BASIS = orthonormal(COLUMNS, RANK)


def _tables() -> dict[str, Table]:
    plain = simulated(1, LOADINGS)
    weighted = simulated(2, LOADINGS, offsets=0.3)
    weighted = weighted._replace(weights=np.tile([1.0, 2.0, 0.5, 0.0], ROWS // 4))
    missing = simulated(3, LOADINGS, offsets=0.3)
    missing.y[np.random.default_rng(4).random(missing.y.shape) < 0.15] = np.nan
    empty = simulated(5, LOADINGS, offsets=0.3)
    empty.y[:, 2] = 0
    return {"plain": plain, "weighted": weighted, "missing": missing, "empty column": empty}


def _doubled() -> Table:
    """A table whose last row is a copy of row 3."""
    table = simulated(31, LOADINGS, offsets=0.3)
    table.y[3, 1] = np.nan
    return table.rows(np.r_[: ROWS - 1, 3])


TABLES = _tables()
DOUBLED = _doubled()

MODELS: dict[str, dict[str, Any]] = {
    "full": {"shrinkage": 0},
    "shrunk": {"shrinkage": KAPPA_WEIGHT},
    "diagonal": {"covariance": "diagonal"},
    "spherical": {"covariance": "spherical"},
    "fixed": {"covariance": 0.6 * autoregressive(COLUMNS, 0.5)},
    "rank": {"rank": RANK},
    "basis": {"basis": BASIS},
    "rank and specific": {"rank": 1, "specific": "column"},
    "basis and specific": {"basis": BASIS, "specific": "column"},
}


def settings_of(model: str, columns: Any = slice(None)) -> dict[str, Any]:
    """The settings of a model for a table whose columns were chosen or reordered."""
    settings = dict(MODELS[model])
    if model == "fixed":
        settings["covariance"] = settings["covariance"][columns][:, columns]
    if "basis" in settings:
        settings["basis"] = settings["basis"][columns]
    return settings


DIRECT = ("full", "shrunk", "diagonal", "spherical", "fixed", "rank and specific", "basis and specific")

METHODS: dict[str, dict[str, Any]] = {
    "variational": {"method": "variational"},
    "full posterior": {"method": "variational", "posterior": "full"},
    "ml": {"method": "ml"},
}


def recipe_of(model: str, table: Table) -> Recipe:
    """The objects that the settings of a model stand for."""
    settings = {"covariance": "full", "rank": None, "basis": None, "specific": "none"}
    settings |= {name: value for name, value in MODELS[model].items() if name in settings}
    weight = MODELS[model].get("shrinkage", 0)
    with double_precision(), warnings.catch_warnings():
        warnings.simplefilter("ignore", poplin.DataWarning)
        made = recipe(as_counts(**table.arguments()), **settings)
        return with_shrinkage(made, weight / (1 - weight) * table.weights.sum())


def block_of(table: Table) -> Block:
    """The table on the device, as a fit sees it."""
    with double_precision():
        return as_block(table.y, table.x, table.offset, table.weights)


def fit(table: Table, **settings: Any) -> Any:
    """Fit, and let only what a law is about be a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poplin.DataWarning)
        return poplin.PLN(**settings).fit(**table.arguments())


@cache
def fitted(model: str, method: str, table: str = "plain", seed: int = 0) -> Any:
    """The fit of a model to a table, made once."""
    return fit(TABLES[table], **MODELS[model], **METHODS[method], random_state=seed)
