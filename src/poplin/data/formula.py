"""Covariates from a formula and a table, by formulaic, with what is learned kept to code new rows alike.

Start at `design` (rows of a fit) and `apply` (later rows): the same code, once without and once with the
levels and the state of transforms such as center, scale and poly that the `Design` holds. Nothing here
imports pandas or formulaic before it is needed.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from poplin._errors import InputError
from poplin.data.checks import check_exact, check_log_scale
from poplin.data.offsets import doubtful_names, doubtful_values
from poplin.data.readers import read_table
from poplin.data.tables import Names, and_more, as_pandas, is_frame, is_path, listed, more, place
from poplin.data.terms import Term, columns_in, parse, plain_functions, plain_message, written
from poplin.data.textfiles import check_names_groups, is_number

# `Design`: how a table becomes covariates, as plain data that JSON text keeps to the last digit.
#
# Start at `Design`; `formula.py` makes one and applies it. `design_to_json` and `design_from_json` keep it without
# pickle.


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


_FACTOR = "C("

__all__ = ["Design", "apply", "as_frame", "design", "design_from_json", "design_to_json"]


def design(formula: str, table: Any, rows: Names) -> tuple[Design, np.ndarray, np.ndarray | None]:
    """Evaluate `formula` in `table`, a DataFrame of n rows: the design, x (n, d) and its offset (n,).

    The formula brings its own intercept ('~ 0 + ...' leaves it out); offset(...) terms, on the log scale, are
    taken out and added up; without one the offset is None. Text and categories become indicators against
    the first level. `rows` are the names for messages. Raises `InputError` for unknown columns, a response on
    the left, NaN or infinite covariates and whatever formulaic cannot evaluate.

    >>> import pandas
    >>> made, x, added = design("~ tree", pandas.DataFrame({"tree": ["oak", "elm", "oak"]}), ("a", "b", "c"))
    >>> made.covariate_names, x[:, 1]
    (('Intercept', 'tree[T.oak]'), array([1., 0., 1.]))
    """
    names = _column_names(table)
    terms, offsets = parse(formula, names)
    columns: dict[str, tuple[Level, ...] | None] = {}
    for name in columns_in(terms, offsets, names):
        column = _column(table, names, name, rows)
        columns[name] = _levels_of(column, name)
        if columns[name] is not None and column.dtype.kind != "b":
            plain = name in columns_in(_without_factors(terms), offsets, names)
            check_names_groups(column, name, rows, plain=plain)
    blank = Design(formula, (), terms, offsets, columns, {}, {})
    return _evaluate(blank, table, rows)


def apply(design: Design, table: Any, rows: Names) -> tuple[np.ndarray, np.ndarray | None]:
    """Covariates x and offset of later rows, coded with what was learned from the rows of the fit.

    Raises `InputError` as `design` does, and for a level that the fit has not seen.
    """
    names = _column_names(table)
    columns_in(design.terms, design.offsets, names)
    made, x, added = _evaluate(design, table, rows)
    if made.covariate_names != design.covariate_names:
        raise InputError(
            f"The formula '{design.formula}' gives the covariates {listed(made.covariate_names)} for these "
            f"rows; in the fit it gave {listed(design.covariate_names)}."
        )
    return x, added


def doubtful_offsets(design: Design, table: Any, rows: Names) -> list[str]:
    """One sentence on each offset(...) that seems to be an exposure itself and not its logarithm."""
    coded, names = _coded(design, table, rows), _column_names(table)
    told = []
    for expression in design.offsets:
        values = _matrix(design, (((expression, "python"),),), coded)[1]
        logged = re.search(r"\blog", expression)
        looks = doubtful_values(values)
        called = () if logged else doubtful_names(columns_in((), (expression,), names))
        if looks or called:
            why = (
                looks
                or f"holds {listed(called)}, which by the name is an exposure, and takes no logarithm of it"
            )
            told.append(
                f"'offset({expression})' {why}. Offsets are on the log scale: write offset(log({expression})), unless "
                "these are logarithms already."
            )
    return told


def as_frame(data: Any, travelling: Any = None) -> Any:
    """The table of covariates as a DataFrame: `data`, or the one that travels with the counts."""
    if data is None:
        data = travelling
    if data is None:
        raise InputError(
            "A formula needs the table it is evaluated in: pass it as `data` (a DataFrame or a path)."
        )
    if is_path(data):
        data = read_table(data)
    data = as_pandas(data)
    if is_frame(data):
        return data
    import pandas

    if isinstance(data, Mapping):
        try:
            return pandas.DataFrame(dict(data))
        except ValueError as error:
            raise InputError(f"`data` is no table: {error}. Give columns of equal length.") from error
    raise InputError(
        f"`data` is a {type(data).__name__}; wanted is a DataFrame, a mapping of columns or a path."
    )


def _column_names(table: Any) -> Names:
    return tuple(str(name) for name in table.columns)


def _column(table: Any, names: Names, name: str, rows: Names) -> Any:
    """One column of the table, complete; raises by row name where it is not."""
    if names.count(name) > 1:
        raise InputError(f"The table has {names.count(name)} columns named '{name}'. Rename all but one.")
    column = table.iloc[:, names.index(name)].infer_objects()
    if column.dtype.kind == "M":
        column = column.map(_day, na_action="ignore").astype(object)
    missing = column.isna().to_numpy()
    if missing.any():
        where = [rows[i] for i in np.flatnonzero(missing)]
        said = (
            f"The covariate '{name}' is missing (NaN) at the rows {listed(where)}: an empty cell, or a word such as "
            "NA, None or null. Fill it in, or leave these rows or the covariate out."
        )
        if _is_number(column, name):
            raise InputError(said)
        raise InputError(
            f"{said} If it is the name of a level, write it as text, as table['{name}'].fillna('none') does.",
            at_command_line=f'{said} If the word is the name of a level, put it in quotes in the file, "NA", or write '
            "another.",
        )
    return column


def _day(moment: Any) -> str:
    """A date as text tables have it, so that it is one name of a level, whichever file it came from."""
    return str(moment.date() if moment == moment.normalize() else moment)


def _without_factors(terms: tuple[Term, ...]) -> list[Term]:
    """The terms without C(...)."""
    return [tuple(factor for factor in term if not factor[0].startswith(_FACTOR)) for term in terms]


def _is_number(column: Any, name: str) -> bool:
    kind = column.dtype.kind
    if kind in "mc":
        raise InputError(
            f"The covariate '{name}' is of type {column.dtype}. Turn it into a number in the table, as of days."
        )
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
    """The columns that the design uses: numbers, and text as categories with the design's levels."""
    import pandas

    names = _column_names(table)
    # Whole numbers become float64, so that powers do not overflow; not in C(year), where they name levels.
    expressions = [text for term in design.terms for text, _ in term if text.startswith(_FACTOR)]
    counted = columns_in([], expressions, names)
    coded = {}
    for name, levels in design.columns.items():
        column = _column(table, names, name, rows)
        if levels is None:
            if not _is_number(column, name):
                raise InputError(
                    f"The covariate '{name}' holds text{_first_text(column, rows)}; in the fit it held numbers. "
                    "Give numbers."
                )
            whole = name in counted and column.dtype.kind in "iu"
            if not whole:
                check_exact(column.to_numpy(), name, rows, f" If it names groups, write C({written(name)}).")
            coded[name] = column.to_numpy(dtype=np.int64 if whole else np.float64)
            continue
        by_text = {str(level): level for level in levels}
        texts = [str(_level(value)) for value in column]
        new = sorted({text for text in texts if text not in by_text})
        if new:
            where = rows[next(i for i, text in enumerate(texts) if text == new[0])]
            raise InputError(
                f"The covariate '{name}' has the levels {listed(new)} that the fit has not seen (first at "
                f"row '{where}'). Its levels are {listed(levels, 12)}: leave these rows out or fit again."
            )
        coded[name] = pandas.Categorical([by_text[text] for text in texts], categories=list(levels))
    return pandas.DataFrame(coded, index=range(len(table)))


