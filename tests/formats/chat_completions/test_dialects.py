"""Answers of chat servers that put things in other places than OpenAI does, as JSON and as a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from app.contract.turn import Answer
from app.errors import UpstreamBroken, UpstreamError
from app.formats import chat_completions
from tests.formats.chat_completions.conversations import read
from tests.formats.conversations import events, framed, message_item, turn
from tests.response_contract import check_stream

JSON = dict[str, Any]
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
ASKED = turn(message_item("user", "?"), stream=True, tools=[WEATHER])
DONE = b"data: [DONE]\n\n"
PNG = "iVBORw0KGgo="
STOP = {"index": 0, "delta": {}, "finish_reason": "stop"}


def chunk(choice: Mapping[str, Any] | None = None, **members: Any) -> bytes:
    choices = {"choices": [choice]} if choice is not None else {}
    return b"data: %b\n\n" % orjson.dumps({"id": "c1", "model": "m", **choices, **members})


def choice(delta: Any, reason: str | None = None, holder: str = "delta") -> JSON:
    return {"index": 0, holder: delta, "finish_reason": reason}


def streamed(*chunks: bytes, end: bytes = DONE) -> Answer:
    """The answer of a stream that keeps the contract."""
    out, decoder = read([b"".join(chunks) + end], ASKED)
    assert decoder.answer is not None
    if decoder.answer.status != "failed":
        check_stream(framed(out, decoder, ASKED))
    return decoder.answer


def whole(message: Any, reason: str | None = "stop", **members: Any) -> Answer:
    body = {"id": "c1", "choices": [choice(message, reason, "message")], **members}
    return chat_completions.decode(orjson.dumps(body), ASKED)


def both(message: JSON, reason: str = "stop", **members: Any) -> list[Answer]:
    """The answer as JSON, in a stream as one delta, and in a stream as a whole message."""
    last = chunk(choice({}, reason))
    return [
        whole(message, reason, **members),
        streamed(chunk(choice(message), **members), last),
        streamed(chunk(choice(message, reason, "message"), **members)),
    ]


def texts(answer: Answer, kind: str = "output_text") -> str:
    parts = [part for item in answer.output for part in item.get("content") or ()]
    return "".join(part.get("text", part.get("refusal")) for part in parts if part["type"] == kind)


def calls(answer: Answer) -> list[tuple[str, Any]]:
    made = [item for item in answer.output if item["type"] == "function_call"]
    return [(item["name"], orjson.loads(item["arguments"])) for item in made]


def call(arguments: Any, call_id: str = "call_1", index: int | None = 0, name: str = "get_weather") -> JSON:
    at = {} if index is None else {"index": index}
    return {"tool_calls": [{**at, "id": call_id, "function": {"name": name, "arguments": arguments}}]}


# --- the end ----------------------------------------------------------------------------------------------------

PARIS, ROME = '{"city":"Paris"}', '{"city":"Rome"}'


def test_a_call_after_the_first_reason_is_a_call() -> None:
    first, second = call(PARIS, "c1"), call(ROME, "c2", 1)
    answer = streamed(chunk(choice(first, "tool_calls")), chunk(choice(second, "tool_calls")))
    assert answer.status == "completed"
    assert calls(answer) == [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})]


@pytest.mark.parametrize("reason", ["tool_calls", "stop", "STOP"])
def test_text_and_calls_after_the_first_reason_are_part_of_the_answer(reason: str) -> None:
    last = chunk(choice({}, "stop"))
    answer = streamed(chunk(choice(call(PARIS), reason)), chunk(choice({"content": "and words"})), last)
    assert (len(calls(answer)), texts(answer)) == (1, "and words")
    answer = streamed(chunk(choice({"content": "hm"}, reason)), chunk(choice(call(PARIS))), last)
    assert (len(calls(answer)), texts(answer)) == (1, "hm")


def test_a_call_goes_on_after_a_reason() -> None:
    pieces = [call('{"city"', "c1"), call(':"Pa', ""), call('ris"}', "")]
    answer = streamed(*(chunk(choice(piece, "tool_calls")) for piece in pieces))
    assert calls(answer) == [("get_weather", {"city": "Paris"})]


@pytest.mark.parametrize(
    ("reasons", "status"),
    [
        (["length", "stop"], "incomplete"),
        (["content_filter", "stop", "stop"], "incomplete"),
        (["stop", "length"], "incomplete"),
        (["stop", "stop"], "completed"),
    ],
)
def test_a_stop_does_not_undo_that_an_answer_was_cut_off(reasons: list[str], status: str) -> None:
    last = [chunk(choice({}, reason)) for reason in reasons]
    assert streamed(chunk(choice({"content": "Hi"})), *last).status == status


def test_a_reason_before_the_last_words_is_not_the_reason_of_the_end() -> None:
    first = chunk(choice({"content": "one "}, "length"))
    answer = streamed(first, chunk(choice({"content": "two"}, "stop")))
    assert (answer.status, texts(answer)) == ("completed", "one two")


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b"\r\n\r\n"])
def test_the_last_chunk_may_lack_its_blank_line_and_counts_with_its_content(end: bytes) -> None:
    last = chunk(choice({"content": " and the rest"}, "stop")).strip()
    answer = streamed(chunk(choice({"content": "Some"})), end=last + end)
    assert (answer.status, texts(answer)) == ("completed", "Some and the rest")


def test_one_line_end_between_events_is_enough() -> None:
    chunks = (chunk(choice({"content": "one "})), chunk(choice({"content": "two"}, "stop")), DONE)
    answer = streamed(*(part.strip() + b"\n" for part in chunks), end=b"")
    assert (answer.status, texts(answer)) == ("completed", "one two")


@pytest.mark.parametrize("index", ["0", 0])
def test_a_call_whose_id_changes_with_every_delta_is_one_call(index: Any) -> None:
    deltas = [
        {"tool_calls": [{"index": index, "id": f"call_{at}", "function": {"name": "get_weather", "arguments": piece}}]}
        for at, piece in enumerate(('{"city"', ': "Pa', 'ris"}'))
    ]
    answer = streamed(*(chunk(choice(delta)) for delta in deltas), chunk(choice({}, "tool_calls")))
    assert calls(answer) == [("get_weather", {"city": "Paris"})]


def test_whole_calls_without_a_reason_are_complete_with_done() -> None:
    assert calls(streamed(chunk(choice(call(PARIS))))) == [("get_weather", {"city": "Paris"})]


@pytest.mark.parametrize("member", ["finishReason", "stop_reason", "done_reason"])
def test_the_reason_may_have_another_name(member: str) -> None:
    last = {"index": 0, "delta": {}, member: "length"}
    assert streamed(chunk(choice({"content": "Hi"})), chunk(last)).status == "incomplete"


# --- text -------------------------------------------------------------------------------------------------------

CONTENTS: dict[str, Any] = {
    "a list of parts": [{"type": "text", "text": "Hel"}, {"type": "output_text", "text": "lo"}],
    "a list of strings": ["Hel", "lo"],
    "one part": {"type": "text", "text": "Hello"},
    "parts of Gemini": {"role": "model", "parts": [{"text": "Hel"}, {"text": "lo"}]},
    "a text object": [{"type": "text", "text": {"value": "Hello", "annotations": []}}],
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_content_may_come_in_parts(content: Any) -> None:
    for answer in both({"role": "assistant", "content": content}):
        assert texts(answer) == "Hello"


def test_parts_may_stand_in_the_place_of_content() -> None:
    parts = [{"text": "Hm", "thought": True}, {"text": "Hello"}, {"functionCall": {"name": "f", "args": {"a": 1}}}]
    for answer in both({"role": "model", "parts": parts}):
        assert (texts(answer, "reasoning_text"), texts(answer)) == ("Hm", "Hello")
        assert calls(answer) == [("f", {"a": 1})]


@pytest.mark.parametrize("member", ["reasoning_content", "reasoning", "reasoning_text", "thinking", "thoughts"])
def test_thoughts_have_many_names_and_are_taken_once(member: str) -> None:
    for answer in both({"content": "Hello", member: "Hm", "reasoning": "Hm"}):
        assert (texts(answer, "reasoning_text"), texts(answer)) == ("Hm", "Hello")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]},
        {"type": "thinking", "thinking": "Hm"},
        {"type": "reasoning", "text": "Hm"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]},
    ],
)
def test_thoughts_may_be_parts_of_the_content(part: JSON) -> None:
    for answer in both({"content": [part, {"type": "text", "text": "Hello"}]}):
        assert (texts(answer, "reasoning_text"), texts(answer)) == ("Hm", "Hello")


def test_a_refusal_may_be_a_part() -> None:
    for answer in both({"content": [{"type": "refusal", "refusal": "No."}]}):
        assert texts(answer, "refusal") == "No."


def test_a_message_may_stand_in_the_place_of_a_delta() -> None:
    answer = streamed(chunk(choice({"role": "assistant", "content": "all of it"}, "stop", "message")))
    assert texts(answer) == "all of it"


def test_a_message_behind_the_deltas_adds_only_what_they_lack() -> None:
    message = {"content": "all of it", "tool_calls": call(PARIS)["tool_calls"], "reasoning": "Hm"}
    for content, calls_before in (("all of it", True), ("all of", False)):
        deltas = [chunk(choice({"content": content})), *([chunk(choice(call(PARIS)))] if calls_before else [])]
        answer = streamed(*deltas, chunk({**choice({}, "stop"), "message": message}))
        assert texts(answer) == "all of it"
        assert calls(answer) == [("get_weather", {"city": "Paris"})]


def test_the_text_of_a_plain_completion_is_text() -> None:
    pieces = [chunk({"index": 0, "text": piece, "finish_reason": None}) for piece in ("Hel", "lo")]
    assert texts(streamed(*pieces, chunk({"index": 0, "text": "", "finish_reason": "stop"}))) == "Hello"
    body = {"choices": [{"index": 0, "text": "Hello", "finish_reason": "stop"}]}
    assert texts(chat_completions.decode(orjson.dumps(body), ASKED)) == "Hello"


def test_a_message_without_a_choice_is_the_answer() -> None:
    """As Ollama's own API sends it."""
    pieces = [b'data: {"message":{"role":"assistant","content":"Hel"},"done":false}\n\n']
    last = b'data: {"message":{"role":"assistant","content":"lo"},"done":true,"done_reason":"length"}\n\n'
    answer = streamed(*pieces, last)
    assert (answer.status, texts(answer)) == ("incomplete", "Hello")


