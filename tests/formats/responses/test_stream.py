"""Streams that are relayed as bytes, streams that are repaired, and that clients see no difference."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import sse
from app.contract.items import Item, prefix_of
from app.contract.turn import Turn
from app.formats import responses
from app.formats._events import Emitter
from tests.depth import nested_text
from tests.formats.responses.transcripts import events, framed, read, stream_of, turn
from tests.response_contract import check_stream
from tests.test_sse import split

JSON = dict[str, Any]

LOOSE = ("sequence_number", "output_index", "content_index", "summary_index", "item_id", "logprobs")
DISPENSABLE = (
    "response.content_part.added",
    "response.content_part.done",
    "response.output_text.done",
    "response.refusal.done",
    "response.reasoning_text.done",
    "response.reasoning_summary_part.added",
    "response.reasoning_summary_part.done",
    "response.reasoning_summary_text.done",
    "response.function_call_arguments.done",
    "response.custom_tool_call_input.done",
)

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
texts = words.map(lambda text: {"type": "output_text", "text": text, "annotations": [], "logprobs": []})
refusals = words.map(lambda text: {"type": "refusal", "refusal": text})


def _is_no_blank(text: str) -> bool:
    """A call whose arguments are blank has none, so that its stream is no exact one."""
    return bool(text.strip(" \t\r\n"))


def items_of(kind: str, **members: st.SearchStrategy[Any]) -> st.SearchStrategy[Item]:
    return st.fixed_dictionaries({"type": st.just(kind), **members})


completed = st.just("completed")
some_items = st.lists(
    st.one_of(
        items_of(
            "message", role=st.just("assistant"), status=completed, content=st.lists(texts, min_size=1, max_size=2)
        ),
        items_of("message", role=st.just("assistant"), status=completed, content=refusals.map(lambda part: [part])),
        items_of("reasoning", summary=words.map(lambda text: [{"type": "summary_text", "text": text}])),
        items_of("function_call", name=words, arguments=words.filter(_is_no_blank), status=completed),
        items_of("custom_tool_call", name=words, input=words),
    ),
    max_size=4,
).map(lambda items: [numbered(item, place) for place, item in enumerate(items)])


def numbered(item: Item, place: int) -> Item:
    call = {"call_id": f"call_{place}"} if item["type"].endswith("call") else {}
    return {**item, "id": f"{prefix_of(item['type'])}_{place}", **call}


def exact(items: list[Item], usage: JSON | None = None) -> list[JSON]:
    """OpenAI's stream of these items."""
    emitter = Emitter(2)
    sent = events(b"".join(event for item in items for event in emitter.item(item)))
    ended = {"id": "resp_up", "status": "completed", "output": items, "usage": usage}
    begun = {"id": "resp_up", "status": "in_progress", "output": []}
    return [
        {"type": "response.created", "sequence_number": 0, "response": begun},
        {"type": "response.in_progress", "sequence_number": 1, "response": begun},
        *sent,
        {"type": "response.completed", "sequence_number": emitter.sequence, "response": ended},
    ]


def output_of(sent: list[JSON]) -> list[JSON]:
    return [event for event in sent if "response" not in event]


# --- as it came -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(items=some_items, cuts=st.lists(st.integers(0, 5000), max_size=20))
def test_an_exact_stream_goes_on_in_its_own_bytes(items: list[Item], cuts: list[int]) -> None:
    sent = exact(items)
    out, decoder = read(split(stream_of(*sent), cuts), turn())
    assert out == stream_of(*output_of(sent))
    assert decoder.path == "bytes"
    assert decoder.answer is not None
    assert decoder.answer.output == items


@settings(deadline=None, max_examples=50)
@given(items=some_items, at=st.integers(0, 40))
def test_the_repair_of_an_exact_stream_changes_nothing(items: list[Item], at: int) -> None:
    """Also if the repair begins in the middle, with an event without content."""
    sent = exact(items)
    at = min(2 + at, len(sent) - 1)
    wrong = {"type": "response.output_item.done", "item": None}
    out, decoder = read([stream_of(*sent[:at], wrong, *sent[at:])], turn())
    assert decoder.path == "repaired"
    assert events(out) == output_of(sent)


