"""What a chat upstream wants back with its answer: collected chunk by chunk, and put back where it was."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.formats._conversation import Call, Reasoning
from app.formats.chat_completions._extras import PREFIX, Extras, restore
from tests.formats.conversations import read, turn

JSON = dict[str, Any]
GOOGLE = {"google": {"thought_signature": "CiQ="}}
DONE = b"data: [DONE]\n\n"
TOOLS = [{"type": "function", "name": "look"}]


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    return b"data: %b\n\n" % orjson.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def called(arguments: str, call_id: str = "call_1", **members: Any) -> JSON:
    return {"id": call_id, "type": "function", "function": {"name": "look", "arguments": arguments}, **members}


def output_of(*chunks: bytes) -> list[JSON]:
    _, decoder = read("chat_completions", [*chunks, chunk("tool_calls"), DONE], turn(tools=TOOLS))
    assert decoder.answer is not None
    return list(decoder.answer.output)


def sent_back(output: list[JSON], signatures: str = "given") -> JSON:
    """The assistant's message that holds this output again."""
    calls = [Call(item["call_id"], item["name"], item["arguments"], ()) for item in output if "call_id" in item]
    message: JSON = {"role": "assistant", "tool_calls": [{"id": call.id} for call in calls]}
    restore(message, calls, [Reasoning(item) for item in output if item["type"] == "reasoning"], signatures)
    return message


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=6))
def test_details_that_come_in_pieces_go_back_whole(pieces: list[str]) -> None:
    details = [[{"type": "reasoning.text", "index": 0, "text": text}] for text in pieces]
    details.append([{"type": "reasoning.text", "index": 0, "signature": "sig"}])
    details.append([{"type": "reasoning.encrypted", "index": 1, "data": "gAAA"}])
    output = output_of(*(chunk(reasoning_details=entries) for entries in details), chunk(tool_calls=[called("{}")]))
    assert sent_back(output)["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "".join(pieces), "signature": "sig"},
        {"type": "reasoning.encrypted", "index": 1, "data": "gAAA"},
    ]


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(tool_calls=[called('{"at":1}', index=0, extra_content=GOOGLE)])],
        [
            chunk(tool_calls=[called("", index=0, extra_content=GOOGLE)]),
            chunk(tool_calls=[called('{"at":1}', index=0)]),
        ],
        # The signature comes when the call has been announced.
        [
            chunk(tool_calls=[called('{"at":1', index=0)]),
            chunk(tool_calls=[called("}", index=0, extra_content=GOOGLE)]),
        ],
        [chunk(tool_calls=[called('{"at":1}', index=0)]), chunk(tool_calls=[{"index": 0, "extra_content": GOOGLE}])],
    ],
    ids=["at-once", "first", "last", "alone"],
)
def test_a_signature_goes_back_with_its_call(chunks: list[bytes]) -> None:
    second = chunk(tool_calls=[called('{"at":2}', "call_2", index=1)])
    output = output_of(*chunks, second)
    assert [item["type"] for item in output if item["type"] != "reasoning"] == ["function_call", "function_call"]
    assert [call.get("extra_content") for call in sent_back(output)["tool_calls"]] == [GOOGLE, None]


def test_a_text_answer_ends_with_its_text() -> None:
    output = output_of(chunk(content="hi"), chunk(content="", extra_content=GOOGLE))
    assert [item["type"] for item in output] == ["message"]


def test_a_signature_in_an_id_goes_back_in_it() -> None:
    call_id = "call_1__thought__" + "x" * 200
    output = output_of(chunk(tool_calls=[called("{}", call_id, index=0)]))
    assert len(output[-1]["call_id"]) <= 64
    assert sent_back(output)["tool_calls"][0]["id"] == call_id


@pytest.mark.parametrize(
    "secret", [PREFIX, f"{PREFIX}[]", f'{PREFIX}{{"message":{{"role":"user"}},"calls":[]}}', "gAAA"]
)
def test_what_a_client_made_up_changes_nothing(secret: str) -> None:
    output = [{"type": "reasoning", "encrypted_content": secret}, {"type": "function_call", **_named("call_1")}]
    assert sent_back(output) == {"role": "assistant", "tool_calls": [{"id": "call_1"}]}


def _named(call_id: str) -> JSON:
    return {"call_id": call_id, "name": "look", "arguments": "{}"}


def test_calls_without_a_signature_get_what_the_row_says() -> None:
    output = [{"type": "function_call", **_named("call_1")}, {"type": "function_call", **_named("call_2")}]
    calls = sent_back(output, "google")["tool_calls"]
    assert ["extra_content" in call for call in calls] == [True, False]
    assert sent_back(output, "openrouter")["reasoning_details"][0]["id"] == "call_1"


def test_nothing_is_kept_of_an_answer_without_such_members() -> None:
    extras = Extras()
    extras.read({"content": "hi", "reasoning_details": []})
    assert extras.take() == ""


# --- two calls under one id -------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [(0, 1), (0, 0), (None, None)], ids=["two", "one", "none"])
@pytest.mark.parametrize("together", [True, False])
def test_two_whole_calls_under_one_id_stay_two(places: tuple[int | None, ...], together: bool) -> None:
    calls = [
        called(f'{{"at":{number}}}', **({} if place is None else {"index": place}))
        for number, place in enumerate(places)
    ]
    chunks = [chunk(tool_calls=calls)] if together else [chunk(tool_calls=[call]) for call in calls]
    output = output_of(*chunks)
    assert [item["arguments"] for item in output] == ['{"at":0}', '{"at":1}']
    assert len({item["call_id"] for item in output}) == 2


def test_a_whole_call_that_is_said_again_is_one() -> None:
    said = chunk(tool_calls=[called('{"at":1}', index=0)])
    assert [item["arguments"] for item in output_of(said, said)] == ['{"at":1}']
