from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.console.sparklines import sparkline
from app.reports.conversations import Contexts, title_of
from app.store.tree_list import TITLE


def _input(*contents: Any, role: str = "user") -> str:
    return orjson.dumps([{"type": "message", "role": role, "content": content} for content in contents]).decode()


@pytest.mark.parametrize(
    ("input", "title"),
    [
        (None, None),
        ("[]", None),
        (_input("fix  the\nflaky test"), "fix the flaky test"),
        (_input([{"type": "input_text", "text": "look"}]), "look"),
        (_input("<environment_context>\ncwd</environment_context>", "move invoices"), "move invoices"),
        (_input("be kind", role="developer"), None),
        (_input([{"type": "input_image", "image_url": "data:"}]), None),
        (_input(" ".join("word" for _ in range(20))), " ".join("word" for _ in range(12)) + "…"),
        (_input("x" * 300), "x" * 80 + "…"),
        (_input(f'say "hi" {"y" * 5000}')[:TITLE], 'say "hi" ' + "y" * 71 + "…"),
        (_input("<b>bold</b> words"), "<b>bold</b> words"),
        (_input("<user_instructions>", "ü" * 5000)[:TITLE], "ü" * 80 + "…"),
    ],
)
def test_a_title_is_the_first_words_of_the_user(input: str | None, title: str | None) -> None:
    assert title_of(input) == title


@pytest.mark.parametrize("cut", range(len('[{"type":"message","role":"user","content":"ab\\u00fc\\"c'), 50, -1))
def test_a_cut_input_is_no_error(cut: int) -> None:
    assert (title_of('[{"type":"message","role":"user","content":"ab\\u00fc\\"c'[:cut]) or "").startswith("a")


def test_a_line_goes_up_with_the_context_and_marks_compactions() -> None:
    drawn = sparkline(Contexts((10, 20, 5), (2,)))
    assert drawn is not None
    assert (drawn.path, drawn.drops) == ("M0.0 9.2L50.0 2.0L100.0 12.9", (100.0,))
    assert sparkline(Contexts((10,), ())) is None
    assert sparkline(Contexts((0, 0), ())) is not None
