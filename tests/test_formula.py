"""Formulas: covariates and offsets from a table, coded alike for new rows, also after a trip through JSON.

`FORMULAS` go through every law; `BAD_FORMULAS` are one clear error each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poplin._errors import InputError
from poplin.data.counts import as_counts
from poplin.data.formula import Design, apply, design, design_from_json, design_to_json

N = 24
ROWS = tuple(f"leaf{i}" for i in range(N))


def table() -> pd.DataFrame:
    """A table with every kind of column: text, category, whole and real numbers, truth values, odd names."""
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "tree": np.array(["oak", "elm", "ash"])[np.arange(N) % 3],
            "infection": pd.Categorical(
                np.array(["low", "high"])[np.arange(N) // 3 % 2], categories=["low", "high", "never seen"]
            ),
            "year": 2001 + np.arange(N) // 2 % 3,
            "height": rng.normal(3, 1, N),
            "reads": rng.integers(1, 10**6, N),
            "dead": np.arange(N) % 5 == 0,
            "leaf area": rng.random(N) + 1,
            "leaf.no": rng.integers(1, 9, N),
            "pH (H2O)": rng.normal(7, 1, N),
            "low-point": rng.random(N),
            "plot": pd.Categorical(np.arange(N) % 4),
            "offset": rng.random(N) + 1,
            "zero": (np.arange(N) != 3) * 1.0,
            "gap": np.where(np.arange(N) == 5, np.nan, 1.0 + np.arange(N)),
            "day": pd.date_range("2020-01-01", periods=N),
        }
    )


FORMULAS = {
    "intercept": "~ 1",
    "empty": "~",
    "without a tilde": "height",
    "number": "~ height",
    "factor": "~ tree",
    "factor without intercept": "~ 0 + tree",
    "category": "~ infection",
    "category of numbers": "~ plot",
    "numbers as levels": "~ C(year)",
    "levels and numbers": "~ C(year) + year",
    "reference": "~ C(tree, Treatment('oak'))",
    "contrasts": "~ C(tree, contr.sum) + C(year, Treatment(2002))",
    "interaction": "~ tree * height",
    "two factors": "~ tree:infection",
    "truth": "~ dead",
    "odd names": "~ `leaf area` + log(`leaf area`) + leaf.no",
    "arithmetic": "~ I(height**2) + {height / reads} + np.sqrt(reads)",
    "plain functions": "~ sqrt(reads) + log1p(`leaf area`) + abs(`low-point`)",
    "power of a large number": "~ I(reads**4)",
    "center": "~ center(height)",
    "scale": "~ scale(height) + standardize(reads)",
    "poly": "~ poly(height, 3)",
    "raw poly": "~ poly(height, 2, raw=True)",
    "splines": "~ bs(height, df=4) + cr(reads, df=3)",
    "knots": "~ cc(height, knots=[2, 3, 4])",
    "one offset": "~ tree + offset(log(reads))",
    "offsets": "~ offset(log(reads)) + offset(scale(offset)) + offset(`leaf area`) + offset(dead)",
}


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_new_rows_are_coded_as_in_the_fit(formula: str) -> None:
    """Any training rows come back as they were, from the design and from its JSON."""
    made, x, offset = design(formula, table(), ROWS)
    restored = design_from_json(design_to_json(made))
    assert restored == made and x.shape == (N, len(made.covariate_names)) and np.isfinite(x).all()
    for rows in ([0], [5, 1], list(range(N))[::-1]):
        for known in (made, restored):
            again, added = apply(known, table().iloc[rows], tuple(ROWS[i] for i in rows))
            assert np.allclose(again, x[rows], rtol=1e-14, atol=0)
            assert (added is None) == (offset is None)
            if added is not None and offset is not None:
                assert np.allclose(added, offset[rows], rtol=1e-14, atol=0)


@given(order=st.permutations(range(N)), formula=st.sampled_from(sorted(FORMULAS.values())))
@settings(max_examples=30, deadline=None)
def test_a_permuted_table_gives_permuted_covariates(order: list[int], formula: str) -> None:
    made, x, _ = design(formula, table(), ROWS)
    turned, y, _ = design(formula, table().iloc[order], tuple(ROWS[i] for i in order))
    assert turned.covariate_names == made.covariate_names
    assert np.allclose(y, x[order], rtol=1e-9, atol=1e-12 * np.abs(x).max())


def test_the_design_is_what_it_says() -> None:
    frame = table()
    made, x, offset = design("~ tree + center(height) + offset(log(reads)) + offset(offset)", frame, ROWS)
    assert made.covariate_names == ("Intercept", "tree[T.elm]", "tree[T.oak]", "center(height)")
    expected = [
        np.ones(N),
        frame["tree"] == "elm",
        frame["tree"] == "oak",
        frame["height"] - frame["height"].mean(),
    ]
    assert np.allclose(x, np.column_stack(expected))
    assert offset is not None and np.allclose(offset, np.log(frame["reads"]) + frame["offset"])
    assert made.columns == {"tree": ("ash", "elm", "oak"), "height": None, "reads": None, "offset": None}


def test_declared_levels_keep_their_order_and_unseen_ones_fall_away() -> None:
    made, _, _ = design("~ infection", table(), ROWS)
    assert made.covariate_names == ("Intercept", "infection[T.high]")


def test_a_dot_stands_for_every_column() -> None:
    frame = table()[["tree", "height"]]
    made, x, _ = design("~ .", frame, ROWS)
    assert made.covariate_names == ("Intercept", "tree[T.elm]", "tree[T.oak]", "height")
    again, _ = apply(made, frame.assign(more=1.0).iloc[:3], ROWS[:3])
    assert np.array_equal(again, x[:3])


def test_new_rows_may_hold_levels_as_numbers_of_another_type() -> None:
    """A csv gives whole numbers where the fit had categories or text of the same look."""
    made, x, _ = design("~ plot", table(), ROWS)
    assert np.array_equal(apply(made, table().astype({"plot": int}), ROWS)[0], x)
    made, x, _ = design("~ C(year)", table(), ROWS)
    assert np.array_equal(apply(made, table().astype({"year": float}), ROWS)[0], x)


BAD_FORMULAS = {
    "response": ("reads ~ tree", ("left side", "only the covariates")),
    "two parts": ("tree | height", ("several parts",)),
    "dangling": ("~ tree +", ("cannot be read",)),
    "bracket": ("~ (tree", ("cannot be read",)),
    "open call": ("~ log(height", ("cannot be read",)),
    "no text": (3, ("int", "text")),
    "unknown column": ("~ tre", ("'tre'", "Did you mean 'tree'?", "'height'")),
    "unknown column in a call": ("~ log(hight)", ("'hight'", "'height'")),
    "unknown function": ("~ foo(height)", ("'foo'", "not known", "log, sqrt")),
    "neighbouring rows": ("~ lag(height)", ("'lag'", "not known")),
    "nothing left": ("~ 0", ("no covariate", "~ 1")),
    "missing": ("~ gap", ("'gap'", "missing (NaN)", "'leaf5'", "Fill it in")),
    "missing in an offset": ("~ offset(gap)", ("'gap'", "'leaf5'")),
    "log of zero": ("~ log(zero)", ("'log(zero)'", "-inf", "'leaf3'")),
    "offset of zero": ("~ offset(log(zero))", ("'offset(log(zero))'", "-inf", "'leaf3'")),
    "logs of negatives": ("~ log(-reads)", ("nan", "'leaf0'", "23 more")),
    "log of text": ("~ log(tree)", ("cannot be evaluated", "log")),
    "offset of text": ("~ offset(tree)", ("offset(tree)", "one number for each row")),
    "offset of splines": ("~ offset(bs(height, df=3))", ("one number for each row",)),
    "offset in a product": ("~ offset(height):tree", ("inside the term", "stands alone")),
    "offset in a call": ("~ log(offset(height))", ("'offset'", "not known")),
    "offset of nothing": ("~ offset()", ("cannot be read",)),
    "dates": ("~ day", ("'day'", "dates", "days since")),
    "a level left out": ("~ C(tree, levels=['oak', 'elm'])", ("leaves out a level",)),
    "one level": ("~ C(I(year * 0))", ("single level", "'C(I(year * 0))'")),
    "a number alone": ("~ log(3)", ("cannot be evaluated",)),
    "attribute": ("~ I(height.values)", ("'height.values'", "not known")),
    "method": ("~ I(height.mean())", ("'height.mean'", "not known")),
    "subscript": ("~ I(height[0])", ("not allowed",)),
    "a power in an expression": ("~ I(height^2)", ("'^'", "I(height**2)")),
    "a name of two words": ("~ leaf area", ("cannot be read", "backticks: `leaf area`")),
    "a name of two words in a call": ("~ tree + log(leaf area)", ("backticks: `leaf area`",)),
    "a name with a dot in a call": ("~ log(leaf.no)", ("'leaf.no'", "backticks: `leaf.no`")),
    "a name with a bracket": ("~ pH (H2O) + tree", ("backticks: `pH (H2O)`",)),
    "a name with a dash": ("~ tree + low-point", ("'low'", "backticks: `low-point`")),
    "the beginning of a name": ("~ pH", ("'pH'", "Did you mean '`pH (H2O)`'?")),
    "comprehension": ("~ I([1 for x in height])", ("not allowed",)),
    "lambda": ("~ I((lambda: 1)())", ("not known",)),
    "code": ("~ {__import__('os').getcwd()}", ("not known",)),
    "code by attributes": ("~ I(np.load('x'))", ("'np.load'", "not known")),
}


@pytest.mark.parametrize(("formula", "words"), BAD_FORMULAS.values(), ids=BAD_FORMULAS)
def test_a_bad_formula_is_one_clear_error(formula: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        design(formula, table(), ROWS)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.endswith(".") and len(message) < 500 and "\n" not in message


def test_a_name_in_backticks_needs_single_quotes_at_the_command_line() -> None:
    """In double quotes, a shell would run what stands in backticks."""
    with pytest.raises(InputError) as caught:
        design("~ leaf area", table(), ROWS)
    assert "--formula '~ `leaf area`'" in caught.value.at_command_line and "--" not in str(caught.value)


BAD_ROWS = {
    "new level": ("~ tree", {"tree": "fir"}, ("'tree'", "'fir'", "'leaf0'", "'ash', 'elm', 'oak'")),
    "new number as level": ("~ C(year)", {"year": 1999}, ("'C(year)'", "'1999'", "'2001', '2002', '2003'")),
    "text for numbers": ("~ height", {"height": "tall"}, ("'height'", "text", "numbers")),
    "missing": ("~ height", {"height": np.nan}, ("'height'", "NaN", "'leaf0'")),
    "infinite": ("~ height", {"height": np.inf}, ("'height'", "inf", "'leaf0'")),
    "beyond the knots": ("~ bs(height, df=4)", {"height": 99.0}, ("cannot be evaluated", "bounds")),
}


@pytest.mark.parametrize(("formula", "changed", "words"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_rows_that_the_design_cannot_code_are_one_clear_error(
    formula: str, changed: dict[str, Any], words: tuple[str, ...]
) -> None:
    made, _, _ = design(formula, table(), ROWS)
    with pytest.raises(InputError) as caught:
        apply(made, table().assign(**changed), ROWS)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    with pytest.raises(InputError, match="lacks"):
        apply(made, table().drop(columns=list(changed)), ROWS)


def test_columns_of_one_name_are_told_apart_only_by_renaming() -> None:
    frame = pd.concat([table()[["tree"]], table()[["tree"]]], axis=1)
    with pytest.raises(InputError, match="2 columns named 'tree'"):
        design("~ tree", frame, ROWS)


def test_a_column_that_hides_a_function_is_named() -> None:
    with pytest.raises(InputError, match="'log' hides the function"):
        design("~ log(height)", table().assign(log=1.0), ROWS)


SPOILED = {
    "no JSON": lambda text: text[:-5],
    "a list": lambda text: "[1]",
    "later version": lambda text: text.replace('"version": 1', '"version": 9'),
    "a part missing": lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "terms"}),
    "a part too many": lambda text: json.dumps(json.loads(text) | {"more": 1}),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_spoiled_design_is_one_clear_error(spoil: Any) -> None:
    with pytest.raises(InputError, match="saved design"):
        design_from_json(spoil(design_to_json(design("~ tree", table(), ROWS)[0])))


def test_a_saved_design_runs_no_code() -> None:
    made: Design = design("~ I(height)", table(), ROWS)[0]
    text = design_to_json(made).replace("I(height)", "__import__('os').getcwd()")
    with pytest.raises(InputError, match="not known"):
        apply(design_from_json(text), table(), ROWS)


def test_a_real_table(shared_data: Path) -> None:
    counts = as_counts(shared_data / "oaks.npz", formula="~ tree + offset(log(readsTOTfun))")
    assert counts.covariate_names == ("Intercept", "tree[T.resistant]", "tree[T.susceptible]")
    with np.load(shared_data / "oaks.npz") as held:
        assert np.array_equal(counts.x[:, 2], held["cov_tree"] == "susceptible")
        assert np.allclose(counts.offset, np.log(held["cov_readsTOTfun"])[:, None])


@pytest.mark.parametrize(("name", "near"), [("sqroot", "'sqrt'"), ("Log", "'log'"), ("centre", "'center'")])
def test_a_function_by_nearly_its_name_is_offered(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' in .* is not known. Did you mean {near}"):
        design(f"~ {name}(height)", pd.DataFrame({"height": [1.0, 2, 3, 5]}), ("a", "b", "c", "d"))


MOMENTS = {
    "days": pd.Timestamp("2024-03-31"),
    "hours": pd.Timestamp("2024-03-31 12:30"),
    "of a zone": pd.Timestamp("2024-03-31", tz="UTC"),
}


@pytest.mark.parametrize("first", MOMENTS.values(), ids=MOMENTS)
def test_moments_are_levels_as_in_a_text_table(first: pd.Timestamp) -> None:
    """Later rows find their level although all of theirs are at midnight."""
    frame = pd.DataFrame({"day": [first, first + pd.Timedelta("36h")] * 4})
    rows = tuple(f"r{i}" for i in range(8))
    made, x, _ = design("~ C(day)", frame, rows)
    assert x[:, 1].tolist() == [0.0, 1.0] * 4
    again, _ = apply(made, frame.iloc[1:2], rows[1:2])
    assert again.tolist() == [[1.0, 1.0]]
    with pytest.raises(InputError, match=r"'day' holds dates, '2024-03-31.*C\(day\)"):
        design("~ day", frame, rows)


def test_spans_of_time_are_told_to_be_no_numbers() -> None:
    with pytest.raises(InputError, match="'span' is of type timedelta64"):
        design("~ span", pd.DataFrame({"span": pd.to_timedelta([1, 2, 3], unit="D")}), ("a", "b", "c"))


@pytest.mark.parametrize("largest", [2**53 + 1, -(2**53) - 1, 2**62])
def test_whole_numbers_that_would_be_rounded_are_refused(largest: int) -> None:
    frame = pd.DataFrame({"number": [1, largest, 3, 4]})
    rows = ("a", "b", "c", "d")
    with pytest.raises(InputError, match=rf"'number' is {largest} at row 'b'.*C\(number\)"):
        design("~ number", frame, rows)
    for X in (frame, frame.to_numpy()):
        with pytest.raises(InputError, match=rf"is {largest} at row .*2\^53"):
            as_counts(np.ones((4, 2)), X=X)
    assert design("~ number", frame.replace(largest, 2**53), rows)[1][1, 1] == 2.0**53
    assert design("~ C(number)", pd.DataFrame({"number": [1, 1, largest, largest]}), rows)[1].shape == (4, 2)
