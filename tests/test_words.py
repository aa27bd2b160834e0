"""What every public callable says of itself: its parameters, what it returns, what a class keeps of a fit.

Start at `public`, which finds them by looking at the package: whoever adds a public name need not add it here.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import griffe
import pytest

import poplin

PAGES = sorted((Path(__file__).resolve().parents[1] / "docs").rglob("*.md"))
SECTIONS = griffe.DocstringSectionKind


class Public(NamedTuple):
    """A public name and what it stands for."""

    name: str
    thing: Any


def doors() -> Iterator[Public]:
    """What `poplin`, its public modules and those that the pages of the reference show list."""
    modules = {"poplin": poplin} | {f"poplin.{name}": getattr(poplin, name) for name in poplin._MODULES}
    shown = re.findall(r"^::: (\S+)$", "".join(page.read_text() for page in PAGES), re.MULTILINE)
    known = {module.__name__ for module in modules.values()}
    for name in sorted(set(shown) - known):
        with contextlib.suppress(ModuleNotFoundError):  # a class or a function
            modules[name] = importlib.import_module(name)
    for prefix, module in modules.items():
        for name in module.__all__:
            yield Public(f"{prefix}.{name}", getattr(module, name))


def parts_of(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, those that it inherits from another of the package included."""
    for name in dir(kind):
        owner = next((base for base in kind.__mro__ if name in vars(base)), object)
        part = vars(owner).get(name)
        if name.startswith("_") or not owner.__module__.startswith("poplin"):
            continue
        if inspect.isfunction(part) or isinstance(part, property) or hasattr(part, "attrname"):
            yield name, part


def returned(function: Any) -> Iterator[type]:
    """The classes of the package that a function says that it returns."""
    for named in re.findall(r"\w+", inspect.formatannotation(inspect.signature(function).return_annotation)):
        found = getattr(sys.modules[function.__module__], named, None)
        if inspect.isclass(found) and found.__module__.startswith("poplin"):
            yield found


def public() -> dict[str, Public]:
    """Every public class, function, method and property by its name, and the classes of what they return."""
    found: dict[int, Public] = {}  # by what it stands for: a thing may have several names
    left = list(doors())
    while left:
        one = left.pop(0)
        if id(one.thing) in found:
            continue
        found[id(one.thing)] = one
        if inspect.isclass(one.thing):
            left += [Public(f"{one.name}.{name}", part) for name, part in parts_of(one.thing)]
        if inspect.isfunction(function := getattr(one.thing, "fget", getattr(one.thing, "func", one.thing))):
            left += [Public(f"{k.__module__}.{k.__name__}", k) for k in returned(function)]
    return {one.name: one for one in sorted(found.values(), key=lambda one: one.name)}


PUBLIC = public()
FUNCTIONS = {name: one.thing for name, one in PUBLIC.items() if inspect.isfunction(one.thing)}
CLASSES = {name: one for name, one in PUBLIC.items() if inspect.isclass(one.thing)}
PROPERTIES = {name: one.thing for name, one in PUBLIC.items() if name not in FUNCTIONS | CLASSES}


def sections(thing: Any) -> dict[Any, Any]:
    """The sections of a docstring by their kind."""
    text = inspect.getdoc(thing)
    assert text, "no docstring"
    parsed = griffe.Docstring(text).parse("google", warnings=False)
    return {part.kind: part.value for part in parsed}


def described(found: dict[Any, Any], kind: Any) -> list[str]:
    """The names that a section describes, with none that has no words."""
    for part in found.get(kind, ()):
        assert part.description.strip(), f"{part.name} has no words"
    return [part.name.lstrip("*") for part in found.get(kind, ())]


def parameters(thing: Any) -> list[str]:
    """The names of what a function, or the constructor of a class, takes."""
    return [name for name in inspect.signature(thing).parameters if name != "self"]


def test_there_is_something_to_look_at() -> None:
    assert {"poplin.PLN", "poplin.VAE", "poplin.methods.BBVI"} <= set(CLASSES)
    assert {"poplin.PLN.confint", "poplin.offsets.tss", "poplin.plots.khat"} <= set(FUNCTIONS)
    assert "poplin.PLN.loglik_" in PROPERTIES
    assert "poplin.estimators.compare.Selection" in CLASSES


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_and_what_is_returned_is_documented(name: str) -> None:
    function = FUNCTIONS[name]
    found = sections(function)
    assert described(found, SECTIONS.parameters) == parameters(function)
    if str(inspect.signature(function).return_annotation) != "None":
        assert found.get(SECTIONS.returns), "no Returns section"
    if "raise InputError" in inspect.getsource(function):
        assert found.get(SECTIONS.raises), "no Raises section"


@pytest.mark.parametrize("name", CLASSES)
def test_every_setting_and_every_attribute_is_documented(name: str) -> None:
    kind = CLASSES[name].thing
    found = sections(kind)
    if hasattr(kind, "_fields"):
        assert described(found, SECTIONS.attributes) == list(kind._fields)
        return
    if not issubclass(kind, Exception) or "__init__" in vars(kind):
        # in any order: dataclasses have one of their own
        assert set(described(found, SECTIONS.parameters)) == set(parameters(kind))
    stated = {
        one for base in kind.__mro__ for one in getattr(base, "__annotations__", {}) if one.endswith("_")
    }
    stated |= {one for one, part in parts_of(kind) if not inspect.isfunction(part)}
    assert set(described(found, SECTIONS.attributes)) == stated - {"_"}


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_property_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(PROPERTIES[name])


@pytest.mark.parametrize("name", PUBLIC)
def test_it_begins_with_one_line(name: str) -> None:
    first, *rest = (inspect.getdoc(PUBLIC[name].thing) or "").split("\n")
    assert first.endswith((".", ":")) and not (rest and rest[0]), "the first line is no sentence of its own"
