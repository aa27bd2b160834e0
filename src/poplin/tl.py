"""The scverse face: functions on AnnData that write where scanpy looks, as `poplin.tl`.

Start at `pln`; then `scanpy.pp.neighbors(adata, use_rep="X_poplin")` and whatever follows on it.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

import poplin
from poplin._errors import InputError
from poplin.data.offsets import is_name
from poplin.data.tables import CountTable, index_names, listed
from poplin.inference.summary import OF_A_RUN
from poplin.models.covariance import SQUARE_UP_TO

__all__ = ["pln"]

USUAL_RANK = 10
MOST_AXES = 10  # of a direct form


def pln(
    adata: Any,
    *,
    layer: str | None = None,
    formula: str | None = None,
    offset: Any = None,
    rank: Any = USUAL_RANK,
    key_added: str = "poplin",
    **settings: Any,
) -> Any:
    """Fit a Poisson-lognormal model to the counts of an AnnData and write what it found into it.

    Written: obsm["X_poplin"] positions of the rows in principal axes (n, k), of a full Sigma the leading 10;
    varm["poplin_loadings"] (p, k) what one standard deviation of an axis does to a column, varm["poplin_coef"]
    coefficients (p, d), varm["poplin_specific"] (p,) variances of the columns' own, where they are asked for;
    varp["poplin_covariance"] Sigma, up to 2000 columns; uns["poplin"] covariate_names,
    eigenvalues, share (of the residual variance), elbo, converged, settings (JSON), messages, version.

    Args:
        adata: AnnData with raw counts; it is changed in place.
        layer: where the counts are; None: X.
        formula: covariates, evaluated in obs ("~ batch"); None: an intercept.
        offset: a column of obs (log scale), the name of one that is computed ("tss", ...), or numbers; None: 0.
        rank: q, 10 or as many as a small table allows unless given; None fits all of Sigma, "auto" chooses.
        key_added: takes the place of "poplin" in every name.
        settings: others of `poplin.PLN`: specific, method, shrinkage, random_state, ...

    Returns:
        The fit.

    Raises:
        InputError: no AnnData, no such layer or column, or counts that cannot be fitted.

    >>> import anndata, numpy as np, poplin
    >>> cells = anndata.AnnData(np.random.default_rng(0).poisson(3.0, (60, 8)).astype("float32"))
    >>> fit = poplin.tl.pln(cells, rank=2, offset="tss", method="variational")
    >>> cells.obsm["X_poplin"].shape, cells.varm["poplin_loadings"].shape
    ((60, 2), (8, 2))
    """
    if not (hasattr(adata, "obsm") and hasattr(adata, "layers")):
        raise InputError(f"adata is of type {type(adata).__name__}; wanted is an AnnData (else: poplin.PLN).")
    unknown = [name for name in settings if name not in poplin.PLN().get_params()]
    if unknown:
        known = [name for name in poplin.PLN().get_params() if name not in ("rank", "formula")]
        raise InputError(
            f"poplin.tl.pln has no setting {listed(unknown)}; it has layer, formula, offset, rank, key_added and those "
            f"of poplin.PLN: {', '.join(known)}. For weights and clusters, use poplin.PLN and its fit."
        )
    if rank == USUAL_RANK and min(adata.shape) > 0:
        rank = min(rank, *adata.shape)
    fit = poplin.PLN(rank=rank, formula=formula, **settings)
    fit.fit(_counts(adata, layer), offset=_offset(adata, offset))
    _write(fit, adata, key_added)
    return fit


def _counts(adata: Any, layer: str | None) -> CountTable:
    if layer is not None and layer not in adata.layers:
        raise InputError(f"The AnnData has no layer '{layer}'; it has {listed(adata.layers) or 'none'}.")
    values = adata.X if layer is None else adata.layers[layer]
    if values is None:
        raise InputError(
            "The AnnData has no X. Say which layer holds the raw counts, for example layer='counts'."
        )
    return CountTable(values, index_names(adata.obs_names), index_names(adata.var_names), adata.obs)


def _offset(adata: Any, offset: Any) -> Any:
    """A column of obs by its name, else what was given."""
    if not isinstance(offset, str) or (is_name(offset) and offset not in adata.obs.columns):
        return offset
    if offset not in adata.obs.columns:
        raise InputError(
            f"offset='{offset}' is no column of obs, which has {listed(adata.obs.columns, 12) or 'none'}, and none "
            "that is computed (tss, rle, css, gmpr, tmm, wrench)."
        )
    return adata.obs[offset].to_numpy()


def _write(fit: Any, adata: Any, key: str) -> None:
    from importlib.metadata import version

    settings = {name: value for name, value in fit.get_params().items() if name not in OF_A_RUN}
    direct = fit.loadings_ is None
    axes = fit.components_[:, : MOST_AXES if direct else None]
    adata.obsm[f"X_{key}"] = fit.latent_mean_ @ axes if direct else np.asarray(fit.latent_mean_)
    values = np.maximum(fit.eigenvalues_[: axes.shape[1]], 0)
    adata.varm[f"{key}_loadings"] = axes * np.sqrt(values)
    if fit.specific_variance_ is not None:
        adata.varm[f"{key}_specific"] = fit.specific_variance_
    adata.varm[f"{key}_coef"] = np.ascontiguousarray(fit.coef_.T)
    if fit.sigma_.p <= SQUARE_UP_TO:
        adata.varp[f"{key}_covariance"] = fit.covariance_
    adata.uns[key] = {
        "covariate_names": list(fit.counts_.covariate_names),
        "eigenvalues": values,
        "share": values / (fit.sigma_.trace() or 1.0),
        "elbo": float(fit.elbo_),
        "converged": bool(fit.converged_),
        "settings": json.dumps(settings, default=str),
        "messages": [*fit.counts_.notes, *fit.messages_],
        "version": version("poplin"),
    }
