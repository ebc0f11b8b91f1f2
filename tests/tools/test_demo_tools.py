"""What the tools of the demo server compute."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tools.demo_tools import Section, calculated, found, sections, time_in

NOW = datetime(2026, 7, 4, 22, 5, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("timezone", "time"),
    [("UTC", "Saturday, 2026-07-04T22:05:09+00:00"), ("Europe/Paris", "Sunday, 2026-07-05T00:05:09+02:00")],
)
def test_the_clock_knows_time_zones(timezone: str, time: str) -> None:
    assert time_in(timezone, NOW) == time


@pytest.mark.parametrize("timezone", ["Mars/Olympus", "../../etc/passwd", "/etc/passwd", "", "Europe", "a\0b"])
def test_what_is_no_time_zone_is_an_error_in_words(timezone: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        time_in(timezone, NOW)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(17 + 4) * 2", 42),
        (" -3 ** 2", -9),
        ("7 / 2", 3.5),
        ("7 // 2 + 7 % 4", 6),
        ("1.5e3 * +2", 3000.0),
        ("2 ** -2", 0.25),
        ("2 ** 1000 // 2 ** 999", 2),
    ],
)
def test_the_calculator_computes(expression: str, value: float) -> None:
    assert calculated(expression) == value


@given(a=st.integers(-(10**6), 10**6), b=st.integers(-(10**6), 10**6), op=st.sampled_from(["+", "-", "*"]))
def test_the_calculator_agrees_with_python(a: int, b: int, op: str) -> None:
    assert calculated(f"{a} {op} ({b})") == {"+": a + b, "-": a - b, "*": a * b}[op]


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "no expression"),
        ("1 +", "no expression"),
        ("((((", "no expression"),
        ("a", "only numbers"),
        ("True + 1", "only numbers"),
        ("1j * 1j", "only numbers"),
        ("'a' * 9", "only numbers"),
        ("__import__('os').system('true')", "only numbers"),
        ("[1][0]", "only numbers"),
        ("1 if 1 else 2", "only numbers"),
        ("1 << 9", "only numbers"),
        ("1 / 0", "divides by zero"),
        ("1 % 0", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("9 ** 9 ** 9", "too large"),
        ("(2 ** 4000) * (2 ** 4000)", "too large"),
        ("1e308 * 10 ** 400", "too large"),
        ("10.0 ** 400", "too large"),
        ("(-8) ** 0.5", "no real number"),
        ("1" * 201, "longer than"),
    ],
)
def test_what_the_calculator_cannot_compute_is_an_error_in_words(expression: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        calculated(expression)


@given(st.text(max_size=60))
def test_the_calculator_takes_any_text(expression: str) -> None:
    with suppress(ValueError):
        assert isinstance(calculated(expression), int | float)


PAGE = """# Title
Words first.

## Cooldown of channels
```
# no heading
$ channels
```
A failing channel rests.

## Tokens
A token names channels, and channels again.
"""


def test_a_page_has_the_sections_of_its_headings() -> None:
    known = [*sections(PAGE)]
    assert [section.title for section in known] == ["", "Title", "Cooldown of channels", "Tokens"]
    assert "# no heading" in known[2].text
    assert known[2].anchor == "cooldown-of-channels"


def test_the_search_finds_the_section_that_says_most() -> None:
    known = [*sections(PAGE)]
    results = found("channel cooldown", known)
    assert [section.title for _, section in results] == ["Cooldown of channels", "Tokens"]
    assert 1 > results[0][0] > results[1][0] > 0
    assert found("nothing similar", known) == found("", known) == []


def test_a_long_section_is_shortened() -> None:
    ((_, section),) = found("word", [Section("A", "word " * 5000)])
    assert len(section.text) == 1500