def test_candidates_of_gemini_are_choices() -> None:
    candidate = {"content": {"role": "model", "parts": [{"text": "Hello"}]}, "finishReason": "MAX_TOKENS"}
    body = {"candidates": [candidate]}
    for answer in (chat_completions.decode(orjson.dumps(body), ASKED), streamed(chunk(**body))):
        assert (answer.status, texts(answer)) == ("incomplete", "Hello")


# --- calls ------------------------------------------------------------------------------------------------------

FORMS: dict[str, JSON] = {
    "an object": call({"city": "Paris"}),
    "without function": {"tool_calls": [{"index": 0, "id": "c", "name": "get_weather", "arguments": PARIS}]},
    "one object": {"tool_calls": {"id": "c", "function": {"name": "get_weather", "arguments": PARIS}}},
    "parameters": {"tool_calls": [{"function": {"name": "get_weather", "parameters": {"city": "Paris"}}}]},
    "input": {"content": [{"type": "tool_use", "id": "c", "name": "get_weather", "input": {"city": "Paris"}}]},
    "the older form": {"function_call": {"name": "get_weather", "arguments": PARIS}},
    "the older form beside an empty list": {
        "tool_calls": [],
        "function_call": {"name": "get_weather", "arguments": {"city": "Paris"}},
    },
}