def _first_text(column: Any, rows: Names) -> str:
    places = [i for i, cell in enumerate(column) if not is_number(str(cell))]
    return f", '{column.iloc[places[0]]}' at row '{rows[places[0]]}'{more(len(places))}" if places else ""


def _evaluate(design: Design, table: Any, rows: Names) -> tuple[Design, np.ndarray, np.ndarray | None]:
    """Covariates x, offset, and the design with what was learned on the way (nothing where it was known)."""
    coded = _coded(design, table, rows)
    names, x, state = _matrix(design, design.terms, coded)
    if not names:
        raise InputError(
            f"The formula '{design.formula}' leaves no covariate. Give at least an intercept: '~ 1'."
        )
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
        check_log_scale(values[:, 0], f"'{label}'", rows, None)
        added = added + values[:, 0]
        learned.append(state)
    transforms = {key: from_plain(to_plain(value)) for part, _ in learned for key, value in part.items()}
    levels = {key: value for _, part in learned for key, value in part.items()}
    return design._replace(covariate_names=names, transforms=transforms, levels=levels), x, added


def _matrix(
    design: Design, terms: tuple[Term, ...], coded: Any
) -> tuple[Names, np.ndarray, tuple[dict, dict]]:
    """Names and values of the columns of `terms`, and what formulaic learned: (transforms, levels)."""
    from formulaic.errors import DataMismatchWarning

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("error", DataMismatchWarning)
            matrix = _specification(design, terms).get_model_matrix(coded, context=plain_functions())
    except DataMismatchWarning:
        raise InputError(_unknown_level(design, terms, coded)) from None
    except Exception as error:  # the formula is the user's code: whatever it raises is about the input
        message = f"The formula '{design.formula}' cannot be evaluated: {plain_message(error)}."
        raise InputError(message) from error
    made = matrix.model_spec
    levels = {
        key: tuple(_level(level) for level in state["categories"])
        for key, (_, state) in made.encoder_state.items()
        if "categories" in state
    }
    for key, found in levels.items():
        if len(found) < 2:
            raise InputError(
                f"The covariate '{key}' has a single level, {listed(found)}: it tells no rows apart. Leave "
                "it out."
            )
    values = np.asarray(matrix, dtype=np.float64)
    return tuple(made.column_names), values, (dict(made.transform_state), levels)


