"""Tables for people."""

from __future__ import annotations

from app.cli.output import some, table


def test_columns_are_as_wide_as_what_stands_in_them() -> None:
    shown = table(("name", "requests", "note"), [("a", 1234, None), ("longer", None, "x")])
    assert shown.splitlines() == ["name    requests  note", "a          1,234  -", "longer         -  x"]


def test_a_table_without_rows_is_its_head() -> None:
    assert table(("name", "note"), []) == "name  note"


def test_of_many_names_some_are_shown() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some("abcdef") == "a, b, c, d +2"
