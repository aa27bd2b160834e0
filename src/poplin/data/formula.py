"""Covariates from a formula and a table (stub; filled next)."""

from typing import Any, NamedTuple

import numpy as np


class Design(NamedTuple):
    """How a table becomes covariates."""

    formula: str
    covariate_names: tuple[str, ...]


def design(formula: str, table: Any, rows: tuple[str, ...]) -> tuple[Design, np.ndarray, np.ndarray | None]:
    """To come."""
    raise NotImplementedError


def apply(design: Design, table: Any, rows: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """To come."""
    raise NotImplementedError
