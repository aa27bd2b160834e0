"""Formulas of a page, written in LaTeX between dollars, become MathML, which browsers draw by themselves.

Start at `on_page_content`. The font they are drawn in travels with the site, with the signs that its pages use; nothing
is loaded from elsewhere. A formula that cannot be read is a warning, which ends a strict build. Used by mkdocs.yml.
"""

from __future__ import annotations

import html
import logging
import re
from importlib.resources import as_file, files
from pathlib import Path
from xml.etree import ElementTree

from fontTools import subset
from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)
TILDE = (
    "<mi>&#x0007E;</mi>",
    "<mo>&#x0223C;</mo>",
)  # what the converter has for "is distributed as", and what is meant
FONT = "assets/math.ttf"
_log = logging.getLogger("mkdocs.hooks.formulas")
_signs: set[str] = set()  # in all formulas of the site


def on_page_content(content: str, *, page, config, files) -> str:
    """The page with MathML where its formulas were."""
    return FORMULA.sub(
        lambda formula: drawn(formula, page.file.src_uri), content
    )


def drawn(formula: re.Match[str], page: str) -> str:
    """A formula as MathML."""
    display = "block" if formula[1] == "div" else "inline"
    mathml = convert(html.unescape(formula[2]), display=display).replace(*TILDE)
    text = "".join(ElementTree.fromstring(mathml).itertext())
    if (
        "\\" in text
    ):  # the converter writes a command that it does not know as it stands
        _log.warning(
            "%s: a formula has a command that latex2mathml does not know: %s",
            page,
            formula[2],
        )
    _signs.update(text)
    return (
        mathml
        if display == "inline"
        else f'<div class="formula">{mathml}</div>'
    )


def on_post_build(*, config) -> None:
    """Write the font."""
    options = subset.Options(layout_features=["*"], notdef_outline=True)
    with as_file(
        files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"
    ) as whole:
        font = subset.load_font(whole, options)
        chosen = subset.Subsetter(options)
        chosen.populate(unicodes=[ord(sign) for sign in _signs | {" "}])
        chosen.subset(font)
        out = Path(config.site_dir) / FONT
        out.parent.mkdir(parents=True, exist_ok=True)
        font.save(out)
