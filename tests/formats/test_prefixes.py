"""A channel gets each turn what it got in the turn before, and then what is new: its provider finds it in its cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import formats
from app.contract.channel import Channel
from app.contract.items import Item, bound
from app.contract.records import Chain, Link
from app.contract.turn import Turn
from app.schemas.create import read_create
from tests.caches.prompts import prompt_of
from tests.endpoints.vocabulary import PIXEL
from tests.formats.conversations import row, turn

JSON = dict[str, Any]
OWN, OTHER = "own", "other"
ROWS = [
    ("responses", {}),
    ("responses", {"encrypted_reasoning": True}),
    ("responses", {"reasoning_text": True}),
    ("responses", {"tools": "functions"}),
    ("responses", {"message_order": "strict"}),
    ("responses", {"item_ids": "omit"}),
    ("chat_completions", {}),
    ("chat_completions", {"reasoning_text": True}),
    ("chat_completions", {"system_messages": "keep"}),
    ("chat_completions", {"system_messages": "user"}),
    ("chat_completions", {"message_order": "strict"}),
    ("chat_completions", {"tool_images": "tool", "call_ids": "short"}),
    ("messages", {}),
    ("messages", {"reasoning_text": True}),
    ("demo", {}),
]
SETTINGS: JSON = {
    "instructions": "Be brief.",
    "include": ["reasoning.encrypted_content"],
    "tools": [
        {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}},
        {"type": "custom", "name": "run"},
    ],
}


@dataclass(frozen=True)
class Exchanged:
    """One turn: what the client adds, and what a channel of a family answers."""

    input: Sequence[Item]
    output: Sequence[Item]
    status: str
    family: str

    def link(self) -> Link:
        kinds = {item["type"] for item in (*self.input, *self.output)}
        return Link(
            id="resp_0",
            status=self.status,
            channel=self.family,
            family=self.family,
            opaque=bound(kinds),
            input=orjson.dumps(self.input),
            output=orjson.dumps(self.output),
            input_tokens=1,
            output_tokens=1,
        )


# --- conversations ----------------------------------------------------------------------------------------------

TEXT = st.sampled_from(["Hello", "And then?", "ä\n\n b", "{}", "12"])


@st.composite
def conversations(draw: st.DrawFn) -> list[Exchanged]:
    """Some turns. Every call is answered in the next one, before or behind what the user says."""
    numbers, pending = count(), list[Item]()
    turns: list[Exchanged] = []
    for _ in range(draw(st.integers(2, 5))):
        outputs = [_answer(draw, call) for call in pending]
        said = [_said(draw) for _ in range(draw(st.integers(0 if outputs else 1, 2)))]
        new = [*outputs, *said] if draw(st.booleans()) else [*said, *outputs]
        output, status = _answered(draw, numbers)
        pending = [item for item in output if "call_id" in item and status == "completed"]
        turns.append(Exchanged(_validated(new), output, status, draw(st.sampled_from([OWN, OWN, OTHER]))))
    return turns


def _said(draw: st.DrawFn) -> Item:
    text = draw(TEXT)
    return draw(
        st.sampled_from(
            [
                {"role": "user", "content": text},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]},
                {"role": "user", "content": [{"type": "input_text", "text": text}, _image()]},
                {"role": "user", "content": text, "id": f"msg_{text[:1]}"},
                {"role": "user", "content": ""},
                {"role": "developer", "content": text},
                {"role": "system", "content": [{"type": "input_text", "text": text}]},
            ]
        )
    )


def _image() -> JSON:
    return {"type": "input_image", "image_url": PIXEL}


def _answer(draw: st.DrawFn, call: Item) -> Item:
    value = draw(st.sampled_from(["sunny", "", [{"type": "input_text", "text": "sunny"}, _image()]]))
    return {"type": f"{call['type']}_output", "call_id": call["call_id"], "output": value}


def _answered(draw: st.DrawFn, numbers: Iterator[int]) -> tuple[list[Item], str]:
    """The output of a response, as it is stored, and its status."""
    output: list[Item] = []
    if draw(st.booleans()):
        secret = draw(st.sampled_from([{}, {"encrypted_content": f"gAAA{next(numbers)}"}]))
        thought = draw(st.sampled_from([{}, {"content": [{"type": "reasoning_text", "text": "Hm."}]}]))
        output.append({"type": "reasoning", "id": f"rs_{next(numbers)}", "summary": [], **thought, **secret})
    status = draw(st.sampled_from(["completed", "completed", "incomplete"]))
    calls = [_call(draw, next(numbers)) for _ in range(draw(st.integers(0, 2)))] if status == "completed" else []
    if draw(st.booleans()):
        output.append(_hosted(draw, next(numbers)))
    if not calls or draw(st.booleans()):
        output.append(_message(draw(TEXT), next(numbers), status))
    output += calls
    if status == "incomplete" and draw(st.booleans()):
        half = {"type": "function_call", "name": "look", "arguments": '{"a', "status": "incomplete"}
        output.append({**half, "id": f"fc_{next(numbers)}", "call_id": f"call_{next(numbers)}"})
    return output, status


def _hosted(draw: st.DrawFn, number: int) -> Item:
    """An item of a tool that the upstream has run."""
    call = {"type": "mcp_call", "id": f"mcp_{number}", "server_label": "docs", "name": "find", "arguments": "{}"}
    return draw(
        st.sampled_from(
            [
                {**call, "output": "found"},
                {**call, "output": None, "error": "lost"},
                {"type": "web_search_call", "id": f"ws_{number}", "status": "completed", "action": {"type": "search"}},
            ]
        )
    )


def _message(text: str, number: int, status: str) -> Item:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": status, "content": [part]}


def _call(draw: st.DrawFn, number: int) -> Item:
    if draw(st.booleans()):
        return {
            "type": "custom_tool_call",
            "id": f"ctc_{number}",
            "call_id": f"call_{number}",
            "name": "run",
            "input": "",
        }
    arguments = draw(st.sampled_from(["{}", '{"a": 1}', ""]))
    call = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "name": "look"}
    return {**call, "arguments": arguments, "status": "completed"}


def _validated(items: Sequence[Item]) -> list[Item]:
    """The items as a turn has them."""
    return list(read_create({"model": "m", "input": list(items)})["input"])


# --- one conversation in three hands ----------------------------------------------------------------------------


def chained(turns: Sequence[Exchanged]) -> Turn:
    """The last turn of these, the others stored."""
    *before, last = turns
    return turn(*last.input, chain=Chain(tuple(one.link() for one in before)), **SETTINGS)


def sent_whole(turns: Sequence[Exchanged]) -> Turn:
    """The last turn of these by a client that keeps the conversation."""
    *before, last = turns
    history = [item for one in before for item in (*one.input, *_validated(one.output))]
    return turn(*history, *last.input, **SETTINGS)


def compacted(turns: Sequence[Exchanged]) -> Turn:
    """The last turn of these, the first of them being a compaction."""
    whole = chained(turns)
    return replace(whole, chain=replace(whole.chain, compacted=bool(whole.chain.links)))


def _parts(format_: str, channel: Channel, asked: Turn) -> list[bytes]:
    module = formats.load(format_)
    path = f"/v1{module.path('m', False)}"
    return [part.text for part in prompt_of(path, orjson.loads(module.encode(asked, channel, "m"))).parts]


@pytest.mark.parametrize("form", [chained, sent_whole, compacted])
@pytest.mark.parametrize(("format_", "keys"), ROWS)
@given(turns=conversations())
def test_a_turn_begins_with_the_one_before(format_: str, keys: JSON, form: Any, turns: list[Exchanged]) -> None:
    channel = row(format=format_, family=OWN, **keys)
    first = 1 if form is compacted else 0
    sent = [_parts(format_, channel, form(turns[: n + 1])) for n in range(first, len(turns))]
    for earlier, later in pairwise(sent):
        assert later[: len(earlier)] == earlier
