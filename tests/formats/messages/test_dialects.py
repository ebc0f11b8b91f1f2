"""Answers of Messages servers that lose count of their blocks, or put things in other places than Anthropic does."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.contract.turn import Answer
from app.errors import UpstreamBroken, UpstreamError
from app.formats import messages
from tests.formats.conversations import framed, message_item, turn
from tests.formats.messages.conversations import event, read
from tests.response_contract import check_stream

JSON = dict[str, Any]
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
ASKED = turn(message_item("user", "?"), stream=True, tools=[WEATHER])
START = event("message_start", message={"id": "msg_1", "model": "claude", "content": []})
STOP = event("message_stop")
TEXT = {"type": "text", "text": ""}
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
PNG = "iVBORw0KGgo="


def begun(index: int, block: JSON) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def more(index: int, **delta: Any) -> bytes:
    return event("content_block_delta", index=index, delta=delta)


def words(index: int, text: str) -> bytes:
    return more(index, type="text_delta", text=text)


def given(index: int, arguments: str) -> bytes:
    return more(index, type="input_json_delta", partial_json=arguments)


def stopped(index: int) -> bytes:
    return event("content_block_stop", index=index)


def ended(reason: str = "end_turn") -> bytes:
    return event("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 3})


END = ended() + STOP


def streamed(*pieces: bytes) -> Answer:
    """The answer of a stream that keeps the contract."""
    out, decoder = read([b"".join(pieces)], ASKED)
    assert decoder.answer is not None
    check_stream(framed(out, decoder, ASKED))
    return decoder.answer


def whole(content: Any) -> Answer:
    body = {"id": "msg_1", "type": "message", "content": content, "stop_reason": "end_turn"}
    return messages.decode(orjson.dumps(body), ASKED)


def texts(answer: Answer, kind: str = "output_text") -> str:
    parts = [part for item in answer.output for part in item.get("content") or ()]
    return "".join(part["text"] for part in parts if part["type"] == kind)


def calls(answer: Answer) -> list[str]:
    return [item["arguments"] for item in answer.output if item["type"] == "function_call"]


# --- blocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        [begun(0, TEXT), words(0, "fi"), stopped(0), words(0, "ne")],
        [begun(0, TEXT), words(0, "fi"), words(7, "ne"), stopped(0)],
        [words(0, "fi"), words(0, "ne")],
        [begun(0, {"type": "thinking", "thinking": ""}), words(0, "fi"), words(0, "ne"), stopped(0)],
        [begun(0, {"type": "server_tool_use", "id": "s", "name": "x", "input": {}}), words(0, "fine"), stopped(0)],
        [begun(0, {"type": "unheard_of", "text": "fi"}), words(0, "ne"), stopped(0)],
        [begun(0, {"type": "text", "text": "fi"}), begun(0, {"type": "text", "text": "ne"}), stopped(0)],
        [begun(0, TEXT), words(0, "fine")],
    ],
)
def test_text_is_part_of_the_answer_whatever_its_block_is(pieces: list[bytes]) -> None:
    assert texts(streamed(START, *pieces, END)) == "fine"


def test_text_within_a_call_comes_behind_it() -> None:
    for at in (1, 2, 3):
        pieces = [begun(0, TOOL), given(0, '{"at":'), given(0, '"x"}'), stopped(0)]
        pieces.insert(at, words(0, "words"))
        answer = streamed(START, *pieces, ended("tool_use"), STOP)
        assert (calls(answer), texts(answer)) == (['{"at":"x"}'], "words")


def test_thoughts_outside_of_their_block_are_thoughts() -> None:
    answer = streamed(
        START, more(3, type="thinking_delta", thinking="Hm"), begun(0, TEXT), words(0, "Hi"), stopped(0), END
    )
    assert (texts(answer, "reasoning_text"), texts(answer)) == ("Hm", "Hi")


def test_arguments_without_a_call_fail_the_stream() -> None:
    with pytest.raises(UpstreamBroken):
        read([START + given(0, '{"at":"x"}') + END], ASKED)


def test_blocks_after_the_first_reason_are_part_of_the_answer() -> None:
    call = [begun(1, TOOL), given(1, '{"at":"x"}'), stopped(1)]
    answer = streamed(START, begun(0, TEXT), words(0, "hm"), stopped(0), ended(), *call, ended("tool_use"), STOP)
    assert (texts(answer), calls(answer), answer.status) == ("hm", ['{"at":"x"}'], "completed")


@pytest.mark.parametrize(
    ("reasons", "status"), [(["max_tokens", "end_turn"], "incomplete"), (["end_turn"] * 2, "completed")]
)
def test_a_stop_does_not_undo_that_an_answer_was_cut_off(reasons: list[str], status: str) -> None:
    text = [begun(0, TEXT), words(0, "hm"), stopped(0)]
    assert streamed(START, *text, *map(ended, reasons), STOP).status == status


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert calls(streamed(START, begun(0, TOOL), stopped(0), ended("tool_use"), STOP)) == ["{}"]
    for empty in ({}, None, ""):
        assert calls(whole([{**TOOL, "input": empty}])) == ["{}"]


def test_arguments_may_be_an_object_or_a_string() -> None:
    delta = more(0, type="input_json_delta", partial_json={"at": "x"})
    answers = [streamed(START, begun(0, TOOL), delta, stopped(0), ended("tool_use"), STOP)]
    answers += [whole([{**TOOL, "input": given_input}]) for given_input in ({"at": "x"}, '{"at":"x"}')]
    assert [calls(answer) for answer in answers] == [['{"at":"x"}']] * 3


def test_blocks_without_an_index_come_one_at_a_time() -> None:
    blocks = [event("content_block_start", content_block=TEXT), event("content_block_stop")]
    blocks.insert(1, event("content_block_delta", delta={"text": "fine"}))
    assert texts(streamed(START, *blocks, END)) == "fine"


def test_the_reason_may_stand_beside_the_delta() -> None:
    text = [begun(0, TEXT), words(0, "fine"), stopped(0)]
    assert (
        streamed(START, *text, event("message_delta", delta={}, stop_reason="max_tokens"), STOP).status == "incomplete"
    )


# --- messages ---------------------------------------------------------------------------------------------------


def test_content_may_be_a_string() -> None:
    assert texts(whole("fine")) == "fine"


@pytest.mark.parametrize("content", ["fine", [{"type": "text", "text": "fine"}]])
def test_a_message_that_is_whole_at_its_start_is_the_answer(content: Any) -> None:
    start = event("message_start", message={"id": "msg_1", "content": content, "stop_reason": "end_turn"})
    for end in (STOP, END, b"data: [DONE]\n\n", b""):
        assert texts(streamed(start, end)) == "fine"


def test_a_message_without_its_start_is_an_answer() -> None:
    decoder = messages.decoder(ASKED, 2)
    decoder.feed(begun(0, TEXT))
    assert decoder.accepted
    assert texts(streamed(begun(0, TEXT), words(0, "fine"), stopped(0), END)) == "fine"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_last_event_may_lack_its_blank_line(end: bytes) -> None:
    answer = streamed(START, begun(0, TEXT), words(0, "fine"), stopped(0), ended("max_tokens").strip() + end)
    assert (answer.status, texts(answer)) == ("incomplete", "fine")


def test_an_image_is_an_item() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    for answer in (whole([image]), streamed(START, begun(0, image), stopped(0), END)):
        assert [(item["type"], item["result"]) for item in answer.output] == [("image_generation_call", PNG)]


def test_sources_from_the_web_become_annotations_of_their_words() -> None:
    source = {"type": "web_search_result_location", "url": "https://example.org/a", "title": "A", "cited_text": "Sun"}
    place = {"type": "char_location", "document_title": "D", "start_char_index": 0, "end_char_index": 3}
    blocks = [{"type": "text", "text": "So: "}, {"type": "text", "text": "Sun.", "citations": [source, place]}]
    pieces = [
        *(begun(0, TEXT), words(0, "So: "), stopped(0), begun(1, {**TEXT, "citations": []})),
        *(more(1, type="citations_delta", citation=one) for one in (source, place)),
        *(words(1, "Sun."), stopped(1)),
    ]
    expected = {"type": "url_citation", "url": source["url"], "title": "A", "start_index": 4, "end_index": 8}
    for answer in (whole(blocks), streamed(START, *pieces, END)):
        assert answer.output[0]["content"][0]["annotations"] == [expected]


# --- failures inside a 200 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"type": "error", "error": {"type": "api_error", "message": "it broke"}},
        {"error": {"message": "it broke"}},
        {"error": "it broke"},
        {"type": "overloaded_error", "message": "it broke"},
        {"detail": "it broke"},
        {"code": 500, "message": "it broke"},
    ],
)
def test_an_error_is_found_wherever_it_stands(body: JSON) -> None:
    with pytest.raises(UpstreamError, match="it broke"):
        messages.decode(orjson.dumps(body), ASKED)
    with pytest.raises(UpstreamError, match="it broke"):
        read([START + b"data: %b\n\n" % orjson.dumps(body)], ASKED)
