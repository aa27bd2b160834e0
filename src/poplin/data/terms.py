"""A formula taken apart: its terms, its offset(...) terms, and a check of every expression in them.

Start at `parse`. An expression is evaluated as Python in the end, and a saved model brings its own, so
`names_in` lets through arithmetic, columns and the functions that formulaic knows, nothing else.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from poplin._errors import InputError
from poplin.data.limits import check_arguments, check_numbers, check_terms, short
from poplin.data.tables import Names, listed

# A factor is (expression, how it is evaluated: "literal", "lookup" or "python"), a term a product of factors.
Factor = tuple[str, str]
Term = tuple[Factor, ...]

_OFFSET = "offset("
# lag looks at neighbouring rows, of which a table of independent rows has none; Q reads a name from a string.
_LEFT_OUT = {"lag", "Q", "np", "contr"}
_ALLOWED_NODES = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
    ast.Call,
    ast.keyword,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Dict,
)


def parse(formula: str, columns: Sequence[str]) -> tuple[tuple[Term, ...], tuple[str, ...]]:
    """The terms of `formula` and the expressions inside its offset(...) terms.

    `columns` are those of the table; `.` stands for all of them. Raises `InputError` for a formula that cannot be read,
    has a response on the left, uses offset(...) inside another term or what the table lacks; where a column's name
    needs backticks and has none, the message shows them.
    """
    try:
        terms, offsets = _parsed(formula, columns)
        columns_in(terms, offsets, columns)
    except InputError as error:
        bare = _without_backticks(formula, columns) if isinstance(formula, str) else []
        if not bare:
            raise
        shown = ", ".join(written(name) for name in bare)
        said = f"{error} A name with spaces, dots or signs stands in backticks: {shown}."
        command = (
            f"{said} Put the whole formula in single quotes then, as in --formula '~ {written(bare[0])}'."
        )
        raise InputError(said, at_command_line=command) from error
    return terms, offsets


def _without_backticks(formula: str, columns: Sequence[str]) -> list[str]:
    """Columns that need backticks and stand in the formula without; the longest where one is part of another."""
    rest = re.sub("`[^`]*`", "``", formula)
    found = []
    for name in sorted((name for name in columns if not name.isidentifier()), key=len, reverse=True):
        if name.strip() and name in rest:
            found.append(name)
            rest = rest.replace(name, "``")
    return found


def _parsed(formula: str, columns: Sequence[str]) -> tuple[tuple[Term, ...], tuple[str, ...]]:
    from formulaic import Formula
    from formulaic.formula import SimpleFormula

    if not isinstance(formula, str):
        raise InputError(
            f"formula is a {type(formula).__name__}; wanted is text such as '~ tree + offset(log(reads))'."
        )
    try:
        check_terms(formula, len(columns))
        parsed = Formula.from_spec(formula, context={"__formulaic_variables_available__": list(columns)})
    except InputError:
        raise
    except Exception as error:  # of syntax, of too many parentheses, of whatever formulaic makes of them
        raise InputError(f"The formula '{short(formula)}' cannot be read: {plain_message(error)}.") from error
    if not isinstance(parsed, SimpleFormula):
        raise InputError(
            f"The formula '{formula}' has a left side or several parts. The counts are the response: write "
            "only the covariates, as in '~ tree + depth'."
        )
    terms, offsets = [], []
    for term in parsed:
        factors = tuple((factor.expr, factor.eval_method.value) for factor in term.factors)
        held = [expression for expression, _ in factors if expression.startswith(_OFFSET)]
        if held and len(factors) > 1:
            raise InputError(
                f"The formula '{formula}' has {held[0]} inside the term '{term}'. An offset stands alone."
            )
        if held:
            offsets.append(held[0][len(_OFFSET) : -1])
        else:
            terms.append(factors)
    return tuple(terms), tuple(offsets)


def plain_message(error: Exception) -> str:
    """The first line of what another library says, without terminal colours."""
    text = re.sub(r"\x1b\[[0-9;]*m|⧛\[[0-9;]*m|⧚|⧛", "", str(error)).strip()
    return (text.splitlines() or [type(error).__name__])[0].rstrip(".")


def written(name: str) -> str:
    """A column as a formula names it: in backticks where it holds more than letters, digits and underscores."""
    return name if name.isidentifier() else f"`{name}`"


def columns_in(terms: Iterable[Term], offsets: Iterable[str], columns: Sequence[str]) -> Names:
    """The columns that the terms and offsets use, each once, in the order of their first use.

    Raises `InputError` when one is not among `columns`, or when an expression does what is not allowed.
    """
    factors = [factor for term in terms for factor in term] + [
        (expression, "python") for expression in offsets
    ]
    used: dict[str, None] = {}
    for expression, how in factors:
        found = (
            () if how == "literal" else (expression,) if how == "lookup" else names_in(expression, columns)
        )
        used.update(dict.fromkeys(found))
    for name in used:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=3, cutoff=0.6)
            near += [longer for longer in columns if longer.startswith(name) and longer not in near]
            hint = f"Did you mean {listed(written(other) for other in near)}? " if near else ""
            raise InputError(
                f"The formula uses '{name}', which the table lacks. {hint}The table has "
                f"{listed(columns, 12)}."
            )
    return tuple(used)


def names_in(expression: str, columns: Sequence[str]) -> Names:
    """The columns used in a Python `expression`, which may hold only arithmetic and known functions."""
    from formulaic.utils.code import sanitize_variable_names

    aliases: dict[str, str] = {}
    try:
        tree = ast.parse(sanitize_variable_names(expression, {}, aliases), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"The expression '{short(expression)}' in the formula cannot be read: {plain_message(error)}."
        ) from error
    check_numbers(tree, expression)
    functions = _functions()
    called: set[int] = set()
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called.add(id(node.func))
            _check_function(node, expression, functions, columns)
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name not in functions:
                raise InputError(f"'{name}' in '{expression}' is not known. {_USE}")
            called.add(id(node.value))
        elif isinstance(node, ast.Name):
            name = aliases.get(node.id, node.id)
            if id(node) not in called and (name in columns or name not in functions):
                found[name] = None
        elif isinstance(node, ast.BitXor):
            mended = re.sub(r" *\^ *", "**", expression)
            raise InputError(f"'^' in '{expression}' is no power inside an expression. Write '{mended}'.")
        elif not isinstance(node, _ALLOWED_NODES):
            raise InputError(f"'{ast.unparse(node)}' in '{expression}' is not allowed in a formula. {_USE}")
    return tuple(found)


_USE = (
    "A formula holds columns, arithmetic and functions such as log, sqrt, center, scale, poly, bs, C, "
    "np.sqrt; compute anything else in the table first."
)


def _check_function(
    call: ast.Call, expression: str, functions: dict[str, Callable[..., Any]], columns: Sequence[str]
) -> None:
    import numpy

    name = ast.unparse(call.func)
    if name not in functions:
        near = difflib.get_close_matches(name, functions, n=3)
        hint = f"Did you mean {listed(near)}? " if near else ""
        raise InputError(f"The function '{name}' in '{expression}' is not known. {hint}{_USE}")
    if name in columns:
        raise InputError(
            f"The column '{name}' hides the function {name}() used in '{expression}'. Rename the column."
        )
    check_arguments(call, expression, plain=isinstance(functions[name], numpy.ufunc))


def _functions() -> dict[str, Callable[..., Any]]:
    """What may be called, by the name under which a formula calls it."""
    import numpy
    from formulaic.transforms import TRANSFORMS, ContrastsRegistry

    ufuncs = {f"np.{name}": value for name, value in vars(numpy).items() if isinstance(value, numpy.ufunc)}
    contrasts = {
        f"contr.{name}": getattr(ContrastsRegistry, name)
        for name in vars(ContrastsRegistry)
        if name[0] != "_"
    }
    known = {name: value for name, value in TRANSFORMS.items() if name not in _LEFT_OUT}
    return known | plain_functions() | ufuncs | contrasts


def plain_functions() -> dict[str, Callable[..., Any]]:
    """Functions that formulaic has only as np.sqrt and the like, by the names that people write."""
    import numpy

    return {"sqrt": numpy.sqrt, "abs": numpy.abs, "log1p": numpy.log1p, "expm1": numpy.expm1}
