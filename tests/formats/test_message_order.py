"""The order of strict templates, and that nothing is lost by it. The rules are those of the templates themselves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from app.contract.items import Item
from app.formats import chat_completions, responses
from tests.formats.conversations import row, turn

JSON = dict[str, Any]
IMAGE: JSON = {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"}

words = st.text("abcxyz", min_size=1, max_size=4)
roles = st.sampled_from(["user", "user", "assistant", "system", "developer"])
contents = st.one_of(words, st.just([{"type": "input_text", "text": "seen"}, IMAGE]))


@st.composite
def conversations(draw: st.DrawFn) -> list[Item]:
    """Any sequence of messages, reasoning and answered calls, in any order that the gateway accepts."""
    items: list[Item] = []
    waiting: list[str] = []
    for number, step in enumerate(draw(st.lists(st.sampled_from(["say", "call", "answer", "think"]), max_size=12))):
        if step == "say":
            role = draw(roles)
            content = draw(contents) if role == "user" else draw(words)
            items.append({"type": "message", "role": role, "content": content})
        elif step == "call":
            waiting.append(f"call_{number}")
            items.append({"type": "function_call", "call_id": waiting[-1], "name": "look", "arguments": "{}"})
        elif step == "think":
            content = [{"type": "reasoning_text", "text": draw(words)}]
            items.append({"type": "reasoning", "id": f"rs_{number}", "summary": [], "content": content})
        elif waiting:
            items.append(_output(waiting.pop(0), draw(contents)))
    return [*items, *(_output(call_id, "late") for call_id in waiting)]


def _output(call_id: str, output: Any) -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def check_roles(roles: Sequence[str], calling: Sequence[bool]) -> None:
    """`calling`: whether the message makes calls, or is about them. The first is Mistral's template's rule, the second
    and the third Gemma's."""
    assert "system" not in roles[1:]
    said = roles[1:] if roles[0] == "system" else roles
    for before, after in pairwise(said):
        assert (before, after) not in {("tool", "user"), ("user", "user"), ("user", "tool")}
    plain = [role for role, calls in zip(roles, calling, strict=True) if role in ("user", "assistant") and not calls]
    assert all(before != after for before, after in pairwise(plain))
    assert said[0] == "user"
    assert said[-1] in ("user", "tool")


@given(conversations(), st.sampled_from(["merge", "keep", "user"]), st.sampled_from(["user", "tool"]), st.booleans())
def test_any_conversation_is_in_a_legal_order_as_a_chat(
    items: list[Item], system: str, images: str, told: bool
) -> None:
    asked = turn(*items, **({"instructions": "Be wise."} if told else {}))
    keys = {"system_messages": system, "tool_images": images}
    sent = orjson.loads(chat_completions.encode(asked, row(message_order="strict", **keys), "m"))["messages"]
    check_roles([message["role"] for message in sent], ["tool_calls" in message for message in sent])
    assert system != "user" or all(message["role"] != "system" for message in sent)
    free = orjson.loads(chat_completions.encode(asked, row(**keys), "m"))["messages"]
    assert _lost(_texts(free), _texts(sent)) == []
    _check_results_follow(sent)


@given(conversations(), st.booleans())
def test_any_conversation_is_in_a_legal_order_as_items(items: list[Item], functions: bool) -> None:
    tools = "functions" if functions else "native"
    strict = row(message_order="strict", reasoning_text=True, tools=tools)
    sent = orjson.loads(responses.encode(turn(*items), strict, "m"))["input"]
    spoken = [item for item in sent if item["type"] != "reasoning"]
    roles = [_role(item) for item in spoken]
    # Instructions at the beginning may be several.
    while roles[:2] == ["system", "system"]:
        roles, spoken = roles[1:], spoken[1:]
    # A server joins the words before a call with the call.
    kinds = [*(item["type"] for item in spoken), ""]
    calling = [role != "user" and "function_call" in kinds[at : at + 2] for at, role in enumerate(roles)]
    check_roles(roles, calling)
    free = orjson.loads(responses.encode(turn(*items), row(), "m"))["input"]
    assert _lost(_texts(free), _texts(sent)) == []


def _role(item: Item) -> str:
    if item["type"] == "message":
        return "system" if item["role"] in ("system", "developer") else str(item["role"])
    return "tool" if item["type"].endswith("_output") else "assistant"


def _texts(value: Any) -> list[str]:
    """All texts of messages and results, one for each text and image."""
    if isinstance(value, dict):
        own = [
            value[name]
            for name in ("text", "url", "image_url", "content", "output")
            if isinstance(value.get(name), str)
        ]
        return [*own, *(text for inner in value.values() for text in _texts(inner))]
    return [text for element in value for text in _texts(element)] if isinstance(value, list) else []


def _lost(before: list[str], after: list[str]) -> list[str]:
    """What the second does not hold as often as the first."""
    whole = "\n".join(after)
    return [text for text in before if text and whole.count(text) < sum(text == other for other in before)]


def _check_results_follow(sent: list[JSON]) -> None:
    """The results of calls stand directly behind the message with the calls."""
    for at, message in enumerate(sent):
        called = [call["id"] for call in message.get("tool_calls") or ()]
        results = [one.get("tool_call_id") for one in sent[at + 1 : at + 1 + len(called)]]
        assert results == called


def test_images_of_results_follow_an_answer_of_the_assistant() -> None:
    items = [
        {"type": "message", "role": "user", "content": "look"},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [IMAGE]},
    ]
    strict = chat_completions.encode(turn(*items), row(message_order="strict"), "m")
    assert [message["role"] for message in orjson.loads(strict)["messages"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    placed = orjson.loads(chat_completions.encode(turn(*items), row(tool_images="tool"), "m"))["messages"]
    assert placed[2]["content"] == [{"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}]
