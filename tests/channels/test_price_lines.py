"""Prices put into the text of a channel table."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from app.channels.price_lines import NotEditable, with_prices

NEW = "{input: 1, output: 2}"
CASES = {
    "no models": ("a: 1\n", "a: 1\n\nmodels:\n  m:\n    price: {input: 1, output: 2}\n"),
    "no models, no line break": ("a: 1", "a: 1\n\nmodels:\n  m:\n    price: {input: 1, output: 2}\n"),
    "empty models": ("models:  # facts\nb: 1\n", "models:  # facts\n  m: {price: {input: 1, output: 2}}\nb: 1\n"),
    "another model": (
        "models:\n    # on x\n    x: {y: 1}\n",
        "models:\n    m: {price: {input: 1, output: 2}}\n    # on x\n    x: {y: 1}\n",
    ),
    "models in one line": ("models: {x: {y: 1}}\n", "models: {m: {price: {input: 1, output: 2}}, x: {y: 1}}\n"),
    "no models in one line": ("models: {}\n", "models: {m: {price: {input: 1, output: 2}}}\n"),
    "a model": (
        "models:\n  m:  # ours\n    y: 1\n",
        "models:\n  m:  # ours\n    price: {input: 1, output: 2}\n    y: 1\n",
    ),
    "an empty model": ("models:\n  m:\n", "models:\n  m:\n    price: {input: 1, output: 2}\n"),
    "a model in one line": ("models:\n  m: {y: 1}\n", "models:\n  m: {price: {input: 1, output: 2}, y: 1}\n"),
    "a price in one line": (
        "models: {m: {price: {input: 3, output: 4}, y: 1}}  # dear\n",
        "models: {m: {price: [{input: 3, output: 4}, {input: 1, output: 2}], y: 1}}  # dear\n",
    ),
    "a price of lines": (
        "models:\n  m:\n    price:\n      input: 3  # much\n\n      output: 4  # more\n    # below\n    y: 1\n",
        "models:\n  m:\n    price:\n      - input: 3  # much\n\n        output: 4  # more\n"
        "      - {input: 1, output: 2}\n    # below\n    y: 1\n",
    ),
    "a price at the end": (
        "models:\n  m:\n    price:\n      input: 3\n      output: 4",
        "models:\n  m:\n    price:\n      - input: 3\n        output: 4\n      - {input: 1, output: 2}\n",
    ),
    "prices in one line": (
        "models:\n  m:\n    price: [{input: 3, output: 4}]  # dear\n",
        "models:\n  m:\n    price: [{input: 3, output: 4}, {input: 1, output: 2}]  # dear\n",
    ),
    "prices of lines": (
        "models:\n  m:\n    price:\n    - input: 3\n      output: 4  # more\n    # below\n    y: 1\n",
        "models:\n  m:\n    price:\n    - input: 3\n      output: 4  # more\n    - {input: 1, output: 2}\n"
        "    # below\n    y: 1\n",
    ),
}  # fmt: skip


def _prices(text: str) -> list[Any]:
    price = yaml.safe_load(text)["models"]["m"]["price"]
    return price if isinstance(price, list) else [price]


@pytest.mark.parametrize("case", CASES)
def test_a_price_is_added_and_everything_else_stays(case: str) -> None:
    before, after = CASES[case]
    assert with_prices(before, {"m": NEW}) == after
    assert _prices(after)[-1] == {"input": 1, "output": 2}
    # A second price is put behind the first.
    again = with_prices(after, {"m": "{input: 7, output: 8}"})
    assert [price["input"] for price in _prices(again)] == [*(price["input"] for price in _prices(after)), 7]


def test_names_that_yaml_would_misread_are_quoted() -> None:
    names = ["1", "1.5", "yes: no", "it's", "a/b-1.5", "*"]
    read = yaml.safe_load(with_prices("models:\n", dict.fromkeys(names, NEW)))
    assert set(read["models"]) == set(names)


@pytest.mark.parametrize("text", ["{version: 1}", "[]", "models: [m]\n", "models: {m: {price: 3}}\n"])
def test_other_files_are_left_to_their_owner(text: str) -> None:
    with pytest.raises(NotEditable):
        with_prices(text, {"m": NEW})
