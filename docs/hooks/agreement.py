"""What the text of a page says in numbers is what its code says or prints; else the build ends.

Start at `missing`. Looked at are the pages whose code runs. In their paragraphs and lists, every number with a decimal
point, every "14 of 15" and every "46 %" (but for the 95 % of intervals) has to be found in the code or its output.
Other processors round sums otherwise, chains accept other moves by their last bits, and estimates end a tenth of a
standard error elsewhere: so numbers may differ by a few units of their last digit, and counts and percentages by two.
A paragraph that leads to where its numbers were measured (a link to benchmarks or studies) is left out, and so are
tables. Used by mkdocs.yml.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser

DECIMAL = re.compile(r"(?<![\w.^])[-\u2212]?\d+\.\d+(?![\w.]\d)")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?")
PERCENT = re.compile(r"(?<![\w.])(\d+) %")
SHARE = re.compile(r"\b(\d+) of (?:the )?(\d+)\b")
UNITS = 5.5  # of the last digit
COUNTS = 2
_log = logging.getLogger("mkdocs.hooks.agreement")


class Told(HTMLParser):
    """A page, parted: `code` and what it prints, `paragraphs` of text, each with the links in it."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.code, self.paragraphs, self.links = [], [], []
        self._inside: list[str] = []
        self.feed(content)

    def handle_starttag(
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:
        if tag in ("p", "li"):
            self.paragraphs.append("")
            self.links.append("")
        if tag == "a" and self.links:
            self.links[-1] += f" {dict(attrs).get('href')}"
        if tag in ("pre", "code", "table", "math", "p", "li", "annotation"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "pre" in self._inside:
            self.code.append(data)
        elif set(self._inside) & {"p", "li"} and not set(self._inside) & {
            "code",
            "table",
            "math",
        }:
            self.paragraphs[-1] += data


def on_page_content(content: str, *, page, config, files) -> None:
    """Warn of each paragraph with numbers that the code has not."""
    for paragraph, numbers in missing(content):
        start = " ".join(paragraph.split())[:60]
        _log.warning(
            "%s says %s, which its code neither has nor prints: '%s...'",
            page.file.src_uri,
            ", ".join(numbers),
            start,
        )


def missing(content: str) -> Iterator[tuple[str, list[str]]]:
    """The paragraphs with numbers that are not in the code or its output, and these numbers."""
    if '<div class="result"' not in content:
        return
    told = Told(content)
    code = "".join(told.code)
    numbers = [float(number) for number in NUMBER.findall(code)]
    shares = [(int(few), many) for few, many in SHARE.findall(code)]
    percents = [int(each) for each in re.findall(r"(\d+)%", code)]
    percents += [round(100 * number) for number in numbers if abs(number) < 1]
    for paragraph, links in zip(told.paragraphs, told.links, strict=True):
        if "benchmarks/" in links or "studies/" in links:
            continue
        lacks = [
            number
            for number in DECIMAL.findall(paragraph)
            if not near(number, numbers)
        ]
        lacks += [
            f"{few} of {many}"
            for few, many in SHARE.findall(paragraph)
            if not close(few, [each for each, all_ in shares if all_ == many])
        ]
        lacks += [
            f"{percent} %"
            for percent in PERCENT.findall(paragraph)
            if percent not in ("95", "100") and not close(percent, percents)
        ]
        if lacks:
            yield paragraph, lacks


def close(count: str, counts: list[int]) -> bool:
    """Whether one of the counts is this one, or nearly."""
    return any(abs(other - int(count)) <= COUNTS for other in counts)


def near(number: str, numbers: list[float]) -> bool:
    """Whether one of the numbers is this one, as it is rounded here."""
    number = number.replace("\u2212", "-")
    unit = 10.0 ** -len(number.partition(".")[2])
    return any(
        abs(abs(other) - abs(float(number))) < UNITS * unit for other in numbers
    )
