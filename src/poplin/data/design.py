"""`Design`: how a table becomes covariates, as plain data that JSON text keeps to the last digit.

Start at `Design`; `formula.py` makes one and applies it. `design_to_json` and `design_from_json` keep it
without pickle.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.tables import Names
from poplin.data.terms import Term, columns_in, plain_message

Level = str | int | float | bool


class Design(NamedTuple):
    """How a table becomes covariates x and an offset: everything that was learned from the rows of the fit.

    `columns`: for each column used, its levels in order, or None for numbers. `transforms` and `levels`: what
    formulaic learned, by expression (means, knots, ...; the categories of C(...) and of text columns).
    """

    formula: str
    covariate_names: Names
    terms: tuple[Term, ...]
    offsets: tuple[str, ...]
    columns: dict[str, tuple[Level, ...] | None]
    transforms: dict[str, Any]
    levels: dict[str, tuple[Level, ...]]


def design_to_json(design: Design) -> str:
    """A design as JSON text, exact to the last digit."""
    return json.dumps({"version": 1} | {name: to_plain(value) for name, value in design._asdict().items()})


def design_from_json(text: str) -> Design:
    """The design that `design_to_json` wrote. Raises `InputError` for any other text."""
    try:
        held = json.loads(text)
        if held.pop("version") != 1:
            raise InputError("The saved design is of a later version of poplin. Update poplin to read it.")
        made = Design(**{name: from_plain(value) for name, value in held.items()})
        columns_in(made.terms, made.offsets, tuple(made.columns))  # what it asks for is evaluated as Python
    except InputError:
        raise
    except Exception as error:  # of whatever class: what was to be text may be anything
        raise InputError(f"The saved design cannot be read: {plain_message(error)}.") from error
    return made


def to_plain(value: Any) -> Any:
    """JSON with tags for what JSON lacks: arrays, and mappings whose keys are not text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {"pairs": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist()}
    raise InputError(f"A design that holds a {type(value).__name__} cannot be saved. Use a simpler formula.")


def from_plain(value: Any) -> Any:
    """What `to_plain` was given; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(from_plain(item) for item in value)
    if isinstance(value, dict) and "array" in value:
        return np.asarray(value["array"])
    if isinstance(value, dict):
        return {from_plain(key): from_plain(item) for key, item in value["pairs"]}
    return value
