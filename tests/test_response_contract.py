"""The contract checker accepts what OpenAI sends and rejects whatever is wrong with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.response_contract import (
    check_error,
    check_item_list,
    check_response,
    check_stream,
    check_window,
    stream_faults,
)
from tests.sse_reader import Event, follow, read
from tests.upstream import DEFAULTS, event_bytes

JSON = dict[str, Any]
Events = list[JSON]

USAGE = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 4,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 13,
}
TEXT = {"type": "output_text", "text": "Hello there", "annotations": [], "logprobs": []}
MESSAGE = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [TEXT]}
CALL = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "get_weather",
    "arguments": "{}",
}
TOOL: JSON = {"type": "function", "name": "get_weather", "description": None, "parameters": {}, "strict": True}


def completed() -> JSON:
    return copy.deepcopy(
        {
            **DEFAULTS,
            "id": "resp_1",
            "object": "response",
            "created_at": 1795353600,
            "completed_at": 1795353602,
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "model": "m",
            "output": [MESSAGE, CALL],
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "tools": [TOOL],
            "usage": USAGE,
        }
    )


def numbered(events: Events) -> Events:
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def stream() -> Events:
    """A message and a call, written out by hand."""
    begun = {**completed(), "status": "in_progress", "completed_at": None, "output": [], "usage": None}
    text: JSON = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    call: JSON = {"item_id": "fc_1", "output_index": 1}
    events: Events = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**MESSAGE, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **text, "part": {**TEXT, "text": ""}},
        {"type": "response.output_text.delta", **text, "delta": "Hello", "logprobs": []},
        {"type": "response.output_text.delta", **text, "delta": " there", "logprobs": []},
        {"type": "response.output_text.done", **text, "text": "Hello there", "logprobs": []},
        {"type": "response.content_part.done", **text, "part": TEXT},
        {"type": "response.output_item.done", "output_index": 0, "item": MESSAGE},
        {
            "type": "response.output_item.added",
            "output_index": 1,
            "item": {**CALL, "status": "in_progress", "arguments": ""},
        },
        {"type": "response.function_call_arguments.delta", **call, "delta": "{}"},
        {"type": "response.function_call_arguments.done", **call, "arguments": "{}"},
        {"type": "response.output_item.done", "output_index": 1, "item": CALL},
        {"type": "response.completed", "response": completed()},
    ]
    return copy.deepcopy(numbered(events))


def written(events: Events, end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(map(event_bytes, events)) + end


def failed() -> Events:
    error = {"type": "server_error", "code": "server_error", "message": "Broken.", "param": None}
    head = stream()[:5]
    response = {**head[0]["response"], "status": "failed", "error": {"code": "server_error", "message": "Broken."}}
    pair = [{"type": "error", "error": error}, {"type": "response.failed", "response": response}]
    return numbered([*head, *pair])


# --- responses --------------------------------------------------------------------------------------------------


def test_a_completed_response_passes() -> None:
    assert check_response(completed(), status="completed", model="m")["id"] == "resp_1"


def test_an_expected_value_that_differs_is_named() -> None:
    with pytest.raises(AssertionError, match="model is 'm', expected 'other'"):
        check_response(completed(), model="other")


def test_all_faults_are_listed_at_once() -> None:
    body = completed()
    del body["store"]
    body["usage"]["total_tokens"] = 1
    with pytest.raises(AssertionError, match=r"(?s)store is absent.*not the sum"):
        check_response(body)


@pytest.mark.parametrize("key", sorted(completed().keys() - {"user", "prompt_cache_retention"}))
def test_no_required_key_may_be_absent(key: str) -> None:
    body = completed()
    del body[key]
    with pytest.raises(AssertionError, match=key):
        check_response(body)


RESPONSE_MUTATIONS: dict[str, Callable[[JSON], Any]] = {
    "a number as a string": lambda body: body.update(top_logprobs="0"),
    "a float time": lambda body: body.update(created_at=1.5),
    "null tools": lambda body: body.update(tools=None),
    "null temperature": lambda body: body.update(temperature=None),
    "an id of another kind": lambda body: body.update(id="chatcmpl-1"),
    "an unknown key": lambda body: body.update(provider="x"),
    "output_text on the wire": lambda body: body.update(output_text="Hello"),
    "an unknown status": lambda body: body.update(status="done"),
    "an error though completed": lambda body: body.update(error={"code": "server_error", "message": "x"}),
    "incomplete without a reason": lambda body: body.update(status="incomplete", completed_at=None),
    "failed without an error": lambda body: body.update(status="failed", completed_at=None),
    "running with a usage": lambda body: body.update(status="in_progress", completed_at=None, output=[]),
    "no usage": lambda body: body.update(usage=None),
    "usage without details": lambda body: body["usage"].pop("output_tokens_details"),
    "usage without cache writes": lambda body: body["usage"]["input_tokens_details"].pop("cache_write_tokens"),
    "negative usage": lambda body: body["usage"].update(input_tokens=-9, total_tokens=-5),
    "an item of unknown type": lambda body: body["output"][0].update(type="speech"),
    "an item without id": lambda body: body["output"][0].pop("id"),
    "an item of the wrong role": lambda body: body["output"][0].update(role="user"),
    "an item that is not done": lambda body: body["output"][1].update(status="in_progress"),
    "a call without status": lambda body: body["output"][1].pop("status"),
    "a call_id too long": lambda body: body["output"][1].update(call_id="c" * 65),
    "a call_id that is the id": lambda body: body["output"][1].update(call_id="fc_1"),
    "two items of one id": lambda body: body["output"].append(body["output"][0]),
    "text without annotations": lambda body: body["output"][0]["content"][0].pop("annotations"),
    "text without logprobs": lambda body: body["output"][0]["content"][0].pop("logprobs"),
    "a tool without strict": lambda body: body["tools"][0].pop("strict"),
    "a secret in a tool": lambda body: body["tools"].append(
        {"type": "mcp", "server_label": "s", "server_url": "https://example.org", "authorization": "secret"}
    ),
}


@pytest.mark.parametrize("mutation", RESPONSE_MUTATIONS)
def test_a_broken_response_is_rejected(mutation: str) -> None:
    body = completed()
    RESPONSE_MUTATIONS[mutation](body)
    with pytest.raises(AssertionError):
        check_response(body)


def test_a_tool_type_that_no_sdk_knows_passes() -> None:
    body = completed()
    body["tools"].append({"type": "telepathy", "range": 3})
    check_response(body)


def test_an_error_code_outside_of_the_enumeration_passes() -> None:
    error = {"code": "upstream_idle_timeout", "message": "It fell silent."}
    check_response({**completed(), "status": "failed", "completed_at": None, "error": error, "usage": None})


# --- streams ----------------------------------------------------------------------------------------------------


def test_a_whole_stream_passes_and_its_events_are_returned() -> None:
    assert check_stream(written(stream()), status="completed") == stream()


def test_a_failed_stream_passes_with_its_pair() -> None:
    check_stream(written(failed()), status="failed")


def test_a_stream_may_be_checked_without_a_sentinel() -> None:
    check_stream(written(stream(), end=b""), sentinel=None)


def test_comments_between_events_are_no_fault() -> None:
    check_stream(b": ping\n\n" + written(stream()))


def at(events: Events, kind: str, nth: int = 0) -> JSON:
    return [event for event in events if event["type"] == kind][nth]


def without(kind: str, nth: int = 0) -> Callable[[Events], Events]:
    return lambda events: numbered([event for event in events if event is not at(events, kind, nth)])


def moved(kind: str, to: int) -> Callable[[Events], Events]:
    def mutation(events: Events) -> Events:
        event = at(events, kind)
        rest = [other for other in events if other is not event]
        return numbered([*rest[:to], event, *rest[to:]])

    return mutation


def changed(kind: str, nth: int = 0, **fields: Any) -> Callable[[Events], Events]:
    def mutation(events: Events) -> Events:
        at(events, kind, nth).update(fields)
        return events

    return mutation


def changed_inside(kind: str, key: str, nth: int = 0, **fields: Any) -> Callable[[Events], Events]:
    def mutation(events: Events) -> Events:
        at(events, kind, nth)[key].update(fields)
        return events

    return mutation


def final_output(change: Callable[[list[JSON]], Any]) -> Callable[[Events], Events]:
    def mutation(events: Events) -> Events:
        change(events[-1]["response"]["output"])
        return events

    return mutation


STREAM_MUTATIONS: dict[str, Callable[[Events], Events]] = {
    "no events": lambda events: [],
    "a gap": lambda events: [event for event in events if event["sequence_number"] != 4],
    "numbers from one": lambda events: [{**e, "sequence_number": e["sequence_number"] + 1} for e in events],
    "no numbers": lambda events: [{k: v for k, v in e.items() if k != "sequence_number"} for e in events],
    "no response.created": without("response.created"),
    "no response.in_progress": without("response.in_progress"),
    "in_progress before created": moved("response.in_progress", 0),
    "created twice": lambda events: numbered([events[0], *events]),
    "no terminal event": without("response.completed"),
    "two terminal events": lambda events: numbered([*events, events[-1]]),
    "an event after the end": lambda events: numbered([*events, events[4]]),
    "failed without error": lambda events: numbered([e for e in failed() if e["type"] != "error"]),
    "an error without failed": lambda events: numbered([*events[:5], failed()[-2], *events[5:]]),
    "error after failed": lambda events: numbered([*failed()[:-2], failed()[-1], failed()[-2]]),
    "a flat error": lambda events: numbered(
        [*failed()[:-2], {"type": "error", "code": "c", "message": "m", "param": None}, failed()[-1]]
    ),
    "another id at the end": changed_inside("response.completed", "response", id="resp_2"),
    "another id in between": changed_inside("response.in_progress", "response", id="resp_2"),
    "another model at the end": changed_inside("response.completed", "response", model="other"),
    "an event with the wrong status": changed_inside("response.completed", "response", status="incomplete"),
    "an unknown event": lambda events: numbered([*events[:5], {"type": "response.thinking"}, *events[5:]]),
    "a top-level error key": changed("response.output_text.delta", error={"message": "x"}),
    "an item not added": without("response.output_item.added"),
    "an item not done": without("response.output_item.done"),
    "an item added twice": lambda events: numbered([*events[:3], *events[2:]]),
    "an item added inside another": lambda events: numbered([*events[:4], events[9], *events[4:9], *events[10:]]),
    "an index left out": lambda events: [{**e, "output_index": 2} if e.get("output_index") == 1 else e for e in events],
    "no index": lambda events: [{k: v for k, v in e.items() if k != "output_index"} for e in events],
    "an item's id changed": changed_inside("response.output_item.done", "item", id="msg_2"),
    "a call_id changed": changed_inside("response.output_item.done", "item", 1, call_id="call_2"),
    "an item_id of another": changed("response.output_text.delta", item_id="msg_2"),
    "no part added": without("response.content_part.added"),
    "no part done": without("response.content_part.done"),
    "a part unlike the item's": changed_inside("response.content_part.done", "part", text="Hello"),
    "a delta missing": without("response.output_text.delta"),
    "a delta twice": lambda events: numbered([*events[:5], *events[4:]]),
    "a delta after its done": moved("response.output_text.delta", 7),
    "text done unlike its deltas": changed("response.output_text.done", text="Hello"),
    "no text done": without("response.output_text.done"),
    "a delta without logprobs": lambda events: [{k: v for k, v in e.items() if k != "logprobs"} for e in events],
    "arguments missing": without("response.function_call_arguments.delta"),
    "no arguments done": without("response.function_call_arguments.done"),
    "arguments unlike the item's": changed_inside("response.output_item.done", "item", 1, arguments='{"a":1}'),
    "final output short of an item": final_output(lambda output: output.pop()),
    "final output in another order": final_output(lambda output: output.reverse()),
    "final output with another text": final_output(lambda output: output[0]["content"][0].update(text="Bye")),
}


@pytest.mark.parametrize("mutation", STREAM_MUTATIONS)
def test_a_broken_stream_is_rejected(mutation: str) -> None:
    assert stream_faults(STREAM_MUTATIONS[mutation](stream()))
    with pytest.raises(AssertionError):
        check_stream(written(STREAM_MUTATIONS[mutation](stream())))


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "no sentinel": lambda raw: raw.removesuffix(b"data: [DONE]\n\n"),
    "the sentinel twice": lambda raw: raw + b"data: [DONE]\n\n",
    "an event after the sentinel": lambda raw: raw + event_bytes(stream()[-1]),
    "another name than type": lambda raw: raw.replace(b"event: response.created", b"event: response.begun"),
    "no names": lambda raw: raw.replace(b"event: response.created\n", b""),
    "no JSON": lambda raw: raw.replace(b'data: {"type":"response.created"', b'data: {"type"'),
    "an id line": lambda raw: b"id: 1\n" + raw,
    "a retry line": lambda raw: b"retry: 10\n\n" + raw,
    "an event without data": lambda raw: b"event: ping\n\n" + raw,
    "half an event at the end": lambda raw: raw + b"data: {",
    "invalid UTF-8": lambda raw: raw.replace(b"Hello", b"Hell\xff"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_badly_written_stream_is_rejected(spelling: str) -> None:
    with pytest.raises(AssertionError):
        check_stream(SPELLINGS[spelling](written(stream())))


# --- errors and lists -------------------------------------------------------------------------------------------

ERROR = {"message": "No such model.", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}


def test_an_error_in_the_envelope_passes() -> None:
    assert check_error({"error": ERROR}, code="model_not_found", param="model") == ERROR


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"error": "No."},
        {"message": "No."},
        {"error": {**ERROR, "message": ""}},
        {"error": {**ERROR, "code": 400}},
        {"error": {key: value for key, value in ERROR.items() if key != "param"}},
        {"error": {**ERROR, "param": None}},
    ],
)
def test_a_broken_error_is_rejected(body: JSON) -> None:
    with pytest.raises(AssertionError):
        check_error(body, param="model")


def test_a_list_of_items_passes_and_its_ends_are_checked() -> None:
    page = {"object": "list", "data": [MESSAGE, CALL], "first_id": "msg_1", "last_id": "fc_1", "has_more": False}
    assert check_item_list(page) == [MESSAGE, CALL]
    with pytest.raises(AssertionError, match="first_id"):
        check_item_list({**page, "first_id": "fc_1"})


def test_a_window_ends_in_its_one_compaction_item() -> None:
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "user"}
    user = {**message, "content": [{"type": "input_text", "text": "Hi"}]}
    sealed = {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}
    window = {"id": "resp_1", "object": "response.compaction", "created_at": 1, "usage": USAGE}
    check_window({**window, "output": [user, sealed]})
    for output in ([sealed, user], [user], [sealed, sealed]):
        with pytest.raises(AssertionError):
            check_window({**window, "output": output})


# --- the reader -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_gives_the_same_events(ending: bytes) -> None:
    raw = b"\xef\xbb\xbf: hi\nevent: a\ndata: 1\ndata: 2\n\n\ndata:x\n\n".replace(b"\n", ending)
    assert read(raw) == ([Event("a", "1\n2", 1), Event(None, "x", 0)], [])


@given(st.lists(st.integers(min_value=1, max_value=200), max_size=40))
def test_any_split_of_the_bytes_gives_the_same_events(sizes: list[int]) -> None:
    raw = written(stream()).replace(b"\n", b"\r\n") + "data: \u2028é\r\r".encode()
    portions, start = [], 0
    for size in [*sizes, len(raw)]:
        portions.append(raw[start : start + size])
        start += size
    assert list(follow(portions)) == read(raw)[0]
    assert orjson.loads(read(raw)[0][0].data)["type"] == "response.created"
