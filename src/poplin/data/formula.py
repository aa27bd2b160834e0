"""Covariates from a formula and a table, by formulaic; plain data remember how, so that new rows are coded alike.

Start at `design` (rows of a fit) and `apply` (later rows). A `Design` holds terms, levels and the state of
transforms such as center, scale and poly; `design_to_json` and `design_from_json` keep it without pickle.
Nothing here imports pandas or formulaic before it is needed.
"""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.tables import Names, and_more, listed, place
from poplin.data.terms import Term, columns_in, parse, plain_message

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


def design(formula: str, table: Any, rows: Names) -> tuple[Design, np.ndarray, np.ndarray | None]:
    """Evaluate `formula` in `table` (a DataFrame of n rows): the design, x (n, d), and the sum of its offsets (n,).

    The formula brings its own intercept ('~ 0 + ...' leaves it out); offset(...) terms, on the log scale, are
    taken out and added up; without one the last value is None. Text and categories become indicators against
    the first level. `rows` are the names for messages. Raises `InputError` for unknown columns, a response on
    the left, NaN or infinite covariates and whatever formulaic cannot evaluate.

    >>> import pandas
    >>> made, x, added = design("~ tree", pandas.DataFrame({"tree": ["oak", "elm", "oak"]}), ("a", "b", "c"))
    >>> made.covariate_names, x[:, 1]
    (('Intercept', 'tree[T.oak]'), array([1., 0., 1.]))
    """
    names = _column_names(table)
    terms, offsets = parse(formula, names)
    used = columns_in(terms, offsets, names)
    columns = {name: _levels_of(_column(table, names, name, rows), name) for name in used}
    blank = Design(formula, (), terms, offsets, columns, {}, {})
    return _evaluate(blank, table, rows)


def apply(design: Design, table: Any, rows: Names) -> tuple[np.ndarray, np.ndarray | None]:
    """x and the offset of later rows, coded with the levels and the state learned from the rows of the fit.

    Raises `InputError` as `design` does, and for a level that the fit has not seen.
    """
    names = _column_names(table)
    columns_in(design.terms, design.offsets, names)
    made, x, added = _evaluate(design, table, rows)
    if made.covariate_names != design.covariate_names:
        raise InputError(
            f"The formula '{design.formula}' gives the covariates {listed(made.covariate_names)} for these rows; in the fit "
            f"it gave {listed(design.covariate_names)}."
        )
    return x, added


def design_to_json(design: Design) -> str:
    """A design as JSON text, exact to the last digit."""
    return json.dumps({"version": 1} | {name: _to_plain(value) for name, value in design._asdict().items()})