def without_number(event: JSON) -> JSON:
    return {name: value for name, value in event.items() if name != "sequence_number"}


def test_one_wrong_number_is_put_right_and_the_rest_is_read_on() -> None:
    sent = exact([message("One two three four five six")])
    sent[5]["sequence_number"] = 7
    out, _ = read([stream_of(*sent)], turn())
    assert [event["sequence_number"] for event in events(out)] == list(range(2, 2 + len(events(out))))


def test_numbers_that_only_begin_and_end_right_are_put_right() -> None:
    sent = exact([message("One two three four five six seven")])
    sent[6]["sequence_number"], sent[7]["sequence_number"] = 7, 7
    out, _ = read([stream_of(*sent)], turn())
    assert [event["sequence_number"] for event in events(out)] == list(range(2, 2 + len(events(out))))


def test_a_name_that_is_not_the_type_is_put_right() -> None:
    raw = stream_of(*exact([message("One two")])).replace(b"event: response.output_item.added", b"event: message")
    out, decoder = read([raw], turn())
    assert decoder.path == "repaired"
    assert b"event: message" not in out


def test_leading_items_shift_the_indexes_and_are_no_fault_of_the_upstream() -> None:
    sent = exact([message("One two")])
    out, decoder = read([stream_of(*sent)], turn(preface=({"type": "compaction", "id": "cmp_1"},)))
    assert {event["output_index"] for event in events(out)} == {1}
    assert decoder.path == "bytes"


def test_a_stream_behind_something_of_ours_is_repaired_in_its_places() -> None:
    sent = [event for event in exact([message("One two")]) if not event["type"].endswith("text.done")]
    request_turn = turn(preface=({"type": "compaction", "id": "cmp_1"},))
    out, decoder = read([stream_of(*sent)], request_turn)
    kinds = [event["type"].removeprefix("response.") for event in events(out)]
    assert kinds[-3:] == ["output_text.done", "content_part.done", "output_item.done"]
    assert {event["output_index"] for event in events(out)} == {1}
    assert decoder.path == "repaired"


# --- repaired ---------------------------------------------------------------------------------------------------


@st.composite
def sloppy(draw: st.DrawFn) -> tuple[list[Item], bytes]:
    """Items, and a stream of them from a server that always leaves out the same members."""
    items = draw(some_items)
    lost = draw(st.sets(st.sampled_from(DISPENSABLE)))
    absent = draw(st.sets(st.sampled_from(LOOSE)))
    nameless = draw(st.booleans())
    sent = [event for event in exact(items) if event["type"] not in lost]
    if draw(st.booleans()):
        sent[-1]["response"]["output"] = []
    bare = [{name: value for name, value in event.items() if name not in absent} for event in sent]
    if nameless:
        bare = [{**event, "item": anonymous(event["item"])} if "item" in event else event for event in bare]
    if draw(st.booleans()):
        return items, b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in bare)
    return items, stream_of(*bare)


def anonymous(item: Item) -> Item:
    return {name: value for name, value in item.items() if name not in ("id", "status")}


def unnamed(items: Any) -> list[Item]:
    return [{name: value for name, value in item.items() if name not in ("id", "status")} for item in items]


@settings(deadline=None, max_examples=100)
@given(given=sloppy(), cuts=st.lists(st.integers(0, 5000), max_size=20))
def test_missing_events_are_filled_in_and_nothing_is_lost(given: tuple[list[Item], bytes], cuts: list[int]) -> None:
    items, raw = given
    out, decoder = read(split(raw, cuts), turn())
    assert decoder.answer is not None
    check_stream(framed(out, decoder, turn()))
    assert joined(decoder.answer.output) == joined(items)


def joined(items: Any) -> list[Item]:
    """Without the ends of parts, one part cannot be distinguished from the next of its type."""
    return [
        {**item, "content": "".join(part.get("text", part.get("refusal")) for part in item["content"])}
        if item["type"] == "message"
        else item
        for item in unnamed(items)
    ]


@settings(deadline=None)
@given(given=sloppy())
def test_streamed_and_unstreamed_are_the_same_answer(given: tuple[list[Item], bytes]) -> None:
    items, raw = given
    _, decoder = read([raw], turn())
    whole = responses.decode(orjson.dumps({"output": [anonymous(item) for item in items]}), turn())
    assert decoder.answer is not None
    assert joined(decoder.answer.output) == joined(whole.output)


