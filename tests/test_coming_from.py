"""What the page for people from other packages says of poplin exists: each name, argument and option in its tables.

Start at `test_what_the_tables_name_is_there`. Code in the last column of a table is read as Python: names behind
`poplin`, and behind a `fit`, a `vae` and a `found`, are looked up, and what they are called with has to fit their
signatures. Commands are held by `test_docs.py`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import poplin
from poplin.estimators.compare import Selection

PAGE = Path(__file__).resolve().parents[1] / "docs" / "coming_from.md"
MADE = {"fit": poplin.PLN, "vae": poplin.VAE, "found": Selection, "small": poplin.PLN, "large": poplin.PLN}
DATA = {
    "Y",
    "X",
    "S",
    "H",
    "table",
    "new",
    "other",
    "cells",
    "w",
    "o",
    "g",
    "f",
    "len",
}  # stand for a user's own
TAKES_SETTINGS = (poplin.select, poplin.compare, poplin.tl.pln)  # what they pass on is an argument of `PLN`
RETURNS = {poplin.select: Selection}


def answers(page: str) -> list[str]:
    """Pieces of code in the last columns of the tables of a page."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [code for line in lines for code in re.findall(r"`([^`]+)`", line.rsplit(" | ", 1)[1])]


def member(owner: Any, name: str) -> Any:
    """Of a module, or of a class: its methods and settings, and what a fit adds (None: a plain value)."""
    if inspect.ismodule(owner):
        return getattr(owner, name, None) or importlib.import_module(f"{owner.__name__}.{name}")
    if hasattr(owner, name):
        found = inspect.getattr_static(owner, name)
        return found if callable(found) else None
    attributes = (inspect.getdoc(owner) or "").partition("Attributes:")[2]
    there = (
        re.search(rf"^\s*{name}:", attributes, re.MULTILINE) or name in inspect.signature(owner).parameters
    )
    assert there, f"{owner.__name__} has no {name}"
    return None


def value(node: ast.expr) -> Any:
    """What an expression is: a module, a function, a class that stands for its instances, or None."""
    match node:
        case ast.Name(id="poplin"):
            return poplin
        case ast.Name(id=name):
            assert name in MADE or name in DATA, f"{name} is nothing that the page speaks of"
            return MADE.get(name)
        case ast.Attribute(value=inner, attr=name):
            owner = value(inner)
            return None if owner is None else member(owner, name)
        case ast.Call(func=function, args=args, keywords=keywords):
            called = value(function)
            return (
                None
                if called is None
                else returned(called, function, len(args), [each.arg for each in keywords])
            )
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            value(child)
    return None


def returned(called: Any, function: ast.expr, given: int, names: list[str | None]) -> Any:
    """What a call gives, whose arguments are held against the signature."""
    known = inspect.signature(called)
    method = (
        isinstance(function, ast.Attribute) and not inspect.isclass(called) and "self" in known.parameters
    )
    assert all(names)
    known.bind_partial(*[None] * (given + method), **dict.fromkeys(map(str, names)))
    if called in TAKES_SETTINGS:
        assert {*map(str, names)} <= {*known.parameters, *poplin.PLN().get_params()}
    if inspect.isclass(called):
        return called
    if method and called.__name__ in ("fit", "set_params"):
        return poplin.PLN
    return RETURNS.get(called)


def wrong(code: str) -> str | None:
    """What a piece of code names that is not there."""
    if code.startswith("poplin "):
        return None
    argument = re.fullmatch(r"(\w+)=(.*)", code)
    try:
        if argument:
            takers = [
                poplin.PLN,
                poplin.VAE,
                *(each for _, each in inspect.getmembers(poplin.PLN, inspect.isfunction)),
            ]
            assert any(argument[1] in inspect.signature(each).parameters for each in takers), (
                f"nothing has {code}"
            )
            code = argument[2]
        value(ast.parse(code, mode="eval").body)
    except (AssertionError, AttributeError, ImportError, SyntaxError, TypeError) as error:
        return f"{code}: {error}"
    return None


def test_what_the_tables_name_is_there() -> None:
    codes = answers(PAGE.read_text())
    assert len(codes) > 150
    assert [said for said in map(wrong, codes) if said] == []


def test_what_is_not_there_is_found() -> None:
    told = [
        "poplin.PLNX()",
        "poplin.PLN(covariances=S)",
        "fit.coefs_",
        "fit.confint(bootstrap=9)",
        "poplin.PLN().fit(Y, size=o)",
        "poplin.offsets.upper_quartile(Y)",
        "poplin.plots.embedding(fit, axis=(1, 2))",
        "poplin.select(Y, rank_s=[2]).table",
        "nosuch=1",
        "found.best",
        "mixture.clusters",
    ]
    assert [code for code in told if not wrong(code)] == []