@pytest.mark.parametrize("message", FORMS.values(), ids=FORMS)
def test_a_call_is_read_in_every_form(message: JSON) -> None:
    for answer in both({"role": "assistant", "content": None, **message}, "tool_calls"):
        assert calls(answer) == [("get_weather", {"city": "Paris"})]


@pytest.mark.parametrize("arguments", ["", None, {}, [], " "])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    for answer in both({"content": None, **call(arguments)}, "tool_calls"):
        assert [one["arguments"].strip() for one in answer.output] == ["{}"]


@pytest.mark.parametrize("begin", ["{}", {}, ""])
@pytest.mark.parametrize("name", ["", "get_weather"])
def test_an_empty_object_before_the_arguments_is_none_of_them(begin: Any, name: str) -> None:
    pieces = [call(begin), call('{"city":', "", name=name), call('"Paris"}', "", name=name)]
    assert calls(streamed(*(chunk(choice(piece)) for piece in pieces), chunk(STOP))) == [
        ("get_weather", {"city": "Paris"})
    ]


def test_calls_with_empty_objects_stay_apart() -> None:
    for indexes in ([0, 1], [None, None], [0, 0]):
        pieces = [call("{}", f"c{at}", index) for at, index in enumerate(indexes)]
        answer = streamed(*(chunk(choice(piece)) for piece in pieces), chunk(choice({}, "tool_calls")))
        assert [item["call_id"] for item in answer.output] == ["c0", "c1"]
        assert [arguments for _, arguments in calls(answer)] == [{}, {}]


