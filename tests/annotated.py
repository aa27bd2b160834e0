"""Annotated tables on disk, for tests: `stored` writes one as .h5ad or as a zarr store of either version."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata


def stored(path: Path, held: anndata.AnnData, *, version: int = 3, **options: Any) -> None:
    """Write an AnnData to a zarr store or to .h5ad, as the name says."""
    with (
        anndata.settings.override(zarr_write_format=version, auto_shard_zarr_v3=False),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of formats that are new or will be left: not our matter
        (held.write_zarr if path.suffix == ".zarr" else held.write_h5ad)(path, **options)
