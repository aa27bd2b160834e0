"""A formula taken apart: its terms, its offset(...) terms, and a check of every expression in them.

Start at `parse`. An expression is evaluated as Python in the end, and a saved model brings its own, so
`names_in` lets through arithmetic, columns and the functions that formulaic knows, nothing else.
"""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from poplin._errors import InputError
from poplin.data.tables import Names, listed

# Formulas that would not end: terms are counted before they are expanded, whole numbers before they are computed.
#
# Start at `check_terms` for a formula, at `check_numbers` for an expression in it. A formula may come from a file of
# a fit, so that a few characters must not ask for hours: `(a + b)**1000000`, `I(9**9**9)`, `poly(x, 1000000)`.


MOST_TERMS = 10_000  # that a formula stands for
MOST_CHARACTERS = 50_000
MOST_COLUMNS = 1_000  # of a spline or a polynomial
MOST_BITS = 63  # of a whole number; columns are no longer either
_MAKERS = {"bs", "cc", "cr", "cs", "hashed", "poly"}  # transforms that make as many columns as they are told
_SIZES = {"df", "degree", "levels"}  # by these arguments, or by the second
_ONE_BY_ONE: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_SIGNS: dict[type[ast.unaryop], Callable[[int], int]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
}


def check_terms(formula: str, columns: int) -> None:
    """Raises `InputError` for a formula of more terms than any table has rows for; `columns` is what `.` stands for."""
    from formulaic.parser import DefaultFormulaParser
    from formulaic.parser.types import ASTNode

    if len(formula) > MOST_CHARACTERS:
        raise InputError(
            f"The formula has {len(formula)} characters, and at most {MOST_CHARACTERS} are read. Leave out the "
            "covariates that are not needed, or compute what they stand for in the table."
        )
    order: list[Any] = []
    waiting: list[Any] = [DefaultFormulaParser().get_ast(formula)]
    while waiting:  # a long sum is a deep tree, too deep for a function that calls itself
        if isinstance(node := waiting.pop(), ASTNode):
            order.append(node)
            waiting.extend(node.args)
    many: dict[int, float] = {}
    for node in reversed(order):
        parts = [many.get(id(part), 1.0) for part in node.args]
        many[id(node)] = found = _made(node.operator.symbol, parts, node.args, columns)
        if found > MOST_TERMS:
            raise InputError(
                f"The formula '{short(formula)}' stands for more than {MOST_TERMS} terms. A fit needs more rows than "
                "covariates: write out the terms that matter, or lower the power."
            )


def _made(symbol: str, parts: list[float], written: Any, columns: int) -> float:
    """How many terms an operator makes at most of the terms on its sides."""
    if symbol in ("**", "^"):
        power = str(getattr(written[-1], "token", ""))
        # a power that is no number is refused by formulaic; of one term alone, all products are written out
        times = float(power) if power.isdigit() else 1.0
        return times if parts[0] <= 1 else parts[0] ** min(times, 60.0)
    if symbol in (":", "%in%"):
        return parts[0] * parts[-1]
    if symbol == "*":
        return parts[0] + parts[-1] + parts[0] * parts[-1]
    return sum(parts) if parts else float(columns)


def check_numbers(tree: ast.AST, expression: str) -> None:
    """Raises `InputError` for whole numbers beyond 63 bits, which Python would compute digit by digit without end.

    Also for arithmetic with text or lists, whose products are as long as one likes.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp):
            if isinstance(node.op, ast.LShift | ast.RShift | ast.MatMult):
                raise InputError(
                    f"'{ast.unparse(node)[:80]}' is no arithmetic of a formula. Compute it in the table."
                )
            _whole(node, expression)


def check_arguments(call: ast.Call, expression: str, *, plain: bool) -> None:
    """Raises `InputError` for a transform that is to make thousands of columns, and for options of a `plain` function.

    A plain function is one of NumPy's, whose options let numbers of any length be computed (dtype="O").
    """
    if plain and call.keywords:
        named = call.keywords[0].arg
        raise InputError(
            f"'{named}' in '{short(expression)}' is not known: functions of NumPy take numbers alone."
        )
    given = [*call.args[1:], *(part.value for part in call.keywords if part.arg in _SIZES)]
    for argument in given if ast.unparse(call.func) in _MAKERS else []:
        number = argument.value if isinstance(argument, ast.Constant) else _whole(argument, expression)
        if isinstance(number, int | float) and number > MOST_COLUMNS:
            raise InputError(
                f"'{short(expression)}' asks for {number:.4g} columns; at most {MOST_COLUMNS} are made. Give a "
                "smaller number."
            )


def _whole(node: ast.AST, expression: str) -> int | None:
    """The whole number that an expression of constants is; None where it is anything else."""
    if isinstance(node, ast.Constant):
        found = int(node.value) if isinstance(node.value, int) else None
    elif isinstance(node, ast.UnaryOp):
        inner = _whole(node.operand, expression)
        found = None if inner is None else int(_SIGNS[type(node.op)](inner))
    elif isinstance(node, ast.BinOp):
        for side in (node.left, node.right):
            text = isinstance(side, ast.Constant) and not isinstance(side.value, int | float | complex)
            if text or isinstance(side, ast.List | ast.Tuple | ast.Dict | ast.BoolOp):
                raise InputError(
                    f"'{ast.unparse(side)[:40]}' in '{short(expression)}' is no number to compute with. Compute it "
                    "in the table."
                )
        found = _computed(node, expression)
    else:
        found = None
    if found is not None and found.bit_length() > MOST_BITS:
        raise _too_long(expression)
    return found


def _computed(node: ast.BinOp, expression: str) -> int | None:
    left, right = _whole(node.left, expression), _whole(node.right, expression)
    if left is None or right is None:
        return None
    if isinstance(node.op, ast.Pow) and right >= 0:
        if abs(left) > 1 and right > MOST_BITS:
            raise _too_long(expression)
        return left**right
    if type(node.op) not in _ONE_BY_ONE or (right == 0 and isinstance(node.op, ast.FloorDiv | ast.Mod)):
        return None
    return _ONE_BY_ONE[type(node.op)](left, right)


def _too_long(expression: str) -> InputError:
    return InputError(
        f"'{short(expression)}' holds a whole number of more than {MOST_BITS} bits (2^{MOST_BITS} is 9.2e18). Write "
        "it as a decimal number, 1e20, or give the covariate in another unit."
    )


def short(text: str) -> str:
    """A formula as a message shows it."""
    return text if len(text) <= 80 else f"{text[:77]}..."


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