def test_whole_calls_without_ids_stay_apart() -> None:
    two = [call(PARIS, "", None)["tool_calls"][0], call(ROME, "", None)["tool_calls"][0]]
    for answer in both({"content": None, "tool_calls": two}, "tool_calls"):
        assert [arguments["city"] for _, arguments in calls(answer)] == ["Paris", "Rome"]


# --- images, sound, sources -------------------------------------------------------------------------------------

IMAGES: dict[str, JSON] = {
    "images": {"images": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]},
    "strings": {"images": [f"data:image/png;base64,{PNG}"]},
    "bare base64": {"images": [{"b64_json": PNG}]},
    "a part": {"content": [{"type": "image_url", "image_url": f"data:image/png;base64,{PNG}"}]},
    "Anthropic's": {"content": [{"type": "image", "source": {"type": "base64", "data": PNG}}]},
    "Gemini's": {"parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}]},
}


@pytest.mark.parametrize("message", IMAGES.values(), ids=IMAGES)
def test_a_generated_image_is_an_item(message: JSON) -> None:
    for answer in both({"role": "assistant", **message}):
        (item,) = answer.output
        assert (item["type"], item["status"], item["result"]) == ("image_generation_call", "completed", PNG)


def test_an_image_that_comes_twice_is_one_image_and_text_stays_around_it() -> None:
    delta = {"role": "assistant", **IMAGES["images"]}
    answer = streamed(
        chunk(choice({"content": "Here:"})),
        chunk(choice(delta)),
        chunk(choice({"content": "Done."})),
        chunk({**STOP, "message": {"content": "Here:Done.", **IMAGES["images"]}}),
    )
    assert [item["type"] for item in answer.output] == ["message", "image_generation_call", "message"]
    assert texts(answer) == "Here:Done."


def test_an_image_behind_a_url_is_a_link() -> None:
    for answer in both({"images": [{"image_url": {"url": "https://images.test/cat.png"}}]}):
        assert texts(answer) == "![image](https://images.test/cat.png)"


def test_of_sound_the_words_are_the_answer() -> None:
    sound = {"audio": {"id": "a", "data": "UklGRg==", "transcript": "Hello"}}
    for answer in both({"content": None, **sound}):
        assert texts(answer) == "Hello"
    with pytest.raises(UpstreamBroken):
        whole({"content": None, "audio": {"id": "a", "data": "UklGRg=="}})


CITED = {"url": "https://example.org/a", "title": "A", "start_index": 0, "end_index": 3}
EXPECTED = {"type": "url_citation", **CITED}