def message(text: str, **more: Any) -> Item:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part], **more}


def called(arguments: str, **more: Any) -> Item:
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "status": "completed"}
    return {**call, "arguments": arguments, **more}


def test_events_of_unknown_types_keep_their_place() -> None:
    sent = exact([message("One two")])
    odd = [{"type": "response.dreamt_up", "item_id": "msg_1", "output_index": 0}, {"type": "response.tick", "n": 1}]
    for absent in ((), ("output_index",)):
        bare = [{name: value for name, value in event.items() if name not in absent} for event in sent]
        out, _ = read([stream_of(*bare[:5], *odd, *bare[5:])], turn())
        found = {event["type"]: event for event in events(out)}
        assert found["response.dreamt_up"]["output_index"] == 0
        assert found["response.tick"]["n"] == 1
        assert [event["sequence_number"] for event in events(out)] == list(range(2, 2 + len(events(out))))


def test_text_that_comes_after_the_end_of_its_item_is_not_lost() -> None:
    sent = exact([{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}]}])
    late = {"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "summary_index": 0, "delta": "late"}
    out, decoder = read([stream_of(*sent[:-1], late, sent[-1])], turn())
    assert decoder.answer is not None
    assert [item["summary"][0]["text"] for item in decoder.answer.output] == ["Hm", "late"]
    check_stream(framed(out, decoder, turn()))


def test_a_call_without_a_name_fails_the_stream() -> None:
    delta = {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": "{}"}
    end = {"type": "response.completed", "response": {"status": "completed", "output": []}}
    _, decoder = read([stream_of(*exact([message("One")])[:-1], delta, end)], turn())
    assert decoder.answer is not None
    assert decoder.answer.status == "failed"
    assert [item["type"] for item in decoder.answer.output] == ["message"]


def searched() -> Item:
    action = {"type": "search", "query": "q"}
    return {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": action}


# --- cut off ----------------------------------------------------------------------------------------------------

USAGE = {"input_tokens": 5, "output_tokens": 16, "total_tokens": 21}
BELOW = {**USAGE, "output_tokens": 15, "total_tokens": 20}
FULL = {"reason": "max_output_tokens"}
HALF = '{"a":'


def ended(items: list[Item], absent: str = "", **end: Any) -> tuple[list[JSON], responses.ResponsesDecoder, Turn]:
    """A stream whose response has the members of `end`; its events lack the member `absent`."""
    request_turn = turn(max_output_tokens=16)
    sent = exact(items)
    sent[-1]["type"] = f"response.{end['status']}"
    sent[-1]["response"] |= end
    bare = [{name: value for name, value in event.items() if name != absent} for event in sent]
    out, decoder = read([stream_of(*bare)], request_turn)
    check_stream(framed(out, decoder, request_turn))
    return events(out), decoder, request_turn


@pytest.mark.parametrize("absent", ["", "output_index"])
@pytest.mark.parametrize("item", [message("One two"), called(HALF), called('{"a":1}'), searched()])
@pytest.mark.parametrize("usage", [USAGE, BELOW, {**USAGE, "output_tokens": 17}, None])
def test_completed_from_an_upstream_stays_completed(item: Item, usage: JSON | None, absent: str) -> None:
    sent, decoder, request_turn = ended([item], absent, status="completed", usage=usage)
    body = {"id": "resp_up", "status": "completed", "output": [item], "usage": usage}
    whole = responses.decode(orjson.dumps(body), request_turn)
    assert decoder.answer is not None
    assert decoder.answer.status == whole.status == "completed"
    assert decoder.answer.incomplete_details is whole.incomplete_details is None
    assert decoder.answer.output == whole.output == [sent[-1]["item"]] == [item]


@pytest.mark.parametrize(
    ("items", "usage", "status"),
    [
        ([message("One two")], USAGE, "incomplete"),
        ([message("One two")], {**USAGE, "output_tokens": 17}, "incomplete"),
        ([message("One two")], BELOW, "completed"),
        ([message("One two")], None, "completed"),
        ([called(HALF)], USAGE, "incomplete"),
        ([called('{"a":1}')], USAGE, "completed"),
        ([searched()], USAGE, "completed"),
        ([], USAGE, "incomplete"),
    ],
)
def test_an_answer_without_a_reason_was_cut_off_where_it_is_full(
    items: list[Item], usage: JSON | None, status: str
) -> None:
    body = {"id": "resp_up", "output": items, "usage": usage}
    for silent in (body, {**body, "status": None}):
        whole = responses.decode(orjson.dumps(silent), turn(max_output_tokens=16))
        assert whole.status == status
        assert whole.incomplete_details == (FULL if status == "incomplete" else None)
        assert [item["status"] for item in whole.output] == [status for _ in items]


@pytest.mark.parametrize("absent", ["", "output_index"])
@pytest.mark.parametrize(("arguments", "status"), [(HALF, "incomplete"), ("", "incomplete"), ('{"a":1}', "completed")])
def test_half_a_call_of_a_cut_answer_is_incomplete(arguments: str, status: str, absent: str) -> None:
    """A call without whole JSON is incomplete, whatever its status: only whole calls may be replayed."""
    first, last = called('{"b":2}', id="fc_0", call_id="call_0"), called(arguments)
    sent, decoder, request_turn = ended([first, last], absent, status="incomplete", incomplete_details=FULL)
    body = {"id": "resp_up", "status": "incomplete", "output": [first, last], "incomplete_details": FULL}
    whole = responses.decode(orjson.dumps(body), request_turn)
    assert decoder.answer is not None
    for answer in (decoder.answer, whole):
        assert [item["status"] for item in answer.output] == ["completed", status]
        assert answer.incomplete_details == FULL
    assert sent[-1]["item"]["status"] == status


def test_a_call_whose_end_was_held_back_is_unfinished_when_the_stream_breaks_there() -> None:
    sent = exact([called(HALF)])
    for raw in (stream_of(*sent[:-1]), stream_of(*map(without_number, sent[:-1]))):
        out, decoder = read([raw], turn())
        assert decoder.answer is not None
        assert decoder.answer.status == "failed"
        check_stream(framed(out, decoder, turn()))


def test_an_item_whose_end_was_held_back_is_sent_when_the_next_event_never_ends() -> None:
    request_turn = turn()
    sent = exact([called(HALF)])
    out, decoder = read([stream_of(*sent[:-1]), b"x" * (sse.MAX_EVENT + 1)], request_turn)
    assert events(out)[-1]["type"] == "response.output_item.done"
    assert decoder.answer is not None
    assert decoder.answer.status == "failed"
    check_stream(framed(out, decoder, request_turn))


def test_one_event_for_every_end_is_read_by_its_status() -> None:
    sent = exact([message("One")])
    details = {"reason": "content_filter"}
    sent[-1]["response"] |= {"status": "incomplete", "incomplete_details": details}
    _, decoder = read([stream_of(*sent)], turn())
    assert decoder.answer is not None
    assert (decoder.answer.status, decoder.answer.incomplete_details) == ("incomplete", details)


def test_newlines_between_events_do_not_matter() -> None:
    sent = exact([message("One two three")])
    raw = b"\n".join(map(sse.encode, sent)) + b"\n"
    out, decoder = read([raw], turn())
    assert events(out) == output_of(sent)
    assert decoder.answer is not None


# --- unread -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelt", [b'"delta":[}', b'"delta":%b' % nested_text(1100)])
def test_an_unreadable_event_costs_only_its_item(spelt: bytes) -> None:
    sent = exact([numbered(message(text), place) for place, text in enumerate(("One", "Two three four five"))])
    raw = stream_of(*sent[:-4])
    head = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d,'
    decoder = responses.decoder(turn(), 2)
    decoder.feed(raw)
    unread = decoder.feed(head % decoder.sequence + spelt + b"}\n\n")
    assert bool(unread) == (len(spelt) < 100)
    assert decoder.partial()[0] == output_items(sent)[0]
    decoder.finish()
    assert decoder.answer is not None
    assert decoder.answer.status == "failed"


def output_items(sent: list[JSON]) -> list[Item]:
    return list(sent[-1]["response"]["output"])
