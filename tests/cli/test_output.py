"""Tables for people."""

from __future__ import annotations

from app.cli.output import clipped, counted, moment, pairs, some, table


def test_columns_are_as_wide_as_what_stands_in_them() -> None:
    shown = table(("name", "requests", "note"), [("a", 1234, None), ("longer", None, "x")])
    assert shown.splitlines() == ["name    requests  note", "a          1,234  -", "longer         -  x"]


def test_a_table_without_rows_is_its_head() -> None:
    assert table(("name", "note"), []) == "name  note"


def test_of_many_names_some_are_shown() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some("abcdef") == "a, b, c, d +2"


def test_pairs_stand_below_each_other_and_keep_their_lines() -> None:
    assert pairs([("a", None), ("longer", "x\ny"), ("n", 1234)]) == "a       -\nlonger  x\n        y\nn       1,234"


def test_stored_text_cannot_control_the_terminal() -> None:
    shown = [table(("a",), [("\x1b[2J",)]), pairs([("a\x07", "\x1b]0;t\x07")]), clipped("a\r\x1b[1mb", 20)]
    assert not any(letter in line for letter in "\x1b\x07\r" for line in shown)


def test_long_text_is_cut_to_one_line() -> None:
    assert clipped("a\n  b", 10) == "a b"
    assert clipped("x" * 10, 10) == "x" * 10
    assert clipped("x" * 11, 10) == "x" * 9 + "…"
    assert clipped("x y " * 1000, 10) == "x y x y x…"


def test_one_thing_is_singular() -> None:
    assert [counted(count, "token") for count in (0, 1, 2, 1000)] == ["0 tokens", "1 token", "2 tokens", "1,000 tokens"]


def test_a_time_is_shown_in_utc() -> None:
    assert moment(1_795_356_764) == "2026-11-22 14:12"
    assert moment(None) is None
