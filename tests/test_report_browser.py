"""The report in a real browser, without a network: it opens, says nothing on the console, sorts, searches and points.

Skipped by name where Chromium is not installed; `make test` installs it where it may.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from poplin.report import figures, html, views
from tests import browser
from tests.told import Told

pytestmark = pytest.mark.skipif(browser.programs() is None, reason="needs chromium and chromedriver")
WICKED = [
    "<script>document.title = 'run'</script>",
    "</script><b>",
    "'\"&amp;",
    "<img src=x onerror=alert(1)>",
    "{{ 7*7 }}",
]


@pytest.fixture(scope="module")
def shown() -> Iterator[browser.Browser]:
    """One browser for all."""
    with browser.browsing() as held:
        yield held


def write(folder: Path, n: int = 40, p: int = 30) -> tuple[Path, Any]:
    """A page of a stand-in fit, with names that try to be markup."""
    random = np.random.default_rng(2)
    columns = [*WICKED, *(f"taxon {j}" for j in range(p))][:p]
    rows = [f"leaf {i} <i>" for i in range(n)]
    counts = pandas.DataFrame(random.poisson(4.0, (n, p)), rows, columns)
    data = pandas.DataFrame(
        {"<u>tree": np.resize(["elm", "</script>oak"], n), "age": random.normal(size=n)}, rows
    )
    data["tree"] = data["<u>tree"]
    fit = Told(formula="~ tree + age").fit(counts, data=data)
    page = folder / "report.html"
    colour = views.Colour("<u>tree", data["<u>tree"].to_numpy())
    page.write_text(
        html.page(fit, html.Origin("<script>x</script>.csv", "poplin fit x", colour, data)), encoding="utf-8"
    )
    return page, fit


def column(held: browser.Browser, k: int) -> list[str]:
    """The texts of a column of the table."""
    rows = "[...document.querySelectorAll('#effects tbody tr')]"
    return held.run(f"return {rows}.map((row) => row.cells[arguments[0]].textContent)", k)


def press(held: browser.Browser, head: str) -> None:
    """Click on the head of a column of the table."""
    held.run(
        "[...document.querySelectorAll('#effects th button')].find((b) => b.textContent === arguments[0]).click()",
        head,
    )


def put(held: browser.Browser, choice: str, value: str) -> None:
    """Give a field a value, as typing does."""
    held.run(
        "const f = document.querySelector(arguments[0]); f.value = arguments[1]; f.dispatchEvent(new Event('input'))",
        choice,
        value,
    )


def numbers(texts: list[str]) -> list[float]:
    """Texts as numbers."""
    return [float(text.replace("\N{MINUS SIGN}", "-")) for text in texts]


def test_it_opens_without_a_network_and_in_silence(shown: browser.Browser, tmp_path: Path) -> None:
    page, fit = write(tmp_path)
    shown.open(page)
    assert shown.run("return document.title") == "poplin: <script>x</script>.csv"
    assert (
        shown.run(
            "return performance.getEntriesByType('resource').filter((one) => !one.name.startsWith('data:')).length"
        )
        == 0
    )
    words = shown.run("return document.body.innerText")
    for name in WICKED:
        assert name in words
    assert "leaf" not in shown.run(
        "return [...document.querySelectorAll('i, u')].map((one) => one.textContent).join()"
    )
    assert shown.complaints() == []


def test_the_table_sorts_and_searches(shown: browser.Browser, tmp_path: Path) -> None:
    page, fit = write(tmp_path)
    shown.open(page)
    p = [float(text) for text in column(shown, 5)]
    assert len(p) == fit.coef_.size == 90 and p == sorted(p)
    press(shown, "estimate")
    rising = numbers(column(shown, 2))
    press(shown, "estimate")
    falling = numbers(column(shown, 2))
    assert rising == sorted(rising) and falling == rising[::-1]
    np.testing.assert_allclose(rising, np.sort(fit.coef_.ravel()), atol=6e-4)
    put(shown, "#which", "2")
    assert set(column(shown, 0)) == {"age"} and len(column(shown, 0)) == 30
    put(shown, "#find", "</SCRIPT><B")
    assert column(shown, 1) == ["</script><b>"]
    put(shown, "#find", "no such column")
    assert column(shown, 1) == [] and "0 of 0" in shown.run(
        "return document.getElementById('told').textContent"
    )
    assert shown.complaints() == []


def test_a_row_says_its_name_and_covariates_under_the_pointer(shown: browser.Browser, tmp_path: Path) -> None:
    page, _ = write(tmp_path)
    shown.open(page)
    tip = "const tip = document.getElementById('tip'); return tip.hidden ? '' : tip.innerText"
    assert shown.run(tip) == ""
    last = "#rows-figure svg g circle:last-of-type"  # nothing is drawn over it
    shown.point(last)
    said = shown.run(tip)
    assert said.startswith("leaf 39 <i>") and "<u>tree: </script>oak" in said and "age: " in said
    shown.point("h1")
    assert shown.run(tip) == ""
    dots = "[...document.querySelectorAll('#rows-figure circle')]"
    fills = f"return new Set({dots}.map((dot) => dot.getAttribute('fill'))).size"
    assert shown.run(fills) == 2
    put(shown, "#colour", "age")
    assert shown.run(fills) > 20
    assert "</script>oak" not in shown.run("return document.getElementById('legend').textContent")
    assert shown.complaints() == []


def test_a_hundred_thousand_rows_open_at_once(shown: browser.Browser, tmp_path: Path) -> None:
    page, _ = write(tmp_path, n=100_000, p=6)
    shown.open(page)
    time = shown.run(
        "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd - t.startTime"
    )
    assert time < 3000
    assert shown.run("return document.querySelectorAll('#rows-figure circle').length") == figures.MOST_POINTS
    assert f"{figures.MOST_POINTS} of 100000 rows are drawn" in shown.run("return document.body.innerText")
    assert page.stat().st_size < 2**20