def design_from_json(text: str) -> Design:
    """The design that `design_to_json` wrote. Raises `InputError` for any other text."""
    try:
        held = json.loads(text)
        if held.pop("version") != 1:
            raise InputError("The saved design is of a later version of poplin. Update poplin to read it.")
        made = Design(**{name: _from_plain(value) for name, value in held.items()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"The saved design cannot be read: {plain_message(error)}.") from error
    return made


def _to_plain(value: Any) -> Any:
    """JSON with tags for what JSON lacks: arrays, and mappings whose keys are not text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, dict):
        return {"pairs": [[_to_plain(key), _to_plain(item)] for key, item in value.items()]}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist()}
    raise InputError(f"A design that holds a {type(value).__name__} cannot be saved. Use a simpler formula.")


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_plain(item) for item in value)
    if isinstance(value, dict) and "array" in value:
        return np.asarray(value["array"])
    if isinstance(value, dict):
        return {_from_plain(key): _from_plain(item) for key, item in value["pairs"]}
    return value


def _column_names(table: Any) -> Names:
    return tuple(str(name) for name in table.columns)


def _column(table: Any, names: Names, name: str, rows: Names) -> Any:
    """One column of the table, complete; raises by row name where it is not."""
    if names.count(name) > 1:
        raise InputError(f"The table has {names.count(name)} columns named '{name}'. Rename all but one.")
    column = table.iloc[:, names.index(name)].infer_objects()
    missing = column.isna().to_numpy()
    if missing.any():
        where = [rows[i] for i in np.flatnonzero(missing)]
        raise InputError(
            f"The covariate '{name}' is missing (NaN) at the rows {listed(where)}. Fill it in, or leave these rows or the "
            "covariate out."
        )
    return column


def _is_number(column: Any, name: str) -> bool:
    kind = column.dtype.kind
    if kind in "mMc":
        raise InputError(f"The covariate '{name}' is of type {column.dtype}. Turn it into a number, for example days since a date.")
    return kind in "biuf" and column.dtype.name != "category"


def _levels_of(column: Any, name: str) -> tuple[Level, ...] | None:
    """The levels that occur, in their declared or sorted order; None for numbers."""
    if _is_number(column, name):
        return None
    if column.dtype.name == "category":
        levels = [level for level in column.cat.categories if (column == level).any()]
    else:
        levels = sorted(column.unique(), key=lambda level: (isinstance(level, str), level))
    return tuple(_level(level) for level in levels)


def _level(level: Any) -> Level:
    plain = level.item() if isinstance(level, np.generic) else level
    return plain if isinstance(plain, str | int | float | bool) else str(plain)


def _coded(design: Design, table: Any, rows: Names) -> Any:
    """The columns that the design uses, numbers as numbers and text as categories with the design's levels."""
    import pandas

    names = _column_names(table)
    # Whole numbers become float64, so that powers do not overflow, but not in C(year), whose levels they name.
    expressions = [text for term in design.terms for text, _ in term if text.startswith("C(")]
    counted = columns_in([], expressions, names)
    coded = {}
    for name, levels in design.columns.items():
        column = _column(table, names, name, rows)
        if levels is None:
            if not _is_number(column, name):
                raise InputError(f"The covariate '{name}' holds text; in the fit it held numbers. Give numbers.")
            whole = name in counted and column.dtype.kind in "iu"
            coded[name] = column.to_numpy(dtype=np.int64 if whole else np.float64)
            continue
        by_text = {str(level): level for level in levels}
        texts = [str(_level(value)) for value in column]
        new = sorted({text for text in texts if text not in by_text})
        if new:
            where = rows[next(i for i, text in enumerate(texts) if text == new[0])]
            raise InputError(
                f"The covariate '{name}' has the levels {listed(new)} that the fit has not seen (first at row '{where}'). Its "
                f"levels are {listed(levels, 12)}: leave these rows out or fit again."
            )
        coded[name] = pandas.Categorical([by_text[text] for text in texts], categories=list(levels))
    return pandas.DataFrame(coded, index=range(len(table)))


def _evaluate(design: Design, table: Any, rows: Names) -> tuple[Design, np.ndarray, np.ndarray | None]:
    """x and offset, and the design with all that was learned on the way (nothing new where it was known)."""
    coded = _coded(design, table, rows)
    names, x, state = _matrix(design, design.terms, coded)
    if not names:
        raise InputError(f"The formula '{design.formula}' leaves no covariate. Give at least an intercept: '~ 1'.")
    _check_finite(x, names, rows)
    learned = [state]
    added = None
    if design.offsets:
        added = np.zeros(len(rows))
    for expression in design.offsets:
        label, term = f"offset({expression})", (((expression, "python"),),)
        found, values, state = _matrix(design, term, coded)
        if len(found) != 1 or found[0] != expression or any(state[1].values()):
            raise InputError(f"{label} is no single column of numbers. An offset is one number for each row.")
        _check_finite(values, (label,), rows)
        added = added + values[:, 0]
        learned.append(state)
    transforms = {key: _from_plain(_to_plain(value)) for part, _ in learned for key, value in part.items()}
    levels = {key: value for _, part in learned for key, value in part.items()}
    return design._replace(covariate_names=names, transforms=transforms, levels=levels), x, added


def _matrix(design: Design, terms: tuple[Term, ...], coded: Any) -> tuple[Names, np.ndarray, tuple[dict, dict]]:
    """Names and values of the columns of `terms`, and what formulaic learned: (transforms, levels)."""
    from formulaic import Formula, ModelSpec
    from formulaic.errors import DataMismatchWarning
    from formulaic.parser.types import Factor
    from formulaic.parser.types import Term as FormulaicTerm

    here = {text for term in terms for text, _ in term}
    parts = [FormulaicTerm([Factor(text, eval_method=how) for text, how in term]) for term in terms]
    spec = ModelSpec(
        formula=Formula(parts, _ordering="none"),
        output="numpy",
        na_action="ignore",
        transform_state=copy.deepcopy(design.transforms),
        encoder_state={
            key: (Factor.Kind.CATEGORICAL, {"categories": list(value)})
            for key, value in design.levels.items()
            if key in here
        },
    )
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("error", DataMismatchWarning)
            matrix = spec.get_model_matrix(coded, context={})
    except DataMismatchWarning:
        raise InputError(_unknown_level(design, here, coded)) from None
    except Exception as error:  # the formula is the user's code: whatever it raises is about the input
        raise InputError(f"The formula '{design.formula}' cannot be evaluated: {plain_message(error)}.") from error
    made = matrix.model_spec
    levels = {
        key: tuple(_level(level) for level in state["categories"])
        for key, (_, state) in made.encoder_state.items()
        if "categories" in state
    }
    for key, found in levels.items():
        if len(found) < 2:
            raise InputError(f"The covariate '{key}' has a single level, {listed(found)}: it tells no rows apart. Leave it out.")
    return tuple(made.column_names), np.asarray(matrix, dtype=np.float64), (dict(made.transform_state), levels)


def _unknown_level(design: Design, expressions: set[str], coded: Any) -> str:
    """The message for a level that C(...) does not know."""
    for expression in expressions.intersection(design.levels):
        levels = design.levels[expression]
        for name in columns_in([], [expression], tuple(coded.columns)):
            new = sorted(set(coded[name].unique()).difference(levels))
            if new:
                return (
                    f"'{expression}' has the levels {listed(new)} that the fit has not seen. Its levels are "
                    f"{listed(levels, 12)}: leave these rows out or fit again."
                )
    return f"The formula '{design.formula}' leaves out a level that occurs in the table. Name every level, or none."


def _check_finite(values: np.ndarray, names: Names, rows: Names) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise InputError(
            f"'{names[j]}' is {values[i, j]}{place((i,), rows, None)}{and_more(bad)}. It has to be finite: "
            "check for the logarithm of 0, or leave the row out."
        )
