"""The demo model answers from its input alone: it remembers the user's statements there and stores nothing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.formats import demo


def answer(*items: dict[str, Any] | str) -> str:
    """A string stands for a user message."""
    given = [{"type": "message", "role": "user", "content": item} if isinstance(item, str) else item for item in items]
    status, parts = demo.serve("/responses", orjson.dumps({"model": "demo", "input": given}))
    assert status == 200
    return str(orjson.loads(b"".join(parts))["output"][0]["content"][0]["text"])


@pytest.mark.parametrize(
    ("fact", "question", "answered"),
    [
        ("My name is Ada.", "What is my name?", "Your name is Ada."),
        ("hello, my name is Grace Hopper, and yours?", "what's my name", "Your name is Grace Hopper."),
        (
            "My favourite  colour is dark\tblue!",
            "So: what is my favourite colour?",
            "Your favourite colour is dark blue.",
        ),
        ("My name is Zoë. My dog is Rex.", "What was my dog?", "Your dog is Rex."),
    ],
)
def test_it_recalls_facts_of_the_user(fact: str, question: str, answered: str) -> None:
    assert answer(fact, question) == answered


def test_the_newest_word_counts_and_only_the_users() -> None:
    model = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "My name is Demo."}]}
    parts = {"role": "user", "content": [{"type": "input_text", "text": "Sorry, my name is Grace."}]}
    assert answer("My name is Ada.", parts, model, "What is my name?") == "Your name is Grace."


def test_it_makes_nothing_up() -> None:
    assert "You said: What is my name?" in answer("What is my name?")
    assert "You said: What is my age?" in answer("My name is Ada.", "What is my age?")


def test_it_still_knows_facts_after_a_compaction() -> None:
    items = [{"role": "user", "content": "My name is Ada."}, {"type": "compaction_trigger"}]
    _, parts = demo.serve("/responses", orjson.dumps({"model": "demo", "input": items}))
    (item,) = orjson.loads(b"".join(parts))["output"]
    assert answer(item, "What is my name?") == "Your name is Ada."
    for seal in ("demo:", "demo:!", "demo:bm8=", "demo:WzFd", "other"):
        assert "What is my name?" in answer({"type": "compaction", "encrypted_content": seal}, "What is my name?")


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_any_words_are_answered(texts: list[str]) -> None:
    assert answer(*texts, "What is my name?")


CALCULATOR: dict[str, Any] = {
    "type": "function",
    "name": "calculator",
    "parameters": {
        "type": "object",
        "properties": {"digits": {"type": "integer"}, "note": {"type": "string"}, "expression": {"type": "string"}},
        "required": ["expression"],
    },
}


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("Calculator: (17 + 4) * 2", {"expression": "(17 + 4) * 2"}),
        ("Please use the calculator:\t6*7 \nThank you.", {"expression": "6*7"}),
        ("What does the calculator say?", {"expression": "demo"}),
        ("calculator:", {"expression": "demo"}),
    ],
)
def test_the_words_behind_a_tools_name_are_its_argument(said: str, arguments: dict[str, Any]) -> None:
    body = {"model": "demo", "input": [{"role": "user", "content": said}], "tools": [CALCULATOR]}
    _, parts = demo.serve("/responses", orjson.dumps(body))
    (call,) = orjson.loads(b"".join(parts))["output"]
    assert (call["type"], call["name"], orjson.loads(call["arguments"])) == ("function_call", "calculator", arguments)


@pytest.mark.parametrize(
    "parameters",
    [None, {}, {"type": "object", "properties": {"n": {"type": "integer"}}}, {"type": "object", "properties": 7}],
)
def test_a_tool_without_text_arguments_is_called_all_the_same(parameters: Any) -> None:
    tool = {"type": "function", "name": "f(", "parameters": parameters}
    body = {"model": "demo", "input": [{"role": "user", "content": "f(: words"}], "tools": [tool]}
    _, parts = demo.serve("/responses", orjson.dumps(body))
    (call,) = orjson.loads(b"".join(parts))["output"]
    assert "words" not in call["arguments"]
