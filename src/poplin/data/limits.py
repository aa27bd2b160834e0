"""Formulas that would not end: terms are counted before they are expanded, whole numbers before they are computed.

Start at `check_terms` for a formula, at `check_numbers` for an expression in it. A formula may come from a file of a
fit, so that a few characters must not ask for hours: `(a + b)**1000000`, `I(9**9**9)`, `poly(x, 1000000)`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from poplin._errors import InputError

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