@pytest.mark.parametrize("annotation", [{"type": "url_citation", "url_citation": CITED}, EXPECTED])
def test_sources_become_annotations(annotation: JSON) -> None:
    message = {"content": "Sun. It shines.", "annotations": [annotation]}
    for answer in both(message):
        assert answer.output[0]["content"][0]["annotations"] == [EXPECTED]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_sources_come_before_between_or_behind_the_words(place: int) -> None:
    deltas = [{"content": "Sun. "}, {"content": "It shines."}]
    deltas.insert(place, {"annotations": [{"type": "url_citation", "url_citation": CITED}]})
    out, decoder = read([b"".join(chunk(choice(delta)) for delta in deltas) + chunk(STOP) + DONE], ASKED)
    check_stream(framed(out, decoder, ASKED))
    assert decoder.answer is not None
    assert decoder.answer.output[0]["content"][0]["annotations"] == [EXPECTED]
    added = [event for event in events(out) if event["type"] == "response.output_text.annotation.added"]
    assert [event["annotation"] for event in added] == [EXPECTED]


@pytest.mark.parametrize(
    "beside", [{"citations": [CITED["url"]]}, {"search_results": [{"url": CITED["url"], "title": "A"}]}]
)
def test_sources_beside_the_choices_are_taken_once(beside: JSON) -> None:
    """Perplexity sends them with every chunk."""
    pieces = [chunk(choice({"content": piece}), **beside) for piece in ("Sun. ", "It shines.")]
    for answer in (whole({"content": "Sun."}, **beside), streamed(*pieces, chunk(STOP, **beside))):
        assert [one["url"] for one in answer.output[0]["content"][0]["annotations"]] == [CITED["url"]]


# --- failures inside a 200 --------------------------------------------------------------------------------------

FAILURES: dict[str, JSON] = {
    "an object": {"error": {"message": "it broke", "code": 502}},
    "a string": {"error": "it broke"},
    "a list": {"errors": [{"message": "it broke"}]},
    "flat": {"code": 500, "message": "it broke"},
    "flat, by its type": {"type": "server_error", "message": "it broke"},
    "a detail": {"detail": "it broke"},
    "in the choice": {"choices": [{"index": 0, "error": {"message": "it broke", "code": 502}, "delta": {}}]},
    "in the delta": {"choices": [{"index": 0, "delta": {"error": {"message": "it broke"}}}]},
    "MiniMax": {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "it broke"}},
    "by its status": {"status": "error", "message": "it broke"},
}


@pytest.mark.parametrize("body", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("text", [False, True])
def test_an_error_is_found_wherever_it_stands(body: JSON, text: bool) -> None:
    with pytest.raises(UpstreamError, match="it broke"):
        chat_completions.decode(orjson.dumps(body), ASKED)
    with pytest.raises(UpstreamError, match="it broke"):
        chat_completions.decode(orjson.dumps([body]), ASKED)
    event = b"data: %b\n\n" % orjson.dumps(body)
    if text:
        answer = streamed(chunk(choice({"content": "Hi"})), event)
        assert answer.status == "failed"
        assert "it broke" in (answer.error or {})["message"]
    else:
        with pytest.raises(UpstreamError, match="it broke"):
            streamed(event)


def test_a_success_beside_the_answer_is_no_error() -> None:
    for answer in both({"content": "Hi"}, base_resp={"status_code": 0, "status_msg": ""}, error=None):
        assert (answer.status, texts(answer)) == ("completed", "Hi")


# --- loose JSON -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"[Infinity]", b'"\\ud83d"', b'"a\x01b"'])
def test_loose_json_is_read(value: bytes) -> None:
    body = b'\xef\xbb\xbf{"choices":[{"index":0,"message":{"content":"ok"},"finish_reason":"stop"}],"x":%b}' % value
    assert texts(chat_completions.decode(body, ASKED)) == "ok"
    event = b'data: {"choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":null}],"x":%b}\n\n' % value
    assert texts(streamed(event, chunk(STOP))) == "ok"


@pytest.mark.parametrize("value", [[], {}, None, 1])
def test_a_part_whose_type_is_no_word_is_text(value: Any) -> None:
    answer = whole({"content": [{"type": value, "text": "Hi."}]})
    assert texts(answer) == "Hi."