def _specification(design: Design, terms: tuple[Term, ...]) -> Any:
    """What formulaic evaluates: the terms, with the state that the design holds (none in a new fit)."""
    from formulaic import ModelSpec
    from formulaic.formula import SimpleFormula
    from formulaic.materializers import NAAction
    from formulaic.parser.types import Factor
    from formulaic.parser.types import Term as FormulaicTerm

    parts: Any = [FormulaicTerm([Factor(text, eval_method=how) for text, how in term]) for term in terms]
    formula: Any = SimpleFormula(parts, _ordering="none")
    here = _expressions(terms)
    categories = {key: {"categories": list(value)} for key, value in design.levels.items() if key in here}
    return ModelSpec(
        formula=formula,
        output="numpy",
        na_action=NAAction.IGNORE,
        transform_state=copy.deepcopy(design.transforms),
        encoder_state={key: (Factor.Kind.CATEGORICAL, value) for key, value in categories.items()},
    )


def _expressions(terms: tuple[Term, ...]) -> set[str]:
    return {text for term in terms for text, _ in term}


def _unknown_level(design: Design, terms: tuple[Term, ...], coded: Any) -> str:
    """The message for a level that C(...) does not know."""
    for expression in _expressions(terms).intersection(design.levels):
        levels = design.levels[expression]
        for name in columns_in([], [expression], tuple(coded.columns)):
            new = sorted(set(coded[name].unique()).difference(levels))
            if new:
                return (
                    f"'{expression}' has the levels {listed(new)} that the fit has not seen. Its levels are "
                    f"{listed(levels, 12)}: leave these rows out or fit again."
                )
    return f"The formula '{design.formula}' leaves out a level that occurs in the table. Name all or none."


def _check_finite(values: np.ndarray, names: Names, rows: Names) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise InputError(
            f"'{names[j]}' is {values[i, j]}{place((i,), rows, None)}{and_more(bad)}. It has to be finite: "
            "check for logarithms of 0, logarithms and roots of less, and divisions by 0, or leave the row out."
        )
